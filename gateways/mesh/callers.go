package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	// handshakeTimeout is what a local workload gets for its TLS handshake; on one host it takes milliseconds.
	handshakeTimeout = 5 * time.Second

	// maxAcceptDelay is the longest pause after a failed accept, as in net/http: descriptors run out, and come back.
	maxAcceptDelay = time.Second
)

// caller is who opened a local connection, how that is known, and what it wants.
type caller struct {
	id        spiffeid.ID            // by its SVID
	bound     federation.ServiceName // by the listener it came in by, when it brought no SVID
	assurance federation.Assurance
	chain     []*x509.Certificate // of its SVID; nil for a binding
	trust     uint64              // Mesh.trust when the chain was judged
	wants     federation.ServiceRef
	copied    bool   // what it sends is the copy of a request: it is not copied again
	upstream  string // name of the listener; empty: the local mTLS listener

	port    uint16     // of client; 0: unknown
	client  netip.Addr // of a caller from outside the mesh, as are all for which it is valid
	first   []byte     // what was read from the connection before
	require []string   // jwt resources, one of which has vouched for the request's token
}

// callerConn is the connection of a local caller: *net.TCPConn, *net.UnixConn or *tls.Conn.
type callerConn interface {
	net.Conn
	CloseWrite() error
}

// accept takes connections from l and serves each in a goroutine of its own, until l is closed or ctx ends.
func (m *Mesh) accept(ctx context.Context, l *listener) {
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	var delay time.Duration
	for {
		c, err := l.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			m.metrics.acceptErrors.Inc()
			if delay == 0 { // once for each spell of trouble
				m.log.Error("connections cannot be accepted", "address", l.Addr().String(), "error", err)
			}
			delay = min(max(2*delay, 5*time.Millisecond), maxAcceptDelay)
			select {
			case <-time.After(delay):
			case <-ctx.Done():
				return
			}
			continue
		}
		delay = 0
		conn, ok := c.(callerConn)
		if !ok {
			_ = c.Close()
			continue
		}
		m.live.begin()
		m.serving.Add(1)
		go m.serve(ctx, conn, l)
	}
}

// serve serves one connection that l has accepted. It returns when the connection has been made.
func (m *Mesh) serve(ctx context.Context, c callerConn, l *listener) {
	if u := l.upstream.Load(); u != nil {
		m.serveUpstream(ctx, c, u)
	} else {
		m.serveLocal(ctx, c)
	}
}

// served is the end of a connection that was accepted.
func (m *Mesh) served() {
	m.live.done()
	m.serving.Done()
}

// serveUpstream serves a connection to the listener of u: whoever reaches it, from where u allows, counts as u's caller.
func (m *Mesh) serveUpstream(ctx context.Context, c callerConn, u *federation.Upstream) {
	if a, isTCP := c.RemoteAddr().(*net.TCPAddr); isTCP && !u.Admits(a.AddrPort().Addr()) {
		abort(c)
		m.finish(&record{start: time.Now(), direction: outbound, srcRegion: m.cfg.Region, destination: u.Service.Service,
			dstRegion: u.Service.Region, upstream: u.Name, flags: flagDenied, reason: a.IP.String() + " is not in allow_from of the upstream"})
		m.served()
		return
	}
	who := caller{bound: u.Caller, assurance: federation.AssuranceBinding, wants: u.Service, upstream: u.Name}
	m.serveOutbound(ctx, c, who, m.served)
}

// serveLocal serves a connection to the local mTLS listener: the certificate says who calls, the server name whom.
func (m *Mesh) serveLocal(ctx context.Context, c callerConn) {
	start := time.Now()
	who := caller{assurance: federation.AssuranceMTLS, trust: m.trust.Load()}
	secured := tls.Server(c, m.cfg.LocalTLS())
	err := m.identify(ctx, secured, &who)
	if err != nil {
		abort(c)
		m.finish(&record{start: start, direction: outbound, source: who.id, srcRegion: m.cfg.Region, destination: who.wants.Service,
			dstRegion: who.wants.Region, flags: flagProtocol, reason: err.Error()})
		m.served()
		return
	}
	m.serveOutbound(ctx, secured, who, m.served)
}

// identify completes the handshake and fills who in.
func (m *Mesh) identify(ctx context.Context, c *tls.Conn, who *caller) error {
	ctx, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	state := c.ConnectionState()
	if state.Version < tls.VersionTLS13 {
		return errors.New("the caller's TLS is older than 1.3")
	}
	var err error
	if who.id, err = m.cfg.Workload(state); err != nil {
		return err
	}
	who.chain = state.PeerCertificates
	who.wants, err = ParseServerName(state.ServerName)
	return err
}

// abort closes c so that the caller sees a reset: an orderly end could be taken for an empty answer.
func abort(c net.Conn) {
	if secured, ok := c.(interface{ NetConn() net.Conn }); ok {
		c = secured.NetConn() // its own Close would first wait to send an alert
	}
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}
