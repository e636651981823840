package tunnel

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// protoLane is the ALPN identifier of the control connection of a TCP session and of its lanes. What a connection is, its first
// frame says.
const protoLane = "tw-lane/1"

const (
	laneIDLen      = 16
	controlGivesUp = 10 * time.Second       // behind the pings, as the idle limit of a QUIC session
	farewellLimit  = 200 * time.Millisecond // for the kernel to take the last frame
)

// laneKey names a TCP session: its dialler chooses the number, which is good for that gateway alone.
type laneKey struct {
	gateway spiffeid.ID
	id      [laneIDLen]byte
}

// tcpLink is the link of a session over TCP: a control connection and a pool of lanes.
type tcpLink struct {
	c    *tlsConn
	pool *pool
	once sync.Once
	over chan struct{}
	why  error // before over is closed
}

func (t *Transport) newTCPSession(c *tlsConn, key laneKey, address string, target *net.TCPAddr) (*session, *tcpLink) {
	l := &tcpLink{c: c, pool: newPool(key, target), over: make(chan struct{})}
	s := t.newSession(c.live, l, address)
	l.pool.s = s
	giveUp(c.tcp, controlGivesUp)
	if info, ok := sampleTCP(c.tcp); ok {
		s.srtt.Store(int64(info.RTT))
	}
	var owner ender = l
	c.owner.Store(&owner)
	return s, l
}

// dialLanes makes a TCP session to the address of w, which is ready when it returns: the peer has accepted it.
func (t *Transport) dialLanes(ctx context.Context, w way, limit time.Duration) (*session, error) {
	conf, err := t.cfg.Trust.ClientTLS(w.region, protoLane)
	if err != nil {
		return nil, fmt.Errorf("dial region %s: %w", w.region, err)
	}
	conf, shown := noteShown(conf)
	var s *session
	err = t.dialTCP(ctx, w.address, limit, func(ctx context.Context, target *net.TCPAddr) error {
		c, err := t.dialTLS(ctx, target, conf, protoLane)
		if err == nil {
			s, err = t.greetTCP(ctx, c, w, target)
		}
		return err
	})
	if err != nil {
		return nil, ofPeer(w.region, err)
	}
	s.endsWith(shown)
	return s, nil
}

// greetTCP makes c, which has just been dialled, the control connection of a session.
func (t *Transport) greetTCP(ctx context.Context, c *tlsConn, w way, target *net.TCPAddr) (*session, error) {
	var id [laneIDLen]byte
	_, _ = rand.Read(id[:]) // never fails
	if err := t.introduce(ctx, c, w.region, id[:]); err != nil {
		return nil, err
	}
	s, _ := t.newTCPSession(c, laneKey{c.live.id, id}, w.address, target)
	return s, nil
}

// hello says what a connection is that has just been dialled, and waits for the other end to agree: it judges the client's
// certificate after the client's own handshake is done.
func (c *tlsConn) hello(ctx context.Context, first flow.Type, body []byte) error {
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	_ = c.SetReadDeadline(time.Now().Add(openLimit))
	if err := sayOn(c, first, helloVersion, body); err != nil {
		return err
	}
	if _, err := readGreeting(c); err != nil {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return err
	}
	if !stop() {
		return context.Cause(ctx)
	}
	return errors.Join(c.SetReadDeadline(time.Time{}), c.SetWriteDeadline(time.Time{}))
}

// dial makes a lane to the gateway of the session.
func (p *pool) dial(ctx context.Context, own bool) {
	t := p.s.t
	ctx, cancel := context.WithTimeout(ctx, p.s.peer.patience())
	defer cancel()
	c, err := p.dialLane(ctx, own)
	p.dialled(own, err)
	if err != nil {
		if ctx.Err() == nil && p.s.ended() == nil {
			t.log.Debug("lane not made", "peer", p.s.live.region, "address", p.s.address, "err", err)
		}
		return
	}
	p.s.peer.dialled.Add(1)
	if l := p.admit(c, own); l != nil {
		p.rest(l)
		return
	}
	_ = c.tcp.Close()
	t.forgetConn(c.live)
}

func (p *pool) dialLane(ctx context.Context, own bool) (c *tlsConn, err error) {
	t := p.s.t
	conf, err := t.cfg.Trust.ClientTLS(p.s.live.region, protoLane)
	if err != nil {
		return nil, err
	}
	if c, err = t.dialTLS(ctx, p.target, conf, protoLane); err != nil {
		return nil, err
	}
	if err = t.index(c.live, c.ConnectionState()); err == nil && c.live.id != p.s.live.id {
		err = fmt.Errorf("gateway %v answers for %v", c.live.id, p.s.live.id)
	}
	if err == nil {
		owner := byte(0)
		if own {
			owner = 1
		}
		err = c.hello(ctx, frameLane, append(p.id.id[:], owner))
	}
	if err != nil {
		_ = c.tcp.Close()
		t.forgetConn(c.live)
		return nil, err
	}
	return c, nil
}

// acceptLanes serves a TCP session whose greeting has been read, until it ends.
func (t *Transport) acceptLanes(c *tlsConn, greeting []byte) error {
	if len(greeting) < laneIDLen {
		return errors.New("a session over TCP without a name")
	}
	key := laneKey{c.live.id, [laneIDLen]byte(greeting)}
	s, l := t.newTCPSession(c, key, c.tcp.RemoteAddr().String(), nil)
	t.mu.Lock()
	taken := t.tcp[key] != nil
	if !taken {
		t.tcp[key] = l
	}
	t.mu.Unlock()
	if taken {
		return errors.New("a session over TCP with the name of another")
	}
	defer func() {
		t.mu.Lock()
		delete(t.tcp, key)
		t.mu.Unlock()
	}()
	if err := s.say(frameHello, helloVersion); err != nil {
		return err
	}
	_ = c.SetWriteDeadline(time.Time{})
	s.run()
	return nil
}

// acceptLane adds a connection to the session that its first frame names.
func (t *Transport) acceptLane(c *tlsConn, h flow.Header) error {
	if h.Length <= laneIDLen || h.Length > maxControl || h.Offset < helloVersion {
		return errors.New("a lane without a session")
	}
	body := make([]byte, h.Length)
	if _, err := io.ReadFull(c, body); err != nil {
		return err
	}
	t.mu.Lock()
	l := t.tcp[laneKey{c.live.id, [laneIDLen]byte(body)}]
	t.mu.Unlock()
	if l == nil {
		return errors.New("a lane of a session that is not here")
	}
	lane := l.pool.admit(c, body[laneIDLen] == 0)
	if lane == nil {
		return errCrowded
	}
	if err := sayOn(c, frameHello, helloVersion, nil); err != nil {
		l.pool.kill(lane, nil)
		return err
	}
	_ = c.SetDeadline(time.Time{})
	l.pool.rest(lane)
	return nil
}

func (*tcpLink) kind() kind { return kindTCP }

func (l *tcpLink) control() controlStream { return l.c }

func (l *tcpLink) open() (carrier, error) {
	c, err := l.pool.take()
	if err != nil {
		return nil, err // not c, which would be an interface that is not nil
	}
	return c, nil
}

func (l *tcpLink) primed() bool { return l.pool.primed.Load() }

func (l *tcpLink) serve(ctx context.Context, _ *session) { l.pool.serve(ctx) }

func (l *tcpLink) onFrame(h flow.Header, body []byte) {
	switch h.Type {
	case frameWant:
		l.pool.onWant(h.Offset)
	case frameClose:
		l.end(closedBy(h, body), false)
	}
}

// closedBy is what a close frame says, in the words that QUIC has for it.
func closedBy(h flow.Header, body []byte) *quic.ApplicationError {
	return &quic.ApplicationError{Remote: true, ErrorCode: quic.ApplicationErrorCode(h.Offset),
		ErrorMessage: string(body[:min(len(body), maxCloseReason)])}
}

func (l *tcpLink) tick(now time.Time) pulse {
	count := l.pool.tick(now)
	if s := l.pool.s; l.pool.relieved() {
		s.t.start(s.resume) // flows that have moved here and found no lane
	}
	count.heard += l.c.reads.Load()
	if info, ok := sampleTCP(l.c.tcp); ok {
		count.heard += uint64(info.Heard)
		count.sent += uint64(info.Sent)
		count.lost += uint64(info.Retransmitted)
	}
	return count
}

func (l *tcpLink) remote() net.Addr { return l.c.tcp.RemoteAddr() }

func (l *tcpLink) close(code quic.ApplicationErrorCode, reason string) {
	l.end(&quic.ApplicationError{ErrorCode: code, ErrorMessage: reason}, true)
}

// CloseWithError implements ender.
func (l *tcpLink) CloseWithError(code quic.ApplicationErrorCode, reason string) error {
	l.close(code, reason)
	return nil
}

// end ends the session. The control connection is closed by release, after the other end has read why: data that comes to a
// closed socket would make the kernel reset it, and what is under way would be lost.
func (l *tcpLink) end(why *quic.ApplicationError, tell bool) {
	l.once.Do(func() {
		l.why = why
		close(l.over)
		if tell {
			l.c.farewell(why.ErrorCode, why.ErrorMessage)
		}
		l.pool.end(why)
		_ = l.c.SetReadDeadline(time.Now().Add(lingerLimit)) // for readControl
	})
}

// farewell sends a close frame, as far as that goes at once, and says that nothing follows.
func (c *tlsConn) farewell(code quic.ApplicationErrorCode, reason string) {
	h := flow.Header{Type: frameClose, Length: len(reason), Offset: uint64(code)}
	_ = c.SetWriteDeadline(time.Now().Add(farewellLimit))
	_, _ = c.Write(append(h.Append(nil), reason...))
	_ = c.tcp.CloseWrite()
}

func (l *tcpLink) done() <-chan struct{} { return l.over }

func (l *tcpLink) cause() error { return l.why }

func (l *tcpLink) release() {
	_ = l.c.tcp.Close()
	l.pool.s.t.forgetConn(l.c.live)
}
