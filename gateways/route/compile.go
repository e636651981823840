package route

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
)

// anyRegion in a failover order is all other regions.
const anyRegion = "*"

// Compile builds the snapshot of view. It takes over what view points to; nobody may change that afterwards. It fails only
// for a view that no control plane makes, and then the caller keeps the snapshot it has.
func Compile(view *federation.View) (*Snapshot, error) {
	switch {
	case view == nil:
		return nil, errors.New("compile view: there is none")
	case view.Region == "" || view.TrustDomain.IsZero():
		return nil, fmt.Errorf("compile view %d: it lacks the region or its trust domain", view.Number)
	}
	s := &Snapshot{
		number:      view.Number,
		region:      view.Region,
		trustDomain: view.TrustDomain,
		local:       view.Local,
		peers:       make(map[federation.Region]federation.Peer, len(view.Peers)),
		imports:     make(map[federation.Region]*federation.Import, len(view.Imports)),
		exports:     policy.NewExports(view.Region, view.Exports),
		fallback:    federation.Resolver{}.Defaulted(),
		resolvers:   make(map[federation.ServiceName]federation.Resolver, len(view.Resolvers)),
		routes:      make(map[federation.ServiceName]*routes, len(view.Routes)),
		listeners:   slices.Clone(view.Upstreams),
		drains:      make(map[federation.Region]*federation.Drain, len(view.Drains)),
	}
	slices.SortFunc(s.listeners, func(a, b federation.Upstream) int { return strings.Compare(a.Name, b.Name) })
	for region, drain := range view.Drains {
		s.drains[region] = &drain
	}
	domains := map[spiffeid.TrustDomain]federation.Region{view.TrustDomain: view.Region}
	for region, peer := range view.Peers {
		if region == view.Region || peer.State == federation.PeeringTerminated {
			continue
		}
		if owner, taken := domains[peer.TrustDomain]; taken {
			return nil, fmt.Errorf("compile view %d: trust domain %q belongs to both %s and %s", view.Number, peer.TrustDomain, owner, region)
		}
		if !peer.TrustDomain.IsZero() { // a peer that has not come yet has none
			domains[peer.TrustDomain] = region
		}
		s.peers[region] = peer
	}
	s.regions = slices.Sorted(maps.Keys(s.peers))
	for region, imported := range view.Imports {
		if imported != nil && imported.Peer == region && usable(imported.Freshness) && s.hasPeer(region) {
			s.imports[region] = imported
		}
	}
	s.intentions = policy.CompileIntentions(view.Region, domains, view.Intentions)
	for name, resolver := range view.Resolvers {
		s.resolvers[name] = resolver.Defaulted()
	}
	for name, r := range view.Routes {
		c, err := compileRoute(r)
		if err != nil {
			return nil, fmt.Errorf("compile view %d: %w", view.Number, err)
		}
		s.routes[name] = c
	}
	s.compileUpstreams()
	return s, nil
}

func usable(f federation.Freshness) bool { return f < federation.FreshnessExpired }

func (s *Snapshot) hasPeer(region federation.Region) bool {
	_, found := s.peers[region]
	return found
}

// resolver returns how dst's endpoints are chosen, defaults filled in.
func (s *Snapshot) resolver(dst federation.ServiceName) federation.Resolver {
	if r, found := s.resolvers[dst]; found {
		return r
	}
	r := s.fallback // all of them share one failover order: made anew for each service it would cost a third of Compile
	r.Service = dst
	return r
}
