package azure

import (
	"fmt"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/azure/azuretest"
	"github.com/tradewind-mesh/tradewind/providers/poll"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
)

// serve starts an Azure that holds inv, and makes this process one of its users.
func serve(t *testing.T, inv azuretest.Inventory) (*azuretest.Server, string) {
	t.Helper()
	api := azuretest.New(inv)
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	for k, v := range azuretest.Environment(server.URL) {
		t.Setenv(k, v)
	}
	return api, server.URL
}

func open(t *testing.T, cfg Config) *Lister {
	t.Helper()
	if cfg.Subscriptions == nil && cfg.ManagementGroup == "" {
		cfg.Subscriptions = []string{azuretest.Subscription}
	}
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	return l
}

// stage puts worlds of the contract into a fake Azure.
type stage struct {
	providertest.Player
	api *azuretest.Server
}

func (s *stage) serve(w providertest.World, inv azuretest.Inventory) {
	s.Serve(w)
	s.api.Change(func(api *azuretest.Server, i *azuretest.Inventory) { *i, api.Fail, api.Pages = inv, s.fail, s.pages })
	s.api.Forget()
}

func (s *stage) fail(r azuretest.Request) *azuretest.Failure {
	if r.Action != azuretest.ActionGraph {
		return nil
	}
	return s.Failure(r.Page)
}

// pages returns the sizes of the pages of the world. A workload that is on two pages is on both here too: the inventory has it twice.
func (s *stage) pages(r azuretest.Request, _ int) []int {
	if strings.HasPrefix(r.Query, "resourcecontainers") {
		return nil
	}
	return s.Sizes(false)
}

func (s *stage) requests() (n int) {
	for _, count := range s.api.Counts() {
		n += count
	}
	return n
}

var webTags = map[string]string{"mesh-service": "web", "mesh-port": "8080"}

// contract runs the contract for a kind, whose inventory for a world make returns.
func contract(t *testing.T, kind string, make func(providertest.World) azuretest.Inventory) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		api, url := serve(t, azuretest.Inventory{})
		s := &stage{api: api}
		l := open(t, Config{Kinds: []string{kind}, Endpoint: url})
		return providertest.ListerRig{
			Lister: l, Scope: poll.Scope{Provider: "azure", Kind: kind, Part: azuretest.Subscription}, Action: azuretest.ActionGraph,
			Requests: s.requests, Close: l.Close,
			Serve: func(_ *testing.T, w providertest.World) {
				l.known = map[string]map[string]time.Time{} // a new world has no past
				s.serve(w, make(w))
			},
		}
	})
}

func TestVMContract(t *testing.T) {
	contract(t, KindVM, func(w providertest.World) (inv azuretest.Inventory) {
		for _, i := range w.Present() {
			m := azuretest.Machine{Name: fmt.Sprintf("web-%04d", i.N), IP: i.Address(), Tags: webTags, Health: "healthy"}
			if slices.ContainsFunc(inv.Machines, func(o azuretest.Machine) bool { return o.Name == m.Name }) {
				m.Name = strings.ToUpper(m.Name)
			}
			inv.Machines = append(inv.Machines, m)
		}
		return inv
	})
}

func TestScaleSetContract(t *testing.T) {
	contract(t, KindScaleSet, func(w providertest.World) azuretest.Inventory {
		s := azuretest.ScaleSet{Name: "web", Tags: webTags}
		for _, i := range w.Present() {
			s.Instances = append(s.Instances, azuretest.Machine{Name: fmt.Sprintf("%04d", i.N), IP: i.Address(), Health: "healthy"})
		}
		return azuretest.Inventory{ScaleSets: []azuretest.ScaleSet{s}}
	})
}

func TestContainerAppContract(t *testing.T) {
	contract(t, KindContainerApp, func(w providertest.World) (inv azuretest.Inventory) {
		for _, i := range w.Present() {
			inv.Apps = append(inv.Apps, azuretest.App{Name: fmt.Sprintf("web-%04d", i.N), Environment: fmt.Sprintf("env-%04d", i.N),
				Transport: "Tcp", Port: 8080, Address: i.Address(), Tags: webTags})
		}
		return inv
	})
}
