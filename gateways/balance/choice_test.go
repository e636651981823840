package balance_test

import (
	"slices"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
)

func TestBalanceDecidesWhatCounts(t *testing.T) {
	// Member 0 is slow, member 1 is busy.
	for _, c := range []struct {
		balance    federation.Balance
		slow, busy bool // whether it gets its full share all the same
	}{
		{federation.BalanceLatency, false, false},
		{federation.BalanceLeastRequest, true, false},
		{federation.BalanceRandom, true, true},
		{federation.BalanceMaglev, true, true},
	} {
		w := newWorld(10)
		p := bind(w.Balancer, balance.Target{Service: shop, Members: members(100, 100, 100, 100), Outlier: outlier, Balance: c.balance})
		for range 50 {
			p.Pick([]int{0, 2, 3}, balance.Usable)
		}
		l, _ := p.Pick([]int{1, 2, 3}, balance.Usable)
		l.Connected(time.Second)
		l.Done(balance.Answered)
		got := [4]int{}
		for range 4000 {
			l, _ := p.Pick(nil, balance.Usable)
			got[l.Index()]++
			l.Done(balance.Answered)
		}
		if full := got[0] > 850; full != c.slow {
			t.Errorf("%s: the slow member got %d of 4000", c.balance, got[0])
		}
		if full := got[1] > 850; full != c.busy {
			t.Errorf("%s: the busy member got %d of 4000", c.balance, got[1])
		}
	}
}

func TestSubsetIsAllThatIsPickedFrom(t *testing.T) {
	w := newWorld(11)
	p := bind(w.Balancer, balance.Target{Service: shop, Members: members(make([]uint16, 20)...), Outlier: outlier,
		Subsets: map[string][]int{"v2": {3, 7, 11}, "none": {}}})
	v2, found := p.Subset("v2")
	if !found || v2.Len() != 3 {
		t.Fatalf("subset v2: %v", found)
	}
	seen := map[federation.InstanceID]bool{}
	for i := range uint64(200) {
		l, _ := v2.Pick(nil, balance.Usable)
		seen[l.Endpoint().Instance] = true
		l, _ = v2.PickFor(i, nil, balance.Usable)
		seen[l.Endpoint().Instance] = true
	}
	if len(seen) != 3 || !seen["shop-3"] || !seen["shop-7"] || !seen["shop-11"] {
		t.Errorf("picked %v", seen)
	}
	for range outlier.ConsecutiveServerErrors {
		l, _ := v2.Pick([]int{0, 2}, balance.Usable)
		l.Done(balance.ServerError)
	}
	if p.Status()[7].Ejected == 0 {
		t.Error("what failed in the subset is not known in the service")
	}
	none, _ := p.Subset("none")
	if _, ok := none.Pick(nil, balance.Any); ok {
		t.Error("an empty subset gave an instance")
	}
	if _, ok := none.PickFor(1, nil, balance.Any); ok {
		t.Error("an empty subset gave an instance for a key")
	}
	if _, found := p.Subset("v3"); found {
		t.Error("a subset was found that there is not")
	}
	if all, found := p.Subset(""); !found || all != p {
		t.Error("no subset is not the service itself")
	}
}

func TestServerErrorsInARowEject(t *testing.T) {
	w := newWorld(12)
	o := outlier
	o.ConsecutiveServerErrors = 3
	p := bind(w.Balancer, balance.Target{Service: shop, Members: members(100, 100, 100), Outlier: o})
	send := func(results ...balance.Result) {
		for _, r := range results {
			l, ok := p.Pick([]int{1, 2}, balance.Usable)
			if !ok {
				t.Fatal("ejected too early")
			}
			l.Done(r)
		}
	}
	for range 20 {
		send(balance.ServerError, balance.ServerError, balance.Abandoned, balance.Answered)
	}
	send(balance.ServerError, balance.ServerError, balance.ServerError)
	if got := p.Status()[0].Ejected; got != o.EjectFor.D() {
		t.Errorf("after three server errors the ejection lasts %v", got)
	}
	// Half of three may be out: one.
	for range 10 {
		l, _ := p.Pick([]int{0, 2}, balance.Usable)
		l.Done(balance.ServerError)
	}
	if p.Status()[1].Ejected != 0 {
		t.Error("more were ejected than may be")
	}
}

func TestSuccessRateFarBelowTheOthersEjects(t *testing.T) {
	for _, c := range []struct {
		name     string
		members  int
		requests int // to each, in ten seconds
		bad      int // of ten to member 0 that fail
		every    int // of ten to the others that fail
		factor   float64
		want     bool
	}{
		{"one bad", 6, 100, 4, 0, 1.9, true},
		{"off", 6, 100, 4, 0, 0, false},
		{"too few members", 4, 100, 4, 0, 1.9, false},
		{"too few requests", 6, 90, 4, 0, 1.9, false},
		{"all alike", 6, 100, 4, 4, 1.9, false},
	} {
		w := newWorld(13)
		o := outlier
		o.SuccessRate, o.SuccessRateHosts, o.SuccessRateRequests, o.ConsecutiveServerErrors = c.factor, 5, 100, 0
		p := bind(w.Balancer, balance.Target{Service: shop, Members: members(make([]uint16, c.members)...), Outlier: o})
		send := func(member int, r balance.Result) {
			tried := make([]int, 0, c.members)
			for i := range c.members {
				if i != member {
					tried = append(tried, i)
				}
			}
			l, ok := p.Pick(tried, balance.Any)
			if !ok {
				t.Fatal("not picked")
			}
			l.Done(r)
		}
		for i := range c.requests {
			for m := range c.members {
				failing := c.every
				if m == 0 {
					failing = c.bad
				}
				if i%10 < failing {
					send(m, balance.ServerError)
				} else {
					send(m, balance.Answered)
				}
			}
		}
		for _, s := range p.Status() {
			if s.Ejected != 0 {
				t.Errorf("%s: judged before ten seconds had passed", c.name)
			}
		}
		w.now = w.now.Add(10 * time.Second)
		send(1, balance.Answered)
		for i, s := range p.Status() {
			if (s.Ejected > 0) != (c.want && i == 0) {
				t.Errorf("%s: member %d is ejected for %v", c.name, i, s.Ejected)
			}
		}
	}
}

func TestPanicUsesAll(t *testing.T) {
	for _, n := range []int{4, 40} {
		w := newWorld(14)
		o := outlier
		o.PanicPercent = 50
		health := make([]federation.SlotHealth, n)
		for i := range health {
			health[i] = federation.SlotHealth{Total: 1, Healthy: uint32(i % 2)}
		}
		l := federation.NewHealthLane(health)
		p := bind(w.Balancer, balance.Target{Service: shop, Members: members(make([]uint16, n)...), Lane: l, Outlier: o})
		picked := func() int {
			seen := map[int]bool{}
			for range 100 * n {
				lease, ok := p.Pick(nil, balance.Usable)
				if !ok {
					t.Fatal("nothing picked")
				}
				seen[lease.Index()] = true
				lease.Done(balance.Answered)
			}
			return len(seen)
		}
		if got := picked(); got != n/2 {
			t.Errorf("at the threshold %d of %d members were used", got, n)
		}
		l.Store(1, federation.SlotHealth{Total: 1})
		w.now = w.now.Add(50 * time.Millisecond)
		if got := picked(); got != n {
			t.Errorf("below the threshold %d of %d members were used", got, n)
		}
		l.Store(1, federation.SlotHealth{Total: 1, Healthy: 1})
		w.now = w.now.Add(50 * time.Millisecond)
		if got := picked(); got != n/2 {
			t.Errorf("after it was over %d of %d members were used", got, n)
		}
	}
}

// TestNewInstancesWarmUp: from nothing to thirty instances, one a second; a request takes 100 ms, and there are 200 a second.
func TestNewInstancesWarmUp(t *testing.T) {
	w := newWorld(13)
	bound := 0
	var p *balance.Pool
	scale := func(n int) {
		bound++
		p = bind(w.Balancer, balance.Target{Snapshot: uint64(bound), Service: shop, Members: members(make([]uint16, n)...), Outlier: outlier})
	}
	scale(0)
	type open struct {
		until time.Time
		lease balance.Lease
	}
	var under []open
	got := make([]int, 30)
	second := func() {
		clear(got)
		for range 200 {
			w.now = w.now.Add(5 * time.Millisecond)
			for len(under) > 0 && !w.now.Before(under[0].until) {
				under[0].lease.Done(balance.Answered)
				under = under[1:]
			}
			l, ok := p.Pick(nil, balance.Usable)
			if !ok {
				t.Fatal("nothing to pick")
			}
			got[l.Index()]++
			under = append(under, open{w.now.Add(100 * time.Millisecond), l})
		}
	}
	for n := 1; n <= 30; n++ {
		scale(n)
		second()
		fair := 200 / n
		if n > 12 && slices.Max(got) > 4*fair {
			t.Errorf("with %d instances one got %d of 200: %v", n, slices.Max(got), got)
		}
		if n > 12 && got[n-1] > fair/2+2 {
			t.Errorf("with %d instances the newest got %d of 200 at once", n, got[n-1])
		}
		if n > 1 && n < 5 && got[0] > 200*9/10 {
			t.Errorf("with %d instances, all of them new, the first got %d of 200", n, got[0])
		}
	}
	for range 12 {
		second()
	}
	if least := slices.Min(got); least < 2 {
		t.Errorf("all are warm, and one got %d of 200: %v", least, got)
	}
}

// TestRecoveredInstanceWarmsUp: so does one that is healthy again.
func TestRecoveredInstanceWarmsUp(t *testing.T) {
	w := newWorld(14)
	health := lane(true, true)
	p := bind(w.Balancer, balance.Target{Service: shop, Members: members(100, 100), Outlier: outlier, Lane: health})
	share := func() int {
		n := 0
		for range 1000 {
			l, _ := p.Pick(nil, balance.Usable)
			if l.Index() == 1 {
				n++
			}
			l.Done(balance.Answered)
		}
		return n
	}
	health.Store(1, federation.SlotHealth{Total: 1})
	if n := share(); n != 0 {
		t.Fatalf("%d went to one that is down", n)
	}
	health.Store(1, federation.SlotHealth{Healthy: 1, Total: 1})
	last := 0
	for _, step := range []struct{ least, most int }{{10, 250}, {150, 450}, {400, 600}} {
		if last = share(); last < step.least || last > step.most {
			t.Errorf("%d of 1000, want %+v", last, step)
		}
		w.now = w.now.Add(5 * time.Second)
	}
	if last = share(); last < 400 || last > 600 {
		t.Errorf("%d of 1000 when warm", last)
	}
}
