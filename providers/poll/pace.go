package poll

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// Rest waits for d, or less if there is something on wake, and reports whether it did so: false says that ctx has ended.
func Rest(ctx context.Context, d time.Duration, wake <-chan struct{}) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wake:
	case <-timer.C:
	}
	return true
}

// Poke puts something on c, of capacity 1, unless there is something already: whoever looks then sees all that has changed.
func Poke(c chan<- struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Backoff is how long a watch waits after so many failures in a row, the last of which is err: first, and twice as long each time, but
// for what the provider asks for no longer than most. It differs, because all watches fail at once.
func Backoff(err error, failures int, first, most time.Duration) time.Duration {
	d := min(first<<min(failures-1, 16), most)
	d = d/2 + rand.N(d/2+1)
	var throttled *ThrottledError
	if errors.As(err, &throttled) {
		d = max(d, throttled.RetryAfter+rand.N(throttled.RetryAfter/4+1))
	}
	return d
}
