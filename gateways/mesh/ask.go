package mesh

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"
	"unicode"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/gateways/jwt"
)

// askTimeout is what a peer gets to answer: explain answers within two seconds, a dead peer included.
const askTimeout = 1500 * time.Millisecond

// question is what a gateway asks a peer: would you take this call? Unknown fields are skipped, so that later versions can ask
// for more; what they were asked for, they say.
type question struct {
	Source    string                 `json:"source"`
	Assurance federation.Assurance   `json:"assurance"`
	Service   federation.ServiceName `json:"service"`
	Request   *Request               `json:"request,omitempty"` // as it would be forwarded; nil: before any
	Subset    string                 `json:"subset,omitempty"`  // of the instances, that the request is for
	Detour    bool                   `json:"detour,omitempty"`  // it is meant for another region, which cannot take it
}

// Answer is what a peer says about a call to it. Refused comes without a reason: to a peer, a service that does not exist,
// one that is not exported and one it may not call look the same.
type Answer struct {
	Verdict string `json:"verdict"`           // "allowed", "refused"
	Rule    string `json:"rule,omitempty"`    // the intention that allows it
	Healthy int    `json:"healthy,omitempty"` // of an allowed service, its instances, or those of the subset, that may be given traffic
	Shadow  string `json:"shadow,omitempty"`  // an intention in shadow mode that would refuse what is allowed

	Conditional bool `json:"conditional,omitempty"` // certain requests are allowed
	Judged      bool `json:"judged,omitempty"`      // this is about the request that was in the question

	// Token is why a request is refused for the token that it brings; then no intention was asked.
	Token jwt.Reason `json:"token,omitempty"`

	// Limit is that of the region which refuses such a request at this moment, as its response would say.
	Limit *Limit `json:"limit,omitempty"`
}

// The verdicts of an Answer.
const (
	answerAllowed = "allowed"
	answerRefused = "refused"
)

const (
	// maxAnswer bounds what is read of a peer's answer: a verdict and two names.
	maxAnswer = 4 << 10

	// maxQuestion bounds what is read of a peer's question, in which a request may be: as much as the tunnel carries.
	maxQuestion = 64 << 10
)

// askPeer asks the peer of c whether it would take the call. A peer that gives no answer is taken to: its path is up, and
// nothing is known against it. The first peer that would not take it is noted as the verdict, in case no other does. final says that no
// other is tried: the peer lets the caller come, and then answers this request with a denial.
func (m *Mesh) askPeer(ctx context.Context, e *Explanation, c *Candidate, of *call) (takes, final bool) {
	q := question{Source: of.id.String(), Assurance: of.assurance, Service: of.to.Service, Request: of.wire, Subset: of.subset,
		Detour: c.detour}
	answer, err := m.ask(ctx, c.Region, q)
	if err == nil && q.Request != nil && !answer.Judged { // an older version, which may have found the question too long
		q.Request = nil
		answer, err = m.ask(ctx, c.Region, q)
		e.note(fmt.Sprintf("region %s runs a version that answers for connections only: what it says of this request is not known", c.Region))
	}
	if err != nil {
		e.Remote, e.RemoteError = nil, fmt.Sprintf("region %s gave no answer: %v", c.Region, err)
		return true, false
	}
	e.Remote = &answer
	verdict, reason := VerdictDenied, fmt.Sprintf(
		"allowed here, but region %s refuses: unknown there, not exported, or not allowed by its intentions", c.Region)
	switch {
	case answer.Verdict == answerRefused && answer.Token != "":
		c.Kept, c.Reason, final = false, "it refuses the token", true
		reason = fmt.Sprintf("allowed here, but region %s refuses the token with status 401: %s", c.Region,
			cmp.Or(answer.Token.Words(), string(answer.Token)))
	case answer.Verdict == answerRefused:
		c.Kept, c.Reason = false, "it refuses"
		if q.Request != nil {
			q.Request = nil
			other, err := m.ask(ctx, c.Region, q)
			if final = err == nil && other.Verdict == answerAllowed; final {
				reason = fmt.Sprintf("allowed here, but region %s refuses this request, by its intentions", c.Region)
			}
		}
	case answer.Healthy == 0:
		c.Kept, c.Reason = false, "it has no healthy instance at this moment"
		verdict = VerdictUnreachable
		reason = fmt.Sprintf("allowed here and in region %s, which has no healthy instance at this moment", c.Region)
	case answer.Limit != nil:
		over := *answer.Limit
		over.Region = c.Region
		over.final = over.Status == http.StatusTooManyRequests // the caller hears of it; all else is tried elsewhere
		c.Kept, c.Reason = false, over.Reason
		e.Limits = append(e.Limits, over)
		m.limited(e, c, over)
		return false, over.final
	default:
		return true, false
	}
	if e.Verdict == "" || final {
		e.Verdict, e.Reason, e.At, e.Decision = verdict, reason, c.Region, *c.Decision
	}
	return false, final
}

func (m *Mesh) ask(ctx context.Context, peer federation.Region, q question) (Answer, error) {
	b, err := json.Marshal(q)
	if err != nil {
		return Answer{}, fmt.Errorf("encode the question: %w", err)
	}
	reply, err := m.cfg.Tunnel.Ask(ctx, peer, b)
	if err != nil {
		return Answer{}, err
	}
	return parseAnswer(reply)
}

// parseAnswer reads what a peer answered.
func parseAnswer(b []byte) (Answer, error) {
	var a Answer
	if len(b) > maxAnswer {
		return a, fmt.Errorf("its answer has %d octets: at most %d are read", len(b), maxAnswer)
	}
	if err := json.Unmarshal(b, &a); err != nil {
		return a, fmt.Errorf("decode its answer: %w", err)
	}
	if a.Verdict != answerAllowed && a.Verdict != answerRefused || a.Healthy < 0 {
		return Answer{}, errors.New("its answer is none that this version knows")
	}
	a.Rule, a.Shadow, a.Token = printable(a.Rule), printable(a.Shadow), jwt.Reason(printable(string(a.Token)))
	if l := a.Limit; l != nil {
		if a.Limit = nil; l.Refuses && l.Wait >= 0 {
			l.Text, l.Reason, l.Kind = printable(l.Text), printable(l.Reason), LimitKind(printable(string(l.Kind)))
			a.Limit = l
		}
	}
	return a, nil
}

// Answer replies to a peer's question with this region's decision, and to one that cannot be read as to one that is refused.
func (m *Mesh) Answer(ctx context.Context, peer federation.Region, ask []byte) []byte {
	reply, err := json.Marshal(m.answer(ctx, peer, ask))
	if err != nil {
		return nil // an Answer has nothing that cannot be encoded
	}
	return reply
}

func (m *Mesh) answer(ctx context.Context, peer federation.Region, ask []byte) Answer {
	snap := m.cfg.Table.Load()
	var q question
	if len(ask) > maxQuestion || json.Unmarshal(ask, &q) != nil {
		return Answer{Verdict: answerRefused}
	}
	refused := Answer{Verdict: answerRefused, Judged: q.Request != nil}
	id, err := spiffeid.FromString(q.Source)
	known, found := snap.Peer(peer)
	if err != nil || !found || !id.MemberOf(known.TrustDomain) {
		return refused // a peer asks for its own callers only
	}
	target, found := snap.Inbound(q.Service, peer)
	if !found {
		return refused
	}
	var (
		decision policy.Decision
		judged   *match.Request
	)
	switch {
	case !target.Protocol().IsHTTP():
		decision = snap.Authorize(id, q.Assurance, federation.Local, q.Service)
	case q.Request == nil:
		decision = snap.AuthorizeAny(id, q.Assurance, federation.Local, q.Service)
	default:
		r, err := q.Request.read()
		if err != nil {
			return refused
		}
		tokens, why := m.vouchFor(ctx, snap, q.Service, r)
		if why != "" {
			refused.Token = why
			return refused
		}
		judged = asked(r)
		judged.Tokens = tokens.Tokens
		decision = snap.AuthorizeRequest(id, q.Assurance, federation.Local, q.Service, judged)
	}
	if !decision.Allowed {
		return refused
	}
	a := Answer{Verdict: answerAllowed, Rule: decision.Rule, Shadow: decision.Shadow, Judged: q.Request != nil,
		Conditional: q.Request == nil && decision.Conditional}
	for _, endpoint := range m.endpoints(snap, target, q.Subset) {
		if endpoint.Healthy {
			a.Healthy++
		}
	}
	if target.Protocol().IsHTTP() {
		c := call{snap: snap, id: id, to: federation.ServiceRef{Service: q.Service}, request: judged}
		a.Limit = refusing(m.peekHere(&c, peer, m.resolver(snap, q.Service), q.Detour))
	}
	return a
}

// printable returns s as text that is safe in a terminal: a peer's words must not steer it.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, s)
}
