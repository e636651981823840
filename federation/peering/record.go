package peering

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

// Keys in the region's store.
const (
	recordPrefix = "peering/peer/"
	tokenPrefixK = "peering/token/"
)

// keepSpent is how long a token that can no longer be used is remembered, so that whoever tries it is told why.
const keepSpent = 24 * time.Hour

// record is what is durable of one peering. A record is never changed in place: a change is a new one, and one commit.
type record struct {
	Region    federation.Region       `json:"region"`
	Domain    string                  `json:"trust_domain,omitempty"` // empty while Pending
	Addresses []string                `json:"addresses,omitempty"`
	State     federation.PeeringState `json:"state"` // never Failing: that is Active without progress
	Since     time.Time               `json:"since"` // of State
	WasActive bool                    `json:"was_active,omitempty"`
	Ended     *federation.Diagnostic  `json:"ended,omitempty"`    // of a Terminated one: why
	Removing  bool                    `json:"removing,omitempty"` // removed here; trust may still be there
	Token     string                  `json:"token,omitempty"`    // identifier of the newest token made for the region
	Waiting   bool                    `json:"waiting,omitempty"`  // that token was not redeemed yet
	Expires   time.Time               `json:"expires,omitzero"`   // of that token
	Bundle    []byte                  `json:"bundle,omitempty"`   // what the join brought, until trust holds it
	version   uint64                  // in the store; 0: not there yet
	domain    spiffeid.TrustDomain    // Domain, parsed
}

// spent says what became of a token.
type spent string

const (
	tokenIssued   spent = "issued"
	tokenConsumed spent = "consumed"
	tokenRevoked  spent = "revoked" // replaced by a newer one, or its peering was removed
)

// tokenRecord is what the acceptor keeps of a token. Neither the secret nor anything that a later redeemer could use is in
// it: Key only verifies proofs, and once consumed it verifies those of the same redeemer.
type tokenRecord struct {
	Region  federation.Region `json:"region"` // who may redeem it
	Key     []byte            `json:"key"`
	Expires time.Time         `json:"expires"`
	State   spent             `json:"state"`
	Domain  string            `json:"domain,omitempty"` // of who redeemed it
	Roots   []byte            `json:"roots,omitempty"`  // hash of the redeemer's roots
	version uint64
}

func recordKey(region federation.Region) string { return recordPrefix + string(region) }
func tokenKey(id tokenID) string                { return tokenPrefixK + hex.EncodeToString(id[:]) }

// live reports whether the peering was joined and not ended.
func (r *record) live() bool {
	if r == nil {
		return false
	}
	switch r.State {
	case federation.PeeringEstablishing, federation.PeeringActive, federation.PeeringPaused:
		return true
	}
	return false
}

// trusted reports whether the peering is live and trust has taken over the bundle: only then does it have an owner.
func (r *record) trusted() bool { return r.live() && len(r.Bundle) == 0 }

// unpaused is the state of a live peering without the pause.
func (r *record) unpaused() federation.PeeringState {
	switch {
	case r.State != federation.PeeringPaused:
		return r.State
	case r.WasActive:
		return federation.PeeringActive
	}
	return federation.PeeringEstablishing
}

// put is the operation that stores r over the version it was read at.
func (r *record) put() (store.Op, error) {
	value, err := json.Marshal(r)
	if err != nil {
		return store.Op{}, fmt.Errorf("encode peering with %s: %w", r.Region, err)
	}
	return store.Op{Key: recordKey(r.Region), Value: value, If: r.version}, nil
}

func (t *tokenRecord) put(id tokenID) (store.Op, error) {
	value, err := json.Marshal(t)
	if err != nil {
		return store.Op{}, fmt.Errorf("encode token record: %w", err)
	}
	return store.Op{Key: tokenKey(id), Value: value, If: t.version}, nil
}

// decodeRecord reads a stored record and judges it anew: what was good when it was written may have been damaged since.
func decodeRecord(e store.Entry) (*record, error) {
	var r record
	err := json.Unmarshal(e.Value, &r)
	if err == nil && recordKey(r.Region) != e.Key {
		err = fmt.Errorf("it names %q", r.Region)
	}
	if err == nil {
		_, err = federation.ParseRegion(string(r.Region))
	}
	if err == nil && (r.live() || r.Domain != "") {
		r.domain, err = spiffeid.TrustDomainFromString(r.Domain)
	}
	for _, a := range r.Addresses {
		if err == nil {
			err = CheckAddress(a)
		}
	}
	if err != nil {
		return nil, storeTrouble(fmt.Sprintf("peering stored under %q cannot be read", e.Key), err)
	}
	r.version = e.Version
	return &r, nil
}

func loadToken(ctx context.Context, s store.Store, id tokenID) (*tokenRecord, error) {
	e, err := s.Get(ctx, tokenKey(id))
	if err != nil {
		return nil, fmt.Errorf("load token: %w", err)
	}
	var t tokenRecord
	if err := json.Unmarshal(e.Value, &t); err != nil {
		return nil, fmt.Errorf("load token: %w", err)
	}
	if len(t.Key) != 32 {
		return nil, errors.New("load token: its key is damaged")
	}
	t.version = e.Version
	return &t, nil
}

// revoke returns the operation that makes the token with identifier id (hex) worthless, also to who has redeemed it.
func revoke(ctx context.Context, s store.Store, id string) ([]store.Op, error) {
	raw, err := hex.DecodeString(id)
	if err != nil || len(raw) != len(tokenID{}) {
		return nil, nil //nolint:nilerr // no token
	}
	t, err := loadToken(ctx, s, tokenID(raw))
	if errors.Is(err, store.ErrNotFound) || (err == nil && t.State == tokenRevoked) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	t.State = tokenRevoked
	op, err := t.put(tokenID(raw))
	return []store.Op{op}, err
}

// expiredTokens returns the operations that forget tokens which nobody will ask for any more.
func expiredTokens(ctx context.Context, s store.Store, now time.Time) ([]store.Op, error) {
	entries, err := s.List(ctx, tokenPrefixK)
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	var ops []store.Op
	for _, e := range entries {
		var t tokenRecord
		if json.Unmarshal(e.Value, &t) == nil && now.Before(t.Expires.Add(keepSpent)) {
			continue
		}
		if ops = append(ops, store.Op{Key: e.Key, Delete: true, If: e.Version}); len(ops) == 100 {
			break // the rest goes next time
		}
	}
	return ops, nil
}

func storeTrouble(what string, err error) *federation.Diagnostic {
	return &federation.Diagnostic{
		Code: federation.CodePeeringStore,
		What: what,
		Why:  err.Error(),
		Fix:  "check space, permissions and health of the store, then try again",
		Err:  err,
	}
}
