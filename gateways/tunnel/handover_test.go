package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// sessionsTo are the sessions of g with peer that are alive.
func (p *pair) sessionsAt(g *gateway) []*session {
	peer := east
	if g == p.east {
		peer = west
	}
	return *g.peer(peer).table.Load()
}

// breakOne ends one session as a broken path would, at either end.
func (p *pair) breakOne(r *rand.Rand) {
	g := p.west
	if r.IntN(2) == 0 {
		g = p.east
	}
	if all := p.sessionsAt(g); len(all) > 1 {
		all[r.IntN(len(all))].close(closeSilent, "a test")
	}
}

// pattern is a sequence of octets of which every place can be told from every other.
func pattern(b []byte, offset uint64, seed uint64) {
	for i := range b {
		at := offset + uint64(i)
		var word [8]byte
		binary.BigEndian.PutUint64(word[:], (at/8+seed)*0x9E3779B97F4A7C15)
		b[i] = word[at%8]
	}
}

// converse sends octets through an echo until enough is closed, and checks what comes back.
func converse(t *testing.T, f *Flow, seed uint64, enough <-chan struct{}) (total uint64) {
	var sending sync.WaitGroup
	var sent uint64
	r := rand.New(rand.NewPCG(seed, 7))
	sending.Go(func() {
		for {
			select {
			case <-enough:
				if err := f.CloseWrite(); err != nil {
					t.Errorf("flow %d: close: %v", seed, err)
				}
				return
			case <-time.After(time.Duration(r.IntN(60)) * time.Millisecond):
			}
			b := make([]byte, 1+r.IntN(1<<uint(4+r.IntN(14))))
			pattern(b, sent, seed)
			n, err := f.Write(b)
			if sent += uint64(n); err != nil {
				t.Errorf("flow %d: write after %d: %v", seed, sent, err)
				return
			}
		}
	})
	got, want := make([]byte, 64<<10), make([]byte, 64<<10)
	for {
		n, err := f.Read(got)
		pattern(want[:n], total, seed)
		if !bytes.Equal(got[:n], want[:n]) {
			t.Errorf("flow %d: other bytes at %d", seed, total)
			f.Abort()
			break
		}
		total += uint64(n)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Errorf("flow %d: read after %d: %v", seed, total, err)
			break
		}
	}
	sending.Wait()
	if total != sent {
		t.Errorf("flow %d: %d of %d octets came back", seed, total, sent)
	}
	_ = f.Close()
	return total
}

// TestAThousandDeathsAndNoReset breaks session after session under several flows.
func TestAThousandDeathsAndNoReset(t *testing.T) {
	deaths := 1000
	if testing.Short() {
		deaths = 100
	}
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		eventually(t, func() bool {
			return len(p.sessionsAt(p.west)) == quicSessions && len(p.sessionsAt(p.east)) == quicSessions
		})
		enough := make(chan struct{})
		var talking sync.WaitGroup
		for i := range 4 {
			from, to := p.west, east
			if i%2 == 1 {
				from, to = p.east, west
			}
			f := mustOpen(t, from, to)
			talking.Go(func() { converse(t, f, uint64(i), enough) })
		}
		r := rand.New(rand.NewPCG(3, 4))
		<-time.After(time.Second)
		for range deaths {
			p.breakOne(r)
			<-time.After(time.Duration(r.IntN(200)) * time.Millisecond)
		}
		close(enough)
		talking.Wait()
		settles(t, p)
	})
}

// settles waits until neither end remembers anything of any flow.
func settles(t *testing.T, p *pair) {
	t.Helper()
	eventually(t, func() bool { return p.west.Path(east).Flows == 0 && p.east.Path(west).Flows == 0 })
	for _, at := range []*peer{p.west.peer(east), p.east.peer(west)} {
		eventually(t, func() bool { return at.kept.Load() == 0 })
		for _, r := range at.remotes.all {
			eventually(t, func() bool { return len(r.all()) == 0 })
		}
	}
}

func TestAllSessionsDieAndOneComesBack(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		if err := exchangeBytes(f, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		quiet := mustOpen(t, p.west, east)
		if err := exchangeBytes(quiet, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		for range 3 {
			p.net.cut.Store(true)
			eventually(t, func() bool { return len(p.sessionsAt(p.west)) == 0 && len(p.sessionsAt(p.east)) == 0 })
			wrote := make(chan error, 1)
			go func() { wrote <- exchangeBytes(f, make([]byte, 1<<20)) }()
			<-time.After(2 * time.Second)
			p.net.cut.Store(false)
			if err := <-wrote; err != nil {
				t.Fatalf("the flow was not held: %v", err)
			}
			if err := exchangeBytes(quiet, []byte("still here")); err != nil {
				t.Fatalf("a quiet flow was not held: %v", err)
			}
		}
		_, _ = f.Close(), quiet.Close()
		settles(t, p)
	})
}

func TestHeldFlowsAreGivenUp(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		if err := exchangeBytes(f, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		p.net.cut.Store(true)
		eventually(t, func() bool { return len(p.sessionsAt(p.west)) == 0 })
		start := time.Now()
		_, err := f.Read(make([]byte, 1))
		if _, ok := is[*PathError](err); !ok || time.Since(start) > resumeLimit+time.Second || time.Since(start) < resumeLimit-time.Second {
			t.Errorf("ended with %v after %v", err, time.Since(start))
		}
		if _, err := f.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("Write: %v", err)
		}
		eventually(t, func() bool { return len(p.sessionsAt(p.east)) == 0 })
		<-time.After(memoryLimit + 2*lingerFlow)
		for _, at := range []*peer{p.west.peer(east), p.east.peer(west)} {
			at.remotes.mu.Lock()
			if n := len(at.remotes.all); n != 0 {
				t.Errorf("%d gateways are remembered", n)
			}
			at.remotes.mu.Unlock()
		}
	})
}

// TestAnswererAloneHasLostItsCarrier lets the answerer lose a carrier that the opener has just attached and takes for good, as when
// the reset of a lane is lost: the opener has to hear of it although it believes the first wish to be an old one.
func TestAnswererAloneHasLostItsCarrier(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		eventually(t, func() bool { return len(p.sessionsAt(p.west)) == quicSessions })
		f := mustOpen(t, p.west, east)
		if err := exchangeBytes(f, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		for range 5 {
			f.session.close(closeSilent, "a test")
			if err := exchangeBytes(f, []byte("elsewhere")); err != nil {
				t.Fatal(err)
			}
			other := p.east.peer(west).remotes.flows()[0]
			other.mu.Lock()
			for _, l := range other.everyLeg() {
				other.drop(l)
				_ = l.c.SetReadDeadline(past)
			}
			other.want()
			other.mu.Unlock()
			_ = f.SetReadDeadline(time.Now().Add(2*settleDown + time.Second))
			if err := exchangeBytes(f, make([]byte, 100<<10)); err != nil {
				t.Fatal(err)
			}
			_ = f.SetReadDeadline(time.Time{})
		}
		_ = f.Close()
		settles(t, p)
	})
}

func TestUnacceptedFlowFailsAtOnce(t *testing.T) {
	hold := func(ctx context.Context, in *Incoming) { <-ctx.Done() }
	simulate(t, oneWay, hold, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		_, _ = f.Write([]byte("hello"))
		<-time.After(time.Second)
		p.net.cut.Store(true)
		start := time.Now()
		err := f.WaitAccept(t.Context())
		if _, ok := is[*PathError](err); !ok || time.Since(start) > 2*time.Second {
			t.Errorf("ended with %v after %v", err, time.Since(start))
		}
		_ = f.Close()
		eventually(t, func() bool { return len(p.east.peer(west).remotes.flows()) == 0 }) // and so does the other end
		if took := time.Since(start); took > 2*time.Second {
			t.Errorf("the answerer gave up after %v", took)
		}
	})
}

// flows returns every flow, for tests.
func (g *remotes) flows() []*Flow {
	g.mu.Lock()
	defer g.mu.Unlock()
	var all []*Flow
	for _, r := range g.all {
		for i := range r.shards {
			sh := &r.shards[i]
			sh.mu.Lock()
			for _, f := range sh.flows {
				if f.sides.Load() != sideBoth {
					all = append(all, f)
				}
			}
			sh.mu.Unlock()
		}
	}
	return all
}

// TestOpenIsServedOnce breaks the session at every moment of the first two round trips.
func TestOpenIsServedOnce(t *testing.T) {
	for at := time.Duration(0); at <= 2*rtt; at += 7 * time.Millisecond {
		var mu sync.Mutex
		served := map[[16]byte]int{}
		count := func(ctx context.Context, in *Incoming) {
			mu.Lock()
			served[in.ID()]++
			mu.Unlock()
			<-time.After(15 * time.Millisecond) // an instance is being dialled
			echo(ctx, in)
		}
		simulate(t, oneWay, count, func(t *testing.T, p *pair) {
			eventually(t, func() bool {
				return len(p.sessionsAt(p.west)) == quicSessions && len(p.sessionsAt(p.east)) == quicSessions
			})
			var flows []*Flow
			for range 20 {
				f := mustOpen(t, p.west, east)
				flows = append(flows, f)
				_, _ = f.Write([]byte("hello"))
			}
			<-time.After(at)
			for _, s := range p.sessionsAt(p.west)[:2] {
				s.close(closeSilent, "a test")
			}
			for _, f := range flows {
				b := make([]byte, 5)
				if _, err := io.ReadFull(f, b); err != nil || string(b) != "hello" {
					t.Errorf("broken after %v: read %q, %v", at, b, err)
				}
				_ = f.Close()
			}
			mu.Lock()
			defer mu.Unlock()
			for _, f := range flows {
				if n := served[f.ID()]; n != 1 {
					t.Errorf("broken after %v: a flow was served %d times", at, n)
				}
			}
		})
	}
}

// TestEndsCrossAHandover ends flows in every way while their sessions die.
func TestEndsCrossAHandover(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		r := rand.New(rand.NewPCG(5, 6))
		for i := range 200 {
			eventually(t, func() bool { return len(p.sessionsAt(p.west)) > 1 && len(p.sessionsAt(p.east)) > 1 })
			f := mustOpen(t, p.west, east)
			if err := exchangeBytes(f, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			data := make([]byte, r.IntN(200<<10))
			pattern(data, 0, uint64(i))
			go func() {
				_, _ = f.Write(data)
				_ = f.CloseWrite()
			}()
			<-time.After(time.Duration(r.IntN(80)) * time.Millisecond)
			f.mu.Lock()
			s := f.session
			f.mu.Unlock()
			s.close(closeSilent, "a test")
			switch i % 4 {
			case 0, 1, 2:
				back, err := io.ReadAll(f)
				if err != nil || !bytes.Equal(back, data) {
					t.Fatalf("flow %d: %d of %d octets came back, %v", i, len(back), len(data), err)
				}
				_ = f.Close()
			case 3:
				f.Reset(flow.ResetIdle)
			}
		}
		settles(t, p)
	})
}

func TestRefusalCrossesAHandover(t *testing.T) {
	refuse := func(_ context.Context, in *Incoming) {
		<-time.After(50 * time.Millisecond)
		_ = in.Report(flow.Outcome{Instance: "a", Result: flow.ResultUnreachable})
		_ = in.Refuse(flow.RefusedUnavailable, "no healthy instance")
	}
	for _, at := range []time.Duration{30, 60, 75, 85} {
		simulate(t, oneWay, refuse, func(t *testing.T, p *pair) {
			eventually(t, func() bool {
				return len(p.sessionsAt(p.west)) == quicSessions && len(p.sessionsAt(p.east)) == quicSessions
			})
			f := mustOpen(t, p.west, east)
			_, _ = f.Write([]byte("hello"))
			<-time.After(at * time.Millisecond)
			f.session.close(closeSilent, "a test")
			err := f.WaitAccept(t.Context())
			if got, ok := is[*RefusedError](err); !ok || got.Code != flow.RefusedUnavailable || len(f.Outcomes()) != 1 {
				t.Errorf("broken after %v: %v, %v", at, err, f.Outcomes())
			}
			_ = f.Close()
			settles(t, p)
		})
	}
}

func TestClosedOnPurposeEndsFlows(t *testing.T) {
	for _, code := range []quic.ApplicationErrorCode{closeRevoked, closeForgotten, closeProtocol, closeShutdown, closeDraining} {
		simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
			eventually(t, func() bool { return len(p.sessionsAt(p.west)) == quicSessions })
			f := mustOpen(t, p.west, east)
			if err := exchangeBytes(f, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			f.session.close(code, "a test")
			if _, err := f.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) || time.Since(start) > 0 {
				t.Errorf("code %d: %v after %v", code, err, time.Since(start))
			}
			settles(t, p)
		})
	}
}

func TestHostileAttach(t *testing.T) {
	meetStranger(t, func(c *Config) { c.OnFlow = echo }, func(t *testing.T, g *gateway, s *stranger) {
		conn := s.session(t)
		first := func(b []byte) flow.Type {
			if len(b) < flow.HeaderLen {
				return 0
			}
			return flow.ParseHeader(b).Type
		}
		unknown := flow.Attach{ID: flow.ID{1}, Heard: true}
		if b, _ := say(t, conn, unknown.Append(nil)); first(b) != flow.TypeUnknown {
			t.Errorf("a flow that nobody opened: %x", b)
		}
		open := openFrame(t, ownSource)
		id := flow.ID(open[flow.HeaderLen+2:])
		fin := flow.Header{Type: flow.TypeFin}.Append(nil)
		if b, _ := say(t, conn, append(open, fin...)); first(b) != flow.TypeAccept && first(b) != flow.TypeAck {
			t.Fatalf("%x", b)
		}
		// The flow has ended, and what ended it was never acknowledged: it must not be opened again.
		again := flow.Attach{ID: id, OrOpen: true}.Append(nil)
		b, _ := say(t, conn, append(append(again, open...), fin...))
		if first(b) != flow.TypeAck {
			t.Errorf("an ended flow that is still remembered: %x", b)
		}
		<-time.After(lingerFlow + 2*time.Second)
		if b, code := say(t, conn, append(append(again, open...), fin...)); len(b) > 0 || code != quic.StreamErrorCode(flow.ResetProtocol) {
			t.Errorf("an ended flow was opened again: %x, %d", b, code)
		}
		for name, b := range map[string][]byte{
			"own role":      flow.Attach{ID: id, Role: flow.Answerer, OrOpen: true}.Append(nil),
			"bad flags":     append(flow.Attach{ID: id}.Append(nil)[:flow.HeaderLen+16], 0xff),
			"not an OPEN":   append(flow.Attach{ID: flow.ID{2}, OrOpen: true}.Append(nil), fin...),
			"far too large": flow.Header{Type: flow.TypeAttach, Length: 1 << 20}.Append(nil),
		} {
			if answer, code := say(t, conn, b); code != quic.StreamErrorCode(flow.ResetProtocol) {
				t.Errorf("%s: %x and code %d", name, answer, code)
			}
		}
		for i := range 3000 { // a flood of them costs nothing that stays
			if b, _ := say(t, conn, flow.Attach{ID: flow.ID{9, byte(i >> 8), byte(i)}}.Append(nil)); first(b) != flow.TypeUnknown {
				t.Fatalf("attach %d: %x", i, b)
			}
		}
		eventually(t, func() bool { return g.Path(west).Flows == 0 && len(g.peer(west).remotes.flows()) == 0 })
		if conn.Context().Err() != nil {
			t.Errorf("the session ended: %v", context.Cause(conn.Context()))
		}
	})
}
