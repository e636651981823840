package tunnel

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// tlsConn is a TLS connection with a gateway of a peer.
type tlsConn struct {
	*tls.Conn
	tcp        *net.TCPConn
	wire       *wire
	congestion string // the kernel's control of its congestion; empty: unknown
	live       *liveConn
	reads      atomic.Uint64
	owner      atomic.Pointer[ender] // who closes it; nil: nobody yet
}

// Read counts: where the kernel says nothing about a connection, that is what is known.
func (c *tlsConn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	c.reads.Add(1)
	return n, err
}

// CloseWithError implements ender.
func (c *tlsConn) CloseWithError(code quic.ApplicationErrorCode, reason string) error {
	if owner := c.owner.Load(); owner != nil {
		return (*owner).CloseWithError(code, reason)
	}
	return c.tcp.Close()
}

func (c *tlsConn) carriesFlows() bool {
	owner := c.owner.Load()
	if owner == nil {
		return false
	}
	_, ok := (*owner).(*lane)
	return ok
}

// abort closes the connection with a reset: what has not left is dropped, and the other end knows at once.
func (c *tlsConn) abort() {
	_ = c.tcp.SetLinger(0)
	_ = c.tcp.Close()
}

// tcpSample is what the kernel says of a TCP connection (tcp(7), TCP_INFO).
type tcpSample struct {
	RTT, MinRTT   time.Duration
	DeliveryRate  uint64        // octets a second, of the last flight
	Acked         uint64        // octets, since the beginning
	Delivered     uint64        // the same, with what has come behind a gap
	NotSent       uint32        // octets that wait for the window
	Unacked       uint32        // segments under way
	SilentFor     time.Duration // since the last acknowledgement
	Sent          uint32        // segments with data, since the beginning
	Retransmitted uint32        // of them
	Lost          uint32        // segments under way that are taken for lost
	Heard         uint32        // segments received
}

// lane is a TLS connection of a TCP session, which carries one flow at a time. Only its owner puts a first frame on it, when it
// is idle: so the two ends never start at once.
type lane struct {
	*tlsConn
	pool  *pool
	owned bool // by this end

	// Under pool.mu.
	busy bool
	gone bool
	idle time.Time // since when it is

	carried atomic.Uint64 // octets, both ways
	wrote   atomic.Bool   // since the last sample
	paced   atomic.Bool   // the kernel has a bound for its rate
	broken  atomic.Pointer[error]

	// Of the watch over busy lanes, which is one goroutine's.
	sampled, since time.Time // the last sample; since when nothing has been acknowledged
	acked          uint64
	owing          bool // something was unacknowledged at the last sample
	before         tcpSample
}

// CloseWithError implements ender: a certificate is no longer good, or the gateway stops. The session says it to the peer.
func (l *lane) CloseWithError(code quic.ApplicationErrorCode, reason string) error {
	l.pool.kill(l, &quic.ApplicationError{ErrorCode: code, ErrorMessage: reason})
	return nil
}

// silent reports whether what was sent has got no answer from the other kernel for too long.
func (l *lane) silent(now time.Time, limit time.Duration) bool {
	if !l.wrote.Swap(false) && !l.owing {
		return false
	}
	info, ok := sampleTCP(l.tcp)
	if !ok {
		return false
	}
	l.pool.account(l.before, info)
	if info.Unacked == 0 || info.Acked != l.acked || now.Sub(l.sampled) > 3*watchEvery { // this process may have been stopped
		l.acked, l.since = info.Acked, now
	}
	l.before, l.sampled, l.owing = info, now, info.Unacked > 0
	return l.owing && now.Sub(l.since) >= limit && info.SilentFor >= limit
}

// send writes b with one system call, if it can.
func (l *lane) send(b []byte) (int, error) {
	if len(b) <= gatherFrom {
		return l.Write(b)
	}
	l.wire.hold()
	n, err := l.Write(b)
	if sent := l.wire.let(); err == nil {
		err = sent
	}
	return n, err
}

// laneCarrier is the use of a lane by one flow.
type laneCarrier struct {
	l        *lane
	first    byte // has been read already, by whoever waited for it
	hasFirst bool
	over     atomic.Bool   // the lane is somebody else's
	parted   atomic.Uint32 // which ways this end has given up
}

const (
	partedRead uint32 = 1 << iota
	partedWrite
)

// Read implements carrier.
func (c *laneCarrier) Read(b []byte) (int, error) {
	if c.hasFirst && len(b) > 0 {
		b[0], c.hasFirst = c.first, false
		return 1, nil
	}
	n, err := c.l.Read(b)
	for n > 0 && n < len(b) && err == nil && c.l.wire.whole() {
		var m int
		m, err = c.l.Read(b[n:])
		n += m
	}
	if n > 0 {
		c.l.carried.Add(uint64(n))
	}
	return n, c.explain(err)
}

// Write implements carrier.
func (c *laneCarrier) Write(b []byte) (int, error) {
	n, err := c.l.send(b)
	c.l.wrote.Store(true)
	c.l.carried.Add(uint64(n))
	return n, c.explain(err)
}

// closeGrace is how long a broken lane waits for the session to say why: it breaks together with the lane when the other
// gateway closes both.
const closeGrace = 20 * time.Millisecond

// explain returns why the lane has broken, when that is known.
func (c *laneCarrier) explain(err error) error {
	if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if c.over.Load() {
		return net.ErrClosed
	}
	if why := c.l.broken.Load(); why != nil {
		return *why
	}
	select {
	case <-c.on().link.done():
		return c.on().link.cause()
	case <-time.After(closeGrace):
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF // a flow ends by a frame
	}
	return err
}

func (c *laneCarrier) SetReadDeadline(t time.Time) error {
	if c.over.Load() {
		return net.ErrClosed
	}
	return c.l.SetReadDeadline(t)
}

func (c *laneCarrier) SetWriteDeadline(t time.Time) error {
	if c.over.Load() {
		return net.ErrClosed
	}
	return c.l.SetWriteDeadline(t)
}

// closeWrite has nothing to do: the last frame has said it, and the lane is to be used again.
func (c *laneCarrier) closeWrite() error {
	c.part(partedWrite)
	return nil
}

// cancelRead makes the lane useless for another flow; it ends when both ends have stopped writing.
func (c *laneCarrier) cancelRead(flow.ResetCode) { c.part(partedRead) }

func (c *laneCarrier) part(side uint32) {
	if before := c.parted.Or(side); before|side != partedRead|partedWrite || before == partedRead|partedWrite || c.over.Swap(true) {
		return
	}
	c.l.pool.linger(c.l)
}

func (c *laneCarrier) cancel(code flow.ResetCode) {
	if !c.over.Swap(true) {
		c.l.pool.kill(c.l, &quic.StreamError{ErrorCode: quic.StreamErrorCode(code)})
	}
}

func (c *laneCarrier) finished() {
	if !c.over.Swap(true) {
		c.l.pool.release(c.l)
	}
}

// demote has nothing to do: no flow shares a lane.
func (c *laneCarrier) demote() {}

func (c *laneCarrier) on() *session { return c.l.pool.s }

// sample returns how the lane fares; ok is false where the kernel does not say.
func (c *laneCarrier) sample() (s tcpSample, ok bool) { return sampleTCP(c.l.tcp) }

// pace bounds what the lane sends, in octets a second; 0 takes the bound away.
func (c *laneCarrier) pace(rate uint64) error {
	c.l.paced.Store(rate > 0)
	return setPacing(c.l.tcp, rate)
}

// congestion names the kernel's control of the lane's congestion.
func (c *laneCarrier) congestion() string { return c.l.tlsConn.congestion }
