package tunnel

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// A stranger is a peer that speaks the protocol by hand: its connections have the right certificate and nothing else.
type stranger struct {
	*socket
	trust *authority
}

// meetStranger runs f with a gateway, and a stranger that the gateway takes for region west.
func meetStranger(t *testing.T, change func(*Config), f func(t *testing.T, g *gateway, s *stranger)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(oneWay)
		a, b := n.node(), n.node()
		if err := n.sim.Start(); err != nil {
			t.Fatal(err)
		}
		defer n.sim.Close()
		g := startGateway(t, east, a, change)
		defer g.shut(t)
		s := &stranger{socket: newSocket(b), trust: newAuthority(t, west)}
		defer s.close()
		// The flow class reads the socket for all.
		if _, err := s.transports[classFlow].Listen(s.trust.ServerTLS(protoFlow), quicConfig(classFlow, false)); err != nil {
			t.Fatal(err)
		}
		introduce(t, g.trust, s.trust)
		f(t, g, s)
	})
}

func (s *stranger) dial(t *testing.T, c class, proto string) (*quic.Conn, error) {
	t.Helper()
	conf, err := s.trust.ClientTLS(east, proto)
	if err != nil {
		t.Fatal(err)
	}
	quicConf := quicConfig(c, true)
	return s.transports[c].Dial(t.Context(), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1).To4(), Port: 8443}, conf, quicConf)
}

// session dials and greets.
func (s *stranger) session(t *testing.T) *quic.Conn {
	t.Helper()
	conn, err := s.dial(t, classFlow, protoFlow)
	if err != nil {
		t.Fatal(err)
	}
	control, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = control.Write(flow.Header{Type: frameHello, Offset: helloVersion}.Append(nil))
	if h, err := readHeader(control); err != nil || h.Type != frameHello {
		t.Fatalf("greeting %+v, %v", h, err)
	}
	go func() { // answers pings, or the gateway would end the session
		for {
			h, err := readHeader(control)
			if err != nil {
				return
			}
			_, _ = io.CopyN(io.Discard, control, int64(h.Length))
			if h.Type == framePing {
				_, _ = control.Write(flow.Header{Type: framePong, Offset: h.Offset}.Append(nil))
			}
		}
	}()
	return conn
}

// say opens a stream, writes b, and returns what the gateway makes of it.
func say(t *testing.T, conn *quic.Conn, b []byte) (answer []byte, code quic.StreamErrorCode) {
	t.Helper()
	stream, err := conn.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	_, _ = stream.Write(b)
	answer, err = io.ReadAll(stream)
	var reset *quic.StreamError
	if errors.As(err, &reset) {
		code = reset.ErrorCode
	}
	return answer, code
}

func openFrame(t *testing.T, source string) []byte {
	t.Helper()
	out := flow.NewOut(flow.Opener)
	o := flow.Open{Source: spiffeid.RequireFromString(source), Service: "default/echo"}
	_, _ = crand.Read(o.ID[:])
	if err := out.Open(o); err != nil {
		t.Fatal(err)
	}
	b, _ := out.Next(&flow.Way{ID: 1}, nil)
	return b
}

const ownSource = "spiffe://west.mesh.internal/ns/default/svc/web"

func TestForeignSourceIsRefusedAtTheDoor(t *testing.T) {
	var served atomic.Int64
	count := func(c *Config) {
		c.OnFlow = func(_ context.Context, in *Incoming) { served.Add(1); _ = in.Refuse(1, "") }
	}
	meetStranger(t, count, func(t *testing.T, g *gateway, s *stranger) {
		conn := s.session(t)
		for _, source := range []string{"spiffe://east.mesh.internal/ns/default/svc/web", "spiffe://other.example.com/ns/default/svc/web"} {
			b, _ := say(t, conn, openFrame(t, source))
			in := flow.NewIn(flow.Opener)
			h := flow.ParseHeader(b)
			var at flow.Place
			if err := in.Header(&at, h); err != nil {
				t.Fatal(err)
			}
			e, err := in.Body(&at, h, b[flow.HeaderLen:flow.HeaderLen+h.Length])
			if err != nil || e.Refusal != flow.RefusedMalformed {
				t.Errorf("%s: %+v, %v", source, e, err)
			}
		}
		if served.Load() != 0 || g.counts.foreign.Load() != 2 {
			t.Errorf("served %d, counted %d", served.Load(), g.counts.foreign.Load())
		}
		say(t, conn, openFrame(t, ownSource))
		if served.Load() != 1 {
			t.Errorf("the right source was served %d times", served.Load())
		}
	})
}

func TestGarbageEndsTheStreamOnly(t *testing.T) {
	meetStranger(t, func(c *Config) { c.OnFlow = echo }, func(t *testing.T, g *gateway, s *stranger) {
		conn := s.session(t)
		long := flow.Header{Type: flow.TypeOpen, Length: flow.MaxOpen + 1}.Append(nil)
		for name, b := range map[string][]byte{
			"no frame":           []byte("GET / HTTP/1.1\r\nHost: example.com\r\n\r\n"),
			"OPEN too long":      append(long, make([]byte, flow.MaxOpen+1)...),
			"OPEN without sense": append(flow.Header{Type: flow.TypeOpen, Length: 40}.Append(nil), make([]byte, 40)...),
			"DATA before OPEN":   flow.Header{Type: flow.TypeData, Length: 5}.Append(nil),
			"question too long":  flow.Header{Type: frameAsk, Length: maxQuestion + 1}.Append(nil),
			"gap": append(openFrame(t, ownSource),
				append(flow.Header{Type: flow.TypeData, Length: 1, Offset: flow.MaxAhead + 1}.Append(nil), 'x')...),
			"overlap": append(append(openFrame(t, ownSource), append(flow.Header{Type: flow.TypeData, Length: 2}.Append(nil), "ab"...)...),
				append(flow.Header{Type: flow.TypeData, Length: 2, Offset: 1}.Append(nil), "bc"...)...),
			"bytes behind FIN": append(append(openFrame(t, ownSource), flow.Header{Type: flow.TypeFin}.Append(nil)...),
				append(flow.Header{Type: flow.TypeData, Length: 1}.Append(nil), 'x')...),
			"empty DATA": append(openFrame(t, ownSource), flow.Header{Type: flow.TypeData}.Append(nil)...),
		} {
			answer, code := say(t, conn, b)
			if name == "bytes behind FIN" { // the flow has ended by then: nobody reads them
				if code != 0 {
					t.Errorf("%s: code %d", name, code)
				}
				continue
			}
			if code != quic.StreamErrorCode(flow.ResetProtocol) {
				t.Errorf("%s: %d octets and code %d", name, len(answer), code)
			}
		}
		if conn.Context().Err() != nil {
			t.Errorf("the session ended: %v", context.Cause(conn.Context()))
		}
		eventually(t, func() bool { return g.Path(west).Flows == 0 })
		if n := len((*g.peer(west).table.Load())[0].pending); n != 0 {
			t.Errorf("%d streams are still pending", n)
		}
	})
}

func TestSlowOpenIsNotWaitedFor(t *testing.T) {
	meetStranger(t, nil, func(t *testing.T, g *gateway, s *stranger) {
		conn := s.session(t)
		start := time.Now()
		_, code := say(t, conn, openFrame(t, ownSource)[:20])
		if took := time.Since(start); took != openLimit+rtt || code != quic.StreamErrorCode(flow.ResetProtocol) {
			t.Errorf("given up after %v with %d", took, code)
		}
	})
}

func TestUnfinishedOpensHoldUpTheirOwnPeer(t *testing.T) {
	meetStranger(t, func(c *Config) { c.OnFlow = echo }, func(t *testing.T, g *gateway, s *stranger) {
		conn := s.session(t)
		part := openFrame(t, ownSource)[:13]
		for range maxPending {
			stream, err := conn.OpenStream()
			if err != nil {
				t.Fatal(err)
			}
			_, _ = stream.Write(part)
		}
		<-time.After(time.Second)
		start := time.Now()
		answer, code := say(t, conn, append(openFrame(t, ownSource), flow.Header{Type: flow.TypeFin}.Append(nil)...))
		if code != 0 || len(answer) == 0 || time.Since(start) > openLimit || time.Since(start) < openLimit/2 {
			t.Errorf("%d octets and code %d after %v", len(answer), code, time.Since(start))
		}
	})
}

func TestSessionThatDoesNotGreet(t *testing.T) {
	for name, hello := range map[string][]byte{
		"silent":  {0},
		"garbage": []byte("GET / HTTP/1.1\r\n\r\n"),
		"old":     flow.Header{Type: frameHello}.Append(nil),
	} {
		t.Run(name, func(t *testing.T) {
			meetStranger(t, nil, func(t *testing.T, g *gateway, s *stranger) {
				conn, err := s.dial(t, classFlow, protoFlow)
				if err != nil {
					t.Fatal(err)
				}
				stream, _ := conn.OpenStream()
				start := time.Now()
				_, _ = stream.Write(hello)
				<-conn.Context().Done()
				if took := time.Since(start); took > openLimit+rtt {
					t.Errorf("closed after %v", took)
				}
				if g.Path(west).Sessions != 0 {
					t.Error("it counts as a session")
				}
			})
		})
	}
}

func TestControlFrameTooLong(t *testing.T) {
	meetStranger(t, nil, func(t *testing.T, g *gateway, s *stranger) {
		conn, err := s.dial(t, classFlow, protoFlow)
		if err != nil {
			t.Fatal(err)
		}
		control, _ := conn.OpenStream()
		_, _ = control.Write(flow.Header{Type: frameHello, Offset: helloVersion}.Append(nil))
		_, _ = control.Write(flow.Header{Type: 99, Length: 3}.Append(nil))
		_, _ = control.Write([]byte("new")) // of a later version: skipped
		_, _ = control.Write(flow.Header{Type: framePing, Offset: 5}.Append(nil))
		for {
			h, err := readHeader(control)
			if err != nil {
				t.Fatal(err)
			}
			if h.Type == framePong && h.Offset == 5 {
				break
			}
		}
		_, _ = control.Write(flow.Header{Type: 99, Length: maxControl + 1}.Append(nil))
		<-conn.Context().Done()
		if app, ok := is[*quic.ApplicationError](context.Cause(conn.Context())); !ok || app.ErrorCode != closeProtocol {
			t.Errorf("ended with %v", context.Cause(conn.Context()))
		}
	})
}

func TestPeerThatAnswersNoPing(t *testing.T) {
	meetStranger(t, nil, func(t *testing.T, g *gateway, s *stranger) {
		conn, err := s.dial(t, classFlow, protoFlow)
		if err != nil {
			t.Fatal(err)
		}
		control, _ := conn.OpenStream()
		_, _ = control.Write(flow.Header{Type: frameHello, Offset: helloVersion}.Append(nil))
		start := time.Now()
		eventually(t, func() bool { return g.Path(west).Up })
		<-conn.Context().Done()
		if took := time.Since(start); took < pongLimit || took > pongLimit+200*time.Millisecond {
			t.Errorf("its packets kept it alive for %v", took)
		}
	})
}

func TestCrowdOfHandshakesIsServed(t *testing.T) {
	meetStranger(t, nil, func(t *testing.T, g *gateway, s *stranger) {
		const crowd = 40
		start := time.Now()
		took := make(chan time.Duration, crowd)
		for range crowd {
			go func() {
				_, err := s.dial(t, classFlow, protoFlow)
				if err != nil {
					t.Error(err)
				}
				took <- time.Since(start)
			}()
		}
		direct := 0
		for range crowd {
			if <-took == 2*oneWay {
				direct++
			}
		}
		if direct == 0 || direct > unvalidatedLimit {
			t.Errorf("%d of %d were served without proof of their address", direct, crowd)
		}
	})
}

func TestOneProtocolAClass(t *testing.T) {
	meetStranger(t, nil, func(t *testing.T, g *gateway, s *stranger) {
		for _, c := range []class{classFlow, classExchange, classJoin} {
			for _, proto := range []string{protoFlow, protoExchange, protoJoin, "h3"} {
				if proto == c.String() {
					continue
				}
				_, err := s.dial(t, c, proto)
				if e, ok := is[*quic.TransportError](err); !ok || e.ErrorCode != cryptoError+alertNoProtocol {
					t.Errorf("%s offered where %v is spoken: %v", proto, c, err)
				}
			}
		}
	})
}

func TestNobodyWithoutACertificate(t *testing.T) {
	meetStranger(t, func(c *Config) {
		c.OnExchange = func(context.Context, federation.Region, *ExchangeSession) { t.Error("a session without identity") }
	}, func(t *testing.T, g *gateway, s *stranger) {
		for _, c := range []class{classFlow, classExchange} {
			conf := &tls.Config{InsecureSkipVerify: true, NextProtos: []string{c.String()}, MinVersion: tls.VersionTLS13}
			conn, err := s.transports[c].Dial(t.Context(), &net.UDPAddr{IP: net.IPv4(192, 0, 2, 1).To4(), Port: 8443}, conf, quicConfig(c, true))
			if err == nil {
				<-conn.Context().Done()
				err = context.Cause(conn.Context())
			}
			if e, ok := is[*quic.TransportError](err); !ok || e.ErrorCode != cryptoError+alertCertRequired {
				t.Errorf("%v without a certificate: %v", c, err)
			}
		}
	})
}

func TestDialErrorsSayWhy(t *testing.T) {
	meetStranger(t, nil, func(t *testing.T, g *gateway, s *stranger) {
		north := newAuthority(t, "north")
		introduce(t, g.trust, north)
		if _, err := s.transports[classExchange].Listen(s.trust.ServerTLS(protoExchange), quicConfig(classExchange, false)); err != nil {
			t.Fatal(err)
		}
		for name, c := range map[string]struct {
			peer    federation.Region
			address string
			want    string
		}{
			"nobody there": {west, "192.0.2.99:8443", "no answer in 5s: is UDP blocked"},
			"no port":      {west, "192.0.2.1", "host:port"},
			"bad port":     {west, "192.0.2.1:http", "not a port"},
			"no name":      {west, "gateway.invalid:8443", "does not resolve"},
			"wrong region": {"north", "192.0.2.2:8443", "west.mesh.internal"},
			"itself":       {west, "192.0.2.1:8443", "east.mesh.internal"},
		} {
			_, err := g.DialExchange(t.Context(), c.peer, c.address)
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), c.address) || federation.CodeOf(err) == "" {
				t.Errorf("%s: %v", name, err)
			}
		}
		if _, err := g.DialExchange(t.Context(), "south", "192.0.2.2:8443"); err == nil || !strings.Contains(err.Error(), "south") {
			t.Errorf("no such peer: %v", err)
		}
	})
}
