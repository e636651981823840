package limit_test

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

func TestGateServesInOrderOfArrival(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g limit.Gate
		if err := g.Enter(t.Context(), 1, 0); err != nil {
			t.Fatal(err)
		}
		var order []int
		for i := range 5 {
			go func() {
				if err := g.Enter(t.Context(), 1, 5); err != nil {
					t.Errorf("%d: %v", i, err)
				}
				order = append(order, i)
				g.Leave()
			}()
			synctest.Wait() // until it waits
		}
		if err := g.Enter(t.Context(), 1, 5); !errors.Is(err, limit.ErrFull) {
			t.Errorf("the sixth to wait got %v", err)
		}
		if inside, waiting := g.InUse(); inside != 1 || waiting != 5 {
			t.Errorf("%d inside, %d waiting", inside, waiting)
		}
		g.Leave()
		synctest.Wait()
		for i, n := range order {
			if i != n {
				t.Fatalf("served in the order %v", order)
			}
		}
		if inside, waiting := g.InUse(); len(order) != 5 || inside != 0 || waiting != 0 {
			t.Errorf("%d served, %d inside, %d waiting", len(order), inside, waiting)
		}
	})
}

func TestGateWaitsNoLongerThanTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g limit.Gate
		_ = g.Enter(t.Context(), 1, 0)
		ctx, stop := context.WithTimeout(t.Context(), time.Second)
		defer stop()
		start := time.Now()
		if err := g.Enter(ctx, 1, 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		g.Leave()
		if err := g.Enter(t.Context(), 1, 0); err != nil {
			t.Errorf("the place of one that gave up was lost: %v", err)
		}
		g.Leave()
	})
}

func TestGateFollowsItsLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g limit.Gate
		for range 3 {
			_ = g.Enter(t.Context(), 3, 0)
		}
		var inside atomic.Int32
		for range 4 {
			go func() {
				if g.Enter(t.Context(), 3, 10) == nil {
					inside.Add(1)
				}
			}()
		}
		synctest.Wait()
		if err := g.Enter(t.Context(), 6, 0); !errors.Is(err, limit.ErrFull) { // raised: three of those that wait go first
			t.Errorf("overtook those that wait: %v", err)
		}
		synctest.Wait()
		if inside.Load() != 3 {
			t.Errorf("%d came in when the limit was raised by 3", inside.Load())
		}
		if err := g.Enter(t.Context(), 2, 0); !errors.Is(err, limit.ErrFull) { // lowered below those inside
			t.Errorf("entered above the limit: %v", err)
		}
		for range 4 {
			g.Leave()
		}
		synctest.Wait()
		if n, waiting := g.InUse(); n != 2 || waiting != 1 {
			t.Errorf("%d inside, %d waiting at a limit of 2", n, waiting)
		}
		g.Leave()
		synctest.Wait()
		g.Leave()
		g.Leave()
		if n, waiting := g.InUse(); n != 0 || waiting != 0 || inside.Load() != 4 {
			t.Errorf("%d inside, %d waiting, %d came in", n, waiting, inside.Load())
		}
		for range 100 {
			if err := g.Enter(t.Context(), 0, 0); err != nil {
				t.Fatalf("no limit: %v", err)
			}
		}
	})
}

// TestGateNeverHoldsMoreThanItsLimit lets many come, wait, give up and leave at once.
func TestGateNeverHoldsMoreThanItsLimit(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(1, 4).Draw(t, "limit")
		pending := rapid.IntRange(0, 4).Draw(t, "pending")
		var g limit.Gate
		var inside, entered, refused, gaveUp atomic.Int64
		var wg sync.WaitGroup
		const workers, rounds = 8, 50
		for worker := range workers {
			wg.Go(func() {
				for i := range rounds {
					ctx, stop := context.WithCancel(context.Background())
					if (worker+i)%3 == 0 {
						go stop() // at some moment
					}
					switch err := g.Enter(ctx, most, pending); {
					case err == nil:
						if n := inside.Add(1); n > int64(most) {
							t.Errorf("%d inside at a limit of %d", n, most)
						}
						entered.Add(1)
						inside.Add(-1)
						g.Leave()
					case errors.Is(err, limit.ErrFull):
						refused.Add(1)
					default:
						gaveUp.Add(1)
					}
					stop()
				}
			})
		}
		wg.Wait()
		if n, waiting := g.InUse(); n != 0 || waiting != 0 || entered.Load()+refused.Load()+gaveUp.Load() != workers*rounds {
			t.Fatalf("in the end %d inside, %d waiting", n, waiting)
		}
	})
}

func BenchmarkGate(b *testing.B) {
	var g limit.Gate
	ctx := context.Background()
	b.ReportAllocs()
	for b.Loop() {
		_ = g.Enter(ctx, 100, 10)
		g.Leave()
	}
}

func TestNothingHereAllocates(t *testing.T) {
	var g limit.Gate
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		_ = g.Enter(ctx, 100, 10)
		g.Leave()
	}); n != 0 {
		t.Errorf("gate: %v allocations", n)
	}
}
