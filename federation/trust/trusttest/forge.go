package trusttest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"net"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
)

// Forger is a region's CA in the wrong hands: its root carries the same constraints as a real one, and it signs anything.
type Forger struct {
	TrustDomain spiffeid.TrustDomain
	Root        *x509.Certificate
	key         crypto.Signer
	now         time.Time
}

// NewForger returns a forger of td whose root is valid around now.
func NewForger(t testing.TB, td spiffeid.TrustDomain, now time.Time) *Forger {
	t.Helper()
	key := newKey(t)
	template := &x509.Certificate{
		SerialNumber:                newSerial(t),
		Subject:                     pkix.Name{CommonName: "Tradewind region CA"},
		NotBefore:                   now.Add(-time.Hour),
		NotAfter:                    now.Add(365 * 24 * time.Hour),
		KeyUsage:                    x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid:       true,
		IsCA:                        true,
		PermittedDNSDomainsCritical: true,
		PermittedURIDomains:         []string{td.Name()},
		PermittedDNSDomains:         []string{federation.MeshDomain},
		ExcludedEmailAddresses:      []string{""},
		ExcludedIPRanges: []*net.IPNet{
			{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)},
			{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)},
		},
	}
	f := &Forger{TrustDomain: td, key: key, now: now}
	f.Root = parse(t, create(t, template, template, key.Public(), key))
	return f
}

// Bundle is what the forger would tell peers.
func (f *Forger) Bundle(sequence uint64) trust.Bundle {
	return trust.Bundle{TrustDomain: f.TrustDomain, Sequence: sequence, Roots: []*x509.Certificate{f.Root}}
}

// Leaf is a certificate to be forged: a flawless gateway identity until a test changes it.
type Leaf struct {
	x509.Certificate
	Key          crypto.Signer // whose certificate it is
	Issuer       *x509.Certificate
	IssuerKey    crypto.Signer
	Intermediate [][]byte // DER, shown after the leaf
}

// Forge returns the certificate that edit leaves of a flawless one.
func (f *Forger) Forge(t testing.TB, edit func(*Leaf)) tls.Certificate {
	t.Helper()
	leaf := &Leaf{
		Certificate: x509.Certificate{
			SerialNumber:          newSerial(t),
			NotBefore:             f.now.Add(-5 * time.Minute),
			NotAfter:              f.now.Add(12 * time.Hour),
			KeyUsage:              x509.KeyUsageDigitalSignature,
			ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
			BasicConstraintsValid: true,
			ExtraExtensions:       []pkix.Extension{URIs("spiffe://" + f.TrustDomain.Name() + "/gw/gw-1")},
		},
		Key:       newKey(t),
		Issuer:    f.Root,
		IssuerKey: f.key,
	}
	if edit != nil {
		edit(leaf)
	}
	der := create(t, &leaf.Certificate, leaf.Issuer, leaf.Key.Public(), leaf.IssuerKey)
	return tls.Certificate{Certificate: append([][]byte{der}, leaf.Intermediate...), PrivateKey: leaf.Key}
}

// Intermediate makes l be signed by a CA of key that the forger's root has signed, and returns the template of that CA's
// certificate as it was before it was signed.
func (f *Forger) Intermediate(t testing.TB, l *Leaf, key crypto.Signer, edit func(*x509.Certificate)) {
	t.Helper()
	template := &x509.Certificate{
		SerialNumber:          newSerial(t),
		Subject:               pkix.Name{CommonName: "intermediate"},
		NotBefore:             f.now.Add(-time.Hour),
		NotAfter:              f.now.Add(24 * time.Hour),
		KeyUsage:              x509.KeyUsageCertSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
	}
	if edit != nil {
		edit(template)
	}
	der := create(t, template, l.Issuer, key.Public(), l.IssuerKey)
	l.Issuer, l.IssuerKey = parse(t, der), key
	l.Intermediate = append([][]byte{der}, l.Intermediate...)
}

// Name is one subject alternative name, as it is encoded: Tag is that of GeneralName (RFC 5280 section 4.2.1.6).
type Name struct {
	Tag   int
	Value string
}

// The tags of the names that tests use.
const (
	TagOther = 0
	TagEmail = 1
	TagDNS   = 2
	TagURI   = 6
	TagIP    = 7
)

// Names returns the subject alternative name extension with exactly these names, octet for octet.
func Names(names ...Name) pkix.Extension {
	var raw []asn1.RawValue
	for _, n := range names {
		raw = append(raw, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: n.Tag, IsCompound: n.Tag == TagOther, Bytes: []byte(n.Value)})
	}
	value, err := asn1.Marshal(raw)
	if err != nil {
		value = nil // only for a tag no name has
	}
	return pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: value}
}

// URIs returns the extension with URI names.
func URIs(uris ...string) pkix.Extension {
	var names []Name
	for _, u := range uris {
		names = append(names, Name{TagURI, u})
	}
	return Names(names...)
}

func newKey(t testing.TB) crypto.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newSerial(t testing.TB) *big.Int {
	t.Helper()
	n, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func create(t testing.TB, template, issuer *x509.Certificate, pub crypto.PublicKey, key crypto.Signer) []byte {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, template, issuer, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}
