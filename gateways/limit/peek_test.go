package limit_test

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

// TestPeekSaysWhatWouldHappen looks before each call, which then finds exactly that: looking changes nothing.
func TestPeekSaysWhatWouldHappen(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l, budget := rateLimit(t), budget(rapid.Float64Range(0, 50).Draw(t, "percent"), 1)
		var one limit.Rate
		var retries limit.Budget
		var spills limit.Spills
		many, load := limit.NewRates(32), limit.NewAdaptive(limit.AdaptiveConfig{})
		now := time.Duration(0)
		inside := 0
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now += time.Duration(rapid.Int64Range(0, int64(time.Second)).Draw(t, "pause"))
			key := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "key")
			used, wait := one.Peek(l, now)
			if got, ok := one.Take(l, now); got != wait || ok != (wait == 0) || used > l.Burst || ok && used == l.Burst {
				t.Fatalf("a rate said %d of %d, wait %v, and had %v", used, l.Burst, wait, got)
			}
			_, wait = many.Peek(key, l, now)
			if got, _ := many.Take(key, l, now); got != wait {
				t.Fatalf("rates said wait %v, and had %v", wait, got)
			}
			left := retries.Left(budget, now)
			if ok := retries.Retry(budget, now); ok != (left > 0) {
				t.Fatalf("%d retries are left: %v", left, ok)
			}
			retries.Request(budget, now)
			to := spills.To("there")
			detour, urgency := rapid.Bool().Draw(t, "detour"), rapid.IntRange(0, 7).Draw(t, "urgency")
			switch rapid.IntRange(0, 5).Draw(t, "event") {
			case 0:
				to.Room(rapid.IntRange(0, 3).Draw(t, "room"), now)
			case 1:
				to.Refused(now)
			case 2:
				to.Lost(now)
			}
			f := to.Peek(detour, urgency, now)
			got := to.Enter(detour, urgency, now)
			if f.Passage != got || detour && got == limit.Open && f.Detours >= f.Most {
				t.Fatalf("a region said %+v, and was %v", f, got)
			}
			if got == limit.Open && rapid.Bool().Draw(t, "leaves") {
				to.Leave(detour, now)
			}
			state := load.Peek(1, now)
			if ok := load.Admit(1, now); ok != state.Fits || state.Inside != inside {
				t.Fatalf("the load said %+v, and was %v", state, ok)
			} else if ok {
				inside++
			}
			if inside > 0 && rapid.IntRange(0, 2).Draw(t, "ends") > 0 {
				load.End(time.Duration(rapid.IntRange(1, 100).Draw(t, "took"))*time.Millisecond, limit.Answered, now)
				inside--
			}
		}
	})
}
