package ingress

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
)

const (
	maxStreams3 = 100      // requests of a connection at once, as RFC 9114 6.1 wants at least
	maxHead3    = 64 << 10 // octets of a head, as for HTTP/1.1
	lastWords   = time.Second
)

// quicListener is the UDP side of a listener.
type quicListener struct {
	socket    *net.UDPConn
	transport *quic.Transport
	accepting *quic.Listener
	visits    sync.WaitGroup
	started   bool
}

// listenQUIC opens or closes the UDP side, as g wants it. server.mu is held.
func (l *listener) listenQUIC(g *federation.Ingress) *federation.Diagnostic {
	switch {
	case !g.HTTP3 && l.quic != nil:
		l.altPort.Store(0)
		l.quic.shut()
		l.quic = nil
	case g.HTTP3 && l.quic == nil:
		q, err := l.openQUIC()
		if err != nil {
			return unbound(g, "UDP", err)
		}
		l.quic = q
		l.altPort.Store(int32(q.socket.LocalAddr().(*net.UDPAddr).Port))
		if l.server.start != nil {
			l.server.start(l)
		}
	}
	return nil
}

func (l *listener) openQUIC() (*quicListener, error) {
	at := l.tcp.Addr().(*net.TCPAddr)
	socket, err := net.ListenUDP("udp", &net.UDPAddr{IP: at.IP, Port: at.Port, Zone: at.Zone})
	if err != nil {
		return nil, err
	}
	q := &quicListener{socket: socket, transport: &quic.Transport{Conn: socket}}
	secure := &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{http3.NextProtoH3},
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return l.table.Load().tls3, nil }}
	q.accepting, err = q.transport.Listen(secure, &quic.Config{HandshakeIdleTimeout: greetTimeout, MaxIdleTimeout: idleTimeout,
		MaxIncomingStreams: maxStreams3, MaxIncomingUniStreams: 8, Allow0RTT: false}) // early data could be replayed
	if err != nil {
		_ = socket.Close()
		return nil, err
	}
	return q, nil
}

// accept takes connections until the listener is shut or ctx ends, and returns when the last one has ended.
func (q *quicListener) accept(ctx context.Context, l *listener) {
	for {
		c, err := q.accepting.Accept(ctx)
		if err != nil {
			break
		}
		if !l.enter() {
			_ = c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "")
			continue
		}
		q.visits.Go(func() { l.serve3(q, c) })
	}
	q.visits.Wait()
	q.end()
}

// shut stops accepting. What is open stays open.
func (q *quicListener) shut() {
	_ = q.accepting.Close()
	if !q.started {
		q.end()
	}
}

func (q *quicListener) end() {
	_ = q.transport.Close()
	_ = q.socket.Close()
}

// visit3 is a connection of HTTP/3.
type visit3 struct {
	visit
	conn    *quic.Conn
	library *http3.Server
	http    *l7.Server

	mu       sync.Mutex
	requests int
	draining bool
}

// serve3 serves one connection until it ends.
func (l *listener) serve3(q *quicListener, c *quic.Conn) {
	t := l.table.Load()
	v := &visit3{visit: visit{listener: l, table: t, start: time.Now(), peer: addrOf(c.RemoteAddr()), secure: true,
		name: match.Host(c.ConnectionState().TLS.ServerName)}, conn: c}
	v.http = v.server()
	defer func() {
		if v.counted {
			l.clients.leave(v.peer)
		}
		l.left(t.spec.Name)
	}()
	if !t.spec.Trusts(v.peer) {
		if v.counted = l.clients.enter(v.peer, most(t.spec.MaxConnectionsPerClient, federation.DefaultIngressPerClient)); !v.counted {
			l.server.metrics.refused(t.spec.Name, refusedClient)
			_ = c.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeExcessiveLoad), "")
			return
		}
	}
	v.library = &http3.Server{Handler: http.HandlerFunc(v.serve), MaxHeaderBytes: most(int(t.spec.MaxHeader), maxHead3), IdleTimeout: idleTimeout}
	if !l.adopt(v) {
		v.Close()
		return
	}
	_ = v.library.ServeQUICConn(c)
	v.Close() // it was drained before it began
	l.release(v)
}

// serve answers one request.
func (v *visit3) serve(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	v.requests++
	v.mu.Unlock()
	defer func() {
		v.mu.Lock()
		defer v.mu.Unlock()
		if v.requests--; v.requests == 0 && v.draining {
			v.endSoon()
		}
	}()
	if r.ContentLength < 0 && bodiless(r.Method) && !hasBody(r) {
		r.ContentLength, r.Body = 0, http.NoBody
	}
	v.http.ServeHTTP(w, r)
}

// Drain implements session.
func (v *visit3) Drain() {
	v.mu.Lock()
	defer v.mu.Unlock()
	// The caller is told to send no more; this waits until the connection has ended.
	v.listener.server.serving.Go(func() { _ = v.library.Shutdown(v.conn.Context()) })
	if v.draining = true; v.requests == 0 {
		v.endSoon()
	}
}

// endSoon closes the connection when its last response has had the time to arrive: closing it drops what is on its way.
func (v *visit3) endSoon() { time.AfterFunc(lastWords, v.Close) }

// Close implements session.
func (v *visit3) Close() {
	_ = v.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

// bodiless reports whether requests of a method hardly ever have a body. HTTP/3 does not say with the head whether there is one.
func bodiless(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodDelete:
		return true
	}
	return false
}

// hasBody waits for the first octet of r's body, or its end.
func hasBody(r *http.Request) bool {
	var first [1]byte
	n, err := io.ReadFull(r.Body, first[:])
	if n == 0 && err == io.EOF {
		return false
	}
	r.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(first[:n]), r.Body), r.Body}
	return true
}
