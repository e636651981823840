package controlplane

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
)

// wait lets everything that can happen without time passing happen, and returns the views that came of it.
func (r *region) wait() []*federation.View {
	synctest.Wait()
	var views []*federation.View
	for len(r.views) > 0 {
		views = append(views, <-r.views)
	}
	return views
}

// pass lets d pass.
func (r *region) pass(d time.Duration) []*federation.View {
	<-time.After(d)
	return r.wait()
}

func expect(t *testing.T, what string, got, want []string) {
	t.Helper()
	if diff := gocmp.Diff(want, got); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

func TestABurstBecomesOneView(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, nil, "web")
		if v := r.View(); v.Number != 0 || v.Region != aws {
			t.Errorf("before Run the view is %+v", v)
		}
		r.run(t)
		first := r.wait()
		if len(first) != 1 || first[0].Number != 1 || first[0] != r.View() || first[0].Local.Service(name("web")) == nil {
			t.Fatalf("at once: %v", first)
		}
		r.pass(DefaultCoalesce) // the registry's first signal
		for i := range 50 {
			r.registry.set("web", fmt.Sprintf("svc-%d", i))
			r.SetImport(gcp, imported(gcp, federation.FreshnessLive))
			r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive)})
			r.apply(t, put("cli", intention(fmt.Sprintf("i%d", i), "web", "checkout")))
		}
		if early := r.pass(DefaultCoalesce - time.Nanosecond); len(early) != 0 {
			t.Errorf("too early: %d views", len(early))
		}
		burst := r.pass(time.Nanosecond)
		if len(burst) != 1 || len(burst[0].Intentions) != 50 || len(burst[0].Local.Names()) != 2 || burst[0].Imports[gcp] == nil ||
			burst[0].Number != 2 {
			t.Errorf("after %v: %d views", DefaultCoalesce, len(burst))
		}
		// Changes that keep coming do not keep the first one waiting.
		for i := range 10 {
			r.registry.set("web", fmt.Sprintf("more-%d", i))
			r.pass(time.Millisecond)
		}
		if n := r.View().Number; n != 4 {
			t.Errorf("10 ms of changes ended in view %d, want 4", n)
		}
		r.pass(DefaultCoalesce)
		r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive)})
		signal(r.registry.changed)
		if idle := r.pass(time.Second); len(idle) != 0 {
			t.Errorf("nothing changed, and there are %d views", len(idle))
		}
	})
}

func TestHealthDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, nil, "web:3", "secret")
		r.apply(t, put("cli", exportOf("web", "gcp-europe-west1")))
		r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive), peer(dc, federation.PeeringActive)})
		r.run(t)
		r.pass(time.Second)
		expect(t, "first", r.exporter.take(), []string{"export dc-berlin []", "export gcp-europe-west1 [web]"})
		r.registry.healthy("web", 1, false)
		if views := r.wait(); len(views) != 0 { // no time has passed
			t.Errorf("a change of health made %d views", len(views))
		}
		expect(t, "one fails", r.exporter.take(), []string{"health gcp-europe-west1 web 2/3"})
		r.registry.healthy("secret", 0, false)
		r.registry.healthy("unheard-of", 0, false)
		r.registry.healthy("web", 1, false)
		r.wait()
		expect(t, "no news for anybody", r.exporter.take(), nil)
		// An instance is replaced by one that looks the same and is not as healthy: no news of health comes for it.
		r.registry.set("web:3", "secret")
		r.pass(DefaultCoalesce)
		expect(t, "all are new", r.exporter.take(), []string{"health gcp-europe-west1 web 3/3"})
	})
}

func TestPeersAreToldWhatIsNew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, nil, "web", "checkout")
		r.apply(t, put("cli", exportOf("web", "*"), exportOf("checkout", "dc-berlin")))
		r.run(t)
		told := func(what string, want ...string) {
			t.Helper()
			r.pass(DefaultCoalesce)
			expect(t, what, r.exporter.take(), want)
		}
		told("nobody there")
		r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringEstablishing), peer(dc, federation.PeeringActive)})
		told("two peers come", "export dc-berlin [checkout web]", "export gcp-europe-west1 [web]")
		r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive), peer(dc, federation.PeeringFailing)})
		told("their states change")
		r.apply(t, put("cli", exportOf("checkout", "dc-berlin", "gcp-europe-west1")))
		told("one sees more", "export gcp-europe-west1 [checkout web]")
		r.registry.set("web:5", "checkout")
		told("more instances", "export dc-berlin [checkout web]", "export gcp-europe-west1 [checkout web]")
		r.registry.set("checkout")
		told("a service has lost its instances", "export dc-berlin [checkout web]", "export gcp-europe-west1 [checkout web]")
		if services := r.exporter.told[gcp].Services; services[1].Name != name("web") || len(services[1].Slots) != 0 {
			t.Errorf("what is shown of it is %+v", services[1])
		}
		r.apply(t, Change{Owner: "cli", Put: []federation.Resource{exportOf("checkout", "dc-berlin", "gcp-europe-west1")}, Prune: true})
		told("its export goes", "export dc-berlin [checkout]", "export gcp-europe-west1 [checkout]")
		// A peering that ends and begins again between two views is a new one.
		r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringTerminated), peer(dc, federation.PeeringFailing)})
		r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringEstablishing), peer(dc, federation.PeeringFailing)})
		told("a new peering of that name", "export gcp-europe-west1 [checkout]")
		r.SetPeers(nil)
		told("all peers go")
		r.SetPeers([]federation.Peer{peer(dc, federation.PeeringActive)})
		told("one comes back", "export dc-berlin [checkout]")
	})
}

func TestPeersHearNothingFromARegionThatIsStillStarting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, nil)
		r.registry.settled = make(chan struct{})
		r.apply(t, put("cli", exportOf("web", "*")))
		r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive)})
		r.run(t)
		if views := r.wait(); len(views) != 1 || len(views[0].Peers) != 1 {
			t.Errorf("the data path does not wait: %v", views)
		}
		r.registry.set("web")
		r.registry.healthy("web", 0, false)
		r.pass(time.Second)
		expect(t, "before it has settled", r.exporter.take(), nil)
		close(r.registry.settled)
		r.wait()
		expect(t, "after", r.exporter.take(), []string{"export gcp-europe-west1 [web]"})
	})
}

func TestThoseWhoAreGoneLeaveAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, nil)
		both := []federation.Peer{peer(gcp, federation.PeeringActive), peer(dc, federation.PeeringActive)}
		r.SetImport(gcp, imported(gcp, federation.FreshnessLive, "reports")) // before anybody knows the peer
		r.SetPeers(both)
		r.SetImport(dc, imported(dc, federation.FreshnessOld, "reports"))
		r.SetImport("stranger", imported("stranger", federation.FreshnessLive, "reports"))
		r.SetImport(dc, imported(gcp, federation.FreshnessLive, "forged"))
		r.run(t)
		r.pass(time.Second)
		if v := r.View(); len(v.Imports) != 2 || len(v.Peers) != 2 || v.Imports[dc].Service(name("forged")) != nil {
			t.Fatalf("the view has imports %v of peers %v", v.Imports, v.Peers)
		}
		r.SetImport(gcp, imported(gcp, federation.FreshnessExpired, "reports"))
		if v := r.wait(); len(v) != 1 || v[0].Imports[gcp] != nil || len(v[0].Peers) != 2 {
			t.Errorf("expired: %v", v)
		}
		r.SetPeers([]federation.Peer{both[0], peer(dc, federation.PeeringTerminated)})
		if v := r.wait(); len(v) != 1 || len(v[0].Imports) != 0 || len(v[0].Peers) != 1 {
			t.Errorf("terminated: %v", v)
		}
		// A new peering of that name does not find the old one's catalog.
		r.SetPeers(both)
		r.pass(DefaultCoalesce)
		if v := r.View(); v.Imports[dc] != nil || len(v.Peers) != 2 {
			t.Errorf("peered again: %v", v.Imports)
		}
		r.SetImport(dc, imported(dc, federation.FreshnessLive))
		r.pass(DefaultCoalesce)
		r.SetImport(dc, nil)
		if v := r.wait(); len(v) != 1 || v[0].Imports[dc] != nil {
			t.Errorf("withdrawn: %v", v)
		}
	})
}

func TestPeersThatCannotBeAreLeftOut(t *testing.T) {
	r := newRegion(t, nil)
	thief := peer(dc, federation.PeeringActive)
	thief.TrustDomain = federation.DefaultTrustDomain(aws)
	twin := peer("twin", federation.PeeringActive)
	twin.TrustDomain = federation.DefaultTrustDomain(gcp)
	r.SetPeers([]federation.Peer{twin, thief, peer(gcp, federation.PeeringActive), peer(gcp, federation.PeeringFailing), peer(aws,
		federation.PeeringActive),
		{Region: "not-yet-1"}, {Region: "not-yet-2"}})
	r.turn()
	var got []string
	for region := range r.View().Peers {
		got = append(got, string(region))
	}
	slices.Sort(got)
	expect(t, "peers", got, []string{"gcp-europe-west1", "not-yet-1", "not-yet-2"})
}

func TestServicesGoToTheRegistryWhenTheyChange(t *testing.T) {
	r := newRegion(t, nil)
	web := resource(federation.KindService, "shop/web", &federation.Service{Protocol: "http"})
	r.apply(t, put("cli", web))
	r.turn()
	if len(r.registry.declared) != 1 || r.registry.declared[name("shop/web")].Protocol != federation.ProtocolHTTP {
		t.Fatalf("the registry has %v", r.registry.declared)
	}
	r.apply(t, put("cli", intention("a", "web", "checkout")))
	r.turn()
	if r.registry.sets != 2 { // one by New
		t.Error("services were set though none had changed")
	}
	web.Spec = &federation.Service{Protocol: "grpc"}
	r.apply(t, put("cli", web))
	r.turn()
	if r.registry.declared[name("shop/web")].Protocol != federation.ProtocolGRPC {
		t.Errorf("the registry has %v", r.registry.declared)
	}
	r.apply(t, Change{Owner: "cli", Prune: true})
	r.turn()
	if len(r.registry.declared) != 0 || r.registry.sets != 4 {
		t.Errorf("the registry has %v after %d sets", r.registry.declared, r.registry.sets)
	}
}

func TestTheDataPathKnowsBeforePeersDo(t *testing.T) {
	r := newRegion(t, nil, "web")
	r.cfg.OnView = func(v *federation.View) {
		r.exporter.mu.Lock()
		defer r.exporter.mu.Unlock()
		r.exporter.calls = append(r.exporter.calls, fmt.Sprintf("view %d", v.Number))
	}
	r.apply(t, put("cli", exportOf("web", "*")))
	r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive)})
	r.turn()
	expect(t, "order", r.exporter.take(), []string{"view 1", "export gcp-europe-west1 [web]"})
}

func TestRunEndsCleanly(t *testing.T) {
	defer goleak.VerifyNone(t)
	r := newRegion(t, nil, "web")
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	r.apply(t, put("cli", exportOf("web", "*")))
	r.settled(t)
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive)})
	short, stop := context.WithTimeout(context.Background(), time.Millisecond)
	defer stop()
	if err := r.Settle(short); err == nil {
		t.Error("after Run has ended, something settled")
	}
}

// history is a region to which things happen, and what should have come of them.
type history struct {
	*region
	shape   []string // of the catalog
	peers   map[federation.Region]federation.PeeringState
	imports map[federation.Region]*federation.Import
	exports map[string]federation.Resource
	memory  policy.Memory // what exported services spoke when they were last there
}

var (
	historyServices = []string{"web", "checkout", "shop/cart"}
	historyRegions  = []federation.Region{gcp, dc}
)

// TestAnyHistoryEndsInTheSamePlace lets anything happen in any order, and then compares the View and what each peer was told
// with what they would be if nothing had happened before.
func TestAnyHistoryEndsInTheSamePlace(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		// It begins in a world in which something goes on: in an empty one, most of what happens has no consequence.
		h := &history{region: newRegion(t, nil), shape: []string{"web:3", "checkout:1", "shop/cart:2"},
			peers:   map[federation.Region]federation.PeeringState{gcp: federation.PeeringActive, dc: federation.PeeringActive},
			imports: map[federation.Region]*federation.Import{},
			exports: map[string]federation.Resource{"web": exportOf("web", "*"), "checkout": exportOf("checkout", string(gcp))},
			memory:  policy.Memory{}}
		h.registry.set(h.shape...)
		h.apply(t, put("cli", h.exports["web"], h.exports["checkout"]))
		h.setPeers()
		rt.Repeat(map[string]func(*rapid.T){
			"catalog":  h.drawCatalog,
			"replace":  func(*rapid.T) { h.registry.set(h.shape...) }, // instances that look the same, all healthy
			"health":   h.drawHealth,
			"peer":     h.drawPeer,
			"import":   h.drawImport,
			"export":   h.drawExport,
			"prune":    func(*rapid.T) { clear(h.exports); h.apply(t, Change{Owner: "cli", Prune: true}) },
			"run":      func(*rapid.T) { h.turn(); h.remember() },
			"run lane": func(*rapid.T) { h.sendHealth(h.registry.TakeHealthChanges()) },
		})
		h.turn()
		h.remember()
		h.sendHealth(h.registry.TakeHealthChanges())
		h.check(rt)
	})
}

// remember takes note of what is exported and there.
func (h *history) remember() {
	for s := range h.memory {
		if _, exported := h.exports[s.String()]; !exported {
			delete(h.memory, s)
		}
	}
	for s := range h.exports {
		if svc := h.registry.Catalog().Service(name(s)); svc != nil {
			h.memory[name(s)] = svc.Protocol
		}
	}
}

func (h *history) drawCatalog(t *rapid.T) {
	h.shape = nil
	for _, s := range historyServices {
		if n := rapid.IntRange(0, 3).Draw(t, s); n > 0 {
			h.shape = append(h.shape, fmt.Sprintf("%s:%d", s, n))
		}
	}
	h.registry.set(h.shape...)
}

func (h *history) drawHealth(t *rapid.T) {
	service, i := rapid.SampledFrom(historyServices).Draw(t, "service"), rapid.IntRange(0, 2).Draw(t, "instance")
	h.registry.healthy(service, i, rapid.Bool().Draw(t, "healthy"))
	if rapid.Bool().Draw(t, "seen at once") {
		h.sendHealth(h.registry.TakeHealthChanges())
	}
}

func (h *history) drawPeer(t *rapid.T) {
	region := rapid.SampledFrom(historyRegions).Draw(t, "region")
	if _, listed := h.peers[region]; listed && rapid.Bool().Draw(t, "drop") {
		delete(h.peers, region)
	} else {
		h.peers[region] = federation.PeeringState(rapid.IntRange(0, 5).Draw(t, "state"))
	}
	h.setPeers()
}

// has reports whether region is a peer that is not gone.
func (h *history) has(region federation.Region) bool {
	state, listed := h.peers[region]
	return listed && state != federation.PeeringTerminated
}

func (h *history) setPeers() {
	var list []federation.Peer
	for region, state := range h.peers {
		list = append(list, peer(region, state))
	}
	for _, region := range historyRegions {
		if !h.has(region) { // its peering is gone, with all that either side knew
			delete(h.imports, region)
			delete(h.exporter.told, region)
		}
	}
	h.SetPeers(list)
}

func (h *history) drawImport(t *rapid.T) {
	region := rapid.SampledFrom(historyRegions).Draw(t, "region")
	if !h.has(region) {
		t.Skip("not a peer")
	}
	h.imports[region] = imported(region, federation.Freshness(rapid.IntRange(0, 3).Draw(t, "freshness")), "reports")
	h.SetImport(region, h.imports[region])
}

func (h *history) drawExport(t *rapid.T) {
	s := rapid.SampledFrom(historyServices).Draw(t, "service")
	h.exports[s] = exportOf(s, rapid.SampledFrom([]string{"*", string(gcp), string(dc)}).Draw(t, "to"))
	h.exports[s].Spec.(*federation.Export).Detail = rapid.SampledFrom([]federation.Detail{"", federation.DetailEndpoints}).Draw(t, "detail")
	if _, err := h.Apply(context.Background(), put("cli", h.exports[s])); err != nil {
		t.Fatal(err)
	}
}

func (h *history) check(t *rapid.T) {
	view := h.View()
	var exports []federation.Export
	for s, e := range h.exports {
		spec := *e.Spec.(*federation.Export)
		spec.Service = name(s)
		exports = append(exports, spec)
	}
	for _, region := range historyRegions {
		if _, got := view.Peers[region]; got != h.has(region) {
			t.Fatalf("%s is in the view: %v, want %v", region, got, h.has(region))
		}
		want := h.imports[region]
		if want != nil && want.Freshness == federation.FreshnessExpired {
			want = nil
		}
		if view.Imports[region] != want {
			t.Fatalf("the view's import of %s is %v, want %v", region, view.Imports[region], want)
		}
		if !h.has(region) {
			continue
		}
		shown := policy.NewExports(aws, exports).On(h.registry.Catalog(), h.memory).View(region)
		if diff := gocmp.Diff(shown, h.exporter.told[region]); diff != "" {
			t.Fatalf("%s knows something else (-want +got):\n%s", region, diff)
		}
	}
	for _, call := range h.exporter.take() {
		if call == "the service was not exported" || call == "the slots do not fit what was exported" {
			t.Fatal(call)
		}
	}
}

func BenchmarkHealthOfOneServiceTo100Peers(b *testing.B) {
	r, _ := crowd(b, 1000)
	calls := 0
	r.cfg.Exporter = counter{&calls}
	b.ResetTimer()
	for i := range b.N {
		r.registry.healthy("svc-500", 0, i%2 == 1)
		r.sendHealth(r.registry.TakeHealthChanges())
	}
	if calls != 100*b.N {
		b.Errorf("%d calls for %d changes", calls, b.N)
	}
}

func BenchmarkView10000Services100Peers(b *testing.B) {
	for what, instances := range map[string]int{"another shape": 3, "same shape": 2} {
		b.Run(what, func(b *testing.B) {
			r, services := crowd(b, 10_000)
			b.ResetTimer()
			for i := range b.N {
				b.StopTimer()
				services[0] = "svc-0:2"
				if i%2 == 0 {
					services[0] = fmt.Sprintf("svc-0:%d", instances)
				}
				r.registry.set(services...)
				b.StartTimer()
				r.turn()
			}
		})
	}
}

// crowd returns a region that exports n services to 100 peers.
func crowd(b *testing.B, n int) (*region, []string) {
	b.Helper()
	r := newRegion(b, nil)
	r.cfg.OnView, r.cfg.Exporter = nil, counter{new(int)}
	var services []string
	var exports []federation.Resource
	for i := range n {
		services = append(services, fmt.Sprintf("svc-%d", i))
		exports = append(exports, exportOf(services[i], "*"))
	}
	for part := range slices.Chunk(exports, MaxWrites) {
		r.apply(b, put("cli", part...))
	}
	var peers []federation.Peer
	for i := range 100 {
		peers = append(peers, peer(federation.Region(fmt.Sprintf("peer-%d", i)), federation.PeeringActive))
	}
	r.SetPeers(peers)
	r.registry.set(services...)
	r.turn()
	return r, services
}

type counter struct{ calls *int }

func (c counter) SetExport(federation.Region, federation.ExportView) { *c.calls++ }
func (c counter) SetHealth(federation.Region, federation.ServiceName, []federation.ExportedSlot) {
	*c.calls++
}
