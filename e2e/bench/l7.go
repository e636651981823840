package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// The names of the cases with one hop that looks into requests.
const (
	l7Many = "l7-64"
	l7One  = "l7-1"
)

// hopResources are those of one region that serves itself: each request is read, judged, sent to an instance and logged.
const hopResources = `
service "web" {
  protocol = "http"
  instance "1" { address = %q }
}
intention "client" {
  source      = "client"
  destination = "web"
  action      = "allow"
}
upstream "web" {
  service = "web"
  listen  = %q
  caller  = "client"
}
`

// gatewayHop is one gateway between a caller and an instance of its own region.
var gatewayHop = subject{name: "tradewind-l7", needs: []string{"wrk"}, start: func(ctx context.Context, r *route) (*running, error) {
	dir, err := os.MkdirTemp(r.dir, "l7-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	local, err := r.near.port()
	if err != nil {
		return nil, err
	}
	got := &running{web: local, sink: r.sink}
	g := gateway{"near", r.near, fmt.Sprintf(hopResources, r.web, local)}
	p, socket, err := g.start(r, dir, nil)
	if p != nil {
		got.hops = append(got.hops, p)
	}
	if err != nil {
		return got, err
	}
	client := admin.NewClient(admin.Target{Socket: socket})
	defer client.Close()
	return got, g.apply(ctx, r, dir, client, socket)
}}

// nginxHop is nginx as its users have it in front of HTTP servers: connections kept to both sides, and a log.
var nginxHop = subject{name: "nginx-l7", needs: []string{"nginx", "wrk"}, version: []string{"nginx", "-v"},
	start: func(_ context.Context, r *route) (*running, error) {
		local, err := r.near.port()
		if err != nil {
			return nil, err
		}
		path := filepath.Join(r.dir, "nginx-l7.conf")
		content := fmt.Sprintf(`
worker_processes 2; daemon off; error_log stderr crit; pid %[1]s/nginx-l7.pid; user root;
events { worker_connections %[2]d; }
http {
  access_log %[1]s/nginx-l7.log combined buffer=64k flush=1s; keepalive_requests 100000000;
  upstream web { server %[3]s; keepalive 128; keepalive_requests 100000000; }
  server {
    listen %[4]s backlog=4096;
    location / { proxy_pass http://web; proxy_http_version 1.1; proxy_set_header Connection ""; }
  }
}
`, r.dir, min(r.descriptors-100, 16384), r.web, local)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			return nil, fmt.Errorf("write a configuration: %w", err)
		}
		p, err := r.near.start("nginx", "-p", r.dir, "-c", path)
		return &running{web: local, sink: r.sink, hops: []*world.Process{p}}, err
	}}
