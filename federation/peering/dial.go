package peering

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

// dialState is what the owner knows about ways to the peer.
type dialState struct {
	first     bool // our region sorts first: it is ours to dial
	addresses []string
	good      string // answered last
	busy      bool   // a goroutine dials
	began     time.Time
	probeAt   time.Time
	next      time.Time // not before
	lostAt    time.Time // no session since; zero: dial without waiting for the other side
	attempts  int       // failed since progress was last applied for backoffReset
	heard     time.Time // the session in use last said something
	doubt     time.Time // when to give up the session in use unless it says something before; zero: never
	span      time.Time // that arrivals are counted in
	arrivals  int       // sessions that the peer has opened in it
	ours      Reach     // can we reach them
	theirs    Reach     // can they reach us
}

// dialResult is the end of an attempt over all addresses.
type dialResult struct {
	link    *link // nil: none
	address string
	failed  []string // reasons, one for each address that failed
	refused bool     // one of them refuses our certificate
	fix     string   // what to do, if it is the same for all, or about the one that refuses
}

// oneFix is the fix that all of errs have, or "".
func oneFix(errs []error) (fix string) {
	for i, err := range errs {
		var d *federation.Diagnostic
		if !errors.As(err, &d) || i > 0 && d.Fix != fix {
			return ""
		}
		fix = d.Fix
	}
	return fix
}

func newDialState(f founding, now time.Time, first bool) dialState {
	d := dialState{first: first, good: f.address, next: now, lostAt: now}
	if f.joined {
		d.lostAt = time.Time{}
	}
	if f.joined && f.acceptor { // the redeemer dials now; afterwards see whether the other direction is open, too
		d.next = now.Add(acceptorDelay)
		d.probeAt = d.next
	}
	return d
}

// learn replaces the addresses; the one that answered last stays in front, even if it is no longer among them.
func (d *dialState) learn(addresses []string) {
	d.addresses = nil
	if d.good != "" {
		d.addresses = append(d.addresses, d.good)
	}
	for _, a := range addresses {
		if a != d.good {
			d.addresses = append(d.addresses, a)
		}
	}
	d.addresses = d.addresses[:min(len(d.addresses), MaxAddresses)]
}

// soon makes the next attempt due now.
func (d *dialState) soon(now time.Time) { d.next, d.lostAt, d.attempts = now, time.Time{}, 0 }

// soonAgain makes the next attempt due now. The count of failures stays: the next pause is as long as before.
func (d *dialState) soonAgain(now time.Time) { d.next, d.lostAt = now, time.Time{} }

// nudge is what the owner makes of the news that the peer can be reached. A session that stays silent all the same belongs to
// a gateway that is no more: one that was killed says no goodbye, and QUIC would wait for it for half a minute.
func (p *peer) nudge(now time.Time) {
	switch {
	case p.link == nil:
		p.dial.soonAgain(now)
	case p.dial.doubt.IsZero():
		p.dial.doubt = p.dial.heard.Add(duplicateAge)
		if soonest := now.Add(doubtFor); p.dial.doubt.Before(soonest) {
			p.dial.doubt = soonest
		}
	}
}

// doubtDue is when the session in use is given up unless it says something before; zero is never.
func (p *peer) doubtDue() time.Time {
	if p.link == nil || p.leaving {
		return time.Time{}
	}
	return p.dial.doubt
}

// backOff postpones the next attempt: each failure doubles the pause up to backoffMax, half of it at random, so that peers
// of a region that comes back do not all come at once.
func (d *dialState) backOff(now time.Time, r *rand.Rand) {
	ceiling := backoffMax
	if d.attempts < 8 {
		ceiling = min(backoffMax, backoffMin<<d.attempts)
	}
	d.next = now.Add(max(backoffMin, ceiling/2+time.Duration(r.Int64N(int64(ceiling/2)+1))))
	d.attempts++
}

// dialDue is when to dial unless something happens before; zero is never.
func (p *peer) dialDue() time.Time {
	d := &p.dial
	switch {
	case d.busy || len(d.addresses) == 0 || (p.leaving && p.farewell):
		return time.Time{}
	case p.leaving: // once, to say so
		return p.last
	case p.paused:
		return time.Time{}
	case !d.probeAt.IsZero():
		return d.probeAt
	case p.link != nil:
		return time.Time{}
	case !d.first && !d.lostAt.IsZero() && d.lostAt.Add(deferDial).After(d.next):
		return d.lostAt.Add(deferDial)
	}
	return d.next
}

// steer starts an attempt when it is due.
func (p *peer) steer(ctx context.Context, now time.Time) {
	if due := p.dialDue(); due.IsZero() || now.Before(due) {
		return
	}
	p.dial.busy, p.dial.began, p.dial.probeAt = true, now, time.Time{}
	p.farewell = p.leaving
	addresses := slices.Clone(p.dial.addresses)
	p.workers.Go(func() { p.dialAll(ctx, addresses) })
}

// dialAll tries addresses in order, hands the first session to the owner, and then reads for it until the session ends.
func (p *peer) dialAll(ctx context.Context, addresses []string) {
	var r dialResult
	var errs []error
	for _, address := range addresses {
		s, err := p.dialOne(ctx, address)
		if err == nil {
			r.link, r.address = newLink(s, true), address
			break
		}
		r.failed = append(r.failed, address+": "+reasonOf(err))
		errs = append(errs, err)
	}
	refusing := slices.DeleteFunc(slices.Clone(errs), func(err error) bool { return !hasCode(err, federation.CodePeerRefusesUs) })
	if r.refused = len(refusing) > 0; r.refused { // it outweighs the addresses that give no answer: somebody must act
		errs = refusing
	}
	r.fix = oneFix(errs)
	select {
	case p.dialled <- r:
	case <-ctx.Done():
		if r.link != nil {
			r.link.end(CodeShutdown, "the gateway ends", nil)
		}
	}
	if r.link != nil {
		r.link.read(ctx)
		r.link.wait()
	}
}

func (p *peer) dialOne(ctx context.Context, address string) (Session, error) {
	select {
	case p.m.dials <- struct{}{}:
		defer func() { <-p.m.dials }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	limited, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	s, err := p.m.cfg.Dialer.DialExchange(limited, p.region, address)
	switch {
	case err != nil && limited.Err() != nil && ctx.Err() == nil && federation.CodeOf(err) == "":
		return nil, fmt.Errorf("no answer within %v", dialTimeout)
	case err != nil:
		return nil, err
	case s.Peer().TrustDomain() != p.domain:
		s.Close(CodeStranger, "another region was expected at this address")
		return nil, fmt.Errorf("%s answers, and %s was expected", s.Peer(), p.domain)
	}
	return s, nil
}

// dialEnded takes in what came of an attempt.
func (p *peer) dialEnded(ctx context.Context, r dialResult) {
	now := p.now()
	p.dial.busy = false
	p.activity.dirty = true
	switch {
	case r.link == nil:
		p.dial.ours = Reach{Known: true, At: now, Detail: strings.Join(r.failed, "; ")}
		code := federation.CodePeerUnreachable
		if r.refused {
			code = federation.CodePeerRefusesUs
		}
		p.troubleWith(code, p.dial.ours.Detail, r.fix)
		if p.link == nil {
			p.dial.backOff(now, p.rand)
		}
	case p.leaving && p.link == nil:
		p.adopt(ctx, r.link)
		p.act(ctx, p.machine.Goodbye(now))
	case p.leaving:
		r.link.end(exchange.CodeRemoved, "the peering was removed", nil)
	case p.paused:
		r.link.end(exchange.CodePaused, "the peering is paused", nil)
	case p.link != nil && p.dial.first && !p.link.since.Before(p.dial.began):
		// Both have dialled at once, and each may have taken the other's session by now. Ours is the one to stay: they come to
		// the same result when it speaks.
		p.drop(&p.link, CodeDuplicate, "the session that "+string(p.m.cfg.Region)+" opened stays")
		p.useDialled(ctx, r)
	case p.link != nil: // keep theirs, and learn from ours that the way is open
		p.drop(&p.probe, CodeProbe, "")
		p.dial.good, p.probe, p.probeBy = r.address, r.link, now.Add(probeHold)
	default:
		p.useDialled(ctx, r)
	}
}

// useDialled makes the session that we opened the one in use.
func (p *peer) useDialled(ctx context.Context, r dialResult) {
	p.dial.good = r.address
	p.dial.ours = Reach{Known: true, OK: true, At: p.now(), Address: r.address}
	p.adopt(ctx, r.link)
}

// adopt makes l the session in use.
func (p *peer) adopt(ctx context.Context, l *link) {
	now := p.now()
	l.since = now
	p.link, p.dial.heard, p.dial.doubt = l, now, time.Time{}
	p.current.Store(l)
	p.activity.dirty = true
	p.log.Info("session up", "address", l.session.RemoteAddr(), "lane", l.session.Lane(), "dialled", l.dialled)
	p.act(ctx, p.machine.Connected(now))
}

// arrived takes a session that the peer has opened. Beside one in use it has to say something before it counts: a probe never
// does, and of two that both sides opened at once only the one that both choose should take part.
func (p *peer) arrived(ctx context.Context, l *link) {
	now := p.now()
	p.dial.theirs = Reach{Known: true, OK: true, At: now, Address: l.session.RemoteAddr()}
	p.activity.dirty = true
	switch {
	case p.leaving:
		l.end(exchange.CodeRemoved, "the peering was removed", nil)
	case p.paused:
		l.end(exchange.CodePaused, "the peering is paused", nil)
	case p.tooOften(now):
		l.end(exchange.CodeLimit, "sessions come too fast", nil)
	case p.link == nil:
		p.adopt(ctx, l)
	default:
		p.drop(&p.rival, CodeDuplicate, "a newer session came")
		p.rival, p.rivalBy = l, now.Add(speakWithin)
	}
}

// tooOften counts a session that the peer has opened. Each one costs lines in the log and work in the catalog, and a peer that is
// sound backs off.
func (p *peer) tooOften(now time.Time) bool {
	d := &p.dial
	if now.Sub(d.span) >= arrivalSpan {
		d.span, d.arrivals = now, 0
	}
	if d.arrivals++; d.arrivals == arrivalsMost+1 {
		p.m.alarm(p.region, &federation.Diagnostic{
			Code: exchange.DiagLimit,
			What: fmt.Sprintf("peer %s opens sessions too fast", p.region),
			Why:  fmt.Sprintf("more than %d within %v; those beyond are refused", arrivalsMost, arrivalSpan),
			Fix:  fmt.Sprintf("look at the log of the gateway over there; \"tradewind peer pause %s\" keeps it away", p.region),
		})
	}
	return d.arrivals > arrivalsMost
}

// rivalSpoke decides between the session in use and another one that the peer opened. Both sides come to the same result:
// the session that the first region opened stays as long as it is alive, and otherwise the peer opened a new one because it
// has lost the old one.
func (p *peer) rivalSpoke(ctx context.Context, f frame) {
	now, l := p.now(), p.rival
	if p.link != nil && p.link.dialled && p.dial.first && now.Sub(p.dial.heard) < duplicateAge {
		p.drop(&p.rival, CodeDuplicate, "the session that "+string(p.m.cfg.Region)+" opened stays")
		return
	}
	p.drop(&p.link, CodeDuplicate, "another session of this pair stays")
	p.rival, p.rivalBy = nil, time.Time{}
	p.adopt(ctx, l)
	p.act(ctx, p.machine.Receive(now, f.lane, f.data))
}

// settleLinks takes note of sessions that have ended and of those whose time is up.
func (p *peer) settleLinks(ctx context.Context, now time.Time) {
	if ended(p.link) {
		cause := p.link.cause
		if p.leaving && cause.Err != nil && now.Sub(p.dial.heard) < deferDial { // a session that is dead for long ends on its own
			p.told.Store(true)
		}
		p.trouble(cause.Code, cause.What+": "+cause.Why)
		p.forgetLink()
		p.act(ctx, p.machine.Disconnected(now))
	}
	if due := p.doubtDue(); !due.IsZero() && !now.Before(due) {
		p.drop(&p.link, exchange.CodeSilent, "nothing is heard on it, and a gateway over there can be reached")
		p.trouble(federation.CodeSessionEnded, "closed here: nothing was heard on it, and a gateway over there can be reached")
		p.forgetLink()
		p.dial.soonAgain(now)
		p.act(ctx, p.machine.Disconnected(now))
	}
	switch {
	case p.probe == nil:
	case ended(p.probe):
		p.dial.ours = Reach{Known: true, At: now, Detail: p.dial.good + ": " + p.probe.cause.Why}
		p.probe, p.probeBy, p.activity.dirty = nil, time.Time{}, true
	case !now.Before(p.probeBy):
		p.dial.ours = Reach{Known: true, OK: true, At: now, Address: p.dial.good}
		p.drop(&p.probe, CodeProbe, "")
		p.probeBy, p.activity.dirty = time.Time{}, true
	}
	switch {
	case p.rival == nil:
	case ended(p.rival):
		p.rival = nil
	case p.link == nil:
		l := p.rival
		p.rival = nil
		p.adopt(ctx, l)
	case !now.Before(p.rivalBy):
		p.drop(&p.rival, exchange.CodeSilent, "it said nothing")
	}
	if p.rival == nil {
		p.rivalBy = time.Time{}
	}
}

// reasonOf is err in as few words as it has: the fix for the operator goes with the whole, not with one address.
func reasonOf(err error) string {
	var d *federation.Diagnostic
	if errors.As(err, &d) && d.Why != "" {
		return printable(d.Why, maxDetail)
	}
	return printable(err.Error(), maxDetail)
}

func ended(l *link) bool {
	if l == nil {
		return false
	}
	select {
	case <-l.dead:
		return true
	default:
		return false
	}
}

// forgetLink notes that there is no session in use any more, and when to make the next one.
func (p *peer) forgetLink() {
	now := p.now()
	p.link, p.dial.doubt = nil, time.Time{}
	p.current.Store(nil)
	if since := p.activity.since; !since.IsZero() && now.Sub(since) >= backoffReset {
		p.dial.attempts = 0
	}
	p.activity.since = time.Time{}
	p.activity.dirty = true
	p.dial.lostAt = now
	p.dial.backOff(now, p.rand)
}
