package limit_test

import (
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

func TestTailIsAtMostAnEighthTooLong(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for _, mean := range []time.Duration{20 * time.Microsecond, 3 * time.Millisecond, time.Second, time.Minute} {
		var tail limit.Tail
		var all []time.Duration
		for range 2000 {
			took := time.Duration(r.ExpFloat64() * float64(mean))
			all = append(all, took)
			tail.Observe(took, time.Second)
		}
		slices.Sort(all)
		want := all[len(all)*95/100]
		if got, known := tail.P95(time.Second); !known || got < want || got > want*9/8+10*time.Microsecond {
			t.Errorf("mean %v: p95 is %v, and said to be %v (%v)", mean, want, got, known)
		}
	}
}

func TestTailNeedsManyAndForgets(t *testing.T) {
	var tail limit.Tail
	now := time.Second
	for range 99 {
		tail.Observe(time.Millisecond, now)
	}
	if got, known := tail.P95(now); known {
		t.Errorf("99 are enough for %v", got)
	}
	tail.Observe(time.Millisecond, now)
	if _, known := tail.P95(now); known {
		t.Error("it looks each time") // what is new is seen a moment later
	}
	if got, known := tail.P95(now + 250*time.Millisecond); !known || got < time.Millisecond {
		t.Errorf("100 are not enough: %v", got)
	}
	for now = 11 * time.Second; now < 16*time.Second; now += time.Second {
		for range 1000 {
			tail.Observe(time.Second, now)
		}
	}
	if got, _ := tail.P95(now); got < time.Second {
		t.Errorf("slower for five seconds: %v", got)
	}
	if got, known := tail.P95(now + 20*time.Second); known {
		t.Errorf("after twenty seconds it still says %v", got)
	}
	tail.Observe(time.Second, time.Hour)
	if got, known := tail.P95(2 * time.Hour); known {
		t.Errorf("after an hour it still says %v", got)
	}
}

func TestTailHoldsUnderRaces(t *testing.T) {
	var tail limit.Tail
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for n := range 20_000 {
				now := time.Duration(n) * time.Millisecond
				tail.Observe(time.Millisecond, now)
				_, _ = tail.P95(now)
			}
		})
	}
	wg.Wait()
	if got, known := tail.P95(21 * time.Second); !known || got > 2*time.Millisecond {
		t.Errorf("%v, %v", got, known)
	}
}
