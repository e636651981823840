package gcp

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/providers/gcp/gcptest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// serve starts a cloud that holds inv, and makes this process one of its users.
func serve(t *testing.T, inv gcptest.Inventory) (*gcptest.Server, string) {
	t.Helper()
	api := gcptest.New(inv)
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	file, err := gcptest.WriteCredentials(t.TempDir(), server.URL)
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", file)
	t.Setenv("GOOGLE_CLOUD_QUOTA_PROJECT", "")
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(server.URL, "http://"))
	return api, server.URL
}

func open(t *testing.T, cfg Config) *Lister {
	t.Helper()
	if cfg.Projects == nil {
		cfg.Projects = []string{gcptest.Project}
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// stage puts worlds of the contract into a fake cloud.
type stage struct {
	providertest.Player
	api  *gcptest.Server
	list string // the method whose pages are the world's
}

func (s *stage) serve(w providertest.World, inv gcptest.Inventory) {
	s.Serve(w)
	s.api.Change(func(api *gcptest.Server, i *gcptest.Inventory) { *i, api.Fail, api.Pages = inv, s.fail, s.pages })
	s.api.Forget()
}

// fail says which failure a request meets.
func (s *stage) fail(r gcptest.Request) *gcptest.Failure {
	if r.Method != s.list {
		return nil
	}
	return s.Failure(r.Page)
}

// pages returns the sizes of the pages of the world. Service Directory shows its one service on the first.
func (s *stage) pages(r gcptest.Request, total int) []int {
	if r.Method != s.list {
		return nil
	}
	sizes := s.Sizes(false)
	if strings.HasPrefix(s.list, "servicedirectory") {
		clear(sizes)
		sizes[0] = total
	}
	return sizes
}

// requests returns how many requests there were, but for credentials.
func (s *stage) requests() int {
	return len(slices.DeleteFunc(s.api.Requests(), func(r gcptest.Request) bool { return r.Method == "token" || r.Method == "metadata" }))
}

var webLabels = map[string]string{"mesh-service": "web", "mesh-port": "8080"}

func TestInstancesContract(t *testing.T) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		api, url := serve(t, gcptest.Inventory{})
		s := &stage{api: api, list: "compute.instances.aggregatedList"}
		l := open(t, Config{Kinds: []string{KindInstances}, Endpoint: url})
		return providertest.ListerRig{
			Lister: l, Scope: poll.Scope{Provider: "gcp", Account: gcptest.Project, Kind: KindInstances}, Action: "compute.instances.list",
			Requests: s.requests, Close: l.Close,
			Cost: func(w providertest.World) int { // and the groups, once
				return len(w.Pages) + min(len(w.Present()), 1)
			},
			Serve: func(_ *testing.T, w providertest.World) {
				var inv gcptest.Inventory
				for _, i := range w.Present() {
					inv.Instances = append(inv.Instances, gcptest.Instance{Name: fmt.Sprintf("web-%d", i.N), IP: i.Address(), Labels: webLabels})
				}
				s.serve(w, inv)
			},
		}
	})
}

func TestRunContract(t *testing.T) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		api, url := serve(t, gcptest.Inventory{})
		s := &stage{api: api, list: "run.projects.locations.services.list"}
		l := open(t, Config{Kinds: []string{KindRun}, Endpoint: url})
		return providertest.ListerRig{
			Lister: l, Scope: poll.Scope{Provider: "gcp", Account: gcptest.Project, Kind: KindRun}, Action: "run.services.list",
			Requests: s.requests, Close: l.Close,
			Number: func(r poll.Record) (n int) {
				_, _ = fmt.Sscanf(r.Host, "web-%d-abc.a.run.app", &n)
				return n
			},
			Serve: func(_ *testing.T, w providertest.World) {
				var inv gcptest.Inventory
				for _, i := range w.Present() {
					v := gcptest.Service{Name: fmt.Sprintf("web-%d", i.N), URL: fmt.Sprintf("https://web-%d-abc.a.run.app", i.N), Labels: webLabels}
					if i.Malformed {
						v.URL = "https://[not-a-host"
					}
					inv.Services = append(inv.Services, v)
				}
				s.serve(w, inv)
			},
		}
	})
}

func TestDirectoryContract(t *testing.T) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		api, url := serve(t, gcptest.Inventory{})
		s := &stage{api: api, list: "servicedirectory.projects.locations.namespaces.services.list"}
		l := open(t, Config{Kinds: []string{KindDirectory}, Locations: []string{gcptest.Region}, Namespaces: []string{"prod"}, Endpoint: url})
		return providertest.ListerRig{
			Lister: l, Scope: poll.Scope{Provider: "gcp", Account: gcptest.Project, Region: gcptest.Region, Kind: KindDirectory},
			Action: "servicedirectory.services.list", Requests: s.requests, Close: l.Close,
			Lacks: map[string]string{"partial": "Service Directory answers or fails", "gone": "an endpoint is listed with its details"},
			Cost:  func(w providertest.World) int { return len(w.Pages) + 1 },
			Serve: func(_ *testing.T, w providertest.World) {
				web := gcptest.Entry{Namespace: "prod", Name: "web"}
				for _, i := range w.Present() {
					web.Endpoints = append(web.Endpoints, gcptest.Endpoint{Name: fmt.Sprintf("e-%d", i.N), Address: i.Address(), Port: 8080,
						Annotations: webLabels})
				}
				s.serve(w, gcptest.Inventory{Entries: []gcptest.Entry{web}})
			},
		}
	})
}
