package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// A site is where a hop runs.
type site struct {
	namespace string // as of ip netns; empty: that of this process
	address   string // where the other site reaches it
}

// inside is the command line that runs a program at the site. ip replaces itself by the program, so its process id is the
// program's.
func (s site) inside(program string, args ...string) []string {
	line := append([]string{program}, args...)
	if s.namespace != "" {
		line = append([]string{"ip", "netns", "exec", s.namespace}, line...)
	}
	return line
}

func (s site) start(program string, args ...string) (*world.Process, error) {
	line := s.inside(program, args...)
	return world.Run(line[0], line[1:]...)
}

// port returns an address at the site that nobody uses.
func (s site) port() (string, error) {
	free, err := world.FreeAddress()
	if err != nil {
		return "", err
	}
	_, port, err := net.SplitHostPort(free)
	return net.JoinHostPort(s.address, port), err
}

// A route is what a subject is put between: clients at one site, the backend at the other.
type route struct {
	near, far site
	web, sink string // of the backend, as the far site sees it
	self, bin string // this program; the directory of Tradewind's
	dir       string // for whatever the subjects write; has the certificates
	backend   *world.Process

	descriptors int // that each process may have
}

// newRoute starts the backend at the far site.
func (b *bench) newRoute(ctx context.Context, near, far site) (*route, error) {
	dir, err := os.MkdirTemp(b.dir, "route-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	r := &route{near: near, far: far, self: b.self, bin: b.options.bin, dir: dir, descriptors: b.descriptors}
	if err := writePKI(dir); err != nil {
		return nil, err
	}
	local := site{far.namespace, "127.0.0.1"}
	for _, address := range []*string{&r.web, &r.sink} {
		if *address, err = local.port(); err != nil {
			return nil, err
		}
	}
	if r.backend, err = local.start(r.self, "backend", "-http", r.web, "-sink", r.sink); err != nil {
		return nil, err
	}
	at := *r
	at.near = local // the backend listens where the far site is
	if err := errors.Join(at.ping(ctx, r.web, "http"), at.ping(ctx, r.sink, "sink")); err != nil {
		r.backend.Kill()
		return nil, fmt.Errorf("start the backend: %w\n%s", err, r.backend.Output())
	}
	return r, nil
}

func (r *route) close() { r.backend.Kill() }

// load runs the generator at the near site.
func (r *route) load(ctx context.Context, l load) (reading, error) {
	line := r.near.inside(r.self, l.args()...)
	cmd := exec.CommandContext(ctx, line[0], line[1:]...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	cmd.WaitDelay = time.Second
	out, err := cmd.Output()
	if err != nil {
		return reading{}, fmt.Errorf("%s %s: %w: %s", l.kind, l.address, err, strings.TrimSpace(stderr.String()))
	}
	var got reading
	if err := json.Unmarshal(out, &got); err != nil {
		return reading{}, fmt.Errorf("read what the generator says: %w", err)
	}
	return got, nil
}

// upLimit is how long a subject may take until it answers; they take a second or two on an idle machine.
const upLimit = 30 * time.Second

// ping waits until an address of the near site answers as "http" or as "sink".
func (r *route) ping(ctx context.Context, address, as string) error {
	l := load{kind: "ping", address: address, size: 64, window: upLimit}
	if as == "sink" {
		l.bulk = address
	}
	_, err := r.load(ctx, l)
	return err
}

// A subject is one of the programs that are compared.
type subject struct {
	name    string
	needs   []string // programs beside this one
	version []string // command that prints its version
	start   func(context.Context, *route) (*running, error)
}

// running is a subject at work between a route's ends.
type running struct {
	subject
	web, sink string           // addresses at the near site
	hops      []*world.Process // whose CPU time and memory count
	sockets   []string         // of the admin API, of gateways
}

func (r *running) close() {
	for _, p := range r.hops {
		p.Kill()
	}
}

func (r *running) pids() []int {
	var pids []int
	for _, p := range r.hops {
		pids = append(pids, p.PID())
	}
	return pids
}

// launch starts a subject and waits until requests pass through it.
func (r *route) launch(ctx context.Context, s subject) (*running, error) {
	got, err := s.start(ctx, r)
	if err == nil {
		got.subject = s
		err = errors.Join(r.ping(ctx, got.web, "http"), r.ping(ctx, got.sink, "sink"))
	}
	if err == nil {
		return got, nil
	}
	said := ""
	if got != nil {
		for _, p := range got.hops {
			said += "\n" + p.Name + ": " + p.Output()
		}
		got.close()
	}
	return nil, fmt.Errorf("start %s: %w%s", s.name, err, said)
}

// addresses chooses n addresses at s.
func addresses(s site, n int) ([]string, error) {
	var all []string
	for range n {
		a, err := s.port()
		if err != nil {
			return nil, err
		}
		all = append(all, a)
	}
	return all, nil
}

// direct is no proxy at all.
var direct = subject{name: "direct", start: func(_ context.Context, r *route) (*running, error) {
	return &running{web: r.web, sink: r.sink}, nil
}}

// yardstick is a tunnel of this package.
func yardstick(name, carrier string) subject {
	return subject{name: name, start: func(_ context.Context, r *route) (*running, error) {
		peer, err := r.far.port()
		if err != nil {
			return nil, err
		}
		local, err := addresses(site{address: "127.0.0.1"}, 2)
		if err != nil {
			return nil, err
		}
		out, err := r.far.start(r.self, "tunnel", "-carrier", carrier, "-pki", r.dir, "-peer", peer, "-targets", r.web+","+r.sink)
		if err != nil {
			return nil, err
		}
		got := &running{web: local[0], sink: local[1], hops: []*world.Process{out}}
		in, err := r.near.start(r.self, "tunnel", "-carrier", carrier, "-pki", r.dir, "-peer", peer, "-listen", strings.Join(local, ","))
		if err == nil {
			got.hops = append(got.hops, in)
		}
		return got, err
	}}
}

// The yardsticks of this package.
var (
	plainTCP = yardstick("go-tcp", "tcp")
	tlsFlow  = yardstick("go-tls", "tls")
	connect  = yardstick("go-h2-connect", "h2")
	naive    = yardstick("quic-go-naive", "quic")
)

// haproxy and nginx are configured as their users would for this: TLS 1.3, both ends verified, a thread or worker for each
// processor up to the two that the figures of the goals were found with.
const (
	haproxyHead = `
global
  maxconn %d
  nbthread 2
  tune.bufsize 65536
defaults
  mode tcp
  timeout connect 5s
  timeout client 10m
  timeout server 10m
`
	nginxHead = `
load_module %s;
worker_processes 2; daemon off; error_log stderr crit; pid %s/nginx-%s.pid; user root;
events { worker_connections %d; }
`
)

var haproxy = subject{name: "haproxy-mtls", needs: []string{"haproxy"}, version: []string{"haproxy", "-v"},
	start: func(_ context.Context, r *route) (*running, error) {
		tls := fmt.Sprintf("ssl crt %[1]s/hop.both ca-file %[1]s/ca.pem verify required ssl-min-ver TLSv1.3", r.dir)
		return r.foreign("haproxy.cfg", func(far, near []string) (string, string) {
			out := fmt.Sprintf(haproxyHead, r.descriptors/2-100) // two for each connection, and some beside
			in := out
			for i, target := range []string{r.web, r.sink} {
				out += fmt.Sprintf("listen l%d\n  bind %s %s\n  server s %s\n", i, far[i], tls, target)
				in += fmt.Sprintf("listen l%d\n  bind %s\n  server s %s %s sni str(%s) verifyhost %s\n", i, near[i], far[i], tls, pkiName, pkiName)
			}
			return out, in
		}, func(file string) []string { return []string{"haproxy", "-db", "-f", file} })
	}}

var nginx = subject{name: "nginx-mtls", needs: []string{"nginx"}, version: []string{"nginx", "-v"},
	start: func(_ context.Context, r *route) (*running, error) {
		module := "/usr/lib/nginx/modules/ngx_stream_module.so" // of Debian's libnginx-mod-stream
		if _, err := os.Stat(module); err != nil {
			return nil, fmt.Errorf("find nginx's stream module: %w", err)
		}
		return r.foreign("nginx.conf", func(far, near []string) (string, string) {
			const common = "%[1]scertificate %[2]s/hop.pem; %[1]scertificate_key %[2]s/hop.key; %[1]sprotocols TLSv1.3;\n"
			const stream = "stream { proxy_timeout 10m; proxy_buffer_size 64k;\n"
			out := fmt.Sprintf(nginxHead, module, r.dir, "far", r.descriptors-100) + stream +
				fmt.Sprintf(common, "ssl_", r.dir) + fmt.Sprintf("ssl_client_certificate %s/ca.pem; ssl_verify_client on;\n", r.dir)
			in := fmt.Sprintf(nginxHead, module, r.dir, "near", r.descriptors-100) + stream + "proxy_ssl on;\n" +
				fmt.Sprintf(common, "proxy_ssl_", r.dir) +
				fmt.Sprintf("proxy_ssl_trusted_certificate %s/ca.pem; proxy_ssl_verify on; proxy_ssl_name %s;\n", r.dir, pkiName)
			for i, target := range []string{r.web, r.sink} {
				out += fmt.Sprintf("server { listen %s ssl backlog=4096; proxy_pass %s; }\n", far[i], target)
				in += fmt.Sprintf("server { listen %s backlog=4096; proxy_pass %s; }\n", near[i], far[i])
			}
			return out + "}\n", in + "}\n"
		}, func(file string) []string { return []string{"nginx", "-p", r.dir, "-c", file} })
	}}

// foreign starts a pair of programs that nobody here wrote, from two configurations.
func (r *route) foreign(file string, configure func(far, near []string) (out, in string),
	command func(file string) []string) (*running, error) {
	far, err := addresses(r.far, 2)
	if err != nil {
		return nil, err
	}
	near, err := addresses(site{address: "127.0.0.1"}, 2)
	if err != nil {
		return nil, err
	}
	got := &running{web: near[0], sink: near[1]}
	out, in := configure(far, near)
	for _, hop := range []struct {
		site    site
		content string
		name    string
	}{{r.far, out, "far-"}, {r.near, in, "near-"}} {
		path := filepath.Join(r.dir, hop.name+file)
		if err := os.WriteFile(path, []byte(hop.content), 0o600); err != nil {
			return got, fmt.Errorf("write a configuration: %w", err)
		}
		line := command(path)
		p, err := hop.site.start(line[0], line[1:]...)
		if err != nil {
			return got, err
		}
		got.hops = append(got.hops, p)
	}
	return got, nil
}

// missing is which programs a subject needs that are not installed.
func (s *subject) missing() []string {
	return slices.DeleteFunc(slices.Clone(s.needs), func(name string) bool { _, err := exec.LookPath(name); return err == nil })
}
