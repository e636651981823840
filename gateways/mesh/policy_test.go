package mesh_test

import (
	"context"
	"io"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

func TestUnpublishedTableDeniesAll(t *testing.T) {
	noLeaks(t)
	gcp := newRegion(t, "gcp")
	code := ask(t, gcp, "aws", flow.Open{Source: idOf(t, "aws", "web"), Assurance: 1, Service: "default/shop"})
	if code != flow.RefusedNotAllowed {
		t.Errorf("answered %v", code)
	}
}

func TestDeniedCallerIsResetAtOnceAndLogged(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, echo))
	aws.intend("no-shop deny web shop@*")
	if err := listenOnly(t, aws.upstream("to-shop", "shop")); !isReset(err) { // the answer must not wait for bytes
		t.Errorf("got %v, want a reset", err)
	}
	e := aws.lines.next(t)
	if e.Decision != "deny" || e.Intention != "no-shop" || e.Flags != "UAEX" || e.DstRegion != "gcp" || e.Reason == "" {
		t.Errorf("access log says %+v", e)
	}
	if aws.links.get("gcp").opened.Load() != 0 {
		t.Error("the peer was asked though the call is denied here")
	}
}

func TestDefaultDenyIsLogged(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, echo))
	aws.view.Intentions = nil
	if _, err := call(t, aws.upstream("to-shop", "shop"), "x"); !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
	if e := aws.lines.next(t); e.Decision != "deny" || e.Intention != "default" || e.Flags != "UAEX" {
		t.Errorf("access log says %+v", e)
	}
}

func TestEachRegionIsDecidedOnItsOwn(t *testing.T) {
	noLeaks(t)
	aws, _ := pair(t, instance(t, hello("gcp")))
	aws.serve(shop, instance(t, hello("aws"))) // nearer, and not allowed
	aws.view.Intentions = nil
	aws.intend("out allow web shop@gcp")
	mustCall(t, aws.upstream("to-shop", "shop"), "", "gcp\n")
	if e := aws.lines.next(t); e.FailoverFrom != "" || e.Intention != "out" {
		t.Errorf("access log says %+v", e)
	}
}

// ask opens a flow to r in the name of peer and returns the code it is refused with; 0: accepted.
func ask(t *testing.T, r *region, peer federation.Region, open flow.Open) flow.RefusalCode {
	t.Helper()
	n := &links{t: t, here: peer, peers: map[federation.Region]*link{r.name: {serve: r.HandleFlow}}}
	defer n.wg.Wait()
	f, err := n.Open(context.Background(), r.name, open)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Abort()
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	switch err := f.WaitAccept(context.Background()).(type) {
	case nil:
		return 0
	case *tunnel.RefusedError:
		if err.Reason != "" {
			t.Errorf("the peer was told %q", err.Reason)
		}
		return err.Code
	default:
		t.Fatalf("answered %v", err)
		return 0
	}
}

func idOf(t *testing.T, region federation.Region, service string) spiffeid.ID {
	t.Helper()
	id, err := federation.WorkloadID(federation.DefaultTrustDomain(region), federation.ServiceName{Namespace: "default", Name: service})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func TestUnknownAndDeniedLookTheSameToAPeer(t *testing.T) {
	noLeaks(t)
	_, gcp := pair(t, instance(t, echo))
	secret := federation.ServiceName{Namespace: "default", Name: "secret"}
	gcp.serve(secret, instance(t, echo)) // allowed, not exported
	azure := federation.ServiceName{Namespace: "default", Name: "azures"}
	gcp.know("azure", 1, azure) // what another peer shows: no transit
	gcp.export(azure, "aws")
	gcp.intend("secrets allow web@aws secret", "transit allow web@aws azures@*", "no-root deny root@aws shop")
	gcp.publish()
	const no = flow.RefusedNotAllowed
	for _, c := range []struct {
		name              string
		source            federation.Region
		caller, service   string
		assurance         uint8
		code              flow.RefusalCode
		flags, rule, said string
	}{
		{"allowed", "aws", "web", "default/shop", 1, 0, "", "in", "allow"},
		{"denied by rule", "aws", "root", "default/shop", 1, no, "UAEX", "no-root", "deny"},
		{"denied by default", "aws", "api", "default/shop", 1, no, "UAEX", "default", "deny"},
		{"not exported", "aws", "web", "default/secret", 1, no, "NR", "secrets", "deny"},
		{"unknown", "aws", "web", "default/none", 1, no, "UAEX", "default", "deny"},
		{"transit", "aws", "web", "default/azures", 1, no, "NR", "transit", "deny"},
		{"no name", "aws", "web", "../etc", 1, no, "NR", "", ""},
		{"foreign source", "azure", "web", "default/shop", 1, no, "NR", "", ""},
		{"our own source", "gcp", "web", "default/shop", 1, no, "NR", "", ""},
		{"no assurance", "aws", "web", "default/shop", 0, no, "UAEX", "in", "deny"},
	} {
		t.Run(c.name, func(t *testing.T) {
			open := flow.Open{Source: idOf(t, c.source, c.caller), Assurance: c.assurance, Service: c.service}
			if got := ask(t, gcp, "aws", open); got != c.code {
				t.Errorf("answered %v, want %v", got, c.code)
			}
			e := gcp.lines.next(t)
			if c.code != 0 && e.Flags != c.flags || e.Intention != c.rule || e.Decision != c.said {
				t.Errorf("access log says %+v", e)
			}
		})
	}
}

func TestRegionWithoutInstanceSaysSo(t *testing.T) {
	noLeaks(t)
	_, gcp := pair(t, refusing(t), refusing(t))
	open := flow.Open{Source: idOf(t, "aws", "web"), Assurance: 1, Service: "default/shop"}
	if got := ask(t, gcp, "aws", open); got != flow.RefusedUnavailable {
		t.Errorf("answered %v when all dials fail", got)
	}
	if e := gcp.lines.next(t); e.Flags != "UF" || e.Retries != 1 {
		t.Errorf("access log says %+v", e)
	}
	gcp.lane[shop].Store(0, federation.SlotHealth{Total: 1})
	gcp.lane[shop].Store(1, federation.SlotHealth{Total: 1})
	if got := ask(t, gcp, "aws", open); got != flow.RefusedUnavailable {
		t.Errorf("answered %v without a healthy instance", got)
	}
	if e := gcp.lines.next(t); e.Flags != "UH" || e.Retries != 0 {
		t.Errorf("access log says %+v", e)
	}
}

func TestPeerHasALimit(t *testing.T) {
	noLeaks(t)
	gcp := newRegion(t, "gcp", func(c *mesh.Config) { c.MaxFlowsPerPeer = 2 })
	gcp.serve(shop, instance(t, echo))
	gcp.export(shop, "*")
	gcp.know("aws", 0)
	gcp.know("azure", 0)
	gcp.intend("in allow *@* shop")
	gcp.publish()
	n := &links{t: t, here: "aws", peers: map[federation.Region]*link{"gcp": {serve: gcp.HandleFlow}}}
	defer n.wg.Wait()
	open := flow.Open{Source: idOf(t, "aws", "web"), Assurance: 1, Service: "default/shop"}
	for range 2 {
		f, err := n.Open(context.Background(), "gcp", open)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Abort()
		if err := f.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := f.WaitAccept(context.Background()); err != nil {
			t.Fatal(err)
		}
	}
	if got := ask(t, gcp, "aws", open); got != flow.RefusedOverloaded {
		t.Errorf("the third flow of a peer was answered %v", got)
	}
	if e := gcp.lines.next(t); e.Flags != "UO" {
		t.Errorf("access log says %+v", e)
	}
	open.Source = idOf(t, "azure", "web")
	if got := ask(t, gcp, "azure", open); got != 0 {
		t.Errorf("the first flow of another peer was answered %v", got)
	}
}

// within fails the test when f takes longer than the promise for open connections.
func within(t *testing.T, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("it took %v, want at most 5 s", took)
	}
}

func TestOpenConnectionsAreJudgedAnew(t *testing.T) {
	cases := map[string]struct {
		change func(aws, gcp *region)
		who    func(aws, gcp *region) *region // whose log says why
		reason string
	}{
		"denied at the source": {func(aws, _ *region) { aws.intend("stop deny web shop@*"); aws.publish() }, first,
			`no longer allowed: intention "stop" denies web@aws to call shop@*`},
		"denied at the destination": {func(_, gcp *region) { gcp.intend("stop deny web@aws shop"); gcp.publish() }, second, ""},
		"no longer exported": {func(_, gcp *region) { gcp.view.Exports = nil; gcp.publish() }, second,
			"shop is no longer exported to region aws"},
		"peer gone at the destination": {func(_, gcp *region) { gcp.view.Peers = nil; gcp.publish() }, second, "region aws is no longer a peer"},
		"peer gone at the source":      {func(aws, _ *region) { aws.view.Peers = nil; aws.publish() }, first, "region gcp is no longer a peer"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			noLeaks(t)
			aws, gcp := pair(t, instance(t, hello("gcp")))
			conn := dial(t, aws.upstream("to-shop", "shop"))
			if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
				t.Fatal(err)
			}
			if aws.Open() != 1 || gcp.Open() != 1 {
				t.Fatalf("%d and %d connections are open", aws.Open(), gcp.Open())
			}
			within(t, func() {
				c.change(aws, gcp)
				if _, err := conn.Read(make([]byte, 1)); !isReset(err) {
					t.Errorf("got %v, want a reset", err)
				}
			})
			if e := c.who(aws, gcp).lines.next(t); e.Flags != "LR" || c.reason != "" && e.Reason != c.reason {
				t.Errorf("access log says %+v", e)
			}
			eventually(t, "no connection is left", func() bool { return aws.Open() == 0 && gcp.Open() == 0 })
		})
	}
}

func first(aws, _ *region) *region  { return aws }
func second(_, gcp *region) *region { return gcp }

func TestWhatIsStillAllowedStaysOpen(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, hello("gcp")))
	conn := dial(t, aws.upstream("to-shop", "shop"))
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	aws.intend("other deny api shop@*")
	aws.view.Imports = nil // the catalog is gone, the permission is not
	aws.publish()
	aws.Rejudge()
	gcp.intend("other deny api@aws shop")
	gcp.publish()
	_ = conn.SetReadDeadline(time.Now().Add(600 * time.Millisecond)) // more than one pass of judging
	if _, err := conn.Read(make([]byte, 1)); err == nil || isReset(err) {
		t.Fatalf("got %v, want silence", err)
	}
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// TestPolicyChangeWhileConnecting changes the policy between the decision and the answer of the peer.
func TestPolicyChangeWhileConnecting(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, hello("gcp")))
	asked, goOn := make(chan struct{}), make(chan struct{})
	inner := aws.links.get("gcp").serve
	aws.links.get("gcp").serve = func(ctx context.Context, in mesh.Incoming) {
		close(asked)
		<-goOn
		inner(ctx, in)
	}
	conn := dial(t, aws.upstream("to-shop", "shop"))
	<-asked
	aws.intend("stop deny web shop@*")
	aws.publish()
	close(goOn)
	if b, err := io.ReadAll(conn); !isReset(err) {
		t.Errorf("got %q, %v; want a reset", b, err)
	}
	_ = gcp
}

func TestDrainWaitsThenResets(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, hello("gcp")))
	address := aws.upstream("to-shop", "shop")
	conn := dial(t, address)
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	go func() { drained <- gcp.Drain(context.Background()) }()
	go func() { drained <- aws.Drain(context.Background()) }()
	eventually(t, "new callers are turned away", func() bool {
		c, err := net.Dial("tcp", address)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	eventually(t, "new flows are refused", func() bool {
		return ask(t, gcp, "aws", flow.Open{Source: idOf(t, "aws", "web"), Assurance: 1, Service: "default/shop"}) == flow.RefusedDraining
	})
	if _, err := io.WriteString(conn, "x"); err != nil { // the open one goes on
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = conn.CloseWrite()
	for range 2 {
		if err := <-drained; err != nil {
			t.Error(err)
		}
	}
}

func TestDrainResetsWhatOutlastsIt(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, hello("gcp")))
	conn := dial(t, aws.upstream("to-shop", "shop"))
	if _, err := io.ReadFull(conn, make([]byte, 4)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if err := gcp.Drain(ctx); err == nil {
		t.Error("drain says that nothing was left")
	}
	if _, err := conn.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
	if e := gcp.lines.next(t); e.Flags != "LR" {
		t.Errorf("access log says %+v", e)
	}
}
