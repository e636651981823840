package trust

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Lifetimes.
const (
	WorkloadLife = time.Hour      // short enough that losing a key is over before lunch; renewed every half hour
	GatewayLife  = 12 * time.Hour // a region survives a night without its CA
	RootLife     = 5 * 365 * 24 * time.Hour

	// backdate is how far NotBefore lies in the past, for verifiers whose clock is behind.
	backdate = 5 * time.Minute
	// minLife is the least time a certificate must be good for, to be worth issuing.
	minLife = time.Minute
	// maxIssued is the most certificates that can be alive at a time: 16,000 workloads that renew every half hour.
	maxIssued = 1 << 15
)

// Profile is everything that a certificate says besides its key. A CA that puts anything else into it is not obeyed.
type Profile struct {
	ID        spiffeid.ID
	NotBefore time.Time
	NotAfter  time.Time
}

// Signer is a certificate authority outside the gateway that signs for the region. What it returns is verified before it is
// used; an outage does no harm until certificates expire, because each is renewed at half its life.
type Signer interface {
	// Sign returns a certificate of pub by profile, followed by its intermediates without the root. The certificate must carry
	// profile.ID as its only subject alternative name, digital signature, client and server authentication, and lie within
	// the times of profile.
	Sign(ctx context.Context, pub crypto.PublicKey, profile Profile) ([]*x509.Certificate, error)
	// Roots returns the roots that verify what Sign returns, the current one first.
	Roots(ctx context.Context) ([]*x509.Certificate, error)
}

// embeddedCA is the Signer inside the gateway. It is immutable.
type embeddedCA struct {
	key   crypto.Signer
	root  *x509.Certificate
	cross *x509.Certificate // root, signed by its predecessor: for verifiers that know only that one; nil without a predecessor
}

func (c *embeddedCA) Roots(context.Context) ([]*x509.Certificate, error) {
	return []*x509.Certificate{c.root}, nil
}

func (c *embeddedCA) Sign(_ context.Context, pub crypto.PublicKey, p Profile) ([]*x509.Certificate, error) {
	return c.signWith(pub, p, nil)
}

// signWith signs a certificate by profile. With DNS names it is one that serves them and is no identity: checkLeaf allows
// those no second name, and client authentication is left out.
func (c *embeddedCA) signWith(pub crypto.PublicKey, p Profile, names []string) ([]*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		URIs:                  []*url.URL{p.ID.URL()},
		DNSNames:              names,
		NotBefore:             p.NotBefore,
		NotAfter:              minTime(p.NotAfter, c.root.NotAfter),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
	if names != nil {
		template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}
	}
	leaf, err := sign(template, c.root, pub, c.key)
	if err != nil {
		return nil, err
	}
	chain := []*x509.Certificate{leaf}
	if c.cross != nil && c.cross.NotAfter.After(p.NotBefore) {
		chain = append(chain, c.cross)
	}
	return chain, nil
}

// newCA makes a root for td that begins at now. When there is a predecessor, its key signs the new root as well: who knows
// only the old root then accepts the new one's certificates at once, and no moment of the change depends on who has heard of it.
func newCA(td spiffeid.TrustDomain, now time.Time, predecessor *embeddedCA) (*embeddedCA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make CA key: %w", err)
	}
	template, err := rootTemplate(td, now)
	if err != nil {
		return nil, err
	}
	root, err := sign(template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	c := &embeddedCA{key: key, root: root}
	if predecessor == nil {
		return c, nil
	}
	crossed := *template
	if crossed.SerialNumber, err = newSerial(); err != nil {
		return nil, err
	}
	crossed.MaxPathLen, crossed.MaxPathLenZero = 0, true
	crossed.NotAfter = minTime(template.NotAfter, predecessor.root.NotAfter)
	crossed.SubjectKeyId = root.SubjectKeyId
	c.cross, err = sign(&crossed, predecessor.root, key.Public(), predecessor.key)
	return c, err
}

func rootTemplate(td spiffeid.TrustDomain, now time.Time) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	return &x509.Certificate{
		SerialNumber: serial,
		// The serial number in the name tells two roots of a region apart, for people and for path building.
		Subject:               pkix.Name{CommonName: "Tradewind region CA", SerialNumber: serial.Text(16)[:8]},
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(RootLife),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLen:            1, // the successor, crossed

		// Depth for verifiers other than ours: URIs of this domain (and, by RFC 5280, its sub-domains), and the names that local
		// callers ask for services by. Ours allow an identity no DNS name at all.
		PermittedDNSDomainsCritical: true, // makes the whole extension critical
		PermittedURIDomains:         []string{td.Name()},
		PermittedDNSDomains:         []string{federation.MeshDomain},
		ExcludedEmailAddresses:      []string{""},
		ExcludedIPRanges: []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
			{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		},
	}, nil
}

func sign(template, parent *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, pub, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return x509.ParseCertificate(der)
}

// newSerial returns 126 random bits with the highest one set, so that every serial number prints with the same length.
func newSerial() (*big.Int, error) {
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 126))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	return n.SetBit(n, 126, 1), nil
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// checkSigned returns how chain differs from what was asked of a Signer.
func checkSigned(chain []*x509.Certificate, pub crypto.PublicKey, p Profile) error {
	id, _, err := checkChain(chain)
	if err != nil {
		return err
	}
	leaf := chain[0]
	same, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	switch {
	case id != p.ID:
		return fmt.Errorf("it is for %s", id)
	case !ok || !same.Equal(pub):
		return errors.New("it is for another key")
	case leaf.NotAfter.After(p.NotAfter.Add(time.Second)):
		return fmt.Errorf("it is valid until %s: %s was asked for", leaf.NotAfter, p.NotAfter)
	}
	return nil
}
