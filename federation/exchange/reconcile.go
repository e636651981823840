package exchange

import (
	"cmp"
	"encoding/binary"
	"maps"
	"slices"
)

// stage is a view of the peer in the making: rows of ours that the peer has listed just as we have them, and rows that came.
// Nothing of it is applied before its barrier has proved it whole.
type stage struct {
	mode   mode
	byKey  map[uint64]*importRow // our rows by the key of a listing
	kept   map[string]*importRow // listed by the peer as we have them
	rows   map[string]*prepared
	gone   map[string]bool // rows of ours that came as a tombstone
	bytes  int
	listed int
	last   bool // the last Digests has come
}

func (m *Machine) onBegin(b []byte) {
	g, err := decodeBegin(b)
	if err != nil {
		m.malformed(err)
		return
	}
	r := &m.sess.recv
	if !m.admitFrame(g.sub) {
		return
	}
	if r.phase != phaseWaiting {
		m.malformed(errKind)
		return
	}
	st := &stage{mode: g.mode, kept: map[string]*importRow{}, rows: map[string]*prepared{}, gone: map[string]bool{}}
	r.stage = st
	switch g.mode {
	case modeAdopt:
		r.phase = phaseReconcile
		maps.Copy(st.kept, m.imp.rows)
	case modeReconcile:
		r.phase = phaseReconcile
		m.stats.resyncs++
		st.byKey = make(map[uint64]*importRow, len(m.imp.rows))
		for wire, row := range m.imp.rows {
			st.byKey[m.hasher.key(wire)] = row
		}
	case modeSnapshot:
		r.phase = phaseSnapshot
		m.stats.resyncs++
	}
	m.acknowledge()
}

// staging returns the stage that a bulk frame of subscription sub belongs to, or nil when the frame is to be left alone.
func (m *Machine) staging(sub uint64) *stage {
	if !m.admitFrame(sub) {
		return nil
	}
	st := m.sess.recv.stage
	if st == nil {
		m.malformed(errKind)
	}
	m.noteMove()
	return st
}

// noteMove keeps the watchdog quiet while a long transfer goes on.
func (m *Machine) noteMove() {
	if m.sess != nil {
		m.sess.recv.moved = m.now
	}
}

func (m *Machine) onDigests(b []byte) {
	l, err := decodeListing(b, digestEntry)
	if err != nil {
		m.malformed(err)
		return
	}
	st := m.staging(l.sub)
	if st == nil {
		return
	}
	st.listed += len(l.entries) / digestEntry
	switch {
	case st.byKey == nil || st.last:
		m.malformed(errKind)
		return
	case st.listed > m.lim.Services+m.lim.Quarantined:
		m.fail(CodeLimit, "more rows listed than a peer may have")
		return
	}
	var want []byte
	for e := l.entries; len(e) > 0; e = e[digestEntry:] {
		row := st.byKey[binary.BigEndian.Uint64(e)]
		if row != nil && row.hash.Hi == binary.BigEndian.Uint64(e[8:]) {
			st.kept[row.wire] = row
			continue
		}
		want = append(want, e[:8]...)
	}
	st.last = l.last
	for len(want) > 0 || l.last {
		n := min(len(want), 8*wantsPerFrame)
		last := l.last && n == len(want)
		m.send(LaneBulk, listing{sub: l.sub, entries: want[:n], last: last}.frame(kindWant))
		if want = want[n:]; last {
			break
		}
	}
	m.sess.rows.owe(m.now, len(l.entries)/digestEntry/16) // looking one up costs a sixteenth of taking it in
	m.acknowledge()
}

func (m *Machine) onRows(b []byte) {
	d, err := decodeRows(b)
	if err != nil {
		m.malformed(err)
		return
	}
	st := m.staging(d.sub)
	if st == nil {
		return
	}
	rows, ok := m.takeRows(&d)
	if !ok {
		return
	}
	for _, p := range rows {
		if old := st.rows[p.wire]; old != nil {
			st.bytes -= old.cost()
		}
		delete(st.rows, p.wire)
		delete(st.kept, p.wire)
		if p.gone {
			if m.imp.rows[p.wire] != nil {
				st.gone[p.wire] = true
			}
			continue
		}
		delete(st.gone, p.wire)
		p.health = nil // aliases the frame
		st.rows[p.wire] = p
		st.bytes += p.cost()
	}
	if len(st.rows)+len(st.kept) > m.lim.Services+m.lim.Quarantined || st.bytes > m.lim.Bytes+rowCost*m.lim.Quarantined {
		m.fail(CodeLimit, "more rows than a peer may have")
		return
	}
	m.acknowledge()
}

func (p *prepared) cost() int { return rowCost + len(p.parsed.body) + slotCost*len(p.parsed.refs) }

// onBarrier applies the stage if it is what the peer has, no more and no less.
func (m *Machine) onBarrier(b []byte) {
	g, err := decodeBarrier(b)
	if err != nil {
		m.malformed(err)
		return
	}
	st := m.staging(g.sub)
	if st == nil {
		return
	}
	if g.cursor.Epoch != m.sess.hello.epoch || m.sess.recv.part != nil || st.mode == modeReconcile && !st.last {
		m.malformed(errRange)
		return
	}
	var digest Digest
	for _, row := range st.kept {
		digest = digest.add(row.hash)
	}
	for _, p := range st.rows {
		digest = digest.add(p.hash)
	}
	back := m.imp.applied.Epoch == g.cursor.Epoch && g.cursor.Seq < m.imp.applied.Seq
	if uint64(len(st.kept)+len(st.rows)) != g.count || digest != g.cursor.Digest || back {
		if st.mode == modeSnapshot {
			m.fail(CodeDigest, "a full snapshot does not match its digest")
			return
		}
		m.resync(modeSnapshot)
		return
	}
	if m.applyStage(st, g.cursor) {
		m.headIs(g.cursor, g.time)
		m.acknowledge()
	}
}

// applyStage makes a proven stage the import. It returns false when it had to end the session.
func (m *Machine) applyStage(st *stage, at Cursor) bool {
	r := &m.sess.recv
	r.stage, r.phase = nil, phaseDelta
	// A withdrawal that ran ahead stays ahead: whether a row is hidden is judged by the epoch and seq of the new view.
	for wire := range m.imp.gone {
		m.changed[wire] = struct{}{}
	}
	for _, row := range sortedRows(m.imp.rows) { // first, so that what goes makes room for what comes
		switch {
		case st.gone[row.wire]:
			m.drop(row)
		case st.kept[row.wire] == nil && st.rows[row.wire] == nil:
			m.sweep(row)
		}
	}
	m.imp.applied.Epoch = at.Epoch
	for _, row := range st.kept {
		row.seq = at.Seq // it was the same all the way up to here
	}
	for _, wire := range slices.Sorted(maps.Keys(st.rows)) {
		if !m.commit(st.rows[wire]) {
			m.fail(CodeLimit, "more rows than a peer may have")
			return false
		}
	}
	m.rowsMoved = true // the cursor has, at least
	m.advanceTo(at.Seq)
	return true
}

func sortedRows(rows map[string]*importRow) []*importRow {
	return slices.SortedFunc(maps.Values(rows), func(a, b *importRow) int { return cmp.Compare(a.wire, b.wire) })
}
