package limit_test

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

func budget(percent float64, minimum int) federation.RetryBudget {
	return federation.RetryBudget{Percent: percent, Minimum: federation.Rate{Count: minimum, Per: time.Second}}
}

func TestRetriesNeverExceedTheirBudget(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := budget(rapid.Float64Range(0, 100).Draw(t, "percent"), rapid.IntRange(0, 50).Draw(t, "minimum"))
		var b limit.Budget
		now := time.Duration(rapid.Int64Range(0, math.MaxInt64/2).Draw(t, "start"))
		start, requests, retries := now, 0, 0
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			for range rapid.IntRange(0, 20).Draw(t, "requests") {
				b.Request(s, now)
				requests++
			}
			for range rapid.IntRange(0, 40).Draw(t, "retries") {
				if b.Retry(s, now) {
					retries++
				}
			}
			now += time.Duration(rapid.Int64Range(0, int64(3*time.Second)).Draw(t, "pause"))
		}
		most := float64(requests)*s.Percent/100 + s.Minimum.PerSecond()*((now-start).Seconds()+10.1)
		if float64(retries) > most+1e-6 {
			t.Fatalf("%d retries of %d requests in %v, want at most %.1f", retries, requests, now-start, most)
		}
	})
}

func TestBudgetGivesWhatIsPaidFor(t *testing.T) {
	var b limit.Budget
	s, now, retries := budget(20, 0), time.Hour, 0
	for range 20_000 { // a hundred a second, all of which fail
		now += 10 * time.Millisecond
		b.Request(s, now)
		if b.Retry(s, now) {
			retries++
		}
	}
	if retries < 3900 || retries > 4000 {
		t.Errorf("%d retries of 20,000 requests, want a fifth", retries)
	}
	var calm limit.Budget
	now, retries = 0, 0
	for range 600 { // a retry a second without a request
		now += time.Second
		if calm.Retry(budget(20, 1), now) {
			retries++
		}
	}
	if retries < 580 {
		t.Errorf("%d retries in ten minutes, want the minimum of one a second", retries)
	}
}

func TestBudgetForgetsWhatIsOld(t *testing.T) {
	var b limit.Budget
	s := budget(20, 0)
	for range 10_000 {
		b.Request(s, time.Second)
	}
	if b.Retry(s, 5*time.Minute) {
		t.Error("requests of five minutes ago paid for a retry")
	}
	b.Request(budget(100, 0), 5*time.Minute)
	if !b.Retry(s, 5*time.Minute-10*time.Millisecond) { // by a goroutine that read the clock before
		t.Error("a clock reading a little behind lost the budget")
	}
}

// bucket is a naive leaky bucket: one drop a request, leaking at the rate, with room for the burst.
type bucket struct {
	arrivals []time.Duration // when the level was raised by one
}

// take replays all arrivals: exact, and slow.
func (b *bucket) take(l federation.RateLimit, now time.Duration) bool {
	every := l.Rate.Every()
	level, last := time.Duration(0), time.Duration(0) // in units of time, as an integer
	for _, at := range b.arrivals {
		level, last = max(0, level-(at-last))+every, at
	}
	if max(0, level-(now-last))+every > time.Duration(l.Burst)*every {
		return false
	}
	b.arrivals = append(b.arrivals, now)
	return true
}

func rateLimit(t *rapid.T) federation.RateLimit {
	units := []time.Duration{time.Second, time.Minute, time.Hour}
	return federation.RateLimit{Burst: rapid.IntRange(1, 20).Draw(t, "burst"),
		Rate: federation.Rate{Count: rapid.IntRange(1, 1000).Draw(t, "count"), Per: rapid.SampledFrom(units).Draw(t, "unit")}}
}

func TestRateIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := rateLimit(t)
		var one limit.Rate
		many := limit.NewRates(16 * 8)
		naive := map[string]*bucket{}
		now := time.Duration(0)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now += time.Duration(rapid.Int64Range(0, int64(3*l.Rate.Every())).Draw(t, "pause"))
			key := rapid.SampledFrom([]string{"", "a", "b", "c", "d"}).Draw(t, "key")
			if naive[key] == nil {
				naive[key] = &bucket{}
			}
			want := naive[key].take(l, now)
			wait, ok := many.Take(key, l, now)
			if ok != want || (wait > 0) == want {
				t.Fatalf("%q at %v: %v, wait %v, want %v", key, now, ok, wait, want)
			}
			if !ok {
				if _, early := many.Take(key, l, now+wait-1); early {
					t.Fatalf("%q was let in before the %v that it was told to wait", key, wait)
				}
				now += wait
				if _, ok := many.Take(key, l, now); !ok || !naive[key].take(l, now) {
					t.Fatalf("%q was not let in after the %v that it was told to wait", key, wait)
				}
			}
			if key == "" {
				one.Take(l, now)
			}
		}
	})
}

func TestOneRateIsExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := rateLimit(t)
		var r limit.Rate
		var naive bucket
		now := time.Duration(0)
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			now += time.Duration(rapid.Int64Range(0, int64(3*l.Rate.Every())).Draw(t, "pause"))
			if _, ok := r.Take(l, now); ok != naive.take(l, now) {
				t.Fatalf("at %v: %v", now, ok)
			}
		}
	})
}

// TestFloodOfKeysResetsNothing: however many keys come, none is ever allowed more than its limit.
func TestFloodOfKeysResetsNothing(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := rateLimit(t)
		r := limit.NewRates(rapid.IntRange(1, 64).Draw(t, "keys"))
		naive := map[string]*bucket{}
		now := time.Duration(0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			now += time.Duration(rapid.Int64Range(0, int64(2*l.Rate.Every())).Draw(t, "pause"))
			for i := range rapid.IntRange(0, 100).Draw(t, "flood") {
				key := fmt.Sprint(i)
				if naive[key] == nil {
					naive[key] = &bucket{}
				}
				if _, ok := r.Take(key, l, now); ok && !naive[key].take(l, now) {
					t.Fatalf("key %s was allowed more than its limit", key)
				}
			}
		}
		if r.Len() > 64+16 {
			t.Fatalf("%d keys are held", r.Len())
		}
	})
}

// TestSharedDebtGoesAlong: a key that had to share a rate, and then gets one of its own, still owes what it took.
func TestSharedDebtGoesAlong(t *testing.T) {
	l := federation.RateLimit{Rate: federation.Rate{Count: 1, Per: time.Second}, Burst: 1}
	r := limit.NewRates(1)
	allowed := map[string]time.Duration{}
	for _, step := range []struct {
		at       time.Duration
		from, to int
	}{{0, 0, 100}, {900 * time.Millisecond, 100, 300}, {1100 * time.Millisecond, 100, 300}} {
		for i := step.from; i < step.to; i++ {
			key := fmt.Sprint(i)
			if _, ok := r.Take(key, l, step.at); !ok {
				continue
			}
			if last, before := allowed[key]; before && step.at-last < time.Second {
				t.Fatalf("key %s was allowed twice within %v", key, step.at-last)
			}
			allowed[key] = step.at
		}
	}
}

func TestIdleKeysMakeRoom(t *testing.T) {
	l := federation.RateLimit{Rate: federation.Rate{Count: 10, Per: time.Second}, Burst: 2}
	r := limit.NewRates(160)
	slow := federation.RateLimit{Rate: federation.Rate{Count: 1, Per: time.Hour}, Burst: 1}
	r.Take("owes for an hour", slow, 0)
	for round := range 100 {
		now := time.Duration(round) * time.Second // long enough for each to owe nothing
		for i := range 40 {
			key := fmt.Sprint(round, i)
			for range l.Burst {
				if _, ok := r.Take(key, l, now); !ok {
					t.Fatalf("round %d: a key within its limit was refused", round)
				}
			}
		}
	}
	if _, ok := r.Take("owes for an hour", slow, time.Minute); ok {
		t.Error("a flood of keys made room for what was refused")
	}
}

func TestAdaptiveFindsTheCapacity(t *testing.T) {
	for _, initial := range []int{1, 20, 1000} {
		a := limit.NewAdaptive(limit.AdaptiveConfig{Initial: initial})
		now := time.Duration(0)
		// drive keeps a service that does capacity requests at the same time as busy as the limit allows: the others queue.
		drive := func(seconds int, capacity float64, o limit.Outcome) {
			for end := now + time.Duration(seconds)*time.Second; now < end; {
				n := 0
				for a.TryBegin() {
					n++
				}
				took := time.Duration(float64(20*time.Millisecond) * max(1, float64(n)/capacity))
				now += took
				for range n {
					a.End(took, o, now)
				}
			}
		}
		a.End(0, limit.Ignored, 0)
		a.Begin()
		drive(60, 1e9, limit.Answered) // nothing queues: up and up, as far as the time goes
		if high := a.Limit(); high < 40 && initial < 40 {
			t.Errorf("from %d: with capacity to spare the limit is %d", initial, high)
		}
		drive(120, 50, limit.Answered)
		if l := a.Limit(); l < 50 || l > 150 {
			t.Errorf("from %d: with a capacity of 50 the limit is %d", initial, l)
		}
		drive(120, 10, limit.Answered)
		if l := a.Limit(); l > 80 {
			t.Errorf("from %d: after the capacity fell to 10 the limit is %d", initial, l)
		}
		drive(60, 10, limit.Dropped)
		if l := a.Limit(); l > 2 {
			t.Errorf("from %d: while all is dropped the limit is %d", initial, l)
		}
		if a.InFlight() != 0 || a.Room() != a.Limit() {
			t.Errorf("%d are in flight, room for %d", a.InFlight(), a.Room())
		}
	}
}

func TestAdaptiveStaysWithinItsBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		least := rapid.IntRange(1, 50).Draw(t, "least")
		most := rapid.IntRange(least, 100).Draw(t, "most")
		a := limit.NewAdaptive(limit.AdaptiveConfig{Initial: rapid.IntRange(0, 200).Draw(t, "initial"), Least: least, Most: most})
		now := time.Duration(0)
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			n := 0
			for a.TryBegin() {
				n++
			}
			if l := a.Limit(); n != l || l < least || l > most || a.Room() != 0 {
				t.Fatalf("%d inside at a limit of %d in [%d, %d], room for %d", n, l, least, most, a.Room())
			}
			for range n {
				now += time.Duration(rapid.Int64Range(0, int64(100*time.Millisecond)).Draw(t, "pause"))
				took := time.Duration(rapid.Int64Range(-1, int64(time.Minute)).Draw(t, "took"))
				a.End(took, limit.Outcome(rapid.IntRange(0, 2).Draw(t, "outcome")), now)
			}
		}
	})
}

func TestAdaptiveDoesNotGrowUnused(t *testing.T) {
	a := limit.NewAdaptive(limit.AdaptiveConfig{})
	for i := range 100_000 {
		a.Begin()
		a.End(time.Millisecond, limit.Answered, time.Duration(i)*time.Millisecond)
	}
	if a.Limit() != 20 {
		t.Errorf("one request at a time raised the limit to %d", a.Limit())
	}
}

// TestLimitsHoldUnderRaces lets many goroutines ask at the same moment.
func TestLimitsHoldUnderRaces(t *testing.T) {
	const workers, each, burst = 8, 500, 1000
	l := federation.RateLimit{Rate: federation.Rate{Count: 1, Per: time.Hour}, Burst: burst}
	var one limit.Rate
	var b limit.Budget
	many, adaptive := limit.NewRates(100), limit.NewAdaptive(limit.AdaptiveConfig{})
	var fromOne, fromMany, retries, inside atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for range each {
				if _, ok := one.Take(l, time.Second); ok {
					fromOne.Add(1)
				}
				if _, ok := many.Take("web", l, time.Second); ok {
					fromMany.Add(1)
				}
				b.Request(budget(25, 0), time.Second)
				if b.Retry(budget(25, 0), time.Second) {
					retries.Add(1)
				}
				if adaptive.TryBegin() {
					if n := inside.Add(1); n > 20 {
						t.Errorf("%d inside at a limit of 20", n)
					}
					inside.Add(-1)
					adaptive.End(time.Millisecond, limit.Answered, time.Second)
				}
			}
		})
	}
	wg.Wait()
	if fromOne.Load() != burst || fromMany.Load() != burst || retries.Load() != workers*each/4 {
		t.Errorf("%d and %d of a burst of %d, %d retries of %d requests at 25 %%",
			fromOne.Load(), fromMany.Load(), burst, retries.Load(), workers*each)
	}
}

func BenchmarkBudget(b *testing.B) {
	var l limit.Budget
	s, now := federation.Resolver{}.Defaulted().RetryBudget, time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		now += time.Microsecond
		l.Request(s, now)
	}
}

func BenchmarkRates(b *testing.B) {
	r := limit.NewRates(65536)
	l := federation.RateLimit{Rate: federation.Rate{Count: 1_000_000, Per: time.Second}, Burst: 100}
	keys := make([]string, 1024)
	for i := range keys {
		keys[i] = fmt.Sprintf("spiffe://aws-us-east-1.mesh.internal/ns/default/svc/web-%d", i)
	}
	now, i := time.Duration(0), 0
	b.ReportAllocs()
	for b.Loop() {
		now += time.Microsecond
		i++
		r.Take(keys[i%len(keys)], l, now)
	}
}

func BenchmarkRate(b *testing.B) {
	var r limit.Rate
	l := federation.RateLimit{Rate: federation.Rate{Count: 1_000_000, Per: time.Second}, Burst: 100}
	now := time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		now += time.Microsecond
		r.Take(l, now)
	}
}

func BenchmarkAdaptive(b *testing.B) {
	a := limit.NewAdaptive(limit.AdaptiveConfig{})
	now := time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		now += time.Microsecond
		a.TryBegin()
		a.End(time.Millisecond, limit.Answered, now)
	}
}
