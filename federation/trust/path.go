package trust

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// anchor is one set of roots, with the paths to them that were found. Every session shows the same few chains, and all live
// sessions are judged again whenever anything changes; the signatures of a chain, which is all that costs time, do not change.
type anchor struct {
	pool *x509.CertPool

	mu    sync.Mutex
	paths map[[32]byte]window
}

// window is when every certificate of a path is valid.
type window struct{ from, to time.Time }

// maxPaths bounds what is remembered. Only chains that the domain's CA signed get in, so only the domain itself can fill it,
// and then it costs its own sessions some computing.
const maxPaths = 4096

func newAnchor(roots ...*x509.Certificate) *anchor {
	a := &anchor{pool: x509.NewCertPool(), paths: map[[32]byte]window{}}
	for _, root := range roots {
		a.pool.AddCert(root)
	}
	return a
}

// checkPath returns nil when there is a path from chain[0] to a root of a by the rules of crypto/x509, name constraints
// included, all of it valid now.
func (a *anchor) checkPath(id spiffeid.ID, chain []*x509.Certificate, want expectation) error {
	leaf := chain[0]
	if want.now.Before(leaf.NotBefore) || want.now.After(leaf.NotAfter) {
		return outOfTime(id, leaf, want.now)
	}
	key := pathKey(chain, want.usage)
	a.mu.Lock()
	w, ok := a.paths[key]
	a.mu.Unlock()
	if ok && !want.now.Before(w.from) && !want.now.After(w.to) {
		return nil
	}
	w, err := a.findPath(id, chain, want)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.paths) >= maxPaths {
		clear(a.paths)
	}
	a.paths[key] = w
	return nil
}

// pathKey names the question that findPath answers: these octets, for this use.
func pathKey(chain []*x509.Certificate, usage x509.ExtKeyUsage) (key [32]byte) {
	h := sha256.New()
	h.Write([]byte{byte(usage)})
	for _, c := range chain {
		h.Write(c.Raw) // DER says its own length: no two chains give the same octets
	}
	h.Sum(key[:0])
	return key
}

func (a *anchor) findPath(id spiffeid.ID, chain []*x509.Certificate, want expectation) (window, error) {
	between := x509.NewCertPool()
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	paths, err := chain[0].Verify(x509.VerifyOptions{
		Roots:         a.pool,
		Intermediates: between,
		CurrentTime:   want.now,
		KeyUsages:     []x509.ExtKeyUsage{want.usage},
	})
	var invalid x509.CertificateInvalidError
	if errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert != nil {
		return window{}, outOfTime(id, invalid.Cert, want.now)
	}
	if err != nil {
		return window{}, untrusted(id, err)
	}
	var longest window
	for _, path := range paths {
		w := window{path[0].NotBefore, path[0].NotAfter}
		for _, c := range path[1:] {
			w.from, w.to = maxTime(w.from, c.NotBefore), minTime(w.to, c.NotAfter)
		}
		if w.to.After(longest.to) {
			longest = w
		}
	}
	return longest, nil
}
