package gcp

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
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
	return &Lister{cfg: cfg, http: &http.Client{
		Transport: http.DefaultTransport.(*http.Transport).Clone(),
		Timeout:   30 * time.Second, // a full page takes seconds; a peer that needs longer has gone
		// A token must not follow to where an answer points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
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
	return poll.Listing{Records: v.found, Bad: v.bad, Partial: errors.Join(v.partial...), Calls: v.calls}, nil
}

// visit is one look at a project.
type visit struct {
	cfg      *Config
	http     *http.Client
	identity *identity
	project  string
	budget   poll.Budget // nil: not limited
	calls    int

	found   []poll.Record
	byID    map[string]int // index in found
	bad     []poll.BadItem
	partial []error

	// Only Addresses sets these.
	tag  string // a network tag that instances must have
	only bool   // no addresses but those of the wanted type
}

func (l *Lister) visit(project string, budget poll.Budget) (*visit, error) {
	id, err := l.identify()
	if err != nil {
		return nil, err
	}
	return &visit{cfg: &l.cfg, http: l.http, identity: id, project: project, budget: budget, byID: map[string]int{}}, nil
}

func (v *visit) list(ctx context.Context, scope poll.Scope) error {
	switch scope.Kind {
	case KindInstances:
		if err := v.listInstances(ctx); err != nil {
			return err
		}
		if v.cfg.NoGroupHealth || len(v.found) == 0 {
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

// add keeps a workload that was asked for. One that moved to another page during the listing is there twice: the later one counts.
func (v *visit) add(r poll.Record) error {
	for k, want := range v.cfg.Labels {
		if got, has := r.Labels[k]; !has || want != "" && got != want {
			return nil
		}
	}
	if i, twice := v.byID[r.ID]; twice {
		v.found[i] = r
		return nil
	}
	if len(v.found)+len(v.bad) >= maxRecords {
		return fmt.Errorf("there are more than %d workloads in one scope: narrow it with labels", maxRecords)
	}
	v.byID[r.ID] = len(v.found)
	v.found = append(v.found, r)
	return nil
}

// spoilt notes an item that could not be read.
func (v *visit) spoilt(id string, err error) error {
	if len(v.found)+len(v.bad) >= maxRecords {
		return fmt.Errorf("more than %d workloads in one scope: the last that could not be read: %w", maxRecords, err)
	}
	v.bad = append(v.bad, poll.BadItem{ID: id, Err: err})
	return nil
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
	v.partial = append(v.partial,
		fmt.Errorf("%d locations could not be asked for %s, such as %s", len(places), what, strings.Join(names, ", ")))
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

// addresses are a workload's, by type.
type addresses struct{ private, v6, public []netip.Addr }

// parse adds an address in text form, which may be empty.
func parse(list *[]netip.Addr, text string) error {
	if text == "" {
		return nil
	}
	a, err := netip.ParseAddr(text)
	if err != nil {
		return fmt.Errorf("read address: %w", err)
	}
	if a = a.Unmap().WithZone(""); !slices.Contains(*list, a) {
		*list = append(*list, a)
	}
	return nil
}

// of returns those of one type.
func (a addresses) of(kind string) []netip.Addr {
	switch kind {
	case PublicV4:
		return a.public
	case PrivateV6:
		return a.v6
	}
	return a.private
}

const maxAddresses = 16 // of one workload are reported; the largest machines have ten interfaces

// inOrder returns them with the wanted type first. A workload that has none of that type keeps its others.
func (a addresses) inOrder(wanted string) []netip.Addr {
	all := slices.Clone(a.of(wanted))
	for _, kind := range []string{PrivateV4, PrivateV6, PublicV4} {
		if kind != wanted {
			all = append(all, a.of(kind)...)
		}
	}
	return slices.Clip(all[:min(len(all), maxAddresses)])
}

// worse orders health from good to bad. Unknown is worse than passing here: a check that is there and does not say yes.
func worse(a, b federation.Health) federation.Health {
	rank := map[federation.Health]int{federation.HealthPassing: 1, federation.HealthUnknown: 2, federation.HealthDraining: 3,
		federation.HealthFailing: 4}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
