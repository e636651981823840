package tunnel

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// What a session says beside its flows, in frames with flow's header. The first stream of the dialer is the control stream.
const (
	frameHello  flow.Type = 64 // control, first frame each way: version in the offset
	framePing   flow.Type = 65 // control: a number in the offset
	framePong   flow.Type = 66 // control: the number of the ping
	frameDrain  flow.Type = 67 // control: open no more flows on this session
	frameAsk    flow.Type = 68 // first frame of a stream of its own; body: the question
	frameAnswer flow.Type = 69 // the answer to it

	helloVersion = 1
	maxControl   = 4 << 10 // body of a control frame that this version does not know, and skips
)

// When a session is taken for dead. Anything heard counts, not only pongs: on a full link they come late.
const (
	tickEvery      = 50 * time.Millisecond  // the clock of a session, and what it adds to the silence it measures
	pingTicks      = 4                      // a ping every 200 ms
	lossTicks      = 20                     // loss is measured over a second
	silenceFloor   = 400 * time.Millisecond // one lost ping and its repetition
	silenceRTTs    = 4                      // on long paths, two probes and their answers; of the round trip and of its variation
	silenceCeiling = 5 * time.Second        // whatever the peer has made of its round trips
	pongLimit      = 3 * time.Second        // packets arrive, but nobody answers: the process over there is stuck
	pongRTTs       = 20
	controlLimit   = 2 * time.Second // for the control stream to take 12 octets
	sleptTooLong   = 2 * tickEvery   // a tick was missed: this process was kept from running
	pingsInFlight  = 64              // remembered, to tell the time of a pong
)

// vitality is what a session is good for.
type vitality = uint32

const (
	alive   vitality = iota
	suspect          // silent: new flows go elsewhere
	dead
)

// session is a QUIC connection that carries flows to and from one gateway of a peer.
type session struct {
	t       *Transport
	peer    *peer
	live    *liveConn
	conn    *quic.Conn
	control *quic.Stream
	domain  spiffeid.TrustDomain // what the peer may speak for
	address string               // as it was dialled, or where it came from
	dialled bool
	// goodUntil is when the first certificate of either end runs out.
	goodUntil time.Time

	state      atomic.Uint32
	leaving    atomic.Bool // the peer drains
	superseded atomic.Bool // a newer session serves the same address
	flows      atomic.Int64
	srtt       atomic.Int64  // nanoseconds; smoothed as in RFC 9002, section 5.3
	rttVar     atomic.Int64  // its variation, of the same section: high on a lossy path and while the peer is overloaded
	loss       atomic.Uint64 // bits of a float64: share of packets sent that were lost
	foreign    sync.Once     // a foreign source is reported once
	pending    chan struct{} // a token for each stream that has not said yet what it is

	epoch   time.Time // of the clock below
	heard   atomic.Int64
	ponged  atomic.Int64
	pings   atomic.Uint64 // the number of the last one
	sent    [pingsInFlight]atomic.Int64
	waiters sync.Map // number of a ping -> chan struct{}, closed by its pong
}

func (t *Transport) newSession(live *liveConn, address string, dialled bool) *session {
	return &session{
		t: t, peer: t.peerOf(live.region), live: live, conn: live.conn, domain: live.id.TrustDomain(),
		address: address, dialled: dialled, goodUntil: live.expiry, epoch: time.Now(), pending: make(chan struct{}, maxPending),
	}
}

// acceptSession serves a flow session that a peer has dialled, until it ends.
func (t *Transport) acceptSession(ctx context.Context, conn *quic.Conn) error {
	live, err := t.identify(conn, classFlow)
	if err != nil {
		return err
	}
	s := t.newSession(live, conn.RemoteAddr().String(), false)
	if err := s.greet(ctx); err != nil {
		return err
	}
	s.run()
	return nil
}

// dialSession makes a flow session to address, which is ready when it returns: the peer has accepted it.
func (t *Transport) dialSession(ctx context.Context, region federation.Region, address string, limit time.Duration) (*session, error) {
	conf, err := t.cfg.Trust.ClientTLS(region, protoFlow)
	if err != nil {
		return nil, fmt.Errorf("dial region %s: %w", region, err)
	}
	start := time.Now()
	conf, shown := noteShown(conf)
	conn, err := t.dialConn(ctx, classFlow, address, conf, limit)
	if err != nil {
		return nil, ofPeer(region, err)
	}
	live, err := t.identify(conn, classFlow)
	if err == nil && live.region != region {
		err = fmt.Errorf("the gateway belongs to region %s", live.region)
	}
	if err == nil {
		s := t.newSession(live, address, true)
		if own := shown.Load(); own != nil && own.Before(s.goodUntil) {
			s.goodUntil = *own
		}
		if err = s.greet(ctx); err == nil {
			return s, nil
		}
	}
	if cause := context.Cause(conn.Context()); cause != nil {
		err = cause
	}
	_ = conn.CloseWithError(closeProtocol, "session did not start")
	return nil, ofPeer(region, dialDiagnostic(address, conn.RemoteAddr(), time.Since(start), err))
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

// greet opens the control stream, or takes the dialer's, and exchanges the first frames on it. The server judges the client's
// certificate after the client's own handshake is done: its greeting is what proves that it agreed.
func (s *session) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, openLimit)
	defer cancel()
	var err error
	if s.dialled {
		s.control, err = s.conn.OpenStream()
	} else {
		s.control, err = s.conn.AcceptStream(ctx)
	}
	if err != nil {
		return fmt.Errorf("open the control stream: %w", err)
	}
	s.control.SetPriority(0, false) // before everything else (RFC 9218, section 4.1)
	stop := context.AfterFunc(ctx, func() { _ = s.control.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := s.say(frameHello, helloVersion); err != nil {
		return err
	}
	h, err := readHeader(s.control)
	if err != nil {
		return fmt.Errorf("wait for the greeting: %w", err)
	}
	if h.Type != frameHello || h.Length > maxControl || h.Offset < helloVersion {
		return errors.New("the session does not start with a greeting")
	}
	_, err = io.CopyN(io.Discard, s.control, int64(h.Length)) // what a later version adds
	return err
}

// say writes a control frame without a body.
func (s *session) say(t flow.Type, number uint64) error {
	var b [flow.HeaderLen]byte
	flow.Header{Type: t, Offset: number}.Put(b[:])
	_ = s.control.SetWriteDeadline(time.Now().Add(controlLimit))
	_, err := s.control.Write(b[:])
	return err
}

func readHeader(r io.Reader) (flow.Header, error) {
	var b [flow.HeaderLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return flow.Header{}, err
	}
	return flow.ParseHeader(b[:]), nil
}

// run makes the session usable and serves it until it ends.
func (s *session) run() {
	s.heard.Store(int64(time.Since(s.epoch)))
	s.ponged.Store(s.heard.Load())
	s.srtt.Store(int64(s.conn.ConnectionStats().SmoothedRTT))
	var tasks sync.WaitGroup
	tasks.Go(s.readControl)
	tasks.Go(func() { s.acceptStreams(&tasks) })
	if s.peer.add(s) {
		if s.t.draining.Load() {
			s.announceDrain()
		}
		s.watch()
		s.peer.remove(s)
	} else {
		s.close(closeCrowded, "too many sessions")
	}
	tasks.Wait()
}

// watch pings, and closes the session when it has been silent for too long. It returns when the session has ended.
func (s *session) watch() {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	_ = s.ping()
	last, seen := time.Since(s.epoch), s.conn.ConnectionStats().PacketsReceived
	var lost lossMeter
	for n := 1; ; n++ {
		select {
		case <-s.conn.Context().Done():
			return
		case <-tick.C:
		}
		now := time.Since(s.epoch)
		// Time in which this process did not run (it was stopped, the host is overloaded) proves nothing about the peer.
		if slept := now - last; slept > sleptTooLong {
			s.heard.Add(int64(slept - tickEvery))
			s.ponged.Add(int64(slept - tickEvery))
		}
		last = now
		stats := s.conn.ConnectionStats()
		if stats.PacketsReceived != seen {
			seen = stats.PacketsReceived
			s.heard.Store(int64(now))
		}
		if n%lossTicks == 0 {
			s.loss.Store(math.Float64bits(lost.next(stats.PacketsSent, stats.PacketsLost)))
		}
		if s.judgeSilence(now) {
			return
		}
		if n%pingTicks == 0 && s.ping() != nil {
			s.close(closeSilent, "the control stream is stuck")
			return
		}
		if s.superseded.Load() && s.flows.Load() == 0 {
			s.close(closeReplaced, "another session has taken over")
			return
		}
	}
}

// judgeSilence suspects, clears or closes the session by how long it has been silent, and reports whether it closed it.
func (s *session) judgeSilence(now time.Duration) bool {
	rtt := time.Duration(s.srtt.Load())
	limit := min(max(silenceFloor, silenceRTTs*(rtt+time.Duration(s.rttVar.Load()))), silenceCeiling)
	silent := now - time.Duration(s.heard.Load())
	stuck := now - time.Duration(s.ponged.Load())
	stuckLimit := max(pongLimit, pongRTTs*rtt)
	switch {
	case silent >= limit+limit/4 || stuck >= stuckLimit:
		s.setState(dead)
		reason := fmt.Sprintf("nothing heard for %v", silent.Round(time.Millisecond))
		if silent < limit {
			reason = fmt.Sprintf("no ping answered for %v", stuck.Round(time.Millisecond))
		}
		s.close(closeSilent, reason)
		return true
	case silent >= limit || stuck >= stuckLimit/2:
		s.setState(suspect)
	default:
		s.setState(alive)
	}
	return false
}

func (s *session) setState(v vitality) {
	if s.state.Swap(v) != v {
		s.peer.refresh()
	}
}

// ping sends the next ping.
func (s *session) ping() error {
	n := s.pings.Add(1)
	s.sent[n%pingsInFlight].Store(int64(time.Since(s.epoch)))
	return s.say(framePing, n)
}

// onPong takes the time of a ping that has been answered.
func (s *session) onPong(n uint64) {
	now := int64(time.Since(s.epoch))
	last := s.pings.Load()
	if n > last || last-n >= pingsInFlight {
		return // never sent, or too long ago to say
	}
	took := now - s.sent[n%pingsInFlight].Load()
	if took < 0 {
		return
	}
	if old := s.srtt.Load(); old > 0 {
		variation := s.rttVar.Load()
		s.rttVar.Store(variation + (max(took-old, old-took)-variation)/4)
		took = old + (took-old)/8
	}
	s.srtt.Store(took)
	s.heard.Store(now)
	s.ponged.Store(now)
	if waiter, ok := s.waiters.LoadAndDelete(n); ok {
		close(waiter.(chan struct{}))
	}
}

// readControl serves the control stream until the session ends.
func (s *session) readControl() {
	for {
		h, err := readHeader(s.control)
		switch {
		case err != nil:
			s.close(closeProtocol, "the control stream ended") // no effect when the connection has ended already
			return
		case h.Length > maxControl:
			s.close(closeProtocol, fmt.Sprintf("control frame of %d octets", h.Length))
			return
		}
		switch h.Type {
		case framePing:
			err = s.say(framePong, h.Offset)
		case framePong:
			s.onPong(h.Offset)
		case frameDrain:
			s.leaving.Store(true)
			s.peer.refresh()
		}
		if err == nil && h.Length > 0 {
			_, err = io.CopyN(io.Discard, s.control, int64(h.Length)) // of a later version
		}
		if err != nil {
			s.close(closeProtocol, "the control stream broke")
			return
		}
	}
}

func (s *session) announceDrain() { _ = s.say(frameDrain, 0) } // a session that cannot be told is dying anyway

func (s *session) close(code quic.ApplicationErrorCode, reason string) { s.live.close(code, reason) }

// usable reports whether new flows may be opened on the session.
func (s *session) usable() bool {
	return s.state.Load() != dead && !s.leaving.Load() && !s.superseded.Load() && s.conn.Context().Err() == nil
}

// lossMeter smooths the share of packets lost.
type lossMeter struct {
	sent, lost uint64
	share      float64
}

// next takes the counters of the connection. A packet declared lost can still turn up, so lost can fall.
func (m *lossMeter) next(sent, lost uint64) float64 {
	if fresh := sent - m.sent; fresh > 0 {
		now := 0.0
		if lost > m.lost {
			now = min(float64(lost-m.lost)/float64(fresh), 1)
		}
		m.share += (now - m.share) * 0.3 // half of it forgotten in 2 s
	}
	m.sent, m.lost = sent, lost
	return m.share
}
