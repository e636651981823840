package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// Over TCP the exchange has one TLS connection for all of its lanes, so that it costs one handshake. After a greeting each way every
// lane is sent as frameRow. A lane whose receiver pauses must not stop the others, so each has a window of its own: a frame takes
// tokens, which frameTaken gives back when it has left the queue over there. Nobody ever stops reading.
const (
	tokenSize    = 4 << 10 // octets
	laneTokens   = 64      // 256 KiB, the window of a QUIC lane: so much a peer can make a lane hold
	returnTokens = 16      // at a time: enough stay with the sender for the longest frame

	exchangeGivesUp = 30 * time.Second // as the idle limit over QUIC; the exchange notices silence before
)

func tokensOf(octets int) int { return (octets + tokenSize - 1) / tokenSize }

// exchangeTCP is the link of a session over TCP.
type exchangeTCP struct {
	c    *tlsConn
	held [lanes]atomic.Int64 // tokens that the other end has spent and not got back
	owed [lanes]atomic.Int64 // those of them whose frames have left the queue
	once sync.Once
	over chan struct{}
	why  error // before over is closed
}

func newExchangeTCP(c *tlsConn) (*ExchangeSession, *exchangeTCP) {
	l := &exchangeTCP{c: c, over: make(chan struct{})}
	s := &ExchangeSession{live: c.live, link: l}
	for n := range s.in {
		s.in[n] = make(chan []byte, laneTokens) // every frame takes one at least
		s.out[n] = sendLane{turn: make(chan struct{}, 1), tokens: make(chan struct{}, laneTokens), stream: tcpExchangeLane{l, exchange.Lane(n)}}
	}
	giveUp(c.tcp, exchangeGivesUp)
	var owner ender = l
	c.owner.Store(&owner)
	return s, l
}

func (t *Transport) dialExchangeTCP(ctx context.Context, peer federation.Region, addr string) (s *ExchangeSession, err error) {
	conf, err := t.cfg.Trust.ClientTLS(peer, protoExchange)
	if err != nil {
		return nil, fmt.Errorf("dial region %s: %w", peer, err)
	}
	err = t.dialTCP(ctx, addr, handshakeLimit, func(ctx context.Context, target *net.TCPAddr) error {
		c, err := t.dialTLS(ctx, target, conf, protoExchange)
		if err == nil {
			err = t.introduce(ctx, c, peer, nil)
		}
		if err != nil {
			return err
		}
		var l *exchangeTCP
		s, l = newExchangeTCP(c)
		if !t.start(func() { l.serve(t, s) }) {
			_ = c.tcp.Close()
			t.forgetConn(c.live)
			return errStopped
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// acceptExchangeTCP serves one incoming session for as long as OnExchange wants it.
func (t *Transport) acceptExchangeTCP(ctx context.Context, d *tcpDoor, c *tlsConn, pass *ticket) error {
	if t.cfg.OnExchange == nil {
		return errors.New("no catalog exchange here")
	}
	place, err := d.gates[classExchange].enter(c.tcp.RemoteAddr())
	if err != nil {
		return err
	}
	defer place.release()
	place.established()
	if _, err := readGreeting(c); err != nil {
		return err
	}
	if err := sayOn(c, frameHello, helloVersion, nil); err != nil {
		return err
	}
	_ = c.SetDeadline(time.Time{})
	pass.release()
	s, l := newExchangeTCP(c)
	if !t.start(func() { l.serve(t, s) }) {
		return errStopped
	}
	t.cfg.OnExchange(ctx, s.Region(), s)
	s.live.close(closeNormal, "")
	return nil
}

// serve reads until the session has ended and the other end has been told.
func (l *exchangeTCP) serve(t *Transport, s *ExchangeSession) {
	if err := l.read(l.c, s); err != nil {
		var app *quic.ApplicationError
		l.end(err, !errors.As(err, &app) || !app.Remote)
	}
	_, _ = io.Copy(io.Discard, l.c) // until the deadline that end has set
	_ = l.c.tcp.Close()
	t.forgetConn(l.c.live)
}

// read takes what the other end says until it ends the session, or breaks the protocol. Nothing is stored before its length is known
// to be allowed, and there is always room for what is allowed.
func (l *exchangeTCP) read(r io.Reader, s *ExchangeSession) error {
	broken := func(format string, args ...any) error {
		return &quic.ApplicationError{ErrorCode: closeProtocol, ErrorMessage: fmt.Sprintf(format, args...)}
	}
	for {
		h, err := readHeader(r)
		if err != nil {
			return fmt.Errorf("the connection broke: %w", err)
		}
		var body []byte
		switch lane := h.Offset; {
		case h.Type == frameRow && (lane >= lanes || h.Length == 0 || h.Length > exchange.MaxFrameOn(exchange.Lane(lane))):
			return broken("frame of %d octets on lane %d", h.Length, lane)
		case h.Type == frameClose && h.Length > maxCloseReason, h.Type == frameTaken && h.Length > 0:
			return broken("%v of %d octets", h.Type, h.Length)
		case h.Type == frameRow, h.Type == frameClose:
			body = make([]byte, h.Length)
			if _, err := io.ReadFull(r, body); err != nil {
				return fmt.Errorf("the connection broke: %w", err)
			}
		}
		switch h.Type {
		case frameRow:
			if !l.put(s, h.Offset, body) {
				return broken("more than the window of lane %d", h.Offset)
			}
		case frameTaken:
			if !s.regain(h.Offset) {
				return broken("tokens that were never taken")
			}
		case frameClose:
			return closedBy(h, body)
		default:
			return broken("%v in the exchange", h.Type)
		}
	}
}

// put queues a frame, unless the other end has not got the tokens for it.
func (l *exchangeTCP) put(s *ExchangeSession, lane uint64, frame []byte) bool {
	if l.held[lane].Add(int64(tokensOf(len(frame)))) > laneTokens {
		return false
	}
	select {
	case s.in[lane] <- frame:
		return true
	default:
		return false
	}
}

func (l *exchangeTCP) taken(lane exchange.Lane, octets int) {
	if l.owed[lane].Add(int64(tokensOf(octets))) < returnTokens {
		return
	}
	n := l.owed[lane].Swap(0)
	l.held[lane].Add(-n)
	_, _ = l.c.Write(flow.Header{Type: frameTaken, Offset: uint64(n)<<8 | uint64(lane)}.Append(nil)) // an error is for serve to find
}

// takeTokens waits until the other end has room for a frame of so many octets on out.
func (s *ExchangeSession) takeTokens(ctx context.Context, out *sendLane, octets int) error {
	if out.tokens == nil {
		return nil
	}
	for had := range tokensOf(octets) {
		select {
		case out.tokens <- struct{}{}:
		case <-s.Done():
			return s.ended()
		case <-ctx.Done():
			out.regain(had)
			return context.Cause(ctx)
		}
	}
	return nil
}

// regain is told by the other end that it has room again.
func (s *ExchangeSession) regain(number uint64) bool {
	lane, n := number&0xff, number>>8
	return lane < lanes && n <= laneTokens && s.out[lane].regain(int(n))
}

// regain gives tokens back, or reports that there are not so many.
func (l *sendLane) regain(n int) bool {
	for range n {
		select {
		case <-l.tokens:
		default:
			return false
		}
	}
	return true
}

// tcpExchangeLane writes the frames of one lane.
type tcpExchangeLane struct {
	l    *exchangeTCP
	lane exchange.Lane
}

// Write implements frameWriter. Frames of several lanes are written one after the other, each whole.
func (w tcpExchangeLane) Write(b []byte) (int, error) {
	select {
	case <-w.l.over: // the connection may still be there, for the last words
		return 0, net.ErrClosed
	default:
	}
	h := flow.Header{Type: frameRow, Length: len(b), Offset: uint64(w.lane)}
	if _, err := w.l.c.Write(append(h.Append(make([]byte, 0, flow.HeaderLen+len(b))), b...)); err != nil {
		w.l.end(fmt.Errorf("the connection broke: %w", err), false)
		return 0, err
	}
	return len(b), nil
}

// SetWriteDeadline ends the session: after a part of a TLS record nothing can follow on the connection. Nothing is to be undone later.
func (w tcpExchangeLane) SetWriteDeadline(t time.Time) error {
	if !t.IsZero() {
		w.l.close(closeProtocol, fmt.Sprintf("a frame on lane %v did not leave in time", w.lane))
	}
	return nil
}

func (*exchangeTCP) kind() kind              { return kindTCP }
func (l *exchangeTCP) remote() net.Addr      { return l.c.tcp.RemoteAddr() }
func (l *exchangeTCP) done() <-chan struct{} { return l.over }
func (l *exchangeTCP) cause() error          { return l.why }

// CloseWithError implements ender.
func (l *exchangeTCP) CloseWithError(code quic.ApplicationErrorCode, reason string) error {
	l.close(code, reason)
	return nil
}

func (l *exchangeTCP) close(code quic.ApplicationErrorCode, reason string) {
	l.end(&quic.ApplicationError{ErrorCode: code, ErrorMessage: reason}, true)
}

// end ends the session; serve closes the connection when the other end has read why.
func (l *exchangeTCP) end(why error, tell bool) {
	l.once.Do(func() {
		l.why = why
		close(l.over)
		if tell {
			code, reason := closeProtocol, "the connection broke"
			var app *quic.ApplicationError
			if errors.As(why, &app) {
				code, reason = app.ErrorCode, app.ErrorMessage
			}
			l.c.farewell(code, reason)
		}
		_ = l.c.SetReadDeadline(time.Now().Add(lingerLimit))
	})
}
