package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

// exchanging runs f with both ends of an exchange session that west has dialled.
func exchanging(t *testing.T, f func(t *testing.T, p *pair, dialled, accepted *ExchangeSession)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(oneWay)
		p := &pair{net: n}
		a, b := n.node(), n.node()
		if err := n.sim.Start(); err != nil {
			t.Fatal(err)
		}
		defer n.sim.Close()
		sessions := make(chan *ExchangeSession, 1)
		p.east = startGateway(t, east, a, func(c *Config) {
			c.OnExchange = func(ctx context.Context, peer federation.Region, s *ExchangeSession) {
				if peer != west {
					t.Errorf("a session of %s", peer)
				}
				sessions <- s
				<-s.Done()
			}
		})
		defer p.east.shut(t)
		p.west = startGateway(t, west, b, nil)
		defer p.west.shut(t)
		introduce(t, p.east.trust, p.west.trust)
		dialled, err := p.west.DialExchange(t.Context(), east, "192.0.2.1:8443")
		if err != nil {
			t.Fatal(err)
		}
		f(t, p, dialled, <-sessions)
	})
}

func TestExchangeCarriesEveryLaneBothWays(t *testing.T) {
	exchanging(t, func(t *testing.T, p *pair, dialled, accepted *ExchangeSession) {
		if dialled.Peer().Path() != "/gw/gw-1" || dialled.RemoteAddr() != "192.0.2.1:8443" || accepted.Region() != west {
			t.Errorf("%v at %s, %v", dialled.Peer(), dialled.RemoteAddr(), accepted.Region())
		}
		for _, ends := range [][2]*ExchangeSession{{dialled, accepted}, {accepted, dialled}} {
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
		if err := dialled.Send(t.Context(), exchange.LaneControl, make([]byte, exchange.MaxControlFrame+1)); err == nil {
			t.Error("a control frame that is too long was sent")
		}
		accepted.Close(42, "done")
		_, _, err := dialled.Receive(t.Context())
		if app, ok := is[*quic.ApplicationError](err); !ok || app.ErrorCode != 42 || !strings.Contains(err.Error(), `"done"`) {
			t.Errorf("after the end: %v", err)
		}
		if err := dialled.Send(t.Context(), exchange.LaneControl, []byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("send after the end: %v", err)
		}
	})
}

func TestBlockedLaneDoesNotStopControl(t *testing.T) {
	exchanging(t, func(t *testing.T, p *pair, dialled, accepted *ExchangeSession) {
		ctx, cancel := context.WithCancel(t.Context())
		for lane := exchange.LaneUrgent; lane <= exchange.LaneBulk; lane++ { // nobody reads: every lane fills up
			go func() {
				for dialled.Send(ctx, lane, make([]byte, exchange.MaxFrame)) == nil {
				}
			}()
		}
		<-time.After(5 * time.Second)
		if err := dialled.Send(t.Context(), exchange.LaneControl, []byte("head")); err != nil {
			t.Fatal(err)
		}
		<-time.After(rtt)
		if lane, b, err := accepted.Receive(t.Context()); lane != exchange.LaneControl || string(b) != "head" || err != nil {
			t.Errorf("%d octets on %v, %v", len(b), lane, err)
		}
		cancel()
	})
}

func TestSendEndsWithItsContext(t *testing.T) {
	exchanging(t, func(t *testing.T, p *pair, dialled, accepted *ExchangeSession) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		var err error
		for err == nil {
			err = dialled.Send(ctx, exchange.LaneBulk, make([]byte, exchange.MaxFrame))
		}
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

func TestExchangeFrameTooLong(t *testing.T) {
	sessions := func(c *Config) {
		c.OnExchange = func(ctx context.Context, _ federation.Region, s *ExchangeSession) { <-s.Done() }
	}
	for name, attack := range map[string]func(conn *quic.Conn, control *quic.Stream){
		"control": func(_ *quic.Conn, control *quic.Stream) {
			_, _ = control.Write(binary.BigEndian.AppendUint32(nil, exchange.MaxControlFrame+1))
		},
		"bulk": func(conn *quic.Conn, _ *quic.Stream) {
			s, _ := conn.OpenUniStream()
			_, _ = s.Write(binary.BigEndian.AppendUint32([]byte{byte(exchange.LaneBulk)}, exchange.MaxFrame+1))
		},
		"empty": func(_ *quic.Conn, control *quic.Stream) { _, _ = control.Write(make([]byte, 4)) },
		"no lane": func(conn *quic.Conn, _ *quic.Stream) {
			s, _ := conn.OpenUniStream()
			_, _ = s.Write([]byte{9})
		},
		"lane twice": func(conn *quic.Conn, _ *quic.Stream) {
			for range 2 {
				s, _ := conn.OpenUniStream()
				_, _ = s.Write([]byte{1})
			}
		},
		"end of control": func(_ *quic.Conn, control *quic.Stream) { _ = control.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			meetStranger(t, sessions, func(t *testing.T, g *gateway, s *stranger) {
				conn, err := s.dial(t, classExchange, protoExchange)
				if err != nil {
					t.Fatal(err)
				}
				control, _ := conn.OpenStream()
				_, _ = control.Write([]byte{0})
				attack(conn, control)
				<-conn.Context().Done()
				if app, ok := is[*quic.ApplicationError](context.Cause(conn.Context())); !ok || app.ErrorCode != closeProtocol {
					t.Errorf("ended with %v", context.Cause(conn.Context()))
				}
			})
		})
	}
}

func TestRejectedCertificateIsADialError(t *testing.T) {
	exchanging(t, func(t *testing.T, p *pair, dialled, accepted *ExchangeSession) {
		p.east.trust.distrust(t, west)
		_, err := p.west.DialExchange(t.Context(), east, "192.0.2.1:8443")
		if federation.CodeOf(err) != federation.CodePeerRefusesUs || !strings.Contains(err.Error(), "refused this gateway's certificate") ||
			!strings.Contains(err.Error(), "tradewind peer remove east;") {
			t.Errorf("%v", err)
		}
		if n := p.east.Rejudge(); n != 1 {
			t.Errorf("%d sessions closed", n)
		}
		if _, _, err := dialled.Receive(t.Context()); err == nil {
			t.Error("the session goes on")
		}
	})
}
