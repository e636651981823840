package peering

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/trust"
)

// TokenInfo is what may be shown of a token that was made.
type TokenInfo struct {
	Peer        federation.Region // who may redeem it
	Expires     time.Time
	Addresses   []string // that it tells the peer to dial
	Fingerprint string   // of this region's roots
}

// GenerateToken makes a token that lets peer join this region once within ttl (0: DefaultTokenTTL). It carries addresses, or
// those of the configuration when there are none. A token made for peer before is worthless from then on.
func (m *Manager) GenerateToken(
	ctx context.Context, peer federation.Region, ttl time.Duration, addresses ...string,
) (string, TokenInfo, error) {
	if ttl == 0 {
		ttl = DefaultTokenTTL
	}
	if len(addresses) == 0 {
		addresses = m.cfg.Addresses()
	}
	if err := m.checkTokenRequest(peer, ttl, addresses); err != nil {
		return "", TokenInfo{}, err
	}
	t := Token{
		Acceptor:       m.cfg.Region,
		AcceptorDomain: m.cfg.TrustDomain,
		Pin:            m.cfg.Trust.RootPin(),
		Dialer:         peer,
		Addresses:      slices.Clone(addresses),
		Expires:        m.cfg.Now().Add(ttl).Truncate(time.Second).UTC(),
	}
	rand.Read(t.Secret[:]) // never fails (crypto/rand)
	text, err := t.Encode()
	if err != nil {
		return "", TokenInfo{}, err
	}
	unlock, err := m.lock(ctx, peer)
	if err != nil {
		return "", TokenInfo{}, err
	}
	defer unlock()
	err = m.change(ctx, peer, func(old *record) (*record, []store.Op, error) { return m.recordToken(ctx, old, t) })
	if err != nil {
		return "", TokenInfo{}, err
	}
	m.housekeep(ctx)
	m.tell()
	m.log.Info("token made", "peer", string(peer), "expires", t.Expires)
	return text, TokenInfo{Peer: peer, Expires: t.Expires, Addresses: t.Addresses, Fingerprint: m.ownBundle().finger}, nil
}

func (m *Manager) checkTokenRequest(peer federation.Region, ttl time.Duration, addresses []string) error {
	if _, err := federation.ParseRegion(string(peer)); err != nil {
		return &federation.Diagnostic{Code: federation.CodePeeringUnknown, What: "token was not made", Why: err.Error(), Err: err}
	}
	switch {
	case peer == m.cfg.Region:
		return refusedSameRegion.diagnostic(peer, "a region cannot peer with itself")
	case ttl < MinTokenTTL || ttl > MaxTokenTTL:
		return &federation.Diagnostic{
			Code: federation.CodeTokenLifetime,
			What: fmt.Sprintf("token was not made: a lifetime of %v is out of bounds", ttl),
			Why:  fmt.Sprintf("it must lie between %v and %v", MinTokenTTL, MaxTokenTTL),
			Fix:  fmt.Sprintf("tradewind peer generate-token %s --ttl %.0fm", peer, DefaultTokenTTL.Minutes()),
		}
	}
	err := errors.New("there is none")
	if len(addresses) > MaxAddresses {
		err = fmt.Errorf("there are %d, and a token holds %d", len(addresses), MaxAddresses)
	} else if len(addresses) > 0 {
		err = nil
	}
	for _, a := range addresses {
		if err == nil {
			err = CheckAddress(a)
		}
	}
	if err != nil {
		return &federation.Diagnostic{
			Code: federation.CodeNoAddress,
			What: "token was not made: it needs a gateway address that peers can dial",
			Why:  err.Error(),
			Fix:  "set advertise in gateway.hcl, or make the token on the other side",
			Err:  err,
		}
	}
	return nil
}

// recordToken is the change that makes t known and any older token for the same region worthless.
func (m *Manager) recordToken(ctx context.Context, old *record, t Token) (*record, []store.Op, error) {
	next := &record{Region: t.Dialer, State: federation.PeeringPending, Since: m.cfg.Now().UTC()}
	if old != nil {
		if old.Removing {
			return nil, nil, &federation.Diagnostic{
				Code: federation.CodePeeringState,
				What: fmt.Sprintf("token was not made: the peering with %s is being removed", t.Dialer),
				Fix:  "try again in a moment; if it stays so: tradewind peer remove " + string(t.Dialer),
			}
		}
		if old.live() {
			copied := *old
			next = &copied
		}
		next.version = old.version
	}
	var ops []store.Op
	if old != nil {
		var err error
		if ops, err = revoke(ctx, m.cfg.Store, old.Token); err != nil {
			return nil, nil, err
		}
	}
	id, key := t.id(), t.key()
	op, err := (&tokenRecord{Region: t.Dialer, Key: key[:], Expires: t.Expires, State: tokenIssued}).put(id)
	if err != nil {
		return nil, nil, err
	}
	next.Token, next.Waiting, next.Expires = hex.EncodeToString(id[:]), true, t.Expires
	return next, append(ops, op), nil
}

// refused is why a join is turned down.
type refused struct {
	refusal refusal
	detail  string
	alarm   federation.Region // the peering whose operator should hear of it; empty: none
}

func (r *refused) Error() string { return fmt.Sprintf("refusal %d: %s", r.refusal, r.detail) }

// Join answers the request of a dialer that wants to redeem a token, on a TLS connection with the given exporter (RFC 5705).
// remote is for the log. A refusal is a reply like any other, and tells a dialer that does not hold the token nothing.
func (m *Manager) Join(ctx context.Context, remote string, exporter, request []byte) (reply []byte, err error) {
	r, err := m.join(ctx, exporter, request)
	now := m.cfg.Now()
	var no *refused
	switch {
	case err == nil:
		m.log.Info("peering joined", "peer", string(r.Region), "from", remote)
		own := m.ownBundle()
		return joinReply{
			Time:      now,
			Region:    m.cfg.Region,
			Domain:    m.cfg.TrustDomain,
			Addresses: m.advertised(nil),
			Bundle:    own.bytes,
			Yours:     fingerprintOf(r),
		}.encode(), nil
	case errors.As(err, &no):
	case ctx.Err() != nil:
		return nil, fmt.Errorf("join: %w", ctx.Err())
	default:
		m.log.Error("complete join", "from", remote, "error", err)
		no = &refused{refusal: refusedInternal, detail: "see the log of its gateway"}
	}
	m.log.Warn("refuse join", "from", remote, "peer", string(r.Region), "code", refusals[no.refusal].code, "why", no.detail)
	if no.alarm != "" {
		m.alarm(no.alarm, &federation.Diagnostic{
			Code: refusals[no.refusal].code,
			What: fmt.Sprintf("join from %s as %s was refused", remote, r.Region),
			Why:  no.detail,
			Fix:  "if it was not you, the token has leaked: remove the peering and make a new token",
		})
	}
	return joinReply{Refusal: no.refusal, Detail: no.detail, Time: now}.encode(), nil
}

// join judges and performs a request. The request is returned as far as it could be read.
func (m *Manager) join(ctx context.Context, exporter, request []byte) (joinRequest, error) {
	r, err := parseJoinRequest(request)
	var version *errVersion
	switch {
	case errors.As(err, &version):
		return r, &refused{refusal: refusedVersion, detail: fmt.Sprintf("%s speaks join/%d", m.cfg.Region, joinVersion)}
	case err != nil:
		return r, &refused{refusal: refusedMalformed, detail: err.Error()}
	}
	t, err := loadToken(ctx, m.cfg.Store, r.Token)
	if errors.Is(err, store.ErrNotFound) {
		return r, &refused{refusal: refusedUnknown}
	}
	if err != nil {
		return r, err
	}
	if !proven(request, [sha256.Size]byte(t.Key), exporter) {
		return r, &refused{refusal: refusedProof, alarm: t.Region}
	}
	b, err := m.judgeDialer(t, r)
	if err != nil {
		return r, err
	}
	unlock, err := m.lock(ctx, r.Region)
	if err != nil {
		return r, err
	}
	defer unlock()
	if err := m.reload(ctx, r.Region); err != nil { // another gateway of this region may have made the token
		return r, err
	}
	m.foundNext(r.Region, founding{joined: true, acceptor: true})
	err = m.change(ctx, r.Region, func(old *record) (*record, []store.Op, error) { return m.consume(ctx, old, r, b) })
	if err != nil {
		return r, err
	}
	err = m.handOverTrust(ctx, r.Region)
	if isJudgement(err) {
		err = &refused{refusedBundle, reasonOf(err), r.Region}
	}
	return r, err
}

// judgeDialer judges what does not depend on what others do at the same time.
func (m *Manager) judgeDialer(t *tokenRecord, r joinRequest) (trust.Bundle, error) {
	now := m.cfg.Now()
	switch {
	case t.Region != r.Region:
		return trust.Bundle{}, &refused{refusedRegion, fmt.Sprintf("it was made for %s, and %s came with it", t.Region, r.Region), t.Region}
	case r.Region == m.cfg.Region:
		return trust.Bundle{}, &refused{refusal: refusedSameRegion}
	case r.Domain == m.cfg.TrustDomain:
		return trust.Bundle{}, &refused{refusal: refusedDomain, detail: "both are " + r.Domain.Name()}
	}
	if owner := m.ownerOf(r.Domain.Name(), r.Region); owner != "" {
		return trust.Bundle{}, &refused{refusedDomain, fmt.Sprintf("%s belongs to another peer of %s", r.Domain.Name(), m.cfg.Region), r.Region}
	}
	if skew := r.Time.Sub(now); skew.Abs() > maxSkew {
		return trust.Bundle{}, &refused{refusal: refusedSkew, detail: describeSkew(r.Region, skew)}
	}
	b, err := parseValidBundle(r.Domain, r.Bundle, now)
	if err != nil {
		return b, &refused{refusal: refusedBundle, detail: err.Error()}
	}
	return b, nil
}

// consume is the change that turns an issued token into a peering. It reads the token anew: of two redeemers at the same
// time, the store lets one through and the other one finds it consumed.
func (m *Manager) consume(ctx context.Context, old *record, r joinRequest, b trust.Bundle) (*record, []store.Op, error) {
	t, err := loadToken(ctx, m.cfg.Store, r.Token)
	if err != nil {
		return nil, nil, err
	}
	roots := rootsHash(b)
	same := t.Domain == r.Domain.Name() && bytes.Equal(t.Roots, roots)
	switch {
	case t.State == tokenRevoked || old == nil || old.Removing:
		return nil, nil, &refused{refusal: refusedRevoked}
	case t.State == tokenConsumed && !same:
		return nil, nil, &refused{refusedUsed, "it was redeemed by " + t.Domain, r.Region}
	case !m.cfg.Now().Before(t.Expires):
		return nil, nil, &refused{refusal: refusedExpired, detail: "it expired at " + t.Expires.UTC().Format(time.RFC3339)}
	}
	if err := m.sameAsBefore(old, r.Domain.Name(), b); err != nil {
		return nil, nil, &refused{refusedPeered, err.Error(), r.Region}
	}
	t.State, t.Domain, t.Roots = tokenConsumed, r.Domain.Name(), roots
	op, err := t.put(r.Token)
	if err != nil {
		return nil, nil, err
	}
	next := m.joined(old, r.Region, r.Addresses)
	next.Domain, next.domain, next.Bundle = r.Domain.Name(), r.Domain, r.Bundle
	return next, []store.Op{op}, nil
}

// joined is old as it is after a join: live, whatever it was. A repeated join of a live peering
// changes its addresses, and ends a pause.
func (m *Manager) joined(old *record, region federation.Region, addresses []string) *record {
	next := &record{Region: region, State: federation.PeeringEstablishing, Since: m.cfg.Now().UTC()}
	if old != nil {
		next.version, next.Token, next.Expires = old.version, old.Token, old.Expires
		if old.live() {
			next.State, next.Since, next.WasActive = old.unpaused(), old.Since, old.WasActive
		}
	}
	next.Addresses = slices.Clone(addresses)
	return next
}

// sameAsBefore returns why a live peering cannot be joined with bundle b of domain: it is with somebody else.
func (m *Manager) sameAsBefore(rec *record, domain string, b trust.Bundle) error {
	if !rec.live() {
		return nil
	}
	if rec.Domain != domain {
		return fmt.Errorf("%s is peered as %s, and now it is %s", rec.Region, rec.Domain, domain)
	}
	known, ok := m.cfg.Trust.PeerBundle(rec.Region)
	if ok && !sharesRoot(known, b) {
		return fmt.Errorf("the roots known of %s have the fingerprint %s, and the ones that came %s",
			rec.Region, known.Fingerprint(), b.Fingerprint())
	}
	return nil
}

// ownerOf returns the peer that has domain, if it is not region itself.
func (m *Manager) ownerOf(domain string, region federation.Region) federation.Region {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, e := range m.entries {
		if e.region != region && e.rec.live() && e.rec.Domain == domain {
			return e.region
		}
	}
	return ""
}

// foundNext says how the next owner of region will have come to be.
func (m *Manager) foundNext(region federation.Region, f founding) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entry(region).founding = f
}

func (m *Manager) ownBundle() ownBundle {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.bundle
}

// advertised is chosen, or our own addresses when nothing was, as far as they fit into a join.
func (m *Manager) advertised(chosen []string) []string {
	if len(chosen) == 0 {
		chosen = m.cfg.Addresses()
	}
	var list []string
	for _, a := range chosen {
		if err := CheckAddress(a); err != nil {
			m.log.Warn("leave out own address", "error", err)
		} else if len(list) < MaxAddresses {
			list = append(list, a)
		}
	}
	return list
}

func describeSkew(region federation.Region, skew time.Duration) string {
	word := "ahead of"
	if skew < 0 {
		word = "behind"
	}
	return fmt.Sprintf("the clock of %s is %v %s the other one; %v are allowed", region, skew.Abs().Round(time.Second), word, maxSkew)
}
