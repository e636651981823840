package exchange

import (
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// phase is where a subscription stands.
type phase uint8

const (
	phaseNone      phase = iota // no session, or nothing asked for yet
	phaseWaiting                // asked, no answer yet; as a sender: the barrier is not acknowledged yet
	phaseDelta                  // kept up to date
	phaseReconcile              // digests are being compared
	phaseSnapshot               // all rows are on their way
)

func (p phase) String() string {
	return [...]string{"none", "waiting", "delta", "reconcile", "snapshot"}[p]
}

// receiver is the session's half that takes the peer's rows.
type receiver struct {
	sub      uint64
	phase    phase
	got      uint64 // membership and bulk frames of sub taken
	acked    uint64 // of them acknowledged
	ackAt    time.Time
	part     []byte // pieces of a row that came so far
	partSize uint64
	stage    *stage
	handles  map[uint32]*handle
	early    map[string]early
	moved    time.Time // when a piece of something larger last came
}

// handle is a service as the peer's health lane speaks of it.
type handle struct {
	wire string
	row  *importRow // nil or removed: to be looked up
}

// resync asks the peer to bring us up to date from what we have.
func (m *Machine) resync(how mode) {
	s := m.sess
	if how != modeAuto {
		m.stats.resyncs++
		if !s.resyncs.take(m.now, 1) {
			m.fail(CodeDigest, "catalogs do not come to agree")
			return
		}
	}
	r := &s.recv
	r.sub++
	r.phase, r.got, r.acked, r.ackAt = phaseWaiting, 0, 0, time.Time{}
	r.part, r.partSize, r.stage = nil, 0, nil
	r.moved = m.now
	m.send(LaneControl, syncRequest{sub: r.sub, mode: how, cursor: m.imp.applied}.frame())
}

// admitFrame counts a membership or bulk frame of subscription sub. It returns false when the frame is to be left alone.
func (m *Machine) admitFrame(sub uint64) bool {
	r := &m.sess.recv
	switch {
	case sub > r.sub || sub == 0:
		m.malformed(errRange)
		return false
	case sub < r.sub:
		return false // was on its way when we asked anew
	}
	r.got++
	if r.got-r.acked > uint64(m.lim.Window) {
		m.fail(CodeLimit, "more frames than the window allows")
		return false
	}
	return true
}

// acknowledge tells the peer what is applied, at once or, when it sends too fast, as soon as it has earned it.
func (m *Machine) acknowledge() {
	s := m.sess
	if s == nil {
		return
	}
	if at := s.rows.paidBy(m.now); at.After(m.now) {
		s.recv.ackAt = at
		return
	}
	s.recv.ackAt = time.Time{}
	s.recv.acked = s.recv.got
	m.send(LaneControl, applied{sub: s.recv.sub, frames: s.recv.got, cursor: m.imp.applied}.frame())
}

func (m *Machine) onDelta(b []byte) {
	d, err := decodeDelta(b)
	if err != nil {
		m.malformed(err)
		return
	}
	r := &m.sess.recv
	if !m.admitFrame(d.sub) {
		return
	}
	if r.phase != phaseWaiting && r.phase != phaseDelta {
		m.malformed(errKind)
		return
	}
	if d.from != m.imp.applied.Seq || m.imp.applied.Epoch != m.sess.hello.epoch {
		m.resync(modeReconcile) // something is missing between what we have and what comes
		return
	}
	r.phase = phaseDelta
	rows, ok := m.takeRows(&d)
	if !ok {
		return
	}
	last := d.from
	for _, p := range rows {
		if p.seq <= last || p.seq > d.to {
			m.malformed(errRowOrder)
			return
		}
		last = p.seq
	}
	for _, p := range rows {
		if !m.commit(p) {
			m.fail(CodeLimit, "more rows than a peer may have")
			return
		}
	}
	m.advanceTo(d.to)
	if d.atHead {
		if d.digest != m.imp.applied.Digest {
			m.resync(modeReconcile)
			return
		}
		m.headIs(m.imp.applied, d.time)
	}
	m.acknowledge()
}

// takeRows prepares the rows of a Delta or Rows, or takes a piece of one and returns the row when it is whole.
func (m *Machine) takeRows(d *delta) ([]*prepared, bool) {
	r := &m.sess.recv
	var rows []*prepared
	take := func(raw rawRow) error {
		p, err := m.prepare(raw)
		if err == nil {
			rows = append(rows, p)
		}
		return err
	}
	var err error
	switch {
	case d.part.present:
		if d.part.offset == 0 {
			r.part, r.partSize = nil, d.part.total
		}
		if d.part.offset != uint64(len(r.part)) || d.part.total != r.partSize {
			err = errRange
			break
		}
		r.part = append(r.part, d.part.data...)
		r.moved = m.now
		if uint64(len(r.part)) < r.partSize {
			break
		}
		var raw rawRow
		if raw, err = decodeRow(r.part); err == nil {
			err = take(raw)
		}
		r.part, r.partSize = nil, 0
	case r.part != nil:
		err = errRowOrder // the rest of the row has to come first
	default:
		rows = make([]*prepared, 0, d.count)
		err = d.eachRow(take)
	}
	if err != nil {
		m.malformed(err)
		return nil, false
	}
	m.sess.rows.owe(m.now, len(rows))
	return rows, true
}

// advanceTo notes that everything up to seq has been applied.
func (m *Machine) advanceTo(seq uint64) {
	if seq > m.imp.applied.Seq {
		m.progress = m.now
	}
	m.imp.applied.Seq = seq
	if len(m.imp.gone) > 0 {
		m.imp.settle()
	}
	m.had = true
	m.confirm()
}

// headIs takes the peer's word that it was at c when its clock showed sent.
func (m *Machine) headIs(c Cursor, sent int64) {
	at := m.now.Add(-m.noteClock(sent))
	if m.head.Epoch == c.Epoch && c.Seq < m.head.Seq {
		return // overtaken on its way
	}
	m.head = c
	if at.After(m.headAt) {
		m.headAt = at
	}
	if !m.confirm() && m.behind.IsZero() {
		m.behind = m.now
	}
}

// confirm reports whether what is applied is all that the peer had when it last said so, and notes since when.
func (m *Machine) confirm() bool {
	mine, s := m.imp.applied, m.sess
	if s == nil || s.recv.phase != phaseDelta || m.head.Epoch != mine.Epoch || m.headAt.IsZero() {
		return false
	}
	if mine.Seq < m.head.Seq || mine.Seq == m.head.Seq && mine.Digest != m.head.Digest {
		return false
	}
	if m.headAt.After(m.asOf) {
		m.asOf, m.heard = m.headAt, true
	}
	m.behind = time.Time{}
	return true
}

func (m *Machine) onHead(b []byte) {
	h, err := decodeHead(b)
	if err != nil {
		m.malformed(err)
		return
	}
	s := m.sess
	if h.cursor.Epoch != s.hello.epoch || h.cursor.Seq < s.headSeq {
		m.malformed(errRange)
		return
	}
	s.headSeq, s.heardAt = h.cursor.Seq, m.now
	if s.fenced {
		return
	}
	if s.recv.phase == phaseDelta && m.imp.applied.Epoch == h.cursor.Epoch &&
		m.imp.applied.Seq == h.cursor.Seq && m.imp.applied.Digest != h.cursor.Digest {
		m.resync(modeReconcile)
		return
	}
	m.headIs(h.cursor, h.time)
}

// onWithdraw hides rows at once. Their tombstones come later, on another lane.
func (m *Machine) onWithdraw(b []byte) {
	epoch := m.sess.hello.epoch
	n := 0
	err := decodePairs(b, maxNamesPerFrame, func([]byte, uint64) error { n++; return nil })
	if err != nil {
		m.malformed(err)
		return
	}
	if !m.sess.names.take(m.now, n) {
		m.fail(CodeLimit, "too many withdrawals")
		return
	}
	if m.sess.fenced {
		return
	}
	_ = decodePairs(b, maxNamesPerFrame, func(service []byte, seq uint64) error { // checked above
		m.unghost(string(service)) // a barrier may have been faster, and the brake does not know that it was meant
		if m.imp.applied.Epoch == epoch && m.imp.applied.Seq >= seq {
			return nil // the tombstone, or a later row, was faster
		}
		wire := string(service)
		if g, ok := m.imp.gone[wire]; !ok || g.epoch != epoch || g.seq < seq {
			m.imp.gone[wire] = goneMark{epoch, seq}
		}
		if r := m.imp.rows[wire]; r != nil {
			if _, held := m.brake.held[r]; held {
				m.release(r)
			}
			m.changed[wire] = struct{}{}
			m.urgentPublish = true
		}
		return nil
	})
	if len(m.imp.gone) > m.lim.Services+m.lim.Quarantined {
		m.fail(CodeLimit, "more withdrawals than a peer has rows")
	}
}

// visible is what the data path may see of the service that is called wire on the wire.
func (m *Machine) visible(wire string) *federation.ImportedService {
	if g := m.ghosts[wire]; g != nil {
		return g.shown
	}
	r := m.imp.rows[wire]
	if r == nil || m.imp.hidden(r) {
		return nil
	}
	return r.shown
}
