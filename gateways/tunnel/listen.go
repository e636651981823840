package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Why a connection was closed: the application error codes, shared with peers. Append only.
const (
	closeNormal    quic.ApplicationErrorCode = 0
	closeSilent    quic.ApplicationErrorCode = 1 // the pings were not answered
	closeDraining  quic.ApplicationErrorCode = 2
	closeRevoked   quic.ApplicationErrorCode = 3
	closeProtocol  quic.ApplicationErrorCode = 4
	closeReplaced  quic.ApplicationErrorCode = 5 // another session has taken over, and no flow is left
	closeCrowded   quic.ApplicationErrorCode = 6
	closeShutdown  quic.ApplicationErrorCode = 7
	closeForgotten quic.ApplicationErrorCode = 8 // the peering is gone
	closeRefused   quic.ApplicationErrorCode = 9 // the request of a join

	maxCloseReason = 200
)

// liveConn is an established connection with an identity, indexed so that it can be judged again.
type liveConn struct {
	conn   *quic.Conn // nil for a TLS connection
	end    ender
	proto  string
	region federation.Region
	id     spiffeid.ID
	chain  []*x509.Certificate
	expiry time.Time // when the first certificate of the chain runs out
}

// ender is what a live connection is closed by, as *quic.Conn can be.
type ender interface {
	CloseWithError(code quic.ApplicationErrorCode, reason string) error
}

func (l *liveConn) close(code quic.ApplicationErrorCode, reason string) {
	_ = l.end.CloseWithError(code, reason[:min(len(reason), maxCloseReason)])
}

// identify finds out who is at the other end of conn and indexes it until it ends.
func (t *Transport) identify(conn *quic.Conn, c class) (*liveConn, error) {
	l := &liveConn{conn: conn, end: conn, proto: c.String()}
	err := t.index(l, conn.ConnectionState().TLS)
	if err == nil {
		context.AfterFunc(conn.Context(), func() { t.forgetConn(l) })
	}
	return l, err
}

// index finds out who is at the other end of l, and keeps it to be judged again until forgetConn. It judges once more behind
// that: a revocation that came between the handshake and the index would otherwise miss it.
func (t *Transport) index(l *liveConn, state tls.ConnectionState) error {
	region, id, err := t.cfg.Trust.Identify(state)
	if err != nil {
		return err
	}
	if region == "" || len(state.PeerCertificates) == 0 {
		return errors.New("the other end has no certificate of a peer's gateway")
	}
	l.region, l.id, l.chain, l.expiry = region, id, state.PeerCertificates, state.PeerCertificates[0].NotAfter
	for _, cert := range l.chain {
		if cert.NotAfter.Before(l.expiry) {
			l.expiry = cert.NotAfter
		}
	}
	t.mu.Lock()
	if t.stopped {
		t.mu.Unlock()
		return errStopped
	}
	t.live[l] = struct{}{}
	t.mu.Unlock()
	if err := t.judge(l); err != nil {
		t.forgetConn(l)
		return err
	}
	return nil
}

func (t *Transport) forgetConn(l *liveConn) {
	t.mu.Lock()
	delete(t.live, l)
	t.mu.Unlock()
}

var errStopped = errors.New("the gateway is stopping")

type connHandler func(ctx context.Context, conn *quic.Conn) error

// listen makes the listener of one class on one socket.
func (t *Transport) listen(s *socket, c class) (*quic.Listener, error) {
	listener, err := s.transports[c].Listen(t.serverTLS(c.String()), quicConfig(c, false))
	if err != nil {
		return nil, fmt.Errorf("listen for %v on udp %v: %w", c, s.conn.LocalAddr(), err)
	}
	return listener, nil
}

// accept accepts the connections of one listener. Each is handled in a goroutine of its own: QUIC queues 32 established
// connections and refuses more, so nothing may hold up the loop.
func (t *Transport) accept(ctx context.Context, listener *quic.Listener, c class, handle connHandler) error {
	proto := c.String()
	defer listener.Close()
	for {
		conn, err := listener.Accept(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept %s on udp %v: %w", proto, listener.Addr(), err)
		}
		established(conn.Context())
		handled := t.start(func() {
			if err := handle(ctx, conn); err != nil && ctx.Err() == nil {
				t.log.Info("incoming session refused", "protocol", proto, "remote", conn.RemoteAddr(), "err", err)
				_ = conn.CloseWithError(closeProtocol, "session refused")
			}
		})
		if !handled {
			_ = conn.CloseWithError(closeShutdown, errStopped.Error())
		}
	}
}

// serverTLS asks Trust anew for every handshake. Of several protocols a client is given the one that it offers, if it offers one.
func (t *Transport) serverTLS(protos ...string) *tls.Config {
	return &tls.Config{
		MinVersion:             tls.VersionTLS13,
		NextProtos:             protos,
		SessionTicketsDisabled: true, // a resumed session is not judged by the chain again (golang.org/issue/77217)
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			proto := protos[0]
			if offered := hello.SupportedProtos; len(offered) == 1 && slices.Contains(protos, offered[0]) {
				proto = offered[0]
			}
			conf := t.cfg.Trust.ServerTLS(proto)
			if conf == nil {
				return nil, errors.New("no certificate yet")
			}
			if choose := conf.GetConfigForClient; choose != nil { // crypto/tls asks one config only: the outermost, this one
				switch chosen, err := choose(hello); {
				case err != nil:
					return nil, err
				case chosen != nil:
					conf = chosen
				}
			}
			return sealed(conf, proto), nil
		},
	}
}

// sealed returns conf with what must hold whatever Trust says.
func sealed(conf *tls.Config, proto string) *tls.Config {
	conf = conf.Clone()
	conf.MinVersion = tls.VersionTLS13 // RFC 9001, section 4.2
	conf.NextProtos = []string{proto}
	conf.SessionTicketsDisabled = true
	conf.ClientSessionCache = nil
	return conf
}
