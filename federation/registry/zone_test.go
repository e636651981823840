package registry

import (
	"strings"
	"testing"
	"testing/synctest"
)

// far is a script that sees whole clouds.
type far struct{ *script }

func (far) Distant() {}

// TestTheGatewaysZoneIsThatOfWhoSaysNone: it is learnt while running, holds for all that is there and for what comes, and never
// contradicts a source.
func TestTheGatewaysZoneIsThatOfWhoSaysNone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := New(Config{Region: "a"})
		near, cloud := add(t, r, "api"), far{newScript()}
		if err := r.Add("aws:production", cloud); err != nil {
			t.Fatal(err)
		}
		start(t, r)
		zones := func() string {
			var out []string
			for _, i := range r.Catalog().Service(web).Instances {
				out = append(out, string(i.ID)+"="+i.Locality.Zone)
			}
			return strings.Join(out, " ")
		}
		says := inst("web", "2", "192.0.2.2:80")
		says.Locality.Zone = "zone-b"
		near.publish(inst("web", "1", "192.0.2.1:80"), says)
		cloud.publish(inst("web", "3", "192.0.2.3:80"))
		same(t, "before", zones(), "1= 2=zone-b 3=")
		set := func(zone string) {
			t.Helper()
			if err := r.SetZone(zone); err != nil {
				t.Fatal(err)
			}
			if err := r.Sync(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		set("zone-a")
		same(t, "after", zones(), "1=zone-a 2=zone-b 3=")
		near.publish(inst("web", "1", "192.0.2.1:80"), says, inst("web", "4", "192.0.2.4:80"))
		same(t, "one that comes", zones(), "1=zone-a 2=zone-b 3= 4=zone-a")
		r.TakeHealthChanges()
		set("zone-a")
		same(t, "changes by saying it twice", len(r.TakeHealthChanges()), 0)
		set("")
		same(t, "without", zones(), "1= 2=zone-b 3= 4=")
		if err := r.SetZone(strings.Repeat("z", maxZone+1)); err == nil {
			t.Error("a zone without end was taken")
		}
	})
}
