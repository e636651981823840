package limit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The constants of Gradient2 in Netflix's concurrency-limits, whose defaults they are.
const (
	adaptWindow    = time.Second // between two changes of the limit
	adaptSamples   = 10          // fewer do not make a window
	adaptLong      = 600         // windows whose mean is taken to be the latency without queues
	adaptWarm      = 10          // windows until that mean is a moving one
	adaptTolerance = 1.5         // how much slower than that a window may be before the limit falls
	adaptSmoothing = 0.2         // share of the new in the next limit
	adaptQueue     = 4           // requests that may queue: what the limit grows by while nothing gets slower
	adaptBackoff   = 0.9         // of the limit that is left after a window in which something was given up
)

// AdaptiveConfig is what an Adaptive needs.
type AdaptiveConfig struct {
	Initial int // limit before anything is known; 0: 20, as Netflix has it
	Least   int // limit below which it never falls, 0: 1
	Most    int // limit above which it never rises; 0: 1000
}

// Adaptive finds out how many requests a service can take at the same time: it raises its limit while they are as fast as they have been,
// and lowers it when they get slower, for then they queue somewhere.
type Adaptive struct {
	cfg    AdaptiveConfig
	limit  atomic.Int64
	inside atomic.Int64

	// The window at the moment. Under races a sample may be counted in the next one.
	since atomic.Int64 // 0: none yet
	count atomic.Int64
	sum   atomic.Int64 // of latencies, ns
	most  atomic.Int64 // requests inside
	lost  atomic.Bool

	mu       sync.Mutex // held by the one that ends a window; nobody waits for it
	estimate float64    // of the limit
	long     float64    // mean latency of windows, ns
	windows  int
}

// NewAdaptive returns an Adaptive at its initial limit.
func NewAdaptive(cfg AdaptiveConfig) *Adaptive {
	if cfg.Least <= 0 {
		cfg.Least = 1
	}
	if cfg.Most <= 0 {
		cfg.Most = 1000
	}
	cfg.Most = max(cfg.Most, cfg.Least)
	if cfg.Initial <= 0 {
		cfg.Initial = 20
	}
	cfg.Initial = min(max(cfg.Initial, cfg.Least), cfg.Most)
	a := &Adaptive{cfg: cfg, estimate: float64(cfg.Initial)}
	a.limit.Store(int64(cfg.Initial))
	return a
}

// Outcome is what became of a request.
type Outcome uint8

// The outcomes of a request.
const (
	Ignored  Outcome = iota // its latency says nothing, such as when the caller went away
	Answered                // it was answered
	Dropped                 // it was given up or refused for overload: a timeout, a 503
)

// Begin counts a request that is let in whatever the limit. Exactly one call of End follows.
func (a *Adaptive) Begin() { a.inside.Add(1) }

// TryBegin is Begin if there is room.
func (a *Adaptive) TryBegin() bool {
	for {
		inside := a.inside.Load()
		if inside >= a.limit.Load() {
			return false
		}
		if a.inside.CompareAndSwap(inside, inside+1) {
			return true
		}
	}
}

// End takes a request out that took so long.
func (a *Adaptive) End(took time.Duration, o Outcome, now time.Duration) {
	inside := a.inside.Add(-1) + 1
	if o == Ignored {
		return
	}
	if o == Dropped {
		a.lost.Store(true)
	}
	for most := a.most.Load(); inside > most && !a.most.CompareAndSwap(most, inside); most = a.most.Load() {
	}
	a.sum.Add(int64(max(took, 1)))
	count := a.count.Add(1)
	since := a.since.Load()
	if since == 0 {
		a.since.CompareAndSwap(0, int64(max(now, 1)))
		return
	}
	if count >= adaptSamples && int64(now)-since >= int64(adaptWindow) && a.mu.TryLock() {
		if a.since.Load() == since { // not ended by another in between
			a.since.Store(int64(now))
			a.adapt()
		}
		a.mu.Unlock()
	}
}

// adapt sets the limit after a window. a.mu is held.
func (a *Adaptive) adapt() {
	count, sum, most, lost := a.count.Swap(0), a.sum.Swap(0), float64(a.most.Swap(0)), a.lost.Swap(false)
	if count == 0 {
		return
	}
	short := float64(sum) / float64(count)
	a.windows++
	if a.windows <= adaptWarm {
		a.long += (short - a.long) / float64(a.windows)
	} else {
		a.long += (short - a.long) * 2 / (adaptLong + 1)
	}
	if a.long > 2*short { // after an overload that lasted: it must not be taken for normal
		a.long *= 0.95
	}
	switch next := a.estimate; {
	case lost:
		a.estimate = next * adaptBackoff
	case most < next/2: // it was not the limit that held them back
		return
	default:
		gradient := max(0.5, min(1, adaptTolerance*a.long/short))
		next = next*gradient + adaptQueue
		a.estimate = a.estimate*(1-adaptSmoothing) + next*adaptSmoothing
	}
	a.estimate = min(max(a.estimate, float64(a.cfg.Least)), float64(a.cfg.Most))
	a.limit.Store(int64(math.Round(a.estimate)))
}

// Limit is how many requests the service can take at the same time, as far as is known.
func (a *Adaptive) Limit() int { return int(a.limit.Load()) }

// InFlight is how many it has at the moment.
func (a *Adaptive) InFlight() int { return int(max(0, a.inside.Load())) }

// Room is how many more it could take at the moment.
func (a *Adaptive) Room() int { return max(0, a.Limit()-a.InFlight()) }
