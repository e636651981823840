package mesh

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// address is where a caller from outside calls from, or the zero address.
func (c *caller) address() netip.AddrPort {
	if !c.client.IsValid() || c.client.IsUnspecified() {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(c.client, c.port)
}

// introduce sends c, a connection to the instance at to, a PROXY header; client may be unknown. It closes c when that fails.
func introduce(c callerConn, v federation.ProxyVersion, client, to netip.AddrPort, until time.Time) error {
	_ = c.SetWriteDeadline(until)
	_, err := c.Write(appendProxy(make([]byte, 0, 107), v, client, to))
	if err == nil {
		err = c.SetWriteDeadline(time.Time{})
	}
	if err != nil {
		abort(c)
		return fmt.Errorf("send the PROXY header: %w", err)
	}
	return nil
}

// appendProxy appends a header of the PROXY protocol, by https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, sections 2.1 and
// 2.2. When the two addresses are of different families both are written as those of IPv6.
func appendProxy(b []byte, v federation.ProxyVersion, client, to netip.AddrPort) []byte {
	from, here := client.Addr().Unmap().WithZone(""), to.Addr().Unmap().WithZone("")
	four := from.Is4() && here.Is4()
	if v == federation.ProxyV1 {
		switch {
		case !from.IsValid():
			return append(b, "PROXY UNKNOWN\r\n"...)
		case four:
			return fmt.Appendf(b, "PROXY TCP4 %s %s %d %d\r\n", from, here, client.Port(), to.Port())
		}
		return fmt.Appendf(b, "PROXY TCP6 %s %s %d %d\r\n", netip.AddrFrom16(from.As16()), netip.AddrFrom16(here.As16()),
			client.Port(), to.Port())
	}
	b = append(b, "\r\n\r\n\x00\r\nQUIT\n"...)
	switch {
	case !from.IsValid():
		return append(b, 0x20, 0x00, 0, 0) // LOCAL: the connection is this gateway's own
	case four:
		b = append(b, 0x21, 0x11, 0, 12) // PROXY, TCP over IPv4
		b = append(append(b, from.AsSlice()...), here.AsSlice()...)
	default:
		b = append(b, 0x21, 0x21, 0, 36) // PROXY, TCP over IPv6
		source, destination := from.As16(), here.As16()
		b = append(append(b, source[:]...), destination[:]...)
	}
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, client.Port()), to.Port())
}
