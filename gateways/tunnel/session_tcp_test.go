package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// soon waits in real time until ok.
func soon(tb testing.TB, ok func() bool) {
	tb.Helper()
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.After(20 * time.Second); !ok(); {
		select {
		case <-tick.C:
		case <-deadline:
			buf := make([]byte, 1<<20)
			tb.Fatalf("it never happened\n%s", buf[:runtime.Stack(buf, true)])
		}
	}
}

func listenUDP(tb testing.TB) net.PacketConn {
	tb.Helper()
	for range 20 { // another program may have the port for TCP
		conn, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			tb.Fatal(err)
		}
		l, err := net.Listen("tcp", conn.LocalAddr().String())
		if err == nil {
			_ = l.Close()
			return conn
		}
		_ = conn.Close()
	}
	tb.Fatal("no port")
	return nil
}

// overTCP is two gateways on real sockets whose flows go over TCP alone, west having dialled east. Through: the address that west
// dials, if it is not east's own.
func overTCP(tb testing.TB, change func(*Config)) *pair {
	tb.Helper()
	tcp := func(c *Config) { c.Lanes, c.OnFlow = []string{LaneTCP}, echo }
	p := &pair{}
	p.east = startGateway(tb, east, listenUDP(tb), func(c *Config) {
		tcp(c)
		if change != nil {
			change(c)
		}
	})
	p.west = startGateway(tb, west, listenUDP(tb), tcp)
	introduce(tb, p.east.trust, p.west.trust)
	tb.Cleanup(func() { p.west.shut(tb); p.east.shut(tb) })
	p.dial(p.east.Addr().String())
	p.ready(tb)
	return p
}

func (p *pair) dial(address string) {
	p.west.SetPeers([]federation.Peer{{Region: east, Gateways: []string{address}}})
}

// ready waits until both ends have idle lanes.
func (p *pair) ready(tb testing.TB) {
	tb.Helper()
	soon(tb, func() bool { return idleLanes(p.west, east) >= minIdle && idleLanes(p.east, west) >= minIdle })
}

// idleLanes counts what an end owns and has at hand.
func idleLanes(g *gateway, peer federation.Region) int {
	n := 0
	for _, s := range tcpSessions(g, peer) {
		p := s.link.(*tcpLink).pool
		p.mu.Lock()
		n += len(p.ready)
		p.mu.Unlock()
	}
	return n
}

func tcpSessions(g *gateway, peer federation.Region) []*session {
	var all []*session
	if p := g.peer(peer); p != nil {
		for _, s := range *p.table.Load() {
			if s.link.kind() == kindTCP {
				all = append(all, s)
			}
		}
	}
	return all
}

// speak opens a flow, has b echoed and ends it in order.
func speak(ctx context.Context, from *gateway, to federation.Region, b []byte) error {
	f, err := from.Open(ctx, to, from.open())
	if err != nil {
		return err
	}
	if err := exchangeBytes(f, b); err != nil {
		f.Abort()
		return err
	}
	if err := f.CloseWrite(); err != nil {
		return err
	}
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		return fmt.Errorf("at the end: %w", err)
	}
	return f.Close()
}

func TestFlowsOverTCP(t *testing.T) {
	p := overTCP(t, nil)
	path := p.west.Path(east)
	if !path.Up || path.Lane != LaneTCP || path.TCP != 1 || path.QUIC != 0 || path.RTT <= 0 {
		t.Errorf("%+v", path)
	}
	for _, from := range []*gateway{p.west, p.east} {
		to := map[*gateway]federation.Region{p.west: east, p.east: west}[from]
		if err := speak(t.Context(), from, to, []byte("hello")); err != nil {
			t.Errorf("to %s: %v", to, err)
		}
	}
	if pong, err := p.west.Ping(t.Context(), east); err != nil || pong.RTT <= 0 {
		t.Errorf("%+v, %v", pong, err)
	}
}

func TestLanesAreUsedAgain(t *testing.T) {
	p := overTCP(t, nil)
	const flows, atOnce = 1000, 2 // as many as are ready from the start
	errs := make(chan error, atOnce)
	for range atOnce {
		go func() {
			for range flows / atOnce {
				if err := speak(t.Context(), p.west, east, []byte("a flow")); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range atOnce {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if dialled := p.west.peer(east).dialled.Load(); dialled > 4*maxIdle {
		t.Errorf("%d lanes were dialled for %d flows", dialled, flows)
	}
	if died := p.west.peer(east).died.Load() + p.east.peer(west).died.Load(); died != 0 {
		t.Errorf("%d lanes died", died)
	}
	soon(t, func() bool { _, busy := p.west.peer(east).lanes(); return busy == 0 })
	soon(t, func() bool { _, busy := p.east.peer(west).lanes(); return busy == 0 })
}

// TestBothEndsStartAtOnce has both ends put flows on their lanes as fast as they can: none may meet another's.
func TestBothEndsStartAtOnce(t *testing.T) {
	p := overTCP(t, nil)
	var work sync.WaitGroup
	var done atomic.Int64
	for from, to := range map[*gateway]federation.Region{p.west: east, p.east: west} {
		for w := range 8 {
			work.Go(func() {
				for i := range 60 {
					err := speak(t.Context(), from, to, fmt.Appendf(nil, "%s %d %d", to, w, i))
					if err != nil {
						t.Errorf("to %s: %v", to, err)
						return
					}
					done.Add(1)
				}
			})
		}
	}
	work.Wait()
	for g, to := range map[*gateway]federation.Region{p.west: east, p.east: west} {
		t.Logf("to %s: %d of %d flows waited for a lane, %d were dialled", to, g.peer(to).waited.Load(), done.Load()/2, g.peer(to).dialled.Load())
	}
}

func TestPoolGrowsWithDemand(t *testing.T) {
	p := overTCP(t, nil)
	for _, from := range []*gateway{p.west, p.east} {
		to := map[*gateway]federation.Region{p.west: east, p.east: west}[from]
		var open []*Flow
		for len(open) < 100 {
			f, err := from.Open(t.Context(), to, from.open())
			if errors.Is(err, ErrNoPath) {
				soon(t, func() bool { return idleLanes(from, to) > 0 })
				continue
			}
			if err != nil {
				t.Fatal(err)
			}
			if err := exchangeBytes(f, []byte("x")); err != nil {
				t.Fatal(err)
			}
			open = append(open, f)
		}
		for _, f := range open {
			f.Abort()
		}
		soon(t, func() bool { return idleLanes(from, to) >= minIdle })
	}
}

func TestWaitingForALane(t *testing.T) {
	p := overTCP(t, nil)
	s := tcpSessions(p.west, east)[0]
	var got []carrier
	for range 4 * coldIdle {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		c, err := s.awaitCarrier(ctx)
		cancel()
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, c)
	}
	if p.west.peer(east).waited.Load() == 0 {
		t.Error("nobody waited")
	}
	for _, c := range got {
		c.cancel(flow.ResetAborted)
		c.cancel(flow.ResetAborted)
		c.finished()
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for {
		c, err := s.awaitCarrier(ctx)
		if err != nil {
			if !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			break
		}
		defer c.cancel(flow.ResetAborted)
	}
}

// TestControlConnectionIsCut cuts the one connection that all lanes of a session hang on: the flows must go over to the next session.
func TestControlConnectionIsCut(t *testing.T) {
	p := overTCP(t, nil)
	f, quiet := mustOpen(t, p.west, east), mustOpen(t, p.west, east)
	for _, f := range []*Flow{f, quiet} {
		if err := f.WaitAccept(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 20 {
		at, peer := p.west, east
		if i%2 == 1 {
			at, peer = p.east, west
		}
		soon(t, func() bool { return idleLanes(at, peer) > 0 })
		s := tcpSessions(at, peer)[0]
		s.link.(*tcpLink).c.abort()
		if err := exchangeBytes(f, make([]byte, 100<<10)); err != nil {
			t.Fatalf("cut %d: %v", i, err)
		}
		<-s.link.done()
		soon(t, func() bool { // one that has nothing to say comes too
			quiet.mu.Lock()
			defer quiet.mu.Unlock()
			return quiet.cur != nil && quiet.cur.s != s
		})
	}
	if err := errors.Join(f.Close(), quiet.Close()); err != nil {
		t.Error(err)
	}
}

func TestCloseCodesArrive(t *testing.T) {
	for _, code := range []quic.ApplicationErrorCode{closeDraining, closeForgotten, closeShutdown, closeRevoked} {
		p := overTCP(t, nil)
		here, there := tcpSessions(p.west, east)[0], tcpSessions(p.east, west)[0]
		f := mustOpen(t, p.west, east)
		if err := exchangeBytes(f, []byte("x")); err != nil {
			t.Fatal(err)
		}
		here.close(code, "because")
		<-there.link.done()
		if app, ok := is[*quic.ApplicationError](there.ended()); !ok || !app.Remote || app.ErrorCode != code || app.ErrorMessage != "because" {
			t.Errorf("code %d: the other end has %v", code, there.ended())
		}
		if app, ok := is[*quic.ApplicationError](here.ended()); !ok || app.Remote || app.ErrorCode != code {
			t.Errorf("code %d: this end has %v", code, here.ended())
		}
		f.Abort()
	}
}

func TestDrainOverTCP(t *testing.T) {
	p := overTCP(t, nil)
	f := mustOpen(t, p.west, east)
	if err := exchangeBytes(f, []byte("x")); err != nil {
		t.Fatal(err)
	}
	drained := make(chan error, 1)
	go func() { drained <- p.east.Drain(t.Context()) }()
	soon(t, func() bool { return !p.west.Path(east).Up })
	if _, err := p.west.Open(t.Context(), east, p.west.open()); !errors.Is(err, ErrNoPath) {
		t.Errorf("Open to a draining gateway: %v", err)
	}
	if err := exchangeBytes(f, []byte("y")); err != nil {
		t.Errorf("an open flow does not outlive the announcement: %v", err)
	}
	_ = f.Close()
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestRevokedLanesAreClosed(t *testing.T) {
	p := overTCP(t, nil)
	f := mustOpen(t, p.west, east)
	if err := exchangeBytes(f, []byte("x")); err != nil {
		t.Fatal(err)
	}
	p.east.trust.distrust(t, west)
	if n := p.east.Rejudge(); n < 1+2*minIdle {
		t.Errorf("%d connections closed: the control connection and every lane are to be", n)
	}
	if _, err := f.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the flow ended with %v", err)
	}
	soon(t, func() bool { return p.east.Path(west).Sessions == 0 && p.west.Path(east).Sessions == 0 })
	soon(t, func() bool { // nothing of it stays indexed
		p.east.mu.Lock()
		defer p.east.mu.Unlock()
		return len(p.east.live) == 0 && len(p.east.tcp) == 0
	})
	f.Abort()
}

// TestLaneOfAnotherSession has the certificate of one gateway name the session of another: numbers prove nothing.
func TestLaneOfAnotherSession(t *testing.T) {
	p := overTCP(t, nil)
	s := tcpSessions(p.west, east)[0]
	id := s.link.(*tcpLink).pool.id.id
	other := newAuthority(t, "north")
	introduce(t, p.east.trust, other)
	conf, err := other.ClientTLS(east, protoLane)
	if err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"foreign": append(id[:], 0), "short": id[:8], "empty": nil} {
		conn, err := tls.Dial("tcp", p.east.Addr().String(), conf)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = conn.Write(append(flow.Header{Type: frameLane, Offset: helloVersion, Length: len(body)}.Append(nil), body...))
		_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		h, err := readHeader(conn)
		if err != nil || h.Type != frameClose || h.Offset != uint64(closeProtocol) {
			t.Errorf("%s: %+v, %v", name, h, err)
		}
		_ = conn.Close()
	}
	if err := speak(t.Context(), p.west, east, []byte("still there")); err != nil {
		t.Error(err)
	}
}

func TestStrangersOverTCP(t *testing.T) {
	p := overTCP(t, nil)
	at := p.east.Addr().String()
	conf, err := p.west.trust.ClientTLS(east, protoLane)
	if err != nil {
		t.Fatal(err)
	}
	alpn := conf.Clone()
	alpn.NextProtos, alpn.VerifyConnection = []string{"h2"}, nil
	none := conf.Clone()
	none.NextProtos, none.VerifyConnection = nil, nil
	bare := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protoLane}, MinVersion: tls.VersionTLS13}
	unknown := newAuthority(t, "north")
	introduce(t, unknown, p.east.trust) // it knows east; then east forgets it
	p.east.trust.distrust(t, "north")
	foreign, err := unknown.ClientTLS(east, protoLane)
	if err != nil {
		t.Fatal(err)
	}
	foreign.VerifyConnection = nil
	for name, conf := range map[string]*tls.Config{
		"another protocol": alpn, "no protocol": none, "no certificate": bare, "unknown region": foreign,
	} {
		conn, err := tls.Dial("tcp", at, conf)
		if err == nil {
			_, _ = conn.Write(flow.Header{Type: frameHello, Offset: helloVersion, Length: laneIDLen}.Append(nil))
			_, _ = conn.Write(make([]byte, laneIDLen))
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = readHeader(conn)
			_ = conn.Close()
		}
		var timeout net.Error
		if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: %v", name, err)
		}
	}
	old := conf.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if _, err := tls.Dial("tcp", at, old); err == nil {
		t.Error("TLS 1.2 was spoken")
	}
	if path := p.east.Path(west); path.TCP != 1 {
		t.Errorf("%+v", path)
	}
}

// TestFloodOfStrangersOverTCP has one source connect and say nothing, more often than anybody may.
func TestFloodOfStrangersOverTCP(t *testing.T) {
	p := overTCP(t, nil)
	before := runtime.NumGoroutine()
	var conns []net.Conn
	defer func() {
		for _, c := range conns {
			_ = c.Close()
		}
	}()
	for range 3 * strangersPerSource {
		c, err := net.Dial("tcp", p.east.Addr().String())
		if err != nil {
			continue // refused by the kernel: as good
		}
		conns = append(conns, c)
	}
	soon(t, func() bool { // those beyond the bound are closed at once
		open := 0
		for _, c := range conns {
			if stillOpen(c.(*net.TCPConn)) {
				open++
			}
		}
		return open <= strangersPerSource
	})
	if grown := runtime.NumGoroutine() - before; grown > 2*strangersPerSource+64 {
		t.Errorf("%d goroutines for %d strangers", grown, len(conns))
	}
	if err := speak(t.Context(), p.west, east, []byte("among them")); err != nil {
		t.Error(err)
	}
}

func TestTCPPortIsTaken(t *testing.T) {
	conn := listenUDP(t)
	taken, err := net.Listen("tcp", conn.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	g := startGateway(t, east, conn, nil)
	defer g.shut(t)
	all := g.Troubles()
	if len(all) != 1 || all[0].Code != federation.CodeLaneListen || !strings.Contains(all[0].Fix, "mesh.lanes") {
		t.Errorf("%v", all)
	}
}

// BenchmarkBulkOverTCP is BenchmarkBulk on a lane.
func BenchmarkBulkOverTCP(b *testing.B) {
	done := make(chan struct{}, 1)
	p := overTCP(b, func(c *Config) {
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
	buf := make([]byte, flow.HeaderLen+128<<10)
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
