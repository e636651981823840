// Command run joins two network namespaces by a link of chosen quality and takes its changes from standard input:
//
//	sudo go run ./e2e/link/run -a left=10.0.0.1/24 -b right=10.0.0.2/24 <<'END'
//	now both delay 20ms rate 200M
//	at 5s both loss 1%
//	at 8s a>b blackhole on
//	at 9s a>b blackhole off
//	at 10s rebind a
//	at 12s stats
//	at 12s end
//	END
//
// Namespaces that do not exist are made, and removed at the end. Without "end" it runs until SIGINT or SIGTERM, also after the end
// of the input. The settings are those of link.Profile.Change.
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/netip"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/tradewind-mesh/tradewind/e2e/link"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "link:", err)
		stop()
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, in io.Reader, out io.Writer) error {
	flags := flag.NewFlagSet("link", flag.ContinueOnError)
	var c link.Config
	flags.Func("a", "namespace and addresses of one end, such as left=10.0.0.1/24,2001:db8::1/64", end(&c.A))
	flags.Func("b", "namespace and addresses of the other end", end(&c.B))
	flags.IntVar(&c.MTU, "mtu", 1500, "of both devices, in octets")
	flags.Uint64Var(&c.Seed, "seed", 1, "of the random choices")
	device := flags.String("device", "eth0", "name of the device in each namespace")
	asJSON := flags.Bool("json", false, "print counters as JSON, one line each time")
	flags.SetOutput(io.Discard) // main says what is wrong
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		flags.SetOutput(out)
		flags.PrintDefaults()
		return nil
	} else if err != nil {
		return err
	}
	if c.A.Namespace == "" || c.B.Namespace == "" || c.A.Namespace == c.B.Namespace || flags.NArg() > 0 {
		return fmt.Errorf("two namespaces are needed, such as -a left=10.0.0.1/24 -b right=10.0.0.2/24")
	}
	if os.Geteuid() != 0 {
		return link.ErrNotRoot
	}
	hurry()
	c.A.Device, c.B.Device = *device, *device
	for _, name := range []string{c.A.Namespace, c.B.Namespace} {
		made, err := makeNamespace(name)
		if err != nil {
			return err
		}
		if made {
			defer removeNamespace(name)
		}
	}
	l, err := link.New(c)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	done := make(chan error, 1)
	go func() { defer stop(); done <- l.Run(ctx) }()
	fmt.Fprintln(out, "ready")
	err = play(ctx, read(ctx, in), l, printer{out, *asJSON})
	stop()
	if failed := <-done; failed != nil {
		return failed
	}
	return err
}

// hurry gives all threads of this process, and those they will start, the lowest real-time priority. The link does so for its own
// thread, but that one still shares the locks of the Go runtime: one that was preempted with a lock held it up for 100 ms on a
// machine with eight busy processes. Counters.Late shows what happens where it is refused.
func hurry() {
	threads, _ := os.ReadDir("/proc/self/task")
	for _, thread := range threads {
		if id, err := strconv.Atoi(thread.Name()); err == nil {
			_ = unix.SchedSetAttr(id, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_FIFO, Priority: 1}, 0)
		}
	}
}

// end reads name=address/bits,address/bits.
func end(e *link.End) func(string) error {
	return func(text string) error {
		name, addresses, _ := strings.Cut(text, "=")
		if name == "" || name != filepath.Base(name) {
			return fmt.Errorf("%q is no name of a namespace", name)
		}
		*e = link.End{Namespace: name}
		for address := range strings.SplitSeq(addresses, ",") {
			prefix, err := netip.ParsePrefix(address)
			if err != nil {
				return err
			}
			e.Addresses = append(e.Addresses, prefix)
		}
		return nil
	}
}

// makeNamespace returns false if the namespace was there.
func makeNamespace(name string) (bool, error) {
	if _, err := os.Stat(filepath.Join("/run/netns", name)); err == nil {
		return false, nil
	}
	if text, err := exec.Command("ip", "netns", "add", name).CombinedOutput(); err != nil {
		return false, fmt.Errorf("make namespace %s: %w: %s", name, err, bytes.TrimSpace(text))
	}
	return true, nil
}

func removeNamespace(name string) {
	if text, err := exec.Command("ip", "netns", "del", name).CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "link: remove namespace %s: %v: %s\n", name, err, bytes.TrimSpace(text))
	}
}

// read hands out the lines of in until its end, or until ctx ends and another line comes: nobody can interrupt a read from a
// terminal.
func read(ctx context.Context, in io.Reader) <-chan string {
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(in); s.Scan(); {
			select {
			case lines <- s.Text():
			case <-ctx.Done():
				return
			}
		}
	}()
	return lines
}
