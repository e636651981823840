// Package splice carries bytes both ways between two connections until both have ended: with half-close, with resets passed on as
// resets, with an idle limit over both directions, and with the back-pressure of a direct connection, because it never holds
// more than one buffer a direction and none while a direction is idle. It knows nothing of what the connections are.
package splice

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is one of the two connections. Close must be safe beside a blocked Read or Write and end it. What a conn can do beyond
// that is used where it is there: a *net.TCPConn or *net.UnixConn is read without holding a buffer while it is idle, and a pair
// of TCP connections is spliced inside the kernel; see Awaiter, Dozer, Parker, HeadroomWriter and Aborter for the others.
type Conn interface {
	io.Reader
	io.Writer
	io.Closer
	// CloseWrite tells the other end that no more bytes follow. It is called after the last Write, never beside one. Close alone
	// must do so too when everything was read to the end.
	CloseWrite() error
}

// Awaiter is a Conn that can wait for something to read without being given a buffer.
type Awaiter interface {
	// AwaitRead blocks until Read has bytes, io.EOF or an error to return, and consumes none of them.
	AwaitRead() error
}

// Dozer is a Conn that can wait for something to read within a small stack.
type Dozer interface {
	// Doze blocks until there may be something to read, or the read deadline has passed, and consumes nothing.
	Doze()
}

// Parker is a Conn that can wait for something to read without a goroutine.
type Parker interface {
	// Park has wake called once, in a goroutine of its own, when there may be something to read, an end or an error, and when the
	// Conn is closed or aborted; until then nothing reads it. It returns false when it cannot.
	Park(wake func()) bool
}

// HeadroomWriter is a Conn that frames what it is given and builds its header in place, so that one write carries both.
type HeadroomWriter interface {
	// Headroom is how many octets of scratch space WriteHeadroom needs, at most MaxHeadroom.
	Headroom() int
	// WriteHeadroom writes b[Headroom():] and returns how many octets of it were taken; b[:Headroom()] is overwritten.
	WriteHeadroom(b []byte) (int, error)
}

// Aborter is a Conn that can end so that its other end sees a reset and not an orderly end.
type Aborter interface {
	// Abort drops what is not delivered yet and makes blocked calls return. It may come at any time, also twice.
	Abort()
}

// MaxHeadroom is the most scratch space a HeadroomWriter may ask for.
const MaxHeadroom = 64

// Side is one of the two connections.
type Side uint8

// The sides: the first and the second argument of Both.
const (
	Neither Side = iota
	A
	B
)

func (s Side) String() string { return [...]string{"neither", "a", "b"}[min(s, B)] }

// Cause is why the bytes stopped.
type Cause uint8

// The causes.
const (
	Closed    Cause = iota // both sides ended in order
	Reset                  // a side was reset
	Failed                 // a side returned another error
	Idle                   // no byte went either way for the idle limit
	Cancelled              // the context ended
)

func (c Cause) String() string {
	return [...]string{"closed", "reset", "failed", "idle", "cancelled"}[min(c, Cancelled)]
}

// Result is how it went.
type Result struct {
	AtoB, BtoA int64 // bytes handed to the receiving side
	Side       Side  // who ended it: the first to close, or the one that was reset or failed
	Cause      Cause
	Err        error // the error behind Reset, Failed and Cancelled
}

// Options is what a Pair can be told.
type Options struct {
	Idle  time.Duration // no byte either way for so long ends it; 0: never
	Swept bool          // somebody calls Sweep every SweepEvery: it then holds no timer, and next to no stack while it is idle
	Lot   *Lot          // what is Swept waits there while it is idle; nil: by itself
}

const (
	// SweepEvery is how often Sweep is to be called.
	SweepEvery = time.Second

	// dozeAfter is how long nothing has to pass before a direction moves to a fresh stack: longer than a conversation pauses,
	// because what comes next grows the stack again, which costs a few microseconds.
	dozeAfter = SweepEvery
)

// Both copies from a to b and from b to a until both directions have ended, closes both connections and says how it went. An
// end of one side is passed on as CloseWrite and the other direction goes on; the second end closes both. Every other way to
// end is passed to the other side as a reset. When ctx ends, both sides are reset. There is no limit on the number of bytes.
func Both(ctx context.Context, a, b Conn, o Options) Result {
	p := New(a, b, o)
	stop := context.AfterFunc(ctx, func() { p.Cancel(context.Cause(ctx)) })
	defer stop()
	over := make(chan Result, 1)
	p.Start(func(r Result) { over <- r })
	return <-over
}

// Pair is two connections about to be spliced. While it runs, their read deadlines are its own.
type Pair struct {
	a, b     Conn
	idle     time.Duration
	over     func(Result)
	progress atomic.Int64 // when the last byte went, as far as is known: see now
	running  atomic.Int32 // directions
	ends     atomic.Int32 // of them, ended in order
	swept    bool
	lot      *Lot
	aToB     direction
	bToA     direction

	mu     sync.Mutex
	ended  bool // result.Cause is final
	timer  *time.Timer
	result Result
}

// New returns a Pair that does nothing before Start.
func New(a, b Conn, o Options) *Pair {
	p := &Pair{a: a, b: b, idle: o.Idle, swept: o.Swept, lot: o.Lot}
	p.running.Store(2)
	p.progress.Store(now())
	return p
}

var epoch = time.Now()

// now is a clock for intervals, in nanoseconds.
func now() int64 { return int64(time.Since(epoch)) }

// Start is Both without a context. It returns at once, so that an open connection does not keep the stack that has set it up, and
// calls over with the result at the end. It is called once.
func (p *Pair) Start(over func(Result)) {
	p.over = over
	if p.idle > 0 && (!p.swept || p.idle <= 2*SweepEvery) {
		p.alarm(p.idle)
	}
	go p.copy(&p.bToA)
	go p.copy(&p.aToB)
}

// alarm has the idle limit looked at in d.
func (p *Pair) alarm(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.ended:
	case p.timer == nil:
		p.timer = time.AfterFunc(d, p.checkIdle)
	default:
		p.timer.Reset(d)
	}
}

// Cancel resets both sides; cause becomes the result's error. It may be called at any time, and does nothing after the end.
func (p *Pair) Cancel(cause error) { p.end(Neither, Cancelled, cause) }

// Sweep looks after a Pair that is Swept. It may be called at any time, and does not wait.
func (p *Pair) Sweep() {
	quiet := time.Duration(now() - p.progress.Load())
	if _, _, kernel := kernelPair(p.a, p.b); !kernel && quiet >= dozeAfter {
		p.rouse(&p.aToB, p.a)
		p.rouse(&p.bToA, p.b)
	}
	if left := p.idle - quiet; p.idle > 2*SweepEvery && left <= 2*SweepEvery {
		p.alarm(max(left, 0))
	}
}

// direction is one half of a Pair, from a connection to the other.
type direction struct {
	n     int64
	phase atomic.Uint32
	spot  uint64    // where it was parked last
	raw   rawReader // a socket is waited for by its descriptor
}

// The phases of a direction.
const (
	busy   uint32 = iota // bytes have passed, or are about to
	dozing               // it waits on a fresh stack, or parked without one, and nothing has come since
	done
)

// rouse makes a direction that waits move to a fresh stack. One that does not wait does so when it waits next.
func (p *Pair) rouse(d *direction, src Conn) {
	if c, ok := src.(deadliner); ok && d.phase.Load() == busy {
		_ = c.SetReadDeadline(past)
	}
}

// deadliner is a Conn whose Read and AwaitRead can be interrupted.
type deadliner interface {
	SetReadDeadline(t time.Time) error
}

// past is a deadline that makes a blocked read return at once, never is none.
var past, never = time.Unix(1, 0), time.Time{}

// roused reports whether err says that a direction was roused; it then is parked, or goes on in a goroutine of its own.
func (p *Pair) roused(d *direction, src Conn, err error) bool {
	c, ok := src.(deadliner)
	if !ok || !errors.Is(err, os.ErrDeadlineExceeded) || c.SetReadDeadline(never) != nil {
		return false
	}
	d.phase.Store(dozing)
	if p.lot.park(p, d) {
		return true
	}
	if c, ok := src.(Parker); ok && c.Park(func() { p.resume(d) }) {
		return true
	}
	go p.doze(d)
	return true
}

// resume goes on with a direction that was parked. It parks again should nothing have come.
func (p *Pair) resume(d *direction) {
	d.phase.Store(busy)
	p.copy(d)
}

// doze waits where that can be done within the 2 KiB that a goroutine begins with: a stack that has grown does not shrink to less
// than 4, and while bytes pass it grows to 8.
func (p *Pair) doze(d *direction) {
	if d.raw.conn != nil {
		d.raw.await()
	} else if c, ok := p.source(d).(Dozer); ok {
		c.Doze()
	}
	p.copy(d)
}

func (p *Pair) source(d *direction) Conn {
	if d == &p.aToB {
		return p.a
	}
	return p.b
}

// copy runs one direction to its end, or until it is roused.
func (p *Pair) copy(d *direction) {
	src, dst, from, to := p.a, p.b, A, B
	if d == &p.bToA {
		src, dst, from, to = p.b, p.a, B, A
	}
	side, err := p.move(d, src, dst)
	if side == reading && err != nil && p.roused(d, src, err) {
		return
	}
	d.phase.Store(done)
	switch {
	case err == nil: // src ended in order
		p.closed(from)
		if p.ends.Add(1) == 1 { // else the Close that follows at once says it
			_ = dst.CloseWrite() // dst may be gone already: the other direction says so
		}
	case side == writing:
		p.failed(to, err)
	default:
		p.failed(from, err)
	}
	if p.running.Add(-1) == 0 {
		p.finish()
	}
}

func (p *Pair) failed(side Side, err error) {
	if isReset(err) {
		p.end(side, Reset, err)
		return
	}
	p.end(side, Failed, err)
}

// finish comes behind both directions.
func (p *Pair) finish() {
	_ = p.a.Close()
	_ = p.b.Close()
	p.mu.Lock()
	p.ended = true // a checkIdle that is on its way must not arm the timer again
	if p.timer != nil {
		p.timer.Stop()
	}
	p.result.AtoB, p.result.BtoA = p.aToB.n, p.bToA.n
	p.mu.Unlock()
	p.over(p.result)
}

// closed notes who was the first to end in order.
func (p *Pair) closed(side Side) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended && p.result.Side == Neither {
		p.result.Side = side
	}
}

// end notes why it is over, once, and resets both sides so that both directions return.
func (p *Pair) end(side Side, cause Cause, err error) {
	p.mu.Lock()
	if p.ended {
		p.mu.Unlock()
		return
	}
	p.ended = true
	p.result.Side, p.result.Cause, p.result.Err = side, cause, err
	p.mu.Unlock()
	abort(p.a)
	abort(p.b)
	// A closed socket wakes nobody. What is not parked by now cannot be: its socket is closed.
	for _, d := range [...]*direction{&p.aToB, &p.bToA} {
		if p.lot.leave(d) {
			go p.copy(d)
		}
	}
}

// checkIdle runs when the idle limit may have passed, and again when it can next have.
func (p *Pair) checkIdle() {
	if src, dst, ok := kernelPair(p.a, p.b); ok { // the bytes pass where only the kernel sees them
		p.progress.Store(now() - int64(kernelQuiet(src, dst)))
	}
	quiet := time.Duration(now() - p.progress.Load())
	switch left := p.idle - quiet; {
	case left <= 0:
		p.end(Neither, Idle, fmt.Errorf("no byte either way for %v", p.idle))
	case !p.swept || left <= 2*SweepEvery:
		p.alarm(left)
	}
}

// isReset reports whether err says that the other end is gone rather than done. A write after the other end closed fails
// with EPIPE, which to the sender is the same thing.
func isReset(err error) bool {
	return errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNABORTED)
}

// abort closes c so that its other end sees a reset where that can be said.
func abort(c Conn) {
	if a, ok := c.(Aborter); ok {
		a.Abort()
		return
	}
	var raw any = c
	if wrapped, ok := c.(interface{ NetConn() net.Conn }); ok { // *tls.Conn: its own Close would first wait to send an alert
		raw = wrapped.NetConn()
	}
	if t, ok := raw.(*net.TCPConn); ok {
		_ = t.SetLinger(0) // close(2) then sends RST and drops what is queued
		_ = t.Close()
		return
	}
	_ = c.Close()
}
