package route

import (
	"maps"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
)

// Snapshot is all that the data path knows at one moment. It is immutable but for the health lanes it points to, and safe
// for any number of goroutines. The zero value denies everything.
type Snapshot struct {
	number      uint64
	region      federation.Region
	trustDomain spiffeid.TrustDomain
	local       *federation.Catalog
	peers       map[federation.Region]federation.Peer
	regions     []federation.Region // of the peers, in order
	imports     map[federation.Region]*federation.Import
	intentions  *policy.Intentions
	exports     *policy.Exports
	resolvers   map[federation.ServiceName]federation.Resolver // defaults filled in
	fallback    federation.Resolver                            // of a service that has none
	routes      map[federation.ServiceName]*routes
	upstreams   map[federation.ServiceName]*Upstream
	listeners   []federation.Upstream
	drains      map[federation.Region]*federation.Drain
}

// Number is the number of the view that s was compiled from; 0 when it was compiled from none.
func (s *Snapshot) Number() uint64 { return s.number }

// Region is the region that s belongs to.
func (s *Snapshot) Region() federation.Region { return s.region }

// TrustDomain is the region's trust domain.
func (s *Snapshot) TrustDomain() spiffeid.TrustDomain { return s.trustDomain }

// Authorize decides by this region's intentions whether src may call dst in dstRegion; federation.Local is this region. Ask
// for each region that a call could go to. The allow path allocates nothing.
func (s *Snapshot) Authorize(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName,
) policy.Decision {
	return s.intentions.Decide(src, assurance, s.real(dstRegion), dst)
}

// ExplainAuthorize is Authorize with every intention that was considered.
func (s *Snapshot) ExplainAuthorize(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName,
) policy.Decision {
	return s.intentions.Explain(src, assurance, s.real(dstRegion), dst)
}

// real replaces the word "local" by the region's name.
func (s *Snapshot) real(region federation.Region) federation.Region {
	if region == federation.Local {
		return s.region
	}
	return region
}

// Identity is the identity of service in this region. It is the zero ID when service is not a valid name.
func (s *Snapshot) Identity(service federation.ServiceName) spiffeid.ID {
	id, err := federation.WorkloadID(s.trustDomain, service)
	if err != nil {
		return spiffeid.ID{}
	}
	return id
}

// Peer returns the peer called region.
func (s *Snapshot) Peer(region federation.Region) (federation.Peer, bool) {
	p, found := s.peers[region]
	return p, found
}

// Peers returns the names of all peers in order. The caller must not change the slice.
func (s *Snapshot) Peers() []federation.Region { return s.regions }

// Listeners returns the upstreams that local callers use, sorted by name. The caller must not change the slice.
func (s *Snapshot) Listeners() []federation.Upstream { return s.listeners }

// Drains returns the drains of this region by the region that is drained. The caller must not change the map.
func (s *Snapshot) Drains() map[federation.Region]*federation.Drain { return s.drains }

// Services returns the names of all services that local callers can ask for, in order.
func (s *Snapshot) Services() []federation.ServiceName {
	return slices.SortedFunc(maps.Keys(s.upstreams), federation.ServiceName.Compare)
}

// ExportedTo reports whether this region shows dst to peer. It says nothing about whether dst exists.
func (s *Snapshot) ExportedTo(dst federation.ServiceName, peer federation.Region) bool {
	_, found := s.exports.Lookup(dst, peer)
	return found
}

// NamesInstances reports whether this region shows the instances of dst to peer, and not only how many there are.
func (s *Snapshot) NamesInstances(dst federation.ServiceName, peer federation.Region) bool {
	export, found := s.exports.Lookup(dst, peer)
	return found && policy.DetailOf(export) == federation.DetailEndpoints
}

// Local returns the service dst of this region, if a source has seen it; it may have no healthy instance.
func (s *Snapshot) Local(dst federation.ServiceName) (LocalTarget, bool) {
	service := s.local.Service(dst)
	if service == nil {
		return LocalTarget{}, false
	}
	return LocalTarget{service: service}, true
}

// Inbound returns the service that peer may reach here under the name dst: one of this region, exported to that peer. What
// other peers have shown is never reachable this way, so a gateway carries no transit. Authorize still has to decide.
func (s *Snapshot) Inbound(dst federation.ServiceName, peer federation.Region) (LocalTarget, bool) {
	if _, known := s.peers[peer]; !known || !s.ExportedTo(dst, peer) {
		return LocalTarget{}, false
	}
	return s.Local(dst)
}

// LocalTarget is a service of this region with the instances that serve it. It is a small value over the catalog and lives
// as long as the snapshot.
type LocalTarget struct {
	service *federation.LocalService
}

// Name is the service's name.
func (t LocalTarget) Name() federation.ServiceName { return t.service.Name }

// Protocol is how the service speaks.
func (t LocalTarget) Protocol() federation.Protocol { return t.service.Protocol }

// Len is the number of instances, healthy or not.
func (t LocalTarget) Len() int { return len(t.service.Instances) }

// Instance returns instance i, 0 <= i < Len. The caller must not change what it points to.
func (t LocalTarget) Instance(i int) *federation.Instance { return &t.service.Instances[i] }

// Weight is the relative share of load that instance i should get, 1-65535.
func (t LocalTarget) Weight(i int) uint32 {
	if w := t.service.Instances[i].Weight; w != 0 {
		return uint32(w)
	}
	return federation.DefaultWeight
}

// Healthy reports whether instance i may be given traffic at this moment.
func (t LocalTarget) Healthy(i int) bool {
	return t.service.Lane != nil && t.service.Lane.Load(i).Healthy > 0
}

// Lane is the health of the instances: slot i speaks of instance i. It is nil when nobody has reported any.
func (t LocalTarget) Lane() *federation.HealthLane { return t.service.Lane }
