package registry

import (
	"cmp"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// state is the merged state. One goroutine writes it.
type state struct {
	services map[federation.ServiceName]*service
	drained  map[key]bool
	version  uint64 // of the newest check target
	zone     string // of the gateway; empty: not known

	// The work of one turn.
	touched map[*service]bool               // to be looked at by rebuild
	moved   []*entry                        // what is said of them, or what is declared for them, has changed
	watch   map[key]federation.CheckTarget  // to be given to the checker
	flipped map[federation.ServiceName]bool // lanes that changed
	news    []*federation.Diagnostic        // to be logged
}

// service is one service: declared, or with instances, or both.
type service struct {
	name     federation.ServiceName
	declared *federation.Service // nil: only sources speak of it
	entries  map[federation.InstanceID]*entry
	sorted   []*entry // those in the catalog, by ID
	waiting  []*entry // those that are not, because the service is full or a turn has just added them
	full     bool     // some wait because the service is full
	mixed    bool     // the instances disagree about the protocol
	stale    bool     // local is not what it would be if built now
	local    *federation.LocalService
}

// entry is one instance with the word of every source that reports it.
type entry struct {
	key
	claims   []claim             // by source name; the first is believed
	inst     federation.Instance // as in the catalog: without health and checks
	checks   []federation.CheckSpec
	version  uint64 // of the check target
	checked  federation.Health
	finding  string // why checked is not passing
	conflict bool   // a later claim says something else
	touched  bool   // is in state.moved
	drained  bool

	health federation.Health
	reason string
	since  time.Time
	slot   int // in the service's lane, or -1
}

// claim is what one source says of an instance.
type claim struct {
	source *source
	item   *item
}

func newState() state {
	return state{services: map[federation.ServiceName]*service{}, drained: map[key]bool{}, touched: map[*service]bool{},
		watch: map[key]federation.CheckTarget{}, flipped: map[federation.ServiceName]bool{}}
}

// turn merges all that has come in since the last turn, and publishes what changed.
func (r *Registry) turn() {
	r.in.mu.Lock()
	services, reports, drains, removed, zone := r.in.services, r.in.reports, r.in.drains, r.in.removed, r.in.zone
	r.in.services, r.in.reports, r.in.drains, r.in.removed, r.in.zone = nil, nil, nil, nil, nil
	r.in.mu.Unlock()
	sources := append(r.sourceList(), r.resources)
	now := r.cfg.Now()

	r.mu.Lock()
	for _, s := range removed {
		for k := range s.close() {
			r.claim(k, s, nil, now)
		}
	}
	if services != nil {
		r.declare(services)
	}
	if zone != nil && *zone != r.state.zone {
		r.state.move(*zone)
	}
	for _, s := range sources {
		for k, it := range s.takePending() {
			r.claim(k, s, it, now)
		}
	}
	r.review(now)
	for k, on := range drains {
		r.drain(k, on, now)
	}
	for _, h := range reports {
		r.applyReport(h, now)
	}
	grown := r.rebuild()
	watch, flipped, news := r.state.watch, r.state.flipped, r.state.news
	r.state.watch, r.state.flipped, r.state.news = map[key]federation.CheckTarget{}, map[federation.ServiceName]bool{}, nil
	r.mu.Unlock()

	r.announce(grown, flipped)
	if r.cfg.Checker != nil {
		for _, t := range watch {
			r.cfg.Checker.Watch(t)
		}
	}
	for i, d := range news {
		if i == maxProblems {
			r.cfg.Log.Warn("more of the same", "count", len(news)-i)
			break
		}
		r.cfg.Log.Warn(d.What, "code", string(d.Code), "reason", d.Why, "fix", d.Fix)
	}
}

// announce signals what turn has published.
func (r *Registry) announce(grown bool, flipped map[federation.ServiceName]bool) {
	if grown {
		poke(r.changed)
	}
	if len(flipped) == 0 {
		return
	}
	r.in.mu.Lock()
	if r.in.dirty == nil {
		r.in.dirty = map[federation.ServiceName]struct{}{}
	}
	for name := range flipped {
		r.in.dirty[name] = struct{}{}
	}
	r.in.mu.Unlock()
	poke(r.healthChanged)
}

// service returns the service called name, which it makes when there is none.
func (st *state) service(name federation.ServiceName) *service {
	svc := st.services[name]
	if svc == nil {
		svc = &service{name: name, entries: map[federation.InstanceID]*entry{}, stale: true}
		st.services[name] = svc
	}
	return svc
}

// declare replaces the declared services.
func (r *Registry) declare(services map[federation.ServiceName]federation.Service) {
	for name, svc := range r.state.services {
		if _, ok := services[name]; !ok && svc.declared != nil {
			svc.declared = nil
			r.redeclared(svc)
		}
	}
	for name, declared := range services {
		svc := r.state.service(name)
		if svc.declared != nil && svc.declared.Protocol == declared.Protocol && federation.SameChecks(svc.declared.Checks, declared.Checks) {
			continue
		}
		svc.declared = &declared
		r.redeclared(svc)
	}
}

// redeclared follows a change of svc's declaration.
func (r *Registry) redeclared(svc *service) {
	protocol, mixed := svc.protocol()
	svc.mixed = svc.mixed && mixed
	if svc.local == nil || svc.local.Protocol != protocol {
		svc.stale = true
	}
	r.state.touched[svc] = true
	for _, e := range svc.entries {
		r.state.touch(e)
	}
}

// claim replaces what source s says of the instance k; nil: nothing any more.
func (r *Registry) claim(k key, s *source, it *item, now time.Time) {
	svc := r.state.services[k.service]
	if it == nil && (svc == nil || svc.entries[k.id] == nil) {
		return // came and went between two turns
	}
	if svc == nil {
		svc = r.state.service(k.service)
	}
	e := svc.entries[k.id]
	if e == nil {
		e = &entry{key: k, slot: -1, drained: r.state.drained[k], checked: federation.HealthPassing, since: now}
		svc.entries[k.id] = e
		svc.waiting = append(svc.waiting, e)
	}
	r.state.touched[svc] = true
	at, found := slices.BinarySearchFunc(e.claims, s, func(c claim, s *source) int { return cmp.Compare(c.source.name, s.name) })
	switch {
	case found && it != nil:
		e.claims[at] = claim{s, it}
	case found:
		e.claims = slices.Delete(e.claims, at, at+1)
	case it != nil:
		e.claims = slices.Insert(e.claims, at, claim{s, it})
	}
	r.state.touch(e)
}

// move takes note of the gateway's zone, which may be that of any instance.
func (st *state) move(zone string) {
	st.zone = zone
	for _, svc := range st.services {
		for _, e := range svc.entries {
			st.touched[svc] = true
			st.touch(e)
		}
	}
}

// touch puts e down for review.
func (st *state) touch(e *entry) {
	if !e.touched {
		e.touched = true
		st.moved = append(st.moved, e)
	}
}

// review looks at every entry that was touched, once all that came in is known: what changes twice in a turn, such as an
// instance that goes from one source to another, has not changed in between.
func (r *Registry) review(now time.Time) {
	for _, e := range r.state.moved {
		e.touched = false
		svc := r.state.services[e.service]
		if len(e.claims) > 0 {
			r.refresh(svc, e, now)
			continue
		}
		delete(svc.entries, e.id)
		svc.stale = svc.stale || e.slot >= 0
		if len(e.checks) > 0 {
			r.state.watch[e.key] = federation.CheckTarget{Service: e.service, Instance: e.id}
		}
	}
	r.state.moved = nil
}

// refresh derives from e's claims and svc's declaration all that the catalog and the checker are to know of e.
func (r *Registry) refresh(svc *service, e *entry, now time.Time) {
	best := &e.claims[0].item.inst
	r.compareClaims(e)
	visible := *best
	visible.Health, visible.Checks = federation.HealthUnknown, nil
	if _, distant := e.claims[0].source.impl.(Distant); !distant && visible.Locality == (federation.Locality{Region: r.cfg.Region}) {
		visible.Locality.Zone = r.state.zone
	}
	moved := visible.Address != e.inst.Address
	if !sameInstance(&visible, &e.inst) {
		e.inst = visible
		svc.stale = svc.stale || e.slot >= 0
	}
	checks := best.Checks
	if len(checks) == 0 && svc.declared != nil {
		checks = svc.declared.Checks
	}
	if r.cfg.Checker == nil {
		checks = nil
	}
	if !federation.SameChecks(checks, e.checks) || moved && len(checks) > 0 {
		switch {
		case len(checks) == 0:
			e.checked, e.finding = federation.HealthPassing, ""
		case moved || len(e.checks) == 0:
			e.checked, e.finding = federation.HealthUnknown, "its checks have not answered yet"
		} // else the former checks count until the new ones have answered
		r.state.version++
		e.checks, e.version = checks, r.state.version
		r.state.watch[e.key] = federation.CheckTarget{Service: e.service, Instance: e.id, Version: e.version, Address: best.Address,
			Checks: checks}
	}
	r.sum(svc, e, now)
}

// compareClaims notes whether the sources of e contradict each other.
func (r *Registry) compareClaims(e *entry) {
	conflict := false
	for _, c := range e.claims[1:] {
		conflict = conflict || !sameButHealth(&c.item.inst, &e.claims[0].item.inst)
	}
	if conflict && !e.conflict {
		r.state.news = append(r.state.news, conflictError(e))
	}
	e.conflict = conflict
}

// drain sets or takes away the mark of an operator.
func (r *Registry) drain(k key, on bool, now time.Time) {
	if on {
		r.state.drained[k] = true
	} else {
		delete(r.state.drained, k)
	}
	if svc := r.state.services[k.service]; svc != nil && svc.entries[k.id] != nil {
		e := svc.entries[k.id]
		e.drained = on
		r.sum(svc, e, now)
	}
}

// applyReport takes what the checks of an instance add up to. A report on a former address or set of checks is dropped.
func (r *Registry) applyReport(h federation.HealthReport, now time.Time) {
	svc := r.state.services[h.Service]
	if svc == nil {
		return
	}
	e := svc.entries[h.Instance]
	if e == nil || e.version != h.Version || len(e.checks) == 0 {
		return
	}
	if h.Health == federation.HealthUnknown && e.checked != federation.HealthUnknown {
		return // a check was added; the former ones count until it has answered
	}
	e.checked, e.finding = h.Health, h.Reason
	r.sum(svc, e, now)
}

// sum derives the health of e, and stores it into the lane unless a new one is about to be built.
func (r *Registry) sum(svc *service, e *entry, now time.Time) {
	said := e.claims[0].item.inst.Health
	source := string(e.claims[0].source.name)
	health, reason := federation.HealthPassing, ""
	switch {
	case e.drained:
		health, reason = federation.HealthDraining, "drained by an operator"
	case said == federation.HealthDraining:
		health, reason = said, "source "+source+" reports it as draining"
	case e.checked == federation.HealthFailing:
		health, reason = e.checked, e.finding
	case said == federation.HealthFailing:
		health, reason = said, "source "+source+" reports it as failing"
	case e.checked == federation.HealthUnknown:
		health, reason = e.checked, e.finding
	}
	before := e.health
	if health != before {
		e.health, e.since = health, now
	}
	e.reason = reason
	if e.slot < 0 || (health == federation.HealthPassing) == (before == federation.HealthPassing) {
		return
	}
	r.state.flipped[e.service] = true
	if !svc.stale {
		svc.local.Lane.Store(e.slot, e.slotHealth())
	}
}

// slotHealth is what the lane says of e: one of one may be given traffic, or none of one.
func (e *entry) slotHealth() federation.SlotHealth {
	h := federation.SlotHealth{Total: 1}
	if e.health == federation.HealthPassing {
		h.Healthy = 1
	}
	return h
}

// rebuild builds anew the services that the turn has made stale, and the catalog if there is one. It reports whether there is.
func (r *Registry) rebuild() bool {
	changed := map[federation.ServiceName]*federation.LocalService{}
	for svc := range r.state.touched {
		if svc.declared == nil && len(svc.entries) == 0 {
			delete(r.state.services, svc.name)
			if svc.local != nil {
				changed[svc.name] = nil
			}
			continue
		}
		r.admit(svc)
		if svc.stale {
			r.build(svc)
			changed[svc.name] = svc.local
		}
	}
	clear(r.state.touched)
	if len(changed) == 0 {
		return false
	}
	r.catalog.Store(r.catalog.Load().With(changed))
	return true
}

// admit takes the instances that left out of svc.sorted and lets in those that wait, as far as there is room. Who is in stays
// in: a service at its limit must not change members with every instance that comes.
func (r *Registry) admit(svc *service) {
	gone := func(e *entry) bool { return svc.entries[e.id] != e }
	if svc.stale {
		svc.sorted = slices.DeleteFunc(svc.sorted, gone)
	}
	if len(svc.waiting) == 0 {
		return
	}
	svc.waiting = slices.DeleteFunc(svc.waiting, gone)
	slices.SortFunc(svc.waiting, func(a, b *entry) int { return cmp.Compare(a.id, b.id) })
	room := max(0, min(r.cfg.MaxPerService-len(svc.sorted), len(svc.waiting)))
	if room > 0 {
		svc.sorted = mergeSorted(svc.sorted, svc.waiting[:room])
		svc.waiting = slices.Clone(svc.waiting[room:])
		svc.stale = true
	}
	full := len(svc.waiting) > 0
	if full && !svc.full {
		r.state.news = append(r.state.news, fullError(svc, r.cfg.MaxPerService))
	}
	svc.full = full
}

// mergeSorted merges two slices that are sorted by ID.
func mergeSorted(a, b []*entry) []*entry {
	out := make([]*entry, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		if a[0].id < b[0].id {
			out, a = append(out, a[0]), a[1:]
		} else {
			out, b = append(out, b[0]), b[1:]
		}
	}
	return append(append(out, a...), b...)
}

// build makes the service's part of the catalog.
func (r *Registry) build(svc *service) {
	instances := make([]federation.Instance, len(svc.sorted))
	slots := make([]federation.SlotHealth, len(svc.sorted))
	for i, e := range svc.sorted {
		e.slot = i
		instances[i], slots[i] = e.inst, e.slotHealth()
	}
	protocol, mixed := svc.protocol()
	if mixed && !svc.mixed {
		r.state.news = append(r.state.news, protocolError(svc))
	}
	svc.mixed, svc.stale = mixed, false
	svc.local = &federation.LocalService{Name: svc.name, Protocol: protocol, Instances: instances, Lane: federation.NewHealthLane(slots)}
}

// protocol is the declared protocol, or the one that all instances that name one agree about, or tcp.
func (svc *service) protocol() (_ federation.Protocol, mixed bool) {
	if svc.declared != nil && svc.declared.Protocol != "" {
		return svc.declared.Protocol, false
	}
	var agreed federation.Protocol
	for _, e := range svc.sorted {
		switch p := e.inst.Protocol; {
		case p == "" || p == agreed:
		case agreed == "":
			agreed = p
		default:
			return federation.ProtocolTCP, true
		}
	}
	return cmp.Or(agreed, federation.ProtocolTCP), false
}

// awaitsChecks reports whether an instance has checks of which none has answered.
func (st *state) awaitsChecks() bool {
	for _, svc := range st.services {
		for _, e := range svc.sorted {
			if e.checked == federation.HealthUnknown {
				return true
			}
		}
	}
	return false
}
