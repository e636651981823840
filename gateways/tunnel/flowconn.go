package tunnel

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// Flow is one flow on a session, at either end. Its methods that write (Write, WriteHeadroom, CloseWrite and those of Incoming)
// must not run beside each other, nor must two Reads; everything else may be called at any time. Every flow must be closed
// or reset. After the session has died every method returns a *PathError, after a reset a *ResetError; both match
// syscall.ECONNRESET.
type Flow struct {
	s      *session
	stream *quic.Stream
	id     [16]byte

	// Sending. What is held leaves with the first bytes, or when the timer has run.
	out      flow.Out
	writing  atomic.Bool
	holding  atomic.Bool
	holdMu   sync.Mutex
	held     []byte
	holdTime *time.Timer

	// Receiving; under readMu, which nobody waits for while one goroutine reads.
	readMu  sync.Mutex
	in      flow.In
	header  [flow.HeaderLen]byte
	headerN int    // octets of the next header that have come
	body    []byte // of the frame that is being read, when it is not DATA
	bodyN   int
	left    int   // octets of the current DATA frame
	readErr error // final

	answer   chan struct{} // opener: closed when the flow is accepted, refused or broken
	answered error         // set before answer is closed
	verdicts atomic.Pointer[[]flow.Outcome]

	sides atomic.Uint32 // which of the directions are over
}

const (
	sideRead uint32 = 1 << iota
	sideWrite
	sideBoth = sideRead | sideWrite
)

// Open opens a flow to peer over the nearest session that is alive. It never waits for a handshake: without a session it fails
// at once with an error that matches ErrNoPath. What is asked for leaves together with the first bytes written, on Flush, or
// after a millisecond; the answer is awaited by Read or WaitAccept.
func (t *Transport) Open(ctx context.Context, peer federation.Region, open flow.Open) (*Flow, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open a flow to region %s: %w", peer, context.Cause(ctx))
	}
	p := t.peer(peer)
	if p == nil {
		return nil, t.noPath(peer)
	}
	var tried []*session
	for s := p.best(nil); s != nil; s = p.best(tried) {
		stream, err := s.conn.OpenStream()
		if err == nil {
			return s.openFlow(stream, open)
		}
		tried = append(tried, s)
	}
	return nil, t.noPath(peer)
}

func (s *session) openFlow(stream *quic.Stream, open flow.Open) (*Flow, error) {
	f := &Flow{s: s, stream: stream, id: open.ID, out: flow.NewOut(flow.Opener), in: flow.NewIn(flow.Opener), answer: make(chan struct{})}
	held, err := f.out.Open(make([]byte, 0, 256), open)
	if err != nil {
		stream.CancelWrite(quic.StreamErrorCode(flow.ResetAborted))
		stream.CancelRead(quic.StreamErrorCode(flow.ResetAborted))
		return nil, fmt.Errorf("open a flow to region %s: %w", s.live.region, err)
	}
	s.flows.Add(1)
	f.hold(held)
	return f, nil
}

// hold keeps frames back for the bytes that may follow them at once.
func (f *Flow) hold(frames []byte) {
	f.holdMu.Lock()
	defer f.holdMu.Unlock()
	f.held = append(f.held, frames...)
	f.holding.Store(true)
	if f.holdTime == nil {
		f.holdTime = time.AfterFunc(holdLimit, func() { _ = f.Flush() })
	}
}

// Flush sends what is held back for the first bytes. It may be called beside everything else.
func (f *Flow) Flush() error {
	if !f.holding.Load() {
		return nil
	}
	f.holdMu.Lock()
	defer f.holdMu.Unlock()
	return f.release(nil)
}

// release sends what is held, with more behind it, in one write. holdMu is held.
func (f *Flow) release(more []byte) error {
	if !f.holding.Load() {
		return nil
	}
	f.holdTime.Stop()
	_, err := f.stream.Write(append(f.held, more...))
	f.held = nil
	f.holding.Store(false)
	return f.wrap(err)
}

// Headroom is the scratch space that WriteHeadroom needs in front of the bytes.
func (f *Flow) Headroom() int { return flow.HeaderLen }

// firstWrite is how many of the first bytes are copied to leave with what is held.
const firstWrite = 32 << 10

// WriteHeadroom writes b[Headroom():] with its header in a single write to the stream; b[:Headroom()] is overwritten.
func (f *Flow) WriteHeadroom(b []byte) (int, error) {
	f.writing.Store(true)
	defer f.writing.Store(false)
	n := 0
	if f.holding.Load() {
		wrote, err := f.writeFirst(b)
		if n += wrote; err != nil || flow.HeaderLen+n == len(b) {
			return n, err
		}
	}
	for flow.HeaderLen+n < len(b) {
		// The header of each chunk but the first lies over the end of the one before it, which has left.
		size := min(len(b)-flow.HeaderLen-n, flow.MaxData)
		chunk := b[n : n+flow.HeaderLen+size]
		if err := f.out.Data(chunk, size); err != nil {
			return n, f.wrap(net.ErrClosed)
		}
		wrote, err := f.stream.Write(chunk)
		if wrote -= flow.HeaderLen; wrote > 0 {
			n += wrote
			f.s.peer.out.Add(uint64(wrote))
		}
		if err != nil {
			return n, f.wrap(err)
		}
	}
	return n, nil
}

// writeFirst sends what is held together with the first bytes of b, which lie behind its headroom.
func (f *Flow) writeFirst(b []byte) (int, error) {
	f.holdMu.Lock()
	defer f.holdMu.Unlock()
	if !f.holding.Load() {
		return 0, nil
	}
	size := min(len(b)-flow.HeaderLen, firstWrite)
	if size <= 0 {
		return 0, nil
	}
	if err := f.out.Data(b, size); err != nil {
		return 0, f.wrap(net.ErrClosed)
	}
	if err := f.release(b[:flow.HeaderLen+size]); err != nil {
		return 0, err
	}
	f.s.peer.out.Add(uint64(size))
	return size, nil
}

// copies are buffers for Write, which is given no headroom.
var copies = sync.Pool{New: func() any { return new([flow.HeaderLen + firstWrite]byte) }}

// Write copies p behind a header; WriteHeadroom does without the copy.
func (f *Flow) Write(p []byte) (int, error) {
	b := copies.Get().(*[flow.HeaderLen + firstWrite]byte)
	defer copies.Put(b)
	n := 0
	for len(p) > 0 {
		size := copy(b[flow.HeaderLen:], p)
		wrote, err := f.WriteHeadroom(b[:flow.HeaderLen+size])
		if n += wrote; err != nil {
			return n, err
		}
		p = p[size:]
	}
	return n, nil
}

// CloseWrite tells the other end that no more bytes follow; reading goes on. A second call does nothing.
func (f *Flow) CloseWrite() error {
	if f.sides.Load()&sideWrite != 0 {
		return nil
	}
	f.writing.Store(true)
	defer f.writing.Store(false)
	fin, err := f.out.Fin(nil)
	if err != nil {
		return err // not accepted: there is nothing to end
	}
	f.holdMu.Lock()
	if f.holding.Load() {
		err = f.release(fin)
	} else {
		_, err = f.stream.Write(fin)
	}
	f.holdMu.Unlock()
	if closeErr := f.stream.Close(); err == nil {
		err = closeErr
	}
	f.finish(sideWrite)
	return f.wrap(err)
}

// Close ends both directions. What has been written is still delivered, unless a Write is under way; what the other end sends
// from now on is answered by a reset, as on TCP. A second call does nothing.
func (f *Flow) Close() error {
	if f.sides.Load() == sideBoth {
		return nil
	}
	var err error
	if f.writing.Load() {
		f.stream.CancelWrite(quic.StreamErrorCode(flow.ResetAborted))
	} else if err = f.CloseWrite(); errors.Is(err, flow.ErrViolation) {
		f.stream.CancelWrite(quic.StreamErrorCode(flow.ResetAborted))
		err = nil
	}
	f.stream.CancelRead(quic.StreamErrorCode(flow.ResetAborted))
	f.finish(sideBoth)
	return err
}

// Reset aborts the flow at both ends; what is not delivered is dropped. A second call does nothing.
func (f *Flow) Reset(code flow.ResetCode) {
	f.stream.CancelWrite(quic.StreamErrorCode(code))
	f.stream.CancelRead(quic.StreamErrorCode(code))
	f.finish(sideBoth)
}

// Abort is Reset(flow.ResetAborted).
func (f *Flow) Abort() { f.Reset(flow.ResetAborted) }

// finish notes that directions are over; the flow counts until both are.
func (f *Flow) finish(sides uint32) {
	before := f.sides.Or(sides)
	if before != sideBoth && before|sides == sideBoth {
		f.s.flows.Add(-1)
	}
}

// Read returns bytes as they come; it never holds any back to fill p. On the opener's side it returns a *RefusedError when the
// peer has refused the flow.
func (f *Flow) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	f.readMu.Lock()
	defer f.readMu.Unlock()
	if err := f.await(); err != nil {
		return 0, err
	}
	n, err := f.stream.Read(p[:min(len(p), f.left)])
	f.left -= n
	f.s.peer.in.Add(uint64(n))
	switch {
	case err == nil, errors.Is(err, io.EOF) && f.left == 0:
		return n, nil
	case n > 0 && !errors.Is(err, io.EOF):
		return n, nil // the next Read meets the error again
	}
	return n, f.fail(err)
}

// AwaitRead blocks until Read has bytes, io.EOF or an error, and consumes none of them.
func (f *Flow) AwaitRead() error {
	f.readMu.Lock()
	defer f.readMu.Unlock()
	return f.await()
}

// await reads frames until there are bytes. readMu is held.
func (f *Flow) await() error {
	for f.left == 0 {
		if f.readErr != nil {
			return f.readErr
		}
		if err := f.nextFrame(); err != nil {
			return err
		}
	}
	return nil
}

// nextFrame reads one frame, of a DATA frame only the header. A deadline may interrupt it anywhere; it then goes on.
func (f *Flow) nextFrame() error {
	for f.headerN < len(f.header) {
		n, err := f.stream.Read(f.header[f.headerN:])
		if f.headerN += n; err != nil && f.headerN < len(f.header) {
			return f.fail(err)
		}
	}
	h := flow.ParseHeader(f.header[:])
	if f.body == nil {
		if err := f.in.Header(h); err != nil {
			return f.violated(err)
		}
		if h.Type == flow.TypeData {
			f.left, f.headerN = h.Length, 0
			return nil
		}
		f.body, f.bodyN = make([]byte, h.Length), 0
	}
	for f.bodyN < len(f.body) {
		n, err := f.stream.Read(f.body[f.bodyN:])
		if f.bodyN += n; err != nil && f.bodyN < len(f.body) {
			return f.fail(err)
		}
	}
	event, err := f.in.Body(h, f.body)
	f.headerN, f.body = 0, nil
	if err != nil {
		return f.violated(err)
	}
	return f.obey(event)
}

// obey does what a frame without bytes says.
func (f *Flow) obey(e flow.Event) error {
	switch e.Type {
	case flow.TypeAccept:
		f.settle(nil)
	case flow.TypeOutcome:
		var all []flow.Outcome
		if old := f.verdicts.Load(); old != nil {
			all = *old
		}
		all = append(slices.Clip(all), e.Outcome)
		f.verdicts.Store(&all)
	case flow.TypeRefuse:
		return f.end(&RefusedError{Code: e.Refusal, Peer: f.s.live.region, Reason: e.Reason}, flow.ResetRefused, sideBoth)
	case flow.TypeReset:
		return f.end(&ResetError{Code: e.Reset, Peer: f.s.live.region, Remote: true}, e.Reset, sideBoth)
	case flow.TypeFin:
		return f.end(io.EOF, 0, sideRead)
	}
	return nil
}

// end makes err the result of every further Read. The stream is told that nothing more is read, which costs nothing when
// its end has come with the last frame and saves it from waiting for one that never comes when it has not.
func (f *Flow) end(err error, code flow.ResetCode, sides uint32) error {
	f.readErr = err
	f.settle(err)
	f.stream.CancelRead(quic.StreamErrorCode(code))
	if sides&sideWrite != 0 {
		f.stream.CancelWrite(quic.StreamErrorCode(code))
	}
	f.finish(sides)
	return err
}

// violated ends the flow because the other end broke the protocol.
func (f *Flow) violated(err error) error {
	f.s.t.log.Warn("peer breaks the flow protocol", "peer", f.s.live.region, "gateway", f.s.live.id,
		"flow", hex.EncodeToString(f.id[:]), "err", err)
	return f.end(&ResetError{Code: flow.ResetProtocol, Peer: f.s.live.region}, flow.ResetProtocol, sideBoth)
}

// fail takes an error of the stream. A deadline passes; everything else is final.
func (f *Flow) fail(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if errors.Is(err, io.EOF) { // the stream ends without FIN: what came is not all there was
		return f.end(&ResetError{Code: flow.ResetProtocol, Peer: f.s.live.region, Remote: true}, flow.ResetProtocol, sideBoth)
	}
	f.readErr = f.wrap(err)
	f.settle(f.readErr)
	return f.readErr
}

// settle answers WaitAccept, once.
func (f *Flow) settle(err error) {
	if f.answer == nil {
		return
	}
	select {
	case <-f.answer:
	default:
		if errors.Is(err, io.EOF) {
			err = nil // a FIN can only follow ACCEPT
		}
		f.answered = err
		close(f.answer)
	}
}

// WaitAccept blocks until the peer has accepted the flow (nil) or refused it (*RefusedError), the flow has broken, or ctx has
// ended. It may be called beside a blocked Read; before the first Read it reads the answer itself, and clears the read deadline.
func (f *Flow) WaitAccept(ctx context.Context) error {
	if f.answer == nil {
		return nil
	}
	if err := f.Flush(); err != nil {
		return err
	}
	if f.readMu.TryLock() {
		stop := context.AfterFunc(ctx, func() { _ = f.stream.SetReadDeadline(time.Unix(1, 0)) })
		var err error
		for !f.settled() && err == nil {
			err = f.nextFrame()
		}
		if !stop() {
			_ = f.stream.SetReadDeadline(time.Time{})
		}
		f.readMu.Unlock()
		if !f.settled() && ctx.Err() == nil {
			return err // a read deadline of the caller's
		}
	}
	select {
	case <-f.answer:
		return f.answered
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (f *Flow) settled() bool {
	select {
	case <-f.answer:
		return true
	default:
		return false
	}
}

// Outcomes is what the answering gateway has reported about instances so far. It is read with the answer and the bytes.
func (f *Flow) Outcomes() []flow.Outcome {
	if all := f.verdicts.Load(); all != nil {
		return slices.Clone(*all)
	}
	return nil
}

// SetReadDeadline makes blocked and future reads return os.ErrDeadlineExceeded at t; the zero time is never.
func (f *Flow) SetReadDeadline(t time.Time) error { return f.stream.SetReadDeadline(t) }

// SetWriteDeadline is the same for writes. A write that a deadline has cut short leaves the flow unusable: reset it.
func (f *Flow) SetWriteDeadline(t time.Time) error { return f.stream.SetWriteDeadline(t) }

// Peer is the region at the other end.
func (f *Flow) Peer() federation.Region { return f.s.live.region }

// Address is the gateway at the other end: as it was dialled, or the address it dialled from.
func (f *Flow) Address() string { return f.s.address }

// ID names the flow in the logs of both ends.
func (f *Flow) ID() [16]byte { return f.id }

// wrap turns an error of the stream or its connection into one of this package.
func (f *Flow) wrap(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	var reset *quic.StreamError
	switch {
	case errors.As(err, &reset):
		code := flow.ResetCode(min(uint64(reset.ErrorCode), math.MaxUint16))
		return &ResetError{Code: code, Peer: f.s.live.region, Remote: reset.Remote}
	case errors.Is(err, quic.ErrStreamClosed), err == net.ErrClosed: //nolint:errorlint // every PathError wraps it; only the bare one means us
		return net.ErrClosed
	}
	return &PathError{Peer: f.s.live.region, Address: f.s.address, Reason: endOf(err), Err: err}
}
