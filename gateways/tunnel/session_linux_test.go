package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tradewind-mesh/tradewind/federation"
)

// deafen makes a socket drop every packet that comes to it, as a firewall would: the kernel does not even acknowledge them.
func deafen(tb testing.TB, conn syscall.Conn, deaf bool) {
	tb.Helper()
	raw, err := conn.SyscallConn()
	if err != nil {
		tb.Fatal(err)
	}
	var set error
	err = raw.Control(func(fd uintptr) {
		if deaf {
			drop := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: 0}
			set = unix.SetsockoptSockFprog(int(fd), unix.SOL_SOCKET, unix.SO_ATTACH_FILTER, &unix.SockFprog{Len: 1, Filter: &drop})
		} else {
			set = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_DETACH_FILTER, 0)
		}
	})
	if err := errors.Join(err, set); err != nil {
		tb.Fatal(err)
	}
}

// dropUDP cuts UDP off between two gateways, or gives it back to the sockets that they keep.
func dropUDP(tb testing.TB, cut bool, gateways ...*gateway) {
	tb.Helper()
	for _, g := range gateways {
		deafen(tb, g.conn.(*net.UDPConn), cut)
		if !cut {
			continue
		}
		for _, s := range g.sessions() {
			if l, ok := s.link.(*quicLink); ok && l.own != nil {
				deafen(tb, l.own.conn.(*net.UDPConn), cut)
			}
		}
	}
}

// overBoth is two gateways on real sockets, with every session up.
func overBoth(t *testing.T) *pair {
	t.Helper()
	p := &pair{}
	serve := func(c *Config) { c.OnFlow = echo }
	p.east = startGateway(t, east, listenUDP(t), serve)
	p.west = startGateway(t, west, listenUDP(t), serve)
	introduce(t, p.east.trust, p.west.trust)
	t.Cleanup(func() { p.west.shut(t); p.east.shut(t) })
	p.dial(p.east.Addr().String())
	p.ready(t)
	soon(t, func() bool {
		a, b := p.west.Path(east), p.east.Path(west)
		return a.QUIC == quicSessions && b.QUIC == quicSessions && a.Lane == LaneQUIC && b.Lane == LaneQUIC
	})
	return p
}

func TestUDPIsBlockedAndComesBack(t *testing.T) {
	p := overBoth(t)
	since := map[federation.Region]time.Time{east: p.west.Path(east).Since, west: p.east.Path(west).Since}
	if err := speak(t.Context(), p.west, east, []byte("over QUIC")); err != nil {
		t.Fatal(err)
	}
	dropUDP(t, true, p.east, p.west)
	start := time.Now()
	for _, g := range []*gateway{p.west, p.east} {
		to := map[*gateway]federation.Region{p.west: east, p.east: west}[g]
		soon(t, func() bool { return g.Path(to).Lane == LaneTCP })
		t.Logf("towards %s new flows went over TCP %v after UDP was cut", to, time.Since(start).Round(time.Millisecond))
		if err := speak(t.Context(), g, to, []byte("over TCP")); err != nil {
			t.Errorf("to %s: %v", to, err)
		}
	}
	soon(t, func() bool { return p.west.Path(east).QUIC == 0 && p.east.Path(west).QUIC == 0 })
	soon(t, func() bool { return idleLanes(p.west, east) >= coldIdle/2 }) // every flow needs one now
	if path := p.west.Path(east); !path.Up || path.TCP != 1 {
		t.Errorf("%+v", path)
	}
	dropUDP(t, false, p.east, p.west)
	soon(t, func() bool { return p.west.Path(east).Lane == LaneQUIC && p.east.Path(west).Lane == LaneQUIC })
	if err := speak(t.Context(), p.west, east, []byte("over QUIC")); err != nil {
		t.Error(err)
	}
	for region, g := range map[federation.Region]*gateway{east: p.west, west: p.east} {
		if path := g.Path(region); !path.Up || path.Since != since[region] {
			t.Errorf("the path to %s was down meanwhile: %+v", region, path)
		}
	}
	if waited := p.west.peer(east).waited.Load(); waited != 0 {
		t.Errorf("%d flows waited for a handshake", waited)
	}
}

// busyLanes are the lanes of a session that carry a flow, of either owner.
func busyLanes(s *session) []*lane {
	p := s.link.(*tcpLink).pool
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []*lane
	for l := range p.lanes {
		if l.busy {
			all = append(all, l)
		}
	}
	return all
}

func TestSilentLaneIsEnded(t *testing.T) {
	p := overTCP(t, nil)
	f := mustOpen(t, p.west, east)
	if err := exchangeBytes(f, []byte("x")); err != nil {
		t.Fatal(err)
	}
	other := mustOpen(t, p.west, east)
	if err := exchangeBytes(other, []byte("x")); err != nil {
		t.Fatal(err)
	}
	session := tcpSessions(p.west, east)[0]
	var cut *lane
	for _, l := range busyLanes(tcpSessions(p.east, west)[0]) {
		if l.tcp.RemoteAddr().String() == f.cur.c.(*laneCarrier).l.tcp.LocalAddr().String() {
			cut = l
		}
	}
	soon(t, func() bool { s, ok := sampleTCP(cut.tcp); return ok && s.Unacked == 0 }) // it waits for nothing itself
	deafen(t, cut.tcp, true)
	start := time.Now()
	_, _ = f.Write([]byte("is anybody there?"))
	if _, err := io.ReadFull(f, make([]byte, 17)); err != nil {
		t.Errorf("the flow did not go on on another lane: %v", err)
	}
	took := time.Since(start)
	t.Logf("noticed after %v", took.Round(time.Millisecond))
	if took < laneSilence*3/4 {
		t.Errorf("given up after %v", took)
	}
	if err := exchangeBytes(other, []byte("y")); err != nil {
		t.Errorf("another lane of the session: %v", err)
	}
	if session.ended() != nil || p.west.peer(east).died.Load() != 1 {
		t.Errorf("the session: %v; %d lanes died", session.ended(), p.west.peer(east).died.Load())
	}
	_ = other.Close()
}

// TestPausedReaderIsNoSilence has the other end stop reading for longer than a silent lane lives.
func TestPausedReaderIsNoSilence(t *testing.T) {
	resume := make(chan struct{})
	p := overTCP(t, func(c *Config) {
		c.OnFlow = func(ctx context.Context, in *Incoming) {
			_ = in.Accept()
			_ = in.Flush()
			<-resume
			echo(ctx, in)
		}
	})
	f := mustOpen(t, p.west, east)
	data := make([]byte, 32<<20) // more than any socket buffer
	wrote := make(chan error, 1)
	go func() {
		_, err := f.Write(data)
		wrote <- err
	}()
	select {
	case err := <-wrote:
		t.Fatalf("nobody reads, and Write returns %v", err)
	case <-time.After(3 * laneSilence):
	}
	if ended := tcpSessions(p.west, east)[0].ended(); ended != nil {
		t.Fatal(ended)
	}
	f.Abort()
	<-wrote
	close(resume)
}

func TestDeadControlConnectionEndsTheSession(t *testing.T) {
	p := overTCP(t, nil)
	f := mustOpen(t, p.west, east)
	if err := exchangeBytes(f, []byte("x")); err != nil {
		t.Fatal(err)
	}
	here, there := tcpSessions(p.west, east)[0], tcpSessions(p.east, west)[0]
	deafen(t, there.link.(*tcpLink).c.tcp, true)
	deafen(t, here.link.(*tcpLink).c.tcp, true)
	start := time.Now()
	<-here.link.done()
	<-there.link.done()
	t.Logf("both ends noticed after %v", time.Since(start).Round(time.Millisecond))
	if err := exchangeBytes(f, []byte("y")); err != nil {
		t.Errorf("the flow did not go on on another session: %v", err)
	}
	p.ready(t) // there is another one soon
	if err := speak(t.Context(), p.west, east, []byte("again")); err != nil {
		t.Error(err)
	}
}

func TestKernelSaysHowALaneFares(t *testing.T) {
	p := overTCP(t, nil)
	c, err := tcpSessions(p.west, east)[0].openCarrier()
	if err != nil {
		t.Fatal(err)
	}
	defer c.cancel(0)
	l := c.(*laneCarrier)
	s, ok := l.sample()
	if !ok || s.RTT <= 0 || s.Heard == 0 || s.Acked == 0 || s.Sent == 0 {
		t.Errorf("%+v", s)
	}
	if err := l.pace(1 << 20); err != nil {
		t.Error(err)
	}
	if l.congestion() == "" {
		t.Error("no congestion control")
	}
	c.finished()
}

// TestFlowsMoveToLanes has more flows open when UDP is blocked than there are lanes: each gets one, and loses nothing.
func TestFlowsMoveToLanes(t *testing.T) {
	const flows = 200
	p := overBoth(t)
	var open []*Flow
	for range flows {
		f := mustOpen(t, p.west, east)
		if err := exchangeBytes(f, []byte("over QUIC")); err != nil {
			t.Fatal(err)
		}
		open = append(open, f)
	}
	dropUDP(t, true, p.east, p.west)
	start := time.Now()
	errs := make(chan error, flows)
	took := make(chan time.Duration, flows)
	for _, f := range open {
		go func() {
			errs <- exchangeBytes(f, []byte("and on"))
			took <- time.Since(start)
		}()
	}
	var last time.Duration
	for range flows {
		if err := <-errs; err != nil {
			t.Error(err)
		}
		last = max(last, <-took)
	}
	t.Logf("all %d flows went on after %v", flows, last.Round(time.Millisecond))
	for _, f := range open {
		_ = f.Close()
	}
}
