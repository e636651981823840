package tunnel

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// hold keeps the head back for the bytes that may follow at once. mu is held.
func (f *Flow) hold() {
	f.holding.Store(true)
	f.far.hold(f)
}

// Flush sends what is held back for the first bytes. It may be called beside everything else.
func (f *Flow) Flush() error {
	if !f.holding.Load() {
		return nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.release()
	if f.cur != nil {
		f.drive(f.cur)
	}
	return f.failed
}

// release lets what is held leave with the next write. mu is held.
func (f *Flow) release() {
	if f.holding.Load() {
		f.holding.Store(false)
	}
}

// headroom is for an ACK and the header of a DATA.
const headroom = 2 * flow.HeaderLen

// Headroom is the scratch space that WriteHeadroom needs in front of the bytes.
func (f *Flow) Headroom() int { return headroom }

// firstWrite is how many of the first bytes are copied to leave with what is held.
const firstWrite = 32 << 10

// WriteHeadroom writes b[Headroom():] with its header in a single write to the carrier; b[:Headroom()] is overwritten. Bytes that it
// has taken are sent again by themselves when the carrier breaks.
func (f *Flow) WriteHeadroom(b []byte) (int, error) {
	f.writing.Store(true)
	defer f.writing.Store(false)
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for headroom+n < len(b) {
		l, err := f.writable()
		if err != nil {
			return n, err
		}
		// The header of each chunk but the first lies over the end of the one before it, which has left.
		size := min(len(b)-headroom-n, flow.MaxData)
		chunk := b[n : n+headroom+size]
		switch {
		case len(f.stripes) > 0:
			size, err = f.spread(chunk[headroom:])
		case f.out.Direct(&l.way):
			err = f.writeDirect(l, chunk)
		case f.holding.Load():
			size = min(size, firstWrite)
			err = f.writeFirst(l, chunk[headroom:headroom+size])
		default:
			size, err = f.add(l, chunk[headroom:])
		}
		if errors.Is(err, flow.ErrViolation) {
			return n, net.ErrClosed
		}
		if n += size; err != nil {
			return n, err
		}
		f.far.peer.out.Add(uint64(size))
	}
	return n, nil
}

// writable returns the carrier to write on, when there is one and it is this caller's turn. mu is held.
func (f *Flow) writable() (*leg, error) {
	for {
		l := f.cur
		switch {
		case f.failed != nil:
			return nil, f.failed
		case f.writeErr != nil:
			return nil, f.writeErr
		case f.out.Finished():
			return nil, net.ErrClosed
		case l == nil:
			f.want()
		case f.orphan && f.out.Offset() >= copyFlight: // what is small leaves as copies; for more its carrier has to come
		case l.ready && !l.sending && f.out.Unacked() < keepFlow:
			return l, nil
		}
		if err := f.wait(f.writeEnd); err != nil {
			return nil, err
		}
	}
}

// writeDirect sends chunk, which has its headroom in front, as one DATA, and an ACK when one is due. mu is held.
func (f *Flow) writeDirect(l *leg, chunk []byte) error {
	start := flow.HeaderLen
	payload := chunk[headroom:]
	if err := f.out.Data(&l.way, chunk[start:], len(payload)); err != nil {
		return err
	}
	f.out.Keep(&l.way, payload, keeper{f.far.peer})
	f.copy(f.out.Offset()-uint64(len(payload)), payload)
	if offset, news := f.tell(); news {
		start = 0
		flow.Header{Type: flow.TypeAck, Offset: offset}.Put(chunk)
	}
	return f.send(l, chunk[start:])
}

// writeFirst sends what is held together with the first bytes. mu is held.
func (f *Flow) writeFirst(l *leg, payload []byte) error {
	f.release()
	buffer := copies.Get().(*[copySize]byte)
	defer copies.Put(buffer)
	b := buffer[:0]
	if offset, news := f.tell(); news && f.role == flow.Answerer {
		b = flow.Header{Type: flow.TypeAck, Offset: offset}.Append(b)
	}
	b, _ = f.out.Next(&l.way, b)
	b = append(b, make([]byte, flow.HeaderLen)...)
	if err := f.out.Data(&l.way, b[len(b)-flow.HeaderLen:], len(payload)); err != nil {
		return err
	}
	f.out.Keep(&l.way, payload, keeper{f.far.peer})
	f.copy(f.out.Offset()-uint64(len(payload)), payload)
	return f.send(l, append(b, payload...))
}

// add sends bytes behind others that wait. mu is held.
func (f *Flow) add(l *leg, payload []byte) (int, error) {
	n, err := f.out.Add(payload, keeper{f.far.peer})
	if err != nil {
		return 0, err
	}
	f.drive(l)
	if n == 0 { // nothing more can be kept until something is acknowledged
		err = f.wait(f.writeEnd)
	}
	return n, err
}

// send writes frames on l. mu is held, and given up meanwhile. It returns why the flow cannot go on; what a broken carrier has
// swallowed is kept and sent again.
func (f *Flow) send(l *leg, frames []byte) error {
	l.sending = true
	f.rouse()
	f.mu.Unlock()
	_, err := l.c.Write(frames)
	f.mu.Lock()
	l.sending = false
	if err != nil {
		err = f.writeFailed(l, err)
	} else if !l.demoted && f.out.Offset() >= demoteAfter {
		l.demoted = true
		l.c.demote()
	}
	if f.out.Offset() >= f.bulkAt {
		f.watchBulk()
	}
	if l != f.cur && !l.stripe {
		f.detach(l)
	}
	f.cond.Cond.Broadcast() // for writers: a reader that has parked need not wake
	return err
}

// demoteAfter is how much a flow may send before everything else goes first: more than any request, less than a transfer.
const demoteAfter = 256 << 10

// drive writes what waits for l, until nothing does. mu is held, and given up meanwhile.
func (f *Flow) drive(l *leg) {
	if l.sending || l.broken || !l.ready || f.holding.Load() {
		return
	}
	for !l.sending && !l.broken {
		var b []byte
		if f.out.Unsent() == 0 && f.out.Waits(&l.way) {
			if offset, news := f.tell(); news && (f.role == flow.Answerer || f.out.IsHeard()) {
				b = flow.Header{Type: flow.TypeAck, Offset: offset}.Append(make([]byte, 0, 3*flow.HeaderLen))
			}
		}
		frames, lent := f.out.Next(&l.way, b)
		if len(frames) == 0 {
			break
		}
		if len(frames) > len(b) && lent == (flow.Piece{}) { // the head, or the end
			f.copy(f.out.Offset(), nil)
		}
		err := f.send(l, frames)
		f.out.Written(lent, keeper{f.far.peer})
		if err != nil {
			break
		}
	}
	f.closeWritten(l)
	if f.cur != nil && f.behind() {
		f.want()
	}
}

const copySize = headroom + flow.HeaderLen + flow.MaxOpen + firstWrite

// copies are buffers for Write, which is given no headroom, and for the first bytes.
var copies = sync.Pool{New: func() any { return new([copySize]byte) }}

// Write copies p behind a header; WriteHeadroom does without the copy.
func (f *Flow) Write(p []byte) (int, error) {
	b := copies.Get().(*[copySize]byte)
	defer copies.Put(b)
	n := 0
	for len(p) > 0 {
		size := copy(b[headroom:headroom+firstWrite], p)
		wrote, err := f.WriteHeadroom(b[:headroom+size])
		if n += wrote; err != nil {
			return n, err
		}
		p = p[size:]
	}
	return n, nil
}

// CloseWrite tells the other end that no more bytes follow; reading goes on. A second call does nothing.
func (f *Flow) CloseWrite() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.closeWrite()
}

func (f *Flow) closeWrite() error {
	switch {
	case f.sides.Load()&sideWrite != 0:
		return nil
	case f.failed != nil:
		return f.failed
	case f.torn:
		return f.writeErr
	}
	if err := f.out.Fin(); err != nil {
		return err // not accepted: there is nothing to end
	}
	f.release()
	f.flushEnd()
	f.finish(sideWrite)
	f.cond.Broadcast()
	if f.failed != nil {
		return f.failed
	}
	return f.writeErr
}

// flushEnd sends the last frames, here or wherever bytes are still being sent. mu is held.
func (f *Flow) flushEnd() {
	switch l := f.cur; {
	case l == nil:
		f.want()
	case f.out.Unsent() == 0:
		f.drive(l)
	case l.ready && !f.far.t.start(func() { f.mu.Lock(); f.drive(l); f.mu.Unlock() }):
		f.fail(f.pathError(errStopped), flow.ResetAborted)
	}
}

// SetWriteDeadline makes blocked and future writes return os.ErrDeadlineExceeded at t; the zero time is never. A write that a
// deadline has cut short leaves the flow unusable: reset it.
func (f *Flow) SetWriteDeadline(t time.Time) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.writeEnd = t
	f.cond.Broadcast()
	if f.cur == nil {
		return nil
	}
	return f.cur.c.SetWriteDeadline(t)
}

// wait waits for something to change, at most until end. mu is held.
func (f *Flow) wait(end time.Time) error {
	if !end.IsZero() {
		left := time.Until(end)
		if left <= 0 {
			return os.ErrDeadlineExceeded
		}
		timer := time.AfterFunc(left, func() { f.mu.Lock(); f.cond.Broadcast(); f.mu.Unlock() })
		defer timer.Stop()
	}
	f.cond.Wait()
	return nil
}

// writeFailed takes an error of a carrier that was written on, and returns why the flow cannot go on. mu is held.
func (f *Flow) writeFailed(l *leg, err error) error {
	var reset *quic.StreamError
	switch {
	case f.failed != nil:
		return f.failed
	case l.broken:
		return nil
	case errors.Is(err, os.ErrDeadlineExceeded):
		f.writeErr, f.torn = err, true
		return err
	case errors.As(err, &reset) && reset.Remote && reset.ErrorCode != quic.StreamErrorCode(flow.ResetMoved):
		return f.stopped(resetCode(reset))
	}
	f.lost(l, err)
	return f.failed
}

// stopped ends writing, because the other end wants no more. mu is held.
func (f *Flow) stopped(code flow.ResetCode) error {
	if f.writeErr == nil {
		f.writeErr = &ResetError{Code: code, Peer: f.far.peer.region, Remote: true}
		_ = f.out.Ack(flow.Settled, keeper{f.far.peer})
		f.cond.Broadcast()
	}
	return f.writeErr
}
