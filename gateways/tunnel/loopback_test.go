package tunnel

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
)

// A Flow is all that splice can make use of.
var (
	_ splice.Conn           = (*Flow)(nil)
	_ splice.Awaiter        = (*Flow)(nil)
	_ splice.HeadroomWriter = (*Flow)(nil)
	_ splice.Aborter        = (*Flow)(nil)
	_ splice.Conn           = (*Incoming)(nil)
)

// loopback is two gateways on real sockets, west having dialled east.
func loopback(tb testing.TB, change func(*Config)) *pair {
	tb.Helper()
	p := &pair{}
	p.east = startGateway(tb, east, listenUDP(tb), change)
	p.west = startGateway(tb, west, listenUDP(tb), nil)
	introduce(tb, p.east.trust, p.west.trust)
	tb.Cleanup(func() { p.west.shut(tb); p.east.shut(tb) })
	p.west.SetPeers([]federation.Peer{{Region: east, Gateways: []string{p.east.Addr().String()}}})
	for deadline := time.After(10 * time.Second); !p.west.Path(east).Up; {
		select {
		case <-p.west.PathChanged():
		case <-deadline:
			tb.Fatalf("no session: %+v", p.west.Path(east))
		}
	}
	return p
}

func exchangeBytes(f *Flow, b []byte) error {
	if _, err := f.Write(b); err != nil {
		return fmt.Errorf("write: %w", err)
	}
	back := make([]byte, len(b))
	if _, err := io.ReadFull(f, back); err != nil {
		return fmt.Errorf("read: %w", err)
	}
	if !bytes.Equal(b, back) {
		return fmt.Errorf("got %q back for %q", back, b)
	}
	return nil
}

func TestTenThousandFlowsAtOnce(t *testing.T) {
	const flows = 10_000
	if testing.Short() {
		t.Skip("opens ten thousand flows")
	}
	p := loopback(t, func(c *Config) { c.OnFlow = echo })
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	open := make([]*Flow, flows)
	for i := range open {
		f, err := p.west.Open(t.Context(), east, p.west.open())
		if err != nil {
			t.Fatalf("flow %d: %v", i, err)
		}
		open[i] = f
	}
	errs := make(chan error, 8)
	for w := range 8 {
		go func() {
			for i := w; i < flows; i += 8 {
				if err := exchangeBytes(open[i], []byte("flow")); err != nil {
					errs <- fmt.Errorf("flow %d: %w", i, err)
					return
				}
			}
			errs <- nil
		}()
	}
	for range 8 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if n := p.west.Path(east).Flows; n != flows {
		t.Errorf("%d flows counted", n)
	}
	runtime.GC()
	runtime.ReadMemStats(&after)
	grown := after.HeapInuse + after.StackInuse - before.HeapInuse - before.StackInuse
	t.Logf("both ends of an idle flow: %d octets of heap and stacks", grown/flows)
	for _, f := range open {
		_ = f.Close()
	}
	for deadline := time.After(10 * time.Second); p.west.Path(east).Flows+p.east.Path(west).Flows > 0; {
		select {
		case <-time.After(5 * time.Millisecond):
		case <-deadline:
			t.Fatalf("%d and %d flows are left", p.west.Path(east).Flows, p.east.Path(west).Flows)
		}
	}
}

// TestSplicedThroughTheTunnel is the whole way of a connection: TCP client, gateway, session, gateway, TCP server.
func TestSplicedThroughTheTunnel(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.(*net.TCPConn).CloseWrite()
				_ = c.Close()
			}()
		}
	}()
	p := loopback(t, func(c *Config) {
		c.OnFlow = func(ctx context.Context, in *Incoming) {
			c, err := net.Dial("tcp", server.Addr().String())
			if err != nil {
				_ = in.Refuse(flow.RefusedUnavailable, "")
				return
			}
			_ = in.Accept()
			splice.Both(ctx, in, c.(*net.TCPConn), splice.Options{})
		}
	})
	front, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	results := make(chan splice.Result, 1)
	var serving sync.WaitGroup
	serving.Go(func() {
		c, err := front.Accept()
		if err != nil {
			return
		}
		f, err := p.west.Open(t.Context(), east, p.west.open())
		if err != nil {
			t.Error(err)
			return
		}
		results <- splice.Both(t.Context(), c.(*net.TCPConn), f, splice.Options{})
	})
	client, err := net.Dial("tcp", front.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB
	go func() {
		_, _ = client.Write(data)
		_ = client.(*net.TCPConn).CloseWrite()
	}()
	back, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(back, data) {
		t.Errorf("%d of %d octets came back, %v", len(back), len(data), err)
	}
	_ = client.Close()
	serving.Wait()
	if r := <-results; r.Cause != splice.Closed || r.AtoB != int64(len(data)) || r.BtoA != int64(len(data)) || r.Side != splice.A {
		t.Errorf("%+v", r)
	}
	_ = front.Close()
}

func TestAsk(t *testing.T) {
	busy, release := make(chan struct{}, 64), make(chan struct{})
	p := loopback(t, func(c *Config) {
		c.OnAsk = func(ctx context.Context, peer federation.Region, q []byte) []byte {
			switch {
			case string(q) == "wait":
				busy <- struct{}{}
				<-release
			case string(q) == "shout":
				return make([]byte, maxQuestion+1)
			}
			return append([]byte(peer+": "), q...)
		}
	})
	if a, err := p.west.Ask(t.Context(), east, []byte("why")); err != nil || string(a) != "west: why" {
		t.Errorf("%q, %v", a, err)
	}
	big := bytes.Repeat([]byte("q"), maxQuestion-6)
	for range 500 { // an answer may come before the end of the question has left
		if _, err := p.west.Ask(t.Context(), east, []byte("why")); err != nil {
			t.Fatal(err)
		}
	}
	if a, err := p.west.Ask(t.Context(), east, big); err != nil || len(a) != maxQuestion {
		t.Errorf("%d octets, %v", len(a), err)
	}
	if _, err := p.west.Ask(t.Context(), east, append(big, "1234567"...)); err == nil {
		t.Error("a question that is too long was sent")
	}
	if _, err := p.west.Ask(t.Context(), east, []byte("shout")); err == nil {
		t.Error("an answer that is too long was taken")
	}
	if _, err := p.east.Ask(t.Context(), west, []byte("anybody?")); err == nil {
		t.Error("somebody answered without OnAsk")
	}
	var asking sync.WaitGroup
	for range asksAtOnce {
		asking.Go(func() {
			if _, err := p.west.Ask(t.Context(), east, []byte("wait")); err != nil {
				t.Error(err)
			}
		})
	}
	for range asksAtOnce {
		<-busy
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := p.west.Ask(ctx, east, []byte("one too many")); err == nil {
		t.Error("a ninth question was let through")
	}
	close(release)
	asking.Wait()
}

// TestEveryProtocolOnOneWildcardSocket takes the exchange and a join through the side ports of a real socket, which answers
// from the address that was asked.
func TestEveryProtocolOnOneWildcardSocket(t *testing.T) {
	conn, err := net.ListenPacket("udp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	e := startGateway(t, east, conn, func(c *Config) {
		c.OnJoin = func(_ context.Context, _ string, exporter, request []byte) ([]byte, error) { return request, nil }
		c.OnExchange = func(ctx context.Context, _ federation.Region, s *ExchangeSession) {
			for {
				lane, frame, err := s.Receive(ctx)
				if err != nil || s.Send(ctx, lane, frame) != nil {
					return
				}
			}
		}
	})
	defer e.shut(t)
	v4, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := startGateway(t, west, v4, nil)
	defer w.shut(t)
	introduce(t, e.trust, w.trust)
	port := conn.LocalAddr().(*net.UDPAddr).Port
	for _, ip := range []string{"127.0.0.1", "127.0.0.3"} {
		addr := fmt.Sprintf("%s:%d", ip, port)
		reply, err := w.DialJoin(t.Context(), addr, e.trust.RootPin(), func([]byte) ([]byte, error) { return []byte("please"), nil })
		if err != nil || string(reply) != "please" {
			t.Errorf("join at %s: %q, %v", addr, reply, err)
		}
		s, err := w.DialExchange(t.Context(), east, addr)
		if err != nil {
			t.Fatal(err)
		}
		for range 20 {
			if err := s.Send(t.Context(), 4, bytes.Repeat([]byte("b"), 60_000)); err != nil {
				t.Fatal(err)
			}
			if lane, b, err := s.Receive(t.Context()); lane != 4 || len(b) != 60_000 || err != nil {
				t.Fatalf("%d octets on %v, %v", len(b), lane, err)
			}
		}
		s.Close(0, "")
	}
	if _, err := w.DialExchange(t.Context(), east, fmt.Sprintf("[::1]:%d", port)); federation.CodeOf(err) != federation.CodeGatewaySilent {
		t.Errorf("IPv6 from an IPv4 socket: %v", err)
	}
}

func TestListenSaysWhy(t *testing.T) {
	a := newAuthority(t, east)
	first, err := New(Config{Listen: "127.0.0.1:0", Trust: a.Authority})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := New(Config{Listen: first.Addr().String(), Trust: a.Authority}); federation.CodeOf(err) != federation.CodeMeshListen {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := first.DialJoin(ctx, "127.0.0.1:9", [32]byte{}, nil); err == nil || !strings.Contains(err.Error(), "before the tunnel runs") {
		t.Errorf("dial before Run: %v", err)
	}
	if err := first.Close(); err != nil {
		t.Error(err)
	}
}

func TestMetrics(t *testing.T) {
	registry := prometheus.NewRegistry()
	p := loopback(t, func(c *Config) { c.OnFlow, c.Metrics = echo, registry })
	f, err := p.west.Open(t.Context(), east, p.west.open())
	if err != nil {
		t.Fatal(err)
	}
	if err := exchangeBytes(f, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	soon(t, func() bool { path := p.east.Path(west); return path.QUIC == quicSessions && path.TCP == 1 })
	want := `# HELP tradewind_tunnel_bytes_total Bytes of flows with the peer, headers not counted.
# TYPE tradewind_tunnel_bytes_total counter
tradewind_tunnel_bytes_total{direction="in",peer="west"} 5
tradewind_tunnel_bytes_total{direction="out",peer="west"} 5
# HELP tradewind_tunnel_flows Flows with the peer that are open, in either direction.
# TYPE tradewind_tunnel_flows gauge
tradewind_tunnel_flows{peer="west"} 1
# HELP tradewind_tunnel_handshakes_on_request_path_total Flows that had to wait for a TLS connection to be made.
# TYPE tradewind_tunnel_handshakes_on_request_path_total counter
tradewind_tunnel_handshakes_on_request_path_total{peer="west"} 0
# HELP tradewind_tunnel_sessions Sessions with gateways of the peer, in either direction, by what they are made of.
# TYPE tradewind_tunnel_sessions gauge
tradewind_tunnel_sessions{lane="quic",peer="west"} 4
tradewind_tunnel_sessions{lane="tcp",peer="west"} 1
# HELP tradewind_tunnel_up Whether a flow to the peer would be sent at once (1) or there is no live session (0).
# TYPE tradewind_tunnel_up gauge
tradewind_tunnel_up{peer="west"} 1
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want), "tradewind_tunnel_bytes_total", "tradewind_tunnel_flows",
		"tradewind_tunnel_sessions", "tradewind_tunnel_up", "tradewind_tunnel_handshakes_on_request_path_total"); err != nil {
		t.Error(err)
	}
	if problems, err := testutil.GatherAndLint(registry); err != nil || len(problems) > 0 {
		t.Errorf("%v, %v", problems, err)
	}
	if _, err := New(Config{Listen: "127.0.0.1:0", Trust: p.east.trust, Metrics: registry}); err == nil {
		t.Error("two transports in one registry")
	}
	_ = f.Close()
}

// BenchmarkNewFlow is a whole flow with 35 octets each way, 64 at a time.
func BenchmarkNewFlow(b *testing.B) {
	p := loopback(b, func(c *Config) { c.OnFlow = echo })
	payload := bytes.Repeat([]byte("x"), 35)
	b.SetParallelism(32)
	b.ReportAllocs()
	b.ResetTimer()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			f, err := p.west.Open(context.Background(), east, p.west.open())
			if err == nil {
				err = exchangeBytes(f, payload)
			}
			if err != nil {
				b.Error(err)
				return
			}
			_ = f.CloseWrite()
			_, _ = f.Read(payload[:1])
			_ = f.Close()
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "flows/s")
}

// BenchmarkBulk moves bytes one way, in copy buffers with headroom.
func BenchmarkBulk(b *testing.B) {
	done := make(chan struct{}, 1)
	p := loopback(b, func(c *Config) {
		c.OnFlow = func(_ context.Context, in *Incoming) {
			_ = in.Accept()
			buf := make([]byte, 128<<10)
			for {
				if _, err := in.Read(buf); err != nil {
					done <- struct{}{}
					return
				}
			}
		}
	})
	f, err := p.west.Open(context.Background(), east, p.west.open())
	if err != nil {
		b.Fatal(err)
	}
	buf := make([]byte, f.Headroom()+128<<10)
	b.SetBytes(128 << 10)
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		if _, err := f.WriteHeadroom(buf); err != nil {
			b.Fatal(err)
		}
	}
	_ = f.CloseWrite()
	<-done
	b.StopTimer()
	_ = f.Close()
}

func TestBoundToLoopbackIsSaid(t *testing.T) {
	a := newAuthority(t, east)
	introduce(t, a, newAuthority(t, west))
	g, err := New(Config{Listen: "127.0.0.1:0", Trust: a.Authority})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- g.Run(ctx) }()
	<-g.reading
	for address, told := range map[string]bool{"192.0.2.1:8443": true, "127.0.0.1:9": false} {
		limited, stop := context.WithTimeout(ctx, 200*time.Millisecond)
		_, err := g.DialExchange(limited, west, address)
		stop()
		if federation.CodeOf(err) != federation.CodeGatewaySilent || strings.Contains(err.Error(), "mesh.listen") != told ||
			strings.Contains(err.Error(), "bound to the loopback address 127.0.0.1") != told {
			t.Errorf("%s: %v", address, err)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
