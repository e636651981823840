package tunnel

import (
	"errors"
	"io"
	"os"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

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

// SetReadDeadline makes blocked and future reads return os.ErrDeadlineExceeded at t; the zero time is never.
func (f *Flow) SetReadDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readEnd.at = t
	return f.applyReadEnd()
}

// cancelReads makes reads return as if their deadline had passed, or takes that back.
func (f *Flow) cancelReads(cancel bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readEnd.cancelled = cancel
	_ = f.applyReadEnd()
}

func (f *Flow) applyReadEnd() error {
	f.cond.Broadcast()
	if l := f.only.Load(); l != nil {
		return l.c.SetReadDeadline(f.readEnd.time())
	}
	for _, l := range f.legs {
		if l.claimed {
			return l.c.SetReadDeadline(f.readEnd.time())
		}
	}
	return nil
}

// await returns a carrier with bytes to read. readMu is held.
func (f *Flow) await() (*leg, error) {
	for {
		if f.readErr != nil {
			return nil, f.readErr
		}
		l := f.only.Load()
		if l == nil {
			l, err := f.choose()
			if err != nil {
				return nil, err
			}
			if l.claimed {
				return l, nil
			}
			continue
		}
		if l.left == 0 {
			if err := f.step(); err != nil {
				return nil, err
			}
			continue
		}
		known, ahead := f.in.Fresh(l.offset, int(l.left))
		switch {
		case ahead: // another carrier has to bring what is missing
			f.only.CompareAndSwap(l, nil)
		case known > 0:
			if err := l.skip(known); err != nil {
				if err = f.readFailed(l, err); err != nil {
					return nil, err
				}
			}
		default:
			return l, nil
		}
	}
}

// step reads what comes before the next bytes: one frame, or the end. readMu is held.
func (f *Flow) step() error {
	if f.readErr != nil {
		return f.readErr
	}
	l := f.only.Load()
	if l == nil {
		l, err := f.choose()
		if err == nil && l.claimed {
			f.took(l, 0)
		}
		return err
	}
	if f.in.Ended() {
		return f.eof()
	}
	if l.left > 0 {
		return nil
	}
	event, err := f.nextFrame(l, false)
	if err != nil {
		return err
	}
	if event.Type == 0 {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.final(f.obey(l, event))
}

// nextFrame reads one frame, of a DATA frame only the header. A deadline may interrupt it anywhere; it then goes on. With locked,
// mu is held, and given up while it reads. The error is what Read is to return; after a nil one the event may be empty.
func (f *Flow) nextFrame(l *leg, locked bool) (event flow.Event, err error) {
	read := func(b []byte) (n int, err error) {
		if locked {
			f.mu.Unlock()
			defer f.mu.Lock()
		}
		for n < len(b) && err == nil {
			var m int
			m, err = l.c.Read(b[n:])
			n += m
		}
		if n == len(b) {
			err = nil // the next read meets it again
		}
		return n, err
	}
	failed := func(err error) (flow.Event, error) {
		if locked {
			return event, f.readFailedLocked(l, err)
		}
		return event, f.readFailed(l, err)
	}
	if l.headerN < flow.HeaderLen {
		n, err := read(l.header[l.headerN:])
		if l.headerN += int8(n); err != nil {
			return failed(err)
		}
	}
	h := flow.ParseHeader(l.header[:])
	if l.body == nil {
		if err := f.in.Header(&l.place, h); err != nil {
			return event, f.violation(err, locked)
		}
		if h.Type == flow.TypeData {
			l.offset, l.left, l.headerN = h.Offset, int32(h.Length), 0
			return event, nil
		}
		l.body, l.bodyN = make([]byte, h.Length), 0
	}
	n, err := read(l.body[l.bodyN:])
	if l.bodyN += int32(n); err != nil {
		return failed(err)
	}
	event, err = f.in.Body(&l.place, h, l.body)
	l.headerN, l.body = 0, nil
	if err != nil {
		return event, f.violation(err, locked)
	}
	return event, nil
}

func (f *Flow) violation(err error, locked bool) error {
	if !locked {
		f.mu.Lock()
		defer f.mu.Unlock()
		return f.final(f.violated(err))
	}
	return f.violated(err)
}

// final makes err the result of every further Read. readMu is held.
func (f *Flow) final(err error) error {
	if err != nil && f.readErr == nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		f.readErr = err
	}
	return err
}

// skip reads n octets of the current DATA that have come on another carrier, and drops them.
func (l *leg) skip(n int) error {
	b := copies.Get().(*[copySize]byte)
	defer copies.Put(b)
	for n > 0 {
		m, err := l.c.Read(b[:min(n, len(b))])
		n, l.left, l.offset = n-m, l.left-int32(m), l.offset+uint64(m)
		if err != nil && m == 0 {
			return err
		}
	}
	return nil
}

// took notes that n octets of l were read. readMu is held.
func (f *Flow) took(l *leg, n int) {
	if l.claimed {
		f.mu.Lock()
		l.claimed = false
		f.advance(l, n)
		f.cond.Broadcast()
		f.mu.Unlock()
		return
	}
	if n > 0 {
		f.advance(l, n)
	}
}

func (f *Flow) advance(l *leg, n int) {
	l.left -= int32(n)
	l.offset += uint64(n)
	if n > 0 {
		f.in.Took(n)
		f.far.peer.in.Add(uint64(n))
		if f.sides.Load()&sideRead == 0 {
			f.consume(f.in.Consumed())
		}
	}
}

// choose returns a carrier to read from, when that is not simply the only one. A single one becomes the caller's own. Several are
// read by a goroutine each, which leaves the bytes of DATA alone: choose waits until one of them has come to the bytes that are
// wanted, and claims it; took gives it back. readMu is held.
func (f *Flow) choose() (*leg, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for {
		switch {
		case f.readFail != nil:
			return nil, f.final(f.readFail)
		case f.in.Ended():
			return nil, f.eofLocked()
		case f.readEnd.passed():
			return nil, os.ErrDeadlineExceeded
		}
		if len(f.legs) == 1 && !f.blocked(f.legs[0]) {
			l := f.legs[0]
			if !l.pumped {
				_ = l.c.SetReadDeadline(f.readEnd.time())
				f.only.Store(l)
				return l, nil
			}
			f.halt(l)
		} else if l := f.claim(); l != nil {
			_ = l.c.SetReadDeadline(f.readEnd.time())
			return l, nil
		}
		if err := f.wait(f.readEnd.at); err != nil {
			return nil, err
		}
	}
}

// halt ends the goroutine that reads l. mu is held.
func (f *Flow) halt(l *leg) {
	l.halt = true
	_ = l.c.SetReadDeadline(past)
	f.cond.Broadcast()
}

// blocked reports whether the bytes that l has next are not the ones that are wanted next.
func (f *Flow) blocked(l *leg) bool {
	_, ahead := f.in.Fresh(l.offset, int(l.left))
	return l.left > 0 && ahead
}

// claim lends the caller the newest carrier that has the bytes that are wanted next: an older one may be stuck in the middle of
// them. mu is held.
func (f *Flow) claim() *leg {
	for _, l := range slices.Backward(f.legs) {
		if l.fresh {
			l.fresh, l.claimed = false, true
			return l
		}
	}
	f.pumpAll()
	return nil
}

// pumpAll has every carrier read. mu is held.
func (f *Flow) pumpAll() {
	for _, l := range f.legs {
		l.halt = false
		if l.pumped {
			continue
		}
		if !f.far.t.start(func() { f.pump(l) }) {
			f.fail(f.pathError(errStopped), flow.ResetAborted)
			break
		}
		l.pumped = true
	}
}

// pump reads l, but for the bytes that are wanted.
func (f *Flow) pump(l *leg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	_ = l.c.SetReadDeadline(time.Time{})
	for !l.halt && !l.broken && f.readFail == nil && !l.place.Over() {
		if l.claimed {
			f.cond.Wait()
			continue
		}
		if l.left == 0 {
			event, err := f.nextFrame(l, true)
			if err == nil && event.Type != 0 {
				_ = f.obey(l, event) // how reading ends with it is in readFail
			}
			f.cond.Broadcast()
			continue
		}
		known, ahead := f.in.Fresh(l.offset, int(l.left))
		if known == 0 {
			if l.fresh = !ahead; l.fresh {
				f.prefer(l)
			}
			f.cond.Wait()
			continue
		}
		f.mu.Unlock()
		err := l.skip(known)
		f.mu.Lock()
		if err != nil {
			_ = f.readFailedLocked(l, err)
		}
	}
	l.pumped, l.fresh = false, false
	f.part(l)
	f.cond.Broadcast()
}

// prefer wakes whoever waits for bytes, also on an older carrier. mu is held.
func (f *Flow) prefer(l *leg) {
	for _, o := range f.legs {
		if o.claimed && o.way.ID < l.way.ID {
			_ = o.c.SetReadDeadline(past)
		}
	}
	f.cond.Broadcast()
}

// readInterrupted takes the deadline of a carrier, which may be the caller's or only a way to wake whoever reads. mu is held.
func (f *Flow) readInterrupted(l *leg, err error) error {
	if l.pumped || f.only.Load() != l {
		_ = l.c.SetReadDeadline(time.Time{})
		return nil
	}
	if f.readEnd.passed() {
		return err
	}
	_ = l.c.SetReadDeadline(f.readEnd.time())
	return nil
}

// eof ends reading in order. readMu is held.
func (f *Flow) eof() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.eofLocked()
}

func (f *Flow) eofLocked() error {
	if f.readFail != nil {
		return f.final(f.readFail)
	}
	f.settle(io.EOF)
	f.consume(f.in.Consumed())
	f.only.Store(nil)
	f.readFail = io.EOF
	f.finish(sideRead)
	for _, l := range f.legs {
		l.halt = true
		f.endRead(l)
	}
	f.cond.Broadcast()
	return f.final(io.EOF)
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
	over := f.sides.Load()&sideRead != 0 || l.place.Over()
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
		err := l.skip(int(l.left))
		if err == nil {
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

// readFailed takes an error of a carrier that was read, and returns what Read is to return; nil: to try again.
func (f *Flow) readFailed(l *leg, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.final(f.readFailedLocked(l, err))
}

func (f *Flow) readFailedLocked(l *leg, err error) error {
	var reset *quic.StreamError
	switch {
	case f.readFail != nil:
		return f.readFail
	case l.broken:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		return f.readInterrupted(l, err)
	case errors.Is(err, io.EOF) && l.place.Over():
		f.detached(l)
		return nil
	case errors.Is(err, io.EOF): // the stream ends without its last frame: what came is not all there was
		return f.end(&ResetError{Code: flow.ResetProtocol, Peer: f.far.peer.region, Remote: true}, flow.ResetProtocol)
	case errors.As(err, &reset) && reset.Remote && reset.ErrorCode != quic.StreamErrorCode(flow.ResetMoved):
		code := resetCode(reset)
		return f.end(&ResetError{Code: code, Peer: f.far.peer.region, Remote: true}, code)
	}
	f.lost(l, err)
	return f.readFail
}
