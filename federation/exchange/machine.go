package exchange

import (
	"math/rand/v2"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Config is what a Machine must know of the two regions.
type Config struct {
	Local, Peer             federation.Region
	LocalDomain, PeerDomain spiffeid.TrustDomain
	Epoch                   federation.Epoch // of this region
	MaxStale                time.Duration    // an import older than this is withdrawn; 0: as soon as it is not LIVE
	Limits                  Limits
	Rand                    *rand.Rand // only spreads timers; nil is a fixed seed
}

// Machine is both directions of the exchange with one peer. It is not safe for concurrent use. Every input returns the actions
// that follow from it, to be done in their order, and must be given a now that does not go back.
type Machine struct {
	cfg Config
	lim Limits
	now time.Time // of the input at hand
	out healthOut
	do  []Action // what the input at hand leads to

	// What we show the peer.
	log      exportLog
	view     []federation.ExportedService // as SetExport had it
	ready    bool                         // SetExport was called: log is what we show, and not just empty
	bundle   []byte
	refused  map[string]RowTrouble
	acked    time.Time // when the peer last acknowledged something new
	served   uint64    // subscriptions ever
	jumps    []time.Time
	heldTill time.Time // our own epoch is in doubt

	// What the peer shows us.
	imp      importTable
	reader   rowReader
	brake    brake
	ghosts   map[string]*importRow // removed, and still shown by the brake
	head     Cursor
	headAt   time.Time
	asOf     time.Time // when we last had all the peer had
	behind   time.Time // since when we have not
	progress time.Time // when the cursor last moved
	had      bool      // a whole view was applied, in this life or an earlier one
	heard    bool      // asOf is of this life
	trusted  bool
	peerGone bool
	peerHeld bool
	clock    peerClock

	// What has to be published, told and stored.
	published     map[federation.ServiceName]*federation.ImportedService
	state         federation.Freshness
	shownState    federation.Freshness // of the import published last
	publishedAt   time.Time
	changed       map[string]struct{} // services whose visible form may have changed
	urgentPublish bool
	healthMoved   bool
	rowsMoved     bool // since it was last persisted
	persistedAt   time.Time
	persistedAsOf time.Time
	nacks         []*importRow
	nackBudget    bucket
	trouble       string
	alarms        map[string]time.Time

	sess     *session
	sessions uint64
	stats    struct{ rows, health, resyncs, rowsSent uint64 }

	hasher          hasher
	rowBuf, packBuf []byte
}

// New returns a machine without a session. saved is what Saved returned in an earlier life, or nil: the import in it is
// published as STALE by the first input that brings a time. When saved is damaged, New returns a Diagnostic together with a
// machine that works and is empty.
func New(cfg Config, saved []byte) (*Machine, error) {
	if cfg.Rand == nil {
		cfg.Rand = rand.New(rand.NewPCG(1, 2))
	}
	m := newMachine(cfg)
	if saved == nil {
		return m, nil
	}
	if err := m.restore(saved); err != nil {
		return newMachine(cfg), &federation.Diagnostic{Code: DiagSaved, Why: err.Error(), Fix: "nothing: it is fetched again", Err: err,
			What: "the saved import of peer " + string(cfg.Peer) + " could not be read"}
	}
	return m, nil
}

func newMachine(cfg Config) *Machine {
	m := &Machine{cfg: cfg, lim: cfg.Limits.Defaulted(), log: newExportLog(cfg.Local, cfg.Epoch), imp: newImportTable(), brake: newBrake(),
		out: healthOut{damping: newDamping()}, refused: map[string]RowTrouble{}, ghosts: map[string]*importRow{},
		changed: map[string]struct{}{}, alarms: map[string]time.Time{}, trusted: true,
		state: federation.FreshnessExpired, shownState: federation.FreshnessExpired}
	m.reader = rowReader{domain: cfg.PeerDomain, slots: m.lim.SlotsPerService, known: map[string]string{}}
	m.log.moved = func(r *exportRow) {
		if m.sess != nil && m.sess.send.next == r {
			m.sess.send.next = r.next
		}
	}
	m.log.added = func(r *exportRow) {
		if m.sess != nil && m.sess.send.next == nil {
			m.sess.send.next = r
		}
	}
	return m
}

// input begins an input and returns what ends it.
func (m *Machine) input(now time.Time) {
	if now.After(m.now) {
		m.now = now
	}
	if m.asOf.After(m.now) {
		m.asOf = m.now // saved under a clock that was ahead: authority must not last longer for it
	}
}

// act does what has become due and returns all there is to do. An import goes out before the word that it was applied.
func (m *Machine) act() []Action {
	m.advance()
	do := m.do
	m.do = nil
	slices.SortStableFunc(do, func(a, b Action) int { return rank(a) - rank(b) })
	return do
}

func rank(a Action) int {
	switch a.(type) {
	case Publish:
		return 0
	case Close:
		return 2
	}
	return 1
}

func (m *Machine) emit(a Action) { m.do = append(m.do, a) }

func (m *Machine) send(lane Lane, f []byte) { m.emit(Send{Lane: lane, Frame: f}) }

// Tick does what has become due. It may be called at any time.
func (m *Machine) Tick(now time.Time) []Action {
	m.input(now)
	return m.act()
}

// SetExport replaces what the peer may see: a service that view does not have is no longer exported, and one that has no
// instances has to be in view without slots. Until it is first called, the peer is told nothing. The machine keeps view; it
// must not change afterwards, and whatever did not change is best passed as the very same slice.
func (m *Machine) SetExport(now time.Time, view federation.ExportView) []Action {
	m.input(now)
	if !m.ready || !sameSlice(view.Services, m.view) {
		m.setView(view.Services)
	}
	return m.act()
}

// setView compares two sorted views, service by service. What is the very same slice is not looked into: a region of 10,000
// services tells 100 peers of every change.
func (m *Machine) setView(next []federation.ExportedService) {
	byName := func(a, b federation.ExportedService) int { return a.Name.Compare(b.Name) }
	if !slices.IsSortedFunc(next, byName) {
		next = slices.Clone(next)
		slices.SortStableFunc(next, byName)
	}
	old := m.view
	var gone []*exportRow
	for i := range next {
		svc := &next[i]
		for len(old) > 0 && old[0].Name.Compare(svc.Name) < 0 {
			gone = m.leaves(gone, old[0].Name)
			old = old[1:]
		}
		if len(old) > 0 && old[0].Name == svc.Name {
			same := old[0].Protocol == svc.Protocol && old[0].Detail == svc.Detail && sameSlice(old[0].Slots, svc.Slots)
			if old = old[1:]; same {
				continue
			}
		}
		m.present(svc)
	}
	for _, svc := range old {
		gone = m.leaves(gone, svc.Name)
	}
	m.withdraw(gone)
	m.view, m.ready = next, true
	if m.sess != nil && m.sess.send.pending != nil {
		m.serve(*m.sess.send.pending)
	}
}

func sameSlice[T any](a, b []T) bool { return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0]) }

// leaves adds the row of a service that is no longer shown.
func (m *Machine) leaves(gone []*exportRow, name federation.ServiceName) []*exportRow {
	if r := m.log.rows[name]; r != nil && !r.gone() {
		gone = append(gone, r)
	}
	return gone
}

// present makes the row of svc say what svc says.
func (m *Machine) present(svc *federation.ExportedService) {
	r := m.log.rows[svc.Name]
	if r == nil || !r.same(svc) {
		if why := exportable(svc, m.lim); why != "" {
			m.alarm(DiagExport, "service "+svc.Name.String()+" cannot be exported to "+string(m.cfg.Peer), why)
			return
		}
		if r != nil {
			m.out.slots -= len(r.slots)
			delete(m.refused, r.wire)
		}
		r = m.log.put(svc)
		m.out.slots += len(r.slots)
		m.rowsMoved = true
	}
	m.setTruth(r, svc.Slots)
}

// withdraw takes rows out of the export, and tells the peer ahead of their tombstones.
func (m *Machine) withdraw(rows []*exportRow) {
	var b []byte
	for i, r := range rows {
		m.forgetHandle(r)
		delete(m.refused, r.wire)
		m.out.slots -= len(r.slots)
		m.log.remove(r, m.now)
		m.rowsMoved = true
		b = appendGone(b, r.wire, r.seq)
		if i%maxNamesPerFrame == maxNamesPerFrame-1 {
			m.sendWithdraw(b)
			b = nil
		}
	}
	if len(b) > 0 {
		m.sendWithdraw(b)
	}
	if len(rows) > 0 {
		m.log.trim(m.now, m.lim)
	}
}

func (m *Machine) sendWithdraw(b []byte) {
	if m.sess != nil && m.sess.send.sub != 0 { // a peer that has not asked yet gets the tombstones with its first delta
		m.send(LaneUrgent, frame(kindWithdraw, b))
	}
}

// SetHealth changes the health of service's slots; of each slot only Key and Health count.
func (m *Machine) SetHealth(now time.Time, service federation.ServiceName, slots []federation.ExportedSlot) []Action {
	m.input(now)
	if r := m.log.rows[service]; r != nil && !r.gone() {
		m.setTruth(r, slots)
	}
	return m.act()
}

// SetBundle sets our own trust bundle, which is sent at once and at the start of each session. It is bounded by
// Limits.BundleBytes of the peer; a longer one than our own limit is not sent, and an Alarm says so.
func (m *Machine) SetBundle(now time.Time, bundle []byte) []Action {
	m.input(now)
	if len(bundle) > m.lim.BundleBytes {
		m.alarm(DiagLimit, "our own trust bundle is too long to be sent", "")
		return m.act()
	}
	same := slices.Equal(bundle, m.bundle)
	m.bundle = slices.Clone(bundle)
	if m.sess != nil && !same {
		m.send(LaneUrgent, bundleFrame(m.bundle))
	}
	return m.act()
}

// SetTrusted says whether the peer's bundle has a valid root; while false, the import is EXPIRED. A new machine trusts.
func (m *Machine) SetTrusted(now time.Time, trusted bool) []Action {
	m.input(now)
	m.trusted = trusted
	return m.act()
}

// SetEpoch sets this region's new epoch, after a jump. An open session is ended and has to be made anew.
func (m *Machine) SetEpoch(now time.Time, e federation.Epoch) []Action {
	m.input(now)
	if e == m.log.epoch {
		return m.act()
	}
	m.cfg.Epoch = e
	m.jumps = append(m.jumps, m.now)
	m.log.renew(e)
	if m.sess != nil {
		m.fail(CodeEpochChanged, "the epoch of region "+string(m.cfg.Local)+" has changed")
	}
	return m.act()
}

// SetMaxStale replaces Config.MaxStale. What has expired comes back if d allows it.
func (m *Machine) SetMaxStale(now time.Time, d time.Duration) []Action {
	m.input(now)
	m.cfg.MaxStale = d
	return m.act()
}

// PlanDrain tells the peer that withdrawals within d are meant, so that its brake leaves them alone.
func (m *Machine) PlanDrain(now time.Time, d time.Duration) []Action {
	m.input(now)
	if m.sess != nil {
		m.send(LaneUrgent, drainFrame(d))
	}
	return m.act()
}

// Goodbye tells the peer that the peering was removed here. The peer ends the session; after a second the machine does.
func (m *Machine) Goodbye(now time.Time) []Action {
	m.input(now)
	if m.sess != nil {
		m.send(LaneControl, goAwayFrame(goAwayRemoved))
		m.sess.closeSoon(m.now, CodeRemoved, "the peering was removed")
	}
	return m.act()
}

// Pause tells the peer that the peering is held here, and ends the session as Goodbye does.
func (m *Machine) Pause(now time.Time) []Action {
	m.input(now)
	if m.sess != nil {
		m.send(LaneControl, goAwayFrame(goAwayPaused))
		m.sess.closeSoon(m.now, CodePaused, "the peering is paused")
	}
	return m.act()
}
