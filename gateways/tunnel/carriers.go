package tunnel

import (
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// leg is a carrier of a flow.
type leg struct {
	c carrier
	s *session

	// Under the flow's mu.
	way     flow.Way
	since   int64 // when it was attached, by the clock of far
	counted bool  // among the flows of s
	pending bool  // attached, and not answered
	ready   bool  // may be written on: an attached one has been answered, or there is little to send again
	sending bool  // somebody writes
	closed  bool  // for writing
	broken  bool
	demoted bool
	stripe  bool // one of several that are written on
	parted  bool // this end needs it no more
	pumped  bool // a goroutine reads it
	claimed bool // the caller of Read reads it, or may
	fresh   bool // what is left of the current DATA is what is wanted next
	halt    bool // the goroutine is to end

	// Of whoever reads: the caller of Read, or, when the flow has several carriers, a goroutine and he in turn. Then under mu too.
	headerN int8 // octets of the next header that have come
	header  [flow.HeaderLen]byte
	bodyN   int32
	left    int32  // octets of the current DATA that have not been read
	offset  uint64 // of the first of them
	place   flow.Place
	body    []byte // of the frame that is being read, when it is not DATA
}

// past is a deadline that wakes whoever reads.
var past = time.Unix(1, 0)

// deadline is when reads end.
type deadline struct {
	at        time.Time
	cancelled bool
}

func (d deadline) passed() bool { return d.cancelled || !d.at.IsZero() && !time.Now().Before(d.at) }

func (d deadline) time() time.Time {
	if d.cancelled {
		return past
	}
	return d.at
}

// count makes the flow one of its session's.
func (l *leg) count() {
	if !l.counted {
		l.counted = true
		l.s.flows.Add(1)
	}
}

func (l *leg) uncount() {
	if l.counted {
		l.counted = false
		l.s.flows.Add(-1)
	}
}

// everyLeg returns all carriers. mu is held.
func (f *Flow) everyLeg() []*leg {
	if f.cur == &f.first && len(f.legs) <= 1 && len(f.past) == 0 && len(f.stripes) == 0 && (len(f.legs) == 0 || f.legs[0] == f.cur) {
		return f.firstLeg[:] // nearly always
	}
	all := slices.Concat(f.legs, f.past, f.stripes)
	if f.cur != nil {
		all = append(all, f.cur)
	}
	slices.SortFunc(all, func(a, b *leg) int { return int(a.way.ID) - int(b.way.ID) })
	return slices.Compact(all)
}

// without returns legs without l, and leaves legs as it is.
func without(legs []*leg, l *leg) []*leg {
	switch i := slices.Index(legs, l); {
	case i < 0:
		return legs
	case len(legs) == 1:
		return nil
	default:
		return slices.Concat(legs[:i], legs[i+1:])
	}
}

// endRead tells a stream that nothing more is read. That costs nothing when its end has come with the last frame, and saves it from
// waiting for one that never comes when it has not. A lane is read to its end by part. mu is held.
func (f *Flow) endRead(l *leg) {
	if _, ok := l.c.(*quicCarrier); ok {
		l.c.cancelRead(0)
	}
}

// obey does what a frame without bytes says, and returns how reading ends with it. mu is held.
func (f *Flow) obey(l *leg, e flow.Event) error {
	switch e.Type {
	case flow.TypeAccept:
		f.out.Heard()
		f.settle(nil)
	case flow.TypeOutcome:
		var all []flow.Outcome
		if old := f.verdicts.Load(); old != nil {
			all = *old
		}
		all = append(slices.Clip(all), e.Outcome)
		f.verdicts.Store(&all)
	case flow.TypeRefuse:
		return f.end(&RefusedError{Code: e.Refusal, Peer: f.far.peer.region, Reason: e.Reason}, flow.ResetRefused)
	case flow.TypeReset:
		return f.end(&ResetError{Code: e.Reset, Peer: f.far.peer.region, Remote: true}, e.Reset)
	case flow.TypeUnknown:
		return f.end(&ResetError{Code: flow.ResetAborted, Peer: f.far.peer.region, Remote: true}, flow.ResetAborted)
	case flow.TypeAck:
		if f.role == flow.Opener {
			f.out.Heard()
		}
		return f.ackLocked(e.Acked)
	case flow.TypeDetach, flow.TypeFin:
		f.detached(l)
	}
	return nil
}

// end ends the flow as the other end has said. mu is held.
func (f *Flow) end(err error, code flow.ResetCode) error {
	if f.readFail == nil {
		f.readFail = err
	}
	_ = f.out.Ack(flow.Settled, keeper{f.far.peer})
	f.fail(&ResetError{Code: code, Peer: f.far.peer.region, Remote: true}, code)
	return f.readFail
}

// detached notes that the other end writes no more on l. mu is held.
func (f *Flow) detached(l *leg) {
	f.only.CompareAndSwap(l, nil)
	f.legs = without(f.legs, l)
	if f.cur == nil && len(f.legs) == 0 {
		f.legless = f.far.now()
		time.AfterFunc(resumeLimit, f.far.expire)
	}
	if l != f.cur && !l.stripe {
		f.watch(l)
	}
	if len(f.legs) == 1 && f.legs[0].pumped && !f.blocked(f.legs[0]) {
		f.halt(f.legs[0]) // the caller of Read can do without
	}
	f.part(l)
	f.cond.Broadcast()
}

// watch remembers a carrier that this end writes on no more, to miss what is under way on it should its session end. mu is held.
func (f *Flow) watch(l *leg) {
	if !l.broken && l.way.Sent() > f.out.Acked() && !slices.Contains(f.past, l) {
		f.past = append(slices.Clip(f.past), l)
	}
}

// detach says on l that this end goes on elsewhere. mu is held, and given up meanwhile.
func (f *Flow) detach(l *leg) {
	if l.sending || l.closed || l.broken || l.way.Done() {
		return
	}
	l.sending = true
	f.rouse()
	frame := f.out.Detach(&l.way, nil)
	f.mu.Unlock()
	_, err := l.c.Write(frame)
	f.mu.Lock()
	l.sending = false
	if err != nil {
		_ = f.writeFailed(l, err)
	}
	f.closeWritten(l)
}

// closeWritten closes l for writing when this end has written its last frame. mu is held.
func (f *Flow) closeWritten(l *leg) {
	if !l.way.Done() || l.closed || l.sending || l.broken {
		return
	}
	l.closed = true
	_ = l.c.closeWrite() // an error is the session's end, and comes from everywhere
	f.part(l)
}

// part gives a carrier back when neither direction needs it any more. mu is held.
func (f *Flow) part(l *leg) {
	// The place of a carrier that the caller of Read reads is his until detached takes it.
	over := f.sides.Load()&sideRead != 0 || f.only.Load() != l && l.place.Over()
	if l.parted || l.broken || l.pending || l.pumped || !l.closed || !over {
		return
	}
	l.parted = true
	l.uncount()
	_, stream := l.c.(*quicCarrier) // is used once: what follows in it concerns nobody
	switch {
	case stream || l.place.Over() || f.consumed.Load() == flow.Settled:
		l.c.finished()
	case !f.far.t.start(func() { f.drain(l) }):
		l.c.cancel(flow.ResetAborted)
	}
}

// drain reads what comes behind the last byte, so that the lane can carry another flow.
func (f *Flow) drain(l *leg) {
	_ = l.c.SetReadDeadline(time.Now().Add(lingerLimit))
	f.readMu.Lock() // the caller of Read may just be returning with the end
	defer f.readMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !l.place.Over() && !l.broken {
		left := int(l.left)
		f.mu.Unlock()
		n, err := l.skip(left)
		f.mu.Lock()
		if l.skipped(n); err == nil {
			_, err = f.nextFrame(l, true)
		}
		if err != nil || f.failed != nil {
			l.c.cancel(flow.ResetAborted)
			return
		}
	}
	_ = l.c.SetReadDeadline(time.Time{})
	l.c.finished()
}
