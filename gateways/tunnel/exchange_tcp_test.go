package tunnel

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

func echoFrames(ctx context.Context, _ federation.Region, s *ExchangeSession) {
	for {
		lane, frame, err := s.Receive(ctx)
		if err != nil || s.Send(ctx, lane, frame) != nil {
			return
		}
	}
}

func echoJoin(_ context.Context, _ string, _, request []byte) ([]byte, error) { return request, nil }

// roundTrip sends frame on every lane that may carry it, and takes it back.
func roundTrip(ctx context.Context, s *ExchangeSession, frame []byte) error {
	for lane := exchange.Lane(0); lane < exchange.Lanes; lane++ {
		b := frame[:min(len(frame), exchange.MaxFrameOn(lane))]
		if err := s.Send(ctx, lane, b); err != nil {
			return err
		}
		if got, back, err := s.Receive(ctx); err != nil || got != lane || !bytes.Equal(back, b) {
			return fmt.Errorf("%d octets on %v: %w", len(back), got, err)
		}
	}
	return nil
}

// exchangingTCP returns both ends of an exchange session over TCP that west has dialled.
func exchangingTCP(t *testing.T) (p *pair, dialled, accepted *ExchangeSession) {
	t.Helper()
	return exchangingTCPWith(t, echoJoin)
}

func exchangingTCPWith(t *testing.T, join func(ctx context.Context, remote string, exporter, request []byte) ([]byte, error)) (
	p *pair, dialled, accepted *ExchangeSession,
) {
	t.Helper()
	sessions := make(chan *ExchangeSession, 16)
	p = overTCP(t, func(c *Config) {
		c.OnJoin = join
		c.OnExchange = func(ctx context.Context, _ federation.Region, s *ExchangeSession) {
			sessions <- s
			select {
			case <-s.Done():
			case <-ctx.Done():
			}
		}
	})
	dialled, err := p.west.DialExchange(t.Context(), east, p.east.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return p, dialled, <-sessions
}

func TestExchangeOverTCPCarriesEveryLaneBothWays(t *testing.T) {
	_, dialled, accepted := exchangingTCP(t)
	for _, ends := range [][2]*ExchangeSession{{dialled, accepted}, {accepted, dialled}} {
		if ends[0].Lane() != LaneTCP || ends[0].Peer().Path() != "/gw/gw-1" {
			t.Errorf("%v over %s", ends[0].Peer(), ends[0].Lane())
		}
		for range 3 * laneTokens { // more than a window
			for lane := exchange.Lane(0); lane < exchange.Lanes; lane++ {
				frame := bytes.Repeat([]byte{byte(lane)}, exchange.MaxFrameOn(lane))
				if err := ends[0].Send(t.Context(), lane, frame); err != nil {
					t.Fatalf("send on %v: %v", lane, err)
				}
				got, b, err := ends[1].Receive(t.Context())
				if err != nil || got != lane || !bytes.Equal(b, frame) {
					t.Fatalf("received %d octets on %v, %v", len(b), got, err)
				}
			}
		}
	}
	if err := dialled.Send(t.Context(), exchange.LaneBulk, []byte("last words")); err != nil {
		t.Error(err)
	}
	dialled.Close(42, "done")
	if _, b, err := accepted.Receive(t.Context()); err != nil || string(b) != "last words" {
		t.Errorf("%q, %v", b, err)
	}
	_, _, err := accepted.Receive(t.Context())
	if app, ok := is[*quic.ApplicationError](err); !ok || app.ErrorCode != 42 || !app.Remote || !strings.Contains(err.Error(), `"done"`) {
		t.Errorf("after the end: %v", err)
	}
	if err := accepted.Send(t.Context(), exchange.LaneControl, []byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("send after the end: %v", err)
	}
}

// TestBlockedLaneDoesNotStopControlOverTCP fills all lanes but one, which nobody reads over there.
func TestBlockedLaneDoesNotStopControlOverTCP(t *testing.T) {
	_, dialled, accepted := exchangingTCP(t)
	ctx, cancel := context.WithCancel(t.Context())
	full := make(chan error)
	for lane := exchange.LaneUrgent; lane <= exchange.LaneBulk; lane++ {
		go func() {
			var err error
			for err == nil {
				err = dialled.Send(ctx, lane, make([]byte, exchange.MaxFrame))
			}
			full <- err
		}()
	}
	soon(t, func() bool {
		for lane := exchange.LaneUrgent; lane <= exchange.LaneBulk; lane++ {
			if len(dialled.out[lane].tokens) < laneTokens || len(accepted.in[lane]) < laneTokens/tokensOf(exchange.MaxFrame) {
				return false
			}
		}
		return true
	})
	if err := dialled.Send(t.Context(), exchange.LaneControl, []byte("head")); err != nil {
		t.Fatal(err)
	}
	soon(t, func() bool { return len(accepted.in[exchange.LaneControl]) == 1 })
	if lane, b, err := accepted.Receive(t.Context()); lane != exchange.LaneControl || string(b) != "head" || err != nil {
		t.Errorf("%d octets on %v, %v", len(b), lane, err)
	}
	cancel()
	for range exchange.LaneBulk {
		if err := <-full; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}
	if err := dialled.Send(t.Context(), exchange.LaneControl, []byte("the session goes on")); err != nil {
		t.Error(err)
	}
}

func TestExchangeOverTCPIsJudged(t *testing.T) {
	p, dialled, _ := exchangingTCP(t)
	p.east.trust.distrust(t, west)
	if n := p.east.Rejudge(); n == 0 {
		t.Error("nothing was closed")
	}
	_, _, err := dialled.Receive(t.Context())
	if app, ok := is[*quic.ApplicationError](err); !ok || app.ErrorCode != closeRevoked {
		t.Error(err)
	}
	_, err = p.west.DialExchange(t.Context(), east, p.east.Addr().String())
	if federation.CodeOf(err) != federation.CodePeerRefusesUs || !strings.Contains(err.Error(), "tradewind peer remove east;") {
		t.Errorf("dialled again: %v", err)
	}
}

// handmadeFor is a TLS connection of a peer that speaks proto by hand.
func handmadeFor(t *testing.T, p *pair, proto string) *tls.Conn {
	t.Helper()
	conf, err := p.west.trust.ClientTLS(east, proto)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", p.east.Addr().String(), conf)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
	return conn
}

func TestGarbageInTheExchangeOverTCP(t *testing.T) {
	p, dialled, _ := exchangingTCP(t)
	hello := frame(frameHello, helloVersion, nil)
	bulk := bytes.Repeat(frame(frameRow, uint64(exchange.LaneBulk), make([]byte, exchange.MaxFrame)), laneTokens/tokensOf(exchange.MaxFrame)+1)
	for what, b := range map[string][]byte{
		"no frame":           []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
		"no greeting":        frame(frameRow, 0, []byte("head")),
		"a flow's lane":      frame(frameLane, helloVersion, make([]byte, laneIDLen+1)),
		"long control frame": append(hello, frame(frameRow, 0, make([]byte, exchange.MaxControlFrame+1))...),
		"long bulk frame":    append(hello, flow.Header{Type: frameRow, Offset: 4, Length: exchange.MaxFrame + 1}.Append(nil)...),
		"empty frame":        append(hello, frame(frameRow, 0, nil)...),
		"no such lane":       append(hello, frame(frameRow, lanes, []byte("x"))...),
		"beyond the window":  append(hello, bulk...),
		"tokens of nobody":   append(hello, frame(frameTaken, 1<<8, nil)...),
		"tokens of no lane":  append(hello, frame(frameTaken, 1<<8|lanes, nil)...),
		"many tokens":        append(hello, frame(frameTaken, 1<<60, nil)...),
		"tokens with a body": append(hello, frame(frameTaken, 0, []byte("x"))...),
		"ping":               append(hello, frame(framePing, 1, nil)...),
		"long farewell":      append(hello, frame(frameClose, 1, make([]byte, maxCloseReason+1))...),
	} {
		conn := handmadeFor(t, p, protoExchange)
		_, _ = conn.Write(b)
		if e := farewellOf(t, conn); e.ErrorCode != closeProtocol {
			t.Errorf("%s: %v", what, e)
		}
	}
	if err := dialled.Send(t.Context(), exchange.LaneControl, []byte("nobody else is disturbed")); err != nil {
		t.Error(err)
	}
}

func TestStrangersOnTheExchangeOverTCP(t *testing.T) {
	p, _, _ := exchangingTCP(t)
	unknown := newAuthority(t, "north")
	introduce(t, unknown, p.east.trust) // it knows east; then east forgets it
	p.east.trust.distrust(t, "north")
	foreign, err := unknown.ClientTLS(east, protoExchange)
	if err != nil {
		t.Fatal(err)
	}
	bare := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protoExchange}, MinVersion: tls.VersionTLS13}
	several := bare.Clone()
	several.NextProtos = []string{protoJoin, protoExchange} // no offer leads past the certificate
	h3 := bare.Clone()
	h3.NextProtos = []string{"h3"}
	for name, conf := range map[string]*tls.Config{"unknown region": foreign, "no certificate": bare, "several protocols": several, "another": h3} {
		conn, err := tls.Dial("tcp", p.east.Addr().String(), conf)
		if err == nil {
			_, _ = conn.Write(frame(frameHello, helloVersion, nil))
			_ = conn.SetReadDeadline(time.Now().Add(10 * time.Second))
			_, err = readHeader(conn)
			_ = conn.Close()
		}
		var timeout net.Error
		if err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSlowHandshakeOverTCP has strangers that begin and do not go on: a handshake, an exchange, a join.
func TestSlowHandshakeOverTCP(t *testing.T) {
	p, _, _ := exchangingTCP(t)
	start := time.Now()
	mute, err := net.Dial("tcp", p.east.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer mute.Close()
	_, _ = mute.Write([]byte{22, 3, 1}) // the beginning of a record
	silent := handmadeFor(t, p, protoExchange)
	for _, conn := range []net.Conn{mute, silent} {
		_ = conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		_, err := io.Copy(io.Discard, conn)
		if timeout, ok := is[net.Error](err); ok && timeout.Timeout() {
			t.Errorf("still there after %v", time.Since(start))
		}
	}
}

func TestJoinOverTCP(t *testing.T) {
	exported := make(chan []byte, 2)
	p, _, _ := exchangingTCPWith(t, func(_ context.Context, _ string, exporter, request []byte) ([]byte, error) {
		exported <- bytes.Clone(exporter)
		if string(request) == "again" {
			return nil, errors.New("the token has been used")
		}
		return request, nil
	})
	at, pin := p.east.Addr().String(), p.east.trust.RootPin()
	var mine []byte
	big := bytes.Repeat([]byte("r"), maxQuestion)
	reply, err := p.west.DialJoin(t.Context(), at, pin, func(exporter []byte) ([]byte, error) {
		mine = bytes.Clone(exporter)
		return big, nil
	})
	if err != nil || !bytes.Equal(reply, big) {
		t.Fatalf("%d octets, %v", len(reply), err)
	}
	if theirs := <-exported; len(mine) != exporterLength || !bytes.Equal(mine, theirs) {
		t.Errorf("exported %x here and %x there", mine, theirs)
	}
	_, err = p.west.DialJoin(t.Context(), at, pin, func([]byte) ([]byte, error) { return []byte("again"), nil })
	if federation.CodeOf(err) != federation.CodeGatewayRefused || !strings.Contains(err.Error(), "the token has been used") {
		t.Errorf("refused: %v", err)
	}
	_, err = p.west.DialJoin(t.Context(), at, [32]byte{1}, func([]byte) ([]byte, error) { return nil, errors.New("asked") })
	if federation.CodeOf(err) != "TW-2208" {
		t.Errorf("wrong pin: %v", err)
	}
}

// TestJoinerOverTCPHasLittleToTake has one address hold as many joins as it may, and then one more.
func TestJoinerOverTCPHasLittleToTake(t *testing.T) {
	p, _, _ := exchangingTCP(t)
	conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{protoJoin}, MinVersion: tls.VersionTLS13}
	dial := func() *tls.Conn {
		conn, err := tls.Dial("tcp", p.east.Addr().String(), conf)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = conn.Close() })
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		return conn
	}
	joins := p.east.doors[0].gates[classJoin]
	for n := 1; n <= joins.perSource; n++ {
		dial()
		soon(t, func() bool {
			joins.mu.Lock()
			defer joins.mu.Unlock()
			return joins.admitted == n
		})
	}
	if e := farewellOf(t, dial()); e.ErrorCode != closeCrowded {
		t.Errorf("one too many: %v", e)
	}
	if s, err := p.west.DialExchange(t.Context(), east, p.east.Addr().String()); err != nil {
		t.Errorf("joins crowd out the exchange: %v", err)
	} else {
		s.Close(0, "")
	}
}

func TestGarbageInAJoinOverTCP(t *testing.T) {
	p, _, _ := exchangingTCP(t)
	conf := p.west.trust.JoinTLS(p.east.trust.RootPin())
	for what, b := range map[string][]byte{
		"no frame":     []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
		"greeting":     frame(frameHello, helloVersion, make([]byte, laneIDLen)),
		"long request": flow.Header{Type: frameAsk, Length: maxQuestion + 1}.Append(nil),
	} {
		conn, err := tls.Dial("tcp", p.east.Addr().String(), conf)
		if err != nil {
			t.Fatal(err)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, _ = conn.Write(b)
		if e := farewellOf(t, conn); e.ErrorCode != closeProtocol {
			t.Errorf("%s: %v", what, e)
		}
		_ = conn.Close()
	}
}

// TestBrokenExchangeOverTCP has the connection end without a word.
func TestBrokenExchangeOverTCP(t *testing.T) {
	_, dialled, accepted := exchangingTCP(t)
	l := dialled.link.(*exchangeTCP)
	_ = l.c.tcp.SetLinger(0)
	_ = l.c.tcp.Close()
	for _, s := range []*ExchangeSession{dialled, accepted} {
		_, _, err := s.Receive(t.Context())
		if !errors.Is(err, net.ErrClosed) && !errors.Is(err, syscall.ECONNRESET) || !strings.Contains(err.Error(), "the connection broke") {
			t.Error(err)
		}
	}
}

func FuzzExchangeOverTCP(f *testing.F) {
	f.Add(frame(frameRow, 0, []byte("head")))
	f.Add(frame(frameTaken, 1<<8|4, nil))
	f.Add(frame(frameClose, 7, []byte("gateway stops")))
	f.Add(frame(frameRow, 4, make([]byte, exchange.MaxFrame)))
	f.Fuzz(func(t *testing.T, b []byte) {
		l := &exchangeTCP{}
		s := &ExchangeSession{link: l}
		for n := range s.in {
			s.in[n] = make(chan []byte, laneTokens)
			s.out[n].tokens = make(chan struct{}, laneTokens)
		}
		if err := l.read(bytes.NewReader(b), s); err == nil {
			t.Error("it went on beyond the end")
		}
		held := 0
		for n := range s.in {
			for len(s.in[n]) > 0 {
				held += len(<-s.in[n])
			}
		}
		if held > len(b) || held > lanes*laneTokens*tokenSize {
			t.Errorf("%d octets were kept of %d", held, len(b))
		}
	})
}
