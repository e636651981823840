package exchange

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// drawView draws what a region may show: few names and few keys, so that they meet again.
func drawView(t *rapid.T) federation.ExportView {
	var v federation.ExportView
	for i := range 6 {
		if !rapid.Bool().Draw(t, "shown") {
			continue
		}
		s := exported(fmt.Sprintf("s%d", i))
		s.Detail = rapid.SampledFrom([]federation.Detail{federation.DetailSummary, federation.DetailEndpoints}).Draw(t, "detail")
		for j := range 5 {
			if rapid.Bool().Draw(t, "has") {
				n := rapid.Uint32Range(0, 9).Draw(t, "total")
				e := slot(fmt.Sprintf("i%d", j), rapid.Uint32Range(0, n).Draw(t, "healthy"), n)
				e.Weight = rapid.Uint32Range(0, 3).Draw(t, "weight")
				e.Locality.Zone = rapid.SampledFrom([]string{"", "a", "b"}).Draw(t, "zone")
				s.Slots = append(s.Slots, e)
			}
		}
		v.Services = append(v.Services, s)
	}
	return v
}

// The digest of a view is the same however it came to be.
func TestPropertyDigestKnowsNoOrder(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		final := drawView(t)
		a := newExportLog("east", federation.Epoch{Counter: 1})
		for _, i := range rapid.Permutation(indexes(len(final.Services))).Draw(t, "order") {
			a.put(&final.Services[i])
		}
		b := newExportLog("east", federation.Epoch{Counter: 9})
		for i := range final.Services {
			b.put(&final.Services[i])
		}
		extra := exported("extra", slot("x", 1, 1))
		r := b.put(&extra)
		b.remove(r, epoch0)
		if a.digest != b.digest {
			t.Fatalf("%v and %v", a.digest, b.digest)
		}
	})
}

func indexes(n int) []int {
	all := make([]int, n)
	for i := range all {
		all[i] = i
	}
	return all
}

// Whoever follows by deltas, with breaks, restarts and all, has in the end what somebody has who comes late and takes it whole;
// and both have what is shown.
func TestPropertyDeltasEqualTheWhole(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := newPair(nil)
		var v federation.ExportView
		p.b.take(p.b.m.SetExport(p.now, view()))
		for range rapid.IntRange(1, 12).Draw(t, "steps") {
			switch rapid.IntRange(0, 5).Draw(t, "step") {
			case 0, 1, 2:
				v = drawView(t)
				p.export(v)
			case 3:
				p.connect()
			case 4:
				p.a.take(p.a.m.Disconnected(p.now))
				p.b.take(p.b.m.Disconnected(p.now))
			case 5:
				saved := p.b.m.Saved()
				m, err := New(testConfig("west", "east", 1), saved)
				if err != nil {
					t.Fatal(err)
				}
				p.a.take(p.a.m.Disconnected(p.now))
				p.b = &end{m: m}
				p.b.take(p.b.m.SetExport(p.now, view()))
			}
			p.run(time.Duration(rapid.IntRange(0, 20).Draw(t, "ms")) * time.Millisecond)
		}
		p.export(v)
		p.connect()
		p.run(2 * time.Minute) // the brake's minute, damping
		whole := newPair(nil)
		whole.up(v)
		whole.run(time.Second)
		got, want := describeServices(p.b.imp), describeServices(whole.b.imp)
		if got != want || got != shownBy(v) {
			t.Fatalf("by deltas  %s\nas a whole %s\nshown      %s", got, want, shownBy(v))
		}
		if p.a.m.log.digest != p.b.m.imp.applied.Digest {
			t.Fatal("digests differ")
		}
	})
}

// shownBy writes a view as describeServices writes the import of it.
func shownBy(v federation.ExportView) string {
	i := &federation.Import{Services: map[federation.ServiceName]*federation.ImportedService{}}
	for _, s := range v.Services {
		svc := &federation.ImportedService{Name: s.Name}
		var h []federation.SlotHealth
		for _, slot := range s.Slots {
			svc.Slots = append(svc.Slots, federation.ImportedSlot{Key: slot.Key})
			h = append(h, slot.Health)
		}
		svc.Lane = federation.NewHealthLane(h)
		i.Services[s.Name] = svc
	}
	return describeServices(i)
}

// A slot keeps its number and generation as long as its key stays, and no pair is ever given to another key.
func TestPropertyPlacesAreNeverGivenTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := newExportLog("east", federation.Epoch{Counter: 1})
		owner := map[place]string{}
		before := map[string]place{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			svc := exported("web")
			for j := range 8 {
				if rapid.Bool().Draw(t, "has") {
					svc.Slots = append(svc.Slots, slot(fmt.Sprintf("i%d", j), 1, 1))
				}
			}
			r := l.rows[svc.Name]
			if r == nil || !r.same(&svc) {
				r = l.put(&svc)
			}
			now := map[string]place{}
			used := map[uint16]bool{}
			for i, s := range r.slots {
				p := r.places[i]
				now[s.Key] = p
				if was, stayed := before[s.Key]; stayed && was != p {
					t.Fatalf("%s moved from %v to %v", s.Key, was, p)
				} else if !stayed && owner[p] != "" {
					t.Fatalf("%v was of %s and is given to %s", p, owner[p], s.Key)
				}
				if used[p.num] || p.gen == 0 || int(p.num) >= 8 {
					t.Fatalf("%s has the place %v", s.Key, p)
				}
				used[p.num] = true
				owner[p] = s.Key
			}
			before = now
			if rapid.IntRange(0, 9).Draw(t, "goes") == 0 {
				l.remove(r, epoch0)
				before = map[string]place{}
			}
		}
	})
}

// What is written is what is read.
func TestPropertyBodiesSurviveTheWire(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		svc := exported("web")
		svc.Detail = rapid.SampledFrom([]federation.Detail{federation.DetailSummary, federation.DetailEndpoints}).Draw(t, "detail")
		svc.Protocol = rapid.SampledFrom([]federation.Protocol{federation.ProtocolTCP, federation.ProtocolGRPC}).Draw(t, "protocol")
		keys := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z0-9:/._-]{0,40}`), 0, 40, rapid.ID).Draw(t, "keys")
		slices.Sort(keys)
		var places []place
		var want []federation.ExportedSlot
		for i, num := range rapid.Permutation(indexes(len(keys))).Draw(t, "numbers") {
			s := federation.ExportedSlot{Key: keys[i], Weight: rapid.Uint32().Draw(t, "weight")}
			s.Locality.Zone = rapid.SampledFrom([]string{"", "eu-1a", "eu-1b"}).Draw(t, "zone")
			svc.Slots = append(svc.Slots, s)
			places = append(places, place{uint16(num * 3), rapid.Uint16Range(1, 65535).Draw(t, "gen")})
			want = append(want, s)
		}
		body := appendBody(nil, svc.Protocol, svc.Detail, svc.Slots, places)
		reader := rowReader{domain: federation.DefaultTrustDomain("east"), slots: 5000, known: map[string]string{}}
		p, bad := reader.read(svc.Name, body)
		if bad != nil {
			t.Fatal(bad.reason)
		}
		var got []federation.ExportedSlot
		for i, s := range p.svc.Slots {
			got = append(got, federation.ExportedSlot{Key: s.Key, Weight: s.Weight, Locality: federation.Locality{Zone: p.svc.ZoneOf(i)}})
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatal(diff)
		}
		if p.svc.Protocol != svc.Protocol || p.svc.Detail != svc.Detail || p.body != string(body) {
			t.Fatalf("read %+v", p.svc)
		}
		for i, at := range places {
			if find(p.refs, at) != i {
				t.Fatalf("%v is at %d, want %d", at, find(p.refs, at), i)
			}
		}
	})
}

// Damping is late at times and never wrong: a slot that went down is shown so at once, what is shown comes to be what is true,
// and a slot that flaps does not cost more than it may.
func TestPropertyDampingIsBoundedAndConverges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m, _ := New(testConfig("east", "west", 1), nil)
		now := epoch0
		total := rapid.SampledFrom([]uint32{1, 50}).Draw(t, "total")
		other := slot("other", rapid.Uint32Range(0, 1).Draw(t, "other"), 1)
		m.SetExport(now, view(exported("web", slot("i", total, total), other)))
		r := m.log.rows[name("web")]
		changes := 0
		shown := r.shown[0]
		steps := rapid.IntRange(1, 200).Draw(t, "steps")
		for range steps {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
			healthy := rapid.Uint32Range(0, total).Draw(t, "healthy")
			m.SetHealth(now, name("web"), []federation.ExportedSlot{slot("i", healthy, total)})
			if healthy == 0 && r.shown[0].Healthy != 0 {
				t.Fatalf("it is down and shown as %+v", r.shown[0])
			}
			if r.shown[0] != shown {
				shown = r.shown[0]
				changes++
			}
		}
		if most := 12 + int(2*now.Sub(epoch0)/time.Second); total == 1 && changes > most {
			t.Fatalf("%d changes were shown within %v", changes, now.Sub(epoch0))
		}
		for range 100 {
			now = now.Add(200 * time.Millisecond)
			m.Tick(now)
		}
		if r.shown[0] != r.truth[0] {
			t.Fatalf("after 20 s of peace %+v is shown, and true is %+v", r.shown[0], r.truth[0])
		}
	})
}

// A HEAD names what is there, so that no two views that differ may have one digest. 2^128 is far; this looks for plain errors.
func TestHashesDependOnEverything(t *testing.T) {
	var h hasher
	seen := map[Digest]string{}
	for _, origin := range []federation.Region{"e", "ea"} {
		for _, service := range []string{"a", "b", "ab"} {
			for _, body := range []string{"", "a", "b", strings.Repeat("x", 300)} {
				d := h.row(origin, service, []byte(body))
				key := fmt.Sprintf("%s %s %.5s", origin, service, body)
				if was, twice := seen[d]; twice {
					t.Errorf("%s and %s have one hash", was, key)
				}
				seen[d] = key
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	for range 1000 {
		a, b := Digest{r.Uint64(), r.Uint64()}, Digest{r.Uint64(), r.Uint64()}
		if a.add(b).sub(b) != a || a.add(b) != b.add(a) {
			t.Fatal(a, b)
		}
	}
}
