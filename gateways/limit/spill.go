package limit

import (
	"container/list"
	"context"
	"maps"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	// detourFloor is how many requests at once a region gets at first of those that are meant for another one: what has been idle
	// must not be hit by thousands of them. Below that a region that has not said how much room it has is believed to have some: refusing
	// what it could have served is the worse mistake.
	detourFloor = fewInside

	// returnFloor is how many requests at once a region that is back gets at first.
	returnFloor = fewInside

	// detourStep is how often that may grow, by detourGrowth, which doubles it in a second, and detourBackoff is what is left of it after a
	// refusal.
	detourStep    = 100 * time.Millisecond
	detourGrowth  = 1.0718
	detourBackoff = 0.9

	// detourOver is how long none must have come for the next to be the first again.
	detourOver = time.Minute

	// detoursWaiting is how many may wait for room: what a burst that moves at once has beyond detourFloor, and more than are let in while
	// anybody waits.
	detoursWaiting = 1024

	// detourMost is above what any gateway carries at once.
	detourMost = 1 << 20

	// roomFor is how long the word of a region counts.
	roomFor = time.Second

	// fullFor is how long a region that had no room is not asked: a few round trips.
	fullFor = 100 * time.Millisecond

	// returnAfter is for how long a region must not have failed before it gets its requests back, which then takes returnOver. A region
	// that flaps so gets few of them.
	returnAfter = 5 * time.Second
	returnOver  = 10 * time.Second

	lostStep = 100 * time.Millisecond // failures closer together are one
)

// Spills is what keeps the requests for one service, as one gateway sends them, from being more than a region can take when they
// cannot go where they should: a Spill for each region. The zero value is ready for use.
type Spills struct {
	inside  atomic.Int64 // requests under way to all regions
	regions atomic.Pointer[map[federation.Region]*Spill]
	mu      sync.Mutex // to add one
}

// To returns the Spill of region.
func (s *Spills) To(region federation.Region) *Spill {
	if all := s.regions.Load(); all != nil {
		if r := (*all)[region]; r != nil {
			return r
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	var all map[federation.Region]*Spill
	if old := s.regions.Load(); old != nil {
		all = maps.Clone(*old)
	} else {
		all = map[federation.Region]*Spill{}
	}
	if all[region] == nil {
		all[region] = &Spill{all: s, flood: flood{most: detourFloor}}
		s.regions.Store(&all)
	}
	return all[region]
}

// Keep forgets the regions for which f returns false.
func (s *Spills) Keep(f func(federation.Region) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.regions.Load(); old != nil {
		all := maps.Clone(*old)
		maps.DeleteFunc(all, func(r federation.Region, _ *Spill) bool { return !f(r) })
		s.regions.Store(&all)
	}
}

// Spill decides how many requests go to one region. Those that are meant for it go there, unless it has just said that it is full, or is
// just back: then their number grows within seconds. Those that are meant for a better region which cannot take them (detours) are few at
// first, at most double in a second, and are never more than the region has said it has room for.
type Spill struct {
	all    *Spills
	inside atomic.Int64 // requests that are meant for it
	lost   atomic.Int64 // when it failed last; 0: it is what it was
	full   atomic.Int64 // until when it is taken to be full

	mu sync.Mutex
	flood
	queue list.List // of *detourer
}

// detourer is a detour that waits until there is room.
type detourer struct {
	share float64
	ready chan struct{} // is closed when it is let in
}

// flood is what a Spill knows of its detours.
type flood struct {
	detours int           // under way
	most    float64       // how many may be
	stepped time.Duration // when that grew last
	last    time.Duration // when one entered
	cut     time.Duration // when a refusal counted
	room    int           // what it has said it has, less what was sent since
	told    time.Duration // until when that counts
}

// Passage is whether a request may be sent to a region.
type Passage uint8

// The passages.
const (
	Open  Passage = iota // it may, and Leave follows
	Later                // it had better go somewhere else, if it can: the region is just back
	Full                 // there is no room
)

// Share is how much of the room there is a request may use: the less, the sooner it is refused. urgency is that of RFC 9218: 0 is the most
// urgent, 3 the default, 7 the least. Detours come after what is meant for a region, or one that fails would take the others with it.
func Share(urgency int, detour bool) float64 {
	share := 1.0
	switch {
	case urgency <= 2:
		share = 1.1
	case urgency >= 5:
		share = 0.8
	}
	if detour {
		share *= 0.8
	}
	return share
}

// Enter asks for the passage of one request. A detour is meant for a better region that cannot take it.
func (s *Spill) Enter(detour bool, urgency int, now time.Duration) Passage {
	if detour {
		return s.enterDetour(Share(urgency, false), now)
	}
	p := s.passage(s.inside.Load(), now)
	if p == Open {
		s.Force(false)
	}
	return p
}

// passage is that of a request that is meant for the region, with so many inside.
func (s *Spill) passage(inside int64, now time.Duration) Passage {
	if full := s.full.Load(); full != 0 && int64(now) < full && inside >= fewInside {
		return Full
	}
	if lost := s.lost.Load(); lost != 0 && inside >= returnFloor {
		switch back := now - time.Duration(lost) - returnAfter; {
		case back >= returnOver:
			s.lost.CompareAndSwap(lost, 0)
		case float64(inside) >= returnFloor+float64(s.all.inside.Load())*max(0, float64(back))/float64(returnOver):
			return Later
		}
	}
	return Open
}

// Force is Enter for a request that has nowhere else to go. Leave follows.
func (s *Spill) Force(detour bool) {
	s.all.inside.Add(1)
	if !detour {
		s.inside.Add(1)
		return
	}
	s.mu.Lock()
	s.detours++
	s.mu.Unlock()
}

func (s *Spill) enterDetour(share float64, now time.Duration) Passage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.queue.Len() > 0 || !s.let(share, now) {
		return Full
	}
	return Open
}

// let lets a detour in, if there is room. s.mu is held, as with admit.
func (s *Spill) let(share float64, now time.Duration) bool {
	if s.pass(share, now, s.full.Load()) != Open {
		return false
	}
	s.all.inside.Add(1)
	return true
}

// admit lets those in that have waited longest.
func (s *Spill) admit(now time.Duration) {
	for first := s.queue.Front(); first != nil; first = s.queue.Front() {
		if !s.let(first.Value.(*detourer).share, now) {
			return
		}
		close(s.queue.Remove(first).(*detourer).ready)
	}
}

// Wait is Enter for a detour that has found no region with room: it waits for its turn, in order of arrival, until ctx is over. The
// error is ErrFull, when too many wait, or that of ctx; without one Leave follows.
func (s *Spill) Wait(ctx context.Context, urgency int, now func() time.Duration) error {
	d := &detourer{share: Share(urgency, false), ready: make(chan struct{})}
	s.mu.Lock()
	if s.queue.Len() >= detoursWaiting {
		s.mu.Unlock()
		return ErrFull
	}
	place := s.queue.PushBack(d)
	s.admit(now())
	s.mu.Unlock()
	forgiven := time.NewTimer(max(0, time.Duration(s.full.Load())-now())) // when a refusal has been, nobody may be there who makes room
	defer forgiven.Stop()
	for {
		select {
		case <-d.ready:
			return nil
		case <-forgiven.C:
			s.mu.Lock()
			s.admit(now())
			s.mu.Unlock()
		case <-ctx.Done():
			return s.giveUp(ctx, d, place, now())
		}
	}
}

// giveUp leaves the queue.
func (s *Spill) giveUp(ctx context.Context, d *detourer, place *list.Element, now time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-d.ready: // let in at the same moment
		return nil
	default:
	}
	s.queue.Remove(place)
	s.admit(now) // those behind it may be content with less
	return ctx.Err()
}

// pass lets a detour in, or not. The region is taken to be full until then.
func (s *flood) pass(share float64, now time.Duration, full int64) Passage {
	switch {
	case now-s.last >= detourOver:
		s.most, s.stepped, s.told = detourFloor, now, 0
	case now-s.stepped >= detourStep:
		if now >= s.told || s.room > 0 {
			s.most = min(s.most*detourGrowth, detourMost)
		}
		s.stepped = max(s.stepped+detourStep, now-detourStep) // a second without a request is none to grow in
	}
	s.last = now
	if int64(now) < full || float64(s.detours) >= max(1, s.most*share) || now < s.told && s.room <= 0 && s.detours > 0 {
		return Full
	}
	s.room--
	s.detours++
	return Open
}

// Flood is a Spill at one moment, as one more request would find it.
type Flood struct {
	Passage
	Inside  int           // requests under way that are meant for the region
	Detours int           // and those that are not
	Most    int           // of Detours
	Room    int           // what the region has said it has, less what was sent since; -1: it said nothing that still counts
	Age     time.Duration // of that word
}

// Peek is Enter for a request that does not come.
func (s *Spill) Peek(detour bool, urgency int, now time.Duration) Flood {
	s.mu.Lock()
	copied, waiting := s.flood, s.queue.Len()
	s.mu.Unlock()
	f := Flood{Inside: int(s.inside.Load()), Detours: copied.detours, Room: -1}
	if now < copied.told {
		f.Room, f.Age = max(0, copied.room), now-(copied.told-roomFor)
	}
	if detour {
		share := Share(urgency, false)
		f.Passage = copied.pass(share, now, s.full.Load())
		if f.Most = int(math.Ceil(max(1, copied.most*share))); waiting > 0 {
			f.Passage = Full
		}
		return f
	}
	f.Passage = s.passage(int64(f.Inside), now)
	return f
}

// Leave ends what Enter, Wait or Force began: the region has answered, or failed.
func (s *Spill) Leave(detour bool, now time.Duration) {
	s.all.inside.Add(-1)
	if !detour {
		s.inside.Add(-1)
		return
	}
	s.mu.Lock()
	s.detours--
	s.admit(now)
	s.mu.Unlock()
}

// Room notes that the region has room for so many more, as an answer said.
func (s *Spill) Room(n int, now time.Duration) {
	switch {
	case n <= 0:
		s.full.Store(int64(now + fullFor))
	case s.full.Load() != 0:
		s.full.Store(0)
	}
	s.mu.Lock()
	s.room, s.told = n, now+roomFor
	s.admit(now)
	s.mu.Unlock()
}

// Refused notes that the region had no room for a request.
func (s *Spill) Refused(now time.Duration) {
	s.full.Store(int64(now + fullFor))
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.room, s.told = 0, now+roomFor; now-s.cut >= detourStep {
		s.cut = now
		s.most = max(1, min(s.most, float64(s.detours))*detourBackoff)
	}
}

// Lost notes that the region cannot serve now: no way leads there, or it has no instance.
func (s *Spill) Lost(now time.Duration) {
	if lost := s.lost.Load(); lost == 0 || int64(now)-lost >= int64(lostStep) {
		s.lost.Store(max(1, int64(now)))
	}
}
