package tunnel

import (
	"cmp"
	"context"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// best returns the session a new flow should take, leaving out those in tried. It is nil when there is none.
func (p *peer) best(tried []*session) *session { return p.bestOf(spiffeid.ID{}, tried) }

// bestOf is best among the sessions with one gateway; of the zero ID, with all.
//
// A session that is not silent comes before one that is, QUIC before TCP, the near before the far, and one without a bulk
// transfer before one with. Of those that are left, the less busy of two that are drawn is taken: a choice of two keeps the load
// even without everybody running to the one that was idle last.
func (p *peer) bestOf(gateway spiffeid.ID, tried []*session) *session {
	all := *p.table.Load()
	fits := func(s *session) bool {
		return s.usable() && !slices.Contains(tried, s) && (gateway.IsZero() || s.live.id == gateway)
	}
	var first *session // of the best rank, the nearest
	for _, s := range all {
		if fits(s) && (first == nil || cmp.Or(s.compareRank(first), cmp.Compare(s.srtt.Load(), first.srtt.Load())) < 0) {
			first = s
		}
	}
	if first == nil {
		return nil
	}
	far := first.srtt.Load() + max(int64(time.Millisecond), first.srtt.Load()/5) // closer together than that is noise
	var drawn [2]*session
	var calm bool // those drawn carry no bulk
	seen := 0
	for _, s := range all {
		if !fits(s) || s.compareRank(first) != 0 || s.srtt.Load() > far || calm && s.bulk.Load() > 0 {
			continue
		}
		if !calm && s.bulk.Load() == 0 {
			calm, seen, drawn = true, 0, [2]*session{}
		}
		if seen++; seen <= len(drawn) {
			drawn[seen-1] = s
		} else if i := rand.IntN(seen); i < len(drawn) {
			drawn[i] = s
		}
	}
	switch a, b := drawn[0], drawn[1]; {
	case a == nil:
		return first // it has changed under our eyes
	case b == nil:
		return a
	default:
		if la, lb := a.load(), b.load(); lb < la || lb == la && rand.IntN(2) == 0 {
			return b
		}
		return a
	}
}

// compareRank compares what comes before all distance and load: silence and kind.
func (s *session) compareRank(o *session) int {
	return cmp.Or(cmp.Compare(s.state.Load(), o.state.Load()), cmp.Compare(s.link.kind(), o.link.kind()))
}

// load weighs what a session carries: a flow that is open counts as much as 64 KiB/s.
func (s *session) load() int64 { return s.flows.Load() + s.recent.Load()>>16 }

// group returns the sessions with one gateway that flows can move to, in no order.
func (p *peer) group(gateway spiffeid.ID) []*session {
	var all []*session
	for _, s := range *p.table.Load() {
		if s.live.id == gateway && s.usable() {
			all = append(all, s)
		}
	}
	return all
}

// reachedBy reports whether a session of kind k is alive.
func (p *peer) reachedBy(k kind) bool {
	return slices.ContainsFunc(*p.table.Load(), func(s *session) bool {
		return s.link.kind() == k && s.state.Load() == alive && s.usable()
	})
}

// awaitCarrier starts a carrier on s, and waits for a lane when none is idle. It is for a flow that has nowhere else to go.
func (s *session) awaitCarrier(ctx context.Context) (carrier, error) {
	if l, ok := s.link.(*tcpLink); ok {
		c, err := l.pool.wait(ctx)
		if err != nil {
			return nil, err
		}
		return c, nil
	}
	return s.openCarrier()
}

// awaitLane waits for a carrier of the first of those tried that is over TCP and alive; c is nil when there is none, or none in
// time.
func awaitLane(ctx context.Context, tried []*session) (s *session, c carrier) {
	i := slices.IndexFunc(tried, func(s *session) bool { return s.link.kind() == kindTCP && s.state.Load() == alive && s.usable() })
	if i < 0 {
		return nil, nil
	}
	ctx, cancel := context.WithTimeout(ctx, laneWait)
	defer cancel()
	c, err := tried[i].awaitCarrier(ctx)
	if err != nil {
		return nil, nil //nolint:nilerr // the caller says that there is no way
	}
	return tried[i], c
}

// lanes counts the lanes of all sessions over TCP.
func (p *peer) lanes() (idle, busy int) {
	for _, s := range *p.table.Load() {
		if l, ok := s.link.(*tcpLink); ok {
			i, b := l.pool.count()
			idle, busy = idle+i, busy+b
		}
	}
	return idle, busy
}
