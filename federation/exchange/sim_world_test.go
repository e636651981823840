package exchange

import (
	"container/heap"
	"fmt"
	"hash"
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// The simulation runs whole regions against each other under a virtual clock: machines, the sessions between them, disks and
// faults. Everything that happens comes from one seed, so that a failure is repeated by its number.

// event is something that happens at a time; of two at the same time, the one that was planned first comes first.
type event struct {
	at time.Time
	n  uint64
	do func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at.Before(e[j].at) || e[i].at.Equal(e[j].at) && e[i].n < e[j].n
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := len(*e) - 1
	x := (*e)[last]
	(*e)[last] = event{}
	*e = (*e)[:last]
	return x
}

// world is all regions, and what is between them.
type world struct {
	seed   uint64
	rng    *rand.Rand
	now    time.Time
	queue  events
	n      uint64
	nodes  []*simNode
	links  [][]*simLink // links[i][j] with i < j
	calm   bool         // no more faults and no more changes
	trace  hash.Hash64
	notes  []string // the last things that happened, for the report of a failure
	failed string
	ids    uint64
	counts struct{ frames, sessions, crashes, restores, cuts, partitions, jumps, alarms, closes, publishes, mutants int }
}

func newWorld(seed uint64) *world {
	return &world{seed: seed, rng: rand.New(rand.NewPCG(seed, 0x7472616465)), now: epoch0, trace: fnv.New64a()}
}

func (w *world) after(d time.Duration, do func()) {
	w.n++
	heap.Push(&w.queue, event{w.now.Add(d), w.n, do})
}

func (w *world) chance(p float64) bool { return w.rng.Float64() < p }

// between returns a duration from lo up to hi.
func (w *world) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(w.rng.Int64N(int64(hi-lo)+1))
}

func (w *world) note(format string, args ...any) {
	s := fmt.Sprintf("%10.4f ", w.now.Sub(epoch0).Seconds()) + fmt.Sprintf(format, args...)
	_, _ = w.trace.Write([]byte(s))
	if w.notes = append(w.notes, s); len(w.notes) > 400 {
		w.notes = append([]string(nil), w.notes[200:]...)
	}
}

func (w *world) fail(format string, args ...any) {
	if w.failed == "" {
		w.failed = fmt.Sprintf("seed %d at %v: ", w.seed, w.now.Sub(epoch0)) + fmt.Sprintf(format, args...)
	}
}

// run lets d pass, or less when an invariant breaks.
func (w *world) run(d time.Duration) {
	until := w.now.Add(d)
	for len(w.queue) > 0 && w.failed == "" && !w.queue[0].at.After(until) {
		e := heap.Pop(&w.queue).(event)
		w.now = e.at
		e.do()
	}
	if w.failed == "" {
		w.now = until
	}
}

// simLink is the way between two regions. Each direction can be blocked alone.
type simLink struct {
	w       *world
	ends    [2]*simNode
	blocked [2]time.Time // no frame of this direction is delivered before
	delay   time.Duration
	loss    float64
	dialing bool
	current [2]*simSession // as each end sees it
	seen    [2]int         // the newest session each end ever used
}

// simSession is one session over a link. Its lanes are reliable, ordered, and independent of each other.
type simSession struct {
	link  *simLink
	id    int
	dead  bool // no frame is delivered any more
	lanes [2][Lanes]time.Time
}

// dial makes a new session, if there is not one already.
func (l *simLink) dial(duplicate bool) {
	w := l.w
	if l.dialing || !duplicate && l.current[0] != nil && l.current[1] != nil && l.current[0] == l.current[1] {
		return
	}
	l.dialing = true
	w.after(w.between(200*time.Millisecond, 2*time.Second), func() {
		l.dialing = false
		up := w.now.After(l.blocked[0]) && w.now.After(l.blocked[1]) && l.ends[0].up() && l.ends[1].up()
		if !up {
			l.dial(duplicate)
			return
		}
		w.counts.sessions++
		s := &simSession{link: l, id: w.counts.sessions}
		w.note("session %d %s-%s", s.id, l.ends[0].region, l.ends[1].region)
		for side := range l.ends {
			w.after(w.between(0, 2*l.delay), func() { l.adopt(side, s) })
		}
	})
}

// adopt makes s the session that one end uses.
func (l *simLink) adopt(side int, s *simSession) {
	n := l.ends[side]
	old := l.current[side]
	if s.dead || !n.alive || l.seen[side] >= s.id {
		return
	}
	if n.deferred(func() { l.adopt(side, s) }) {
		return
	}
	l.current[side], l.seen[side] = s, s.id
	if old != nil {
		l.lost(1-side, old, l.w.between(0, 500*time.Millisecond))
	}
	n.peer(l.ends[1-side]).connected()
}

// lost tells one end, after a while, that s is over.
func (l *simLink) lost(side int, s *simSession, after time.Duration) {
	l.w.after(after, func() {
		if l.current[side] != s {
			return
		}
		n := l.ends[side]
		if n.deferred(func() { l.lost(side, s, 0) }) {
			return
		}
		l.current[side] = nil
		if n.alive {
			n.peer(l.ends[1-side]).disconnected()
		}
		l.dial(false)
	})
}

// cut ends a session in the middle of whatever it does.
func (l *simLink) cut() {
	for side, s := range l.current {
		if s != nil {
			s.dead = true
			l.lost(side, s, l.w.between(0, 2*time.Second))
		}
	}
	l.dial(false)
}

// send carries a frame from one end to the other.
func (s *simSession) send(side int, lane Lane, f []byte, onArrival func()) {
	l, w := s.link, s.link.w
	w.counts.frames++
	at := w.now.Add(l.delay + w.between(0, l.delay))
	if w.chance(l.loss) {
		at = at.Add(w.between(50*time.Millisecond, 400*time.Millisecond)) // a retransmission holds up the lane
	}
	if until := l.blocked[side]; at.Before(until) {
		at = until.Add(w.between(0, l.delay))
	}
	if last := s.lanes[side][lane]; !at.After(last) {
		at = last.Add(time.Microsecond)
	}
	s.lanes[side][lane] = at
	w.after(at.Sub(w.now), func() { s.deliver(1-side, lane, f, onArrival) })
}

func (s *simSession) deliver(side int, lane Lane, f []byte, onArrival func()) {
	l := s.link
	n := l.ends[side]
	if s.dead || !n.alive {
		return
	}
	if n.deferred(func() { s.deliver(side, lane, f, onArrival) }) {
		return
	}
	l.adopt(side, s) // its first frame may be faster than the news of it
	if l.current[side] != s {
		return
	}
	if onArrival != nil {
		onArrival()
	}
	n.peer(l.ends[1-side]).receive(lane, f)
}

// partition blocks one direction, or both, for a while. A session that is silent for ten seconds dies.
func (l *simLink) partition(both bool, d time.Duration) {
	w := l.w
	side := w.rng.IntN(2)
	w.note("partition %s-%s both=%v side=%d %v", l.ends[0].region, l.ends[1].region, both, side, d)
	w.counts.partitions++
	l.blocked[side] = w.now.Add(d)
	if both {
		l.blocked[1-side] = w.now.Add(d)
	}
	if d > 10*time.Second {
		olds := l.current
		w.after(10*time.Second, func() {
			for side, s := range olds {
				if s != nil && !s.dead {
					s.dead = true
				}
				if s != nil {
					l.lost(side, s, w.between(0, 2*time.Second))
				}
			}
		})
	}
}
