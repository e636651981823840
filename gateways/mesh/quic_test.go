package mesh_test

import (
	"bufio"
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// tunnelled is a region whose tunnel is the real one.
type tunnelled struct {
	*region
	transport *tunnel.Transport
	trust     *trust.Authority
	stop      context.CancelFunc // of the transport
}

func newTunnelled(t *testing.T, name federation.Region, authority *trust.Authority, lanes ...string) *tunnelled {
	t.Helper()
	r := &tunnelled{trust: authority}
	var err error
	r.transport, err = tunnel.New(tunnel.Config{
		Listen: "127.0.0.1:0", Lanes: lanes, Trust: authority,
		OnFlow: func(ctx context.Context, in *tunnel.Incoming) { r.HandleFlow(ctx, in) },
		OnAsk: func(ctx context.Context, peer federation.Region, question []byte) []byte {
			return r.Answer(ctx, peer, question)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.region = newRegion(t, name, func(c *mesh.Config) {
		c.Tunnel, c.LocalListen = mesh.Over(r.transport), "127.0.0.1:0"
		c.LocalTLS, c.Workload, c.Judge = authority.LocalTLS, authority.Workload, authority.Judge
	})
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- r.transport.Run(ctx) }()
	r.stop = stop
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Errorf("tunnel of %s: %v", name, err)
		}
	})
	return r
}

// quicPair is pair over the real tunnel, and over all its lanes unless some are named.
func quicPair(t *testing.T, address string, lanes ...string) (aws, gcp *tunnelled) {
	t.Helper()
	a, g := trusttest.Pair(t, "aws", "gcp")
	aws, gcp = newTunnelled(t, "aws", a, lanes...), newTunnelled(t, "gcp", g, lanes...)
	gcp.serve(shop, address)
	gcp.export(shop, "aws")
	gcp.know("aws", 0)
	gcp.intend("in allow web@aws shop")
	gcp.publish()
	aws.know("gcp", 1, shop)
	aws.intend("out allow web shop@*")
	aws.transport.SetPeers([]federation.Peer{{
		Region: "gcp", TrustDomain: g.TrustDomain(), Gateways: []string{gcp.transport.Addr().String()}, State: federation.PeeringActive,
	}})
	gcp.transport.SetPeers([]federation.Peer{{Region: "aws", TrustDomain: a.TrustDomain(), State: federation.PeeringActive}})
	eventually(t, "the path is up", func() bool { return aws.transport.Path("gcp").Up })
	return aws, gcp
}

func TestOverQUIC(t *testing.T) {
	noLeaks(t)
	greet := make(chan struct{}, 1)
	aws, gcp := quicPair(t, instance(t, func(c *net.TCPConn) {
		select {
		case <-greet:
			hello("220 ready")(c)
		default:
			echo(c)
		}
	}))
	address := aws.upstream("to-shop", "shop")

	t.Run("half-close", func(t *testing.T) {
		mustCall(t, address, "hello", "hello")
		if e := aws.lines.next(t); e.Flags != "" || e.Peer != "gcp" || e.Sent != 5 || e.Received != 5 {
			t.Errorf("source's access log says %+v", e)
		}
		if e := gcp.lines.next(t); e.Flags != "" || e.Peer != "aws" || e.Intention != "in" {
			t.Errorf("destination's access log says %+v", e)
		}
	})
	t.Run("server first", func(t *testing.T) {
		greet <- struct{}{}
		c := dial(t, address)
		if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || line != "220 ready\n" {
			t.Fatalf("got %q, %v", line, err)
		}
	})
	t.Run("bulk", func(t *testing.T) { bulk(t, address) })
	t.Run("many", func(t *testing.T) {
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for range 25 {
					if got, err := call(t, address, "hello"); err != nil || got != "hello" {
						t.Errorf("call answered %q, %v", got, err)
					}
				}
			})
		}
		wg.Wait()
	})
	t.Run("explain", func(t *testing.T) {
		e := explain(t, aws.region, "web", "shop")
		if e.Verdict != mesh.VerdictAllowed || e.Remote == nil || e.Remote.Rule != "in" {
			t.Errorf("%s: %s, remote %+v %s", e.Verdict, e.Reason, e.Remote, e.RemoteError)
		}
	})
	t.Run("refused", func(t *testing.T) {
		gcp.lane[shop].Store(0, federation.SlotHealth{Total: 1})
		if _, err := call(t, address, "hello"); !isReset(err) {
			t.Errorf("got %v, want a reset", err)
		}
		gcp.lane[shop].Store(0, federation.SlotHealth{Healthy: 1, Total: 1})
	})
	t.Run("revoked", func(t *testing.T) {
		c := dial(t, address)
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		within(t, func() {
			gcp.intend("stop deny web@aws shop")
			gcp.publish()
			if _, err := c.Read(make([]byte, 1)); !isReset(err) {
				t.Errorf("got %v, want a reset", err)
			}
		})
	})
}

func TestDyingGatewayResetsItsFlows(t *testing.T) {
	noLeaks(t)
	aws, gcp := quicPair(t, instance(t, echo))
	c := dial(t, aws.upstream("to-shop", "shop"))
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	gcp.stop()
	if _, err := c.Read(make([]byte, 1)); !isReset(err) {
		t.Errorf("got %v, want a reset", err)
	}
	if e := aws.lines.next(t); e.Flags != "UC" {
		t.Errorf("access log says %+v", e)
	}
}

func TestWorkloadOfARealAuthority(t *testing.T) {
	noLeaks(t)
	aws, _ := quicPair(t, instance(t, echo))
	aws.publish()
	eventually(t, "the local listener is open", func() bool { return aws.LocalAddr() != nil })
	config := trusttest.WorkloadTLS(t, aws.trust, "web")
	config.ServerName = "shop.gcp.mesh.internal"
	c, err := dialTLS(aws.LocalAddr().String(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 5)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "hello" {
		t.Fatalf("got %q, %v", b, err)
	}
	_ = c.CloseWrite()
	if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
		t.Errorf("got %q, %v after the end", rest, err)
	}
	if e := aws.lines.next(t); e.Assurance != "mtls" || e.Flags != "" {
		t.Errorf("access log says %+v", e)
	}
}
