package balance

import (
	"math/bits"
	"slices"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Mode says how much is overlooked when choosing. Callers begin with Usable and go on only when nothing else remains.
type Mode uint8

const (
	Usable  Mode = iota // healthy, and not ejected
	Suspect             // healthy; ejections are overlooked
	Any                 // health and ejections are overlooked: better a chance than none
)

// Pool chooses among the members of one service, or of one of its subsets, in one snapshot. It is immutable but for the memory behind
// it, and safe for concurrent use.
type Pool struct {
	balancer *Balancer
	group    *group
	target   Target
	members  []member
	sums     []uint64 // sums[i] is the weight of members 0 to i, for drawing by weight
	mean     float64  // mean weight
	whole    *Pool    // the pool of all members, which is p itself unless p is of a subset
	subset   string   // its name
	subsets  map[string]*Pool
	keying   sync.Once
	keys     *keys
	look     atomic.Int64 // when it was last found out whether too few can be used (clock.ns), and in the last bit the answer
}

type member struct {
	Member
	slot  int // in the lane and in the whole pool
	state *state
}

func newPool(b *Balancer, g *group, t Target) *Pool {
	p := &Pool{balancer: b, group: g, target: t, members: make([]member, len(t.Members))}
	for i, m := range t.Members {
		if m.Weight == 0 {
			m.Weight = federation.DefaultWeight
		}
		p.members[i] = member{Member: m, slot: i}
	}
	p.whole = p
	p.weigh()
	return p
}

// weigh prepares drawing by weight.
func (p *Pool) weigh() {
	p.sums = make([]uint64, len(p.members))
	var sum uint64
	for i := range p.members {
		sum += uint64(p.members[i].Weight)
		p.sums[i] = sum
	}
	if len(p.members) > 0 {
		p.mean = float64(sum) / float64(len(p.members))
	}
}

// bindSubsets makes the pools of the target's subsets, whose members share the memory of p's.
func (p *Pool) bindSubsets() {
	p.subsets = make(map[string]*Pool, len(p.target.Subsets))
	for name, indexes := range p.target.Subsets {
		s := &Pool{balancer: p.balancer, group: p.group, target: p.target, members: make([]member, 0, len(indexes)), whole: p, subset: name}
		for _, i := range indexes {
			if i >= 0 && i < len(p.members) {
				s.members = append(s.members, p.members[i])
			}
		}
		s.weigh()
		p.subsets[name] = s
	}
}

// Subset returns the pool of the members that belong to the subset called name; p itself for the empty name, and false for a subset that
// the service does not have. Ejections are counted over the whole service.
func (p *Pool) Subset(name string) (*Pool, bool) {
	if name == "" {
		return p, true
	}
	s, found := p.whole.subsets[name]
	return s, found
}

// Len is the number of members, whatever their state.
func (p *Pool) Len() int { return len(p.members) }

// Lease is one choice. Exactly one call of Done ends it.
type Lease struct {
	pool  *Pool
	index int
}

// Pick chooses a member that mode admits and that is not in tried (indexes of earlier leases), and counts the connection or request
// against it until the lease's Done. It returns false when there is none.
func (p *Pool) Pick(tried []int, mode Mode) (Lease, bool) {
	now := p.balancer.clock.ns()
	mode = p.relax(now, mode)
	a := p.draw(now, -1, tried, mode)
	if a < 0 {
		return Lease{}, false
	}
	if p.target.Balance != federation.BalanceRandom && p.target.Balance != federation.BalanceMaglev { // which without a key is the same
		if b := p.draw(now, a, tried, mode); b >= 0 && p.mayBeat(now, b, a) && p.cheaper(now, b, a) {
			a = b
		}
	}
	return p.lease(a), true
}

func (p *Pool) lease(i int) Lease {
	p.members[i].state.inflight.Add(1)
	return Lease{pool: p, index: i}
}

// lookAfter is for how long a large pool is taken to be in panic or not before its members are counted again: it costs a millisecond
// a minute for a thousand members, and is less than the checks need to notice anything.
const lookAfter = int64(50 * time.Millisecond)

// relax returns Any instead of mode while fewer members can be used than the service's PanicPercent.
func (p *Pool) relax(now int64, mode Mode) Mode {
	percent := p.target.Outlier.PanicPercent
	if percent == 0 || mode == Any {
		return mode
	}
	look := p.look.Load()
	if len(p.members) <= draws || look == 0 || now-look>>1 >= lookAfter {
		usable := 0
		for i := range p.members {
			if p.healthy(i) && !p.members[i].state.ejected(now) {
				usable++
			}
		}
		look = now << 1
		if usable*100 < percent*len(p.members) {
			look |= 1
		}
		p.look.Store(look)
	}
	if look&1 == 1 {
		return Any
	}
	return mode
}

// draws is how often a draw may hit a member that is not admitted before all are looked at: with three of four members
// admitted, 1 of 65,536 draws needs the scan.
const draws = 8

// draw returns a random admitted member other than not and tried, by weight, or -1.
func (p *Pool) draw(now int64, not int, tried []int, mode Mode) int {
	n := len(p.members)
	if n == 0 {
		return -1
	}
	admitted := func(i int) bool { return i != not && p.free(now, i, tried, mode) }
	warming := now < p.group.warm.Load()
	if n > draws { // in a small service the scan costs no more than the luck
		for range draws {
			x := p.below(p.sums[n-1])
			if i := sort.Search(n, func(i int) bool { return p.sums[i] > x }); admitted(i) && (!warming || p.chance(p.members[i].state.share(now))) {
				return i
			}
		}
	}
	// Each admitted member replaces the one held with the probability of its weight in the sum so far: one pass, no memory.
	held, sum := -1, uint64(0)
	for i := range p.members {
		if !admitted(i) {
			continue
		}
		w := uint64(p.members[i].Weight)
		if warming {
			w = max(1, uint64(float64(w)*1000*p.members[i].state.share(now)))
		}
		sum += w
		if held < 0 || p.below(sum) < w {
			held = i
		}
	}
	return held
}

// below returns a uniform number in [0, n); the bias of 2^-40 for sums below 2^24 does not matter here.
func (p *Pool) below(n uint64) uint64 {
	hi, _ := bits.Mul64(p.balancer.rand(), n)
	return hi
}

// chance is true with a probability of share.
func (p *Pool) chance(share float64) bool {
	return share >= 1 || p.below(1<<20) < uint64(share*(1<<20))
}

// mayBeat reports whether b may be preferred to a for its lower cost: one that warms up is idle, and would get everything.
func (p *Pool) mayBeat(now int64, b, a int) bool {
	return now >= p.group.warm.Load() || p.chance(p.members[b].state.share(now)/p.members[a].state.share(now))
}

// free reports whether member i may be chosen now.
func (p *Pool) free(now int64, i int, tried []int, mode Mode) bool {
	return !slices.Contains(tried, i) && p.admits(now, i, mode)
}

func (p *Pool) admits(now int64, i int, mode Mode) bool {
	if !p.healthy(i) {
		p.members[i].state.excuse(now)
		p.group.wake(p.members[i].state, now)
		return mode == Any
	}
	return mode != Usable || !p.members[i].state.ejected(now)
}

func (p *Pool) healthy(i int) bool {
	return p.target.Lane != nil && p.target.Lane.Load(p.members[i].slot).Healthy > 0
}

// cheaper reports whether member b costs less than member a, which was drawn first and wins a tie: ties fall by weight.
// The cost is latency times one more than the open connections, these in proportion to weight.
func (p *Pool) cheaper(now int64, b, a int) bool {
	ma, mb := &p.members[a], &p.members[b]
	if p.target.Balance == federation.BalanceLeastRequest {
		return p.load(mb) < p.load(ma)
	}
	la, lb := ma.state.latency(now), mb.state.latency(now)
	if la <= lb*latencyTolerance && lb <= la*latencyTolerance {
		la, lb = 1, 1
	}
	return lb*p.load(mb) < la*p.load(ma)
}

func (p *Pool) load(m *member) float64 {
	return float64(max(0, m.state.inflight.Load()))*p.mean/float64(m.Weight) + 1
}

// Index identifies the member within its pool, for Pick's tried.
func (l Lease) Index() int { return l.index }

// Endpoint is what was chosen.
func (l Lease) Endpoint() Endpoint { return l.pool.members[l.index].Endpoint }

// Name is what its Member was called.
func (l Lease) Name() string { return l.pool.members[l.index].Name }

// Connected records that the endpoint accepted a connection, or sent the head of its response, took after it was asked.
func (l Lease) Connected(took time.Duration) {
	s := l.pool.members[l.index].state
	s.connects.Store(0)
	s.observe(l.pool.balancer.clock.ns(), took)
}

// Result is how a connection to an endpoint, or a request, ended.
type Result uint8

const (
	Abandoned   Result = iota // ended for reasons that say nothing about the endpoint
	Answered                  // the endpoint sent at least one byte, or closed in an orderly way; a response below 500
	Unreached                 // no connection came about: refused, unreachable, timed out
	Unanswered                // connected, then reset by the endpoint before it sent a byte, or too slow to answer the request
	ServerError               // a response of 500 to 599
)

// Done ends the lease. Failures in a row eject the endpoint, as the service's Outlier settings say.
func (l Lease) Done(r Result) {
	p := l.pool
	s, o := p.members[l.index].state, &p.target.Outlier
	s.inflight.Add(-1)
	failures, limit := int32(0), o.ConsecutiveFailures
	switch r {
	case Answered:
		s.connects.Store(0)
		s.resets.Store(0)
		s.errors.Store(0)
	case Unreached:
		failures = s.connects.Add(1)
	case Unanswered:
		failures = s.resets.Add(1)
	case ServerError:
		s.connects.Store(0)
		s.resets.Store(0)
		failures, limit = s.errors.Add(1), o.ConsecutiveServerErrors
	default:
		return
	}
	if limit > 0 && failures >= int32(limit) {
		p.whole.eject(p.members[l.index].slot)
	}
	if o.SuccessRate > 0 {
		p.whole.count(s, r == Answered)
	}
}

// eject leaves member i of a whole pool out for a while, unless it already is (its checks may have done so), or too many of the healthy
// members would be.
func (p *Pool) eject(i int) {
	p.group.ejecting.Lock()
	defer p.group.ejecting.Unlock()
	now := p.balancer.clock.ns()
	s := p.members[i].state
	if s.ejected(now) || !p.healthy(i) {
		return
	}
	healthy, out := 0, 0
	for j := range p.members {
		if !p.healthy(j) {
			continue
		}
		healthy++
		if j != i && p.members[j].state.ejected(now) {
			out++
		}
	}
	if (out+1)*100 > healthy*p.target.Outlier.MaxEjectedPercent {
		return
	}
	s.eject(now, p.target.Outlier.EjectFor.D())
}

// Status is the memory of one member, for people.
type Status struct {
	Endpoint Endpoint
	Weight   uint16
	Healthy  bool
	Ejected  time.Duration // how much longer it is left out; 0: it is not
	InFlight int64         // connections open now
	Latency  time.Duration // moving average of connect times; 0: none yet
}

// Status returns the state of every member, in the order of the target.
func (p *Pool) Status() []Status {
	now := p.balancer.clock.ns()
	all := make([]Status, len(p.members))
	for i := range p.members {
		m := &p.members[i]
		all[i] = Status{Endpoint: m.Endpoint, Weight: m.Weight, Healthy: p.healthy(i), InFlight: m.state.inflight.Load()}
		all[i].Ejected = time.Duration(max(0, m.state.until.Load()-now))
		if w := m.state.average.Load(); w != 0 {
			value, _ := unpack(w)
			all[i].Latency = time.Duration(value)
		}
	}
	return all
}
