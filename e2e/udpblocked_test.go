package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/link"
	"github.com/tradewind-mesh/tradewind/e2e/world"
)

const echoHCL = `
service "echo" {
  instance "one" { address = "127.0.0.1:7002" }
  check "tcp" {}
}
export "echo" { to = ["*"] }
intention "client-in" {
  source      = "client@b"
  destination = "echo"
  action      = "allow"
}
`

const echoCallerHCL = `
intention "client-out" {
  source      = "client"
  destination = "echo@*"
  action      = "allow"
}
upstream "echo" {
  service = "echo"
  listen  = "127.0.0.1:9002"
  caller  = "client"
}
`

// overLink is the quality of the link between the two regions of these tests, and the same where UDP does not pass.
var (
	overLink   = link.Profile{Delay: 10 * time.Millisecond}
	withoutUDP = link.Profile{Delay: 10 * time.Millisecond, BlockUDP: true}
)

// serveEcho sends back what it gets, on port 7002 of the region, until the listener is closed.
func serveEcho(t *testing.T, r *world.Region) net.Listener {
	t.Helper()
	listener, err := r.Listen(t.Context(), "tcp", "127.0.0.1:7002")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}()
		}
	}()
	return listener
}

// echoed has a few bytes echoed through the upstream of r.
func echoed(conn net.Conn, text string) error {
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(conn, back); err != nil {
		return err
	}
	if string(back) != text {
		return fmt.Errorf("%q came back for %q", back, text)
	}
	return nil
}

// waitEcho opens a connection to the echo of the other region, as soon as that is offered.
func waitEcho(t *testing.T, r *world.Region) (conn net.Conn) {
	t.Helper()
	world.Until(t, 20*time.Second, "an echo from the other region", func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		c, err := r.Dial(ctx, "tcp", "127.0.0.1:9002")
		if err != nil {
			return err
		}
		if err := echoed(c, "hello"); err != nil {
			_ = c.Close()
			return err
		}
		conn = c
		return nil
	})
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// peerShown is what "tradewind peer show" says of a peer.
type peerShown struct {
	State    string
	Exchange string
	Path     struct{ Lane string }
	Import   struct {
		Freshness  string
		AgeSeconds float64 `json:"age_seconds"`
	}
}

func showPeer(r, peer *world.Region) (p peerShown) {
	r.JSON(&p, "peer", "show", peer.Name)
	return p
}

// waitHealthy waits until r sees so many healthy instances of the other region's echo.
func waitHealthy(t *testing.T, r *world.Region, healthy int) time.Duration {
	t.Helper()
	return world.Until(t, 20*time.Second, fmt.Sprintf("%d healthy instances", healthy), func() error {
		var list struct {
			Services []struct {
				Name  string
				Homes []struct{ Healthy, Total int }
			}
		}
		r.JSON(&list, "services", "list")
		for _, s := range list.Services {
			if s.Name == "echo" && len(s.Homes) == 1 && s.Homes[0].Healthy == healthy {
				return nil
			}
		}
		return fmt.Errorf("services: %+v", list.Services)
	})
}

// TestUDPIsBlockedFromTheStart has two regions between which a firewall lets no UDP pass: peering, catalog, health and flows.
func TestUDPIsBlockedFromTheStart(t *testing.T) {
	for name, mesh := range map[string]string{"as it comes": "", "TCP alone": `lanes = ["tcp"]`} {
		t.Run(name, func(t *testing.T) {
			_, a, b := world.Linked(t, link.Config{AToB: withoutUDP, BToA: withoutUDP})
			serving, calling := a.Region(mesh, ""), b.Region(mesh, "")
			echo := serveEcho(t, serving)
			serving.Apply(echoHCL)
			calling.Apply(echoCallerHCL)
			began := time.Now()
			world.Federate(t, serving, calling)
			t.Logf("peered in %v", time.Since(began).Round(time.Millisecond))
			conn := waitEcho(t, calling)
			for _, r := range [][2]*world.Region{{serving, calling}, {calling, serving}} {
				if p := showPeer(r[0], r[1]); p.State != "Active" || p.Exchange != "tcp" || p.Path.Lane != "tcp" || p.Import.Freshness != "LIVE" {
					t.Errorf("%s sees %s as %+v", r[0].Name, r[1].Name, p)
				}
			}
			waitHealthy(t, calling, 1)
			_ = echo.Close()
			t.Logf("the death of an instance was seen by the peer in %v", waitHealthy(t, calling, 0).Round(time.Millisecond))
			serveEcho(t, serving)
			waitHealthy(t, calling, 1)
			if err := echoed(conn, "all the while"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestUDPIsBlockedAndNothingElseAllowed has the error say what would help.
func TestUDPIsBlockedAndNothingElseAllowed(t *testing.T) {
	_, a, b := world.Linked(t, link.Config{AToB: withoutUDP, BToA: withoutUDP})
	const only = `lanes = ["quic"]`
	serving, calling := a.Region(only, ""), b.Region(only, "")
	var token struct{ Token string }
	serving.JSON(&token, "peer", "generate-token", calling.Name)
	out, err := calling.TryCLI("peer", "establish", serving.Name, "--token", token.Token)
	if err == nil {
		t.Fatalf("it worked:\n%s", out)
	}
	for _, said := range []string{"is UDP blocked on the way", "open the mesh port for UDP", `add "tcp" to mesh.lanes`} {
		if !strings.Contains(strings.Join(strings.Fields(out), " "), said) {
			t.Errorf("%q is not said:\n%s", said, out)
		}
	}
}

// TestUDPIsBlockedForAWhile blocks UDP in the middle of a peering's life: the catalog stays fresh, and a flow goes on.
func TestUDPIsBlockedForAWhile(t *testing.T) {
	l, a, b := world.Linked(t, link.Config{AToB: overLink, BToA: overLink})
	serving, calling := a.Region("", ""), b.Region("", "")
	echo := serveEcho(t, serving)
	serving.Apply(echoHCL)
	calling.Apply(echoCallerHCL)
	world.Federate(t, serving, calling)
	conn := waitEcho(t, calling)
	world.Until(t, 20*time.Second, "everything over QUIC", func() error {
		if p := showPeer(calling, serving); p.Path.Lane != "quic" || p.Exchange != "quic" {
			return fmt.Errorf("%+v", p)
		}
		return nil
	})
	set := func(p link.Profile) {
		if err := l.Set(link.Both, p); err != nil {
			t.Fatal(err)
		}
	}
	// watch looks at both sides and talks until ok, and longer than an import stays LIVE without news.
	watch := func(what string, ok func(p peerShown) bool) {
		began, slowest, oldest := time.Now(), time.Duration(0), 0.0
		enough := began.Add(10 * time.Second)
		took := world.Until(t, 60*time.Second, what, func() error {
			asked := time.Now()
			if err := echoed(conn, what); err != nil {
				t.Fatalf("the flow broke: %v", err)
			}
			slowest = max(slowest, time.Since(asked))
			all := true
			for _, r := range [][2]*world.Region{{serving, calling}, {calling, serving}} {
				p := showPeer(r[0], r[1])
				oldest = max(oldest, p.Import.AgeSeconds)
				if p.Import.Freshness != "LIVE" {
					t.Errorf("%v after the change %s sees %s as %+v", time.Since(began), r[0].Name, r[1].Name, p)
				}
				all = all && ok(p)
			}
			if !all || time.Now().Before(enough) {
				return fmt.Errorf("%+v", showPeer(calling, serving))
			}
			return nil
		})
		t.Logf("%s: %v, the slowest answer came after %v, an import was %.1f s old at most", what, took.Round(time.Millisecond),
			slowest.Round(time.Millisecond), oldest)
	}
	set(withoutUDP)
	watch("all goes over TCP", func(p peerShown) bool { return p.Path.Lane == "tcp" && p.Exchange == "tcp" })
	_ = echo.Close()
	waitHealthy(t, calling, 0)
	serveEcho(t, serving)
	waitHealthy(t, calling, 1)
	set(overLink)
	watch("flows go over QUIC again", func(p peerShown) bool { return p.Path.Lane == "quic" })
}
