package world

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Process is a program running in a cloud. It is killed when the test ends.
type Process struct {
	Name string
	cmd  *exec.Cmd
	out  *output
	done chan struct{}
	err  error
}

// output keeps what a process wrote.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.buf.Len() > 4<<20 {
		o.buf.Next(2 << 20)
	}
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// Command returns a command that runs in the cloud's namespace.
func (c *Cloud) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, "ip", append([]string{"netns", "exec", c.Namespace, name}, args...)...)
}

// Start runs a program in the cloud until it exits or the test ends.
func (c *Cloud) Start(name string, args ...string) *Process {
	c.t.Helper()
	p := &Process{Name: filepath.Base(name), out: &output{}, done: make(chan struct{})}
	p.cmd = c.Command(context.Background(), name, args...)
	p.cmd.Stdout, p.cmd.Stderr = p.out, p.out
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := p.cmd.Start(); err != nil {
		c.t.Fatalf("start %s in %s: %v", name, c.Name, err)
	}
	go func() { p.err = p.cmd.Wait(); close(p.done) }()
	c.t.Cleanup(func() {
		p.Kill()
		if c.t.Failed() {
			c.t.Logf("%s in %s wrote:\n%s", p.Name, c.Name, lastLines(p.out.String(), 40))
		}
	})
	return p
}

// Kill sends SIGKILL to the process and its children and waits until it is gone.
func (p *Process) Kill() { p.Signal(syscall.SIGKILL); <-p.done }

// Signal sends s to the process group, unless the process has ended.
func (p *Process) Signal(s syscall.Signal) {
	select {
	case <-p.done:
	default:
		_ = syscall.Kill(-p.cmd.Process.Pid, s)
	}
}

// Wait returns how the process ended, or an error after limit.
func (p *Process) Wait(limit time.Duration) error {
	select {
	case <-p.done:
		return p.err
	case <-time.After(limit):
		return fmt.Errorf("%s still runs after %v", p.Name, limit)
	}
}

// PID is the process's id.
func (p *Process) PID() int { return p.cmd.Process.Pid }

// Output is what the process has written so far.
func (p *Process) Output() string { return p.out.String() }

// Run runs a program in the cloud to its end and returns its standard output; a failure ends the test.
func (c *Cloud) Run(limit time.Duration, name string, args ...string) string {
	c.t.Helper()
	out, err := c.Try(limit, name, args...)
	if err != nil {
		c.t.Fatalf("in %s: %s %s: %v\n%s", c.Name, name, strings.Join(args, " "), err, lastLines(out, 30))
	}
	return out
}

// Try is Run, but returns the failure. On failure the output has standard error too.
func (c *Cloud) Try(limit time.Duration, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := c.Command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			err = fmt.Errorf("timed out after %v", limit)
		}
		return stdout.String() + stderr.String(), err
	}
	return stdout.String(), nil
}

// Write writes a file into the cloud's directory and returns its path.
func (c *Cloud) Write(name, content string) string {
	c.t.Helper()
	path := filepath.Join(c.Dir, name)
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// Until asks every 20 ms until ask returns nil, and fails the test after limit with the last answer.
func Until(t testing.TB, limit time.Duration, what string, ask func() error) time.Duration {
	t.Helper()
	begin := time.Now()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(limit)
	for {
		err := ask()
		if err == nil {
			return time.Since(begin)
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("timed out after %v waiting for %s: %v", limit, what, err)
		}
	}
}

func lastLines(s string, n int) string {
	lines := strings.Split(strings.TrimRight(s, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

// decode reads JSON that a command printed.
func decode(t testing.TB, text string, into any) {
	t.Helper()
	if err := json.Unmarshal([]byte(text), into); err != nil {
		t.Fatalf("not JSON: %v\n%s", err, text)
	}
}
