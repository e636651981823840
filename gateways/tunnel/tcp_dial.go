package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
)

// boundFor returns what the mesh listener is bound to that reaches ip; nil with ok: nothing that the system knows as an address.
func (t *Transport) boundFor(ip net.IP) (bound *net.TCPAddr, ok bool) {
	v4 := ip.To4() != nil
	if s := t.socketFor(&net.UDPAddr{IP: ip}); s != nil {
		if local, ok := s.conn.LocalAddr().(*net.UDPAddr); ok {
			bound = &net.TCPAddr{IP: local.IP, Port: local.Port, Zone: local.Zone}
		}
		return bound, true
	}
	for _, d := range t.doors {
		if local, isTCP := d.listener.Addr().(*net.TCPAddr); isTCP && reaches(local.IP, v4) {
			return local, true
		}
	}
	return nil, false
}

// dialTLS connects to target for proto, from the address that the mesh listener is bound to, if it is bound to one.
func (t *Transport) dialTLS(ctx context.Context, target *net.TCPAddr, conf *tls.Config, proto string) (*tlsConn, error) {
	bound, ok := t.boundFor(target.IP)
	if !ok {
		return nil, errNoFamily
	}
	var dialer net.Dialer
	if bound != nil && !bound.IP.IsUnspecified() {
		dialer.LocalAddr = &net.TCPAddr{IP: bound.IP, Zone: bound.Zone}
	}
	conn, err := dialer.DialContext(ctx, "tcp", target.String())
	if err != nil {
		return nil, err
	}
	tcp, ok := conn.(*net.TCPConn)
	if !ok {
		_ = conn.Close()
		return nil, fmt.Errorf("a connection of type %T", conn)
	}
	under := &wire{TCPConn: tcp}
	secured := tls.Client(under, sealed(conf, proto))
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = tcp.Close()
		return nil, err
	}
	return newTLSConn(secured, under, proto), nil
}

// introduce finds out who has answered at c, which has just been dialled, and says for what it is: body comes with the greeting. It
// closes c when it fails.
func (t *Transport) introduce(ctx context.Context, c *tlsConn, peer federation.Region, body []byte) error {
	err := t.index(c.live, c.ConnectionState())
	if err == nil && c.live.region != peer {
		err = fmt.Errorf("the gateway belongs to region %s", c.live.region)
	}
	if err == nil {
		err = c.hello(ctx, frameHello, body)
	}
	if err != nil {
		_ = c.tcp.Close()
		t.forgetConn(c.live)
	}
	return err
}

// dialTCP calls dial with each of address's IP addresses until it returns nil; what it returns otherwise is put into words.
func (t *Transport) dialTCP(ctx context.Context, address string, limit time.Duration, dial func(context.Context, *net.TCPAddr) error) error {
	return t.dialEach(ctx, address, func(to *net.UDPAddr) error {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		start, target := time.Now(), &net.TCPAddr{IP: to.IP, Port: to.Port, Zone: to.Zone}
		if err := dial(ctx, target); err != nil {
			return t.besideLoopback(to, laneDiagnostic(address, target, time.Since(start), err))
		}
		return nil
	})
}

// remoteAlert is the operation of which crypto/tls says that it failed when the other end has sent an alert.
const remoteAlert = "remote error"

// laneDiagnostic says why gateway address, tried at target over TCP, was not reached.
func laneDiagnostic(address string, target net.Addr, took time.Duration, err error) error {
	at := address
	if target.String() != address {
		at = fmt.Sprintf("%s (%v)", address, target)
	}
	d := &federation.Diagnostic{Code: federation.CodeLaneSilent, What: "gateway " + at + " is not reached over TCP", Err: err}
	var (
		app     *quic.ApplicationError
		known   *federation.Diagnostic
		timeout net.Error
		network *net.OpError
	)
	switch {
	case errors.Is(err, errNoFamily):
		d.Why, d.Fix = err.Error(), "listen on an address of the same family, or give the gateway an address of this one"
	case errors.As(err, &app):
		d.Code, d.Why, d.Fix = federation.CodeGatewayRefused, "it closed the connection: "+reasonOf(app), "look at the log of that gateway"
	case errors.As(err, &known): // the trust authority
		d.Code, d.Why, d.Fix = known.Code, strings.TrimSuffix(known.What+": "+known.Why, ": "), known.Fix
	case errors.As(err, &network) && network.Op == remoteAlert:
		d.Code, d.Why = federation.CodeGatewayTLS, fmt.Sprintf("it refused the handshake: %v", network.Err)
		d.Fix = "check that the peering exists on both sides, and that both run compatible versions"
	case errors.Is(err, syscall.ECONNREFUSED):
		d.Why = "nothing listens there for TCP"
		d.Fix = "check that mesh.lanes of that gateway has \"tcp\", and that its port could be bound"
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		d.Why = fmt.Sprintf("no answer in %v: is TCP blocked on the way, or the gateway down?", took.Round(100*time.Millisecond))
		d.Fix = "open the mesh port for TCP in every firewall and security group between the two gateways"
	case errors.As(err, &network):
		d.Why, d.Fix = network.Err.Error(), "check the routes of this host"
	default:
		d.Why = err.Error()
	}
	return d
}
