package world

import (
	"context"
	"net"

	"github.com/tradewind-mesh/tradewind/e2e/link"
)

// Dial connects from inside the cloud's namespace. A socket belongs to the namespace of the thread that makes it, so one
// thread enters the namespace, dials, and is thrown away.
func (c *Cloud) Dial(ctx context.Context, network, address string) (conn net.Conn, err error) {
	failed := link.Inside(c.Namespace, func() error {
		var d net.Dialer
		conn, err = d.DialContext(ctx, network, address)
		return err
	})
	return conn, failed
}

// Listen listens inside the cloud's namespace.
func (c *Cloud) Listen(ctx context.Context, network, address string) (listener net.Listener, err error) {
	failed := link.Inside(c.Namespace, func() error {
		var l net.ListenConfig
		listener, err = l.Listen(ctx, network, address)
		return err
	})
	return listener, failed
}

// ListenPacket is Listen for UDP.
func (c *Cloud) ListenPacket(ctx context.Context, network, address string) (conn net.PacketConn, err error) {
	failed := link.Inside(c.Namespace, func() error {
		var l net.ListenConfig
		conn, err = l.ListenPacket(ctx, network, address)
		return err
	})
	return conn, failed
}
