package world

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"sync/atomic"
	"testing"

	"github.com/tradewind-mesh/tradewind/e2e/link"
)

// spareProcs is above the number of goroutines that a test of the link keeps busy.
const spareProcs = 8

var links atomic.Int32 // of this process, for the names of their namespaces

// Linked makes two clouds joined by a link of the given quality and removes them when the test ends. They are at 192.0.2.11 and
// 192.0.2.12 unless the Config gives addresses; namespaces and devices are chosen here. Cut and Join act on the clouds' devices.
// Without root it skips the test, as Clouds does.
func Linked(t testing.TB, c link.Config) (l *link.Link, a, b *Cloud) {
	t.Helper()
	need(t, os.Geteuid() == 0, "network namespaces need root: run sudo make e2e")
	Programs(t, "ip")
	prefix := fmt.Sprintf("tw%d-l%d", os.Getpid()%100000, links.Add(1))
	cloud := func(name string, end *link.End, address string) *Cloud {
		if len(end.Addresses) == 0 {
			end.Addresses = []netip.Prefix{netip.MustParsePrefix(address)}
		}
		end.Namespace, end.Device = prefix+name, "eth0"
		ip(t, "netns", "add", end.Namespace)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", end.Namespace).Run() })
		return &Cloud{Name: name, Namespace: end.Namespace, Address: end.Addresses[0].Addr().String(), Dir: t.TempDir(), t: t}
	}
	a, b = cloud("a", &c.A, "192.0.2.11/24"), cloud("b", &c.B, "192.0.2.12/24")
	l, err := link.New(c)
	if err != nil {
		t.Fatal(err)
	}
	// The link is a thread of this process, and to wake up it needs one of the GOMAXPROCS permissions to run. With more of them
	// than the test has busy goroutines it finds one at once.
	procs := runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + spareProcs)
	t.Cleanup(func() { runtime.GOMAXPROCS(procs) })
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- l.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return l, a, b
}
