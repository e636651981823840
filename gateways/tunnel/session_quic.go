package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// quicLink is the link of a session that is one QUIC connection.
type quicLink struct {
	conn      *quic.Conn
	stream    *quic.Stream // the control stream
	own       *socket      // that nothing else uses; nil: a shared one
	s         *session
	copies    chan []byte // to be sent
	sending   atomic.Bool // a goroutine sends them
	datagrams bool        // the other end takes them
}

// acceptSession serves a QUIC flow session that a peer has dialled, until it ends.
func (t *Transport) acceptSession(ctx context.Context, conn *quic.Conn) error {
	live, err := t.identify(conn, classFlow)
	if err != nil {
		return err
	}
	if !t.speaks(kindQUIC) {
		return errors.New("flows do not go over QUIC here")
	}
	l := &quicLink{conn: conn}
	if err := l.greet(ctx, false); err != nil {
		return err
	}
	l.session(t, live, conn.RemoteAddr().String()).run()
	return nil
}

// dialSession makes a QUIC flow session to address, which is ready when it returns: the peer has accepted it. The nth to one
// address is n; all but the first have a socket of their own: one connection's packets are read and sent by one goroutine.
func (t *Transport) dialSession(ctx context.Context, w way, limit time.Duration) (*session, error) {
	conf, err := t.cfg.Trust.ClientTLS(w.region, protoFlow)
	if err != nil {
		return nil, fmt.Errorf("dial region %s: %w", w.region, err)
	}
	start := time.Now()
	conf, shown := noteShown(conf)
	l := &quicLink{}
	l.conn, l.own, err = t.dialFlow(ctx, w, conf, limit)
	if err != nil {
		return nil, ofPeer(w.region, err)
	}
	live, err := t.identify(l.conn, classFlow)
	if err == nil && live.region != w.region {
		err = fmt.Errorf("the gateway belongs to region %s", live.region)
	}
	if err == nil {
		if err = l.greet(ctx, true); err == nil {
			s := l.session(t, live, w.address)
			s.endsWith(shown)
			return s, nil
		}
	}
	if cause := context.Cause(l.conn.Context()); cause != nil {
		err = cause
	}
	_ = l.conn.CloseWithError(closeProtocol, "session did not start")
	l.release()
	return nil, ofPeer(w.region, dialDiagnostic(w.address, l.conn.RemoteAddr(), time.Since(start), err))
}

func (l *quicLink) session(t *Transport, live *liveConn, address string) *session {
	l.s = t.newSession(live, l, address)
	l.s.srtt.Store(int64(l.conn.ConnectionStats().SmoothedRTT))
	l.copies, l.datagrams = make(chan []byte, copyQueue), l.conn.ConnectionState().SupportsDatagrams.Remote
	return l.s
}

// noteShown makes conf note when the certificate runs out that it shows: the other end judges the session by that one.
func noteShown(conf *tls.Config) (*tls.Config, *atomic.Pointer[time.Time]) {
	shown := new(atomic.Pointer[time.Time])
	show := conf.GetClientCertificate
	if show == nil {
		return conf, shown
	}
	conf = conf.Clone()
	conf.GetClientCertificate = func(request *tls.CertificateRequestInfo) (*tls.Certificate, error) {
		cert, err := show(request)
		if err == nil && cert != nil && cert.Leaf != nil {
			shown.Store(&cert.Leaf.NotAfter)
		}
		return cert, err
	}
	return conf, shown
}

// endsWith takes the end of the certificate that was shown to the peer into account.
func (s *session) endsWith(shown *atomic.Pointer[time.Time]) {
	if own := shown.Load(); own != nil && own.Before(s.goodUntil) {
		s.goodUntil = *own
	}
}

// greet opens the control stream, or takes the dialer's, and exchanges the first frames on it. The server judges the client's
// certificate after the client's own handshake is done: its greeting is what proves that it agreed.
func (l *quicLink) greet(ctx context.Context, dialled bool) error {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	var err error
	if dialled {
		l.stream, err = l.conn.OpenStream()
	} else {
		l.stream, err = l.conn.AcceptStream(ctx)
	}
	if err != nil {
		return fmt.Errorf("open the control stream: %w", err)
	}
	l.stream.SetPriority(0, false) // before everything else (RFC 9218, section 4.1)
	stop := context.AfterFunc(ctx, func() { _ = l.stream.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := sayOn(l.stream, frameHello, helloVersion, nil); err != nil {
		return err
	}
	_, err = readGreeting(l.stream)
	return err
}

func (*quicLink) kind() kind { return kindQUIC }

func (l *quicLink) control() controlStream { return l.stream }

func (l *quicLink) open() (carrier, error) {
	stream, err := l.conn.OpenStream()
	if err != nil {
		return nil, err
	}
	return &quicCarrier{Stream: stream, s: l.s}, nil
}

func (*quicLink) primed() bool { return true }

// serve takes the streams that the peer opens.
func (l *quicLink) serve(ctx context.Context, s *session) {
	var tasks sync.WaitGroup
	tasks.Go(func() { l.takeCopies(ctx) })
	defer tasks.Wait()
	for {
		stream, err := l.conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		select {
		case s.pending <- struct{}{}: // a peer that starts many and finishes none holds up itself, for openLimit
		case <-l.done():
			return
		}
		if !s.t.start(func() { s.serveCarrier(ctx, &quicCarrier{Stream: stream, s: s}) }) {
			return
		}
	}
}

func (*quicLink) onFrame(flow.Header, []byte) {}

func (l *quicLink) tick(time.Time) pulse {
	c := l.conn.ConnectionStats()
	return pulse{heard: c.PacketsReceived, sent: c.PacketsSent, lost: c.PacketsLost, moved: c.BytesSent + c.BytesReceived}
}

func (l *quicLink) remote() net.Addr { return l.conn.RemoteAddr() }

func (l *quicLink) close(code quic.ApplicationErrorCode, reason string) {
	_ = l.conn.CloseWithError(code, reason)
}

func (l *quicLink) done() <-chan struct{} { return l.conn.Context().Done() }

func (l *quicLink) cause() error { return context.Cause(l.conn.Context()) }

func (l *quicLink) release() {
	if l.own != nil {
		l.own.close()
	}
}
