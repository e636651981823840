package balance_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
)

var shop = federation.ServiceName{Namespace: "default", Name: "shop"}

// world is a Balancer with a clock and luck that the test controls.
type world struct {
	*balance.Balancer
	now time.Time
}

func newWorld(seed uint64) *world {
	w := &world{now: time.Unix(1_700_000_000, 0)}
	rng := rand.New(rand.NewPCG(seed, 1))
	w.Balancer = balance.New(balance.Config{Now: func() time.Time { return w.now }, Rand: rng.Uint64})
	return w
}

func members(weights ...uint16) []balance.Member {
	all := make([]balance.Member, len(weights))
	for i, weight := range weights {
		all[i] = balance.Member{Endpoint: endpoint(i), Weight: weight}
	}
	return all
}

func endpoint(i int) balance.Endpoint {
	address := netip.AddrPortFrom(netip.AddrFrom4([4]byte{192, 0, 2, byte(i)}), 8080)
	return balance.Endpoint{Instance: federation.InstanceID(fmt.Sprint("shop-", i)), Address: address}
}

func lane(healthy ...bool) *federation.HealthLane {
	slots := make([]federation.SlotHealth, len(healthy))
	for i, h := range healthy {
		slots[i].Total = 1
		if h {
			slots[i].Healthy = 1
		}
	}
	return federation.NewHealthLane(slots)
}

// bind binds t, with all its members healthy unless it says otherwise.
func bind(b *balance.Balancer, t balance.Target) *balance.Pool {
	if t.Lane == nil {
		healthy := make([]bool, len(t.Members))
		for i := range healthy {
			healthy[i] = true
		}
		t.Lane = lane(healthy...)
	}
	return b.Bind(t)
}

var outlier = federation.Resolver{}.Defaulted().Outlier

func TestIdleServiceFollowsWeights(t *testing.T) {
	w := newWorld(1)
	p := bind(w.Balancer, balance.Target{Service: shop, Members: members(100, 300, 600), Outlier: outlier})
	got := [3]int{}
	const n = 30_000
	for range n {
		l, _ := p.Pick(nil, balance.Usable)
		got[l.Index()]++
		l.Connected(200 * time.Microsecond)
		l.Done(balance.Answered)
	}
	for i, want := range []float64{0.1, 0.3, 0.6} {
		if share := float64(got[i]) / n; share < want-0.02 || share > want+0.02 {
			t.Errorf("member %d got %.3f of the connections, want %.1f", i, share, want)
		}
	}
}

func TestOpenConnectionsSpreadByWeight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.Uint16Range(50, 400), 2, 24).Draw(t, "weights")
		w := newWorld(rapid.Uint64().Draw(t, "seed"))
		p := bind(w.Balancer, balance.Target{Service: shop, Members: members(weights...), Outlier: outlier})
		n, sum := 200*len(weights), 0
		for range n {
			p.Pick(nil, balance.Usable)
		}
		for _, weight := range weights {
			sum += int(weight)
		}
		for i, s := range p.Status() {
			want := float64(n) * float64(weights[i]) / float64(sum)
			if got := float64(s.InFlight); got < want*0.7-4 || got > want*1.3+4 {
				t.Fatalf("member %d of weight %d holds %v connections, want about %.0f", i, weights[i], got, want)
			}
		}
	})
}

func TestSlowInstanceGetsLessAndIsForgiven(t *testing.T) {
	w := newWorld(3)
	p := bind(w.Balancer, balance.Target{Service: shop, Members: members(100, 100, 100, 100), Outlier: outlier})
	run := func(latency func(i int) time.Duration) (got [4]int) {
		for range 4000 {
			l, _ := p.Pick(nil, balance.Usable)
			got[l.Index()]++
			l.Connected(latency(l.Index()))
			l.Done(balance.Answered)
			w.now = w.now.Add(time.Millisecond)
		}
		return got
	}
	slow := run(func(i int) time.Duration {
		if i == 0 {
			return 300 * time.Millisecond
		}
		return 2 * time.Millisecond
	})
	if slow[0] > 100 {
		t.Errorf("the slow instance got %d of 4000 connections, want at most 100", slow[0])
	}
	w.now = w.now.Add(2 * time.Minute) // the peak has faded
	even := run(func(int) time.Duration { return 2 * time.Millisecond })
	if even[0] < 800 {
		t.Errorf("after it recovered the instance got %d of 4000 connections, want about 1000", even[0])
	}
}

func TestRefusingInstanceIsEjectedForLongerEachTime(t *testing.T) {
	w := newWorld(4)
	p := bind(w.Balancer, balance.Target{Service: shop, Members: members(100, 100, 100), Outlier: outlier})
	fail := func() {
		for p.Status()[0].Ejected == 0 {
			l, ok := p.Pick([]int{1, 2}, balance.Usable)
			if !ok || l.Index() != 0 {
				t.Fatal("member 0 was not picked though it was not ejected")
			}
			l.Done(balance.Unreached)
		}
	}
	for round := 1; round <= 3; round++ {
		fail()
		if got, want := p.Status()[0].Ejected, time.Duration(round)*outlier.EjectFor.D(); got != want {
			t.Errorf("ejection %d lasts %v, want %v", round, got, want)
		}
		w.now = w.now.Add(p.Status()[0].Ejected)
	}
	w.now = w.now.Add(10 * outlier.EjectFor.D()) // long good behaviour
	fail()
	if got := p.Status()[0].Ejected; got != outlier.EjectFor.D() {
		t.Errorf("after a quiet time the ejection lasts %v, want %v", got, outlier.EjectFor)
	}
}

func TestSuccessBetweenFailuresKeepsAnInstance(t *testing.T) {
	w := newWorld(5)
	p := bind(w.Balancer, balance.Target{Service: shop, Members: members(100, 100), Outlier: outlier})
	for i := range 100 {
		l, ok := p.Pick([]int{1}, balance.Usable)
		if !ok {
			t.Fatal("ejected though every fourth connection was taken")
		}
		if i%4 == 3 {
			l.Connected(time.Millisecond) // still open, so only the connecting has succeeded
			continue
		}
		l.Done(balance.Unreached)
	}
}

func TestResetsWithoutAnAnswerEject(t *testing.T) {
	w := newWorld(6)
	p := bind(w.Balancer, balance.Target{Service: shop, Members: members(100, 100), Outlier: outlier})
	for range outlier.ConsecutiveFailures {
		l, _ := p.Pick([]int{1}, balance.Usable)
		l.Connected(time.Millisecond)
		l.Done(balance.Unanswered)
	}
	if p.Status()[0].Ejected == 0 {
		t.Error("an instance that accepts and resets was not ejected")
	}
}

func TestMemoryOutlivesSnapshotsAndIsPruned(t *testing.T) {
	w := newWorld(7)
	old := bind(w.Balancer, balance.Target{Snapshot: 1, Service: shop, Members: members(100, 100), Outlier: outlier})
	for range outlier.ConsecutiveFailures {
		l, _ := old.Pick([]int{1}, balance.Usable)
		l.Done(balance.Unreached)
	}
	held, _ := old.Pick(nil, balance.Usable) // member 1
	next := bind(w.Balancer, balance.Target{Snapshot: 2, Service: shop, Members: members(100, 50, 100), Outlier: outlier})
	if s := next.Status(); s[0].Ejected == 0 || s[1].InFlight != 1 || s[2].InFlight != 0 {
		t.Fatalf("the new snapshot does not know what the old one learned: %+v", s)
	}
	held.Done(balance.Answered)
	if s := next.Status(); s[1].InFlight != 0 {
		t.Errorf("a lease of the old snapshot did not end in the new one: %+v", s[1])
	}
	bind(w.Balancer, balance.Target{Snapshot: 3, Service: shop, Members: members(100, 50, 100)[1:], Outlier: outlier})
	// A connection that still holds the first snapshot must not bring the endpoint back for good.
	bind(w.Balancer, balance.Target{Snapshot: 1, Service: shop, Members: members(100, 100), Outlier: outlier})
	again := bind(w.Balancer, balance.Target{Snapshot: 4, Service: shop, Members: members(100, 50, 100)[1:], Outlier: outlier})
	if len(again.Status()) != 2 {
		t.Fatal("wrong membership")
	}
	fresh := bind(w.Balancer, balance.Target{Snapshot: 5, Service: shop, Members: members(100), Outlier: outlier})
	if fresh.Status()[0].Ejected != 0 {
		t.Error("an endpoint that was gone kept its ejection")
	}
	w.Keep(func(federation.ServiceName) bool { return false }, nil)
	if got := w.Services(); len(got) != 0 {
		t.Errorf("services %v are still remembered", got)
	}
}

// TestNeverPicksWhatItMustNot drives random outcomes and checks, at every pick, what the choice promises.
func TestNeverPicksWhatItMustNot(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "members")
		w := newWorld(rapid.Uint64().Draw(t, "seed"))
		health := make([]bool, n)
		for i := range health {
			health[i] = rapid.IntRange(0, 3).Draw(t, "healthy") > 0
		}
		o := federation.Outlier{
			ConsecutiveFailures: rapid.IntRange(1, 4).Draw(t, "failures"),
			EjectFor:            federation.Duration(10 * time.Second),
			MaxEjectedPercent:   rapid.IntRange(0, 100).Draw(t, "percent"),
		}
		l := lane(health...)
		p := bind(w.Balancer, balance.Target{Service: shop, Members: members(make([]uint16, n)...), Lane: l, Outlier: o})
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			before := p.Status()
			usable, healthy := 0, 0
			for _, s := range before {
				if s.Healthy {
					healthy++
					if s.Ejected == 0 {
						usable++
					}
				}
			}
			if out := healthy - usable; out*100 > healthy*o.MaxEjectedPercent {
				t.Fatalf("%d of %d healthy members are ejected, more than %d%%", out, healthy, o.MaxEjectedPercent)
			}
			lease, ok := p.Pick(nil, balance.Usable)
			if ok != (usable > 0) {
				t.Fatalf("picked %v with %d usable members", ok, usable)
			}
			if ok && (!before[lease.Index()].Healthy || before[lease.Index()].Ejected > 0) {
				t.Fatalf("picked %+v", before[lease.Index()])
			}
			if !ok {
				if lease, ok = p.Pick(nil, balance.Suspect); ok != (healthy > 0) {
					t.Fatalf("panic mode picked %v with %d healthy members", ok, healthy)
				}
			}
			if !ok {
				if lease, ok = p.Pick(nil, balance.Any); !ok {
					t.Fatal("nothing picked at all")
				}
			}
			lease.Done(balance.Result(rapid.IntRange(0, 3).Draw(t, "result")))
			w.now = w.now.Add(time.Duration(rapid.IntRange(0, 4000).Draw(t, "ms")) * time.Millisecond)
		}
	})
}

func TestTriedMembersAreNotPickedAgain(t *testing.T) {
	for _, n := range []int{1, 3, 30} {
		w := newWorld(8)
		p := bind(w.Balancer, balance.Target{Service: shop, Members: members(make([]uint16, n)...), Outlier: outlier})
		var tried []int
		for {
			l, ok := p.Pick(tried, balance.Usable)
			if !ok {
				break
			}
			tried = append(tried, l.Index())
			l.Done(balance.Abandoned)
		}
		if len(tried) != n {
			t.Errorf("%d members were picked of %d", len(tried), n)
		}
	}
}

func TestRegionFailsOnlyInARow(t *testing.T) {
	w := newWorld(9)
	r := w.Region(shop, "gcp")
	for range 20 {
		for range outlier.ConsecutiveFailures - 1 {
			r.Failed(outlier)
		}
		r.Served()
	}
	if r.Avoid() {
		t.Fatal("avoided though it served in between")
	}
	for range outlier.ConsecutiveFailures {
		r.Failed(outlier)
	}
	if !r.Avoid() {
		t.Fatal("not avoided after failures in a row")
	}
	if w.Region(shop, "gcp") != r {
		t.Fatal("the memory of the region was lost")
	}
	w.now = w.now.Add(outlier.EjectFor.D())
	if r.Avoid() {
		t.Fatal("still avoided after the ejection ended")
	}
}

func TestConcurrentUseKeepsCounts(t *testing.T) {
	b := balance.New(balance.Config{})
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range 2000 {
				p := bind(b, balance.Target{Snapshot: uint64(i / 100), Service: shop, Members: members(100, 100, 100), Outlier: outlier})
				l, ok := p.Pick(nil, balance.Any)
				if !ok {
					t.Error("nothing picked")
					return
				}
				l.Connected(time.Duration(i))
				l.Done(balance.Result(i % 4))
			}
		})
	}
	wg.Wait()
	p := bind(b, balance.Target{Snapshot: 100, Service: shop, Members: members(100, 100, 100), Outlier: outlier})
	for _, s := range p.Status() {
		if s.InFlight != 0 {
			t.Errorf("%v has %d connections left over", s.Endpoint, s.InFlight)
		}
	}
}

func BenchmarkPick(b *testing.B) {
	for _, n := range []int{3, 100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			balancer := balance.New(balance.Config{})
			all := make([]balance.Member, n)
			healthy := make([]bool, n)
			for i := range all {
				all[i].Endpoint.Instance, healthy[i] = federation.InstanceID(fmt.Sprint(i)), true
			}
			p := balancer.Bind(balance.Target{Service: shop, Members: all, Lane: lane(healthy...), Outlier: outlier})
			b.ReportAllocs()
			for b.Loop() {
				l, _ := p.Pick(nil, balance.Usable)
				l.Connected(2 * time.Millisecond)
				l.Done(balance.Answered)
			}
		})
	}
}

func TestHealthEndsAnEjection(t *testing.T) {
	now := time.Now()
	b := balance.New(balance.Config{Now: func() time.Time { return now }})
	outlier := federation.Outlier{ConsecutiveFailures: 2, EjectFor: federation.Duration(time.Minute), MaxEjectedPercent: 100}
	r := b.Region(federation.ServiceName{Namespace: "default", Name: "web"}, "aws-us-east-1")
	r.Failed(outlier)
	r.Failed(outlier)
	if !r.Avoid() {
		t.Fatal("a region that failed twice in a row is not avoided")
	}
	r.Down()
	if r.Avoid() {
		t.Fatal("a region is still avoided although its own news explains the failures")
	}
	r.Failed(outlier)
	if r.Avoid() {
		t.Fatal("one failure after the news counts together with those before it")
	}
}
