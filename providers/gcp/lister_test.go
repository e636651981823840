package gcp

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

func TestConfigNamesAllMistakesAtOnce(t *testing.T) {
	_, err := New(Config{
		Projects: []string{"example-prod", "123456789012", "example-prod"}, Kinds: []string{"instances", "functions", "servicedirectory"},
		AddressType: "public", Namespaces: []string{"../x"}, Groups: []string{""}, NoGroupHealth: true,
		Labels: map[string]string{"Team": "shop", "env": `x" OR name:*`}, Endpoint: "http://proxy.example.com",
	})
	if err == nil {
		t.Fatal("the configuration was accepted")
	}
	for _, part := range []string{`"123456789012" is not the ID`, `"example-prod" is there twice`, `"functions"`, "needs at least one region",
		`"public"`, `"../x"`, `groups: ""`, "no_group_health", `"Team"`, `"x\" OR name:*"`, "in the clear"} {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not mention %s:\n%v", part, err)
		}
	}
	if _, err := New(Config{}); err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("an empty configuration gives %v, want that projects and kinds are missing", err)
	}
	if _, err := New(Config{Projects: []string{"example.com:example-prod"}, Kinds: []string{KindDirectory},
		Locations: []string{"europe-west1-b"}, Labels: map[string]string{"mesh/service": "a/b"},
		Endpoint: "https://{service}-mesh.p.googleapis.com"}); err != nil {
		t.Error(err)
	}
}

func TestScopes(t *testing.T) {
	l := open(t, Config{Projects: []string{"example-a", "example-b"}, Kinds: []string{KindInstances, KindRun, KindDirectory},
		Locations: []string{"europe-west1-b", "europe-west1-c", "us-east1"}})
	scopes, err := l.Scopes(t.Context())
	var got []string
	for _, s := range scopes {
		got = append(got, s.String())
	}
	if diff := cmp.Diff([]string{
		"gcp/example-a/instances", "gcp/example-a/europe-west1/run", "gcp/example-a/us-east1/run",
		"gcp/example-a/europe-west1/servicedirectory", "gcp/example-a/us-east1/servicedirectory",
		"gcp/example-b/instances", "gcp/example-b/europe-west1/run", "gcp/example-b/us-east1/run",
		"gcp/example-b/europe-west1/servicedirectory", "gcp/example-b/us-east1/servicedirectory"}, got); diff != "" || err != nil {
		t.Errorf("%v; scopes (-want +got):\n%s", err, diff)
	}
	if _, err := l.List(t.Context(), poll.Scope{Provider: "gcp", Account: "example-c", Kind: KindInstances}, nil); err == nil {
		t.Error("a project that is not configured was listed")
	}
}

func scopeOf(kind, region string) poll.Scope {
	return poll.Scope{Provider: "gcp", Account: gcptest.Project, Region: region, Kind: kind}
}

// TestRefusals: what the framework is told of each refusal.
func TestRefusals(t *testing.T) {
	api, u := serve(t, gcptest.Inventory{})
	l := open(t, Config{Kinds: []string{KindInstances, KindRun}, Endpoint: u})
	for _, c := range []struct {
		kind  string
		fault gcptest.Fault
		check func(error) bool
	}{
		{KindInstances, gcptest.Throttle, func(err error) bool {
			var e *poll.ThrottledError
			return errors.As(err, &e) && e.RetryAfter == 7*time.Second
		}},
		{KindRun, gcptest.Throttle, func(err error) bool {
			var e *poll.ThrottledError
			return errors.As(err, &e) && e.RetryAfter == 7*time.Second
		}},
		{KindInstances, gcptest.Deny, func(err error) bool {
			var e *poll.DeniedError
			return errors.As(err, &e) && e.Action == "compute.instances.list" && e.Who == gcptest.Account
		}},
		{KindRun, gcptest.Deny, func(err error) bool {
			var e *poll.DeniedError
			return errors.As(err, &e) && e.Action == "run.services.list"
		}},
		{KindRun, gcptest.Scope, func(err error) bool {
			var e *poll.DeniedError
			return errors.As(err, &e) && e.Action == "scope https://www.googleapis.com/auth/cloud-platform"
		}},
		{KindInstances, gcptest.Disabled, func(err error) bool {
			var e *poll.DeniedError
			return !errors.As(err, &e) && strings.Contains(err.Error(), "gcloud services enable compute.googleapis.com --project example-prod")
		}},
		{KindInstances, gcptest.Expired, func(err error) bool { return errors.Is(err, poll.ErrCredentials) }},
	} {
		api.Change(func(s *gcptest.Server, _ *gcptest.Inventory) {
			s.Fail = func(r gcptest.Request) *gcptest.Failure {
				if r.Method == "token" {
					return nil
				}
				return &gcptest.Failure{Fault: c.fault, RetryAfter: 7 * time.Second}
			}
		})
		if _, err := l.List(t.Context(), scopeOf(c.kind, ""), nil); err == nil || !c.check(err) {
			t.Errorf("%s of %s: List returned %T %[3]v", c.fault, c.kind, err)
		}
	}
}

// TestPermissionThatTheAPINames counts for more than the one we know, if it is one.
func TestPermissionThatTheAPINames(t *testing.T) {
	for _, c := range [][4]string{
		{"", "Required 'compute.regions.get' permission for 'projects/a'", "a.b.list", "compute.regions.get"},
		{"run.services.get", "Required 'compute.regions.get' permission", "a.b.list", "run.services.get"},
		{"", "Permission 'x' denied", "a.b.list", "a.b.list"},
		{"rm -rf /", "", "a.b.list", "a.b.list"},
	} {
		if got := missing(c[0], c[1], c[2]); got != c[3] {
			t.Errorf("missing(%q, %q) is %q, want %q", c[0], c[1], got, c[3])
		}
	}
}

// TestCredentials: one token serves many requests; the ones that the API no longer takes are dropped; without any it is said.
func TestCredentials(t *testing.T) {
	api, u := serve(t, gcptest.Inventory{Instances: []gcptest.Instance{{Name: "a", IP: "10.0.0.1"}}})
	l := open(t, Config{Kinds: []string{KindInstances}, NoGroupHealth: true, Endpoint: u})
	list := func() error {
		_, err := l.List(t.Context(), scopeOf(KindInstances, ""), nil)
		return err
	}
	for range 3 {
		if err := list(); err != nil {
			t.Fatal(err)
		}
	}
	wantCalls(t, api, map[string]int{"token": 1, "compute.instances.aggregatedList": 3})
	api.Expire()
	if err := list(); !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("List with a token that is good no more returned %v", err)
	}
	if err := list(); err != nil {
		t.Error(err)
	}
	wantCalls(t, api, map[string]int{"token": 1, "compute.instances.aggregatedList": 2})

	api.Expire()
	api.Fail = func(r gcptest.Request) *gcptest.Failure {
		if r.Method == "token" {
			return &gcptest.Failure{Fault: gcptest.Deny}
		}
		return nil
	}
	_ = list()
	if err := list(); !errors.Is(err, poll.ErrCredentials) || !strings.Contains(err.Error(), "account not found") {
		t.Errorf("List without a token returned %v", err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "/nonexistent")
	if err := list(); !errors.Is(err, poll.ErrCredentials) || !errors.Is(err, os.ErrNotExist) {
		t.Errorf("List without credentials returned %v", err)
	}
}

// TestCredentialsOfTheMachine come from the metadata server.
func TestCredentialsOfTheMachine(t *testing.T) {
	api, u := serve(t, gcptest.Inventory{Instances: []gcptest.Instance{{Name: "a", IP: "10.0.0.1"}}})
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", t.TempDir())
	l := open(t, Config{Kinds: []string{KindInstances}, NoGroupHealth: true, Endpoint: u})
	for range 2 {
		if _, err := l.List(t.Context(), scopeOf(KindInstances, ""), nil); err != nil {
			t.Fatal(err)
		}
	}
	wantCalls(t, api, map[string]int{"metadata": 1, "compute.instances.aggregatedList": 2})
}

func wantCalls(t *testing.T, api *gcptest.Server, want map[string]int) {
	t.Helper()
	if diff := cmp.Diff(want, api.Counts()); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	api.Forget()
}

// TestAnswerWithoutEnd is not read to its end.
func TestAnswerWithoutEnd(t *testing.T) {
	api, u := serve(t, gcptest.Inventory{})
	huge := strings.Repeat("x", maxBody)
	api.Change(func(_ *gcptest.Server, inv *gcptest.Inventory) {
		inv.Services = []gcptest.Service{{Name: "a", URL: "https://" + huge}}
	})
	l := open(t, Config{Kinds: []string{KindRun}, Endpoint: u})
	if _, err := l.List(t.Context(), scopeOf(KindRun, ""), nil); err == nil || !strings.Contains(err.Error(), "longer than") {
		t.Errorf("List returned %.200v", err)
	}
}

// TestRedirect: a token does not follow to where an answer points.
func TestRedirect(t *testing.T) {
	api, elsewhere := serve(t, gcptest.Inventory{})
	pointer := httptest.NewServer(http.RedirectHandler(elsewhere+"/v2/projects/example-prod/locations/-/services", 307))
	defer pointer.Close()
	l := open(t, Config{Kinds: []string{KindRun}, Endpoint: pointer.URL})
	if _, err := l.List(t.Context(), scopeOf(KindRun, ""), nil); err == nil || !strings.Contains(err.Error(), "307") {
		t.Errorf("List returned %v", err)
	}
	wantCalls(t, api, map[string]int{"token": 1})
}

func TestClusters(t *testing.T) {
	api, u := serve(t, gcptest.Inventory{Clusters: []gcptest.Cluster{
		{Name: "two", Endpoint: "2001:db8::1", CA: "ca two"}, {Name: "one", Endpoint: "192.0.2.1", CA: "ca one", Location: "europe-west1-b"},
		{Name: "named", DNS: "gke-1.europe-west1.gke.goog"}, {Name: "new", Status: "PROVISIONING"},
		{Name: "far", Endpoint: "192.0.2.2", Location: "us-east1"},
		{Name: "odd", Endpoint: "192.0.2.3/x", CA: "x"},
	}})
	l := open(t, Config{Projects: []string{gcptest.Project, "example-other"}, Kinds: []string{KindInstances},
		Locations: []string{"europe-west1"}, Endpoint: u})
	all, err := Clusters(t.Context(), l)
	if err == nil || !strings.Contains(err.Error(), `cluster "odd"`) {
		t.Errorf("the error is %v, want that of one cluster", err)
	}
	var got []string
	for _, c := range all {
		got = append(got, strings.Join([]string{c.Account, c.Region, c.Location, c.Name, c.Endpoint, string(c.CA)}, " "))
	}
	if diff := cmp.Diff([]string{
		"example-prod europe-west1 europe-west1 named https://gke-1.europe-west1.gke.goog ",
		"example-prod europe-west1 europe-west1 two https://[2001:db8::1] ca two",
		"example-prod europe-west1 europe-west1-b one https://192.0.2.1 ca one"}, got); diff != "" {
		t.Errorf("clusters (-want +got):\n%s", diff)
	}
	token, until, err := all[0].Token(t.Context())
	if err != nil || !strings.HasPrefix(token, "ya29.") || time.Until(until) < 50*time.Minute {
		t.Errorf("token is %q until %v, %v", token, until, err)
	}
	wantCalls(t, api, map[string]int{"token": 1, "container.projects.locations.clusters.list": 2})

	api.Fail = func(gcptest.Request) *gcptest.Failure {
		return &gcptest.Failure{Fault: gcptest.Partial, Place: "europe-west1-b"}
	}
	if all, err := Clusters(t.Context(), l); err == nil || len(all) != 3 || !strings.Contains(err.Error(), "europe-west1-b") {
		t.Errorf("with a missing zone there are %d clusters, %v", len(all), err)
	}
}

func TestLocate(t *testing.T) {
	for _, c := range []struct {
		name string
		inv  gcptest.Inventory
		want poll.Location
		err  string
	}{
		{"instance", gcptest.Inventory{Instances: []gcptest.Instance{{Name: "a"}}, Self: gcptest.Self{Instance: "a"}},
			poll.Location{Provider: "gcp", Region: "europe-west1", ZoneID: "europe-west1-b", Zone: "europe-west1-b", InstanceID: "4815162342",
				Account: gcptest.Project}, ""},
		{"run", gcptest.Inventory{Self: gcptest.Self{Run: "us-east1"}},
			poll.Location{Provider: "gcp", Region: "us-east1", InstanceID: "00ab34cd56ef", Account: gcptest.Project}, ""},
		{"foreign", gcptest.Inventory{Instances: []gcptest.Instance{{Name: "a"}}, Self: gcptest.Self{Instance: "a", Foreign: true}},
			poll.Location{}, "not Google's"},
		{"nonsense", gcptest.Inventory{Instances: []gcptest.Instance{{Name: "a", Zone: "<html>-b"}}, Self: gcptest.Self{Instance: "a"}},
			poll.Location{}, "not what they should be"},
		{"none", gcptest.Inventory{}, poll.Location{}, "not defined"},
		{"silent", gcptest.Inventory{Self: gcptest.Self{Silent: true}}, poll.Location{}, "no answer"},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, _ = serve(t, c.inv)
			ctx := t.Context()
			if c.inv.Self.Silent {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
			}
			got, err := Locate(ctx)
			if got != c.want || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
				t.Errorf("Locate returned %+v, %v; want %+v and %q", got, err, c.want, c.err)
			}
		})
	}
}

func TestAddresses(t *testing.T) {
	label := map[string]string{"tradewind": "gateway"}
	api, u := serve(t, gcptest.Inventory{Self: gcptest.Self{Instance: "a"}, Instances: []gcptest.Instance{
		{Name: "a", IP: "10.0.0.9", Public: "203.0.113.1", Secondary: []string{"10.1.0.9"}, Labels: label, Tags: []string{"mesh"}},
		{Name: "b", IP: "10.0.0.2", Labels: label}, {Name: "c", IP: "10.0.0.3"}, {Name: "d", IP: "10.0.0.4", Labels: label, Status: "TERMINATED"},
		{Name: "e", Zone: "us-east1-b", IP: "10.0.0.5", Labels: label},
	}})
	api.PageSize = 2
	for _, c := range []struct {
		f    Filter
		want string
	}{
		{Filter{LabelKey: "tradewind", LabelValue: "gateway"}, "10.0.0.2 10.0.0.5 10.0.0.9"},
		{Filter{LabelKey: "tradewind", Locations: []string{"europe-west1"}}, "10.0.0.2 10.0.0.9"},
		{Filter{LabelKey: "tradewind", AddressType: PublicV4}, "203.0.113.1"},
		{Filter{NetworkTag: "mesh", Project: gcptest.Project}, "10.0.0.9"},
	} {
		c.f.Endpoint = u
		all, err := Addresses(t.Context(), c.f)
		var got []string
		for _, a := range all {
			got = append(got, a.String())
		}
		if err != nil || strings.Join(got, " ") != c.want {
			t.Errorf("%+v gives %v, %v; want %s", c.f, got, err, c.want)
		}
	}
	if _, err := Addresses(t.Context(), Filter{Project: gcptest.Project, Endpoint: u}); err == nil {
		t.Error("a filter that chooses everything was accepted")
	}
}

func TestBadItemsAreOfOneItem(t *testing.T) {
	_, u := serve(t, gcptest.Inventory{Instances: []gcptest.Instance{{Name: "a", IP: "10.0.0.1", Spoilt: true}, {Name: "b", IP: "10.0.0.2"},
		{Name: "c"}, {Name: "d", IP: "10.0.0.4", Status: "MOVING"}, {Name: "e", Status: "TERMINATED"}}})
	l := open(t, Config{Kinds: []string{KindInstances}, Endpoint: u, NoGroupHealth: true})
	got, err := l.List(t.Context(), scopeOf(KindInstances, ""), nil)
	if err != nil || len(got.Records) != 1 {
		t.Fatalf("List returned %+v, %v", got, err)
	}
	var bad []string
	for _, b := range got.Bad {
		bad = append(bad, strings.TrimPrefix(b.ID, "//compute.googleapis.com/projects/example-prod/zones/europe-west1-b/instances/"))
	}
	if !slices.Equal(bad, []string{"a", "c", "d"}) {
		t.Errorf("items that could not be read are %v: %+v", bad, got.Bad)
	}
}
