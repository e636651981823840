package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// The resources of both regions: what a user would write to let one service call another. Its protocol is tcp, because the others that
// are compared carry connections and do not look into them either; see l7.go for requests.
const (
	farResources = `
service "web" {
  protocol = "tcp"
  instance "1" { address = %q }
  check "tcp" {}
}
service "sink" {
  instance "1" { address = %q }
}
export "web" { to = ["near"] }
export "sink" { to = ["near"] }
intention "from-client" {
  source      = "client@near"
  destination = "*"
  action      = "allow"
}
`
	nearResources = `
intention "from-client" {
  source      = "client"
  destination = "*@far"
  action      = "allow"
}
upstream "web" {
  service = "web"
  listen  = %q
  caller  = "client"
}
upstream "sink" {
  service = "sink"
  listen  = %q
  caller  = "client"
}
`
)

// tradewind is two real gateways with everything on that their users have on: policy at both ends, health checks, the access log
// and metrics. lanes restricts how flows travel; none is the default.
func tradewind(name string, lanes ...string) subject {
	s := subject{name: name}
	s.start = func(ctx context.Context, r *route) (*running, error) {
		dir, err := os.MkdirTemp(r.dir, name+"-")
		if err != nil {
			return nil, fmt.Errorf("make a directory: %w", err)
		}
		local, err := addresses(site{address: "127.0.0.1"}, 2)
		if err != nil {
			return nil, err
		}
		got := &running{web: local[0], sink: local[1]}
		var clients []*admin.Client
		for _, g := range []gateway{
			{"far", r.far, fmt.Sprintf(farResources, r.web, r.sink)},
			{"near", r.near, fmt.Sprintf(nearResources, local[0], local[1])},
		} {
			p, socket, err := g.start(r, dir, lanes)
			if p != nil {
				got.hops = append(got.hops, p)
			}
			if err != nil {
				return got, err
			}
			got.sockets = append(got.sockets, socket)
			client := admin.NewClient(admin.Target{Socket: socket})
			defer client.Close()
			clients = append(clients, client)
			if err := g.apply(ctx, r, dir, client, socket); err != nil {
				return got, err
			}
		}
		if err := world.Join(ctx, clients[0], clients[1]); err != nil {
			return got, fmt.Errorf("federate: %w", err)
		}
		return got, nil
	}
	return s
}

// A gateway is one region of the subject.
type gateway struct {
	region    string
	site      site
	resources string
}

func (g gateway) start(r *route, dir string, lanes []string) (p *world.Process, socket string, err error) {
	mesh, err := g.site.port()
	if err != nil {
		return nil, "", err
	}
	others, err := addresses(site{address: "127.0.0.1"}, 2)
	if err != nil {
		return nil, "", err
	}
	only := ""
	if len(lanes) > 0 {
		only = "  lanes     = " + strings.ReplaceAll(fmt.Sprintf("%q", lanes), " ", ", ") + "\n"
	}
	data := filepath.Join(dir, g.region)
	config := filepath.Join(dir, g.region+".hcl")
	content := fmt.Sprintf("region     = %q\nname       = \"gw-1\"\ndata_dir   = %q\naccess_log = %q\n"+
		"mesh {\n  listen    = %q\n  advertise = [%q]\n%s}\n\nlocal {\n  listen = %q\n}\n\nadmin {\n  listen = %q\n}\n",
		g.region, data, filepath.Join(dir, g.region+"-access.log"), mesh, mesh, only, others[0], others[1])
	if err := os.WriteFile(config, []byte(content), 0o600); err != nil {
		return nil, "", fmt.Errorf("write the configuration of %s: %w", g.region, err)
	}
	p, err = g.site.start(filepath.Join(r.bin, "tradewind-gateway"), "-config", config)
	return p, filepath.Join(data, "admin.sock"), err
}

// apply waits until the gateway is ready and gives it its resources.
func (g gateway) apply(ctx context.Context, r *route, dir string, client *admin.Client, socket string) error {
	err := world.Poll(ctx, upLimit, func() error {
		status, err := client.Status(ctx, &admin.StatusRequest{})
		if err == nil && status.State != admin.StateReady {
			err = fmt.Errorf("the gateway is %s", status.State)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the gateway of %s: %w", g.region, err)
	}
	file := filepath.Join(dir, g.region+"-resources.hcl")
	if err := os.WriteFile(file, []byte(g.resources), 0o600); err != nil {
		return fmt.Errorf("write the resources of %s: %w", g.region, err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(r.bin, "tradewind"), "--socket", socket, "apply", "--yes", "-f", file)
	cmd.WaitDelay = time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("apply the resources of %s: %w\n%s", g.region, err, out)
	}
	return nil
}

// handshakes is the metric of the gateways that counts flows which had to wait for a connection to be made.
const handshakes = "tradewind_tunnel_handshakes_on_request_path_total"

// sum adds up a metric of all gateways, over all its labels. It is an error when a gateway does not have it.
func (r *running) sum(ctx context.Context, metric string) (total float64, err error) {
	for _, socket := range r.sockets {
		transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}}
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://gateway/metrics", nil)
		if err != nil {
			return 0, fmt.Errorf("ask for metrics: %w", err)
		}
		response, err := (&http.Client{Transport: transport, Timeout: 10 * time.Second}).Do(request)
		if err != nil {
			return 0, fmt.Errorf("ask for metrics: %w", err)
		}
		text, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil {
			return 0, fmt.Errorf("read metrics: %w", err)
		}
		n, err := sumMetric(string(text), metric)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return total, nil
}

// sumMetric adds up the values of a metric in Prometheus' text format.
func sumMetric(text, metric string) (total float64, err error) {
	found := false
	for line := range strings.Lines(text) {
		rest, ok := strings.CutPrefix(line, metric)
		fields := strings.Fields(rest)
		if !ok || len(fields) == 0 || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		value, err := strconv.ParseFloat(fields[len(fields)-1], 64)
		if err != nil {
			return 0, fmt.Errorf("read the metric %s: %w", metric, err)
		}
		found, total = true, total+value
	}
	if !found {
		return 0, fmt.Errorf("the gateway has no metric %s", metric)
	}
	return total, nil
}
