package tunnel

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// tcpDoor is a TCP listener, as a rule beside a UDP socket. What comes in is counted by gate until it has shown an identity, and from
// then on, if it is an exchange or a join, by the gate of that class.
type tcpDoor struct {
	listener *net.TCPListener
	gate     *gate
	gates    [classes]*gate
}

func newDoor(listener *net.TCPListener) *tcpDoor {
	return &tcpDoor{listener: listener, gate: &gate{perSource: strangersPerSource, total: strangers, bySource: map[netip.Prefix]int{}},
		gates: [classes]*gate{classExchange: newGate(classExchange), classJoin: newGate(classJoin)}}
}

// strangers is how many TCP connections may be on their way to an identity: in all, and of one source, behind which several
// gateways may share an address. Who has shown an identity is bounded by its sessions and their lanes.
const (
	strangers          = 256
	strangersPerSource = 128
)

// bindTries is how often another port is asked for when the one that UDP got is taken for TCP.
const bindTries = 8

// bind opens the sockets. Where TCP was to stand beside QUIC and cannot, the gateway goes without and says so.
func (t *Transport) bind() error {
	conns := t.cfg.Conns
	alone := len(conns) == 0 && !t.allows(kindQUIC)
	if alone {
		if err := t.bindTCP(); err != nil {
			return err
		}
	}
	for n := 1; len(conns) == 0 && !alone; n++ {
		conn, err := net.ListenPacket("udp", t.cfg.Listen)
		if err != nil {
			return &federation.Diagnostic{Code: federation.CodeMeshListen, What: "mesh listener cannot bind udp " + t.cfg.Listen,
				Why: err.Error(), Fix: "stop what holds the port, or choose another address for the mesh listener", Err: err}
		}
		d, err := t.listenTCP(conn)
		_, port, _ := net.SplitHostPort(t.cfg.Listen)
		if err != nil && port == "0" && n < bindTries {
			_ = conn.Close()
			continue
		}
		t.sockets = append(t.sockets, newSocket(conn))
		t.noteDoor(d, err)
		break
	}
	for _, conn := range conns {
		t.sockets = append(t.sockets, newSocket(conn))
		t.noteDoor(t.listenTCP(conn))
	}
	if len(t.doors) > 0 && !offersBBR() {
		t.trouble = append(t.trouble, &federation.Diagnostic{Code: federation.CodeNoBBR, What: "the kernel offers no BBR congestion control",
			Why: "over TCP, bulk transfers will not fill a link that loses packets", Fix: "modprobe tcp_bbr, and allow it in " +
				"net.ipv4.tcp_allowed_congestion_control; then restart"})
	}
	return nil
}

func (t *Transport) noteDoor(d *tcpDoor, err error) {
	var trouble *federation.Diagnostic
	if errors.As(err, &trouble) {
		t.trouble = append(t.trouble, trouble)
	}
	if d != nil {
		t.doors = append(t.doors, d)
	}
}

// bindTCP binds the mesh address for TCP and nothing else.
func (t *Transport) bindTCP() error {
	listener, err := net.Listen("tcp", t.cfg.Listen)
	if err != nil {
		return &federation.Diagnostic{Code: federation.CodeMeshListen, What: "mesh listener cannot bind tcp " + t.cfg.Listen, Why: err.Error(),
			Fix: "stop what holds the port, or choose another address for the mesh listener", Err: err}
	}
	tcp, ok := listener.(*net.TCPListener)
	if !ok {
		return errors.Join(fmt.Errorf("a listener of type %T", listener), listener.Close())
	}
	t.doors = append(t.doors, newDoor(tcp))
	return nil
}

// allows reports whether the configuration has kind k.
func (t *Transport) allows(k kind) bool {
	return len(t.cfg.Lanes) == 0 || slices.Contains(t.cfg.Lanes, k.String())
}

// speaks reports whether connections may be made over kind k.
func (t *Transport) speaks(k kind) bool {
	if !t.allows(k) {
		return false
	}
	return k == kindQUIC || len(t.doors) > 0 || slices.ContainsFunc(t.sockets, func(s *socket) bool {
		_, ok := s.conn.(*net.UDPConn)
		return ok // what is not the system's has no TCP beside it
	})
}

// listenTCP binds the port of a UDP socket for TCP too; it returns nil where that is not wanted, or cannot be.
func (t *Transport) listenTCP(conn net.PacketConn) (*tcpDoor, error) {
	udp, ok := conn.(*net.UDPConn)
	if !ok || !t.allows(kindTCP) {
		return nil, nil
	}
	local, ok := udp.LocalAddr().(*net.UDPAddr)
	if !ok {
		return nil, nil
	}
	listener, err := net.ListenTCP("tcp", &net.TCPAddr{IP: local.IP, Port: local.Port, Zone: local.Zone})
	if err != nil {
		return nil, &federation.Diagnostic{Code: federation.CodeLaneListen, What: fmt.Sprintf("mesh listener cannot bind tcp %v", local),
			Why: err.Error(), Fix: "stop what holds the port, or set mesh.lanes = [\"quic\"] in gateway.hcl, and restart", Err: err}
	}
	return newDoor(listener), nil
}

// acceptTCP accepts connections until ctx ends.
func (t *Transport) acceptTCP(ctx context.Context, d *tcpDoor) error {
	stop := context.AfterFunc(ctx, func() { _ = d.listener.Close() })
	defer stop()
	wait, said := time.Duration(0), false
	for {
		conn, err := d.listener.AcceptTCP()
		if ctx.Err() != nil {
			if err == nil {
				_ = conn.Close()
			}
			return nil
		}
		if err != nil { // too many open files, most likely: it passes, and QUIC goes on
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept on tcp %v: %w", d.listener.Addr(), err)
			}
			if wait = min(max(2*wait, 5*time.Millisecond), time.Second); !said {
				said = true
				t.log.Warn("connections over TCP wait", "address", d.listener.Addr(), "err", err)
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
			continue
		}
		wait, said = 0, false
		pass, err := d.gate.enter(conn.RemoteAddr())
		if err != nil {
			_ = conn.SetLinger(0)
			_ = conn.Close()
			continue
		}
		handled := t.start(func() {
			defer pass.release()
			if proto, err := t.serveTCP(ctx, d, conn, pass); err != nil && ctx.Err() == nil {
				t.log.Info("incoming session refused", "protocol", proto, "remote", conn.RemoteAddr(), "err", err)
			}
		})
		if !handled {
			pass.release()
			_ = conn.Close()
		}
	}
}

const noProto = "none"

// serveTCP finds out who has connected and for what, and serves it. pass is given back when the other end is known.
func (t *Transport) serveTCP(ctx context.Context, d *tcpDoor, conn *net.TCPConn, pass *ticket) (proto string, err error) {
	deadline := time.Now().Add(handshakeLimit)
	_ = conn.SetDeadline(deadline)
	under := &wire{TCPConn: conn}
	secured := tls.Server(under, t.serverTLS(protoLane, protoExchange, protoJoin))
	shakes, cancel := context.WithDeadline(ctx, deadline)
	err = secured.HandshakeContext(shakes)
	cancel()
	proto = cmp.Or(secured.ConnectionState().NegotiatedProtocol, noProto)
	c := newTLSConn(secured, under, proto)
	switch {
	case err != nil:
	case proto == noProto:
		err = errors.New("no protocol was agreed")
	case proto != protoJoin:
		err = t.index(c.live, secured.ConnectionState())
	}
	if err != nil {
		_ = conn.Close()
		return proto, err
	}
	_ = conn.SetDeadline(time.Now().Add(openLimit))
	switch proto {
	case protoJoin:
		err = t.acceptJoinTCP(ctx, d, c)
	case protoExchange:
		err = t.acceptExchangeTCP(ctx, d, c, pass)
	default:
		err = t.acceptTCPLane(c, pass)
	}
	var no refusal
	switch {
	case err == nil:
		return proto, nil
	case errors.As(err, &no):
		err = nil // whoever answered has logged it
		c.refuse(closeRefused, no.text())
	case errors.Is(err, errCrowded):
		c.refuse(closeCrowded, "session refused")
	default:
		c.refuse(closeProtocol, "session refused")
	}
	t.forgetConn(c.live)
	return proto, err
}

// acceptTCPLane serves what a connection for flows is by its first frame.
func (t *Transport) acceptTCPLane(c *tlsConn, pass *ticket) error {
	h, err := readHeader(c)
	if err != nil {
		return err
	}
	switch h.Type {
	case frameHello:
		greeting, err := greetingBody(c, h)
		if err != nil {
			return err
		}
		pass.release()
		_ = c.SetDeadline(time.Time{})
		return t.acceptLanes(c, greeting)
	case frameLane:
		return t.acceptLane(c, h)
	}
	return fmt.Errorf("%w: a connection that starts with %v", flow.ErrViolation, h.Type)
}

// refuse says why the connection is not served, and closes it when the other end has read that: data that comes to a closed socket
// would make the kernel reset the connection.
func (c *tlsConn) refuse(code quic.ApplicationErrorCode, reason string) {
	c.farewell(code, reason)
	_ = c.SetReadDeadline(time.Now().Add(farewellLimit))
	_, _ = io.Copy(io.Discard, io.LimitReader(c.tcp, maxQuestion))
	_ = c.tcp.Close()
}

func newTLSConn(secured *tls.Conn, under *wire, proto string) *tlsConn {
	c := &tlsConn{Conn: secured, tcp: under.TCPConn, wire: under, congestion: tuneTCP(under.TCPConn)}
	_ = under.SetKeepAliveConfig(keepAlive)
	c.live = &liveConn{end: c, proto: proto}
	return c
}

// keepAlive keeps the way open in firewalls and NATs, of which some forget a silent connection after minutes, and finds out
// when it is not.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 15 * time.Second, Interval: 5 * time.Second, Count: 3}
