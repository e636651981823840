package tunnel

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"sync"
	"testing"
	"time"
)

// sink accepts a flow and checks that it is given the pattern 1; it answers with how much came.
func sink(t *testing.T, got chan<- uint64) func(context.Context, *Incoming) {
	return func(_ context.Context, in *Incoming) {
		_ = in.Accept()
		_ = in.Flush()
		total := uint64(0)
		b, want := make([]byte, 64<<10), make([]byte, 64<<10)
		for {
			n, err := in.Read(b)
			pattern(want[:n], total, 1)
			if string(b[:n]) != string(want[:n]) {
				t.Errorf("other bytes at %d", total)
				err = io.EOF
			}
			if total += uint64(n); err != nil {
				if !errors.Is(err, io.EOF) {
					t.Error(err)
				}
				got <- total
				return
			}
		}
	}
}

// TestDirectionMovesAndStripes moves a transfer from session to session, over four at once and back to one, with deaths.
func TestDirectionMovesAndStripes(t *testing.T) {
	for _, deaths := range []bool{false, true} {
		var got chan uint64 // of the bubble
		serve := func(ctx context.Context, in *Incoming) { sink(t, got)(ctx, in) }
		simulate(t, oneWay, serve, func(t *testing.T, p *pair) {
			got = make(chan uint64, 1)
			eventually(t, func() bool {
				return len(p.sessionsAt(p.west)) == quicSessions && len(p.sessionsAt(p.east)) == quicSessions
			})
			f := mustOpen(t, p.west, east)
			if err := f.WaitAccept(t.Context()); err != nil {
				t.Fatal(err)
			}
			sent, enough := uint64(0), make(chan struct{})
			var sending sync.WaitGroup
			sending.Go(func() {
				r := rand.New(rand.NewPCG(1, 1))
				for {
					select {
					case <-enough:
						return
					case <-time.After(2 * time.Millisecond):
					}
					b := make([]byte, f.Headroom()+1+r.IntN(160<<10))
					pattern(b[f.Headroom():], sent, 1)
					n, err := f.WriteHeadroom(b)
					if sent += uint64(n); err != nil {
						t.Errorf("write after %d: %v", sent, err)
						return
					}
				}
			})
			r := rand.New(rand.NewPCG(2, 2))
			for i := range 20 {
				<-time.After(100 * time.Millisecond)
				all := p.sessionsAt(p.west)
				n := []int{1, len(all), 1, 2}[i%4]
				if err := f.shift(all[len(all)-min(n, len(all)):]); err != nil && !deaths {
					t.Error(err)
				}
				before := f.acknowledged()
				if <-time.After(100 * time.Millisecond); f.acknowledged() == before && !deaths {
					t.Errorf("shift %d: nothing has arrived in 100 ms", i)
				}
				if deaths {
					p.breakOne(r)
				}
			}
			close(enough)
			sending.Wait()
			if err := f.CloseWrite(); err != nil {
				t.Error(err)
			}
			if total := <-got; total != sent || sent < 20<<20 {
				t.Errorf("%d of %d octets arrived", total, sent)
			}
			_ = f.Close()
			settles(t, p)
		})
	}
}
