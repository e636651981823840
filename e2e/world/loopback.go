package world

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// A Loopback is a region on this machine's loopback: one gateway process that needs neither root nor a namespace. Its ports stay
// the same over restarts, so that peers find it again.
type Loopback struct {
	Name    string
	Dir     string // gateway.hcl, data and the access log
	Mesh    string // UDP address for peers
	Local   string // TCP address for workloads that bring an SVID
	Admin   string // TCP address of the admin API
	Gateway *Process
	bin     string
}

// NewLoopback chooses the ports of a region and writes its gateway.hcl into dir, which it makes. extra is added to the file.
// Nothing runs yet.
func NewLoopback(bin, dir, name, extra string) (*Loopback, error) {
	l := &Loopback{Name: name, Dir: dir, bin: bin}
	for _, into := range []*string{&l.Mesh, &l.Local, &l.Admin} {
		address, err := FreeAddress()
		if err != nil {
			return nil, err
		}
		*into = address
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the directory of %s: %w", name, err)
	}
	content := fmt.Sprintf("region     = %q\nname       = \"gw-1\"\ndata_dir   = %q\naccess_log = %q\n%s\n"+
		"mesh {\n  listen = %q\n}\n\nlocal {\n  listen = %q\n}\n\nadmin {\n  listen = %q\n}\n",
		name, l.Data(), filepath.Join(dir, "access.log"), extra, l.Mesh, l.Local, l.Admin)
	if err := os.WriteFile(l.Config(), []byte(content), 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration of %s: %w", name, err)
	}
	return l, nil
}

// Config is the path of the region's gateway.hcl.
func (l *Loopback) Config() string { return filepath.Join(l.Dir, "gateway.hcl") }

// Data is the region's data_dir.
func (l *Loopback) Data() string { return filepath.Join(l.Dir, "data") }

// Socket is the path of the admin socket.
func (l *Loopback) Socket() string { return filepath.Join(l.Data(), "admin.sock") }

// Client returns a client of the admin API.
func (l *Loopback) Client() *admin.Client { return admin.NewClient(admin.Target{Socket: l.Socket()}) }

// readyLimit is far above the tenths of a second that a start takes on an idle machine.
const readyLimit = 15 * time.Second

// Start starts the gateway on the region's data directory and returns when it is ready, or with what it wrote when it ended
// instead.
func (l *Loopback) Start(ctx context.Context) error {
	p, err := Run(filepath.Join(l.bin, "tradewind-gateway"), "-config", l.Config())
	if err != nil {
		return err
	}
	l.Gateway = p
	client := l.Client()
	defer client.Close()
	return Poll(ctx, readyLimit, func() error {
		if err := p.ended(); err != nil {
			return fatal{err}
		}
		status, err := client.Status(ctx, &admin.StatusRequest{})
		if err == nil && status.State != admin.StateReady {
			err = fmt.Errorf("the gateway of %s is %s", l.Name, status.State)
		}
		return err
	})
}

// Command returns the tradewind command aimed at the region's gateway.
func (l *Loopback) Command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, filepath.Join(l.bin, "tradewind"), append([]string{"--socket", l.Socket()}, args...)...)
}

// Kill ends the gateway, if it runs, without a word of warning.
func (l *Loopback) Kill() {
	if l.Gateway != nil {
		l.Gateway.Kill()
	}
}

// LastWords is the end of what the gateway wrote, for the log of a failed test.
func (l *Loopback) LastWords() string {
	if l.Gateway == nil {
		return l.Name + " was never started"
	}
	return fmt.Sprintf("the gateway of %s wrote:\n%s", l.Name, lastLines(l.Gateway.Output(), 40))
}

// Join makes a token in the region of maker and redeems it in that of redeemer.
func Join(ctx context.Context, maker, redeemer *admin.Client) error {
	status, err := redeemer.Status(ctx, &admin.StatusRequest{})
	if err != nil {
		return err
	}
	token, err := maker.PeerGenerateToken(ctx, &admin.PeerTokenRequest{Peer: status.Region})
	if err != nil {
		return err
	}
	_, err = redeemer.PeerEstablish(ctx, &admin.PeerEstablishRequest{Token: token.Token}, func(admin.PeerStep) {})
	return err
}

// Run runs a program on this machine, in no namespace. The kernel kills it when the test binary ends, however that ends:
// Pdeathsig fires when the starting thread ends, so that thread is kept for as long as the child lives.
func Run(name string, args ...string) (*Process, error) {
	p := &Process{Name: filepath.Base(name), cmd: exec.Command(name, args...), out: &output{}, done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err == nil {
			p.err = p.cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("start %s: %w", p.Name, err)
	}
	return p, nil
}

// ended returns nil while the process runs, and afterwards what it wrote last.
func (p *Process) ended() error {
	select {
	case <-p.done:
		return fmt.Errorf("%s has ended (%v):\n%s", p.Name, p.cmd.ProcessState, lastLines(p.Output(), 20))
	default:
		return nil
	}
}

// ExitCode is that of a process that has ended, or -1.
func (p *Process) ExitCode() int {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	default:
		return -1
	}
}

// fatal is an error that waiting does not mend.
type fatal struct{ error }

func (f fatal) Unwrap() error { return f.error }

// pollEvery is small beside every limit that is measured with it, and large beside the cost of asking.
const pollEvery = 10 * time.Millisecond

// Poll asks again and again until ask returns nil, and returns the last answer after limit.
func Poll(ctx context.Context, limit time.Duration, ask func() error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(pollEvery)
	defer tick.Stop()
	for {
		err := ask()
		var f fatal
		if err == nil || errors.As(err, &f) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("not within %v: %w", limit, err)
		}
	}
}

// Ports for listeners: below those that Linux hands out for outgoing connections (32768 and up), so that nothing takes one
// between choosing and listening. Several test binaries may run at a time, so each takes a block for itself.
const (
	firstPort  = 20000
	blockPorts = 1000
	blocks     = 12
)

// block returns the first port of this process's block. A lock on a file says whose it is; nobody closes the file, so the lock
// ends with the process.
var block = sync.OnceValues(func() (uint32, error) {
	var last error
	for i := range uint32(blocks) {
		fd, err := unix.Open(filepath.Join(os.TempDir(), fmt.Sprintf("tradewind-ports-%d.lock", i)), unix.O_CREAT|unix.O_RDONLY|unix.O_CLOEXEC, 0o644)
		if err != nil {
			last = err
			continue
		}
		if last = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); last == nil {
			return firstPort + i*blockPorts, nil
		}
		_ = unix.Close(fd)
	}
	return 0, fmt.Errorf("find ports: %d test binaries have all of them: %w", blocks, last)
})

var nextPort atomic.Uint32

// FreeAddress returns a loopback address whose port nobody uses, neither for TCP nor for UDP, and that no other call of this
// process returns soon.
func FreeAddress() (string, error) {
	first, err := block()
	if err != nil {
		return "", err
	}
	for range blockPorts {
		address := fmt.Sprintf("127.0.0.1:%d", first+nextPort.Add(1)%blockPorts)
		if free(address) {
			return address, nil
		}
	}
	return "", fmt.Errorf("find a free port: all %d from %d are taken", blockPorts, first)
}

func free(address string) bool {
	stream, err := net.Listen("tcp", address)
	if err != nil {
		return false
	}
	defer stream.Close()
	packet, err := net.ListenPacket("udp", address)
	if err != nil {
		return false
	}
	_ = packet.Close()
	return true
}
