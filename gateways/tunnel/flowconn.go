package tunnel

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// Flow is one flow with a gateway of a peer, at either end. Its methods that write (Write, WriteHeadroom, CloseWrite and those of
// Incoming) must not run beside each other, nor must two Reads; everything else may be called at any time. Every flow must be
// closed or reset.
//
// A flow outlives the session that carries it: it goes on over another one with the same gateway, and waits for one for 10 s when
// there is none; a flow that is not accepted yet does not wait. When it cannot go on every method returns a *PathError, after a
// reset a *ResetError; both match syscall.ECONNRESET.
type Flow struct {
	far    *remote
	id     flow.ID
	role   flow.Role
	opened int64 // the opener's, by the clock of far: before anything was sent

	mu       sync.Mutex // guards what follows, down to the next mark
	cond     news       // something that somebody waits for has changed
	out      flow.Out
	cur      *leg     // what is written on; nil: there is no carrier
	stripes  []*leg   // written on beside it
	legs     []*leg   // what is read from, the oldest first
	past     []*leg   // finished for this end, with bytes on their way
	session  *session // of the carrier attached last
	failed   error    // ends both directions; of writing
	readFail error    // the same, of reading
	writeErr error    // ends writing only
	torn     bool     // a deadline has cut a frame short
	lostPath error    // why the last carrier was lost
	legless  int64    // by the clock of far
	endedAt  int64
	ids      uint32 // of carriers
	moving   bool
	copied   bool // what is small leaves twice; at the answerer: the OPEN may have
	byCopy   bool // the answerer has heard of the flow by a copy of its OPEN
	orphan   bool // and has not got a carrier yet
	// farAsleep: the other end's reader sleeps, and has read all that was written.
	farAsleep bool
	missed    bool   // a carrier has broken that may have had bytes which are wanted
	starving  bool   // whoever reads waits although a carrier has bytes that lie further ahead
	gapAt     uint64 // how much had been read when lookForGap looked, and since when that has been so
	gapSince  int64
	bulkAt    uint64 // how much is to be sent before somebody looks whether it is a bulk transfer; see watchBulk
	readEnd   deadline
	writeEnd  time.Time
	stop      context.CancelCauseFunc // of the context of whoever serves the flow
	first     leg                     // most flows have one carrier
	firstLeg  [1]*leg

	writing atomic.Bool
	holding atomic.Bool // the head waits for the first bytes, or the timer

	// Receiving; under readMu, which nobody waits for while one goroutine reads. While goroutines of the flow's own read, that is
	// while it has several carriers, in is under mu.
	readMu  sync.Mutex
	in      flow.In
	readErr error // final

	only     atomic.Pointer[leg] // the one carrier that is read by the caller of Read itself; nil: see choose
	consumed atomic.Uint64       // what an ACK would say
	told     atomic.Uint64       // what one has said
	asleep   atomic.Bool         // whoever reads has parked, and the other end is to be told
	dirty    atomic.Bool         // the flow is on the list of those that have to acknowledge
	stranded atomic.Bool         // the opener is to be asked for a carrier
	wishes   atomic.Bool         // it has been, and has not attached one
	gap      atomic.Bool         // bytes may be missing that no carrier brings

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

// Open opens a flow to peer over the nearest session that is alive. Without a session it fails at once with an error that matches
// ErrNoPath. It waits for a handshake, for a second at most, only when all goes over TCP and a burst has used up every idle lane.
// What is asked for leaves together with the first bytes written, on Flush, or after a millisecond; the answer is awaited by Read
// or WaitAccept. A zero ID is replaced by a random one.
func (t *Transport) Open(ctx context.Context, peer federation.Region, open flow.Open) (*Flow, error) {
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("open a flow to region %s: %w", peer, context.Cause(ctx))
	}
	p := t.peer(peer)
	if p == nil {
		return nil, t.noPath(peer)
	}
	if open.ID == (flow.ID{}) {
		_, _ = rand.Read(open.ID[:]) // never fails
	}
	var tried []*session
	for s := p.best(nil); s != nil; s = p.best(tried) {
		c, err := s.openCarrier()
		if err == nil {
			return s.openFlow(c, open)
		}
		tried = append(tried, s)
	}
	if s, c := awaitLane(ctx, tried); c != nil {
		return s.openFlow(c, open)
	}
	return nil, t.noPath(peer)
}

func (s *session) openFlow(c carrier, open flow.Open) (*Flow, error) {
	f := &Flow{answer: make(chan struct{})}
	f.init(s, c, flow.Opener)
	f.id, f.opened, f.copied = open.ID, s.far.now(), s.far.copies()
	open.Copied = f.copied
	err := f.out.Open(open)
	if err == nil {
		err = s.far.register(f)
	}
	if err != nil {
		c.cancel(flow.ResetAborted)
		return nil, fmt.Errorf("open a flow to region %s: %w", s.live.region, err)
	}
	f.first.count()
	f.mu.Lock()
	f.hold()
	f.mu.Unlock()
	return f, nil
}

// init makes f a flow of s, carried by c.
func (f *Flow) init(s *session, c carrier, role flow.Role) {
	f.far, f.session, f.role = s.far, s, role
	f.out, f.in = flow.NewOut(role), flow.NewIn(role)
	f.cond.L = &f.mu
	f.first = leg{c: c, s: s, way: flow.Way{ID: 1}, ready: true}
	f.ids, f.cur, f.bulkAt = 1, &f.first, bulkStart
	f.legs = append(f.firstLeg[:0], &f.first)
	f.only.Store(&f.first)
}

// Close ends both directions. What has been written is still delivered, unless a Write is under way; what the other end sends
// from now on is answered by a reset, as on TCP. A second call does nothing.
func (f *Flow) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sides.Load() == sideBoth {
		return nil
	}
	if f.writing.Load() || f.torn || f.out.Over() {
		f.abort(flow.ResetAborted)
		return nil
	}
	err := f.closeWrite()
	if errors.Is(err, flow.ErrViolation) {
		f.abort(flow.ResetAborted)
		return nil
	}
	f.closeRead(flow.ResetAborted)
	return err
}

// closeRead gives up reading. mu is held.
func (f *Flow) closeRead(code flow.ResetCode) {
	if f.sides.Load()&sideRead == 0 {
		f.readFail = &ResetError{Code: code, Peer: f.far.peer.region}
		f.consumed.Store(flow.Settled)
		f.mark()
		f.only.Store(nil)
		for _, l := range f.legs {
			l.c.cancelRead(code)
			_ = l.c.SetReadDeadline(past)
		}
	}
	f.finish(sideRead)
	f.cond.Broadcast()
}

// Reset aborts the flow at both ends; what is not delivered is dropped. A second call does nothing.
func (f *Flow) Reset(code flow.ResetCode) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.abort(code)
}

func (f *Flow) abort(code flow.ResetCode) {
	f.fail(&ResetError{Code: code, Peer: f.far.peer.region}, code)
}

// Abort is Reset(flow.ResetAborted).
func (f *Flow) Abort() { f.Reset(flow.ResetAborted) }

// fail ends the flow for good: every call returns err, the other end sees a reset. mu is held.
func (f *Flow) fail(err error, code flow.ResetCode) {
	if f.failed != nil {
		return
	}
	f.note(err, code)
	f.failed = err
	f.rouseSoon()
	if f.readFail == nil {
		f.readFail = err
	}
	_ = f.out.Reset(code, keeper{f.far.peer})
	f.consumed.Store(flow.Settled)
	f.mark()
	f.only.Store(nil)
	for _, l := range f.everyLeg() {
		f.tellEnded(l, code)
		l.c.cancel(code)
		l.broken = true
		l.uncount()
	}
	f.cur, f.stripes, f.legs, f.past = nil, nil, nil, nil
	f.settle(f.readFail)
	if f.stop != nil {
		f.stop(f.readFail)
	}
	f.finish(sideBoth)
	f.cond.Broadcast()
}

// finish notes that directions are over. When both are, the flow only waits for its last bytes to be acknowledged. mu is held.
func (f *Flow) finish(sides uint32) {
	before := f.sides.Or(sides)
	if before == sideBoth || before|sides != sideBoth {
		return
	}
	f.endedAt = f.far.now()
	for _, l := range f.everyLeg() {
		f.part(l)
	}
	if f.out.Settled() {
		f.conclude()
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
	for {
		l, err := f.await()
		if err != nil {
			return 0, err
		}
		n, err := l.c.Read(p[:min(len(p), int(l.left))])
		f.took(l, n)
		if n > 0 {
			return n, nil // the next Read meets the error again
		}
		if err != nil {
			if err = f.readFailed(l, err); err != nil {
				return 0, err
			}
		}
	}
}

// AwaitRead blocks until Read has bytes, io.EOF or an error, and consumes none of them.
func (f *Flow) AwaitRead() error {
	f.readMu.Lock()
	defer f.readMu.Unlock()
	l, err := f.await()
	if err == nil {
		f.took(l, 0)
	}
	return err
}

// settle answers WaitAccept, once.
func (f *Flow) settle(err error) {
	if f.answer == nil || f.settled() {
		return
	}
	if errors.Is(err, io.EOF) {
		err = nil // a FIN can only follow ACCEPT
	}
	f.answered = err
	close(f.answer)
}

// WaitAccept blocks until the peer has accepted the flow (nil) or refused it (*RefusedError), the flow has broken, or ctx has
// ended. It may be called beside a blocked Read; before the first Read it reads the answer itself.
func (f *Flow) WaitAccept(ctx context.Context) error {
	if f.answer == nil {
		return nil
	}
	if err := f.Flush(); err != nil && !f.settled() {
		return err
	}
	if f.readMu.TryLock() {
		stop := context.AfterFunc(ctx, func() { f.cancelReads(true) })
		var err error
		for !f.settled() && err == nil {
			err = f.step()
		}
		if !stop() {
			f.cancelReads(false)
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

// Peer is the region at the other end.
func (f *Flow) Peer() federation.Region { return f.far.peer.region }

// Address is the gateway at the other end, as it is reached by now: as it was dialled, or the address it dialled from.
func (f *Flow) Address() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.session.address
}

// ID names the flow in the logs of both ends.
func (f *Flow) ID() [16]byte { return f.id }

func resetCode(err *quic.StreamError) flow.ResetCode {
	return flow.ResetCode(min(uint64(err.ErrorCode), math.MaxUint16))
}

func (f *Flow) pathError(cause error) error {
	return &PathError{Peer: f.far.peer.region, Address: f.session.address, Reason: endOf(cause), Err: cause}
}

// violated ends the flow because the other end broke the protocol. mu is held.
func (f *Flow) violated(err error) error {
	f.far.t.log.Warn("peer breaks the flow protocol", "peer", f.far.peer.region, "gateway", f.far.id,
		"flow", hex.EncodeToString(f.id[:]), "err", err)
	f.abort(flow.ResetProtocol)
	return f.readFail
}
