package agent

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

func TestPathTroubleTakesOverTheFix(t *testing.T) {
	if d := pathDown(tunnel.Path{Peer: "gcp", Up: true}); d != nil {
		t.Errorf("a path that is up: %v", d)
	}
	if d := pathDown(tunnel.Path{Peer: "gcp"}); d == nil || !strings.Contains(d.Fix, "UDP") {
		t.Errorf("no reason known: %v", d)
	}
	refused := &federation.Diagnostic{Code: federation.CodePeerRefusesUs, What: "gateway is not reached", Why: "it refused", Fix: "remove it"}
	d := pathDown(tunnel.Path{Peer: "gcp", LastError: refused.Reason(), Problem: refused})
	if d.Code != "TW-8922" || d.Why != "gateway is not reached: it refused" || d.Fix != "remove it" {
		t.Errorf("refused: %+v", d)
	}
}

func TestApplyWarnsOfWhatCannotBind(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	g := start(t, "aws", shortDir(t), "")
	path := filepath.Join(t.TempDir(), "r.hcl")
	put := func(name, listen string) *admin.Plan {
		t.Helper()
		text := fmt.Sprintf("upstream %q {\n service = \"shop\"\n listen = %q\n caller = \"web\"\n}", name, listen)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		list, err := config.ParseResources(path)
		if err != nil {
			t.Fatal(err)
		}
		plan, err := g.ApplyResources(t.Context(), &admin.ChangeRequest{Owner: "test", Put: list})
		if err != nil {
			t.Fatal(err)
		}
		return plan
	}
	warned := func(p *admin.Plan) (found bool) {
		for _, w := range p.Warnings {
			found = found || w.Code == federation.CodeUpstreamListen && w.Fix != ""
		}
		return found
	}
	if p := put("one", taken.Addr().String()); !warned(p) {
		t.Errorf("the address is taken, and apply says %+v", p)
	}
	if p := put("two", freeAddress(t)); warned(p) {
		t.Errorf("another upstream's trouble is told: %+v", p)
	}
}
