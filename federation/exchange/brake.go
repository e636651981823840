package exchange

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// The brake holds back a mass withdrawal for a minute: a source that fails looks like a region that dies, and the first is
// more common. It looks at endpoints that stop being healthy, whether a check says so, or a row comes without them, or a
// barrier finds a row left over. It never holds what the peer says on the urgent lane, or in a tombstone: an un-export is
// meant, and so is a drain that was announced.
const (
	brakePercent = 30               // of the peer's healthy endpoints, within brakeSpan
	brakeLeast   = 5                // endpoints; below it, withdrawals are everyday life
	brakeSpan    = 10 * time.Second // a faulty source empties faster, a roll-out is slower
	brakeHold    = time.Minute      // long enough for a person to look, short enough for a real outage to be bearable
)

// brake is the state of the brake for one peer.
type brake struct {
	lost       [int(brakeSpan / time.Second)]uint64 // endpoints lost, by second
	second     int64                                // the newest second in lost
	until      time.Time                            // not zero: every loss is held until then
	held       map[*importRow]time.Time             // rows that show more than is true, and until when
	drainUntil time.Time                            // losses before this are meant
	healthy    uint64                               // endpoints shown as healthy
}

func newBrake() brake { return brake{held: map[*importRow]time.Time{}} }

// recent returns the endpoints lost within brakeSpan.
func (b *brake) recent(now time.Time) uint64 {
	n := int64(len(b.lost))
	for s := now.Unix(); b.second < s; {
		b.second = max(b.second+1, s-n)
		b.lost[b.second%n] = 0
	}
	var sum uint64
	for _, lost := range b.lost {
		sum += lost
	}
	return sum
}

// lose asks whether r may be shown with loss endpoints fewer than the shown it has. If not, r is held.
func (m *Machine) lose(r *importRow, loss, shown uint64) bool {
	b := &m.brake
	if loss == 0 || m.now.Before(b.drainUntil) || m.imp.hidden(r) {
		return true
	}
	if _, held := b.held[r]; held {
		return false
	}
	if !b.until.IsZero() {
		m.hold(r, b.until)
		return false
	}
	if m.now.Sub(r.lostSince) > brakeSpan {
		r.lost, r.lostSince = 0, m.now
	}
	recent := b.recent(m.now)
	switch {
	case recent+loss >= brakeLeast && (recent+loss)*100 > brakePercent*(b.healthy+recent):
		b.until = m.now.Add(brakeHold)
		m.hold(r, b.until)
		m.alarm(DiagBrake, fmt.Sprintf("peer %s withdraws %d of %d healthy endpoints", m.cfg.Peer, recent+loss, b.healthy+recent),
			"more than 30 % within 10 seconds are held back for up to a minute")
		return false
	case loss == shown && uint64(r.lost)+loss >= brakeLeast:
		m.hold(r, m.now.Add(brakeHold))
		m.alarm(DiagBrake, fmt.Sprintf("peer %s withdraws the last healthy endpoint of %s", m.cfg.Peer, r.wire),
			"all of five or more within 10 seconds; the last is held back for up to a minute")
		return false
	}
	r.lost += uint32(loss)
	b.lost[b.second%int64(len(b.lost))] += loss
	return true
}

func (m *Machine) hold(r *importRow, until time.Time) {
	if _, ok := m.brake.held[r]; !ok {
		m.brake.held[r] = until
	}
}

// gain notes that n endpoints of r are shown as healthy that were not before: what comes back was not withdrawn.
func (b *brake) gain(now time.Time, r *importRow, n uint64) {
	b.recent(now)
	r.lost -= uint32(min(uint64(r.lost), n))
	for i := range int64(len(b.lost)) {
		slot := &b.lost[(b.second-i+int64(len(b.lost)))%int64(len(b.lost))]
		taken := min(*slot, n)
		*slot -= taken
		n -= taken
	}
}

// release shows r as it is.
func (m *Machine) release(r *importRow) {
	delete(m.brake.held, r)
	switch {
	case r.removed:
		m.show(r, nil)
	case r.shown != r.svc:
		m.show(r, r.svc)
	case r.truth != nil:
		before, _ := r.shown.Lane.Sum()
		for i, h := range r.truth {
			r.svc.Lane.Store(i, h)
		}
		after, _ := r.shown.Lane.Sum()
		m.brake.healthy += uint64(after) - uint64(before) // wraps, as it should
		m.healthMoved = true
	}
	r.truth = nil
}

// releaseDue ends holds that are over; all of them when every is set.
func (m *Machine) releaseDue(every bool) {
	if len(m.brake.held) > 0 {
		rows := slices.SortedFunc(maps.Keys(m.brake.held), func(a, b *importRow) int {
			return cmp.Or(cmp.Compare(a.wire, b.wire), cmp.Compare(a.seq, b.seq))
		})
		for _, r := range rows {
			if every || !m.now.Before(m.brake.held[r]) {
				m.release(r)
			}
		}
	}
	if len(m.brake.held) == 0 {
		m.brake.until = time.Time{}
	}
}

// due is when releaseDue has something; the zero time is never.
func (b *brake) due() time.Time {
	at := b.until
	for _, until := range b.held {
		at = earlier(at, until)
	}
	return at
}
