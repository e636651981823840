package route

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
)

const (
	aws   = federation.Region("aws-us-east-1")
	gcp   = federation.Region("gcp-europe-west1")
	dc    = federation.Region("dc-berlin")
	azure = federation.Region("azure-westeurope")
)

func name(s string) federation.ServiceName {
	n, _ := federation.ParseServiceName(s) // a misspelt one matches nothing
	return n
}

func ref(s string) federation.ServiceRef {
	r, _ := federation.ParseServiceRef(s) // a misspelt one matches nothing
	return r
}

func workload(region federation.Region, service string) spiffeid.ID {
	id, _ := federation.WorkloadID(federation.DefaultTrustDomain(region), name(service))
	return id
}

// world returns the view of aws: it has the local services given, and peers gcp, dc and azure.
func world(local ...string) *federation.View {
	view := &federation.View{Number: 7, Region: aws, TrustDomain: federation.DefaultTrustDomain(aws),
		Peers: map[federation.Region]federation.Peer{}, Imports: map[federation.Region]*federation.Import{},
		Resolvers: map[federation.ServiceName]federation.Resolver{}}
	for _, r := range []federation.Region{gcp, dc, azure} {
		view.Peers[r] = federation.Peer{Region: r, TrustDomain: federation.DefaultTrustDomain(r), State: federation.PeeringActive}
	}
	services := map[federation.ServiceName]*federation.LocalService{}
	for _, s := range local {
		services[name(s)] = &federation.LocalService{Name: name(s), Protocol: federation.ProtocolHTTP,
			Instances: []federation.Instance{{ID: "i-0", Address: netip.MustParseAddrPort("192.0.2.1:80"), Weight: 7}, {ID: "i-1",
				Address: netip.MustParseAddrPort("192.0.2.2:80")}},
			Lane: federation.NewHealthLane([]federation.SlotHealth{{Healthy: 1, Total: 1}, {Total: 1}})}
	}
	view.Local = federation.NewCatalog(1, services)
	return view
}

// shows makes peer show services with that freshness.
func shows(view *federation.View, peer federation.Region, freshness federation.Freshness, services ...string) {
	imported := &federation.Import{Peer: peer, Freshness: freshness, Services: map[federation.ServiceName]*federation.ImportedService{}}
	for _, s := range services {
		imported.Services[name(s)] = &federation.ImportedService{Name: name(s), Protocol: federation.ProtocolTCP, Identity: workload(peer, s),
			Slots: []federation.ImportedSlot{{Key: string(peer)}}, Lane: federation.NewHealthLane([]federation.SlotHealth{{Healthy: 2, Total: 3}})}
	}
	view.Imports[peer] = imported
}

func compile(t testing.TB, view *federation.View) *Snapshot {
	t.Helper()
	s, err := Compile(view)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// order writes candidates as "region/rank", in order.
func order(u *Upstream) string {
	if u == nil {
		return "none"
	}
	var list []string
	for _, c := range u.Candidates {
		list = append(list, fmt.Sprintf("%s/%d", c.Region, c.Rank))
	}
	return strings.Join(list, " ")
}

func TestWhereACallCouldGo(t *testing.T) {
	view := world("checkout", "only-here")
	shows(view, gcp, federation.FreshnessStale, "checkout", "reports")
	shows(view, dc, federation.FreshnessLive, "checkout", "reports", "named", "star-first", "nowhere")
	shows(view, azure, federation.FreshnessOld, "checkout", "reports", "named", "star-first")
	for service, failover := range map[string][]string{
		"named": {"azure-westeurope", "local", "dc-berlin"}, "star-first": {"*", "dc-berlin"}, "nowhere": {"local", "gcp-europe-west1"},
	} {
		view.Resolvers[name(service)] = federation.Resolver{Service: name(service), Failover: failover}
	}
	s := compile(t, view)
	for dst, want := range map[string]string{
		"checkout":                  "aws-us-east-1/0 dc-berlin/1 gcp-europe-west1/2 azure-westeurope/3", // LIVE, STALE, OLD
		"reports":                   "dc-berlin/0 gcp-europe-west1/1 azure-westeurope/2",
		"only-here":                 "aws-us-east-1/0",
		"named":                     "azure-westeurope/0 dc-berlin/1", // as written, whatever the freshness
		"star-first":                "azure-westeurope/0 dc-berlin/1", // dc has a place of its own, behind all others
		"nowhere":                   "",                               // it exists, but not where the order looks
		"unknown":                   "none",
		"checkout@gcp-europe-west1": "gcp-europe-west1/0",
		"checkout@aws-us-east-1":    "aws-us-east-1/0",
		"nowhere@dc-berlin":         "dc-berlin/0", // a named region needs no place in the order
		"only-here@dc-berlin":       "none",
		"checkout@nobody":           "none",
	} {
		u, found := s.Upstream(ref(dst))
		if got := order(u); got != want || found != (want != "none") {
			t.Errorf("%s: got %q (found %v), want %q", dst, got, found, want)
		}
	}
	u, _ := s.Upstream(ref("checkout"))
	if u.Protocol != federation.ProtocolHTTP || u.Resolver.ConnectTimeout == 0 || !u.Candidates[0].IsLocal() || u.Candidates[1].IsLocal() ||
		u.Candidates[0].Local.Len() != 2 {
		t.Errorf("upstream is %+v", u)
	}
	view.Imports[dc].Services[name("checkout")].Lane.Store(0, federation.SlotHealth{Healthy: 0, Total: 3})
	if healthy, total := u.Candidates[1].Health(); healthy != 0 || total != 3 {
		t.Errorf("a change of health is not seen: %d of %d", healthy, total)
	}
	if pinned, _ := s.Upstream(ref("checkout@gcp-europe-west1")); pinned.Pinned != gcp ||
		pinned.Candidates[0].Service.Identity != workload(gcp, "checkout") {
		t.Errorf("pinned upstream is %+v", pinned)
	}
}

func TestEqualRegionsShareARank(t *testing.T) {
	view := world("checkout")
	for _, r := range []federation.Region{gcp, dc, azure} {
		shows(view, r, federation.FreshnessLive, "checkout")
	}
	u, _ := compile(t, view).Upstream(ref("checkout"))
	if got, want := order(u), "aws-us-east-1/0 azure-westeurope/1 dc-berlin/1 gcp-europe-west1/1"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestNothingIsKnownOfThoseWhoAreGone(t *testing.T) {
	view := world()
	shows(view, gcp, federation.FreshnessExpired, "checkout")
	shows(view, dc, federation.FreshnessLive, "checkout")
	shows(view, azure, federation.FreshnessLive, "checkout", "forged")
	terminated := view.Peers[dc]
	terminated.State = federation.PeeringTerminated
	view.Peers[dc] = terminated
	view.Imports[azure].Services[name("forged")].Identity = workload(dc, "forged")
	view.Intentions = []federation.Intention{{Name: "all", Source: "*@*", Destination: "*@*", Action: federation.Allow}}
	s := compile(t, view)
	if u, _ := s.Upstream(ref("checkout")); order(u) != "azure-westeurope/0" {
		t.Errorf("candidates are %q", order(u))
	}
	for _, dst := range []string{"forged", "forged@azure-westeurope", "checkout@gcp-europe-west1", "checkout@dc-berlin"} {
		if u, found := s.Upstream(ref(dst)); found {
			t.Errorf("%s leads to %q", dst, order(u))
		}
	}
	if d := s.Authorize(workload(dc, "web"), federation.AssuranceMTLS, federation.Local, name("checkout")); d.Allowed {
		t.Errorf("a terminated peer's workload is allowed: %+v", d)
	}
	if d := s.Authorize(workload(azure, "web"), federation.AssuranceMTLS, federation.Local, name("checkout")); !d.Allowed {
		t.Errorf("an active peer's workload is denied: %+v", d)
	}
	if _, found := s.Peer(dc); found || !slices.Equal(s.Peers(), []federation.Region{azure, gcp}) {
		t.Errorf("peers are %v", s.Peers())
	}
}

func TestInboundIsLocalAndExported(t *testing.T) {
	view := world("checkout", "secret")
	shows(view, gcp, federation.FreshnessLive, "reports")
	view.Exports = []federation.Export{
		{Service: name("checkout"), To: []string{"gcp-europe-west1"}},
		{Service: name("reports"), To: []string{"*"}}, // not ours: no transit
	}
	s := compile(t, view)
	for _, test := range []struct {
		dst  string
		peer federation.Region
		ok   bool
	}{
		{"checkout", gcp, true}, {"checkout", dc, false}, {"checkout", aws, false}, {"checkout", "stranger", false},
		{"secret", gcp, false}, {"reports", dc, false}, {"reports", gcp, false}, {"unknown", gcp, false},
	} {
		if _, ok := s.Inbound(name(test.dst), test.peer); ok != test.ok {
			t.Errorf("%s may reach %s: %v, want %v", test.peer, test.dst, ok, test.ok)
		}
	}
	target, _ := s.Inbound(name("checkout"), gcp)
	if target.Name() != name("checkout") || target.Protocol() != federation.ProtocolHTTP || target.Weight(0) != 7 ||
		target.Weight(1) != federation.DefaultWeight ||
		!target.Healthy(0) || target.Healthy(1) || target.Instance(1).ID != "i-1" || target.Lane().Len() != 2 {
		t.Errorf("target is %+v", target)
	}
}

func TestATableStartsClosed(t *testing.T) {
	table := NewTable()
	s := table.Load()
	if d := s.Authorize(workload(aws, "web"), federation.AssuranceMTLS, aws, name("checkout")); d.Allowed || d.Code != policy.CodeNoPolicy {
		t.Errorf("a new table says %+v", d)
	}
	if _, found := s.Upstream(ref("checkout")); found {
		t.Error("a new table knows an upstream")
	}
	if _, found := s.Upstream(ref("checkout@gcp-europe-west1")); found {
		t.Error("a new table knows a region")
	}
	if _, found := s.Inbound(name("checkout"), gcp); found || s.Number() != 0 || len(s.Consider(ref("checkout"))) != 0 ||
		!s.Identity(name("web")).IsZero() {
		t.Error("a new table knows something")
	}
	table.Publish(nil)
	if table.Load() != s {
		t.Error("publishing nothing changed the table")
	}
	next := compile(t, world())
	table.Publish(next)
	if table.Load() != next || next.Number() != 7 || next.Region() != aws || next.Identity(name("web")) != workload(aws, "web") {
		t.Error("the published snapshot is not in the table")
	}
}

func TestAViewThatMakesNoSenseIsRefused(t *testing.T) {
	twice := world()
	twice.Peers[gcp] = federation.Peer{Region: gcp, TrustDomain: federation.DefaultTrustDomain(dc)}
	ours := world()
	ours.Peers[gcp] = federation.Peer{Region: gcp, TrustDomain: federation.DefaultTrustDomain(aws)}
	for what, view := range map[string]*federation.View{"no view": nil, "an empty view": {}, "two peers with one domain": twice,
		"a peer with our domain": ours} {
		if s, err := Compile(view); err == nil || s != nil {
			t.Errorf("%s: got %v, %v", what, s, err)
		}
	}
	pending := world()
	pending.Peers["p-1"], pending.Peers["p-2"] = federation.Peer{Region: "p-1"}, federation.Peer{Region: "p-2"}
	compile(t, pending) // peers that have not come yet have no domain, and that is no conflict
}

func TestConsiderSaysWhy(t *testing.T) {
	view := world("checkout", "local-only")
	shows(view, gcp, federation.FreshnessStale, "checkout", "far")
	shows(view, dc, federation.FreshnessLive, "other")
	view.Resolvers[name("far")] = federation.Resolver{Failover: []string{"local"}}
	pending := view.Peers[azure]
	pending.State = federation.PeeringEstablishing
	view.Peers[azure] = pending
	s := compile(t, view)
	notExported := "the peer does not export it to this region, or has no such service"
	noCatalogYet := "the peering is Establishing: no catalog has come yet"
	want := []Considered{
		{aws, true, true, 0, federation.FreshnessLive, 1, 2, "1 of 2 healthy"},
		{gcp, false, true, 1, federation.FreshnessStale, 2, 3, "2 of 3 healthy; its catalog is STALE and is used after that of LIVE regions"},
		{azure, false, false, 0, federation.FreshnessExpired, 0, 0, noCatalogYet},
		{dc, false, false, 0, federation.FreshnessLive, 0, 0, notExported},
	}
	if diff := gocmp.Diff(want, s.Consider(ref("checkout"))); diff != "" {
		t.Errorf("checkout (-want +got):\n%s", diff)
	}
	want = []Considered{
		{aws, true, false, 0, federation.FreshnessLive, 0, 0, "no source of this region has seen it"},
		{azure, false, false, 0, federation.FreshnessExpired, 0, 0, noCatalogYet},
		{dc, false, false, 0, federation.FreshnessLive, 0, 0, notExported},
		{gcp, false, false, 0, federation.FreshnessStale, 2, 3, "the resolver's failover order [local] leaves it out"},
	}
	if diff := gocmp.Diff(want, s.Consider(ref("far"))); diff != "" {
		t.Errorf("far (-want +got):\n%s", diff)
	}
	for _, c := range s.Consider(ref("checkout@gcp-europe-west1")) {
		if c.Kept != (c.Region == gcp) || !c.Kept && c.Reason != "the call names region gcp-europe-west1, so there is no failover" {
			t.Errorf("pinned: %+v", c)
		}
	}
}

// TestCandidatesFollowTheOrder compares random worlds with the order read entry by entry.
func TestCandidatesFollowTheOrder(t *testing.T) {
	regions := []federation.Region{aws, gcp, dc, azure}
	rapid.Check(t, func(t *rapid.T) {
		var localServices []string
		if rapid.Bool().Draw(t, "local") {
			localServices = []string{"checkout"}
		}
		view := world(localServices...)
		for _, r := range regions[1:] {
			if rapid.Bool().Draw(t, "has "+string(r)) {
				shows(view, r, federation.Freshness(rapid.IntRange(0, 3).Draw(t, "freshness")), "checkout")
			}
		}
		failover := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"local", "*", string(aws), string(gcp), string(dc)}), 0, 5,
			rapid.ID[string]).Draw(t, "failover")
		if len(failover) > 0 {
			view.Resolvers[name("checkout")] = federation.Resolver{Failover: failover}
		}
		u, _ := mustCompile(t, view).Upstream(ref("checkout"))
		if u == nil {
			u = &Upstream{}
		}
		want := readOrder(view, failover)
		if got := order(u); got != strings.Join(want, " ") {
			t.Fatalf("failover %v: got %q, want %q", failover, got, want)
		}
	})
}

func mustCompile(t *rapid.T, view *federation.View) *Snapshot {
	s, err := Compile(view)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func readOrder(view *federation.View, failover []string) []string {
	if len(failover) == 0 {
		failover = []string{"local", "*"}
	}
	has := func(r federation.Region) bool {
		if r == aws {
			return view.Local.Service(name("checkout")) != nil
		}
		return view.Imports[r] != nil && view.Imports[r].Freshness < federation.FreshnessExpired
	}
	named := func(r federation.Region) bool {
		return slices.Contains(failover, string(r)) || r == aws && slices.Contains(failover, "local")
	}
	var groups [][]federation.Region
	used := map[federation.Region]bool{}
	for _, f := range failover {
		if f != "*" {
			r := federation.Region(f)
			if r == federation.Local {
				r = aws
			}
			if !used[r] && has(r) {
				groups = append(groups, []federation.Region{r})
			}
			used[r] = true
			continue
		}
		for freshness := range federation.FreshnessExpired {
			var group []federation.Region
			for _, r := range []federation.Region{azure, dc, gcp} {
				if has(r) && !named(r) && view.Imports[r].Freshness == freshness {
					group = append(group, r)
				}
			}
			if len(group) > 0 {
				groups = append(groups, group)
			}
		}
	}
	var want []string
	for rank, group := range groups {
		slices.SortFunc(group, func(a, b federation.Region) int { return cmp.Compare(a, b) })
		for _, r := range group {
			want = append(want, fmt.Sprintf("%s/%d", r, rank))
		}
	}
	return want
}

// TestConnectionsSeeOneWorld publishes while others load: each snapshot is consistent with its own number.
func TestConnectionsSeeOneWorld(t *testing.T) {
	table := NewTable()
	var snapshots []*Snapshot
	for i := range 2 {
		view := world("checkout")
		view.Number = uint64(i + 1)
		if i == 1 {
			view.Intentions = []federation.Intention{{Name: "all", Source: "*", Destination: "*", Action: federation.Allow}}
		}
		snapshots = append(snapshots, compile(t, view))
	}
	var readers sync.WaitGroup
	for range 4 {
		readers.Go(func() {
			for range 2000 {
				s := table.Load()
				if got := s.Authorize(workload(aws, "web"), federation.AssuranceBinding, aws, name("checkout")).Allowed; got != (s.Number() == 2) {
					t.Errorf("snapshot %d allows: %v", s.Number(), got)
				}
			}
		})
	}
	for i := range 2000 {
		table.Publish(snapshots[i%2])
	}
	readers.Wait()
}

// large returns a view with 10,000 local services, half of which every third of 100 peers shows too, and more of each peer's own.
func large() *federation.View {
	var local []string
	for i := range 10_000 {
		local = append(local, fmt.Sprintf("svc-%d", i))
	}
	view := world(local...)
	for i := range 100 {
		peer := federation.Region(fmt.Sprintf("peer-%d", i))
		view.Peers[peer] = federation.Peer{Region: peer, TrustDomain: federation.DefaultTrustDomain(peer)}
		var services []string
		for j := range 200 {
			services = append(services, fmt.Sprintf("svc-%d", (i*150+j)%15_000))
		}
		shows(view, peer, federation.Freshness(i%3), services...)
	}
	for i := range 1000 {
		view.Intentions = append(view.Intentions, federation.Intention{Name: fmt.Sprintf("i%d", i), Source: "web@*",
			Destination: fmt.Sprintf("svc-%d@*", i), Action: federation.Allow})
		view.Exports = append(view.Exports, federation.Export{Service: name(fmt.Sprintf("svc-%d", i)), To: []string{"*"}})
	}
	return view
}

func TestTheDataPathAllocatesNothing(t *testing.T) {
	table := NewTable()
	table.Publish(compile(t, large()))
	src, dst := workload(aws, "web"), ref("svc-42")
	if n := testing.AllocsPerRun(100, func() {
		s := table.Load()
		u, found := s.Upstream(dst)
		if !found || !s.Authorize(src, federation.AssuranceMTLS, u.Candidates[0].Region, dst.Service).Allowed {
			t.Error("setup: the call is denied")
		}
		if _, found := s.Inbound(dst.Service, "peer-1"); !found {
			t.Error("setup: it is not exported")
		}
	}); n != 0 {
		t.Errorf("a connection costs %v allocations", n)
	}
}

func BenchmarkCompile10000Services100Peers(b *testing.B) {
	view := large()
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Compile(view); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkConnection(b *testing.B) {
	table := NewTable()
	table.Publish(compile(b, large()))
	src, dst := workload(aws, "web"), ref("svc-42")
	b.ReportAllocs()
	for b.Loop() {
		s := table.Load()
		u, _ := s.Upstream(dst)
		if !s.Authorize(src, federation.AssuranceMTLS, u.Candidates[0].Region, dst.Service).Allowed {
			b.Fatal("denied")
		}
	}
}
