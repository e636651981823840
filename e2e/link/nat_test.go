package link

import (
	"bytes"
	"encoding/binary"
	"net/netip"
	"testing"

	"pgregory.net/rapid"
)

var (
	inner = netip.MustParseAddrPort("192.0.2.11:5000")
	far   = netip.MustParseAddrPort("192.0.2.12:8443")
	six   = netip.MustParseAddrPort("[2001:db8::11]:5000")
	far6  = netip.MustParseAddrPort("[2001:db8::12]:8443")
)

// datagram is a UDP packet with right checksums, but for that of the IPv4 header, which nobody here looks at.
func datagram(src, dst netip.AddrPort, payload []byte) []byte {
	length := udpHeaderLen + len(payload)
	var b []byte
	if src.Addr().Is4() {
		b = append(b, 0x45, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(ipv4HeaderLen+length))
		b = append(b, 0, 0, 0, 0, 64, byte(udp), 0, 0)
	} else {
		b = append(b, 0x60, 0, 0, 0)
		b = binary.BigEndian.AppendUint16(b, uint16(length))
		b = append(b, byte(udp), 64)
	}
	b = append(append(b, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	at := len(b)
	for _, field := range []uint16{src.Port(), dst.Port(), uint16(length), 0} {
		b = binary.BigEndian.AppendUint16(b, field)
	}
	b = append(b, payload...)
	sum := ^checksum(b, at)
	if sum == 0 {
		sum = 0xffff
	}
	binary.BigEndian.PutUint16(b[at+6:], sum)
	return b
}

// checksum is the sum of RFC 768 over the datagram at the given offset; with the right checksum in it, it is 0xffff.
func checksum(b []byte, at int) uint16 {
	addresses := b[12:20]
	if b[0]>>4 == 6 {
		addresses = b[8:40]
	}
	sum := uint32(udp) + uint32(len(b)-at)
	for _, part := range [][]byte{addresses, b[at:]} {
		for i, octet := range part {
			sum += uint32(octet) << (8 * (1 - i%2))
			sum = sum&0xffff + sum>>16
		}
	}
	return uint16(sum)
}

// ports returns what a packet carries, and fails unless its checksum is right.
func ports(t interface{ Fatalf(string, ...any) }, b []byte) (src, dst uint16) {
	p := parse(b)
	if sum := checksum(b, p.ports); sum != 0xffff {
		t.Fatalf("%v -> %v: the checksum is wrong: the sum is %#x", p.src, p.dst, sum)
	}
	return p.src.Port(), p.dst.Port()
}

func TestRebindGivesANewPortAndForgetsTheOld(t *testing.T) {
	for _, ends := range [][2]netip.AddrPort{{inner, far}, {six, far6}} {
		near, far := ends[0], ends[1]
		n := newNAT()
		out := func() uint16 {
			b := datagram(near, far, []byte("ping"))
			n.leave(b, parse(b))
			src, _ := ports(t, b)
			return src
		}
		in := func(to uint16) (uint16, bool) {
			b := datagram(far, netip.AddrPortFrom(near.Addr(), to), []byte("pong"))
			ok := n.enter(b, parse(b))
			_, dst := ports(t, b)
			return dst, ok
		}
		if got := out(); got != 5000 {
			t.Fatalf("before: port %d, want 5000", got)
		}
		if got, ok := in(5000); !ok || got != 5000 {
			t.Fatalf("before: answer reaches %d, %v", got, ok)
		}
		n.forget()
		if _, ok := in(5000); ok {
			t.Error("an answer to the old port came through")
		}
		first := out()
		if first == 5000 || out() != first {
			t.Fatalf("afterwards: port %d, then %d", first, out())
		}
		if got, ok := in(first); !ok || got != 5000 {
			t.Errorf("afterwards: answer reaches %d, %v", got, ok)
		}
		n.forget()
		if second := out(); second == first || second == 5000 {
			t.Errorf("the second time: port %d again", second)
		}
		if _, ok := in(first); ok {
			t.Error("an answer to the second port came through")
		}
	}
}

func TestRebindLeavesFlowsFromOutsideAlone(t *testing.T) {
	n := newNAT()
	b := datagram(far, inner, nil)
	n.enter(b, parse(b))
	n.forget()
	answer := datagram(inner, far, nil)
	if n.leave(answer, parse(answer)); parse(answer).src != inner {
		t.Errorf("the answer of a server behind a port forward comes from %v", parse(answer).src)
	}
	if !n.enter(b, parse(b)) {
		t.Error("the flow from outside was dropped")
	}
	news := datagram(netip.MustParseAddrPort("192.0.2.12:9999"), inner, nil)
	if !n.enter(news, parse(news)) || parse(news).dst != inner {
		t.Error("a new flow from outside was dropped")
	}
}

func TestOnlyUDPIsTranslated(t *testing.T) {
	n := newNAT()
	n.forget()
	for name, change := range map[string]func([]byte){
		"TCP":      func(b []byte) { b[9] = byte(tcp) },
		"ICMP":     func(b []byte) { b[9] = 1 },
		"fragment": func(b []byte) { b[7] = 1 },
		"header":   func(b []byte) { b[0] = 0x42 },
		"version":  func(b []byte) { b[0] = 0x55 },
	} {
		b := datagram(inner, far, []byte("data"))
		change(b)
		before := bytes.Clone(b)
		if n.leave(b, parse(b)); !bytes.Equal(b, before) {
			t.Errorf("%s was changed", name)
		}
	}
	none := datagram(inner, far, []byte("data"))
	none[26], none[27] = 0, 0
	if n.leave(none, parse(none)); none[26] != 0 || none[27] != 0 {
		t.Error("a datagram without a checksum was given one")
	}
	if parse(none).src == inner {
		t.Error("a datagram without a checksum was not translated")
	}
}

func TestANATIsBounded(t *testing.T) {
	n := newNAT()
	n.forget()
	for port := uint16(1); port < 3*maxMappings; port++ {
		b := datagram(netip.AddrPortFrom(inner.Addr(), port), far, nil)
		n.leave(b, parse(b))
		if port%100 == 0 {
			n.forget()
		}
	}
	if len(n.outside) > maxMappings || len(n.inside) > maxMappings || n.recent.Len() > maxMappings {
		t.Errorf("it holds %d, %d and %d mappings", len(n.outside), len(n.inside), n.recent.Len())
	}
}

// TestNATKeepsFlowsApart checks against a model: every answer to a port that was seen since the last forget reaches the sender.
func TestNATKeepsFlowsApart(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := newNAT()
		seen := map[flow]uint16{} // by what the outside sees
		for range rapid.IntRange(1, 100).Draw(t, "steps") {
			near := netip.AddrPortFrom(inner.Addr(), rapid.Uint16Range(firstNew-2, firstNew+6).Draw(t, "near"))
			peer := netip.AddrPortFrom(far.Addr(), rapid.Uint16Range(1, 2).Draw(t, "far"))
			if rapid.IntRange(0, 9).Draw(t, "forget") == 0 {
				n.forget()
				clear(seen)
			}
			b := datagram(near, peer, nil)
			n.leave(b, parse(b))
			src, _ := ports(t, b)
			key := flow{netip.AddrPortFrom(near.Addr(), src), peer}
			if other, taken := seen[key]; taken && other != near.Port() {
				t.Fatalf("ports %d and %d share %d", other, near.Port(), src)
			}
			seen[key] = near.Port()
			for key, want := range seen {
				b := datagram(key.far, key.near, nil)
				if !n.enter(b, parse(b)) || parse(b).dst.Port() != want {
					t.Fatalf("an answer to %v reached %d, want %d", key.near, parse(b).dst.Port(), want)
				}
			}
		}
	})
}

func FuzzPacket(f *testing.F) {
	f.Add(datagram(inner, far, []byte("seed")))
	f.Add(datagram(six, far6, []byte("seed")))
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 24, 0, 64}, make([]byte, 60)...)) // hop-by-hop first
	f.Add([]byte{0x4f})
	f.Fuzz(func(t *testing.T, b []byte) {
		p := parse(b)
		if p.ports != 0 && (p.ports < ipv4HeaderLen || p.ports+udpHeaderLen > len(b)) {
			t.Fatalf("ports at %d of %d octets", p.ports, len(b))
		}
		n := newNAT()
		n.forget()
		before := bytes.Clone(b)
		n.leave(b, p)
		if p.protocol != udp || p.ports == 0 {
			if !bytes.Equal(b, before) {
				t.Fatal("what is not UDP was changed")
			}
			return
		}
		if after := parse(b); after.src.Port() < firstNew || after.dst != p.dst || after.ports != p.ports {
			t.Fatalf("%+v became %+v", p, after)
		}
		setPort(b, p.ports, p.ports+6, p.src.Port())
		if sum := b[p.ports+6 : p.ports+8]; sum[0] == 0xff && sum[1] == 0xff {
			copy(sum, before[p.ports+6:]) // 0xffff and the 0 that no sender writes are the same number
		}
		if !bytes.Equal(b, before) {
			t.Fatalf("there and back again: %x, was %x", b, before)
		}
	})
}
