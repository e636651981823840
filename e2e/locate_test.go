package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// TestMetadataThatIsDropped: where packets to the clouds' metadata services vanish, as in most data centres, a gateway is ready as soon as
// elsewhere, and stops as soon.
func TestMetadataThatIsDropped(t *testing.T) {
	r := world.Regions(t, "", "aws-us-east-1")[0]
	r.Gateway.Kill()
	// What is sent to a hardware address that nobody has is lost without a word.
	for _, args := range []string{"link add drop type veth peer name sink", "link set sink up", "link set drop up",
		"addr add 169.254.0.1/16 dev drop", "neigh add 169.254.169.254 lladdr 02:00:00:00:00:01 dev drop nud permanent"} {
		r.Run(5*time.Second, "ip", strings.Fields(args)...)
	}
	asked := make(chan error, 1)
	go func() { // a connection to port 80 of 169.254.169.254 waits for its first answer
		_, err := r.Try(20*time.Second, "sh", "-c", "until grep -q ' FEA9FEA9:0050 02 ' /proc/net/tcp; do sleep 0.02; done")
		asked <- err
	}()
	began := time.Now()
	r.StartGateway()
	var status struct {
		State    string
		Location struct{ Provider string }
	}
	world.Until(t, 20*time.Second, "readiness", func() error {
		if r.JSON(&status, "status"); status.State != "ready" {
			return fmt.Errorf("it is %s", status.State)
		}
		return nil
	})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("it was ready after %v", took)
	} else {
		t.Logf("ready after %v", took.Round(time.Millisecond))
	}
	if err := <-asked; err != nil {
		t.Errorf("nobody asked a metadata service: %v", err)
	}
	if status.Location.Provider != "" {
		t.Errorf("it found itself at %+v", status.Location)
	}
}
