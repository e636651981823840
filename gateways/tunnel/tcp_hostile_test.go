package tunnel

import (
	"bytes"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// handmade is a TLS connection of a peer that speaks the protocol by hand.
func handmade(t *testing.T, p *pair) *tls.Conn {
	t.Helper()
	conf, err := p.west.trust.ClientTLS(east, protoLane)
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

func frame(t flow.Type, number uint64, body []byte) []byte {
	return append(flow.Header{Type: t, Offset: number, Length: len(body)}.Append(nil), body...)
}

// farewellOf reads frames until the other end says why it closes.
func farewellOf(t *testing.T, conn net.Conn) *quic.ApplicationError {
	t.Helper()
	for {
		h, err := readHeader(conn)
		if err != nil {
			t.Errorf("closed without a word: %v", err)
			return &quic.ApplicationError{}
		}
		body := make([]byte, h.Length)
		if _, err := io.ReadFull(conn, body); err != nil {
			t.Error(err)
		}
		if h.Type == frameClose {
			return closedBy(h, body)
		}
	}
}

func TestGarbageOverTCP(t *testing.T) {
	p := overTCP(t, nil)
	name := make([]byte, laneIDLen)
	for what, b := range map[string][]byte{
		"no frame":              []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
		"ping first":            frame(framePing, 1, nil),
		"flow first":            openFrame(t, ownSource),
		"nameless session":      frame(frameHello, helloVersion, nil),
		"old session":           frame(frameHello, 0, name),
		"long greeting":         frame(frameHello, helloVersion, make([]byte, maxControl+1)),
		"lane of nothing":       frame(frameLane, helloVersion, nil),
		"lane of nobody":        frame(frameLane, helloVersion, append(name, 1)),
		"control frame too big": append(frame(frameHello, helloVersion, name), frame(99, 0, make([]byte, maxControl+1))...),
	} {
		conn := handmade(t, p)
		_, _ = conn.Write(b)
		if e := farewellOf(t, conn); e.ErrorCode != closeProtocol {
			t.Errorf("%s: %v", what, e)
		}
	}
	if err := speak(t.Context(), p.west, east, []byte("nobody else is disturbed")); err != nil {
		t.Error(err)
	}
}

func TestSessionNameIsTaken(t *testing.T) {
	p := overTCP(t, nil)
	id := tcpSessions(p.west, east)[0].link.(*tcpLink).pool.id.id
	conn := handmade(t, p)
	_, _ = conn.Write(frame(frameHello, helloVersion, id[:]))
	if e := farewellOf(t, conn); e.ErrorCode != closeProtocol {
		t.Error(e)
	}
	if err := speak(t.Context(), p.west, east, []byte("the session that has it goes on")); err != nil {
		t.Error(err)
	}
}

// TestGreedyPeer makes more lanes than it may, of both owners, and asks for more than there are.
func TestGreedyPeer(t *testing.T) {
	p := overTCP(t, nil)
	theirs := tcpSessions(p.east, west)[0].link.(*tcpLink).pool
	p.east.peer(west).lent.Add(maxPeerLanes) // as if it had them
	conn := handmade(t, p)
	_, _ = conn.Write(frame(frameLane, helloVersion, append(theirs.id.id[:], 1)))
	if e := farewellOf(t, conn); e.ErrorCode != closeCrowded {
		t.Error(e)
	}
	p.east.peer(west).lent.Add(-maxPeerLanes)
	mine := tcpSessions(p.west, east)[0].link.(*tcpLink).pool
	mine.onWant(1 << 40)
	mine.mu.Lock()
	if mine.wanted != maxLanes {
		t.Errorf("%d lanes for the other end", mine.wanted)
	}
	mine.wanted = minIdle
	mine.mu.Unlock()
}

// TestTalkOnAnIdleLane has the end that does not own a lane put bytes on it: the owner must not take it for a flow.
func TestTalkOnAnIdleLane(t *testing.T) {
	p := overTCP(t, nil)
	pool := tcpSessions(p.east, west)[0].link.(*tcpLink).pool
	pool.mu.Lock()
	var theirs *lane // owned by west
	for l := range pool.lanes {
		if !l.owned {
			theirs = l
		}
	}
	pool.mu.Unlock()
	before := p.west.peer(east).died.Load()
	_, _ = theirs.Write(openFrame(t, "spiffe://east.mesh.internal/ns/default/svc/web"))
	soon(t, func() bool { return p.west.peer(east).died.Load() > before }) // the look at idle lanes finds it
	if n := p.west.Path(east).Flows; n != 0 {
		t.Errorf("%d flows were started", n)
	}
}

// TestGarbageOnALane ends the lane, and nothing else.
func TestGarbageOnALane(t *testing.T) {
	p := overTCP(t, nil)
	c, err := tcpSessions(p.west, east)[0].openCarrier()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = c.Write([]byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"))
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("the lane ended with %v", err)
	}
	c.cancel(flow.ResetAborted)
	if err := speak(t.Context(), p.west, east, []byte("on another")); err != nil {
		t.Error(err)
	}
}

func TestWhyThereIsNoTCP(t *testing.T) {
	g := startGateway(t, east, listenUDP(t), func(c *Config) { c.Lanes = []string{LaneQUIC} })
	defer g.shut(t)
	if g.TCPAddr() != nil {
		t.Fatalf("TCP is bound at %v", g.TCPAddr())
	}
	w := startGateway(t, west, listenUDP(t), nil)
	defer w.shut(t)
	introduce(t, g.trust, w.trust)
	<-w.reading
	_, err := w.dialLanes(t.Context(), way{east, g.Addr().String(), kindTCP, 0}, handshakeLimit)
	if d, ok := is[*federation.Diagnostic](err); !ok || d.Code != federation.CodeLaneSilent || d.Fix == "" {
		t.Errorf("%v", err)
	}
}

func FuzzFirstFrame(f *testing.F) {
	f.Add(frame(frameHello, helloVersion, make([]byte, laneIDLen)))
	f.Add(frame(frameClose, 7, []byte("gateway stops")))
	f.Add(frame(frameClose, 7, make([]byte, maxCloseReason+1)))
	f.Add(frame(frameHello, helloVersion, make([]byte, maxControl+1)))
	f.Fuzz(func(t *testing.T, b []byte) {
		body, err := readGreeting(bytes.NewReader(b))
		if len(body) > maxControl || err == nil && len(b) < flow.HeaderLen {
			t.Errorf("%d octets of greeting from %d, %v", len(body), len(b), err)
		}
		var app *quic.ApplicationError
		if errors.As(err, &app) && (!app.Remote || len(app.ErrorMessage) > maxCloseReason) {
			t.Errorf("%+v", app)
		}
	})
}
