package trust

import (
	"crypto/x509"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// maxChain is the most certificates that a peer may present. Ours have two, or three after a rotation of the root.
const maxChain = 8

// domain is one trust domain as we know it at one moment: the only pool its certificates are verified against. It is
// immutable; a change makes another one.
type domain struct {
	region  federation.Region // "" for our own
	bundle  Bundle
	anchor  *anchor
	serials map[string]bool
	ids     map[spiffeid.ID]time.Time // valid before then: revoked
}

// newDomain takes the revocations apart from the bundle, because of our own domain we know more than we tell. old is what it
// follows, or nil: with the same roots, the paths found so far are still good.
func newDomain(old *domain, region federation.Region, bundle Bundle, revoked []Revocation) *domain {
	d := &domain{region: region, bundle: bundle, serials: map[string]bool{}, ids: map[spiffeid.ID]time.Time{}}
	if old != nil && slices.EqualFunc(old.bundle.Roots, bundle.Roots, (*x509.Certificate).Equal) {
		d.anchor = old.anchor
	} else {
		d.anchor = newAnchor(bundle.Roots...)
	}
	for _, r := range revoked {
		if r.Serial != "" {
			d.serials[r.Serial] = true
		} else if r.At.After(d.ids[r.ID]) {
			d.ids[r.ID] = r.At
		}
	}
	return d
}

// expectation is who may be at the other end.
type expectation struct {
	role  federation.Role
	usage x509.ExtKeyUsage // what the chain must allow its leaf to be used for
	now   time.Time
}

// verify returns the identity that chain proves in d, or a Diagnostic. It is the whole judgement: form, trust domain, role,
// time, path to a root of d, and revocation. That the other side holds the key is proved by the handshake.
func (d *domain) verify(chain []*x509.Certificate, want expectation) (spiffeid.ID, error) {
	id, role, err := checkChain(chain)
	switch {
	case err != nil:
		return spiffeid.ID{}, err
	case !id.MemberOf(d.bundle.TrustDomain):
		return spiffeid.ID{}, wrongDomain(id, d.bundle.TrustDomain)
	case role != want.role:
		return spiffeid.ID{}, wrongRole(id, role, want.role)
	}
	if err := d.revoked(id, chain); err != nil { // before the costly part, and said even of what has expired as well
		return spiffeid.ID{}, err
	}
	if err := d.anchor.checkPath(id, chain, want); err != nil {
		return spiffeid.ID{}, err
	}
	return id, nil
}

// checkChain applies the rules that need no root: they come first because they are cheap.
func checkChain(chain []*x509.Certificate) (spiffeid.ID, federation.Role, error) {
	switch {
	case len(chain) == 0:
		return spiffeid.ID{}, federation.RoleNone, noCertificate()
	case len(chain) > maxChain:
		return spiffeid.ID{}, federation.RoleNone, longChain(len(chain))
	}
	for _, c := range chain[1:] {
		if err := checkKey(c.PublicKey); err != nil {
			return spiffeid.ID{}, federation.RoleNone, badForm(c, err)
		}
	}
	return checkLeaf(chain[0])
}

func (d *domain) revoked(id spiffeid.ID, chain []*x509.Certificate) error {
	if len(d.serials) > 0 {
		for _, c := range chain {
			if serial := serialOf(c); d.serials[serial] {
				return revokedError(id, serial)
			}
		}
	}
	if at, ok := d.ids[id]; ok && chain[0].NotBefore.Before(at) {
		return revokedError(id, serialOf(chain[0]))
	}
	return nil
}

// validUntil is when the last root of roots expires.
func validUntil(roots []*x509.Certificate) time.Time {
	var last time.Time
	for _, root := range roots {
		if root.NotAfter.After(last) {
			last = root.NotAfter
		}
	}
	return last
}
