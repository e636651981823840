package link

import (
	"math"
	"math/rand/v2"
	"time"
)

// A fate is what becomes of a packet.
type fate uint8

const (
	delivered fate = iota
	lost
	queueFull
	tooBig
	blocked
	swallowed
)

// A wire is one direction as a machine: packets and times go in, fates and times come out. It has no clock and no goroutine.
// Times are durations since an origin that the caller keeps.
type wire struct {
	Profile
	idle time.Duration // when the last packet accepted has left the queue
	last time.Duration // when the last packet that keeps its place arrives
	bad  bool          // the state of Profile.Burst
	// Each choice has its own source, so that the same packets are lost whatever else is set.
	losses, orders, copies *rand.Rand
	Counters
}

func newWire(p Profile, seed, direction uint64) *wire {
	source := func(purpose uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, direction<<8|purpose)) }
	return &wire{Profile: p, losses: source(1), orders: source(2), copies: source(3)}
}

// A verdict is a fate and, for delivered packets, their way.
type verdict struct {
	fate  fate
	left  time.Duration // when the last bit leaves the queue
	due   time.Duration // when it arrives, with its copy if it comes twice
	held  bool          // by Reorder
	twice bool
}

// pass takes a packet that enters at now. now never goes back.
func (w *wire) pass(now time.Duration, length int, p protocol) verdict {
	w.Packets++
	w.Octets += uint64(length)
	switch {
	case w.Blackhole:
		w.Blackholed++
		return verdict{fate: swallowed}
	case w.BlockUDP && p == udp, w.BlockTCP && p == tcp:
		w.Blocked++
		return verdict{fate: blocked}
	case w.MTU > 0 && length > w.MTU:
		w.TooBig++
		return verdict{fate: tooBig}
	}
	left, ok := w.transmit(now, length)
	switch {
	case !ok:
		w.QueueFull++
		return verdict{fate: queueFull}
	case w.lose():
		w.Lost++
		return verdict{fate: lost}
	}
	v := verdict{left: left, twice: w.Duplicate > 0 && w.copies.Float64() < w.Duplicate}
	if v.twice {
		w.Duplicated++
	}
	v.due, v.held = w.arrival(left)
	return v
}

// transmit returns when the packet's last bit leaves the queue, or false if it does not fit into it. A packet that finds the
// wire idle needs no room.
func (w *wire) transmit(now time.Duration, length int) (time.Duration, bool) {
	if w.Rate == 0 {
		return now, true
	}
	waiting := w.waiting(now)
	if waiting > 0 && waiting+length > w.queue() {
		return 0, false
	}
	w.QueueMax = max(w.QueueMax, waiting+length)
	w.idle = max(w.idle, now) + time.Duration(int64(length)*8*int64(time.Second)/w.Rate)
	return w.idle, true
}

// waiting is how many octets wait or are being sent.
func (w *wire) waiting(now time.Duration) int {
	if w.idle <= now {
		return 0
	}
	return int(float64(w.idle-now)/float64(time.Second)*float64(w.Rate)/8 + 0.5)
}

func (w *wire) lose() bool {
	loss := w.Loss
	if w.Burst.Enter > 0 {
		if w.bad {
			w.bad = w.losses.Float64() >= w.Burst.Leave
		} else {
			w.bad = w.losses.Float64() < w.Burst.Enter
		}
		if w.bad {
			loss = w.Burst.Loss
		}
	}
	return loss > 0 && w.losses.Float64() < loss
}

// arrival is when a packet that left the queue at left is at the other end, and whether it is held back.
func (w *wire) arrival(left time.Duration) (time.Duration, bool) {
	due := left + w.Delay
	if w.Jitter > 0 {
		due += time.Duration((2*w.orders.Float64() - 1) * float64(w.Jitter))
	}
	if w.Reorder > 0 && w.orders.Float64() < w.Reorder {
		w.Reordered++
		return due + w.ReorderDelay, true // those behind it do not wait
	}
	if !w.JitterReorders {
		due = max(due, w.last)
		w.last = due
	}
	return due, false
}

// A parcel is a packet on its way.
type parcel struct {
	verdict
	turn uint64 // among those due at the same time
	data []byte
}

func (p *parcel) before(q *parcel) bool { return p.due < q.due || p.due == q.due && p.turn < q.turn }

// A flight is the packets on their way, a heap by time. Packets mostly come in the order in which they leave, which costs a
// push one comparison.
type flight struct {
	heap  []parcel
	turns uint64
}

func (f *flight) push(v verdict, data []byte) {
	f.turns++
	f.heap = append(f.heap, parcel{v, f.turns, data})
	f.rise(len(f.heap) - 1)
}

// rise restores the order after the i-th packet was added.
func (f *flight) rise(i int) {
	for i > 0 {
		parent := (i - 1) / 2
		if !f.heap[i].before(&f.heap[parent]) {
			break
		}
		f.heap[i], f.heap[parent] = f.heap[parent], f.heap[i]
		i = parent
	}
}

// next is when the first packet is due.
func (f *flight) next() (time.Duration, bool) {
	if len(f.heap) == 0 {
		return 0, false
	}
	return f.heap[0].due, true
}

// pop takes the first packet; there must be one.
func (f *flight) pop() parcel {
	first, end := f.heap[0], len(f.heap)-1
	f.heap[0] = f.heap[end]
	f.heap[end] = parcel{} // the buffer has another owner now
	f.heap = f.heap[:end]
	for i := 0; ; {
		child := 2*i + 1
		if child >= end {
			return first
		}
		if child+1 < end && f.heap[child+1].before(&f.heap[child]) {
			child++
		}
		if !f.heap[child].before(&f.heap[i]) {
			return first
		}
		f.heap[i], f.heap[child] = f.heap[child], f.heap[i]
		i = child
	}
}

// change replaces the profile at now. What waits in the queue leaves at the new rate; what has left it is not touched.
func (l *lane) change(now time.Duration, p Profile) {
	old := l.Rate
	l.Profile = p
	if p.Burst.Enter == 0 {
		l.bad = false
	}
	if old == p.Rate || l.idle <= now {
		return
	}
	shift := func(left time.Duration) time.Duration {
		switch {
		case left <= now:
			return 0
		case p.Rate == 0:
			return now - left
		}
		return time.Duration(math.Round(float64(left-now) * (float64(old)/float64(p.Rate) - 1)))
	}
	l.idle += shift(l.idle)
	l.last = 0
	for i := range l.heap {
		waits := &l.heap[i]
		by := shift(waits.left)
		waits.left, waits.due = waits.left+by, waits.due+by
		if !waits.held {
			l.last = max(l.last, waits.due)
		}
		l.rise(i) // those before it are in order already
	}
}
