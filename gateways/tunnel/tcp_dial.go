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

// dialTLS connects to target from the address that the mesh socket is bound to, if it is bound to one.
func (t *Transport) dialTLS(ctx context.Context, target *net.TCPAddr, conf *tls.Config) (*tlsConn, error) {
	s := t.socketFor(&net.UDPAddr{IP: target.IP, Zone: target.Zone})
	if s == nil {
		return nil, errNoFamily
	}
	var dialer net.Dialer
	if local, ok := s.conn.LocalAddr().(*net.UDPAddr); ok && !local.IP.IsUnspecified() {
		dialer.LocalAddr = &net.TCPAddr{IP: local.IP, Zone: local.Zone}
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
	secured := tls.Client(under, sealed(conf, protoLane))
	if err := secured.HandshakeContext(ctx); err != nil {
		_ = tcp.Close()
		return nil, err
	}
	return newTLSConn(secured, under), nil
}

// laneDiagnostic says why gateway address, tried at target over TCP, was not reached.
func laneDiagnostic(address string, target net.Addr, took time.Duration, err error) error {
	at := address
	if target.String() != address {
		at = fmt.Sprintf("%s (%v)", address, target)
	}
	d := &federation.Diagnostic{Code: federation.CodeLaneSilent, What: "gateway " + at + " is not reached over TCP", Err: err}
	var (
		app      *quic.ApplicationError
		known    *federation.Diagnostic
		timeout  net.Error
		network  *net.OpError
		received = "remote error" // what crypto/tls calls an alert of the other end
	)
	switch {
	case errors.Is(err, errNoFamily):
		d.Why, d.Fix = err.Error(), "listen on an address of the same family, or give the gateway an address of this one"
	case errors.As(err, &app):
		d.Code, d.Why, d.Fix = federation.CodeGatewayRefused, "it closed the connection: "+reasonOf(app), "look at the log of that gateway"
	case errors.As(err, &known): // the trust authority
		d.Code, d.Why, d.Fix = known.Code, strings.TrimSuffix(known.What+": "+known.Why, ": "), known.Fix
	case errors.As(err, &network) && network.Op == received:
		d.Code, d.Why = federation.CodeGatewayTLS, fmt.Sprintf("it refused the handshake: %v", network.Err)
		d.Fix = "check that the peering exists on both sides, and that both gateways speak " + protoLane
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
