package link

import (
	"container/list"
	"net/netip"
)

// A nat stands before one side and knows its UDP flows. Until it is asked to forget, ports stay as they are. Afterwards each flow
// that began inside has a new port, and what the outside still sends to the old one is dropped. Flows that began outside keep
// their port, as behind a static port forward. ICMP errors are not translated.
//
// A flow that began inside is thus known by its remote end too: the mapping is dependent on address and port (RFC 4787 4.1), the
// least friendly kind.
type nat struct {
	forgot  bool
	inside  map[flow]*mapping // by the address that the side itself uses
	outside map[flow]*mapping // by the address that the other side sees
	recent  *list.List        // of *mapping, the least recently used last
	next    uint16
}

// A flow is two ends; near is the side behind the NAT.
type flow struct{ near, far netip.AddrPort }

type mapping struct {
	inner, outer uint16
	near         netip.Addr
	far          netip.AddrPort
	forwarded    bool // began outside
	dead         bool // forgotten: kept so that late packets are not taken for a new flow
	use          *list.Element
}

const (
	maxMappings = 4096  // enough for every flow of a test; beyond it the least recently used one is forgotten
	firstNew    = 49152 // the dynamic ports (RFC 6335), three for each mapping there can be, so a free one is always found
)

func newNAT() *nat {
	return &nat{inside: map[flow]*mapping{}, outside: map[flow]*mapping{}, recent: list.New(), next: firstNew}
}

// forget drops the mappings of all flows that began inside.
func (n *nat) forget() {
	n.forgot = true
	for key, m := range n.inside {
		if !m.forwarded {
			m.dead = true
			delete(n.inside, key)
		}
	}
}

// leave translates a packet that comes from inside.
func (n *nat) leave(b []byte, p packet) {
	if p.protocol != udp || p.ports == 0 {
		return
	}
	m := n.inside[flow{p.src, p.dst}]
	if m == nil {
		m = n.open(p.src, p.dst)
	} else {
		n.recent.MoveToFront(m.use)
	}
	if m.outer != m.inner {
		setPort(b, p.ports, p.ports+6, m.outer)
	}
}

// enter translates a packet that comes from outside, or returns false if it is for a flow that was forgotten.
func (n *nat) enter(b []byte, p packet) bool {
	if p.protocol != udp || p.ports == 0 {
		return true
	}
	m := n.outside[flow{p.dst, p.src}]
	if m == nil {
		if n.inside[flow{p.dst, p.src}] != nil { // the flow has a new port, and its old one was forgotten long ago
			return false
		}
		n.add(&mapping{inner: p.dst.Port(), outer: p.dst.Port(), near: p.dst.Addr(), far: p.src, forwarded: true})
		return true
	}
	if m.dead {
		return false
	}
	n.recent.MoveToFront(m.use)
	if m.outer != m.inner {
		setPort(b, p.ports+2, p.ports+6, m.inner)
	}
	return true
}

// open makes the mapping of a flow that begins inside.
func (n *nat) open(near, far netip.AddrPort) *mapping {
	m := &mapping{inner: near.Port(), outer: near.Port(), near: near.Addr(), far: far}
	taken := func() bool { return n.outside[m.outside()] != nil }
	for n.forgot && m.outer == m.inner || taken() {
		m.outer = n.next
		n.next++
		if n.next < firstNew { // it wrapped round
			n.next = firstNew
		}
	}
	n.add(m)
	return m
}

func (n *nat) add(m *mapping) {
	if n.recent.Len() >= maxMappings {
		n.drop(n.recent.Back().Value.(*mapping))
	}
	m.use = n.recent.PushFront(m)
	n.outside[m.outside()] = m
	n.inside[m.inside()] = m
}

func (n *nat) drop(m *mapping) {
	n.recent.Remove(m.use)
	delete(n.outside, m.outside())
	if n.inside[m.inside()] == m { // a forgotten flow may have a successor
		delete(n.inside, m.inside())
	}
}

func (m *mapping) inside() flow  { return flow{netip.AddrPortFrom(m.near, m.inner), m.far} }
func (m *mapping) outside() flow { return flow{netip.AddrPortFrom(m.near, m.outer), m.far} }
