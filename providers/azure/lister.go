package azure

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Lister lists Azure. It satisfies poll.Lister and is safe for concurrent use.
type Lister struct {
	cfg  Config
	http *http.Client

	mu      sync.Mutex
	clients *clients                        // nil: to be made
	known   map[string]map[string]time.Time // by kind: when a subscription was last seen to have workloads
}

var _ poll.Lister = (*Lister)(nil)

// New returns a lister that has made no request yet. An error names every mistake in cfg.
func New(cfg Config) (*Lister, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure the Azure provider: %w", err)
	}
	cfg.AddressType = cmp.Or(cfg.AddressType, PrivateV4)
	return &Lister{cfg: cfg, http: newHTTP(), known: map[string]map[string]time.Time{}}, nil
}

// Scopes returns a scope for each kind: one query lists it over all subscriptions. They have no account, because Resource Graph
// counts the requests of a principal, whatever they are about.
func (l *Lister) Scopes(context.Context) ([]poll.Scope, error) {
	scopes := make([]poll.Scope, 0, len(l.cfg.Kinds))
	for _, kind := range l.cfg.Kinds {
		scopes = append(scopes, l.scope(kind))
	}
	return scopes, nil
}

func (l *Lister) scope(kind string) poll.Scope {
	s := poll.Scope{Provider: "azure", Kind: kind, Part: l.cfg.ManagementGroup}
	if len(l.cfg.Subscriptions) == 1 {
		s.Part = l.cfg.Subscriptions[0]
	}
	return s
}

// List lists one scope.
func (l *Lister) List(ctx context.Context, scope poll.Scope, budget poll.Budget) (poll.Listing, error) {
	if scope != l.scope(scope.Kind) || !slices.Contains(l.cfg.Kinds, scope.Kind) {
		return poll.Listing{}, fmt.Errorf("list %v: it is not configured", scope)
	}
	v, err := l.visit(budget)
	if err == nil {
		err = v.list(ctx, scope.Kind)
		if err == nil {
			err = l.lookForLost(ctx, v, scope.Kind)
		}
		l.leave(v, err)
	}
	if err != nil {
		return poll.Listing{}, fmt.Errorf("list %s of Azure: %w", scope.Kind, err)
	}
	return v.listing(), nil
}

// Close ends the connections that are open and not in use. The lister can be used on.
func (l *Lister) Close() { l.http.CloseIdleConnections() }

// visit is one look at Azure.
type visit struct {
	*clients
	spend
	cfg *Config

	poll.Gathering[found]
	seen map[string]bool
}

// found is a workload with its addresses by type.
type found struct {
	poll.Record
	poll.AddressSet
	set string // the Uniform scale set whose instance it is
}

// visit returns a visit with clients that have usable credentials as far as is known.
func (l *Lister) visit(budget poll.Budget) (*visit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients == nil {
		c, err := load(&l.cfg, l.http)
		if err != nil {
			return nil, err
		}
		l.clients = c
	}
	return &visit{clients: l.clients, spend: spend{Budget: budget}, cfg: &l.cfg, seen: map[string]bool{}}, nil
}

// leave drops clients whose credentials turned out to be of no use, so that the next visit gets new ones.
func (l *Lister) leave(v *visit, err error) {
	if !errors.Is(err, poll.ErrCredentials) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.clients == v.clients {
		l.clients = nil
	}
}

func (v *visit) list(ctx context.Context, kind string) error {
	kql, err := v.cfg.kql(kind)
	if err != nil {
		return err
	}
	read := map[string]func(row) (found, error){KindVM: v.machine, KindScaleSet: v.machine, KindContainerApp: v.app}[kind]
	err = v.graph(ctx, kql, func(r row) error {
		id := strings.ToLower(r.text("id"))
		if id == "" {
			return errors.New("read the answer of Resource Graph: a row has no ID")
		}
		v.seen[strings.ToLower(r.text("subscriptionId"))] = true
		f, err := read(r)
		if err != nil {
			return v.Spoilt(id, err)
		}
		f.ID, f.Kind, f.Account, f.Region = id, kind, strings.ToLower(r.text("subscriptionId")), r.text("location")
		f.Labels = map[string]string{}
		r.texts("setTags", f.Labels)
		r.texts("tags", f.Labels)
		return v.add(f)
	})
	if err == nil && kind == KindScaleSet {
		err = v.findInterfaces(ctx)
	}
	return err
}

// add keeps a workload that was asked for. Azure does not mind the case of a tag's name.
func (v *visit) add(f found) error {
	for k, want := range v.cfg.Tags {
		got, has := f.Labels[k]
		for name, value := range f.Labels {
			if !has && strings.EqualFold(name, k) {
				got, has = value, true
			}
		}
		if !has || want != "" && got != want {
			return nil
		}
	}
	return v.Add(f.ID, f)
}

// listing returns what was found. Machines without an address that are not running are nobody's endpoint, not yet or no longer.
func (v *visit) listing() poll.Listing {
	l := poll.Listing{Bad: v.Bad, Partial: errors.Join(v.Partial...), Calls: v.Calls}
	for _, f := range v.Found {
		f.Addresses = f.InOrder(v.cfg.AddressType)
		switch {
		case len(f.Addresses) > 0 || f.Host != "":
			l.Records = append(l.Records, f.Record)
		case f.State == poll.StateRunning:
			l.Bad = append(l.Bad, poll.BadItem{ID: f.ID, Err: errors.New("it runs and has no address that can be seen")})
		}
	}
	return l
}

// lookForLost asks about subscriptions that had workloads and now have none whether they can still be seen. Resource Graph leaves
// out what may not be read without a word, and a role that was taken away would look like the end of all that was in them.
func (l *Lister) lookForLost(ctx context.Context, v *visit, kind string) error {
	now := time.Now()
	l.mu.Lock()
	if l.known[kind] == nil {
		l.known[kind] = map[string]time.Time{}
	}
	known := l.known[kind]
	for s := range v.seen {
		known[s] = now
	}
	var lost []string
	for s, last := range known {
		if v.seen[s] {
			continue
		}
		if now.Sub(last) > lostFor {
			delete(known, s)
			continue
		}
		lost = append(lost, s)
	}
	l.mu.Unlock()
	if len(lost) == 0 {
		return nil
	}
	slices.Sort(lost)
	visible := map[string]bool{}
	err := v.graph(ctx, fmt.Sprintf(queryVisible, literals(lost)), func(r row) error {
		visible[strings.ToLower(r.text("subscriptionId"))] = true
		return nil
	})
	if err != nil {
		return err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range lost {
		if visible[s] {
			delete(known, s) // it is empty
		} else {
			v.Missing(fmt.Errorf("subscription %s can no longer be seen: it is gone, or the role that lets us read it", s))
		}
	}
	return nil
}

// sorted returns the keys of a set.
func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }
