package agent

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func TestExplainOfARequest(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	g := start(t, "aws", shortDir(t), "")
	in := &admin.HTTPRequest{Method: "GET", Target: "/v1/a"}
	ask := func(source, destination string) (*admin.Explanation, error) {
		return g.Explain(t.Context(), &admin.ExplainRequest{Source: source, Destination: destination, Request: in})
	}
	_, err := ask("", "shop")
	if federation.CodeOf(err) != "TW-8906" || !strings.Contains(err.Error(), "no upstream of this region leads to shop") {
		t.Errorf("without an upstream: %v", err)
	}
	const resources = `
service "shop" {
  protocol = "http"
  instance "one" { address = %q }
}
upstream "shop" {
  service = "shop"
  listen  = "127.0.0.1:0"
  caller  = "web"
}
intention "in" {
  source      = "web"
  destination = "shop"
  action      = "allow"
  http { path_prefix = "/v2" }
}
route "shop" {
  rule "old" {
    match { path_prefix = "/v1" }
    rewrite { path_prefix = "/v2" }
  }
}`
	g.apply(fmt.Sprintf(resources, serve(t, "from aws")))
	e, err := ask("", "shop")
	if err != nil {
		t.Fatal(err)
	}
	f := e.Request
	if e.Verdict != admin.VerdictAllowed || !e.Decision.Conditional || e.Caller.ID != "spiffe://aws.mesh.internal/ns/default/svc/web" {
		t.Errorf("explained as %+v", e)
	}
	if f == nil || f.Rule == nil || f.Rule.Name != "old" || f.Request.Host != "shop" || f.Forwarded.Target != "/v2/a" || len(f.Shares) != 1 ||
		f.Shares[0].Region != "aws" || f.Shares[0].Percent != 100 {
		t.Errorf("forecast %+v", f)
	}
	g.apply("upstream \"other\" {\n service = \"shop\"\n listen = \"127.0.0.1:0\"\n caller = \"batch\"\n}")
	if _, err := ask("", "shop"); err == nil || !strings.Contains(err.Error(), "batch, web") {
		t.Errorf("with two callers: %v", err)
	}
	if e, err := ask("batch", "shop"); err != nil || e.Verdict != admin.VerdictDenied || e.Fix == "" {
		t.Errorf("%+v, %v", e, err)
	}
}
