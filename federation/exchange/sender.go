package exchange

import (
	"encoding/binary"
	"slices"
	"strconv"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tradewind-mesh/tradewind/federation"
)

// sender is the session's half that serves our rows to the peer. It is a place in the export's list, not a queue: what it
// will send next depends on what is newest when there is room for it.
type sender struct {
	sub      uint64
	phase    phase
	step     step
	at       uint64     // everything up to here has been sent
	next     *exportRow // the first row after at
	base     uint64     // reconcile: where the list of digests was begun
	begun    bool       // something was said in this subscription
	wants    []*exportRow
	wantsEnd bool
	frames   uint64 // membership and bulk frames of sub
	acked    uint64
	applied  Cursor
	part     []byte // a long row on its way, and how much of it has gone
	partAt   int
	partSeq  uint64
	handles  map[uint32]*exportRow
	pending  *syncRequest // came before we knew what to show
}

// step is what a reconciliation or a snapshot sends next.
type step uint8

const (
	stepBegin   step = iota
	stepDigests      // one for each row
	stepWants        // rows the peer asked for
	stepRows         // rows that changed since base
	stepBarrier
	stepDone // waiting for the barrier to be acknowledged
)

// onSync starts to serve the peer from its cursor.
func (m *Machine) onSync(b []byte) {
	q, err := decodeSync(b)
	if err != nil {
		m.malformed(err)
		return
	}
	s := &m.sess.send
	switch {
	case q.sub <= s.sub:
		m.malformed(errRange)
		return
	case !m.sess.syncs.take(m.now, 1):
		m.fail(CodeLimit, "asks for the catalog too often")
		return
	case m.sess.mute:
		return
	case !m.ready: // to say "nothing" now would be a lie; it is answered when we know
		s.pending = &q
		return
	}
	m.serve(q)
}

// serve begins a subscription.
func (m *Machine) serve(q syncRequest) {
	s := &m.sess.send
	*s = sender{sub: q.sub, phase: phaseReconcile, applied: q.cursor, handles: s.handles}
	l := &m.log
	switch mine := q.cursor.Epoch == l.epoch && q.cursor.Seq <= l.seq; {
	case q.mode == modeSnapshot:
		s.phase, s.at = phaseSnapshot, 0
	case q.mode == modeReconcile:
	case mine && q.cursor.Seq >= l.floor && (q.cursor.Seq < l.seq || q.cursor.Digest == l.digest):
		s.phase, s.at = phaseDelta, q.cursor.Seq
	case q.cursor.Digest == l.digest && q.cursor.Epoch.Counter != 0:
		s.step = stepBarrier
		m.sendWindowed(LaneBulk, begin{sub: s.sub, mode: modeAdopt}.frame())
	}
	s.next = l.after(s.at)
	for r := l.first; r != nil; r = r.next {
		if !r.gone() {
			r.all, r.dirty = true, nil
			m.out.enqueue(r)
		}
	}
	m.served++
}

// sendWindowed sends a frame that the peer has to acknowledge.
func (m *Machine) sendWindowed(lane Lane, f []byte) {
	s := &m.sess.send
	if s.frames == s.acked {
		m.acked = m.now // nothing was owed until now
	}
	s.frames++
	m.send(lane, f)
}

// pump sends what there is to send and the peer has room for.
func (m *Machine) pump() {
	for m.sess != nil && m.sess.send.sub != 0 && !m.sess.mute {
		s := &m.sess.send
		if s.frames-s.acked >= uint64(m.sess.window) {
			return
		}
		more := false
		if s.phase == phaseDelta {
			more = m.pumpDelta()
		} else {
			more = m.pumpBulk()
		}
		if !more {
			return
		}
	}
}

// pumpDelta sends one Delta. It reports whether there may be another.
func (m *Machine) pumpDelta() bool {
	s, l := &m.sess.send, &m.log
	if s.at < l.floor { // possible only for a peer that has not acknowledged anything for a day
		m.fail(CodeStalled, "tombstones the peer has not seen had to be dropped")
		return false
	}
	if s.part == nil && s.next == nil && s.begun {
		return false
	}
	s.begun = true
	from := s.at
	rows, p := m.gather(protowire.Number(4))
	if p == nil && s.next == nil {
		s.at = l.seq // tombstones at the end of the list may have been dropped
	}
	b := appendUint(appendUint(appendUint(nil, 1, s.sub), 2, from), 3, s.at)
	b = append(b, rows...)
	if p != nil {
		b = p.append(b, 5)
	}
	if s.at == l.seq && s.part == nil {
		b = appendFixed(appendDigest(b, 6, l.digest), 7, uint64(m.now.UnixNano()))
	}
	m.sendWindowed(LaneMembership, frame(kindDelta, b))
	return true
}

// gather encodes the rows from next on that fit one frame, as fields number n, or a piece of one that is too long.
func (m *Machine) gather(n protowire.Number) ([]byte, *part) {
	s := &m.sess.send
	if s.part != nil {
		return nil, m.piece()
	}
	var b []byte
	for count := 0; s.next != nil && count < maxRowsPerFrame; count++ {
		r := s.next
		row := m.encodeRow(r)
		if len(b)+len(row)+8 > fullFrame {
			if count == 0 {
				m.cut(row, r)
				s.next = r.next
				return nil, m.piece()
			}
			break
		}
		m.sent(r)
		b = appendBytes(b, n, row)
		s.at, s.next = r.seq, r.next
	}
	return b, nil
}

// cut begins to send row in pieces. What is said of r's health while they are on their way has to be said again.
func (m *Machine) cut(row []byte, r *exportRow) {
	s := &m.sess.send
	s.part, s.partAt, s.partSeq = slices.Clone(row), 0, r.seq
	r.all, r.dirty = true, nil
	m.out.enqueue(r)
}

// piece is the next part of the row that is being sent in pieces. With the last one, the row has been sent.
func (m *Machine) piece() *part {
	s := &m.sess.send
	n := min(len(s.part)-s.partAt, fullFrame)
	p := &part{total: uint64(len(s.part)), offset: uint64(s.partAt), data: s.part[s.partAt : s.partAt+n], present: true}
	if s.partAt += n; s.partAt == len(s.part) {
		s.at = max(s.at, s.partSeq)
		s.part = nil
		m.stats.rowsSent++
	}
	return p
}

// encodeRow returns r's row, with its health as it is shown, in a buffer that the next call reuses.
func (m *Machine) encodeRow(r *exportRow) []byte {
	b := appendUint(appendString(m.rowBuf[:0], 1, r.wire), 2, r.seq)
	if r.gone() {
		b = appendBool(b, 4, true)
	} else {
		m.out.hv++
		b = appendBytes(b, 3, m.log.bodyOf(r))
		b = appendUint(b, 5, m.out.hv)
		m.packBuf = r.packHealth(m.packBuf[:0])
		b = appendBytes(b, 6, m.packBuf)
	}
	m.rowBuf = b
	return b
}

// sent notes that r has gone out with all that is known of its health.
func (m *Machine) sent(r *exportRow) {
	r.all, r.dirty = false, nil
	m.stats.rowsSent++
}

// pumpBulk sends the next frame of a reconciliation or a snapshot. It reports whether there may be another.
func (m *Machine) pumpBulk() bool {
	s, l := &m.sess.send, &m.log
	switch s.step {
	case stepBegin:
		how := modeReconcile
		s.step = stepDigests
		if s.phase == phaseSnapshot {
			how, s.step = modeSnapshot, stepRows
		}
		s.base = l.seq
		m.sendWindowed(LaneBulk, begin{sub: s.sub, mode: how}.frame())
	case stepDigests:
		m.pumpDigests()
	case stepWants:
		return m.pumpWants()
	case stepRows:
		if s.next == nil && s.part == nil {
			s.step = stepBarrier
			return true
		}
		m.sendRows(m.gather(2))
	case stepBarrier:
		s.step, s.at, s.next = stepDone, l.seq, nil
		m.sendWindowed(LaneBulk, barrier{sub: s.sub, count: uint64(l.live), cursor: l.cursor(), time: m.now.UnixNano()}.frame())
	case stepDone:
		return false
	}
	return true
}

func (m *Machine) sendRows(rows []byte, p *part) {
	b := append(appendUint(nil, 1, m.sess.send.sub), rows...)
	if p != nil {
		b = p.append(b, 3)
	}
	m.sendWindowed(LaneBulk, frame(kindRows, b))
}

// pumpDigests lists rows. One that changes meanwhile moves behind base, and is sent whole later.
func (m *Machine) pumpDigests() {
	s, l := &m.sess.send, &m.log
	var entries []byte
	for ; s.next != nil && s.next.seq <= s.base && len(entries) < digestsPerFrame*digestEntry; s.next = s.next.next {
		if r := s.next; !r.gone() {
			entries = binary.BigEndian.AppendUint64(entries, l.hasher.key(r.wire))
			entries = binary.BigEndian.AppendUint64(entries, r.hash.Hi)
		}
	}
	last := s.next == nil || s.next.seq > s.base
	if last {
		s.step, s.at = stepWants, s.base
	}
	m.sendWindowed(LaneBulk, listing{sub: s.sub, entries: entries, last: last}.frame(kindDigests))
}

// onWant takes the keys of rows that the peer lacks.
func (m *Machine) onWant(b []byte) {
	w, err := decodeListing(b, 8)
	if err != nil {
		m.malformed(err)
		return
	}
	s := &m.sess.send
	switch {
	case w.sub < s.sub:
		return
	case w.sub > s.sub || s.phase != phaseReconcile || s.wantsEnd || s.step != stepDigests && s.step != stepWants:
		m.malformed(errKind)
		return
	case !m.sess.names.take(m.now, len(w.entries)/8/16): // as cheap as a sixteenth of a name
		m.fail(CodeLimit, "asks for too many rows")
		return
	}
	if len(w.entries) > 0 {
		byKey := m.log.byKey()
		for e := w.entries; len(e) > 0; e = e[8:] {
			if r := byKey[binary.BigEndian.Uint64(e)]; r != nil && r.wanted != m.wantMark() {
				r.wanted = m.wantMark()
				s.wants = append(s.wants, r)
			}
		}
	}
	s.wantsEnd = w.last
}

// wantMark is unique to a subscription over all sessions, so that a row is wanted once in each.
func (m *Machine) wantMark() uint64 { return m.served }

// pumpWants sends rows that were asked for, then those that changed since the digests were listed.
func (m *Machine) pumpWants() bool {
	s, l := &m.sess.send, &m.log
	var b []byte
	for count := 0; s.part == nil && len(s.wants) > 0 && count < maxRowsPerFrame; count++ {
		r := s.wants[0]
		if r.gone() || r.seq > s.base {
			s.wants = s.wants[1:]
			continue
		}
		row := m.encodeRow(r)
		if len(b)+len(row)+8 > fullFrame {
			if len(b) == 0 {
				m.cut(row, r)
				s.wants = s.wants[1:]
			}
			break
		}
		m.sent(r)
		b = appendBytes(b, 2, row)
		s.wants = s.wants[1:]
	}
	switch {
	case len(b) > 0:
		m.sendRows(b, nil)
	case s.part != nil:
		m.sendRows(nil, m.piece())
	case s.wantsEnd && len(s.wants) == 0:
		s.step, s.next = stepRows, l.after(s.base)
	default:
		return false // the peer has yet to say what it lacks
	}
	return true
}

// byKey maps the keys of listings to live rows.
func (l *exportLog) byKey() map[uint64]*exportRow {
	keys := make(map[uint64]*exportRow, l.live)
	for r := l.first; r != nil; r = r.next {
		if !r.gone() {
			keys[l.hasher.key(r.wire)] = r
		}
	}
	return keys
}

// onApplied takes the peer's acknowledgement.
func (m *Machine) onApplied(b []byte) {
	a, err := decodeApplied(b)
	if err != nil {
		m.malformed(err)
		return
	}
	s := &m.sess.send
	switch {
	case a.sub < s.sub || m.sess.mute:
		return
	case a.sub > s.sub || a.frames > s.frames || a.frames < s.acked:
		m.malformed(errRange)
		return
	}
	if a.frames > s.acked || a.cursor != s.applied {
		m.acked = m.now
	}
	s.acked, s.applied = a.frames, a.cursor
	if s.step == stepDone && s.phase != phaseDelta && s.acked == s.frames {
		s.phase, s.begun = phaseDelta, true
		s.next = m.log.after(s.at)
	}
}

// onHealthWant marks services whose health the peer has lost track of.
func (m *Machine) onHealthWant(b []byte) {
	packed, err := decodeBytes(b, MaxControlFrame)
	if err != nil {
		m.malformed(err)
		return
	}
	for n := 0; len(packed) > 0; n++ {
		v, size := protowire.ConsumeVarint(packed)
		if size < 0 || n == maxHealthWants {
			m.malformed(errCount)
			return
		}
		packed = packed[size:]
		if r := m.sess.send.handles[uint32(v)]; r != nil && !r.gone() {
			r.all, r.dirty = true, nil
			m.out.enqueue(r)
		}
	}
}

// onNack notes which of our rows the peer keeps out.
func (m *Machine) onNack(b []byte) {
	err := decodePairs(b, maxNacks, func(service []byte, n uint64) error {
		name, err := federation.ParseServiceName(string(service))
		if err != nil || n < 4000 || n > 4999 {
			return errRange
		}
		if r := m.log.rows[name]; r != nil && !r.gone() && r.wire == string(service) {
			code, reason := federation.Code("TW-"+strconv.FormatUint(n, 10)), "refused by the peer"
			if help, ok := federation.Help(code); ok {
				reason = help.Title
			}
			m.refused[r.wire] = RowTrouble{Service: r.wire, Code: code, Reason: reason, Since: m.now}
		}
		return nil
	})
	if err != nil {
		m.malformed(err)
	}
}
