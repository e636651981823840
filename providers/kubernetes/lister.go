package kubernetes

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Kind is the kind of the scopes.
const Kind = "endpointslices"

// Lister lists the endpoints of clusters. It satisfies poll.Watcher.
type Lister struct {
	cfg     Config
	confirm time.Duration // see confirmTime

	mu       sync.Mutex
	clusters map[place]*known
}

var _ poll.Watcher = (*Lister)(nil)

// place tells clusters apart.
type place struct{ account, region string }

// known is a cluster and its client.
type known struct {
	Cluster
	client *client
}

// New returns a lister that has made no request yet and read no file. An error names every mistake in cfg.
func New(cfg Config) (*Lister, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure the Kubernetes provider: %w", err)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Lister{cfg: cfg, confirm: confirmTime, clusters: map[place]*known{}}, nil
}

// Scopes returns a scope for each cluster, or for each namespace of it that is named. Its account is the cluster's name, with that of
// the cloud's account before it where there is one.
func (l *Lister) Scopes(ctx context.Context) ([]poll.Scope, error) {
	places, err := l.look(ctx)
	if err != nil {
		return nil, err
	}
	namespaces := l.cfg.Namespaces
	if len(namespaces) == 0 {
		namespaces = []string{""}
	}
	var scopes []poll.Scope
	for _, p := range places {
		for _, ns := range namespaces {
			scopes = append(scopes, poll.Scope{Provider: "kubernetes", Account: p.account, Region: p.region, Kind: Kind, Part: ns})
		}
	}
	return scopes, nil
}

// look learns which clusters there are. A client is kept as long as it serves for the cluster.
func (l *Lister) look(ctx context.Context) ([]place, error) {
	found, missing, err := l.find(ctx)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	now := map[place]*known{}
	var errs []error
	for i := range found {
		c := &found[i]
		p := place{c.account(), c.Region}
		old := l.clusters[p]
		switch {
		case now[p] != nil:
			errs = append(errs, fmt.Errorf("there are two clusters %s in region %q", p.account, p.region))
			continue
		case old != nil && old.same(c):
			now[p] = old
			continue
		}
		client, err := newClient(c)
		if err != nil {
			errs = append(errs, fmt.Errorf("cluster %s: %w", p.account, err))
			if old != nil {
				now[p] = old
			}
			continue
		}
		now[p] = &known{*c, client}
	}
	if missing || len(errs) > 0 {
		for p, old := range l.clusters {
			now[p] = cmp.Or(now[p], old)
		}
	}
	for p, old := range l.clusters {
		if now[p] != old {
			old.client.idle()
		}
	}
	l.clusters = now
	if err := errors.Join(errs...); err != nil && len(now) == 0 {
		return nil, err
	} else if err != nil {
		l.cfg.Log.Warn("leave out clusters that cannot be used", "provider", "kubernetes", "reason", err.Error())
	}
	var places []place
	for p := range now {
		places = append(places, p)
	}
	slices.SortFunc(places, func(a, b place) int {
		return cmp.Or(cmp.Compare(a.account, b.account), cmp.Compare(a.region, b.region))
	})
	return places, nil
}

// find returns the clusters that can be found, and whether some of them may be missing.
func (l *Lister) find(ctx context.Context) (found []Cluster, missing bool, err error) {
	if len(l.cfg.Clusters) == 0 && l.cfg.Enumerate == nil {
		own, err := l.cfg.own()
		if err != nil {
			return nil, false, fmt.Errorf("read how the cluster is reached: %w", err)
		}
		return []Cluster{own}, false, nil
	}
	found = slices.Clone(l.cfg.Clusters)
	if l.cfg.Enumerate == nil {
		return found, false, nil
	}
	more, err := l.cfg.Enumerate(ctx)
	if err != nil && len(more) == 0 {
		return nil, false, fmt.Errorf("enumerate clusters: %w", err)
	}
	if err != nil {
		missing = true
		l.cfg.Log.Warn("keep the clusters that cannot be enumerated", "provider", "kubernetes", "reason", err.Error())
	}
	for _, c := range more {
		if err := c.validate(); err != nil {
			missing = true
			l.cfg.Log.Warn("leave out a cluster that cannot be used", "provider", "kubernetes", "reason", err.Error())
			continue
		}
		found = append(found, c)
	}
	if len(found) > maxClusters {
		return nil, false, fmt.Errorf("there are %d clusters: at most %d are allowed", len(found), maxClusters)
	}
	return found, missing, nil
}

// visit makes the requests about one scope.
type visit struct {
	*known
	cfg       *Config
	namespace string
	budget    poll.Budget // nil: not limited
	calls     int
}

// visit returns a visit of scope.
func (l *Lister) visit(ctx context.Context, scope poll.Scope, budget poll.Budget) (*visit, error) {
	if scope.Provider != "kubernetes" || scope.Kind != Kind || scope.Part != "" && !namespaceForm.MatchString(scope.Part) {
		return nil, fmt.Errorf("scope %v is not one of Kubernetes", scope)
	}
	p := place{scope.Account, scope.Region}
	k := l.at(p)
	if k == nil { // its credentials are to be made anew
		if _, err := l.look(ctx); err != nil {
			return nil, err
		}
		if k = l.at(p); k == nil {
			return nil, fmt.Errorf("there is no cluster %s", p.account)
		}
	}
	return &visit{known: k, cfg: &l.cfg, namespace: scope.Part, budget: budget}, nil
}

func (l *Lister) at(p place) *known {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.clusters[p]
}

// leave makes sure that credentials which were refused are made anew.
func (l *Lister) leave(v *visit, err error) {
	if !errors.Is(err, poll.ErrCredentials) {
		return
	}
	v.client.idle()
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := (place{v.account(), v.Region}); l.clusters[p] == v.known {
		delete(l.clusters, p)
	}
}

// wait waits for the budget, if there is one.
func (v *visit) wait(ctx context.Context) error {
	if v.budget == nil {
		return ctx.Err()
	}
	if err := v.budget.Wait(ctx); err != nil {
		return fmt.Errorf("wait for the budget of requests: %w", err)
	}
	return nil
}

// List lists one scope: its EndpointSlices and the metadata of its Services, in pages of 500.
func (l *Lister) List(ctx context.Context, scope poll.Scope, budget poll.Budget) (poll.Listing, error) {
	v, err := l.visit(ctx, scope, budget)
	if err != nil {
		return poll.Listing{}, err
	}
	inv := newInventory(&v.Cluster)
	for _, r := range resources {
		objects, _, err := v.list(ctx, r)
		if err != nil {
			l.leave(v, err)
			return poll.Listing{}, err
		}
		inv.replace(r, objects)
	}
	listing, err := inv.listing()
	listing.Calls = v.calls
	return listing, err
}
