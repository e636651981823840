// Package balance chooses among the instances of a service, and remembers how each of them has fared.
//
// A Balancer holds what changes with every connection: latency, open connections, failures, ejections. It outlives the
// snapshots of the routing table; a Pool binds one snapshot's view of a service to that memory. Choosing takes no lock and
// allocates nothing: two instances are drawn at random by weight, and the one with the lower cost (latency times load, unless
// the service's resolver wants it otherwise) gets the connection or request. What has a key goes to the same instance each time,
// whatever gateway asks (Maglev hashing: Eisenbud et al., NSDI 2016). An instance that keeps failing is left out for a while, but
// suspicion never empties a service.
//
// A peer's region is remembered apart from instances (see Region): the gateway that serves a region reports how its own
// instances fared, so one bad instance over there never counts against the whole region.
//
// The package never dials, reads a socket or starts a goroutine.
package balance

import (
	"maps"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Endpoint is what a connection can be sent to in this region. It is comparable and names the memory of the Balancer: an
// instance that comes back at another address starts anew.
type Endpoint struct {
	Instance federation.InstanceID
	Address  netip.AddrPort
}

// Member is one endpoint of a service with its relative share of the load; 0 means federation.DefaultWeight.
type Member struct {
	Endpoint Endpoint
	Weight   uint16
	Name     string // how it is called in logs; the Balancer does nothing with it
}

// Target is a service as one snapshot shows it. Slot i of Lane is the health of Members[i]; without a lane nobody
// has said that any is healthy.
type Target struct {
	Snapshot uint64 // number of the snapshot; membership of an older one never replaces that of a newer one
	Service  federation.ServiceName
	Members  []Member
	Lane     *federation.HealthLane
	Outlier  federation.Outlier // as federation.Resolver.Defaulted fills it
	Balance  federation.Balance // empty: latency
	Subsets  map[string][]int   // indexes into Members, by the subset's name
}

// Config is what a Balancer needs; the zero value is usable.
type Config struct {
	Now  func() time.Time // nil: time.Now
	Rand func() uint64    // uniform; safe for concurrent use; nil: math/rand/v2
}

// Balancer holds the mutable state of all services of a region. It is safe for concurrent use.
type Balancer struct {
	clock clock
	rand  func() uint64

	mu     sync.Mutex // never taken while choosing: only by Bind, Region, Keep and an ejection
	groups map[federation.ServiceName]*group
}

// group is what is remembered of one service.
type group struct {
	snapshot uint64
	states   map[Endpoint]*state
	bound    bool // there was a pool before: what is new now has come up just now
	regions  map[federation.Region]*Region
	ejecting sync.Mutex       // makes "count the ejected, then eject" one step
	warm     atomic.Int64     // until when some member warms up, by clock.ns
	judgment atomic.Int64     // when success rates are compared next, by clock.ns; 0: not yet known
	keying   sync.Mutex       // held for moments; while choosing only the first time that a pool is asked for a key
	keys     map[string]*keys // of the newest pools that were asked for keys, by subset
}

// New returns an empty Balancer.
func New(cfg Config) *Balancer {
	b := &Balancer{clock: newClock(cfg.Now), rand: cfg.Rand, groups: map[federation.ServiceName]*group{}}
	if b.rand == nil {
		b.rand = globalRand
	}
	return b
}

// Bind returns the pool that chooses among t's members. What is already known of an endpoint is kept; what is known of
// endpoints that a newer snapshot no longer has is forgotten.
func (b *Balancer) Bind(t Target) *Pool {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.group(t.Service)
	p := newPool(b, g, t)
	fresh := make(map[Endpoint]*state, len(t.Members))
	for i := range p.members {
		m := &p.members[i]
		if m.state = g.states[m.Endpoint]; m.state == nil {
			m.state = fresh[m.Endpoint] // the same endpoint twice in one set shares its memory
		}
		if m.state == nil {
			m.state = &state{}
			if g.bound {
				g.wake(m.state, b.clock.ns())
			}
		}
		fresh[m.Endpoint] = m.state
	}
	g.bound = true
	p.bindSubsets()
	if t.Snapshot < g.snapshot { // a connection that still holds an old snapshot: add, never take away
		for e, s := range fresh {
			g.states[e] = s
		}
		return p
	}
	g.snapshot, g.states = t.Snapshot, fresh
	g.forgetSubsets(p.subsets)
	return p
}

// forgetSubsets drops the keys of subsets that the service no longer has.
func (g *group) forgetSubsets(now map[string]*Pool) {
	g.keying.Lock()
	defer g.keying.Unlock()
	maps.DeleteFunc(g.keys, func(name string, _ *keys) bool { return name != "" && now[name] == nil })
}

// Region returns the memory of how peer has served service. The handle stays valid for good; keep it with the snapshot.
func (b *Balancer) Region(service federation.ServiceName, peer federation.Region) *Region {
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.group(service)
	r := g.regions[peer]
	if r == nil {
		r = &Region{clock: b.clock}
		g.regions[peer] = r
	}
	return r
}

// Services returns the services of which anything is remembered, in order.
func (b *Balancer) Services() []federation.ServiceName {
	b.mu.Lock()
	defer b.mu.Unlock()
	names := make([]federation.ServiceName, 0, len(b.groups))
	for name := range b.groups {
		names = append(names, name)
	}
	slices.SortFunc(names, federation.ServiceName.Compare)
	return names
}

// Keep forgets every service for which service returns false, and every region for which region does. Pools and handles
// already given out go on working on memory of their own.
func (b *Balancer) Keep(service func(federation.ServiceName) bool, region func(federation.Region) bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for name, g := range b.groups {
		if !service(name) {
			delete(b.groups, name)
			continue
		}
		for peer := range g.regions {
			if !region(peer) {
				delete(g.regions, peer)
			}
		}
	}
}

// group returns the group of service, made if need be. b.mu is held.
func (b *Balancer) group(service federation.ServiceName) *group {
	g := b.groups[service]
	if g == nil {
		g = &group{states: map[Endpoint]*state{}, regions: map[federation.Region]*Region{}, keys: map[string]*keys{}}
		b.groups[service] = g
	}
	return g
}
