package l7

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sockets are the two ends of one connection over network.
func sockets(t *testing.T, network, address string) (a, b net.Conn) {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if a, err = net.Dial(network, l.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if b, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = a.Close()
		_ = b.Close()
	})
	return a, b
}

// TestClockedCarriesAll sends more than the socket buffers hold, in pieces of all sizes, to a reader that is slow at first.
func TestClockedCarriesAll(t *testing.T) {
	for _, of := range [][2]string{{"tcp", "127.0.0.1:0"}, {"unix", t.TempDir() + "/s"}} {
		a, b := sockets(t, of[0], of[1])
		from, to := &clocked{Conn: a.(Conn), direct: newDirect(a.(Conn))}, &clocked{Conn: b.(Conn), direct: newDirect(b.(Conn))}
		want := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
		var wg sync.WaitGroup
		wg.Go(func() {
			rest := want
			for size := 1; len(rest) > 0; size = (size*3 + 1) % (70 << 10) {
				n := min(size+1, len(rest))
				if k, err := from.Write(rest[:n]); k != n || err != nil {
					t.Errorf("wrote %d of %d: %v", k, n, err)
					break
				}
				rest = rest[n:]
			}
			_ = from.Close()
		})
		<-time.After(10 * time.Millisecond)
		var got bytes.Buffer
		for size := 1; ; size = (size*5 + 3) % (40 << 10) {
			p := make([]byte, size+1)
			n, err := to.Read(p)
			got.Write(p[:n])
			if err != nil {
				if err != io.EOF {
					t.Error(err)
				}
				break
			}
		}
		wg.Wait()
		if !bytes.Equal(got.Bytes(), want) {
			t.Errorf("%s: %d octets of %d, or others", of[0], got.Len(), len(want))
		}
	}
}

// TestClockedFailsAsTheSocketDoes compares the errors of the short way with those of the connection's own methods.
func TestClockedFailsAsTheSocketDoes(t *testing.T) {
	end := func(t *testing.T, what string) (direct, own error) {
		for _, short := range []bool{true, false} {
			a, b := sockets(t, "tcp", "127.0.0.1:0")
			c := &clocked{Conn: a.(Conn)}
			if short {
				c.direct = newDirect(c.Conn)
			}
			var err error
			p := make([]byte, 10)
			switch what {
			case "read after a reset":
				_ = b.(*net.TCPConn).SetLinger(0)
				_ = b.Close()
				_, err = c.Read(p)
			case "write after a reset":
				_ = b.(*net.TCPConn).SetLinger(0)
				_ = b.Close()
				_, _ = c.Conn.Read(p) // it has come
				_, err = c.Write(p)
			case "read past the deadline":
				_ = c.SetReadDeadline(past)
				c.mode = fixed
				_, err = c.Read(p)
			case "write past the deadline":
				c.held.Store(true)
				_ = c.SetWriteDeadline(past)
				_, err = c.Write(p)
			case "read after close":
				_ = c.Close()
				_, err = c.Read(p)
			case "close during read":
				timer := time.AfterFunc(20*time.Millisecond, func() { _ = c.Close() })
				_, err = c.Read(p)
				timer.Stop()
			}
			text := strings.NewReplacer(a.LocalAddr().String(), "A", a.RemoteAddr().String(), "B")
			var op *net.OpError
			if !errors.As(err, &op) {
				t.Fatalf("%s: %v", what, err)
			}
			t.Logf("%s", text.Replace(err.Error()))
			if short {
				direct = err
			} else {
				own = err
			}
			if got := text.Replace(op.Error()); !strings.HasPrefix(got, op.Op+" tcp A->B: ") {
				t.Errorf("%s: %q", what, got)
			}
		}
		return direct, own
	}
	for what, is := range map[string]error{
		"read after a reset": syscall.ECONNRESET, "write after a reset": syscall.EPIPE, "read past the deadline": os.ErrDeadlineExceeded,
		"write past the deadline": os.ErrDeadlineExceeded, "read after close": net.ErrClosed, "close during read": net.ErrClosed,
	} {
		direct, own := end(t, what)
		if !errors.Is(direct, is) || !errors.Is(own, is) {
			t.Errorf("%s: %v, and in the usual way %v", what, direct, own)
		}
		if a, b := errors.Unwrap(direct).Error(), errors.Unwrap(own).Error(); a != b {
			t.Errorf("%s: %q, and in the usual way %q", what, a, b)
		}
	}
}
