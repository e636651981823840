package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/controlplane"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// opener makes the lister of one kind of provider from the body of its block in gateway.hcl.
type opener func(body any, log *slog.Logger) (poll.Lister, error)

// openers has the constructor of each kind; nil when the gateway was built without it (build tag no_<kind>). To add a kind: a
// body in internal/config's providerKinds, two files provider_<kind>.go and provider_<kind>_off.go here, and a line below.
var openers = map[string]opener{
	"aws":        openAWS,
	"azure":      openAzure,
	"consul":     openConsul,
	"gcp":        openGCP,
	"kubernetes": openKubernetes,
	"dns":        openDNS,
}

// openProvider makes the lister of a provider block.
func (a *Agent) openProvider(p config.Provider) (poll.Lister, error) {
	open := openers[p.Kind]
	if open == nil {
		return nil, &federation.Diagnostic{Code: federation.CodeProviderExcluded, What: fmt.Sprintf("provider %q %q cannot be used", p.Kind, p.Name),
			Why: "this gateway was built without it", Fix: "use a build without the tag no_" + p.Kind}
	}
	l, err := open(p.Config, a.room(p.Kind))
	if err != nil {
		return nil, &federation.Diagnostic{Code: "TW-1001", What: fmt.Sprintf("provider %q %q cannot be set up", p.Kind, p.Name), Why: err.Error(),
			Fix: "correct the provider block in gateway.hcl", Err: err}
	}
	return l, nil
}

// providers are the providers that run. Its fields are guarded by mu, for the API; only the watcher writes.
type providers struct {
	budgets *poll.Budgets
	changed chan struct{} // capacity 1: a provider has published

	mu      sync.Mutex
	running map[string]*provider
}

func newProviders() *providers {
	return &providers{budgets: poll.NewBudgets(nil), changed: make(chan struct{}, 1), running: map[string]*provider{}}
}

// list returns the running providers in order of name.
func (p *providers) list() []*provider {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*provider, 0, len(p.running))
	for _, one := range p.running {
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b *provider) int { return cmp.Compare(a.name(), b.name()) })
	return out
}

// find returns the provider of a name.
func (p *providers) find(name string) (*provider, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, one := range p.running {
		if one.name() == name || string(one.source()) == name {
			return one, nil
		}
	}
	return nil, &federation.Diagnostic{Code: federation.CodeProviderUnknown, What: fmt.Sprintf("there is no provider %q", name),
		Why: "gateway.hcl has no provider block of this name", Fix: "tradewind provider list", Err: admin.ErrNotFound}
}

// watchGap is the least time between two sets of a provider that hears of changes: each is for its own sake, and is to be seen by
// peers within half a second, of which the provider's own server may take most. Large sets make it longer by themselves.
const watchGap = 20 * time.Millisecond

// provider is a source that can be exchanged for a changed one: what the old one listed stays until the new one has listed.
type provider struct {
	all     *providers
	cfg     atomic.Pointer[config.Provider]
	current atomic.Pointer[poll.Source]
	lister  atomic.Pointer[poll.Lister]
	swapped chan struct{} // capacity 1
	public  atomic.Bool   // it has published since the start

	contested atomic.Pointer[contested]
}

// contested are the services that a provider's workloads ask to export, with the owner of the export that already decides.
type contested struct {
	owners map[federation.ServiceName]string
	warned time.Time
}

func (p *provider) name() string { return p.cfg.Load().Name }

func (p *provider) source() federation.SourceName { return providerSource(*p.cfg.Load()) }

func providerSource(c config.Provider) federation.SourceName {
	return federation.SourceName(c.Kind + ":" + c.Name)
}

// Run implements registry.Source.
func (p *provider) Run(ctx context.Context, publish func([]federation.Instance)) error {
	for {
		source := p.current.Load()
		inner, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			ended <- source.Run(inner, func(set []federation.Instance) {
				publish(set)
				p.public.Store(true)
				select {
				case p.all.changed <- struct{}{}:
				default:
				}
			})
		}()
		select {
		case err := <-ended:
			stop()
			return err
		case <-p.swapped:
			stop()
			<-ended // one source publishes at a time
		}
	}
}

// Problem implements registry.Troubled.
func (p *provider) Problem() error { return p.current.Load().Problem() }

// set makes a source from c the current one.
func (p *provider) set(a *Agent, c config.Provider, l poll.Lister) {
	old := p.current.Load()
	var gap time.Duration
	if _, watches := l.(poll.Watcher); watches {
		gap = watchGap
	}
	p.current.Store(poll.New(poll.Config{Gap: gap, Name: string(providerSource(c)), Lister: l, Rules: c.Discover, Interval: c.Interval, TTL: c.TTL,
		Dir: filepath.Join(a.opts.Config.DataDir, "providers"), Budgets: p.all.budgets.With(c.Rate), Predecessor: old, Log: a.room("provider")}))
	p.lister.Store(&l)
	p.cfg.Store(&c)
	if old != nil {
		select {
		case p.swapped <- struct{}{}:
		default: // Run has not looked yet, and will see the newest
		}
	}
}

// openProviders makes the listers of what differs from what runs. An error leaves everything as it is.
func (a *Agent) openProviders(wanted []config.Provider) (map[string]poll.Lister, error) {
	out := map[string]poll.Lister{}
	var errs []error
	for _, c := range wanted {
		if a.runsAs(c) {
			continue
		}
		l, err := a.openProvider(c)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out[c.Name] = l
	}
	return out, errors.Join(errs...)
}

// runsAs reports whether a provider runs exactly as c says.
func (a *Agent) runsAs(c config.Provider) bool {
	a.providers.mu.Lock()
	defer a.providers.mu.Unlock()
	old := a.providers.running[c.Name]
	return old != nil && reflect.DeepEqual(*old.cfg.Load(), c)
}

// adoptProviders makes the running providers equal to wanted.
func (a *Agent) adoptProviders(wanted []config.Provider) error {
	listers, err := a.openProviders(wanted)
	if err != nil {
		return err // it was possible when the configuration was accepted; the running ones stay
	}
	var errs []error
	a.providers.mu.Lock()
	defer a.providers.mu.Unlock()
	running := a.providers.running
	for name, p := range running {
		if !slices.ContainsFunc(wanted, func(c config.Provider) bool { return c.Name == name && c.Kind == p.cfg.Load().Kind }) {
			delete(running, name)
			errs = append(errs, a.reg.Remove(p.source()))
		}
	}
	for _, c := range wanted {
		l := listers[c.Name]
		switch old := running[c.Name]; {
		case l == nil: // unchanged
		case old != nil:
			old.set(a, c, l)
		default:
			p := &provider{all: a.providers, swapped: make(chan struct{}, 1)}
			p.set(a, c, l)
			running[c.Name] = p
			errs = append(errs, a.reg.Add(p.source(), p))
		}
	}
	return errors.Join(errs...)
}

const exportOwners = "provider/" // and the provider's name: who owns the exports that its workloads ask for

// keepExports keeps the export resources of providers in line with what their workloads ask for and their rules allow, until ctx
// ends.
func (a *Agent) keepExports(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.providers.changed:
		}
		owners := map[string]bool{}
		for _, p := range a.providers.list() {
			owner := exportOwners + p.name()
			owners[owner] = true
			if p.public.Load() { // before, absence is not known
				a.contest(p, a.export(ctx, owner, p.current.Load().Exports()))
			}
		}
		for _, r := range a.plane.List(federation.KindExport) {
			if strings.HasPrefix(r.Owner, exportOwners) && !owners[r.Owner] { // its provider block was removed
				a.export(ctx, r.Owner, nil)
			}
		}
	}
}

// contest takes note of the services whose export belongs to somebody else, and tells of a change, at most once a minute: workloads
// come and go.
func (a *Agent) contest(p *provider, owners map[federation.ServiceName]string) {
	before, now := p.contested.Load(), &contested{owners: owners}
	if before != nil {
		now.warned = before.warned
	}
	if len(owners) > 0 && (before == nil || !maps.Equal(before.owners, owners)) && time.Since(now.warned) >= time.Minute {
		now.warned = time.Now()
		d := now.problem()
		a.log.Warn(d.What, "provider", p.name(), "code", string(d.Code), "reason", d.Why, "fix", d.Fix)
	}
	p.contested.Store(now)
}

// problem says whose exports decide, nil when none does.
func (c *contested) problem() *federation.Diagnostic {
	if c == nil || len(c.owners) == 0 {
		return nil
	}
	names := slices.SortedFunc(maps.Keys(c.owners), federation.ServiceName.Compare)
	first := names[0]
	return &federation.Diagnostic{Code: federation.CodeProviderExport,
		What: fmt.Sprintf("the tags of workloads ask to export %d services whose export belongs to others, such as %v", len(names), first),
		Why:  fmt.Sprintf("the export of %v belongs to %q, which decides", first, c.owners[first]),
		Fix:  "take mesh/export from the workloads' tags, or delete the export: tradewind delete export " + first.String()}
}

// export makes owner's exports equal to wanted, but for services whose export belongs to somebody else, which it returns.
func (a *Agent) export(ctx context.Context, owner string, wanted map[federation.ServiceName][]string) map[federation.ServiceName]string {
	var put []federation.Resource
	others := map[federation.ServiceName]string{}
	same := true
	own := map[string]bool{}
	for _, r := range a.plane.List(federation.KindExport) {
		service, err := federation.ParseServiceName(r.Name)
		if err != nil {
			continue
		}
		peers, asked := wanted[service]
		if r.Owner != owner {
			if asked && !own[r.Name] {
				others[service] = r.Owner
			}
			delete(wanted, service)
			continue
		}
		own[r.Name] = true
		spec, ok := r.Spec.(*federation.Export)
		same = same && asked && ok && slices.Equal(spec.To, peers)
	}
	for service, peers := range wanted {
		same = same && own[service.String()]
		put = append(put, federation.Resource{Key: federation.Key{Kind: federation.KindExport, Name: service.String()},
			Spec: &federation.Export{Service: service, To: peers}})
	}
	if same {
		return others
	}
	slices.SortFunc(put, func(x, y federation.Resource) int { return strings.Compare(x.Name, y.Name) })
	plan, err := a.plane.Apply(ctx, controlplane.Change{Owner: owner, Put: put, Prune: true})
	if err != nil {
		a.log.Error("exports that workloads ask for not applied", "owner", owner, "error", err)
		return others
	}
	if plan.Changes() {
		a.log.Info("exports that workloads ask for applied", "owner", owner, "created", plan.Count(controlplane.ActionCreate),
			"updated", plan.Count(controlplane.ActionUpdate), "deleted", plan.Count(controlplane.ActionDelete))
	}
	return others
}
