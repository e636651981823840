package exchange

import (
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// exportRow is a service that we show the peer, or the tombstone of one.
type exportRow struct {
	prev, next *exportRow // in the order of seq
	name       federation.ServiceName
	wire       string // name as it is on the wire
	seq        uint64
	goneAt     time.Time // not zero: a tombstone
	hash       Digest
	protocol   federation.Protocol
	detail     federation.Detail
	slots      []federation.ExportedSlot // as in the view; their health is not looked at
	places     []place                   // of slots
	gen        uint16                    // given to slots last; outlives a tombstone
	truth      []federation.SlotHealth   // what the checks say
	shown      []federation.SlotHealth   // what the peer is told, after damping

	queued bool     // in healthOut.queue
	all    bool     // the peer needs the health of every slot
	dirty  []uint16 // slots whose health the peer has not been told
	handle uint32   // in session introduced
	intro  uint64   // number of the session in which handle was introduced
	wanted uint64   // the subscription in which the peer asked for this row
}

func (r *exportRow) gone() bool { return !r.goneAt.IsZero() }

// exportLog is all we show a peer, in the order of its last change. Each number of the sequence belongs to one row: its last.
//
// Invariants: first to last, seq grows; no seq is above exportLog.seq; digest is the sum of the live rows' hashes; a row that
// was ever shown in this epoch is in the list, or its tombstone had a seq of at most floor.
type exportLog struct {
	origin      federation.Region
	epoch       federation.Epoch
	seq         uint64
	floor       uint64
	digest      Digest
	live, tombs int
	rows        map[federation.ServiceName]*exportRow
	first, last *exportRow
	restored    map[federation.ServiceName]*exportRow // slots of an earlier life, for services not shown yet
	moved       func(*exportRow)                      // called before a row leaves its place in the list
	added       func(*exportRow)                      // called after a row got the last place in the list
	body        []byte
	hasher      hasher
}

func newExportLog(origin federation.Region, epoch federation.Epoch) exportLog {
	return exportLog{origin: origin, epoch: epoch, rows: map[federation.ServiceName]*exportRow{},
		restored: map[federation.ServiceName]*exportRow{}, moved: func(*exportRow) {}, added: func(*exportRow) {}}
}

func (l *exportLog) cursor() Cursor { return Cursor{Epoch: l.epoch, Seq: l.seq, Digest: l.digest} }

// touch gives r the next number and moves it to the end.
func (l *exportLog) touch(r *exportRow) {
	if r.seq != 0 {
		l.unlink(r)
	}
	l.seq++
	r.seq = l.seq
	r.prev = l.last
	if l.last == nil {
		l.first = r
	} else {
		l.last.next = r
	}
	l.last = r
	l.added(r)
}

func (l *exportLog) unlink(r *exportRow) {
	l.moved(r)
	if r.prev == nil {
		l.first = r.next
	} else {
		r.prev.next = r.next
	}
	if r.next == nil {
		l.last = r.prev
	} else {
		r.next.prev = r.prev
	}
	r.prev, r.next = nil, nil
}

// after returns the first row whose seq is above seq. It looks from the end, where consumers are.
func (l *exportLog) after(seq uint64) *exportRow {
	var found *exportRow
	for r := l.last; r != nil && r.seq > seq; r = r.prev {
		found = r
	}
	return found
}

// bodyOf encodes r's body into a buffer that the next call reuses.
func (l *exportLog) bodyOf(r *exportRow) []byte {
	l.body = appendBody(l.body[:0], r.protocol, r.detail, r.slots, r.places)
	return l.body
}

// same reports whether svc says what r says, health aside.
func (r *exportRow) same(svc *federation.ExportedService) bool {
	if r.gone() || r.protocol != svc.Protocol || r.detail != svc.Detail || len(r.slots) != len(svc.Slots) {
		return false
	}
	for i := range r.slots {
		a, b := &r.slots[i], &svc.Slots[i]
		if a.Key != b.Key || a.Weight != b.Weight || a.Locality.Zone != b.Locality.Zone {
			return false
		}
	}
	return true
}

// exportable returns why svc cannot be exported, or "".
func exportable(svc *federation.ExportedService, limits Limits) string {
	if len(svc.Slots) > limits.SlotsPerService {
		return "it has more slots than a service may have"
	}
	size := 0
	for i := range svc.Slots {
		s := &svc.Slots[i]
		size += len(s.Key) + 24
		switch {
		case len(s.Key) > maxKey || !printable(s.Key):
			return "the key of a slot is too long or not printable"
		case i > 0 && svc.Slots[i-1].Key >= s.Key:
			return "its slots are not sorted by a unique key"
		case len(s.Locality.Zone) > maxZone || !printable(s.Locality.Zone):
			return "the zone of a slot is too long or not printable"
		}
	}
	if size > maxBody-(maxZones+1)*(maxZone+2) {
		return "its slots take more than 512 KiB"
	}
	return ""
}

// put makes svc, which must be exportable, the newest row.
func (l *exportLog) put(svc *federation.ExportedService) *exportRow {
	r := l.rows[svc.Name]
	if r == nil {
		if r = l.restored[svc.Name]; r == nil {
			r = &exportRow{name: svc.Name, wire: svc.Name.String()}
		}
		delete(l.restored, svc.Name)
		l.rows[svc.Name] = r
	}
	switch {
	case r.gone():
		l.tombs--
		l.live++
		r.goneAt = time.Time{}
	case r.seq == 0:
		l.live++
	default:
		l.digest = l.digest.sub(r.hash)
	}
	r.protocol, r.detail = svc.Protocol, svc.Detail
	l.place(r, svc.Slots)
	r.hash = l.hasher.row(l.origin, r.wire, l.bodyOf(r))
	l.digest = l.digest.add(r.hash)
	l.touch(r)
	return r
}

// place gives every slot of a row its number and generation. A slot that stays keeps both, and its health; new ones take the
// lowest free numbers with the row's next generation, so that no pair is ever used twice.
func (l *exportLog) place(r *exportRow, slots []federation.ExportedSlot) {
	places := make([]place, len(slots))
	truth, shown := make([]federation.SlotHealth, len(slots)), make([]federation.SlotHealth, len(slots))
	used := make([]bool, max(len(slots), len(r.slots))+1)
	var fresh []int
	old := 0
	for i := range slots {
		for old < len(r.slots) && r.slots[old].Key < slots[i].Key {
			old++
		}
		if old < len(r.slots) && r.slots[old].Key == slots[i].Key {
			places[i] = r.places[old]
			if r.truth != nil {
				truth[i], shown[i] = r.truth[old], r.shown[old]
			} else { // restored: only the place is known
				truth[i] = healthOf(&slots[i], places[i].gen)
				shown[i] = truth[i]
			}
			if int(places[i].num) < len(used) {
				used[places[i].num] = true
			}
			continue
		}
		fresh = append(fresh, i)
	}
	if len(fresh) > 0 {
		r.gen = max(r.gen+1, 1) // 65,535 changes later a number comes again; nothing that old is still on its way
	}
	free := 0
	for _, i := range fresh {
		for used[free] {
			free++
		}
		used[free] = true
		places[i] = place{num: uint16(free), gen: r.gen}
		truth[i] = healthOf(&slots[i], r.gen)
		shown[i] = truth[i]
	}
	if r.dirty != nil {
		r.all, r.dirty = true, nil // indexes have moved
	}
	r.slots, r.places, r.truth, r.shown = slots, places, truth, shown
}

func healthOf(s *federation.ExportedSlot, gen uint16) federation.SlotHealth {
	return federation.SlotHealth{Generation: gen, Healthy: min(s.Health.Healthy, s.Health.Total), Total: s.Health.Total}
}

// remove turns r into a tombstone.
func (l *exportLog) remove(r *exportRow, now time.Time) {
	l.digest = l.digest.sub(r.hash)
	l.live--
	l.tombs++
	r.goneAt = now
	r.slots, r.places, r.truth, r.shown = nil, nil, nil, nil
	r.all, r.dirty = false, nil
	l.touch(r)
}

// trim drops tombstones that are old or too many.
func (l *exportLog) trim(now time.Time, limits Limits) {
	for r := l.first; r != nil && l.tombs > 0; {
		next := r.next
		if r.gone() {
			if l.tombs <= limits.Tombstones && now.Sub(r.goneAt) < limits.TombstoneAge {
				return // those that follow are younger
			}
			l.floor = max(l.floor, r.seq)
			l.unlink(r)
			delete(l.rows, r.name)
			l.tombs--
		}
		r = next
	}
}

// renew starts the sequence again in epoch e. Rows and slots stay as they are, so that digests do.
func (l *exportLog) renew(e federation.Epoch) {
	var rows []*exportRow
	for r := l.first; r != nil; r = r.next {
		if !r.gone() {
			rows = append(rows, r)
		}
	}
	l.epoch, l.seq, l.floor, l.first, l.last, l.tombs = e, 0, 0, nil, nil, 0
	clear(l.rows)
	for _, r := range rows {
		r.prev, r.next, r.seq = nil, nil, 0
		l.rows[r.name] = r
		l.touch(r)
	}
}

// slot returns the index of the slot called key, or -1.
func (r *exportRow) slot(key string) int {
	i, found := slices.BinarySearchFunc(r.slots, key, func(s federation.ExportedSlot, key string) int { return strings.Compare(s.Key, key) })
	if !found {
		return -1
	}
	return i
}
