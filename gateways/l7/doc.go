// Package l7 speaks HTTP on connections that somebody else has made: to callers as a server, to instances and other gateways as a
// client, HTTP/1.1 (by gateways/http1) and HTTP/2. It knows nothing of services, rules or peers: who uses it decides for each request
// what to answer, or where to send it.
//
// # What is promised
//
//   - A request is handed over only when it was read strictly and brought into one form; what is forwarded is that form.
//   - Bodies stream both ways at once and are never kept; a response may come before the request's body has ended. Trailers and 1xx
//     responses are passed on.
//   - Fields that concern one connection, and names reserved for gateways, do not cross it.
//   - A caller that sends slowly, or not at all, is cut off: ten seconds for a head, the idle timeout for everything else.
package l7

import (
	"errors"
	"io"
	"net"
	"time"
)

// Conn is a connection: *net.TCPConn, *tls.Conn, or a flow.
type Conn interface {
	io.Reader
	io.Writer
	io.Closer
	SetReadDeadline(time.Time) error
	SetWriteDeadline(time.Time) error
}

const (
	// headTimeout is what a caller gets for a head once it has begun one, and for the first one after connecting; as nginx and Envoy
	// have it within a factor of six, and far above one round trip of a bad link with retransmissions.
	headTimeout = 10 * time.Second

	// drainTimeout is how long the rest of a body that nobody wants is read, so that the connection can be used again.
	drainTimeout = time.Second

	// drainWait is how long a session that is to end waits for a request that may be on its way: some round trips of any link.
	drainWait = time.Second

	// maxHead bounds a head, for HTTP/2 too: four times what browsers and common servers send.
	maxHead = 64 << 10

	// maxFrame bounds a frame of HTTP/2, which is read whole: the least that is allowed, and what most send (RFC 9113 4.2).
	maxFrame = 16 << 10

	// lingerTimeout is how long a caller gets to see a response that came before the end of its request, while it still sends: as nginx
	// has it.
	lingerTimeout = 5 * time.Second

	// maxStreams is how many requests an HTTP/2 connection may have open: what browsers and gRPC expect at least.
	maxStreams = 250
)

// past is a deadline that makes a blocked read return at once.
var past = time.Unix(1, 0)

// netConn is a Conn as the HTTP/2 library wants it.
type netConn struct{ Conn }

func (c netConn) LocalAddr() net.Addr  { return nowhere{} }
func (c netConn) RemoteAddr() net.Addr { return nowhere{} }
func (c netConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

type nowhere struct{}

func (nowhere) Network() string { return "mesh" }
func (nowhere) String() string  { return "mesh" }

// withPrefix is a Conn of which some octets have been read already.
type withPrefix struct {
	Conn
	prefix []byte
}

// CloseWrite tells the other side that nothing more follows.
func (c *withPrefix) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Close()
}

func (c *withPrefix) Read(p []byte) (int, error) {
	if len(c.prefix) > 0 {
		n := copy(p, c.prefix)
		c.prefix = c.prefix[n:]
		return n, nil
	}
	return c.Conn.Read(p)
}
