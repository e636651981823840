package controlplane

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
)

// outbox is what Run has handed out, so that it hands out only what is new. Only Run touches it.
type outbox struct {
	number    uint64
	resources *resources // those of the last View, or those that New has handed to the registry
	settled   bool       // peers may be told
	peers     map[federation.Region]*sentExport
	exports   *policy.Exports
	memory    policy.Memory // of what they show
}

// sentExport is what one peer was last told.
type sentExport struct {
	view   federation.ExportView
	health map[federation.ServiceName][]federation.ExportedSlot // told since, by SetHealth
}

// Run publishes the first View and then a new one whenever something has changed, until ctx is cancelled; then it returns
// nil. It starts no goroutine, and may be run once.
func (p *Plane) Run(ctx context.Context) error {
	p.refresh()
	timer := time.NewTimer(p.cfg.Coalesce)
	timer.Stop()
	defer timer.Stop()
	settled := p.cfg.Registry.Settled()
	for waiting := false; ; {
		select {
		case <-settled:
			settled, p.out.settled = nil, true // nil is never ready again
			p.refresh()
		case <-ctx.Done():
			return nil
		case <-p.wake:
			waiting = p.gather(timer, waiting)
		case <-p.cfg.Registry.Changed():
			waiting = p.gather(timer, waiting)
		case <-p.cfg.Registry.HealthChanged():
			p.sendHealth(p.cfg.Registry.TakeHealthChanges())
		case <-timer.C:
			waiting = false
			p.refresh()
		}
	}
}

// gather lets changes gather: the first one starts the timer and those that follow do not move it, so that none waits
// longer than that. What is urgent does not wait at all.
func (p *Plane) gather(timer *time.Timer, waiting bool) bool {
	p.mu.Lock()
	urgent := p.inbox.urgent
	p.mu.Unlock()
	switch {
	case urgent:
		timer.Reset(0)
	case !waiting:
		timer.Reset(p.cfg.Coalesce)
	}
	return true
}

// refresh brings everything that hangs on the inbox and the catalog up to date: the registry's services, the View, the
// export views, in this order. The data path learns of a service before peers may ask for it, and of its removal too.
func (p *Plane) refresh() {
	p.mu.Lock()
	in := p.inbox
	p.inbox.urgent = false
	p.inbox.forget = map[federation.Region]bool{}
	p.mu.Unlock()

	if !in.resources.sameServices(p.out.resources) {
		// The registry answers with a signal if this changes the catalog.
		p.cfg.Registry.SetServices(maps.Clone(in.resources.services))
	}
	view := p.build(in, p.cfg.Registry.Catalog())
	before := p.view.Load()
	if before.Number == 0 || p.out.resources != in.resources || !sameView(before, view) {
		p.out.number++
		view.Number = p.out.number
		p.out.exports = policy.NewExports(p.cfg.Region, view.Exports)
		p.out.exports.Remember(p.out.memory, view.Local)
		p.out.resources = in.resources
		p.view.Store(view)
		if p.cfg.OnView != nil {
			p.cfg.OnView(view)
		}
		defer p.tellWatchers()
	} else {
		view = before
	}
	p.export(view, in.forget)
	p.settle(in.generation, view != before)
}

// build makes the View of in and local, without its number. Policy and routes are those of the resources; a peer counts
// unless it is gone, an import as long as its peer counts and it has not expired.
func (p *Plane) build(in inbox, local *federation.Catalog) *federation.View {
	view := &federation.View{
		Region:      p.cfg.Region,
		TrustDomain: p.cfg.TrustDomain,
		Local:       local,
		Peers:       make(map[federation.Region]federation.Peer, len(in.peers)),
		Imports:     make(map[federation.Region]*federation.Import, len(in.imports)),
		Exports:     in.resources.exports,
		Intentions:  in.resources.intentions,
		Resolvers:   in.resources.resolvers,
		Routes:      in.resources.routes,
		Upstreams:   in.resources.upstreams,
		Ingresses:   in.resources.ingresses,
		JWT:         in.resources.jwt,
		Drains:      in.resources.drains,
	}
	for _, peer := range in.peers {
		view.Peers[peer.Region] = peer
		if imported := in.imports[peer.Region]; imported != nil && imported.Freshness < federation.FreshnessExpired {
			view.Imports[peer.Region] = imported
		}
	}
	return view
}

// sameView reports whether a and b, made of the same resources, would tell the data path the same.
func sameView(a, b *federation.View) bool {
	return a.Local == b.Local && maps.EqualFunc(a.Peers, b.Peers, equalPeers) && maps.Equal(a.Imports, b.Imports)
}

// settle says that everything up to generation is in force.
func (p *Plane) settle(generation uint64, published bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.published = generation
	if published {
		p.at = p.cfg.Now()
	}
	close(p.settled)
	p.settled = make(chan struct{})
}

// export tells each peer what has changed for it. forget lists the peers that know nothing, whatever they were told before.
func (p *Plane) export(view *federation.View, forget map[federation.Region]bool) {
	if p.cfg.Exporter == nil || !p.out.settled {
		return
	}
	maps.DeleteFunc(p.out.peers, func(region federation.Region, _ *sentExport) bool {
		_, still := view.Peers[region]
		return !still || forget[region]
	})
	showing := p.out.exports.On(view.Local, p.out.memory)
	compared := map[[2]*federation.ExportedService]bool{}
	for _, region := range slices.SortedFunc(maps.Keys(view.Peers), compareRegions) {
		now, sent := showing.View(region), p.out.peers[region]
		if sent == nil || !sameShape(sent.view, now, compared) {
			p.out.peers[region] = &sentExport{view: now, health: map[federation.ServiceName][]federation.ExportedSlot{}}
			p.cfg.Exporter.SetExport(region, now)
			continue
		}
		// An instance can be replaced by one that looks the same but is not as healthy, without news of its health.
		for i := range now.Services {
			p.tellHealth(region, sent, i, now.Services[i].Slots)
		}
	}
}

// sendHealth tells the peers how healthy the services called names are now. It works on what they were told to exist; if
// that is about to change, the next View brings the news along.
func (p *Plane) sendHealth(names []federation.ServiceName) {
	if p.cfg.Exporter == nil || len(names) == 0 {
		return
	}
	showing := p.out.exports.On(p.view.Load().Local, p.out.memory)
	regions := slices.SortedFunc(maps.Keys(p.out.peers), compareRegions)
	for _, name := range names {
		service, exported := showing.Service(name)
		if !exported {
			continue
		}
		for _, region := range regions {
			sent := p.out.peers[region]
			i, found := slices.BinarySearchFunc(sent.view.Services, name, func(s federation.ExportedService, n federation.ServiceName) int {
				return s.Name.Compare(n)
			})
			if found {
				p.tellHealth(region, sent, i, service.Slots)
			}
		}
	}
}

// tellHealth sends slots of service number i in what region was sent, unless it was told just that before.
func (p *Plane) tellHealth(region federation.Region, sent *sentExport, i int, slots []federation.ExportedSlot) {
	service := &sent.view.Services[i]
	last, told := sent.health[service.Name]
	if !told {
		last = service.Slots
	}
	if slices.Equal(last, slots) {
		return
	}
	sent.health[service.Name] = slots
	p.cfg.Exporter.SetHealth(region, service.Name, slots)
}

// sameShape reports whether a and b differ in health at most. Peers that no export names share their views; compared
// remembers the pairs that were looked at.
func sameShape(a, b federation.ExportView, compared map[[2]*federation.ExportedService]bool) bool {
	if a.Origin != b.Origin || len(a.Services) != len(b.Services) {
		return false
	}
	if len(a.Services) == 0 {
		return true
	}
	pair := [2]*federation.ExportedService{&a.Services[0], &b.Services[0]}
	same, known := compared[pair]
	if !known {
		same = slices.EqualFunc(a.Services, b.Services, func(s, t federation.ExportedService) bool {
			return s.Name == t.Name && s.Protocol == t.Protocol && s.Detail == t.Detail && slices.EqualFunc(s.Slots, t.Slots, sameSlot)
		})
		compared[pair] = same
	}
	return same
}

func sameSlot(a, b federation.ExportedSlot) bool {
	a.Health, b.Health = federation.SlotHealth{}, federation.SlotHealth{}
	return a == b
}

func compareRegions(a, b federation.Region) int { return cmp.Compare(a, b) }
