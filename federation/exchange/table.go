package exchange

import (
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// importRow is a row of the peer: what it said last (seq, hash), the last good service that came of it, and what of that the
// data path is shown.
type importRow struct {
	wire  string
	seq   uint64
	hash  Digest // of the body that came last, good or bad: so the digests of both ends agree about a bad row too
	fault *fault // why the body that came last is kept out; nil: it is svc
	since time.Time

	svc  *federation.ImportedService // the last good one; nil: there was none
	body string
	refs []slotRef

	// What is published. It differs from svc, or svc's lane from truth, only while the brake holds a withdrawal back.
	shown *federation.ImportedService
	truth []federation.SlotHealth // by index in svc; nil: as in svc.Lane

	lost      uint32 // endpoints lost since lostSince
	lostSince time.Time

	hv      uint64 // of the last word about this row's health in this session
	missed  uint64 // hv of a statement that named slots we do not know
	handle  uint32 // by which the peer speaks of the row in this session
	named   bool   // handle is valid
	asked   time.Time
	removed bool // not in the table any more
}

// Costs of an import beside the octets of its bodies, for the memory account.
const (
	rowCost  = 720 // importRow, ImportedService, identity, zones, map entries
	slotCost = 40  // ImportedSlot, a word of lane, slotRef
)

func (r *importRow) cost() int { return rowCost + len(r.body) + slotCost*len(r.refs) }

func (r *importRow) slots() int { return len(r.refs) }

// goneMark says that a row was withdrawn on the urgent lane and that its tombstone has yet to come.
type goneMark struct {
	epoch federation.Epoch
	seq   uint64
}

// importTable is what a peer shows us.
//
// Invariants: applied.Digest is the sum of the hashes of rows; slots and bytes are the sums over rows.
type importTable struct {
	rows    map[string]*importRow
	applied Cursor
	known   federation.Epoch // the highest the peer ever had
	gone    map[string]goneMark
	good    int // rows that have a service
	slots   int
	bytes   int
}

func newImportTable() importTable {
	return importTable{rows: map[string]*importRow{}, gone: map[string]goneMark{}}
}

// insert adds an empty row that says nothing yet.
func (t *importTable) insert(wire string) *importRow {
	r := &importRow{wire: wire}
	t.rows[wire] = r
	t.bytes += r.cost()
	return r
}

// say records that the peer's word on r is now hash, at seq.
func (t *importTable) say(r *importRow, seq uint64, hash Digest) {
	t.applied.Digest = t.applied.Digest.sub(r.hash).add(hash)
	r.seq, r.hash = seq, hash
}

// assign makes p the last good service of r.
func (t *importTable) assign(r *importRow, p parsed) {
	if r.svc == nil {
		t.good++
	}
	t.slots -= r.slots()
	t.bytes -= r.cost()
	r.svc, r.body, r.refs = p.svc, p.body, p.refs
	t.slots += r.slots()
	t.bytes += r.cost()
}

// remove takes r out.
func (t *importTable) remove(r *importRow) {
	t.applied.Digest = t.applied.Digest.sub(r.hash)
	if r.svc != nil {
		t.good--
	}
	t.slots -= r.slots()
	t.bytes -= r.cost()
	delete(t.rows, r.wire)
	r.removed = true
}

// hidden reports whether r was withdrawn on the urgent lane by a word later than the one r is of.
func (t *importTable) hidden(r *importRow) bool {
	g, ok := t.gone[r.wire]
	return ok && (t.applied.Epoch != g.epoch || r.seq < g.seq)
}

// settle forgets the withdrawals whose tombstones have been applied.
func (t *importTable) settle() {
	for wire, g := range t.gone {
		if t.applied.Epoch == g.epoch && t.applied.Seq >= g.seq || t.applied.Epoch.Counter > g.epoch.Counter {
			delete(t.gone, wire)
		}
	}
}

// fits reports whether p may take the place of r (nil: of nothing) without the peer passing its quota.
func (t *importTable) fits(r *importRow, p parsed, limits Limits) bool {
	slots, bytes, good := t.slots+len(p.refs), t.bytes+len(p.body)+slotCost*len(p.refs), t.good
	if r == nil || r.svc == nil {
		good++
	}
	if r != nil {
		slots -= r.slots()
		bytes -= len(r.body) + slotCost*len(r.refs)
	}
	return good <= limits.Services && slots <= limits.Slots && bytes <= limits.Bytes
}
