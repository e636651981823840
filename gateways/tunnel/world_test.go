package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The regions of every test here.
const (
	east federation.Region = "east"
	west federation.Region = "west"
)

// network is a simulated network with the given one-way delay, which can lose packets.
type network struct {
	simnet.PerfectRouter
	sim     *simnet.Simnet
	oneWay  time.Duration
	cut     atomic.Bool   // loses everything
	cutTo   atomic.Uint32 // loses what goes to the node with this number
	percent atomic.Uint32 // loses so much at random
	mu      sync.Mutex
	rand    *rand.Rand
	nodes   int
}

func newNetwork(oneWay time.Duration) *network {
	n := &network{oneWay: oneWay, rand: rand.New(rand.NewPCG(1, 2))}
	n.sim = &simnet.Simnet{Router: n}
	return n
}

func (n *network) SendPacket(p simnet.Packet) error {
	n.mu.Lock()
	lost := n.cut.Load() || n.rand.Uint32N(100) < n.percent.Load()
	n.mu.Unlock()
	if to, ok := p.To.(*net.UDPAddr); ok && uint32(to.IP.To4()[3]) == n.cutTo.Load() {
		lost = true
	}
	if lost {
		return nil
	}
	return n.PerfectRouter.SendPacket(p)
}

// node returns a socket of the network, as 192.0.2.1:8443, 192.0.2.2:8443 and so on.
func (n *network) node() *simnet.SimConn {
	n.nodes++
	return n.sim.NewEndpoint(&net.UDPAddr{IP: net.IPv4(192, 0, 2, byte(n.nodes)).To4(), Port: 8443},
		simnet.NodeBiDiLinkSettings{Latency: n.oneWay})
}

// authority is a region's trust, with a clock that a test can put back.
type authority struct {
	*trust.Authority
	behind atomic.Int64 // how far the clock is behind the time, in nanoseconds
}

func newAuthority(tb testing.TB, region federation.Region) *authority {
	tb.Helper()
	a := &authority{}
	a.Authority = trusttest.NewAuthority(tb, region, a.clock)
	return a
}

func (a *authority) clock(c *trust.Config) {
	c.Now = func() time.Time { return time.Now().Add(-time.Duration(a.behind.Load())) }
}

func introduce(tb testing.TB, a, b *authority) {
	tb.Helper()
	trusttest.Introduce(tb, a.Authority, b.Authority)
	trusttest.Introduce(tb, b.Authority, a.Authority)
}

// distrust makes every later judgement of peer fail.
func (a *authority) distrust(tb testing.TB, peer federation.Region) {
	tb.Helper()
	if err := a.RemovePeer(tb.Context(), peer); err != nil {
		tb.Fatal(err)
	}
}

// gateway is one transport under test with its trust.
type gateway struct {
	*Transport
	trust  *authority
	domain spiffeid.TrustDomain
	conn   net.PacketConn
	stop   context.CancelFunc
	done   chan error
}

// startGateway runs a transport on conn until the test ends.
func startGateway(tb testing.TB, region federation.Region, conn net.PacketConn, change func(*Config)) *gateway {
	tb.Helper()
	g := &gateway{trust: newAuthority(tb, region), domain: federation.DefaultTrustDomain(region), conn: conn, done: make(chan error, 1)}
	cfg := Config{Conns: []net.PacketConn{conn}, Trust: g.trust.Authority, Log: slog.New(slog.NewTextHandler(testLog{tb}, nil))}
	cfg.Resolve = func(_ context.Context, host string) ([]netip.Addr, error) { // the system's is of no bubble
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	if change != nil {
		change(&cfg)
	}
	var err error
	if g.Transport, err = New(cfg); err != nil {
		tb.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	g.stop = stop
	go func() { g.done <- g.Run(ctx) }()
	return g
}

func (g *gateway) shut(tb testing.TB) {
	tb.Helper()
	g.stop()
	if err := <-g.done; err != nil {
		tb.Errorf("Run returned %v", err)
	}
}

// source is an identity that the gateway's region may speak for.
func (g *gateway) source() spiffeid.ID {
	id, err := federation.WorkloadID(g.domain, federation.ServiceName{Namespace: "default", Name: "web"})
	if err != nil {
		panic(err)
	}
	return id
}

func (g *gateway) open() flow.Open {
	var id [16]byte
	binary.NativeEndian.PutUint64(id[:], rand.Uint64())
	binary.NativeEndian.PutUint64(id[8:], rand.Uint64())
	return flow.Open{ID: id, Source: g.source(), Assurance: 2, Service: "default/echo"}
}

type testLog struct{ tb testing.TB }

func (l testLog) Write(b []byte) (int, error) {
	if os.Getenv("TUNNEL_TEST_LOG") != "" {
		os.Stderr.Write(b)
	}
	return len(b), nil
}

// pair is two gateways that know each other; west dials east.
type pair struct {
	net        *network
	east, west *gateway
}

// simulate runs f in virtual time with a warm session between two gateways, one way delay apart.
func simulate(t *testing.T, oneWay time.Duration, serve func(context.Context, *Incoming), f func(t *testing.T, p *pair)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(oneWay)
		p := &pair{net: n}
		connEast, connWest := n.node(), n.node()
		if err := n.sim.Start(); err != nil {
			t.Fatal(err)
		}
		defer n.sim.Close()
		p.east = startGateway(t, east, connEast, func(c *Config) { c.OnFlow = serve })
		p.west = startGateway(t, west, connWest, func(c *Config) { c.OnFlow = serve })
		introduce(t, p.east.trust, p.west.trust)
		defer p.east.shut(t)
		defer p.west.shut(t)
		p.west.SetPeers([]federation.Peer{{Region: east, Gateways: []string{"192.0.2.1:8443"}}})
		eventually(t, func() bool { return p.west.Path(east).Up && p.east.Path(west).Up })
		f(t, p)
	})
}

// eventually waits in virtual time until ok.
func eventually(t *testing.T, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatal("it never happened")
		}
		<-time.After(time.Millisecond)
	}
}

var echoBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

// echo accepts a flow and sends back what it gets. It holds no buffer while the flow is idle.
func echo(_ context.Context, in *Incoming) {
	if in.Accept() != nil {
		return
	}
	for {
		err := in.AwaitRead()
		if err == nil {
			b := echoBuffers.Get().(*[32 << 10]byte)
			var n int
			if n, err = in.Read(b[in.Headroom():]); err == nil {
				_, err = in.WriteHeadroom(b[:in.Headroom()+n])
			}
			echoBuffers.Put(b)
		}
		if errors.Is(err, io.EOF) {
			_ = in.CloseWrite()
		}
		if err != nil {
			return
		}
	}
}

func mustOpen(t *testing.T, from *gateway, to federation.Region) *Flow {
	t.Helper()
	f, err := from.Open(t.Context(), to, from.open())
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func is[T error](err error) (T, bool) {
	var e T
	ok := errors.As(err, &e)
	return e, ok
}
