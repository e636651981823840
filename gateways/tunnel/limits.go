package tunnel

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
)

// Times and sizes that are not the operator's to choose. Those on the wire hold for both ends.
const (
	handshakeLimit = 5 * time.Second        // a handshake takes two round trips; one that takes longer will not come
	openLimit      = 5 * time.Second        // for a stream to say what it is
	holdLimit      = time.Millisecond       // how long OPEN or ACCEPT waits for bytes to leave with: less than any WAN's jitter
	maxQuestion    = 64 << 10               // one Ask, one answer, one join request, one join reply
	askLimit       = 5 * time.Second        // for an answer
	asksAtOnce     = 8                      // questions of one peer answered at a time
	joinLimit      = 10 * time.Second       // for a whole token redemption
	maxPending     = 4096                   // streams of one session that have not said yet what they are
	maxStreams     = 65536                  // flows in one session
	resolveEvery   = 30 * time.Second       // a gateway behind a name that moves is found again within this time
	dialsAtOnce    = 8                      // a peer's accept queue holds 32; many gateways starting at once must not fill it
	busyDial       = 300 * time.Millisecond // how long a handshake counts as one of them
	firstBackoff   = 100 * time.Millisecond // recovery matters more than a few packets
	lastBackoff    = 5 * time.Second        // and a peer that is gone for hours costs one handshake in this time
	socketBuffer   = 7 << 20                // 100 ms at 500 Mbit/s: what a busy scheduler can make a socket wait
)

// The ways a QUIC connection is set up, by class. Windows are what a peer can make this gateway hold in memory.
func quicConfig(c class, dialer bool) *quic.Config {
	conf := &quic.Config{
		Versions:             []quic.Version{quic.Version1},
		HandshakeIdleTimeout: handshakeLimit,
		Allow0RTT:            false, // a replayed OPEN would be a second connection
	}
	window := func(stream, conn uint64) {
		conf.InitialStreamReceiveWindow, conf.MaxStreamReceiveWindow = stream, stream
		conf.InitialConnectionReceiveWindow, conf.MaxConnectionReceiveWindow = conn, conn
	}
	switch c {
	case classFlow:
		conf.MaxIdleTimeout = 10 * time.Second // behind the pings, for a process that was stopped and woken
		conf.MaxIncomingStreams = maxStreams
		conf.MaxIncomingUniStreams = -1
		conf.EnableDatagrams = true // for copies
		window(16<<20, 48<<20)      // twice the bytes under way at 1 Gbit/s and 60 ms, from the start: growing costs round trips
	case classExchange:
		conf.MaxIdleTimeout = 30 * time.Second
		conf.KeepAlivePeriod = 10 * time.Second // before any NAT forgets a UDP mapping (RFC 4787: 2 min, in practice 30 s)
		conf.MaxIncomingStreams = 1             // the control lane
		conf.MaxIncomingUniStreams = lanes - 1
		// Four frames a lane. Of the connection's window QUIC may not have announced a quarter yet: four lanes that nobody
		// reads must still leave the control lane room.
		window(256<<10, 1536<<10)
		if dialer {
			conf.MaxIncomingStreams = -1
		}
	case classJoin:
		conf.MaxIdleTimeout = joinLimit
		conf.MaxIncomingStreams = 1
		conf.MaxIncomingUniStreams = -1
		window(maxQuestion+1024, maxQuestion+1024)
		if dialer {
			conf.MaxIncomingStreams = -1
		}
	}
	return conf
}

// gate bounds what unknown clients can make one listener do.
type gate struct {
	perSource, total int

	mu          sync.Mutex
	handshaking int // not finished, whether or not the address is validated
	admitted    int
	bySource    map[netip.Prefix]int
}

// unvalidatedLimit is how many handshakes may be under way before a client must first prove its address (QUIC Retry): below it
// nobody pays the extra round trip, above it a forged source address buys nothing.
const unvalidatedLimit = 8

var errCrowded = errors.New("too many connections")

func newGate(c class) *gate {
	// Several gateways of a region may share a NAT address, and each has quicSessions to each of ours.
	g := &gate{perSource: 256, total: 4096, bySource: map[netip.Prefix]int{}}
	if c == classJoin {
		g.perSource, g.total = 4, 32 // a redemption lasts a second, and its client is nobody yet
	}
	return g
}

// mustValidate is quic.Transport.VerifySourceAddress.
func (g *gate) mustValidate(net.Addr) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.handshaking >= unvalidatedLimit
}

type ticketKey struct{}

// ticket is one admitted connection, from its first packet on.
type ticket struct {
	gate   *gate
	source netip.Prefix
	done   bool // the handshake is over
	gone   bool // it is released
}

// enter counts a client until its ticket is released, or refuses it.
func (g *gate) enter(from net.Addr) (*ticket, error) {
	t := &ticket{gate: g, source: sourceOf(from)}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.admitted >= g.total || g.bySource[t.source] >= g.perSource || g.handshaking >= 256 {
		return nil, errCrowded
	}
	g.admitted++
	g.handshaking++
	g.bySource[t.source]++
	return t, nil
}

// admit is quic.Transport.ConnContext: it counts the connection for as long as ctx lives, or refuses it.
func (g *gate) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	t, err := g.enter(info.RemoteAddr)
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, t.release)
	return context.WithValue(ctx, ticketKey{}, t), nil
}

// established ends the handshake of the connection that ctx belongs to.
func established(ctx context.Context) {
	t, ok := ctx.Value(ticketKey{}).(*ticket)
	if ok {
		t.established()
	}
}

// established ends the handshake of the connection that the ticket is for.
func (t *ticket) established() {
	t.gate.mu.Lock()
	defer t.gate.mu.Unlock()
	t.finish()
}

func (t *ticket) finish() {
	if !t.done {
		t.done = true
		t.gate.handshaking--
	}
}

func (t *ticket) release() {
	g := t.gate
	g.mu.Lock()
	defer g.mu.Unlock()
	if t.gone {
		return
	}
	t.gone = true
	t.finish()
	g.admitted--
	if g.bySource[t.source]--; g.bySource[t.source] == 0 {
		delete(g.bySource, t.source)
	}
}

// sourceOf is what counts as one client: an IPv4 address, or the /64 that one IPv6 host can choose freely from.
func sourceOf(addr net.Addr) netip.Prefix {
	ip, ok := netip.AddrFromSlice(ipOf(addr))
	if !ok {
		return netip.Prefix{}
	}
	bits := 64
	if ip = ip.Unmap(); ip.Is4() {
		bits = 32
	}
	prefix, _ := ip.Prefix(bits)
	return prefix
}
