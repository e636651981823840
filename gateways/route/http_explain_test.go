package route

import (
	"fmt"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

func TestExplainRuleSaysWhyOthersDoNotMatch(t *testing.T) {
	view := world("shop")
	view.Routes = map[federation.ServiceName]federation.Route{name("shop"): {Service: name("shop"), Rules: []federation.RouteRule{
		{Name: "post", Match: []federation.HTTPMatch{{Methods: []string{"POST", "PUT"}, Path: "/x"}}},
		{Name: "path", Match: []federation.HTTPMatch{{Path: "/y"}, {PathPrefix: "/api"}, {PathTemplate: "/users/{id}"}}},
		{Name: "host", Match: []federation.HTTPMatch{{Hosts: []string{"*.example.com"}, PathPrefix: "/"}}},
		{Name: "header", Match: []federation.HTTPMatch{{Headers: []federation.FieldMatch{{Name: "x-canary", Exact: []string{"1"}}}}}},
		{Name: "query", Match: []federation.HTTPMatch{{Query: []federation.FieldMatch{{Name: "v", Prefix: "b"}}}}},
		{Name: "absent", Match: []federation.HTTPMatch{{Query: []federation.FieldMatch{{Name: "v", Absent: true}}}}},
		{Name: "there", Match: []federation.HTTPMatch{{Headers: []federation.FieldMatch{{Name: "x-trace"}}}}},
		{Name: "grpc", Match: []federation.HTTPMatch{{GRPC: "pkg.Service"}}},
		{Name: "all", Respond: &federation.Respond{Status: 204}},
		{Name: "never"},
	}}}
	s := compile(t, view)
	found := s.ExplainRule(name("shop"), &match.Request{Method: "GET", Host: "shop", Path: "/x", Query: "v=a"})
	want := []Weighed{
		{"post", `method "GET" is not POST or PUT`},
		{"path", `path "/x" is not "/y"; path "/x" is not below "/api"; path "/x" does not fit "/users/{id}"`},
		{"host", `host "shop" is not *.example.com`},
		{"header", `header "x-canary" is not ["1"]`},
		{"query", `query parameter "v" does not begin with "b"`},
		{"absent", `query parameter "v" is there`},
		{"there", `header "x-trace" is not there`},
		{"grpc", `it is no gRPC call of "pkg.Service"`},
	}
	if diff := gocmp.Diff(want, found.Before); diff != "" {
		t.Error(diff)
	}
	if !found.Found || found.Rule.Name != "all" || found.More != 0 {
		t.Errorf("found %+v", found)
	}
	if found := s.ExplainRule(name("none"), &match.Request{}); found.Found || found.Rule == nil || found.Before != nil {
		t.Errorf("without a route: %+v", found)
	}
}

// TestExplainRuleAgrees: the rule is the one that requests get, each rule before it has a reason, and what is said is bounded.
func TestExplainRuleAgrees(t *testing.T) {
	methods := rapid.SampledFrom([]string{"GET", "POST"})
	paths := rapid.SampledFrom([]string{"/a", "/a/b", "/b"})
	rapid.Check(t, func(t *rapid.T) {
		view := world("shop")
		var rules []federation.RouteRule
		for i := range rapid.IntRange(0, 250).Draw(t, "rules") {
			rule := federation.RouteRule{Name: fmt.Sprintf("r%d", i)}
			m := federation.HTTPMatch{Methods: []string{methods.Draw(t, "method")}}
			if p := paths.Draw(t, "path"); i%2 == 0 {
				m.Path = p
			} else {
				m.PathPrefix = p
			}
			m.Headers = []federation.FieldMatch{{Name: "x", Exact: []string{rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "x")}}}
			rule.Match = []federation.HTTPMatch{m}
			rules = append(rules, rule)
		}
		view.Routes = map[federation.ServiceName]federation.Route{name("shop"): {Service: name("shop"), Rules: rules}}
		s, err := Compile(view)
		if err != nil {
			t.Fatal(err)
		}
		r := &match.Request{Method: methods.Draw(t, "asks"), Path: paths.Draw(t, "for"),
			Header: map[string][]string{"X": {rapid.SampledFrom([]string{"1", "4"}).Draw(t, "with")}}}
		found := s.ExplainRule(name("shop"), r)
		if rule := s.Rule(name("shop"), r); rule != found.Rule {
			t.Fatalf("explained as %q, and it gets %q", found.Rule.Name, rule.Name)
		}
		if len(found.Before) > maxWeighed {
			t.Fatalf("%d rules are explained", len(found.Before))
		}
		for i, w := range found.Before {
			if w.Rule != fmt.Sprintf("r%d", found.More+i) || w.Reason == "" || w.Reason == "a rule before it matches" {
				t.Fatalf("rule %d of %+v: %+v", i, found.Rule.RouteRule, w)
			}
		}
	})
}
