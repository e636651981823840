package peering

import (
	"slices"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TestLookedUpAddressesAreUsedAndKept: when a peer's gateway moves, whoever looks its address up brings the peering back without a
// restart, and the next life of the process knows the address too.
func TestLookedUpAddressesAreUsedAndKept(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a, b := w.add("a"), w.add("b")
		w.join(a, b)
		a.await("b", federation.PeeringActive, 10*time.Second)
		w.mu.Lock()
		b.addresses, w.hidden = []string{"moved.example.com:8443"}, a // so that only a can make the session
		w.mu.Unlock()
		w.killSessions("b")
		pass(time.Minute)
		if s, _ := a.m.Show("b"); s.Session.Up {
			t.Fatal("a session came up at an address that nobody has any more")
		}
		if err := a.m.SetAddresses(t.Context(), "b", []string{"moved.example.com:8443"}); err != nil {
			t.Fatal(err)
		}
		a.await("b", federation.PeeringActive, 10*time.Second)
		if p, _ := a.catalog.peer("b"); !slices.Equal(p.Gateways, []string{"moved.example.com:8443"}) {
			t.Errorf("flows go to %v", p.Gateways)
		}
		a.stop()
		a.start()
		a.await("b", federation.PeeringActive, 30*time.Second)
		if s, _ := a.m.Show("b"); !slices.Equal(s.Gateways, []string{"moved.example.com:8443"}) {
			t.Errorf("after a restart the addresses are %v", s.Gateways)
		}
	})
}

func TestAddressesThatCannotBeAreRefused(t *testing.T) {
	bubble(t, func(t *testing.T, w *world) {
		a := w.add("a")
		w.join(a, w.add("b"))
		before, _ := a.m.Show("b")
		nine := make([]string, MaxAddresses+1)
		for i := range nine {
			nine[i] = string(rune('a'+i)) + ".example.com:8443"
		}
		for _, c := range []struct {
			region    federation.Region
			addresses []string
			code      federation.Code
		}{
			{"b", nil, federation.CodeNoAddress},
			{"b", nine, federation.CodeNoAddress},
			{"b", []string{"gw.example.com"}, federation.CodeNoAddress},
			{"b", []string{"169.254.169.254:80"}, federation.CodeNoAddress},
			{"b", []string{"gw.example.com:8443", "gw.example.com:8443"}, federation.CodeNoAddress},
			{"c", []string{"gw.example.com:8443"}, federation.CodePeeringUnknown},
		} {
			if err := a.m.SetAddresses(t.Context(), c.region, c.addresses); federation.CodeOf(err) != c.code {
				t.Errorf("addresses %v of %s: %v, want %s", c.addresses, c.region, err, c.code)
			}
		}
		if after, _ := a.m.Show("b"); !slices.Equal(before.Gateways, after.Gateways) {
			t.Errorf("the addresses are %v now", after.Gateways)
		}
	})
}
