package mesh_test

import (
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// benchView is a region whose web may call shop, served by an echo on this machine.
func benchView(b *testing.B, at string) *federation.View {
	b.Helper()
	r := &region{name: "aws", lane: map[federation.ServiceName]*federation.HealthLane{}}
	r.view.Local = federation.NewCatalog(0, nil)
	r.serve(shop, at)
	return &federation.View{
		Number: 1, Region: "aws", TrustDomain: federation.DefaultTrustDomain("aws"), Local: r.view.Local,
		Intentions: []federation.Intention{{Name: "out", Source: "web", Destination: "shop", Action: federation.Allow}},
	}
}

// BenchmarkDecide is what a connection costs before its first system call: identity, decision and choice.
func BenchmarkDecide(b *testing.B) {
	view := benchView(b, "192.0.2.1:80")
	snap, err := route.Compile(view)
	if err != nil {
		b.Fatal(err)
	}
	up, _ := snap.Upstream(federation.ServiceRef{Service: shop})
	target := up.Candidates[0].Local
	pool := balance.New(balance.Config{}).Bind(balance.Target{
		Service: shop, Members: []balance.Member{{Endpoint: balance.Endpoint{Address: target.Instance(0).Address}}}, Lane: target.Lane(),
		Outlier: up.Resolver.Outlier,
	})
	b.ReportAllocs()
	for b.Loop() {
		if d := snap.Authorize(snap.Identity(web), federation.AssuranceBinding, "aws", shop); !d.Allowed {
			b.Fatal(d.Reason)
		}
		lease, ok := pool.Pick(nil, balance.Usable)
		if !ok {
			b.Fatal("nothing picked")
		}
		lease.Connected(time.Millisecond)
		lease.Done(balance.Answered)
	}
}

// BenchmarkLocalConnection is one connection, one octet each way and both ends, through the gateway and without it.
func BenchmarkLocalConnection(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer func() { _ = c.Close() }()
				echo(c.(*net.TCPConn))
			})
		}
	})
	b.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	b.Run("direct", func(b *testing.B) { connect(b, l.Addr().String()) })
	b.Run("gateway", func(b *testing.B) { connect(b, benchGateway(b, l.Addr().String(), federation.ProtocolTCP)) })
}

func connect(b *testing.B, address string) {
	b.ReportAllocs()
	octet := make([]byte, 1)
	for b.Loop() {
		c, err := net.Dial("tcp", address)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Write(octet); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, octet); err != nil {
			b.Fatal(err)
		}
		_ = c.(*net.TCPConn).SetLinger(0) // no port may wait behind the benchmark
		_ = c.Close()
	}
}

// benchGateway runs a gateway in front of the instance at, which speaks protocol, and returns where web connects.
func benchGateway(b *testing.B, at string, protocol federation.Protocol) string {
	b.Helper()
	table, ctx := route.NewTable(), b.Context()
	m := mesh.New(mesh.Config{Region: "aws", Table: table, Tunnel: &links{}, AccessLog: io.Discard})
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	b.Cleanup(func() {
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	view := benchView(b, at)
	view.Local.Service(shop).Protocol = protocol
	view.Upstreams = []federation.Upstream{{Name: "up", Service: federation.ServiceRef{Service: shop}, Listen: "127.0.0.1:0", Caller: web}}
	snap, err := route.Compile(view)
	if err != nil {
		b.Fatal(err)
	}
	table.Publish(snap)
	if problems := m.Apply(); len(problems) > 0 {
		b.Fatal(problems[0])
	}
	return m.Listeners()[0].Address.String()
}

// BenchmarkRequest is one request on a connection that stays open, through a gateway that looks into it, and without it. Neither end of the
// benchmark allocates: what is counted is the gateway's.
func BenchmarkRequest(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { answerAll(c) })
		}
	})
	b.Cleanup(func() {
		_ = l.Close()
		wg.Wait()
	})
	at := l.Addr().String()
	b.Run("direct", func(b *testing.B) { request(b, at) })
	b.Run("gateway", func(b *testing.B) { request(b, benchGateway(b, at, federation.ProtocolHTTP)) })
}

// answerAll answers every request on c with the same.
func answerAll(c net.Conn) {
	defer func() { _ = c.Close() }()
	answer := []byte("HTTP/1.1 200 OK\r\nServer: example\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\nContent-Type: text/plain\r\n" +
		"Content-Length: 128\r\nConnection: keep-alive\r\n\r\n" + strings.Repeat("x", 128))
	buf := make([]byte, 4096)
	for {
		if _, err := c.Read(buf); err != nil {
			return
		}
		if _, err := c.Write(answer); err != nil {
			return
		}
	}
}

func request(b *testing.B, address string) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = c.Close() })
	ask := []byte("GET /orders/4711?expand=items HTTP/1.1\r\nHost: shop.example.com\r\nUser-Agent: bench\r\n\r\n")
	buf := make([]byte, 4096)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Write(ask); err != nil {
			b.Fatal(err)
		}
		if n, err := c.Read(buf); err != nil || n < 128 {
			b.Fatal(n, err)
		}
	}
}
