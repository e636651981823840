package trust

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

const (
	issuedPrefix  = "trust/issued/"
	gatewayPrefix = "trust/gateway/"
)

// signTimeout ends the wait for an outside CA: there are hours left to try again.
const signTimeout = 30 * time.Second

// SVID is an issued identity (X.509-SVID). The private key stays with whoever asked.
type SVID struct {
	ID           spiffeid.ID
	Certificates []*x509.Certificate // the leaf first, without the root
	Roots        []*x509.Certificate // what its holder must trust
	NotAfter     time.Time
}

// Certificate is the memory of a certificate that was issued and has not expired.
type Certificate struct {
	Serial   string      `json:"serial"`
	ID       spiffeid.ID `json:"id"`
	IssuedAt time.Time   `json:"issued_at"`
	NotAfter time.Time   `json:"not_after"`
	Revoked  bool        `json:"-"`
}

// Issue returns a certificate of WorkloadLife for pub as service. Nothing but the key is the caller's. It is written down
// before it is returned. A key that is not allowed, a CA that fails and too many certificates are Diagnostics.
func (a *Authority) Issue(ctx context.Context, service federation.ServiceName, pub crypto.PublicKey) (*SVID, error) {
	id, err := federation.WorkloadID(a.cfg.TrustDomain, service)
	if err == nil {
		_, err = federation.ServiceOf(id)
	}
	if err != nil {
		return nil, fmt.Errorf("issue certificate for service %q: %w", service, err)
	}
	if err := checkKey(pub); err != nil {
		return nil, &federation.Diagnostic{
			Code: codeKeyRefused,
			What: fmt.Sprintf("no certificate was issued for %s", id),
			Why:  err.Error(),
			Fix:  "make a P-256 key: openssl ecparam -name prime256v1 -genkey -noout -out key.pem",
			Err:  err,
		}
	}
	if err := a.makeRoom(ctx); err != nil {
		return nil, err
	}
	chain, op, err := a.issue(ctx, id, pub, WorkloadLife)
	if err != nil {
		return nil, err
	}
	if _, err := a.cfg.Store.Commit(ctx, op); err != nil {
		return nil, fmt.Errorf("write down certificate of %s: %w", id, err)
	}
	a.issued.Add(1)
	return &SVID{ID: id, Certificates: chain, Roots: a.state.Load().ca.roots, NotAfter: chain[0].NotAfter}, nil
}

// issue has the CA sign pub as id, verifies what it returns, and returns with it the operation that writes it down.
func (a *Authority) issue(
	ctx context.Context, id spiffeid.ID, pub crypto.PublicKey, life time.Duration,
) ([]*x509.Certificate, store.Op, error) {
	s, now := a.state.Load(), a.cfg.Now()
	p := Profile{ID: id, NotBefore: now.Add(-backdate), NotAfter: now.Add(life)}
	if at, ok := s.own.ids[id]; ok && p.NotBefore.Before(at) {
		p.NotBefore = at // or the revocation of its predecessors would end it as well
	}
	if until := s.ca.roots[0].NotAfter; s.ca.embedded != nil && until.Sub(now) < minLife {
		return nil, store.Op{}, caUnusable("the region's CA issues no more certificates", fmt.Errorf("its root is valid until %s", until))
	}
	signing, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	chain, err := s.ca.signer.Sign(signing, pub, p)
	if err != nil {
		return nil, store.Op{}, signerFailed(fmt.Sprintf("no certificate was issued for %s", id), err)
	}
	err = checkSigned(chain, pub, p)
	if err == nil {
		role, _ := federation.RoleOf(id)
		_, err = s.own.verify(chain, expectation{role: role, usage: x509.ExtKeyUsageServerAuth, now: maxTime(now, p.NotBefore)})
	}
	if err != nil {
		return nil, store.Op{}, &federation.Diagnostic{
			Code: codeSignerWrong,
			What: fmt.Sprintf("the CA returned a certificate that is not the one asked for, for %s", id),
			Why:  err.Error(),
			Fix:  "correct the profile or role of the outside CA: it must take every field from the request of Tradewind",
			Err:  err,
		}
	}
	record, err := json.Marshal(Certificate{Serial: serialOf(chain[0]), ID: id, IssuedAt: now.UTC(), NotAfter: chain[0].NotAfter})
	if err != nil {
		return nil, store.Op{}, fmt.Errorf("encode certificate of %s: %w", id, err)
	}
	return chain, store.Op{Key: issuedPrefix + serialOf(chain[0]), Value: record, Any: true}, nil
}

func maxTime(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// makeRoom refuses when the ledger is full of certificates that are still alive.
func (a *Authority) makeRoom(ctx context.Context) error {
	if a.issued.Load() < maxIssued {
		return nil
	}
	if err := a.pruneIssued(ctx); err != nil {
		return err
	}
	if n := a.issued.Load(); n >= maxIssued {
		return tooMany("no certificate was issued", fmt.Sprintf("%d certificates are alive, the most there can be", n),
			"find who asks so often: tradewind cert list; a workload needs a new certificate every half hour")
	}
	return nil
}

func tooMany(what, why, fix string) error {
	return &federation.Diagnostic{Code: codeTooMany, What: what, Why: why, Fix: fix}
}

// Issued returns the certificates that were issued and have not expired, by identity and age.
func (a *Authority) Issued(ctx context.Context) ([]Certificate, error) {
	list, err := a.cfg.Store.List(ctx, issuedPrefix)
	if err != nil {
		return nil, fmt.Errorf("list issued certificates: %w", err)
	}
	own, now := a.state.Load().own, a.cfg.Now()
	var alive []Certificate
	for _, e := range list {
		var c Certificate
		if err := json.Unmarshal(e.Value, &c); err != nil {
			return nil, fmt.Errorf("read %s: %w", e.Key, err)
		}
		if !now.Before(c.NotAfter) {
			continue
		}
		at, byID := own.ids[c.ID]
		c.Revoked = own.serials[c.Serial] || byID && !c.IssuedAt.Truncate(time.Second).After(at) // revocations are told to the second
		alive = append(alive, c)
	}
	slices.SortFunc(alive, func(a, b Certificate) int {
		if a.ID != b.ID {
			return slices.Compare([]string{a.ID.String()}, []string{b.ID.String()})
		}
		return a.IssuedAt.Compare(b.IssuedAt)
	})
	return alive, nil
}

// pruneIssued forgets the certificates that have expired.
func (a *Authority) pruneIssued(ctx context.Context) error {
	list, err := a.cfg.Store.List(ctx, issuedPrefix)
	if err != nil {
		return fmt.Errorf("list issued certificates: %w", err)
	}
	now := a.cfg.Now()
	var drop []store.Op
	for _, e := range list {
		var c Certificate
		if err := json.Unmarshal(e.Value, &c); err != nil || !now.Before(c.NotAfter) {
			drop = append(drop, store.Op{Key: e.Key, Delete: true, Any: true})
		}
	}
	for ops := range slices.Chunk(drop, store.MaxOps) {
		if _, err := a.cfg.Store.Commit(ctx, ops...); err != nil {
			return fmt.Errorf("forget expired certificates: %w", err)
		}
	}
	a.issued.Store(int64(len(list) - len(drop))) // what was issued meanwhile is counted the next time
	return nil
}

// gatewayRecord is the gateway's certificate as the store holds it, so that a restart needs no CA.
type gatewayRecord struct {
	Chain    [][]byte  `json:"chain"` // DER
	Key      []byte    `json:"key"`   // PKCS #8
	IssuedAt time.Time `json:"issued_at"`
}

// openGateway takes up the stored certificate of the gateway while it is in the first half of its life, or gets a new one. A
// CA that fails is no reason not to start while the stored one is good.
func (a *Authority) openGateway(ctx context.Context) error {
	stored, storedErr := a.loadGateway(ctx)
	if storedErr == nil {
		a.setGateway(stored)
		if !stored.due(a.cfg.Now()) {
			return nil
		}
	}
	err := a.renewGateway(ctx)
	if err != nil && storedErr == nil {
		a.cfg.Log.Error("the gateway's certificate was not renewed", "error", err, "valid_until", stored.mesh.Leaf.NotAfter)
		return nil
	}
	return err
}

func (a *Authority) loadGateway(ctx context.Context) (gatewayState, error) {
	e, err := a.cfg.Store.Get(ctx, gatewayPrefix+a.cfg.Gateway)
	if err != nil {
		return gatewayState{}, err
	}
	var rec gatewayRecord
	if err := json.Unmarshal(e.Value, &rec); err != nil {
		return gatewayState{}, err
	}
	key, keyErr := x509.ParsePKCS8PrivateKey(rec.Key)
	chain, err := parseChain(rec.Chain)
	if err := errors.Join(keyErr, err); err != nil {
		return gatewayState{}, err
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return gatewayState{}, fmt.Errorf("key is a %T", key)
	}
	g := newGateway(chain, signer, rec.IssuedAt)
	id, err := a.state.Load().own.verify(chain, expectation{role: federation.RoleGateway, usage: x509.ExtKeyUsageServerAuth, now: a.cfg.Now()})
	if err == nil && id != a.gatewayID {
		err = fmt.Errorf("certificate is for %s", id)
	}
	return g, err
}

// newGateway plans the renewal at half the certificate's life, give or take a tenth, so that gateways started together do not
// come to the CA together for ever.
func newGateway(chain []*x509.Certificate, key crypto.Signer, issuedAt time.Time) gatewayState {
	half := float64(chain[0].NotAfter.Sub(issuedAt)) / 2
	return gatewayState{
		mesh:     &tls.Certificate{Certificate: rawChain(chain), PrivateKey: key, Leaf: chain[0]},
		issuedAt: issuedAt,
		renewAt:  issuedAt.Add(time.Duration(half * (0.9 + 0.2*mathrand.Float64()))),
		names:    &nameCertificates{},
	}
}

// renewGateway gets the gateway a certificate with a new key. When it fails, the one in use stays, and Run tries again.
func (a *Authority) renewGateway(ctx context.Context) error {
	a.renewal.Lock()
	defer a.renewal.Unlock()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make gateway key: %w", err)
	}
	chain, op, err := a.issue(ctx, a.gatewayID, key.Public(), GatewayLife)
	if err != nil {
		a.renewalFailed(err)
		return err
	}
	issuedAt := a.cfg.Now()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode gateway key: %w", err)
	}
	value, err := json.Marshal(gatewayRecord{Chain: rawChain(chain), Key: pkcs8, IssuedAt: issuedAt.UTC()})
	if err != nil {
		return fmt.Errorf("encode gateway certificate: %w", err)
	}
	stored := store.Op{Key: gatewayPrefix + a.cfg.Gateway, Value: value, Any: true}
	if _, err := a.cfg.Store.Commit(ctx, op, stored); err != nil {
		// A full disk must not end the identity: the certificate is good, only a restart would not find it.
		a.cfg.Log.Error("the gateway's certificate is in use but was not written down", "error", err)
	} else {
		a.issued.Add(1)
	}
	a.setGateway(newGateway(chain, key, issuedAt))
	return nil
}

// renewalFailed makes the certificate due at once, and shows why it was not renewed.
func (a *Authority) renewalFailed(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.publish(func(s *state) {
		errors.As(err, &s.gateway.failed)
		s.gateway.renewAt = minTime(s.gateway.renewAt, a.cfg.Now())
	})
}

// setGateway publishes g as the gateway's certificate.
func (a *Authority) setGateway(g gatewayState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	join := *g.mesh
	join.Certificate = slices.Clone(g.mesh.Certificate)
	for _, root := range a.state.Load().ca.roots {
		if len(join.Certificate) < maxChain {
			join.Certificate = append(join.Certificate, root.Raw)
		}
	}
	g.join = &join
	a.publish(func(s *state) { s.gateway = g })
}
