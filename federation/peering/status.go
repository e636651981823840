package peering

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

// PeeringStatus is one peering as operators see it.
type PeeringStatus struct {
	Region      federation.Region
	TrustDomain string // empty while Pending
	State       federation.PeeringState
	Since       time.Time // of State
	Reason      string    // why State is what it is, when there is more to say than its name
	Gateways    []string
	Token       time.Time // expiry of a token that nobody has redeemed; zero: none waits

	Fingerprint   string    // of the peer's roots
	BundleExpires time.Time // when the peer's last root does

	Session     SessionStatus
	Reach       Reach // can we reach them
	Reached     Reach // can they reach us; not OK is a guess, because a failed attempt leaves no trace here
	NextAttempt time.Time
	LastError   *Trouble // of the way to the peer, kept after it was overcome
	Alarm       *Trouble // the last thing that an operator should look at

	Exchange exchange.Status          // what was applied, and what there is, in both directions
	Imported []federation.ServiceName // sorted; by Show only
	Exported []federation.ServiceName // sorted; by Show only
}

// SessionStatus is the cx/1 session in use.
type SessionStatus struct {
	Up      bool
	Address string // of the other side
	Lane    string // what it runs over, as its transport calls it
	Dialled bool   // by us
	Since   time.Time
}

// Reach is whether one region can open a session with the other.
type Reach struct {
	Known   bool
	OK      bool
	At      time.Time // when it was seen
	Address string    // when OK
	Detail  string    // when not: each address with its reason
}

// Trouble is a diagnosis and when it was made.
type Trouble struct {
	At   time.Time
	Code federation.Code
	Text string
	Fix  string // what to do, when that is known
}

// liveStatus is what an owner reports. Its values are replaced, never changed.
type liveStatus struct {
	state    federation.PeeringState
	since    time.Time
	session  SessionStatus
	exchange exchange.Status
	ours     Reach
	theirs   Reach
	next     time.Time
	err      *Trouble
	trust    trustState
	imported *federation.Import
	view     *federation.ExportView
}

// restingState is the state of a record whose owner has not reported.
func (r *record) restingState() federation.PeeringState {
	if r.State == federation.PeeringActive {
		return federation.PeeringFailing // until progress is applied in this life
	}
	return r.State
}

// state is the state of an entry that has a record. Callers hold mu.
func (e *entry) state() federation.PeeringState {
	if e.live == nil || e.resumed() {
		return e.rec.restingState()
	}
	return e.live.status.state
}

// resumed reports whether a pause was ended that the owner has not come round to end. Callers hold mu.
func (e *entry) resumed() bool {
	return e.live != nil && e.live.status.state == federation.PeeringPaused && e.rec.State != federation.PeeringPaused
}

// report publishes the owner's status, and stores that the peering has become active.
func (p *peer) report(ctx context.Context, now time.Time) {
	if !p.activity.dirty || now.Before(p.activity.reportAt) {
		return
	}
	p.activity.dirty, p.activity.reportAt = false, now.Add(reportEvery)
	ex := p.machine.Status()
	active := p.link != nil && ex.Connected && ex.State == federation.FreshnessLive
	if !active {
		p.activity.since = time.Time{}
	} else if p.activity.since.IsZero() {
		p.activity.since = now
	}
	if active && !p.rec.WasActive {
		p.m.markActive(ctx, p)
	}
	if changed := p.publishStatus(now, ex, p.stateNow(active)); changed {
		p.m.publishPeers()
	}
	p.m.tell()
}

func (p *peer) stateNow(active bool) federation.PeeringState {
	switch {
	case p.paused:
		return federation.PeeringPaused
	case active:
		return federation.PeeringActive
	case p.rec.WasActive:
		return federation.PeeringFailing
	}
	return federation.PeeringEstablishing
}

// publishStatus replaces the status and reports whether the state in it has changed.
func (p *peer) publishStatus(now time.Time, ex exchange.Status, state federation.PeeringState) (changed bool) {
	s := liveStatus{
		state:    state,
		since:    now,
		exchange: ex,
		ours:     p.dial.ours,
		theirs:   p.dial.theirs,
		trust:    p.trust,
		imported: p.imported,
		view:     p.view,
	}
	if p.link != nil {
		s.session = SessionStatus{Up: true, Address: p.link.session.RemoteAddr(), Lane: p.link.session.Lane(), Dialled: p.link.dialled,
			Since: p.link.since}
	} else {
		s.next = p.dialDue()
	}
	p.m.mu.Lock()
	before := p.status
	s.err = before.err
	if changed = before.state != state; !changed {
		s.since = before.since
	}
	p.status = s
	p.m.mu.Unlock()
	if changed {
		p.log.Info("peering changed", "from", before.state.String(), "to", state.String())
	}
	return changed
}

func (p *peer) reportDue() time.Time {
	if !p.activity.dirty {
		return time.Time{}
	}
	return p.activity.reportAt
}

// trouble notes what stands in the way.
func (p *peer) trouble(code federation.Code, text string) { p.troubleWith(code, text, "") }

// troubleWith is trouble that comes with what to do about it. A repetition is not logged again.
func (p *peer) troubleWith(code federation.Code, text, fix string) {
	t := &Trouble{At: p.now(), Code: code, Text: text, Fix: fix}
	p.activity.dirty = true
	p.m.mu.Lock()
	before := p.status.err
	p.status.err = t
	p.m.mu.Unlock()
	if before == nil || before.Code != code || before.Text != text {
		p.log.Warn("peering in trouble", "code", code, "reason", text)
	}
}

// alarm tells the operator something about the peering with region, in the log and in its status.
func (m *Manager) alarm(region federation.Region, d *federation.Diagnostic) {
	if d == nil {
		return
	}
	m.log.Error("peering alarm", "peer", string(region), "code", d.Code, "what", d.What, "why", d.Why)
	m.mu.Lock()
	if e := m.entries[region]; e != nil {
		e.alarm = &Trouble{At: m.cfg.Now(), Code: d.Code, Text: d.Reason(), Fix: d.Fix}
	}
	m.mu.Unlock()
	m.tell()
}

func joinText(what, why string) string {
	if why == "" {
		return what
	}
	return what + ": " + why
}

// List returns every peering, sorted by region, without the names of services.
func (m *Manager) List() []PeeringStatus {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []PeeringStatus
	for _, region := range slices.SortedFunc(maps.Keys(m.entries), compareRegions) {
		if e := m.entries[region]; e.rec != nil {
			list = append(list, m.describe(e))
		}
	}
	return list
}

// Show returns the peering with region.
func (m *Manager) Show(region federation.Region) (PeeringStatus, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	e := m.entries[region]
	if e == nil || e.rec == nil {
		return PeeringStatus{}, unknownPeering(region)
	}
	s := m.describe(e)
	if e.live != nil {
		if imported := e.live.status.imported; imported != nil {
			s.Imported = slices.SortedFunc(maps.Keys(imported.Services), federation.ServiceName.Compare)
		}
		if view := e.live.status.view; view != nil {
			for _, service := range view.Services {
				s.Exported = append(s.Exported, service.Name)
			}
		}
	}
	return s, nil
}

// describe is the status of e, which has a record. Callers hold mu.
func (m *Manager) describe(e *entry) PeeringStatus {
	rec := e.rec
	s := PeeringStatus{
		Region:      rec.Region,
		TrustDomain: rec.Domain,
		State:       e.state(),
		Since:       rec.Since,
		Gateways:    slices.Clone(rec.Addresses),
	}
	if e.alarm != nil && m.cfg.Now().Sub(e.alarm.At) < keepAlarm {
		s.Alarm = e.alarm
	}
	if rec.Waiting {
		s.Token = rec.Expires
	}
	s.Exchange.State = federation.FreshnessExpired
	if live := e.live; live != nil {
		l := live.status
		s.Since, s.Session, s.Exchange, s.Reach, s.Reached = l.since, l.session, l.exchange, l.ours, l.theirs
		if e.resumed() {
			s.Since = rec.Since
		}
		s.NextAttempt, s.LastError, s.Fingerprint, s.BundleExpires = l.next, l.err, l.trust.finger, l.trust.expires
	}
	s.Reason = m.reason(e, s)
	return s
}

// reason says why the peering is not Active.
func (m *Manager) reason(e *entry, s PeeringStatus) string {
	switch s.State {
	case federation.PeeringActive:
		return ""
	case federation.PeeringPending:
		if !m.cfg.Now().Before(e.rec.Expires) {
			return "the token expired before it was redeemed"
		}
		return fmt.Sprintf("the token waits to be redeemed in %s", e.region)
	case federation.PeeringPaused:
		return "an operator has paused it"
	case federation.PeeringTerminated:
		if d := e.rec.Ended; d != nil {
			return joinText(d.What, d.Why)
		}
		return "it has ended"
	}
	switch {
	case e.live == nil:
		return "trust in the peer is not stored yet"
	case !s.Session.Up && s.LastError != nil:
		return s.LastError.Text
	case !s.Session.Up:
		return "no session yet"
	}
	return s.Exchange.Reason
}

// Wait returns when the peering with region is in state, or can no longer come to be. A ctx that ends first is a Diagnostic
// with CodePeeringWait that says what is still missing.
func (m *Manager) Wait(ctx context.Context, region federation.Region, state federation.PeeringState) (PeeringStatus, error) {
	for {
		news := m.changes()
		s, err := m.Show(region)
		switch {
		case err != nil && state == federation.PeeringTerminated:
			return s, nil // removed is more than ended
		case err != nil || s.State == state:
			return s, err
		case s.State == federation.PeeringTerminated:
			return s, removedThere(region, s.Reason)
		}
		select {
		case <-news:
		case <-ctx.Done():
			return s, notUp(region, fmt.Sprintf("it is %s: %s", s.State, s.Reason), ctx.Err())
		}
	}
}

// changes returns a channel that is closed with the next change of any status.
func (m *Manager) changes() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.news
}

func unknownPeering(region federation.Region) error {
	return &federation.Diagnostic{
		Code: federation.CodePeeringUnknown,
		What: fmt.Sprintf("there is no peering with %q", string(region)),
		Fix:  "list the peerings: tradewind peer list",
	}
}

func removedThere(region federation.Region, why string) *federation.Diagnostic {
	return &federation.Diagnostic{
		Code: federation.CodePeeringRemoved,
		What: fmt.Sprintf("peering with %s has ended", region),
		Why:  why,
		Fix:  "to peer again, make a new token on either side",
	}
}

func notUp(region federation.Region, waitingFor string, err error) error {
	return &federation.Diagnostic{
		Code: federation.CodePeeringWait,
		What: fmt.Sprintf("timed out waiting for the peering with %s", region),
		Why:  waitingFor,
		Fix:  fmt.Sprintf("see: tradewind peer show %s", region),
		Err:  err,
	}
}
