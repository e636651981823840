package balance_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
)

// keyed returns a pool of all, with a Balancer of its own: nothing is remembered of another.
func keyed(all []balance.Member) *balance.Pool {
	return bind(newWorld(1).Balancer, balance.Target{Service: shop, Members: all, Outlier: outlier})
}

func leadsTo(t interface{ Fatal(...any) }, p *balance.Pool, key uint64) federation.InstanceID {
	l, ok := p.PickFor(key, nil, balance.Usable)
	if !ok {
		t.Fatal("nothing picked")
	}
	l.Done(balance.Abandoned)
	return l.Endpoint().Instance
}

func TestKeysStayWhenAMemberGoes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		weights := rapid.SliceOfN(rapid.Uint16Range(1, 1000), 2, 60).Draw(t, "weights")
		if rapid.Bool().Draw(t, "equal") {
			clear(weights)
		}
		all := members(weights...)
		gone := rapid.IntRange(0, len(all)-1).Draw(t, "gone")
		var sum, lost float64
		for i, m := range all {
			w := float64(m.Weight)
			if w == 0 {
				w = federation.DefaultWeight
			}
			if sum += w; i == gone {
				lost = w
			}
		}
		before := keyed(all)
		rest := append(append([]balance.Member{}, all[:gone]...), all[gone+1:]...)
		rand.Shuffle(len(rest), func(i, j int) { rest[i], rest[j] = rest[j], rest[i] }) // the order must not matter
		after := keyed(rest)
		const n = 1000
		moved := 0
		for i := range uint64(n) {
			if leadsTo(t, before, i) != leadsTo(t, after, i) {
				moved++
			}
		}
		if limit := 2*lost/sum + 0.04; float64(moved)/n > limit {
			t.Fatalf("%d of %d keys moved, want at most %.1f%%", moved, n, 100*limit)
		}
	})
}

func TestKeysFollowWeights(t *testing.T) {
	p := keyed(members(100, 300, 600))
	got := map[federation.InstanceID]float64{}
	const n = 30_000
	for i := range uint64(n) {
		got[leadsTo(t, p, i)] += 1. / n
	}
	for i, want := range []float64{0.1, 0.3, 0.6} {
		if share := got[endpoint(i).Instance]; share < want-0.02 || share > want+0.02 {
			t.Errorf("member %d got %.3f of the keys, want %.1f", i, share, want)
		}
	}
}

func TestKeyComesBackWhenItsMemberHeals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(2, 30).Draw(t, "members")
		health := make([]federation.SlotHealth, n)
		for i := range health {
			health[i] = federation.SlotHealth{Healthy: 1, Total: 1}
		}
		l := federation.NewHealthLane(health)
		p := bind(newWorld(2).Balancer, balance.Target{Service: shop, Members: members(make([]uint16, n)...), Lane: l, Outlier: outlier})
		down := map[federation.InstanceID]bool{}
		for i := range n - 1 {
			if rapid.Bool().Draw(t, "down") {
				l.Store(i, federation.SlotHealth{Total: 1})
				down[endpoint(i).Instance] = true
			}
		}
		second := map[uint64]federation.InstanceID{}
		for key := range uint64(200) {
			second[key] = leadsTo(t, p, key)
			if down[second[key]] {
				t.Fatalf("key %d leads to %s, which is down", key, second[key])
			}
			if again := leadsTo(t, p, key); again != second[key] {
				t.Fatalf("key %d leads to %s, then to %s", key, second[key], again)
			}
		}
		for i := range n {
			l.Store(i, federation.SlotHealth{Healthy: 1, Total: 1})
		}
		for key, place := range second {
			if first := leadsTo(t, p, key); first != place && !down[first] {
				t.Fatalf("key %d was moved from %s, which was never down", key, first)
			}
		}
	})
}

func TestLeaseKeyLeadsBack(t *testing.T) {
	small := keyed(members(make([]uint16, 5)...))
	large := keyed(members(make([]uint16, 200)...))
	for range 50 {
		l, _ := small.Pick(nil, balance.Usable)
		if got := leadsTo(t, large, l.Key()); got != l.Endpoint().Instance {
			t.Errorf("the key of %s leads to %s after others came", l.Endpoint().Instance, got)
		}
	}
}

func TestKeysOutliveSnapshotsOfTheSameMembers(t *testing.T) {
	w := newWorld(3)
	target := balance.Target{Service: shop, Members: members(make([]uint16, 50)...), Outlier: outlier,
		Subsets: map[string][]int{"v2": {1, 2, 3}}}
	ask := func() {
		target.Snapshot++
		p, elsewhere := bind(w.Balancer, target), keyed(target.Members)
		v2, _ := p.Subset("v2")
		for key := range uint64(50) {
			leadsTo(t, v2, key)
			if a, b := leadsTo(t, p, key), leadsTo(t, elsewhere, key); a != b {
				t.Fatalf("key %d leads to %s, at another gateway to %s", key, a, b)
			}
		}
	}
	ask()
	ask()
	target.Members[7].Weight = 1000
	ask()
	target.Members = target.Members[:40]
	target.Subsets = map[string][]int{"v2": {5}}
	ask()
}

func TestPickForNeverRepeatsATriedMember(t *testing.T) {
	p := keyed(members(make([]uint16, 12)...))
	for key := range uint64(20) {
		var tried []int
		seen := map[int]bool{}
		for {
			l, ok := p.PickFor(key, tried, balance.Usable)
			if !ok {
				break
			}
			if seen[l.Index()] {
				t.Fatalf("key %d led to member %d twice", key, l.Index())
			}
			seen[l.Index()] = true
			tried = append(tried, l.Index())
		}
		if len(seen) != 12 {
			t.Errorf("key %d led to %d members of 12", key, len(seen))
		}
	}
	if _, ok := keyed(nil).PickFor(1, nil, balance.Any); ok {
		t.Error("a service without instances gave one")
	}
}

func TestKeysOfAddresses(t *testing.T) {
	four := netip.MustParseAddr("192.0.2.1")
	if balance.AddressKey(four) != balance.AddressKey(netip.AddrFrom16(four.As16())) {
		t.Error("an address has another key in its IPv6 form")
	}
	if balance.AddressKey(four) == balance.AddressKey(four.Next()) || balance.Key("a") == balance.Key("b") {
		t.Error("neighbours have the same key")
	}
}

func TestChoosingAllocatesNothing(t *testing.T) {
	for _, b := range []federation.Balance{"", federation.BalanceLeastRequest, federation.BalanceMaglev, federation.BalanceRandom} {
		o := outlier
		o.PanicPercent, o.SuccessRate = 50, 1.9
		p := bind(balance.New(balance.Config{}), balance.Target{Service: shop, Members: members(make([]uint16, 40)...), Outlier: o, Balance: b})
		if n := testing.AllocsPerRun(1000, func() {
			l, _ := p.Pick(nil, balance.Usable)
			l.Connected(1)
			l.Done(balance.Answered)
			l, _ = p.PickFor(7, nil, balance.Usable)
			l.Done(balance.ServerError)
		}); n >= 1 {
			t.Errorf("%q: %v allocations", b, n)
		}
	}
}

func BenchmarkPickFor(b *testing.B) {
	for _, n := range []int{3, 100, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := make([]balance.Member, n)
			healthy := make([]bool, n)
			for i := range all {
				all[i].Endpoint.Instance, healthy[i] = federation.InstanceID(fmt.Sprint(i)), true
			}
			p := balance.New(balance.Config{}).Bind(balance.Target{Service: shop, Members: all, Lane: lane(healthy...), Outlier: outlier})
			key := uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				key++
				l, _ := p.PickFor(key, nil, balance.Usable)
				l.Done(balance.Answered)
			}
		})
	}
}

func BenchmarkBuildKeys(b *testing.B) {
	for _, n := range []int{3, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			all := make([]balance.Member, n)
			for i := range all {
				all[i].Endpoint.Instance, all[i].Weight = federation.InstanceID(fmt.Sprint(i)), uint16(i%3*50+50)
			}
			for b.Loop() {
				balance.New(balance.Config{}).Bind(balance.Target{Service: shop, Members: all, Outlier: outlier}).PickFor(1, nil, balance.Any)
			}
		})
	}
}
