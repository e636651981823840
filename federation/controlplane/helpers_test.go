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

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
)

const (
	aws = federation.Region("aws-us-east-1")
	gcp = federation.Region("gcp-europe-west1")
	dc  = federation.Region("dc-berlin")
)

func name(s string) federation.ServiceName {
	n, _ := federation.ParseServiceName(s) // a misspelt one matches nothing
	return n
}

// registry is a registry that the test drives by hand.
type registry struct {
	mu       sync.Mutex
	catalog  *federation.Catalog
	declared map[federation.ServiceName]federation.Service
	dirty    []federation.ServiceName
	changed  chan struct{}
	health   chan struct{}
	settled  chan struct{}
	sets     int
}

func newRegistry(services ...string) *registry {
	r := &registry{changed: make(chan struct{}, 1), health: make(chan struct{}, 1), settled: make(chan struct{})}
	close(r.settled)
	r.set(services...)
	return r
}

// set makes the catalog hold services of two healthy instances each. "web:3" has three.
func (r *registry) set(services ...string) {
	m := map[federation.ServiceName]*federation.LocalService{}
	for _, s := range services {
		s, count, _ := strings.Cut(s, ":")
		n := 2
		if count != "" {
			_, _ = fmt.Sscan(count, &n)
		}
		service := &federation.LocalService{Name: name(s), Protocol: federation.ProtocolTCP}
		slots := make([]federation.SlotHealth, n)
		for i := range slots {
			service.Instances = append(service.Instances, federation.Instance{ID: federation.InstanceID(fmt.Sprintf("%s-%d", service.Name.Name, i)),
				Service: service.Name, Address: netip.AddrPortFrom(netip.MustParseAddr("192.0.2.1"), uint16(8000+i))})
			slots[i] = federation.SlotHealth{Healthy: 1, Total: 1}
		}
		service.Lane = federation.NewHealthLane(slots)
		m[service.Name] = service
	}
	r.mu.Lock()
	r.catalog = federation.NewCatalog(r.catalog.Revision()+1, m)
	r.mu.Unlock()
	signal(r.changed)
}

// healthy says whether instance i of service may be given traffic.
func (r *registry) healthy(service string, i int, healthy bool) {
	r.mu.Lock()
	h := federation.SlotHealth{Total: 1}
	if healthy {
		h.Healthy = 1
	}
	if s := r.catalog.Service(name(service)); s != nil {
		s.Lane.Store(i, h)
	}
	r.dirty = append(r.dirty, name(service))
	r.mu.Unlock()
	signal(r.health)
}

func (r *registry) Catalog() *federation.Catalog {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.catalog
}
func (r *registry) Changed() <-chan struct{}       { return r.changed }
func (r *registry) Settled() <-chan struct{}       { return r.settled }
func (r *registry) HealthChanged() <-chan struct{} { return r.health }
func (r *registry) TakeHealthChanges() []federation.ServiceName {
	r.mu.Lock()
	defer r.mu.Unlock()
	dirty := r.dirty
	r.dirty = nil
	return dirty
}

func (r *registry) SetServices(services map[federation.ServiceName]federation.Service) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.declared = services
	r.sets++
}

// exporter remembers what each peer was told, as the peer would: the last view with the last health.
type exporter struct {
	mu    sync.Mutex
	told  map[federation.Region]federation.ExportView
	calls []string
}

func newExporter() *exporter { return &exporter{told: map[federation.Region]federation.ExportView{}} }

func (e *exporter) SetExport(peer federation.Region, view federation.ExportView) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var names []string
	copied := federation.ExportView{Origin: view.Origin}
	for _, s := range view.Services {
		s.Slots = slices.Clone(s.Slots)
		copied.Services = append(copied.Services, s)
		names = append(names, s.Name.String())
	}
	e.told[peer] = copied
	e.calls = append(e.calls, fmt.Sprintf("export %s %v", peer, names))
}

func (e *exporter) SetHealth(peer federation.Region, service federation.ServiceName, slots []federation.ExportedSlot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var healthy, total uint32
	for _, s := range slots {
		healthy, total = healthy+s.Health.Healthy, total+s.Health.Total
	}
	e.calls = append(e.calls, fmt.Sprintf("health %s %s %d/%d", peer, service, healthy, total))
	view, known := e.told[peer]
	if !known {
		return // its peering has just ended
	}
	for i := range view.Services {
		if view.Services[i].Name != service {
			continue
		}
		if len(view.Services[i].Slots) != len(slots) {
			e.calls = append(e.calls, "the slots do not fit what was exported")
			return
		}
		view.Services[i].Slots = slices.Clone(slots)
		return
	}
	e.calls = append(e.calls, "the service was not exported")
}

// take returns the calls since the last take.
func (e *exporter) take() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	calls := e.calls
	e.calls = nil
	return calls
}

// region is a plane in a world that the test drives.
type region struct {
	*Plane
	registry *registry
	exporter *exporter
	store    store.Store
	views    chan *federation.View
}

func newRegion(t testing.TB, s store.Store, services ...string) *region {
	t.Helper()
	if s == nil {
		s = &storetest.Memory{}
	}
	r := &region{registry: newRegistry(services...), exporter: newExporter(), store: s, views: make(chan *federation.View, 1000)}
	p, err := New(t.Context(), Config{Region: aws, TrustDomain: federation.DefaultTrustDomain(aws), Store: s, Registry: r.registry,
		Exporter: r.exporter,
		OnView:   func(v *federation.View) { r.views <- v }})
	if err != nil {
		t.Fatal(err)
	}
	r.Plane = p
	return r
}

// turn does at once what Run would do in a while.
func (r *region) turn() {
	r.out.settled = true
	r.refresh()
}

// run starts the plane for as long as the test lasts.
func (r *region) run(t testing.TB) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run returned %v", err)
		}
	})
}

func (r *region) settled(t testing.TB) *federation.View {
	t.Helper()
	if err := r.Settle(t.Context()); err != nil {
		t.Fatal(err)
	}
	return r.View()
}

func (r *region) apply(t testing.TB, change Change) Plan {
	t.Helper()
	plan, err := r.Apply(t.Context(), change)
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func peer(r federation.Region, state federation.PeeringState) federation.Peer {
	return federation.Peer{Region: r, TrustDomain: federation.DefaultTrustDomain(r), Gateways: []string{"gateway.example.com:8443"},
		State: state}
}

func imported(r federation.Region, freshness federation.Freshness, services ...string) *federation.Import {
	i := &federation.Import{Peer: r, Freshness: freshness, Services: map[federation.ServiceName]*federation.ImportedService{}}
	for _, s := range services {
		i.Services[name(s)] = &federation.ImportedService{Name: name(s)}
	}
	return i
}

func resource(kind federation.Kind, named string, spec federation.Spec) federation.Resource {
	return federation.Resource{Key: federation.Key{Kind: kind, Name: named}, Spec: spec}
}

func exportOf(service string, to ...string) federation.Resource {
	return resource(federation.KindExport, service, &federation.Export{To: to})
}

func intention(named, source, destination string) federation.Resource {
	return resource(federation.KindIntention, named, &federation.Intention{Source: source, Destination: destination, Action: federation.Allow})
}

func upstream(named, service, listen string) federation.Resource {
	spec := &federation.Upstream{Listen: listen, Caller: name("web")}
	spec.Service, _ = federation.ParseServiceRef(service)
	return resource(federation.KindUpstream, named, spec)
}

func put(owner string, resources ...federation.Resource) Change {
	return Change{Owner: owner, Put: resources}
}

// steps writes a plan as "action kind/name".
func steps(p Plan) []string {
	var list []string
	for _, s := range p.Steps {
		list = append(list, fmt.Sprintf("%s %s/%s", s.Action, s.Key.Kind, s.Key.Name))
	}
	return list
}

// codes returns the codes of all diagnostics in err, in order.
func codes(err error) []federation.Code {
	var list []federation.Code
	for _, e := range leaves(err) {
		var d *federation.Diagnostic
		if errors.As(e, &d) {
			list = append(list, d.Code)
		} else if e != nil {
			list = append(list, "no diagnostic")
		}
	}
	return list
}

func keys(resources []federation.Resource) []string {
	var list []string
	for _, r := range resources {
		list = append(list, string(r.Kind)+"/"+r.Name)
	}
	return list
}
