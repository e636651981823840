package exchange

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

func name(s string) federation.ServiceName {
	return federation.ServiceName{Namespace: "default", Name: s}
}

// limited is a pair whose west end has limits.
func limited(t testing.TB, limits Limits) *pair {
	p := newPair(t)
	cfg := testConfig("west", "east", 1)
	cfg.Limits = limits
	m, err := New(cfg, nil)
	if err != nil {
		t.Fatal(err)
	}
	p.b.m = m
	return p
}

func (p *pair) export(v federation.ExportView) { p.a.take(p.a.m.SetExport(p.now, v)); p.settle() }

// up connects a pair in which a shows v and b shows nothing.
func (p *pair) up(v federation.ExportView) {
	p.export(v)
	p.b.take(p.b.m.SetExport(p.now, view()))
	p.connect()
	p.run(10 * time.Millisecond)
}

func (e *end) alarms() (codes []federation.Code) {
	for _, a := range e.log {
		if a, ok := a.(Alarm); ok {
			codes = append(codes, a.Diagnostic.Code)
		}
	}
	return codes
}

// frames returns what e sent since it was last asked, by kind.
func (e *end) frames() map[kind]int {
	n := map[kind]int{}
	for _, a := range e.log {
		if a, ok := a.(Send); ok {
			k, _, _ := unwrap(a.Lane, a.Frame)
			n[k]++
		}
	}
	e.log = nil
	return n
}

func (e *end) octets() (n int) {
	for _, a := range e.log {
		if a, ok := a.(Send); ok {
			n += len(a.Frame)
		}
	}
	e.log = nil
	return n
}

func TestASingleChangeOfHealthLeavesAtOnceAndIsSmall(t *testing.T) {
	p := newPair(t)
	p.up(many(100, 10))
	p.run(time.Second)
	p.a.take(p.a.m.SetHealth(p.now, name("svc-00007"), []federation.ExportedSlot{slot("i-0000000000000003", 0, 1)})) // introduces
	p.run(time.Second)
	p.a.octets()
	p.a.take(p.a.m.SetHealth(p.now, name("svc-00007"), []federation.ExportedSlot{slot("i-0000000000000003", 1, 1)}))
	if n := p.a.octets(); n == 0 || n > 24 {
		t.Errorf("one change took %d octets, at most 24 are allowed, and it has to leave at once", n)
	}
	p.settle()
	if got := p.b.imp.Service(name("svc-00007")).Lane.Load(3); got.Healthy != 1 {
		t.Errorf("%+v", got)
	}
}

func TestVersionsAndRegionsThatDoNotFit(t *testing.T) {
	good := hello{versionMin: 1, versionMax: 1, region: []byte("east"), epoch: federation.Epoch{Counter: 1}, window: 4}
	for _, c := range []struct {
		what string
		edit func(*hello)
		code uint64
	}{
		{"a later version only", func(h *hello) { h.versionMin, h.versionMax = 2, 3 }, CodeVersion},
		{"another region", func(h *hello) { h.region = []byte("north") }, CodeWrongPeer},
		{"no epoch", func(h *hello) { h.epoch = federation.Epoch{} }, CodeMalformed},
		{"no window", func(h *hello) { h.window = 0 }, CodeMalformed},
	} {
		m, _ := New(testConfig("west", "east", 1), nil)
		e := &end{m: m}
		e.take(m.Connected(epoch0))
		h := good
		c.edit(&h)
		e.take(m.Receive(epoch0, LaneControl, h.frame()))
		if e.closed == nil || e.closed.Code != c.code {
			t.Errorf("%s: closed %+v, want %s", c.what, e.closed, CodeName(c.code))
		}
	}
}

func TestNoGreetingNoHeartbeat(t *testing.T) {
	m, _ := New(testConfig("west", "east", 1), nil)
	e := &end{m: m}
	e.take(m.Connected(epoch0))
	e.take(m.Tick(epoch0.Add(5 * time.Second)))
	if e.closed == nil || e.closed.Code != CodeSilent {
		t.Errorf("no greeting: %+v", e.closed)
	}
	e.closed = nil
	e.take(m.Connected(epoch0.Add(10 * time.Second)))
	e.take(m.Receive(epoch0.Add(10*time.Second), LaneHealth, frame(kindHealth, nil)))
	if e.closed == nil || e.closed.Code != CodeMalformed {
		t.Errorf("health before the greeting: %+v", e.closed)
	}
}

func TestWhatCannotBeExportedIsNotAndWhatWasStays(t *testing.T) {
	p := newPair(t)
	p.up(view(exported("web", slot("i-1", 1, 1))))
	bad := exported("web", slot("i-1", 1, 1), slot("i-\n", 1, 1))
	p.export(view(bad))
	p.run(time.Second)
	if !slices.Contains(p.a.alarms(), DiagExport) || len(p.b.imp.Service(name("web")).Slots) != 1 {
		t.Errorf("alarms %v, west has %s", p.a.alarms(), describeImport(p.b.imp))
	}
}

func TestClocksThatDifferRaiseAnAlarm(t *testing.T) {
	for apart, alarm := range map[time.Duration]bool{9 * time.Second: false, 11 * time.Second: true} {
		p := newPair(t)
		p.up(view())
		for range 20 {
			p.now = p.now.Add(time.Second)
			f := head{cursor: p.a.m.log.cursor(), time: p.now.Add(apart).UnixNano()}.frame()
			p.b.take(p.b.m.Receive(p.now, LaneControl, f))
		}
		if off := p.b.m.Status().ClockOffset; off != apart || slices.Contains(p.b.alarms(), DiagClock) != alarm {
			t.Errorf("offset %v, alarms %v", off, p.b.alarms())
		}
	}
}

func TestSlotsThatFlappedAreForgotten(t *testing.T) {
	m, _ := New(testConfig("east", "west", 1), nil)
	v := many(10, 2000)
	m.SetExport(epoch0, v)
	now := epoch0
	for _, s := range v.Services {
		for i := range s.Slots {
			m.SetHealth(now, s.Name, []federation.ExportedSlot{slot(s.Slots[i].Key, 0, 1)})
		}
		now = now.Add(20 * time.Second)
	}
	if n := len(m.out.damping.slots); n > 2*dampersToForget {
		t.Errorf("%d dampers are kept after 20,000 slots changed one by one", n)
	}
}

func TestAServiceOfFiveThousandSlotsTravelsInParts(t *testing.T) {
	p := limited(t, Limits{Window: 2})
	svc := exported("big")
	for i := range 5000 {
		svc.Slots = append(svc.Slots, slot(fmt.Sprintf("i-%05d-%s", i, strings.Repeat("x", 60)), uint32(i%2), 1))
	}
	p.up(view(svc, exported("small", slot("i-1", 1, 1))))
	p.run(time.Second)
	got := p.b.imp.Service(name("big"))
	if got == nil || len(got.Slots) != 5000 {
		t.Fatalf("west has %+v, closed %v %v", p.b.imp, p.a.closed, p.b.closed)
	}
	if healthy, total := got.Lane.Sum(); healthy != 2500 || total != 5000 {
		t.Errorf("health is %d of %d", healthy, total)
	}
	// The same as a delta, while its health changes under way: what the parts carry is old by the time they are there.
	svc.Slots = slices.Clone(svc.Slots)
	svc.Slots[0].Weight = 7
	p.a.take(p.a.m.SetExport(p.now, view(svc, exported("small", slot("i-1", 1, 1)))))
	p.now = p.now.Add(10 * time.Millisecond) // two parts are on their way, the others wait for an acknowledgement
	p.a.take(p.a.m.SetHealth(p.now, name("big"), []federation.ExportedSlot{slot(svc.Slots[0].Key, 1, 1)}))
	p.now = p.now.Add(10 * time.Millisecond)
	p.a.take(p.a.m.Tick(p.now))
	p.run(2 * time.Second)
	got = p.b.imp.Service(name("big"))
	if got.Slots[0].Weight != 7 || got.Lane.Load(0).Healthy != 1 {
		t.Errorf("after the change: %+v, %+v", got.Slots[0], got.Lane.Load(0))
	}
	if p.b.m.Status().State != federation.FreshnessLive {
		t.Errorf("%+v", p.b.m.Status())
	}
}

func TestNoMoreFramesAreOnTheirWayThanTheWindowAllows(t *testing.T) {
	p := limited(t, Limits{Window: 3})
	p.up(view())
	p.a.frames()
	p.a.take(p.a.m.SetExport(p.now, many(2000, 20)))
	if n := p.a.frames()[kindDelta]; n != 3 {
		t.Errorf("%d deltas were sent at once, the peer's window is 3", n)
	}
	p.run(time.Second)
	if p.b.m.Status().Import.Services != 2000 {
		t.Errorf("%+v", p.b.m.Status().Import)
	}
}

func TestAHostileSenderThatIgnoresTheWindowIsCutOff(t *testing.T) {
	p := limited(t, Limits{Window: 3, RowsPerSecond: 1})
	p.up(view(exported("web")))
	p.export(view(exported("web"), exported("a"), exported("b"), exported("c"))) // in debt: no acknowledgement for now
	for range 4 {
		p.b.take(p.b.m.Receive(p.now, LaneMembership, frame(kindDelta, appendUint(appendUint(appendUint(nil, 1, 1), 2, 4), 3, 4))))
	}
	if p.b.closed == nil || p.b.closed.Code != CodeLimit {
		t.Errorf("closed: %+v", p.b.closed)
	}
	if len(p.b.imp.Services) == 0 {
		t.Error("the last good import has gone")
	}
}

func TestRowsFasterThanAllowedAreAcknowledgedLate(t *testing.T) {
	p := limited(t, Limits{RowsPerSecond: 100, Window: 2})
	p.export(many(1000, 1))
	p.b.take(p.b.m.SetExport(p.now, view()))
	p.connect()
	p.run(5 * time.Second)
	if n := p.b.m.Status().Import.Services; n != 0 {
		t.Errorf("1000 rows at 100 a second took less than 5 s: %d", n)
	}
	p.run(6 * time.Second)
	if st := p.b.m.Status(); st.Import.Services != 1000 || st.State != federation.FreshnessLive {
		t.Errorf("after 11 s: %+v", st)
	}
}

func TestHealthFasterThanAllowedEndsTheSession(t *testing.T) {
	p := limited(t, Limits{HealthPerSecond: 10, Slots: 20, Services: 5})
	p.up(view(exported("web", slot("i-1", 1, 1))))
	var slots []byte
	for range 100 {
		slots = append(slots, 0, 1, 1, 1)
	}
	for i := range 3 {
		st := appendMessage(nil, 1, func(b []byte) []byte {
			return appendBytes(appendUint(appendString(b, 2, "web"), 3, uint64(10+i)), 4, slots)
		})
		p.b.take(p.b.m.Receive(p.now, LaneHealth, frame(kindHealth, st)))
	}
	if p.b.closed == nil || p.b.closed.Code != CodeLimit || len(p.b.imp.Services) != 1 {
		t.Errorf("closed: %+v", p.b.closed)
	}
}

func TestOverQuotaKeepsWhatIsThereAndComesBackWithRoom(t *testing.T) {
	p := limited(t, Limits{Services: 3})
	p.up(view(exported("a"), exported("b"), exported("c")))
	p.export(view(exported("a"), exported("b"), exported("c"), exported("d")))
	p.run(time.Second)
	if _, ok := p.b.imp.Services[name("d")]; ok || len(p.b.imp.Services) != 3 {
		t.Fatalf("west has %v", p.b.imp.Services)
	}
	st, sender := p.b.m.Status(), p.a.m.Status()
	if len(st.Import.Quarantined) != 1 || st.Import.Quarantined[0].Code != DiagRowQuota || st.State != federation.FreshnessLive {
		t.Errorf("%+v", st)
	}
	if len(sender.Export.Refused) != 1 || sender.Export.Refused[0].Service != "d" {
		t.Errorf("east does not know: %+v", sender.Export)
	}
	p.export(view(exported("b"), exported("c"), exported("d")))
	p.connect()
	p.run(3 * time.Second)
	if _, ok := p.b.imp.Services[name("d")]; !ok || len(p.b.m.Status().Import.Quarantined) != 0 {
		t.Errorf("with room, west has %v", p.b.imp.Services)
	}
}

func TestTooManyBadRowsEndTheSession(t *testing.T) {
	p := limited(t, Limits{Services: 2, Quarantined: 4})
	p.up(view(exported("a"), exported("b")))
	p.export(many(7, 1))
	if p.b.closed == nil || p.b.closed.Code != CodeLimit {
		t.Errorf("closed: %+v", p.b.closed)
	}
}

func TestDroppedTombstonesMakeAReconciliation(t *testing.T) {
	p := newPair(t)
	p.a.m.lim.Tombstones = 2
	p.up(many(10, 0))
	p.a.take(p.a.m.Disconnected(p.now))
	p.b.take(p.b.m.Disconnected(p.now))
	p.export(many(5, 0))
	if st := p.a.m.Status().Export; st.Tombstones != 2 || p.a.m.log.floor == 0 {
		t.Fatalf("%+v, floor %d", st, p.a.m.log.floor)
	}
	p.a.frames()
	p.connect()
	p.run(time.Second)
	if n := p.a.frames(); n[kindBegin] != 1 || n[kindRows] != 0 || len(p.b.imp.Services) != 5 {
		t.Errorf("frames %v, west has %d services", n, len(p.b.imp.Services))
	}
}

func TestOldTombstonesAreForgottenAfterADay(t *testing.T) {
	p := newPair(t)
	p.export(many(3, 1))
	p.export(many(2, 1))
	p.now = p.now.Add(25 * time.Hour)
	p.export(many(1, 1))
	if st := p.a.m.Status().Export; st.Tombstones != 1 {
		t.Errorf("%d tombstones, want the young one", st.Tombstones)
	}
}

func TestTheSameContentIsNotPublishedAgain(t *testing.T) {
	p := newPair(t)
	p.up(many(5, 2))
	p.run(time.Second)
	before := p.b.imp
	p.a.take(p.a.m.SetExport(p.now, many(5, 2)))
	p.connect()
	p.run(time.Second)
	r := p.a.m.log.rows[name("svc-00002")]
	p.a.m.log.touch(r) // a row that says again what it said
	p.a.take(p.a.m.Tick(p.now))
	p.run(time.Second)
	if p.b.imp != before || p.b.m.imp.applied.Seq != 6 {
		t.Errorf("published again at %v", p.b.m.imp.applied)
	}
}

func TestWhoHoldsAnOldServiceSeesNewHealth(t *testing.T) {
	p := newPair(t)
	p.up(view(exported("web", slot("i-1", 1, 1), slot("i-2", 1, 1))))
	old := p.b.imp.Service(name("web"))
	heavier := slot("i-2", 1, 1)
	heavier.Weight = 200
	p.export(view(exported("web", slot("i-1", 1, 1), heavier))) // same tenants: the lane goes on
	p.run(time.Second)
	p.a.take(p.a.m.SetHealth(p.now, name("web"), []federation.ExportedSlot{slot("i-1", 0, 1)}))
	p.settle()
	if now := p.b.imp.Service(name("web")); now == old || now.Slots[1].Weight != 200 || now.Lane != old.Lane || old.Lane.Load(0).Healthy != 0 {
		t.Errorf("old %+v, new %+v", old, now)
	}
}

// Heartbeats that were stuck on the way and come in a burst do not make an import LIVE: the last of them does.
func TestOldHeartbeatsAreNotFreshNews(t *testing.T) {
	p := newPair(t)
	p.up(view(exported("web")))
	p.run(10 * time.Second)
	var stuck [][]byte
	for range 20 {
		p.now = p.now.Add(time.Second)
		stuck = append(stuck, head{cursor: p.a.m.log.cursor(), time: p.now.UnixNano()}.frame())
	}
	p.b.take(p.b.m.Tick(p.now))
	if p.b.imp.Freshness != federation.FreshnessStale {
		t.Fatal(p.b.imp.Freshness)
	}
	for _, f := range stuck[:14] {
		p.b.take(p.b.m.Receive(p.now, LaneControl, f))
	}
	if p.b.imp.Freshness != federation.FreshnessStale {
		t.Errorf("a heartbeat of six seconds ago makes it %v", p.b.imp.Freshness)
	}
	p.b.take(p.b.m.Receive(p.now, LaneControl, stuck[19]))
	if p.b.imp.Freshness != federation.FreshnessLive {
		t.Errorf("the newest makes it %v", p.b.imp.Freshness)
	}
}
