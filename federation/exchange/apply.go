package exchange

import (
	"github.com/tradewind-mesh/tradewind/federation"
)

// prepared is a row of the peer, judged but not applied.
type prepared struct {
	wire   string
	seq    uint64
	gone   bool
	hash   Digest
	same   bool // the peer's word on this row is what it was
	fault  *fault
	parsed parsed // with a lane that holds the health that came with the row
	hv     uint64
	health []byte // when same: aliases the frame
}

// prepare judges a row. An error means that the frame is malformed; a bad row of a good frame is a prepared row with a fault.
func (m *Machine) prepare(raw rawRow) (*prepared, error) {
	p := &prepared{seq: raw.seq, gone: raw.gone, hv: raw.hv}
	r := m.imp.rows[string(raw.service)]
	if r != nil {
		p.wire = r.wire
	} else {
		p.wire = string(raw.service)
	}
	if p.gone {
		return p, nil
	}
	p.hash = m.hasher.row(m.cfg.Peer, p.wire, raw.body)
	if r != nil && r.hash == p.hash {
		p.same, p.fault, p.health = true, r.fault, raw.health
		if r.fault == nil {
			return p, eachHealth(raw.health, len(r.refs), func(int, uint32, uint32) {})
		}
		return p, nil
	}
	name, err := federation.ParseServiceName(p.wire)
	if err != nil || name.String() != p.wire {
		p.fault = faultName
		return p, nil
	}
	if p.parsed, p.fault = m.reader.read(name, raw.body); p.fault != nil {
		return p, nil
	}
	health := make([]federation.SlotHealth, len(p.parsed.refs))
	for _, ref := range p.parsed.refs {
		health[ref.idx].Generation = ref.gen
	}
	err = eachHealth(raw.health, len(health), func(i int, healthy, total uint32) { health[i].Healthy, health[i].Total = healthy, total })
	p.parsed.svc.Lane = federation.NewHealthLane(health)
	return p, err
}

// commit applies a row that was prepared. It returns false when the peer has more rows than we can even remember as bad.
func (m *Machine) commit(p *prepared) bool {
	r := m.imp.rows[p.wire]
	if p.gone {
		if r != nil {
			m.drop(r)
		} else {
			m.unghost(p.wire)
		}
		m.rowsMoved = true
		return true
	}
	if p.fault == nil && !p.same && !m.imp.fits(r, p.parsed, m.lim) {
		p.fault = faultTotalQuota
	}
	if r == nil {
		if p.fault != nil && len(m.imp.rows)-m.imp.good >= m.lim.Quarantined {
			return false
		}
		r = m.imp.insert(p.wire)
	}
	m.imp.say(r, p.seq, p.hash)
	m.stats.rows++
	m.rowsMoved = true
	switch {
	case p.same:
		if r.fault == nil {
			m.sameHealth(r, p)
		}
	case p.fault != nil:
		m.quarantine(r, p.fault)
	default:
		m.replace(r, p)
	}
	if _, was := m.imp.gone[p.wire]; was {
		m.changed[p.wire] = struct{}{}
	}
	return true
}

// replace makes p the service of r. Health that the peer told us of later than it wrote the row stays.
func (m *Machine) replace(r *importRow, p *prepared) {
	old, oldRefs := r.svc, r.refs
	svc := p.parsed.svc
	r.fault = nil
	if old != nil && r.hv > p.hv {
		for _, ref := range p.parsed.refs {
			if i := find(oldRefs, place{ref.num, ref.gen}); i >= 0 && old.Slots[i].Key == svc.Slots[ref.idx].Key {
				svc.Lane.Store(int(ref.idx), m.trueHealth(r, i))
			}
		}
	}
	m.imp.assign(r, p.parsed)
	r.truth = nil
	m.unghost(r.wire)
	m.caughtUp(r, p.hv)
	if _, withdrawn := m.imp.gone[r.wire]; withdrawn {
		m.show(r, nil) // the brake must not bring back what was withdrawn, now that it is exported anew
	}
	if r.shown == nil {
		delete(m.brake.held, r)
		m.show(r, svc)
		return
	}
	before, _ := r.shown.Lane.Sum()
	after, _ := svc.Lane.Sum()
	if after < before && !m.lose(r, uint64(before-after), uint64(before)) {
		return // shown stays what it was
	}
	delete(m.brake.held, r)
	if old != nil && r.shown == old && sameSlots(oldRefs, old, p.parsed.refs, svc) {
		// Whoever still holds the service as it was goes on to see its health.
		for i := range svc.Lane.Len() {
			old.Lane.Store(i, svc.Lane.Load(i))
		}
		m.brake.healthy += uint64(after) - uint64(before) // show counts the lane that has just been written
		svc.Lane = old.Lane
	}
	if after > before {
		m.brake.gain(m.now, r, uint64(after-before))
	}
	m.show(r, svc)
}

// sameSlots reports whether two versions of a service have the same tenants in the same slots.
func sameSlots(a []slotRef, as *federation.ImportedService, b []slotRef, bs *federation.ImportedService) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] || as.Slots[a[i].idx].Key != bs.Slots[b[i].idx].Key {
			return false
		}
	}
	return true
}

// sameHealth takes the health that came with a row whose content is known.
func (m *Machine) sameHealth(r *importRow, p *prepared) {
	if p.hv <= r.hv || p.health == nil {
		return
	}
	gens := make([]uint16, len(r.refs))
	for _, ref := range r.refs {
		gens[ref.idx] = ref.gen
	}
	_ = eachHealth(p.health, len(gens), func(i int, healthy, total uint32) { // checked by prepare
		m.setHealth(r, i, federation.SlotHealth{Generation: gens[i], Healthy: healthy, Total: total})
	})
	m.caughtUp(r, p.hv)
}

// quarantine keeps a bad row out. What was good before stays, and the peer is told.
func (m *Machine) quarantine(r *importRow, f *fault) {
	r.fault, r.since = f, m.now
	m.nacks = append(m.nacks, r)
}

// drop removes a row that the peer says is gone. It is never braked: a tombstone is meant.
func (m *Machine) drop(r *importRow) {
	delete(m.brake.held, r)
	m.imp.remove(r)
	m.show(r, nil)
	m.unghost(r.wire)
	m.urgentPublish = true
}

// sweep removes a row that a verified barrier did not list.
func (m *Machine) sweep(r *importRow) {
	m.imp.remove(r)
	if r.shown == nil {
		return
	}
	healthy, _ := r.shown.Lane.Sum()
	if !m.lose(r, uint64(healthy), uint64(healthy)) {
		m.ghosts[r.wire] = r
		return
	}
	delete(m.brake.held, r)
	m.show(r, nil)
}

// unghost stops showing a row that was removed and held by the brake.
func (m *Machine) unghost(wire string) {
	if g := m.ghosts[wire]; g != nil {
		delete(m.ghosts, wire)
		delete(m.brake.held, g)
		m.show(g, nil)
		m.urgentPublish = true
	}
}

// show makes svc what r contributes to the import; nil is nothing.
func (m *Machine) show(r *importRow, svc *federation.ImportedService) {
	if r.shown != nil {
		healthy, _ := r.shown.Lane.Sum()
		m.brake.healthy -= uint64(healthy)
	}
	if svc != nil {
		healthy, _ := svc.Lane.Sum()
		m.brake.healthy += uint64(healthy)
	}
	r.shown = svc
	m.changed[r.wire] = struct{}{}
}

// trueHealth is what the peer says of slot i of r.svc, whatever is shown.
func (m *Machine) trueHealth(r *importRow, i int) federation.SlotHealth {
	if r.truth != nil {
		return r.truth[i]
	}
	return r.svc.Lane.Load(i)
}

// setHealth takes the peer's word on slot i of r.svc.
func (m *Machine) setHealth(r *importRow, i int, h federation.SlotHealth) {
	if r.shown != r.svc { // held: the lane is not looked at by anybody
		r.svc.Lane.Store(i, h)
		return
	}
	was := r.svc.Lane.Load(i)
	if h == was && r.truth == nil {
		return
	}
	if h.Healthy < was.Healthy {
		shown, _ := r.shown.Lane.Sum()
		if !m.lose(r, uint64(was.Healthy-h.Healthy), uint64(shown)) {
			m.keepTruth(r)
			r.truth[i] = h
			return
		}
	}
	if r.truth != nil {
		r.truth[i] = h
	}
	if h != was && r.svc.Lane.Store(i, h) {
		m.healthMoved = true
		m.brake.healthy += uint64(h.Healthy) - uint64(was.Healthy)
		if h.Healthy > was.Healthy {
			m.brake.gain(m.now, r, uint64(h.Healthy-was.Healthy))
		}
	}
	m.recovered(r)
}

// keepTruth splits what is true of r from what is shown.
func (m *Machine) keepTruth(r *importRow) {
	if r.truth != nil {
		return
	}
	r.truth = make([]federation.SlotHealth, r.svc.Lane.Len())
	for i := range r.truth {
		r.truth[i] = r.svc.Lane.Load(i)
	}
}

// recovered ends the hold of r once nothing is held back any more.
func (m *Machine) recovered(r *importRow) {
	if r.truth == nil {
		return
	}
	for i := range r.truth {
		if r.truth[i].Healthy < r.svc.Lane.Load(i).Healthy {
			return
		}
	}
	m.release(r)
}
