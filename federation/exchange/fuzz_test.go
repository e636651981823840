package exchange

import (
	"runtime"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// corpus returns one honest frame of every kind, and some dishonest ones.
func corpus() []Send {
	var frames []Send
	grab := func(e *end) {
		for _, a := range e.log {
			if a, ok := a.(Send); ok {
				frames = append(frames, a)
			}
		}
		e.log = nil
	}
	p := newPair(nil)
	p.a.take(p.a.m.SetBundle(p.now, []byte("bundle")))
	p.up(view(exported("web", slot("i-1", 1, 1), slot("i-2", 0, 1)), exported("prod/db", slot("d", 3, 5))))
	p.a.take(p.a.m.PlanDrain(p.now, time.Minute))
	p.a.take(p.a.m.SetHealth(p.now, name("web"), []federation.ExportedSlot{slot("i-2", 1, 1)}))
	p.export(view(exported("web", slot("i-2", 0, 1), slot("i-3", 1, 1))))
	p.run(2 * time.Second)
	p.a.take(p.a.m.Goodbye(p.now))
	grab(p.a)
	grab(p.b)
	frames = append(frames, Send{LaneControl, healthWantFrame([]uint32{0, 1})},
		Send{LaneControl, frame(kindNack, appendRefusal(nil, "web", 4010))})
	w := newWorld(7)
	for range 60 {
		lane, f := w.forge()
		frames = append(frames, Send{lane, f})
	}
	return frames
}

// allocated returns how many octets do allocates, at least; other goroutines can only add.
func allocated(do func()) uint64 {
	least := ^uint64(0)
	for range 3 {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		do()
		runtime.ReadMemStats(&after)
		if least = min(least, after.TotalAlloc-before.TotalAlloc); least < 32<<10 {
			break
		}
	}
	return least
}

const allocSlack = 64 << 10

// target is a machine in the middle of a session, in one of its phases.
func target(phase byte) *Machine {
	m, _ := New(testConfig("west", "east", 3), nil)
	m.SetExport(epoch0, view(exported("mine", slot("m-1", 1, 1))))
	m.Connected(epoch0)
	if phase%8 == 0 {
		return m
	}
	e := federation.Epoch{Counter: 1, Incarnation: 1000}
	m.Receive(epoch0, LaneControl, hello{versionMin: 1, versionMax: 1, region: []byte("east"), epoch: e, window: 4}.frame())
	m.Receive(epoch0, LaneControl, syncRequest{sub: 1}.frame())
	switch phase % 8 {
	case 1:
		return m
	case 2, 3, 4:
		m.Receive(epoch0, LaneBulk, begin{sub: 1, mode: mode(phase%8 - 1)}.frame())
		return m
	}
	m.Receive(epoch0, LaneBulk, begin{sub: 1, mode: modeSnapshot}.frame())
	svc := exported("web", slot("i-1", 1, 1), slot("i-2", 1, 1))
	l := newExportLog("east", e)
	r := l.put(&svc)
	row := appendBytes(appendUint(appendString(nil, 1, "web"), 2, 1), 3, l.bodyOf(r))
	row = appendBytes(row, 6, r.packHealth(nil))
	m.Receive(epoch0, LaneBulk, frame(kindRows, appendBytes(appendUint(nil, 1, 1), 2, row)))
	m.Receive(epoch0, LaneBulk, barrier{sub: 1, count: 1, cursor: l.cursor(), time: epoch0.UnixNano()}.frame())
	return m
}

// FuzzReceive throws frames at a machine in every phase. It must never panic, never allocate much more than it was sent, and
// never lose what it had to a frame that is not well formed.
func FuzzReceive(f *testing.F) {
	for i, s := range corpus() {
		f.Add(byte(i), byte(s.Lane), s.Frame)
	}
	f.Fuzz(func(t *testing.T, phase, lane byte, data []byte) {
		if len(data) > MaxFrame+1 {
			return
		}
		var m *Machine
		spent := ^uint64(0)
		for range 3 {
			m = target(phase)
			had := m.published
			var actions []Action
			spent = min(spent, allocated1(func() { actions = m.Receive(epoch0.Add(time.Second), Lane(lane), data) }))
			for _, a := range actions {
				if c, ok := a.(Close); ok && c.Code == CodeMalformed && len(m.published) < len(had) {
					t.Fatalf("a malformed frame took services away: %d of %d are left", len(m.published), len(had))
				}
			}
			if spent <= uint64(8*len(data)+allocSlack) {
				break
			}
		}
		if spent > uint64(8*len(data)+allocSlack) {
			t.Fatalf("%d octets received, %d allocated", len(data), spent)
		}
		for i := range 20 {
			m.Tick(epoch0.Add(time.Duration(i) * 3 * time.Second))
		}
		m.Disconnected(epoch0.Add(time.Hour))
		if _, err := New(testConfig("west", "east", 4), m.Saved()); err != nil {
			t.Fatalf("what was saved cannot be read: %v", err)
		}
	})
}

func allocated1(do func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	do()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// FuzzSession throws a whole session at a machine: each frame is a lane, a length and so many octets of data.
func FuzzSession(f *testing.F) {
	var all []byte
	for _, s := range corpus() {
		if len(s.Frame) < 256 {
			all = append(append(all, byte(s.Lane), byte(len(s.Frame))), s.Frame...)
		}
	}
	f.Add(byte(5), all)
	f.Fuzz(func(t *testing.T, phase byte, data []byte) {
		m := target(phase)
		now := epoch0
		for len(data) > 2 && m.sess != nil {
			n := min(int(data[1]), len(data)-2)
			m.Receive(now, Lane(data[0]%Lanes), data[2:2+n])
			data = data[2+n:]
			now = now.Add(10 * time.Millisecond)
		}
		m.Tick(now.Add(time.Minute))
		m.Status()
		if m.imp.slots < 0 || m.imp.bytes < 0 || m.brake.healthy > 1<<40 {
			t.Fatalf("accounts are off: %d slots, %d octets, %d healthy", m.imp.slots, m.imp.bytes, m.brake.healthy)
		}
	})
}

// FuzzDecoders reads every kind of message from the same octets.
func FuzzDecoders(f *testing.F) {
	for _, s := range corpus() {
		if _, b, err := unwrap(s.Lane, s.Frame); err == nil {
			f.Add(b)
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > MaxFrame {
			return
		}
		spent := allocated(func() { decodeAll(b) })
		if spent > uint64(8*len(b)+allocSlack) {
			t.Fatalf("%d octets read, %d allocated", len(b), spent)
		}
	})
}

func decodeAll(b []byte) {
	_, _ = decodeHello(b)
	_, _ = decodeSync(b)
	_, _ = decodeHead(b)
	_, _ = decodeApplied(b)
	_ = decodePairs(b, maxNacks, func([]byte, uint64) error { return nil })
	_, _ = decodeOne(b, 10)
	_, _ = decodeBytes(b, 100)
	_, _ = decodeBegin(b)
	_, _ = decodeListing(b, digestEntry)
	_, _ = decodeBarrier(b)
	_ = decodeHealth(b, func(st statement) error {
		for rest := st.slots; len(rest) > 0; {
			_, _, next, err := nextSlot(rest)
			if err != nil {
				return err
			}
			rest = next
		}
		return nil
	})
	for _, read := range []func([]byte) (delta, error){decodeDelta, decodeRows} {
		if d, err := read(b); err == nil {
			_ = d.eachRow(func(rawRow) error { return nil })
		}
	}
}

// FuzzBody reads the body of a row. Whatever is taken has to be as the rules say.
func FuzzBody(f *testing.F) {
	for n := range 4 {
		var slots []federation.ExportedSlot
		var places []place
		for i := range n {
			slots = append(slots, slot(string(rune('a'+i)), 1, 1))
			places = append(places, place{uint16(n - i), 1})
		}
		f.Add(appendBody(nil, federation.ProtocolHTTP, federation.DetailSummary, slots, places))
	}
	f.Add(appendString(nil, 6, "spiffe://east.mesh.internal/ns/default/svc/web"))
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) > maxBody {
			return
		}
		reader := rowReader{domain: federation.DefaultTrustDomain("east"), slots: 5000, known: map[string]string{}}
		var p parsed
		var bad *fault
		if spent := allocated(func() { p, bad = reader.read(name("web"), body) }); spent > uint64(8*len(body)+allocSlack) {
			t.Fatalf("%d octets read, %d allocated", len(body), spent)
		}
		if bad != nil {
			return
		}
		for i, s := range p.svc.Slots {
			if int(s.Zone) > len(p.svc.Zones) || len(s.Key) > maxKey || i > 0 && p.svc.Slots[i-1].Key >= s.Key {
				t.Fatalf("slot %d is %+v", i, s)
			}
		}
		for _, ref := range p.refs {
			if find(p.refs, place{ref.num, ref.gen}) != int(ref.idx) || find(p.refs, place{ref.num, ref.gen + 1}) != -1 {
				t.Fatalf("slot %+v is not found", ref)
			}
		}
	})
}

// FuzzSaved reads what may be left of a file.
func FuzzSaved(f *testing.F) {
	p := newPair(nil)
	p.up(view(exported("web", slot("i-1", 1, 1)), exported("prod/db", slot("d", 3, 5))))
	f.Add(p.b.m.Saved())
	f.Fuzz(func(_ *testing.T, data []byte) {
		m, _ := New(testConfig("west", "east", 2), data)
		m.Tick(epoch0)
		m.Connected(epoch0)
		// The checksum keeps the fuzzer out, so that the rest is read without it, too.
		bare := newMachine(testConfig("west", "east", 2))
		_ = bare.restoreFrom(data)
	})
}

func TestWhatAFrameCanMakeUsAllocate(t *testing.T) {
	worst := 0.0
	for _, c := range bombs() {
		spent := allocated(func() { m := target(c.phase); m.Receive(epoch0, c.lane, c.frame) }) - allocated(func() { target(c.phase) })
		t.Logf("%-32s %6d octets received, %7d allocated", c.what, len(c.frame), spent)
		if spent > uint64(8*len(c.frame)+allocSlack) {
			t.Errorf("%s: too much", c.what)
		}
		worst = max(worst, float64(spent)/float64(8*len(c.frame)+allocSlack))
	}
	t.Logf("the worst is at %.0f %% of what is allowed", 100*worst)
}

type bomb struct {
	what  string
	phase byte
	lane  Lane
	frame []byte
}

// bombs are frames made to cost as much as they can.
func bombs() (all []bomb) {
	// The most and the smallest rows, as a delta and as a snapshot: good ones, and bad ones.
	for _, good := range []bool{true, false} {
		var rows, bulk []byte
		for i := range maxRowsPerFrame {
			body := appendBody(nil, federation.ProtocolTCP, federation.DetailSummary, nil, nil)
			if !good {
				body = nil
			}
			wire := string([]byte{'a' + byte(i/26), 'a' + byte(i%26)})
			row := appendBytes(appendUint(appendString(nil, 1, wire), 2, uint64(2+i)), 3, body)
			rows, bulk = appendBytes(rows, 4, row), appendBytes(bulk, 2, row)
		}
		d := append(appendUint(appendUint(appendUint(nil, 1, 1), 2, 1), 3, uint64(1+maxRowsPerFrame)), rows...)
		what := map[bool]string{true: "good", false: "bad"}[good]
		all = append(all, bomb{"smallest " + what + " rows, delta", 5, LaneMembership, frame(kindDelta, d)},
			bomb{"smallest " + what + " rows, snapshot", 3, LaneBulk, frame(kindRows, append(appendUint(nil, 1, 1), bulk...))})
	}
	// One row with the most and the smallest slots.
	var slots []federation.ExportedSlot
	var places []place
	for i := range 3400 {
		slots = append(slots, federation.ExportedSlot{Key: string([]byte{byte('!' + i/90), byte('!' + i%90)})})
		places = append(places, place{uint16(i), 1})
	}
	body := appendBody(nil, federation.ProtocolTCP, federation.DetailEndpoints, slots, places)
	row := appendBytes(appendUint(appendString(nil, 1, "big"), 2, 2), 3, body)
	row = appendBytes(row, 6, make([]byte, 2*len(slots)))
	d := appendBytes(appendUint(appendUint(appendUint(nil, 1, 1), 2, 1), 3, 2), 4, row)
	all = append(all, bomb{"smallest slots", 5, LaneMembership, frame(kindDelta, d)})
	// Statements about services that do not exist, listings, wants, withdrawals.
	var health, gone []byte
	for i := range 3000 {
		n := string([]byte{byte('!' + i/90), byte('!' + i%90)})
		health = appendMessage(health, 1, func(b []byte) []byte {
			return appendUint(appendString(appendUint(b, 1, uint64(i)), 2, n), 3, uint64(i+1))
		})
		gone = appendGone(gone, n, 1<<40)
	}
	all = append(all, bomb{"handles", 5, LaneHealth, frame(kindHealth, health)}, bomb{"withdrawals", 5, LaneUrgent, frame(kindWithdraw, gone)},
		bomb{"digests", 2, LaneBulk, listing{sub: 1, entries: make([]byte, 16*3500), last: true}.frame(kindDigests)},
		bomb{"a want", 5, LaneBulk, listing{sub: 1, entries: make([]byte, 8*7000)}.frame(kindWant)},
		bomb{"a bundle", 0, LaneUrgent, bundleFrame(make([]byte, 16<<10))},
		bomb{"empty fields", 5, LaneMembership, frame(kindDelta, make([]byte, 60<<10))})
	return all
}
