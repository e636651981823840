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
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is one of the two connections. Close must be safe beside a blocked Read or Write and end it. What a conn can do beyond
// that is used where it is there: a *net.TCPConn or *net.UnixConn is read without holding a buffer while it is idle, and a pair
// of TCP connections is spliced inside the kernel; see Awaiter, HeadroomWriter and Aborter for the others.
type Conn interface {
	io.Reader
	io.Writer
	io.Closer
	// CloseWrite tells the other end that no more bytes follow. It is called after the last Write, never beside one.
	CloseWrite() error
}

// Awaiter is a Conn that can wait for something to read without being given a buffer.
type Awaiter interface {
	// AwaitRead blocks until Read has bytes, io.EOF or an error to return, and consumes none of them.
	AwaitRead() error
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

// Options is what Both can be told.
type Options struct {
	Idle time.Duration // no byte either way for so long ends it; 0: never
}

// Both copies from a to b and from b to a until both directions have ended, closes both connections and says how it went. An
// end of one side is passed on as CloseWrite and the other direction goes on. Every other way to end is passed to the other
// side as a reset. When ctx ends, both sides are reset. There is no limit on the number of bytes.
func Both(ctx context.Context, a, b Conn, o Options) Result {
	p := &pair{a: a, b: b, idle: o.Idle, start: time.Now()}
	stop := context.AfterFunc(ctx, func() { p.end(Neither, Cancelled, context.Cause(ctx)) })
	defer stop()
	if src, dst, ok := kernelPair(a, b); ok {
		p.lastByte = kernelActivity(src, dst)
	}
	if p.idle > 0 {
		p.mu.Lock()
		p.timer = time.AfterFunc(p.idle, p.checkIdle)
		p.mu.Unlock()
		defer p.timer.Stop()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.copy(direction{src: b, dst: a, from: B, to: A, n: &p.result.BtoA})
	}()
	p.copy(direction{src: a, dst: b, from: A, to: B, n: &p.result.AtoB})
	<-done
	_ = a.Close()
	_ = b.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true // a checkIdle that is on its way must not arm the timer again
	return p.result
}

// pair is one run of Both.
type pair struct {
	a, b     Conn
	idle     time.Duration
	start    time.Time
	progress atomic.Int64         // when the last byte went, in nanoseconds since start
	lastByte func() time.Duration // how long ago the kernel saw the last byte; nil where the bytes pass through here

	mu     sync.Mutex
	timer  *time.Timer
	ended  bool // result.Cause is final
	result Result
}

type direction struct {
	src, dst Conn
	from, to Side
	n        *int64
}

// copy runs one direction to its end.
func (p *pair) copy(d direction) {
	n, side, err := p.move(d)
	*d.n = n
	if err == nil { // src ended in order
		p.closed(d.from)
		_ = d.dst.CloseWrite() // dst may be gone already: the other direction says so
		return
	}
	failed := d.from
	if side == writing {
		failed = d.to
	}
	if isReset(err) {
		p.end(failed, Reset, err)
		return
	}
	p.end(failed, Failed, err)
}

// closed notes who was the first to end in order.
func (p *pair) closed(side Side) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended && p.result.Side == Neither {
		p.result.Side = side
	}
}

// end notes why it is over, once, and resets both sides so that both directions return.
func (p *pair) end(side Side, cause Cause, err error) {
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
}

// checkIdle runs when the idle limit may have passed, and again when it can next have.
func (p *pair) checkIdle() {
	quiet := time.Since(p.start) - time.Duration(p.progress.Load())
	if p.lastByte != nil {
		quiet = min(quiet, p.lastByte())
	}
	if quiet >= p.idle {
		p.end(Neither, Idle, fmt.Errorf("no byte either way for %v", p.idle))
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.ended {
		p.timer.Reset(p.idle - quiet)
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
