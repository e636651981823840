package demo

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

// A world is the regions of the demo: their processes, links and directories.
type world struct {
	dir     string // everything the demo writes; removed at the end
	gateway string // path of tradewind-gateway
	self    string // path of tradewind, which also serves as the demo service

	mu      sync.Mutex
	regions map[federation.Region]*region
	links   []*link
	running map[*process]bool
	wg      sync.WaitGroup
}

// A region is one gateway process, and the cloud in which it finds the machines beside it.
type region struct {
	name     federation.Region
	mesh     netip.AddrPort // where the gateway really listens
	dir      string
	front    map[federation.Region]string // the address of this gateway for each peer: a link with that pair's delay
	gateway  *process
	client   *admin.Client
	cloud    *cloud
	machines []*machine
	booted   int // machines, ever
}

// A process is one child. It is killed when the demo ends, however it ends.
type process struct {
	cmd  *exec.Cmd
	done chan struct{} // closed after it was waited for
	log  *tailBuffer
}

// tailBuffer keeps the last lines that a child wrote, for the message when it fails.
type tailBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (t *tailBuffer) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.buf.Len() > 64<<10 {
		t.buf.Next(32 << 10)
	}
	return t.buf.Write(b)
}

// last returns the last lines, at most n.
func (t *tailBuffer) last(n int) string {
	t.mu.Lock()
	defer t.mu.Unlock()
	var lines []string
	for s := bufio.NewScanner(bytes.NewReader(t.buf.Bytes())); s.Scan(); {
		lines = append(lines, s.Text())
	}
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// maxDir is how long the path of the demo's directory may be: sun_path holds 107 octets and a NUL (unix(7)).
const maxDir = 107 - len("/gcp-europe-west1/data/admin.sock")

// newWorld prepares a directory and finds the binaries. Nothing runs yet.
func newWorld() (*world, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find the own program: %w", err)
	}
	gateway := filepath.Join(filepath.Dir(self), "tradewind-gateway")
	if _, err := os.Stat(gateway); err != nil {
		return nil, &federation.Diagnostic{Code: "TW-8901", What: "tradewind-gateway is not beside " + self,
			Why: "the demo starts real gateways", Fix: "build both with: make build", Err: err}
	}
	dir, err := os.MkdirTemp("", "tradewind-demo-")
	if err == nil && len(dir) > maxDir {
		err = fmt.Errorf("%s is too long a path for sockets below it: %d octets of %d", dir, len(dir), maxDir)
		_ = os.Remove(dir)
	}
	if err != nil {
		return nil, &federation.Diagnostic{Code: "TW-8907", What: "the demo has nowhere to write", Why: err.Error(),
			Fix: "give it a directory: TMPDIR=/var/tmp tradewind demo", Err: err}
	}
	return &world{dir: dir, gateway: gateway, self: self, regions: map[federation.Region]*region{}, running: map[*process]bool{}}, nil
}

// close ends every child, by its id, and removes what was written.
func (w *world) close() {
	w.mu.Lock()
	for p := range w.running {
		_ = p.cmd.Process.Kill()
	}
	w.mu.Unlock()
	w.wg.Wait()
	_ = os.RemoveAll(w.dir)
}

// start runs a child with these environment variables and no others, until it exits or the world is closed.
func (w *world) start(environment []string, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{}), log: &tailBuffer{}}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = p.log, p.log, environment
	// Should the demo itself be killed, the kernel kills the child: Pdeathsig fires when the starting thread ends, so that
	// thread is kept for as long as the child lives.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	w.wg.Go(func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		if err == nil {
			w.mu.Lock()
			w.running[p] = true
			w.mu.Unlock()
		}
		started <- err
		if err != nil {
			return
		}
		_ = p.cmd.Wait()
		w.mu.Lock()
		delete(w.running, p)
		w.mu.Unlock()
		close(p.done)
	})
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", filepath.Base(name), err)
	}
	return p, nil
}

// kill sends SIGKILL and waits until the process is gone.
func (p *process) kill() {
	_ = p.cmd.Process.Kill()
	<-p.done
}

// add creates a region in a cloud. It has no machines, and its gateway is not started.
func (w *world) add(ctx context.Context, name federation.Region) error {
	mesh, err := freePorts("udp", "127.0.0.1", 1)
	if err != nil {
		return err
	}
	r := &region{name: name, mesh: mesh[0], dir: filepath.Join(w.dir, string(name)), front: map[federation.Region]string{}}
	if err := os.MkdirAll(r.dir, 0o700); err != nil {
		return fmt.Errorf("make a region's directory: %w", err)
	}
	w.regions[name] = r
	kind, _, _ := strings.Cut(string(name), "-")
	r.cloud, err = w.openCloud(ctx, kind, r.dir)
	return err
}

// connect opens the two links between regions a and b.
func (w *world) connect(ctx context.Context, a, b federation.Region, roundTrip time.Duration) error {
	for _, pair := range [][2]federation.Region{{a, b}, {b, a}} {
		l, err := listenLink(w.regions[pair[0]].mesh, roundTrip)
		if err != nil {
			return fmt.Errorf("open the link to %s: %w", pair[0], err)
		}
		w.regions[pair[0]].front[pair[1]] = l.address()
		w.links = append(w.links, l)
		w.wg.Go(func() { l.run(ctx) })
	}
	return nil
}

// boot starts a machine of r with checkout on it, and shows it in the cloud's inventory.
func (w *world) boot(r *region) (*machine, error) {
	r.booted++
	m := &machine{name: fmt.Sprintf(r.cloud.nameForm, r.booted)}
	free, err := freePorts("tcp", r.cloud.address(r.booted).String(), 1)
	if err != nil {
		return nil, err
	}
	m.address = free[0]
	m.process, err = w.start([]string{}, w.self, "demo-service", "--listen", m.address.String(),
		"--region", string(r.name), "--machine", m.name)
	if err != nil {
		return nil, err
	}
	r.machines = append(r.machines, m)
	r.cloud.show(r.machines)
	return m, nil
}

// take ends machines of r, and takes them out of the cloud's inventory.
func (r *region) take(gone ...*machine) {
	for _, m := range gone {
		m.process.kill()
	}
	r.machines = slices.DeleteFunc(r.machines, func(m *machine) bool { return slices.Contains(gone, m) })
	r.cloud.show(r.machines)
}

// startGateway starts r's gateway on its data directory and returns when it is ready.
func (w *world) startGateway(ctx context.Context, r *region) error {
	path := filepath.Join(r.dir, "gateway.hcl")
	content := fmt.Sprintf("region   = %q\nname     = \"gw-1\"\ndata_dir = %q\n\nmesh {\n  listen = %q\n}\n\nlocal {\n  listen = \"\"\n}\n\n"+
		"admin {\n  listen = \"\"\n}\n\naccess_log = %q\n\n%s", r.name, filepath.Join(r.dir, "data"), r.mesh,
		filepath.Join(r.dir, "access.log"), r.cloud.block())
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return fmt.Errorf("write gateway.hcl: %w", err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		return err
	}
	if r.gateway, err = w.start(r.cloud.variables(r.dir), w.gateway, "-config", path); err != nil {
		return err
	}
	if r.client == nil {
		r.client = admin.NewClient(admin.Target{Socket: cfg.AdminSocket})
	}
	return w.until(ctx, 10*time.Second, "the gateway of "+string(r.name)+" to be ready", func() error {
		select {
		case <-r.gateway.done:
			return fatal{fmt.Errorf("the gateway of %s stopped:\n%s", r.name, r.gateway.log.last(12))}
		default:
		}
		status, err := r.client.Status(ctx, &admin.StatusRequest{})
		if err == nil && status.State != admin.StateReady {
			err = fmt.Errorf("it is %s", status.State)
		}
		return err
	})
}

// fatal is an error that waiting does not mend.
type fatal struct{ error }

// until asks again and again, every 20 ms, until ask returns nil, a fatal error, or limit has passed.
func (w *world) until(parent context.Context, limit time.Duration, what string, ask func() error) error {
	ctx, cancel := context.WithTimeout(parent, limit)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		var f fatal
		if err == nil || errors.As(err, &f) {
			return err
		}
		select {
		case <-ctx.Done():
			if parent.Err() != nil {
				return parent.Err()
			}
			return fmt.Errorf("timed out after %v waiting for %s: %w", limit, what, err)
		case <-tick.C:
		}
	}
}

// apply puts resources into r, all together.
func (r *region) apply(ctx context.Context, resources ...federation.Resource) error {
	_, err := r.client.ApplyResources(ctx, &admin.ChangeRequest{Owner: "demo", Put: resources})
	return err
}

// federate makes a token in a, for b, and redeems it there.
func (w *world) federate(ctx context.Context, a, b *region) error {
	token, err := a.client.PeerGenerateToken(ctx, &admin.PeerTokenRequest{Peer: b.name, Addresses: []string{a.front[b.name]}})
	if err != nil {
		return err
	}
	request := &admin.PeerEstablishRequest{Token: token.Token, Addresses: []string{b.front[a.name]}}
	_, err = b.client.PeerEstablish(ctx, request, func(admin.PeerStep) {})
	return err
}

// freePorts returns n ports of a loopback address that were free a moment ago, all of them different.
func freePorts(network, host string, n int) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for range n {
		var held io.Closer
		var bound net.Addr
		if network == "udp" {
			c, err := net.ListenPacket("udp", host+":0")
			if err != nil {
				return nil, fmt.Errorf("find a free port: %w", err)
			}
			held, bound = c, c.LocalAddr()
		} else {
			l, err := net.Listen("tcp", host+":0")
			if err != nil {
				return nil, fmt.Errorf("find a free port: %w", err)
			}
			held, bound = l, l.Addr()
		}
		defer held.Close() // all are held until the last is found, or one could be found twice
		address, err := netip.ParseAddrPort(bound.String())
		if err != nil {
			return nil, fmt.Errorf("find a free port: %w", err)
		}
		out = append(out, address)
	}
	return out, nil
}
