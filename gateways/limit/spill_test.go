package limit_test

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

// world is a service in some regions, each with one gateway, in virtual time: the events are gone through in order, and nothing waits.
type world struct {
	now     time.Duration
	events  events
	serial  int
	rand    *rand.Rand
	regions []*place
	retries limit.Budget
	fails   float64 // share of responses that are errors
	asked   int     // requests
	tried   int     // requests that instances got
	refused int     // requests that gateways refused each other
}

// place is a region: instances that do capacity requests at once, the others wait; and the gateway before them.
type place struct {
	name     federation.Region
	capacity int
	busy     int
	waiting  []func()
	dead     bool
	rate     float64 // requests of its callers a second
	known    *limit.Adaptive
	spills   limit.Spills
	served   []served
	shed     []shed
}

type served struct {
	at, took time.Duration
	by       int
	urgency  int
}

type shed struct {
	at      time.Duration
	took    time.Duration
	urgency int
}

const (
	base  = 100 * time.Millisecond // of a response, when nothing queues
	apart = 10 * time.Millisecond  // regions, one way
)

type event struct {
	at     time.Duration
	serial int
	do     func()
}

type events []event

func (e events) Len() int { return len(e) }
func (e events) Less(i, j int) bool {
	return e[i].at < e[j].at || e[i].at == e[j].at && e[i].serial < e[j].serial
}
func (e events) Swap(i, j int) { e[i], e[j] = e[j], e[i] }
func (e *events) Push(x any)   { *e = append(*e, x.(event)) }
func (e *events) Pop() any {
	last := (*e)[len(*e)-1]
	*e = (*e)[:len(*e)-1]
	return last
}

func newWorld(regions, capacity int, load float64) *world {
	w := &world{rand: rand.New(rand.NewPCG(1, 2))}
	for i := range regions {
		p := &place{name: federation.Region(fmt.Sprint("r", i)), capacity: capacity,
			known: limit.NewAdaptive(limit.AdaptiveConfig{Initial: 20, Most: 1 << 20})}
		p.rate = load * float64(capacity) / base.Seconds()
		w.regions = append(w.regions, p)
		w.in(0, func() { w.arrive(i) })
	}
	return w
}

func (w *world) in(d time.Duration, do func()) {
	w.serial++
	heap.Push(&w.events, event{w.now + d, w.serial, do})
}

func (w *world) run(until time.Duration) {
	for w.events[0].at <= until {
		e := heap.Pop(&w.events).(event)
		w.now = e.at
		e.do()
	}
	w.now = until
}

// arrive lets a caller of region i ask, and sees to the next one.
func (w *world) arrive(i int) {
	p := w.regions[i]
	w.in(time.Duration(w.rand.ExpFloat64()/p.rate*float64(time.Second)), func() { w.arrive(i) })
	w.asked++
	urgency := 3
	if w.rand.IntN(4) == 0 {
		urgency = 6
	}
	w.retries.Request(budget(20, 0), w.now)
	(&request{world: w, from: i, urgency: urgency, start: w.now, later: -1}).next()
}

// request goes through the regions as a gateway has it.
type request struct {
	*world
	from, at, urgency int
	start             time.Duration
	detour            bool
	later             int
	forced            bool
}

func (r *request) next() {
	home := r.regions[r.from]
	for r.at < len(r.regions) {
		to := (r.from + r.at) % len(r.regions)
		r.at++
		p, s := r.regions[to], home.spills.To(r.regions[to].name)
		if p.dead { // as its health says
			s.Lost(r.now)
			r.detour = true
			continue
		}
		detour := r.detour
		switch s.Enter(detour, r.urgency, r.now) {
		case limit.Later:
			r.later = to
		case limit.Open:
			r.send(p, to, s, detour)
			return
		}
		r.detour = true
	}
	if r.later >= 0 && !r.forced {
		r.forced = true
		s := home.spills.To(r.regions[r.later].name)
		s.Force(false)
		r.send(r.regions[r.later], r.later, s, false)
		return
	}
	home.shed = append(home.shed, shed{r.now, r.now - r.start, r.urgency})
}

func (r *request) send(p *place, to int, s *limit.Spill, detour bool) {
	way, share := apart, limit.Share(r.urgency, detour)
	if to == r.from {
		way = 0
	}
	r.in(way, func() {
		if p.dead || !p.known.Admit(share, r.now) {
			r.refused++
			dead := p.dead
			r.in(way, func() {
				s.Leave(detour, r.now)
				if dead {
					s.Lost(r.now)
				} else {
					s.Refused(r.now)
				}
				r.detour = true
				r.next()
			})
			return
		}
		began := r.now
		r.tried++
		p.serve(r.world, func() {
			p.known.End(r.now-began, limit.Answered, r.now)
			n, knows := p.known.Spare(limit.Share(3, true), r.now)
			failed := r.rand.Float64() < r.fails
			r.in(way, func() {
				s.Leave(detour, r.now)
				if knows {
					s.Room(n, r.now)
				}
				if failed && r.retries.Retry(budget(20, 0), r.now) {
					r.at, r.detour, r.later, r.forced = 0, false, -1, false
					r.next()
					return
				}
				home := r.regions[r.from]
				home.served = append(home.served, served{r.now, r.now - r.start, to, r.urgency})
			})
		})
	})
}

// serve queues for a server, and calls done when it is through.
func (p *place) serve(w *world, done func()) {
	work := func() {
		p.busy++
		w.in(time.Duration(float64(base)*(0.5+w.rand.ExpFloat64()/2)), func() {
			p.busy--
			if len(p.waiting) > 0 {
				first := p.waiting[0]
				p.waiting = p.waiting[1:]
				first()
			}
			done()
		})
	}
	if p.busy < p.capacity {
		work()
		return
	}
	p.waiting = append(p.waiting, work)
}

// between is what became of the requests of a region in a time.
type outcome struct {
	served, away, shed int
	p99, slowest       time.Duration
	shedSlowest        time.Duration
}

func (w *world) between(region int, from, to time.Duration) outcome {
	var o outcome
	var took []time.Duration
	for _, s := range w.regions[region].served {
		if s.at >= from && s.at < to {
			took = append(took, s.took)
			if s.by != region {
				o.away++
			}
		}
	}
	for _, s := range w.regions[region].shed {
		if s.at >= from && s.at < to {
			o.shed++
			o.shedSlowest = max(o.shedSlowest, s.took)
		}
	}
	slices.Sort(took)
	if o.served = len(took); o.served > 0 {
		o.p99, o.slowest = took[len(took)*99/100], took[len(took)-1]
	}
	return o
}

// turns counts how often a series turns round by more than swing.
func turns(series []int, swing int) int {
	n, up, extreme := 0, true, series[0]
	for _, v := range series {
		switch {
		case up == (v > extreme):
			extreme = v
		case up && v < extreme-swing, !up && v > extreme+swing:
			n, up, extreme = n+1, !up, v
		}
	}
	return n
}

// TestOnlyWhatFitsMoves: of two regions at 70 % of their capacity one fails for five minutes.
func TestOnlyWhatFitsMoves(t *testing.T) {
	const sec = time.Second
	w := newWorld(2, 100, 0.7)
	w.run(60 * sec)
	if o := w.between(0, 0, 60*sec); o.shed+o.away > 0 {
		t.Errorf("while all is well: %+v", o)
	}
	normal := w.between(1, 30*sec, 60*sec)
	w.regions[0].dead = true
	w.run(360 * sec)
	failed, own := w.between(0, 65*sec, 360*sec), w.between(1, 60*sec, 360*sec)
	const capacity = 295 * 1000 // in that time
	goodput := failed.served + w.between(1, 65*sec, 360*sec).served
	t.Logf("goodput %.1f %% of what is left; p99 %v there, %v from afar, %v before; own callers' shed %.1f %%, others' %.1f %%, limit %d",
		100*float64(goodput)/capacity, own.p99, failed.p99, normal.p99, 100*float64(own.shed)/float64(own.shed+own.served),
		100*float64(failed.shed)/float64(failed.shed+failed.served), w.regions[1].known.Limit())
	if goodput < capacity*95/100 {
		t.Errorf("%d of %d were served", goodput, capacity)
	}
	if own.p99 > 5*base || failed.p99 > 5*base {
		t.Errorf("p99 is %v and %v", own.p99, failed.p99)
	}
	if own.shed*100 > own.served*6 {
		t.Errorf("the callers of the region that works lost %d requests, and had %d", own.shed, own.served)
	}
	if failed.shedSlowest > 50*time.Millisecond || own.shedSlowest > 50*time.Millisecond {
		t.Errorf("it took %v to shed", max(failed.shedSlowest, own.shedSlowest))
	}
	var low, high [2]int // shed, served
	for _, s := range w.regions[0].shed {
		if s.urgency == 6 {
			low[0]++
		} else {
			high[0]++
		}
	}
	for _, s := range w.regions[0].served {
		if s.at < 65*sec {
			continue
		} else if s.urgency == 6 {
			low[1]++
		} else {
			high[1]++
		}
	}
	if lost, kept := float64(low[0])/float64(low[0]+low[1]), float64(high[0])/float64(high[0]+high[1]); lost < 1.4*kept {
		t.Errorf("%.2f of the less urgent were shed, and %.2f of the others", lost, kept)
	}
	var away []int
	for at := 66 * sec; at < 360*sec; at += 3 * sec {
		away = append(away, w.between(0, at, at+3*sec).served)
	}
	if n := turns(away, 500); n > 4 { // of 300 a second: a swing of more than a half of them
		t.Errorf("it turned round %d times: %v", n, away)
	}

	w.regions[0].dead = false
	w.run(420 * sec)
	for at := 365 * sec; at < 420*sec; at += sec {
		for i := range w.regions {
			if o := w.between(i, at, at+sec); o.p99 > 6*base || o.shed > 7 {
				t.Errorf("region %d, %v after it was back: %+v", i, at-360*sec, o)
			}
		}
	}
	if o := w.between(0, 361*sec, 364*sec); o.away < o.served*2/5 { // that is all which the other one has room for
		t.Errorf("it came back at once: %+v", o)
	}
	if o := w.between(0, 380*sec, 420*sec); o.away > 0 {
		t.Errorf("it has not come back: %+v", o)
	}
}

// TestRegionThatFlapsGetsLittle: what comes and goes every three seconds gets no more than its floor while others have room.
func TestRegionThatFlapsGetsLittle(t *testing.T) {
	w := newWorld(3, 100, 0.5)
	w.run(20 * time.Second)
	for at := 20; at < 320; at += 3 {
		w.regions[0].dead = !w.regions[0].dead
		w.run(time.Duration(at+3) * time.Second)
	}
	o := w.between(0, 40*time.Second, 320*time.Second)
	if at := o.served - o.away; at > o.served/4 || o.shed > o.served/100 {
		t.Errorf("%d of %d stayed in the region that flaps, %d were shed", at, o.served, o.shed)
	}
	t.Logf("%+v", o)
}

// TestFailuresDoNotMultiply: two of five regions fail, and two of five answers of the others are errors that are tried again.
func TestFailuresDoNotMultiply(t *testing.T) {
	w := newWorld(5, 50, 0.7)
	w.run(20 * time.Second)
	w.fails, w.asked, w.tried, w.refused = 0.4, 0, 0, 0
	w.regions[0].dead, w.regions[3].dead = true, true
	w.run(80 * time.Second)
	served := 0
	for i := range w.regions {
		o := w.between(i, 30*time.Second, 80*time.Second)
		served += o.served
		if o.p99 > 15*base { // some tries
			t.Errorf("region %d: %+v", i, o)
		}
	}
	amplified, all := float64(w.tried)/float64(w.asked), float64(w.tried+w.refused)/float64(w.asked)
	t.Logf("instances got %.2f tries for each request, gateways %.2f; %d served in 50 s", amplified, all, served)
	if amplified > 1.2 || all > 1.3 {
		t.Errorf("each request became %.2f at instances, %.2f at gateways", amplified, all)
	}
}

// TestLightTrafficMeetsNoLimit: what never was much goes wherever it can at once.
func TestLightTrafficMeetsNoLimit(t *testing.T) {
	w := newWorld(2, 100, 0.03)
	w.run(10 * time.Second)
	w.regions[0].dead = true
	w.run(20 * time.Second)
	w.regions[0].dead = false
	w.run(30 * time.Second)
	if o := w.between(0, 0, 30*time.Second); o.shed > 0 {
		t.Errorf("%+v", o)
	}
	if o := w.between(0, 21*time.Second, 30*time.Second); o.away > 0 {
		t.Errorf("it does not go back at once: %+v", o)
	}
}

// TestSlowerIsNotOverloaded: a service gets ten times as slow and takes as many requests as before.
func TestSlowerIsNotOverloaded(t *testing.T) {
	a := limit.NewAdaptive(limit.AdaptiveConfig{Most: 1 << 20})
	refused := 0
	second := func(now time.Duration, rate int, took time.Duration) {
		type end struct{ at time.Duration }
		var ends []end
		for i := range rate {
			at := now + time.Second*time.Duration(i)/time.Duration(rate)
			for len(ends) > 0 && ends[0].at <= at {
				a.End(took, limit.Answered, ends[0].at)
				ends = ends[1:]
			}
			if !a.Admit(1, at) {
				refused++
				continue
			}
			ends = append(ends, end{at + took})
		}
		for _, e := range ends {
			a.End(took, limit.Answered, min(e.at, now+time.Second))
		}
	}
	for i := range 30 {
		second(time.Duration(i)*time.Second, 1000, 5*time.Millisecond)
	}
	if refused > 0 {
		t.Fatalf("%d were refused while all was well", refused)
	}
	for i := range 60 {
		second(time.Duration(30+i)*time.Second, 1000, 50*time.Millisecond)
	}
	if refused > 3000 {
		t.Errorf("%d of 60000 were refused", refused)
	}
	t.Logf("%d of 60000 were refused", refused)
}

func TestSpillsHoldUnderRaces(t *testing.T) {
	var all limit.Spills
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for n := range 2000 {
				s, now, detour := all.To(federation.Region(fmt.Sprint(n%3))), time.Duration(n)*time.Millisecond, i%2 == 0
				if s.Enter(detour, n%8, now) == limit.Open {
					s.Room(n%50, now)
					s.Leave(detour, now)
				} else if s.Lost(now); n%5 == 0 {
					s.Refused(now)
				}
			}
		})
	}
	wg.Wait()
	later := time.Hour
	for i := range 3 {
		for range detourFloor {
			if p := all.To(federation.Region(fmt.Sprint(i))).Enter(true, 3, later); p != limit.Open {
				t.Fatalf("region %d: places were lost: %d", i, p)
			}
		}
	}
	all.Keep(func(federation.Region) bool { return false })
}

// detourFloor is what every region gets of detours.
const detourFloor = 20

func BenchmarkSpill(b *testing.B) {
	var all limit.Spills
	now := time.Duration(0)
	b.ReportAllocs()
	for b.Loop() {
		now += time.Microsecond
		s := all.To("gcp")
		if s.Enter(false, 3, now) == limit.Open {
			s.Leave(false, now)
		}
	}
}
