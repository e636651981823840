package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

const lanes = exchange.Lanes

// ExchangeSession is one session of the catalog exchange: five lanes of frames each way. Over QUIC the control lane is a
// bidirectional stream, every other lane a unidirectional one each way, so that none waits for another. A stream begins with one
// octet, its lane; each frame follows its length in four octets, big endian. Over TCP see exchangeTCP.
type ExchangeSession struct {
	live *liveConn
	link exchangeLink
	out  [lanes]sendLane
	in   [lanes]chan []byte
}

// exchangeLink is the connection of a session.
type exchangeLink interface {
	kind() kind
	remote() net.Addr
	done() <-chan struct{} // closed when it has ended; cause says why then
	cause() error
	// taken is told that a frame of so many octets has left the queue of a lane.
	taken(lane exchange.Lane, octets int)
}

type sendLane struct {
	turn   chan struct{} // capacity 1: a frame is written whole
	tokens chan struct{} // over TCP: one for every tokenSize octets that the other end has not taken
	stream frameWriter
}

// frameWriter writes a frame with each Write.
type frameWriter interface {
	io.Writer
	SetWriteDeadline(t time.Time) error
}

// exchangeQUIC is the link of a session over QUIC.
type exchangeQUIC struct {
	conn   *quic.Conn
	ready  chan struct{} // closed when the peer's first lane has arrived: it has accepted our certificate
	opened sync.Once
}

func (*exchangeQUIC) kind() kind               { return kindQUIC }
func (l *exchangeQUIC) remote() net.Addr       { return l.conn.RemoteAddr() }
func (l *exchangeQUIC) done() <-chan struct{}  { return l.conn.Context().Done() }
func (l *exchangeQUIC) cause() error           { return context.Cause(l.conn.Context()) }
func (*exchangeQUIC) taken(exchange.Lane, int) {} // a stream has a window of its own

// inQueue is how many received frames wait in each lane. It bounds what a session holds to 1 MiB beside QUIC's own windows.
const inQueue = 4

// DialExchange connects to a gateway of peer at addr, over TCP where QUIC gives no answer, and returns when that gateway has accepted
// this one. An error is a *federation.Diagnostic that says why in words.
func (t *Transport) DialExchange(ctx context.Context, peer federation.Region, addr string) (*ExchangeSession, error) {
	s, err := either(ctx, t, addr, attempts[*ExchangeSession]{
		quic: func(ctx context.Context) (*ExchangeSession, error) { return t.dialExchangeQUIC(ctx, peer, addr) },
		tcp:  func(ctx context.Context) (*ExchangeSession, error) { return t.dialExchangeTCP(ctx, peer, addr) },
		drop: func(s *ExchangeSession) { s.live.close(closeReplaced, "another session was up before") },
	})
	return s, ofPeer(peer, err)
}

func (t *Transport) dialExchangeQUIC(ctx context.Context, peer federation.Region, addr string) (*ExchangeSession, error) {
	conf, err := t.cfg.Trust.ClientTLS(peer, protoExchange)
	if err != nil {
		return nil, fmt.Errorf("dial region %s: %w", peer, err)
	}
	start := time.Now()
	conn, err := t.dialConn(ctx, classExchange, addr, conf, handshakeLimit)
	if err != nil {
		return nil, err
	}
	live, err := t.identify(conn, classExchange)
	if err == nil && live.region != peer {
		err = fmt.Errorf("the gateway belongs to region %s", live.region)
	}
	if err != nil {
		_ = conn.CloseWithError(closeProtocol, "not the expected peer")
		return nil, dialDiagnostic(addr, conn.RemoteAddr(), time.Since(start), err)
	}
	s, l, err := t.newExchangeSession(ctx, live, true)
	if err == nil {
		// The server judges the client's certificate after the client's handshake is done (RFC 8446, section 4.4): only what
		// it sends then proves that it agreed.
		select {
		case <-l.ready:
			return s, nil
		case <-conn.Context().Done():
			err = context.Cause(conn.Context())
		case <-time.After(handshakeLimit):
			err = context.DeadlineExceeded
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	_ = conn.CloseWithError(closeProtocol, "exchange did not start")
	return nil, dialDiagnostic(addr, conn.RemoteAddr(), time.Since(start), err)
}

// acceptExchange serves one incoming session for as long as OnExchange wants it.
func (t *Transport) acceptExchange(ctx context.Context, conn *quic.Conn) error {
	live, err := t.identify(conn, classExchange)
	if err != nil {
		return err
	}
	if t.cfg.OnExchange == nil {
		return errors.New("no catalog exchange here")
	}
	s, _, err := t.newExchangeSession(ctx, live, false)
	if err != nil {
		return err
	}
	t.cfg.OnExchange(ctx, live.region, s)
	live.close(closeNormal, "")
	return nil
}

// newExchangeSession opens this end's streams and reads the peer's.
func (t *Transport) newExchangeSession(ctx context.Context, live *liveConn, dialer bool) (*ExchangeSession, *exchangeQUIC, error) {
	link := &exchangeQUIC{conn: live.conn, ready: make(chan struct{})}
	s := &ExchangeSession{live: live, link: link}
	for l := range s.in {
		s.in[l] = make(chan []byte, inQueue)
		s.out[l].turn = make(chan struct{}, 1)
	}
	conn := live.conn
	for l := 1; l < lanes; l++ {
		stream, err := conn.OpenUniStream()
		if err == nil {
			stream.SetPriority(priorities[l], true)
			_, err = stream.Write([]byte{byte(l)})
		}
		if err != nil {
			return nil, nil, fmt.Errorf("open lane %v: %w", exchange.Lane(l), err)
		}
		s.out[l].stream = framed{stream}
	}
	control, err := openControl(ctx, conn, dialer)
	if err != nil {
		return nil, nil, fmt.Errorf("open lane %v: %w", exchange.LaneControl, err)
	}
	control.SetPriority(priorities[exchange.LaneControl], true)
	s.out[exchange.LaneControl].stream = framed{control}
	started := t.start(func() { s.readLane(exchange.LaneControl, control) }) && t.start(func() { s.acceptLanes(t, link) })
	if !started {
		return nil, nil, errStopped
	}
	return s, link, nil
}

// framed puts the length before each frame that goes to a stream of QUIC.
type framed struct{ frameWriter }

func (f framed) Write(b []byte) (int, error) {
	return f.frameWriter.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
}

// priorities order the lanes on a full link: lower goes first (RFC 9218, section 4.1).
var priorities = [lanes]int8{0, 1, 2, 3, 6}

// openControl opens the control lane, or waits for the dialer to do so.
func openControl(ctx context.Context, conn *quic.Conn, dialer bool) (*quic.Stream, error) {
	if dialer {
		stream, err := conn.OpenStream()
		if err == nil {
			_, err = stream.Write([]byte{byte(exchange.LaneControl)})
		}
		return stream, err
	}
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	var lane [1]byte
	_ = stream.SetReadDeadline(time.Now().Add(openLimit))
	if _, err := io.ReadFull(stream, lane[:]); err != nil {
		return nil, err
	}
	if lane[0] != byte(exchange.LaneControl) {
		return nil, fmt.Errorf("lane %d on the control stream", lane[0])
	}
	return stream, stream.SetReadDeadline(time.Time{})
}

// acceptLanes takes the peer's unidirectional streams, one for each lane.
func (s *ExchangeSession) acceptLanes(t *Transport, l *exchangeQUIC) {
	var seen [lanes]bool
	for range lanes - 1 {
		stream, err := l.conn.AcceptUniStream(l.conn.Context())
		if err != nil {
			return
		}
		var lane [1]byte
		_ = stream.SetReadDeadline(time.Now().Add(openLimit))
		_, err = io.ReadFull(stream, lane[:])
		if err != nil || lane[0] == 0 || lane[0] >= lanes || seen[lane[0]] {
			s.live.close(closeProtocol, "stream without a lane of its own")
			return
		}
		_ = stream.SetReadDeadline(time.Time{})
		seen[lane[0]] = true
		l.opened.Do(func() { close(l.ready) })
		if !t.start(func() { s.readLane(exchange.Lane(lane[0]), stream) }) {
			return
		}
	}
}

// readLane reads the frames of one lane until the session ends. Nothing is stored before its length is known to be allowed.
func (s *ExchangeSession) readLane(lane exchange.Lane, stream io.Reader) {
	var length [4]byte
	for {
		if _, err := io.ReadFull(stream, length[:]); err != nil {
			s.live.close(closeProtocol, fmt.Sprintf("lane %v ended", lane)) // no effect when the connection has ended already
			return
		}
		size := binary.BigEndian.Uint32(length[:])
		if size == 0 || size > uint32(exchange.MaxFrameOn(lane)) {
			s.live.close(closeProtocol, fmt.Sprintf("frame of %d octets on lane %v", size, lane))
			return
		}
		frame := make([]byte, size)
		if _, err := io.ReadFull(stream, frame); err != nil {
			s.live.close(closeProtocol, fmt.Sprintf("lane %v ended inside a frame", lane))
			return
		}
		select {
		case s.in[lane] <- frame:
		case <-s.Done():
			return
		}
	}
}

// Peer is the identity of the peer's gateway.
func (s *ExchangeSession) Peer() spiffeid.ID { return s.live.id }

// Region is the region of the peer's gateway.
func (s *ExchangeSession) Region() federation.Region { return s.live.region }

// RemoteAddr is the address of the peer's gateway, as "IP:port".
func (s *ExchangeSession) RemoteAddr() string { return s.link.remote().String() }

// Lane says what the session runs over: LaneQUIC or LaneTCP.
func (s *ExchangeSession) Lane() string { return s.link.kind().String() }

// Close ends the session at both ends. Frames that are still under way may be lost. The reason is cut at 200 octets.
func (s *ExchangeSession) Close(code uint64, reason string) {
	s.live.close(quic.ApplicationErrorCode(code), reason)
}

// Done is closed when the session has ended.
func (s *ExchangeSession) Done() <-chan struct{} { return s.link.done() }

// Send writes frame to lane and blocks for as long as the peer takes no more. It may be called for several lanes at once.
// When ctx ends in the middle of a frame the session is closed: the lane could not be read any further.
func (s *ExchangeSession) Send(ctx context.Context, lane exchange.Lane, frame []byte) error {
	if lane >= lanes || len(frame) == 0 || len(frame) > exchange.MaxFrameOn(lane) {
		return fmt.Errorf("send a frame of %d octets on lane %v: not allowed", len(frame), lane)
	}
	out := &s.out[lane]
	select {
	case out.turn <- struct{}{}:
		defer func() { <-out.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-s.Done():
		return s.ended()
	}
	if err := s.takeTokens(ctx, out, len(frame)); err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = out.stream.SetWriteDeadline(time.Unix(1, 0)) })
	defer func() {
		if !stop() {
			_ = out.stream.SetWriteDeadline(time.Time{})
		}
	}()
	n, err := out.stream.Write(frame)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && n == 0:
		return context.Cause(ctx)
	case ctx.Err() != nil:
		s.live.close(closeProtocol, fmt.Sprintf("frame on lane %v cut short", lane))
		return context.Cause(ctx)
	}
	select {
	case <-s.Done():
		return s.ended()
	default:
		return fmt.Errorf("send on lane %v: %w", lane, err)
	}
}

// Receive returns the next frame of any lane; when several have one, the lower lane goes first. After the end of the session
// it returns what had arrived before, then an error that says who ended it and why.
func (s *ExchangeSession) Receive(ctx context.Context) (lane exchange.Lane, frame []byte, err error) {
	if lane, frame, err = s.receive(ctx); err == nil {
		s.link.taken(lane, len(frame))
	}
	return lane, frame, err
}

func (s *ExchangeSession) receive(ctx context.Context) (exchange.Lane, []byte, error) {
	for l := range s.in {
		select {
		case frame := <-s.in[l]:
			return exchange.Lane(l), frame, nil
		default:
		}
	}
	select {
	case frame := <-s.in[0]:
		return 0, frame, nil
	case frame := <-s.in[1]:
		return 1, frame, nil
	case frame := <-s.in[2]:
		return 2, frame, nil
	case frame := <-s.in[3]:
		return 3, frame, nil
	case frame := <-s.in[4]:
		return 4, frame, nil
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	case <-s.Done():
	}
	for l := range s.in { // what came while the end did
		select {
		case frame := <-s.in[l]:
			return exchange.Lane(l), frame, nil
		default:
		}
	}
	return 0, nil, s.ended()
}

// ended says why the session is over.
func (s *ExchangeSession) ended() error {
	return fmt.Errorf("exchange session with region %s at %s ended: %s: %w", s.live.region, s.RemoteAddr(),
		endOf(s.link.cause()), s.link.cause())
}

// endOf says in words why a connection ended.
func endOf(err error) string {
	var (
		app       *quic.ApplicationError
		transport *quic.TransportError
		idle      *quic.IdleTimeoutError
	)
	switch {
	case errors.As(err, &app) && app.Remote:
		return "closed by the peer: " + reasonOf(app)
	case errors.As(err, &app):
		return "closed here: " + app.ErrorMessage
	case errors.As(err, &idle):
		return "nothing was heard of the peer"
	case errors.As(err, &transport) && transport.Remote:
		return "the peer's transport closed it: " + transport.Error()
	case err == nil:
		return "it is over"
	}
	return err.Error()
}
