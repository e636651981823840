package link

import (
	"encoding/binary"
	"net/netip"
)

// protocol is the IP protocol number of what a packet carries.
type protocol uint8

// The protocols that the link knows apart (IANA).
const (
	other protocol = 0
	tcp   protocol = 6
	udp   protocol = 17
)

// A packet is what the link needs to know of an IP packet. The ports are those of TCP and UDP; a packet that has none, being a
// fragment behind the first or cut short, has a ports of 0.
type packet struct {
	protocol protocol
	ports    int // offset of the source port in the packet; the destination port follows
	src, dst netip.AddrPort
}

const (
	ipv4HeaderLen  = 20
	ipv6HeaderLen  = 40
	udpHeaderLen   = 8
	maxExtensions  = 8 // RFC 8200 lists six, each at most once or twice
	moreFragments  = 0x2000
	fragmentOffset = 0x1fff
)

// parse reads an IPv4 or IPv6 packet. What it does not understand is other: it travels, but is neither blocked nor translated.
func parse(b []byte) packet {
	if len(b) < 1 {
		return packet{}
	}
	switch {
	case b[0]>>4 == 4 && len(b) >= ipv4HeaderLen:
		return parse4(b)
	case b[0]>>4 == 6 && len(b) >= ipv6HeaderLen:
		return parse6(b)
	}
	return packet{}
}

func parse4(b []byte) packet {
	p := packet{protocol: protocol(b[9])}
	header := int(b[0]&0xf) * 4
	if header < ipv4HeaderLen || binary.BigEndian.Uint16(b[6:])&fragmentOffset != 0 {
		return p
	}
	return p.withPorts(b, header, b[12:16], b[16:20])
}

func parse6(b []byte) packet {
	next, at := b[6], ipv6HeaderLen
	for range maxExtensions {
		switch next {
		case 0, 43, 60: // hop-by-hop, routing, destination options: length in units of eight octets behind the first (RFC 8200 4)
			if at+8 > len(b) {
				return packet{}
			}
			next, at = b[at], at+8+int(b[at+1])*8
		case 44: // fragment
			if at+8 > len(b) {
				return packet{}
			}
			first := binary.BigEndian.Uint16(b[at+2:])&^7 == 0
			next, at = b[at], at+8
			if !first {
				return packet{protocol: protocol(next)}
			}
		default:
			return packet{protocol: protocol(next)}.withPorts(b, at, b[8:24], b[24:40])
		}
	}
	return packet{}
}

func (p packet) withPorts(b []byte, at int, src, dst []byte) packet {
	if p.protocol != tcp && p.protocol != udp || at+udpHeaderLen > len(b) {
		return p
	}
	from, _ := netip.AddrFromSlice(src)
	to, _ := netip.AddrFromSlice(dst)
	p.ports = at
	p.src = netip.AddrPortFrom(from, binary.BigEndian.Uint16(b[at:]))
	p.dst = netip.AddrPortFrom(to, binary.BigEndian.Uint16(b[at+2:]))
	return p
}

// setPort replaces one of the ports of a UDP packet, at its offset at, and mends the checksum, which is at sum. The addresses in
// the pseudo header stay as they are.
func setPort(b []byte, at, sum int, port uint16) {
	old := binary.BigEndian.Uint16(b[at:])
	binary.BigEndian.PutUint16(b[at:], port)
	if check := binary.BigEndian.Uint16(b[sum:]); check != 0 { // 0: the sender computed none (RFC 768)
		binary.BigEndian.PutUint16(b[sum:], mend(check, old, port))
	}
}

// mend is equation 3 of RFC 1624, HC' = ~(~HC + ~m + m'), with 0 written as 0xffff, because 0 means none (RFC 768).
func mend(check, old, replacement uint16) uint16 {
	sum := uint32(^check) + uint32(^old) + uint32(replacement)
	sum = sum&0xffff + sum>>16
	sum = sum&0xffff + sum>>16
	if mended := ^uint16(sum); mended != 0 {
		return mended
	}
	return 0xffff
}
