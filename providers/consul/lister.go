package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Kind is the kind of the scopes.
const Kind = "services"

const (
	maxServices  = 10_000 // of a scope that are wanted
	maxInstances = 50_000 // of a scope
)

// Lister lists the services of a Consul. It satisfies poll.Watcher.
type Lister struct {
	cfg    Config
	client *client

	mu    sync.Mutex
	known map[poll.Scope]map[string]bool // services that a listing has had: see confirm
}

// New returns a lister that has made no request yet. An error names every mistake in cfg; files of certificates are read here.
func New(cfg Config) (*Lister, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure the Consul provider: %w", err)
	}
	cfg.withDefaults()
	c, err := newClient(cfg.Access, cfg.MaxWatches+2) // the catalog's watch, and a listing beside the watches
	if err != nil {
		return nil, fmt.Errorf("configure the Consul provider: %w", err)
	}
	return &Lister{cfg: cfg, client: c, known: map[poll.Scope]map[string]bool{}}, nil
}

// Scopes returns a scope for each combination of datacenter, partition and namespace. It asks only when all datacenters are wanted.
func (l *Lister) Scopes(ctx context.Context) ([]poll.Scope, error) {
	datacenters := l.cfg.Datacenters
	if slices.Equal(datacenters, []string{"*"}) {
		datacenters = nil
		err := l.client.ask(ctx, 0, func(q *api.QueryOptions) (err error) {
			_, err = l.client.Raw().Query("/v1/catalog/datacenters", &datacenters, q) // Datacenters takes no context
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list the datacenters of Consul: %w", err)
		}
	}
	orNone := func(list []string) []string {
		if len(list) == 0 {
			return []string{""}
		}
		return list
	}
	var scopes []poll.Scope
	for _, dc := range orNone(datacenters) {
		for _, partition := range orNone(l.cfg.Partitions) {
			for _, namespace := range orNone(l.cfg.Namespaces) {
				scopes = append(scopes, at{dc, partition, namespace}.scope())
			}
		}
	}
	return scopes, nil
}

// at is where in Consul something is. Empty: where the agent or the token is.
type at struct{ datacenter, partition, namespace string }

func (a at) scope() poll.Scope {
	s := poll.Scope{Provider: "consul", Account: a.datacenter, Kind: Kind}
	if a.partition != "" || a.namespace != "" {
		s.Part = a.partition + "/" + a.namespace
	}
	return s
}

func placeOf(s poll.Scope) (at, error) {
	if s.Provider != "consul" || s.Kind != Kind {
		return at{}, fmt.Errorf("scope %v is not one of Consul's", s)
	}
	partition, namespace, _ := strings.Cut(s.Part, "/")
	return at{s.Account, partition, namespace}, nil
}

// visit makes the requests about one scope.
type visit struct {
	*Lister
	at
	budget poll.Budget // nil: not limited
}

// ask makes one request when the budget allows it. With an index it blocks until there is something newer, or wait is over.
func (v *visit) ask(ctx context.Context, index uint64, wait time.Duration, request func(*api.QueryOptions) error) error {
	if v.budget != nil {
		if err := v.budget.Wait(ctx); err != nil {
			return fmt.Errorf("wait for the budget of requests: %w", err)
		}
	}
	if index == 0 {
		wait = 0
	}
	return v.client.ask(ctx, wait, func(q *api.QueryOptions) error {
		q.Datacenter, q.Partition, q.Namespace = v.datacenter, v.partition, v.namespace
		q.AllowStale, q.WaitIndex, q.WaitTime = !v.cfg.Consistent, index, wait
		return request(q)
	})
}

// doubt returns why an answer may miss something, or nil.
func (v *visit) doubt(meta *api.QueryMeta) error {
	switch {
	case !meta.KnownLeader:
		return errors.New("the Consul server that answered has no leader")
	case meta.LastContact > v.cfg.MaxStale:
		return fmt.Errorf("the Consul server that answered has not heard from its leader for %v", meta.LastContact)
	}
	return nil
}

// catalog is the list of services.
type catalog struct {
	names    []string // that are wanted, in order
	withheld bool     // there are others that the token may not see
	doubt    error
	index    uint64
}

// services asks which services there are.
func (v *visit) services(ctx context.Context, index uint64) (catalog, error) {
	var listed map[string][]string
	var meta *api.QueryMeta
	err := v.ask(ctx, index, v.cfg.Wait, func(q *api.QueryOptions) (err error) {
		q.Filter = v.catalogFilter()
		listed, meta, err = v.client.Catalog().Services(q)
		return err
	})
	if err != nil {
		return catalog{}, fmt.Errorf("list services: %w", err)
	}
	out := catalog{withheld: meta.ResultsFilteredByACLs, doubt: v.doubt(meta), index: meta.LastIndex}
	// Consul's servers are a service of the default namespace, so nothing at all means that the token may see nothing. No header
	// says so when there is no token.
	if len(listed) == 0 && out.doubt == nil && (v.partition == "" && v.namespace == "" || out.withheld) {
		return catalog{}, &poll.DeniedError{Action: ruleServices,
			Err: errors.New("list services: not even the service \"consul\" is listed, which is always there: the token may not see it")}
	}
	for name, tags := range listed {
		if v.wants(name) && hasAll(tags, v.cfg.Tags) {
			out.names = append(out.names, name)
		}
	}
	if len(out.names) > maxServices {
		return catalog{}, fmt.Errorf("%d services are wanted: at most %d are allowed; name them, or give tags", len(out.names), maxServices)
	}
	slices.Sort(out.names)
	return out, nil
}

// catalogFilter leaves out what would only be thrown away: the proxies of Consul's mesh, and what Sync has put there. If those came
// back as our own, other regions would be shown what they have exported.
func (l *Lister) catalogFilter() string {
	filter := fmt.Sprintf("ServiceMeta[%q] != %q", metaSource, source)
	if !l.cfg.Proxies {
		filter += ` and ServiceKind == ""`
	}
	return filter
}

func (l *Lister) wants(name string) bool {
	if len(name) > maxName || strings.ContainsFunc(name, notInName) {
		return false // no request can be made about it
	}
	if len(l.cfg.Services) == 0 {
		return name != "consul"
	}
	return slices.ContainsFunc(l.cfg.Services, func(pattern string) bool {
		if start, open := strings.CutSuffix(pattern, "*"); open {
			return strings.HasPrefix(name, start) && (start != "" || name != "consul")
		}
		return name == pattern
	})
}

func hasAll(have, want []string) bool {
	return !slices.ContainsFunc(want, func(tag string) bool { return !slices.Contains(have, tag) })
}

// answer is what is known of one service.
type answer struct {
	records []poll.Record
	bad     []poll.BadItem
	doubt   error // why something may be missing
	index   uint64
	same    bool // as the answer before; the rest is not filled in
	calls   int
}

// gone reports whether there is no such service, in so far as that can be known.
func (a *answer) gone() bool { return len(a.records) == 0 && len(a.bad) == 0 && a.doubt == nil }

// service asks for the instances of one service.
func (v *visit) service(ctx context.Context, name string, index uint64, wait time.Duration) (answer, error) {
	entries, meta, err := v.entries(ctx, name, index, wait)
	calls := 1
	if err == nil && meta.QueryBackend == api.QueryBackendStreaming && index > 0 {
		// The agent has answered from what servers stream to it. Such an answer says neither whether there is a leader nor whether
		// something was withheld, so it is only the news that there is something to read. Without an index nothing is streamed.
		if meta.LastIndex == index {
			return answer{index: index, same: true, calls: 1}, nil
		}
		entries, meta, err = v.entries(ctx, name, 0, 0)
		calls++
	}
	if err != nil {
		return answer{}, fmt.Errorf("list service %s: %w", poll.Clip(name), err)
	}
	out := answer{index: meta.LastIndex, doubt: v.doubt(meta), calls: calls}
	if meta.ResultsFilteredByACLs {
		out.doubt = cmp.Or[error](out.doubt, fmt.Errorf("the token may not see all instances of service %s: it needs %s and %s",
			poll.Clip(name), ruleServices, ruleNodes))
	}
	for _, e := range entries {
		switch rec, wanted, err := v.record(e); {
		case err != nil:
			out.bad = append(out.bad, poll.BadItem{ID: rec.ID, Err: err})
		case wanted:
			out.records = append(out.records, rec)
		}
	}
	return out, nil
}

func (v *visit) entries(ctx context.Context, name string, index uint64, wait time.Duration) ([]*api.ServiceEntry, *api.QueryMeta, error) {
	var list []*api.ServiceEntry
	var meta *api.QueryMeta
	err := v.ask(ctx, index, wait, func(q *api.QueryOptions) (err error) {
		q.Filter = v.cfg.Filter
		list, meta, err = v.client.Health().ServiceMultipleTags(name, v.cfg.Tags, false, q)
		return err
	})
	return list, meta, err
}

// List lists one scope: one request for the list of services and one for each that is wanted.
func (l *Lister) List(ctx context.Context, scope poll.Scope, budget poll.Budget) (poll.Listing, error) {
	place, err := placeOf(scope)
	if err != nil {
		return poll.Listing{}, err
	}
	v := &visit{l, place, budget}
	cat, err := v.services(ctx, 0)
	if err != nil {
		return poll.Listing{}, err
	}
	names := l.confirm(scope, cat)
	answers := make([]answer, 0, len(names))
	for _, name := range names {
		a, err := v.service(ctx, name, 0, 0)
		if err != nil {
			return poll.Listing{}, err
		}
		if a.gone() {
			l.forget(scope, name)
		}
		answers = append(answers, a)
	}
	listing, err := sum(cat.doubt, answers)
	listing.Calls = 1 + len(names)
	return listing, err
}

// confirm returns the services to ask about: those of the list and, when the token may not see all, those that an earlier list
// had. Asking for them by name tells whether they are gone or only no longer to be seen.
func (l *Lister) confirm(scope poll.Scope, cat catalog) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	known := map[string]bool{}
	for _, name := range cat.names {
		known[name] = true
	}
	if cat.withheld || cat.doubt != nil {
		maps.Copy(known, l.known[scope])
	}
	l.known[scope] = known
	return slices.Sorted(maps.Keys(known))
}

func (l *Lister) forget(scope poll.Scope, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.known[scope], name)
}

// sum makes one listing of the answers about all services.
func sum(doubt error, answers []answer) (poll.Listing, error) {
	n, doubts := 0, []error{}
	if doubt != nil {
		doubts = append(doubts, doubt)
	}
	for _, a := range answers {
		n += len(a.records) + len(a.bad)
		if a.doubt != nil {
			doubts = append(doubts, a.doubt)
		}
	}
	if n > maxInstances {
		return poll.Listing{}, fmt.Errorf("%d instances are wanted: at most %d are allowed; name services, or give tags or a filter",
			n, maxInstances)
	}
	l := poll.Listing{Partial: first(doubts), Records: make([]poll.Record, 0, n)}
	for _, a := range answers {
		l.Records, l.Bad = append(l.Records, a.records...), append(l.Bad, a.bad...)
	}
	return l, nil
}

// first returns the first error, with the number of the others.
func first(errs []error) error {
	switch len(errs) {
	case 0:
		return nil
	case 1:
		return errs[0]
	}
	return fmt.Errorf("%w; and %d more", errs[0], len(errs)-1)
}
