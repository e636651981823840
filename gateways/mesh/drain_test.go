package mesh

import (
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// drainWorld is home, which prefers near to far for the service shop, with the drains given.
func drainWorld(t *testing.T, drains map[federation.Region]federation.Drain) (*Mesh, *route.Snapshot, *route.Upstream) {
	t.Helper()
	view := &federation.View{
		Number: 1, Region: "home", TrustDomain: federation.DefaultTrustDomain("home"), Drains: drains,
		Peers: map[federation.Region]federation.Peer{}, Imports: map[federation.Region]*federation.Import{},
		Resolvers: map[federation.ServiceName]federation.Resolver{planShop: {Service: planShop, Failover: []string{"near", "far"}}},
	}
	up := paths{}
	for _, name := range []federation.Region{"near", "far"} {
		domain := federation.DefaultTrustDomain(name)
		id, err := federation.WorkloadID(domain, planShop)
		if err != nil {
			t.Fatal(err)
		}
		view.Peers[name] = federation.Peer{Region: name, TrustDomain: domain, State: federation.PeeringActive}
		view.Imports[name] = &federation.Import{Peer: name, Services: map[federation.ServiceName]*federation.ImportedService{planShop: {
			Name: planShop, Identity: id, Lane: federation.NewHealthLane([]federation.SlotHealth{{Healthy: 1, Total: 1}})}}}
		up[name] = tunnel.Path{Peer: name, Up: true}
		allow(view, name)
	}
	snap, err := route.Compile(view)
	if err != nil {
		t.Fatal(err)
	}
	table := route.NewTable()
	table.Publish(snap)
	upstream, _ := snap.Upstream(federation.ServiceRef{Service: planShop})
	return New(Config{Region: "home", Table: table, Tunnel: up}), snap, upstream
}

func firstOf(m *Mesh, snap *route.Snapshot, u *route.Upstream, lot uint64) (federation.Region, *plan) {
	p := &plan{mesh: m, snap: snap, upstream: u, lot: lot, who: &caller{id: snap.Identity(planWeb), assurance: federation.AssuranceBinding}}
	s, _ := p.next()
	if s.Candidate == nil {
		return "", p
	}
	return s.Region, p
}

func TestADrainedRegionIsALastResort(t *testing.T) {
	m, snap, upstream := drainWorld(t, map[federation.Region]federation.Drain{"near": {Region: "near"}})
	if first, p := firstOf(m, snap, upstream, 0); first != "far" || !p.passed || p.preferred != "near" {
		t.Errorf("the first is %q, preferred %q, passed over %v", first, p.preferred, p.passed)
	}
	if order := m.order(snap, upstream, nil, ""); !slices.Equal(order, []federation.Region{"far", "near"}) {
		t.Errorf("the order is %v", order)
	}
	pinned, _ := snap.Upstream(federation.ServiceRef{Service: planShop, Region: "near"})
	if first, _ := firstOf(m, snap, pinned, 0); first != "near" {
		t.Errorf("who has named the region gets %q", first)
	}
	if to := m.Without(planShop, "far"); to != "near" {
		t.Errorf("without far %q would serve", to)
	}
	m, snap, upstream = drainWorld(t, nil)
	if to := m.Without(planShop, "near"); to != "far" {
		t.Errorf("without near %q would serve", to)
	}
	_ = upstream
	m.cfg.Tunnel.(paths)["far"] = tunnel.Path{Peer: "far"}
	if to := m.Without(planShop, "near"); to != "" {
		t.Errorf("without both %q would serve", to)
	}
	_ = snap
}

// TestARegionComesBackLittleByLittle measures its share of 2000 calls at each step, and that one client never goes back and forth.
func TestARegionComesBackLittleByLittle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m, snap, upstream := drainWorld(t, map[federation.Region]federation.Drain{"near": {Region: "near", Until: time.Now()}})
		const calls, clients = 2000, 50
		moved := map[int]bool{}
		for _, want := range []float64{0.1, 0.2, 0.4, 0.8, 1} {
			near := 0
			for range calls {
				first, p := firstOf(m, snap, upstream, 0)
				if first == "near" {
					near++
				} else if p.passed {
					t.Fatal("a region that comes back counts as a failover")
				}
			}
			// Four standard deviations of the draw: one run in 15,000 may miss them.
			if got := float64(near) / calls; math.Abs(got-want) > 4*math.Sqrt(want*(1-want)/calls) {
				t.Errorf("%.0f %% of the calls went there, want %.0f %%", 100*got, 100*want)
			}
			for i := range clients {
				first, _ := firstOf(m, snap, upstream, math.MaxUint64/clients*uint64(i)+1)
				if moved[i] && first != "near" {
					t.Errorf("client %d went back", i)
				}
				moved[i] = first == "near"
			}
			<-time.After(2 * time.Second)
		}
	})
}

func TestTrafficOfTheLastSecond(t *testing.T) {
	var tr traffic
	key := goes{planShop, "near"}
	for range 30 {
		tr.count(planShop, "near")
	}
	tr.tick()
	if last, mean := tr.rate(key); last != 30 || mean != 30 {
		t.Errorf("%d in the last second, %v a second", last, mean)
	}
	tr.tick()
	if last, mean := tr.rate(key); last != 0 || mean != 15 {
		t.Errorf("after a quiet second %d in the last one, %v a second", last, mean)
	}
	for range 60 {
		tr.tick()
	}
	if _, mean := tr.rate(key); mean != 0 {
		t.Errorf("after a quiet minute %v a second", mean)
	}
}
