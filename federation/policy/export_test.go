package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// local returns a service of this region with an instance for each zone given; those in healthy may be given traffic.
func local(service string, zones []string, healthy ...int) *federation.LocalService {
	s := &federation.LocalService{Name: name(service), Protocol: federation.ProtocolHTTP}
	slots := make([]federation.SlotHealth, len(zones))
	for i, zone := range zones {
		s.Instances = append(s.Instances, federation.Instance{
			ID: federation.InstanceID(fmt.Sprintf("%s-%d", service, i)), Service: s.Name, Address: netip.MustParseAddrPort("192.0.2.1:80"),
			Locality: federation.Locality{Region: "us-east-1", Zone: zone}, // as the cloud calls it
		})
		slots[i] = federation.SlotHealth{Total: 1}
		if slices.Contains(healthy, i) {
			slots[i].Healthy = 1
		}
	}
	s.Lane = federation.NewHealthLane(slots)
	return s
}

func catalog(services ...*federation.LocalService) *federation.Catalog {
	m := map[federation.ServiceName]*federation.LocalService{}
	for _, s := range services {
		m[s.Name] = s
	}
	return federation.NewCatalog(1, m)
}

func export(service string, detail federation.Detail, to ...string) federation.Export {
	return federation.Export{Service: name(service), To: to, Detail: detail}
}

func names(v federation.ExportView) []string {
	var list []string
	for _, s := range v.Services {
		list = append(list, s.Name.String())
	}
	return list
}

func TestAPeerSeesWhatIsExportedToIt(t *testing.T) {
	region := catalog(local("web", []string{"a"}), local("checkout", nil), local("payments", []string{"a"}), local("secret", []string{"a"}))
	exports := []federation.Export{
		export("web", "", "*"), export("payments", "", "gcp-europe-west1"), export("checkout", "", "dc-berlin", "gcp-europe-west1"),
		export("not-there", "", "*"),
	}
	for peer, want := range map[federation.Region][]string{
		gcp:                {"checkout", "payments", "web"},
		dc:                 {"checkout", "web"}, // checkout has no instance: it is shown as empty
		aws:                nil,                 // nobody peers with itself
		"azure-westeurope": {"web"},
	} {
		view := ExportView(aws, region, exports, peer)
		if !slices.Equal(names(view), want) {
			t.Errorf("%s sees %v, want %v", peer, names(view), want)
		}
		for _, s := range view.Services {
			if _, ok := Exported(exports, s.Name, peer); !ok {
				t.Errorf("%s sees %s, which is not exported to it", peer, s.Name)
			}
		}
	}
	if view := ExportView(aws, nil, exports, gcp); len(view.Services) != 0 || view.Origin != aws {
		t.Errorf("an empty catalog shows %+v", view)
	}
	if view := ExportView(aws, region, nil, gcp); len(view.Services) != 0 {
		t.Errorf("without exports a peer sees %v", names(view))
	}
	var none *Exports
	if _, ok := none.Lookup(name("web"), gcp); ok || len(none.On(region, nil).View(gcp).Services) != 0 {
		t.Error("nil exports show something")
	}
}

func TestSlots(t *testing.T) {
	s := local("web", []string{"us-east-1b", "us-east-1a", "us-east-1b", ""}, 0, 3)
	s.Instances[0].Weight = 10
	here := func(zone string) federation.Locality { return federation.Locality{Region: aws, Zone: zone} }
	want := []federation.ExportedSlot{
		{Key: "aws-us-east-1", Locality: here(""), Weight: 100, Health: federation.SlotHealth{Healthy: 1, Total: 1}},
		{Key: "aws-us-east-1/us-east-1a", Locality: here("us-east-1a"), Weight: 100, Health: federation.SlotHealth{Total: 1}},
		{Key: "aws-us-east-1/us-east-1b", Locality: here("us-east-1b"), Weight: 110, Health: federation.SlotHealth{Healthy: 1, Total: 2}},
	}
	if diff := gocmp.Diff(want, ExportSlots(aws, s, federation.DetailSummary)); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	want = []federation.ExportedSlot{
		{Key: "web-0", Locality: here("us-east-1b"), Weight: 10, Health: federation.SlotHealth{Healthy: 1, Total: 1}},
		{Key: "web-1", Locality: here("us-east-1a"), Weight: 100, Health: federation.SlotHealth{Total: 1}},
		{Key: "web-2", Locality: here("us-east-1b"), Weight: 100, Health: federation.SlotHealth{Total: 1}},
		{Key: "web-3", Locality: here(""), Weight: 100, Health: federation.SlotHealth{Healthy: 1, Total: 1}},
	}
	if diff := gocmp.Diff(want, ExportSlots(aws, s, federation.DetailEndpoints)); diff != "" {
		t.Errorf("endpoints (-want +got):\n%s", diff)
	}
	s.Lane = nil
	for _, slot := range ExportSlots(aws, s, "") {
		if slot.Health.Healthy != 0 {
			t.Errorf("without a lane %s is healthy", slot.Key)
		}
	}
	if ExportSlots(aws, nil, "") != nil {
		t.Error("no service has slots")
	}
}

func TestSlotsAddUpAndHaveShortUniqueKeys(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		zones := rapid.SliceOfN(rapid.OneOf(rapid.SampledFrom([]string{"", "a", "b", "c"}), rapid.StringN(1, 90, 300)), 0, 40).Draw(t, "zones")
		s := local("web", zones, rapid.SliceOfN(rapid.IntRange(0, 39), 0, 40).Draw(t, "healthy")...)
		for _, detail := range []federation.Detail{"", federation.DetailSummary, federation.DetailEndpoints} {
			slots := ExportSlots(aws, s, detail)
			var weight, healthy, total uint32
			keys := map[string]bool{}
			for _, slot := range slots {
				weight, healthy, total = weight+slot.Weight, healthy+slot.Health.Healthy, total+slot.Health.Total
				if keys[slot.Key] || slot.Key == "" || len(slot.Key) > 128 || slot.Locality.Region != aws || len(slot.Locality.Zone) > maxZone {
					t.Fatalf("%s: slot %+v among %v", detail, slot, keys)
				}
				keys[slot.Key] = true
			}
			laneHealthy, laneTotal := s.Lane.Sum()
			if healthy != laneHealthy || total != laneTotal || weight != uint32(len(zones))*federation.DefaultWeight {
				t.Fatalf("%s: %d of %d with weight %d, want %d of %d", detail, healthy, total, weight, laneHealthy, laneTotal)
			}
			if !slices.IsSortedFunc(slots, func(a, b federation.ExportedSlot) int { return strings.Compare(a.Key, b.Key) }) {
				t.Fatalf("%s: slots are not sorted: %v", detail, slots)
			}
		}
	})
}

// TestViewsShareButNeverLeak compares the views built together for all peers with what each export says of each peer.
func TestViewsShareButNeverLeak(t *testing.T) {
	services := []string{"web", "checkout", "payments", "shop/cart"}
	peers := []federation.Region{gcp, dc, "azure-westeurope"}
	rapid.Check(t, func(t *rapid.T) {
		var exports []federation.Export
		var present []*federation.LocalService
		for _, s := range services {
			if to := rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"*", string(gcp), string(dc), string(aws)}), 0, 4, rapid.ID[string]).Draw(t,
				"to "+s); len(to) > 0 {
				exports = append(exports, export(s, "", to...))
			}
			if rapid.Bool().Draw(t, "has "+s) {
				present = append(present, local(s, []string{"a"}))
			}
		}
		region := catalog(present...)
		showing := NewExports(aws, exports).On(region, nil)
		for _, peer := range peers {
			var want []string
			for _, s := range region.Names() {
				if _, ok := Exported(exports, s, peer); ok {
					want = append(want, s.String())
				}
			}
			if got := names(showing.View(peer)); !slices.Equal(got, want) {
				t.Fatalf("%s sees %v, want %v", peer, got, want)
			}
		}
	})
}

func BenchmarkViewsOf100Peers(b *testing.B) {
	var services []*federation.LocalService
	var exports []federation.Export
	for i := range 10_000 {
		services = append(services, local(fmt.Sprintf("svc-%d", i), []string{"a", "b", "c"}, 0, 1))
		exports = append(exports, export(fmt.Sprintf("svc-%d", i), "", "*"))
	}
	region, compiled := catalog(services...), NewExports(aws, exports)
	for b.Loop() {
		showing := compiled.On(region, nil)
		for i := range 100 {
			if n := len(showing.View(federation.Region(fmt.Sprintf("peer-%d", i))).Services); n != len(services) {
				b.Fatal(n)
			}
		}
	}
}

// TestAnExportedServiceOutlivesItsInstances: what the catalog has lost is shown as empty, in the protocol that it last spoke, for as
// long as it is exported, and not a moment longer.
func TestAnExportedServiceOutlivesItsInstances(t *testing.T) {
	m := Memory{}
	show := func(local *federation.Catalog, exports ...federation.Export) []federation.ExportedService {
		e := NewExports(aws, exports)
		e.Remember(m, local)
		return e.On(local, m).View(gcp).Services
	}
	web, never := export("web", "", "*"), export("never", "", "*")
	if got := show(catalog(local("web", []string{"a"}, 0)), web, never); len(got) != 1 || len(got[0].Slots) != 1 {
		t.Fatalf("while it is there: %+v", got)
	}
	want := []federation.ExportedService{{Name: name("web"), Protocol: federation.ProtocolHTTP, Detail: federation.DetailSummary}}
	if diff := gocmp.Diff(want, show(catalog(), web, never)); diff != "" {
		t.Errorf("while it is missing (-want +got):\n%s", diff)
	}
	if got := show(catalog(), export("web", "", "dc-berlin")); len(got) != 0 {
		t.Errorf("to a peer that it is no longer exported to: %+v", got)
	}
	if got := show(catalog(), never); len(got) != 0 {
		t.Errorf("when its export is gone: %+v", got)
	}
	if got := show(catalog(), web); len(got) != 0 || len(m) != 0 {
		t.Errorf("when it is exported again, before it was seen: %+v, %v", got, m)
	}
}
