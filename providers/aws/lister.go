package aws

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/arn"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Lister lists AWS. It satisfies poll.Lister and is safe for concurrent use.
type Lister struct {
	cfg Config
	// targetsFor is the constant of that name, but in tests.
	targetsFor time.Duration

	mu          sync.Mutex
	base        *aws.Config // with the process's own credentials; nil: to be loaded
	http        *http.Client
	credentials map[string]aws.CredentialsProvider // by account
	places      map[placeKey]*place
}

type placeKey struct{ account, region string }

// place is one region of one account: its clients, and what was learnt there that does not change.
type place struct {
	account Account
	region  string

	mu       sync.Mutex
	clients  *clients          // nil: to be made
	zones    map[string]string // zone ID by zone name; the names differ between accounts
	subnets  map[string]subnet
	hosts    map[string]host        // EC2 instance by ARN of the container instance
	defs     map[string]*definition // by ARN: a revision never changes
	parts    map[string][]string    // by kind: clusters or namespaces, as last listed
	tasks    map[string]map[string]bool
	domains  map[string]domain // Cloud Map namespace by name
	revised  map[string]revision
	balanced balanced
}

var _ poll.Lister = (*Lister)(nil)

// New returns a lister that has made no request yet. An error names every mistake in cfg.
func New(cfg Config) (*Lister, error) {
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("configure the AWS provider: %w", err)
	}
	if len(cfg.Accounts) == 0 {
		cfg.Accounts = []Account{{}}
	}
	cfg.AddressType = cmp.Or(cfg.AddressType, PrivateV4)
	l := &Lister{cfg: cfg, targetsFor: targetsFor, credentials: map[string]aws.CredentialsProvider{}, places: map[placeKey]*place{}}
	for _, a := range cfg.Accounts {
		for _, r := range cfg.Regions {
			l.places[placeKey{a.id(), r}] = &place{account: a, region: r, subnets: map[string]subnet{}, hosts: map[string]host{},
				defs: map[string]*definition{}, parts: map[string][]string{}, tasks: map[string]map[string]bool{},
				domains: map[string]domain{}, revised: map[string]revision{},
				balanced: balanced{turn: make(chan struct{}, 1), asked: map[string]bool{}}}
		}
	}
	return l, nil
}

// Scopes returns a scope for each account, region and kind; ECS has one for each cluster, Cloud Map for each namespace. Where
// these cannot be listed the last known ones stay. Where they were never listed there is one scope without a part, whose
// List says why.
func (l *Lister) Scopes(ctx context.Context) ([]poll.Scope, error) {
	var scopes []poll.Scope
	for _, a := range l.cfg.Accounts {
		for _, r := range l.cfg.Regions {
			for _, kind := range l.cfg.Kinds {
				parts, err := l.parts(ctx, l.places[placeKey{a.id(), r}], kind)
				if err != nil {
					return nil, err
				}
				for _, part := range parts {
					scopes = append(scopes, poll.Scope{Provider: "aws", Account: a.id(), Region: r, Kind: kind, Part: part})
				}
			}
		}
	}
	return scopes, nil
}

// parts returns the parts of a kind in a place. An error is the context's.
func (l *Lister) parts(ctx context.Context, p *place, kind string) ([]string, error) {
	var list func(context.Context, *visit) ([]string, error)
	switch {
	case kind == KindECS && len(l.cfg.Clusters) == 0:
		list = listClusters
	case kind == KindCloudMap && len(l.cfg.Namespaces) == 0:
		list = listDomains
	case kind == KindECS:
		return l.cfg.Clusters, nil
	case kind == KindCloudMap:
		return l.cfg.Namespaces, nil
	default:
		return []string{""}, nil
	}
	var parts []string
	v, err := l.visit(ctx, p, nil)
	if err == nil {
		parts, err = list(ctx, v)
		l.leave(v, err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	known, listed := p.parts[kind]
	switch {
	case ctx.Err() != nil:
		return nil, fmt.Errorf("list what there is to list of %s in %s: %w", kind, p.region, ctx.Err())
	case err == nil:
		slices.Sort(parts)
		p.parts[kind] = slices.Compact(parts)
		return p.parts[kind], nil
	case listed:
		return known, nil
	}
	return []string{""}, nil
}

// Close ends the connections that are open and not in use. The lister can be used on.
func (l *Lister) Close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.http != nil {
		l.http.CloseIdleConnections()
	}
}

// List lists one scope.
func (l *Lister) List(ctx context.Context, scope poll.Scope, budget poll.Budget) (poll.Listing, error) {
	p := l.places[placeKey{scope.Account, scope.Region}]
	if p == nil || scope.Provider != "aws" {
		return poll.Listing{}, fmt.Errorf("list %v: it is not configured", scope)
	}
	v, err := l.visit(ctx, p, budget)
	if err == nil {
		err = v.list(ctx, scope)
		l.leave(v, err)
	}
	if err != nil {
		return poll.Listing{}, fmt.Errorf("list %s of %v in %s: %w", strings.TrimRight(scope.Kind+" "+scope.Part, " "), p.account, p.region, err)
	}
	return v.Listing(v.Calls, func(f found) poll.Record { return f.Record }), nil
}

// visit is one look at a place.
type visit struct {
	*clients
	spend
	cfg   *Config
	place *place
	fresh time.Duration // how old an answer of the load balancers may be

	poll.Gathering[found]
}

// found is a workload with what load balancers may know it by.
type found struct {
	poll.Record
	poll.AddressSet
	instance string // EC2 instance on which it has its ports; empty: it has an address of its own
}

// visit returns a visit of a place, with clients that have usable credentials as far as is known.
func (l *Lister) visit(ctx context.Context, p *place, budget poll.Budget) (*visit, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.clients == nil {
		if l.base == nil {
			cfg, err := l.load(ctx)
			if err != nil {
				return nil, err
			}
			l.base = &cfg
		}
		cfg := l.base.Copy()
		cfg.Region = p.region
		if p.account.RoleARN != "" {
			if l.credentials[p.account.id()] == nil {
				l.credentials[p.account.id()] = assume(cfg, p.account)
			}
			cfg.Credentials = l.credentials[p.account.id()]
		}
		p.clients = newClients(cfg)
	}
	return &visit{clients: p.clients, spend: spend{Budget: budget}, cfg: &l.cfg, place: p, fresh: l.targetsFor}, nil
}

// leave drops clients whose credentials turned out to be of no use, so that the next visit gets new ones.
func (l *Lister) leave(v *visit, err error) {
	if !errors.Is(err, poll.ErrCredentials) {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	account := v.place.account.id()
	if l.credentials[account] == v.credentials {
		delete(l.credentials, account)
	}
	l.base = nil // a role is assumed with the process's own credentials: they may be what has ended
	for key, p := range l.places {
		p.mu.Lock()
		if key.account == account && p.clients != nil && p.clients.credentials == v.credentials {
			p.clients = nil
		}
		p.mu.Unlock()
	}
}

func (v *visit) list(ctx context.Context, scope poll.Scope) error {
	var err error
	switch scope.Kind {
	case KindEC2:
		err = v.listEC2(ctx)
	case KindECS:
		err = v.eachPart(ctx, scope.Part, listClusters, v.listECS)
	case KindCloudMap:
		err = v.eachPart(ctx, scope.Part, listDomains, v.listCloudMap)
	default:
		err = fmt.Errorf("kind %q is unknown", scope.Kind)
	}
	if err != nil {
		return err
	}
	if scope.Kind != KindCloudMap && !v.cfg.NoTargetHealth && len(v.Found) > 0 {
		return v.mergeTargets(ctx)
	}
	return nil
}

// eachPart lists one part, or all when none is named.
func (v *visit) eachPart(ctx context.Context, part string, parts func(context.Context, *visit) ([]string, error),
	list func(context.Context, string) error) error {
	all := []string{part}
	if part == "" {
		var err error
		if all, err = parts(ctx, v); err != nil {
			return err
		}
	}
	for _, p := range all {
		if err := list(ctx, p); err != nil {
			return err
		}
	}
	return nil
}

// add keeps a workload that was asked for.
func (v *visit) add(f found) error {
	if !poll.HasTags(f.Labels, v.cfg.Tags) {
		return nil
	}
	return v.Add(f.ID, f)
}

// arn returns an ARN in the region's partition.
func (v *visit) arn(service, account, resource string) string {
	return arn.ARN{Partition: partition(v.place.region), Service: service, Region: v.place.region, AccountID: account,
		Resource: resource}.String()
}

func partition(region string) string {
	switch {
	case strings.HasPrefix(region, "cn-"):
		return "aws-cn"
	case strings.HasPrefix(region, "us-gov-"):
		return "aws-us-gov"
	}
	return "aws"
}

// keep bounds a cache that is filled for ever: beyond maxCached it starts anew.
func keep[K comparable, V any](cache map[K]V, k K, v V) {
	if len(cache) >= maxCached {
		clear(cache)
	}
	cache[k] = v
}
