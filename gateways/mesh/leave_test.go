package mesh_test

import (
	"io"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

// A connection whose way is lost is kept while there is nowhere else to go, and ended once there is.
func TestLostWayIsLeftWhenAnotherRegionCanServe(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, echo))
	aws.serve(shop, instance(t, hello("aws")))
	aws.intend("home allow web shop")
	aws.lane[shop].Store(0, federation.SlotHealth{Total: 1})
	c := dial(t, aws.upstream("to-shop", "shop"))
	pong := func() {
		t.Helper()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	pong()
	aws.PathsChanged() // the way is up: nothing happens
	aws.links.setDown("gcp", true)
	aws.PathsChanged() // and nothing here that could serve
	aws.Rejudge()      // is handled behind it
	pong()
	aws.lane[shop].Store(0, federation.SlotHealth{Healthy: 1, Total: 1})
	aws.PathsChanged()
	within(t, func() {
		if _, err := c.Read(make([]byte, 1)); !isReset(err) {
			t.Errorf("got %v, want a reset", err)
		}
	})
	if e := aws.lines.next(t); e.Flags != "LR" || e.Reason != "no way to region gcp is left, and another can serve" {
		t.Errorf("access log says %+v", e)
	}
}
