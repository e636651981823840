package trust

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

const peerPrefix = "trust/peers/"

// peerState is what we know of one peer.
type peerState struct {
	domain     *domain
	receivedAt time.Time
	version    uint64 // of the record in the store
}

type peerRecord struct {
	TrustDomain string    `json:"trust_domain"`
	Bundle      []byte    `json:"bundle"` // as it came
	ReceivedAt  time.Time `json:"received_at"`
}

// SetPeer makes bundle the bundle of the peer region, whose trust domain is td by the peering, not by the bundle. The bundle
// in force is taken again without effect. A bundle is refused with a Diagnostic, and the one in force stays, when it is not
// valid, older than the one in force or different under the same number, when none of its roots is valid now, or when it
// shares no root with the one in force; when td is that of another region, or the region is known under another one.
func (a *Authority) SetPeer(ctx context.Context, region federation.Region, td spiffeid.TrustDomain, bundle []byte) error {
	if _, err := federation.ParseRegion(string(region)); err != nil {
		return fmt.Errorf("set trust bundle: %w", err)
	}
	next, err := ParseBundle(td, bundle)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.state.Load()
	if err := a.checkDomain(s, region, td); err != nil {
		return err
	}
	now := a.cfg.Now()
	if until := validUntil(next.Roots); !now.Before(until) {
		return bundleRefused(codeBundleExpired, region, fmt.Sprintf("its last root expired at %s", until.Format(time.RFC3339)),
			"check the clocks; if the peer's CA did expire, peer the regions again: tradewind peer remove, then generate-token")
	}
	known, ok := s.peers[region]
	if ok {
		if same, err := checkSuccessor(region, known.domain.bundle, next); same || err != nil {
			return err
		}
	}
	value, err := json.Marshal(peerRecord{TrustDomain: td.Name(), Bundle: bundle, ReceivedAt: now.UTC()})
	if err != nil {
		return fmt.Errorf("encode trust bundle of %s: %w", region, err)
	}
	p := peerState{domain: newDomain(known.domain, region, next, next.Revoked), receivedAt: now}
	p.version, err = a.cfg.Store.Commit(ctx, store.Op{Key: peerPrefix + string(region), Value: value, If: known.version})
	if err != nil {
		return fmt.Errorf("write trust bundle of %s: %w", region, err)
	}
	a.publish(func(s *state) { s.peers = with(s.peers, region, &p) })
	return nil
}

// checkDomain keeps regions and trust domains one to one: a domain of two regions would let one speak for the other.
func (a *Authority) checkDomain(s *state, region federation.Region, td spiffeid.TrustDomain) error {
	var why string
	d := s.domains[td]
	known, ok := s.peers[region]
	switch {
	case region == a.cfg.Region || td == a.cfg.TrustDomain:
		why = fmt.Sprintf("%s with trust domain %s is this region", a.cfg.Region, a.cfg.TrustDomain)
	case d != nil && d.region != region:
		why = fmt.Sprintf("trust domain %s belongs to the peer %s", td, d.region)
	case ok && known.domain.bundle.TrustDomain != td:
		why = fmt.Sprintf("the peer's trust domain is %s", known.domain.bundle.TrustDomain)
	default:
		return nil
	}
	return bundleRefused(codeDomainTaken, region, why,
		"give every region a trust_domain of its own; if the peer was set up anew, remove the peering first: tradewind peer remove")
}

// checkSuccessor reports whether next says the same as known, or why it may not follow it.
func checkSuccessor(region federation.Region, known, next Bundle) (same bool, err error) {
	numbers := fmt.Sprintf("it has number %d, known is %d", next.Sequence, known.Sequence)
	switch {
	case next.Sequence < known.Sequence:
		return false, bundleRefused(codeBundleOld, region, numbers,
			"if the peer was restored from a backup, this ends with the next change of its bundle; nothing is lost")
	case next.Sequence == known.Sequence:
		if known.Equal(next) {
			return true, nil
		}
		return false, bundleRefused(codeBundleForked, region, numbers+" and says something else",
			"two gateways run with copies of one data directory: stop one of them")
	case !sharesRoot(known.Roots, next.Roots):
		return false, bundleRefused(codeBundleForeign, region,
			"it has no root in common with the one in force: this may be another CA under the same name",
			"compare the fingerprints with the peer's operator; if the change is meant, peer again: tradewind peer remove, generate-token")
	}
	return false, nil
}

func bundleRefused(code federation.Code, region federation.Region, why, fix string) error {
	return &federation.Diagnostic{Code: code, What: fmt.Sprintf("the trust bundle of %s was refused", region), Why: why, Fix: fix}
}

// RemovePeer forgets the peer region: from now on nothing of its trust domain is accepted. An unknown region is no error.
func (a *Authority) RemovePeer(ctx context.Context, region federation.Region) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, err := a.cfg.Store.Commit(ctx, store.Op{Key: peerPrefix + string(region), Delete: true, Any: true}); err != nil {
		return fmt.Errorf("forget trust bundle of %s: %w", region, err)
	}
	if _, ok := a.state.Load().peers[region]; ok {
		a.publish(func(s *state) { s.peers = with(s.peers, region, nil) })
	}
	return nil
}

// PeerBundle returns the bundle in force of the peer region.
func (a *Authority) PeerBundle(region federation.Region) (Bundle, bool) {
	p, ok := a.state.Load().peers[region]
	if !ok {
		return Bundle{}, false
	}
	return p.domain.bundle, true
}

// loadPeers reads the peers' bundles. One that this version cannot read is left out, with an error in the log: that peer is
// refused until it is peered again, and the others are not held up by it.
func (a *Authority) loadPeers(ctx context.Context) (map[federation.Region]peerState, error) {
	list, err := a.cfg.Store.List(ctx, peerPrefix)
	if err != nil {
		return nil, fmt.Errorf("list trust bundles: %w", err)
	}
	peers := map[federation.Region]peerState{}
	for _, e := range list {
		region := federation.Region(strings.TrimPrefix(e.Key, peerPrefix))
		p, err := parsePeer(region, e)
		if err != nil {
			a.cfg.Log.Error("the stored trust bundle of a peer cannot be used", "peer", region, "error", err)
			continue
		}
		peers[region] = p
	}
	return peers, nil
}

func parsePeer(region federation.Region, e store.Entry) (peerState, error) {
	var rec peerRecord
	if err := json.Unmarshal(e.Value, &rec); err != nil {
		return peerState{}, err
	}
	td, err := spiffeid.TrustDomainFromString(rec.TrustDomain)
	if err != nil || td.Name() != rec.TrustDomain {
		return peerState{}, errors.Join(errors.New("trust domain is not valid"), err)
	}
	b, err := ParseBundle(td, rec.Bundle)
	if err != nil {
		return peerState{}, err
	}
	return peerState{domain: newDomain(nil, region, b, b.Revoked), receivedAt: rec.ReceivedAt, version: e.Version}, nil
}
