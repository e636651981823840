package link

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Inside runs do with a thread that is in the namespace (as of ip netns), and throws the thread away. Sockets and devices that do
// opens belong to the namespace for as long as they are open; goroutines that it starts do not.
func Inside(namespace string, do func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with the goroutine and takes the namespace with it
		done <- enter(namespace, do)
	}()
	return <-done
}

func enter(namespace string, do func() error) error {
	ns, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return fmt.Errorf("open namespace %s: %w", namespace, err)
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("enter namespace %s: %w", namespace, err)
	}
	return do()
}

// A device is one end of the link: a TUN in its namespace.
type device struct {
	End
	fd   int
	stat *os.File // /proc/net/dev of the namespace
}

// ring is how many packets the kernel holds for the link while it does not come round: 50 ms at 80,000 packets a second.
const ring = 4096

// open makes the device. peer holds the addresses of the other end, to which it sets routes.
func open(end End, mtu int, peer []netip.Prefix) (*device, error) {
	d := &device{End: end, fd: -1}
	err := Inside(end.Namespace, func() (err error) {
		if d.stat, err = os.Open("/proc/thread-self/net/dev"); err != nil {
			return err
		}
		return d.attach()
	})
	if err == nil {
		err = d.configure(mtu, peer)
	}
	if err != nil {
		d.close()
		return nil, fmt.Errorf("open device %s in namespace %s: %w", end.Device, end.Namespace, err)
	}
	return d, nil
}

func (d *device) attach() error {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return fmt.Errorf("open /dev/net/tun: %w", err)
	}
	d.fd = fd
	request, err := unix.NewIfreq(d.Device)
	if err != nil {
		return fmt.Errorf("name the device: %w", err)
	}
	// No offloads: the kernel cuts what it sends into packets of the MTU with full checksums, and each meets its own fate.
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("make the TUN: %w", err)
	}
	// Nobody asks for routers: it would be counted as traffic. Where there is no IPv6, nobody does anyhow.
	_ = os.WriteFile("/proc/sys/net/ipv6/conf/"+d.Device+"/router_solicitations", []byte("0"), 0)
	return nil
}

func (d *device) configure(mtu int, peer []netip.Prefix) error {
	// No link-local address, for the same reason.
	commands := [][]string{
		{"link", "set", "lo", "up"},
		{"link", "set", d.Device, "mtu", strconv.Itoa(mtu), "txqueuelen", strconv.Itoa(ring), "addrgenmode", "none", "up"},
	}
	for _, a := range d.Addresses {
		command := []string{"addr", "add", a.String(), "dev", d.Device}
		if a.Addr().Is6() {
			command = append(command, "nodad") // there is nobody to ask
		}
		commands = append(commands, command)
	}
	for _, a := range peer {
		if !d.reaches(a.Addr()) {
			commands = append(commands, []string{"route", "add", a.Masked().String(), "dev", d.Device})
		}
	}
	for _, c := range commands {
		if _, err := d.ip(c...); err != nil {
			return err
		}
	}
	for _, a := range d.Addresses {
		if err := d.settle(a.Addr()); err != nil {
			return err
		}
	}
	return nil
}

func (d *device) ip(args ...string) (string, error) {
	out, err := exec.Command("ip", append([]string{"-n", d.Namespace}, args...)...).CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// settle waits until the kernel takes packets for an address. For IPv6 it does so a moment after the address was added, when a
// worker of its own has come to it.
func (d *device) settle(a netip.Addr) error {
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	const tries = 1000 // 5 s: a worker of the kernel waits that long for nothing
	for range tries {
		route, err := d.ip("route", "get", a.String())
		if err == nil && strings.HasPrefix(route, "local ") {
			return nil
		}
		<-tick.C
	}
	return fmt.Errorf("the kernel does not take packets for %v", a)
}

func (d *device) reaches(a netip.Addr) bool {
	for _, own := range d.Addresses {
		if own.Contains(a) {
			return true
		}
	}
	return false
}

func (d *device) close() {
	if d.fd >= 0 {
		_ = unix.Close(d.fd)
		d.fd = -1
	}
	if d.stat != nil {
		_ = d.stat.Close()
	}
}

// read returns 0 when nothing waits.
func (d *device) read(b []byte) (int, error) {
	for {
		n, err := unix.Read(d.fd, b)
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, unix.EAGAIN):
			return 0, nil
		case !errors.Is(err, unix.EINTR):
			return 0, fmt.Errorf("read from %s in namespace %s: %w", d.Device, d.Namespace, err)
		}
	}
}

// write returns false when the device does not take the packet, being down.
func (d *device) write(b []byte) bool {
	for {
		_, err := unix.Write(d.fd, b)
		if !errors.Is(err, unix.EINTR) {
			return err == nil
		}
	}
}

// overruns is what the kernel dropped for want of room in the ring: the column "drop" of what was transmitted.
func (d *device) overruns() uint64 {
	const column = 8 + 3 // eight columns of what was received, then octets, packets, errors, drops (net/core/net-procfs.c)
	text := make([]byte, 16<<10)
	n, _ := d.stat.ReadAt(text, 0)
	for line := range bytes.Lines(text[:n]) {
		name, rest, _ := bytes.Cut(line, []byte(":"))
		fields := bytes.Fields(rest)
		if string(bytes.TrimSpace(name)) == d.Device && len(fields) > column {
			drops, _ := strconv.ParseUint(string(fields[column]), 10, 64)
			return drops
		}
	}
	return 0
}
