package policy

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

func with(i federation.Intention, mode federation.Mode, requests ...federation.HTTPMatch) federation.Intention {
	i.Mode = mode
	for _, m := range requests {
		i.HTTP = append(i.HTTP, federation.Permission{HTTPMatch: m})
	}
	return i
}

func TestRequestsAreJudged(t *testing.T) {
	read := federation.HTTPMatch{Methods: []string{"GET"}, PathPrefix: "/public"}
	admin := federation.HTTPMatch{PathPrefix: "/public/admin"}
	p := CompileIntentions(aws, domains(), []federation.Intention{
		with(allow("read", "web", "checkout"), "", read),
		with(deny("no-admin", "web", "checkout"), "", admin),
		with(allow("all", "batch", "checkout"), ""),
		with(deny("trial", "batch", "checkout"), federation.Shadow, admin),
		with(deny("never", "web", "cart"), "", admin),
		allow("cart", "*", "cart"),
	})
	for _, test := range []struct {
		caller, callee, method, path string
		allowed                      bool
		rule, shadow                 string
	}{
		{"web", "checkout", "GET", "/public/x", true, "read", ""},
		{"web", "checkout", "PUT", "/public/x", false, DefaultRule, ""},
		{"web", "checkout", "GET", "/public/admin", false, "no-admin", ""},
		{"web", "checkout", "GET", "/other", false, DefaultRule, ""},
		{"batch", "checkout", "GET", "/public/admin", true, "all", "trial"},
		{"batch", "checkout", "GET", "/public", true, "all", ""},
		{"web", "cart", "GET", "/public/admin", false, "never", ""},
		{"web", "cart", "GET", "/x", true, "cart", ""}, // the more general one is asked for what the specific one does not mean
	} {
		r := &match.Request{Method: test.method, Path: test.path}
		for _, d := range []Decision{
			p.DecideRequest(workload(aws, test.caller), federation.AssuranceMTLS, aws, name(test.callee), r),
			p.ExplainRequest(workload(aws, test.caller), federation.AssuranceMTLS, aws, name(test.callee), r),
		} {
			if d.Allowed != test.allowed || d.Rule != test.rule || d.Shadow != test.shadow {
				t.Errorf("%s %s %s %s: %+v", test.caller, test.callee, test.method, test.path, d)
			}
		}
	}
}

// TestConnectionsOfRequests: before a request has come, and where none can be seen.
func TestConnectionsOfRequests(t *testing.T) {
	some := federation.HTTPMatch{Path: "/x"}
	p := CompileIntentions(aws, domains(), []federation.Intention{
		with(allow("a", "web", "checkout"), "", some),
		with(deny("d", "web", "cart"), "", some), allow("cart", "web", "cart"),
		with(allow("shadow", "web", "batch"), federation.Shadow),
	})
	for _, test := range []struct {
		callee    string
		bytes     bool
		requests  bool
		bytesRule string
	}{
		{"checkout", false, true, DefaultRule},
		{"cart", false, true, "d"},
		{"batch", false, false, DefaultRule},
	} {
		id := workload(aws, "web")
		d, any := p.Decide(id, federation.AssuranceMTLS, aws, name(test.callee)), p.DecideAny(id, federation.AssuranceMTLS, aws, name(test.callee))
		if d.Allowed != test.bytes || d.Rule != test.bytesRule || any.Allowed != test.requests {
			t.Errorf("%s: %+v, before requests %+v", test.callee, d, any)
		}
		if test.callee == "batch" && d.Shadow != "shadow" {
			t.Errorf("batch: the shadow is %q", d.Shadow)
		}
		for _, e := range []Decision{
			p.Explain(id, federation.AssuranceMTLS, aws, name(test.callee)), p.ExplainAny(id, federation.AssuranceMTLS, aws, name(test.callee)),
		} {
			if len(e.Matched) == 0 || e.Matched[0].Reason == "" {
				t.Errorf("%s: nothing is explained: %+v", test.callee, e)
			}
		}
	}
}

// naive holds r against m as its documentation words it, with the library's parsers and without any preparation.
func naive(m federation.HTTPMatch, r *match.Request, wide bool) bool {
	if len(m.Methods) > 0 && !slices.Contains(m.Methods, r.Method) {
		return false
	}
	if m.Path != "" && r.Path != m.Path {
		return false
	}
	if p := strings.TrimSuffix(m.PathPrefix, "/"); m.PathPrefix != "" && r.Path != p && !strings.HasPrefix(r.Path, p+"/") {
		return false
	}
	judge := func(f federation.FieldMatch, values []string) bool {
		pass := func(v string) bool {
			return len(f.Exact) > 0 && slices.Contains(f.Exact, v) || len(f.Exact) == 0 && strings.HasPrefix(v, f.Prefix)
		}
		switch {
		case f.Absent:
			return len(values) == 0
		case wide:
			return slices.ContainsFunc(values, pass)
		}
		return len(values) > 0 && !slices.ContainsFunc(values, func(v string) bool { return !pass(v) })
	}
	for _, h := range m.Headers {
		values := r.Header[h.Name]
		if wide {
			for _, v := range values {
				values = append(values, strings.Split(v, ", ")...)
			}
		}
		if !judge(h, values) {
			return false
		}
	}
	for _, q := range m.Query {
		values, err := url.ParseQuery(r.Query)
		if err != nil && !wide || err == nil && !judge(q, values[q.Name]) {
			return false
		}
	}
	return true
}

// claimed holds the tokens of r against c as its documentation words it.
func claimed(c federation.ClaimMatch, r *match.Request) bool {
	for _, token := range r.Tokens {
		if token.Provider != c.Provider {
			continue
		}
		if len(c.Path) == 0 {
			return true
		}
		var value any = token.Claims
		for _, name := range c.Path {
			object, _ := value.(map[string]any)
			value = object[name]
		}
		if value == nil || len(c.Any) == 0 {
			return value != nil
		}
		list, isList := value.([]any)
		if !isList {
			list = []any{value}
		}
		return slices.ContainsFunc(list, func(v any) bool { return slices.Contains(c.Any, fmt.Sprint(v)) })
	}
	return false
}

var (
	somePermission = rapid.Custom(func(t *rapid.T) federation.Permission {
		p := federation.Permission{HTTPMatch: someMatch.Draw(t, "match")}
		if rapid.IntRange(0, 2).Draw(t, "claims") == 0 {
			p.Claims = rapid.SliceOfN(rapid.SampledFrom([]federation.ClaimMatch{{Provider: "idp"}, {Provider: "other"},
				{Provider: "idp", Path: []string{"roles"}, Any: []string{"admin"}}, {Provider: "idp", Path: []string{"realm", "level"}, Any: []string{"1", "2"}},
				{Provider: "other", Path: []string{"roles"}}}), 1, 2).Draw(t, "claim")
		}
		if rapid.IntRange(0, 2).Draw(t, "expression") == 0 {
			w := rapid.SampledFrom(whens).Draw(t, "when")
			p.When = w.text
			if strings.Contains(w.text, "token.") {
				p.Token = rapid.SampledFrom([]string{"idp", "other"}).Draw(t, "token")
			}
		}
		return p
	})
	someTokens = rapid.SampledFrom([][]match.Token{nil, nil, {{Provider: "idp", Claims: map[string]any{"roles": []any{"user", "admin"}}}},
		{{Provider: "idp", Claims: map[string]any{"roles": "user", "realm": map[string]any{"level": json.Number("2")}}}},
		{{Provider: "other", Claims: map[string]any{"roles": []any{"admin"}}}},
		{{Provider: "other"}, {Provider: "idp", Claims: map[string]any{"roles": "admin"}}}})
	someMatch = rapid.Custom(func(t *rapid.T) federation.HTTPMatch {
		var m federation.HTTPMatch
		path := rapid.SampledFrom([]string{"", "/", "/a", "/a/b", "/a/"}).Draw(t, "path")
		if rapid.Bool().Draw(t, "prefix") {
			m.PathPrefix = path
		} else {
			m.Path = path
		}
		if rapid.Bool().Draw(t, "method") {
			m.Methods = []string{"GET", "HEAD"}
		}
		field := rapid.SampledFrom([]federation.FieldMatch{{}, {}, {Name: "X-Role"}, {Name: "X-Role", Exact: []string{"admin", "user"}},
			{Name: "X-Role", Prefix: "a"}, {Name: "X-Role", Absent: true}})
		if f := field.Draw(t, "header"); f.Name != "" {
			m.Headers = append(m.Headers, f)
		}
		if f := field.Draw(t, "query"); f.Name != "" {
			f.Name = "v"
			m.Query = append(m.Query, f)
		}
		return m
	})
	someRequest = rapid.Custom(func(t *rapid.T) *match.Request {
		return &match.Request{Tokens: someTokens.Draw(t, "tokens"), Method: rapid.SampledFrom([]string{"GET", "PUT"}).Draw(t, "method"),
			Path:   rapid.SampledFrom([]string{"/", "/a", "/a/", "/a/b", "/ab", "/a/b/c"}).Draw(t, "path"),
			Query:  rapid.SampledFrom([]string{"", "v=admin", "v=user&v=x", "w=1&v=%61dmin", "v=%zz", "v=a+b", "v"}).Draw(t, "query"),
			Header: map[string][]string{"X-Role": rapid.SampledFrom([][]string{nil, {"admin"}, {"user", "admin"}, {"user, x"}, {""}}).Draw(t, "role")}}
	})
)

// TestRequestsAgreeWithOracle asks a million questions about random policies and compares the answers with those of a reader who goes
// through the intentions one by one.
func TestRequestsAgreeWithOracle(t *testing.T) {
	known := domains()
	intention := rapid.Custom(func(t *rapid.T) federation.Intention {
		i := federation.Intention{Name: fmt.Sprintf("i%d", rapid.IntRange(0, 99).Draw(t, "name")),
			Source: rapid.SampledFrom([]string{"*", "web", "web@*", "*@*"}).Draw(t, "source"), Destination: rapid.SampledFrom([]string{"*",
				"cart", "*@*"}).Draw(t, "destination"),
			Action: rapid.SampledFrom([]federation.Action{federation.Allow, federation.Deny}).Draw(t, "action"),
			HTTP:   rapid.SliceOfN(somePermission, 0, 2).Draw(t, "http")}
		if i.Action == federation.Allow {
			i.Require = rapid.SampledFrom([]federation.Assurance{0, federation.AssuranceMTLS}).Draw(t, "require")
		}
		if rapid.IntRange(0, 4).Draw(t, "mode") == 0 {
			i.Mode = federation.Shadow
		}
		return i
	})
	questions := 0
	rapid.Check(t, func(t *rapid.T) {
		list := rapid.SliceOfN(intention, 0, 15).Draw(t, "intentions")
		slices.SortFunc(list, func(a, b federation.Intention) int { return cmp.Compare(a.Name, b.Name) })
		list = slices.CompactFunc(list, func(a, b federation.Intention) bool { return a.Name == b.Name })
		requests := rapid.SliceOfN(someRequest, 350, 350).Draw(t, "requests")
		p := CompileIntentions(aws, known, list)
		for _, from := range []federation.Region{aws, gcp} {
			for _, s := range []string{"web", "batch"} {
				for _, to := range []federation.Region{aws, dc} {
					for _, d := range []string{"cart", "web"} {
						rules := inOrder(list, from, name(s), to, name(d))
						for _, a := range []federation.Assurance{federation.AssuranceBinding, federation.AssuranceMTLS} {
							for _, r := range requests {
								questions++
								allowed, rule := firstOf(rules, a, r, s, false)
								wouldBe, shadow := firstOf(rules, a, r, s, true)
								if wouldBe == allowed {
									shadow = ""
								}
								got := p.DecideRequest(workload(from, s), a, to, name(d), r)
								if got.Allowed != allowed || got.Rule != rule || got.Shadow != shadow {
									t.Fatalf("%s@%s (%s) calls %s@%s with %+v: got %+v, want allowed %v by %q, shadow %q", s, from, a, d, to, r, got,
										allowed, rule, shadow)
								}
							}
						}
					}
				}
			}
		}
	})
	if t.Logf("%d questions", questions); questions < 1_000_000 {
		t.Errorf("only %d questions were asked", questions)
	}
}

// inOrder returns the intentions of list that mean the call, what comes first in precedence first.
func inOrder(list []federation.Intention, from federation.Region, s federation.ServiceName, to federation.Region, d federation.ServiceName,
) []federation.Intention {
	var out []federation.Intention
	rank := func(i federation.Intention) (n int) {
		source, _ := federation.ParsePattern(i.Source)
		destination, _ := federation.ParsePattern(i.Destination)
		return destination.Specificity()*100 + source.Specificity()
	}
	for _, i := range list {
		source, _ := federation.ParsePattern(i.Source)
		destination, _ := federation.ParsePattern(i.Destination)
		if source.Matches(aws, from, s) && destination.Matches(aws, to, d) {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(a, b federation.Intention) int {
		denies := map[federation.Action]int{federation.Deny: 0, federation.Allow: 1}
		return cmp.Or(rank(b)-rank(a), denies[a.Action]-denies[b.Action], int(max(b.Require, 1))-int(max(a.Require, 1)), cmp.Compare(a.Name, b.Name))
	})
	return out
}

// firstOf returns what the first of rules says that applies to r, and its name.
func firstOf(rules []federation.Intention, a federation.Assurance, r *match.Request, caller string, shadow bool) (bool, string) {
	for _, i := range rules {
		if i.Mode == federation.Shadow && !shadow {
			continue
		}
		if len(i.HTTP) > 0 && !slices.ContainsFunc(i.HTTP, func(p federation.Permission) bool {
			return naive(p.HTTPMatch, r, i.Action == federation.Deny) && holds(p, r, caller, i.Action == federation.Deny) &&
				!slices.ContainsFunc(p.Claims, func(c federation.ClaimMatch) bool { return !claimed(c, r) })
		}) {
			continue
		}
		allowed := i.Action == federation.Allow && a >= max(i.Require, federation.AssuranceBinding)
		return allowed, i.Name
	}
	return false, DefaultRule
}

func TestJudgingRequestsAllocatesNothing(t *testing.T) {
	p, r := CompileIntentions(aws, domains(), judged()), &match.Request{Method: "GET", Path: "/public/x"}
	id, callee := workload(aws, "web"), name("checkout")
	if n := testing.AllocsPerRun(100, func() {
		if !p.DecideRequest(id, federation.AssuranceMTLS, aws, callee, r).Allowed {
			t.Fatal("denied")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func judged() []federation.Intention {
	return append(thousand(), with(allow("read", "web", "checkout"), "", federation.HTTPMatch{Methods: []string{"GET"}, PathPrefix: "/public"}))
}

func BenchmarkDecideRequest(b *testing.B) {
	p, r := CompileIntentions(aws, domains(), judged()), &match.Request{Method: "GET", Path: "/public/x"}
	id, callee := workload(aws, "web"), name("checkout")
	b.ReportAllocs()
	for b.Loop() {
		if !p.DecideRequest(id, federation.AssuranceMTLS, aws, callee, r).Allowed {
			b.Fatal("denied")
		}
	}
}

func TestAsks(t *testing.T) {
	claim := func(i federation.Intention, mode federation.Mode, providers ...string) federation.Intention {
		i.Mode = mode
		for _, p := range providers {
			i.HTTP = append(i.HTTP, federation.Permission{Claims: []federation.ClaimMatch{{Provider: p}}})
		}
		return i
	}
	p := CompileIntentions(aws, domains(), []federation.Intention{
		claim(allow("one", "web", "shop/cart"), "", "b", "a"), claim(deny("two", "*", "shop/*@*"), "", "c"),
		claim(allow("three", "web", "*"), federation.Shadow, "a", "d"), claim(allow("four", "web", "shop/cart"), federation.Shadow, "e"),
		allow("five", "web", "plain"),
	})
	for _, test := range []struct {
		callee federation.ServiceName
		want   string
	}{
		{federation.ServiceName{Namespace: "shop", Name: "cart"}, "[{a true} {b true} {c true} {d false} {e false}]"},
		{federation.ServiceName{Namespace: "shop", Name: "other"}, "[{a false} {c true} {d false}]"},
		{name("plain"), "[{a false} {d false}]"},
	} {
		if got := fmt.Sprint(p.Asks(test.callee)); got != test.want {
			t.Errorf("%v: %s, want %s", test.callee, got, test.want)
		}
		if n := testing.AllocsPerRun(10, func() { p.Asks(test.callee) }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
	if asks := CompileIntentions(aws, domains(), judged()).Asks(name("checkout")); asks != nil {
		t.Errorf("nobody asks for a token: %v", asks)
	}
}

// A token says who the user is, never who the caller is: CVE-2023-3518 took one for the other.
func TestATokenIsNoIdentity(t *testing.T) {
	i := allow("one", "web", "checkout")
	i.HTTP = []federation.Permission{{Claims: []federation.ClaimMatch{{Provider: "idp", Path: []string{"roles"}, Any: []string{"admin"}}}}}
	p := CompileIntentions(aws, domains(), []federation.Intention{i})
	admin := &match.Request{Tokens: []match.Token{{Provider: "idp", Claims: map[string]any{"roles": "admin"}}}}
	for _, test := range []struct {
		caller  string
		request *match.Request
		want    bool
	}{{"web", admin, true}, {"batch", admin, false}, {"web", &match.Request{}, false},
		{"web", &match.Request{Tokens: []match.Token{{Provider: "other", Claims: admin.Tokens[0].Claims}}}, false}} {
		if d := p.DecideRequest(workload(aws, test.caller), federation.AssuranceMTLS, aws, name("checkout"), test.request); d.Allowed != test.want {
			t.Errorf("%s with %v: %+v", test.caller, test.request.Tokens, d)
		}
	}
}
