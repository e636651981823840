package peering

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/trust"
)

// lock takes the right to change the record of region, and returns what gives it back. Changes of one region never overlap;
// those of different regions do.
func (m *Manager) lock(ctx context.Context, region federation.Region) (unlock func(), err error) {
	m.mu.Lock()
	e := m.entry(region)
	m.mu.Unlock()
	select {
	case e.lock <- struct{}{}:
		return func() { <-e.lock }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for another change of the peering with %s: %w", region, ctx.Err())
	}
}

// record returns the record of region, or nil.
func (m *Manager) record(region federation.Region) *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if e := m.entries[region]; e != nil {
		return e.rec
	}
	return nil
}

// change commits the record that f makes of the present one (nil: none), together with the operations that f adds. f may be
// called again when somebody else has written in between; it returns a new record, or nil to delete it. The caller holds
// the lock of region. An error of f is returned as it is, and changes nothing.
func (m *Manager) change(ctx context.Context, region federation.Region, f func(old *record) (*record, []store.Op, error)) error {
	for attempt := 0; ; attempt++ {
		old := m.record(region)
		next, ops, err := f(old)
		if err != nil {
			return err
		}
		op := store.Op{Key: recordKey(region), Delete: true}
		if next != nil {
			if op, err = next.put(); err != nil {
				return err
			}
		}
		if old != nil {
			op.If = old.version
		}
		if next != nil || old != nil {
			ops = append(ops, op)
		}
		revision, err := m.cfg.Store.Commit(ctx, ops...)
		switch {
		case err == nil:
			if next != nil {
				next.version = revision
			}
			m.install(region, next)
			return nil
		case !errors.Is(err, store.ErrConflict) || attempt >= 5:
			return storeTrouble(fmt.Sprintf("change of the peering with %s was not stored", region), err)
		}
		if err := m.reload(ctx, region); err != nil {
			return err
		}
	}
}

// reload takes the record of region from the store, where another gateway has changed it.
func (m *Manager) reload(ctx context.Context, region federation.Region) error {
	e, err := m.cfg.Store.Get(ctx, recordKey(region))
	if errors.Is(err, store.ErrNotFound) {
		m.install(region, nil)
		return nil
	}
	if err != nil {
		return storeTrouble(fmt.Sprintf("peering with %s cannot be read", region), err)
	}
	rec, err := decodeRecord(e)
	if err != nil {
		return err
	}
	m.install(region, rec)
	return nil
}

// install puts rec in force: an owner of a peering that has ended is cut off, one of a peering that lives is made when trust
// has taken over the bundle.
func (m *Manager) install(region federation.Region, rec *record) {
	m.mu.Lock()
	e := m.entry(region)
	e.rec = rec
	if rec == nil {
		e.alarm = nil // of a peering that is no more; the next one with the region begins without it
	}
	switch {
	case !rec.live():
		if e.live != nil {
			e.live.depart() // here, because afterwards nobody can
		}
		e.live = nil
	case rec.trusted() && e.live == nil:
		m.enliven(e, e.founding)
		e.founding = founding{}
	}
	live := e.live
	m.mu.Unlock()
	if live != nil {
		signal(live.wake)
	}
}

// handOverTrust gives trust the bundle that a join has brought, and then the peering its owner. The caller holds the lock of
// region, or is Run before anything else.
func (m *Manager) handOverTrust(ctx context.Context, region federation.Region) error {
	rec := m.record(region)
	if !rec.live() || len(rec.Bundle) == 0 {
		return nil
	}
	var refusal error
	if !m.knowsAsMuch(rec) {
		err := m.cfg.Trust.SetPeer(ctx, region, rec.domain, rec.Bundle)
		if err != nil && !isJudgement(err) {
			return fmt.Errorf("trust %s: %w", region, err) // it is tried again
		}
		refusal = err
	}
	err := m.change(ctx, region, func(old *record) (*record, []store.Op, error) {
		next := *old
		next.Bundle = nil
		if refusal != nil && m.livePeer(region) == nil {
			next.State, next.Since = federation.PeeringTerminated, m.cfg.Now().UTC()
			next.Ended = &federation.Diagnostic{Code: federation.CodeTrustRefused, What: "its trust bundle was refused", Why: reasonOf(refusal)}
			return next.unredeemable(ctx, m.cfg.Store)
		}
		return &next, nil, nil
	})
	m.publishPeers()
	m.tell()
	return errors.Join(refusal, err)
}

// isJudgement reports whether err is trust's verdict on a bundle, which trying again would not change, and not a failure to
// store it.
func isJudgement(err error) bool {
	return err != nil && strings.HasPrefix(string(federation.CodeOf(err)), "TW-2")
}

// knowsAsMuch reports whether trust has a bundle of the same roots that is at least as new as the one in rec: a peer that
// joins again may come with an older one, restored from a backup, and must not be locked out by it.
func (m *Manager) knowsAsMuch(rec *record) bool {
	known, ok := m.cfg.Trust.PeerBundle(rec.Region)
	if !ok {
		return false
	}
	b, err := trust.ParseBundle(rec.domain, rec.Bundle)
	return err == nil && b.Sequence <= known.Sequence && sharesRoot(known, b)
}

// markActive stores that the peering has been active. It gives up when the peering is being changed at the same time: the
// next report tries again.
func (m *Manager) markActive(ctx context.Context, p *peer) {
	m.mu.Lock()
	e := m.entries[p.region]
	m.mu.Unlock()
	select {
	case e.lock <- struct{}{}:
		defer func() { <-e.lock }()
	default:
		p.activity.dirty = true
		return
	}
	if m.livePeer(p.region) != p {
		return
	}
	err := m.change(ctx, p.region, func(old *record) (*record, []store.Op, error) {
		if old == nil || !old.live() {
			return old, nil, nil
		}
		next := *old
		next.WasActive = true
		if next.State == federation.PeeringEstablishing {
			next.State, next.Since = federation.PeeringActive, m.cfg.Now().UTC()
		}
		return &next, nil, nil
	})
	if err != nil && ctx.Err() == nil {
		p.trouble(federation.CodePeeringStore, err.Error())
		return
	}
	p.rec = m.record(p.region)
}

// Pause ends the session with region and makes no other until Resume. Its imports age; trust and flows stay.
func (m *Manager) Pause(ctx context.Context, region federation.Region) error {
	return m.hold(ctx, region, func(rec *record) federation.PeeringState { return federation.PeeringPaused })
}

// Resume ends a pause.
func (m *Manager) Resume(ctx context.Context, region federation.Region) error {
	return m.hold(ctx, region, (*record).unpaused)
}

func (m *Manager) hold(ctx context.Context, region federation.Region, state func(*record) federation.PeeringState) error {
	unlock, err := m.lock(ctx, region)
	if err != nil {
		return err
	}
	defer unlock()
	rec := m.record(region)
	switch {
	case rec == nil:
		return unknownPeering(region)
	case !rec.live():
		return &federation.Diagnostic{
			Code: federation.CodePeeringState,
			What: fmt.Sprintf("peering with %s cannot be paused or resumed", region),
			Why:  fmt.Sprintf("it is %s", rec.restingState()),
			Fix:  "see: tradewind peer list",
		}
	case state(rec) == rec.State:
		return nil
	}
	err = m.change(ctx, region, func(old *record) (*record, []store.Op, error) {
		if !old.live() {
			return nil, nil, unknownPeering(region)
		}
		next := *old
		next.State, next.Since = state(old), m.cfg.Now().UTC()
		return &next, nil, nil
	})
	m.publishPeers()
	m.tell()
	return err
}

// Remove ends the peering with region: its imports and its export are withdrawn, the peer is told if it can be reached, and
// trust in it is removed, so that its flows end too. When the error is nil, nothing of the peering is left, and the pair can
// be joined again. An entry that is Pending or Terminated is cleared. told is false when the peer does not know of it: it goes
// on trying, until the peering is removed there, too.
func (m *Manager) Remove(ctx context.Context, region federation.Region) (told bool, err error) {
	unlock, err := m.lock(ctx, region)
	if err != nil {
		return false, err
	}
	defer unlock()
	rec := m.record(region)
	if rec == nil {
		return false, unknownPeering(region)
	}
	told = !rec.live() // there is nothing to tell
	live := m.livePeer(region)
	err = m.change(ctx, region, func(old *record) (*record, []store.Op, error) {
		if old == nil {
			return nil, nil, unknownPeering(region)
		}
		next := *old
		next.State, next.Since = federation.PeeringTerminated, m.cfg.Now().UTC()
		next.Removing, next.Bundle = true, nil // a crash from here on is completed by the next start
		next.Ended = &federation.Diagnostic{Code: federation.CodePeeringRemoved, What: "it is being removed here"}
		return next.unredeemable(ctx, m.cfg.Store)
	})
	if err != nil {
		return false, err
	}
	m.withdraw(region)
	if live != nil {
		m.partFrom(ctx, live)
		told = live.told.Load()
	}
	if err := m.cfg.Trust.RemovePeer(ctx, region); err != nil {
		return told, fmt.Errorf("remove trust in %s: %w", region, err)
	}
	m.files.remove(region)
	err = m.change(ctx, region, func(*record) (*record, []store.Op, error) { return nil, nil, nil })
	m.tell()
	return told, err
}

// unredeemable is r without a token, and the operations that make its token worthless.
func (r *record) unredeemable(ctx context.Context, s store.Store) (*record, []store.Op, error) {
	ops, err := revoke(ctx, s, r.Token)
	r.Token, r.Waiting = "", false
	return r, ops, err
}

// withdraw takes a peer that has lost its owner out of the catalog, with what it showed us.
func (m *Manager) withdraw(region federation.Region) {
	m.pub.Lock()
	m.cfg.Catalog.SetImport(region, nil)
	m.pub.Unlock()
	m.publishPeers()
	m.tell()
}

// partFrom waits, but not for long, until an owner that was told to leave has said goodbye to its peer and ended.
func (m *Manager) partFrom(ctx context.Context, live *peer) {
	if !m.running.Load() {
		return
	}
	limit := time.NewTimer(farewell)
	defer limit.Stop()
	select {
	case <-live.done:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// terminate ends a peering whose peer has removed it. The entry stays, so that the operator sees why the services are gone.
func (m *Manager) terminate(ctx context.Context, p *peer) error {
	unlock, err := m.lock(ctx, p.region)
	if err != nil {
		return err
	}
	defer unlock()
	if m.livePeer(p.region) != p {
		return nil // removed here, too, in the meantime
	}
	err = m.change(ctx, p.region, func(old *record) (*record, []store.Op, error) {
		if old == nil {
			return nil, nil, nil
		}
		next := *old
		next.State, next.Since, next.Bundle = federation.PeeringTerminated, m.cfg.Now().UTC(), nil
		next.Ended = &federation.Diagnostic{
			Code: federation.CodePeeringRemoved,
			What: fmt.Sprintf("an operator of %s removed it", p.region),
			Fix:  "to peer again, make a new token on either side",
		}
		return next.unredeemable(ctx, m.cfg.Store)
	})
	if err != nil {
		return err
	}
	m.withdraw(p.region)
	m.files.remove(p.region)
	m.log.Warn("peer removed the peering", "peer", p.region, "code", federation.CodePeeringRemoved)
	if err := m.cfg.Trust.RemovePeer(ctx, p.region); err != nil {
		return fmt.Errorf("remove trust in %s: %w", p.region, err)
	}
	return nil
}

// SetMaxStale replaces Config.MaxStale, for all peers.
func (m *Manager) SetMaxStale(d time.Duration) {
	m.mu.Lock()
	m.cfg.MaxStale = d
	m.mu.Unlock()
	m.wakeAll()
}
