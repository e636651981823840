package poll

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// model is what the book must come to, written as plainly as possible: for each scope the records by ID, with the version of each
// and when it was last seen.
type model struct {
	scopes map[int]*modelScope
	ttl    time.Duration
}

type modelScope struct {
	records map[int]modelRecord
	held    bool
}

type modelRecord struct {
	version int
	seen    time.Time
}

func (m *model) scope(n int) *modelScope {
	if m.scopes[n] == nil {
		m.scopes[n] = &modelScope{records: map[int]modelRecord{}}
	}
	return m.scopes[n]
}

// listing: seen are the records, bad those that could not be read.
func (m *model) listing(n int, seen map[int]int, bad []int, partial bool, now time.Time) {
	s := m.scope(n)
	missing := 0
	for id := range s.records {
		if _, ok := seen[id]; !ok && !slices.Contains(bad, id) {
			missing++
		}
	}
	before := len(s.records)
	for id, version := range seen {
		s.records[id] = modelRecord{version, now}
	}
	for _, id := range bad {
		if r, ok := s.records[id]; ok {
			s.records[id] = modelRecord{r.version, now}
		}
	}
	switch {
	case partial:
		return
	case !s.held && missing >= 5 && missing*2 > before:
		s.held = true
		return
	}
	s.held = false
	for id := range s.records {
		if _, ok := seen[id]; !ok && !slices.Contains(bad, id) {
			delete(s.records, id)
		}
	}
}

func (m *model) expire(now time.Time) {
	for _, s := range m.scopes {
		for id, r := range s.records {
			if now.Sub(r.seen) >= m.ttl {
				delete(s.records, id)
			}
		}
	}
}

func (m *model) published() []string {
	var out []string
	for n, s := range m.scopes {
		for id, r := range s.records {
			out = append(out, fmt.Sprintf("vm-%d-%d+%d", n, id, r.version))
		}
	}
	slices.Sort(out)
	return out
}

// TestBookEqualsModel: for any sequence of complete, partial, failed and bad listings, of scopes that vanish, and of time, what is
// published is what the model says.
func TestBookEqualsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const ttl = 10 * time.Minute
		m, b := &model{scopes: map[int]*modelScope{}, ttl: ttl}, newBook(everything, ttl)
		now := time.Unix(1_000_000_000, 0)
		for range rapid.IntRange(1, 40).Draw(t, "steps") {
			n := rapid.IntRange(0, 2).Draw(t, "scope")
			scope := scopeN(n)
			now = now.Add(time.Duration(rapid.IntRange(0, 400).Draw(t, "seconds")) * time.Second)
			b.expire(now)
			m.expire(now)
			switch what := rapid.SampledFrom([]string{"complete", "complete", "partial", "failed", "vanish"}).Draw(t, "what"); what {
			case "failed":
				b.fail(scope, errDown)
			case "vanish":
				if b.pages[scope] != nil {
					b.vanish(scope, now)
					m.listing(n, nil, nil, false, now)
					if len(m.scope(n).records) == 0 {
						m.scope(n).held = false
					}
				}
			default:
				count := rapid.IntRange(0, 14).Draw(t, "records")
				seen, l := map[int]int{}, Listing{}
				for range count {
					id, version := rapid.IntRange(0, 14).Draw(t, "id"), rapid.IntRange(0, 1).Draw(t, "version")
					if _, twice := seen[id]; !twice { // of two the first stays
						seen[id] = version
					}
					r := vm(n, id)
					r.Labels = map[string]string{"version": fmt.Sprint(version)}
					l.Records = append(l.Records, r)
				}
				var bad []int
				for range rapid.IntRange(0, 2).Draw(t, "bad") {
					id := rapid.IntRange(0, 14).Draw(t, "bad id")
					if _, good := seen[id]; !good {
						bad = append(bad, id)
						l.Bad = append(l.Bad, BadItem{vm(n, id).ID, errDown})
					}
				}
				// A bad ID such as vm-0-1 is also the beginning of vm-0-10: those may stay, so they are left out of the play.
				if slices.Contains(bad, 1) {
					return
				}
				if what == "partial" {
					l.Partial = errDown
				}
				b.learn(scope, l, now)
				m.listing(n, seen, bad, what == "partial", now)
			}
			b.sites.settle()
			var got []string
			for _, in := range b.sites.instances() {
				got = append(got, in.Labels["provider-id"]+"+"+in.Labels["version"])
			}
			slices.Sort(got)
			if want := m.published(); !slices.Equal(got, want) {
				t.Fatalf("published %s\nwant      %s", strings.Join(got, " "), strings.Join(want, " "))
			}
			checkSites(t, b)
		}
	})
}

// checkSites compares the instances that were kept up to date step by step with those made at once from all records.
func checkSites(t *rapid.T, b *book) {
	fresh := newSites(everything)
	n := 0
	for _, p := range b.pages {
		for _, e := range p.entries {
			n++
			fresh.add(&entry{scope: e.scope, rec: e.rec})
		}
	}
	fresh.settle()
	byID := func(set []federation.Instance) map[federation.InstanceID]string {
		out := map[federation.InstanceID]string{}
		for _, in := range set {
			out[in.ID] = fmt.Sprint(in)
		}
		return out
	}
	if got, want := byID(b.sites.instances()), byID(fresh.instances()); !maps.Equal(got, want) {
		t.Fatalf("instances are %v, want %v", got, want)
	}
	if n != b.entries {
		t.Fatalf("%d entries are counted, %d are there", b.entries, n)
	}
}

// TestJoinIsOrderIndependent: whichever scope is listed first, the instances are the same.
func TestJoinIsOrderIndependent(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type seen struct {
			scope int
			rec   Record
		}
		var all []seen
		for i := range rapid.IntRange(1, 8).Draw(t, "records") {
			r := vm(1, rapid.IntRange(1, 2).Draw(t, "address"))
			r.ID = fmt.Sprint("w", i)
			r.Account = rapid.SampledFrom([]string{"a", "b"}).Draw(t, "account")
			r.Network = rapid.SampledFrom([]string{"n", "n", "m"}).Draw(t, "network")
			r.Health = federation.Health(rapid.IntRange(0, 3).Draw(t, "health"))
			r.Ports = []Port{{Number: rapid.SampledFrom([]uint16{80, 81}).Draw(t, "port")}}
			r.Service = rapid.SampledFrom([]string{"", "web", "api"}).Draw(t, "service")
			all = append(all, seen{i % 3, r})
		}
		build := func(order []seen) string {
			b := newBook(everything, -1)
			for _, x := range order {
				b.learn(scopeN(x.scope), Listing{Records: []Record{x.rec}, Partial: errDown}, time.Unix(1, 0))
				if rapid.Bool().Draw(t, "settle") {
					b.sites.settle()
				}
			}
			b.sites.settle()
			var out []string
			for _, in := range b.sites.instances() {
				out = append(out, fmt.Sprint(in))
			}
			slices.Sort(out)
			return strings.Join(out, "\n")
		}
		want := build(all)
		if got := build(rapid.Permutation(all).Draw(t, "order")); got != want {
			t.Fatalf("instances are\n%s\nwant\n%s", got, want)
		}
	})
}

// TestCostOfAListing: a listing joins no more again than has changed.
func TestCostOfAListing(t *testing.T) {
	b := newBook(everything, time.Hour)
	now := time.Unix(1, 0)
	for s := range 20 {
		b.learn(scopeN(s), Listing{Records: vms(s, 1, 50)}, now)
	}
	b.sites.settle()
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 19).Draw(t, "scope")
		records := vms(n, 1, 50)
		changed := 0
		for i := range records {
			if rapid.IntRange(0, 20).Draw(t, "change") == 0 {
				now = now.Add(time.Nanosecond)
				records[i].Labels = map[string]string{"at": now.Format(time.StampNano)}
				changed++
			}
		}
		for _, e := range b.pages[scopeN(n)].entries { // those that changed in an earlier turn change back
			if e.rec.Labels != nil {
				changed++
			}
		}
		b.learn(scopeN(n), Listing{Records: records}, now)
		if got := len(b.sites.dirty); got > changed {
			t.Fatalf("%d addresses are joined again, %d workloads have changed", got, changed)
		}
		b.sites.settle()
	})
}
