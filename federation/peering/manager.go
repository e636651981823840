package peering

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/trust"
)

// Manager owns all peerings of a region. Its methods are safe for any number of goroutines; sessions exist only while Run runs.
type Manager struct {
	cfg     Config
	log     *slog.Logger
	made    time.Time
	files   importDir
	dials   chan struct{} // capacity maxDials: held while an address is dialled
	saves   chan saveJob  // to the one goroutine that writes imports
	wake    chan struct{} // capacity 1: entries to start
	running atomic.Bool
	jumping sync.Mutex // held while the region's epoch is raised

	pub sync.Mutex // held while the Catalog is told; before mu

	mu      sync.Mutex // guards what follows and the fields of entries; never held while calling out
	entries map[federation.Region]*entry
	start   []*peer       // made, not yet run
	news    chan struct{} // closed and replaced whenever a status changes
	bundle  ownBundle
	epoch   federation.Epoch
	rand    *rand.Rand
}

// entry is what there is of one region: a record, and while the peering is live its owner.
type entry struct {
	region   federation.Region
	lock     chan struct{} // capacity 1: held by whoever changes the record
	rec      *record       // nil: none
	live     *peer         // nil: none
	founding founding      // for the next owner
	alarm    *Trouble      // the last one
}

// ownBundle is our trust bundle as it is pushed to peers.
type ownBundle struct {
	revision uint64 // grows with each change of anything in trust
	bytes    []byte
	finger   string
}

// New reads the peerings from the store. It starts nothing. A stored peering that cannot be read is reported in the log and
// left alone: one damaged entry must not keep a region from starting.
func New(ctx context.Context, cfg Config) (*Manager, error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	m := &Manager{
		cfg:     cfg,
		log:     cfg.Log,
		made:    cfg.Now().Add(-time.Nanosecond), // so that a beat is never 0
		files:   importDir{dir: cfg.Dir},
		dials:   make(chan struct{}, maxDials),
		saves:   make(chan saveJob),
		wake:    make(chan struct{}, 1),
		entries: map[federation.Region]*entry{},
		news:    make(chan struct{}),
		epoch:   cfg.Epoch,
		rand:    cfg.Rand,
	}
	if err := m.files.prepare(); err != nil {
		return nil, err
	}
	m.refreshBundle()
	stored, err := cfg.Store.List(ctx, recordPrefix)
	if err != nil {
		return nil, storeTrouble("peerings cannot be read", err)
	}
	for _, e := range stored {
		rec, err := decodeRecord(e)
		if err != nil {
			m.log.Error("skip stored peering", "error", err)
			continue
		}
		en := m.entry(rec.Region)
		en.rec = rec
		if rec.trusted() {
			m.enliven(en, founding{})
		}
	}
	return m, nil
}

// complete checks cfg and fills in its defaults.
func (c *Config) complete() error {
	switch {
	case c.Region == "" || c.TrustDomain.IsZero():
		return errors.New("new peering manager: it needs a region and a trust domain")
	case c.Trust == nil || c.Store == nil || c.Dialer == nil || c.Catalog == nil || c.Dir == "":
		return errors.New("new peering manager: it needs trust, a store, a dialer, a catalog and a directory")
	}
	if c.Addresses == nil {
		c.Addresses = func() []string { return nil }
	}
	if c.JumpEpoch == nil {
		c.JumpEpoch = func(context.Context, uint64) (federation.Epoch, error) {
			return federation.Epoch{}, errors.New("this region's epoch comes from its store and cannot be raised")
		}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Rand == nil {
		c.Rand = rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64()))
	}
	return nil
}

// entry returns the entry of region, making an empty one. Callers hold mu, or are New.
func (m *Manager) entry(region federation.Region) *entry {
	e := m.entries[region]
	if e == nil {
		e = &entry{region: region, lock: make(chan struct{}, 1)}
		m.entries[region] = e
	}
	return e
}

// enliven gives e an owner, to be started by Run. Callers hold mu, or are New.
func (m *Manager) enliven(e *entry, f founding) {
	e.live = newPeer(m, e.rec, f, rand.New(rand.NewPCG(m.rand.Uint64(), m.rand.Uint64())))
	m.start = append(m.start, e.live)
	signal(m.wake)
}

// Run keeps sessions with all peers until ctx ends, and returns after everything it started has ended. Imports saved by an
// earlier life are handed to the Catalog before anything is dialled.
func (m *Manager) Run(ctx context.Context) error {
	if !m.running.CompareAndSwap(false, true) {
		return errors.New("run peering manager: it runs already")
	}
	defer m.running.Store(false)
	changed, unsubscribe := m.cfg.Trust.Changed()
	defer unsubscribe()
	m.refreshBundle()
	var owned sync.WaitGroup
	defer owned.Wait()
	owned.Go(func() { m.saver(ctx) })
	m.publishPeers()
	m.startOwners(ctx, &owned)
	m.finishInterrupted(ctx)

	watch := time.NewTicker(watchEvery)
	defer watch.Stop()
	housekeep := time.NewTicker(housekeepEvery)
	defer housekeep.Stop()
	m.housekeep(ctx)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-m.wake:
			m.startOwners(ctx, &owned)
		case <-changed:
			m.refreshBundle()
			m.wakeAll()
		case <-watch.C:
			m.watchOwners()
			m.finishJoins(ctx)
		case <-housekeep.C:
			m.housekeep(ctx)
		}
	}
}

// startOwners runs each owner that was made since the last call.
func (m *Manager) startOwners(ctx context.Context, owned *sync.WaitGroup) {
	m.mu.Lock()
	start := m.start
	m.start = nil
	m.mu.Unlock()
	for _, p := range start {
		owned.Go(func() { m.own(ctx, p) })
	}
}

// own runs the owner of one peering, and ends the peering when the peer has removed it.
func (m *Manager) own(ctx context.Context, p *peer) {
	removed := p.run(ctx)
	close(p.done)
	if !removed {
		return
	}
	for {
		limited, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell) // a shutdown must not lose the news
		err := m.terminate(limited, p)
		cancel()
		if err == nil {
			return
		}
		m.log.Error("end peering that the peer removed", "peer", p.region, "error", err)
		select {
		case <-ctx.Done():
			return
		case <-time.After(retryEvery):
		}
	}
}

// finishInterrupted completes what an earlier life of the process committed and did not get to do.
func (m *Manager) finishInterrupted(ctx context.Context) {
	for _, e := range m.snapshot() {
		rec := e.rec
		var err error
		switch {
		case rec == nil:
		case rec.Removing:
			_, err = m.Remove(ctx, rec.Region)
		case rec.State == federation.PeeringTerminated:
			err = m.cfg.Trust.RemovePeer(ctx, rec.Region)
			m.files.remove(rec.Region)
		}
		if err != nil && ctx.Err() == nil {
			m.log.Error("complete an interrupted change of a peering", "peer", e.region, "error", err)
		}
	}
	m.finishJoins(ctx)
	m.files.keepOnly(func(region federation.Region) bool {
		m.mu.Lock()
		defer m.mu.Unlock()
		e := m.entries[region]
		return e != nil && e.rec.live()
	})
}

// finishJoins hands over the bundles of joins for which trust could not be stored at the time.
func (m *Manager) finishJoins(ctx context.Context) {
	for _, e := range m.snapshot() {
		if !e.rec.live() || len(e.rec.Bundle) == 0 {
			continue
		}
		select {
		case e.lock <- struct{}{}:
			if err := m.handOverTrust(ctx, e.region); err != nil && ctx.Err() == nil {
				m.log.Error("complete a join", "peer", e.region, "error", err)
			}
			<-e.lock
		default: // being changed right now
		}
	}
}

// housekeep forgets tokens that nobody will ask for any more.
func (m *Manager) housekeep(ctx context.Context) {
	ops, err := expiredTokens(ctx, m.cfg.Store, m.cfg.Now())
	if err == nil && len(ops) > 0 {
		_, err = m.cfg.Store.Commit(ctx, ops...)
	}
	if err != nil && ctx.Err() == nil && !errors.Is(err, store.ErrConflict) {
		m.log.Warn("forget expired tokens", "error", err)
	}
}

// refreshBundle reads our own bundle anew, after trust has changed.
func (m *Manager) refreshBundle() {
	b := m.cfg.Trust.Bundle()
	bytes, finger := b.Marshal(), b.Fingerprint()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.bundle = ownBundle{revision: m.bundle.revision + 1, bytes: bytes, finger: finger}
}

func (m *Manager) wakeAll() {
	for _, e := range m.snapshot() {
		if e.live != nil {
			signal(e.live.wake)
		}
	}
}

// snapshot returns a copy of every entry, sorted by region.
func (m *Manager) snapshot() []entry {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]entry, 0, len(m.entries))
	for _, e := range m.entries {
		list = append(list, *e)
	}
	slices.SortFunc(list, func(a, b entry) int { return compareRegions(a.region, b.region) })
	return list
}

func compareRegions(a, b federation.Region) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// livePeer returns the owner of the peering with region, or nil.
func (m *Manager) livePeer(region federation.Region) *peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[region]; e != nil {
		return e.live
	}
	return nil
}

// SetExport replaces what peer may see. Until it was called once the peer is told nothing, so that it never takes a region
// that is still starting for one that has withdrawn everything. It never blocks.
func (m *Manager) SetExport(peer federation.Region, view federation.ExportView) {
	if p := m.livePeer(peer); p != nil {
		p.exports.set(view)
		signal(p.wake)
	}
}

// SetHealth says how healthy the slots of service in the last SetExport are now. It never blocks.
func (m *Manager) SetHealth(peer federation.Region, service federation.ServiceName, slots []federation.ExportedSlot) {
	if p := m.livePeer(peer); p != nil {
		p.exports.setHealth(service, slots)
		signal(p.wake)
	}
}

// Nudge says that peer can be reached again, as a caller has found by other means. It is dialled at once if it has no session,
// instead of after the present pause; a session on which nothing is heard nevertheless is given up. It never blocks.
func (m *Manager) Nudge(peer federation.Region) {
	if p := m.livePeer(peer); p != nil && !p.nudged.Swap(true) {
		signal(p.wake)
	}
}

// Accept takes a session that region opened and returns when it has ended. The identity of its peer has been verified; what
// is judged here is whether there is a peering.
func (m *Manager) Accept(ctx context.Context, region federation.Region, s Session) {
	p := m.livePeer(region)
	if p == nil || s.Peer().TrustDomain() != p.domain {
		m.log.Warn("refuse session", "peer", string(region), "identity", s.Peer().String(), "from", s.RemoteAddr(),
			"code", federation.CodeSessionStranger)
		s.Close(CodeStranger, "no peering with this region")
		return
	}
	l := newLink(s, false)
	timeout := time.NewTimer(speakWithin)
	defer timeout.Stop()
	select {
	case p.inbound <- l:
		l.read(ctx)
		l.wait()
	case <-p.done:
		l.end(CodeStranger, "the peering has ended", nil)
	case <-timeout.C:
		l.end(CodeShutdown, "not ready", nil)
	case <-ctx.Done():
		l.end(CodeShutdown, "the gateway ends", nil)
	}
}

// setImport hands the import of p to the Catalog, unless p no longer owns its region.
func (m *Manager) setImport(p *peer, imported *federation.Import) {
	m.pub.Lock()
	defer m.pub.Unlock()
	if m.livePeer(p.region) == p {
		m.cfg.Catalog.SetImport(p.region, imported)
	}
}

// publishPeers tells the Catalog of every peer that is trusted.
func (m *Manager) publishPeers() {
	m.pub.Lock()
	defer m.pub.Unlock()
	m.cfg.Catalog.SetPeers(m.peers())
}

// peers is the list of every peer that is trusted, sorted by region.
func (m *Manager) peers() []federation.Peer {
	m.mu.Lock()
	defer m.mu.Unlock()
	var peers []federation.Peer
	for _, e := range m.entries {
		if e.live != nil {
			peers = append(peers, federation.Peer{
				Region:      e.region,
				TrustDomain: e.rec.domain,
				Gateways:    slices.Clone(e.rec.Addresses),
				State:       e.state(),
			})
		}
	}
	slices.SortFunc(peers, func(a, b federation.Peer) int { return compareRegions(a.Region, b.Region) })
	return peers
}

// tell wakes everybody who waits for a change of status.
func (m *Manager) tell() {
	m.mu.Lock()
	defer m.mu.Unlock()
	close(m.news)
	m.news = make(chan struct{})
}

// raiseEpoch makes the region's epoch exceed atLeast and tells every machine.
func (m *Manager) raiseEpoch(ctx context.Context, peer federation.Region, atLeast uint64) error {
	m.jumping.Lock()
	defer m.jumping.Unlock()
	m.mu.Lock()
	before := m.epoch
	m.mu.Unlock()
	if before.Counter > atLeast {
		return nil // another peer has asked for it already
	}
	next, err := m.cfg.JumpEpoch(ctx, atLeast)
	if err != nil {
		return fmt.Errorf("raise epoch above %d, which %s knows: %w", atLeast, peer, err)
	}
	m.log.Warn("epoch raised", "peer", peer, "from", before.String(), "to", next.String(), "code", federation.CodeEpochJump)
	m.mu.Lock()
	m.epoch = next
	m.mu.Unlock()
	m.wakeAll()
	return nil
}

// watchOwners closes the session of an owner that does not come round, so that the peer does not wait for it.
func (m *Manager) watchOwners() {
	now := m.cfg.Now()
	for _, e := range m.snapshot() {
		if e.live == nil {
			continue
		}
		stuck := e.live.stuckFor(now)
		if stuck < stuckAfter {
			e.live.suspect.Store(0)
			continue
		}
		// Twice, because a whole process that was stopped and woken looks the same once.
		if e.live.suspect.Add(1) == 2 {
			m.log.Error("owner of a peering is stuck", "peer", e.region, "for", stuck.Round(time.Second), "code", federation.CodePeeringStalled)
			e.live.abandonLink("owner is stuck")
		}
	}
}

// saver writes imports until ctx ends: one goroutine for all peers, because a slow disk must not delay any of them.
func (m *Manager) saver(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case job := <-m.saves:
			job.done <- m.files.write(job.region, job.domain, job.data)
		}
	}
}

// signal sets a level-triggered signal of capacity 1.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// machineConfig is the configuration of the machine of one peer.
func (m *Manager) machineConfig(rec *record, r *rand.Rand) exchange.Config {
	m.mu.Lock()
	defer m.mu.Unlock()
	limits := m.cfg.Limits
	if limits.BundleBytes == 0 {
		limits.BundleBytes = trust.MaxBundle // whoever joins with a bundle must be able to renew it
	}
	return exchange.Config{
		Local:       m.cfg.Region,
		Peer:        rec.Region,
		LocalDomain: m.cfg.TrustDomain,
		PeerDomain:  rec.domain,
		Epoch:       m.epoch,
		MaxStale:    m.cfg.MaxStale,
		Limits:      limits,
		Rand:        r,
	}
}
