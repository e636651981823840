package splice

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// tcpPair returns the two ends of a TCP connection; the first is the one the proxy would hold.
func tcpPair(tb testing.TB) (*net.TCPConn, *net.TCPConn) {
	tb.Helper()
	return socketPair[*net.TCPConn](tb, "tcp", "127.0.0.1:0")
}

func socketPair[C net.Conn](tb testing.TB, network, address string) (held, far C) {
	tb.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close()
	out, err := net.Dial(network, l.Addr().String())
	if err != nil {
		tb.Fatal(err)
	}
	in, err := l.Accept()
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = in.Close(); _ = out.Close() })
	return in.(C), out.(C)
}

// plain hides what a conn can do beyond Conn; aborted counts.
type plain struct {
	Conn
	mu      sync.Mutex
	aborted int
}

func (p *plain) Abort() {
	p.mu.Lock()
	p.aborted++
	p.mu.Unlock()
	abort(p.Conn)
}

// framed is a conn that wants headroom and waits without a buffer.
type framed struct {
	*plain
	t testing.TB
}

func (f framed) Headroom() int { return 12 }

func (f framed) WriteHeadroom(b []byte) (int, error) {
	copy(b, "headroom....") // must not reach the payload
	return f.Conn.Write(b[12:])
}

func (f framed) AwaitRead() error { return nil }

// ways are the conns that take another way through the room.
func ways(t *testing.T) map[string]func() (held Conn, far *net.TCPConn) {
	return map[string]func() (Conn, *net.TCPConn){
		"tcp":    func() (Conn, *net.TCPConn) { a, b := tcpPair(t); return a, b },
		"plain":  func() (Conn, *net.TCPConn) { a, b := tcpPair(t); return &plain{Conn: a}, b },
		"framed": func() (Conn, *net.TCPConn) { a, b := tcpPair(t); return framed{&plain{Conn: a}, t}, b },
	}
}

func run(ctx context.Context, a, b Conn, o Options) chan Result {
	done := make(chan Result, 1)
	go func() { done <- Both(ctx, a, b, o) }()
	return done
}

// result runs p to its end.
func result(p *Pair) Result {
	done := make(chan Result, 1)
	p.Start(func(r Result) { done <- r })
	return <-done
}

func TestBytesAndHalfCloses(t *testing.T) {
	for nameA, makeA := range ways(t) {
		for nameB, makeB := range ways(t) {
			t.Run(nameA+"-"+nameB, func(t *testing.T) {
				a, client := makeA()
				b, server := makeB()
				done := run(t.Context(), a, b, Options{Idle: time.Minute})
				up, down := make([]byte, 1<<20+17), make([]byte, 300<<10+1)
				source := rand.NewChaCha8([32]byte{1})
				_, _ = source.Read(up)
				_, _ = source.Read(down)
				go func() { // the server answers once it has everything: the half-close must have come through
					got, err := io.ReadAll(server)
					if err != nil || !bytes.Equal(got, up) {
						t.Errorf("server: %d octets, %v", len(got), err)
					}
					_, _ = server.Write(down)
					_ = server.CloseWrite()
				}()
				go func() {
					for rest := up; len(rest) > 0; {
						n := min(len(rest), 1+rand.IntN(200<<10))
						_, _ = client.Write(rest[:n])
						rest = rest[n:]
					}
					_ = client.CloseWrite()
				}()
				got, err := io.ReadAll(client)
				if err != nil || !bytes.Equal(got, down) {
					t.Errorf("client: %d octets, %v", len(got), err)
				}
				want := Result{AtoB: int64(len(up)), BtoA: int64(len(down)), Side: A, Cause: Closed}
				if r := <-done; r != want {
					t.Errorf("%+v", r)
				}
			})
		}
	}
}

func TestResetIsPassedOn(t *testing.T) {
	for nameA, makeA := range ways(t) {
		for nameB, makeB := range ways(t) {
			t.Run(nameA+"-"+nameB, func(t *testing.T) {
				a, client := makeA()
				b, server := makeB()
				done := run(t.Context(), a, b, Options{})
				_, _ = client.Write([]byte("x"))
				if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
					t.Fatal(err)
				}
				_ = client.SetLinger(0)
				_ = client.Close()
				if _, err := server.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("the server got %v", err)
				}
				if r := <-done; r.Cause != Reset || r.Side != A || r.Err == nil || r.AtoB != 1 {
					t.Errorf("%+v", r)
				}
			})
		}
	}
}

func TestCancelResetsBothSides(t *testing.T) {
	for name, make1 := range ways(t) {
		t.Run(name, func(t *testing.T) {
			a, client := make1()
			b, server := make1()
			ctx, cancel := context.WithCancelCause(t.Context())
			done := run(ctx, a, b, Options{})
			_, _ = client.Write([]byte("x"))
			_, _ = io.ReadFull(server, make([]byte, 1))
			revoked := errors.New("revoked")
			cancel(revoked)
			if r := <-done; r.Cause != Cancelled || r.Side != Neither || !errors.Is(r.Err, revoked) {
				t.Errorf("%+v", r)
			}
			for _, c := range []*net.TCPConn{client, server} {
				if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
					t.Errorf("an end got %v", err)
				}
			}
		})
	}
}

// memory is a conn in memory with half-close, for virtual time.
type memory struct {
	*io.PipeReader
	*io.PipeWriter
}

func (m memory) Close() error      { _ = m.PipeReader.Close(); return m.PipeWriter.Close() }
func (m memory) CloseWrite() error { return m.PipeWriter.Close() }

func memoryPair() (held, far memory) {
	r1, w1 := io.Pipe()
	r2, w2 := io.Pipe()
	return memory{r1, w2}, memory{r2, w1}
}

func TestIdleLimitCountsBothDirections(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, client := memoryPair()
		b, server := memoryPair()
		const idle = time.Minute
		start := time.Now()
		done := run(t.Context(), a, b, Options{Idle: idle})
		for i := range 10 { // now one direction, now the other: never both at once, never idle
			<-time.After(idle - time.Second)
			from, to := client, server
			if i%2 == 1 {
				from, to = server, client
			}
			go func() { _, _ = from.Write([]byte("x")) }()
			if _, err := to.Read(make([]byte, 1)); err != nil {
				t.Fatalf("after %v: %v", time.Since(start), err)
			}
		}
		last := time.Now()
		r := <-done
		if took := time.Since(last); took != idle || r.Cause != Idle || r.AtoB != 5 || r.BtoA != 5 {
			t.Errorf("ended %v after the last byte: %+v", took, r)
		}
	})
}

func TestIdleLimitHoldsAfterAHalfClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, client := memoryPair()
		b, server := memoryPair()
		done := run(t.Context(), a, b, Options{Idle: time.Minute})
		_ = client.CloseWrite()
		if _, err := server.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the server got %v", err)
		}
		if r := <-done; r.Cause != Idle || r.Side != Neither {
			t.Errorf("%+v", r)
		}
	})
}

func TestIdleLimitInsideTheKernel(t *testing.T) {
	a, client := tcpPair(t)
	b, server := tcpPair(t)
	const idle = 150 * time.Millisecond
	done := run(t.Context(), a, b, Options{Idle: idle})
	tick := time.NewTicker(idle / 3)
	defer tick.Stop()
	for range 6 { // twice the limit
		<-tick.C
		_, _ = client.Write([]byte("x"))
		if _, err := io.ReadFull(server, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	last := time.Now()
	r := <-done
	if took := time.Since(last); r.Cause != Idle || r.AtoB != 6 || took < idle-10*time.Millisecond {
		t.Errorf("ended %v after the last byte: %+v", took, r)
	}
}

func TestFailureOfOneSideNamesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		broken := errors.New("broken")
		a, client := memoryPair()
		b, server := memoryPair()
		done := run(t.Context(), a, b, Options{})
		_ = server.PipeReader.CloseWithError(broken) // b's writes fail
		_, _ = client.Write([]byte("x"))
		if r := <-done; r.Cause != Failed || r.Side != B || !errors.Is(r.Err, broken) {
			t.Errorf("%+v", r)
		}
		if _, err := client.Write([]byte("x")); err == nil {
			t.Error("the other side does not notice")
		}
	})
}

// TestSlowReaderStopsTheWriter measures what the way holds when nobody reads: no more than sockets and one buffer.
func TestSlowReaderStopsTheWriter(t *testing.T) {
	a, client := tcpPair(t)
	b, server := tcpPair(t)
	_ = client.SetWriteBuffer(64 << 10)
	_ = a.SetReadBuffer(64 << 10)
	_ = b.SetWriteBuffer(64 << 10)
	_ = server.SetReadBuffer(64 << 10)
	done := run(t.Context(), &plain{Conn: a}, &plain{Conn: b}, Options{})
	_ = client.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
	n, err := client.Write(make([]byte, 64<<20))
	if err == nil || n > 4<<20 {
		t.Errorf("%d octets went in with nobody reading, %v", n, err)
	}
	_ = client.CloseWrite()
	got, err := io.Copy(io.Discard, server)
	if got != int64(n) || err != nil {
		t.Errorf("%d of %d octets came out, %v", got, n, err)
	}
	_ = server.Close()
	<-done
}

func TestIdleConnectionsHoldNoBuffer(t *testing.T) {
	const pairs = 64
	ctx, cancel := context.WithCancel(t.Context())
	var before, after runtime.MemStats
	var done []chan Result
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range pairs {
		held, far := socketPair[*net.UnixConn](t, "unix", filepath.Join(t.TempDir(), "s"))
		b, server := tcpPair(t)
		done = append(done, run(ctx, held, b, Options{}))
		_, _ = far.Write([]byte("x"))
		_, _ = io.ReadFull(server, make([]byte, 1))
		_, _ = server.Write([]byte("y"))
		_, _ = io.ReadFull(far, make([]byte, 1))
	}
	runtime.GC()
	runtime.GC() // the second one empties the pool
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > pairs*bufferSize/4 {
		t.Errorf("%d idle connections hold %d octets", pairs, grown)
	}
	cancel()
	for _, d := range done {
		<-d
	}
}

func TestReadAheadOfCloseIsDelivered(t *testing.T) {
	a, client := tcpPair(t)
	b, server := tcpPair(t)
	done := run(t.Context(), &plain{Conn: a}, b, Options{})
	_, _ = client.Write([]byte("last words"))
	_ = client.Close()
	got, err := io.ReadAll(server)
	if string(got) != "last words" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_ = server.Close()
	<-done
}

func TestReadNowNeverWaits(t *testing.T) {
	a, client := tcpPair(t)
	b := make([]byte, 8)
	if n, err := ReadNow(a, b); n != 0 || err != nil {
		t.Errorf("nothing there: %d, %v", n, err)
	}
	_, _ = client.Write([]byte("hello"))
	_ = client.CloseWrite()
	await := func(want int, end error) {
		t.Helper()
		for limit := time.Now().Add(5 * time.Second); ; {
			n, err := ReadNow(a, b)
			if n == want && errors.Is(err, end) {
				return
			}
			if n != 0 || err != nil || time.Now().After(limit) {
				t.Fatalf("%d, %v", n, err)
			}
			runtime.Gosched()
		}
	}
	await(5, nil)
	await(0, io.EOF)
	_ = a.Close()
	if _, err := ReadNow(a, b); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed: %v", err)
	}
	held, _ := memoryPair()
	if n, err := ReadNow(held, b); n != 0 || err != nil {
		t.Errorf("no socket: %d, %v", n, err)
	}
}

func TestCancelBeforeRun(t *testing.T) {
	a, client := tcpPair(t)
	b, server := tcpPair(t)
	p := New(a, b, Options{Idle: time.Minute})
	revoked := errors.New("revoked")
	p.Cancel(revoked)
	if r := result(p); r.Cause != Cancelled || !errors.Is(r.Err, revoked) {
		t.Errorf("%+v", r)
	}
	p.Cancel(errors.New("too late"))
	for _, c := range []*net.TCPConn{client, server} {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("an end got %v", err)
		}
	}
}

// counting counts half-closes.
type counting struct {
	Conn
	halfCloses *atomic.Int32
}

func (c counting) CloseWrite() error {
	c.halfCloses.Add(1)
	return c.Conn.CloseWrite()
}

// TestSecondEndIsTheClose: the system call that would say what the Close says at once is saved.
func TestSecondEndIsTheClose(t *testing.T) {
	a, client := tcpPair(t)
	b, server := tcpPair(t)
	var n atomic.Int32
	done := run(t.Context(), counting{a, &n}, counting{b, &n}, Options{})
	_, _ = client.Write([]byte("question"))
	_ = client.CloseWrite()
	if got, err := io.ReadAll(server); string(got) != "question" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_, _ = server.Write([]byte("answer"))
	_ = server.CloseWrite()
	if got, err := io.ReadAll(client); string(got) != "answer" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if r := <-done; r.Cause != Closed || n.Load() != 1 {
		t.Errorf("%d half-closes, %+v", n.Load(), r)
	}
}

func BenchmarkNewConnection(b *testing.B) {
	for range b.N {
		x, client := tcpPair(b)
		y, server := tcpPair(b)
		done := run(context.Background(), &plain{Conn: x}, y, Options{})
		_ = client.Close()
		_ = server.Close()
		<-done
	}
}

func BenchmarkBulk(b *testing.B) {
	for name, hide := range map[string]func(*net.TCPConn) Conn{
		"kernel":  func(c *net.TCPConn) Conn { return c },
		"copying": func(c *net.TCPConn) Conn { return framed{&plain{Conn: c}, b} },
	} {
		b.Run(name, func(b *testing.B) {
			x, client := tcpPair(b)
			y, server := tcpPair(b)
			done := run(context.Background(), x, hide(y), Options{})
			received := make(chan struct{})
			go func() { _, _ = io.Copy(io.Discard, server); close(received) }()
			chunk := make([]byte, 128<<10)
			b.SetBytes(int64(len(chunk)))
			for b.Loop() {
				_, _ = client.Write(chunk)
			}
			_ = client.CloseWrite()
			<-received
			_ = server.Close()
			_ = client.Close()
			<-done
		})
	}
}
