package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// What a session says beside its flows, in frames with flow's header. They go over the dialer's first stream, or over the
// control connection; FrameAsk and FrameLane are first frames of something of their own.
const (
	frameHello  flow.Type = 64 // control, first frame each way: version in the offset; over TCP the dialer's names the session
	framePing   flow.Type = 65 // control: a number in the offset
	framePong   flow.Type = 66 // control: the number of the ping
	frameDrain  flow.Type = 67 // control: open no more flows on this session
	frameAsk    flow.Type = 68 // first frame of a carrier; body: the question
	frameAnswer flow.Type = 69 // the answer to it
	frameLane   flow.Type = 71 // TCP, first frame of a lane: version in the offset; body: its session and its owner
	frameClose  flow.Type = 72 // TCP, last frame: code in the offset; body: the reason. QUIC has its own
	frameWant   flow.Type = 73 // TCP control, from the accepter: how many lanes it wants to own
	frameRow    flow.Type = 74 // exchange over TCP: lane in the offset; body: a frame of the exchange
	frameTaken  flow.Type = 75 // exchange over TCP: lane in the low octet of the offset, above it how many tokens it has again

	helloVersion = 1
	maxControl   = 4 << 10 // body of a control frame
)

// When a session is taken for dead. Anything heard counts, not only pongs: on a full link they come late.
const (
	tickEvery      = 50 * time.Millisecond  // the clock of a session, and what it adds to the silence it measures
	pingTicks      = 4                      // a ping every 200 ms
	lossTicks      = 20                     // loss is measured over a second
	silenceFloor   = 400 * time.Millisecond // one lost ping and its repetition
	silenceRTTs    = 4                      // on long paths, two probes and their answers; of the round trip and of its variation
	freshPings     = 4                      // answers before their variation counts: a second
	silenceCeiling = 5 * time.Second        // whatever the peer has made of its round trips
	pongLimit      = 3 * time.Second        // packets arrive, but nobody answers: the process over there is stuck
	pongRTTs       = 20
	controlLimit   = 2 * time.Second // for the control stream to take a frame
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

// kind is what a session is made of, the preferred first.
type kind uint8

const (
	kindQUIC kind = iota // one QUIC connection
	kindTCP              // a control connection and a pool of lanes, all TLS over TCP
)

// The names of the kinds, in the configuration and in what is shown.
const (
	LaneQUIC = "quic"
	LaneTCP  = "tcp"
)

func (k kind) String() string { return [...]string{LaneQUIC, LaneTCP}[k] }

// link is what a session of one kind does in its own way.
type link interface {
	kind() kind
	// control carries the control frames. Its Write may be called by several goroutines.
	control() controlStream
	// open starts a carrier, at once or not at all.
	open() (carrier, error)
	// primed reports whether a first carrier could be had by now.
	primed() bool
	// serve hands what the peer starts to s.serveCarrier, until the session has ended.
	serve(ctx context.Context, s *session)
	// onFrame takes a control frame that only this kind knows.
	onFrame(h flow.Header, body []byte)
	// tick is called every tickEvery, and returns what the link has counted so far.
	tick(now time.Time) pulse

	remote() net.Addr
	// close ends the session for both ends. Only the first call has an effect.
	close(code quic.ApplicationErrorCode, reason string)
	// done is closed when the session has ended, by whomever; cause says why then, a *quic.ApplicationError of both kinds.
	done() <-chan struct{}
	cause() error
	// release frees what is left of an ended session. Nobody uses it any more.
	release()
}

// controlStream is where the control frames of a session go.
type controlStream interface {
	io.ReadWriter
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error
}

// pulse is what a link has counted since its beginning.
type pulse struct {
	heard      uint64 // grows with whatever comes from the peer
	sent, lost uint64 // packets
	moved      uint64 // octets, both ways
}

// session is an authenticated way to one gateway of a peer, which carries flows both ways.
type session struct {
	t       *Transport
	peer    *peer
	live    *liveConn
	link    link
	far     *remote              // the gateway at the other end; set by run
	domain  spiffeid.TrustDomain // what the peer may speak for
	address string               // as it was dialled, or where it came from
	// goodUntil is when the first certificate of either end runs out.
	goodUntil time.Time

	state      atomic.Uint32
	leaving    atomic.Bool // the peer drains
	superseded atomic.Bool // a newer session serves the same address
	flows      atomic.Int64
	bulk       atomic.Int64  // carriers that have been demoted
	recent     atomic.Int64  // octets a second, both ways, smoothed
	srtt       atomic.Int64  // nanoseconds; smoothed as in RFC 9002, section 5.3
	rttVar     atomic.Int64  // its variation, of the same section: high on a lossy path and while the peer is overloaded
	loss       atomic.Uint64 // bits of a float64: share of packets sent that were lost
	foreign    sync.Once     // a foreign source is reported once
	pending    chan struct{} // a token for each carrier that has not said yet what it is
	gaveWay    atomic.Int64  // Unix nanoseconds of the last time that its flows were asked to go over to its successor

	epoch   time.Time // of the clock below
	heard   atomic.Int64
	ponged  atomic.Int64
	pings   atomic.Uint64 // the number of the last one
	sent    [pingsInFlight]atomic.Int64
	pinged  atomic.Uint64 // the number of the peer's last one
	waiting atomic.Int64  // copies that wait for what they are copies of
	waiters sync.Map      // number of a ping -> chan struct{}, closed by its pong
}

func (t *Transport) newSession(live *liveConn, l link, address string) *session {
	return &session{
		t: t, peer: t.peerOf(live.region), live: live, link: l, domain: live.id.TrustDomain(),
		address: address, goodUntil: live.expiry, epoch: time.Now(), pending: make(chan struct{}, maxPending),
	}
}

// openCarrier starts a carrier on s, at once or not at all.
func (s *session) openCarrier() (carrier, error) { return s.link.open() }

// say writes a control frame.
func (s *session) say(t flow.Type, number uint64, body ...byte) error {
	return sayOn(s.link.control(), t, number, body)
}

func sayOn(c controlStream, t flow.Type, number uint64, body []byte) error {
	b := flow.Header{Type: t, Length: len(body), Offset: number}.Append(make([]byte, 0, flow.HeaderLen+len(body)))
	_ = c.SetWriteDeadline(time.Now().Add(controlLimit))
	_, err := c.Write(append(b, body...))
	return err
}

func readHeader(r io.Reader) (flow.Header, error) {
	var b [flow.HeaderLen]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return flow.Header{}, err
	}
	return flow.ParseHeader(b[:]), nil
}

// readGreeting reads the first frame of a control stream.
func readGreeting(r io.Reader) (body []byte, err error) {
	h, err := readHeader(r)
	if err != nil {
		return nil, fmt.Errorf("wait for the greeting: %w", err)
	}
	return greetingBody(r, h)
}

// greetingBody checks the greeting whose header is h and reads its body, at whose end a later version may add things.
func greetingBody(r io.Reader, h flow.Header) ([]byte, error) {
	closed := h.Type == frameClose && h.Length <= maxCloseReason
	if !closed && (h.Type != frameHello || h.Length > maxControl || h.Offset < helloVersion) {
		return nil, errors.New("the session does not start with a greeting")
	}
	body := make([]byte, h.Length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if closed {
		return nil, closedBy(h, body)
	}
	return body, nil
}

// run makes the session usable and serves it until it ends.
func (s *session) run() {
	s.enter()
	s.heard.Store(int64(time.Since(s.epoch)))
	s.ponged.Store(s.heard.Load())
	ctx, cancel := context.WithCancelCause(context.Background())
	var tasks sync.WaitGroup
	tasks.Go(s.readControl)
	tasks.Go(func() { s.link.serve(ctx, s) })
	if s.peer.add(s) {
		s.resume()
		if s.t.draining.Load() {
			s.announceDrain()
		}
		s.watch()
		s.peer.remove(s)
	} else {
		s.close(closeCrowded, "too many sessions")
	}
	<-s.link.done()
	s.evacuate()
	cancel(s.link.cause())
	tasks.Wait()
	s.link.release()
}

// watch pings, and closes the session when it has been silent for too long. It returns when the session has ended.
func (s *session) watch() {
	tick := time.NewTicker(tickEvery)
	defer tick.Stop()
	_ = s.ping()
	last, before := time.Since(s.epoch), s.link.tick(time.Now())
	seen := before.heard
	var lost lossMeter
	for n := 1; ; n++ {
		select {
		case <-s.link.done():
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
		count := s.link.tick(time.Now())
		if count.heard != seen {
			seen = count.heard
			s.heard.Store(int64(now))
		}
		if n%lossTicks == 0 {
			share := lost.next(count.sent, count.lost)
			s.loss.Store(math.Float64bits(share))
			s.noteLoss(share)
		}
		if s.judgeSilence(now) {
			return
		}
		if n%pingTicks == 0 {
			rate := int64(count.moved-before.moved) * int64(time.Second/(pingTicks*tickEvery))
			s.recent.Store((s.recent.Load() + rate) / 2)
			before = count
			if s.ping() != nil {
				s.close(closeSilent, "the control stream is stuck")
				return
			}
		}
		s.sweep()
		if s.superseded.Load() {
			s.giveWay()
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
	limit := min(max(silenceFloor, silenceRTTs*s.peer.slowness(s)), silenceCeiling)
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
	switch old := s.srtt.Load(); {
	case old > 0 && n <= freshPings: // taken among the handshakes of a whole set of sessions: that says nothing about the path
		took = min(old, took)
	case old > 0:
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

// readControl serves the control frames until the session ends. Only a peer that breaks the protocol takes its flows with it: a
// control connection that the network has cut is a dead session like any other, and its flows go on elsewhere.
func (s *session) readControl() {
	err, code := s.serveControl(), closeSilent
	if errors.Is(err, flow.ErrViolation) {
		code = closeProtocol
	}
	reason := "control stream: " + err.Error()
	s.close(code, reason[:min(len(reason), maxCloseReason)]) // no effect when the session has ended already
}

// serveControl serves the control frames, and returns why it cannot go on.
func (s *session) serveControl() error {
	control := s.link.control()
	var body []byte
	for {
		h, err := readHeader(control)
		if err != nil {
			return err
		}
		if h.Length > maxControl {
			return fmt.Errorf("%w: a control frame of %d octets", flow.ErrViolation, h.Length)
		}
		if cap(body) < h.Length {
			body = make([]byte, h.Length)
		}
		body = body[:h.Length]
		if _, err = io.ReadFull(control, body); err != nil {
			return err
		}
		if err = s.onControl(h, body); err != nil {
			return err
		}
	}
}

// onControl does what one control frame says; what a later version adds is skipped.
func (s *session) onControl(h flow.Header, body []byte) error {
	switch h.Type {
	case framePing:
		s.pinged.Store(h.Offset)
		return s.say(framePong, h.Offset)
	case framePong:
		s.onPong(h.Offset)
	case frameDrain:
		s.leaving.Store(true)
		s.peer.refresh()
		s.t.start(s.handOver)
	case frameAcks:
		return s.onAcks(body)
	case frameWake:
		return s.onWake(body)
	case frameEnded:
		return s.onEnded(h, body)
	default:
		s.link.onFrame(h, body)
	}
	return nil
}

func (s *session) announceDrain() { _ = s.say(frameDrain, 0) } // a session that cannot be told is dying anyway

func (s *session) close(code quic.ApplicationErrorCode, reason string) { s.live.close(code, reason) }

// ended reports why the session is over; nil while it is not.
func (s *session) ended() error {
	select {
	case <-s.link.done():
		return s.link.cause()
	default:
		return nil
	}
}

// usable reports whether new flows may be opened on the session.
func (s *session) usable() bool {
	return s.state.Load() != dead && !s.leaving.Load() && !s.superseded.Load() && s.link.primed() && s.ended() == nil
}

// lossMeter smooths the share of packets lost.
type lossMeter struct {
	sent, lost uint64
	share      float64
}

// next takes the counters of the link. A packet declared lost can still turn up, so lost can fall.
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
