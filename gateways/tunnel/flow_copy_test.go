package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// once serves flows as echo does, and fails the test when it sees one twice.
func once(t *testing.T) func(context.Context, *Incoming) {
	var mu sync.Mutex
	seen := map[flow.ID]bool{}
	return func(ctx context.Context, in *Incoming) {
		mu.Lock()
		if seen[in.ID()] {
			t.Errorf("flow %x was served twice", in.ID())
		}
		seen[in.ID()] = true
		mu.Unlock()
		echo(ctx, in)
	}
}

// ask sends size octets over f and reads as many back.
func ask(f *Flow, size int, seed uint64) (time.Duration, error) {
	start := time.Now()
	b, got := make([]byte, size), make([]byte, size)
	pattern(b, 0, seed)
	if _, err := f.Write(b); err != nil {
		return 0, err
	}
	if _, err := io.ReadFull(f, got); err != nil {
		return 0, err
	}
	if !bytes.Equal(b, got) {
		return 0, errors.New("other bytes")
	}
	return time.Since(start), nil
}

// onLossyPath runs f when both ends have noticed that a share of all packets is lost.
func onLossyPath(t *testing.T, percent uint32, f func(t *testing.T, p *pair)) {
	simulate(t, 20*time.Millisecond, once(t), func(t *testing.T, p *pair) {
		eventually(t, func() bool {
			return len(p.sessionsAt(p.west)) == quicSessions && len(p.sessionsAt(p.east)) == quicSessions
		})
		p.net.percent.Store(percent)
		eventually(t, func() bool { return p.sessionsAt(p.west)[0].far.copies() && p.sessionsAt(p.east)[0].far.copies() })
		f(t, p)
	})
}

// TestASmallRequestIsNotHeldUpByALoss asks over new flows and over open ones on a path that loses one of 50 packets. A request that
// waits for QUIC to notice takes two and a half round trips.
func TestASmallRequestIsNotHeldUpByALoss(t *testing.T) {
	for name, fresh := range map[string]bool{"new flows": true, "open flows": false} {
		t.Run(name, func(t *testing.T) {
			onLossyPath(t, 2, func(t *testing.T, p *pair) {
				var took []time.Duration
				open := mustOpen(t, p.west, east)
				for i := range 1000 {
					f := open
					if fresh {
						f = mustOpen(t, p.west, east)
					}
					d, err := ask(f, 200+i, uint64(i))
					if err != nil {
						t.Fatalf("request %d: %v", i, err)
					}
					took = append(took, d)
					if fresh {
						_ = f.Close()
					}
					<-time.After(10 * time.Millisecond)
				}
				_ = open.Close()
				slices.Sort(took)
				far := p.west.peer(east)
				t.Logf("p50 %v, p99 %v, p99.7 %v; %d copies sent, %d of the other end's used", took[500], took[990], took[997],
					far.copied.Load(), far.needed.Load())
				if limit := 50 * time.Millisecond; took[990] > limit {
					t.Errorf("p99 is %v: more than %v", took[990], limit)
				}
				if far.needed.Load() == 0 || p.east.peer(west).needed.Load() == 0 {
					t.Error("no copy was ever needed")
				}
			})
		})
	}
}

// TestCopiesOfEveryKindOfFlow has flows of many shapes cross a path that loses a fifth of all packets: each is served once, and every
// octet arrives.
func TestCopiesOfEveryKindOfFlow(t *testing.T) {
	onLossyPath(t, 20, func(t *testing.T, p *pair) {
		var talking sync.WaitGroup
		r := rand.New(rand.NewPCG(5, 6))
		for i := range 300 {
			from, to := p.west, east
			if i%2 == 1 {
				from, to = p.east, west
			}
			size, rounds, half := 1+r.IntN(1<<r.IntN(16)), 1+r.IntN(4), r.IntN(2) == 0
			talking.Go(func() {
				f, err := from.Open(t.Context(), to, from.open())
				if err != nil {
					return // the path was taken for dead at this moment
				}
				defer func() { _ = f.Close() }()
				for round := range rounds {
					if _, err := ask(f, size, uint64(i*10+round)); err != nil {
						if path, ok := is[*PathError](err); !ok {
							t.Errorf("flow %d: %v", i, err)
						} else {
							t.Logf("flow %d: %v", i, path)
						}
						return
					}
				}
				if half {
					if err := f.CloseWrite(); err != nil {
						t.Errorf("flow %d: close: %v", i, err)
					}
					if n, err := f.Read(make([]byte, 1)); n > 0 || !errors.Is(err, io.EOF) {
						t.Errorf("flow %d: %d octets behind the end, %v", i, n, err)
					}
				}
			})
			<-time.After(5 * time.Millisecond)
		}
		talking.Wait()
		p.net.percent.Store(0)
		for _, g := range []*gateway{p.west, p.east} {
			eventually(t, func() bool { return p.sessionsAt(g)[0].far.orphans.Load() == 0 })
		}
	})
}

// TestACopyThatComesTooLate opens nothing: neither when the flow has been, nor when its proof is old.
func TestACopyThatComesTooLate(t *testing.T) {
	onLossyPath(t, 3, func(t *testing.T, p *pair) {
		p.net.percent.Store(0)
		open := p.west.open()
		open.Copied = true
		out := flow.NewOut(flow.Opener)
		if err := out.Open(open); err != nil {
			t.Fatal(err)
		}
		served := p.east.peer(west).needed.Load()
		s := p.sessionsAt(p.west)[0]
		l := s.link.(*quicLink)
		send := func(ping uint64) uint64 {
			b, _ := out.Copy(make([]byte, copyHead, copyMost), 0, nil)
			copy(b, open.ID[:])
			b[len(open.ID)+8] = byte(ping)
			b[len(open.ID)+7] = byte(ping >> 8)
			if err := l.conn.SendDatagram(b); err != nil {
				t.Fatal(err)
			}
			<-time.After(100 * time.Millisecond)
			return p.east.peer(west).needed.Load() - served
		}
		old := s.pinged.Load()
		<-time.After(copyLife)
		if n := send(old); n != 0 {
			t.Error("an old copy was taken")
		}
		if n := send(0); n != 0 {
			t.Error("a copy without a proof was taken")
		}
		if n := send(s.pinged.Load()); n != 1 {
			t.Fatalf("a good copy was taken %d times", n)
		}
		if n := send(s.pinged.Load()); n != 1 {
			t.Error("a copy was taken twice")
		}
		<-time.After(resumeLimit + lingerFlow + 2*time.Second) // its carrier never comes
		if n := p.sessionsAt(p.east)[0].far.orphans.Load(); n != 0 {
			t.Errorf("%d orphans are left", n)
		}
		if n := send(s.pinged.Load()); n != 1 {
			t.Error("a copy of a flow that has been was taken")
		}
	})
}

// TestTheStreamOfACopyIsUsed sends the copy of an OPEN, and a while later its stream: what the stream brings is answered on it.
func TestTheStreamOfACopyIsUsed(t *testing.T) {
	onLossyPath(t, 3, func(t *testing.T, p *pair) {
		p.net.percent.Store(0)
		open := p.west.open()
		open.Copied = true
		out, way := flow.NewOut(flow.Opener), flow.Way{ID: 1}
		if err := out.Open(open); err != nil {
			t.Fatal(err)
		}
		s := p.sessionsAt(p.west)[0]
		l := s.link.(*quicLink)
		b, _ := out.Copy(make([]byte, copyHead, copyMost), 0, nil)
		copy(b, open.ID[:])
		b[len(open.ID)+7], b[len(open.ID)+8] = byte(s.pinged.Load()>>8), byte(s.pinged.Load())
		if err := l.conn.SendDatagram(b); err != nil {
			t.Fatal(err)
		}
		orphans := &p.sessionsAt(p.east)[0].far.orphans
		eventually(t, func() bool { return orphans.Load() == 1 })
		stream, err := l.conn.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		frames, _ := out.Next(&way, nil)
		body := []byte("what a copy has no room for")
		frames = append(flow.Header{Type: flow.TypeData, Length: len(body)}.Append(frames), body...)
		if _, err := stream.Write(frames); err != nil {
			t.Fatal(err)
		}
		_ = stream.SetReadDeadline(time.Now().Add(5 * time.Second))
		var got []byte
		for piece := make([]byte, 1024); !bytes.HasSuffix(got, body); {
			n, err := stream.Read(piece)
			if got = append(got, piece[:n]...); err != nil {
				t.Fatalf("%q, then %v", got, err)
			}
		}
		if orphans.Load() != 0 {
			t.Error("it is an orphan still")
		}
		stream.CancelWrite(quic.StreamErrorCode(flow.ResetAborted))
	})
}

// TestNoCopyOpensWhatMayHaveBeen: an end that has had to forget a flow too soon cannot tell a late copy from a new flow.
func TestNoCopyOpensWhatMayHaveBeen(t *testing.T) {
	onLossyPath(t, 3, func(t *testing.T, p *pair) {
		far := p.sessionsAt(p.east)[0].far
		id := p.west.open().ID
		ended := func(i int) *Flow { // all of one shard
			f := &Flow{far: far, id: id, role: flow.Answerer, copied: true}
			binary.BigEndian.PutUint32(f.id[:], uint32(i))
			return f
		}
		byCopy := func(i int) error {
			f := ended(i)
			f.byCopy = true
			return far.register(f)
		}
		for i := range maxMemory/flowShards + 1 {
			f := ended(i)
			if err := far.register(f); err != nil {
				t.Fatal(err)
			}
			far.forget(f, true)
		}
		if byCopy(1<<20) == nil {
			t.Error("a copy opened a flow that may have been forgotten")
		}
		if err := far.register(ended(1 << 21)); err != nil {
			t.Errorf("a stream did not: %v", err)
		}
		<-time.After(copyLife)
		if err := byCopy(1 << 22); err != nil {
			t.Errorf("nor did a copy later: %v", err)
		}
		for _, i := range []int{1 << 21, 1 << 22} {
			far.forget(far.find(ended(i).id, flow.Answerer), true)
		}
	})
}

// TestForgedCopies has a peer's gateway send copies of flows that are open, and of such that are not, with octets changed at random:
// that may cost it those flows, and nothing else.
func TestForgedCopies(t *testing.T) {
	onLossyPath(t, 3, func(t *testing.T, p *pair) {
		p.net.percent.Store(0)
		calm := mustOpen(t, p.west, east)
		defer func() { _ = calm.Close() }()
		s := p.sessionsAt(p.west)[0]
		l := s.link.(*quicLink)
		r := rand.New(rand.NewPCG(8, 9))
		for i := range 3000 {
			open := p.west.open()
			open.Copied = true
			if i%3 == 0 {
				f := mustOpen(t, p.west, east)
				defer f.Abort()
				open.ID = f.id
			}
			out := flow.NewOut(flow.Opener)
			if err := out.Open(open); err != nil {
				t.Fatal(err)
			}
			b, upTo := out.Copy(make([]byte, copyHead, copyMost), uint64(r.IntN(3)), make([]byte, r.IntN(100)))
			copy(b, open.ID[:])
			b[len(open.ID)+7], b[len(open.ID)+8] = byte(s.pinged.Load()>>8), byte(s.pinged.Load())
			b[copyHead-1] = byte(upTo)
			for range r.IntN(4) {
				b[r.IntN(len(b))] ^= 1 << r.IntN(8)
			}
			if err := l.conn.SendDatagram(b[:1+r.IntN(len(b))]); err != nil {
				t.Fatal(err)
			}
			if i%20 == 0 {
				if _, err := ask(calm, 100, uint64(i)); err != nil {
					t.Fatalf("a flow that nobody forged: %v", err)
				}
				<-time.After(20 * time.Millisecond)
			}
			if n := p.sessionsAt(p.east)[0].far.orphans.Load(); n > copyOrphans+copyPending {
				t.Fatalf("%d orphans", n)
			}
		}
		<-time.After(resumeLimit + 2*time.Second)
		if n := p.sessionsAt(p.east)[0].far.orphans.Load(); n != 0 {
			t.Errorf("%d orphans are left", n)
		}
		if n := p.east.peer(west).needed.Load(); n < 100 {
			t.Errorf("only %d copies got as far as a flow", n)
		}
	})
}
