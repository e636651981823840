package limit_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

// filled is a region with as many detours as it may have, and its clock.
func filled(t *testing.T) (*limit.Spill, func() time.Duration) {
	t.Helper()
	var all limit.Spills
	start := time.Now()
	now := func() time.Duration { return time.Hour + time.Since(start) }
	s := all.To("there")
	for range detourFloor {
		if p := s.Enter(true, 3, now()); p != limit.Open {
			t.Fatal(p)
		}
	}
	return s, now
}

func TestDetoursWaitInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, now := filled(t)
		ctx, stop := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer stop()
		var mu sync.Mutex
		var order []int
		var wg sync.WaitGroup
		for i := range 1024 {
			wg.Go(func() {
				err := s.Wait(ctx, 3, now)
				if i >= 3 {
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%d came in, %v", i, err)
					}
					return
				}
				mu.Lock()
				defer mu.Unlock()
				order = append(order, i)
			})
			if i < 3 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if err := s.Wait(ctx, 3, now); !errors.Is(err, limit.ErrFull) {
			t.Errorf("one too many waits: %v", err)
		}
		begin := now()
		for i := range 3 {
			s.Leave(true, now())
			synctest.Wait()
			if len(order) != i+1 {
				t.Fatalf("after %d have left %v are in", i+1, order)
			}
		}
		if p := s.Enter(true, 0, now()); p != limit.Full {
			t.Error("one that has just come goes first")
		}
		if !slices.Equal(order, []int{0, 1, 2}) || now() != begin {
			t.Errorf("%v after %v", order, now()-begin)
		}
		wg.Wait() // the others give up
		s.Leave(true, now())
		if p := s.Enter(true, 3, now()); p != limit.Open {
			t.Error("a place was lost")
		}
	})
}

// TestRoomWakesWhoWaits: by the word of the region, and when its refusal is old.
func TestRoomWakesWhoWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, says := range []bool{true, false} {
			s, now := filled(t)
			for range 10 {
				s.Leave(true, now())
			}
			s.Refused(now())
			if p := s.Enter(true, 3, now()); p != limit.Full {
				t.Fatal(p)
			}
			for range 10 {
				s.Leave(true, now())
			}
			begin, woken := now(), make(chan error, 1)
			go func() { woken <- s.Wait(t.Context(), 3, now) }()
			if says {
				<-time.After(time.Millisecond)
				s.Room(1, now())
			}
			if err := <-woken; err != nil {
				t.Error(err)
			}
			if took := now() - begin; says && took != time.Millisecond || !says && took != 100*time.Millisecond {
				t.Errorf("says=%v: woken after %v", says, took)
			}
		}
	})
}
