package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// TestConsulShowsImports: users of the Consul in aws and azure reach web of gcp as web.service.consul, for as long as gcp exports it.
func TestConsulShowsImports(t *testing.T) {
	r := world.Regions(t, "", "aws", "azure", "gcp")
	aws, azure, gcp := r[0], r[1], r[2]
	a := startConsulIn(t, aws.Cloud, "")
	a.register(t, &api.AgentServiceRegistration{ID: "native", Name: "billing", Address: "192.0.2.11", Port: 1})
	a.register(t, &api.AgentServiceRegistration{ID: "cloud", Name: "reports", Address: "10.0.0.8", Port: 1,
		Meta: map[string]string{"external-source": "tradewind", "tradewind-owner": "other/gw-1"}})
	serveWeb(t, gcp, "web", 8080)
	gcp.Apply(webHCL + exportHCL)
	for _, calling := range []*world.Region{aws, azure} {
		world.Federate(t, gcp, calling)
		calling.Apply(callerHCL("0.0.0.0"))
		follow(t, calling, a, "sync_to_consul {\n ttl = \"2s\"\n}")
	}
	a.answers(t, "web", "192.0.2.11", "192.0.2.12")
	a.answers(t, "billing", "192.0.2.11")
	for _, from := range []*world.Region{azure, gcp} { // as users of that Consul on other hosts would
		reachWeb(t, a, from)
	}
	t.Run("no loop", func(t *testing.T) { noLoop(t, a, aws, azure) })
	t.Run("show", func(t *testing.T) { showsSync(t, aws) })
	t.Run("health", func(t *testing.T) {
		gcp.In(t).Apply(strings.Replace(webHCL, ":8080", ":8081", 1) + exportHCL) // where nobody listens
		a.answers(t, "web")
		gcp.In(t).Apply(webHCL + exportHCL)
		a.answers(t, "web", "192.0.2.11", "192.0.2.12")
	})
	t.Run("withdrawn", func(t *testing.T) {
		gcp.In(t).CLI("delete", "export", "web", "--yes")
		a.gone(t, "web")
		gcp.In(t).Apply(webHCL + exportHCL)
		a.answers(t, "web", "192.0.2.11", "192.0.2.12")
	})
	t.Run("Consul forgets", func(t *testing.T) {
		a.kill()
		a.start(t)
		a.answers(t, "web", "192.0.2.11", "192.0.2.12")
		a.register(t, &api.AgentServiceRegistration{ID: "cloud", Name: "reports", Address: "10.0.0.8", Port: 1,
			Meta: map[string]string{"external-source": "tradewind", "tradewind-owner": "other/gw-1"}})
	})
	t.Run("killed", func(t *testing.T) { killedThenWithdrawn(t, a, aws.In(t), gcp.In(t)) })
	t.Run("block removed", func(t *testing.T) {
		follow(t, azure.In(t), a, "")
		world.Until(t, 30*time.Second, "nothing of azure in Consul", func() error { return a.without(t, "tradewind:azure:") })
		a.answers(t, "reports", "10.0.0.8")
	})
}

const webHCL = `
service "web" {
  instance "1" { address = "127.0.0.1:8080" }
  check "tcp" {
    interval = "200ms"
  }
}
intention "in" {
  source      = "office@*"
  destination = "web"
  action      = "allow"
}
`

const exportHCL = `export "web" { to = ["*"] }
`

func callerHCL(host string) string {
	return fmt.Sprintf(`
intention "out" {
  source      = "office"
  destination = "web@*"
  action      = "allow"
}
upstream "web" {
  service    = "web"
  listen     = "%s:9001"
  caller     = "office"
  allow_from = ["192.0.2.0/24"]
}
`, host)
}

// follow lets the region's gateway read a's services, and do what more says.
func follow(t *testing.T, r *world.Region, a *agent, more string) {
	t.Helper()
	path := filepath.Join(r.Dir, "gateway.hcl")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	base, _, _ := strings.Cut(string(b), "provider ")
	_, port, _ := net.SplitHostPort(a.http)
	r.Write("gateway.hcl", fmt.Sprintf("%sprovider \"consul\" \"corp\" {\n address = %q\n %s\n discover {\n  service = \"*\"\n }\n}\n", base,
		net.JoinHostPort(a.in.Address, port), more))
	r.CLI("reload")
}

// serveWeb answers each connection in the region with a line, until the test ends.
func serveWeb(t *testing.T, r *world.Region, line string, port int) {
	t.Helper()
	ln, err := r.Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			fmt.Fprintln(c, line)
			c.Close()
		}
	}()
}

// reachWeb asks Consul's DNS where web is, and connects to each of these from another host.
func reachWeb(t *testing.T, a *agent, from *world.Region) {
	t.Helper()
	_, found, err := a.resolver().LookupSRV(t.Context(), "", "", "web.service.consul")
	if err != nil || len(found) != 2 {
		t.Fatalf("SRV of web.service.consul: %v, %v", found, err)
	}
	hosts, err := a.lookup(t.Context(), "web.service.consul")
	if err != nil {
		t.Fatal(err)
	}
	for _, host := range hosts {
		address := net.JoinHostPort(host, fmt.Sprint(found[0].Port))
		world.Until(t, 10*time.Second, "web at "+address, func() error {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			c, err := from.Dial(ctx, "tcp", address)
			if err != nil {
				return err
			}
			defer c.Close()
			if line, err := bufio.NewReader(c).ReadString('\n'); line != "web\n" {
				return fmt.Errorf("%q, %w", line, err)
			}
			return nil
		})
	}
}

// noLoop: what gateways have put into Consul is not found there again, by none of them.
func noLoop(t *testing.T, a *agent, regions ...*world.Region) {
	for _, r := range regions {
		r = r.In(t)
		r.CLI("provider", "sync", "corp")
		var list admin.ListInstancesResponse
		world.Until(t, 20*time.Second, "billing in "+r.Name, func() error {
			r.JSON(&list, "instance", "list")
			if len(list.Instances) == 0 {
				return fmt.Errorf("%s has no instance", r.Name)
			}
			return nil
		})
		for _, i := range list.Instances {
			if i.Instance.Service.Name != "billing" {
				t.Errorf("%s has found %v in Consul, where it was put by a gateway", r.Name, i.Instance.Service)
			}
		}
	}
}

// showsSync: provider show says what is in Consul, and why something is not.
func showsSync(t *testing.T, aws *world.Region) {
	aws = aws.In(t)
	aws.Apply(callerHCL("127.0.0.1"))
	var p admin.ProviderDetail
	until := func(what string, is func(*admin.ConsulSync) bool) {
		t.Helper()
		world.Until(t, 20*time.Second, what, func() error {
			p = admin.ProviderDetail{}
			if aws.JSON(&p, "provider", "show", "corp"); p.Consul == nil || !is(p.Consul) {
				return fmt.Errorf("sync_to_consul is %+v", p.Consul)
			}
			return nil
		})
	}
	until("the reason", func(s *admin.ConsulSync) bool { return len(s.Entries) == 0 && len(s.NotShown) == 1 })
	if h := p.Consul.NotShown[0]; !strings.Contains(h.Why, "this host only") || !strings.Contains(h.Fix, "allow_from") || h.Services[0].Name != "web" {
		t.Errorf("not shown: %+v", h)
	}
	aws.Apply(callerHCL("0.0.0.0"))
	until("the entry", func(s *admin.ConsulSync) bool {
		return len(s.Entries) == 1 && len(s.NotShown) == 0 && s.Entries[0].Healthy && !s.LastSuccess.IsZero() && s.Problem == nil
	})
	if e := p.Consul.Entries[0]; e.Name != "web" || e.Address != "192.0.2.11:9001" || !slices.Contains(e.Regions, "gcp") {
		t.Errorf("entry %+v", e)
	}
	t.Log("\n" + aws.CLI("provider", "show", "corp"))
}

// killedThenWithdrawn: what is withdrawn while the gateway is dead is removed when it comes back, and nothing else is.
func killedThenWithdrawn(t *testing.T, a *agent, aws, gcp *world.Region) {
	aws.Gateway.Kill()
	began := time.Now()
	a.answers(t, "web", "192.0.2.12")
	t.Logf("kill -9 of a gateway to its address gone from Consul's DNS: %v with a ttl of 2s", time.Since(began).Round(time.Millisecond))
	if a.without(t, "tradewind:aws:gw-1:web") == nil {
		t.Error("the entry of a gateway that may come back is gone")
	}
	gcp.CLI("delete", "export", "web", "--yes")
	a.gone(t, "tradewind:azure:gw-1:web")
	aws.StartGateway()
	a.gone(t, "web")
	a.answers(t, "reports", "10.0.0.8")
	gcp.Apply(webHCL + exportHCL)
	a.answers(t, "web", "192.0.2.11", "192.0.2.12")
}

// gone waits until the agent has no service of ours whose ID holds part.
func (a *agent) gone(t *testing.T, part string) {
	t.Helper()
	world.Until(t, 30*time.Second, part+" to be gone", func() error { return a.without(t, part) })
}

// without returns an error while an ID of a service holds part.
func (a *agent) without(t *testing.T, part string) error {
	t.Helper()
	services, err := a.api.Agent().Services()
	if err != nil {
		return err
	}
	for id := range services {
		if strings.HasPrefix(id, "tradewind:") && strings.Contains(id, part) {
			return fmt.Errorf("%s is there", id)
		}
	}
	return nil
}
