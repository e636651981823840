package exchange

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// A limit lets in as much as it says, and not one more.
func TestLimitsAreExact(t *testing.T) {
	two := func(name string) federation.ExportedService {
		return exported(name, slot("i-1", 1, 1), slot("i-2", 1, 1))
	}
	plain := newPair(t)
	plain.up(view(two("a")))
	one := plain.b.m.Status().Import.Bytes
	for _, c := range []struct {
		what   string
		limits Limits
		in     int
		code   federation.Code
	}{
		{"services", Limits{Services: 2}, 2, DiagRowQuota},
		{"slots", Limits{Slots: 4}, 2, DiagRowQuota},
		{"one slot too few", Limits{Slots: 3}, 1, DiagRowQuota},
		{"slots of a service", Limits{SlotsPerService: 2}, 4, ""},
		{"slots of a service, one too few", Limits{SlotsPerService: 1}, 0, DiagRowQuota},
		{"octets", Limits{Bytes: 2*one - rowCost}, 2, DiagRowQuota},
		{"one octet too few", Limits{Bytes: 2*one - rowCost - 1}, 1, DiagRowQuota},
	} {
		p := limited(t, c.limits)
		p.up(view(two("a"), two("b"), two("c"), two("d")))
		st := p.b.m.Status()
		if st.Import.Services != c.in || len(st.Import.Quarantined) != 4-c.in || st.State != federation.FreshnessLive {
			t.Errorf("%s: %d services, kept out %v", c.what, st.Import.Services, st.Import.Quarantined)
		}
		for _, q := range st.Import.Quarantined {
			if q.Code != c.code {
				t.Errorf("%s: %s", c.what, q.Code)
			}
		}
	}
}

func TestAsManyBadRowsAsMayBeRememberedAndNoMore(t *testing.T) {
	for bad, code := range map[int]uint64{4: CodeNone, 5: CodeLimit} {
		p := limited(t, Limits{Services: 2, Quarantined: 4})
		p.up(view())
		p.export(many(2+bad, 0))
		if got := p.b.closed; (got == nil) != (code == CodeNone) || got != nil && got.Code != code {
			t.Errorf("%d bad rows: closed %+v", bad, got)
		}
	}
}

func TestAsManyFramesAsTheWindowSaysAndNoMore(t *testing.T) {
	for more, code := range map[int]uint64{2: CodeNone, 3: CodeLimit} { // one is under way already
		p := limited(t, Limits{Window: 3, RowsPerSecond: 1})
		p.up(view(exported("web")))
		p.export(view(exported("web"), exported("a"), exported("b"), exported("c"))) // in debt: no acknowledgement for now
		if p.b.m.sess.recv.got-p.b.m.sess.recv.acked != 1 {
			t.Fatalf("%+v", p.b.m.sess.recv)
		}
		for range more {
			p.b.take(p.b.m.Receive(p.now, LaneMembership, deltaOf(1, 4, 4)))
		}
		if got := p.b.closed; (got == nil) != (code == CodeNone) || got != nil && got.Code != code {
			t.Errorf("%d frames more: closed %+v", more, got)
		}
	}
}

// A window that the peer claims is no reason to send more than our own.
func TestAHugeWindowIsNotBelieved(t *testing.T) {
	v := newVictim(t, Limits{Window: 3})
	v.take(v.m.Connected(v.now))
	v.get(LaneControl, hello{versionMin: 1, versionMax: 1, region: []byte("east"), epoch: v.e, window: 1 << 29}.frame())
	v.take(v.m.SetExport(v.now, many(3000, 20)))
	v.log = nil
	v.get(LaneControl, syncRequest{sub: 1, mode: modeSnapshot}.frame())
	if n := v.frames(); n[kindBegin]+n[kindRows] != 3 {
		t.Errorf("sent %v", n)
	}
}

func TestRefusalsHaveARate(t *testing.T) {
	p := limited(t, Limits{Services: 1})
	p.up(view())
	p.b.log = nil
	p.export(many(801, 0))
	told := 0
	for _, a := range p.b.log {
		if s, ok := a.(Send); ok {
			if k, b, _ := unwrap(s.Lane, s.Frame); k == kindNack {
				_ = decodePairs(b, maxNacks, func([]byte, uint64) error { told++; return nil })
			}
		}
	}
	if told != 200 || len(p.b.m.Status().Import.Quarantined) != 800 {
		t.Errorf("%d refusals at once", told)
	}
}

// Three jumps of our own epoch within ten minutes are three restores; a fourth is two clones.
func TestAFourthJumpIsNotMade(t *testing.T) {
	v := newVictim(t, Limits{})
	for i := range 4 {
		own := v.m.log.epoch
		v.log = nil
		v.take(v.m.Connected(v.now))
		v.get(LaneControl, hello{versionMin: 1, versionMax: 1, region: []byte("east"), epoch: v.e, window: 4,
			known: federation.Epoch{Counter: own.Counter + 5}}.frame())
		jump := slices.ContainsFunc(v.log, func(a Action) bool { _, ok := a.(JumpEpoch); return ok })
		if jump != (i < 3) || v.m.Status().Export.Held != true {
			t.Errorf("jump %d: %v, %+v", i+1, jump, v.m.Status().Export)
		}
		v.log = nil
		v.get(LaneControl, syncRequest{sub: 1, cursor: Cursor{Epoch: federation.Epoch{Counter: 1}, Digest: v.m.log.digest}}.frame())
		if n := v.frames(); n[kindBegin]+n[kindDelta] != 0 {
			t.Errorf("jump %d: with its epoch in doubt, west serves %v", i+1, n)
		}
		if jump {
			v.take(v.m.SetEpoch(v.now, federation.Epoch{Counter: own.Counter + 6, Incarnation: 1}))
		}
		v.now = v.now.Add(time.Minute)
	}
}

// The brake looks back ten seconds: no less and no more.
func TestTheBrakeLooksBackTenSeconds(t *testing.T) {
	for apart, held := range map[time.Duration]int{9 * time.Second: 1, 11 * time.Second: 0} {
		p := newPair(t)
		p.up(view(many(1, 20).Services[0]))
		p.run(time.Second)
		down := func(from, to int) {
			var slots []federation.ExportedSlot
			for i := from; i < to; i++ {
				slots = append(slots, slot(fmt.Sprintf("i-%016d", i), 0, 1))
			}
			p.a.take(p.a.m.SetHealth(p.now, name("svc-00000"), slots))
			p.run(100 * time.Millisecond)
		}
		down(0, 5)
		p.run(apart - 100*time.Millisecond)
		down(5, 7) // 7 of 20 is more than 30 %; 2 of 15 is not
		if n := p.b.m.Status().Import.Held; n != held {
			t.Errorf("%v apart: %d held", apart, n)
		}
	}
}

func TestHealthIsAskedForOnceASecond(t *testing.T) {
	v := newVictim(t, Limits{})
	asked := 0
	for i := range 40 {
		v.log = nil
		v.get(LaneHealth, statementOf("web", uint64(10+i), 7, 9, 1, 1)) // of a slot that west does not have
		v.now = v.now.Add(100 * time.Millisecond)
		v.take(v.m.Tick(v.now))
		asked += v.frames()[kindHealthWant]
	}
	if asked < 3 || asked > 4 {
		t.Errorf("asked %d times within 4 s", asked)
	}
}

// What was said of the catalog's head in a session that is fenced makes nothing fresh.
func TestAFencedHeartbeatIsNoNews(t *testing.T) {
	v := newVictim(t, Limits{})
	before := v.m.Status().Import
	v.take(v.m.Connected(v.now))
	clone := federation.Epoch{Counter: 1, Incarnation: 7}
	v.get(LaneControl, hello{versionMin: 1, versionMax: 1, region: []byte("east"), epoch: clone, window: 4}.frame())
	v.now = v.now.Add(500 * time.Millisecond)
	v.get(LaneControl, head{cursor: Cursor{Epoch: clone, Seq: 99}, time: v.now.UnixNano()}.frame())
	if st := v.m.Status().Import; st.Head != before.Head || st.LastHead != before.LastHead {
		t.Errorf("head %v of %v, was %v of %v", st.Head, st.LastHead, before.Head, before.LastHead)
	}
}

func TestASlotOfNoGenerationIsKeptOut(t *testing.T) {
	reader := rowReader{domain: federation.DefaultTrustDomain("east"), slots: 10, known: map[string]string{}}
	body := appendBody(nil, federation.ProtocolTCP, federation.DetailEndpoints, []federation.ExportedSlot{{Key: "x"}}, []place{{0, 0}})
	if _, bad := reader.read(name("web"), body); bad != faultSlot {
		t.Errorf("%+v", bad)
	}
}

// A saved import whose sums hold and whose rows are not those of its cursor is not used.
func TestSavedRowsHaveTheDigestOfTheirCursor(t *testing.T) {
	p := newPair(t)
	p.up(view(exported("web", slot("i-1", 1, 1))))
	p.b.m.imp.applied.Digest.Lo++
	if _, err := New(testConfig("west", "east", 2), p.b.m.Saved()); federation.CodeOf(err) != DiagSaved {
		t.Errorf("%v", err)
	}
}

// What one life could not understand, the next one asks for.
func TestABadRowIsAskedForAgainAfterARestart(t *testing.T) {
	p := limited(t, Limits{SlotsPerService: 1})
	v := view(exported("web", slot("i-1", 1, 1), slot("i-2", 1, 1)), exported("db"))
	p.up(v)
	m, err := New(testConfig("west", "east", 2), p.b.m.Saved()) // with a greater limit
	if err != nil {
		t.Fatal(err)
	}
	p.a.take(p.a.m.Disconnected(p.now))
	p.b = &end{m: m}
	p.b.take(p.b.m.SetExport(p.now, view()))
	p.connect()
	p.run(time.Second)
	if st := m.Status(); st.Import.Services != 2 || len(st.Import.Quarantined) != 0 {
		t.Errorf("%+v", st.Import)
	}
}
