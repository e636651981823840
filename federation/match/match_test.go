package match

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

func compile(t testing.TB, m federation.HTTPMatch, lean Lean) *Matcher {
	t.Helper()
	c, err := Compile(m, lean)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestPaths(t *testing.T) {
	for _, test := range []struct {
		match   federation.HTTPMatch
		yes, no []string
	}{
		{federation.HTTPMatch{}, []string{"/", "/a", "*"}, nil},
		{federation.HTTPMatch{Path: "/a"}, []string{"/a"}, []string{"/", "/a/", "/A", "/ab", "/a/b"}},
		{federation.HTTPMatch{Path: "/"}, []string{"/"}, []string{"/a", "*"}},
		{federation.HTTPMatch{PathPrefix: "/"}, []string{"/", "/a", "/a/b"}, nil},
		{federation.HTTPMatch{PathPrefix: "/api"}, []string{"/api", "/api/", "/api/x"}, []string{"/apix", "/ap", "/", "/API"}},
		{federation.HTTPMatch{PathPrefix: "/api/"}, []string{"/api", "/api/", "/api/x"}, []string{"/apix"}},
		{federation.HTTPMatch{PathTemplate: "/users/{id}"}, []string{"/users/1", "/users/%20"}, []string{"/users", "/users/", "/users/1/", "/users/1/2"}},
		{federation.HTTPMatch{PathTemplate: "/u/{id}/f/{rest...}"}, []string{"/u/1/f/", "/u/1/f/a/b"}, []string{"/u/1/f", "/u//f/a", "/u/1/g/a"}},
		{federation.HTTPMatch{PathTemplate: "/{a}/b/"}, []string{"/x/b/"}, []string{"/x/b", "/x/b/c", "//b/"}},
		{federation.HTTPMatch{PathTemplate: "/{rest...}"}, []string{"/", "/a", "/a/b"}, []string{"*"}},
	} {
		c := compile(t, test.match, Narrow)
		table, err := NewTable([][]federation.HTTPMatch{{test.match}})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range append(slices.Clone(test.yes), test.no...) {
			r, want := &Request{Method: "GET", Path: p}, slices.Contains(test.yes, p)
			if got := c.Matches(r); got != want {
				t.Errorf("%+v on %q: %v", test.match, p, got)
			}
			if got := table.Find(r) == 0; got != want {
				t.Errorf("table: %+v on %q: %v", test.match, p, got)
			}
		}
	}
}

func TestFields(t *testing.T) {
	role := federation.HTTPMatch{Headers: []federation.FieldMatch{{Name: "x-role", Exact: []string{"admin"}}}}
	query := federation.HTTPMatch{Query: []federation.FieldMatch{{Name: "debug", Exact: []string{"1"}}}}
	gone := federation.HTTPMatch{Headers: []federation.FieldMatch{{Name: "X-Role", Absent: true}}}
	clean := federation.HTTPMatch{Query: []federation.FieldMatch{{Name: "debug", Absent: true}}}
	header := func(values ...string) *Request { return &Request{Header: map[string][]string{"X-Role": values}} }
	for _, test := range []struct {
		name         string
		match        federation.HTTPMatch
		request      *Request
		narrow, wide bool
	}{
		{"one value", role, header("admin"), true, true},
		{"another value", role, header("user"), false, false},
		{"no value", role, &Request{}, false, false},
		{"CVE-2026-26308 one of two fields", role, header("user", "admin"), false, true},
		{"CVE-2026-26308 one of a list", role, header("user, admin"), false, true},
		{"quoted in a list", role, header(`user, "admin"`), false, true},
		{"absent", gone, &Request{}, true, true},
		{"not absent", gone, header("x"), false, false},
		{"parameter", query, &Request{Query: "debug=1"}, true, true},
		{"parameter, encoded", query, &Request{Query: "a=b&%64ebug=%31"}, true, true},
		{"parameter twice", query, &Request{Query: "debug=0&debug=1"}, false, true},
		{"parameter in a malformed query", query, &Request{Query: "debug=%zz"}, false, true},
		{"malformed name", query, &Request{Query: "%zz=1"}, false, true},
		{"semicolon", query, &Request{Query: "a=b;debug=1"}, false, true},
		{"other parameter", query, &Request{Query: "debugs=1"}, false, false},
		{"absent parameter", clean, &Request{Query: "a=1"}, true, true},
		{"absent parameter is there", clean, &Request{Query: "debug=1"}, false, false},
		{"absent parameter, another is malformed", clean, &Request{Query: "a=%"}, true, true},
		{"absent parameter beside a malformed name", clean, &Request{Query: "%zz"}, false, true},
	} {
		if got := compile(t, test.match, Narrow).Matches(test.request); got != test.narrow {
			t.Errorf("%s, to allow: %v", test.name, got)
		}
		if got := compile(t, test.match, Wide).Matches(test.request); got != test.wide {
			t.Errorf("%s, to deny: %v", test.name, got)
		}
	}
}

func TestHostsMethodsAndGRPC(t *testing.T) {
	grpc := map[string][]string{"Content-Type": {"application/grpc+proto"}}
	for _, test := range []struct {
		match   federation.HTTPMatch
		request *Request
		want    bool
	}{
		{federation.HTTPMatch{Hosts: []string{"a.example.com"}}, &Request{Host: Host("A.example.com.:8080")}, true},
		{federation.HTTPMatch{Hosts: []string{"*.example.com"}}, &Request{Host: Host("a.example.com")}, true},
		{federation.HTTPMatch{Hosts: []string{"*.example.com"}}, &Request{Host: Host("example.com")}, false},
		{federation.HTTPMatch{Hosts: []string{"*.example.com"}}, &Request{Host: Host(".example.com")}, false},
		{federation.HTTPMatch{Methods: []string{"GET", "HEAD"}}, &Request{Method: "HEAD"}, true},
		{federation.HTTPMatch{Methods: []string{"GET"}}, &Request{Method: "get"}, false},
		{federation.HTTPMatch{GRPC: "shop.Cart"}, &Request{Method: "POST", Path: "/shop.Cart/Add", Header: grpc}, true},
		{federation.HTTPMatch{GRPC: "shop.Cart/Add"}, &Request{Method: "POST", Path: "/shop.Cart/Add", Header: grpc}, true},
		{federation.HTTPMatch{GRPC: "shop.Cart/Add"}, &Request{Method: "POST", Path: "/shop.Cart/Adds", Header: grpc}, false},
		{federation.HTTPMatch{GRPC: "shop.Cart"}, &Request{Method: "POST", Path: "/shop.Cart/Add"}, false},
		{federation.HTTPMatch{GRPC: "shop.Cart"}, &Request{Method: "POST", Path: "/shop.Carts/Add", Header: grpc}, false},
	} {
		if got := compile(t, test.match, Narrow).Matches(test.request); got != test.want {
			t.Errorf("%+v on %+v: %v", test.match, test.request, got)
		}
	}
	deny := compile(t, federation.HTTPMatch{GRPC: "shop.Cart"}, Wide)
	if !deny.Matches(&Request{Method: "PUT", Path: "/shop.Cart/Add"}) {
		t.Error("a denied method of gRPC can be reached without its content type")
	}
}

func TestCaptures(t *testing.T) {
	got := fmt.Sprint(Captures("/u/{id}/f/{rest...}", "/u/7/f/a/b"))
	if got != "map[id:7 rest:a/b]" {
		t.Error(got)
	}
}

// TestTableIsTheFirstMatch: the tree finds what asking each rule in turn finds.
func TestTableIsTheFirstMatch(t *testing.T) {
	segment := rapid.SampledFrom([]string{"a", "b", "c", "", "aa"})
	path := rapid.Custom(func(t *rapid.T) string { return "/" + strings.Join(rapid.SliceOfN(segment, 1, 4).Draw(t, "path"), "/") })
	match := rapid.Custom(func(t *rapid.T) federation.HTTPMatch {
		var m federation.HTTPMatch
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			m.Path = path.Draw(t, "exact")
		case 1:
			m.PathPrefix = path.Draw(t, "prefix")
		case 2:
			parts := strings.Split(path.Draw(t, "template"), "/")
			for i := 1; i < len(parts); i++ {
				if rapid.Bool().Draw(t, "variable") {
					parts[i] = "{x}"
				}
			}
			if rapid.Bool().Draw(t, "rest") {
				parts[len(parts)-1] = "{x...}"
			}
			m.PathTemplate = strings.Join(parts, "/")
		}
		if rapid.Bool().Draw(t, "method") {
			m.Methods = []string{"GET"}
		}
		return m
	})
	rapid.Check(t, func(t *rapid.T) {
		rules := rapid.SliceOfN(rapid.SliceOfN(match, 0, 3), 0, 12).Draw(t, "rules")
		table, err := NewTable(rules)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			r := &Request{Method: rapid.SampledFrom([]string{"GET", "PUT"}).Draw(t, "method"), Path: path.Draw(t, "asked")}
			want := slices.IndexFunc(rules, func(matches []federation.HTTPMatch) bool {
				return len(matches) == 0 || slices.ContainsFunc(matches, func(m federation.HTTPMatch) bool {
					c, _ := Compile(m, Narrow)
					return c.Matches(r)
				})
			})
			if got := table.Find(r); got != want {
				t.Fatalf("%s %s: rule %d, want %d of %+v", r.Method, r.Path, got, want, rules)
			}
		}
	})
}

func TestJudgingAllocatesNothing(t *testing.T) {
	c := compile(t, typical, Narrow)
	table := large(t)
	r := request()
	if n := testing.AllocsPerRun(100, func() { c.Matches(r); table.Find(r) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

var typical = federation.HTTPMatch{Methods: []string{"GET", "HEAD"}, PathPrefix: "/api/v1/orders",
	Headers: []federation.FieldMatch{{Name: "x-tenant", Exact: []string{"blue", "green"}}}}

func request() *Request {
	return &Request{Method: "GET", Host: "orders.example.com", Path: "/api/v1/orders/1234/lines", Query: "page=2&size=50",
		Header: map[string][]string{"X-Tenant": {"green"}, "Accept": {"*/*"}, "User-Agent": {"curl/8.5.0"}}}
}

// large is 10,000 rules whose last one means request.
func large(t testing.TB) *Table {
	rules := make([][]federation.HTTPMatch, 10_000)
	for i := range rules {
		rules[i] = []federation.HTTPMatch{{PathPrefix: fmt.Sprintf("/api/v%d/orders/%d", i%10, i)}}
	}
	rules[len(rules)-1] = []federation.HTTPMatch{typical}
	table, err := NewTable(rules)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func BenchmarkMatches(b *testing.B) {
	c, r := compile(b, typical, Narrow), request()
	b.ReportAllocs()
	for b.Loop() {
		if !c.Matches(r) {
			b.Fatal("not matched")
		}
	}
}

func BenchmarkTable10000(b *testing.B) {
	table, r := large(b), request()
	b.ReportAllocs()
	for b.Loop() {
		if table.Find(r) != 9999 {
			b.Fatal("not found")
		}
	}
}

func BenchmarkCompile10000(b *testing.B) {
	for b.Loop() {
		large(b)
	}
}

func FuzzMatches(f *testing.F) {
	f.Add("/api", "a=b;c=%", "x")
	narrow, wide := compile(f, typical, Narrow), compile(f, federation.HTTPMatch{Query: []federation.FieldMatch{{Name: "a", Exact: []string{"b"}}}}, Wide)
	table := large(f)
	f.Fuzz(func(_ *testing.T, path, query, value string) {
		r := &Request{Method: "GET", Path: path, Query: query, Header: map[string][]string{"X-Tenant": {value}}}
		narrow.Matches(r)
		wide.Matches(r)
		table.Find(r)
	})
}
