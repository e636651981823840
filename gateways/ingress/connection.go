package ingress

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"net/netip"
	"time"

	"github.com/mholt/acmez/v3"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/gateways/http1"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

// visit is one connection of a caller.
type visit struct {
	listener *listener
	table    *table // when it came; what it asks later is asked of the newest
	start    time.Time
	peer     netip.Addr // who sends, by the socket or by a PROXY header that is believed
	port     uint16     // of peer
	name     string     // asked for in the TLS handshake, in small letters
	secure   bool
	counted  bool // among those of peer
}

// serve serves one connection that was accepted. It returns when the connection has ended, or is the mesh's.
func (l *listener) serve(ctx context.Context, c mesh.Conn) {
	t := l.table.Load()
	v := &visit{listener: l, table: t, start: time.Now(), peer: addrOf(c.RemoteAddr())}
	if a, ok := c.RemoteAddr().(*net.TCPAddr); ok {
		v.port = a.AddrPort().Port()
	}
	end := func() {
		if v.counted {
			l.clients.leave(v.peer)
		}
		l.left(t.spec.Name)
	}
	_ = c.SetDeadline(v.start.Add(greetTimeout))
	reason, err := v.admit(c)
	if err != nil {
		l.server.metrics.refused(t.spec.Name, reason)
		if reason != refusedClient { // one that has too many would fill the log as well
			l.server.cfg.Mesh.Reject(v.entry(federation.ServiceRef{}), v.start, 0, err.Error())
		}
		reset(c)
		end()
		return
	}
	if len(t.spec.TLS) == 0 && len(t.spec.Passthrough) == 0 {
		_ = c.SetDeadline(time.Time{})
		v.carry(ctx, c, end)
		return
	}
	v.secure = true
	secured, first, err := v.handshake(ctx, c)
	switch {
	case first != nil:
		_ = c.SetDeadline(time.Time{})
		to, _ := t.passes(v.name)
		l.server.cfg.Mesh.Connect(ctx, c, first, v.entry(to), end)
	case errors.Is(err, errProved):
		_ = secured.Close()
		end()
	case err != nil:
		l.server.metrics.refused(t.spec.Name, refusedTLS)
		l.server.cfg.Mesh.Reject(v.entry(federation.ServiceRef{}), v.start, 0, "TLS handshake: "+err.Error())
		_ = c.Close() // in order: the alert that says why is still on its way
		end()
	default:
		_ = c.SetDeadline(time.Time{})
		v.carry(ctx, secured, end)
	}
}

var errTooMany = errors.New("the client has too many connections")

// admit reads a PROXY header, if one is to be believed, and counts the connection against its client.
func (v *visit) admit(c net.Conn) (reason string, err error) {
	spec := &v.table.spec
	trusted := spec.Trusts(v.peer)
	if spec.ProxyProtocol && trusted {
		client, err := readProxy(c)
		if err != nil {
			return refusedProxy, err
		}
		if client.IsValid() {
			v.peer, v.port, trusted = client.Addr(), client.Port(), spec.Trusts(client.Addr())
		}
	}
	// A proxy speaks for many: it is bounded by the listener alone.
	if !trusted {
		if !v.listener.clients.enter(v.peer, most(spec.MaxConnectionsPerClient, federation.DefaultIngressPerClient)) {
			return refusedClient, errTooMany
		}
		v.counted = true
	}
	return "", nil
}

// handshake reads the caller's hello. When that asks for a name that is passed through, first is what was read; otherwise the
// handshake is completed with a certificate for the name.
func (v *visit) handshake(ctx context.Context, c mesh.Conn) (secured *tls.Conn, first []byte, err error) {
	ctx, stop := context.WithTimeout(ctx, greetTimeout)
	defer stop()
	if len(v.table.spec.Passthrough) > 0 {
		p := &peeked{Conn: c}
		if v.name, err = p.hello(ctx); err != nil {
			return nil, nil, err
		}
		if _, through := v.table.passes(v.name); through {
			return nil, p.read, nil
		}
		c = &replayed{c, p.read}
	}
	// With the table's own configuration, and none for each connection: its keys are those of the tickets that callers bring back.
	secured = tls.Server(c, v.table.tls)
	if err := secured.HandshakeContext(ctx); err != nil {
		return nil, nil, err
	}
	if secured.ConnectionState().NegotiatedProtocol == acmez.ACMETLS1Protocol {
		return secured, nil, errProved
	}
	v.name = match.Host(secured.ConnectionState().ServerName)
	return secured, nil, nil
}

var errHello = errors.New("the hello has been read")

// peeked is a connection of which only the hello is read, and to which nothing is written.
type peeked struct {
	mesh.Conn
	read []byte // crypto/tls takes no hello above 64 KiB
}

// hello returns the server name in a hello.
func (p *peeked) hello(ctx context.Context) (name string, err error) {
	err = tls.Server(p, &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		name = match.Host(hello.ServerName)
		return nil, errHello
	}}).HandshakeContext(ctx)
	if errors.Is(err, errHello) {
		err = nil
	}
	return name, err
}

func (p *peeked) Read(b []byte) (int, error) {
	n, err := p.Conn.Read(b)
	p.read = append(p.read, b[:n]...)
	return n, err
}

func (p *peeked) Write(b []byte) (int, error) { return len(b), nil }
func (p *peeked) Close() error                { return nil }

// replayed is a connection of which some octets have been read before.
type replayed struct {
	mesh.Conn
	first []byte
}

func (r *replayed) Read(b []byte) (int, error) {
	if len(r.first) > 0 {
		n := copy(b, r.first)
		r.first = r.first[n:]
		return n, nil
	}
	return r.Conn.Read(b)
}

// carry serves a connection whose bytes can be read, and calls end at its end.
func (v *visit) carry(ctx context.Context, c mesh.Conn, end func()) {
	l, spec := v.listener, &v.table.spec
	if !spec.TCP.Service.IsZero() {
		l.server.cfg.Mesh.Connect(ctx, c, nil, v.entry(spec.TCP), end)
		return
	}
	defer end()
	s := v.server().NewSession(c)
	if !l.adopt(s) {
		_ = c.Close()
		return
	}
	s.Run(ctx)
	l.release(s)
}

// server is how the requests of v are served.
func (v *visit) server() *l7.Server {
	spec := &v.table.spec
	return &l7.Server{Handle: v.request, Idle: idleTimeout, MaxBody: int64(spec.MaxBody), MinRate: minBodyRate,
		Rules: http1.Rules{MaxHead: int(spec.MaxHeader)}, Refused: func(e *http1.Error) {
			v.listener.server.cfg.Mesh.Reject(v.entry(federation.ServiceRef{}), time.Now(), e.Status, "bad request: "+e.Reason)
		}}
}

// entry is how v comes into the mesh.
func (v *visit) entry(to federation.ServiceRef) mesh.Entry {
	spec := &v.listener.table.Load().spec
	return mesh.Entry{Listener: spec.Name, Identity: spec.Identity, To: to, Client: v.peer, Port: v.port}
}

func addrOf(a net.Addr) netip.Addr {
	switch a := a.(type) {
	case *net.TCPAddr:
		return a.AddrPort().Addr().Unmap()
	case *net.UDPAddr:
		return a.AddrPort().Addr().Unmap()
	}
	return netip.Addr{}
}
