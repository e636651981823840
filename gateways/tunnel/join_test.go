package tunnel

import (
	"bytes"
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
)

// joining runs f with a gateway that answers joins by answer, and one that knows nobody.
func joining(t *testing.T, answer func(ctx context.Context, remote string, exporter, request []byte) ([]byte, error),
	f func(t *testing.T, east, west *gateway)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(oneWay)
		a, b := n.node(), n.node()
		if err := n.sim.Start(); err != nil {
			t.Fatal(err)
		}
		defer n.sim.Close()
		e := startGateway(t, east, a, func(c *Config) { c.OnJoin = answer })
		defer e.shut(t)
		w := startGateway(t, west, b, nil)
		defer w.shut(t)
		f(t, e, w)
	})
}

func TestJoinIsBoundToItsConnection(t *testing.T) {
	var seen []byte
	answer := func(_ context.Context, remote string, exporter, request []byte) ([]byte, error) {
		seen = bytes.Clone(exporter)
		return append([]byte(remote+" "), request...), nil
	}
	joining(t, answer, func(t *testing.T, e, w *gateway) {
		var mine []byte
		reply, err := w.DialJoin(t.Context(), "192.0.2.1:8443", e.trust.RootPin(), func(exporter []byte) ([]byte, error) {
			mine = bytes.Clone(exporter)
			return []byte("please"), nil
		})
		if err != nil || string(reply) != "192.0.2.2:8443 please" {
			t.Fatalf("%q, %v", reply, err)
		}
		if len(mine) != exporterLength || !bytes.Equal(mine, seen) {
			t.Errorf("exported %x here and %x there", mine, seen)
		}
		big := bytes.Repeat([]byte("r"), maxQuestion-20)
		reply, err = w.DialJoin(t.Context(), "192.0.2.1:8443", e.trust.RootPin(), func([]byte) ([]byte, error) { return big, nil })
		if err != nil || len(reply) < len(big) {
			t.Errorf("%d octets, %v", len(reply), err)
		}
	})
}

func TestJoinErrorsSayWhy(t *testing.T) {
	refuse := func(context.Context, string, []byte, []byte) ([]byte, error) {
		return nil, errors.New("the token has been used")
	}
	joining(t, refuse, func(t *testing.T, e, w *gateway) {
		ask := func([]byte) ([]byte, error) { return []byte("please"), nil }
		_, err := w.DialJoin(t.Context(), "192.0.2.1:8443", e.trust.RootPin(), ask)
		if federation.CodeOf(err) != federation.CodeGatewayRefused || !strings.Contains(err.Error(), "the token has been used") {
			t.Errorf("refused: %v", err)
		}
		_, err = w.DialJoin(t.Context(), "192.0.2.1:8443", [32]byte{1}, ask)
		if federation.CodeOf(err) != "TW-2208" || !strings.Contains(err.Error(), "gateway 192.0.2.1:8443 is not reached") {
			t.Errorf("wrong pin: %v", err)
		}
		start := time.Now()
		_, err = w.DialJoin(t.Context(), "192.0.2.77:8443", e.trust.RootPin(), ask)
		if federation.CodeOf(err) != federation.CodeGatewaySilent || time.Since(start) != handshakeLimit ||
			!strings.Contains(err.Error(), "192.0.2.77:8443") || !strings.Contains(err.Error(), "no answer in 5s: is UDP blocked") {
			t.Errorf("silent after %v: %v", time.Since(start), err)
		}
	})
}

func TestJoinerHasLittleToTake(t *testing.T) {
	asked := func(c *Config) {
		c.OnJoin = func(context.Context, string, []byte, []byte) ([]byte, error) { return nil, nil }
	}
	meetStranger(t, asked, func(t *testing.T, g *gateway, s *stranger) {
		conn, err := s.dial(t, classJoin, protoJoin)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.OpenStream(); err != nil {
			t.Fatal(err)
		}
		if _, err := conn.OpenStream(); !streamLimit(err) {
			t.Errorf("a second stream: %v", err)
		}
		if _, err := conn.OpenUniStream(); !streamLimit(err) {
			t.Errorf("a one-way stream: %v", err)
		}
		start := time.Now()
		<-conn.Context().Done()
		if took := time.Since(start); took > joinLimit+time.Second {
			t.Errorf("a joiner that says nothing may stay for %v", took)
		}

		var open []*quic.Conn
		for range 10 {
			conn, err := s.dial(t, classJoin, protoJoin)
			if err != nil {
				if e, ok := is[*quic.TransportError](err); !ok || e.ErrorCode != quic.ConnectionRefused {
					t.Errorf("refused with %v", err)
				}
				break
			}
			open = append(open, conn)
		}
		if len(open) != 4 {
			t.Errorf("one address was given %d connections", len(open))
		}
		if flowConn, err := s.dial(t, classFlow, protoFlow); err != nil {
			t.Errorf("joins crowd out flows: %v", err)
		} else {
			_ = flowConn.CloseWithError(0, "")
		}
	})
}

func streamLimit(err error) bool {
	_, ok := is[*quic.StreamLimitReachedError](err)
	return ok
}
