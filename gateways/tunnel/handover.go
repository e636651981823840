package tunnel

import (
	"errors"
	"io"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

const (
	// openAgain is how long after it was sent an OPEN may be sent again. With what a session can hold it back, it stays far below
	// memoryLimit: the other end still knows whether it has seen it.
	openAgain = 5 * time.Second
	// sendAhead is how much is sent again before the other end has said what it has.
	sendAhead = 256 << 10
	// settleDown is how long after a carrier was attached the other end's wish for one is taken for an old one.
	settleDown = time.Second
	// quietAtOnce flows that have nothing to say move together; then comes a pause of quietPause, for those that have.
	quietAtOnce = 64
	quietPause  = 10 * time.Millisecond
)

// lost notes that l has broken. What it may have swallowed is sent again elsewhere. mu is held.
func (f *Flow) lost(l *leg, cause error) {
	if l.broken {
		return
	}
	kept := f.drop(l)
	ended := l.s.ended()
	if ended != nil {
		cause = ended
	}
	f.lostPath = f.pathError(cause)
	switch {
	case f.failed != nil:
		return
	case finalClose(cause) && f.cur == nil:
		f.fail(f.lostPath, flow.ResetAborted)
		return
	case !kept:
		f.fail(f.pathError(errNotKept), flow.ResetAborted)
		return
	}
	if ended == nil { // a carrier alone; when the session ends, evacuate sees to all of its flows
		l.c.cancel(flow.ResetMoved)
		time.AfterFunc(resumeLimit, f.far.expire)
		f.want()
	}
}

// drop takes l off the flow's carriers, and reports whether what may have been lost with it is kept. mu is held.
func (f *Flow) drop(l *leg) (kept bool) {
	l.broken = true
	l.uncount()
	f.only.CompareAndSwap(l, nil)
	if slices.Contains(f.legs, l) {
		f.missed = true
		f.gap.Store(true)
	}
	f.legs, f.past, f.stripes = without(f.legs, l), without(f.past, l), without(f.stripes, l)
	if f.cur == l {
		f.cur = nil
		if len(f.stripes) > 0 {
			f.cur = f.stripes[0]
		}
	}
	if f.cur == nil && len(f.legs) == 0 {
		f.legless = f.far.now()
	}
	f.cond.Broadcast()
	return f.out.Lost(l.way.ID) || f.out.Settled()
}

var errNotKept = errors.New("bytes were lost of which no copy was kept")

// needs reports whether a carrier is to be attached. mu is held.
func (f *Flow) needs() bool {
	switch {
	case f.sides.Load() == sideBoth:
		return f.out.Waits(nil) && (f.cur == nil || f.behind())
	case f.cur == nil:
		return f.failed == nil
	}
	return f.behind()
}

// behind reports whether bytes wait that every carrier has passed, or the end, which none can bear any more. mu is held.
func (f *Flow) behind() bool {
	passed := func(l *leg) bool { return f.out.Behind(&l.way) || f.out.Stuck(&l.way) }
	for _, l := range f.stripes {
		if !passed(l) {
			return false
		}
	}
	return passed(f.cur)
}

// want sees to it that a carrier is attached. Only the opener does it, so that the two ends do not do it at once; the other
// asks it to. mu is held.
func (f *Flow) want() {
	if f.moving || !f.needs() {
		return
	}
	if f.role == flow.Answerer {
		f.wishes.Store(true)
		f.stranded.Store(true)
		f.mark()
		return
	}
	f.moving = true
	if !f.far.t.start(f.move) {
		f.moving = false
		f.fail(f.pathError(errStopped), flow.ResetAborted)
	}
}

// moved ends what has kept others from attaching carriers. mu is held.
func (f *Flow) moved() {
	f.moving = false
	f.want() // one may have been lost meanwhile
}

// move attaches a carrier of another session, if there is one.
func (f *Flow) move() {
	f.mu.Lock()
	defer f.mu.Unlock()
	defer func() { f.moving = false }()
	var tried []*session
	for f.needs() {
		s := f.next(tried)
		if s == nil {
			if f.failed == nil && !f.accepted() && f.lostPath != nil {
				f.fail(f.lostPath, flow.ResetAborted) // the caller still can go elsewhere
			}
			return // resume comes back to it
		}
		tried = append(tried, s)
		f.attach(s, len(f.stripes) == 0)
	}
}

// accepted reports whether the flow is a connection by now. mu is held.
func (f *Flow) accepted() bool {
	if f.role == flow.Opener {
		return f.settled()
	}
	return f.out.Started()
}

// next returns the session to move to. An OPEN that may have been lost is sent again only over a session that was there when it
// was sent first: its other end is the same process, which remembers what it has seen. mu is held.
func (f *Flow) next(tried []*session) *session {
	tried = slices.Clone(tried)
	for {
		s := f.far.peer.bestOf(f.far.id, tried)
		if s == nil {
			return nil
		}
		older := s.epoch.Sub(f.far.epoch) <= time.Duration(f.opened) && f.far.now()-f.opened < int64(openAgain)
		if s.far == f.far && (older || f.out.IsHeard() || f.role == flow.Answerer) {
			return s
		}
		tried = append(tried, s)
	}
}

// attach goes on over a carrier of s. mu is held, and given up meanwhile.
func (f *Flow) attach(s *session, follow bool) {
	f.mu.Unlock()
	c, err := s.openCarrier()
	f.mu.Lock()
	if err != nil {
		return
	}
	l := f.newLeg(s, c)
	a := flow.Attach{Follow: follow, Broken: f.cur == nil && len(f.legs) == 0}
	if a.Broken {
		for _, o := range f.past { // the other end drops these too
			f.abandon(o)
		}
		if f.missed = false; f.failed != nil {
			f.discard(l, nil)
			return
		}
	}
	if len(f.stripes) > 0 && !follow {
		l.stripe = true
		f.stripes = append(slices.Clone(f.stripes), l)
	} else {
		f.write([]*leg{l})
	}
	f.introduce(l, a)
}

// newLeg is a carrier of s that this end attaches. mu is held.
func (f *Flow) newLeg(s *session, c carrier) *leg {
	f.ids++
	f.session = s
	l := &leg{c: c, s: s, way: flow.Way{ID: f.ids}, pending: true, place: flow.Attached(false), since: f.far.now()}
	l.count()
	return l
}

// introduce says on l what it carries. mu is held, and given up meanwhile.
func (f *Flow) introduce(l *leg, a flow.Attach) {
	a.ID, a.Role, a.Consumed = f.id, f.role, f.consumed.Load()
	a.Heard = f.role == flow.Answerer || f.settled()
	a.OrOpen = f.role == flow.Opener && !f.out.IsHeard() && !f.out.Over()
	frames := a.Append(nil)
	if a.OrOpen {
		f.release()
		frames, _ = f.out.Next(&l.way, frames)
	}
	l.ready = !a.Broken || f.out.Unacked() <= sendAhead
	if f.send(l, frames) != nil || l.broken {
		return
	}
	ok := f.far.t.start(func() { f.awaitAnswer(l) })
	if l.stripe {
		ok = ok && f.far.t.start(func() { f.pull(l) })
	} else if l.ready && f.out.Waits(&l.way) {
		ok = ok && f.far.t.start(func() { f.mu.Lock(); f.drive(l); f.mu.Unlock() })
	}
	if !ok {
		f.fail(f.pathError(errStopped), flow.ResetAborted)
	}
}

// awaitAnswer waits for the answer to ATTACH.
func (f *Flow) awaitAnswer(l *leg) {
	_ = l.c.SetReadDeadline(time.Now().Add(resumeLimit))
	h, err := readHeader(l.c)
	_ = l.c.SetReadDeadline(time.Time{})
	f.mu.Lock()
	defer f.mu.Unlock()
	l.pending = false
	switch {
	case l.broken:
		return
	case f.failed != nil: // the other end has been told
		l.closed = true
		f.part(l)
		return
	case err != nil:
		_ = f.readFailedLocked(l, err)
		f.discard(l, err)
		return
	case h.Type == flow.TypeUnknown:
		_ = f.obey(l, flow.Event{Type: flow.TypeUnknown})
		f.discard(l, nil)
		return
	case h.Type != flow.TypeAck || h.Length > 0:
		_ = f.violated(flow.ErrViolation)
		f.discard(l, nil)
		return
	}
	if f.role == flow.Opener {
		f.out.Heard()
	}
	if f.ackLocked(h.Offset) != nil {
		return
	}
	l.ready = true
	f.join(l)
	f.drive(l)
}

// discard gives up a carrier without an answer: when another has taken its place meanwhile nobody else knows it. mu is held.
func (f *Flow) discard(l *leg, cause error) {
	f.lost(l, cause)
	l.c.cancel(flow.ResetMoved)
}

// join adds l to what is read from. mu is held.
func (f *Flow) join(l *leg) {
	if f.sides.Load()&sideRead != 0 {
		f.endRead(l)
		f.part(l)
		return
	}
	f.legs = append(slices.Clone(f.legs), l)
	if only := f.only.Swap(nil); only != nil {
		_ = only.c.SetReadDeadline(past) // its reader is to look at this one too
	}
	if f.readMu.TryLock() { // there is none, and the last frame of the old one concerns this end all the same
		f.pumpAll()
		f.readMu.Unlock()
	}
	f.cond.Broadcast()
}

// serveAttach answers an ATTACH whose header has come on c.
func (s *session) serveAttach(c carrier, h flow.Header) (served bool, err error) {
	b := make([]byte, h.Length)
	if _, err := io.ReadFull(c, b); err != nil {
		return false, err
	}
	a, err := flow.ParseAttach(h, b)
	if err != nil {
		return false, err
	}
	f := s.far.find(a.ID, a.Role.Other())
	if f == nil && a.OrOpen {
		return false, nil // an OPEN follows
	}
	if a.OrOpen {
		if err := skipFrame(c, flow.TypeOpen); err != nil {
			return false, err
		}
	}
	if f == nil {
		_, err = c.Write(flow.Header{Type: flow.TypeUnknown}.Append(nil))
		_ = c.closeWrite()
		c.cancelRead(flow.ResetMoved)
		return true, err
	}
	_ = c.SetReadDeadline(time.Time{})
	f.attached(s, c, a)
	return true, nil
}

// skipFrame reads a frame of type t and drops it.
func skipFrame(c carrier, t flow.Type) error {
	h, err := readHeader(c)
	if err != nil {
		return err
	}
	if h.Type != t || h.Length > flow.MaxOpen {
		return flow.ErrViolation
	}
	_, err = io.CopyN(io.Discard, c, int64(h.Length))
	return err
}

// attached goes on over a carrier that the other end has attached.
func (f *Flow) attached(s *session, c carrier, a flow.Attach) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if a.Heard || f.role == flow.Opener {
		f.out.Heard()
	}
	if f.ackLocked(a.Consumed) != nil {
		c.cancel(flow.ResetProtocol)
		return
	}
	f.ids++
	l := &leg{c: c, s: s, way: flow.Way{ID: f.ids}, place: flow.Attached(false), since: f.far.now()}
	l.count()
	if a.Broken {
		for _, o := range f.everyLeg() {
			if !o.pending {
				f.abandon(o)
			}
		}
		f.missed = false
	}
	f.claimOrphan()
	f.session = s
	f.wishes.Store(false)
	f.stranded.Store(false)
	use := a.Follow || f.cur == nil
	if use {
		f.write([]*leg{l})
	}
	f.told.Store(f.consumed.Load())
	if f.send(l, flow.Header{Type: flow.TypeAck, Offset: f.consumed.Load()}.Append(nil)) != nil || l.broken {
		return
	}
	l.ready = true
	f.join(l)
	f.drive(l)
	if !use || f.sides.Load() == sideBoth && !f.out.Waits(&l.way) {
		f.detach(l)
	}
}

// abandon gives up a carrier that the other end has lost. mu is held.
func (f *Flow) abandon(l *leg) {
	if !f.drop(l) {
		f.fail(f.pathError(errNotKept), flow.ResetAborted)
	}
	l.c.cancel(flow.ResetMoved)
}

// askAgain repeats the answerer's wish for a carrier, which the opener takes for an old one when it has just attached one.
func (f *Flow) askAgain() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.wishes.Swap(false) {
		f.want()
	}
}

// onStranded is the answerer's wish for a carrier. It comes again as long as there is none.
func (f *Flow) onStranded() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.role != flow.Opener || f.moving || f.failed != nil {
		return
	}
	for _, l := range f.everyLeg() {
		if f.far.now()-l.since < max(int64(settleDown), 2*l.s.srtt.Load()) {
			return
		}
	}
	f.restart()
}

// restart gives up every carrier and begins again with a fresh one. mu is held.
func (f *Flow) restart() {
	for _, l := range f.everyLeg() {
		f.abandon(l)
	}
	f.missed = false
	if f.failed == nil {
		time.AfterFunc(resumeLimit, f.far.expire)
		f.want()
	}
}

// onAck takes an acknowledgement.
func (f *Flow) onAck(offset uint64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = f.ackLocked(offset)
}

func (f *Flow) ackLocked(offset uint64) error {
	before := f.out.Acked()
	if err := f.out.Ack(offset, keeper{f.far.peer}); err != nil {
		return f.violated(err)
	}
	if f.out.Acked() > before && f.sides.Load() == sideBoth {
		f.endedAt = f.far.now() // a slow reader is no lost one
	}
	if offset == flow.Settled && !f.out.Finished() {
		_ = f.stopped(flow.ResetAborted)
	}
	if len(f.past) > 0 {
		f.past = slices.DeleteFunc(slices.Clone(f.past), func(l *leg) bool { return l.way.Sent() <= f.out.Acked() })
	}
	if f.sides.Load() == sideBoth && f.out.Settled() {
		f.conclude()
	}
	f.cond.Cond.Broadcast() // writers wait for it: a reader that has parked need not wake
	return nil
}

// conclude forgets a flow of which both ends have all. A carrier that was attached behind the last frames has none of this end's yet:
// it is given back too. mu is held.
func (f *Flow) conclude() {
	f.claimOrphan()
	f.far.forget(f, true)
	for _, l := range f.everyLeg() {
		if !l.way.Done() && !l.broken {
			f.far.t.start(func() { f.mu.Lock(); f.detach(l); f.mu.Unlock() })
		}
	}
}

// age forgets an ended flow that nobody has acknowledged for long enough.
func (f *Flow) age(now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if now-f.endedAt < int64(lingerFlow) {
		return
	}
	_ = f.out.Reset(flow.ResetAborted, keeper{f.far.peer})
	for _, l := range f.everyLeg() {
		if !l.parted && !l.broken {
			l.c.cancel(flow.ResetAborted)
			l.broken = true
			l.uncount()
		}
	}
	f.far.forget(f, f.out.IsHeard())
}

// expire ends a flow that has waited for a carrier for long enough.
func (f *Flow) expire(now int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sides.Load() != sideBoth && f.cur == nil && len(f.legs) == 0 && now-f.legless >= int64(resumeLimit) {
		f.fail(f.lostPath, flow.ResetAborted)
	}
}
