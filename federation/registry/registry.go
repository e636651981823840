package registry

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Resources is the name of the source that the instances written in service resources come from.
const Resources federation.SourceName = "resources"

// Source supplies instances until ctx ends; then it returns nil. It calls publish, from one goroutine at a time, with all the
// instances there are, whenever it has learnt them or found them unchanged, and must not change the slice, or what it
// refers to, afterwards. It never publishes a set it is not sure is complete. A source that cannot go on returns an error and
// is run again later.
type Source interface {
	Run(ctx context.Context, publish func([]federation.Instance)) error
}

// Troubled is implemented by a source that goes on in spite of an error, such as a file that does not parse at the moment.
type Troubled interface {
	// Problem returns why the source cannot see its newest set, or nil. It may be called from any goroutine.
	Problem() error
}

// Dated is implemented by a source that may publish what was true earlier, such as what it has kept over a restart.
type Dated interface {
	// AsOf returns when what was published last was read; zero: as it was published. It may be called from any goroutine.
	AsOf() time.Time
}

// Distant is implemented by a source whose instances may run anywhere, not just beside the gateway: those that say no zone have none.
type Distant interface {
	Distant()
}

// Checker makes the active checks of instances. Its reports may come from any goroutine.
type Checker interface {
	// Run makes checks until ctx ends, then returns nil.
	Run(ctx context.Context, report func(federation.HealthReport)) error
	// Watch replaces what is known of the target's instance; without checks the instance is forgotten.
	Watch(t federation.CheckTarget)
	// Status returns where the checks of an instance stand.
	Status(service federation.ServiceName, id federation.InstanceID) []federation.CheckStatus
}

// Config configures a Registry.
type Config struct {
	Region  federation.Region // of instances that do not say one
	Checker Checker           // nil: no checks are made, and an instance is as healthy as its source says
	// MaxPerSource is the most instances of one source. Default 50,000: a set beyond it is a lost filter, not a workload.
	MaxPerSource int
	// MaxPerService is the most instances of one service. Default 5,000: what a peer accepts of one service.
	MaxPerService int
	// SettleWithin is how long Settled waits at most. Default 5 s: ten times the default check interval, and less than the
	// patience of anything that supervises a start.
	SettleWithin time.Duration
	Rand         func() float64   // jitter of restarts, in [0,1); default: math/rand/v2
	Now          func() time.Time // for the times shown in statuses; default: time.Now
	Log          *slog.Logger     // default: discard
}

// Registry merges sources into a catalog. Its methods may be called from any goroutine, before and while Run runs.
type Registry struct {
	cfg           Config
	catalog       atomic.Pointer[federation.Catalog]
	changed       chan struct{}
	healthChanged chan struct{}
	wake          chan struct{}
	settled       chan struct{}
	resources     *source

	in inbox

	mu    sync.RWMutex // guards state; only Run's goroutine writes
	state state
}

// inbox is what other goroutines leave for the owner. Each part is level-triggered: the newest replaces what was not taken.
type inbox struct {
	mu       sync.Mutex
	sources  map[federation.SourceName]*source
	removed  []*source
	services map[federation.ServiceName]federation.Service // non-nil: SetServices was called
	reports  map[key]federation.HealthReport
	drains   map[key]bool
	zone     *string                             // non-nil: SetZone was called
	syncs    []chan struct{}                     // closed once all that was left before is in the catalog
	dirty    map[federation.ServiceName]struct{} // outbox: services whose health changed and was not taken
}

// key names an instance in a region.
type key struct {
	service federation.ServiceName
	id      federation.InstanceID
}

func (k key) String() string { return fmt.Sprintf("instance %q of service %v", k.id, k.service) }

func (k key) compare(l key) int {
	return cmp.Or(k.service.Compare(l.service), cmp.Compare(k.id, l.id))
}

// New returns a registry with an empty catalog, which does nothing until Run.
func New(cfg Config) *Registry {
	cfg.MaxPerSource = cmp.Or(cfg.MaxPerSource, 50_000)
	cfg.MaxPerService = cmp.Or(cfg.MaxPerService, 5_000)
	cfg.SettleWithin = cmp.Or(cfg.SettleWithin, 5*time.Second)
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	r := &Registry{cfg: cfg, changed: make(chan struct{}, 1), healthChanged: make(chan struct{}, 1), wake: make(chan struct{}, 1),
		settled: make(chan struct{}), in: inbox{sources: map[federation.SourceName]*source{}}, state: newState()}
	r.resources = r.newSource(Resources, nil)
	r.catalog.Store(federation.NewCatalog(0, nil))
	return r
}

// Catalog returns the local services as they are now. Its instances carry what the data path may use: Health and Checks are
// left out, because the lane of the service speaks of health and Instances of checks.
func (r *Registry) Catalog() *federation.Catalog { return r.catalog.Load() }

// Changed is signalled (capacity 1, one reader) after Catalog has changed.
func (r *Registry) Changed() <-chan struct{} { return r.changed }

// HealthChanged is signalled (capacity 1, one reader) after the lanes of some services have changed; TakeHealthChanges says
// which.
func (r *Registry) HealthChanged() <-chan struct{} { return r.healthChanged }

// TakeHealthChanges returns the services whose lanes have changed since the last call, in order. The lanes of the current
// catalog are always up to date, whether or not the change was taken.
func (r *Registry) TakeHealthChanges() []federation.ServiceName {
	r.in.mu.Lock()
	dirty := r.in.dirty
	r.in.dirty = nil
	r.in.mu.Unlock()
	return slices.SortedFunc(maps.Keys(dirty), federation.ServiceName.Compare)
}

// Settled is closed once every source that was there when Run started has given a complete set and every check of their
// instances has answered, or SettleWithin has passed. Before, the catalog of a gateway that has just started is smaller than
// the region is, and showing it to peers would withdraw what still runs.
func (r *Registry) Settled() <-chan struct{} { return r.settled }

// Sync waits until the catalog holds what SetServices, Drain and sources have said so far. It needs Run to run.
func (r *Registry) Sync(ctx context.Context) error {
	c := make(chan struct{})
	r.in.mu.Lock()
	r.in.syncs = append(r.in.syncs, c)
	r.in.mu.Unlock()
	r.signal()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for the catalog: %w", ctx.Err())
	}
}

// Add gives the registry a source and, when Run runs, starts it. A *federation.Diagnostic says why a name cannot be used.
func (r *Registry) Add(name federation.SourceName, s Source) error {
	if err := checkText("source name", string(name), maxSourceName); err != nil {
		return sourceNameError(name, err.Error())
	}
	if name == Resources {
		return sourceNameError(name, "it stands for the instances written in service resources")
	}
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	if r.in.sources[name] != nil {
		return sourceNameError(name, "another source has it")
	}
	r.in.sources[name] = r.newSource(name, s)
	r.signal()
	return nil
}

// Remove stops a source and withdraws its instances. It does not wait for the source to end.
func (r *Registry) Remove(name federation.SourceName) error {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	s := r.in.sources[name]
	if s == nil {
		return sourceNameError(name, "there is no such source")
	}
	delete(r.in.sources, name)
	r.in.removed = append(r.in.removed, s)
	r.signal()
	return nil
}

// SetServices replaces the declared services: their protocols, the checks for instances that bring none, and their static
// instances. A declared service is in the catalog even while it has no instance.
func (r *Registry) SetServices(services map[federation.ServiceName]federation.Service) {
	own := maps.Clone(services)
	if own == nil {
		own = map[federation.ServiceName]federation.Service{}
	}
	var set []federation.Instance
	for _, name := range slices.SortedFunc(maps.Keys(own), federation.ServiceName.Compare) {
		service := own[name]
		for _, i := range service.Instances {
			set = append(set, federation.Instance{ID: i.Ident(), Service: name, Address: i.Address, Protocol: service.Protocol,
				Locality: federation.Locality{Region: r.cfg.Region, Zone: i.Zone}, Weight: i.Weight, Labels: i.Labels})
		}
	}
	// The declarations go first, so that no static instance is ever seen without the checks declared with it.
	r.in.mu.Lock()
	r.in.services = own
	r.in.mu.Unlock()
	r.resources.accept(set)
	r.signal()
}

// Drain takes an instance out of use, or puts it back: a drained one keeps its existing flows and is given no new ones,
// whatever its source and checks say. The mark is kept, also for an instance that is not there (yet), until it is taken away.
func (r *Registry) Drain(service federation.ServiceName, id federation.InstanceID, on bool) {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	if r.in.drains == nil {
		r.in.drains = map[key]bool{}
	}
	r.in.drains[key{service, id}] = on
	r.signal()
}

// SetZone says which zone the gateway runs in, as providers name it. Instances that say no zone are taken to be in it, but for those of
// a Distant source.
func (r *Registry) SetZone(zone string) error {
	if zone != "" {
		if err := checkText("zone", zone, maxZone); err != nil {
			return fmt.Errorf("set the gateway's zone: %w", err)
		}
	}
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	r.in.zone = &zone
	r.signal()
	return nil
}

// Run runs the sources and the checker and keeps the catalog until ctx ends. It returns nil after all of them have ended.
func (r *Registry) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var group sync.WaitGroup
	defer group.Wait()
	defer cancel()
	checker := make(chan error, 1)
	if r.cfg.Checker != nil {
		group.Go(func() { checker <- r.cfg.Checker.Run(ctx, r.report) })
	}
	running := map[*source]context.CancelFunc{}
	settle := time.NewTimer(r.cfg.SettleWithin)
	defer settle.Stop()
	initial := r.sourceList()
	for {
		r.in.mu.Lock()
		syncs := r.in.syncs
		r.in.syncs = nil
		r.in.mu.Unlock()
		r.manage(ctx, &group, running)
		r.turn()
		for _, c := range syncs {
			close(c)
		}
		r.settle(initial, false)
		select {
		case <-ctx.Done():
			return nil
		case err := <-checker:
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("run health checks: %w", cmp.Or(err, errors.New("ended early")))
		case <-settle.C:
			r.settle(nil, true)
		case <-r.wake:
		}
	}
}

// manage starts the sources that were added and stops those that were removed.
func (r *Registry) manage(ctx context.Context, group *sync.WaitGroup, running map[*source]context.CancelFunc) {
	current := r.sourceList()
	for _, s := range current {
		if running[s] == nil {
			own, cancel := context.WithCancel(ctx)
			running[s] = cancel
			group.Go(func() { r.supervise(own, s) })
		}
	}
	if len(running) == len(current) {
		return
	}
	for s, cancel := range running {
		if !slices.Contains(current, s) {
			cancel()
			delete(running, s)
		}
	}
}

// settle closes Settled when each of the initial sources, and every check, has answered, or when that is enforced.
func (r *Registry) settle(initial []*source, enforced bool) {
	select {
	case <-r.settled:
		return
	default:
	}
	if !enforced {
		for _, s := range initial {
			if !s.merged() {
				return
			}
		}
		if r.state.awaitsChecks() {
			return
		}
	}
	close(r.settled)
}

// sourceList returns the added sources, in order of name.
func (r *Registry) sourceList() []*source {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	return slices.SortedFunc(maps.Values(r.in.sources), func(a, b *source) int { return cmp.Compare(a.name, b.name) })
}

// report takes a report of the checker.
func (r *Registry) report(h federation.HealthReport) {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	if r.in.reports == nil {
		r.in.reports = map[key]federation.HealthReport{}
	}
	r.in.reports[key{h.Service, h.Instance}] = h
	r.signal()
}

// signal wakes the owner.
func (r *Registry) signal() { poke(r.wake) }

// poke signals a level-triggered channel of capacity 1.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func sourceNameError(name federation.SourceName, why string) error {
	return &federation.Diagnostic{Code: federation.CodeSourceName, What: fmt.Sprintf("source name %s cannot be used", quote(string(name))),
		Why: why, Fix: "use a name that is unique in this gateway, such as \"file:shop\""}
}
