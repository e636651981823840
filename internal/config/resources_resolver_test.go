package config

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

const choosy = `
resolver "web" {
  balance        = "least_request"
  proxy_protocol = "v2"
  subset "v1" { labels = { version = "1" } }
  subset "v2" {
    labels = { version = "2", "topology.example.com/zone" = "a" }
  }
  affinity {
    cookie = "shop"
    ttl    = "1h"
  }
  outlier {
    consecutive_server_errors = 3
    success_rate              = 1.9
    success_rate_hosts        = 4
    success_rate_requests     = 50
    panic_percent             = 30
  }
  limits {
    connections       = 100
    requests          = 50
    pending           = 10
    per_peer_requests = 20
  }
  rate_limit {
    per   = "caller"
    rate  = "100/s"
    burst = 200
  }
  rate_limit {
    per  = "service"
    rate = "6000/m"
  }
  retry_budget {
    percent = 12.5
    minimum = "0/s"
  }
}
`

func TestResolversRoundTripThroughHCL(t *testing.T) {
	dir := t.TempDir()
	first, err := ParseResources(write(t, dir, "web.hcl", choosy))
	if err != nil {
		t.Fatal(err)
	}
	want := &federation.Resolver{Service: federation.ServiceName{Namespace: "default", Name: "web"}, Balance: federation.BalanceLeastRequest,
		ProxyProtocol: federation.ProxyV2,
		Subsets: map[string]federation.Subset{"v1": {Labels: map[string]string{"version": "1"}},
			"v2": {Labels: map[string]string{"version": "2", "topology.example.com/zone": "a"}}},
		Affinity: &federation.Affinity{Cookie: "shop", TTL: federation.Duration(time.Hour)},
		Outlier: federation.Outlier{ConsecutiveServerErrors: 3, SuccessRate: 1.9, SuccessRateHosts: 4, SuccessRateRequests: 50,
			PanicPercent: 30},
		Limits: federation.Limits{Connections: 100, Requests: 50, Pending: 10, PerPeerRequests: 20},
		RateLimits: []federation.RateLimit{{Per: federation.PerCaller, Rate: federation.Rate{Count: 100, Per: time.Second}, Burst: 200},
			{Per: federation.PerService, Rate: federation.Rate{Count: 6000, Per: time.Minute}}},
		RetryBudget: federation.RetryBudget{Percent: 12.5, Minimum: federation.Rate{Per: time.Second}}}
	if !reflect.DeepEqual(first[0].Spec, federation.Spec(want)) {
		t.Errorf("read %+v", first[0].Spec)
	}
	second, err := ParseResources(write(t, dir, "again.hcl", string(FormatHCL(first))))
	if err != nil {
		t.Fatalf("%v\n%s", err, FormatHCL(first))
	}
	if !reflect.DeepEqual(first[0].Spec, second[0].Spec) {
		t.Errorf("%s\ncame back as\n%s", FormatHCL(first), FormatHCL(second))
	}
}

func TestMistakesInResolvers(t *testing.T) {
	for _, c := range []struct{ body, want string }{
		{`balance = "best"`, "least_request"},
		{`proxy_protocol = "2"`, "use v1 or v2"},
		{`subset "V2" { labels = { a = "b" } }`, "lower case"},
		{`subset "v2" { labels = {} }`, "has 0 labels"},
		{"subset \"v2\" { labels = { a = \"b\" } }\nsubset \"v2\" { labels = { a = \"c\" } }", "declared before"},
		{`subset "v2" {}`, "labels"},
		{`affinity {}`, "exactly one"},
		{"affinity {\n cookie = \"a\"\n source = true\n}", "exactly one"},
		{`affinity { source = false }`, "exactly one"},
		{`affinity { cookie = "a b" }`, "no name"},
		{`affinity { header = "x-tradewind-caller" }`, "the mesh's own"},
		{"affinity {\n header = \"x-user\"\n ttl = \"1h\"\n}", "life of a cookie"},
		{`outlier { panic_percent = 101 }`, "between 0 and 100"},
		{`outlier { success_rate = 11 }`, "standard deviations"},
		{`outlier { success_rate_hosts = 3 }`, "need success_rate"},
		{`outlier { consecutive_server_errors = -1 }`, "negative"},
		{`limits { requests = -1 }`, "between 0 and"},
		{`limits { pending = 10 }`, "nothing waits"},
		{"rate_limit {\n per = \"peer\"\n rate = \"1/s\"\n}", "caller or service"},
		{"rate_limit {\n per = \"caller\"\n rate = \"0/s\"\n}", "allows nothing"},
		{"rate_limit {\n per = \"caller\"\n rate = \"1/d\"\n}", "is not valid"},
		{"rate_limit {\n per = \"caller\"\n rate = \"1/s\"\n burst = 10000000\n}", "burst"},
		{`retry_budget { percent = 101 }`, "between 0 and 100"},
		{`retry_budget { minimum = "10" }`, "is not valid"},
		{`retry_buget {}`, `Did you mean "retry_budget"?`},
	} {
		_, err := ParseResources(write(t, t.TempDir(), "r.hcl", "resolver \"web\" {\n"+c.body+"\n}"))
		if federation.CodeOf(err) != "TW-1004" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngave %v, want %q", c.body, err, c.want)
		}
	}
}

func TestAnyResolverSurvivesHCL(t *testing.T) {
	dir := t.TempDir()
	count := rapid.IntRange(0, 1000)
	unit := rapid.SampledFrom([]time.Duration{time.Second, time.Minute, time.Hour})
	label, value := rapid.StringMatching(`[ -~]+`), rapid.StringMatching(`[ -~]*`)
	decimal := rapid.Map(rapid.IntRange(0, 1000), func(n int) float64 { return float64(n) / 100 }) // as people write them
	rapid.Check(t, func(t *rapid.T) {
		spec := &federation.Resolver{
			Outlier: federation.Outlier{ConsecutiveServerErrors: count.Draw(t, "errors"), SuccessRate: decimal.Draw(t, "rate"),
				PanicPercent: rapid.IntRange(0, 100).Draw(t, "panic")},
			Limits: federation.Limits{Connections: count.Draw(t, "connections"), Requests: count.Draw(t, "requests")},
			RetryBudget: federation.RetryBudget{Percent: decimal.Draw(t, "percent"),
				Minimum: federation.Rate{Count: count.Draw(t, "minimum"), Per: unit.Draw(t, "unit")}},
			Subsets: map[string]federation.Subset{"a": {Labels: rapid.MapOfN(label, value, 1, 4).Draw(t, "labels")}},
		}
		in := federation.Resource{Key: federation.Key{Kind: federation.KindResolver, Name: "web"}, Spec: spec}
		if err := in.Validate(); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "any.hcl")
		if err := os.WriteFile(path, FormatHCL([]federation.Resource{in}), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := ParseResources(path)
		if err != nil {
			t.Fatalf("%v\n%s", err, FormatHCL([]federation.Resource{in}))
		}
		if !reflect.DeepEqual(in.Spec, out[0].Spec) {
			t.Fatalf("%+v became %+v\n%s", in.Spec, out[0].Spec, FormatHCL([]federation.Resource{in}))
		}
	})
}
