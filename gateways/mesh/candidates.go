package mesh

import (
	"cmp"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// drop is why a candidate region is not tried now.
type drop uint8

// The reasons, the more hopeless the lower: what is passed over is tried again from the end.
const (
	dropNot       drop = iota
	dropDenied         // an intention, or the lack of one, forbids it
	dropNoPath         // no live session with its gateways
	dropUnhealthy      // it has no healthy instance
	dropAvoided        // it failed too often in a row
	dropDrained        // it is drained
	dropReturning      // it was drained, and gets its share back little by little: this one is not part of it
	dropOld            // its catalog is too old to be preferred to anything
)

func (d drop) String() string {
	return [...]string{
		"", "not allowed", "no live path to its gateways", "no healthy instance", "failed too often in a row",
		"drained: last resort", "back from a drain, and not at its full share yet", "its catalog is OLD: last resort",
	}[d]
}

// isPanic reports whether a candidate that was passed over for d is tried although its instances looked bad.
func (d drop) isPanic() bool { return d != dropNot && d != dropDrained && d != dropReturning }

// weigh says whether c, which is allowed, is worth trying now, and how far away it is. For a local candidate that is left to
// the pool: only picking knows.
func (m *Mesh) weigh(service federation.ServiceName, c *route.Candidate) (drop, time.Duration) {
	if c.IsLocal() {
		return drained(c), 0
	}
	path := m.cfg.Tunnel.Path(c.Region)
	memory := m.cfg.Balance.Region(service, c.Region)
	if !path.Up {
		memory.Down() // its sessions died of that; once there is a way again, it is tried
		return dropNoPath, path.RTT
	}
	healthy, _ := c.Health()
	switch {
	case healthy == 0:
		memory.Down()
		return dropUnhealthy, path.RTT
	case memory.Avoid():
		return dropAvoided, path.RTT
	case c.Freshness >= federation.FreshnessOld:
		return dropOld, path.RTT
	}
	return drained(c), path.RTT
}

// drained says what a drain has to do with c. Who draws lots about a region that comes back is to look at plan.lucky.
func drained(c *route.Candidate) drop {
	if c.Drain == nil {
		return dropNot
	}
	switch share := c.Drain.Share(time.Now()); {
	case share == 0:
		return dropDrained
	case share < 1:
		return dropReturning
	}
	return dropNot
}

// step is one candidate to try.
type step struct {
	*route.Candidate
	decision policy.Decision
	rtt      time.Duration
	why      drop // why it was passed over at first; dropNot: it was not
}

// plan hands out the candidates of one connection in the order they are to be tried: rank by rank, the nearest of a rank
// first; then once more those that were passed over but can be reached, because a chance is better than none. A rank is
// looked at only when the ones before it are used up, so a call that is served locally never asks for paths.
type plan struct {
	mesh     *Mesh
	snap     *route.Snapshot
	upstream *route.Upstream
	who      *caller
	request  *match.Request                          // nil: a connection
	lot      uint64                                  // what is drawn for the share of a region that comes back, the same for one client at all times; 0: at random
	without  federation.Region                       // region that is left out, to learn what would be then
	judge    func(federation.Region) policy.Decision // decides in place of the intentions on who; nil: they do

	at        int     // first candidate of the next rank
	ready     []step  // of the rank at hand, nearest first
	room      [1]step // what ready starts with, so that a short plan needs no memory of its own
	last      []step  // what was passed over
	panicking bool    // last has become ready

	preferred federation.Region // the region that should serve: the first that is allowed, whatever its state
	passed    bool              // the preferred region was passed over, not tried in vain
	blocked   drop              // why the first region that was passed over was
	refusal   policy.Decision   // the first denial
	missing   *step             // the best region that cannot serve, of a request
}

// next returns the candidate to try next; false when there is none left.
func (p *plan) next() (step, bool) {
	for len(p.ready) == 0 && p.at < len(p.upstream.Candidates) {
		p.gather()
	}
	if len(p.ready) == 0 && !p.panicking {
		p.panicking, p.ready = true, p.last
		slices.SortStableFunc(p.ready, func(a, b step) int { // an old catalog may still be right; a refusal hardly is wrong
			return cmp.Or(cmp.Compare(b.why, a.why), cmp.Compare(a.Rank, b.Rank), cmp.Compare(a.rtt, b.rtt))
		})
	}
	if len(p.ready) == 0 {
		return step{}, false
	}
	s := p.ready[0]
	p.ready = p.ready[1:]
	return s, true
}

// passOver notes that s cannot serve now, so that it is tried again when nothing else is left.
func (p *plan) passOver(s step, why drop) {
	p.missed(s, why)
	if p.blocked == dropNot {
		p.blocked = why
	}
	if p.preferred == s.Region {
		p.passed = why != dropReturning // that is no failover, but the end of one
	}
	if why != dropNoPath && !p.panicking {
		s.why = why
		p.last = append(p.last, s)
	}
}

// lucky draws whether a call may go to c, which comes back from a drain.
func (p *plan) lucky(c *route.Candidate) bool {
	if p.lot == 0 {
		p.lot = rand.Uint64() | 1
	}
	return float64(p.lot)/math.MaxUint64 < c.Drain.Share(time.Now())
}

func (p *plan) authorize(region federation.Region) policy.Decision {
	if p.judge != nil {
		return p.judge(region)
	}
	if p.request != nil {
		return p.snap.AuthorizeRequest(p.who.id, p.who.assurance, region, p.upstream.Service, p.request)
	}
	return p.snap.Authorize(p.who.id, p.who.assurance, region, p.upstream.Service)
}

// gather fills ready with what can be tried of the next rank.
func (p *plan) gather() {
	p.ready = p.room[:0]
	candidates := p.upstream.Candidates
	rank, settled := candidates[p.at].Rank, p.preferred != ""
	for ; p.at < len(candidates) && candidates[p.at].Rank == rank; p.at++ {
		c := &candidates[p.at]
		if c.Region == p.without {
			continue
		}
		decision := p.authorize(c.Region)
		if !decision.Allowed {
			if p.refusal.Rule == "" {
				p.refusal = decision
			}
			continue
		}
		if p.preferred == "" {
			p.preferred = c.Region
		}
		why, rtt := p.mesh.weigh(p.upstream.Service, c)
		if why == dropReturning && p.lucky(c) {
			why = dropNot
		}
		if s := (step{Candidate: c, decision: decision, rtt: rtt}); why == dropNot {
			p.ready = append(p.ready, s)
		} else {
			p.passOver(s, why)
		}
	}
	if len(p.ready) == 0 {
		return
	}
	slices.SortStableFunc(p.ready, func(a, b step) int { return cmp.Compare(a.rtt, b.rtt) })
	if !settled { // of equals, the nearest that can serve is the one that should
		p.preferred, p.passed = p.ready[0].Region, false
	}
}
