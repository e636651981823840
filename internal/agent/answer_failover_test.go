package agent

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// TestDrainOfThisRegion drains the only region that has a service: its calls stay, the drain is in the store and in status, and it is gone
// once it has been told to return.
func TestDrainOfThisRegion(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	g := start(t, "aws", shortDir(t), "")
	g.apply(fmt.Sprintf(`
service "shop" {
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
}`, serve(t, "from aws")))
	shown, err := g.FailoverShow(t.Context(), &admin.FailoverShowRequest{})
	if err != nil || len(shown.Services) != 1 || shown.Services[0].Serving != "aws" || len(shown.Drains) != 0 {
		t.Fatalf("shown %+v, %v", shown, err)
	}
	tested, err := g.FailoverTest(t.Context(), &admin.FailoverTestRequest{Region: federation.Local})
	if err != nil || tested.Region != "aws" || tested.Unserved != 1 || len(tested.Moves) != 1 || tested.Moves[0].To != "" {
		t.Fatalf("tested %+v, %v", tested, err)
	}
	if _, err := g.FailoverTest(t.Context(), &admin.FailoverTestRequest{Region: "nowhere"}); federation.CodeOf(err) != federation.CodeDrainRegion {
		t.Errorf("a region that is not known: %v", err)
	}
	if _, err := g.FailoverReturn(t.Context(), &admin.FailoverReturnRequest{Region: "aws", Owner: "cli"}); federation.CodeOf(err) != federation.CodeDrainNone {
		t.Errorf("return of what is not drained: %v", err)
	}
	d, err := g.FailoverDrain(t.Context(), &admin.FailoverDrainRequest{Region: federation.Local, Owner: "cli", For: federation.Duration(time.Hour)})
	if err != nil || d.Region != "aws" || d.Share != 0 || d.Owner != "cli" {
		t.Fatalf("drained %+v, %v", d, err)
	}
	if _, err := g.FailoverDrain(t.Context(), &admin.FailoverDrainRequest{Region: "aws", Owner: "terraform"}); federation.CodeOf(err) != "TW-1202" {
		t.Errorf("a drain of another owner: %v", err)
	}
	shown, err = g.FailoverShow(t.Context(), &admin.FailoverShowRequest{})
	if err != nil || shown.Services[0].Serving != "aws" || len(shown.Drains) != 1 {
		t.Errorf("the only region no longer serves: %+v, %v", shown, err)
	}
	if st, err := g.Status(t.Context(), &admin.StatusRequest{}); err != nil || len(st.Drains) != 1 {
		t.Errorf("status shows %+v, %v", st.Drains, err)
	}
	if d, err = g.FailoverReturn(t.Context(), &admin.FailoverReturnRequest{Region: "aws", Owner: "cli"}); err != nil || d.Share != 0.1 {
		t.Errorf("returned %+v, %v", d, err)
	}
}
