package trust

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

const revokedPrefix = "trust/revoked/"

const maxReason = 256

// Revoke ends certificates of this region: the one with a serial number, or all that were issued so far for a SPIFFE ID. It
// is in force when it returns: Judge refuses at once, and the bundle tells peers. The gateway's own certificate is replaced on
// the spot. A name that is neither, and more than MaxRevocations at a time, are Diagnostics.
func (a *Authority) Revoke(ctx context.Context, serialOrID, reason string) error {
	r, err := a.parseRevocation(serialOrID)
	if err != nil {
		return &federation.Diagnostic{
			Code: codeRevokeWhat,
			What: fmt.Sprintf("nothing was revoked for %.100q", serialOrID),
			Why:  err.Error(),
			Fix:  fmt.Sprintf("name a serial number, or an identity such as spiffe://%s/ns/default/svc/web: tradewind cert list", a.cfg.TrustDomain),
			Err:  err,
		}
	}
	r.Reason = strings.ToValidUTF8(reason[:min(len(reason), maxReason)], "")
	if err := a.commitRevocation(ctx, r); err != nil {
		return err
	}
	a.cfg.Log.Warn("certificates were revoked", "what", serialOrID, "reason", r.Reason)
	if a.state.Load().gatewayRevoked() {
		signal(a.renew) // should the next line fail, Run goes on trying
		return a.renewGateway(ctx)
	}
	return nil
}

func (a *Authority) parseRevocation(serialOrID string) (Revocation, error) {
	if !strings.HasPrefix(serialOrID, "spiffe:") {
		serial, err := parseSerial(serialOrID)
		return Revocation{Serial: serial}, err
	}
	id, err := spiffeid.FromString(serialOrID)
	if err != nil {
		return Revocation{}, err
	}
	if role, _ := federation.RoleOf(id); !id.MemberOf(a.cfg.TrustDomain) || role == federation.RoleNone {
		return Revocation{}, fmt.Errorf("it is no identity of trust domain %s", a.cfg.TrustDomain)
	}
	return Revocation{ID: id}, nil
}

func (a *Authority) commitRevocation(ctx context.Context, r Revocation) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	s, now := a.state.Load(), a.cfg.Now().UTC()
	if r.Serial != "" && s.own.serials[r.Serial] {
		return nil
	}
	// X.509 counts in seconds. A certificate that replaces an earlier revocation's victims may begin in this very second.
	r.At = now.Truncate(time.Second)
	if before, ok := s.own.ids[r.ID]; ok && !r.At.After(before) {
		r.At = before.Add(time.Second)
	}
	r.Until = r.At.Add(GatewayLife + backdate) // no certificate of ours lives longer
	if r.Serial != "" {
		if err := a.lookUp(ctx, &r); err != nil {
			return err
		}
	}
	revoked := slices.DeleteFunc(slices.Clone(s.revoked), func(o Revocation) bool { return r.Serial == "" && o.Serial == "" && o.ID == r.ID })
	revoked = sortRevoked(append(revoked, r))
	if len(revoked) > MaxRevocations {
		return tooManyRevoked(fmt.Sprintf("%d revocations are in force, the most there can be", MaxRevocations))
	}
	value, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode revocation: %w", err)
	}
	return a.commitRevoked(ctx, revoked, store.Op{Key: revokedKey(r), Value: value, Any: true})
}

func tooManyRevoked(why string) error {
	return tooMany("nothing was revoked", why,
		"revoke by identity instead of by serial number, or replace the CA: tradewind cert rotate-ca")
}

// lookUp completes r from the ledger. A serial number that is not there may still be out there: one that the ledger lost.
func (a *Authority) lookUp(ctx context.Context, r *Revocation) error {
	e, err := a.cfg.Store.Get(ctx, issuedPrefix+r.Serial)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up certificate %s: %w", r.Serial, err)
	}
	var c Certificate
	if err := json.Unmarshal(e.Value, &c); err != nil {
		return fmt.Errorf("look up certificate %s: %w", r.Serial, err)
	}
	r.Until, r.Of = c.NotAfter, c.ID
	return nil
}

// commitRevoked makes revoked the revocations of our domain. Only when peers are concerned does the bundle change, and with
// it its sequence. The caller holds mu.
func (a *Authority) commitRevoked(ctx context.Context, revoked []Revocation, ops ...store.Op) error {
	s := a.state.Load()
	before, after := a.bundleOf(s.ca, s.revoked), a.bundleOf(s.ca, revoked)
	if slices.Equal(before.Revoked, after.Revoked) {
		if _, err := a.cfg.Store.Commit(ctx, ops...); err != nil {
			return fmt.Errorf("write revocation: %w", err)
		}
		a.publish(func(s *state) { s.revoked = revoked })
		return nil
	}
	if len(after.Marshal()) == 0 {
		return tooManyRevoked(fmt.Sprintf("no more fit into a bundle of %d octets, which is what peers take", MaxBundle))
	}
	ca, op, err := a.changeCA(s.ca)
	if err != nil {
		return err
	}
	if ca.version, err = a.cfg.Store.Commit(ctx, append(ops, op)...); err != nil {
		return fmt.Errorf("write revocation: %w", err)
	}
	a.publish(func(s *state) { s.ca, s.revoked = ca, revoked })
	return nil
}

// concernsPeers reports whether a peer can ever be shown what r revokes. A workload shows its certificate to the gateways of
// its own region only, so its revocation stays here; what a serial number not in the ledger belongs to is not known.
func (a *Authority) concernsPeers(r Revocation) bool {
	id := r.ID
	if r.Serial != "" {
		id = r.Of
	}
	role, _ := federation.RoleOf(id)
	return role != federation.RoleWorkload
}

func revokedKey(r Revocation) string {
	if r.Serial != "" {
		return revokedPrefix + "serial/" + r.Serial
	}
	// The path alone: a trust domain and a path can be longer together than a key may be, and all are of one domain.
	return revokedPrefix + "id" + r.ID.Path()
}

func sortRevoked(list []Revocation) []Revocation {
	slices.SortFunc(list, func(a, b Revocation) int {
		return cmp.Or(strings.Compare(a.Serial, b.Serial), strings.Compare(a.ID.String(), b.ID.String()))
	})
	return list
}

// Revocations returns what is revoked in this region and has not expired.
func (a *Authority) Revocations() []Revocation { return slices.Clone(a.state.Load().revoked) }

func (a *Authority) loadRevocations(ctx context.Context) ([]Revocation, error) {
	list, err := a.cfg.Store.List(ctx, revokedPrefix)
	if err != nil {
		return nil, fmt.Errorf("list revocations: %w", err)
	}
	var revoked []Revocation
	for _, e := range list {
		var r Revocation
		if err := json.Unmarshal(e.Value, &r); err != nil {
			return nil, caUnusable("the region's revocations cannot be read", fmt.Errorf("%s: %w", e.Key, err))
		}
		revoked = append(revoked, r)
	}
	return sortRevoked(revoked), nil
}

// prune forgets the certificates and the revocations that have expired.
func (a *Authority) prune(ctx context.Context) error {
	if err := a.pruneIssued(ctx); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.cfg.Now()
	var keep []Revocation
	var drop []store.Op
	for _, r := range a.state.Load().revoked {
		if now.After(r.Until) && len(drop) < store.MaxOps-1 { // one is for the bundle
			drop = append(drop, store.Op{Key: revokedKey(r), Delete: true, Any: true})
		} else {
			keep = append(keep, r)
		}
	}
	if len(drop) == 0 {
		return nil
	}
	return a.commitRevoked(ctx, keep, drop...)
}
