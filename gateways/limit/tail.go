package limit

import (
	"math/bits"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// tailWindow is how long what took its time is remembered, up to twice that: long enough for a service with ten requests a second, and
	// short enough that an hour that was slow is soon forgotten.
	tailWindow = 10 * time.Second

	// tailLeast is how many must have been seen: of fewer, less than five are above the 95th percentile, and that is chance.
	tailLeast = 100

	// tailLook is for how long the percentile is taken to be what it was: finding it costs a microsecond.
	tailLook = 250 * time.Millisecond

	// Buckets are eight to each doubling, so a percentile is at most an eighth too long, from 8 µs up to 18 minutes.
	tailUnit    = 13
	tailBuckets = 200
)

// Tail knows how long 95 of 100 of what happened lately took. The zero value is ready for use.
type Tail struct {
	turn   atomic.Int64 // number of the window at hand
	counts [2][tailBuckets]atomic.Uint32
	known  atomic.Int64 // the percentile, ns; 0: not known
	look   atomic.Int64 // when that is to be found again
	mu     sync.Mutex   // held by the one that begins a window, or finds the percentile
}

// Observe notes that something took so long, or at least so long.
func (t *Tail) Observe(took, now time.Duration) {
	turn := int64(now / tailWindow)
	if t.turn.Load() < turn {
		t.mu.Lock()
		t.begin(turn)
		t.mu.Unlock()
	}
	t.counts[turn&1][bucketOf(took)].Add(1)
}

// begin begins a window. t.mu is held.
func (t *Tail) begin(turn int64) {
	before := t.turn.Load()
	for w := max(before, turn-2) + 1; w <= turn; w++ {
		for i := range t.counts[w&1] {
			t.counts[w&1][i].Store(0)
		}
	}
	t.turn.Store(max(turn, before))
}

// P95 returns how long 95 of 100 took; false while too few have been seen.
func (t *Tail) P95(now time.Duration) (time.Duration, bool) {
	if int64(now) >= t.look.Load() && t.mu.TryLock() {
		t.begin(int64(now / tailWindow))
		t.known.Store(int64(t.find()))
		t.look.Store(int64(now + tailLook))
		t.mu.Unlock()
	}
	known := t.known.Load()
	return time.Duration(known), known > 0
}

func (t *Tail) find() time.Duration {
	var sum [tailBuckets]uint32
	total := uint32(0)
	for i := range sum {
		sum[i] = t.counts[0][i].Load() + t.counts[1][i].Load()
		total += sum[i]
	}
	if total < tailLeast {
		return 0
	}
	above := total / 20
	for i := tailBuckets - 1; i > 0; i-- {
		if sum[i] > above {
			return endOf(i)
		}
		above -= sum[i]
	}
	return endOf(0)
}

func bucketOf(took time.Duration) int {
	u := uint64(max(took, 0)) >> tailUnit
	if u < 8 {
		return int(u)
	}
	e := bits.Len64(u) - 4
	return min((e+1)*8+int(u>>e&7), tailBuckets-1)
}

// endOf is what takes just too long for a bucket.
func endOf(bucket int) time.Duration {
	if bucket < 8 {
		return time.Duration(bucket+1) << tailUnit
	}
	return time.Duration(bucket%8+9) << (bucket/8 - 1) << tailUnit
}
