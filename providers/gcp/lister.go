package gcp

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Lister lists Google Cloud. It satisfies poll.Lister and is safe for concurrent use.
type Lister struct {
	cfg  Config
	http *http.Client

	mu       sync.Mutex
	identity *identity // nil: to be found
}

var _ poll.Lister = (*Lister)(nil)

// New returns a lister that has made no request yet. An error names every mistake in cfg.
func New(cfg Config) (*Lister, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure the GCP provider: %w", err)
	}
	cfg.AddressType, cfg.Endpoint = cmp.Or(cfg.AddressType, PrivateV4), cmp.Or(cfg.Endpoint, defaultEndpoint)
	return &Lister{cfg: cfg, http: poll.Client(http.DefaultTransport.(*http.Transport).Clone(), maxBody)}, nil
}

// Close ends the connections that are open and not in use. The lister can be used on.
func (l *Lister) Close() { l.http.CloseIdleConnections() }

// Scopes returns a scope for each project and kind; Service Directory has one for each region, Cloud Run too where locations are
// configured. It makes no request.
func (l *Lister) Scopes(context.Context) ([]poll.Scope, error) {
	var scopes []poll.Scope
	for _, p := range l.cfg.Projects {
		for _, kind := range l.cfg.Kinds {
			regions := []string{""}
			if kind != KindInstances && len(l.cfg.Locations) > 0 {
				regions = l.cfg.regions()
			}
			for _, r := range regions {
				scopes = append(scopes, poll.Scope{Provider: "gcp", Account: p, Region: r, Kind: kind})
			}
		}
	}
	return scopes, nil
}

// List lists one scope.
func (l *Lister) List(ctx context.Context, scope poll.Scope, budget poll.Budget) (poll.Listing, error) {
	if scope.Provider != "gcp" || !slices.Contains(l.cfg.Projects, scope.Account) {
		return poll.Listing{}, fmt.Errorf("list %v: it is not configured", scope)
	}
	v, err := l.visit(scope.Account, budget)
	if err == nil {
		err = v.list(ctx, scope)
		l.forget(v.identity, err)
	}
	if err != nil {
		return poll.Listing{}, fmt.Errorf("list %s: %w", strings.TrimPrefix(scope.String(), "gcp/"), err)
	}
	return v.Listing(v.Calls, func(r poll.Record) poll.Record { return r }), nil
}

// visit is one look at a project.
type visit struct {
	cfg      *Config
	http     *http.Client
	identity *identity
	project  string
	poll.Spending
	poll.Gathering[poll.Record]

	// Only Addresses sets these.
	tag  string // a network tag that instances must have
	only bool   // no addresses but those of the wanted type
}

func (l *Lister) visit(project string, budget poll.Budget) (*visit, error) {
	id, err := l.identify()
	if err != nil {
		return nil, err
	}
	return &visit{cfg: &l.cfg, http: l.http, identity: id, project: project, Spending: poll.Spending{Budget: budget}}, nil
}

func (v *visit) list(ctx context.Context, scope poll.Scope) error {
	switch scope.Kind {
	case KindInstances:
		if err := v.listInstances(ctx); err != nil {
			return err
		}
		if v.cfg.NoGroupHealth || len(v.Found) == 0 {
			return nil
		}
		return v.mergeGroups(ctx)
	case KindRun:
		return v.listRun(ctx, scope.Region)
	case KindDirectory:
		return v.listDirectory(ctx, scope.Region)
	}
	return fmt.Errorf("kind %q is unknown", scope.Kind)
}

// add keeps a workload that was asked for.
func (v *visit) add(r poll.Record) error {
	if !poll.HasTags(r.Labels, v.cfg.Labels) {
		return nil
	}
	return v.Add(r.ID, r)
}

// miss notes places that could not be reached.
func (v *visit) miss(what string, places []string) {
	if len(places) == 0 {
		return
	}
	names := make([]string, 0, 8)
	for _, p := range places[:min(len(places), cap(names))] {
		names = append(names, oneLine(lastPart(p)))
	}
	v.Missing(fmt.Errorf("%d locations could not be asked for %s, such as %s", len(places), what, strings.Join(names, ", ")))
}

// lastPart returns what follows the last slash.
func lastPart(path string) string { return path[strings.LastIndexByte(path, '/')+1:] }

// resource returns the part of a URL that names a resource: "projects/...".
func resource(url string) string {
	if i := strings.Index(url, "/projects/"); i >= 0 {
		return url[i+1:]
	}
	return url
}
