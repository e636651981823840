package mesh_test

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// free returns a loopback address that nobody listens on.
func free(t *testing.T) string { return refusing(t) }

// local is a region whose web may call its shop, which says name.
func local(t *testing.T) *region {
	aws := newRegion(t, "aws")
	aws.serve(shop, instance(t, hello("aws")))
	aws.intend("out allow web shop")
	return aws
}

func upstreamAt(name, listen string) federation.Upstream {
	return federation.Upstream{Name: name, Service: federation.ServiceRef{Service: shop}, Listen: listen, Caller: web}
}

// TestUpstreamForOtherHosts: a listener for other hosts serves those of its networks and this one.
func TestUpstreamForOtherHosts(t *testing.T) {
	noLeaks(t)
	aws := local(t)
	u := upstreamAt("a", strings.Replace(free(t), "127.0.0.1", "0.0.0.0", 1))
	u.AllowFrom = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
	aws.view.Upstreams = []federation.Upstream{u}
	if problems := aws.publish(); len(problems) > 0 {
		t.Fatal(problems)
	}
	mustCall(t, strings.Replace(u.Listen, "0.0.0.0", "127.0.0.1", 1), "", "aws\n")
	for host, want := range map[string]bool{"127.0.0.1": true, "::ffff:192.0.2.9": true, "192.0.3.1": false, "2001:db8::1": false} {
		if u.Admits(netip.MustParseAddr(host)) != want {
			t.Errorf("%s is admitted: %v", host, !want)
		}
	}

	u.Listen, u.AllowFrom = strings.Replace(u.Listen, "0.0.0.0", "127.0.0.1", 1), nil // for this host only, at the same port
	aws.view.Upstreams = []federation.Upstream{u}
	if problems := aws.publish(); len(problems) > 0 {
		t.Fatal(problems)
	}
	mustCall(t, u.Listen, "", "aws\n")
	if c, err := net.Dial("tcp", strings.Replace(u.Listen, "127.0.0.1", "127.0.0.2", 1)); err == nil {
		c.Close()
		t.Error("it still listens on all addresses")
	}
	if u.Admits(netip.MustParseAddr("192.0.2.9")) {
		t.Error("a host is admitted where none is allowed")
	}
}

func TestListenersFollowTheSnapshot(t *testing.T) {
	noLeaks(t)
	aws := local(t)
	one, two := free(t), free(t)
	aws.view.Upstreams = []federation.Upstream{upstreamAt("a", one)}
	aws.publish()
	by := func(address, upstream string) {
		mustCall(t, address, "", "aws\n")
		if e := aws.lines.next(t); e.Upstream != upstream {
			t.Errorf("a call to %s came in by %q, want %q", address, e.Upstream, upstream)
		}
	}
	by(one, "a")
	aws.view.Upstreams = []federation.Upstream{upstreamAt("a", two), upstreamAt("b", one)} // a moves, b takes its place
	if problems := aws.publish(); len(problems) > 0 {
		t.Fatal(problems)
	}
	by(one, "b")
	by(two, "a")

	aws.view.Upstreams = nil
	aws.publish()
	if _, err := net.Dial("tcp", one); err == nil {
		t.Error("an address that no upstream names is still open")
	}
}

func TestBindFailureHarmsNoOther(t *testing.T) {
	noLeaks(t)
	aws := local(t)
	blocker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blocker.Close() }()
	taken, good, old := blocker.Addr().String(), free(t), free(t)
	aws.view.Upstreams = []federation.Upstream{upstreamAt("moving", old)}
	aws.publish()
	aws.view.Upstreams = []federation.Upstream{upstreamAt("moving", taken), upstreamAt("other", good), upstreamAt("twin", good)}
	problems := aws.publish()
	if len(problems) != 2 || problems[0].Code != federation.CodeUpstreamListen || problems[1].Code != federation.CodeUpstreamTwice {
		t.Fatalf("problems are %v", problems)
	}
	if p := problems[0]; !strings.Contains(p.What, `"moving"`) || p.Why != "another process listens there" || p.Fix == "" {
		t.Errorf("the diagnosis reads %v", p)
	}
	if p := problems[1]; !strings.Contains(p.What, `"twin"`) || !strings.Contains(p.Why, `"other"`) {
		t.Errorf("the diagnosis reads %v", p)
	}
	mustCall(t, good, "", "aws\n")
	mustCall(t, old, "", "aws\n") // stays where it was
	states := aws.Listeners()
	if len(states) != 3 || states[0].Problem == nil || states[1].Problem != nil || states[2].Problem == nil {
		t.Fatalf("listeners are %+v", states)
	}
	if states[0].Address.String() != old {
		t.Errorf("listeners are %+v", states)
	}

	// The old address must not turn into another caller's.
	moved := upstreamAt("moving", taken)
	moved.Caller = federation.ServiceName{Namespace: "default", Name: "api"}
	aws.view.Upstreams = []federation.Upstream{moved}
	aws.publish()
	if _, err := net.Dial("tcp", old); err == nil {
		t.Error("the old address is still open though its caller has changed")
	}

	_ = blocker.Close()
	eventually(t, "the upstream is bound once its address is free", func() bool {
		return len(aws.Apply()) == 0
	})
	if a := aws.Listeners()[0]; a.Address == nil || a.Address.String() != taken {
		t.Errorf("it listens on %v", a.Address)
	}
}

func TestUnixSocket(t *testing.T) {
	noLeaks(t)
	aws := local(t)
	path := filepath.Join(t.TempDir(), "shop.sock")
	leave, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	leave.(*net.UnixListener).SetUnlinkOnClose(false)
	aws.view.Upstreams = []federation.Upstream{upstreamAt("a", "unix:"+path)}
	if problems := aws.publish(); len(problems) != 1 || problems[0].Why != "another process listens there" {
		t.Fatalf("problems are %v while somebody listens", problems)
	}
	_ = leave.Close() // a dead process leaves its file
	if problems := aws.publish(); len(problems) != 0 {
		t.Fatal(problems)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("the socket has mode %v, %v", info.Mode(), err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if n, err := c.Read(make([]byte, 4)); n != 4 || err != nil {
		t.Errorf("read %d octets, %v", n, err)
	}
	aws.view.Upstreams = nil
	aws.publish()
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
}

func TestFileThatIsNoSocketIsLeftAlone(t *testing.T) {
	noLeaks(t)
	aws := local(t)
	path := filepath.Join(t.TempDir(), "precious")
	if err := os.WriteFile(path, []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	aws.view.Upstreams = []federation.Upstream{upstreamAt("a", "unix:"+path)}
	if problems := aws.publish(); len(problems) != 1 {
		t.Fatalf("problems are %v", problems)
	} else if d := problems[0]; !strings.Contains(d.Why, "is no socket") || strings.Contains(d.Fix, "ss ") {
		t.Errorf("problem is %v", d)
	}
	if b, err := os.ReadFile(path); err != nil || string(b) != "data" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

func TestLocalListenerThatCannotBindFailsRun(t *testing.T) {
	noLeaks(t)
	blocker, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = blocker.Close() }()
	for _, address := range []string{blocker.Addr().String(), "0.0.0.0:15001"} {
		m := mesh.New(mesh.Config{
			Region: "aws", Table: route.NewTable(), LocalListen: address,
			LocalTLS: func() *tls.Config { return nil }, Workload: newCA(t).workload,
		})
		if err := m.Run(context.Background()); federation.CodeOf(err) != federation.CodeLocalListen {
			t.Errorf("Run with %s returned %v", address, err)
		}
	}
}

func TestWorkloadProvesItself(t *testing.T) {
	noLeaks(t)
	ca := newCA(t)
	aws := newRegion(t, "aws", func(c *mesh.Config) {
		c.LocalListen, c.LocalTLS, c.Workload = "127.0.0.1:0", ca.serverTLS, ca.workload
	})
	aws.serve(shop, instance(t, hello("aws")))
	aws.intend("out allow web shop")
	aws.view.Intentions[0].Require = federation.AssuranceMTLS
	bound := aws.upstream("by-binding", "shop")
	if _, err := call(t, bound, ""); !isReset(err) {
		t.Errorf("a caller without a certificate got %v", err)
	}
	if e := aws.lines.next(t); e.Intention != "out" || e.Flags != "UAEX" || e.Assurance != "binding" {
		t.Errorf("access log says %+v", e)
	}
	eventually(t, "the local listener is open", func() bool { return aws.LocalAddr() != nil })
	try := func(cert *tls.Certificate, name string) (string, error) {
		config := ca.clientTLS(name)
		if cert != nil {
			config.Certificates = []tls.Certificate{*cert}
		}
		c, err := tls.Dial("tcp", aws.LocalAddr().String(), config)
		if err != nil {
			return "", err
		}
		defer func() { _ = c.Close() }()
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
		b := make([]byte, 4)
		n, err := c.Read(b)
		return string(b[:n]), err
	}
	cert := ca.issue(t, idOf(t, "aws", "web"), time.Hour)
	for _, name := range []string{
		"shop.mesh.internal", "SHOP.aws.mesh.internal", "shop.local.mesh.internal", "shop.default.svc.mesh.internal",
	} {
		if got, err := try(&cert, name); got != "aws\n" || err != nil {
			t.Errorf("%s answered %q, %v", name, got, err)
		}
		if e := aws.lines.next(t); e.Assurance != "mtls" || e.Intention != "out" || e.Destination != "shop" || e.DstRegion != "aws" {
			t.Errorf("access log says %+v", e)
		}
	}
	stranger := ca.issue(t, idOf(t, "aws", "api"), time.Hour)
	for name, c := range map[string]struct {
		cert  *tls.Certificate
		sni   string
		flags string
	}{
		"no certificate":  {nil, "shop.mesh.internal", "DPE"},
		"other caller":    {&stranger, "shop.mesh.internal", "UAEX"},
		"unknown service": {&cert, "none.mesh.internal", "NR"},
		"other suffix":    {&cert, "shop.example.com", "DPE"},
		"no name":         {&cert, "", "DPE"},
	} {
		if got, err := try(c.cert, c.sni); err == nil {
			t.Errorf("%s: answered %q", name, got)
		}
		if e := aws.lines.next(t); e.Flags != c.flags {
			t.Errorf("%s: access log says %+v", name, e)
		}
	}
}

func TestExpiredWorkloadIsReset(t *testing.T) {
	noLeaks(t)
	ca := newCA(t)
	aws := newRegion(t, "aws", func(c *mesh.Config) {
		c.LocalListen, c.LocalTLS, c.Workload = "127.0.0.1:0", ca.serverTLS, ca.workload
	})
	aws.serve(shop, instance(t, hello("aws")))
	aws.intend("out allow web shop")
	aws.publish()
	eventually(t, "the local listener is open", func() bool { return aws.LocalAddr() != nil })
	config := ca.clientTLS("shop.mesh.internal")
	config.Certificates = []tls.Certificate{ca.issue(t, idOf(t, "aws", "web"), 200*time.Millisecond)}
	c, err := tls.Dial("tcp", aws.LocalAddr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	within(t, func() {
		if _, err := c.Read(make([]byte, 1)); !isReset(err) {
			t.Errorf("got %v, want a reset", err)
		}
	})
	if e := aws.lines.next(t); e.Flags != "LR" || e.Reason != "the caller's certificate has expired" {
		t.Errorf("access log says %+v", e)
	}
}

func TestRevokedWorkloadIsReset(t *testing.T) {
	noLeaks(t)
	ca := newCA(t)
	aws := newRegion(t, "aws", func(c *mesh.Config) {
		c.LocalListen, c.LocalTLS, c.Workload, c.Judge = "127.0.0.1:0", ca.serverTLS, ca.workload, ca.judge
	})
	aws.serve(shop, instance(t, hello("aws")))
	aws.intend("out allow web shop")
	aws.publish()
	eventually(t, "the local listener is open", func() bool { return aws.LocalAddr() != nil })
	config := ca.clientTLS("shop.mesh.internal")
	config.Certificates = []tls.Certificate{ca.issue(t, idOf(t, "aws", "web"), time.Hour)}
	c, err := tls.Dial("tcp", aws.LocalAddr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.Read(make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	ca.revoked.Store(true)
	within(t, func() {
		aws.Rejudge()
		if _, err := c.Read(make([]byte, 1)); !isReset(err) {
			t.Errorf("got %v, want a reset", err)
		}
	})
	if e := aws.lines.next(t); e.Flags != "LR" || e.Reason != "the caller's identity is no longer good: revoked" {
		t.Errorf("access log says %+v", e)
	}
}

func TestListenersAreListedInOrder(t *testing.T) {
	noLeaks(t)
	aws := local(t)
	aws.view.Upstreams = []federation.Upstream{upstreamAt("c", "127.0.0.1:0"), upstreamAt("a", "127.0.0.1:0"), upstreamAt("b", "127.0.0.1:0")}
	aws.publish()
	var names []string
	for _, l := range aws.Listeners() {
		names = append(names, l.Upstream.Name)
		if l.Address == nil {
			t.Errorf("upstream %q does not listen: %v", l.Upstream.Name, l.Problem)
		}
	}
	if !slices.Equal(names, []string{"a", "b", "c"}) {
		t.Errorf("listed %v", names)
	}
}
