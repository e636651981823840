package controlplane

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

// DefaultCoalesce is how long the plane gathers changes before it makes a View: long enough for a burst of registrations to
// become one View, short enough to be nothing beside the second within which a change must be in force everywhere.
const DefaultCoalesce = 5 * time.Millisecond

// Catalog is the region's own services, as the registry keeps them.
type Catalog interface {
	Catalog() *federation.Catalog
	Changed() <-chan struct{} // membership has changed; capacity 1
	Settled() <-chan struct{} // closed once the catalog is complete after a start
}

// Declarations takes the region's service resources.
type Declarations interface {
	SetServices(services map[federation.ServiceName]federation.Service)
}

// Health is the news of which local services have changed in health.
type Health interface {
	HealthChanged() <-chan struct{} // there is something to take; capacity 1
	TakeHealthChanges() []federation.ServiceName
}

// Registry is what the plane needs of the registry.
type Registry interface {
	Catalog
	Health
	Declarations
}

// Exporter sends peers what they may see. Its methods are called from Run only and must not block. None is called before the
// registry has settled: a region that is still looking for its services would seem to have withdrawn them. A call may be
// about a peer that has just gone; it means nothing then.
type Exporter interface {
	// SetExport replaces everything that peer may see.
	SetExport(peer federation.Region, view federation.ExportView)
	// SetHealth says how healthy the slots of one service in the last SetExport are now. The keys are the same.
	SetHealth(peer federation.Region, service federation.ServiceName, slots []federation.ExportedSlot)
}

// Config is what a Plane is made of.
type Config struct {
	Region      federation.Region
	TrustDomain spiffeid.TrustDomain
	Store       store.Store
	Registry    Registry
	Exporter    Exporter               // nil, or set later by SetExporter: nothing is exported
	OnView      func(*federation.View) // called from Run for each View, before peers hear of it; should take milliseconds at most
	Coalesce    time.Duration          // 0: DefaultCoalesce
	Log         *slog.Logger           // nil: no log
	Now         func() time.Time       // nil: time.Now; for Status only
}

// Plane is a region's control plane. All methods are safe for any number of goroutines.
type Plane struct {
	cfg     Config
	log     *slog.Logger
	view    atomic.Pointer[federation.View]
	wake    chan struct{} // capacity 1: the inbox has changed
	writing chan struct{} // capacity 1: held by whoever changes resources
	unsure  bool          // a commit ended without a clear answer; guarded by writing

	mu        sync.Mutex // guards what follows; never held while calling out
	inbox     inbox
	watchers  map[chan struct{}]struct{}
	published uint64        // generation of the inbox that the current View is of
	settled   chan struct{} // closed and replaced with each publication
	at        time.Time     // of the last View

	out outbox // what Run has sent; owned by Run
}

// inbox is what the next View will be made of. Its values are replaced, never changed.
type inbox struct {
	generation uint64
	urgent     bool // something has been taken away: do not wait for more
	resources  *resources
	peers      []federation.Peer // sorted by region
	imports    map[federation.Region]*federation.Import
	forget     map[federation.Region]bool // peers that are, or were in between, new ones: they know nothing of us
}

// New reads the region's resources from the store and hands the services among them to the registry, which must know of them
// before it can say that it has settled. It starts nothing.
func New(ctx context.Context, cfg Config) (*Plane, error) {
	switch {
	case cfg.Region == "" || cfg.TrustDomain.IsZero():
		return nil, errors.New("new control plane: it needs a region and a trust domain")
	case cfg.Store == nil || cfg.Registry == nil:
		return nil, errors.New("new control plane: it needs a store and a registry")
	}
	if cfg.Coalesce <= 0 {
		cfg.Coalesce = DefaultCoalesce
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	p := &Plane{
		cfg:      cfg,
		log:      cfg.Log,
		wake:     make(chan struct{}, 1),
		writing:  make(chan struct{}, 1),
		watchers: map[chan struct{}]struct{}{},
		settled:  make(chan struct{}),
		out:      outbox{peers: map[federation.Region]*sentExport{}, memory: policy.Memory{}},
	}
	set, err := loadResources(ctx, cfg.Store)
	if err != nil {
		return nil, err
	}
	p.logDamage(set)
	cfg.Registry.SetServices(maps.Clone(set.services))
	p.out.resources = set
	p.inbox = inbox{generation: 1, resources: set, imports: map[federation.Region]*federation.Import{}, forget: map[federation.Region]bool{}}
	p.view.Store(&federation.View{Region: cfg.Region, TrustDomain: cfg.TrustDomain})
	return p, nil
}

// SetExporter sets the exporter of a plane that was made without one, because the exporter needed the plane. It must be
// called before Run.
func (p *Plane) SetExporter(e Exporter) { p.cfg.Exporter = e }

// View returns the last published View. Before Run has published one it is number 0: it knows and allows nothing.
func (p *Plane) View() *federation.View { return p.view.Load() }

// SetPeers replaces the peers. One that is Terminated, or no longer listed, leaves the View at once and its import with it;
// what it had been shown is forgotten, so that a new peering of that name starts from nothing. It never blocks.
func (p *Plane) SetPeers(peers []federation.Peer) {
	list, refused := p.admissible(peers)
	for _, err := range refused {
		p.log.Error("ignore peer", "error", err)
	}
	p.change(func(in *inbox) bool {
		if slices.EqualFunc(in.peers, list, equalPeers) {
			return false
		}
		now := make(map[federation.Region]federation.Peer, len(list))
		for _, peer := range list {
			now[peer.Region] = peer
		}
		imports := maps.Clone(in.imports)
		for _, before := range in.peers {
			after, still := now[before.Region]
			renamed := after.TrustDomain != before.TrustDomain && !before.TrustDomain.IsZero()
			if !still || renamed {
				in.urgent = true
				in.forget[before.Region] = true
				delete(imports, before.Region)
			} else if starting(after.State) && !starting(before.State) {
				in.forget[before.Region] = true
			}
		}
		in.peers, in.imports = list, imports
		return true
	})
}

// admissible returns the peers that a View can hold, sorted: not ourselves, each region and each trust domain once.
func (p *Plane) admissible(peers []federation.Peer) (list []federation.Peer, refused []error) {
	domains := map[spiffeid.TrustDomain]federation.Region{p.cfg.TrustDomain: p.cfg.Region}
	sorted := slices.Clone(peers)
	slices.SortStableFunc(sorted, func(a, b federation.Peer) int { return compareRegions(a.Region, b.Region) })
	for _, peer := range sorted {
		owner, taken := domains[peer.TrustDomain]
		switch {
		case peer.State == federation.PeeringTerminated:
			continue
		case peer.Region == "" || peer.Region == p.cfg.Region:
			refused = append(refused, fmt.Errorf("peer %q is this region itself or has no name", peer.Region))
			continue
		case len(list) > 0 && list[len(list)-1].Region == peer.Region:
			refused = append(refused, fmt.Errorf("peer %q is listed twice", peer.Region))
			continue
		case taken && !peer.TrustDomain.IsZero():
			refused = append(refused, fmt.Errorf("peer %q claims trust domain %q of %s", peer.Region, peer.TrustDomain, owner))
			continue
		}
		peer.Gateways = slices.Clone(peer.Gateways)
		domains[peer.TrustDomain] = peer.Region
		list = append(list, peer)
	}
	return list, refused
}

func equalPeers(a, b federation.Peer) bool {
	return a.Region == b.Region && a.TrustDomain == b.TrustDomain && a.State == b.State && slices.Equal(a.Gateways, b.Gateways)
}

// starting reports whether a peering in state s has yet to exchange its first catalog.
func starting(s federation.PeeringState) bool {
	return s == federation.PeeringPending || s == federation.PeeringEstablishing
}

// SetImport replaces what region has shown us; nil takes it away. It counts as long as region is a peer and the import has
// not expired. It never blocks.
func (p *Plane) SetImport(region federation.Region, imported *federation.Import) {
	if imported != nil && imported.Peer != region {
		p.log.Error("ignore import", "peer", region, "error", fmt.Errorf("it says it is from %q", imported.Peer))
		return
	}
	p.change(func(in *inbox) bool {
		before := in.imports[region]
		if before == imported {
			return false
		}
		in.urgent = in.urgent || before != nil && (imported == nil || imported.Freshness >= federation.FreshnessExpired)
		in.imports = maps.Clone(in.imports)
		if imported == nil {
			delete(in.imports, region)
		} else {
			in.imports[region] = imported
		}
		return true
	})
}

// change applies f to the inbox and, if f says that it changed something, wakes Run.
func (p *Plane) change(f func(in *inbox) bool) {
	p.mu.Lock()
	changed := f(&p.inbox)
	if changed {
		p.inbox.generation++
	}
	p.mu.Unlock()
	if changed {
		signal(p.wake)
	}
}

// Settle returns when a View is published that holds everything set and applied before the call, or ctx ends.
func (p *Plane) Settle(ctx context.Context) error {
	p.mu.Lock()
	want := p.inbox.generation
	p.mu.Unlock()
	for {
		p.mu.Lock()
		done, next := p.published >= want, p.settled
		p.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return fmt.Errorf("wait for the next view: %w", ctx.Err())
		}
	}
}

// Changed returns a signal of capacity 1 that is set whenever resources or the View change, for whoever shows them, and a
// function that ends the subscription.
func (p *Plane) Changed() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	p.mu.Lock()
	p.watchers[c] = struct{}{}
	p.mu.Unlock()
	return c, func() {
		p.mu.Lock()
		delete(p.watchers, c)
		p.mu.Unlock()
	}
}

func (p *Plane) tellWatchers() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for c := range p.watchers {
		signal(c)
	}
}

// signal sets a level-triggered signal of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// Status is the plane at a glance.
type Status struct {
	View        uint64                   `json:"view"`         // number of the current View; 0 before the first
	PublishedAt time.Time                `json:"published_at"` // zero before the first
	Resources   map[federation.Kind]int  `json:"resources"`
	Damaged     []*federation.Diagnostic `json:"damaged,omitempty"` // stored resources that cannot be read, and so are not in force
}

// Status returns the plane at a glance.
func (p *Plane) Status() Status {
	p.mu.Lock()
	set, at := p.inbox.resources, p.at
	p.mu.Unlock()
	s := Status{View: p.View().Number, PublishedAt: at, Resources: map[federation.Kind]int{}, Damaged: set.damage()}
	for key := range set.records {
		s.Resources[key.Kind]++
	}
	return s
}
