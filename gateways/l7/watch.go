package l7

import (
	"sync"
	"time"
)

// watchAfter is how long a request waits for its response before somebody looks whether the caller is still there: most have been answered
// by then, and cost no more than a look at a lock.
const watchAfter = 100 * time.Millisecond

// Leaver is told that a caller of HTTP/1 has left while its request was under way. Callers of HTTP/2 end the request's context.
type Leaver interface{ Left() }

// Watch has who told if the caller leaves before the handler returns. It is for once.
func (x *Exchange) Watch(who Leaver) {
	if side, ok := x.side.(*side1); ok {
		side.watch.begin(side, who)
	}
}

// watch reads on a caller's connection while its request waits, for that is how its end is noticed. A caller that sends its next request
// instead is believed to stay, and the octet that was read is put back. One that has closed its own direction only cannot be told apart
// from one that has left, and counts as such, as it does for net/http.
type watch struct {
	mu      sync.Mutex
	who     Leaver // nil: no request is under way
	body    *body  // of that
	turn    int    // its number
	seen    int    // the one that was there when the timer was set
	timer   *time.Timer
	armed   bool
	stops   bool          // the read is to end
	reading chan struct{} // is closed when the read has ended; nil: there is none
	octet   [1]byte
	n       int
}

func (w *watch) begin(side *side1, who Leaver) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.turn++
	if w.who, w.body = who, side.body; w.armed {
		return // for an earlier request: it is set anew when it fires
	}
	w.armed, w.seen = true, w.turn
	if w.timer == nil {
		w.timer = time.AfterFunc(watchAfter, func() { w.look(side.session) })
	} else {
		w.timer.Reset(watchAfter)
	}
}

// look begins to read for a request that was there when the timer was set.
func (w *watch) look(s *Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.who == nil:
		w.armed = false
	case w.turn != w.seen, w.body != nil && !w.body.done.Load(): // who reads the body sees the end
		w.seen = w.turn
		w.timer.Reset(watchAfter)
	default:
		w.armed, w.stops, w.n = false, false, 0
		w.reading = make(chan struct{})
		_ = s.conn.Conn.SetReadDeadline(time.Time{}) // the caller may wait for as long as it likes
		go w.read(s, w.reading)
	}
}

func (w *watch) read(s *Session, over chan struct{}) {
	defer close(over)
	n, err := s.conn.Conn.Read(w.octet[:])
	w.mu.Lock()
	w.n = n
	who := w.who
	if n > 0 || err == nil || w.stops {
		who = nil
	}
	w.mu.Unlock()
	if who != nil {
		who.Left()
	}
}

// end stops watching, and puts back on c what was read.
func (w *watch) end(s *Session, c *withPrefix) {
	w.mu.Lock()
	reading := w.reading
	w.who, w.body, w.reading, w.stops = nil, nil, nil, true
	if reading != nil {
		_ = s.conn.Conn.SetReadDeadline(past)
	}
	w.mu.Unlock()
	if reading == nil {
		return
	}
	<-reading
	s.conn.forget()
	c.prefix = append(c.prefix, w.octet[:w.n]...)
}

// close is end for good.
func (w *watch) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
	}
}
