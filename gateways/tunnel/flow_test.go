package tunnel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

const (
	oneWay = 20 * time.Millisecond
	rtt    = 2 * oneWay
)

func TestFlowCostsOneRoundTrip(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		start := time.Now()
		f := mustOpen(t, p.west, east)
		defer f.Close()
		if _, err := f.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 16)
		n, err := f.Read(b)
		if err != nil || string(b[:n]) != "hello" {
			t.Fatalf("read %q, %v", b[:n], err)
		}
		if took := time.Since(start); took != rtt {
			t.Errorf("the first answer took %v: %v is one round trip", took, rtt)
		}
		if err := f.WaitAccept(t.Context()); err != nil {
			t.Errorf("WaitAccept after the first bytes: %v", err)
		}
	})
}

func TestOpenLeavesWithTheFirstBytes(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		<-time.After(time.Second + 50*time.Millisecond) // between two pings
		synctest.Wait()
		before := sentBy(p.west)
		f := mustOpen(t, p.west, east)
		defer f.Close()
		_, _ = f.Write([]byte("hello"))
		synctest.Wait()
		if packets := sentBy(p.west) - before; packets != 1 {
			t.Errorf("OPEN and the first bytes left in %d packets", packets)
		}
	})
}

func TestServerMaySpeakFirst(t *testing.T) {
	greet := func(_ context.Context, in *Incoming) {
		_ = in.Accept()
		_, _ = in.Write([]byte("220 ready"))
		_, _ = io.Copy(io.Discard, in)
	}
	for name, flush := range map[string]bool{"flushed": true, "left alone": false} {
		t.Run(name, func(t *testing.T) {
			simulate(t, oneWay, greet, func(t *testing.T, p *pair) {
				start := time.Now()
				f := mustOpen(t, p.west, east)
				defer f.Close()
				want := rtt + holdLimit
				if flush {
					want = rtt
					if err := f.Flush(); err != nil {
						t.Fatal(err)
					}
				}
				b := make([]byte, 16)
				n, err := f.Read(b)
				if err != nil || string(b[:n]) != "220 ready" {
					t.Fatalf("read %q, %v", b[:n], err)
				}
				if took := time.Since(start); took != want {
					t.Errorf("took %v: %v is what it costs", took, want)
				}
			})
		})
	}
}

func TestHalfCloseKeepsTheOtherDirection(t *testing.T) {
	count := func(_ context.Context, in *Incoming) {
		_ = in.Accept()
		all, err := io.ReadAll(in)
		if err != nil {
			return
		}
		sum := sha256.Sum256(all)
		_, _ = in.Write(sum[:])
		_ = in.CloseWrite()
	}
	simulate(t, oneWay, count, func(t *testing.T, p *pair) {
		data := make([]byte, 3<<20)
		_, _ = rand.NewChaCha8([32]byte{1}).Read(data)
		f := mustOpen(t, p.west, east)
		if n, err := f.Write(data); n != len(data) || err != nil {
			t.Fatalf("wrote %d, %v", n, err)
		}
		if err := f.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		answer, err := io.ReadAll(f)
		if want := sha256.Sum256(data); err != nil || !bytes.Equal(answer, want[:]) {
			t.Errorf("answer %x, %v", answer, err)
		}
		eventually(t, func() bool { return p.west.Path(east).Flows == 0 && p.east.Path(west).Flows == 0 })
		if err := f.Close(); err != nil {
			t.Errorf("close behind the end: %v", err)
		}
	})
}

func TestIdleFlowStays(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		defer f.Close()
		for _, idle := range []time.Duration{0, 10 * time.Minute} {
			<-time.After(idle)
			if _, err := io.WriteString(f, "still there?"); err != nil {
				t.Fatalf("after %v: %v", idle, err)
			}
			asked, answer := time.Now(), make([]byte, 12)
			if _, err := io.ReadFull(f, answer); err != nil || string(answer) != "still there?" {
				t.Fatalf("after %v: %q, %v", idle, answer, err)
			}
			if took := time.Since(asked); idle > 0 && took > 3*oneWay {
				t.Errorf("after %v the first answer took %v, and a round trip %v", idle, took, 2*oneWay)
			}
		}
	})
}

func TestBytesSurviveLoss(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		p.net.percent.Store(3)
		data := make([]byte, 400<<10)
		_, _ = rand.NewChaCha8([32]byte{2}).Read(data)
		f := mustOpen(t, p.west, east)
		defer f.Close()
		go func() {
			_, _ = f.Write(data)
			_ = f.CloseWrite()
		}()
		back, err := io.ReadAll(f)
		if err != nil || !bytes.Equal(back, data) {
			t.Errorf("%d of %d bytes came back, %v", len(back), len(data), err)
		}
		eventually(t, func() bool { return p.west.Path(east).Loss > 0.001 })
	})
}

func TestRefusalReachesTheOpener(t *testing.T) {
	refuse := func(_ context.Context, in *Incoming) {
		_ = in.Report(flow.Outcome{Instance: "a", Result: flow.ResultUnreachable})
		_ = in.Refuse(flow.RefusedUnavailable, "no healthy instance")
	}
	simulate(t, oneWay, refuse, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		_, _ = f.Write([]byte("hello"))
		err := f.WaitAccept(t.Context())
		want := &RefusedError{Code: flow.RefusedUnavailable, Peer: east, Reason: "no healthy instance"}
		if got, ok := is[*RefusedError](err); !ok || *got != *want {
			t.Fatalf("WaitAccept: %v", err)
		}
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("Read: %v", err)
		}
		if got := f.Outcomes(); len(got) != 1 || got[0].Result != flow.ResultUnreachable {
			t.Errorf("outcomes %v", got)
		}
		_ = f.Close()
		eventually(t, func() bool { return p.west.Path(east).Flows == 0 && p.east.Path(west).Flows == 0 })
	})
}

func TestUnansweredFlowIsRefused(t *testing.T) {
	simulate(t, oneWay, func(context.Context, *Incoming) {}, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		defer f.Close()
		if err := f.WaitAccept(t.Context()); !errors.Is(err, &RefusedError{Code: flow.RefusedInternal}) {
			t.Errorf("WaitAccept: %v", err)
		}
	})
}

func TestResetIsAReset(t *testing.T) {
	var ended chan error // of the bubble
	hold := func(_ context.Context, in *Incoming) {
		_ = in.Accept()
		_, err := io.Copy(io.Discard, in)
		ended <- err
	}
	simulate(t, oneWay, hold, func(t *testing.T, p *pair) {
		ended = make(chan error, 1)
		f := mustOpen(t, p.west, east)
		_, _ = f.Write([]byte("hello"))
		if err := f.WaitAccept(t.Context()); err != nil {
			t.Fatal(err)
		}
		f.Reset(flow.ResetIdle)
		err := <-ended
		if got, ok := is[*ResetError](err); !ok || got.Code != flow.ResetIdle || !got.Remote || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the answerer got %v", err)
		}
		if _, err := f.Write([]byte("more")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write behind Reset: %v", err)
		}
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Read behind Reset: %v", err)
		}
		eventually(t, func() bool { return p.west.Path(east).Flows == 0 && p.east.Path(west).Flows == 0 })
	})
}

func TestCloseUnblocksAWriter(t *testing.T) {
	hold := func(ctx context.Context, in *Incoming) { _ = in.Accept(); <-ctx.Done() }
	simulate(t, oneWay, hold, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		result := make(chan error, 1)
		var written int
		go func() {
			var err error
			var n int
			for err == nil {
				n, err = f.Write(make([]byte, 64<<10))
				written += n
			}
			result <- err
		}()
		<-time.After(20 * time.Second)
		select {
		case err := <-result:
			t.Fatalf("nobody reads, and the writer ended with %v after %d bytes", err, written)
		default:
		}
		_ = f.Close()
		if err := <-result; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the writer got %v", err)
		}
		const window = 16 << 20
		if written < window/2 || written > window+1<<20 {
			t.Errorf("%d bytes went into a window of %d", written, window)
		}
	})
}

func TestReadDeadlineDoesNotLoseItsPlace(t *testing.T) {
	slow := func(_ context.Context, in *Incoming) {
		_ = in.Accept()
		for range 5 {
			<-time.After(100 * time.Millisecond)
			_, _ = in.Write([]byte("tick"))
		}
		_ = in.CloseWrite()
	}
	simulate(t, oneWay, slow, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		defer f.Close()
		var got []byte
		timeouts := 0
		for {
			_ = f.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
			b := make([]byte, 3)
			n, err := f.Read(b)
			got = append(got, b[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				timeouts++
			}
		}
		if string(got) != "ticktickticktickticktick"[:20] || timeouts < 5 {
			t.Errorf("got %q with %d timeouts", got, timeouts)
		}
	})
}

func TestWaitAcceptEndsWithItsContext(t *testing.T) {
	hold := func(ctx context.Context, in *Incoming) { <-time.After(time.Second); echo(ctx, in) }
	simulate(t, oneWay, hold, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		defer f.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		start := time.Now()
		if err := f.WaitAccept(ctx); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 100*time.Millisecond {
			t.Fatalf("%v after %v", err, time.Since(start))
		}
		if err := f.WaitAccept(t.Context()); err != nil {
			t.Errorf("the second time: %v", err)
		}
		_, _ = f.Write([]byte("still good"))
		b := make([]byte, 10)
		if _, err := io.ReadFull(f, b); err != nil {
			t.Errorf("read %q, %v", b, err)
		}
	})
}

func TestOpenWithoutASessionFailsAtOnce(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		start := time.Now()
		_, err := p.west.Open(t.Context(), "nowhere", p.west.open())
		if !errors.Is(err, ErrNoPath) || federation.CodeOf(err) != federation.CodeNoPath || time.Since(start) != 0 {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}
