package registry

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
	"pgregory.net/rapid"
)

// model is what the registry must come to, worked out the slow and obvious way.
type model struct {
	sets    map[federation.SourceName]map[key]federation.Instance // the last valid record of each name in the last complete set
	drained map[key]bool
	failing map[key]string // by address: what the checks last said of the instance at that address
}

// believed returns the record that counts.
func (m *model) believed(k key) (federation.Instance, bool) {
	for _, name := range slices.Sorted(maps.Keys(m.sets)) {
		if in, ok := m.sets[name][k]; ok {
			return in, true
		}
	}
	return federation.Instance{}, false
}

// catalog writes down all the catalog must hold.
func (m *model) catalog() []string {
	var out []string
	keys := map[key]bool{}
	for _, set := range m.sets {
		for k := range set {
			keys[k] = true
		}
	}
	for k := range keys {
		in, _ := m.believed(k)
		up := in.Health != federation.HealthFailing && in.Health != federation.HealthDraining && !m.drained[k]
		if len(in.Checks) > 0 && m.failing[k] != in.Address.String()+" passing" {
			up = false
		}
		out = append(out, fmt.Sprintf("%v %v %v", k, in.Address, up))
	}
	slices.Sort(out)
	return out
}

// held writes down all the catalog does hold.
func held(r *Registry) []string {
	var out []string
	for _, name := range r.Catalog().Names() {
		svc := r.Catalog().Service(name)
		for i, in := range svc.Instances {
			if i > 0 && svc.Instances[i-1].ID >= in.ID {
				out = append(out, "not sorted")
			}
			out = append(out, fmt.Sprintf("%v %v %v", instanceKey(&in), in.Address, svc.Lane.Load(i).Healthy == 1))
		}
		if svc.Lane.Len() != len(svc.Instances) {
			out = append(out, "lane of another length")
		}
	}
	slices.Sort(out)
	return out
}

// What histories are made of.
var (
	names = rapid.SampledFrom([]federation.SourceName{"a", "b", "c"})
	keys  = rapid.Custom(func(t *rapid.T) key {
		return key{federation.ServiceName{Namespace: "default", Name: rapid.SampledFrom([]string{"web", "cart"}).Draw(t, "service")},
			rapid.SampledFrom([]federation.InstanceID{"1", "2"}).Draw(t, "id")}
	})
	records = rapid.Custom(func(t *rapid.T) federation.Instance {
		k := keys.Draw(t, "key")
		address := rapid.SampledFrom([]string{"192.0.2.1:80", "192.0.2.2:80", "192.0.2.3:80", "169.254.0.1:80"}).Draw(t, "address")
		in := federation.Instance{ID: k.id, Service: k.service, Address: netip.MustParseAddrPort(address),
			Health: rapid.SampledFrom([]federation.Health{0, 1, 1, 2, 3}).Draw(t, "health")}
		if rapid.Bool().Draw(t, "checked") {
			in.Checks = []federation.CheckSpec{{Kind: federation.CheckTCP}}
		}
		return in
	})
)

// TestAgainstModel holds the registry, through any history of sets, damage, removals, drains and checks, to a model in which
// nothing ever leaves but by a complete set without it or the removal of its source.
func TestAgainstModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := newChecker()
		r := New(Config{Region: "here", Checker: c})
		m := &model{sets: map[federation.SourceName]map[key]federation.Instance{}, drained: map[key]bool{}, failing: map[key]string{}}
		t.Repeat(map[string]func(*rapid.T){
			"publish": func(t *rapid.T) {
				name := names.Draw(t, "source")
				s := r.in.sources[name]
				if s == nil {
					s = r.newSource(name, nil)
					r.in.sources[name] = s
				}
				set := rapid.SliceOfNDistinct(records, 0, 4, func(in federation.Instance) key { return instanceKey(&in) }).Draw(t, "set")
				s.accept(set)
				next := map[key]federation.Instance{}
				for _, in := range set {
					k := instanceKey(&in)
					if norm, err := normalize(in, "here"); err == nil {
						next[k] = norm
					} else if last, ok := m.sets[name][k]; ok {
						next[k] = last
					}
				}
				m.sets[name] = next
			},
			"remove": func(t *rapid.T) {
				name := names.Draw(t, "source")
				if r.Remove(name) == nil {
					delete(m.sets, name)
				}
			},
			"drain": func(t *rapid.T) {
				k, on := keys.Draw(t, "key"), rapid.Bool().Draw(t, "on")
				r.Drain(k.service, k.id, on)
				m.drained[k] = on
			},
			"turn": func(*rapid.T) { r.turn(); forgetGone(m) },
			"answer": func(t *rapid.T) {
				r.turn()
				forgetGone(m)
				checked := checkedKeys(r)
				if len(checked) == 0 {
					return
				}
				k := rapid.SampledFrom(checked).Draw(t, "key")
				h := rapid.SampledFrom([]federation.Health{federation.HealthPassing, federation.HealthFailing}).Draw(t, "health")
				e := entryOf(r, k)
				r.report(federation.HealthReport{Service: k.service, Instance: k.id, Version: e.version, Health: h})
				r.turn()
				m.failing[k] = e.inst.Address.String() + " " + h.String()
			},
			"late answer": func(t *rapid.T) {
				k := keys.Draw(t, "key")
				if e := entryOf(r, k); e != nil {
					r.report(federation.HealthReport{Service: k.service, Instance: k.id, Version: e.version - 1, Health: federation.HealthPassing})
				}
			},
			"compare": func(t *rapid.T) { // not after every action: what comes in between two turns is merged at once
				r.turn()
				forgetGone(m)
				if got, want := held(r), m.catalog(); !slices.Equal(got, want) {
					t.Fatalf("catalog is\n%q\nwant\n%q", got, want)
				}
				before := r.Catalog()
				if r.turn(); r.Catalog() != before {
					t.Fatal("a turn without news made a catalog")
				}
			},
		})
	})
}

// forgetGone drops what checks said of instances that are gone, have moved, or are no longer checked.
func forgetGone(m *model) {
	for k, said := range m.failing {
		in, ok := m.believed(k)
		if address := in.Address.String(); !ok || len(in.Checks) == 0 || said != address+" passing" && said != address+" failing" {
			delete(m.failing, k)
		}
	}
}

// checkedKeys returns the instances that have checks.
func checkedKeys(r *Registry) []key {
	var out []key
	for _, svc := range r.state.services {
		for _, e := range svc.entries {
			if len(e.checks) > 0 {
				out = append(out, e.key)
			}
		}
	}
	slices.SortFunc(out, key.compare)
	return out
}

func entryOf(r *Registry, k key) *entry {
	if svc := r.state.services[k.service]; svc != nil {
		return svc.entries[k.id]
	}
	return nil
}

// fleet returns n instances spread over services.
func fleet(n, services int) []federation.Instance {
	set := make([]federation.Instance, n)
	for i := range set {
		set[i] = federation.Instance{ID: federation.InstanceID(fmt.Sprintf("i-%08d", i)), Health: federation.HealthPassing,
			Service: federation.ServiceName{Namespace: "default", Name: fmt.Sprintf("s%d", i%services)},
			Address: netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}), 8080),
			Labels:  map[string]string{"version": "1", "team": "shop"}}
	}
	return set
}

// BenchmarkOneChangeOf10000 is the whole way of one changed address: from the source's complete set to the catalog.
func BenchmarkOneChangeOf10000(b *testing.B) {
	for _, services := range []int{2, 100, 10_000} {
		b.Run(fmt.Sprintf("services=%d", services), func(b *testing.B) {
			r := New(Config{Region: "here"})
			s := r.newSource("a", nil)
			r.in.sources["a"] = s
			set := fleet(10_000, services)
			s.accept(set)
			r.turn()
			revision := r.Catalog().Revision()
			b.ReportAllocs()
			n := 0
			for b.Loop() {
				next := slices.Clone(set)
				next[n%len(next)].Weight = uint16(2 + n%1000)
				n++
				s.accept(next)
				r.turn()
			}
			if got := r.Catalog().Revision() - revision; got != uint64(n) {
				b.Fatalf("%d changes made %d catalogs", n, got)
			}
		})
	}
}

// BenchmarkUnchanged10000 is a poll that finds nothing new.
func BenchmarkUnchanged10000(b *testing.B) {
	r := New(Config{Region: "here"})
	s := r.newSource("a", nil)
	r.in.sources["a"] = s
	set := fleet(10_000, 100)
	s.accept(set)
	r.turn()
	b.ReportAllocs()
	for b.Loop() {
		s.accept(set)
		r.turn()
	}
}

// BenchmarkHealthOf10000 is one instance that changes its health.
func BenchmarkHealthOf10000(b *testing.B) {
	r := New(Config{Region: "here", Checker: newChecker()})
	s := r.newSource("a", nil)
	r.in.sources["a"] = s
	set := fleet(10_000, 100)
	for i := range set {
		set[i].Checks = []federation.CheckSpec{{Kind: federation.CheckTCP}}
	}
	s.accept(set)
	r.turn()
	e := entryOf(r, instanceKey(&set[77]))
	b.ReportAllocs()
	n := 0
	for b.Loop() {
		n++
		r.report(federation.HealthReport{Service: e.service, Instance: e.id, Version: e.version, Health: federation.Health(1 + n%2)})
		r.turn()
	}
	if len(r.TakeHealthChanges()) != 1 {
		b.Fatal("no change")
	}
}

// BenchmarkFirst10000 is the first set of a source.
func BenchmarkFirst10000(b *testing.B) {
	set := fleet(10_000, 100)
	b.ReportAllocs()
	for b.Loop() {
		r := New(Config{Region: "here"})
		s := r.newSource("a", nil)
		r.in.sources["a"] = s
		s.accept(set)
		r.turn()
	}
}
