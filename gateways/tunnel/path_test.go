package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
)

func sentBy(g *gateway) int { return g.conn.(*simnet.SimConn).Stats().PacketsSent }

func TestPartitionIsNoticed(t *testing.T) {
	for _, at := range []time.Duration{0, 30 * time.Millisecond, 90 * time.Millisecond, 150 * time.Millisecond, 199 * time.Millisecond} {
		simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
			f := mustOpen(t, p.west, east)
			_, _ = f.Write([]byte("x"))
			if _, err := f.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
			<-time.After(2*time.Second + at)
			start := time.Now()
			p.net.cut.Store(true)
			suspected := make(chan time.Duration, 1)
			go func() {
				eventually(t, func() bool { return !p.west.Path(east).Up })
				suspected <- time.Since(start)
			}()
			_, err := f.Read(make([]byte, 1))
			noticed := time.Since(start) - resumeLimit // it has waited for another session
			if _, ok := is[*PathError](err); !ok || !errors.Is(err, syscall.ECONNRESET) || !errors.Is(err, net.ErrClosed) {
				t.Errorf("the flow ended with %v", err)
			}
			// Silence starts with the last packet, which came up to a ping before the cut or was still under way at it.
			if noticed > 550*time.Millisecond+oneWay || noticed < 500*time.Millisecond-200*time.Millisecond {
				t.Errorf("cut at +%v: flows ended after %v", at, noticed)
			}
			if first := <-suspected; first > noticed-50*time.Millisecond {
				t.Errorf("cut at +%v: suspected after %v, dead after %v", at, first, noticed)
			}
		})
	}
}

func TestPathComesBack(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		p.net.cut.Store(true)
		<-time.After(20 * time.Second)
		path := p.west.Path(east)
		if path.Up || path.LastError == "" || strings.Contains(path.LastError, "TW-") || path.Problem == nil || path.Problem.Fix == "" {
			t.Fatalf("after 20 s without a network: %+v", path)
		}
		p.net.cut.Store(false)
		start := time.Now()
		eventually(t, func() bool { return p.west.Path(east).Up })
		if took := time.Since(start); took > lastBackoff+2*time.Second {
			t.Errorf("the path came back %v after the network", took)
		}
		f := mustOpen(t, p.west, east)
		_, _ = f.Write([]byte("x"))
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Error(err)
		}
		_ = f.Close()
	})
}

// TestOneLostDirection loses only what goes to west: east hears west, west hears nothing.
func TestOneLostDirection(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		<-time.After(time.Second)
		p.net.cutTo.Store(2)
		start := time.Now()
		eventually(t, func() bool { return len(*p.west.peer(east).table.Load()) == 0 })
		if took := time.Since(start); took > 600*time.Millisecond {
			t.Errorf("west needed %v", took)
		}
		eventually(t, func() bool { return !p.east.Path(west).Up })
		if took := time.Since(start); took > 700*time.Millisecond {
			t.Errorf("east needed %v", took)
		}
	})
}

func TestSilenceOnALongPathIsNoPartition(t *testing.T) {
	simulate(t, 300*time.Millisecond, echo, func(t *testing.T, p *pair) {
		for range 100 {
			<-time.After(100 * time.Millisecond)
			if !p.west.Path(east).Up {
				t.Fatal("a path of 600 ms was taken for dead")
			}
		}
		if got := p.west.Path(east).RTT; got < 600*time.Millisecond || got > 610*time.Millisecond {
			t.Errorf("RTT %v", got)
		}
	})
}

func TestLossIsNoPartition(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		p.net.percent.Store(10)
		since := p.west.Path(east).Since
		<-time.After(60 * time.Second)
		if path := p.west.Path(east); !path.Up || path.Since != since {
			t.Errorf("the path broke under loss: %+v", path)
		}
	})
}

func TestEitherSideMayOpen(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) { // only west dials
		f := mustOpen(t, p.east, west)
		defer f.Close()
		_, _ = f.Write([]byte("hi"))
		b := make([]byte, 2)
		if _, err := io.ReadFull(f, b); err != nil || string(b) != "hi" {
			t.Errorf("read %q, %v", b, err)
		}
	})
}

func TestPing(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		pong, err := p.west.Ping(t.Context(), east)
		if err != nil || pong.RTT != rtt || pong.Address != "192.0.2.1:8443" || pong.Gateway.Path() != "/gw/gw-1" {
			t.Errorf("%+v, %v", pong, err)
		}
		p.net.cut.Store(true)
		if _, err := p.west.Ping(t.Context(), east); !errors.Is(err, ErrNoPath) {
			t.Errorf("ping into a cut network: %v", err)
		}
	})
}

func TestDrainSendsNewFlowsElsewhere(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		_, _ = f.Write([]byte("x"))
		_, _ = f.Read(make([]byte, 1))
		drained := make(chan error, 1)
		start := time.Now()
		go func() { drained <- p.east.Drain(t.Context()) }()
		eventually(t, func() bool { return !p.west.Path(east).Up })
		if took := time.Since(start); took > rtt {
			t.Errorf("the peer knew after %v", took)
		}
		if _, err := p.west.Open(t.Context(), east, p.west.open()); !errors.Is(err, ErrNoPath) {
			t.Errorf("Open to a draining gateway: %v", err)
		}
		_, _ = f.Write([]byte("y"))
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Errorf("an open flow does not outlive the announcement: %v", err)
		}
		select {
		case err := <-drained:
			t.Fatalf("Drain returned %v with a flow open", err)
		default:
		}
		_ = f.Close()
		if err := <-drained; err != nil {
			t.Errorf("Drain: %v", err)
		}
	})
}

func TestDrainEndsWithItsContext(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		_, _ = f.Write([]byte("x"))
		_, _ = f.Read(make([]byte, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.east.Drain(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Drain: %v", err)
		}
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the flow ended with %v", err)
		}
	})
}

func TestRejudgeClosesWhatIsNoLongerGood(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		f := mustOpen(t, p.west, east)
		_, _ = f.Write([]byte("x"))
		_, _ = f.Read(make([]byte, 1))
		if n := p.east.Rejudge(); n != 0 {
			t.Fatalf("%d sessions closed for nothing", n)
		}
		p.east.trust.distrust(t, west)
		if n := p.east.Rejudge(); n != quicSessions {
			t.Errorf("%d sessions closed", n)
		}
		if _, err := f.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the flow ended with %v", err)
		}
		<-time.After(10 * time.Second)
		if path := p.west.Path(east); path.Up || federation.CodeOf(p.west.noPath(east)) != federation.CodeNoPath {
			t.Errorf("%+v", path)
		}
	})
}

func TestForgottenPeerIsClosed(t *testing.T) {
	simulate(t, oneWay, echo, func(t *testing.T, p *pair) {
		p.west.SetPeers(nil)
		eventually(t, func() bool { return p.east.Path(west).Sessions == 0 && p.west.Path(east).Sessions == 0 })
	})
}

func TestCertificateIsRenewedWithoutBreakingFlows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(oneWay)
		a, b := n.node(), n.node()
		if err := n.sim.Start(); err != nil {
			t.Fatal(err)
		}
		defer n.sim.Close()
		old := startGateway(t, east, a, func(c *Config) { c.OnFlow = echo })
		defer old.shut(t)
		// The gateway's certificate has 4 minutes left, and its region will then have issued another.
		aged := func(region federation.Region, left time.Duration) *authority {
			auth := &authority{}
			auth.behind.Store(int64(trust.GatewayLife - left))
			auth.Authority = trusttest.NewAuthority(t, region, auth.clock)
			auth.behind.Store(0)
			return auth
		}
		ageing := aged(west, 4*time.Minute)
		w := startGateway(t, west, b, func(c *Config) { c.Trust = ageing.Authority })
		defer w.shut(t)
		introduce(t, old.trust, ageing)
		w.SetPeers([]federation.Peer{{Region: east, Gateways: []string{"192.0.2.1:8443"}}})
		eventually(t, func() bool { return w.Path(east).Up })
		f := mustOpen(t, w, east)
		_, _ = f.Write([]byte("x"))
		_, _ = f.Read(make([]byte, 1))

		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		renewed := make(chan error, 1)
		<-time.After(time.Minute)
		go func() { renewed <- ageing.Run(ctx) }() // sees that the certificate is due
		<-time.After(2*time.Minute + 45*time.Second)
		if path := w.Path(east); path.Sessions != quicSessions || path.Flows != 1 {
			t.Errorf("the flow does not let the old sessions end: %+v", path)
		}
		_, _ = f.Write([]byte("y"))
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Errorf("the flow on a new session: %v", err)
		}
		<-time.After(25 * time.Second)
		_, _ = f.Write([]byte("z"))
		if _, err := f.Read(make([]byte, 1)); err != nil {
			t.Errorf("the flow ended with the certificate that it was opened with: %v", err)
		}
		_ = f.Close()
		if path := w.Path(east); !path.Up || path.Sessions != quicSessions {
			t.Errorf("behind the old certificate: %+v", path)
		}
		cancel()
		<-renewed
	})
}

func TestMovedNameIsFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(oneWay)
		a, b, c := n.node(), n.node(), n.node()
		if err := n.sim.Start(); err != nil {
			t.Fatal(err)
		}
		defer n.sim.Close()
		var at atomic.Pointer[netip.Addr]
		first, second := netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("192.0.2.2")
		at.Store(&first)
		old := startGateway(t, east, a, func(cfg *Config) { cfg.OnFlow = echo })
		defer old.shut(t)
		moved := startGateway(t, east, b, func(cfg *Config) { cfg.OnFlow, cfg.Trust = echo, old.trust.Authority })
		defer moved.shut(t)
		w := startGateway(t, west, c, func(cfg *Config) {
			cfg.Resolve = func(context.Context, string) ([]netip.Addr, error) { return []netip.Addr{*at.Load()}, nil }
		})
		defer w.shut(t)
		introduce(t, old.trust, w.trust)
		w.SetPeers([]federation.Peer{{Region: east, Gateways: []string{"gateway.east.example.com:8443"}}})
		eventually(t, func() bool { return w.Path(east).Up })
		at.Store(&second)
		start := time.Now()
		eventually(t, func() bool { return moved.Path(west).Up && !old.Path(west).Up })
		if took := time.Since(start); took > resolveEvery {
			t.Errorf("the new address was found after %v", took)
		}
	})
}
