package world

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// A Cloud is one network namespace with one address on the network that joins the clouds.
type Cloud struct {
	Name      string // of the region
	Namespace string
	Address   string // within 192.0.2.0/24
	Dir       string // files of everything that runs here
	t         testing.TB
}

// Clouds makes a namespace for each name, all joined by one bridge in a namespace of its own, and removes them when the test
// ends. Without root it skips the test with the reason, unless CI is set: there a missing right is a failure.
func Clouds(t testing.TB, names ...string) []*Cloud {
	t.Helper()
	need(t, os.Geteuid() == 0, "network namespaces need root: run sudo make e2e")
	Programs(t, "ip")
	prefix := fmt.Sprintf("tw%d", os.Getpid()%100000)
	hub := prefix + "-net"
	ip(t, "netns", "add", hub)
	t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", hub).Run() })
	ip(t, "-n", hub, "link", "add", "br0", "type", "bridge")
	ip(t, "-n", hub, "link", "set", "br0", "up")
	var clouds []*Cloud
	for i, name := range names {
		c := &Cloud{Name: name, Namespace: fmt.Sprintf("%s-%d", prefix, i), Address: fmt.Sprintf("192.0.2.%d", 11+i), Dir: t.TempDir(), t: t}
		ip(t, "netns", "add", c.Namespace)
		t.Cleanup(func() { _ = exec.Command("ip", "netns", "del", c.Namespace).Run() })
		port := fmt.Sprintf("p%d", i)
		ip(t, "-n", hub, "link", "add", port, "type", "veth", "peer", "name", "eth0", "netns", c.Namespace)
		ip(t, "-n", hub, "link", "set", port, "master", "br0", "up")
		ip(t, "-n", c.Namespace, "link", "set", "lo", "up")
		ip(t, "-n", c.Namespace, "addr", "add", c.Address+"/24", "dev", "eth0")
		ip(t, "-n", c.Namespace, "link", "set", "eth0", "up")
		clouds = append(clouds, c)
	}
	return clouds
}

// Cut takes the cloud off the network; Join puts it back.
func (c *Cloud) Cut() { ip(c.t, "-n", c.Namespace, "link", "set", "eth0", "down") }

// Join undoes Cut.
func (c *Cloud) Join() { ip(c.t, "-n", c.Namespace, "link", "set", "eth0", "up") }

// Programs makes sure that all the programs are installed.
func Programs(t testing.TB, names ...string) {
	t.Helper()
	for _, name := range names {
		_, err := exec.LookPath(name)
		need(t, err == nil, fmt.Sprintf("%s is not installed: .ci/run lists the Debian packages", name))
	}
}

// need skips the test with the reason unless ok; with CI set it fails it.
func need(t testing.TB, ok bool, reason string) {
	t.Helper()
	switch {
	case ok:
	case os.Getenv("CI") != "":
		t.Fatal(reason)
	default:
		t.Skip(reason)
	}
}

func ip(t testing.TB, args ...string) {
	t.Helper()
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		t.Fatalf("ip %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}
