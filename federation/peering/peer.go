package peering

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

// founding says how a peering came to life in this process; the zero value is a restart.
type founding struct {
	joined   bool
	acceptor bool   // the other side redeemed our token
	address  string // of the peer, known to answer
}

// peer owns one live peering. The first block is for anybody, the second belongs to the goroutine in run.
type peer struct {
	m        *Manager
	log      *slog.Logger
	region   federation.Region
	domain   spiffeid.TrustDomain
	founding founding
	rand     *rand.Rand
	wake     chan struct{} // capacity 1: something in the manager or in exports has changed
	inbound  chan *link    // sessions that the peer opened
	leave    chan struct{} // closed by depart
	departed sync.Once
	done     chan struct{}   // closed when run has ended
	dialled  chan dialResult // from the goroutine that dials
	saved    chan error      // capacity 1: from the saver
	exports  exports
	beat     atomic.Int64 // of the last round, in nanoseconds since the manager was made, by the monotonic clock
	nudged   atomic.Bool  // the peer can be reached, as others have found
	suspect  atomic.Int32 // how often in a row the watchdog has found it stuck
	current  atomic.Pointer[link]
	status   liveStatus // guarded by m.mu

	machine  *exchange.Machine
	rec      *record
	bundle   uint64 // revision of our own bundle that the machine has
	epoch    federation.Epoch
	maxStale time.Duration
	workers  sync.WaitGroup // dials and their readers
	last     time.Time      // of the last round: time must not go back
	imported *federation.Import
	view     *federation.ExportView // what the peer may see
	link     *link                  // in use
	rival    *link                  // the peer opened it while link was in use; it has said nothing yet
	rivalBy  time.Time
	probe    *link // we opened it to see whether the way is open
	probeBy  time.Time
	paused   bool
	leaving  bool
	farewell bool        // the attempt to dial for it was made
	told     atomic.Bool // the peer ended the session upon our goodbye, or said its own
	leaveBy  time.Time
	gone     bool // the peer removed the peering
	dial     dialState
	save     saveState
	trust    trustState
	activity activity
}

// trustState is the peer's bundle as the machine knows it.
type trustState struct {
	known   bool
	expires time.Time // of its last root
	finger  string
	refused time.Time // when the last alarm was raised about a bundle that is not accepted
}

// activity is what the state and the back-off are derived from.
type activity struct {
	since    time.Time // progress is being applied since; zero: it is not
	reportAt time.Time
	dirty    bool // something happened that was not reported yet
}

func newPeer(m *Manager, rec *record, f founding, r *rand.Rand) *peer {
	return &peer{
		m:        m,
		log:      m.log.With("peer", string(rec.Region)),
		region:   rec.Region,
		domain:   rec.domain,
		founding: f,
		rand:     r,
		wake:     make(chan struct{}, 1),
		inbound:  make(chan *link),
		leave:    make(chan struct{}),
		done:     make(chan struct{}),
		dialled:  make(chan dialResult),
		saved:    make(chan error, 1),
		status:   liveStatus{state: rec.restingState(), since: rec.Since},
		rec:      rec,
	}
}

// run owns the peering until ctx ends, Remove is called, or the peer removes it; only then it returns true. A panic in the
// handling of what a peer sent costs that peer its session and a pause, and nobody else anything.
func (p *peer) run(ctx context.Context) (removed bool) {
	ctx, cancel := context.WithCancel(ctx)
	defer p.workers.Wait()
	defer cancel()
	defer p.closeAll(CodeShutdown, "the gateway ends")
	for !p.guarded(ctx) {
		p.startOver(ctx)
	}
	p.finishSaving()
	return p.gone
}

// begin loads what an earlier life has saved and hands it to the catalog.
func (p *peer) begin(ctx context.Context) {
	now := p.now()
	p.makeMachine()
	p.save = saveState{first: true}
	p.activity.dirty = true
	p.dial = newDialState(p.founding, now, p.m.cfg.Region < p.region)
	p.dial.learn(p.rec.Addresses)
	p.paused = p.rec.State == federation.PeeringPaused
	p.absorb(ctx, now)
	p.act(ctx, p.machine.Tick(now))
	p.report(ctx, now)
}

func (p *peer) makeMachine() {
	saved, err := p.m.files.read(p.region, p.domain)
	if err != nil {
		p.trouble(federation.CodeImportFile, err.Error())
	}
	cfg := p.m.machineConfig(p.rec, p.rand)
	machine, err := exchange.New(cfg, saved)
	if err != nil {
		p.trouble(federation.CodeImportFile, err.Error())
	}
	p.machine = machine
	p.epoch, p.maxStale, p.bundle, p.trust = cfg.Epoch, cfg.MaxStale, 0, trustState{known: true}
}

// guarded goes round until the peering ends here (true) or a panic was stopped (false).
func (p *peer) guarded(ctx context.Context) (ended bool) {
	defer func() {
		if v := recover(); v != nil {
			p.log.Error("stop a panic", "panic", fmt.Sprint(v), "stack", string(debug.Stack()), "code", federation.CodePeeringPanic)
		}
	}()
	if p.machine == nil {
		p.begin(ctx)
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		if p.round(ctx) {
			return true
		}
		timer.Reset(max(0, p.next().Sub(p.now())))
		p.await(ctx, timer.C)
	}
}

// round does what is due and reports whether the owner's work is over.
func (p *peer) round(ctx context.Context) (over bool) {
	now := p.now()
	p.beat.Store(int64(now.Sub(p.m.made)))
	if ctx.Err() != nil {
		return true
	}
	p.absorb(ctx, now)
	if due := p.machine.Deadline(); !due.IsZero() && !now.Before(due) {
		p.act(ctx, p.machine.Tick(now))
	}
	p.settleLinks(ctx, now)
	p.steer(ctx, now)
	p.keep(now)
	p.report(ctx, now)
	return p.gone || (p.leaving && (!now.Before(p.leaveBy) || (p.link == nil && !p.dial.busy && p.dialDue().IsZero())))
}

// await sleeps until something happens, and takes it in.
func (p *peer) await(ctx context.Context, timer <-chan time.Time) {
	leave := p.leave
	if p.leaving {
		leave = nil
	}
	select {
	case <-ctx.Done():
	case <-timer:
	case <-p.wake:
	case <-leave:
		p.sayGoodbye(ctx)
	case l := <-p.inbound:
		p.arrived(ctx, l)
	case r := <-p.dialled:
		p.dialEnded(ctx, r)
	case f := <-framesOf(p.link):
		p.activity.dirty = true
		p.dial.heard, p.dial.doubt = p.now(), time.Time{}
		p.act(ctx, p.machine.Receive(p.now(), f.lane, f.data))
	case f := <-framesOf(p.rival):
		p.rivalSpoke(ctx, f)
	case <-deadOf(p.link):
	case <-deadOf(p.rival):
	case <-deadOf(p.probe):
	case err := <-p.saved:
		p.saveEnded(err)
	}
}

// framesOf and deadOf return channels that never fire for no link.
func framesOf(l *link) <-chan frame {
	if l == nil {
		return nil
	}
	return l.frames
}

func deadOf(l *link) <-chan struct{} {
	if l == nil {
		return nil
	}
	return l.dead
}

// now is the time, which never goes back even if the host's clock does.
func (p *peer) now() time.Time {
	if now := p.m.cfg.Now(); now.After(p.last) {
		p.last = now
	}
	return p.last
}

// next is when the owner has something to do unless something happens before.
func (p *peer) next() time.Time {
	next := p.last.Add(watchEvery) // to be seen alive by the watchdog
	for _, t := range []time.Time{
		p.machine.Deadline(), p.rivalBy, p.probeBy, p.leaveBy, p.dialDue(), p.doubtDue(), p.saveDue(), p.trustDue(), p.reportDue(),
	} {
		if !t.IsZero() && t.Before(next) {
			next = t
		}
	}
	return next
}

// absorb takes in what others have changed since the last round.
func (p *peer) absorb(ctx context.Context, now time.Time) {
	p.m.mu.Lock()
	rec, bundle, epoch, maxStale := p.m.entries[p.region].rec, p.m.bundle, p.m.epoch, p.m.cfg.MaxStale
	owner := p.m.entries[p.region].live == p
	p.m.mu.Unlock()
	if owner && rec != p.rec {
		p.rec = rec
		p.dial.learn(rec.Addresses)
		p.setPaused(ctx, now, rec.State == federation.PeeringPaused)
		if p.link == nil {
			p.dial.soon(now) // an operator has done something: do not make him wait
		}
	}
	if bundle.revision != p.bundle {
		p.bundle = bundle.revision
		p.act(ctx, p.machine.SetBundle(now, bundle.bytes))
		p.judgeTrust(ctx, now)
	} else if due := p.trustDue(); !due.IsZero() && !now.Before(due) {
		p.judgeTrust(ctx, now)
	}
	if epoch != p.epoch {
		p.epoch = epoch
		p.act(ctx, p.machine.SetEpoch(now, epoch))
	}
	if maxStale != p.maxStale {
		p.maxStale = maxStale
		p.act(ctx, p.machine.SetMaxStale(now, maxStale))
	}
	if p.nudged.Swap(false) {
		p.nudge(now)
	}
	view, health := p.exports.take()
	if view != nil {
		p.view = view
		p.activity.dirty = true
		p.act(ctx, p.machine.SetExport(now, *view))
	}
	for service, slots := range health {
		p.act(ctx, p.machine.SetHealth(now, service, slots))
	}
}

func (p *peer) setPaused(ctx context.Context, now time.Time, paused bool) {
	if paused == p.paused {
		return
	}
	p.paused = paused
	p.activity.dirty = true
	if paused {
		p.drop(&p.rival, exchange.CodePaused, "the peering is paused")
		p.act(ctx, p.machine.Pause(now))
	}
}

// judgeTrust tells the machine whether the peer's bundle has a root that is still valid.
func (p *peer) judgeTrust(ctx context.Context, now time.Time) {
	b, known := p.m.cfg.Trust.PeerBundle(p.region)
	t := trustState{known: known, refused: p.trust.refused}
	for _, root := range b.Roots {
		if root.NotAfter.After(t.expires) {
			t.expires = root.NotAfter
		}
	}
	t.known = known && now.Before(t.expires)
	if known {
		t.finger = b.Fingerprint()
	}
	if t.known != p.trust.known {
		p.act(ctx, p.machine.SetTrusted(now, t.known))
	}
	if t != p.trust {
		p.trust = t
		p.activity.dirty = true
	}
}

// trustDue is when the last root of the peer expires, if it has not.
func (p *peer) trustDue() time.Time {
	if !p.trust.known {
		return time.Time{}
	}
	return p.trust.expires
}

// act does what the machine says, in order.
func (p *peer) act(ctx context.Context, actions []exchange.Action) {
	for _, action := range actions {
		switch a := action.(type) {
		case exchange.Send:
			if p.link != nil {
				p.link.send(ctx, frame{a.Lane, a.Frame})
			}
			continue // too frequent to be news
		case exchange.Close:
			p.closed(a)
		case exchange.Publish:
			p.imported = a.Import
			p.m.setImport(p, a.Import)
		case exchange.BundleReceived:
			p.takeBundle(ctx, a.Bundle)
		case exchange.Persist:
			p.save.want(p.now())
		case exchange.JumpEpoch:
			if err := p.m.raiseEpoch(ctx, p.region, a.AtLeast); err != nil {
				p.trouble(federation.CodeEpochJump, err.Error())
			}
		case exchange.Alarm:
			p.m.alarm(p.region, a.Diagnostic)
		case exchange.PeerGone:
			p.gone = true
			p.told.Store(true)
		case exchange.HealthChanged: // holders of the import see its lanes
			continue
		}
		p.activity.dirty = true
	}
}

// closed ends the session as the machine has decided; to the machine it is over already.
func (p *peer) closed(a exchange.Close) {
	if p.link == nil {
		return
	}
	p.link.end(a.Code, a.Reason, nil)
	switch {
	case p.leaving || p.paused:
	case a.Code == exchange.CodePaused:
		p.trouble(federation.CodePeeringPaused, "an operator of "+string(p.region)+" has paused it")
	default:
		p.trouble(federation.CodeSessionEnded, fmt.Sprintf("closed here (%s): %s", exchange.CodeName(a.Code), printable(a.Reason, maxDetail)))
	}
	p.forgetLink()
}

// takeBundle hands the peer's new bundle to trust, under the trust domain of our record and no other.
func (p *peer) takeBundle(ctx context.Context, bundle []byte) {
	err := p.m.cfg.Trust.SetPeer(ctx, p.region, p.domain, bundle)
	if err == nil || ctx.Err() != nil || p.now().Before(p.trust.refused.Add(sameAlarm)) {
		return
	}
	p.trust.refused = p.now()
	p.m.alarm(p.region, &federation.Diagnostic{
		Code: federation.CodeTrustRefused,
		What: fmt.Sprintf("new trust bundle of %s is refused; the known one stays", p.region),
		Why:  err.Error(),
		Fix:  "if the peer replaced its CA at once, remove the peering and use a new token",
		Err:  err,
	})
}

// sayGoodbye begins the end that Remove asked for: the peer is told, if there is a session to tell it by.
func (p *peer) sayGoodbye(ctx context.Context) {
	now := p.now()
	p.leaving, p.leaveBy = true, now.Add(farewell-200*time.Millisecond)
	p.drop(&p.rival, exchange.CodeRemoved, "the peering was removed")
	p.drop(&p.probe, CodeProbe, "")
	if p.link != nil {
		p.farewell = true
		p.act(ctx, p.machine.Goodbye(now))
	}
}

// startOver follows a panic: after a pause, the owner begins anew from what is on disk. What the peer showed last stays with
// the catalog meanwhile.
func (p *peer) startOver(ctx context.Context) {
	p.closeAll(CodeFault, "internal fault")
	p.m.alarm(p.region, &federation.Diagnostic{
		Code: federation.CodePeeringPanic,
		What: fmt.Sprintf("handling of %s failed inside this gateway", p.region),
		Why:  "the stack is in the log",
		Fix:  "report it; the peer's last good services stay in use",
	})
	if p.machine == nil {
		p.m.files.remove(p.region) // it was what an earlier life had saved
	}
	p.machine = nil
	p.exports.renew()
	pause := time.NewTimer(pauseOnPanic)
	defer pause.Stop()
	select {
	case <-ctx.Done():
	case <-p.leave:
	case <-pause.C:
	}
}

// closeAll ends every session.
func (p *peer) closeAll(code uint64, reason string) {
	p.drop(&p.link, code, reason)
	p.current.Store(nil)
	p.drop(&p.rival, code, reason)
	p.drop(&p.probe, code, reason)
}

// drop ends *l, if there is one, and forgets it.
func (p *peer) drop(l **link, code uint64, reason string) {
	if *l != nil {
		(*l).end(code, reason, nil)
		*l = nil
	}
}

// abandonLink ends the session from outside, for the watchdog.
func (p *peer) abandonLink(reason string) {
	if l := p.current.Load(); l != nil {
		l.end(CodeFault, reason, nil)
	}
}

// stuckFor is how long the owner has not come round; one that was never run is not stuck.
func (p *peer) stuckFor(now time.Time) time.Duration {
	beat := p.beat.Load()
	if beat == 0 {
		return 0
	}
	return now.Sub(p.m.made) - time.Duration(beat)
}

// depart tells the owner to say goodbye and end.
func (p *peer) depart() { p.departed.Do(func() { close(p.leave) }) }
