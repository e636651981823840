package limit

import (
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// The rule is that of Gradient2 in Netflix's concurrency-limits, with shorter windows and some evidence asked for first.
const (
	adaptWindow    = 250 * time.Millisecond // between two changes of the limit: a queue must be seen before it is long
	adaptSamples   = 10                     // fewer do not make a window
	adaptLong      = 2400                   // windows whose mean is taken to be the latency without queues: ten minutes
	adaptWarm      = 10                     // windows until that mean is a moving one, and until it is a yardstick
	adaptTolerance = 1.5                    // how much slower than that a window may be before the limit falls
	adaptSwift     = 1.2                    // up to which nothing queues at all
	adaptSmoothing = 0.2                    // share of the new in the next limit
	adaptQueue     = 4                      // requests that may queue: what the limit grows by while nothing gets slower
	adaptSpare     = 0.5                    // of the limit, that it grows by while nothing queues: it doubles in two seconds
	adaptBackoff   = 0.9                    // of the limit that is left after a window in which something was given up
	adaptGivenUp   = 10                     // percent of a window's requests that must be: a service has some errors of its own
	adaptSwayed    = 0.7                    // of the limit in use, from which on it is taken to be what makes the service slow
	adaptProven    = time.Minute            // for which a limit that was needed once is held against requests

	// A limit that has come down to adaptCut of what it was, and the latency has not to adaptEased, was not what made the service slow: its
	// requests are different ones now, or something behind it is slow.
	adaptCut   = 0.7
	adaptEased = 0.85

	// fewInside is how many requests are never too many: a service that cannot do so many at once needs a limit that is configured.
	fewInside = 20
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
	sum   atomic.Int64 // of the logarithms of latencies, in millionths: one that takes long by nature must not sway the mean
	most  atomic.Int64 // requests inside
	lost  atomic.Int64

	mu       sync.Mutex // held by the one that ends a window; nobody waits for it
	estimate float64    // of the limit
	long     float64    // mean latency of windows, ns
	windows  int
	before   float64      // limit when it began to fall; 0: it does not
	slow     float64      // latency then, ns
	again    bool         // the last window was slow as well
	proven   atomic.Int64 // until when the limit is known to be needed
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
		a.lost.Add(1)
	}
	for most := a.most.Load(); inside > most && !a.most.CompareAndSwap(most, inside); most = a.most.Load() {
	}
	a.sum.Add(int64(math.Log(float64(max(took, 1))) * 1e6))
	count := a.count.Add(1)
	since := a.since.Load()
	if since == 0 {
		a.since.CompareAndSwap(0, int64(max(now, 1)))
		return
	}
	if count >= adaptSamples && int64(now)-since >= int64(adaptWindow) && a.mu.TryLock() {
		if a.since.Load() == since { // not ended by another in between
			a.since.Store(int64(now))
			a.adapt(now)
		}
		a.mu.Unlock()
	}
}

// adapt sets the limit after a window. a.mu is held.
func (a *Adaptive) adapt(now time.Duration) {
	count, sum, most, lost := a.count.Swap(0), a.sum.Swap(0), float64(a.most.Swap(0)), a.lost.Swap(0)
	if count == 0 {
		return
	}
	short := math.Exp(float64(sum) / float64(count) / 1e6)
	if !(short > a.long && now < a.until() && most > a.estimate*adaptSwayed) { // what an overload does is never taken for normal
		a.learn(short)
	}
	gradient := max(0.5, min(1, adaptTolerance*a.long/short))
	overload := lost*100 >= count*adaptGivenUp && lost > 0
	if gradient == 1 && !overload {
		a.before, a.again = 0, false
		if now >= a.until() {
			a.estimate = max(a.estimate, most) // so many were no burden
		}
	} else if again := a.again; most >= fewInside && a.windows > adaptWarm {
		if a.again = true; !again { // once may be chance
			return
		}
		if now >= a.until() {
			a.estimate = max(a.estimate, most/2) // what was never tried before may be right: no more than half of it is refused
		}
		if a.before == 0 {
			a.before, a.slow = a.estimate, short
		}
		a.proven.Store(int64(now + adaptProven))
	}
	switch next := a.estimate; {
	case overload:
		a.estimate = next * adaptBackoff
	case most < next/2: // it was not the limit that held them back
		return
	case a.before > 0 && next < a.before*adaptCut && short > a.slow*adaptEased:
		a.estimate, a.long, a.before = max(a.before, most), short, 0
		a.proven.Store(0)
	default:
		queue := float64(adaptQueue)
		if short < adaptSwift*a.long {
			queue = max(queue, next*adaptSpare)
		}
		a.estimate += (next*gradient + queue - next) * adaptSmoothing
	}
	a.estimate = min(max(a.estimate, float64(a.cfg.Least)), float64(a.cfg.Most))
	a.limit.Store(int64(math.Round(a.estimate)))
}

// learn takes the latency of a window into the mean of those without queues.
func (a *Adaptive) learn(short float64) {
	a.windows++
	if a.windows <= adaptWarm {
		a.long += (short - a.long) / float64(a.windows)
	} else {
		a.long += (short - a.long) * 2 / (adaptLong + 1)
	}
	if a.long > 2*short { // after an overload that lasted: it must not be taken for normal
		a.long *= 0.95
	}
}

func (a *Adaptive) until() time.Duration { return time.Duration(a.proven.Load()) }

// Admit is Begin unless as many are inside as share of the limit allows, 1 being all of it. It refuses nothing while few are inside, or
// while it is not known that more would make the service slow.
func (a *Adaptive) Admit(share float64, now time.Duration) bool {
	if a.fits(a.inside.Add(1), share, now) {
		return true
	}
	a.inside.Add(-1)
	return false
}

// fits reports whether so many may be inside.
func (a *Adaptive) fits(inside int64, share float64, now time.Duration) bool {
	return inside <= fewInside || int64(now) >= a.proven.Load() || float64(inside) <= share*float64(a.limit.Load())
}

// Load is an Adaptive at one moment.
type Load struct {
	Inside int
	Limit  int           // above which one more is refused; 0: it is not known that more would make the service slow
	Fits   bool          // one more would be let in
	For    time.Duration // how much longer the limit counts unless it is needed again
}

// Peek is Admit of one that does not come.
func (a *Adaptive) Peek(share float64, now time.Duration) Load {
	l := Load{Inside: a.InFlight(), Fits: a.fits(a.inside.Load()+1, share, now), For: max(0, a.until()-now)}
	if l.For > 0 {
		l.Limit = int(max(fewInside, share*float64(a.limit.Load())))
	}
	return l
}

// Spare is how many more requests Admit would let in at the moment; false while that is not known.
func (a *Adaptive) Spare(share float64, now time.Duration) (int, bool) {
	if int64(now) >= a.proven.Load() {
		return 0, false
	}
	return max(0, int(max(fewInside, share*float64(a.limit.Load())))-a.InFlight()), true
}

// Limit is how many requests the service can take at the same time, as far as is known.
func (a *Adaptive) Limit() int { return int(a.limit.Load()) }

// InFlight is how many it has at the moment.
func (a *Adaptive) InFlight() int { return int(max(0, a.inside.Load())) }

// Room is how many more it could take at the moment.
func (a *Adaptive) Room() int { return max(0, a.Limit()-a.InFlight()) }
