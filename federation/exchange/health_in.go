package exchange

import (
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	wantEvery = time.Second            // a service's health is asked for at most so often
	wantAfter = 250 * time.Millisecond // a statement that ran ahead of its row is given so long to be explained by it
)

// onHealth takes the peer's word on the health of slots. A slot we do not know under that number and generation is left
// alone: the news is of a tenant that came after the row we have, or went before it.
func (m *Machine) onHealth(b []byte) {
	s := m.sess
	slots, statements, introduced := 0, 0, 0
	err := decodeHealth(b, func(st statement) error {
		if statements++; len(st.service) > 0 {
			introduced++
		}
		if introduced > maxNamesPerFrame {
			return errCount
		}
		h, err := s.handleOf(st, m.lim)
		if err != nil {
			return err
		}
		n, err := m.hear(h, st)
		slots += n
		return err
	})
	switch {
	case err != nil:
		m.malformed(err)
	case !s.health.take(m.now, slots+statements):
		m.fail(CodeLimit, "health changes faster than a peer's may")
	}
}

// handleOf finds or introduces the service of a statement.
func (s *session) handleOf(st statement, limits Limits) (*handle, error) {
	h := s.recv.handles[uint32(st.handle)]
	switch {
	case len(st.service) == 0 && h == nil:
		return nil, errMissing
	case len(st.service) == 0:
		return h, nil
	case int(st.handle) > limits.Services+limits.Quarantined:
		return nil, errRange
	}
	h = &handle{wire: string(st.service)}
	s.recv.handles[uint32(st.handle)] = h
	return h, nil
}

// hear applies one statement and returns how many slots it was about.
func (m *Machine) hear(h *handle, st statement) (slots int, err error) {
	if h.row == nil || h.row.removed {
		h.row = m.imp.rows[h.wire]
	}
	r := h.row
	if r != nil {
		r.handle, r.named = uint32(st.handle), true
	}
	known := r != nil && r.svc != nil
	fresh := known && st.hv > r.hv
	missed := false
	for b := st.slots; len(b) > 0; slots++ {
		var p place
		var health federation.SlotHealth
		if p, health, b, err = nextSlot(b); err != nil {
			return slots, err
		}
		if !fresh {
			continue
		}
		if i := find(r.refs, p); i >= 0 {
			m.setHealth(r, i, health)
		} else {
			missed = true
		}
	}
	m.stats.health += uint64(slots)
	if fresh {
		r.hv = st.hv
	}
	switch {
	case !known:
		m.sess.recv.early[h.wire] = early{handle: uint32(st.handle), hv: st.hv}
	case fresh && missed:
		m.miss(r, st.hv, wantAfter)
	}
	return slots, nil
}

// early is a statement about a service whose row has not come yet.
type early struct {
	handle uint32
	hv     uint64
}

// miss notes that the peer said something about r at hv that could not be used, and asks for it again after a while.
func (m *Machine) miss(r *importRow, hv uint64, after time.Duration) {
	r.missed = max(r.missed, hv)
	m.sess.wants = append(m.sess.wants, want{row: r, at: m.now.Add(after)})
}

// caughtUp looks, when a version of r has come that was written at hv, whether more was said about its health since.
func (m *Machine) caughtUp(r *importRow, hv uint64) {
	if e, ok := m.sess.recv.early[r.wire]; ok {
		delete(m.sess.recv.early, r.wire)
		r.handle, r.named = e.handle, true
		r.missed = max(r.missed, e.hv)
	}
	switch {
	case max(r.missed, r.hv) > hv:
		m.miss(r, r.hv, 0)
	default:
		r.missed, r.hv = 0, hv
	}
}

func nextSlot(b []byte) (p place, h federation.SlotHealth, rest []byte, err error) {
	var v [2]uint64
	for i := range v {
		n := 0
		if v[i], n = protowire.ConsumeVarint(b); n < 0 {
			return p, h, nil, errTruncated
		}
		b = b[n:]
	}
	if v[0] > 1<<16-1 || v[1] > 1<<16-1 {
		return p, h, nil, errRange
	}
	p = place{num: uint16(v[0]), gen: uint16(v[1])}
	healthy, b, err := count(b)
	if err != nil {
		return p, h, nil, err
	}
	total, b, err := count(b)
	return p, federation.SlotHealth{Generation: p.gen, Healthy: min(healthy, total), Total: total}, b, err
}

// want is a row whose health is to be asked for, unless its next version explains what was missed.
type want struct {
	row *importRow
	at  time.Time
}

// askHealth asks for the health of the rows whose wait is over.
func (m *Machine) askHealth() {
	s := m.sess
	var handles []uint32
	s.wants = slices.DeleteFunc(s.wants, func(w want) bool {
		switch {
		case w.row.removed || w.row.missed == 0 || !w.row.named:
			return true
		case m.now.Before(w.at) || m.now.Sub(w.row.asked) < wantEvery || len(handles) == maxHealthWants:
			return false
		}
		w.row.asked, w.row.missed = m.now, 0
		handles = append(handles, w.row.handle)
		return true
	})
	if len(handles) > 0 {
		m.send(LaneControl, healthWantFrame(handles))
	}
}

// wantsDue is when askHealth has something; the zero time is never.
func (s *session) wantsDue() time.Time {
	var at time.Time
	for _, w := range s.wants {
		due := w.at
		if again := w.row.asked.Add(wantEvery); again.After(due) {
			due = again
		}
		at = earlier(at, due)
	}
	return at
}
