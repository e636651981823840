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

// Step is one step of Establish, reported when it begins (if it takes time) and when it ends.
type Step struct {
	Name   string // stable: "token", "reach", "trust", "session", "catalog", "return"
	State  StepState
	Detail string // for humans: what is being done, or what was found
}

// StepState says where a step stands.
type StepState uint8

// The states of a step.
const (
	StepRunning StepState = iota
	StepDone
	StepWarning // done, but something deserves attention
	StepFailed  // the error of Establish follows, unless another address is left to try
)

func (s StepState) String() string {
	return [...]string{"running", "done", "warning", "failed"}[min(s, StepFailed)]
}

// OK reports whether the step has ended without failing.
func (s Step) OK() bool { return s.State == StepDone || s.State == StepWarning }

// Result is a peering as Establish leaves it.
type Result struct {
	Peering          PeeringStatus
	OurFingerprint   string // of this region's roots
	TheirFingerprint string
	Offered          int           // services that the peer shows us
	Shown            int           // services that we show the peer
	OneWay           bool          // they cannot dial us; everything runs over sessions that we open
	Took             time.Duration // from the token to the end
}

// Establish redeems the text of a token and returns when the peering works in both directions: the catalogs are applied on both
// sides, and it is known whether the peer can dial this region too. Each step is reported to progress, which may be nil. When
// ctx ends after trust was exchanged, the error has CodePeeringWait and the gateways go on by themselves. The peer is told to
// dial addresses, or those of the configuration when there are none.
func (m *Manager) Establish(ctx context.Context, text string, progress func(Step), addresses ...string) (Result, error) {
	if progress == nil {
		progress = func(Step) {}
	}
	e := establishing{m: m, report: progress, began: m.cfg.Now(), addresses: m.advertised(addresses)}
	t, err := e.examine(text)
	if err != nil {
		progress(Step{"token", StepFailed, told(err)})
		return Result{}, err
	}
	reply, err := e.redeem(ctx, t)
	if err != nil {
		return Result{}, err
	}
	if err := e.trust(ctx, t, reply); err != nil {
		progress(Step{"trust", StepFailed, told(err)})
		return Result{}, err
	}
	return e.await(ctx, t.Acceptor)
}

// told is err as a step tells it: the error with its code and fix follows.
func told(err error) string {
	var d *federation.Diagnostic
	if errors.As(err, &d) {
		return d.Reason()
	}
	return err.Error()
}

// establishing is one run of Establish.
type establishing struct {
	m         *Manager
	report    func(Step)
	began     time.Time
	own       ownBundle // the same in every attempt
	address   string    // that answered
	addresses []string  // our own, as the peer is told
	theirs    trust.Bundle
	expired   string // why the token is too old for us; "": it is not
}

// examine judges the token by what is known here; the acceptor judges it again.
func (e *establishing) examine(text string) (Token, error) {
	t, err := ParseToken(text)
	if err != nil {
		return Token{}, err
	}
	m, now := e.m, e.m.cfg.Now()
	e.own = m.ownBundle()
	switch {
	case t.Acceptor == m.cfg.Region:
		return t, refusedSameRegion.diagnostic(t.Acceptor, "the token was made by a region of that name")
	case t.AcceptorDomain == m.cfg.TrustDomain:
		return t, refusedDomain.diagnostic(t.Acceptor, "both are "+t.AcceptorDomain.Name())
	case t.Dialer != m.cfg.Region:
		return t, refusedRegion.diagnostic(t.Acceptor, fmt.Sprintf("it is for %s, and this is %s", t.Dialer, m.cfg.Region))
	default:
		if owner := m.ownerOf(t.AcceptorDomain.Name(), t.Acceptor); owner != "" {
			return t, refusedDomain.diagnostic(t.Acceptor, fmt.Sprintf("%s belongs to the peer %s", t.AcceptorDomain, owner))
		}
		if err := m.sameAsPinned(t); err != nil {
			return t, peeredHere(t.Acceptor, err)
		}
		if left := t.Expires.Sub(now); left > 0 {
			e.report(Step{"token", StepDone, fmt.Sprintf("valid, single use, %v left", left.Truncate(time.Second))})
			return t, nil
		}
		// Either it is too late or this clock is wrong, and then a new token would not help. The acceptor can tell.
		e.expired = fmt.Sprintf("it expired %v ago, by the clock of this region", now.Sub(t.Expires).Round(time.Second))
		e.report(Step{"token", StepWarning, e.expired})
		return t, nil
	}
}

// sameAsPinned returns why the token cannot be for the peering that exists: then it must not be spent.
func (m *Manager) sameAsPinned(t Token) error {
	rec := m.record(t.Acceptor)
	if !rec.live() {
		return nil
	}
	if rec.Domain != t.AcceptorDomain.Name() {
		return fmt.Errorf("%s is peered as %s, and the token is of %s", t.Acceptor, rec.Domain, t.AcceptorDomain)
	}
	if known, ok := m.cfg.Trust.PeerBundle(t.Acceptor); ok && !pinned(known, t.Pin) {
		return fmt.Errorf("the roots known of %s have the fingerprint %s, and the token is of another root", t.Acceptor, known.Fingerprint())
	}
	return nil
}

// peeredHere is the refusal of a token because of what is known here.
func peeredHere(acceptor federation.Region, err error) *federation.Diagnostic {
	d := refusedPeered.diagnostic(acceptor, err.Error())
	d.Fix = fmt.Sprintf("if that is expected, remove the old peering here: tradewind peer remove %s; then use a new token", acceptor)
	return d
}

// redeem tries the addresses of the token in order until one gives an answer.
func (e *establishing) redeem(ctx context.Context, t Token) (joinReply, error) {
	var failed []string
	var errs []error
	pin := false
	for _, address := range t.Addresses {
		e.report(Step{"reach", StepRunning, "trying " + address})
		reply, took, err := e.redeemAt(ctx, t, address)
		switch {
		case err == nil:
			e.address = address
			e.report(Step{"reach", StepDone, fmt.Sprintf("%s answers in %v", address, took.Round(time.Millisecond))})
			return reply, e.judge(t, reply, took)
		case ctx.Err() != nil:
			return joinReply{}, refusedUnreachable.diagnostic(t.Acceptor, strings.Join(append(failed, address+": timed out"), "; "))
		}
		pin = pin || hasCode(err, codeTrustPin)
		failed, errs = append(failed, address+": "+reasonOf(err)), append(errs, err)
		e.report(Step{"reach", StepFailed, failed[len(failed)-1]})
	}
	why := strings.Join(failed, "; ")
	if e.expired != "" {
		return joinReply{}, refusedExpired.diagnostic(t.Acceptor, e.expired+"; "+why)
	}
	if pin {
		return joinReply{}, refusedPin.diagnostic(t.Acceptor, why)
	}
	d := refusedUnreachable.diagnostic(t.Acceptor, why)
	if fix := oneFix(errs); fix != "" {
		d.Fix = fix
	}
	return joinReply{}, d
}

// codeTrustPin is what trust says when a certificate does not lead to the pinned root.
const codeTrustPin federation.Code = "TW-2208"

// hasCode reports whether any Diagnostic in err's tree has code; the transport may have wrapped it in one of its own.
func hasCode(err error, code federation.Code) bool {
	var d *federation.Diagnostic
	return errors.As(err, &d) && (d.Code == code || hasCode(d.Err, code))
}

// redeemAt makes the join at one address. When the connection breaks after the request was sent, the token may have been
// consumed by it, so the same address is asked once more: the acceptor knows us again.
func (e *establishing) redeemAt(ctx context.Context, t Token, address string) (joinReply, time.Duration, error) {
	for attempt := 0; ; attempt++ {
		sent := false
		began := e.m.cfg.Now()
		raw, err := e.dialJoin(ctx, t, address, &sent)
		if err != nil {
			if sent && attempt == 0 && ctx.Err() == nil && !hasCode(err, codeTrustPin) {
				continue
			}
			return joinReply{}, 0, err
		}
		took := e.m.cfg.Now().Sub(began)
		reply, err := parseJoinReply(raw)
		var version *errVersion
		switch {
		case errors.As(err, &version):
			return joinReply{Refusal: refusedVersion, Detail: version.Error(), Time: e.m.cfg.Now()}, took, nil
		case err != nil:
			return joinReply{Refusal: refusedMalformed, Detail: "its answer cannot be read: " + err.Error(), Time: e.m.cfg.Now()}, took, nil
		}
		return reply, took, nil
	}
}

func (e *establishing) dialJoin(ctx context.Context, t Token, address string, sent *bool) ([]byte, error) {
	limited, cancel := context.WithTimeout(ctx, joinTimeout)
	defer cancel()
	request := func(exporter []byte) ([]byte, error) {
		*sent = true
		return joinRequest{
			Token:     t.id(),
			Region:    e.m.cfg.Region,
			Domain:    e.m.cfg.TrustDomain,
			Addresses: e.addresses,
			Time:      e.m.cfg.Now(),
			Bundle:    e.own.bytes,
		}.encode(t.key(), exporter)
	}
	raw, err := e.m.cfg.Dialer.DialJoin(limited, address, t.Pin, request)
	if err != nil && limited.Err() != nil && ctx.Err() == nil && federation.CodeOf(err) == "" {
		return nil, fmt.Errorf("no answer within %v", joinTimeout)
	}
	return raw, err
}

// judge turns a refusal into its diagnosis, and compares clocks: the acceptor has compared them too, but its word is not ours.
func (e *establishing) judge(t Token, r joinReply, took time.Duration) error {
	if r.Refusal != accepted {
		d := r.Refusal.diagnostic(t.Acceptor, r.Detail)
		if r.Refusal == refusedPeered {
			d.Fix = fmt.Sprintf("if that is expected, remove the old peering there: tradewind peer remove %s; then use a new token", e.m.cfg.Region)
		}
		return d
	}
	if skew := r.Time.Sub(e.m.cfg.Now().Add(-took / 2)); skew.Abs() > maxSkew {
		return refusedSkew.diagnostic(t.Acceptor, describeSkew(t.Acceptor, skew))
	}
	if r.Region != t.Acceptor || r.Domain != t.AcceptorDomain {
		return refusedPin.diagnostic(t.Acceptor, fmt.Sprintf("it calls itself %s, %s", r.Region, r.Domain))
	}
	return nil
}

// trust stores the peering and lets trust take over the bundle.
func (e *establishing) trust(ctx context.Context, t Token, r joinReply) error {
	m := e.m
	b, err := parseValidBundle(t.AcceptorDomain, r.Bundle, m.cfg.Now())
	if err == nil && !pinned(b, t.Pin) {
		err = errors.New("the root that the token names is not in it")
	}
	if err != nil {
		return &federation.Diagnostic{
			Code: federation.CodeJoinBundle,
			What: fmt.Sprintf("trust bundle of %s is not valid", t.Acceptor),
			Why:  err.Error(),
			Fix:  "look at: tradewind cert list, on that side",
			Err:  err,
		}
	}
	unlock, err := m.lock(ctx, t.Acceptor)
	if err != nil {
		return err
	}
	defer unlock()
	m.foundNext(t.Acceptor, founding{joined: true, address: e.address})
	err = m.change(ctx, t.Acceptor, func(old *record) (*record, []store.Op, error) { return e.record(ctx, old, t, r, b) })
	if err != nil {
		return err
	}
	if err := m.handOverTrust(ctx, t.Acceptor); err != nil {
		return err
	}
	e.theirs = b
	detail := fmt.Sprintf("spiffe://%s ⇄ spiffe://%s (fingerprints %s %s)",
		m.cfg.TrustDomain, t.AcceptorDomain, e.own.finger, b.Fingerprint())
	if r.Yours != e.own.finger {
		e.report(Step{"trust", StepWarning, detail + "; they see our roots as " + r.Yours})
		return nil
	}
	e.report(Step{"trust", StepDone, detail})
	return nil
}

// record is the change that makes the peering on this side.
func (e *establishing) record(ctx context.Context, old *record, t Token, r joinReply, b trust.Bundle) (*record, []store.Op, error) {
	if old != nil && old.Removing {
		return nil, nil, refusedPeered.diagnostic(t.Acceptor, "it is being removed here; try again in a moment")
	}
	if err := e.m.sameAsBefore(old, t.AcceptorDomain.Name(), b); err != nil {
		return nil, nil, peeredHere(t.Acceptor, err)
	}
	// The token's addresses, not those of the reply: whoever made the token chose them for this region.
	addresses := []string{e.address} // known to answer
	for _, a := range t.Addresses {
		if a != e.address {
			addresses = append(addresses, a)
		}
	}
	next := e.m.joined(old, t.Acceptor, addresses)
	next.Domain, next.domain, next.Bundle = t.AcceptorDomain.Name(), t.AcceptorDomain, r.Bundle
	if old != nil && old.Waiting { // both sides made a token; one is enough
		return next.unredeemable(ctx, e.m.cfg.Store)
	}
	return next, nil, nil
}

// await waits until the peering works, and reports what it waits for.
func (e *establishing) await(ctx context.Context, region federation.Region) (Result, error) {
	progress := waitProgress{report: e.report}
	var grace <-chan time.Time // for the peer's probe, once everything else is done
	waited := false
	for {
		news := e.m.changes()
		s, err := e.m.Show(region)
		if err == nil && s.State == federation.PeeringTerminated {
			err = removedThere(region, s.Reason)
		}
		if err != nil {
			return Result{}, err
		}
		missing := progress.advance(s)
		if missing == "" && (s.Reached.OK || waited) {
			return e.finish(s), nil
		}
		if missing == "" && grace == nil {
			e.report(Step{"return", StepRunning, "waiting for them to reach us"})
			timer := time.NewTimer(returnGrace)
			defer timer.Stop()
			grace = timer.C
		}
		select {
		case <-news:
		case <-grace:
			waited = true
		case <-ctx.Done():
			if missing == "" {
				return e.finish(s), nil
			}
			return Result{Peering: s}, notUp(region, "trust is exchanged; "+missing, ctx.Err())
		}
	}
}

// finish reports whether the way back is open and returns the result.
func (e *establishing) finish(s PeeringStatus) Result {
	m := e.m
	r := Result{
		Peering:          s,
		OurFingerprint:   e.own.finger,
		TheirFingerprint: e.theirs.Fingerprint(),
		Offered:          s.Exchange.Import.Services,
		Shown:            s.Exchange.Export.Services,
		OneWay:           !s.Reached.OK,
		Took:             m.cfg.Now().Sub(e.began),
	}
	if !r.OneWay {
		e.report(Step{"return", StepDone, "they reach us, from " + s.Reached.Address})
		return r
	}
	where := "any address: this region advertises none"
	if list := e.addresses; len(list) > 0 {
		where = strings.Join(list, ", ")
	}
	d := &federation.Diagnostic{
		Code: federation.CodeOneWay,
		What: fmt.Sprintf("one way only: %s cannot dial us at %s", s.Region, where),
		Why:  "it works through our session; when that is lost, only we can make a new one",
		Fix:  "open the mesh port from there to here, or correct advertise in gateway.hcl",
	}
	m.alarm(s.Region, d)
	e.report(Step{"return", StepWarning, d.Reason() + "; " + d.Fix}) // no error follows that would say it
	return r
}

// waitProgress turns a sequence of statuses into steps.
type waitProgress struct {
	report    func(Step)
	stage     int // 0: nothing, 1: session, 2: catalog
	announced int
}

// advance reports what has been reached and returns what is still missing, or "".
func (w *waitProgress) advance(s PeeringStatus) (missing string) {
	ex := s.Exchange
	if w.stage == 0 {
		if !s.Session.Up || !ex.Connected {
			w.announce(1, "session", "waiting for a session")
			missing = "waiting for a session"
			if s.LastError != nil && !s.Session.Up {
				missing += ": " + s.LastError.Text
			}
			return missing
		}
		w.stage = 1
		how := "they dialled, from "
		if s.Session.Dialled {
			how = "we dialled "
		}
		w.report(Step{"session", StepDone, how + s.Session.Address + " over " + s.Session.Lane})
	}
	if w.stage == 1 {
		switch {
		case ex.State != federation.FreshnessLive:
			w.announce(2, "catalog", "waiting for their catalog")
			return "waiting for their catalog"
		case ex.Export.Applied != ex.Export.Head:
			w.announce(2, "catalog", "waiting for them to apply ours")
			return "waiting for them to apply our catalog"
		}
		w.stage = 2
		w.report(Step{"catalog", StepDone, fmt.Sprintf("%s offered to you, %d shown to them", services(ex.Import.Services), ex.Export.Services)})
	}
	return ""
}

func services(n int) string {
	if n == 1 {
		return "1 service"
	}
	return fmt.Sprintf("%d services", n)
}

func (w *waitProgress) announce(stage int, name, detail string) {
	if w.announced < stage {
		w.announced = stage
		w.report(Step{name, StepRunning, detail})
	}
}
