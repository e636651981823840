package e2e

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// TestFigures measures what the design promises, on loopback between gateway processes, from outside: through the admin API. It
// fails above the limits.
func TestFigures(t *testing.T) {
	t.Run("health", healthAtAPeer)
	t.Run("death", deathAtPeers)
	t.Run("restart", restartAlone)
}

// healthAtAPeer changes the health of registered instances in one region and measures until the other region's catalog says so:
// from before the call, which has written it to the disk when it returns, to the first answer of the peer's admin API that shows it.
//
// A neighbour on the machine that takes a processor for ten milliseconds breaks the limit for p99 as well. Questions that change
// nothing are therefore measured in between: a change passes some five such waits on its way (the call, the disk, two gateways,
// the answer), so that much more is granted for p99 when the questions are slow too. Nothing is granted for p50.
func healthAtAPeer(t *testing.T) {
	const (
		services = 60 // of each attempt
		attempts = 3
		limit    = 15 * time.Millisecond
		waits    = 5
	)
	s := stations(t, "aws", "gcp")
	aws, gcp := s[0], s[1]
	specs := map[federation.Key]federation.Spec{}
	var names []federation.ServiceName
	for i := range attempts * services {
		name := federation.ServiceName{Namespace: federation.DefaultNamespace, Name: fmt.Sprintf("s%d", i)}
		names = append(names, name)
		specs[federation.Key{Kind: federation.KindExport, Name: name.String()}] = &federation.Export{To: []string{"gcp"}}
		register(t, aws, name, federation.HealthPassing)
	}
	aws.put(t, specs)
	all(t, gcp, names, 1)
	least, median := time.Duration(1<<63-1), time.Duration(1<<63-1)
	for i := range attempts {
		took, asked := flip(t, aws, gcp, names[i*services:(i+1)*services])
		busy, p99 := percentile(asked, 99), percentile(took, 99)
		t.Logf("health change to visible at a peer, loopback: %s (limit for p99: %v; a question beside it: p99 %v)",
			spread(took), limit, busy.Round(10*time.Microsecond))
		if p99 <= limit {
			return
		}
		least, median = min(least, p99-waits*busy), min(median, percentile(took, 50))
	}
	if median > limit {
		t.Errorf("p50 was above %v in each of %d attempts", limit, attempts)
	}
	if least > limit {
		t.Errorf("p99 was above %v in each of %d attempts, and the machine was not busy enough to explain it", limit, attempts)
	}
}

// flip takes each service down and up again, twice, and returns how long each of it took to be seen by gcp, and how long a
// question to both gateways took in between. One service at a time is down: a region that loses 30 % is not believed for up to
// a minute. Damping lets five changes of a service through at once, and one a second after that.
func flip(t *testing.T, aws, gcp station, names []federation.ServiceName) (took, asked []time.Duration) {
	t.Helper()
	pace := time.NewTicker(20 * time.Millisecond) // 50 a second: fewer than what counts as flapping of the whole region
	defer pace.Stop()
	for i := range 4 * len(names) {
		name, health, want := names[i/2%len(names)], federation.HealthFailing, uint32(0)
		if i%2 == 1 {
			health, want = federation.HealthPassing, 1
		}
		<-pace.C
		begin := time.Now()
		healthyAt(t, aws, name)
		healthyAt(t, gcp, name)
		asked = append(asked, time.Since(begin))
		begin = time.Now()
		register(t, aws, name, health)
		deadline := begin.Add(5 * time.Second)
		for healthyAt(t, gcp, name) != want {
			if time.Now().After(deadline) {
				t.Fatalf("gcp does not see that %v is %v after 5 s", name, health)
			}
		}
		took = append(took, time.Since(begin))
	}
	return took, asked
}

func register(t *testing.T, s station, name federation.ServiceName, health federation.Health) {
	t.Helper()
	_, err := s.client.RegisterInstance(t.Context(), &admin.RegisterInstanceRequest{Instance: federation.Instance{
		ID: "1", Service: name, Address: netip.MustParseAddrPort("192.0.2.1:80"), Health: health,
		Checks: []federation.CheckSpec{{Kind: federation.CheckTTL, TTL: federation.Duration(time.Hour)}},
	}})
	if err != nil {
		t.Fatal(err)
	}
}

// healthyAt is how many healthy instances of name s sees at its peers.
func healthyAt(t *testing.T, s station, name federation.ServiceName) uint32 {
	t.Helper()
	detail, err := s.client.ShowService(t.Context(), &admin.ShowServiceRequest{Service: name})
	if err != nil {
		t.Fatal(err)
	}
	var healthy uint32
	for _, home := range detail.Homes {
		healthy += home.Healthy
	}
	return healthy
}

// all waits until s sees n healthy instances of every service in aws.
func all(t *testing.T, s station, names []federation.ServiceName, n uint32) {
	t.Helper()
	err := world.Poll(t.Context(), 20*time.Second, func() error {
		seen, err := s.seen(t.Context(), "aws")
		for _, name := range names {
			if seen[name] != n {
				return fmt.Errorf("%s sees %d healthy instances of %v: %w", s.Name, seen[name], name, err)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// deathAtPeers kills the processes behind services with the default checks, half of them TCP and half HTTP, and measures until
// two peers have withdrawn them.
func deathAtPeers(t *testing.T) {
	const (
		deaths = 24
		others = 80 // that stay: a region that loses 30 % at once is not believed for up to a minute
		limit  = time.Second
	)
	s := stations(t, "aws", "gcp", "azure")
	aws, peers := s[0], s[1:]
	specs := map[federation.Key]federation.Spec{}
	var names []federation.ServiceName
	processes := map[federation.ServiceName]*world.Process{}
	for i := range deaths {
		name := federation.ServiceName{Namespace: federation.DefaultNamespace, Name: fmt.Sprintf("s%d", i)}
		address, err := world.FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		p, err := world.Run(filepath.Join(world.Binaries(t), "tradewind"), "demo-service", "--listen", address, "--region", "aws")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(p.Kill)
		names, processes[name] = append(names, name), p
		specs[federation.Key{Kind: federation.KindExport, Name: name.String()}] = &federation.Export{To: []string{"*"}}
		specs[federation.Key{Kind: federation.KindService, Name: name.String()}] = &federation.Service{
			Instances: []federation.StaticInstance{{ID: "1", Address: netip.MustParseAddrPort(address)}},
			Checks:    []federation.CheckSpec{{Kind: []federation.CheckKind{federation.CheckTCP, federation.CheckHTTP}[i%2]}},
		}
	}
	for i := range others {
		name := fmt.Sprintf("other%d", i)
		specs[federation.Key{Kind: federation.KindExport, Name: name}] = &federation.Export{To: []string{"*"}}
		specs[federation.Key{Kind: federation.KindService, Name: name}] = &federation.Service{
			Instances: []federation.StaticInstance{{ID: "1", Address: netip.MustParseAddrPort("192.0.2.1:80")}}}
	}
	aws.put(t, specs)
	for _, p := range peers {
		all(t, p, names, 1)
	}

	var took []time.Duration
	for _, name := range names {
		<-time.After(rand.N(100 * time.Millisecond)) // anywhere between two checks
		begin := time.Now()
		processes[name].Kill()
		for _, p := range peers {
			err := world.Poll(t.Context(), 10*time.Second, func() error {
				if healthyAt(t, p, name) > 0 {
					return fmt.Errorf("%s has not heard of the death of %v", p.Name, name)
				}
				return nil
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		took = append(took, time.Since(begin))
	}
	t.Logf("instance killed to withdrawn at two peers, default checks: %s (limit for p99: %v)", spread(took), limit)
	if p99 := percentile(took, 99); p99 > limit {
		t.Errorf("p99 is %v, at most %v is allowed", p99, limit)
	}
}

// restartAlone restarts a gateway while none of its peers is there, and measures from the start of the process until it lists
// what they showed last.
func restartAlone(t *testing.T) {
	const (
		restarts = 5
		services = 100
		limit    = 2 * time.Second
	)
	s := stations(t, "aws", "gcp")
	aws, gcp := s[0], s[1]
	specs := map[federation.Key]federation.Spec{}
	var names []federation.ServiceName
	for i := range services {
		name := federation.ServiceName{Namespace: federation.DefaultNamespace, Name: fmt.Sprintf("s%d", i)}
		names = append(names, name)
		specs[federation.Key{Kind: federation.KindExport, Name: name.String()}] = &federation.Export{To: []string{"*"}}
		specs[federation.Key{Kind: federation.KindService, Name: name.String()}] = &federation.Service{
			Instances: []federation.StaticInstance{{ID: "1", Address: netip.MustParseAddrPort("192.0.2.1:80")}}}
	}
	aws.put(t, specs)
	all(t, gcp, names, 1)
	saved(t, gcp)
	aws.Kill()

	var took []time.Duration
	for range restarts {
		gcp.Kill()
		begin := time.Now()
		if err := gcp.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		all(t, gcp, names, 1)
		took = append(took, time.Since(begin))
	}
	t.Logf("process started to %d imports listed, all peers unreachable: %s (limit: %v)", services, spread(took), limit)
	if worst := slices.Max(took); worst > limit {
		t.Errorf("the worst took %v, at most %v is allowed", worst, limit)
	}
}

// saved waits until s has written down all that aws shows: the file is not touched any more when nothing is left to write.
func saved(t *testing.T, s station) {
	t.Helper()
	path := filepath.Join(s.Data(), "imports", "aws.cx")
	var size int64
	var since time.Time
	err := world.Poll(t.Context(), 10*time.Second, func() error {
		info, err := os.Stat(path)
		if err != nil {
			return err
		}
		if info.Size() != size {
			size, since = info.Size(), time.Now()
		}
		if time.Since(since) < 2*time.Second { // saving is put off for a second at most
			return fmt.Errorf("%s has just been written", path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// percentile is the nearest-rank percentile.
func percentile(took []time.Duration, p int) time.Duration {
	sorted := slices.Sorted(slices.Values(took))
	return sorted[max(0, (len(sorted)*p+99)/100-1)]
}

// spread is the distribution of took in one line.
func spread(took []time.Duration) string {
	at := func(p int) time.Duration { return percentile(took, p).Round(10 * time.Microsecond) }
	return fmt.Sprintf("p50 %v, p90 %v, p99 %v, max of %d %v", at(50), at(90), at(99), len(took), at(100))
}
