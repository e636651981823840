package e2e

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// servingHCL declares the service web on port 8080 of a region, for the callers of gcp-europe-west1.
const servingHCL = `
service "web" {
  protocol = "http"
  instance "nginx" { address = "127.0.0.1:8080" }
  check "http" { path = "/region" }
}
export "web" { to = ["*"] }
intention "client-in" {
  source      = "client@gcp-europe-west1"
  destination = "web"
  action      = "allow"
}
`

const callingHCL = `
resolver "web" { failover = ["aws-us-east-1", "azure-westeurope"] }
intention "client-out" {
  source      = "client"
  destination = "web@*"
  action      = "allow"
}
upstream "web" {
  service = "web"
  listen  = "127.0.0.1:9001"
  caller  = "client"
}
`

// threeRegions builds aws and azure, which both serve web by nginx, and gcp, which calls it and prefers aws.
func threeRegions(t *testing.T) (aws, gcp, azure *world.Region) {
	t.Helper()
	world.Programs(t, "nginx", "curl", "wrk")
	r := world.Regions(t, "", "aws-us-east-1", "gcp-europe-west1", "azure-westeurope")
	aws, gcp, azure = r[0], r[1], r[2]
	for _, c := range []*world.Region{aws, azure} {
		startNginx(c, 8080, c.Dir, c.Name)
		c.Apply(servingHCL)
	}
	gcp.Apply(callingHCL)
	world.Federate(t, aws, gcp)
	world.Federate(t, azure, gcp)
	waitServed(t, gcp, aws.Name)
	return aws, gcp, azure
}

// ask sends one request on a new connection from c through the upstream and returns the region that answered.
func ask(c *world.Region, limit time.Duration) (string, error) {
	client := &http.Client{Transport: &http.Transport{DialContext: c.Dial, DisableKeepAlives: true}, Timeout: limit}
	res, err := client.Get("http://127.0.0.1:9001/region")
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1024))
	if err == nil && res.StatusCode != http.StatusOK {
		err = errors.New(res.Status)
	}
	return strings.TrimSpace(string(body)), err
}

// waitServed waits until c's requests are answered by region and returns how long that took.
func waitServed(t *testing.T, c *world.Region, region string) time.Duration {
	t.Helper()
	return world.Until(t, 30*time.Second, "an answer from "+region, func() error {
		got, err := ask(c, time.Second)
		if err == nil && got != region {
			err = fmt.Errorf("%s answered", got)
		}
		return err
	})
}

// TestRegionDiesUnderLoad kills the only gateway of the preferred region while wrk loads it: new connections must move to the
// next region within a second, and back after the restart.
func TestRegionDiesUnderLoad(t *testing.T) {
	aws, gcp, azure := threeRegions(t)
	rounds := count("TRADEWIND_ROUNDS", 5)
	load := gcp.Start("wrk", "-t", "1", "-c", "16", "-d", fmt.Sprintf("%ds", 15+rounds*12), "--timeout", "2s", "http://127.0.0.1:9001/region")
	var recovered []time.Duration
	for range rounds {
		aws.Gateway.Kill()
		recovered = append(recovered, waitServed(t, gcp, azure.Name))
		aws.StartGateway()
		waitServed(t, gcp, aws.Name)
	}
	report(t, "gateway killed to first good request on the next region", recovered, time.Second)
	load.Kill()
}

// TestInstanceDeathIsSeenByPeers kills nginx in the preferred region and measures until the peer's catalog says so.
func TestInstanceDeathIsSeenByPeers(t *testing.T) {
	aws, gcp, azure := threeRegions(t)
	server := startNginx(aws, 8081, aws.Dir, aws.Name)
	aws.Apply(strings.ReplaceAll(servingHCL, "8080", "8081"))
	waitServed(t, gcp, aws.Name)
	server.Kill()
	took := waitServed(t, gcp, azure.Name)
	report(t, "instance killed to first good request on the next region", []time.Duration{took}, time.Second)
}

// TestLinkCut takes the preferred region off the network without a word: the path is dead, the process is not.
func TestLinkCut(t *testing.T) {
	aws, gcp, azure := threeRegions(t)
	rounds := count("TRADEWIND_ROUNDS", 5)
	var recovered []time.Duration
	for range rounds {
		aws.Cut()
		recovered = append(recovered, waitServed(t, gcp, azure.Name))
		aws.Join()
		waitServed(t, gcp, aws.Name)
	}
	report(t, "link cut to first good request on the next region", recovered, time.Second)
}

// TestRestartWithoutPeers restarts the calling gateway while nobody can be reached: it must come back with the last imports.
func TestRestartWithoutPeers(t *testing.T) {
	aws, gcp, azure := threeRegions(t)
	imported := func() error {
		var list struct {
			Services []struct {
				Name  string
				Homes []struct{ Region string }
			}
		}
		gcp.JSON(&list, "services", "list")
		for _, s := range list.Services {
			if s.Name == "web" && len(s.Homes) == 2 {
				return nil
			}
		}
		return fmt.Errorf("services: %+v", list.Services)
	}
	if err := imported(); err != nil {
		t.Fatal(err)
	}
	world.Until(t, 10*time.Second, "the imports to be on disk", func() error {
		for _, region := range []string{aws.Name, azure.Name} {
			if _, err := os.Stat(gcp.Dir + "/data/imports/" + region + ".cx"); err != nil {
				return err
			}
		}
		return nil
	})
	aws.Cut()
	azure.Cut()
	gcp.Gateway.Kill()
	begin := time.Now()
	gcp.StartGateway()
	world.Until(t, 10*time.Second, "the last-known imports", imported)
	report(t, "start with all peers unreachable to last-known imports served", []time.Duration{time.Since(begin)}, 2*time.Second)
	aws.Join()
	waitServed(t, gcp, aws.Name)
}

// count reads a number from the environment.
func count(name string, unset int) int {
	if n, err := strconv.Atoi(os.Getenv(name)); err == nil && n > 0 {
		return n
	}
	return unset
}

// report prints the spread of what was measured and fails the test when the slowest is above limit.
func report(t *testing.T, what string, took []time.Duration, limit time.Duration) {
	t.Helper()
	slices.Sort(took)
	worst := took[len(took)-1]
	t.Logf("%s: median %v, worst of %d %v", what, took[len(took)/2].Round(time.Millisecond), len(took), worst.Round(time.Millisecond))
	if worst > limit {
		t.Errorf("%s: the worst took %v, at most %v is allowed", what, worst, limit)
	}
}
