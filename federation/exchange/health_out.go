package exchange

import (
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	healthWindow     = 5 * time.Millisecond   // news of one moment in one frame; the first goes at once
	healthWindowWide = 100 * time.Millisecond // when much of the region flaps, agreement matters more than speed
	flapPercent      = 20                     // of all slots in a second is much
	flapLeast        = 100                    // slots; fewer are never much
	healthPerSecond  = 40_000                 // below what receivers accept by default
	healthBurst      = 100_000                // every slot of the largest export
	healthFrames     = 16                     // a flush
	slotsPerPiece    = 3_500                  // of one statement: 16 octets each at the very most
)

// healthOut is what the peer has yet to be told about health.
type healthOut struct {
	damping
	queue   []*exportRow // rows with news
	hv      uint64
	flushed time.Time // when news last went out

	second  time.Time // start of the second that flaps are counted in
	flaps   int
	slots   int // of the export
	wide    bool
	handles []uint32 // free ones
	issued  uint32   // handles ever made in this session
	budget  bucket
}

// setTruth takes what the checks say about r's slots, and shows what damping lets through.
func (m *Machine) setTruth(r *exportRow, slots []federation.ExportedSlot) {
	for i := range slots {
		j := i
		if j >= len(r.slots) || r.slots[j].Key != slots[i].Key {
			if j = r.slot(slots[i].Key); j < 0 {
				continue
			}
		}
		t := &r.truth[j]
		t.Healthy, t.Total = min(slots[i].Health.Healthy, slots[i].Health.Total), slots[i].Health.Total
		m.tryShow(r, j)
	}
}

// tryShow shows slot i of r as it is, if damping allows.
func (m *Machine) tryShow(r *exportRow, i int) {
	if r.shown[i] == r.truth[i] || !m.out.admit(r, i, m.now) {
		return
	}
	r.shown[i] = r.truth[i]
	m.out.flap(m.now)
	if m.sess != nil && !r.all {
		r.dirty = append(r.dirty, uint16(i))
		m.out.enqueue(r)
	}
}

func (o *healthOut) enqueue(r *exportRow) {
	if !r.queued {
		r.queued = true
		o.queue = append(o.queue, r)
	}
}

// flap counts a change and decides how long news are gathered.
func (o *healthOut) flap(now time.Time) {
	if now.Sub(o.second) >= time.Second {
		o.wide = o.wide && o.flaps >= flapLeast && o.flaps*100 >= flapPercent*o.slots
		o.second, o.flaps = now, 0
	}
	o.flaps++
	if o.flaps >= flapLeast && o.flaps*100 >= flapPercent*o.slots {
		o.wide = true
	}
}

// dueAt is when flush has something to send; the zero time is never.
func (o *healthOut) dueAt() time.Time {
	if len(o.queue) == 0 {
		return time.Time{}
	}
	window := healthWindow
	if o.wide {
		window = healthWindowWide
	}
	at := o.flushed.Add(window)
	if paid := o.budget.paidBy(o.budget.at); paid.After(at) {
		return paid
	}
	return at
}

// flush tells the peer the news of all rows it already has. A row that is still on its way takes its health along.
func (m *Machine) flush() {
	o, s := &m.out, m.sess
	if s == nil || s.send.phase != phaseDelta || len(o.queue) == 0 || m.now.Before(o.dueAt()) {
		return
	}
	o.flushed = m.now
	o.budget.fill(m.now)
	var message []byte
	frames, done, statements := 0, 0, 0
	var later []*exportRow
	for _, r := range o.queue {
		if frames == healthFrames || o.budget.tokens < 0 {
			break
		}
		done++
		if s.send.part != nil && r.seq == s.send.partSeq {
			later = append(later, r)
			continue
		}
		r.queued = false
		if r.gone() || r.seq > s.send.at || !r.all && len(r.dirty) == 0 {
			r.all, r.dirty = false, nil
			continue
		}
		for first, rest := true, r.news(); first || len(rest) > 0; first = false {
			n := min(len(rest), slotsPerPiece)
			b := m.statement(r, rest[:n])
			if statements++; len(message) > 0 && (len(message)+len(b) > fullFrame || statements > maxNamesPerFrame) {
				m.send(LaneHealth, frame(kindHealth, message))
				frames++
				message, statements = nil, 1
			}
			message = append(message, b...)
			o.budget.owe(m.now, n+1)
			rest = rest[n:]
		}
		r.all, r.dirty = false, nil
	}
	if len(message) > 0 {
		m.send(LaneHealth, frame(kindHealth, message))
	}
	o.queue = append(later, o.queue[done:]...)
}

// news lists the slots of r to be told of, each once.
func (r *exportRow) news() []uint16 {
	if !r.all {
		seen := make(map[uint16]bool, len(r.dirty))
		once := r.dirty[:0]
		for _, i := range r.dirty {
			if !seen[i] {
				seen[i] = true
				once = append(once, i)
			}
		}
		return once
	}
	all := make([]uint16, len(r.slots))
	for i := range all {
		all[i] = uint16(i)
	}
	return all
}

// statement encodes the health of some of r's slots, as a field of Health.
func (m *Machine) statement(r *exportRow, slots []uint16) []byte {
	o := &m.out
	o.hv++
	introduce := r.intro != m.sessions
	if introduce {
		r.intro = m.sessions
		if n := len(o.handles); n > 0 {
			r.handle, o.handles = o.handles[n-1], o.handles[:n-1]
		} else {
			r.handle = o.issued
			o.issued++
		}
		m.sess.send.handles[r.handle] = r
	}
	packed := make([]byte, 0, 8*len(slots))
	for _, i := range slots {
		h := r.shown[i]
		for _, v := range [...]uint64{uint64(r.places[i].num), uint64(r.places[i].gen), uint64(h.Healthy), uint64(h.Total)} {
			packed = protowire.AppendVarint(packed, v)
		}
	}
	return appendMessage(nil, 1, func(b []byte) []byte {
		b = appendUint(b, 1, uint64(r.handle))
		if introduce {
			b = appendString(b, 2, r.wire)
		}
		return appendBytes(appendUint(b, 3, o.hv), 4, packed)
	})
}

// packHealth is the health of r's slots as a row carries it.
func (r *exportRow) packHealth(b []byte) []byte {
	for _, h := range r.shown {
		b = protowire.AppendVarint(protowire.AppendVarint(b, uint64(h.Healthy)), uint64(h.Total))
	}
	return b
}

// forgetHandle frees the handle of a row that goes, for the next one.
func (m *Machine) forgetHandle(r *exportRow) {
	if m.sess != nil && r.intro == m.sessions {
		delete(m.sess.send.handles, r.handle)
		m.out.handles = append(m.out.handles, r.handle)
		r.intro = 0
	}
}
