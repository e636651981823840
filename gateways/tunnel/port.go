package tunnel

import (
	"crypto/rand"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/net/ipv4"
)

// class is the protocol that a QUIC connection carries. It is the first octet of every connection ID; the numbers are on
// the wire and never change meaning.
type class uint8

const (
	classFlow     class = 1
	classExchange class = 2
	classJoin     class = 3

	classes = 4 // one more than the highest class, for arrays
)

// The ALPN identifiers, each offered by the listener of its class and by no other.
const (
	protoFlow     = "tw-flow/1"
	protoExchange = "cx/1"
	protoJoin     = "tw-join/1"
)

func (c class) String() string {
	return [...]string{"none", protoFlow, protoExchange, protoJoin}[min(c, classJoin)]
}

// connIDLen is the length of the connection IDs of this gateway: below the 8 octets that a client's first, random one has at
// least (RFC 9000, section 7.2), so that the two cannot be taken for one another; 48 random bits are enough for one socket.
const connIDLen = 7

// connIDs generates the connection IDs of one class.
type connIDs class

func (c connIDs) GenerateConnectionID() (quic.ConnectionID, error) {
	var b [connIDLen]byte
	_, _ = rand.Read(b[1:]) // never fails
	b[0] = byte(c)
	return quic.ConnectionIDFromBytes(b[:]), nil
}

func (connIDs) ConnectionIDLen() int { return connIDLen }

// classify returns the class a packet is for; 0 means that it is for nobody.
func classify(b []byte) class {
	const longHeader = 0x80 // RFC 8999, section 5.1
	if len(b) == 0 {
		return 0
	}
	if b[0]&longHeader == 0 { // flags, destination connection ID
		if len(b) < 1+connIDLen {
			return 0
		}
		return knownClass(b[1], 0)
	}
	// Flags, version (4), destination ID with its length, source ID with its length. A destination of our length is one that
	// we have given out; before the client knows one, only its own source ID tells the class. A stranger's packet goes to the
	// class with the least to give.
	if at := 5; len(b) > at {
		if n := int(b[at]); n == connIDLen && len(b) > at+n {
			return knownClass(b[at+1], classJoin)
		}
		at += 1 + int(b[at])
		if len(b) > at+connIDLen && b[at] == connIDLen {
			return knownClass(b[at+1], classJoin)
		}
	}
	return classJoin
}

func knownClass(b byte, otherwise class) class {
	if c := class(b); c >= classFlow && c <= classJoin {
		return c
	}
	return otherwise
}

// The socket is read by the transport of the flow class, through a port that hands packets of the other classes to their own
// ports: flows pay nothing for them.

type packet struct {
	data, oob []byte
	addr      net.Addr
}

// sideQueue is how many packets wait for the exchange or for joins; beyond it they are lost, which QUIC repairs.
const sideQueue = 256

// router hands packets to the side ports.
type router struct {
	sides [classes]*sidePort
}

func (r *router) pass(c class, data, oob []byte, addr net.Addr) {
	side := r.sides[c]
	if side == nil {
		return
	}
	p := packet{data: append([]byte(nil), data...), oob: append([]byte(nil), oob...), addr: addr}
	select {
	case side.in <- p:
	default:
	}
}

// plainPort is the port of the flow class on a conn that is no UDP socket.
type plainPort struct {
	net.PacketConn
	others *router
}

func (p *plainPort) ReadFrom(b []byte) (int, net.Addr, error) {
	for {
		n, addr, err := p.PacketConn.ReadFrom(b)
		if err != nil {
			return n, addr, err
		}
		c := classify(b[:n])
		if c == classFlow {
			return n, addr, nil
		}
		p.others.pass(c, b[:n], nil, addr)
	}
}

// SetReadBuffer and SetWriteBuffer keep QUIC from complaining: the buffers are sized once, by newSocket.
func (*plainPort) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing.
func (*plainPort) SetWriteBuffer(int) error { return nil }

// udpPort is the port of the flow class on a UDP socket. QUIC reads it by ReadBatch where the system has control messages,
// else by ReadFrom; it never calls the ReadMsgUDP that the embedded socket brings. What QUIC looks for on a socket to send
// many packets with one call (GSO), it finds on the embedded one.
type udpPort struct {
	*net.UDPConn
	trains *trains
	others *router
}

func (p *udpPort) ReadBatch(ms []ipv4.Message, flags int) (int, error) {
	for {
		n := 0
		for n < len(ms) {
			data, oob, addr := p.trains.next()
			if data == nil {
				break
			}
			if c := classify(data); c != classFlow {
				p.others.pass(c, data, oob, addr)
				continue
			}
			m := &ms[n]
			m.N, m.NN, m.Addr = copy(m.Buffers[0], data), copy(m.OOB, oob), addr
			n++
		}
		if n > 0 {
			return n, nil // never 0, for which QUIC would take the messages of the call before
		}
		if err := p.trains.read(flags); err != nil {
			for i := range ms { // nor these, after an error that passes
				ms[i].N, ms[i].NN = 0, 0
			}
			return 0, err
		}
	}
}

func (p *udpPort) ReadFrom(b []byte) (int, net.Addr, error) {
	return (&plainPort{PacketConn: p.UDPConn, others: p.others}).ReadFrom(b)
}

// sidePort is the port of the exchange or of joins: it reads what the router hands it and writes to the socket.
type sidePort struct {
	net.PacketConn
	in      chan packet
	once    sync.Once
	stopped chan struct{}
}

func newSidePort(c net.PacketConn) *sidePort {
	return &sidePort{PacketConn: c, in: make(chan packet, sideQueue), stopped: make(chan struct{})}
}

func (p *sidePort) next() (packet, error) {
	select {
	case pk := <-p.in:
		return pk, nil
	case <-p.stopped:
		return packet{}, os.ErrDeadlineExceeded
	}
}

func (p *sidePort) ReadFrom(b []byte) (int, net.Addr, error) {
	pk, err := p.next()
	return copy(b, pk.data), pk.addr, err
}

// SetReadDeadline ends reading for good when t has passed: QUIC sets one only to make its reader return.
func (p *sidePort) SetReadDeadline(t time.Time) error {
	if !t.IsZero() && !t.After(time.Now()) {
		p.once.Do(func() { close(p.stopped) })
	}
	return nil
}

// SetReadBuffer does nothing: the socket is the flow class's to size.
func (*sidePort) SetReadBuffer(int) error { return nil }

// SetWriteBuffer does nothing.
func (*sidePort) SetWriteBuffer(int) error { return nil }

// sideUDP is a sidePort on a UDP socket: it passes on the control messages, so that an answer leaves from the address the
// question came to, also on a host with several.
type sideUDP struct {
	*sidePort
	udp *net.UDPConn
}

func (p *sideUDP) ReadBatch(ms []ipv4.Message, _ int) (int, error) {
	pk, err := p.next()
	if err != nil {
		return 0, err
	}
	ms[0].N, ms[0].NN, ms[0].Addr = copy(ms[0].Buffers[0], pk.data), copy(ms[0].OOB, pk.oob), pk.addr
	return 1, nil
}

func (p *sideUDP) SyscallConn() (syscall.RawConn, error) { return p.udp.SyscallConn() }

func (p *sideUDP) ReadMsgUDP(b, oob []byte) (n, oobn, flags int, addr *net.UDPAddr, err error) {
	pk, err := p.next()
	if err != nil {
		return 0, 0, 0, nil, err
	}
	addr, _ = pk.addr.(*net.UDPAddr)
	return copy(b, pk.data), copy(oob, pk.oob), 0, addr, nil
}

func (p *sideUDP) WriteMsgUDP(b, oob []byte, addr *net.UDPAddr) (n, oobn int, err error) {
	return p.udp.WriteMsgUDP(b, oob, addr)
}

// socket is one UDP socket with a transport for each class that it serves.
type socket struct {
	conn       net.PacketConn
	transports [classes]*quic.Transport // nil: not served
	gates      [classes]*gate
	buffer     int // octets of the smaller of the kernel's two buffers; 0: unknown
}

// newSocket makes a socket that serves the classes named, all when none is, and asks the kernel for what helps: large buffers,
// and trains of packets both ways. It starts nothing and cannot fail. A connection that is dialled from a socket of its own
// names its class: packets of the others are then dropped where they arrive. The class of flows must be served whenever any
// is, because its transport reads the socket.
func newSocket(conn net.PacketConn, serves ...class) *socket {
	if len(serves) == 0 {
		serves = []class{classFlow, classExchange, classJoin}
	}
	s := &socket{conn: conn}
	r := &router{}
	udp, isUDP := conn.(*net.UDPConn)
	if isUDP {
		s.buffer = growBuffers(udp, socketBuffer)
	}
	for _, c := range serves {
		var port net.PacketConn
		switch side := newSidePort(conn); {
		case c == classFlow && isUDP:
			port = &udpPort{UDPConn: udp, trains: newTrains(udp), others: r}
		case c == classFlow:
			port = &plainPort{PacketConn: conn, others: r}
		case isUDP:
			r.sides[c], port = side, &sideUDP{sidePort: side, udp: udp}
		default:
			r.sides[c], port = side, side
		}
		g := newGate(c)
		s.gates[c] = g
		s.transports[c] = &quic.Transport{
			Conn:                             port,
			ConnectionIDGenerator:            connIDs(c),
			VerifySourceAddress:              g.mustValidate,
			ConnContext:                      g.admit,
			DisableVersionNegotiationPackets: true, // one version, known to both ends: nothing to offer to a scanner
		}
	}
	return s
}

// reaches reports whether the socket can send to IPv4 addresses, or to those of IPv6.
func (s *socket) reaches(v4 bool) bool {
	local, ok := s.conn.LocalAddr().(*net.UDPAddr)
	return !ok || reaches(local.IP, v4)
}

func reaches(local net.IP, v4 bool) bool {
	if len(local) == 0 {
		return true
	}
	if local.To4() != nil {
		return v4
	}
	return !v4 || local.IsUnspecified() // [::] serves both
}

// close closes the transports, the reader of the socket last, then the socket.
func (s *socket) close() {
	for _, c := range []class{classJoin, classExchange, classFlow} {
		if t := s.transports[c]; t != nil {
			_ = t.Close()
		}
	}
	_ = s.conn.Close()
}
