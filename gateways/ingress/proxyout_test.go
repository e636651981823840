package ingress_test

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TestInstancesHearOfTheClient sends the same client, as a trusted proxy names it, to services that want to be told in either version.
func TestInstancesHearOfTheClient(t *testing.T) {
	e := newEdge(t)
	for version, read := range map[federation.ProxyVersion]func(io.Reader) string{federation.ProxyV1: readLine, federation.ProxyV2: readBinary} {
		name := "db" + string(version)
		instance := serveWith(t, func(c net.Conn) {
			_, _ = fmt.Fprintf(c, "%s|", read(c))
			_, _ = io.Copy(c, c)
			_ = c.Close()
		})
		resolver := federation.Resolver{Service: ref(name).Service, ProxyProtocol: version}
		if err := resolver.Validate("default/" + name); err != nil {
			t.Fatal(err)
		}
		if e.view.Resolvers == nil {
			e.view.Resolvers = map[federation.ServiceName]federation.Resolver{}
		}
		e.view.Resolvers[resolver.Service] = resolver
		e.serve(name, federation.ProtocolTCP, instance)
		at := e.listen(federation.Ingress{Name: "in-" + name, TCP: ref(name), ProxyProtocol: true,
			TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
		port := netip.MustParseAddrPort(instance).Port()
		for said, want := range map[string]string{
			"PROXY TCP4 192.0.2.7 198.51.100.1 4711 443\r\n":    fmt.Sprintf("192.0.2.7:4711 127.0.0.1:%d", port),
			"PROXY TCP6 2001:db8::7 2001:db8::1 4711 443\r\n":   fmt.Sprintf("[2001:db8::7]:4711 [::ffff:127.0.0.1]:%d", port),
			"PROXY TCP4 203.0.113.255 198.51.100.1 65535 1\r\n": fmt.Sprintf("203.0.113.255:65535 127.0.0.1:%d", port),
		} {
			c, err := net.Dial("tcp", at)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.WriteString(c, said+"hello")
			_ = c.(*net.TCPConn).CloseWrite()
			got, err := io.ReadAll(c)
			if err != nil || string(got) != want+"|hello" {
				t.Errorf("%s, %q: the instance heard %q %v", version, said, got, err)
			}
			_ = c.Close()
		}
	}
}

func readLine(r io.Reader) string {
	var line []byte
	for b := make([]byte, 1); len(line) < 200 && !strings.HasSuffix(string(line), "\r\n"); {
		if _, err := r.Read(b); err != nil {
			return err.Error()
		}
		line = append(line, b[0])
	}
	f := strings.Fields(string(line))
	if len(f) != 6 || f[0] != "PROXY" || f[1] != "TCP4" && f[1] != "TCP6" {
		return string(line)
	}
	return net.JoinHostPort(f[2], f[4]) + " " + net.JoinHostPort(f[3], f[5])
}

func readBinary(r io.Reader) string {
	head := make([]byte, 16)
	if _, err := io.ReadFull(r, head); err != nil {
		return err.Error()
	}
	rest := make([]byte, binary.BigEndian.Uint16(head[14:]))
	if _, err := io.ReadFull(r, rest); err != nil {
		return err.Error()
	}
	n := map[byte]int{0x11: 4, 0x21: 16}[head[13]]
	if string(head[:12]) != "\r\n\r\n\x00\r\nQUIT\n" || head[12] != 0x21 || n == 0 || len(rest) != 2*n+4 {
		return fmt.Sprintf("%x %x", head, rest)
	}
	at := func(address, port int) string {
		a, _ := netip.AddrFromSlice(rest[address : address+n])
		return netip.AddrPortFrom(a, binary.BigEndian.Uint16(rest[port:])).String()
	}
	return at(0, 2*n) + " " + at(n, 2*n+2)
}
