package exchange

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestSavedSurvivesARestartAndNothingElseDoes(t *testing.T) {
	p := newPair(t)
	p.up(view(exported("web", slot("i-1", 1, 1), slot("i-2", 0, 1)), exported("prod/db", slot("d", 3, 5))))
	p.export(view(exported("web", slot("i-2", 0, 1), slot("i-3", 1, 1)), exported("prod/db", slot("d", 3, 5))))
	p.run(time.Second)
	saved := p.b.m.Saved()
	m, err := New(testConfig("west", "east", 2), saved)
	if err != nil {
		t.Fatal(err)
	}
	b := &end{m: m}
	b.take(m.Tick(p.now))
	if b.imp == nil || b.imp.Freshness != federation.FreshnessStale || describeServices(b.imp) != describeServices(p.b.imp) {
		t.Fatalf("restored %s, was %s", describeImport(b.imp), describeImport(p.b.imp))
	}
	if m.imp.applied != p.b.m.imp.applied || string(m.Saved()) != string(saved) {
		t.Error("what is saved again is not what was saved")
	}
	for i := range saved {
		broken := slices.Clone(saved)
		broken[i] ^= 0x20
		m, err := New(testConfig("west", "east", 2), broken)
		var d *federation.Diagnostic
		if !errors.As(err, &d) || d.Code != DiagSaved {
			t.Fatalf("octet %d damaged: %v", i, err)
		}
		e := &end{m: m}
		if e.take(m.Tick(p.now)); e.imp != nil || m.imp.applied.Seq != 0 {
			t.Fatalf("octet %d damaged: the machine is not empty", i)
		}
	}
	for i := range saved {
		if _, err := New(testConfig("west", "east", 2), saved[:i]); err == nil {
			t.Fatalf("cut after %d octets: no error", i)
		}
	}
}

func TestARestartedSenderKeepsItsSlots(t *testing.T) {
	p := newPair(t)
	p.up(view(exported("web", slot("i-1", 1, 1), slot("i-2", 1, 1))))
	v := view(exported("web", slot("i-0", 1, 1), slot("i-2", 1, 1)), exported("db"))
	p.export(v)
	p.run(time.Second)
	m, err := New(testConfig("east", "west", 2), p.a.m.Saved())
	if err != nil {
		t.Fatal(err)
	}
	p.a = &end{m: m}
	p.export(v)
	p.b.frames()
	p.connect()
	p.run(time.Second)
	if n := p.a.frames(); n[kindRows] != 0 || n[kindDigests] != 0 || n[kindBarrier] != 1 {
		t.Errorf("after a restart without a change: %v", n)
	}
}

// A restart of the origin moves at most 1 KiB of catalog, and a reconciliation about as much as what differs.
func TestWhatAResyncCosts(t *testing.T) {
	for _, changed := range []int{0, 1, 10, 100} {
		p := newPair(t)
		v := many(10_000, 1)
		p.up(v)
		p.run(time.Second)
		catalog := func() int {
			n := 0
			for _, a := range p.a.log {
				if a, ok := a.(Send); ok && (a.Lane == LaneBulk || a.Lane == LaneMembership) {
					n += len(a.Frame)
				}
			}
			return n
		}
		services := slices.Clone(v.Services)
		for i := range changed {
			s := services[i*97]
			s.Slots = append(slices.Clone(s.Slots), slot("i-1", 1, 1))
			services[i*97] = s
		}
		p.a.take(p.a.m.Disconnected(p.now))
		p.b.take(p.b.m.Disconnected(p.now))
		p.a.log = nil
		p.export(view(services...))
		p.connect()
		p.run(time.Second)
		cursor := catalog()

		m, err := New(testConfig("east", "west", 2), p.a.m.Saved())
		if err != nil {
			t.Fatal(err)
		}
		p.a = &end{m: m}
		services[1].Slots = append(slices.Clone(services[1].Slots), slot("j-1", 1, 1))
		if changed == 0 {
			services[1].Slots = services[1].Slots[:1]
		}
		p.export(view(services...))
		p.connect()
		p.run(2 * time.Second)
		t.Logf("%3d of 10,000 rows differ: %6d octets with a cursor; the epoch lost: %6d", changed, cursor, catalog())
		if most := 160*changed + 2048; cursor > most {
			t.Errorf("%d changes cost %d octets with a cursor, at most %d are allowed", changed, cursor, most)
		}
		if changed == 0 && catalog() > 1024 {
			t.Errorf("an unchanged restart cost %d octets", catalog())
		}
		if p.b.m.Status().State != federation.FreshnessLive {
			t.Errorf("%+v", p.b.m.Status())
		}
	}
}

func TestAWithdrawalIsRememberedOverARestart(t *testing.T) {
	p := newPair(t)
	p.up(view(exported("secret", slot("s", 1, 1)), exported("web", slot("i", 1, 1))))
	p.a.toSend = nil
	p.a.take(p.a.m.SetExport(p.now, view(exported("web", slot("i", 1, 1)))))
	for _, f := range p.a.toSend {
		if f.Lane == LaneUrgent { // the tombstone never comes
			p.b.take(p.b.m.Receive(p.now, f.Lane, f.Frame))
		}
	}
	m, err := New(testConfig("west", "east", 2), p.b.m.Saved())
	if err != nil {
		t.Fatal(err)
	}
	e := &end{m: m}
	e.take(m.Tick(p.now))
	if e.imp == nil || len(e.imp.Services) != 1 || e.imp.Service(name("secret")) != nil {
		t.Errorf("after a restart: %s", describeImport(e.imp))
	}
}
