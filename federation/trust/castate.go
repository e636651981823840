package trust

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

const caKey = "trust/ca"

// caState is the region's CA: who signs, and which roots verify.
type caState struct {
	sequence uint64
	roots    []*x509.Certificate // the current one first
	signer   Signer
	embedded *embeddedCA // signer, when it is ours
	version  uint64      // of the record in the store
}

// caRecord is what the store holds of it.
type caRecord struct {
	Region      string   `json:"region"`
	TrustDomain string   `json:"trust_domain"`
	Sequence    uint64   `json:"sequence"`
	Roots       [][]byte `json:"roots"`           // DER
	Key         []byte   `json:"key,omitempty"`   // PKCS #8, of the first root; absent with an outside CA
	Cross       []byte   `json:"cross,omitempty"` // DER, see embeddedCA
}

func caUnusable(what string, err error) error {
	return &federation.Diagnostic{
		Code: codeCAUnusable,
		What: what,
		Why:  err.Error(),
		Fix:  "set region, trust_domain and gateway name as they were, or give the gateway a data_dir of its own",
		Err:  err,
	}
}

// loadCA reads the CA, and makes one when there is none. Between embedded and outside CA it goes over without losing the
// roots known so far.
func (a *Authority) loadCA(ctx context.Context) (caState, error) {
	const what = "the CA in the region's store cannot be used"
	var ca caState
	e, err := a.cfg.Store.Get(ctx, caKey)
	switch {
	case err == nil:
		if ca, err = a.parseCA(e); err != nil {
			return caState{}, caUnusable(what, err)
		}
	case !errors.Is(err, store.ErrNotFound):
		return caState{}, fmt.Errorf("read CA: %w", err)
	}
	next := ca
	switch {
	case a.cfg.Signer != nil:
		roots, err := a.cfg.Signer.Roots(ctx)
		if err != nil && len(ca.roots) == 0 {
			return caState{}, signerFailed("the outside CA did not tell its roots", err)
		}
		next.signer, next.embedded = a.cfg.Signer, nil
		next.roots = mergeRoots(roots, ca.roots, a.cfg.Now())
	case ca.embedded == nil:
		made, err := newCA(a.cfg.TrustDomain, a.cfg.Now(), nil)
		if err != nil {
			return caState{}, caUnusable("the region's CA cannot be made", err)
		}
		next.signer, next.embedded = made, made
		next.roots = mergeRoots([]*x509.Certificate{made.root}, ca.roots, a.cfg.Now())
	}
	if ca.version > 0 && next.embedded == ca.embedded && slices.EqualFunc(next.roots, ca.roots, (*x509.Certificate).Equal) {
		return next, nil
	}
	if err := checkRoots(next.roots); err != nil {
		return caState{}, caUnusable("the region's roots cannot be used", err)
	}
	next, op, err := a.changeCA(next)
	if err != nil {
		return caState{}, err
	}
	if next.version, err = a.cfg.Store.Commit(ctx, op); err != nil {
		return caState{}, fmt.Errorf("write CA: %w", err)
	}
	return next, nil
}

func (a *Authority) parseCA(e store.Entry) (caState, error) {
	var rec caRecord
	if err := json.Unmarshal(e.Value, &rec); err != nil {
		return caState{}, err
	}
	if rec.TrustDomain != a.cfg.TrustDomain.Name() {
		return caState{}, fmt.Errorf("it is the CA of trust domain %q, this region's is %q", rec.TrustDomain, a.cfg.TrustDomain)
	}
	// The trust domain alone does not tell: who renames a region may keep it, and peers would then be shown another author
	// under the identity that they know.
	if rec.Region != string(a.cfg.Region) {
		return caState{}, fmt.Errorf("it is the CA of region %q, this one is %q", rec.Region, a.cfg.Region)
	}
	ca := caState{sequence: rec.Sequence, version: e.Version}
	for _, der := range rec.Roots {
		root, err := x509.ParseCertificate(der)
		if err != nil {
			return caState{}, err
		}
		ca.roots = append(ca.roots, root)
	}
	if err := checkRoots(ca.roots); err != nil {
		return caState{}, err
	}
	if rec.Key == nil {
		return ca, nil
	}
	key, err := x509.ParsePKCS8PrivateKey(rec.Key)
	if err != nil {
		return caState{}, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return caState{}, fmt.Errorf("its key is a %T", key)
	}
	ca.embedded = &embeddedCA{key: signer, root: ca.roots[0]}
	if rec.Cross != nil {
		if ca.embedded.cross, err = x509.ParseCertificate(rec.Cross); err != nil {
			return caState{}, err
		}
	}
	ca.signer = ca.embedded
	return ca, nil
}

// changeCA returns ca with the next sequence number, and the operation that writes it over the version it had.
//
// The sequence is the time in milliseconds where that is ahead, so that a region whose store was restored from a backup
// still counts above what its peers have seen: otherwise they would refuse its next revocations as old news.
func (a *Authority) changeCA(ca caState) (caState, store.Op, error) {
	ca.sequence = max(ca.sequence+1, uint64(max(a.cfg.Now().UnixMilli(), 0)))
	rec := caRecord{Region: string(a.cfg.Region), TrustDomain: a.cfg.TrustDomain.Name(), Sequence: ca.sequence}
	for _, root := range ca.roots {
		rec.Roots = append(rec.Roots, root.Raw)
	}
	if ca.embedded != nil {
		key, err := x509.MarshalPKCS8PrivateKey(ca.embedded.key)
		if err != nil {
			return ca, store.Op{}, fmt.Errorf("encode CA key: %w", err)
		}
		rec.Key = key
		if ca.embedded.cross != nil {
			rec.Cross = ca.embedded.cross.Raw
		}
	}
	value, err := json.Marshal(rec)
	if err != nil {
		return ca, store.Op{}, fmt.Errorf("encode CA: %w", err)
	}
	return ca, store.Op{Key: caKey, Value: value, If: ca.version}, nil
}

// mergeRoots returns the roots of first, then those of more that are still valid at now.
func mergeRoots(first, more []*x509.Certificate, now time.Time) []*x509.Certificate {
	merged := slices.Clone(first)
	for _, root := range more {
		if !slices.ContainsFunc(merged, root.Equal) && now.Before(root.NotAfter) {
			merged = append(merged, root)
		}
	}
	return merged
}

// rotationDue reports whether a fifth of the embedded root's life is left: time enough for peers that are away for months.
func (a *Authority) rotationDue(now time.Time) bool {
	ca := a.state.Load().ca
	return ca.embedded != nil && now.After(ca.embedded.root.NotAfter.Add(-RootLife/5)) && len(ca.roots) < MaxRoots
}

// RotateCA replaces the root of the embedded CA. The new root signs from now on; the old one stays in the bundle until it
// expires, and its key, which has no more to do, is forgotten. Peers and workloads that have not heard of the new root accept
// its certificates through the old one's signature on it, so no session or handshake fails. It returns a Diagnostic when the
// CA is outside.
func (a *Authority) RotateCA(ctx context.Context) error {
	if err := a.replaceRoot(ctx); err != nil {
		return err
	}
	return a.renewGateway(ctx)
}

func (a *Authority) replaceRoot(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	ca, now := a.state.Load().ca, a.cfg.Now()
	if ca.embedded == nil {
		return noRotation("it is the business of the outside CA, whose new roots are taken over by themselves")
	}
	made, err := newCA(a.cfg.TrustDomain, now, ca.embedded)
	if err != nil {
		return caUnusable("the region's new CA cannot be made", err)
	}
	ca.roots = mergeRoots([]*x509.Certificate{made.root}, ca.roots, now)
	if len(ca.roots) > MaxRoots {
		return noRotation(fmt.Sprintf("%d of its roots are still valid, the most there can be", MaxRoots))
	}
	ca.signer, ca.embedded = made, made
	if err := a.commitCA(ctx, ca); err != nil {
		return err
	}
	a.cfg.Log.Info("the region's CA was rotated", "fingerprint", a.Fingerprint(), "valid_until", made.root.NotAfter)
	return nil
}

func noRotation(why string) error {
	return &federation.Diagnostic{
		Code: codeNoRotation,
		What: "the region's CA was not rotated",
		Why:  why,
		Fix:  "list the roots: tradewind cert list",
	}
}

// commitCA writes ca with further operations in the same commit and publishes it. The caller holds mu.
func (a *Authority) commitCA(ctx context.Context, ca caState, more ...store.Op) error {
	ca, op, err := a.changeCA(ca)
	if err != nil {
		return err
	}
	if ca.version, err = a.cfg.Store.Commit(ctx, append(more, op)...); err != nil {
		return fmt.Errorf("write CA: %w", err)
	}
	a.publish(func(s *state) { s.ca = ca })
	return nil
}

// refreshRoots takes over the roots of an outside CA and drops those that have expired.
func (a *Authority) refreshRoots(ctx context.Context) error {
	told, err := a.state.Load().ca.signer.Roots(ctx)
	if err != nil {
		return signerFailed("the outside CA did not tell its roots", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	ca := a.state.Load().ca
	if ca.embedded != nil {
		told = ca.roots[:1] // a rotation may have come between
	}
	roots := mergeRoots(told, ca.roots, a.cfg.Now())
	if slices.EqualFunc(roots, ca.roots, (*x509.Certificate).Equal) {
		return nil
	}
	if err := checkRoots(roots); err != nil {
		return signerFailed("the outside CA's roots cannot be used", err)
	}
	ca.roots = roots
	return a.commitCA(ctx, ca)
}

func signerFailed(what string, err error) error {
	return &federation.Diagnostic{
		Code: codeSigner,
		What: what,
		Why:  err.Error(),
		Fix:  "check the outside CA; certificates in use stay good until they expire: tradewind cert list",
		Err:  err,
	}
}

// rawChain and parseChain turn certificates into DER and back.
func rawChain(chain []*x509.Certificate) [][]byte {
	var raw [][]byte
	for _, c := range chain {
		raw = append(raw, c.Raw)
	}
	return raw
}

func parseChain(raw [][]byte) ([]*x509.Certificate, error) {
	return x509.ParseCertificates(bytes.Join(raw, nil))
}
