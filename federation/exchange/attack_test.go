package exchange

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// victim is west with an import of east that is LIVE; whatever east sends from now on is written by the test.
type victim struct {
	*end
	now time.Time
	e   federation.Epoch
}

func newVictim(t testing.TB, limits Limits, services ...federation.ExportedService) *victim {
	if services == nil {
		services = []federation.ExportedService{exported("web", slot("i-1", 1, 1), slot("i-2", 1, 1))}
	}
	p := limited(t, limits)
	p.up(view(services...))
	p.b.log, p.b.closed = nil, nil
	return &victim{end: p.b, now: p.now, e: p.a.m.log.epoch}
}

func (v *victim) get(lane Lane, f []byte) { v.take(v.m.Receive(v.now, lane, f)) }

// sixfold is a service with enough endpoints for the brake to care.
func sixfold() federation.ExportedService {
	return exported("web", slot("a", 1, 1), slot("b", 1, 1), slot("c", 1, 1), slot("d", 1, 1), slot("e", 1, 1), slot("f", 1, 1))
}

// row writes a row of one field number, with slots i-1 and so on, all healthy.
func row(field int, wire string, seq, hv uint64, slots ...string) []byte {
	var s []federation.ExportedSlot
	var places []place
	var health []byte
	for i, key := range slots {
		s = append(s, federation.ExportedSlot{Key: key, Weight: 1})
		places = append(places, place{uint16(i), 1})
		health = append(health, 1, 1)
	}
	body := appendBody(nil, federation.ProtocolTCP, federation.DetailEndpoints, s, places)
	return appendMessage(nil, kind(field), func(b []byte) []byte {
		b = appendBytes(appendUint(appendString(b, 1, wire), 2, seq), 3, body)
		return appendBytes(appendUint(b, 5, hv), 6, health)
	})
}

func deltaOf(sub, from, to uint64, rows ...[]byte) []byte {
	return frame(kindDelta, append(appendUint(appendUint(appendUint(nil, 1, sub), 2, from), 3, to), slices.Concat(rows...)...))
}

func statementOf(service string, hv uint64, slots ...byte) []byte {
	return frame(kindHealth, appendMessage(nil, 1, func(b []byte) []byte {
		return appendBytes(appendUint(appendString(b, 2, service), 3, hv), 4, slots)
	}))
}

// TestAttacks is what a hostile peer may try, and the code that its session ends with. Its last good import always stays.
func TestAttacks(t *testing.T) {
	times := func(n int, lane Lane, f func(i int) []byte) func(*victim) {
		return func(v *victim) {
			for i := range n {
				if v.get(lane, f(i)); v.closed != nil {
					return
				}
			}
		}
	}
	once := func(lane Lane, f []byte) func(*victim) { return times(1, lane, func(int) []byte { return f }) }
	reasons := map[string]string{"withdrawals of more than there can be": "more withdrawals than a peer has rows"} // two limits, one code
	var tooMany [][]byte
	for i := range maxRowsPerFrame + 1 {
		tooMany = append(tooMany, row(4, fmt.Sprintf("s%d", i), uint64(2+i), 1))
	}
	for _, a := range []struct {
		what   string
		limits Limits
		code   uint64
		do     func(*victim)
	}{
		{"rows out of order", Limits{}, CodeMalformed, once(LaneMembership, deltaOf(1, 1, 5, row(4, "a", 3, 1), row(4, "b", 2, 1)))},
		{"a row beyond the end", Limits{}, CodeMalformed, once(LaneMembership, deltaOf(1, 1, 2, row(4, "a", 3, 1)))},
		{"a row before the start", Limits{}, CodeMalformed, once(LaneMembership, deltaOf(1, 1, 2, row(4, "a", 1, 1)))},
		{"a delta that goes back", Limits{}, CodeMalformed, once(LaneMembership, deltaOf(1, 1, 0))},
		{"too many rows", Limits{}, CodeMalformed, once(LaneMembership, deltaOf(1, 1, 200, tooMany...))},
		{"a subscription nobody made", Limits{}, CodeMalformed, once(LaneMembership, deltaOf(2, 1, 1))},
		{"bulk that nobody asked for", Limits{}, CodeMalformed, once(LaneBulk, begin{sub: 1, mode: modeSnapshot}.frame())},
		{"rows without a beginning", Limits{}, CodeMalformed, once(LaneBulk, frame(kindRows, appendUint(nil, 1, 1)))},
		{"a wrong lane", Limits{}, CodeMalformed, once(LaneHealth, deltaOf(1, 1, 1))},
		{"a lane that is none", Limits{}, CodeMalformed, once(Lane(9), deltaOf(1, 1, 1))},
		{"a frame too long", Limits{}, CodeMalformed, once(LaneHealth, frame(kindHealth, appendBytes(nil, 9, make([]byte, MaxFrame-7))))},
		{"a control frame too long", Limits{}, CodeMalformed, once(LaneControl, frame(kindGoAway, appendBytes(nil, 9, make([]byte, MaxControlFrame-4))))},
		{"a second greeting", Limits{}, CodeMalformed, once(LaneControl, hello{versionMin: 1, versionMax: 1, region: []byte("east"),
			epoch: federation.Epoch{Counter: 9}, window: 1}.frame())},
		{"a heartbeat of another epoch", Limits{}, CodeMalformed, once(LaneControl,
			head{cursor: Cursor{Epoch: federation.Epoch{Counter: 2}}}.frame())},
		{"a heartbeat that goes back", Limits{}, CodeMalformed, times(2, LaneControl, func(i int) []byte {
			return head{cursor: Cursor{Epoch: federation.Epoch{Counter: 1, Incarnation: 1000}, Seq: uint64(9 - i)}}.frame()
		})},
		{"a row in the middle of another one", Limits{}, CodeMalformed, times(2, LaneMembership, func(i int) []byte {
			if i == 1 {
				return deltaOf(1, 1, 1)
			}
			return frame(kindDelta, part{total: 10, data: []byte("x")}.append(appendUint(appendUint(appendUint(nil, 1, 1), 2, 1), 3, 1), 5))
		})},
		{"a piece that comes twice", Limits{}, CodeMalformed, times(2, LaneMembership, func(i int) []byte {
			return frame(kindDelta, part{total: 10, offset: uint64(2 * i), data: []byte("x")}.append(
				appendUint(appendUint(appendUint(nil, 1, 1), 2, 1), 3, 1), 5))
		})},
		{"handles beyond all rows", Limits{Services: 10, Quarantined: 5}, CodeMalformed, once(LaneHealth, frame(kindHealth,
			appendMessage(nil, 1, func(b []byte) []byte { return appendUint(appendString(appendUint(b, 1, 16), 2, "x"), 3, 9) })))},
		{"wants without end", Limits{Services: 10, RowsPerSecond: 1}, CodeLimit, func(v *victim) {
			v.get(LaneControl, syncRequest{sub: 2, mode: modeReconcile}.frame())
			for range 10 {
				if v.closed != nil {
					return
				}
				v.m.sess.send.step = stepWants // it is not the order of things that is looked at here
				v.get(LaneBulk, listing{sub: 2, entries: make([]byte, 8*wantsPerFrame)}.frame(kindWant))
			}
		}},
		{"an acknowledgement of what was not sent", Limits{}, CodeMalformed, once(LaneControl, applied{sub: 1, frames: 99}.frame())},
		{"an acknowledgement taken back", Limits{}, CodeMalformed, once(LaneControl, applied{sub: 1}.frame())},
		{"an acknowledgement of another subscription", Limits{}, CodeMalformed, once(LaneControl, applied{sub: 2, frames: 3}.frame())},
		{"an old request", Limits{}, CodeMalformed, once(LaneControl, syncRequest{sub: 1}.frame())},
		{"a want out of turn", Limits{}, CodeMalformed, once(LaneBulk, listing{sub: 1}.frame(kindWant))},
		{"pieces out of order", Limits{}, CodeMalformed, once(LaneMembership, frame(kindDelta,
			part{total: 10, offset: 5, data: []byte("x")}.append(appendUint(appendUint(appendUint(nil, 1, 1), 2, 1), 3, 1), 5)))},
		{"health of a handle nobody introduced", Limits{}, CodeMalformed, once(LaneHealth, frame(kindHealth,
			appendMessage(nil, 1, func(b []byte) []byte { return appendUint(appendUint(b, 1, 77), 3, 9) })))},
		{"health without an order", Limits{}, CodeMalformed, once(LaneHealth, statementOf("web", 0, 0, 1, 1, 1))},
		{"health of half a slot", Limits{}, CodeMalformed, once(LaneHealth, statementOf("web", 1<<40, 0, 1, 1))},
		{"health of a row that has other slots", Limits{}, CodeMalformed, once(LaneMembership, deltaOf(1, 1, 2, appendMessage(nil, 4,
			func(b []byte) []byte {
				body := appendBody(nil, "tcp", "summary", []federation.ExportedSlot{{Key: "x"}}, []place{{0, 1}})
				return appendBytes(appendBytes(appendUint(appendString(b, 1, "a"), 2, 2), 3, body), 6, []byte{1, 1, 1, 1})
			})))},
		{"a bundle too long", Limits{BundleBytes: 10}, CodeMalformed, once(LaneUrgent, bundleFrame(make([]byte, 11)))},
		{"bundles without end", Limits{}, CodeLimit, times(20, LaneUrgent, func(int) []byte { return bundleFrame([]byte("b")) })},
		{"heartbeats without end", Limits{}, CodeLimit, times(50_000, LaneControl, func(int) []byte {
			return head{cursor: Cursor{Epoch: federation.Epoch{Counter: 1, Incarnation: 1000}, Seq: 1}}.frame()
		})},
		{"left-overs without end", Limits{}, CodeLimit, times(50_000, LaneControl, func(int) []byte { return goAwayFrame(7) })},
		{"requests without end", Limits{}, CodeLimit, times(30, LaneControl, func(i int) []byte {
			return syncRequest{sub: uint64(2 + i)}.frame()
		})},
		{"withdrawals faster than allowed", Limits{Services: 100, RowsPerSecond: 1}, CodeLimit, times(20, LaneUrgent, func(int) []byte {
			var b []byte
			for i := range 20 {
				b = appendGone(b, fmt.Sprintf("s%d", i), 9)
			}
			return frame(kindWithdraw, b)
		})},
		{"withdrawals of more than there can be", Limits{Services: 10, Quarantined: 5}, CodeLimit, times(30, LaneUrgent, func(i int) []byte {
			return frame(kindWithdraw, appendGone(nil, fmt.Sprintf("s%d", i), 1<<50))
		})},
		{"gaps without end", Limits{}, CodeDigest, func(v *victim) {
			for i := range 20 {
				if v.get(LaneMembership, deltaOf(uint64(1+i), 77, 78)); v.closed != nil {
					return
				}
			}
		}},
		{"a snapshot of more rows than there can be", Limits{Services: 10, Quarantined: 5}, CodeLimit, bulk(modeSnapshot,
			func(v *victim, sub uint64, i int) {
				v.get(LaneBulk, frame(kindRows, append(appendUint(nil, 1, sub), row(2, fmt.Sprintf("s%d", i), uint64(i+1), 1)...)))
			})},
		{"a list of more rows than there can be", Limits{Services: 10, Quarantined: 5}, CodeLimit, bulk(modeReconcile,
			func(v *victim, sub uint64, i int) {
				v.get(LaneBulk, listing{sub: sub, entries: make([]byte, 16)}.frame(kindDigests))
			})},
		{"a snapshot of more octets than there can be", Limits{Quarantined: 1, Bytes: 4000}, CodeLimit, bulk(modeSnapshot,
			func(v *victim, sub uint64, i int) {
				v.get(LaneBulk, frame(kindRows, append(appendUint(nil, 1, sub), row(2, fmt.Sprintf("s%d", i), uint64(i+1), 1)...)))
			})},
		{"an adoption of what we do not have", Limits{}, CodeDigest, func(v *victim) {
			for i := range 9 {
				v.get(LaneMembership, deltaOf(uint64(1+i), 77, 78))
				v.get(LaneBulk, begin{sub: uint64(2 + i), mode: modeSnapshot}.frame())
				v.get(LaneBulk, barrier{sub: uint64(2 + i), count: 3, cursor: Cursor{Epoch: v.e, Seq: 9}}.frame())
			}
		}},
	} {
		t.Run(a.what, func(t *testing.T) {
			v := newVictim(t, a.limits)
			before := describeServices(v.imp)
			a.do(v)
			if v.closed == nil || v.closed.Code != a.code {
				t.Errorf("closed: %+v, want %s", v.closed, CodeName(a.code))
			}
			if v.closed != nil && reasons[a.what] != "" && v.closed.Reason != reasons[a.what] {
				t.Errorf("closed because %q, want %q", v.closed.Reason, reasons[a.what])
			}
			if after := describeServices(v.imp); after != before || v.m.Status().Connected {
				t.Errorf("west had%s and has%s", before, after)
			}
		})
	}
}

// bulk brings a victim into a reconciliation or a snapshot and goes on with it.
func bulk(how mode, more func(v *victim, sub uint64, i int)) func(*victim) {
	return func(v *victim) {
		v.m.lim.Window = 1000
		v.get(LaneMembership, deltaOf(1, 77, 78))
		v.get(LaneBulk, begin{sub: 2, mode: how}.frame())
		for i := range 40 {
			if more(v, 2, i); v.closed != nil {
				return
			}
		}
	}
}

func TestAPeerThatDoesNotKnowYetWhatItShowsIsQuiet(t *testing.T) {
	p := newPair(t)
	p.b.take(p.b.m.SetExport(p.now, view()))
	p.connect()
	p.run(4 * time.Second)
	if n := p.a.frames(); n[kindHead] != 0 || n[kindBegin] != 0 || n[kindDelta] != 0 {
		t.Errorf("it said %v", n)
	}
}

func TestAnAgeFromTheFutureIsNow(t *testing.T) {
	p := newPair(t)
	p.now = epoch0.Add(72 * time.Hour) // the clock was ahead when it was saved
	p.up(view(exported("web")))
	m, err := New(testConfig("west", "east", 1), p.b.m.Saved())
	if err != nil {
		t.Fatal(err)
	}
	e := &end{m: m}
	e.take(m.Tick(epoch0))
	e.take(m.Tick(epoch0.Add(25 * time.Hour)))
	if e.imp != nil {
		t.Errorf("after a day it is %v", e.imp.Freshness)
	}
}

func TestARowThatMovesWhileItIsNextIsNotLost(t *testing.T) {
	p := limited(t, Limits{Window: 1})
	p.up(many(5, 1))
	p.run(time.Second)
	resyncs := p.b.m.Status().Import.Resyncs
	v := many(300, 1)
	p.a.take(p.a.m.SetExport(p.now, v)) // the window lets the first frame go
	next := p.a.m.sess.send.next
	v.Services = slices.Clone(v.Services)
	for i := range v.Services {
		if v.Services[i].Name == next.name {
			v.Services[i].Slots = []federation.ExportedSlot{slot("other", 1, 1)}
		}
	}
	p.export(v)
	p.run(time.Second)
	if st := p.b.m.Status().Import; st.Services != 300 || st.Resyncs != resyncs || st.Applied.Digest != p.a.m.log.digest {
		t.Errorf("%+v", st)
	}
}

func TestAPeersClockThatWasSetBackDoesNotExpireItsImport(t *testing.T) {
	v := newVictim(t, Limits{})
	v.m.cfg.MaxStale = time.Minute
	for i := range 110 {
		v.now = v.now.Add(time.Second)
		sent := v.now
		if i > 10 {
			sent = v.now.Add(-3 * time.Hour)
		}
		v.get(LaneControl, head{cursor: v.m.imp.applied, time: sent.UnixNano()}.frame())
		if v.imp == nil {
			t.Fatalf("withdrawn after %d s", i)
		}
	}
	for range 120 {
		v.now = v.now.Add(time.Second)
		v.get(LaneControl, head{cursor: v.m.imp.applied, time: v.now.Add(-3 * time.Hour).UnixNano()}.frame())
	}
	if v.imp.Freshness != federation.FreshnessLive {
		t.Errorf("two minutes later it is %v", v.imp.Freshness)
	}
}

func TestWhenMuchFlapsNewsIsGatheredLonger(t *testing.T) {
	p := newPair(t)
	p.up(many(10, 50))
	p.run(time.Second)
	p.a.frames()
	for i := range 100 {
		for j := range 10 {
			flaps := []federation.ExportedSlot{slot(fmt.Sprintf("i-%016d", i/2), uint32(i%2), 1)}
			p.a.take(p.a.m.SetHealth(p.now, name(fmt.Sprintf("svc-%05d", j)), flaps))
		}
		p.run(5 * time.Millisecond)
	}
	if n := p.a.frames()[kindHealth]; n > 40 {
		t.Errorf("1000 changes in half a second took %d frames", n)
	}
}

func TestADeltaOfANewLifeIsNotAppliedToTheOldOne(t *testing.T) {
	v := newVictim(t, Limits{})
	v.take(v.m.Connected(v.now))
	v.get(LaneControl, hello{versionMin: 1, versionMax: 1, region: []byte("east"), epoch: federation.Epoch{Counter: 2}, window: 4}.frame())
	v.log = nil
	v.get(LaneMembership, deltaOf(1, 1, 2, row(4, "evil", 2, 1)))
	if v.m.imp.rows["evil"] != nil || v.m.imp.applied.Seq != 1 || v.frames()[kindSync] != 1 {
		t.Errorf("applied %v, closed %v", v.m.imp.applied, v.closed)
	}
}

func TestABarrierThatCountsWrongOrGoesBackIsNotBelieved(t *testing.T) {
	for what, at := range map[string]barrier{
		"count": {sub: 2, count: 2, cursor: Cursor{Seq: 5}},
		"seq":   {sub: 2, count: 1, cursor: Cursor{Seq: 0}},
	} {
		v := newVictim(t, Limits{})
		at.cursor.Epoch, at.cursor.Digest = v.e, v.m.imp.applied.Digest
		v.get(LaneMembership, deltaOf(1, 77, 78))
		v.get(LaneBulk, begin{sub: 2, mode: modeAdopt}.frame())
		v.log = nil
		v.get(LaneBulk, at.frame())
		if v.m.imp.applied.Seq != 1 || v.frames()[kindSync] != 1 {
			t.Errorf("%s: applied %v, closed %v", what, v.m.imp.applied, v.closed)
		}
	}
}

func TestLeftOversOfAnOldSubscriptionAreLeftAlone(t *testing.T) {
	v := newVictim(t, Limits{})
	v.get(LaneMembership, deltaOf(1, 77, 78)) // a gap: asked anew as 2
	v.get(LaneMembership, deltaOf(1, 1, 2, row(4, "late", 2, 1)))
	if v.closed != nil || v.m.imp.rows["late"] != nil || v.m.sess.recv.got != 0 {
		t.Errorf("closed %v, rows %v, got %d", v.closed, v.m.imp.rows, v.m.sess.recv.got)
	}
}

func TestADeltaWhoseDigestIsAnotherIsFollowedByAReconciliation(t *testing.T) {
	v := newVictim(t, Limits{})
	b := appendUint(appendUint(appendUint(nil, 1, 1), 2, 1), 3, 2)
	v.get(LaneMembership, frame(kindDelta, appendDigest(append(b, row(4, "new", 2, 1)...), 6, Digest{1, 2})))
	if v.frames()[kindSync] != 1 || v.m.sess.recv.phase != phaseWaiting {
		t.Error("nothing was asked for")
	}
}

func TestOlderHealthDoesNotReplaceNewer(t *testing.T) {
	v := newVictim(t, Limits{})
	v.get(LaneHealth, statementOf("web", 500, 0, 1, 0, 1))
	v.get(LaneHealth, statementOf("web", 499, 0, 1, 1, 1))
	if h := v.imp.Service(name("web")).Lane.Load(0); h.Healthy != 0 {
		t.Errorf("an older statement made it %+v", h)
	}
	// A row that was written before that statement, too.
	v.log = nil
	v.get(LaneMembership, deltaOf(1, 1, 2, row(4, "web", 2, 400, "i-1", "i-3")))
	v.now = v.now.Add(time.Second)
	v.take(v.m.Tick(v.now))
	web := v.imp.Service(name("web"))
	if web.Lane.Load(0).Healthy != 0 || v.frames()[kindHealthWant] != 1 {
		t.Errorf("an older row made it %+v", web.Lane.Load(0))
	}
	// But health is of a tenant, and not of its place: a liar who puts another one there has to tell its health.
	v.get(LaneMembership, deltaOf(1, 2, 3, row(4, "web", 3, 401, "i-7", "i-8")))
	v.now = v.now.Add(time.Second)
	v.take(v.m.Tick(v.now))
	if h := v.imp.Service(name("web")).Lane.Load(0); h.Healthy != 1 {
		t.Errorf("i-7 has inherited %+v", h)
	}
}

func TestHealthThatRanAheadOfANewServiceIsAskedForAgain(t *testing.T) {
	v := newVictim(t, Limits{})
	v.get(LaneHealth, statementOf("new", 900, 0, 1, 0, 1))
	v.get(LaneMembership, deltaOf(1, 1, 2, row(4, "new", 2, 800, "n-1")))
	v.take(v.m.Tick(v.now))
	if v.frames()[kindHealthWant] != 1 {
		t.Error("health that was dropped was not asked for")
	}
	v.get(LaneHealth, statementOf("other", 901, 0, 1, 0, 1))
	v.get(LaneMembership, deltaOf(1, 2, 3, row(4, "other", 3, 950, "o-1"))) // knows better than the statement
	v.take(v.m.Tick(v.now.Add(time.Second)))
	if v.frames()[kindHealthWant] != 0 {
		t.Error("health that the row brought was asked for")
	}
}

func TestANameHasOneSpelling(t *testing.T) {
	v := newVictim(t, Limits{})
	v.get(LaneMembership, deltaOf(1, 1, 2, row(4, "default/web", 2, 1, "evil")))
	v.now = v.now.Add(time.Second)
	v.take(v.m.Tick(v.now))
	if q := v.m.Status().Import.Quarantined; len(q) != 1 || len(v.imp.Services) != 1 || v.imp.Service(name("web")).Slots[0].Key != "i-1" {
		t.Errorf("kept out: %v", q)
	}
}

func TestAKeyThatWouldDeceiveATerminalIsKeptOut(t *testing.T) {
	for _, key := range []string{"i-\x1b[2J", "i\n", "\xff\xfe", "a\u202eb", string(make([]byte, 3))} {
		v := newVictim(t, Limits{})
		v.get(LaneMembership, deltaOf(1, 1, 2, row(4, "new", 2, 1, key)))
		if q := v.m.Status().Import.Quarantined; len(q) != 1 || v.closed != nil {
			t.Errorf("%q: kept out %v, closed %v", key, q, v.closed)
		}
	}
}

func TestAFencedPeerCannotWithdraw(t *testing.T) {
	v := newVictim(t, Limits{})
	v.take(v.m.Connected(v.now))
	clone := federation.Epoch{Counter: 1, Incarnation: 7}
	v.get(LaneControl, hello{versionMin: 1, versionMax: 1, region: []byte("east"), epoch: clone, window: 4}.frame())
	v.get(LaneUrgent, frame(kindWithdraw, appendGone(nil, "web", 1<<40)))
	v.get(LaneControl, head{cursor: Cursor{Epoch: clone}, time: v.now.UnixNano()}.frame())
	if len(v.imp.Services) != 1 || len(v.m.imp.gone) != 0 {
		t.Errorf("west has %s", describeImport(v.imp))
	}
}

// A peer that promises rows and never sends them is heard all the time, and gets nowhere.
func TestAHeadThatIsNeverReachedEndsTheSession(t *testing.T) {
	v := newVictim(t, Limits{})
	start := v.now
	for v.closed == nil && v.now.Sub(start) < time.Minute {
		v.get(LaneControl, head{cursor: Cursor{Epoch: v.e, Seq: 9}, time: v.now.UnixNano()}.frame())
		st := v.m.Status()
		if passed := v.now.Sub(start); v.closed == nil && (st.Import.Lagging != (passed >= lagAfter) || st.State == 0 && passed > liveFor) {
			t.Fatalf("after %v: %+v", passed, st)
		}
		v.now = v.now.Add(time.Second)
		v.take(v.m.Tick(v.now))
	}
	if passed := v.now.Sub(start); v.closed == nil || v.closed.Code != CodeStalled || passed != stallAfter {
		t.Errorf("closed %+v after %v", v.closed, passed)
	}
	if len(v.imp.Services) != 1 {
		t.Error("the last good import has gone")
	}
}
