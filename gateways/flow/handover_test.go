package flow

import (
	"bytes"
	"errors"
	"testing"

	"pgregory.net/rapid"
)

// world is a flow between two ends over carriers that may break at any time, taking with them what is under way.
type world struct {
	t        *rapid.T
	ends     [2]*side
	carriers []*link
	lastID   uint32
}

// link is one carrier: what is under way to either end.
type link struct {
	queue [2][]byte // to the end with this index
	ways  [2]Way    // of the end with this index
	place [2]Place
	read  [2]progress
	by    int // the end that attached it, -1 for the first one
	gone  bool
}

// progress is where a reader stands inside a DATA frame.
type progress struct {
	offset uint64
	left   int
}

// side is one end: what it has been given to send, and what has come.
type side struct {
	out        Out
	in         In
	pool       meter
	wrote, got []byte
}

// meter is a Pool with small pieces that knows how much it has lent.
type meter struct{ lent, limit int }

func (m *meter) Get(hint int, must bool) []byte {
	size := min(max(hint, 8), 40)
	if m.lent+size > m.limit && !must {
		return nil
	}
	m.lent += size
	return make([]byte, HeaderLen, HeaderLen+size)
}

func (m *meter) Put(b []byte) { m.lent -= cap(b) - HeaderLen }

const worldLimit = 400

func newWorld(t *rapid.T) *world {
	w := &world{t: t}
	for i, role := range []Role{Opener, Answerer} {
		w.ends[i] = &side{out: NewOut(role), in: NewIn(role), pool: meter{limit: worldLimit}}
	}
	if err := w.ends[0].out.Open(Open{Source: web, Service: "default/echo"}); err != nil {
		t.Fatal(err)
	}
	w.attach(-1)
	return w
}

// attach makes a carrier; by is the end that attaches it, -1 for the first one.
func (w *world) attach(by int) *link {
	w.lastID++
	c := &link{by: by}
	c.ways[0].ID, c.ways[1].ID = w.lastID, w.lastID
	w.carriers = append(w.carriers, c)
	if by >= 0 {
		end := w.ends[by]
		a := Attach{ID: ID{1}, Role: end.out.role, Consumed: end.in.Consumed(), Heard: end.in.phase != phaseNew}
		a.OrOpen = by == 0 && !end.out.heard
		c.queue[1-by] = a.Append(nil)
	}
	return c
}

// send lets the end write what waits for c, up to n frames. Who is attached to knows nothing of it before ATTACH has come.
func (w *world) send(by int, c *link, n int) {
	end := w.ends[by]
	if c.by == 1-by && !c.place[by].some {
		return
	}
	for range n {
		frames, lent := end.out.Next(&c.ways[by], nil)
		c.queue[1-by] = append(c.queue[1-by], frames...)
		end.out.Written(lent, &end.pool)
		if len(frames) == 0 {
			return
		}
	}
}

// write gives the end n bytes, past Next where that is allowed.
func (w *world) write(by, n int, direct bool) {
	end := w.ends[by]
	b := make([]byte, HeaderLen+n)
	for i := range n {
		b[HeaderLen+i] = byte((len(end.wrote) + i) * 7)
	}
	payload := b[HeaderLen:]
	live := w.live()
	if direct && len(live) == 1 && end.out.Direct(&live[0].ways[by]) {
		if err := end.out.Data(&live[0].ways[by], b, n); err != nil {
			w.t.Fatal(err)
		}
		live[0].queue[1-by] = append(live[0].queue[1-by], b...)
		end.out.Keep(&live[0].ways[by], payload, &end.pool)
	} else {
		took, err := end.out.Add(payload, &end.pool)
		if err != nil {
			return
		}
		payload = payload[:took]
	}
	end.wrote = append(end.wrote, payload...)
}

func (w *world) live() []*link {
	var live []*link
	for _, c := range w.carriers {
		if !c.gone {
			live = append(live, c)
		}
	}
	return live
}

// kill breaks c, after delivering some of what is under way. It reports whether both ends can go on.
func (w *world) kill(c *link, deliver int) bool {
	for to := range w.ends {
		w.receive(to, c, deliver)
	}
	c.gone = true
	ok := true
	for by, end := range w.ends {
		ok = end.out.Lost(c.ways[by].ID) && ok
	}
	return ok
}

// receive lets the end read up to n steps from c.
func (w *world) receive(to int, c *link, n int) {
	end := w.ends[to]
	for ; n > 0 && !end.in.Over(); n-- {
		q, at := &c.queue[to], &c.read[to]
		if at.left > 0 {
			known, ahead := end.in.Fresh(at.offset, at.left)
			if ahead {
				return
			}
			take := min(at.left, len(*q), known+1+n) // a part of it, to be cut off anywhere
			if known = min(known, take); known < take {
				end.got = append(end.got, (*q)[known:take]...)
				end.in.Took(take - known)
			}
			*q, at.left, at.offset = (*q)[take:], at.left-take, at.offset+uint64(take)
			if take == 0 {
				return
			}
			continue
		}
		if len(*q) < HeaderLen {
			return
		}
		h := ParseHeader(*q)
		if err := end.in.Header(&c.place[to], h); err != nil {
			w.t.Fatalf("end %d: %v", to, err)
		}
		*q = (*q)[HeaderLen:]
		if h.Type == TypeData {
			*at = progress{h.Offset, h.Length}
			continue
		}
		e, err := end.in.Body(&c.place[to], h, (*q)[:h.Length])
		if err != nil {
			w.t.Fatal(err)
		}
		*q = (*q)[h.Length:]
		w.obey(end, e)
	}
}

func (w *world) obey(end *side, e Event) {
	offset := e.Acked
	switch e.Type {
	case TypeAttach:
		offset = e.Attach.Consumed
		if e.Attach.Heard || end.out.role == Opener {
			end.out.Heard()
		}
	case TypeAck:
	default:
		return
	}
	if err := end.out.Ack(offset, &end.pool); err != nil {
		w.t.Fatal(err)
	}
}

// ack carries an acknowledgement beside the carriers.
func (w *world) ack(from int) {
	if to := w.ends[1-from]; w.ends[from].in.phase != phaseNew {
		if err := to.out.Ack(w.ends[from].in.Consumed(), &to.pool); err != nil {
			w.t.Fatal(err)
		}
	}
}

// heal attaches carriers for what no live one can take.
func (w *world) heal() {
	for by, end := range w.ends {
		if by == 1 && end.in.phase == phaseNew {
			continue // has not heard of the flow
		}
		live := w.live()
		stuck := end.out.Waits(nil) || len(live) == 0
		for _, c := range live {
			stuck = stuck && (end.out.Behind(&c.ways[by]) || c.ways[by].done)
		}
		if stuck {
			w.attach(by)
		}
	}
}

// step does one random thing and reports whether the flow can go on.
func (w *world) step() bool {
	t := w.t
	by := rapid.IntRange(0, 1).Draw(t, "end")
	end := w.ends[by]
	live := w.live()
	if len(live) == 0 {
		w.heal()
		return true
	}
	c := live[rapid.IntRange(0, len(live)-1).Draw(t, "carrier")]
	switch rapid.IntRange(0, 11).Draw(t, "step") {
	case 0, 1:
		if !end.out.Finished() && (by == 0 || end.out.phase == phaseBytes) {
			w.write(by, rapid.IntRange(1, 100).Draw(t, "bytes"), rapid.Bool().Draw(t, "direct"))
		}
	case 2, 3:
		w.send(by, c, rapid.IntRange(1, 4).Draw(t, "frames"))
	case 4, 5, 6:
		w.receive(by, c, rapid.IntRange(1, 60).Draw(t, "steps"))
	case 7:
		w.ack(by)
	case 8:
		if by == 1 && end.in.phase != phaseNew {
			_ = end.out.Accept()
		}
	case 9:
		if len(live) < 4 && end.in.phase != phaseNew { // a stripe
			w.attach(by)
		}
	case 10:
		return w.kill(c, rapid.IntRange(0, 200).Draw(t, "delivered"))
	case 11:
		if by == 0 && rapid.IntRange(0, 3).Draw(t, "fin") == 0 {
			_ = end.out.Fin()
		}
	}
	return true
}

func (w *world) check() {
	for i, end := range w.ends {
		if other := w.ends[1-i]; !bytes.HasPrefix(other.wrote, end.got) {
			w.t.Fatalf("end %d got other bytes than were written", i)
		}
		if end.pool.lent > worldLimit+40 {
			w.t.Fatalf("end %d keeps %d octets", i, end.pool.lent)
		}
	}
}

// TestAnyScheduleDeliversTheBytes moves, stripes and breaks carriers at random: what arrives is what was sent, and in the end all.
func TestAnyScheduleDeliversTheBytes(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld(t)
		for range rapid.IntRange(0, 300).Draw(t, "steps") {
			if !w.step() {
				return // more than could be kept was lost: the flow ends
			}
			w.check()
		}
		_ = w.ends[1].out.Accept()
		for range 10_000 {
			w.heal()
			for _, c := range w.live() {
				for by, end := range w.ends {
					w.send(by, c, 1)
					w.receive(by, c, 1000)
					if end.in.phase != phaseNew && (by == 0 || end.out.phase == phaseBytes) {
						_ = end.out.Fin()
					}
					w.ack(by)
				}
			}
			w.check()
			if w.ends[0].out.Settled() && w.ends[1].out.Settled() {
				break
			}
		}
		for i, end := range w.ends {
			if !bytes.Equal(w.ends[1-i].wrote, end.got) || !end.in.Ended() || !end.out.Settled() || end.pool.lent != 0 {
				t.Fatalf("end %d got %d of %d bytes, ended %v, settled %v, keeps %d", i, len(end.got), len(w.ends[1-i].wrote), end.in.Ended(),
					end.out.Settled(), end.pool.lent)
			}
		}
	})
}

func TestResetAndRefusalAreSaidOnEveryCarrier(t *testing.T) {
	for _, refuse := range []bool{false, true} {
		out := NewOut(Answerer)
		if refuse {
			_ = out.Refuse(RefusedDraining, "x")
		} else {
			_ = out.Accept()
			_, _ = out.Add([]byte("lost"), heap{})
			_ = out.Reset(ResetIdle, heap{})
		}
		for id := range uint32(3) {
			in, w := NewIn(Opener), &Way{ID: id + 1}
			wire, _ := out.Next(w, nil)
			if _, _, err := receive(&in, wire); !in.Over() || err == nil && !w.Done() {
				t.Errorf("%x: %v", wire, err)
			}
			if more, _ := out.Next(w, nil); len(more) > 0 || out.Waits(w) {
				t.Errorf("%x behind the end", more)
			}
			out.Lost(w.ID)
		}
		if !out.Waits(nil) || out.Ack(Settled, heap{}) != nil || !out.Settled() || out.Waits(nil) {
			t.Error("the end is never acknowledged")
		}
	}
}

func TestAcknowledgementsOfWhatWasNotSent(t *testing.T) {
	out := NewOut(Opener)
	_ = out.Open(Open{Source: web, Service: "a/b"})
	_, _ = out.Add([]byte("abc"), heap{})
	for _, offset := range []uint64{4, 5, MaxOffset} {
		if err := out.Ack(offset, heap{}); !errors.Is(err, ErrViolation) {
			t.Errorf("%d: %v", offset, err)
		}
	}
	if err := out.Ack(3, heap{}); err != nil || out.Unacked() != 0 {
		t.Errorf("%d unacknowledged, %v", out.Unacked(), err)
	}
}

// FuzzOut lets a hostile peer acknowledge and break carriers as it likes: what is kept stays within the pool's limit, and what is sent
// again is what was written.
func FuzzOut(f *testing.F) {
	f.Add([]byte{0, 30, 1, 0, 2, 5, 3, 0, 1, 0, 4, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		pool := &meter{limit: worldLimit}
		out := NewOut(Opener)
		_ = out.Open(Open{Source: web, Service: "a/b"})
		out.Heard()
		way, id, wrote := &Way{ID: 1}, uint32(1), 0
		scratch := make([]byte, 0, 64)
		var lent Piece
		for ; len(script) >= 2; script = script[2:] {
			n := int(script[1])
			switch script[0] % 7 {
			case 0:
				b := make([]byte, n)
				for i := range b {
					b[i] = byte(wrote + i)
				}
				took, _ := out.Add(b, pool)
				wrote += took
			case 1:
				out.Written(lent, pool)
				var frames []byte
				frames, lent = out.Next(way, scratch)
				if len(frames) >= HeaderLen && Type(frames[0]) == TypeData {
					h := ParseHeader(frames)
					for i, c := range frames[HeaderLen:] {
						if c != byte(h.Offset+uint64(i)) {
							t.Fatalf("byte %d of the frame at %d is %d", i, h.Offset, c)
						}
					}
				}
			case 2:
				_ = out.Ack(uint64(n), pool)
			case 3:
				out.Lost(way.ID)
				id++
				way = &Way{ID: id}
			case 4:
				_ = out.Fin()
			case 5:
				_ = out.Ack(Settled, pool)
			case 6:
				_ = out.Reset(ResetCode(n), pool)
			}
			if pool.lent > worldLimit+40 || pool.lent < 0 {
				t.Fatalf("%d octets are kept", pool.lent)
			}
		}
	})
}
