package limit

import (
	"math"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	// budgetWindow is how long what a request has paid in can be spent, as a time constant: Finagle's default of 10 s, long enough for
	// a service with few requests and short enough that a calm hour does not pay for a storm of retries.
	budgetWindow = 10 * time.Second

	tickBits = 24
	tickMask = 1<<tickBits - 1
	tickTime = time.Duration(1) << 24 // 16.8 ms: finer than the window by far; wraps after 78 hours
	behind   = 64                     // ticks that a goroutine's clock reading may be old; more is taken for a calm of days

	budgetUsed = 1 << tickBits
	levelShift = tickBits + 1
	token      = 1 << 16 // the unit of the level is 1/65536 token
	maxLevel   = 1<<(64-levelShift) - 1
)

// Budget bounds the retries of a service by its requests: each request pays in a part of a retry, each retry takes out a whole one, and a
// minimum flows in beside. In any time there are at most so many retries as its requests paid for, plus the minimum of that time and
// of ten seconds before. The zero value is ready for use.
type Budget struct {
	word atomic.Uint64 // level, a bit that says it is in use, tick of the last change
}

// Request pays in for one request, which is not a retry.
func (b *Budget) Request(s federation.RetryBudget, now time.Duration) {
	b.change(s, now, int64(s.Percent/100*token))
}

// Retry takes out one retry and reports whether there was one to take.
func (b *Budget) Retry(s federation.RetryBudget, now time.Duration) bool {
	return b.change(s, now, -token)
}

// Left is how many retries could be taken out now.
func (b *Budget) Left(s federation.RetryBudget, now time.Duration) int {
	level, _ := levelAt(b.word.Load(), s, now)
	return int(level / token)
}

// levelAt is the level at now, and the tick of that.
func levelAt(word uint64, s federation.RetryBudget, now time.Duration) (level int64, tick uint64) {
	tick = uint64(now/tickTime) & tickMask
	level = int64(word >> levelShift)
	switch elapsed := (tick - word) & tickMask; {
	case word == 0:
		level = int64(full(s))
	case elapsed > tickMask-behind:
		tick = word & tickMask
	case elapsed > 0:
		level = faded(level, s, time.Duration(elapsed)*tickTime)
	}
	return level, tick
}

func (b *Budget) change(s federation.RetryBudget, now time.Duration, by int64) bool {
	for {
		old := b.word.Load()
		level, tick := levelAt(old, s, now)
		if level += by; level < 0 {
			return false
		}
		if b.word.CompareAndSwap(old, uint64(min(level, maxLevel))<<levelShift|budgetUsed|tick) {
			return true
		}
	}
}

// faded is the level after some time: what was paid in runs out, and the minimum flows in until it would be that of a whole window.
func faded(level int64, s federation.RetryBudget, elapsed time.Duration) int64 {
	left := float64(level) * math.Exp(-float64(elapsed)/float64(budgetWindow))
	return int64(left + min(s.Minimum.PerSecond()*elapsed.Seconds()*token, max(0, full(s)-left)))
}

// full is the minimum of one window.
func full(s federation.RetryBudget) float64 {
	return min(s.Minimum.PerSecond()*budgetWindow.Seconds()*token, maxLevel)
}
