package mesh

import (
	"cmp"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// Standing is who serves the local callers of one service at this moment, and who would next.
type Standing struct {
	Service  federation.ServiceName
	Protocol federation.Protocol
	Regions  []Place           // in the order they are tried, then those that are not
	Serving  federation.Region // the first that would take a call; empty: none
	Pinned   []federation.Region
}

// Place is one region in a Standing.
type Place struct {
	route.Considered
	Serves     bool   // it would take a call, if those before it did not
	Why        string // why not
	LastSecond uint64 // calls of local callers that went there: requests, or connections where requests are not seen
	PerSecond  float64
	Open       int // connections and requests under way
}

// Standings returns how every service stands, or the one called only, in order. What a plan would do decides: for the callers that have an
// upstream or are connected, or, where none is known, for a caller that is allowed everything.
func (m *Mesh) Standings(only federation.ServiceName) []Standing {
	snap := m.cfg.Table.Load()
	open, callers := m.underWay(snap)
	var list []Standing
	for _, name := range snap.Services() {
		if !only.IsZero() && name != only {
			continue
		}
		upstream, _ := snap.Upstream(federation.ServiceRef{Service: name})
		s := Standing{Service: name, Protocol: upstream.Protocol}
		for _, l := range snap.Listeners() {
			if l.Service.Service != name {
				continue
			}
			callers[name] = append(callers[name], known{snap.Identity(l.Caller), federation.AssuranceBinding})
			if region := l.Service.Region; region == federation.Local {
				s.Pinned = append(s.Pinned, snap.Region())
			} else if region != "" {
				s.Pinned = append(s.Pinned, region)
			}
		}
		order := m.order(snap, upstream, callers[name], "")
		if len(order) > 0 {
			s.Serving = order[0]
		}
		for _, c := range snap.Consider(federation.ServiceRef{Service: name}) {
			p := Place{Considered: c, Serves: slices.Contains(order, c.Region), Open: open[goes{name, c.Region}]}
			p.LastSecond, p.PerSecond = m.traffic.rate(goes{name, c.Region})
			p.Why = m.whyNot(snap, upstream, c, callers[name])
			s.Regions = append(s.Regions, p)
		}
		at := func(p Place) int { return cmp.Or(slices.Index(order, p.Region)+1, len(s.Regions)+1) }
		slices.SortStableFunc(s.Regions, func(a, b Place) int { return cmp.Compare(at(a), at(b)) })
		list = append(list, s)
	}
	return list
}

// Without returns who would serve service if region were lost or drained now; empty: nobody else could.
func (m *Mesh) Without(service federation.ServiceName, region federation.Region) federation.Region {
	snap := m.cfg.Table.Load()
	upstream, found := snap.Upstream(federation.ServiceRef{Service: service})
	if !found {
		return ""
	}
	_, callers := m.underWay(snap)
	for _, l := range snap.Listeners() {
		if l.Service.Service == service {
			callers[service] = append(callers[service], known{snap.Identity(l.Caller), federation.AssuranceBinding})
		}
	}
	if order := m.order(snap, upstream, callers[service], region); len(order) > 0 {
		return order[0]
	}
	return ""
}

// known is a caller of a service.
type known struct {
	id        spiffeid.ID
	assurance federation.Assurance
}

// underWay counts what local callers have open by where it goes, and lists them.
func (m *Mesh) underWay(snap *route.Snapshot) (map[goes]int, map[federation.ServiceName][]known) {
	open, callers := map[goes]int{}, map[federation.ServiceName][]known{}
	m.live.each(func(c *conn) {
		if c.direction != outbound {
			return
		}
		if k := (known{c.source, c.assurance}); !slices.Contains(callers[c.service], k) {
			callers[c.service] = append(callers[c.service], k)
		}
		c.mu.Lock()
		region := cmp.Or(c.region, snap.Region())
		c.mu.Unlock()
		if !c.requests {
			open[goes{c.service, region}]++
		}
	})
	return open, callers
}

// permit decides for a service as its callers: the first that is allowed counts.
func permit(snap *route.Snapshot, upstream *route.Upstream, callers []known) func(federation.Region) policy.Decision {
	return func(region federation.Region) policy.Decision {
		decision := policy.Decision{Allowed: len(callers) == 0}
		for _, k := range callers {
			c := conn{source: k.id, assurance: k.assurance, service: upstream.Service, requests: upstream.Protocol.IsHTTP()}
			if decision = permits(snap, &c, region); decision.Allowed {
				break
			}
		}
		return decision
	}
}

// order is the plan of a call to upstream: the regions that would take it, one after the other.
func (m *Mesh) order(snap *route.Snapshot, upstream *route.Upstream, callers []known, without federation.Region) []federation.Region {
	p := plan{mesh: m, snap: snap, upstream: upstream, without: without, judge: permit(snap, upstream, callers),
		lot: 1} // as soon as a region that comes back gets any call, it is said to serve
	var order []federation.Region
	for {
		s, ok := p.next()
		if !ok {
			return order
		}
		if s.IsLocal() && !m.anyUsable(snap, s.Candidate) { // only picking knows
			p.passOver(s, dropUnhealthy)
			continue
		}
		if !s.why.isPanic() {
			order = append(order, s.Region)
		}
	}
}

func (m *Mesh) anyUsable(snap *route.Snapshot, c *route.Candidate) bool {
	return slices.ContainsFunc(m.endpoints(snap, c.Local, ""), func(e Endpoint) bool { return e.Healthy && e.Ejected == 0 })
}

// whyNot says what keeps calls from a region, or "".
func (m *Mesh) whyNot(snap *route.Snapshot, upstream *route.Upstream, considered route.Considered, callers []known) string {
	c := candidateOf(upstream, considered.Region)
	if c == nil {
		return considered.Reason
	}
	if d := permit(snap, upstream, callers)(c.Region); !d.Allowed {
		return dropDenied.String() + ": " + d.Reason
	}
	if c.IsLocal() && !m.anyUsable(snap, c) {
		return dropUnhealthy.String()
	}
	why, _ := m.weigh(upstream.Service, c)
	return why.String()
}
