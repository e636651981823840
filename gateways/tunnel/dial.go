package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
)

// dialConn connects to the first of address's IP addresses that answers, from a shared socket. limit bounds the attempt on each
// of them. The error is a *federation.Diagnostic that names the address and says in words what happened.
func (t *Transport) dialConn(ctx context.Context, c class, address string, conf *tls.Config, limit time.Duration) (*quic.Conn, error) {
	var conn *quic.Conn
	conf = sealed(conf, c.String())
	err := t.dialEach(ctx, address, func(target *net.UDPAddr) (err error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		start := time.Now()
		if s := t.socketFor(target); s == nil {
			err = errNoFamily
		} else if conn, err = s.transports[c].Dial(ctx, target, conf, quicConfig(c, true)); err == nil {
			return nil
		}
		return t.besideLoopback(target, dialDiagnostic(address, target, time.Since(start), err))
	})
	return conn, err
}

// dialFlow is dialConn for the flows of w. own is the socket that belongs to the connection alone, if one does.
func (t *Transport) dialFlow(ctx context.Context, w way, conf *tls.Config, limit time.Duration) (conn *quic.Conn, own *socket, err error) {
	if w.number == 0 {
		conn, err = t.dialConn(ctx, classFlow, w.address, conf, limit)
		return conn, nil, err
	}
	conf = sealed(conf, protoFlow)
	err = t.dialEach(ctx, w.address, func(target *net.UDPAddr) (err error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		s := t.socketFor(target)
		if s == nil {
			return dialDiagnostic(w.address, target, 0, errNoFamily)
		}
		if own = beside(s); own != nil {
			s = own
		}
		start := time.Now()
		if conn, err = s.transports[classFlow].Dial(ctx, target, conf, quicConfig(classFlow, true)); err == nil {
			return nil
		}
		if own != nil {
			own.close()
		}
		return t.besideLoopback(target, dialDiagnostic(w.address, target, time.Since(start), err))
	})
	if err != nil {
		own = nil
	}
	return conn, own, err
}

// beside makes a socket for one connection, on the address of s and a port of its own. It returns nil when s is no UDP socket, or
// the kernel has none to give: then s serves, as it does for everybody else.
func beside(s *socket) *socket {
	udp, ok := s.conn.(*net.UDPConn)
	if !ok {
		return nil
	}
	local, ok := udp.LocalAddr().(*net.UDPAddr)
	if !ok {
		return nil
	}
	conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: local.IP, Zone: local.Zone})
	if err != nil {
		return nil
	}
	return newSocket(conn, classFlow)
}

// dialEach calls dial with each of address's IP addresses until it returns nil, and returns the last error.
func (t *Transport) dialEach(ctx context.Context, address string, dial func(target *net.UDPAddr) error) error {
	targets, err := t.resolve(ctx, address)
	if err != nil {
		return err
	}
	select {
	case <-t.reading:
	case <-ctx.Done():
		return fmt.Errorf("dial gateway %s before the tunnel runs: %w", address, context.Cause(ctx))
	}
	select {
	case t.dials <- struct{}{}:
		// A handshake is work in its first moments; one that is only waiting must not keep others from starting.
		busy := time.AfterFunc(busyDial, func() { <-t.dials })
		defer func() {
			if busy.Stop() {
				<-t.dials
			}
		}()
	case <-ctx.Done():
		return fmt.Errorf("dial gateway %s: %w", address, context.Cause(ctx))
	}
	var last error
	for _, target := range targets {
		if last = dial(target); last == nil {
			return nil
		}
		if ctx.Err() != nil && !errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return fmt.Errorf("dial gateway %s: %w", address, context.Cause(ctx))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return last
}

// socketFor returns the shared socket that can reach target, or nil.
func (t *Transport) socketFor(target *net.UDPAddr) *socket {
	for _, s := range t.sockets {
		if s.reaches(target.IP.To4() != nil) {
			return s
		}
	}
	return nil
}

// besideLoopback names the cause when nothing can come back from target: the socket is bound to loopback, and target is
// elsewhere. An address of this very host is reached all the same, so it is said of an attempt that failed only.
func (t *Transport) besideLoopback(target *net.UDPAddr, err error) error {
	var d *federation.Diagnostic
	if target.IP.IsLoopback() || !errors.As(err, &d) || d.Code != federation.CodeGatewaySilent && d.Code != federation.CodeLaneSilent {
		return err
	}
	if bound, _ := t.boundFor(target.IP); bound != nil && bound.IP.IsLoopback() {
		d.Why = fmt.Sprintf("this gateway is bound to the loopback address %v, from where no other host is reached", bound)
		d.Fix = fmt.Sprintf("set mesh.listen in gateway.hcl to an address that peers can reach, such as \"0.0.0.0:%d\", and restart", bound.Port)
		return d
	}
	return err
}

var errNoFamily = errors.New("no socket of this gateway can reach that kind of address")

// maxTargets is how many addresses of one name are tried.
const maxTargets = 8

// resolve returns the UDP addresses that address stands for.
func (t *Transport) resolve(ctx context.Context, address string) ([]*net.UDPAddr, error) {
	bad := func(why string, err error) error {
		return &federation.Diagnostic{Code: federation.CodeGatewayName, What: fmt.Sprintf("gateway address %s leads nowhere", address), Why: why,
			Fix: "correct the address, or the DNS record it names", Err: err}
	}
	host, service, err := net.SplitHostPort(address)
	if err != nil {
		return nil, bad("it is not \"host:port\"", err)
	}
	port, err := strconv.ParseUint(service, 10, 16)
	if err != nil || port == 0 {
		return nil, bad(fmt.Sprintf("%q is not a port", service), err)
	}
	ips := make([]netip.Addr, 1)
	if ips[0], err = netip.ParseAddr(host); err != nil {
		ctx, cancel := context.WithTimeout(ctx, handshakeLimit)
		defer cancel()
		if ips, err = t.cfg.Resolve(ctx, host); err != nil {
			return nil, bad(fmt.Sprintf("the name %s does not resolve: %v", host, err), err)
		}
	}
	var targets []*net.UDPAddr
	for _, ip := range ips[:min(len(ips), maxTargets)] {
		targets = append(targets, net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip.Unmap(), uint16(port))))
	}
	if len(targets) == 0 {
		return nil, bad(fmt.Sprintf("the name %s has no address", host), nil)
	}
	return targets, nil
}

// ofPeer is err, which ended an attempt to reach a gateway of peer, with what only the name of the peer allows to say: one that
// refuses our certificate has most likely removed the peering while we could not be told.
func ofPeer(peer federation.Region, err error) error {
	var d *federation.Diagnostic
	if !errors.As(err, &d) || !refusesCertificate(err) {
		return err
	}
	named := *d
	named.Code = federation.CodePeerRefusesUs
	named.Fix = fmt.Sprintf("if it was removed there: tradewind peer remove %s; else make a new token there and establish again", peer)
	return &named
}

// refusesCertificate reports whether err is the other end's alert about our certificate. Over TCP crypto/tls keeps the number of an
// alert to itself, and gives its text.
func refusesCertificate(err error) bool {
	var transport *quic.TransportError
	var network *net.OpError
	alerts := []uint8{alertBadCertificate, alertCertUnknown, alertUnknownCA, alertAccessDenied}
	switch {
	case errors.As(err, &transport):
		return transport.Remote && slices.ContainsFunc(alerts, func(a uint8) bool {
			return transport.ErrorCode == cryptoError+quic.TransportErrorCode(a)
		})
	case errors.As(err, &network) && network.Op == remoteAlert:
		return slices.ContainsFunc(alerts, func(a uint8) bool { return network.Err.Error() == tls.AlertError(a).Error() })
	}
	return false
}

// dialDiagnostic says why gateway address, tried at target, was not reached.
func dialDiagnostic(address string, target net.Addr, took time.Duration, err error) error {
	at := address
	if target != nil && target.String() != address {
		at = fmt.Sprintf("%s (%v)", address, target)
	}
	d := &federation.Diagnostic{Code: federation.CodeGatewaySilent, What: "gateway " + at + " is not reached", Err: err}
	took = took.Round(100 * time.Millisecond)
	var (
		transport *quic.TransportError
		app       *quic.ApplicationError
		timeout   net.Error
		network   *net.OpError
	)
	switch {
	case errors.Is(err, errNoFamily):
		d.Why, d.Fix = err.Error(), "listen on an address of the same family, or give the gateway an address of this one"
	case errors.As(err, &transport):
		describeTransport(d, transport)
	case errors.As(err, &app):
		d.Code, d.Why = federation.CodeGatewayRefused, fmt.Sprintf("it closed the connection: %s", reasonOf(app))
		d.Fix = "look at the log of that gateway"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		d.Why = fmt.Sprintf("no answer in %v: is UDP blocked on the way, or the gateway down?", took)
		d.Fix = "open the mesh port for UDP in every firewall and security group between the two gateways, in both directions"
	case errors.As(err, &network):
		d.Why, d.Fix = network.Err.Error(), "check the routes of this host"
	default:
		d.Why = err.Error()
	}
	return d
}

// The TLS alerts that a peer sends about a certificate (RFC 8446, section 6.2).
const (
	cryptoError       = 0x100 // RFC 9001, section 4.8: the alert is added to it
	alertNoProtocol   = 120
	alertCertRequired = 116

	alertBadCertificate = 42
	alertCertUnknown    = 46
	alertUnknownCA      = 48
	alertAccessDenied   = 49
)

func describeTransport(d *federation.Diagnostic, e *quic.TransportError) {
	switch code := e.ErrorCode; {
	case code == quic.ConnectionRefused:
		d.Code, d.Why = federation.CodeGatewayRefused, "it refuses connections: too many at once, or it is stopping"
		d.Fix = "try again; if it stays so, look at the log of that gateway"
	case code == cryptoError+alertNoProtocol:
		d.Code, d.Why = federation.CodeGatewayTLS, "what answers there does not speak this protocol"
		d.Fix = "check that the address is the mesh listener of a gateway, and that both run compatible versions"
	case code >= cryptoError && code < cryptoError+256 && e.Remote:
		d.Code, d.Why = federation.CodeGatewayTLS, fmt.Sprintf("it refused this gateway's certificate (TLS alert %d: %s)",
			code-cryptoError, tls.AlertError(code-cryptoError).Error())
		d.Fix = "check that the peering exists on both sides; if one side has a new root, peer again"
	case code >= cryptoError && code < cryptoError+256:
		d.Code, d.Why = federation.CodeGatewayTLS, "its certificate is not accepted: "+e.Error()
		d.Fix = "check that the address belongs to that region, and that the token or the peering is not from another one"
		var known *federation.Diagnostic
		if cause := tlsCause(e); errors.As(cause, &known) { // the trust authority has said it better
			d.Code, d.Why, d.Fix = known.Code, known.What, known.Fix
			if known.Why != "" {
				d.Why += ": " + known.Why
			}
		} else if cause != nil {
			d.Why = "its certificate is not accepted: " + cause.Error()
		}
	default:
		d.Why = e.Error()
	}
}

// tlsCause returns what the handshake failed on at this end.
func tlsCause(e *quic.TransportError) error {
	for _, cause := range e.Unwrap() {
		if cause != nil && !errors.Is(cause, net.ErrClosed) {
			return cause
		}
	}
	return nil
}

// reasonOf returns what the peer said when it closed; the text is the peer's, so it is quoted.
func reasonOf(e *quic.ApplicationError) string {
	if e.ErrorMessage == "" {
		return fmt.Sprintf("code %d", uint64(e.ErrorCode))
	}
	return fmt.Sprintf("code %d, %.200q", uint64(e.ErrorCode), e.ErrorMessage)
}
