package exchange

import (
	"fmt"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Times of a session.
const (
	headEvery  = time.Second      // what makes an import LIVE
	helloLimit = 5 * time.Second  // a handshake has come before: the peer is there and awake
	lagAfter   = 10 * time.Second // head ahead and no progress: LAGGING
	stallAfter = 30 * time.Second // and then a new session is better than hope
	linger     = time.Second      // for the last word to arrive before the close overtakes it
	maxJump    = 1 << 32          // epochs: a million restarts a day for a decade
	jumpSpan   = 10 * time.Minute
	jumpsMost  = 3 // within jumpSpan; more are two clones that push each other aside
)

// session is what lives as long as one session with the peer.
type session struct {
	started time.Time
	greeted bool // the peer's Hello was taken
	hello   hello
	window  int
	fenced  bool // the peer's epoch is refused: nothing of its catalog is taken
	mute    bool // our own epoch is in doubt: nothing of our catalog is given
	send    sender
	recv    receiver
	headDue time.Time
	headSeq uint64    // of the peer's last HEAD
	heardAt time.Time // when it came
	wants   []want

	closeAt     time.Time
	closeCode   uint64
	closeReason string

	frames, bundles, names, health, rows, syncs, resyncs bucket
}

// Connected starts a session; one that was still open is forgotten.
func (m *Machine) Connected(now time.Time) []Action {
	m.input(now)
	m.end()
	m.sessions++
	l := m.lim
	n := m.now
	m.sess = &session{started: n,
		send:    sender{handles: map[uint32]*exportRow{}},
		recv:    receiver{handles: map[uint32]*handle{}, early: map[string]early{}},
		frames:  newBucket(n, 20_000, 40_000), // far above what any export needs, far below what a core can parse
		bundles: newBucket(n, 1, 10),
		names:   newBucket(n, float64(l.RowsPerSecond), float64(2*l.Services)),
		health:  newBucket(n, float64(l.HealthPerSecond), float64(2*l.Slots+l.Services)), // every slot twice
		rows:    newBucket(n, float64(l.RowsPerSecond), float64(l.RowsPerSecond)),
		syncs:   newBucket(n, 1, 10),
		resyncs: newBucket(n, 1.0/60, 5),
	}
	m.out.queue, m.out.handles, m.out.issued, m.out.hv = nil, nil, 0, 0
	m.out.budget = newBucket(n, healthPerSecond, healthBurst)
	for _, r := range m.log.rows {
		r.queued, r.all, r.dirty = false, false, nil
	}
	for _, r := range m.imp.rows {
		r.hv, r.missed, r.named, r.asked = 0, 0, false, time.Time{}
		if r.fault == faultTotalQuota {
			m.imp.say(r, r.seq, Digest{}) // there may be room by now: with no hash, it is asked for and judged again
		}
	}
	m.acked = n
	h := hello{versionMin: version, versionMax: version, features: knownFeatures, region: []byte(m.cfg.Local), epoch: m.log.epoch,
		known: m.imp.known, cursor: m.imp.applied, window: uint64(l.Window), services: uint64(l.Services), slots: uint64(l.Slots),
		time: n.UnixNano()}
	m.send(LaneControl, h.frame())
	if m.bundle != nil {
		m.send(LaneUrgent, bundleFrame(m.bundle))
	}
	return m.act()
}

// Disconnected ends the session.
func (m *Machine) Disconnected(now time.Time) []Action {
	m.input(now)
	m.end()
	return m.act()
}

// end forgets the session. Rows that were withdrawn before they came will not come any more.
func (m *Machine) end() {
	if m.sess == nil {
		return
	}
	m.sess = nil
	for wire := range m.imp.gone {
		if m.imp.rows[wire] == nil {
			delete(m.imp.gone, wire)
		}
	}
	for _, r := range m.log.rows {
		r.queued, r.all, r.dirty = false, false, nil
	}
	m.out.queue = nil
	m.nacks = nil
}

// fail closes the session for a reason of our own.
func (m *Machine) fail(code uint64, reason string) {
	if m.sess == nil {
		return
	}
	m.trouble = reason
	if diag := diagnosticOf(code); diag != "" {
		m.alarm(diag, fmt.Sprintf("the session with peer %s was closed", m.cfg.Peer), reason)
	}
	m.emit(Close{Code: code, Reason: reason})
	m.end()
}

func (m *Machine) malformed(err error) { m.fail(CodeMalformed, err.Error()) }

// closeSoon ends the session in a moment: the last frames must not be overtaken by the close.
func (s *session) closeSoon(now time.Time, code uint64, reason string) {
	if s.closeAt.IsZero() {
		s.closeAt, s.closeCode, s.closeReason = now.Add(linger), code, reason
	}
}

// Receive takes a frame of the session. The machine does not keep frame.
func (m *Machine) Receive(now time.Time, lane Lane, frame []byte) []Action {
	m.input(now)
	if m.sess != nil {
		m.receive(lane, frame)
	}
	return m.act()
}

func (m *Machine) receive(lane Lane, frame []byte) {
	k, b, err := unwrap(lane, frame)
	if err != nil {
		m.malformed(err)
		return
	}
	if !m.sess.frames.take(m.now, 1) {
		m.fail(CodeLimit, "too many frames a second")
		return
	}
	if !m.sess.greeted && k != kindHello && k != kindBundle && k != kindDrain {
		m.fail(CodeMalformed, "a frame came before the greeting")
		return
	}
	switch k {
	case kindHello:
		m.onHello(b)
	case kindSync:
		m.onSync(b)
	case kindHead:
		m.onHead(b)
	case kindApplied:
		m.onApplied(b)
	case kindNack:
		m.onNack(b)
	case kindGoAway:
		m.onGoAway(b)
	case kindHealthWant:
		m.onHealthWant(b)
	case kindBundle:
		m.onBundle(b)
	case kindWithdraw:
		m.onWithdraw(b)
	case kindDrain:
		m.onDrain(b)
	case kindHealth:
		m.onHealth(b)
	case kindDelta:
		m.onDelta(b)
	case kindBegin:
		m.onBegin(b)
	case kindDigests:
		m.onDigests(b)
	case kindWant:
		m.onWant(b)
	case kindRows:
		m.onRows(b)
	case kindBarrier:
		m.onBarrier(b)
	}
}

func (m *Machine) onHello(b []byte) {
	h, err := decodeHello(b)
	s := m.sess
	switch {
	case err != nil:
		m.malformed(err)
		return
	case s.greeted:
		m.fail(CodeMalformed, "a second greeting")
		return
	case string(h.region) != string(m.cfg.Peer):
		m.fail(CodeWrongPeer, "the greeting names another region")
		return
	case h.versionMin > version || h.versionMax < version:
		m.fail(CodeVersion, fmt.Sprintf("the peer speaks versions %d to %d, we speak %d", h.versionMin, h.versionMax, version))
		return
	}
	h.region = slices.Clone(h.region)
	s.greeted, s.hello = true, h
	s.window = int(min(h.window, uint64(m.lim.Window)))
	s.headDue = m.now.Add(time.Duration(m.cfg.Rand.Int64N(int64(headEvery)))) // so that peers do not all beat at once
	m.noteClock(h.time)
	m.judgeOwnEpoch(h.known, h.cursor)
	m.judgePeerEpoch(h.epoch)
	if !s.fenced {
		m.peerGone = false
		m.progress = m.now
		m.resync(modeAuto)
	}
}

// judgePeerEpoch fences a peer that comes from an earlier life, or from two.
func (m *Machine) judgePeerEpoch(e federation.Epoch) {
	s, known := m.sess, m.imp.known
	switch {
	case e.Counter < known.Counter:
		s.fenced = true
		m.trouble = fmt.Sprintf("the peer's epoch %v is below %v, which it had before", e, known)
		m.alarm(DiagStaleEpoch, fmt.Sprintf("peer %s is in an earlier life", m.cfg.Peer), m.trouble)
		s.closeSoon(m.now, CodeStaleEpoch, m.trouble) // the peer has to read our greeting: it names the epoch it lost
	case e.Counter == known.Counter && e.Incarnation != known.Incarnation:
		s.fenced, m.peerHeld = true, true
		m.trouble = fmt.Sprintf("epoch %v is claimed by two lives of the peer, %v and %v", e.Counter, known, e)
		m.alarm(DiagSplitBrain, fmt.Sprintf("peer %s is in quarantine", m.cfg.Peer), m.trouble)
		s.closeSoon(m.now, CodeSplitBrain, m.trouble)
	case e != known:
		m.imp.known, m.peerHeld, m.rowsMoved = e, false, true
		m.persistedAt = time.Time{} // at once: a fence that is forgotten is none
	default:
		m.peerHeld = false // the life that we have known all along
	}
	if !s.fenced {
		m.head, m.headAt = Cursor{Epoch: e}, time.Time{} // what was said in another session, or life, is nothing to wait for
	}
}

// judgeOwnEpoch looks whether the peer remembers a later life of ours than this one, or more of this one than there was.
func (m *Machine) judgeOwnEpoch(known federation.Epoch, has Cursor) {
	own := m.log.epoch
	if known.Counter < own.Counter || known == own && (has.Epoch != own || has.Seq <= m.log.seq) {
		return
	}
	m.sess.mute = true
	m.jumps = slices.DeleteFunc(m.jumps, func(t time.Time) bool { return m.now.Sub(t) > jumpSpan })
	switch {
	case known.Counter-own.Counter > maxJump:
		m.trouble = fmt.Sprintf("the peer claims to know this region at epoch %v, and it is at %v", known, own)
		m.alarm(DiagJumpTooFar, fmt.Sprintf("peer %s remembers a life of this region too far ahead", m.cfg.Peer), m.trouble)
		m.sess.closeSoon(m.now, CodeLimit, "the epoch remembered is out of reach")
	case len(m.jumps) >= jumpsMost:
		m.heldTill = m.jumps[0].Add(jumpSpan)
		m.trouble = fmt.Sprintf("%d jumps within %v", len(m.jumps), jumpSpan)
		m.alarm(DiagJumpTooOften, "this region's epoch had to jump too often", m.trouble)
	default:
		m.alarm(DiagJumped, fmt.Sprintf("peer %s remembers a later life of this region", m.cfg.Peer),
			fmt.Sprintf("it knows %v and has %v, this is %v", known, has, m.log.cursor()))
		m.emit(JumpEpoch{AtLeast: known.Counter})
	}
}

func (m *Machine) onGoAway(b []byte) {
	reason, err := decodeOne(b, 1<<16)
	switch {
	case err != nil:
		m.malformed(err)
	case reason == goAwayRemoved:
		m.peerGone = true
		m.emit(PeerGone{})
		m.fail(CodeRemoved, "the peer removed the peering")
	case reason == goAwayPaused:
		m.fail(CodePaused, "the peer paused the peering")
	}
}

func (m *Machine) onBundle(b []byte) {
	bundle, err := decodeBytes(b, m.lim.BundleBytes)
	switch {
	case err != nil:
		m.malformed(err)
	case !m.sess.bundles.take(m.now, 1):
		m.fail(CodeLimit, "too many trust bundles")
	case len(bundle) > 0:
		m.emit(BundleReceived{Bundle: slices.Clone(bundle)})
	}
}

func (m *Machine) onDrain(b []byte) {
	seconds, err := decodeOne(b, uint64(maxDrain/time.Second))
	if err != nil {
		m.malformed(err)
		return
	}
	m.brake.drainUntil = m.now.Add(time.Duration(seconds) * time.Second)
	m.releaseDue(true)
}

// noteClock takes the peer's time and returns how much longer than usual the frame took to come.
func (m *Machine) noteClock(nanos int64) time.Duration {
	late := m.clock.sample(m.now, nanos)
	if offset := m.clock.offset(); m.clock.samples >= clockLeast && offset.Abs() > clockAlarm {
		m.alarm(DiagClock, fmt.Sprintf("the clock of peer %s differs from ours", m.cfg.Peer),
			fmt.Sprintf("by about %v", offset.Round(time.Second)))
	}
	return late
}
