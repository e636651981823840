package l7

import (
	"context"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/http1"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
)

const (
	// maxIdle is how many idle connections of one kind are kept: as many as a caller's burst opened, in most cases.
	maxIdle = 128

	// idleFor is how long an idle connection is kept: below the 60 to 75 s after which nginx, Apache and most others close.
	idleFor = 50 * time.Second
)

// Pool holds the connections that can carry another request, by a key that says where they lead and for whom. The zero value is ready for
// use. It starts nothing: somebody must call Sweep.
type Pool struct {
	mu     sync.Mutex
	groups map[any]*group
	closed bool // nothing is kept that is not in use
}

// group is the connections for one key. Keys are large: a connection knows its group, so that nobody looks for it when it comes back.
type group struct {
	idle   []*Client // of HTTP/1, the one used last at the end
	shared []*Client // of HTTP/2
	gone   bool      // it is no longer in the pool
}

// transport makes clients of HTTP/2 of connections that are there already.
var transport = &http.Transport{
	DialContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return ctx.Value(connKey{}).(net.Conn), nil },
	Protocols:          onlyTwo(),
	DisableCompression: true, MaxResponseHeaderBytes: maxHead,
	HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 10 * time.Second}, // a dead instance is noticed before callers give up
}

type connKey struct{}

// Get returns a connection for key that can carry a request, or nil.
func (p *Pool) Get(key any) *Client {
	for {
		k := p.take(key)
		if k == nil || k.two != nil {
			return k
		}
		if !k.intact() {
			k.drop()
			continue
		}
		k.used++
		return k
	}
}

// fit is a connection that knows whether it still leads to where a new one would: the way there may be lost, or be given up.
type fit interface{ Fit() bool }

// fits reports whether a connection that leads to where k does would be made like k now.
func (k *Client) fits() bool {
	c, ok := k.conn.Conn.(fit)
	return !ok || c.Fit()
}

// freshFor is how long a connection that was put back is taken to be as it was: looking costs a system call.
const freshFor = 500 * time.Millisecond

// intact reports whether a connection of HTTP/1 that was idle can be used.
func (k *Client) intact() bool {
	if !k.fits() {
		return false
	}
	c, ok := k.conn.Conn.(splice.Conn)
	if !ok || time.Since(k.rested) < freshFor {
		return true
	}
	// The other side may have closed it; nothing it sends unasked can be good.
	var b [1]byte
	n, err := splice.ReadNow(c, b[:])
	return n == 0 && err == nil
}

func (p *Pool) take(key any) *Client {
	p.mu.Lock()
	defer p.mu.Unlock()
	g := p.groups[key]
	if g == nil {
		return nil
	}
	for _, k := range g.shared {
		if k.fits() && k.two.Reserve() == nil {
			k.rested = time.Now()
			return k
		}
	}
	last := len(g.idle) - 1
	if last < 0 {
		return nil
	}
	k := g.idle[last]
	g.idle[last] = nil
	g.idle = g.idle[:last]
	return k
}

// groupOf returns the group for key.
func (p *Pool) groupOf(key any) *group {
	g := p.groups[key]
	if g == nil {
		if p.groups == nil {
			p.groups = map[any]*group{}
		}
		g = &group{}
		p.groups[key] = g
	}
	return g
}

// Add returns a client on c, a new connection for key, for one request at once. One of HTTP/2 is shared from then on.
func (p *Pool) Add(key any, c Conn, two bool) (*Client, error) {
	k := &Client{pool: p, key: key, conn: &clocked{Conn: c, direct: newDirect(c)}, used: 1}
	k.closer = k.Close
	if !two {
		k.reader = http1.NewReader(k.conn, http1.Rules{})
		return k, nil
	}
	var err error
	if k.two, err = transport.NewClientConn(context.WithValue(context.Background(), connKey{}, netConn{c}), "http", "mesh:80"); err != nil {
		_ = c.Close()
		return nil, err
	}
	_ = k.two.Reserve() // a new one has room
	k.rested = time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	k.group = p.groupOf(key)
	k.group.shared = append(k.group.shared, k)
	return k, nil
}

// put takes back a connection of HTTP/1; false when it is not wanted.
func (p *Pool) put(k *Client) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	if k.group == nil || k.group.gone {
		k.group = p.groupOf(k.key)
	}
	if len(k.group.idle) >= maxIdle {
		return false
	}
	k.rested = time.Now()
	k.group.idle = append(k.group.idle, k)
	return true
}

// Sweep closes what has been idle for too long by now, and forgets what is closed. It is to be called every few seconds.
func (p *Pool) Sweep(now time.Time) {
	for _, k := range p.old(now) {
		k.Close()
	}
}

func (p *Pool) old(now time.Time) (out []*Client) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for key, g := range p.groups {
		g.idle, out = keep(g.idle, out, func(k *Client) bool { return !p.closed && now.Sub(k.rested) <= idleFor && k.fits() })
		g.shared, out = keep(g.shared, out, func(k *Client) bool {
			return k.two.InFlight() > 0 || !p.closed && k.two.Err() == nil && now.Sub(k.rested) <= idleFor && k.fits()
		})
		if len(g.idle)+len(g.shared) == 0 {
			g.gone = true
			delete(p.groups, key)
		}
	}
	return out
}

// keep returns those of list that are good, and out with the others behind.
func keep(list, out []*Client, good func(*Client) bool) (kept, bad []*Client) {
	kept = list[:0]
	for _, k := range list {
		if good(k) {
			kept = append(kept, k)
		} else {
			out = append(out, k)
		}
	}
	clear(list[len(kept):])
	return kept, out
}

// Drain closes every connection that is not in use, and has the others closed when they no longer are. They can still be used.
func (p *Pool) Drain() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.Sweep(time.Now())
}

// Close closes every connection, those in use too if they are shared, and takes none back from then on.
func (p *Pool) Close() {
	p.mu.Lock()
	p.closed = true
	groups := p.groups
	p.groups = nil
	p.mu.Unlock()
	for _, g := range groups {
		for _, k := range append(g.idle, g.shared...) {
			k.Close()
		}
	}
}

// withInterim has the HTTP/2 library hand 1xx responses to f.
func withInterim(ctx context.Context, f func(*http.Response) error) context.Context {
	if f == nil {
		return ctx
	}
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		Got1xxResponse: func(code int, header textproto.MIMEHeader) error {
			return f(&http.Response{StatusCode: code, Header: http.Header(header)})
		},
	})
}
