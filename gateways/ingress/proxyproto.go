package ingress

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
)

// The PROXY protocol, by https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt, read without an octet too many: what follows
// the header is left in the connection.

const (
	signature2 = "\r\n\r\n\x00\r\nQUIT\n" // 2.2: what version 2 begins with
	maxProxy1  = 107                      // 2.1: with CRLF
	maxProxy2  = 4 << 10                  // addresses are 36 octets at most; the rest are extensions, which are skipped
)

// readProxy reads a PROXY header of version 1 or 2 and returns whom the proxy speaks for. The zero address means the proxy itself,
// which looks whether we live.
func readProxy(r io.Reader) (netip.AddrPort, error) {
	var start [len(signature2)]byte
	if _, err := io.ReadFull(r, start[:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
	}
	if string(start[:]) == signature2 {
		return readProxy2(r)
	}
	if !bytes.HasPrefix(start[:], []byte("PROXY ")) {
		return netip.AddrPort{}, errors.New("the PROXY header is missing")
	}
	line := append(make([]byte, 0, maxProxy1), start[:]...)
	for line[len(line)-1] != '\n' {
		if len(line) == maxProxy1 {
			return netip.AddrPort{}, errors.New("the PROXY header is longer than 107 octets")
		}
		if _, err := io.ReadFull(r, line[len(line):len(line)+1]); err != nil {
			return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
		}
		line = line[:len(line)+1]
	}
	return parseProxy1(string(line))
}

var errProxy = errors.New("the PROXY header is malformed")

// parseProxy1 reads a line of version 1.
func parseProxy1(line string) (netip.AddrPort, error) {
	text, whole := strings.CutSuffix(line, "\r\n")
	fields := strings.Split(text, " ")
	switch {
	case !whole, len(fields) < 2:
		return netip.AddrPort{}, errProxy
	case fields[1] == "UNKNOWN": // what follows is to be ignored
		return netip.AddrPort{}, nil
	case len(fields) != 6:
		return netip.AddrPort{}, errProxy
	}
	var ends [2]netip.AddrPort
	for i := range ends {
		ip, err := netip.ParseAddr(fields[2+i])
		port, errPort := strconv.ParseUint(fields[4+i], 10, 16)
		if err != nil || errPort != nil || ip.Zone() != "" || ip.Is4() != (fields[1] == "TCP4") || ip.Is6() != (fields[1] == "TCP6") ||
			strconv.FormatUint(port, 10) != fields[4+i] {
			return netip.AddrPort{}, errProxy
		}
		ends[i] = netip.AddrPortFrom(ip.Unmap(), uint16(port))
	}
	return ends[0], nil
}

// readProxy2 reads what follows the signature of version 2.
func readProxy2(r io.Reader) (netip.AddrPort, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
	}
	length := int(binary.BigEndian.Uint16(head[2:]))
	version, command, family := head[0]>>4, head[0]&15, head[1]
	if version != 2 || command > 1 || length > maxProxy2 {
		return netip.AddrPort{}, errProxy
	}
	size, port := 0, 0 // of the source's address, and where its port is
	switch family {
	case 0x11: // TCP over IPv4
		size, port = 4, 8
	case 0x21: // TCP over IPv6
		size, port = 16, 32
	}
	rest := make([]byte, length)
	if _, err := io.ReadFull(r, rest); err != nil {
		return netip.AddrPort{}, fmt.Errorf("read the PROXY header: %w", err)
	}
	if command == 0 || size == 0 { // LOCAL, or something that is no TCP
		return netip.AddrPort{}, nil
	}
	if len(rest) < port+4 {
		return netip.AddrPort{}, errProxy
	}
	ip, _ := netip.AddrFromSlice(rest[:size])
	return netip.AddrPortFrom(ip.Unmap(), binary.BigEndian.Uint16(rest[port:])), nil
}
