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
			if err := f.awaitFrame(l); err != nil {
				return nil, err
			}
			continue
		}
		known, ahead := f.in.Fresh(l.offset, int(l.left))
		switch {
		case ahead: // another carrier has to bring what is missing
			f.only.CompareAndSwap(l, nil)
		case known > 0:
			n, err := l.skip(known)
			if l.skipped(n); err != nil {
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

// skip reads n octets of the current DATA that have come on another carrier, and drops them. It returns how many it got.
func (l *leg) skip(n int) (got int, err error) {
	b := copies.Get().(*[copySize]byte)
	defer copies.Put(b)
	for got < n {
		m, err := l.c.Read(b[:min(n-got, len(b))])
		if got += m; err != nil && m == 0 {
			return got, err
		}
	}
	return got, nil
}

// skipped notes that n octets of the current DATA are gone.
func (l *leg) skipped(n int) {
	l.left -= int32(n)
	l.offset += uint64(n)
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
	l.skipped(n)
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
		if f.starving = f.ahead(); f.starving {
			f.gap.Store(true)
		}
		err := f.wait(f.readEnd.at)
		if f.starving = false; err != nil {
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
		if !l.fresh {
			continue
		}
		l.fresh = false
		// Its pump may not have looked again since another carrier has brought the same bytes.
		if known, ahead := f.in.Fresh(l.offset, int(l.left)); known == 0 && !ahead {
			l.claimed = true
			return l
		}
		f.cond.Broadcast()
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
			if fresh := !ahead; fresh != l.fresh { // said once: two that have the same bytes would wake each other for ever
				if l.fresh = fresh; fresh {
					f.prefer(l)
				}
			}
			f.cond.Wait()
			continue
		}
		f.mu.Unlock()
		n, err := l.skip(known)
		f.mu.Lock()
		if l.skipped(n); err != nil {
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
