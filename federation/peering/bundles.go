package peering

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation/trust"
)

// parseValidBundle reads a bundle that came with a join; one of its roots must be valid now.
func parseValidBundle(td spiffeid.TrustDomain, data []byte, now time.Time) (trust.Bundle, error) {
	b, err := trust.ParseBundle(td, data)
	if err != nil {
		return trust.Bundle{}, err
	}
	if !slices.ContainsFunc(b.Roots, func(root *x509.Certificate) bool { return now.Before(root.NotAfter) }) {
		return trust.Bundle{}, errors.New("every root in it has expired")
	}
	return b, nil
}

// rootsHash names the roots of b. A redeemer that asks again may have a newer bundle, but it has the same roots.
func rootsHash(b trust.Bundle) []byte {
	var raw [][]byte
	for _, root := range b.Roots {
		raw = append(raw, root.Raw)
	}
	slices.SortFunc(raw, bytes.Compare)
	h := sha256.New()
	for _, r := range raw {
		sum := sha256.Sum256(r)
		h.Write(sum[:])
	}
	return h.Sum(nil)
}

func sharesRoot(a, b trust.Bundle) bool {
	return slices.ContainsFunc(a.Roots, func(root *x509.Certificate) bool { return slices.ContainsFunc(b.Roots, root.Equal) })
}

// pinned reports whether one of b's roots has the SPKI that pin names.
func pinned(b trust.Bundle, pin [sha256.Size]byte) bool {
	return slices.ContainsFunc(b.Roots, func(root *x509.Certificate) bool { return sha256.Sum256(root.RawSubjectPublicKeyInfo) == pin })
}

// fingerprintOf is the fingerprint of the bundle in r, which has been judged to be valid.
func fingerprintOf(r joinRequest) string {
	b, err := trust.ParseBundle(r.Domain, r.Bundle)
	if err != nil {
		return ""
	}
	return b.Fingerprint()
}
