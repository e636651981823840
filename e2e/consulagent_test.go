package e2e

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/providers/consul"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// agent is a real Consul agent on loopback. Its ports stay the same when it is started again.
type agent struct {
	bin, dir, file  string
	dev             bool
	in              *world.Cloud // whose loopback it is on; nil: this machine's
	http, dns, serf string
	api             *api.Client
	cmd             *exec.Cmd
	out             *os.File
}

// rootToken is what the tests themselves use, where an agent has ACLs.
const rootToken = "00000000-0000-0000-0000-00000000cafe"

// startConsul starts an agent that is a server. Without extra configuration it keeps everything in memory.
func startConsul(t *testing.T, extra string) *agent {
	t.Helper()
	return startConsulIn(t, nil, extra)
}

// startConsulIn starts an agent in a cloud, where it can be asked at all addresses.
func startConsulIn(t *testing.T, in *world.Cloud, extra string) *agent {
	t.Helper()
	a := &agent{bin: tool(t, "consul"), dir: t.TempDir(), in: in, dev: !strings.Contains(extra, "bootstrap_expect")}
	port := func() (address, port string) {
		address, err := world.FreeAddress()
		if err != nil {
			t.Fatal(err)
		}
		_, port, _ = net.SplitHostPort(address)
		return address, port
	}
	var web, dns, server, lan, wan string
	a.http, web = port()
	a.dns, dns = port()
	_, server = port()
	a.serf, lan = port()
	_, wan = port()
	client := "127.0.0.1"
	if in != nil {
		client = "0.0.0.0"
	}
	a.file = a.write(t, "agent.hcl", fmt.Sprintf(`ports { http = %s, dns = %s, server = %s, serf_lan = %s, serf_wan = %s,
  grpc = -1, grpc_tls = -1 }
node_name = "node-%s"
bind_addr = "127.0.0.1"
client_addr = %q
log_level = "warn"
disable_update_check = true
performance { raft_multiplier = 1 }
%s`, web, dns, server, lan, wan, web, client, extra))
	var err error
	a.api, err = api.NewClient(&api.Config{Address: a.http, Token: rootToken, HttpClient: &http.Client{Transport: &http.Transport{
		DialContext: a.dial}}})
	if err != nil {
		t.Fatal(err)
	}
	if a.out, err = os.Create(filepath.Join(a.dir, "log")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		a.kill()
		if t.Failed() {
			log, _ := os.ReadFile(a.out.Name())
			t.Logf("consul at %s wrote:\n%s", a.http, log[max(0, len(log)-4000):])
		}
	})
	a.start(t)
	return a
}

func (a *agent) start(t *testing.T) {
	t.Helper()
	args := []string{"agent", "-config-file=" + a.file}
	if a.dev {
		args = append(args, "-dev")
	} else {
		args = append(args, "-data-dir="+filepath.Join(a.dir, "data"))
	}
	a.cmd = exec.Command(a.bin, args...)
	if a.in != nil {
		a.cmd = a.in.Command(context.Background(), a.bin, args...)
	}
	a.cmd.Stdout, a.cmd.Stderr = a.out, a.out
	if a.in == nil { // else the thread that starts it may be thrown away, as those are that have been in a cloud
		a.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if a.dev {
		a.elected(t)
	}
}

// elected waits until the agent has a leader and has registered itself.
func (a *agent) elected(t *testing.T) {
	t.Helper()
	world.Until(t, time.Minute, "Consul to have a leader", func() error {
		nodes, _, err := a.api.Catalog().Service("consul", "", nil)
		if err == nil && len(nodes) == 0 {
			err = errors.New("it has not registered itself")
		}
		return err
	})
}

func (a *agent) kill() {
	if a.cmd == nil || a.cmd.Process == nil {
		return
	}
	_ = a.cmd.Process.Kill()
	_ = a.cmd.Wait()
}

func (a *agent) write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(a.dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (a *agent) register(t *testing.T, r *api.AgentServiceRegistration) {
	t.Helper()
	if err := a.api.Agent().ServiceRegister(r); err != nil {
		t.Fatal(err)
	}
}

func (a *agent) deregister(t *testing.T, id string) {
	t.Helper()
	if err := a.api.Agent().ServiceDeregister(id); err != nil {
		t.Error(err)
	}
}

func (a *agent) update(t *testing.T, check, status string) {
	t.Helper()
	if err := a.api.Agent().UpdateTTL(check, "", status); err != nil {
		t.Fatal(err)
	}
}

// lookup asks the agent's DNS server.
func (a *agent) lookup(ctx context.Context, name string) ([]string, error) {
	return a.resolver().LookupHost(ctx, name)
}

func (a *agent) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return a.dial(ctx, network, a.dns)
	}}
}

// dial connects from where the agent is.
func (a *agent) dial(ctx context.Context, network, address string) (net.Conn, error) {
	if a.in != nil {
		return a.in.Dial(ctx, network, address)
	}
	return new(net.Dialer).DialContext(ctx, network, address)
}

func (a *agent) lister(t *testing.T, cfg consul.Config) *consul.Lister {
	t.Helper()
	if cfg.Address == "" {
		cfg.Address = a.http
	}
	l, err := consul.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// list lists the first scope.
func (a *agent) list(t *testing.T, cfg consul.Config) poll.Listing {
	t.Helper()
	l := a.lister(t, cfg)
	scopes, err := l.Scopes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	listing, err := l.List(t.Context(), scopes[0], nil)
	if err != nil {
		t.Fatal(err)
	}
	return listing
}

// told is what a watch has told.
type told struct {
	changed chan struct{}

	mu   sync.Mutex
	last *poll.Listing
	bad  func(poll.Listing) bool
	sins int
}

// watch watches until the test ends.
func (a *agent) watch(t *testing.T, cfg consul.Config) *told {
	t.Helper()
	l, w := a.lister(t, cfg), &told{changed: make(chan struct{}, 1)}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- l.Watch(ctx, scope, nil, w.tell) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the watch ended: %v", err)
		}
		if w.sins > 0 {
			t.Errorf("%d listings that must not be were told", w.sins)
		}
	})
	return w
}

func (w *told) tell(l poll.Listing) {
	w.mu.Lock()
	w.last = &l
	if w.bad != nil && w.bad(l) {
		w.sins++
	}
	w.mu.Unlock()
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// until waits for a listing that is as it should be.
func (w *told) until(t *testing.T, what string, is func(poll.Listing) bool) poll.Listing {
	t.Helper()
	limit := time.NewTimer(time.Minute)
	defer limit.Stop()
	for {
		w.mu.Lock()
		last := w.last
		w.mu.Unlock()
		if last != nil && is(*last) {
			return *last
		}
		select {
		case <-w.changed:
		case <-limit.C:
			t.Fatalf("no listing with %s was told; the last one is %+v", what, last)
		}
	}
}

// never makes the test fail when such a listing is told from now on; allow ends that.
func (w *told) never(bad func(poll.Listing) bool) {
	w.mu.Lock()
	w.bad = bad
	w.mu.Unlock()
}

func (w *told) allow() { w.never(nil) }

// relay carries connections to an address until it goes deaf: then those that are open stay open and carry nothing more.
type relay struct {
	address string
	mu      sync.Mutex
	deaf    chan struct{} // of the connections that come now
}

func startRelay(t *testing.T, to string) *relay {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &relay{address: ln.Addr().String(), deaf: make(chan struct{})}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			in, err := ln.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			t.Cleanup(func() { in.Close(); out.Close() })
			r.mu.Lock()
			deaf := r.deaf
			r.mu.Unlock()
			go carry(in, out, deaf)
			go carry(out, in, deaf)
		}
	}()
	return r
}

func carry(to io.Writer, from io.Reader, deaf <-chan struct{}) {
	b := make([]byte, 32<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		select {
		case <-deaf: // what is read is lost, and the connection stays open
		default:
			_, _ = to.Write(b[:n])
		}
	}
}

func (r *relay) deafen() {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.deaf)
	r.deaf = make(chan struct{})
}
