package policy

import (
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// AllPeers in an export's list stands for every peer, now and later.
const AllPeers = "*"

// maxZone bounds the zone in a slot's key: region (63) + "/" + zone (63) stays below the 128 octets of a key.
const maxZone = 63

// Exported reports whether one of exports shows service to peer, and returns it.
func Exported(exports []federation.Export, service federation.ServiceName, peer federation.Region) (federation.Export, bool) {
	for _, e := range exports {
		if e.Service == service && shows(e, peer) {
			return e, true
		}
	}
	return federation.Export{}, false
}

// ExportView returns what peer may see of the region here: the services of local that exports name for it, in order. A
// service without instances is shown as one, so that the peer can tell "none left" from "no longer shown". For many peers
// at once, Exports is faster.
func ExportView(
	here federation.Region, local *federation.Catalog, exports []federation.Export, peer federation.Region,
) federation.ExportView {
	return NewExports(here, exports).On(local, nil).View(peer)
}

// ExportSlots returns what svc looks like to a peer at this moment, sorted by key: for a summary one slot for each zone, for
// endpoints one for each instance. The region of each slot is here, whatever a source called it: a region speaks for itself
// only. Generations are left at zero, they belong to the exchange.
func ExportSlots(here federation.Region, svc *federation.LocalService, detail federation.Detail) []federation.ExportedSlot {
	if svc == nil || len(svc.Instances) == 0 {
		return nil
	}
	slots := make([]federation.ExportedSlot, 0, slotHint(svc, detail))
	for i := range svc.Instances {
		instance := &svc.Instances[i]
		locality := federation.Locality{Region: here, Zone: cut(instance.Locality.Zone, maxZone)}
		at := len(slots)
		if detail != federation.DetailEndpoints {
			// A service spans a handful of zones: a scan beats a map.
			at = slices.IndexFunc(slots, func(s federation.ExportedSlot) bool { return s.Locality == locality })
		}
		if at < 0 || at == len(slots) {
			at = len(slots)
			slots = append(slots, federation.ExportedSlot{Key: string(instance.ID), Locality: locality})
			if detail != federation.DetailEndpoints {
				slots[at].Key = locality.String()
			}
		}
		slots[at].Weight += weightOf(instance)
		slots[at].Health.Total++
		if serving(svc.Lane, i) {
			slots[at].Health.Healthy++
		}
	}
	slices.SortFunc(slots, func(a, b federation.ExportedSlot) int { return strings.Compare(a.Key, b.Key) })
	return slots
}

// Exports is a list of exports, ready to be asked about many services and peers. It is immutable; nil exports nothing.
type Exports struct {
	here      federation.Region
	byService map[federation.ServiceName]federation.Export
	order     []federation.ServiceName
	named     map[federation.Region]bool // peers that some export names; all others see the same view
}

// NewExports prepares exports of the region here. Of two exports of one service only the first counts.
func NewExports(here federation.Region, exports []federation.Export) *Exports {
	e := &Exports{here: here, byService: make(map[federation.ServiceName]federation.Export, len(exports)), named: map[federation.Region]bool{}}
	for _, export := range exports {
		if _, found := e.byService[export.Service]; found {
			continue
		}
		e.byService[export.Service] = export
		e.order = append(e.order, export.Service)
		for _, to := range export.To {
			if to != AllPeers {
				e.named[federation.Region(to)] = true
			}
		}
	}
	slices.SortFunc(e.order, federation.ServiceName.Compare)
	return e
}

// Lookup returns the export that shows service to peer, if there is one.
func (e *Exports) Lookup(service federation.ServiceName, peer federation.Region) (federation.Export, bool) {
	if e == nil {
		return federation.Export{}, false
	}
	export, found := e.byService[service]
	if !found || peer == e.here || !shows(export, peer) {
		return federation.Export{}, false
	}
	return export, true
}

// Memory is which exported services the catalog has had, and what each spoke when it was last there.
type Memory map[federation.ServiceName]federation.Protocol

// Remember brings m up to date with local. What e does not export any more is forgotten.
func (e *Exports) Remember(m Memory, local *federation.Catalog) {
	for name := range m {
		if _, exported := e.byService[name]; !exported {
			delete(m, name)
		}
	}
	for name := range e.byService {
		if service := local.Service(name); service != nil {
			m[name] = service.Protocol
		}
	}
}

// On binds e to one catalog. The result is for one goroutine and one moment: it computes each service once, however many
// peers see it, so the views it returns share their slots. A service that only m knows is shown without slots: a service that
// is exported and for the moment has no instance is not one that was withdrawn.
func (e *Exports) On(local *federation.Catalog, m Memory) *Showing {
	return &Showing{exports: e, local: local, memory: m, services: map[federation.ServiceName]federation.ExportedService{}}
}

// Showing builds the views of many peers on one catalog.
type Showing struct {
	exports  *Exports
	local    *federation.Catalog
	memory   Memory
	services map[federation.ServiceName]federation.ExportedService
	common   []federation.ExportedService // what a peer sees that no export names
	hasIt    bool
}

// View returns what peer may see. Nobody may change it: peers share it.
func (s *Showing) View(peer federation.Region) federation.ExportView {
	if s.exports == nil || peer == s.exports.here {
		return federation.ExportView{}
	}
	view := federation.ExportView{Origin: s.exports.here}
	if s.exports.named[peer] {
		view.Services = s.build(peer)
		return view
	}
	if !s.hasIt {
		s.common, s.hasIt = s.build(peer), true
	}
	view.Services = s.common
	return view
}

func (s *Showing) build(peer federation.Region) []federation.ExportedService {
	var services []federation.ExportedService
	for _, name := range s.exports.order {
		if shows(s.exports.byService[name], peer) {
			if service, found := s.Service(name); found {
				services = append(services, service)
			}
		}
	}
	return services
}

// Service returns the service called name as its export shows it, if it is exported to anyone and the catalog has or had it.
func (s *Showing) Service(name federation.ServiceName) (federation.ExportedService, bool) {
	if known, found := s.services[name]; found {
		return known, true
	}
	if s.exports == nil {
		return federation.ExportedService{}, false
	}
	export, found := s.exports.byService[name]
	local := s.local.Service(name)
	protocol, known := s.memory[name]
	if local != nil {
		protocol, known = local.Protocol, true
	}
	if !found || !known {
		return federation.ExportedService{}, false
	}
	service := federation.ExportedService{Name: name, Protocol: protocol, Detail: DetailOf(export)}
	service.Slots = ExportSlots(s.exports.here, local, service.Detail)
	s.services[name] = service
	return service, true
}

// DetailOf returns how much export shows; a summary when it does not say.
func DetailOf(export federation.Export) federation.Detail {
	if export.Detail == federation.DetailEndpoints {
		return federation.DetailEndpoints
	}
	return federation.DetailSummary // what is not understood shows less, not more
}

func shows(e federation.Export, peer federation.Region) bool {
	return slices.Contains(e.To, AllPeers) || slices.Contains(e.To, string(peer))
}

func slotHint(svc *federation.LocalService, detail federation.Detail) int {
	if detail == federation.DetailEndpoints {
		return len(svc.Instances)
	}
	return min(len(svc.Instances), 3) // cloud regions have three zones
}

func weightOf(i *federation.Instance) uint32 {
	if i.Weight == 0 {
		return federation.DefaultWeight
	}
	return uint32(i.Weight)
}

// serving reports whether slot i may be given traffic; without a lane nobody has said so.
func serving(lane *federation.HealthLane, i int) bool {
	return lane != nil && lane.Load(i).Healthy > 0
}

// cut returns the first n octets of s, without what is no UTF-8: a peer would refuse the whole row for it.
func cut(s string, n int) string {
	return strings.ToValidUTF8(s[:min(n, len(s))], "")
}
