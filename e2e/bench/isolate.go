package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// What -isolated says: where this process measures.
const (
	inNamespace = "namespace" // a network namespace of its own
	onHost      = "host"
)

// congestionFile holds the congestion control of new connections in the namespace of whoever reads or writes it.
const congestionFile = "/proc/sys/net/ipv4/tcp_congestion_control"

// isolate runs the benchmark again in a network namespace of its own: its ports, its connections in TIME_WAIT and its TCP
// settings are then its own, and nothing of the host has to be changed and put back. Where namespaces are not allowed it
// measures on the host and says so.
func isolate(ctx context.Context, args []string) error {
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find the own program: %w", err)
	}
	// Should this process be killed, the other is told to end: Pdeathsig fires when the starting thread ends, so it is kept.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	attr := &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGTERM}
	if os.Geteuid() != 0 {
		attr.Cloneflags |= syscall.CLONE_NEWUSER
		attr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		attr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	run := func(where string, attr *syscall.SysProcAttr) error {
		cmd := exec.CommandContext(ctx, self, append([]string{"-isolated", where}, args...)...)
		cmd.Stdout, cmd.Stderr, cmd.SysProcAttr = os.Stdout, os.Stderr, attr
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 10 * time.Second
		if err := cmd.Start(); err != nil {
			return fmt.Errorf("start in %s: %w", where, err)
		}
		if err := cmd.Wait(); err != nil {
			os.Exit(max(1, cmd.ProcessState.ExitCode())) // it has said why
		}
		return nil
	}
	if err := run(inNamespace, attr); err != nil {
		fmt.Fprintln(os.Stderr, "bench: no network namespace, measuring on the host:", err)
		return run(onHost, &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM})
	}
	return nil
}

// settle prepares the namespace of this process and returns the congestion control that TCP uses in it. Loopback loses nothing,
// so a loss-based control never holds back; BBR, which some hosts have as their default, paces loopback to half its rate and
// would make every TCP yardstick look bad. The settings of a host are left alone.
func settle(where string) (string, error) {
	if where == inNamespace {
		if err := loopbackUp(); err != nil {
			return "", err
		}
		// Listeners have ports below the range: more of it for the other ends of ten thousand flows.
		if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("33000 65535"), 0o644); err != nil {
			return "", fmt.Errorf("widen the range of ephemeral ports: %w", err)
		}
		for _, name := range []string{"cubic", "reno"} { // a namespace may choose only among what the host allows
			if os.WriteFile(congestionFile, []byte(name), 0o644) == nil {
				break
			}
		}
	}
	now, err := os.ReadFile(congestionFile)
	if err != nil {
		return "", fmt.Errorf("read the congestion control: %w", err)
	}
	return strings.TrimSpace(string(now)), nil
}

// loopbackUp takes the loopback device of a new namespace up.
func loopbackUp() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open a socket: %w", err)
	}
	defer unix.Close(fd)
	request, err := unix.NewIfreq("lo")
	if err != nil {
		return fmt.Errorf("name the loopback device: %w", err)
	}
	request.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request); err != nil {
		return fmt.Errorf("take the loopback device up: %w", err)
	}
	return nil
}
