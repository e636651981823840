package exchange

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Ages of an import.
const (
	liveFor      = 5 * time.Second // five HEADs
	staleFor     = 5 * time.Minute
	publishEvery = 5 * time.Millisecond // a publication costs the data path a compilation
	alarmEvery   = time.Minute          // the same alarm
	keepAsOf     = 5 * time.Minute      // how stale the stored age of an import may be
)

// advance does all that is due at m.now.
func (m *Machine) advance() {
	m.watch()
	for _, key := range m.out.due(m.now) {
		m.reshow(key)
	}
	m.releaseDue(false)
	m.pump()
	m.flush()
	m.refuse()
	m.publish()
	m.persist()
}

// reshow looks again at a slot that damping held.
func (m *Machine) reshow(key dampKey) {
	r := key.row
	for i := range r.places {
		if r.places[i] == key.at {
			m.tryShow(r, i)
			return
		}
	}
}

// watch keeps the times of the session.
func (m *Machine) watch() {
	s := m.sess
	switch {
	case s == nil:
		return
	case !s.closeAt.IsZero() && !m.now.Before(s.closeAt):
		m.emit(Close{Code: s.closeCode, Reason: s.closeReason})
		m.end()
		return
	case !s.greeted:
		if m.now.Sub(s.started) >= helloLimit {
			m.fail(CodeSilent, "no greeting came")
		}
		return
	case !m.stallAt().After(m.now):
		m.fail(CodeStalled, fmt.Sprintf("the peer's head is %v, we have %v, and nothing comes", m.head, m.imp.applied))
		return
	case !m.deafAt().After(m.now):
		m.fail(CodeStalled, fmt.Sprintf("the peer has not acknowledged %d frames", s.send.frames-s.send.acked))
		return
	case !m.silentAt().After(m.now):
		m.fail(CodeSilent, "no heartbeat came")
		return
	}
	if m.ready && !s.mute && !m.now.Before(s.headDue) {
		m.send(LaneControl, head{cursor: m.log.cursor(), time: m.now.UnixNano()}.frame())
		if s.headDue = s.headDue.Add(headEvery); s.headDue.Before(m.now) {
			s.headDue = m.now.Add(headEvery)
		}
	}
	if !s.recv.ackAt.IsZero() && !m.now.Before(s.recv.ackAt) {
		m.acknowledge()
	}
	if at := s.wantsDue(); !at.IsZero() && !m.now.Before(at) {
		m.askHealth()
	}
}

// stuckSince is when the import last got nearer to the peer's head, while it is not there; the zero time is "it is there".
func (m *Machine) stuckSince() time.Time {
	if m.sess == nil || m.behind.IsZero() {
		return time.Time{}
	}
	since := m.behind
	for _, t := range [...]time.Time{m.progress, m.sess.recv.moved, m.sess.started} {
		if t.After(since) {
			since = t
		}
	}
	return since
}

var never = time.Unix(1<<40, 0)

func (m *Machine) stallAt() time.Time {
	if since := m.stuckSince(); !since.IsZero() && !m.sess.fenced {
		return since.Add(stallAfter)
	}
	return never
}

// deafAt is when a peer that does not acknowledge is given up.
func (m *Machine) deafAt() time.Time {
	if s := &m.sess.send; s.frames > s.acked {
		return m.acked.Add(stallAfter)
	}
	return never
}

func (m *Machine) silentAt() time.Time {
	if m.sess.heardAt.IsZero() {
		return m.sess.started.Add(stallAfter)
	}
	return m.sess.heardAt.Add(stallAfter)
}

// refuse tells the peer which rows are kept out.
func (m *Machine) refuse() {
	if len(m.nacks) == 0 {
		return
	}
	if m.nackBudget.rate == 0 {
		m.nackBudget = newBucket(m.now, 100, 200)
	}
	var b []byte
	n := 0
	for _, r := range m.nacks {
		if r.removed || r.fault == nil || m.sess == nil || !m.nackBudget.take(m.now, 1) {
			continue // what is not said now is said when the row changes; the peer's operator sees enough of them
		}
		code, _ := strconv.ParseUint(strings.TrimPrefix(string(r.fault.code), "TW-"), 10, 32) // a constant of ours
		b = appendRefusal(b, r.wire, code)
		if n++; n == maxNacks || len(b) > MaxControlFrame-maxName-32 {
			m.send(LaneControl, frame(kindNack, b))
			b, n = nil, 0
		}
	}
	if n > 0 {
		m.send(LaneControl, frame(kindNack, b))
	}
	m.nacks = nil
}

// freshness judges the import as of m.now.
func (m *Machine) freshness() federation.Freshness {
	age := m.now.Sub(m.asOf)
	switch {
	case !m.trusted, m.peerGone, !m.had:
		return federation.FreshnessExpired
	case m.heard && age <= liveFor:
		return federation.FreshnessLive
	case age > m.cfg.MaxStale:
		return federation.FreshnessExpired
	case age > staleFor:
		return federation.FreshnessOld
	}
	return federation.FreshnessStale
}

// agesAt is when freshness changes if nothing else happens; the zero time is never.
func (m *Machine) agesAt() time.Time {
	if !m.trusted || m.peerGone || !m.had || m.state == federation.FreshnessExpired {
		return time.Time{}
	}
	var at time.Time
	for _, age := range [...]time.Duration{liveFor, staleFor, m.cfg.MaxStale} {
		if t := m.asOf.Add(age + 1); t.After(m.now) {
			at = earlier(at, t)
		}
	}
	return at
}

// publish hands out the import when what may be seen of it has changed.
func (m *Machine) publish() {
	before := m.state
	m.state = m.freshness()
	if m.state == federation.FreshnessLive && !m.behind.After(m.asOf) {
		m.trouble = ""
	}
	if m.state > before && m.had {
		switch m.state {
		case federation.FreshnessOld:
			m.alarm(DiagOld, fmt.Sprintf("the import from %s is old", m.cfg.Peer), m.reason())
		case federation.FreshnessExpired:
			m.alarmWithdrawn()
		}
	}
	switch {
	case m.state == federation.FreshnessExpired:
		if m.shownState != federation.FreshnessExpired {
			m.shownState = m.state
			m.emit(Publish{})
		}
	case m.state == m.shownState && !m.urgentPublish && m.now.Before(m.publishedAt.Add(publishEvery)):
	case m.compose() || m.state != m.shownState:
		m.emit(Publish{Import: &federation.Import{Peer: m.cfg.Peer, Epoch: m.imp.applied.Epoch, Seq: m.imp.applied.Seq, Freshness: m.state,
			AsOf: m.asOf, Services: m.published}})
		m.shownState, m.publishedAt, m.healthMoved = m.state, m.now, false
	}
	m.urgentPublish = m.urgentPublish && len(m.changed) > 0
	if m.healthMoved {
		m.healthMoved = false
		if m.shownState != federation.FreshnessExpired {
			m.emit(HealthChanged{})
		}
	}
}

// alarmWithdrawn tells why an import is gone, unless an operator wanted it so.
func (m *Machine) alarmWithdrawn() {
	what := fmt.Sprintf("the import from %s was withdrawn", m.cfg.Peer)
	switch {
	case !m.trusted:
		m.alarm(DiagUntrusted, what, m.reason())
	case !m.peerGone:
		m.alarm(DiagExpired, what, m.reason())
	}
}

// compose builds the services of the next import from those of the last and what has changed since. It reports whether they
// differ; maps that were published are never written to.
func (m *Machine) compose() bool {
	var services map[federation.ServiceName]*federation.ImportedService
	for wire := range m.changed {
		name, err := federation.ParseServiceName(wire)
		if err != nil || name.String() != wire {
			continue // a row that could never be good
		}
		svc := m.visible(wire)
		if svc == m.published[name] {
			continue
		}
		if services == nil {
			if services = maps.Clone(m.published); services == nil {
				services = make(map[federation.ServiceName]*federation.ImportedService, len(m.changed))
			}
		}
		if services[name] = svc; svc == nil {
			delete(services, name)
		}
	}
	clear(m.changed)
	if services == nil {
		return false
	}
	m.published = services
	return true
}

// persist asks for Saved to be stored when it has changed, or the age in it has.
func (m *Machine) persist() {
	if at := m.persistDue(); at.IsZero() || m.now.Before(at) {
		return
	}
	m.rowsMoved, m.persistedAt, m.persistedAsOf = false, m.now, m.asOf
	m.emit(Persist{})
}

func (m *Machine) persistDue() time.Time {
	switch {
	case m.rowsMoved:
		return m.persistedAt.Add(m.lim.PersistEvery)
	case m.had && m.asOf.After(m.persistedAsOf):
		return m.persistedAt.Add(max(m.lim.PersistEvery, min(keepAsOf, m.cfg.MaxStale/4)))
	}
	return time.Time{}
}

// Deadline is when Tick is to be called next; the zero time is never.
func (m *Machine) Deadline() time.Time {
	at := earlier(m.agesAt(), m.persistDue())
	at = earlier(at, m.out.next())
	at = earlier(at, m.brake.due())
	if len(m.changed) > 0 && m.state != federation.FreshnessExpired {
		at = earlier(at, m.publishedAt.Add(publishEvery))
	}
	if s := m.sess; s != nil {
		at = earlier(at, s.closeAt)
		if !s.greeted {
			return earlier(at, s.started.Add(helloLimit))
		}
		at = earlier(earlier(earlier(at, m.stallAt()), m.deafAt()), m.silentAt())
		if m.ready && !s.mute {
			at = earlier(at, s.headDue)
		}
		at = earlier(earlier(at, s.recv.ackAt), s.wantsDue())
		if s.send.phase == phaseDelta {
			at = earlier(at, m.out.dueAt())
		}
	}
	if at.Before(m.now) && !at.IsZero() {
		return m.now
	}
	return at
}

// alarm raises a diagnostic, unless the same was raised a moment ago.
func (m *Machine) alarm(code federation.Code, what, why string) {
	key := string(code) + what
	if last, ok := m.alarms[key]; ok && m.now.Sub(last) < alarmEvery {
		return
	}
	if len(m.alarms) >= 256 {
		clear(m.alarms)
	}
	m.alarms[key] = m.now
	m.emit(Alarm{Diagnostic: &federation.Diagnostic{Code: code, What: what, Why: why, Fix: "tradewind help " + string(code)}})
}
