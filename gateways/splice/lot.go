package splice

import "sync"

// Lot waits for the sockets of idle connections, all in one goroutine, so that a direction that waits for a socket needs none of its
// own. Where the system cannot do that, and while Run does not run, each keeps one. The zero value is ready for use.
type Lot struct {
	mu    sync.Mutex
	ready bool // Run runs
	epoll int
	last  uint64
	spots map[uint64]*Pair // by the spot of the direction
}

// spotBToA is set in the spots of that direction.
const spotBToA uint64 = 1

// park makes the next bytes for d begin p.resume(d). It reports false when it has not.
func (l *Lot) park(p *Pair, d *direction) bool {
	if l == nil || d.raw.conn == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ready {
		return false
	}
	l.last += 2
	spot := l.last
	if d == &p.bToA {
		spot |= spotBToA
	}
	if !d.raw.notify(l.epoll, spot) { // it has been closed, for one
		return false
	}
	d.spot, l.spots[spot] = spot, p
	return true
}

// leave takes d out of the lot. It reports whether it was in there: then the caller goes on with it.
func (l *Lot) leave(d *direction) bool {
	if l == nil {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.spots[d.spot] == nil {
		return false
	}
	delete(l.spots, d.spot)
	return true
}

// wake goes on with the direction at spot, if it is still there.
func (l *Lot) wake(spot uint64) {
	l.mu.Lock()
	p := l.spots[spot]
	delete(l.spots, spot)
	l.mu.Unlock()
	switch {
	case p == nil:
	case spot&spotBToA != 0:
		go p.resume(&p.bToA)
	default:
		go p.resume(&p.aToB)
	}
}

// open lets directions park at epoll.
func (l *Lot) open(epoll int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.ready, l.epoll, l.spots = true, epoll, map[uint64]*Pair{}
}

// close sends everybody away; epoll is free then.
func (l *Lot) close() {
	l.mu.Lock()
	l.ready = false
	left := make([]uint64, 0, len(l.spots))
	for spot := range l.spots {
		left = append(left, spot)
	}
	l.mu.Unlock()
	for _, spot := range left {
		l.wake(spot)
	}
}
