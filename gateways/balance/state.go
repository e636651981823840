package balance

import (
	"math"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	// latencyWindow is the time constant of the moving average: Finagle's and Linkerd's default. A peak is forgotten to a third
	// after it, so that an instance that was slow once is tried again within seconds.
	latencyWindow = 10 * time.Second

	// latencyFloor is the connect time below which instances count as equally fast: within a region the rest is the network's
	// noise, and following it would send everything to one instance.
	latencyFloor = time.Millisecond

	// latencyTolerance is the ratio up to which two latencies count as equal, for the same reason.
	latencyTolerance = 1.25

	// warmUp is how long an instance that is new among others, or healthy again, takes to get its full share, starting at warmLeast of
	// it: caches are cold, code is not compiled yet, and the connections of all gateways come at once.
	warmUp    = 10 * time.Second
	warmLeast = 0.1

	// maxEjection bounds the growth of the ejection time: Envoy's max_ejection_time. Active checks know better by then.
	maxEjection = 5 * time.Minute
)

func globalRand() uint64 { return rand.Uint64() }

// clock counts nanoseconds from a base in the past, so that 0 can mean "never".
type clock struct {
	base time.Time
	now  func() time.Time // nil: the system's
}

func newClock(now func() time.Time) clock {
	if now == nil {
		return clock{base: time.Now().Add(-time.Second)}
	}
	return clock{base: now().Add(-time.Second), now: now}
}

func (c clock) ns() int64 {
	if c.now == nil {
		return int64(time.Since(c.base)) // half as dear as time.Now
	}
	return int64(c.now().Sub(c.base))
}

// state is what is remembered of one endpoint. All of it is atomic; none of it is exact under races, nor needs to be.
type state struct {
	average  atomic.Uint64 // peak-sensitive moving average of connect times, see pack
	inflight atomic.Int64
	born     atomic.Int64  // when it became one to choose from, by clock.ns; 0: before anybody looked
	good     atomic.Uint32 // since success rates were last compared; only counted where they are
	bad      atomic.Uint32
	trouble
}

// share is how much of its full share the endpoint gets while it warms up.
func (s *state) share(now int64) float64 {
	born := s.born.Load()
	if age := now - born; born != 0 && age < int64(warmUp) {
		return max(warmLeast, float64(age)/float64(warmUp))
	}
	return 1
}

// wake notes that the endpoint cannot be chosen at now: it warms up from when that is over.
func (g *group) wake(s *state, now int64) {
	if now-s.born.Load() < int64(lookAfter) {
		return // often enough
	}
	s.born.Store(now)
	g.warm.Store(now + int64(warmUp))
}

// trouble is the record of failures of an endpoint or a region.
type trouble struct {
	connects atomic.Int32 // failures to connect since one succeeded
	resets   atomic.Int32 // connections reset without an answer since one was answered
	errors   atomic.Int32 // responses with a server error since one without
	until    atomic.Int64 // ejected until then, by clock.ns; 0: never ejected
	times    atomic.Int32 // ejections not yet forgiven; see eject
}

func (t *trouble) ejected(now int64) bool { return now < t.until.Load() }

// eject leaves the endpoint out for base times the number of ejections. For every base that went by since the last
// ejection ended, one of them is forgiven.
func (t *trouble) eject(now int64, base time.Duration) {
	times := int64(t.times.Load())
	if last := t.until.Load(); last > 0 && base > 0 {
		times -= max(0, now-last) / int64(base)
	}
	times = max(0, times) + 1
	t.times.Store(int32(min(times, math.MaxInt32)))
	length := maxEjection
	if limit := int64(maxEjection / max(base, 1)); times <= limit {
		length = base * time.Duration(times)
	}
	t.connects.Store(0)
	t.resets.Store(0)
	t.errors.Store(0)
	t.until.Store(now + int64(max(length, base)))
}

// excuse ends an ejection: whoever keeps the health of the endpoint now says that it is down, and when that is over it will say
// so too, sooner than the ejection would have ended.
func (t *trouble) excuse(now int64) {
	if t.ejected(now) {
		t.until.Store(now)
	}
	if t.connects.Load() != 0 {
		t.connects.Store(0)
	}
}

// observe takes one connect time into the average: a higher one at once, a lower one by the time since the last.
func (s *state) observe(now int64, took time.Duration) {
	for {
		old := s.average.Load()
		value, stamp := unpack(old)
		elapsed := tick(now) - stamp
		switch sample := float64(max(took, 0)); {
		case old == 0 || sample >= value:
			value = sample
		default:
			keep := decay(elapsed)
			value = value*keep + sample*(1-keep)
		}
		if elapsed != 0 || old == 0 {
			stamp = tick(now) // within one tick the stamp stays, or samples of weight 0 would hold the average up for ever
		}
		if s.average.CompareAndSwap(old, pack(value, stamp)) {
			return
		}
	}
}

// latency is the average in nanoseconds as it has faded by now, never below the floor.
func (s *state) latency(now int64) float64 {
	old := s.average.Load()
	if old == 0 {
		return float64(latencyFloor)
	}
	value, stamp := unpack(old)
	if value <= float64(latencyFloor) {
		return float64(latencyFloor)
	}
	return max(value*decay(tick(now)-stamp), float64(latencyFloor))
}

// tick is now in milliseconds. It wraps after 49 days; differences stay right.
func tick(now int64) uint32 { return uint32(now / int64(time.Millisecond)) }

func decay(elapsed uint32) float64 {
	if elapsed == 0 {
		return 1
	}
	return math.Exp(-float64(elapsed) / float64(latencyWindow/time.Millisecond))
}

// pack puts an average (nanoseconds, as a float32) and its tick into one word, so that both change together.
func pack(value float64, stamp uint32) uint64 {
	return uint64(math.Float32bits(float32(value)))<<32 | uint64(stamp)
}

func unpack(w uint64) (value float64, stamp uint32) {
	return float64(math.Float32frombits(uint32(w >> 32))), uint32(w)
}

// Region is what is remembered of one service in a peer's region. Only two things count against it: a session that died,
// and the peer's own word that it has no instance to give. It is safe for concurrent use.
type Region struct {
	clock clock
	trouble
}

// Avoid reports whether the region has failed so often in a row that it is left out for now, unless nothing else remains.
func (r *Region) Avoid() bool { return r.ejected(r.clock.ns()) }

// Down records that there is no way to the peer, or that it says itself that it has no healthy instance: what failed before is
// explained by that, and as soon as it is over the peer is tried.
func (r *Region) Down() { r.excuse(r.clock.ns()) }

// Served records that the peer took a connection.
func (r *Region) Served() { r.connects.Store(0) }

// Failed records that the session to the peer died before it took a connection, or that the peer answered "unavailable".
func (r *Region) Failed(o federation.Outlier) {
	if n := r.connects.Add(1); o.ConsecutiveFailures > 0 && int(n) >= o.ConsecutiveFailures {
		r.eject(r.clock.ns(), o.EjectFor.D())
	}
}
