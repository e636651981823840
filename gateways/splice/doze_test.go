package splice

import (
	"context"
	"errors"
	"io"
	"net"
	"runtime"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// sleeper is a conn whose reads can be interrupted, and which waits as a flow does.
type sleeper struct {
	framed
	tcp *net.TCPConn
}

func (s sleeper) SetReadDeadline(t time.Time) error { return s.tcp.SetReadDeadline(t) }

func (s sleeper) Doze() {
	var r rawReader
	if r.open(s.tcp) {
		r.await()
	}
}

// parker is a sleeper that is told by the test that something comes.
type parker struct {
	sleeper
	wakes chan func()
}

func (p parker) Park(wake func()) bool {
	p.wakes <- wake
	return true
}

func (p parker) Abort() {
	_ = p.tcp.Close()
	select {
	case wake := <-p.wakes:
		go wake()
	default:
	}
}

func TestParkedConnIsWokenByItself(t *testing.T) {
	a, client := tcpPair(t)
	s, server := newSleeper(t)
	b := parker{s, make(chan func(), 1)}
	p, over := New(a, b, Options{Swept: true}), make(chan Result, 1)
	p.Start(func(r Result) { over <- r })
	for i := range byte(3) {
		p.dozeNow(t)
		wake := <-b.wakes
		go wake() // nothing has come: it parks again
		for limit := time.Now().Add(10 * time.Second); len(b.wakes) == 0; runtime.Gosched() {
			if p.dozeNow(t); time.Now().After(limit) {
				t.Fatal("it has not parked again")
			}
		}
		_, _ = server.Write([]byte{i})
		read := make(chan struct{})
		go func() { // as long as it takes: a sweep that comes late may park it once more
			for {
				select {
				case wake := <-b.wakes:
					go wake()
				case <-read:
					return
				}
			}
		}()
		got := make([]byte, 1)
		if _, err := io.ReadFull(client, got); err != nil || got[0] != i {
			t.Fatalf("%q, %v", got, err)
		}
		close(read)
	}
	p.Cancel(errors.New("over"))
	if r := <-over; r.Cause != Cancelled || r.BtoA != 3 {
		t.Errorf("%+v", r)
	}
}

func newSleeper(t *testing.T) (sleeper, *net.TCPConn) {
	a, far := tcpPair(t)
	return sleeper{framed{&plain{Conn: a}, t}, a}, far
}

// interruptible stands for TLS: its reads can be interrupted, and that is all.
type interruptible struct {
	*plain
	tcp *net.TCPConn
}

func (i interruptible) SetReadDeadline(t time.Time) error { return i.tcp.SetReadDeadline(t) }

// dozeNow makes both directions of p believe that they have been idle, and waits until they doze.
func (p *Pair) dozeNow(t *testing.T) {
	t.Helper()
	for limit := time.Now().Add(10 * time.Second); p.aToB.phase.Load() != dozing || p.bToA.phase.Load() != dozing; runtime.Gosched() {
		p.progress.Store(now() - int64(dozeAfter))
		p.Sweep()
		if time.Now().After(limit) {
			t.Fatalf("phases %d, %d", p.aToB.phase.Load(), p.bToA.phase.Load())
		}
	}
}

func echoOnce(t *testing.T, from, to *net.TCPConn, b byte) {
	t.Helper()
	got := make([]byte, 1)
	_, _ = from.Write([]byte{b})
	if _, err := io.ReadFull(to, got); err != nil || got[0] != b {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestIdlePairDozesAndWakes(t *testing.T) {
	for name, make1 := range map[string]func() (Conn, *net.TCPConn){
		"flow": func() (Conn, *net.TCPConn) { return newSleeper(t) },
		"plain": func() (Conn, *net.TCPConn) {
			a, far := tcpPair(t)
			return interruptible{&plain{Conn: a}, a}, far
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, client := tcpPair(t)
			b, server := make1()
			p, over := New(a, b, Options{Idle: time.Hour, Swept: true, Lot: newLot(t)}), make(chan Result, 1)
			p.Start(func(r Result) { over <- r })
			for i := range byte(4) {
				echoOnce(t, client, server, i)
				p.dozeNow(t)
				echoOnce(t, server, client, i)
				p.dozeNow(t)
			}
			_ = client.CloseWrite()
			if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
				t.Errorf("the server got %v", err)
			}
			p.progress.Store(now() - int64(dozeAfter))
			p.Sweep() // with one direction over
			echoOnce(t, server, client, 'x')
			_ = server.CloseWrite()
			if r := <-over; r != (Result{AtoB: 4, BtoA: 5, Side: A, Cause: Closed}) {
				t.Errorf("%+v", r)
			}
		})
	}
}

func TestDozingPairCanBeCancelled(t *testing.T) {
	a, client := tcpPair(t)
	b, server := newSleeper(t)
	p, over := New(a, b, Options{Swept: true}), make(chan Result, 1)
	p.Start(func(r Result) { over <- r })
	p.dozeNow(t)
	revoked := errors.New("revoked")
	p.Cancel(revoked)
	if r := <-over; r.Cause != Cancelled || !errors.Is(r.Err, revoked) {
		t.Errorf("%+v", r)
	}
	p.Sweep()
	for _, c := range []*net.TCPConn{client, server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an end got %v", err)
		}
	}
}

// newLot returns a Lot that runs until the test has ended.
func newLot(t *testing.T) *Lot {
	t.Helper()
	l := &Lot{}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- l.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	for limit := time.Now().Add(10 * time.Second); runtime.GOOS == "linux" && !l.isReady(); runtime.Gosched() {
		if time.Now().After(limit) {
			t.Fatal("the lot does not run")
		}
	}
	return l
}

func (l *Lot) isReady() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.ready
}

func (l *Lot) parked() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.spots)
}

func TestParkedPairs(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("nothing parks here")
	}
	revoked := errors.New("revoked")
	for name, end := range map[string]func(p *Pair, stop func(), client, server *net.TCPConn) Result{
		"cancelled": func(p *Pair, _ func(), client, server *net.TCPConn) Result {
			p.Cancel(revoked)
			for _, c := range []*net.TCPConn{client, server} {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("an end got %v", err)
				}
			}
			return Result{Cause: Cancelled, Err: revoked}
		},
		"the caller leaves": func(_ *Pair, _ func(), client, server *net.TCPConn) Result {
			_, _ = client.Close(), server.Close()
			return Result{Cause: Closed}
		},
		"the caller resets": func(_ *Pair, _ func(), client, _ *net.TCPConn) Result {
			_, _ = client.SetLinger(0), client.Close()
			return Result{Side: A, Cause: Reset}
		},
		"the lot ends first": func(_ *Pair, stop func(), client, server *net.TCPConn) Result {
			stop()
			echoOnce(t, client, server, 'x')
			_, _ = client.Close(), server.Close()
			return Result{AtoB: 1, Cause: Closed}
		},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, stop := context.WithCancel(t.Context())
			l, ended := &Lot{}, make(chan error, 1)
			go func() { ended <- l.Run(ctx) }()
			for !l.isReady() {
				runtime.Gosched()
			}
			a, client := tcpPair(t)
			b, server := newSleeper(t)
			p, over := New(a, b, Options{Swept: true, Lot: l}), make(chan Result, 1)
			p.Start(func(r Result) { over <- r })
			p.dozeNow(t)
			for limit := time.Now().Add(10 * time.Second); l.parked() != 1; runtime.Gosched() {
				if time.Now().After(limit) {
					t.Fatalf("%d parked", l.parked())
				}
			}
			want := end(p, func() {
				stop()
				if err := <-ended; err != nil {
					t.Error(err)
				}
			}, client, server)
			got := <-over
			if got.Cause != want.Cause || got.AtoB != want.AtoB || want.Side != Neither && got.Side != want.Side ||
				want.Err != nil && !errors.Is(got.Err, want.Err) {
				t.Errorf("%+v", got)
			}
			if l.parked() != 0 {
				t.Errorf("%d are left", l.parked())
			}
			stop()
		})
	}
}

func TestSweptPairHoldsNoTimerAndEndsOnTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, client := memoryPair()
		b, server := memoryPair()
		const idle = 90*time.Second + 300*time.Millisecond
		p, over := New(a, b, Options{Idle: idle, Swept: true}), make(chan Result, 1)
		p.Start(func(r Result) { over <- r })
		go func() { _, _ = client.Write([]byte("x")) }()
		_, _ = server.Read(make([]byte, 1))
		start := time.Now()
		tick := time.NewTicker(SweepEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				p.Sweep()
				if since := time.Since(start); since < idle-2*SweepEvery && p.timer != nil {
					t.Fatalf("a timer after %v", since)
				}
			case r := <-over:
				if took := time.Since(start); took != idle || r.Cause != Idle {
					t.Errorf("ended after %v: %+v", took, r)
				}
				return
			}
		}
	})
}
