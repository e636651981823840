package federation

import (
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Freshness says how far an import can be trusted to be what the peer would say now.
type Freshness uint8

// The states of an import, from good to gone. The limits are the exchange's.
const (
	FreshnessLive    Freshness = iota // applied all the peer has, and heard so within 5 s
	FreshnessStale                    // not heard for 5 s to 5 min: used, but a live region is preferred
	FreshnessOld                      // not heard for 5 min up to the peering's max_stale: last resort
	FreshnessExpired                  // older, or the peer is no longer trusted: withdrawn
)

func (f Freshness) String() string {
	return [...]string{"LIVE", "STALE", "OLD", "EXPIRED"}[min(f, FreshnessExpired)]
}

// MarshalText writes the form of String.
func (f Freshness) MarshalText() ([]byte, error) { return []byte(f.String()), nil }

// UnmarshalText reads the form of String.
func (f *Freshness) UnmarshalText(b []byte) error {
	for v := FreshnessLive; v <= FreshnessExpired; v++ {
		if v.String() == string(b) {
			*f = v
			return nil
		}
	}
	return fmt.Errorf("freshness %q is unknown", b)
}

// Epoch orders the lives of a region's publisher. Counter grows with every start; Incarnation tells two lives apart that
// claim the same counter (a cloned disk, a restored backup).
type Epoch struct {
	Counter     uint64 `json:"counter"`
	Incarnation uint64 `json:"incarnation"`
}

func (e Epoch) String() string { return fmt.Sprintf("%d.%08x", e.Counter, uint32(e.Incarnation)) }

// ImportedSlot is one line of an imported service. Slot i of the service's lane holds its health. It is kept small: a gateway
// may hold a million.
type ImportedSlot struct {
	Key    string
	Weight uint32
	Zone   uint16 // 0: none, otherwise ImportedService.Zones[Zone-1]
}

// ImportedService is a service as a peer shows it. All but the lane is immutable. It holds no address on purpose: only the
// peer's gateways are ever dialled.
type ImportedService struct {
	Name     ServiceName
	Protocol Protocol
	Detail   Detail
	Identity spiffeid.ID // always in the peer's trust domain
	Zones    []string    // of Slots
	Slots    []ImportedSlot
	Lane     *HealthLane
}

// ZoneOf is the zone of slot i in the peer's region, or "".
func (s *ImportedService) ZoneOf(i int) string {
	if z := s.Slots[i].Zone; z > 0 {
		return s.Zones[z-1]
	}
	return ""
}

// Import is what one peer has shown us: whole and verified, or the last one that was. It is immutable but for the lanes.
type Import struct {
	Peer      Region
	Epoch     Epoch
	Seq       uint64
	Freshness Freshness
	AsOf      time.Time // when the peer last confirmed that this is all it has
	Services  map[ServiceName]*ImportedService
}

// Service returns the service called name, or nil; a nil import has none.
func (i *Import) Service(name ServiceName) *ImportedService {
	if i == nil {
		return nil
	}
	return i.Services[name]
}

// PeeringState is where a peering stands.
type PeeringState uint8

// The states of a peering.
const (
	PeeringPending      PeeringState = iota // a token was made, nobody has come
	PeeringEstablishing                     // trust is exchanged, no catalog has been applied yet
	PeeringActive                           // progress is being applied
	PeeringFailing                          // it was active and is not now; imports age
	PeeringPaused                           // held by an operator: no session, imports age
	PeeringTerminated                       // removed here or there; imports are gone
)

var peeringStateNames = [...]string{"Pending", "Establishing", "Active", "Failing", "Paused", "Terminated"}

func (s PeeringState) String() string {
	return peeringStateNames[min(int(s), len(peeringStateNames)-1)]
}

// MarshalText writes the form of String.
func (s PeeringState) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads the form of String.
func (s *PeeringState) UnmarshalText(b []byte) error {
	for i, name := range peeringStateNames {
		if name == string(b) {
			*s = PeeringState(i)
			return nil
		}
	}
	return fmt.Errorf("peering state %q is unknown", b)
}

// Peer is another region that we federate with.
type Peer struct {
	Region      Region
	TrustDomain spiffeid.TrustDomain
	Gateways    []string // "host:port" of its gateways' mesh listeners, in the order it gave them
	State       PeeringState
}

// View is all that the data path may know at one moment. It is immutable but for the lanes, and replaced whole.
type View struct {
	Number      uint64 // grows with every publication
	Region      Region
	TrustDomain spiffeid.TrustDomain
	Local       *Catalog
	Peers       map[Region]Peer
	Imports     map[Region]*Import // expired ones are absent
	Exports     []Export
	Intentions  []Intention
	Resolvers   map[ServiceName]Resolver
	Routes      map[ServiceName]Route
	Upstreams   []Upstream
	Ingresses   []Ingress
	JWT         []JWT
	Drains      map[Region]Drain
}
