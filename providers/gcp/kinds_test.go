package gcp

import (
	"encoding/json"
	"errors"
	"net/netip"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var plainAddr = gocmp.Comparer(func(a, b netip.Addr) bool { return a == b })

func list(t *testing.T, l *Lister, kind, region string) poll.Listing {
	t.Helper()
	got, err := l.List(t.Context(), scopeOf(kind, region), nil)
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestInstance(t *testing.T) {
	_, u := serve(t, whole())
	l := open(t, Config{Kinds: []string{KindInstances}, Labels: map[string]string{"team": "shop"}, Endpoint: u})
	labels := map[string]string{"mesh-service": "web", "team": "shop"}
	network := "projects/example-prod/global/networks/default"
	const base = "//compute.googleapis.com/projects/example-prod/zones/"
	want := []poll.Record{
		{ID: base + "europe-west1-b/instances/web-1", Account: gcptest.Project, Region: "europe-west1", Zone: "europe-west1-b", Network: network,
			Kind: KindInstances, State: poll.StateRunning, Health: federation.HealthPassing, Labels: labels,
			Ports: []poll.Port{{Name: "http", Number: 8080}},
			Addresses: []netip.Addr{netip.MustParseAddr("10.132.0.2"), netip.MustParseAddr("10.200.0.2"), netip.MustParseAddr("fd20::2"),
				netip.MustParseAddr("2001:db8::2"), netip.MustParseAddr("203.0.113.7")}},
		{ID: base + "europe-west1-c/instances/web-2", Account: gcptest.Project, Region: "europe-west1", Zone: "europe-west1-c", Network: network,
			Kind: KindInstances, State: poll.StateDraining, Labels: labels, Addresses: []netip.Addr{netip.MustParseAddr("10.132.0.3")}},
	}
	if diff := gocmp.Diff(want, list(t, l, KindInstances, "").Records, plainAddr); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	l = open(t, Config{Kinds: []string{KindInstances}, AddressType: PublicV4, NoGroupHealth: true, Endpoint: u})
	if r := list(t, l, KindInstances, "").Records[0]; r.Addresses[0] != netip.MustParseAddr("203.0.113.7") {
		t.Errorf("addresses are %v, want the public one first", r.Addresses)
	}
}

func TestStates(t *testing.T) {
	for status, want := range instanceStates {
		_, u := serve(t, gcptest.Inventory{Instances: []gcptest.Instance{{Name: "a", IP: "10.0.0.1", Status: status}}})
		l := open(t, Config{Kinds: []string{KindInstances}, NoGroupHealth: true, Endpoint: u})
		if got := list(t, l, KindInstances, "").Records[0].State; got != want {
			t.Errorf("%s is %s, want %s", status, got, want)
		}
	}
}

// TestPartialPlaces: only a location that was asked about makes a listing partial.
func TestPartialPlaces(t *testing.T) {
	api, u := serve(t, gcptest.Inventory{Instances: []gcptest.Instance{{Name: "a", IP: "10.0.0.1"}}})
	api.Fail = func(r gcptest.Request) *gcptest.Failure {
		if r.Method == "token" {
			return nil
		}
		return &gcptest.Failure{Fault: gcptest.Partial, Place: "us-east1-b"}
	}
	const why = "1 locations could not be asked for instances, such as us-east1-b"
	for location, partial := range map[string]bool{"": true, "us-east1": true, "us-east1-b": true, "us-east1-c": false,
		"europe-west1": false} {
		cfg := Config{Kinds: []string{KindInstances}, NoGroupHealth: true, Endpoint: u}
		if location != "" {
			cfg.Locations = []string{location}
		}
		got := list(t, open(t, cfg), KindInstances, "")
		if (got.Partial != nil) != partial || partial && !strings.Contains(got.Partial.Error(), why) {
			t.Errorf("in %q the listing is partial by %v", location, got.Partial)
		}
	}
}

// TestGaps: each way in which an answer says that it lacks something counts, once for each place.
func TestGaps(t *testing.T) {
	for answer, want := range map[string]string{
		`{"items": {"zones/a-b1-c": {"warning": {"code": "NO_RESULTS_ON_PAGE"}}, "zones/a-b1-d": {}}}`:          "",
		`{"items": {"zones/a-b1-c": {"warning": {"code": "UNREACHABLE"}}}}`:                                     "zones/a-b1-c",
		`{"unreachables": ["https://www.googleapis.com/compute/v1/projects/p/zones/a-b1-c"]}`:                   "a-b1-c",
		`{"items": {"zones/a-b1-c": {"warning": {"code": "UNREACHABLE"}}}, "unreachables": ["p/zones/a-b1-c"]}`: "a-b1-c",
		`{"unreachables": ["zones/x-y1"]}`:                                  "",
		`{"warning": {"code": "PARTIAL_SUCCESS", "message": "half of it"}}`: "PARTIAL_SUCCESS half of it",
		`{"warning": {"code": "SOMETHING_NEW"}}`:                            "SOMETHING_NEW",
		`{"warning": {"code": "DEPRECATED_TYPE_USED"}}`:                     "",
	} {
		var page aggregate[zonePart]
		if err := json.Unmarshal([]byte(answer), &page); err != nil {
			t.Fatal(err)
		}
		got := page.gaps(&Config{Locations: []string{"a-b1"}}, func(p zonePart) warning { return p.Warning })
		if len(got) > 1 || !strings.HasSuffix(strings.Join(got, " "), want) || (want == "") != (len(got) == 0) {
			t.Errorf("%s lacks %q, want %q", answer, got, want)
		}
	}
}

// TestGroups: a request for each group that may have something to say, and for no other.
func TestGroups(t *testing.T) {
	inv := gcptest.Inventory{Groups: []gcptest.Group{
		{Name: "checked", HealthCheck: true, Members: []gcptest.Member{{Name: "a", Health: "HEALTHY"}, {Name: "b", Health: "TIMEOUT"},
			{Name: "c", Health: "DRAINING"}, {Name: "d", Health: "UNKNOWN"}}},
		{Name: "silent", Members: []gcptest.Member{{Name: "e"}}},
		{Name: "rolling", Region: gcptest.Region, Unstable: true, Members: []gcptest.Member{{Zone: gcptest.Zone, Name: "f", Action: "RECREATING"},
			{Zone: gcptest.Zone, Name: "g", Action: "VERIFYING"}}},
		{Name: "elsewhere", Zone: "us-east1-b", HealthCheck: true},
	}}
	for _, n := range strings.Split("abcdefgh", "") {
		inv.Instances = append(inv.Instances, gcptest.Instance{Name: n, IP: "10.0.0." + string(n[0]-'a'+'1')})
	}
	api, u := serve(t, inv)
	api.PageSize = 3
	l := open(t, Config{Kinds: []string{KindInstances}, Endpoint: u})
	got := list(t, l, KindInstances, "")
	want := "a running passing, b running failing, c running draining, d running unknown, e running unknown, f draining unknown, " +
		"g running unknown, h running unknown"
	if said := said(got); said != want || got.Partial != nil {
		t.Errorf("%v; instances are\n%s, want\n%s", got.Partial, said, want)
	}
	wantCalls(t, api, map[string]int{"token": 1, "compute.instances.aggregatedList": 3, "compute.instanceGroupManagers.aggregatedList": 2,
		"compute.instanceGroupManagers.listManagedInstances": 2, "compute.regionInstanceGroupManagers.listManagedInstances": 1})

	l = open(t, Config{Kinds: []string{KindInstances}, Groups: []string{"silent", "rolling"}, Endpoint: u})
	if got, want := said(list(t, l, KindInstances, "")), "e running unknown, f draining unknown, g running unknown"; got != want {
		t.Errorf("instances of two groups are %s, want %s", got, want)
	}
	api.Fail = func(r gcptest.Request) *gcptest.Failure {
		if strings.HasSuffix(r.Method, "listManagedInstances") {
			return &gcptest.Failure{Fault: gcptest.Deny}
		}
		return nil
	}
	if _, err := l.List(t.Context(), scopeOf(KindInstances, ""), nil); err == nil {
		t.Error("groups could not be asked, and their instances were listed")
	}
	l = open(t, Config{Kinds: []string{KindInstances}, Endpoint: u})
	got = list(t, l, KindInstances, "")
	var denied *poll.DeniedError
	if !errors.As(got.Partial, &denied) || denied.Action != "compute.instanceGroupManagers.get" || len(got.Records) != 8 {
		t.Errorf("groups could not be asked: partial by %v, %d instances", got.Partial, len(got.Records))
	}
}

func said(l poll.Listing) string {
	var all []string
	for _, r := range l.Records {
		all = append(all, lastPart(r.ID)+" "+string(r.State)+" "+r.Health.String())
	}
	return strings.Join(all, ", ")
}

func TestRun(t *testing.T) {
	api, u := serve(t, gcptest.Inventory{Services: []gcptest.Service{
		{Name: "ok", URL: "https://ok.a.run.app"}, {Name: "new", Ready: "CONDITION_PENDING"},
		{Name: "bad", URL: "https://bad.a.run.app", Ready: "CONDITION_FAILED"},
		{Name: "stuck", URL: "https://stuck.a.run.app:8443", Ready: "CONDITION_FAILED", Routes: "CONDITION_SUCCEEDED"},
		{Name: "grpc", URL: "https://grpc.a.run.app"}, {Name: "going", URL: "https://going.a.run.app", Deleted: true},
		{Name: "far", Region: "us-east1", URL: "https://far.a.run.app", Ready: "CONDITION_RECONCILING"},
	}})
	l := open(t, Config{Kinds: []string{KindRun}, Endpoint: u})
	got := list(t, l, KindRun, "")
	want := "ok running passing, bad running failing, stuck running passing, grpc running passing, going draining passing, far running unknown"
	if s := said(got); s != want || len(got.Bad) > 0 {
		t.Errorf("services are\n%s, want\n%s\nbad %v", s, want, got.Bad)
	}
	first := poll.Record{ID: "//run.googleapis.com/projects/example-prod/locations/europe-west1/services/ok", Account: gcptest.Project,
		Region: "europe-west1", Kind: KindRun, Host: "ok.a.run.app", Ports: []poll.Port{{Number: 443, Protocol: "tcp"}},
		State: poll.StateRunning, Health: federation.HealthPassing, Service: "ok"}
	if diff := gocmp.Diff(first, got.Records[0], plainAddr); diff != "" {
		t.Errorf("record (-want +got):\n%s", diff)
	}
	if p := got.Records[2].Ports[0].Number; p != 8443 {
		t.Errorf("port is %d", p)
	}
	l = open(t, Config{Kinds: []string{KindRun}, Locations: []string{"us-east1"}, Endpoint: u})
	if got := said(list(t, l, KindRun, "us-east1")); got != "far running unknown" {
		t.Errorf("in one region services are %s", got)
	}
	wantCalls(t, api, map[string]int{"token": 2, "run.projects.locations.services.list": 2})
}

func TestDirectory(t *testing.T) {
	api, u := serve(t, gcptest.Inventory{Entries: []gcptest.Entry{
		{Namespace: "prod", Name: "db", Annotations: map[string]string{"mesh/port": "5432", "team": "shop"}, Endpoints: []gcptest.Endpoint{
			{Name: "one", Address: "10.0.0.1", Port: 5432, Annotations: map[string]string{"mesh/port": "5433"},
				Network: "projects/123456789012/locations/global/networks/vpc"},
			{Name: "two", Address: "2001:db8::1"}, {Name: "three"}}},
		{Namespace: "prod", Name: "gone", Gone: true},
		{Namespace: "test", Name: "db", Endpoints: []gcptest.Endpoint{{Name: "one", Address: "10.0.0.2", Port: 1}}},
		{Namespace: "test", Region: "us-east1", Name: "far", Endpoints: []gcptest.Endpoint{{Name: "one", Address: "10.0.0.3", Port: 1}}},
	}})
	l := open(t, Config{Kinds: []string{KindDirectory}, Locations: []string{"europe-west1"}, Endpoint: u})
	got := list(t, l, KindDirectory, "europe-west1")
	const base = "//servicedirectory.googleapis.com/projects/example-prod/locations/europe-west1/namespaces/"
	record := func(id, service, ip string) poll.Record {
		return poll.Record{ID: base + id, Account: gcptest.Project, Region: "europe-west1", Kind: KindDirectory, State: poll.StateRunning,
			Service: service, Addresses: []netip.Addr{netip.MustParseAddr(ip)}, Labels: map[string]string{}}
	}
	want := []poll.Record{record("prod/services/db/endpoints/one", "db", "10.0.0.1"),
		record("prod/services/db/endpoints/two", "db", "2001:db8::1"), record("test/services/db/endpoints/one", "db", "10.0.0.2")}
	want[0].Ports, want[0].Network = []poll.Port{{Number: 5432}}, "projects/123456789012/global/networks/vpc"
	want[0].Labels = map[string]string{"mesh/port": "5433", "team": "shop"}
	want[1].Labels = map[string]string{"mesh/port": "5432", "team": "shop"}
	want[2].Ports = []poll.Port{{Number: 1}}
	if diff := gocmp.Diff(want, got.Records, plainAddr); diff != "" {
		t.Errorf("records (-want +got):\n%s", diff)
	}
	if len(got.Bad) != 1 || got.Bad[0].ID != base+"prod/services/db/endpoints/three" {
		t.Errorf("what could not be read is %v", got.Bad)
	}
	const prefix = "servicedirectory.projects.locations.namespaces."
	wantCalls(t, api, map[string]int{"token": 1, prefix + "list": 1, prefix + "services.list": 2, prefix + "services.endpoints.list": 3})
}
