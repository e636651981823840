package mesh

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// Verdict is the short answer of an explanation.
type Verdict string

// The verdicts.
const (
	VerdictAllowed     Verdict = "allowed"     // a connection would be made
	VerdictDenied      Verdict = "denied"      // an intention, or the lack of one, forbids it, here or at the peer
	VerdictUnreachable Verdict = "unreachable" // it is allowed, and nobody could serve it now
	VerdictLimited     Verdict = "limited"     // it is allowed, and refused at this moment: a limit is reached
	VerdictAnswered    Verdict = "answered"    // of a request: a rule of the route answers it, and nobody else is asked
	VerdictRefused     Verdict = "refused"     // of a request: it is not well-formed, and no rule is asked
)

// ExplainRequest asks what would happen now to a connection or, where the service speaks HTTP, to a request on it.
type ExplainRequest struct {
	Source      federation.ServiceRef `json:"source"`      // without a region: of this one
	Destination federation.ServiceRef `json:"destination"` // with a region: that one and no other
	Assurance   federation.Assurance  `json:"assurance"`   // how well the caller's identity is proven; none: as by a binding
	Request     *Request              `json:"request,omitempty"`

	// Token is a JSON Web Token that the request is to bring, where those who ask for one look for it. It is in no answer.
	Token string `json:"-"`

	// Require is what Entry.Require is to a request of a caller from outside.
	Require []string `json:"-"`
}

// Explanation says what would happen to a connection or a request and why. It is made of the same parts that decide them.
type Explanation struct {
	Verdict     Verdict               `json:"verdict"`
	At          federation.Region     `json:"at"`     // whose decision or state the verdict rests on
	Reason      string                `json:"reason"` // the verdict in one sentence
	Region      federation.Region     `json:"region"` // who explains
	Snapshot    uint64                `json:"snapshot"`
	Caller      Caller                `json:"caller"`
	Destination federation.ServiceRef `json:"destination"`        // where a rule splits requests, that of the share explained
	Exported    *bool                 `json:"exported,omitempty"` // to the caller's region, when that is a peer
	Candidates  []Candidate           `json:"candidates"`         // in the order they are tried, then those that are not
	Decision    policy.Decision       `json:"decision"`           // of this region, for the first candidate that decided the verdict
	Remote      *Answer               `json:"remote,omitempty"`   // of the peer that would be tried first
	RemoteError string                `json:"remote_error,omitempty"`
	Conditional bool                  `json:"conditional,omitempty"` // no request was given, and only certain ones are allowed
	Request     *Forecast             `json:"request,omitempty"`     // when one was given
	Limits      []Limit               `json:"limits,omitempty"`      // that it meets, in the order it meets them
	Tokens      []TokenFinding        `json:"tokens,omitempty"`      // that it brings, by the providers of this region that were asked
	Notes       []string              `json:"notes,omitempty"`       // what limits the answer
}

// call is a call to one destination, whose fate is sought.
type call struct {
	snap      *route.Snapshot
	id        spiffeid.ID
	source    federation.ServiceRef
	to        federation.ServiceRef
	assurance federation.Assurance
	prefers   federation.Region // by a split, or because the caller was there before; empty: as the resolver orders
	subset    string            // by a split; empty: all instances

	requests bool           // the service speaks HTTP
	request  *match.Request // as it is forwarded; nil: before any has come
	wire     *Request       // the same
	token    string         // that it is to bring; empty: none but those in its header
	require  []string       // jwt resources: one must vouch for the token before anybody judges
	priority *int           // by a rule; nil: as its header says
}

// urgency is what it counts as when a region sheds.
func (c *call) urgency() int {
	if c.priority != nil {
		return *c.priority
	}
	return urgencyOf(c.header())
}

// decide is the decision of this region on the call going to region, with all that was considered.
func (c *call) decide(region federation.Region) policy.Decision {
	switch {
	case c.request != nil:
		return c.snap.ExplainRequest(c.id, c.assurance, region, c.to.Service, c.request)
	case c.requests:
		return c.snap.ExplainAny(c.id, c.assurance, region, c.to.Service)
	}
	return c.snap.ExplainAuthorize(c.id, c.assurance, region, c.to.Service)
}

// Caller is whom a connection counts as.
type Caller struct {
	ID        string                `json:"id"`
	Service   federation.ServiceRef `json:"service"`
	Assurance federation.Assurance  `json:"assurance"`
}

// Candidate is a region that could serve the call, or one that could not.
type Candidate struct {
	Region    federation.Region    `json:"region"`
	Local     bool                 `json:"local,omitempty"`
	Kept      bool                 `json:"kept"`             // would be tried now
	Chosen    bool                 `json:"chosen,omitempty"` // would be tried first
	Rank      int                  `json:"rank"`
	Reason    string               `json:"reason"`
	Freshness federation.Freshness `json:"freshness"`
	Healthy   uint32               `json:"healthy"`
	Total     uint32               `json:"total"`
	Path      *Path                `json:"path,omitempty"`      // to a peer
	Endpoints []Endpoint           `json:"endpoints,omitempty"` // of this region
	Decision  *policy.Decision     `json:"decision,omitempty"`  // of this region, on a call to that one
	Drained   bool                 `json:"drained,omitempty"`   // used as a last resort
	Share     float64              `json:"share,omitempty"`     // it comes back from a drain, with so much of its share now: 0 to 1

	why    drop // of a plan; of a region that is kept: why it is not tried with the first
	detour bool // it would be asked in place of a better one
}

// Path is how a peer can be reached.
type Path struct {
	Up      bool                `json:"up"`
	RTT     federation.Duration `json:"rtt"`
	Loss    float64             `json:"loss"` // 0 to 1
	Address string              `json:"address,omitempty"`
	Lane    string              `json:"lane,omitempty"`
	Error   string              `json:"error,omitempty"`
}

// Endpoint is one local instance as the balancer sees it.
type Endpoint struct {
	Instance federation.InstanceID `json:"instance"`
	Address  string                `json:"address"`
	Healthy  bool                  `json:"healthy"`
	Ejected  federation.Duration   `json:"ejected,omitempty"` // how much longer it is left out after failing
	InFlight int64                 `json:"in_flight"`
	Latency  federation.Duration   `json:"latency,omitempty"` // of connecting, a moving average
}

// Explain says what would happen to a connection now, and why. A peer that would serve it is asked for its own decision.
func (m *Mesh) Explain(ctx context.Context, r ExplainRequest) (Explanation, error) {
	snap := m.cfg.Table.Load()
	if r.Source.Service.IsZero() || r.Destination.Service.IsZero() {
		return Explanation{}, errors.New("explain a call: it needs a source and a destination")
	}
	if r.Assurance == federation.AssuranceNone {
		r.Assurance = federation.AssuranceBinding
	}
	if r.Source.Region == "" || r.Source.Region == federation.Local {
		r.Source.Region = snap.Region()
	}
	e := Explanation{Region: m.cfg.Region, At: m.cfg.Region, Snapshot: snap.Number(), Destination: r.Destination, Candidates: []Candidate{}}
	id, err := identityOf(snap, r.Source)
	if err != nil {
		return Explanation{}, fmt.Errorf("explain a call of %s: %w", r.Source, err)
	}
	e.Caller = Caller{ID: id.String(), Service: r.Source, Assurance: r.Assurance}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	c := call{snap: snap, id: id, source: r.Source, to: r.Destination, assurance: r.Assurance, token: r.Token, require: r.Require}
	if r.Token != "" && r.Request == nil {
		return Explanation{}, errors.New("explain a call: it is a request that brings a token, and none is given")
	}
	if r.Source.Region != snap.Region() {
		m.explainInbound(ctx, &e, &c, r.Request)
		return e, nil
	}
	if upstream, found := snap.Upstream(c.to); found {
		c.requests = upstream.Protocol.IsHTTP()
		e.noteUnseen(r.Request, upstream.Protocol)
	}
	if c.requests && r.Request != nil {
		m.explainRequest(ctx, &e, c, r.Request)
		return e, nil
	}
	m.explainOutbound(ctx, &e, &c)
	return e, nil
}

// note adds a remark that was not made yet.
func (e *Explanation) note(text string) {
	if !slices.Contains(e.Notes, text) {
		e.Notes = append(e.Notes, text)
	}
}

// noteUnseen says that asked is left out of account for a service of protocol p.
func (e *Explanation) noteUnseen(asked *Request, p federation.Protocol) {
	if asked != nil && !p.IsHTTP() {
		e.note(fmt.Sprintf("%s is carried as tcp: nobody looks at what is sent, so this is about the connection", e.Destination))
	}
}

// identityOf is the identity of a service, here or of a peer.
func identityOf(snap *route.Snapshot, ref federation.ServiceRef) (spiffeid.ID, error) {
	if ref.Region == snap.Region() {
		if id := snap.Identity(ref.Service); !id.IsZero() {
			return id, nil
		}
		return spiffeid.ID{}, errors.New("no configuration has been published yet")
	}
	peer, found := snap.Peer(ref.Region)
	if !found || peer.TrustDomain.IsZero() {
		return spiffeid.ID{}, fmt.Errorf("region %q is neither this region nor a peer that has come", ref.Region)
	}
	return federation.WorkloadID(peer.TrustDomain, ref.Service)
}

// explainOutbound follows a call of a local caller.
func (m *Mesh) explainOutbound(ctx context.Context, e *Explanation, of *call) {
	upstream, _ := of.snap.Upstream(of.to)
	for _, c := range of.snap.Consider(of.to) {
		if of.prefers != "" {
			if c.Rank++; of.prefers == c.Region || of.prefers == federation.Local && c.Local {
				c.Rank = 0
			}
		}
		e.Candidates = append(e.Candidates, m.explainCandidate(of, upstream, c))
	}
	slices.SortStableFunc(e.Candidates, func(a, b Candidate) int { // as a plan does: what is kept by rank and distance
		switch {
		case a.Kept && b.Kept:
			return cmp.Or(cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.rtt(), b.rtt()))
		case a.Kept:
			return -1
		case b.Kept:
			return 1
		}
		return 0
	})
	before := false
	for _, c := range inTurn(e.Candidates) {
		c.detour = c.why == dropNot && (before || detours(e.Candidates, c))
		before = true
		takes, final := m.meets(e, of, c, &upstream.Resolver)
		if takes && !c.Local {
			takes, final = m.askPeer(ctx, e, c, of)
		}
		if final {
			return
		}
		if takes {
			serves := fmt.Sprintf("region %s serves it", c.Region)
			if !c.Kept {
				serves = fmt.Sprintf("region %s is tried, because nobody else can serve it: %s", c.Region, c.Reason)
				c.Reason += "; tried because nobody else can serve"
			}
			c.Kept, c.Chosen = true, true
			e.Decision, e.At = *c.Decision, e.Region
			e.Conditional = of.request == nil && (c.Decision.Conditional || !c.Local && e.Remote != nil && e.Remote.Conditional)
			e.Verdict, e.Reason = VerdictAllowed, c.Decision.Reason+"; "+serves
			if of.requests {
				e.Limits = append(e.Limits, m.peekRetries(of, upstream.Resolver.RetryBudget))
			}
			return
		}
	}
	if e.Verdict == "" { // no peer was asked
		m.explainNoCandidate(e, upstream)
	}
	if e.Decision.Rule == "" { // nobody serves it, and yet the caller wants to know whether it would be allowed to call
		e.Decision = of.decide(cmp.Or(of.to.Region, federation.Local))
	}
}

// inTurn returns the candidates in the order a plan tries them: what is kept, then what looked bad but can be reached.
func inTurn(all []Candidate) (turn []*Candidate) {
	var bad []*Candidate
	for i := range all {
		switch c := &all[i]; {
		case c.Kept:
			turn = append(turn, c)
		case c.why == dropAvoided, c.why == dropUnhealthy && !c.Drained && (!c.Local || len(c.Endpoints) > 0):
			bad = append(bad, c)
		}
	}
	slices.SortStableFunc(bad, func(a, b *Candidate) int {
		return cmp.Or(cmp.Compare(b.why, a.why), cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.rtt(), b.rtt()))
	})
	return append(turn, bad...)
}

// detours reports whether c would get what is meant for a better region that cannot serve, as plan.detours does.
func detours(all []Candidate, c *Candidate) bool {
	return slices.ContainsFunc(all, func(o Candidate) bool {
		return !o.Kept && (o.why == dropNoPath || o.why == dropUnhealthy || o.why == dropAvoided) &&
			(o.Rank < c.Rank || o.Rank == c.Rank && o.rtt() <= c.rtt())
	})
}

// explainNoCandidate finds the reason that weighs most when no region would be tried.
func (m *Mesh) explainNoCandidate(e *Explanation, upstream *route.Upstream) {
	if upstream == nil || len(upstream.Candidates) == 0 {
		e.Verdict, e.Reason = VerdictUnreachable, nobodyHas(e)
		return
	}
	for _, c := range e.Candidates {
		if c.Decision == nil {
			continue
		}
		if c.Decision.Allowed { // one that is allowed and cannot serve outweighs one that is not allowed
			e.Decision, e.At = *c.Decision, c.Region
			e.Verdict, e.Reason = VerdictUnreachable, fmt.Sprintf("%s, but region %s cannot serve it: %s", c.Decision.Reason, c.Region, c.Reason)
			return
		}
		if e.Verdict == "" {
			e.Verdict, e.Reason, e.Decision = VerdictDenied, c.Decision.Reason, *c.Decision
		}
	}
}

// nobodyHas says that the destination has no candidate at all.
func nobodyHas(e *Explanation) string {
	service, region := e.Destination.Service, e.Destination.Region
	is := func(c Candidate) bool { return c.Region == region || c.Local && region == federation.Local }
	if region != "" && !slices.ContainsFunc(e.Candidates, is) {
		return fmt.Sprintf("region %q, which the call names, is neither this region nor a peer", region)
	}
	if slices.ContainsFunc(e.Candidates, func(c Candidate) bool { return c.Total > 0 }) {
		return fmt.Sprintf("no region that may serve the call has a service called %s", service)
	}
	return fmt.Sprintf("no region shows a service called %s", service)
}

// explainCandidate judges one region as a plan would.
func (m *Mesh) explainCandidate(of *call, upstream *route.Upstream, considered route.Considered) Candidate {
	c := Candidate{
		Region: considered.Region, Local: considered.Local, Kept: considered.Kept, Rank: considered.Rank, Reason: considered.Reason,
		Freshness: considered.Freshness, Healthy: considered.Healthy, Total: considered.Total,
	}
	if !c.Local {
		p := m.cfg.Tunnel.Path(c.Region)
		c.Path = &Path{Up: p.Up, RTT: federation.Duration(p.RTT), Loss: p.Loss, Address: p.Address, Lane: p.Lane, Error: p.LastError}
	}
	if !c.Kept {
		return c
	}
	decision := of.decide(c.Region)
	c.Decision = &decision
	candidate := candidateOf(upstream, c.Region)
	switch {
	case !decision.Allowed:
		c.Kept, c.Reason = false, decision.Reason
	case c.Local:
		c.drained(candidate, len(upstream.Candidates))
		c.Endpoints = m.endpoints(of.snap, candidate.Local, of.subset)
		if !slices.ContainsFunc(c.Endpoints, func(e Endpoint) bool { return e.Healthy && e.Ejected == 0 }) {
			c.Kept, c.Reason, c.why = false, dropUnhealthy.String(), dropUnhealthy
		}
	default:
		c.why, _ = m.weigh(upstream.Service, candidate)
		switch c.why {
		case dropNot:
		case dropOld:
			c.Rank += len(upstream.Candidates) // behind all that are not old
		case dropDrained, dropReturning:
			c.drained(candidate, len(upstream.Candidates))
		default:
			c.Kept, c.Reason = false, c.why.String()
		}
	}
	return c
}

// drained puts a candidate that is drained behind all n candidates, and those that are old.
func (c *Candidate) drained(of *route.Candidate, n int) {
	switch c.why = drained(of); c.why { //nolint:exhaustive // it says nothing else
	case dropDrained:
		c.Drained = true
		c.Rank += 2 * n
		c.Reason += "; it is drained, and used as a last resort"
	case dropReturning:
		c.Share = of.Drain.Share(time.Now())
		c.Reason += fmt.Sprintf("; it comes back from a drain and gets %.0f %% of its share now", 100*c.Share)
	}
}

func candidateOf(u *route.Upstream, region federation.Region) *route.Candidate {
	for i := range u.Candidates {
		if u.Candidates[i].Region == region {
			return &u.Candidates[i]
		}
	}
	return nil
}

func (c Candidate) rtt() federation.Duration {
	if c.Path == nil {
		return 0
	}
	return c.Path.RTT
}

// endpoints returns the instances of target, or of one subset of it, as the balancer sees them.
func (m *Mesh) endpoints(snap *route.Snapshot, target route.LocalTarget, subset string) []Endpoint {
	pool, found := m.pool(snap, target).Subset(subset)
	if !found {
		return nil
	}
	states := pool.Status()
	all := make([]Endpoint, len(states))
	for i, s := range states {
		all[i] = Endpoint{
			Instance: s.Endpoint.Instance, Address: s.Endpoint.Address.String(), Healthy: s.Healthy, InFlight: s.InFlight,
			Ejected: federation.Duration(s.Ejected), Latency: federation.Duration(s.Latency),
		}
	}
	return all
}

// explainInbound follows a call that a peer's caller would make to a service of this region.
func (m *Mesh) explainInbound(ctx context.Context, e *Explanation, of *call, asked *Request) {
	from, service := of.source.Region, of.to.Service
	if region := of.to.Region; region != "" && region != federation.Local && region != of.snap.Region() {
		e.Verdict, e.Reason = VerdictDenied, fmt.Sprintf("a call of region %s to region %s does not pass through here", from, region)
		return
	}
	exported := of.snap.ExportedTo(service, from)
	e.Exported = &exported
	target, found := of.snap.Local(service)
	of.requests = found && target.Protocol().IsHTTP()
	if found {
		e.noteUnseen(asked, target.Protocol())
	}
	if of.requests && asked != nil && !m.explainArrived(ctx, e, of, asked) {
		return
	}
	e.Decision = of.decide(federation.Local)
	e.Conditional = of.request == nil && e.Decision.Allowed && e.Decision.Conditional
	c := Candidate{Region: of.snap.Region(), Local: true, Reason: "no source of this region has seen it"}
	if found {
		c.Endpoints = m.endpoints(of.snap, target, "")
		c.Total = uint32(len(c.Endpoints))
		for _, endpoint := range c.Endpoints {
			if endpoint.Healthy {
				c.Healthy++
			}
		}
		c.Kept, c.Reason = c.Healthy > 0, fmt.Sprintf("%d of %d healthy", c.Healthy, c.Total)
		c.Chosen = c.Kept
	}
	e.Candidates = append(e.Candidates, c)
	switch {
	case !e.Decision.Allowed:
		e.Verdict, e.Reason = VerdictDenied, e.Decision.Reason
	case !exported:
		e.Verdict, e.Reason = VerdictDenied, fmt.Sprintf("%s is not exported to region %s", service, from)
	case !c.Kept:
		e.Verdict, e.Reason = VerdictUnreachable, fmt.Sprintf("%s, but it cannot be served: %s", e.Decision.Reason, c.Reason)
	default:
		e.Verdict, e.Reason = VerdictAllowed, e.Decision.Reason
		if !of.requests {
			return
		}
		e.Limits = m.peekHere(of, from, m.resolver(of.snap, service), false)
		if over := refusing(e.Limits); over != nil {
			over.final = true // the verdict on this region: whether the peer goes elsewhere is the peer's
			c.Decision = &e.Decision
			m.limited(e, &c, *over)
		}
	}
}
