package poll

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"pgregory.net/rapid"
)

// used lists the records under the rules and returns the instances, or the reasons why there are none.
func used(rules []federation.Discover, records ...Record) string {
	b := newBook(rules, -1)
	for i, r := range records {
		if r.ID == "" {
			r.ID = fmt.Sprint("w", i)
		}
		b.learn(Scope{Provider: "test", Account: "111111111111", Region: "eu-west-1", Kind: "vm", Part: fmt.Sprint(i)}, Listing{Records: []Record{r}},
			time.Unix(1, 0))
	}
	b.sites.settle()
	var out []string
	for _, in := range b.sites.instances() {
		out = append(out, strings.TrimRight(fmt.Sprintf("%v=%v %s %v %d %s", in.Service, in.ID, in.Protocol, in.Health, in.Weight, in.Locality.Zone), " "))
	}
	slices.Sort(out)
	for _, ig := range b.ignored(func(*entry) bool { return true }) {
		out = append(out, fmt.Sprintf("%s: %s", ig.Reason, ig.Examples[0].Why))
	}
	return strings.Join(out, "; ")
}

func machine(labels ...string) Record {
	r := Record{Kind: "vm", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, State: StateRunning, Labels: map[string]string{}}
	for _, l := range labels {
		k, v, _ := strings.Cut(l, "=")
		r.Labels[k] = v
	}
	return r
}

func with(r Record, change func(*Record)) Record { change(&r); return r }

func TestClaims(t *testing.T) {
	web := []federation.Discover{{Service: "web*"}}
	const at = "111111111111/10.0.0.1:"
	for _, c := range []struct {
		name  string
		rules []federation.Discover
		rec   Record
		want  string
	}{
		{"tags", web, machine("mesh/service=web", "mesh/port=80", "mesh/protocol=http", "mesh/weight=7"), "web=" + at + "80 http passing 7"},
		{"aliases", web, machine("mesh-service=web", "mesh-port=80", "mesh-weight=7"), "web=" + at + "80  passing 7"},
		{"agreeing spellings", web, machine("mesh-service=web", "mesh/service=web", "mesh-port=80"), "web=" + at + "80  passing 0"},
		{"disagreeing spellings", web, machine("mesh-service=web", "mesh/service=api", "mesh-port=80"),
			`tags: mesh-service is "web" and mesh/service is "api": they are spellings of one tag, leave one of them`},
		{"several ports", web, machine("mesh/service=web", "mesh/port=80", "mesh/port.admin=81", "mesh-port-debug=82"),
			"web-admin=" + at + "81  passing 0; web-debug=" + at + "82  passing 0; web=" + at + "80  passing 0"},
		{"a further port that no rule allows", []federation.Discover{{Service: "web"}}, machine("mesh/service=web", "mesh/port=80", "mesh/port.admin=81"),
			`not_allowed: no discover rule has a pattern for service "web-admin"`},
		{"a tag alone grants nothing", nil, machine("mesh/service=web", "mesh/port=80"), `not_allowed: no discover rule has a pattern for service "web"`},
		{"no tag", web, machine("Name=x"), "unclaimed: neither its tags nor the provider name a service"},
		{"no port", web, machine("mesh/service=web"), "port: its port is not known: say it with the tag mesh/port"},
		{"port out of range", web, machine("mesh/service=web", "mesh/port=65536"),
			`port: its port "65536" is neither a number from 1 to 65535 nor the name of one of its ports`},
		{"the provider's port", web, with(machine("mesh/service=web"), func(r *Record) { r.Ports = []Port{{"http", 8080, "http"}} }),
			"web=" + at + "8080 http passing 0"},
		{"the port without a name", web, with(machine("mesh/service=web"), func(r *Record) { r.Ports = []Port{{"admin", 1, ""}, {"", 2, ""}} }),
			"web=" + at + "2  passing 0"},
		{"a port by name", web, with(machine("mesh/service=web", "mesh/port=admin"), func(r *Record) { r.Ports = []Port{{"admin", 1, ""}, {"", 2, ""}} }),
			"web=" + at + "1  passing 0"},
		{"which of two", web, with(machine("mesh/service=web"), func(r *Record) { r.Ports = []Port{{"a", 1, ""}, {"b", 2, ""}} }),
			"port: it has 2 ports: say which with the tag mesh/port"},
		{"bad weight", web, machine("mesh/service=web", "mesh/port=80", "mesh/weight=0"), `tags: mesh/weight is "0": a weight is a number from 1 to 65535`},
		{"bad protocol", web, machine("mesh/service=web", "mesh/port=80", "mesh/protocol=ftp"),
			`tags: mesh/protocol: protocol "ftp" is unknown: use tcp, http, http2 or grpc`},
		{"bad export", web, machine("mesh/service=web", "mesh/port=80", "mesh/export=yes"), `tags: mesh/export is "yes": write true or false`},
		{"the provider's name", web, with(machine("mesh/port=80"), func(r *Record) { r.Service = "web" }), "web=" + at + "80  passing 0"},
		{"a tag overrides it", web, with(machine("mesh/port=80", "mesh/service=web-2"), func(r *Record) { r.Service = "web" }), "web-2=" + at + "80  passing 0"},
		{"namespace in the name", []federation.Discover{{Service: "*", Namespace: "shop"}}, machine("mesh/service=shop/web", "mesh/port=80"),
			"shop/web=" + at + "80  passing 0"},
		{"two namespaces", []federation.Discover{{Service: "*", Namespace: "*"}}, machine("mesh/service=shop/web", "mesh/namespace=x", "mesh/port=80"),
			`tags: its service is "shop/web" and its namespace "x"`},
		{"a namespace that it may not claim", web, machine("mesh/service=web", "mesh/namespace=shop", "mesh/port=80"),
			`not_allowed: discover rule 1 (service "web*") does not allow namespace "shop"`},
		{"the rule's namespace", []federation.Discover{{Service: "web", Namespace: "shop"}}, machine("mesh/service=web", "mesh/port=80"),
			"shop/web=" + at + "80  passing 0"},
		{"a name that is none", []federation.Discover{{Service: "*"}}, machine("mesh/service=Web_1", "mesh/port=80"),
			`not_allowed: service "Web_1" has the character 'W': only lower case letters, digits and hyphens are allowed`},
		{"another account", []federation.Discover{{Service: "web", Accounts: []string{"2*"}}}, machine("mesh/service=web", "mesh/port=80"),
			`not_allowed: discover rule 1 (service "web") does not allow account "111111111111"`},
		{"another region", []federation.Discover{{Service: "web", Regions: []string{"us-*"}}, {Service: "web", Accounts: []string{"3"}}},
			machine("mesh/service=web", "mesh/port=80"), `not_allowed: discover rule 1 (service "web") does not allow region "eu-west-1"`},
		{"another network", []federation.Discover{{Service: "web", Networks: []string{"vpc-1"}}},
			with(machine("mesh/service=web", "mesh/port=80"), func(r *Record) { r.Network = "vpc-2" }),
			`not_allowed: discover rule 1 (service "web") does not allow network "vpc-2"`},
		{"stopped", web, with(machine("mesh/service=web", "mesh/port=80"), func(r *Record) { r.State = StateStopped }), "stopped: it is stopped"},
		{"pending", web, with(machine("mesh/service=web", "mesh/port=80"), func(r *Record) { r.State = StatePending }), "web=" + at + "80  failing 0"},
		{"draining", web, with(machine("mesh/service=web", "mesh/port=80"), func(r *Record) { r.State = StateDraining }), "web=" + at + "80  draining 0"},
		{"unknown health as failing", []federation.Discover{{Service: "web", UnknownHealth: federation.HealthFailing}},
			machine("mesh/service=web", "mesh/port=80"), "web=" + at + "80  failing 0"},
		{"a host name", web, with(machine("mesh/service=web", "mesh/port=80"), func(r *Record) { r.Addresses, r.Host = nil, "x.example.com" }),
			"address: its host name \"x.example.com\" is being resolved"},
		{"zone", web, with(machine("mesh/service=web", "mesh/port=80"), func(r *Record) { r.Zone = "euw1-az2" }), "web=" + at + "80  passing 0 euw1-az2"},
	} {
		if got := used(c.rules, c.rec); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
	metadata := with(machine("mesh/service=web", "mesh/port=80"), func(r *Record) { r.Addresses[0] = netip.MustParseAddr("169.254.169.254") })
	if got := used(web, metadata); !strings.HasPrefix(got, "address: TW-5010") {
		t.Errorf("the address of a metadata service: %s", got)
	}
}

func TestJoins(t *testing.T) {
	rules := []federation.Discover{{Service: "*"}}
	vm := func(change func(*Record)) Record {
		return with(machine("mesh/service=web", "mesh/port=80"), func(r *Record) { r.Network = "vpc-1"; change(r) })
	}
	target := func(port uint16, health federation.Health) Record { // as a load balancer sees it: no tags
		return Record{Kind: "target", Network: "vpc-1", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.1")}, Ports: []Port{{Number: port}},
			State: StateRunning, Health: health}
	}
	const place, untagged = "111111111111/vpc-1/10.0.0.1:", "; unclaimed: neither its tags nor the provider name a service"
	for _, c := range []struct {
		name    string
		records []Record
		want    string
	}{
		{"worst health", []Record{vm(func(r *Record) { r.Health = federation.HealthPassing }), target(80, federation.HealthFailing)},
			"web=" + place + "80  failing 0" + untagged},
		{"of this port only", []Record{vm(func(*Record) {}), target(81, federation.HealthFailing)}, "web=" + place + "80  passing 0" + untagged},
		{"unknown says nothing", []Record{vm(func(r *Record) { r.Health = federation.HealthFailing }), target(80, federation.HealthUnknown)},
			"web=" + place + "80  failing 0" + untagged},
		{"draining is kept", []Record{vm(func(r *Record) { r.State = StateDraining }), target(80, federation.HealthFailing)},
			"web=" + place + "80  draining 0" + untagged},
		{"one instance", []Record{vm(func(*Record) {}), vm(func(r *Record) { r.Zone = "b" })}, "web=" + place + "80  passing 0"},
		{"not of another account", []Record{vm(func(*Record) {}), with(target(80, federation.HealthFailing), func(r *Record) { r.Account = "2" })},
			"web=" + place + "80  passing 0" + untagged},
		{"two networks", []Record{vm(func(*Record) {}), vm(func(r *Record) { r.Network = "vpc-2" })},
			`overlap: networks "vpc-1" and "vpc-2" both have a workload at 10.0.0.1`},
		{"one of two networks", []Record{vm(func(*Record) {}), vm(func(r *Record) { r.Network = "vpc-2"; r.Labels = nil })},
			"web=" + place + "80  passing 0" + untagged},
	} {
		if got := used(rules, c.records...); got != c.want {
			t.Errorf("%s:\ngot  %s\nwant %s", c.name, got, c.want)
		}
	}
	reachable := []federation.Discover{{Service: "*", Networks: []string{"vpc-2"}}}
	got := used(reachable, vm(func(*Record) {}), vm(func(r *Record) { r.Network = "vpc-2" }))
	if !strings.HasPrefix(got, "web=111111111111/vpc-2/10.0.0.1:80  passing 0; not_allowed:") {
		t.Errorf("of two networks the reachable one: %s", got)
	}
}

func TestExports(t *testing.T) {
	b := newBook([]federation.Discover{{Service: "web", Export: []string{"gcp-eu", "azure-us"}}, {Service: "*"}}, -1)
	b.learn(scopeN(1), Listing{Records: []Record{
		with(machine("mesh/service=web", "mesh/port=80", "mesh/export=true"), func(r *Record) { r.ID = "1" }),
		with(machine("mesh/service=api", "mesh/port=80", "mesh/export=true"), func(r *Record) { r.ID = "2" }),
	}}, time.Unix(1, 0))
	b.sites.settle()
	if got := fmt.Sprint(b.sites.exports()); got != "map[web:[azure-us gcp-eu]]" {
		t.Errorf("exports are %s", got)
	}
	b.learn(scopeN(1), Listing{}, time.Unix(2, 0))
	b.sites.settle()
	if got := b.sites.exports(); len(got) != 0 {
		t.Errorf("exports are %v", got)
	}
}

func TestLongNamesStayUnique(t *testing.T) {
	a := place{home{strings.Repeat("a", 200), "n1"}, spot{addr: netip.MustParseAddr("10.0.0.1")}, 80}
	b := a
	b.network = "n2"
	if len(a.id()) > 128 || a.id() == b.id() {
		t.Errorf("%q %q", a.id(), b.id())
	}
}

func TestRecordsAreBounded(t *testing.T) {
	labels := map[string]string{"mesh/service": "web", strings.Repeat("k", 200): "v", "long": strings.Repeat("v", 1000), "bad": "\xff"}
	for i := range 200 {
		labels[fmt.Sprint("a", i)] = "v"
	}
	got, err := clean(Record{ID: "1", Labels: labels})
	if err != nil || len(got.Labels) != maxLabels || got.Labels["mesh/service"] != "web" || got.Labels["long"] != "" {
		t.Errorf("%v, %d labels: %v", err, len(got.Labels), got.Labels)
	}
	for name, r := range map[string]Record{
		"no ID": {}, "long ID": {ID: strings.Repeat("i", 2000)}, "unprintable": {ID: "a\nb"}, "zone": {ID: "1", Zone: strings.Repeat("z", 300)},
		"addresses": {ID: "1", Addresses: make([]netip.Addr, 100)}, "ports": {ID: "1", Ports: make([]Port, 100)}, "health": {ID: "1", Health: 9},
		"port name": {ID: "1", Ports: []Port{{Name: "\x00"}}},
	} {
		if _, err := clean(r); err == nil {
			t.Errorf("%s passes", name)
		}
	}
}

func FuzzSnapshot(f *testing.F) {
	data, _ := encodeSnapshot([]keptScope{{Scope: scopeN(1), Records: []keptRecord{{Record: vm(1, 1)}}}})
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		kept, err := decodeSnapshot(data)
		if err != nil {
			return
		}
		b := newBook(everything, time.Hour)
		for _, k := range kept {
			b.adopt(k.Scope, k.LastComplete, k.Records)
		}
		b.sites.settle()
		_ = b.ignored(func(*entry) bool { return true })
	})
}

func FuzzClaims(f *testing.F) {
	f.Add("mesh/service", "web", "mesh-port-x", "80", "net")
	f.Add("mesh/port.", "1", "mesh-service", "shop/web", "")
	f.Fuzz(func(t *testing.T, k1, v1, k2, v2, network string) {
		r := machine()
		r.ID, r.Labels, r.Network = "1", map[string]string{k1: v1, k2: v2}, network
		r, err := clean(r)
		if err != nil {
			return
		}
		cs, why := claims(&r, everything)
		if (len(cs) == 0) != (why.reason != "") {
			t.Fatalf("claims %v and reason %v", cs, why)
		}
		for _, c := range cs {
			if _, err := federation.ParseServiceName(c.service.String()); err != nil || c.port == 0 {
				t.Fatalf("claim %+v: %v", c, err)
			}
		}
	})
}

// TestOneWorkloadOfSeveralSources: sources that know a workload's network and others that do not are joined to one instance, and
// workloads of two networks that have one address never are.
func TestOneWorkloadOfSeveralSources(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		type workload struct {
			account, region, network string
			addr                     netip.Addr
		}
		b, real := newBook(everything, -1), map[workload][]string{} // the networks that are said of each
		for i := range rapid.IntRange(1, 12).Draw(t, "records") {
			w := workload{rapid.SampledFrom([]string{"1", "2"}).Draw(t, "account"), rapid.SampledFrom([]string{"eu", "us"}).Draw(t, "region"),
				rapid.SampledFrom([]string{"vpc-1", "vpc-2"}).Draw(t, "network"),
				netip.AddrFrom4([4]byte{10, 0, 0, byte(rapid.IntRange(1, 3).Draw(t, "address"))})}
			said := rapid.SampledFrom([]string{"", w.network}).Draw(t, "said")
			real[w] = append(real[w], said)
			b.learn(scopeN(i), Listing{Records: []Record{{ID: fmt.Sprint(i), Account: w.account, Region: w.region, Network: said, Kind: "vm",
				Addresses: []netip.Addr{w.addr}, Ports: []Port{{Number: 80}}, State: StateRunning, Service: "web"}}}, time.Unix(1, 0))
		}
		b.sites.settle()
		at := map[netip.Addr]int{}
		for _, in := range b.sites.instances() {
			at[in.Address.Addr()]++
		}
		for _, addr := range []byte{1, 2, 3} {
			where := netip.AddrFrom4([4]byte{10, 0, 0, addr})
			networks, accounts, unknown := map[string]bool{}, map[string]bool{}, false
			for w, said := range real {
				if w.addr != where {
					continue
				}
				accounts[w.account] = true
				for _, s := range said {
					if s != "" {
						networks[s] = true
					}
				}
				of := 0 // who of its account and region says the network
				for other, said := range real {
					if other.addr == where && other.account == w.account && other.region == w.region &&
						slices.ContainsFunc(said, func(s string) bool { return s != "" }) {
						of++
					}
				}
				unknown = unknown || slices.Contains(said, "") && of != 1
			}
			switch {
			case len(networks) > 1 || len(networks) == 1 && unknown:
				if at[where] != 0 {
					t.Fatalf("%v is used although two networks may have it: %v", where, real)
				}
			case at[where] != len(accounts):
				t.Fatalf("%v is %d instances, want one for each of %d accounts: %v", where, at[where], len(accounts), real)
			}
		}
	})
}

// TestLeftOut: who asks why a workload is no instance of a service is told of those that say they are it, and of no others.
func TestLeftOut(t *testing.T) {
	s := New(Config{Rules: []federation.Discover{{Service: "web", Accounts: []string{"2*"}}, {Service: "db*"}}})
	named := func(id string, labels ...string) Record {
		return with(machine(labels...), func(r *Record) { r.ID = id })
	}
	s.book.learn(scopeN(1), Listing{Records: []Record{named("1", "mesh/service=web", "mesh/port=80"),
		named("2", "mesh/service=shop/web", "mesh/port=80"),
		named("3", "mesh/service=web", "mesh-service=api"), named("4", "mesh/service=web", "mesh/port.admin=81"), named("5"),
		named("6", "mesh/service=db"), with(named("7", "mesh/service=web"), func(r *Record) { r.State = StateStopped }),
		named("8", "mesh/service=web", "mesh/namespace=shop")}}, time.Unix(1, 0))
	for service, want := range map[string]string{
		"web":        `not_allowed 1: discover rule 1 (service "web") does not allow account "a1"; tags 3: mesh-service is`,
		"shop/web":   `not_allowed 1: discover rule 1 (service "web") does not allow account "a1"; not_allowed 2: discover rule 1`,
		"web-admin":  "not_allowed 4: ",
		"api":        "tags 3: mesh-service is ",
		"db":         "port 6: its port is not known",
		"shop/other": "",
	} {
		name, err := federation.ParseServiceName(service)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, ig := range s.LeftOut(name) {
			for _, w := range ig.Examples {
				got = append(got, fmt.Sprintf("%s %s: %s", ig.Reason, w.ID, w.Why))
			}
		}
		if text := strings.Join(got, "; "); !strings.HasPrefix(text, want) || (text == "") != (want == "") {
			t.Errorf("%s: left out are\n%s\nwant %s", service, text, want)
		}
	}
}
