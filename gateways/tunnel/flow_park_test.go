package tunnel

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// sleepy is an echo whose reader parks when nothing has come for a while.
func sleepy(_ context.Context, in *Incoming) {
	if in.Accept() == nil && in.Flush() == nil {
		_, _ = io.Copy(&in.Flow, sleeper{f: &in.Flow})
		_ = in.CloseWrite()
	}
}

// sleeper reads a flow, parked whenever it has to wait.
type sleeper struct {
	f     *Flow
	slept *int
}

func (s sleeper) Read(b []byte) (int, error) {
	for {
		_ = s.f.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
		n, err := s.f.Read(b)
		if n > 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return n, err
		}
		_ = s.f.SetReadDeadline(time.Time{})
		woken := make(chan struct{})
		if s.f.Park(func() { close(woken) }) {
			if s.slept != nil {
				*s.slept++
			}
			<-woken
		} else if err := s.f.AwaitRead(); err != nil {
			return 0, err
		}
	}
}

func TestParkedReaderIsWoken(t *testing.T) {
	for name, end := range map[string]struct {
		do   func(p *pair, f *Flow) error
		want func(err error) bool
		took time.Duration
	}{
		"bytes": {func(_ *pair, f *Flow) error { _, err := f.Write([]byte("x")); return err },
			func(err error) bool { return err == nil }, oneWay},
		"the end": {func(_ *pair, f *Flow) error { return f.CloseWrite() }, func(err error) bool { return errors.Is(err, io.EOF) }, oneWay},
		"a reset": {func(_ *pair, f *Flow) error { f.Abort(); return nil },
			func(err error) bool { _, ok := is[*ResetError](err); return ok }, oneWay},
		"own reset": {func(p *pair, f *Flow) error { p.flowAt(p.east, f).Abort(); return nil },
			func(err error) bool { _, ok := is[*ResetError](err); return ok }, 0},
		"the end of its session": {func(_ *pair, f *Flow) error { f.session.close(closeRevoked, "a test"); return nil },
			func(err error) bool { return errors.Is(err, syscall.ECONNRESET) }, oneWay},
	} {
		t.Run(name, func(t *testing.T) {
			var parked chan struct{} // of the bubble
			var read chan error
			serve := func(_ context.Context, in *Incoming) {
				_ = in.Accept()
				b := make([]byte, 4)
				_, _ = in.Read(b)
				_ = in.SetReadDeadline(past)
				_, _ = in.Read(b)
				_ = in.SetReadDeadline(time.Time{})
				woken := make(chan struct{})
				if !in.Park(func() { close(woken) }) {
					t.Error("it has not parked")
				}
				close(parked)
				<-woken
				_, err := in.Read(b)
				read <- err
			}
			simulate(t, oneWay, serve, func(t *testing.T, p *pair) {
				parked, read = make(chan struct{}), make(chan error, 1)
				f := mustOpen(t, p.west, east)
				defer f.Abort()
				_, _ = f.Write([]byte("hi"))
				<-parked
				<-time.After(time.Second)
				start := time.Now()
				if err := end.do(p, f); err != nil {
					t.Fatal(err)
				}
				if err := <-read; !end.want(err) || time.Since(start) > end.took+oneWay {
					t.Errorf("read %v after %v", err, time.Since(start))
				}
			})
		})
	}
}

// flowAt is f's other end.
func (p *pair) flowAt(g *gateway, f *Flow) *Flow {
	peer := east
	if g == p.east {
		peer = west
	}
	for _, other := range g.peer(peer).remotes.flows() {
		if other.id == f.id {
			return other
		}
	}
	return nil
}

// TestParkedReadersMissNothing has readers at both ends park again and again, while packets are lost and sessions die.
func TestParkedReadersMissNothing(t *testing.T) {
	for name, bad := range map[string]bool{"a good path": false, "loss and deaths": true} {
		t.Run(name, func(t *testing.T) {
			simulate(t, oneWay, sleepy, func(t *testing.T, p *pair) {
				eventually(t, func() bool { return len(p.sessionsAt(p.west)) == quicSessions })
				var talking sync.WaitGroup
				slept := make([]int, 8)
				for i := range slept {
					f := mustOpen(t, p.west, east)
					talking.Go(func() {
						defer f.Close()
						r := rand.New(rand.NewPCG(uint64(i), 1))
						from := sleeper{f, &slept[i]}
						for round := range 100 {
							b := make([]byte, 1+r.IntN(3000))
							pattern(b, 0, uint64(round))
							got, read := make([]byte, len(b)), make(chan error, 1)
							go func() {
								_, err := io.ReadFull(from, got)
								read <- err
							}()
							// Now and then the reader waits long enough to park.
							<-time.After(time.Duration(r.IntN(60)) * time.Millisecond)
							if _, err := f.Write(b[:len(b)/2]); err != nil {
								t.Errorf("write: %v", err)
								return
							}
							<-time.After(time.Duration(r.IntN(100)) * time.Millisecond)
							if _, err := f.Write(b[len(b)/2:]); err != nil {
								t.Errorf("write: %v", err)
								return
							}
							if err := <-read; err != nil || string(got) != string(b) {
								t.Errorf("flow %d, round %d: %v", i, round, err)
								return
							}
						}
						if err := f.CloseWrite(); err != nil {
							t.Error(err)
						}
						if n, err := from.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
							t.Errorf("the end: %d, %v", n, err)
						}
					})
				}
				done := make(chan struct{})
				go func() { talking.Wait(); close(done) }()
				if bad {
					p.net.percent.Store(2)
				}
				r := rand.New(rand.NewPCG(5, 6))
				for over := false; !over; {
					if bad {
						p.breakOne(r)
					}
					select {
					case <-done:
						over = true
					case <-time.After(time.Duration(r.IntN(2000)) * time.Millisecond):
					}
				}
				p.net.percent.Store(0)
				for i, n := range slept {
					if n == 0 {
						t.Errorf("flow %d has never parked", i)
					}
				}
				settles(t, p)
			})
		})
	}
}

// TestSleepCrossesBytes has the word that a reader sleeps cross bytes on their way to it.
func TestSleepCrossesBytes(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		if err := exchangeBytes(f, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		other := p.flowAt(p.east, f)
		for wait := range 80 * time.Millisecond / time.Millisecond { // of a tick, and on the way
			_ = f.SetReadDeadline(past)
			_, _ = f.Read(make([]byte, 1))
			_ = f.SetReadDeadline(time.Time{})
			woken := make(chan struct{})
			if !f.Park(func() { close(woken) }) {
				t.Fatal("it has not parked")
			}
			<-time.After(wait * time.Millisecond)
			if _, err := other.Write([]byte("!")); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			<-woken
			if _, err := f.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(start); took > 3*oneWay+tickEvery {
				t.Errorf("after %d ms it took %v", wait, took)
			}
			synctest.Wait()
		}
	})
}

// TestSleepOfAnUnknownFlowIsAnswered: it has ended at the other end, which is still to be read.
func TestSleepOfAnUnknownFlowIsAnswered(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		if err := exchangeBytes(f, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		other := p.flowAt(p.east, f)
		other.far.forget(other, true)
		woken := make(chan struct{})
		_ = f.SetReadDeadline(past)
		_, _ = f.Read(make([]byte, 1))
		_ = f.SetReadDeadline(time.Time{})
		if !f.Park(func() { close(woken) }) {
			t.Fatal("it has not parked")
		}
		select {
		case <-woken:
		case <-time.After(time.Second):
			t.Error("nobody has woken it")
		}
		other.Abort()
		if err := p.sessionsAt(p.west)[0].onWake(flow.Consumed{ID: flow.ID{9}}.Append(nil)); err != nil {
			t.Errorf("a wake of nobody: %v", err)
		}
	})
}
