package gcp

import (
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
)

var update = flag.Bool("update", false, "write the exchanges that are checked against Google's documents anew")

// whole is a cloud that makes the lister use every operation, and the double every form of answer.
func whole() gcptest.Inventory {
	return gcptest.Inventory{
		Instances: []gcptest.Instance{
			{Name: "web-1", IP: "10.132.0.2", Public: "203.0.113.7", IPv6: "fd20::2", PublicIPv6: "2001:db8::2", Secondary: []string{"10.200.0.2"},
				Labels: map[string]string{"mesh-service": "web", "team": "shop"}, Tags: []string{"gateway"}},
			{Name: "web-2", Zone: "europe-west1-c", IP: "10.132.0.3", Status: "STOPPING",
				Labels: map[string]string{"mesh-service": "web", "team": "shop"}},
			{Name: "other", IP: "10.132.0.4"},
		},
		Groups: []gcptest.Group{
			{Name: "web", Zone: "europe-west1-b", HealthCheck: true, Ports: map[string]int{"http": 8080}, Members: []gcptest.Member{
				{Name: "web-1", Health: "HEALTHY"}, {Name: "web-9", Action: "CREATING"}}},
			{Name: "wide", Region: "europe-west1", Unstable: true,
				Members: []gcptest.Member{{Zone: "europe-west1-c", Name: "web-2", Action: "DELETING"}}},
		},
		Services: []gcptest.Service{
			{Name: "cart", URL: "https://cart-abc.a.run.app", Labels: map[string]string{"team": "shop"}, PortName: "h2c", Deleted: true},
			{Name: "new", Ready: "CONDITION_PENDING", Labels: map[string]string{"team": "shop"}}},
		Entries: []gcptest.Entry{{Namespace: "prod", Name: "db", Annotations: map[string]string{"team": "shop"}, Endpoints: []gcptest.Endpoint{
			{Name: "db-1", Address: "10.132.0.5", Port: 5432, Annotations: map[string]string{"mesh/weight": "2"},
				Network: "projects/123456789012/locations/global/networks/default"}}}},
		Clusters: []gcptest.Cluster{{Name: "one", Endpoint: "192.0.2.10", CA: "-----BEGIN CERTIFICATE-----"},
			{Name: "two", Location: "europe-west1-b", DNS: "gke-1234.europe-west1.gke.goog"}},
	}
}

// exchange is a request and its answer, as e2e/tools/googleapi reads it.
type exchange struct {
	Method string          `json:"method"`
	HTTP   string          `json:"http"`
	Path   string          `json:"path"`
	Query  url.Values      `json:"query"`
	Answer json.RawMessage `json:"answer"` // with all of its fields, which the double would leave out
}

// TestOperations lists everything there is. The requests are exactly those for which Permissions has a permission, and they and their
// answers are the ones in testdata, which e2e/tools/googleapi checks against Google's documents.
func TestOperations(t *testing.T) {
	api, u := serve(t, whole())
	api.Fail = func(r gcptest.Request) *gcptest.Failure {
		if r.Method == "token" {
			return nil
		}
		return &gcptest.Failure{Fault: gcptest.Partial, Place: "us-east1-b"}
	}
	l := open(t, Config{Kinds: []string{KindInstances, KindRun, KindDirectory}, Labels: map[string]string{"team": ""},
		Locations: []string{"europe-west1", "us-east1"}, Endpoint: u})
	scopes, err := l.Scopes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range scopes {
		if _, err := l.List(t.Context(), s, nil); err != nil {
			t.Error(err)
		}
	}
	_, _ = Clusters(t.Context(), l) // one zone is missing, which it says by an error
	var all []exchange
	for _, r := range api.Requests() {
		if r.Method == "token" || slices.ContainsFunc(all, func(e exchange) bool { return e.Method == r.Method }) {
			continue
		}
		all = append(all, repeat(t, l, u, r))
	}
	slices.SortFunc(all, func(a, b exchange) int { return bytes.Compare([]byte(a.Method), []byte(b.Method)) })
	got, err := json.MarshalIndent(all, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join("gcptest", "testdata", "exchanges.json")
	if *update {
		if err := os.WriteFile(golden, append(got, '\n'), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(got)+"\n"); diff != "" {
		t.Errorf("exchanges differ from those that were checked; run with -update, and then e2e/tools/googleapi (-want +got):\n%s", diff)
	}
	wantPermissions := Permissions(KindInstances, SignalGroups, KindRun, KindDirectory, KindGKE)
	if len(wantPermissions) != 8 || len(all) != 9 { // zonal and regional groups need the same one
		t.Errorf("%d methods were called, for %d permissions: %v", len(all), len(wantPermissions), wantPermissions)
	}
}

// repeat makes a request again, for all fields of the answer.
func repeat(t *testing.T, l *Lister, base string, r gcptest.Request) exchange {
	t.Helper()
	e := exchange{Method: r.Method, HTTP: http.MethodGet, Path: r.Path, Query: r.Query}
	if filepath.Base(r.Path) == "listManagedInstances" {
		e.HTTP = http.MethodPost
	}
	query := url.Values{}
	for k, v := range r.Query {
		if k != "fields" {
			query[k] = v
		}
	}
	req, err := http.NewRequestWithContext(t.Context(), e.HTTP, base+r.Path+"?"+query.Encode(), nil)
	if err != nil {
		t.Fatal(err)
	}
	token, _, err := l.token(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := l.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if e.Answer, err = io.ReadAll(resp.Body); err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v %v", r.Path, resp.Status, err)
	}
	return e
}
