package controlplane

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
)

func TestApplySaysWhatItDid(t *testing.T) {
	r := newRegion(t, nil, "web", "checkout")
	first := put("cli", intention("web-checkout", "web@*", "checkout"), exportOf("checkout", "*"))
	plan := r.apply(t, first)
	if got, want := steps(plan), []string{"create export/checkout", "create intention/web-checkout"}; !slices.Equal(got, want) {
		t.Fatalf("first: %v, want %v", got, want)
	}
	revision := plan.Steps[0].After.Version
	if revision == 0 || plan.Steps[0].Before != nil || plan.Steps[0].After.Owner != "cli" {
		t.Errorf("created %+v", plan.Steps[0].After)
	}
	// The same again writes nothing, and another file and line make no difference.
	first.Put[0].Source = "shop.hcl:99"
	if plan := r.apply(t, first); plan.Changes() || plan.Steps[0].After.Version != revision {
		t.Errorf("the same again: %v", steps(plan))
	}
	plan = r.apply(t, Change{Owner: "cli", Put: []federation.Resource{exportOf("checkout", "gcp-europe-west1"), exportOf("web", "*")},
		Prune: true})
	want := []string{"update export/checkout", "create export/web", "delete intention/web-checkout"}
	if got := steps(plan); !slices.Equal(got, want) {
		t.Fatalf("second: %v, want %v", got, want)
	}
	if plan.Steps[0].After.Version <= revision || plan.Steps[2].After != nil || plan.Count(ActionDelete) != 1 {
		t.Errorf("second: %+v", plan.Steps)
	}
	if got, want := keys(r.List()), []string{"export/checkout", "export/web"}; !slices.Equal(got, want) {
		t.Errorf("the region has %v, want %v", got, want)
	}
	if got := r.List(federation.KindIntention, federation.KindService); got != nil {
		t.Errorf("intentions and services: %v", keys(got))
	}
}

func TestPlanChangesNothing(t *testing.T) {
	r := newRegion(t, nil)
	change := put("cli", intention("a", "web", "checkout"))
	plan, err := r.Plan(t.Context(), change)
	if err != nil || !slices.Equal(steps(plan), []string{"create intention/a"}) || len(r.List()) != 0 {
		t.Fatalf("plan %v, %v; the region has %v", steps(plan), err, keys(r.List()))
	}
	if entries, err := r.store.List(t.Context(), ""); err != nil || len(entries) != 0 {
		t.Errorf("the store has %v, %v", entries, err)
	}
}

func TestEveryMistakeIsToldAndNothingIsDone(t *testing.T) {
	r := newRegion(t, nil)
	bad := intention("bad", "Web", "che ckout")
	bad.Source = "shop.hcl:12"
	worse := exportOf("checkout")
	worse.Source = "shop.hcl:20"
	_, err := r.Apply(t.Context(), Change{Owner: "cli", Put: []federation.Resource{intention("good", "web", "checkout"), bad, worse,
		{Key: federation.Key{Kind: "gateway", Name: "x"}}},
		Delete: []federation.Key{{Kind: federation.KindUpstream, Name: "nobody"}}})
	if got, want := codes(err), []federation.Code{CodeInvalid, CodeInvalid, CodeInvalid, CodeInvalid, CodeNotFound}; !slices.Equal(got, want) {
		t.Fatalf("codes %v, want %v:\n%v", got, want, err)
	}
	for _, want := range []string{`shop.hcl:12: intention "bad" is not valid: source:`, "destination:",
		`shop.hcl:20: export "checkout" is not valid: export names no peer`,
		`kind "gateway" is unknown`, `there is no upstream "nobody"`} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not say %q:\n%v", want, err)
		}
	}
	if len(r.List()) != 0 {
		t.Errorf("the region has %v", keys(r.List()))
	}
}

func TestOwnersDoNotUndoEachOthersWork(t *testing.T) {
	r := newRegion(t, nil)
	r.apply(t, put("terraform", exportOf("checkout", "*")))
	key := federation.Key{Kind: federation.KindExport, Name: "checkout"}
	for what, change := range map[string]Change{
		"a write":           put("cli", exportOf("checkout", "gcp-europe-west1")),
		"an equal write":    put("cli", exportOf("checkout", "*")),
		"a deletion":        {Owner: "cli", Delete: []federation.Key{key}},
		"with a good one":   put("cli", exportOf("checkout", "gcp-europe-west1"), exportOf("web", "*")),
		"under a long name": put("cli", exportOf("default/checkout", "gcp-europe-west1")),
	} {
		_, err := r.Apply(t.Context(), change)
		if federation.CodeOf(err) != CodeOwner || !strings.Contains(err.Error(), `belongs to "terraform"`) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if got, err := r.Get(key); err != nil || got.Owner != "terraform" || len(r.List()) != 1 {
		t.Fatalf("it is now %+v, %v", got, err)
	}
	// Pruning touches what the owner has, and nothing else.
	if plan := r.apply(t, Change{Owner: "cli", Prune: true}); len(plan.Steps) != 0 {
		t.Errorf("pruning deleted %v", steps(plan))
	}
	plan := r.apply(t, Change{Owner: "cli", Put: []federation.Resource{exportOf("checkout", "*")}, Force: true})
	if got := plan.Steps[0].Diff(); !slices.Equal(got, []FieldChange{{"owner", `"terraform"`, `"cli"`}}) {
		t.Errorf("taking over changes %v", got)
	}
	if _, err := r.Apply(t.Context(), Change{Owner: "terraform", Delete: []federation.Key{key}}); federation.CodeOf(err) != CodeOwner {
		t.Errorf("the former owner deletes: %v", err)
	}
}

func TestVersionsAreOptimisticLocks(t *testing.T) {
	r := newRegion(t, nil)
	version := r.apply(t, put("api", exportOf("web", "*"))).Steps[0].After.Version
	at := func(version uint64, to ...string) Change {
		e := exportOf("web", to...)
		e.Version = version
		return put("api", e)
	}
	newer := r.apply(t, at(version, "gcp-europe-west1")).Steps[0].After.Version
	for _, change := range []Change{at(version, "dc-berlin"), at(newer+1, "dc-berlin")} {
		if _, err := r.Apply(t.Context(), change); federation.CodeOf(err) != CodeVersion {
			t.Errorf("version %d over %d: %v", change.Put[0].Version, newer, err)
		}
	}
	r.apply(t, at(0, "dc-berlin")) // not checked
	r.apply(t, Change{Owner: "api", Delete: []federation.Key{{Kind: federation.KindExport, Name: "web"}}})
	if _, err := r.Apply(t.Context(), at(newer, "dc-berlin")); federation.CodeOf(err) != CodeVersion ||
		!strings.Contains(err.Error(), "deleted") {
		t.Errorf("a version of what is gone: %v", err)
	}
}

func TestOneThingIsNamedOnce(t *testing.T) {
	r := newRegion(t, nil, "web")
	web := exportOf("web", "*")
	web.Source = "a.hcl:1"
	long := exportOf("default/web", "gcp-europe-west1")
	long.Source = "b.hcl:2"
	_, err := r.Apply(t.Context(), put("cli", web, long))
	if got := codes(err); !slices.Equal(got, []federation.Code{CodeTwice}) || !strings.Contains(err.Error(), "b.hcl:2") ||
		!strings.Contains(err.Error(), "a.hcl:1") {
		t.Errorf("put twice: %v", err)
	}
	r.apply(t, put("cli", long))
	if got, err := r.Get(federation.Key{Kind: federation.KindExport, Name: "default/web"}); err != nil || got.Name != "web" {
		t.Errorf("under its long name: %+v, %v", got, err)
	}
	_, err = r.Apply(t.Context(), Change{Owner: "cli", Put: []federation.Resource{web}, Delete: []federation.Key{web.Key}})
	if got := codes(err); !slices.Equal(got, []federation.Code{CodeTwice}) {
		t.Errorf("put and deleted: %v", err)
	}
	if _, err := r.Apply(t.Context(), put("", web)); federation.CodeOf(err) != CodeNoOwner {
		t.Errorf("without an owner: %v", err)
	}
}

func TestLimits(t *testing.T) {
	r := newRegion(t, nil)
	huge := &federation.Service{}
	for i := range 2000 {
		huge.Instances = append(huge.Instances, federation.StaticInstance{Address: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"),
			uint16(i+1)), Zone: "zone"})
	}
	if _, err := r.Apply(t.Context(), put("cli", resource(federation.KindService, "huge", huge))); federation.CodeOf(err) != CodeLimit {
		t.Errorf("a huge resource: %v", err)
	}
	var all []federation.Resource
	for i := range MaxResources + 1 {
		all = append(all, intention(fmt.Sprintf("i%d", i), "web", "checkout"))
	}
	if _, err := r.Apply(t.Context(), put("cli", all[:MaxWrites+1]...)); federation.CodeOf(err) != CodeLimit {
		t.Errorf("too many at once: %v", err)
	}
	for part := range slices.Chunk(all[:MaxResources], MaxWrites) {
		if plan := r.apply(t, put("cli", part...)); len(plan.Warnings) != maxWarnings {
			t.Errorf("there are %d warnings", len(plan.Warnings))
		}
	}
	if _, err := r.Apply(t.Context(), put("cli", all[MaxResources])); federation.CodeOf(err) != CodeLimit {
		t.Errorf("one too many: %v", err)
	}
	if n := len(r.List()); n != MaxResources {
		t.Errorf("the region has %d resources", n)
	}
}

func TestTwoUpstreamsNeedTwoAddresses(t *testing.T) {
	r := newRegion(t, nil, "checkout")
	r.apply(t, put("cli", upstream("one", "checkout", "127.0.0.1:9001"), upstream("any", "checkout", "127.0.0.1:0"), upstream("any-2",
		"checkout", "127.0.0.1:0")))
	for _, listen := range []string{"127.0.0.1:9001", "127.0.0.1:09001", "[::ffff:127.0.0.1]:9001"} {
		_, err := r.Apply(t.Context(), put("cli", upstream("two", "checkout", listen)))
		if got := codes(err); !slices.Equal(got, []federation.Code{CodeListen}) {
			t.Errorf("%s: %v", listen, err)
		}
	}
	r.apply(t, put("cli", upstream("two", "checkout", "[::1]:9001")))
	// Swapping addresses in one change is fine: what counts is the result.
	r.apply(t, put("cli", upstream("two", "checkout", "127.0.0.1:9001"), upstream("one", "checkout", "[::1]:9001")))
}

func TestWarningsTellWhatMayNotBeMeant(t *testing.T) {
	r := newRegion(t, nil, "web")
	r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive)})
	r.SetImport(gcp, imported(gcp, federation.FreshnessLive, "reports"))
	service := resource(federation.KindService, "declared", &federation.Service{})
	fine := put("cli", exportOf("web", "gcp-europe-west1"), service, exportOf("declared", "*"), intention("fine", "web@gcp-europe-west1", "*"),
		upstream("reports", "reports", "127.0.0.1:9001"), upstream("reports-gcp", "reports@gcp-europe-west1", "127.0.0.1:9002"), upstream("web",
			"web@aws-us-east-1", "127.0.0.1:9003"))
	if plan := r.apply(t, fine); len(plan.Warnings) != 0 {
		t.Errorf("unexpected warnings: %v", plan.Warnings)
	}
	typo := intention("typo", "web@gpc-europe-west1", "checkout")
	typo.Source = "shop.hcl:3"
	plan, err := r.Plan(t.Context(), put("cli", exportOf("wbe", "gcp-europe-west1"), exportOf("web", "dc-berlin"), typo, intention("same",
		"web@gcp-europe-west1", "*@aws-us-east-1"),
		upstream("nowhere", "reports@dc-berlin", "127.0.0.1:9004"), resource(federation.KindResolver, "web",
			&federation.Resolver{Failover: []string{"local", "dc-berlin", "*"}})))
	if err != nil {
		t.Fatal(err)
	}
	var got []federation.Code
	for _, w := range plan.Warnings {
		got = append(got, w.Code)
	}
	want := []federation.Code{WarnService, WarnRegion, WarnRegion, WarnDuplicate, WarnRegion, WarnService, WarnRegion}
	if !slices.Equal(got, want) {
		t.Errorf("warnings %v, want %v", plan.Warnings, want)
	}
	if !strings.HasPrefix(plan.Warnings[2].What, `shop.hcl:3: intention "typo" names the region "gpc-europe-west1"`) {
		t.Errorf("warning is %q", plan.Warnings[2].What)
	}
}

func TestWhatIsHandedOutIsTheCallersOwn(t *testing.T) {
	r := newRegion(t, nil)
	mine := exportOf("web", "gcp-europe-west1")
	plan := r.apply(t, put("cli", mine))
	mine.Spec.(*federation.Export).To[0] = "mine"
	plan.Steps[0].After.Spec.(*federation.Export).To[0] = "after"
	r.List()[0].Spec.(*federation.Export).To[0] = "listed"
	if got, _ := r.Get(mine.Key); got.Spec.(*federation.Export).To[0] != "gcp-europe-west1" {
		t.Errorf("the region has %v", got.Spec)
	}
}

// meddler is a store to which somebody else writes just before each of the next commits.
type meddler struct {
	storetest.Memory
	before []func()
	after  error // returned by commits that have happened
}

func (m *meddler) Commit(ctx context.Context, ops ...store.Op) (uint64, error) {
	if len(m.before) > 0 {
		f := m.before[0]
		m.before = m.before[1:]
		f()
	}
	revision, err := m.Memory.Commit(ctx, ops...)
	if err == nil && m.after != nil {
		return 0, m.after
	}
	return revision, err
}

func TestAConcurrentWriterIsWaitedOutOnce(t *testing.T) {
	m := &meddler{}
	r := newRegion(t, m)
	other := newRegion(t, &m.Memory)
	r.apply(t, put("cli", exportOf("web", "*")))
	meddle := func(resources ...federation.Resource) func() {
		return func() {
			if err := other.Reload(t.Context()); err != nil {
				t.Error(err)
			}
			other.apply(t, put("other", resources...))
		}
	}
	m.before = []func(){meddle(exportOf("checkout", "*"))}
	r.apply(t, put("cli", exportOf("web", "gcp-europe-west1")))
	if got := keys(r.List()); !slices.Equal(got, []string{"export/checkout", "export/web"}) {
		t.Errorf("after one meddling the region has %v", got)
	}
	// What spans resources holds too: neither knew of the other's listener when it began.
	m.before = []func(){meddle(upstream("theirs", "checkout", "127.0.0.1:9001"))}
	if _, err := r.Apply(t.Context(), put("cli", upstream("ours", "checkout", "127.0.0.1:9001"))); federation.CodeOf(err) != CodeListen {
		t.Errorf("two listeners in two planes: %v", err)
	}
	m.before = []func(){meddle(exportOf("a", "*")), meddle(exportOf("b", "*"))}
	_, err := r.Apply(t.Context(), put("cli", exportOf("web", "dc-berlin")))
	if federation.CodeOf(err) != CodeBusy || !errors.Is(err, store.ErrConflict) {
		t.Errorf("meddling twice: %v", err)
	}
	if got, err := r.Get(federation.Key{Kind: federation.KindExport, Name: "web"}); err != nil ||
		got.Spec.(*federation.Export).To[0] != "gcp-europe-west1" {
		t.Errorf("it is now %+v, %v", got, err)
	}
	r.apply(t, put("cli", exportOf("web", "dc-berlin")))
}

func TestAStoreThatFails(t *testing.T) {
	m := &meddler{}
	r := newRegion(t, m)
	full := errors.New("disk is full")
	m.FailWith(full)
	_, err := r.Apply(t.Context(), put("cli", exportOf("web", "*")))
	if federation.CodeOf(err) != CodeStore || !errors.Is(err, full) || len(r.List()) != 0 {
		t.Errorf("a full disk: %v, and the region has %v", err, keys(r.List()))
	}
	m.FailWith(&federation.Diagnostic{Code: store.CodeFull, What: "nothing was written", Fix: "make room"})
	if _, err := r.Apply(t.Context(), put("cli", exportOf("web", "*"))); federation.CodeOf(err) != store.CodeFull ||
		!strings.Contains(err.Error(), "was not applied") {
		t.Errorf("no room, of which nothing is unclear: %v", err)
	}
	m.FailWith(nil)
	// The worst: it says that it failed, and did not. What is stored is what counts.
	m.after = errors.New("the connection broke")
	if _, err := r.Apply(t.Context(), put("cli", exportOf("web", "*"))); federation.CodeOf(err) != CodeStore {
		t.Errorf("a lie: %v", err)
	}
	m.after = nil
	if got := keys(r.List()); !slices.Equal(got, []string{"export/web"}) {
		t.Errorf("the region has %v, the store has it too", got)
	}
	r.apply(t, put("cli", exportOf("web", "*"), exportOf("checkout", "*")))
}

func TestDamageClosesAndIsRepaired(t *testing.T) {
	m := &storetest.Memory{}
	good := newRegion(t, m)
	good.apply(t, put("cli", intention("all", "*@*", "*"), exportOf("web", "*")))
	ops := []store.Op{
		{Key: "resource/intention/future",
			Value: []byte(`{"owner":"cli","spec":{"source":"web","destination":"web","action":"deny","unless":"moon"}}`)},
		{Key: "resource/export/odd", Value: []byte(`{"owner":"cli","spec":{"to":["*"]},"envelope":"sealed"}`)},
		{Key: "resource/upstream/garbage", Value: []byte("\x00\x01")},
		{Key: "resource/comet/halley", Value: []byte(`{"owner":"cli","spec":{}}`)},
		{Key: "resource/nothing", Value: []byte(`{}`)},
	}
	if _, err := m.Commit(t.Context(), ops...); err != nil {
		t.Fatal(err)
	}
	r := newRegion(t, m)
	if n := len(r.Status().Damaged); n != len(ops) {
		t.Errorf("%d are damaged, want %d: %v", n, len(ops), r.Status().Damaged)
	}
	future := federation.Key{Kind: federation.KindIntention, Name: "future"}
	if _, err := r.Get(future); federation.CodeOf(err) != CodeDamaged {
		t.Errorf("reading it: %v", err)
	}
	r.turn()
	decide := func() policy.Decision {
		id, err := federation.WorkloadID(federation.DefaultTrustDomain(aws), name("web"))
		if err != nil {
			t.Fatal(err)
		}
		return policy.CompileIntentions(aws, nil, r.View().Intentions).Decide(id, federation.AssuranceMTLS, aws, name("checkout"))
	}
	if d := decide(); d.Code != policy.CodeBroken || d.Rule != "future" {
		t.Errorf("with a damaged intention: %+v", d)
	}
	// Nobody deletes by accident what he could not read.
	plan := r.apply(t, Change{Owner: "cli", Prune: true, Put: []federation.Resource{intention("all", "*@*", "*")}})
	if got := steps(plan); !slices.Equal(got, []string{"delete export/web", "none intention/all"}) {
		t.Errorf("pruning does %v", got)
	}
	if _, err := r.Apply(t.Context(), Change{Owner: "other", Delete: []federation.Key{future}}); federation.CodeOf(err) != CodeOwner {
		t.Errorf("a damaged resource has an owner all the same: %v", err)
	}
	plan = r.apply(t, Change{Owner: "cli", Put: []federation.Resource{intention("future", "web", "web")}, Delete: []federation.Key{
		{Kind: federation.KindExport, Name: "odd"}, {Kind: federation.KindUpstream, Name: "garbage"}, {Kind: "comet", Name: "halley"}}})
	if plan.Count(ActionUpdate) != 1 || plan.Count(ActionDelete) != 3 {
		t.Errorf("repair does %v", steps(plan))
	}
	r.turn()
	if d := decide(); d.Code == policy.CodeBroken {
		t.Errorf("after the repair: %+v", d)
	}
}

func TestDiffNamesFields(t *testing.T) {
	before := resource(federation.KindService, "web", &federation.Service{Protocol: "http", Instances: []federation.StaticInstance{
		{Address: netip.MustParseAddrPort("192.0.2.1:80"), Weight: 5}, {Address: netip.MustParseAddrPort("192.0.2.2:80"), Zone: "a<b"}}})
	after := resource(federation.KindService, "web", &federation.Service{Instances: []federation.StaticInstance{
		{Address: netip.MustParseAddrPort("192.0.2.1:80"), Weight: 7}, {Address: netip.MustParseAddrPort("192.0.2.2:80"), Zone: "a<b"},
		{Address: netip.MustParseAddrPort("192.0.2.3:80")}}})
	want := []FieldChange{{"instances[0].weight", "5", "7"}, {"instances[2].address", "", `"192.0.2.3:80"`}, {"protocol", `"http"`, ""}}
	if diff := gocmp.Diff(want, (Step{Before: &before, After: &after}).Diff()); diff != "" {
		t.Errorf("service (-want +got):\n%s", diff)
	}
	one, two := exportOf("web", "gcp-europe-west1"), exportOf("web", "gcp-europe-west1", "dc-berlin")
	want = []FieldChange{{"to", `["gcp-europe-west1"]`, `["gcp-europe-west1","dc-berlin"]`}}
	if diff := gocmp.Diff(want, (Step{Before: &one, After: &two}).Diff()); diff != "" {
		t.Errorf("export (-want +got):\n%s", diff)
	}
	allow := intention("a", "web", "checkout")
	want = []FieldChange{{"action", "", `"allow"`}, {"destination", "", `"checkout"`}, {"source", "", `"web"`}}
	if diff := gocmp.Diff(want, (Step{After: &allow}).Diff()); diff != "" {
		t.Errorf("creation (-want +got):\n%s", diff)
	}
	if got := (Step{Before: &allow}).Diff(); len(got) != 3 || got[0].Before != `"allow"` || got[0].After != "" {
		t.Errorf("deletion: %v", got)
	}
	if got := (Step{Before: &allow, After: &allow}).Diff(); got != nil {
		t.Errorf("nothing: %v", got)
	}
	if got := (Step{}).Diff(); got != nil {
		t.Errorf("less than nothing: %v", got)
	}
}

// TestWritersAndReaders is for the race detector: everything at once, and every acknowledged write is there in the end.
func TestWritersAndReaders(t *testing.T) {
	r := newRegion(t, nil, "web")
	r.run(t)
	changed, stop := r.Changed()
	defer stop()
	var workers sync.WaitGroup
	for w := range 4 {
		workers.Go(func() {
			for i := range 25 {
				r.apply(t, put(fmt.Sprintf("w%d", w), intention(fmt.Sprintf("i-%d-%d", w, i), "web", "checkout")))
				r.List()
				_ = r.Status()
				if _, err := r.Plan(t.Context(), put("x", exportOf("web", "*"))); err != nil {
					t.Error(err)
				}
				r.SetPeers([]federation.Peer{peer(gcp, federation.PeeringActive)})
				r.SetImport(gcp, imported(gcp, federation.FreshnessLive, "reports"))
				r.registry.healthy("web", 0, i%2 == 0)
			}
		})
	}
	workers.Wait()
	if view := r.settled(t); len(view.Intentions) != 100 || view.Imports[gcp] == nil {
		t.Errorf("the view has %d intentions", len(view.Intentions))
	}
	select {
	case <-changed:
	default:
		t.Error("nobody was told of the changes")
	}
}

func FuzzStoredResource(f *testing.F) {
	f.Add("intention", "a", []byte(`{"owner":"cli","spec":{"source":"web","destination":"checkout","action":"deny"}}`))
	f.Add("service", "shop/web", []byte(`{"owner":"cli","source":"a.hcl:1","spec":{"instances":[{"address":"192.0.2.1:80"}]}}`))
	f.Add("upstream", "u", []byte(`{"owner":"cli","spec":{"service":"web@gcp","listen":"127.0.0.1:1","caller":"web"}}`))
	f.Add("resolver", "web", []byte(`{"owner":"cli","spec":{"failover":["local","*"],"outlier":{"eject_for":"1s"}}}`))
	f.Add("export", "web", []byte(`{`))
	f.Fuzz(func(t *testing.T, kind, named string, value []byte) {
		key := federation.Key{Kind: federation.Kind(kind), Name: named}
		r := loadRecord(key, store.Entry{Key: storeKey(key), Value: value, Version: 3})
		set := &resources{records: map[federation.Key]*record{key: r}}
		set.compile()
		if r.damage != nil {
			return
		}
		again, err := newRecord(r.copy())
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		if reread := loadRecord(again.resource.Key, store.Entry{Value: again.value}); reread.damage != nil ||
			string(reread.spec) != string(r.spec) {
			t.Fatalf("what was written reads as %s (%v), not %s", reread.spec, reread.damage, r.spec)
		}
	})
}
