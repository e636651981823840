package exchange

import "time"

// bucket is a token bucket: burst at once, rate a second.
type bucket struct {
	rate, burst, tokens float64
	at                  time.Time
}

func newBucket(now time.Time, rate, burst float64) bucket {
	return bucket{rate: rate, burst: burst, tokens: burst, at: now}
}

func (b *bucket) fill(now time.Time) {
	if d := now.Sub(b.at).Seconds(); d > 0 {
		b.tokens = min(b.burst, b.tokens+d*b.rate)
		b.at = now
	}
}

// take takes n tokens, or none.
func (b *bucket) take(now time.Time, n int) bool {
	b.fill(now)
	if b.tokens < float64(n) {
		return false
	}
	b.tokens -= float64(n)
	return true
}

// owe takes n tokens even if that many are not there.
func (b *bucket) owe(now time.Time, n int) {
	b.fill(now)
	b.tokens -= float64(n)
}

// paidBy is when nothing is owed any more.
func (b *bucket) paidBy(now time.Time) time.Time {
	b.fill(now)
	if b.tokens >= 0 {
		return now
	}
	return now.Add(time.Duration(-b.tokens / b.rate * float64(time.Second)))
}
