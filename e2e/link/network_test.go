package link_test

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"

	"github.com/tradewind-mesh/tradewind/e2e/link"
	"github.com/tradewind-mesh/tradewind/e2e/world"
)

const headers = 20 + 8 // octets of IPv4 and UDP

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A site is two clouds with an echo of each kind in the second.
type site struct {
	l    *link.Link
	a, b *world.Cloud
}

// TestLink shows real sockets what was set.
func TestLink(t *testing.T) {
	l, a, b := world.Linked(t, link.Config{Seed: 1})
	s := site{l, a, b}
	s.echo(t)
	for _, c := range []struct {
		name string
		test func(*testing.T)
	}{
		{"delay", s.delay}, {"loss", s.loss}, {"rate of UDP", s.rateUDP}, {"rate of TCP", s.rateTCP}, {"black hole", s.blackhole},
		{"blocked UDP", s.blockedUDP}, {"rebind", s.rebind}, {"MTU", s.mtu}, {"copies and order", s.order}, {"cut", s.cut},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.test(t)
			s.set(t, link.Both, link.Profile{})
		})
	}
	if c := l.Stats(); c.AToB.Late+c.BToA.Late+c.AToB.Overruns+c.BToA.Overruns > 0 {
		t.Logf("the machine was busy: %+v", c)
	}
}

// echo answers UDP and TCP at port 7 of b.
func (s site) echo(t *testing.T) {
	t.Helper()
	packets, err := s.b.ListenPacket(t.Context(), "udp", s.b.Address+":7")
	if err != nil {
		t.Fatal(err)
	}
	streams, err := s.b.Listen(t.Context(), "tcp", s.b.Address+":7")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close(); streams.Close() })
	go func() {
		buf := make([]byte, 64<<10)
		for {
			n, from, err := packets.ReadFrom(buf)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(buf[:n], from)
		}
	}()
	go func() {
		for {
			conn, err := streams.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
		}
	}()
}

func (s site) set(t *testing.T, d link.Direction, p link.Profile) {
	t.Helper()
	if err := s.l.Set(d, p); err != nil {
		t.Fatal(err)
	}
}

func (s site) dial(t *testing.T, network, port string) net.Conn {
	t.Helper()
	conn, err := s.a.Dial(t.Context(), network, s.b.Address+":"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ask sends a message to the echo and waits for it.
func ask(conn net.Conn, text string, limit time.Duration) error {
	if _, err := conn.Write([]byte(text)); err != nil {
		return err
	}
	got := make([]byte, len(text))
	_ = conn.SetReadDeadline(time.Now().Add(limit))
	for {
		if _, err := io.ReadFull(conn, got); err != nil || string(got) == text {
			return err
		}
	}
}

// answers fails unless the echo answers; UDP may need to ask again on a machine that has no time.
func answers(t *testing.T, conn net.Conn) {
	t.Helper()
	world.Until(t, 10*time.Second, "an answer", func() error { return ask(conn, "hello", time.Second) })
}

// silent fails if the echo answers.
func silent(t *testing.T, conn net.Conn) {
	t.Helper()
	if err := ask(conn, "hello", 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("there should be no answer, got %v", err)
	}
}

// delay pings. The kernel answers, so that only this process can be late: the best of 20 counts, and none may be early.
func (s site) delay(t *testing.T) {
	s.set(t, link.AToB, link.Profile{Delay: 30 * time.Millisecond})
	s.set(t, link.BToA, link.Profile{Delay: 10 * time.Millisecond})
	var conn *icmp.PacketConn
	if err := link.Inside(s.a.Namespace, func() (err error) {
		conn, err = icmp.ListenPacket("ip4:icmp", s.a.Address)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetReadDeadline(time.Now().Add(15 * time.Second))
	var took []time.Duration
	for i := range 20 {
		ask, err := (&icmp.Message{Type: ipv4.ICMPTypeEcho, Body: &icmp.Echo{ID: 77, Seq: i}}).Marshal(nil)
		if err != nil {
			t.Fatal(err)
		}
		begin := time.Now()
		if _, err := conn.WriteTo(ask, &net.IPAddr{IP: net.ParseIP(s.b.Address)}); err != nil {
			t.Fatal(err)
		}
		if _, _, err := conn.ReadFrom(make([]byte, 1500)); err != nil {
			t.Fatal(err)
		}
		took = append(took, time.Since(begin))
	}
	slices.Sort(took)
	t.Logf("round trip at 40 ms: %v, median %v, at most %v", took[0], took[10], took[19])
	if took[0] < 40*time.Millisecond || took[0] > 41*time.Millisecond {
		t.Errorf("the best round trip took %v, want 40 to 41 ms", took[0])
	}
}

func (s site) blackhole(t *testing.T) {
	packets, stream := s.dial(t, "udp", "7"), s.dial(t, "tcp", "7")
	answers(t, packets)
	answers(t, stream)
	s.set(t, link.BToA, link.Profile{Blackhole: true})
	silent(t, packets)
	silent(t, stream)
	s.set(t, link.BToA, link.Profile{})
	answers(t, packets)
	answers(t, stream) // TCP sends it again: nothing was reset
}

func (s site) blockedUDP(t *testing.T) {
	packets := s.dial(t, "udp", "7")
	s.set(t, link.Both, link.Profile{BlockUDP: true})
	silent(t, packets)
	answers(t, s.dial(t, "tcp", "7"))
	s.set(t, link.Both, link.Profile{BlockTCP: true})
	answers(t, packets)
}

func (s site) rebind(t *testing.T) {
	server, err := s.b.ListenPacket(t.Context(), "udp", s.b.Address+":11")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn := s.dial(t, "udp", "11")
	port := func() net.Addr {
		t.Helper()
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, from, err := server.ReadFrom(make([]byte, 100))
		if err != nil {
			t.Fatal(err)
		}
		return from
	}
	reply := func(to net.Addr, limit time.Duration) error {
		_, _ = server.WriteTo([]byte("reply"), to)
		_ = conn.SetReadDeadline(time.Now().Add(limit))
		_, err := conn.Read(make([]byte, 100))
		return err
	}
	before := port()
	if before.String() != conn.LocalAddr().String() {
		t.Errorf("the port is translated before anybody asked: %v is seen as %v", conn.LocalAddr(), before)
	}
	s.l.Rebind(link.A)
	if err := reply(before, 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the old port is still open: %v", err)
	}
	after := port()
	if after.String() == before.String() {
		t.Errorf("the port is still %v", after)
	}
	if err := reply(after, 10*time.Second); err != nil {
		t.Errorf("the new port does not answer: %v", err)
	}
	if got := s.l.Stats().BToA.Forgotten; got != 1 {
		t.Errorf("%d packets were dropped for a forgotten mapping, want 1", got)
	}
}

func (s site) mtu(t *testing.T) {
	conn := s.dial(t, "udp", "7")
	large := string(make([]byte, 5000)) // travels as fragments
	if err := ask(conn, large, 10*time.Second); err != nil {
		t.Errorf("a datagram in fragments: %v", err)
	}
	s.set(t, link.AToB, link.Profile{MTU: 1300})
	if err := ask(conn, large[:1300-headers], 10*time.Second); err != nil {
		t.Errorf("a packet of the MTU: %v", err)
	}
	if err := ask(conn, large[:1301-headers], 300*time.Millisecond); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("a packet over the MTU: %v, want silence", err)
	}
	if got := s.l.Stats().AToB.TooBig; got != 1 {
		t.Errorf("%d packets were dropped for their size, want 1", got)
	}
}

func (s site) order(t *testing.T) {
	conn := s.dial(t, "udp", "7")
	_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
	exchange := func(n int) (got string) {
		for i := range n {
			_, _ = conn.Write([]byte{byte('a' + i)})
		}
		one := make([]byte, 1)
		for range 2 * n {
			if _, err := conn.Read(one); err != nil {
				t.Fatal(err)
			}
			got += string(one)
		}
		return got
	}
	s.set(t, link.AToB, link.Profile{Duplicate: 1})
	if got := exchange(3); got != "aabbcc" {
		t.Errorf("every packet twice: %s", got)
	}
	s.set(t, link.AToB, link.Profile{Delay: time.Millisecond, Reorder: 1, ReorderDelay: 300 * time.Millisecond})
	_, _ = conn.Write([]byte("x"))
	world.Until(t, 10*time.Second, "x to enter", func() error {
		if s.l.Stats().AToB.Reordered == 0 {
			return errors.New("it has not")
		}
		return nil
	})
	s.set(t, link.AToB, link.Profile{Delay: time.Millisecond})
	_, _ = conn.Write([]byte("y"))
	two := make([]byte, 1)
	got := ""
	for range 2 {
		if _, err := conn.Read(two); err != nil {
			t.Fatal(err)
		}
		got += string(two)
	}
	if got != "yx" {
		t.Errorf("a packet that was held back: %q, want yx", got)
	}
}

func (s site) cut(t *testing.T) {
	conn := s.dial(t, "udp", "7")
	answers(t, conn)
	s.b.Cut()
	silent(t, conn)
	if s.l.Stats().AToB.Refused == 0 {
		t.Error("the device of b is down, but took the packet")
	}
	s.b.Join()
	answers(t, conn)
}

// TestASecondLink joins the same clouds once more, by IPv6 between two networks, and loses a device.
func TestASecondLink(t *testing.T) {
	_, a, b := world.Linked(t, link.Config{})
	c := link.Config{
		A: link.End{Namespace: a.Namespace, Device: "wan1", Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:1::1/64")}},
		B: link.End{Namespace: b.Namespace, Device: "wan1", Addresses: []netip.Prefix{netip.MustParsePrefix("2001:db8:2::1/64")}},
	}
	unused, err := link.New(c)
	if err != nil {
		t.Fatal(err)
	}
	unused.Close()
	if err := unused.Run(t.Context()); err == nil {
		t.Error("a closed link runs")
	}
	l, err := link.New(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Set(link.Both, link.Profile{Delay: time.Millisecond}); err != nil || l.Profile(link.BToA).Delay != time.Millisecond {
		t.Errorf("set before it runs: %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- l.Run(t.Context()) }()
	server, err := b.ListenPacket(t.Context(), "udp", "[2001:db8:2::1]:7")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	conn, err := a.Dial(t.Context(), "udp", "[2001:db8:2::1]:7")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var seen []string
	for range 2 {
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Fatal(err)
		}
		_ = server.SetReadDeadline(time.Now().Add(10 * time.Second))
		_, from, err := server.ReadFrom(make([]byte, 10))
		if err != nil {
			t.Fatalf("after %v: %v\n%+v", seen, err, l.Stats())
		}
		seen = append(seen, from.String())
		l.Rebind(link.A)
	}
	if seen[0] != conn.LocalAddr().String() || seen[1] == seen[0] {
		t.Errorf("%v is seen as %v", conn.LocalAddr(), seen)
	}
	a.Run(10*time.Second, "ip", "link", "del", "wan1")
	if err := <-done; err == nil {
		t.Error("the device is gone, and the link does not say so")
	}
	if got := l.Stats().AToB.Delivered; got < 2 { // IPv6 says a word of its own now and then
		t.Errorf("%d packets were delivered, want 2 at least", got)
	}
}
