package ingress

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

// listener is one bound address.
type listener struct {
	server *Server
	tcp    net.Listener
	table  atomic.Pointer[table]

	started bool          // guarded by server.mu, as is quic
	quic    *quicListener // nil: none
	altPort atomic.Int32  // of quic; 0: none

	open    atomic.Int64 // connections
	clients clients
	rates   *limit.Rates // of clients' requests

	mu       sync.Mutex
	sessions map[session]struct{} // those that can be told to end
	draining bool
	closed   bool
}

// session is a connection that can be told to end.
type session interface {
	Drain() // once the request at hand is answered
	Close() // at once
}

func newListener(s *Server, tcp net.Listener) *listener {
	return &listener{server: s, tcp: tcp, sessions: map[session]struct{}{}, rates: limit.NewRates(maxRated)}
}

// bind opens the TCP address of g.
func bind(g *federation.Ingress) (net.Listener, *federation.Diagnostic) {
	// Callers are anywhere: keep-alive finds those that are gone, as Go sets it up.
	l, err := (&net.ListenConfig{}).Listen(context.Background(), "tcp", g.Listen)
	if err != nil {
		return nil, unbound(g, "TCP", err)
	}
	return l, nil
}

func unbound(g *federation.Ingress, what string, err error) *federation.Diagnostic {
	d := &federation.Diagnostic{Code: federation.CodeIngressListen, Err: err,
		What: fmt.Sprintf("ingress %q does not listen on %s (%s)", g.Name, g.Listen, what), Why: err.Error(),
		Fix: "give it an address that is this host's and free"}
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		d.Why = "another process listens there"
		d.Fix = fmt.Sprintf("see who it is with \"ss -xltunp\" and stop it, or give the ingress another address (it is tried again every %v)", rebindEvery)
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		d.Fix = "ports below 1024 need CAP_NET_BIND_SERVICE"
	}
	return d
}

// start begins to serve what is not served yet, until shut is called or ctx ends. server.mu is held.
func (l *listener) start(ctx context.Context) {
	if !l.started {
		l.started = true
		l.server.serving.Go(func() { l.accept(ctx) })
	}
	if q := l.quic; q != nil && !q.started {
		q.started = true
		l.server.serving.Go(func() { q.accept(ctx, l) })
	}
}

// shut stops accepting. What is open stays open.
func (l *listener) shut() {
	_ = l.tcp.Close()
	if l.quic != nil {
		l.quic.shut()
	}
}

// accept takes connections and serves each in a goroutine of its own.
func (l *listener) accept(ctx context.Context) {
	stop := context.AfterFunc(ctx, func() { _ = l.tcp.Close() })
	defer stop()
	var delay time.Duration
	for {
		c, err := l.tcp.Accept()
		switch {
		case errors.Is(err, net.ErrClosed):
			return
		case err != nil:
			if delay == 0 { // once for each spell of trouble
				l.server.log.Error("connections cannot be accepted", "address", l.tcp.Addr().String(), "error", err)
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
		conn, ok := c.(*net.TCPConn)
		if !ok || !l.enter() {
			reset(c)
			continue
		}
		l.server.serving.Go(func() { l.serve(ctx, conn) })
	}
}

// enter counts a connection, and is false when there are too many.
func (l *listener) enter() bool {
	t := l.table.Load()
	if int(l.open.Add(1)) > most(t.spec.MaxConnections, federation.DefaultIngressConnections) {
		l.open.Add(-1)
		l.server.metrics.refused(t.spec.Name, refusedFull)
		return false
	}
	l.server.metrics.opened(t.spec.Name)
	return true
}

// left is the end of a connection that was counted.
func (l *listener) left(name string) {
	l.open.Add(-1)
	l.server.metrics.closed(name)
}

func most(set, otherwise int) int {
	if set > 0 {
		return set
	}
	return otherwise
}

// reset closes c so that the caller sees that nobody serves it.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		_ = t.SetLinger(0)
	}
	_ = c.Close()
}

// adopt has s told when the listener drains or closes; false: it must end at once.
func (l *listener) adopt(s session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return false
	}
	l.sessions[s] = struct{}{}
	if l.draining {
		s.Drain()
	}
	return true
}

func (l *listener) release(s session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.sessions, s)
}

// drain has every session end once its request at hand is answered.
func (l *listener) drain() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draining = true
	for s := range l.sessions {
		s.Drain()
	}
}

// close ends every session.
func (l *listener) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	for s := range l.sessions {
		s.Close()
	}
}

// clients counts connections by address.
type clients struct {
	mu   sync.Mutex
	open map[netip.Addr]int
}

// enter counts a connection of client, and is false when it has most already.
func (c *clients) enter(client netip.Addr, most int) bool {
	key := clientKey(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open == nil {
		c.open = map[netip.Addr]int{}
	}
	if c.open[key] >= most {
		return false
	}
	c.open[key]++
	return true
}

func (c *clients) leave(client netip.Addr) {
	key := clientKey(client)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[key]--; c.open[key] <= 0 {
		delete(c.open, key)
	}
}

// clientKey is what one customer has of the address space: an IPv4 address, or an IPv6 network of 64 bits (RFC 6177).
func clientKey(client netip.Addr) netip.Addr {
	client = client.Unmap().WithZone("")
	if client.Is4() {
		return client
	}
	network, err := client.Prefix(64)
	if err != nil {
		return client
	}
	return network.Addr()
}
