package tunnel

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// dialled is a connection that a scripted attempt makes.
type dialled struct {
	kind  kind
	drops *int
}

// outcome is what a scripted attempt comes to.
type outcome struct {
	after time.Duration
	err   error
}

func (o outcome) attempt(k kind, drops *int, begun *[2]time.Time) func(context.Context) (dialled, error) {
	return func(ctx context.Context) (dialled, error) {
		begun[k] = time.Now()
		select {
		case <-time.After(o.after):
			return dialled{k, drops}, o.err
		case <-ctx.Done():
			if o.err == nil && o.after == never { // it came up at the moment at which it was not needed any more
				return dialled{k, drops}, nil
			}
			return dialled{}, &federation.Diagnostic{Code: federation.CodeGatewaySilent, Why: "given up"}
		}
	}
}

const never = time.Hour

func TestQUICGoesFirst(t *testing.T) {
	silent := &federation.Diagnostic{Code: federation.CodeGatewaySilent, Why: "no answer to UDP", Fix: "open UDP"}
	unheard := &federation.Diagnostic{Code: federation.CodeLaneSilent, Why: "no answer to TCP", Fix: "open TCP"}
	stranger := &federation.Diagnostic{Code: federation.CodeGatewayTLS, Why: "wrong certificate", Fix: "peer again"}
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		quic, tcp outcome
		wins      kind
		code      federation.Code
		said      []string
		took      time.Duration
		tcpAfter  time.Duration // -1: never begun
		drops     int
	}{
		"QUIC within its head start": {quic: outcome{200 * ms, nil}, tcp: outcome{1, nil}, wins: kindQUIC, took: 200 * ms, tcpAfter: -1},
		"QUIC is late and yet first": {quic: outcome{400 * ms, nil}, tcp: outcome{never, errors.New("")}, wins: kindQUIC, took: 400 * ms, tcpAfter: headStart},
		"both, QUIC first":           {quic: outcome{400 * ms, nil}, tcp: outcome{never, nil}, wins: kindQUIC, took: 400 * ms, tcpAfter: headStart, drops: 1},
		"UDP is blocked":             {quic: outcome{never, silent}, tcp: outcome{50 * ms, nil}, wins: kindTCP, took: 350 * ms, tcpAfter: headStart},
		"both, TCP first":            {quic: outcome{never, nil}, tcp: outcome{50 * ms, nil}, wins: kindTCP, took: 350 * ms, tcpAfter: headStart, drops: 1},
		"UDP fails at once":          {quic: outcome{10 * ms, silent}, tcp: outcome{50 * ms, nil}, wins: kindTCP, took: 60 * ms, tcpAfter: 10 * ms},
		"neither": {quic: outcome{400 * ms, silent}, tcp: outcome{500 * ms, unheard}, took: 800 * ms, tcpAfter: headStart,
			code: federation.CodeGatewaySilent, said: []string{"over QUIC no answer to UDP; over TCP no answer to TCP", "open UDP; or open TCP"}},
		"a no over TCP": {quic: outcome{400 * ms, silent}, tcp: outcome{10 * ms, stranger}, took: 400 * ms, tcpAfter: headStart,
			code: federation.CodeGatewayTLS, said: []string{"no answer to UDP", "wrong certificate", "fix: peer again"}},
		"a no over QUIC": {quic: outcome{100 * ms, stranger}, tcp: outcome{1, nil}, took: 100 * ms, tcpAfter: -1,
			code: federation.CodeGatewayTLS, said: []string{"wrong certificate"}},
		"a late no over QUIC": {quic: outcome{600 * ms, stranger}, tcp: outcome{never, unheard}, took: 600 * ms, tcpAfter: headStart,
			code: federation.CodeGatewayTLS, said: []string{"wrong certificate"}},
	} {
		t.Run(name, func(t *testing.T) {
			g := &Transport{doors: []*tcpDoor{{}}}
			synctest.Test(t, func(t *testing.T) {
				drops := 0
				var begun [2]time.Time
				start := time.Now()
				got, err := either(t.Context(), g, "192.0.2.1:8443", attempts[dialled]{
					quic: c.quic.attempt(kindQUIC, &drops, &begun), tcp: c.tcp.attempt(kindTCP, &drops, &begun), drop: func(d dialled) { *d.drops++ },
				})
				if federation.CodeOf(err) != c.code || err == nil && got.kind != c.wins || drops != c.drops {
					t.Errorf("%v over %v, %d dropped", err, got.kind, drops)
				}
				for _, said := range c.said {
					if !strings.Contains(err.Error(), said) {
						t.Errorf("%v does not say %q", err, said)
					}
				}
				if took := time.Since(start); took != c.took {
					t.Errorf("it took %v", took)
				}
				if began := begun[kindTCP]; began.IsZero() != (c.tcpAfter < 0) || !began.IsZero() && began.Sub(start) != c.tcpAfter {
					t.Errorf("TCP began after %v", began.Sub(start))
				}
			})
		})
	}
}

// TestAllWithoutUDP has two gateways that allow TCP alone do all that gateways do.
func TestAllWithoutUDP(t *testing.T) {
	tcp := func(c *Config) { c.Lanes, c.Conns, c.Listen = []string{LaneTCP}, nil, "127.0.0.1:0" }
	e := startGateway(t, east, nil, func(c *Config) {
		tcp(c)
		c.OnFlow, c.OnExchange, c.OnJoin = echo, echoFrames, echoJoin
		c.OnAsk = func(_ context.Context, peer federation.Region, question []byte) []byte {
			return append(question, peer...)
		}
	})
	defer e.shut(t)
	w := startGateway(t, west, nil, tcp)
	defer w.shut(t)
	if len(e.sockets) != 0 || e.Addr().Network() != "tcp" || e.Addr() != e.TCPAddr() {
		t.Fatalf("%d UDP sockets, %v", len(e.sockets), e.Addr())
	}
	at := e.Addr().String()
	reply, err := w.DialJoin(t.Context(), at, e.trust.RootPin(), func([]byte) ([]byte, error) { return []byte("please"), nil })
	if err != nil || string(reply) != "please" {
		t.Errorf("join: %q, %v", reply, err)
	}
	introduce(t, e.trust, w.trust)
	s, err := w.DialExchange(t.Context(), east, at)
	if err != nil || s.Lane() != LaneTCP {
		t.Fatal(s, err)
	}
	if err := roundTrip(t.Context(), s, bytes.Repeat([]byte("b"), 60_000)); err != nil {
		t.Error(err)
	}
	s.Close(0, "")
	w.SetPeers([]federation.Peer{{Region: east, Gateways: []string{at}}})
	soon(t, func() bool { return idleLanes(w, east) > 0 })
	if err := speak(t.Context(), w, east, []byte("hello")); err != nil {
		t.Error(err)
	}
	if answer, err := w.Ask(t.Context(), east, []byte("who asks? ")); err != nil || string(answer) != "who asks? west" {
		t.Errorf("ask: %q, %v", answer, err)
	}
}

// TestBlockedUDP has a gateway whose UDP packets get no answer.
func TestBlockedUDP(t *testing.T) {
	e := startGateway(t, east, nil, func(c *Config) { // there is no UDP at its address
		c.Lanes, c.Conns, c.Listen, c.OnExchange, c.OnJoin = []string{LaneTCP}, nil, "127.0.0.1:0", echoFrames, echoJoin
	})
	defer e.shut(t)
	w := startGateway(t, west, listenUDP(t), nil)
	defer w.shut(t)
	reply, err := w.DialJoin(t.Context(), e.Addr().String(), e.trust.RootPin(), func([]byte) ([]byte, error) { return []byte("please"), nil })
	if err != nil || string(reply) != "please" {
		t.Errorf("join: %q, %v", reply, err)
	}
	introduce(t, e.trust, w.trust)
	s, err := w.DialExchange(t.Context(), east, e.Addr().String())
	if err != nil || s.Lane() != LaneTCP {
		t.Fatal(s, err)
	}
	s.Close(0, "")

	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	_, err = w.DialExchange(ctx, east, "127.0.0.1:9")
	if federation.CodeOf(err) != federation.CodeGatewaySilent || !strings.Contains(err.Error(), "over QUIC no answer") ||
		!strings.Contains(err.Error(), "over TCP nothing listens there") {
		t.Errorf("neither: %v", err)
	}
	only := startGateway(t, east, listenUDP(t), func(c *Config) { c.Lanes = []string{LaneQUIC} })
	defer only.shut(t)
	introduce(t, only.trust, newAuthority(t, west))
	limited, stop := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer stop()
	_, err = only.DialExchange(limited, west, "127.0.0.1:9")
	if federation.CodeOf(err) != federation.CodeGatewaySilent || !strings.Contains(err.Error(), `add "tcp" to mesh.lanes`) {
		t.Errorf("QUIC alone: %v", err)
	}
}

// TestAskGoesOnElsewhere has the sessions over QUIC die under a question.
func TestAskGoesOnElsewhere(t *testing.T) {
	var asked atomic.Int32
	answering := make(chan *gateway, 1)
	p := loopback(t, func(c *Config) {
		c.OnAsk = func(_ context.Context, _ federation.Region, question []byte) []byte {
			if asked.Add(1) > 1 {
				return question
			}
			for _, s := range (<-answering).sessions() {
				if s.link.kind() == kindQUIC {
					s.close(closeSilent, "UDP is blocked")
				}
			}
			return nil
		}
	})
	soon(t, func() bool {
		return idleLanes(p.west, east) > 0 && p.west.Path(east).QUIC == quicSessions && p.east.Path(west).QUIC == quicSessions
	})
	answering <- p.east
	if answer, err := p.west.Ask(t.Context(), east, []byte("still there?")); err != nil || string(answer) != "still there?" {
		t.Errorf("%q, %v, asked %d times", answer, err, asked.Load())
	}
}
