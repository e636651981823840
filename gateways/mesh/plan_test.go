package mesh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

var (
	planShop = federation.ServiceName{Namespace: "default", Name: "shop"}
	planWeb  = federation.ServiceName{Namespace: "default", Name: "web"}
)

// paths is a Tunnel that knows paths and nothing else.
type paths map[federation.Region]tunnel.Path

func (p paths) Path(peer federation.Region) tunnel.Path { return p[peer] }

func (p paths) Open(context.Context, federation.Region, flow.Open) (Flow, error) {
	return nil, errors.New("no session")
}

func (p paths) Ask(context.Context, federation.Region, []byte) ([]byte, error) {
	return nil, errors.New("no session")
}

// TestPlan draws worlds and checks what the order of candidates promises in each.
func TestPlan(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		view := &federation.View{
			Number: 1, Region: "home", TrustDomain: federation.DefaultTrustDomain("home"),
			Peers: map[federation.Region]federation.Peer{}, Imports: map[federation.Region]*federation.Import{},
		}
		up := paths{}
		order := []string{"local", "*"}
		for i := range rapid.IntRange(0, 6).Draw(t, "peers") {
			drawPeer(t, view, up, federation.Region(fmt.Sprintf("peer-%d", i)))
		}
		if rapid.Bool().Draw(t, "named order") && len(up) > 1 {
			order = []string{"peer-1", "local", "peer-0", "*"}
		}
		view.Resolvers = map[federation.ServiceName]federation.Resolver{planShop: {Service: planShop, Failover: order}}
		if rapid.Bool().Draw(t, "local") {
			view.Local = federation.NewCatalog(1, map[federation.ServiceName]*federation.LocalService{planShop: {
				Name: planShop, Instances: make([]federation.Instance, 1), Lane: federation.NewHealthLane([]federation.SlotHealth{{Healthy: 1}}),
			}})
			if rapid.Bool().Draw(t, "local allowed") {
				allow(view, "home")
			}
		}
		snap, err := route.Compile(view)
		if err != nil {
			t.Fatal(err)
		}
		upstream, found := snap.Upstream(federation.ServiceRef{Service: planShop})
		if !found {
			return
		}
		m := New(Config{Region: "home", Table: route.NewTable(), Tunnel: up})
		for region := range up {
			if rapid.IntRange(0, 4).Draw(t, "avoided") == 0 {
				for range upstream.Resolver.Outlier.ConsecutiveFailures {
					m.cfg.Balance.Region(planShop, region).Failed(upstream.Resolver.Outlier)
				}
			}
		}
		checkPlan(t, m, snap, upstream)
	})
}

func drawPeer(t *rapid.T, view *federation.View, up paths, name federation.Region) {
	domain := federation.DefaultTrustDomain(name)
	id, err := federation.WorkloadID(domain, planShop)
	if err != nil {
		t.Fatal(err)
	}
	view.Peers[name] = federation.Peer{Region: name, TrustDomain: domain, State: federation.PeeringActive}
	view.Imports[name] = &federation.Import{
		Peer: name, Freshness: federation.Freshness(rapid.IntRange(0, 2).Draw(t, "freshness")),
		Services: map[federation.ServiceName]*federation.ImportedService{planShop: {
			Name: planShop, Identity: id,
			Lane: federation.NewHealthLane([]federation.SlotHealth{{Healthy: uint32(rapid.IntRange(0, 1).Draw(t, "healthy"))}}),
		}},
	}
	up[name] = tunnel.Path{
		Peer: name, Up: rapid.IntRange(0, 3).Draw(t, "up") > 0, RTT: time.Duration(rapid.IntRange(1, 3).Draw(t, "rtt")) * time.Millisecond,
	}
	if rapid.IntRange(0, 3).Draw(t, "allowed") > 0 {
		allow(view, name)
	}
}

func allow(view *federation.View, region federation.Region) {
	view.Intentions = append(view.Intentions, federation.Intention{
		Name: "to-" + string(region), Source: "web", Destination: "shop@" + string(region), Action: federation.Allow,
	})
}

func checkPlan(t *rapid.T, m *Mesh, snap *route.Snapshot, upstream *route.Upstream) {
	who := &caller{id: snap.Identity(planWeb), assurance: federation.AssuranceBinding}
	p := &plan{mesh: m, snap: snap, upstream: upstream, who: who}
	var tried []federation.Region
	last, lastRTT, resort := -1, time.Duration(0), false
	for {
		s, ok := p.next()
		if !ok {
			break
		}
		if slices.Contains(tried, s.Region) {
			t.Fatalf("region %s is tried twice", s.Region)
		}
		tried = append(tried, s.Region)
		if d := snap.Authorize(who.id, who.assurance, s.Region, planShop); !d.Allowed {
			t.Fatalf("region %s is tried though it is not allowed", s.Region)
		}
		why, rtt := m.weigh(planShop, s.Candidate)
		if why == dropNoPath {
			t.Fatalf("region %s is tried without a path", s.Region)
		}
		resort = resort || why != dropNot
		if why == dropNot && resort {
			t.Fatalf("region %s is good and comes after one that is not", s.Region)
		}
		if resort {
			continue
		}
		if s.Rank < last || s.Rank == last && rtt < lastRTT {
			t.Fatalf("region %s (rank %d, %v) comes after rank %d, %v", s.Region, s.Rank, rtt, last, lastRTT)
		}
		last, lastRTT = s.Rank, rtt
	}
	for i := range upstream.Candidates {
		c := &upstream.Candidates[i]
		why, _ := m.weigh(planShop, c)
		allowed := snap.Authorize(who.id, who.assurance, c.Region, planShop).Allowed
		if want := allowed && why != dropNoPath; want != slices.Contains(tried, c.Region) {
			t.Fatalf("region %s: tried %v, want %v (%s)", c.Region, !want, want, why)
		}
	}
	if len(tried) > 0 && p.preferred == "" {
		t.Fatal("something is tried and nothing is preferred")
	}
}

func TestApplyForgetsWhatIsGone(t *testing.T) {
	registry := prometheus.NewRegistry()
	table := route.NewTable()
	m := New(Config{Region: "home", Table: table, Tunnel: paths{}, Metrics: registry})
	publish := func(number uint64, services map[federation.ServiceName]*federation.LocalService) *route.Snapshot {
		snap, err := route.Compile(&federation.View{
			Number: number, Region: "home", TrustDomain: federation.DefaultTrustDomain("home"), Local: federation.NewCatalog(number, services),
		})
		if err != nil {
			t.Fatal(err)
		}
		table.Publish(snap)
		m.Apply()
		return snap
	}
	service := func(instances int) map[federation.ServiceName]*federation.LocalService {
		s := &federation.LocalService{Name: planShop, Lane: federation.NewHealthLane(make([]federation.SlotHealth, instances))}
		for i := range instances {
			s.Instances = append(s.Instances, federation.Instance{ID: federation.InstanceID(fmt.Sprint(i))})
		}
		return map[federation.ServiceName]*federation.LocalService{planShop: s}
	}
	snap := publish(1, service(3))
	target, _ := snap.Local(planShop)
	if n := len(m.pool(snap, target).Status()); n != 3 {
		t.Fatalf("%d instances", n)
	}
	m.metrics.of(seriesKey{outbound, snap.Identity(planWeb), "home", planShop, "home"}).opened.Inc()
	first := m.pool(snap, target)
	if m.pool(snap, target) != first {
		t.Error("an unchanged service gets a new pool for each connection")
	}
	snap = publish(2, service(2))
	target, _ = snap.Local(planShop)
	if m.pool(snap, target) == first {
		t.Error("a changed service keeps its old pool")
	}
	if got := m.cfg.Balance.Services(); len(got) != 1 {
		t.Errorf("services %v are remembered", got)
	}
	publish(3, nil)
	if got := m.cfg.Balance.Services(); len(got) != 0 {
		t.Errorf("services %v are remembered though they are gone", got)
	}
	if n := testutil.CollectAndCount(m.metrics.opened); n != 0 {
		t.Errorf("%d label sets of a service that is gone are left", n)
	}
}

// BenchmarkRejudge judges 10,000 open connections, none of which has to end.
func BenchmarkRejudge(b *testing.B) {
	table := route.NewTable()
	m := New(Config{Region: "home", Table: table, Tunnel: paths{}})
	view := &federation.View{Number: 1, Region: "home", TrustDomain: federation.DefaultTrustDomain("home")}
	allow(view, "home")
	snap, err := route.Compile(view)
	if err != nil {
		b.Fatal(err)
	}
	table.Publish(snap)
	for range 10_000 {
		m.live.add(&conn{direction: outbound, source: snap.Identity(planWeb), assurance: 1, service: planShop})
	}
	for b.Loop() {
		if n := m.rejudge(); n != 0 {
			b.Fatalf("%d were ended", n)
		}
	}
}
