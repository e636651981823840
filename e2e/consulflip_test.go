package e2e

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/federation"
)

// TestConsulFlipAtAPeer turns checks in a real Consul and measures until the other region's catalog says so: from before the call to
// Consul to the first answer of the peer's admin API that shows it. On its way the change passes Consul's agent and its server,
// the gateway that watches it, and the peer's.
func TestConsulFlipAtAPeer(t *testing.T) {
	const (
		services = 20
		others   = 50 // that stay: a region that loses 30 % at once is not believed for up to a minute
		rounds   = 4  // damping lets five changes of a service through at once
		limit    = 500 * time.Millisecond
		waits    = 8 // for a processor that a change passes, and that are granted when the machine is busy
	)
	a := startConsul(t, "")
	aws := readsConsul(t, a, "aws")
	gcp := stations(t, "gcp")[0]
	if err := world.Join(t.Context(), aws.client, gcp.client); err != nil {
		t.Fatal(err)
	}
	specs := map[federation.Key]federation.Spec{}
	var names []federation.ServiceName
	for i := range services + others {
		id := fmt.Sprintf("s%d", i)
		address := fmt.Sprintf("198.51.100.%d", i+1) // of its own: what is at one address is of one health
		a.register(t, &api.AgentServiceRegistration{ID: id, Name: id, Address: address, Port: 80,
			Check: &api.AgentServiceCheck{CheckID: id, TTL: "1h", Status: api.HealthPassing}})
		specs[federation.Key{Kind: federation.KindExport, Name: id}] = &federation.Export{To: []string{"gcp"}}
		names = append(names, federation.ServiceName{Namespace: federation.DefaultNamespace, Name: id})
	}
	aws.put(t, specs)
	all(t, gcp, names, 1)

	var took, asked []time.Duration
	for i := range rounds * services {
		name, status, want := names[i/2%services], api.HealthCritical, uint32(0)
		if i%2 == 1 {
			status, want = api.HealthPassing, 1
		}
		begin := time.Now()
		healthyAt(t, aws, name)
		healthyAt(t, gcp, name)
		asked = append(asked, time.Since(begin))
		begin = time.Now()
		a.update(t, name.Name, status)
		for deadline := begin.Add(10 * time.Second); healthyAt(t, gcp, name) != want; {
			if time.Now().After(deadline) {
				t.Fatalf("change %d: gcp does not see that %v is %s after 10 s; aws sees %d", i, name, status, healthyAt(t, aws, name))
			}
		}
		took = append(took, time.Since(begin))
	}
	busy := percentile(asked, 50)
	t.Logf("change of a check in Consul to visible at a peer: %s (limit for p50: %v; a question beside it: p50 %v)", spread(took), limit, busy)
	if p50 := percentile(took, 50); p50-waits*busy > limit {
		t.Errorf("p50 is %v, at most %v is allowed", p50, limit)
	}
}

// readsConsul starts a region on loopback whose gateway takes all services of a for its own.
func readsConsul(t *testing.T, a *agent, name string) station {
	t.Helper()
	l, err := world.NewLoopback(world.Binaries(t), filepath.Join(t.TempDir(), name), name,
		fmt.Sprintf("provider \"consul\" \"corp\" {\n address = %q\n discover {\n  service = \"*\"\n }\n}", a.http))
	if err != nil {
		t.Fatal(err)
	}
	s := station{l, l.Client()}
	t.Cleanup(func() {
		s.client.Close()
		s.Kill()
		if t.Failed() {
			t.Log(s.LastWords())
		}
	})
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return s
}
