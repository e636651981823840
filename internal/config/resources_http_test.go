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

const web = `
route "web" {
  rule "canary" {
    match {
      methods     = ["GET"]
      hosts       = ["*.example.com"]
      path_prefix = "/api"
      header "x-canary" { exact = ["1"] }
      query "debug" { absent = true }
    }
    match { grpc = "shop.Cart/Add" }
    split {
      subset = "v2"
      region = "gcp-europe-west1"
      weight = 10
    }
    split {
      service = "shop/web"
      weight  = 90
    }
    rewrite { host = "web.example.com" }
    request_headers {
      set    = { x-tenant = "blue $${x}" }
      remove = ["x-debug"]
    }
    timeout     = "15s"
    try_timeout = "5s"
    priority    = 0
    retry {
      attempts = 1
      on       = ["connect-failure", "503"]
      hedge {
        after   = "50ms"
        percent = 2.5
      }
    }
    mirror {
      service = "web-next"
      percent = 0.5
    }
    rate_limit {
      per   = "rule"
      rate  = "100/s"
      burst = 200
    }
    rate_limit {
      per  = "caller"
      rate = "10/m"
    }
    fault {
      delay         = "100ms"
      delay_percent = 5
    }
  }
  rule "moved" {
    match { path_prefix = "/old" }
    redirect {
      path_prefix = "/new"
      status      = 308
    }
  }
  rule "slow" {
    retry {
      hedge { after = "p95" }
    }
  }
  rule "closed" {
    respond {
      status = 410
      body   = "gone"
    }
  }
}
intention "read" {
  source      = "client"
  destination = "web"
  action      = "allow"
  mode        = "shadow"
  http {
    methods       = ["GET", "HEAD"]
    path_template = "/users/{id}"
  }
}
`

func TestRoutesRoundTripThroughHCL(t *testing.T) {
	dir := t.TempDir()
	first, err := ParseResources(write(t, dir, "web.hcl", web))
	if err != nil {
		t.Fatal(err)
	}
	second, err := ParseResources(write(t, dir, "again.hcl", string(FormatHCL(first))))
	if err != nil {
		t.Fatalf("%v\n%s", err, FormatHCL(first))
	}
	if !reflect.DeepEqual(first[0].Spec, second[0].Spec) || !reflect.DeepEqual(first[1].Spec, second[1].Spec) {
		t.Errorf("%s\ncame back as\n%s", FormatHCL(first), FormatHCL(second))
	}
	route, ok := first[1].Spec.(*federation.Route)
	if !ok || len(route.Rules) != 4 || len(route.Rules[0].RateLimits) != 2 || *route.Rules[0].Priority != 0 ||
		time.Duration(route.Rules[0].Retry.Hedge.After) != 50*time.Millisecond || route.Rules[2].Retry.Hedge.After != 0 || route.Rules[0].Split[1].Service.Namespace != "shop" || route.Rules[0].Request.Set["x-tenant"] == "" {
		t.Errorf("read %+v", first[1].Spec)
	}
}

func TestMistakesInRoutes(t *testing.T) {
	for _, c := range []struct{ rule, want string }{
		{`match { path = "a" }`, "slash"},
		{`match { path = "/a/../b" }`, "dot segment"},
		{`match { path_template = "/a/{b}c" }`, "whole segment"},
		{"match {\n path = \"/a\"\n path_prefix = \"/a\"\n}", "exclude each other"},
		{`match { methods = ["get"] }`, "capitals"},
		{`match { hosts = ["example.com:80"] }`, "without port"},
		{"match {\n header \"host\" {}\n}", "use hosts"},
		{"match {\n header \"a b\" {}\n}", "no name"},
		{`split { weight = 0 }`, "add up to"},
		{"redirect { host = \"a.example.com\" }\nrespond { status = 200 }", "exclude each other"},
		{`redirect { path_prefix = "/b" }`, "every match must have one"},
		{`respond { status = 99 }`, "between 200 and 599"},
		{`request_headers { set = { "Transfer-Encoding" = "chunked" } }`, "frames the message"},
		{`request_headers { set = { "x-tradewind-caller" = "me" } }`, "the mesh's own"},
		{`response_headers { set = { x = "a\nb" } }`, "control characters"},
		{"timeout = \"1s\"\ntry_timeout = \"2s\"", "longer than timeout"},
		{`retry { on = ["sometimes"] }`, "no reason"},
		{"rate_limit {\n per = \"service\"\n rate = \"1/s\"\n}", "caller or rule"},
		{"rate_limit {\n per = \"rule\"\n rate = \"0/s\"\n}", "allows nothing"},
		{`retry { attempts = 11 }`, "between 0 and 10"},
		{"retry {\n hedge { after = \"p12\" }\n}", "write \"p95\", or a duration of at least 1ms"},
		{"retry {\n hedge { after = \"1us\" }\n}", "of at least 1ms"},
		{"retry {\n hedge { percent = 101 }\n}", "between 0 and 100"},
		{`priority = 8`, "0, the most urgent, and 7"},
		{"priority = 1\nrespond { status = 200 }", "sent on"},
		{`fault { abort = 200 }`, "400 to 599"},
		{`fault { delay_percent = 101 }`, "between 0 and 100"},
		{`fautl {}`, `Did you mean "fault"?`},
	} {
		_, err := ParseResources(write(t, t.TempDir(), "r.hcl", "route \"web\" {\n  rule \"x\" {\n"+c.rule+"\n  }\n}"))
		if federation.CodeOf(err) != "TW-1004" || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s\ngave %v, want %q", c.rule, err, c.want)
		}
	}
}

func TestAnyHeaderEditSurvivesHCL(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		name, value := rapid.StringMatching(`[a-z!#$%&'*+.^_|~-]{1,12}`), rapid.StringMatching(`[ -~]*`)
		in := federation.Resource{Key: federation.Key{Kind: federation.KindRoute, Name: "web"}, Spec: &federation.Route{
			Rules: []federation.RouteRule{{Name: "a", Request: &federation.HeaderEdit{Set: rapid.MapOfN(name, value, 1, 5).Draw(t, "set")}}}}}
		if in.Validate() != nil {
			t.Skip("not a valid resource")
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
