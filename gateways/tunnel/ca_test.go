package tunnel

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// authority is a region's trust with the least that makes real handshakes: one root, one gateway certificate, the roots of peers.
type authority struct {
	region federation.Region
	domain spiffeid.TrustDomain
	root   *x509.Certificate
	key    *ecdsa.PrivateKey
	cert   atomic.Pointer[tls.Certificate]

	mu    sync.Mutex
	peers map[federation.Region]*authority
	bad   map[federation.Region]bool
}

func newAuthority(tb testing.TB, region federation.Region) *authority {
	tb.Helper()
	a := &authority{
		region: region, domain: federation.DefaultTrustDomain(region),
		peers: map[federation.Region]*authority{}, bad: map[federation.Region]bool{},
	}
	a.key = newKey(tb)
	a.root = signCert(tb, &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: string(region)}, IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(24 * time.Hour),
	}, nil, a.key, a.key)
	a.issue(tb, "/gw/one", 12*time.Hour)
	return a
}

// issue replaces the gateway's certificate.
func (a *authority) issue(tb testing.TB, path string, life time.Duration) {
	tb.Helper()
	key := newKey(tb)
	leaf := signCert(tb, &x509.Certificate{
		SerialNumber: big.NewInt(2), URIs: []*url.URL{{Scheme: "spiffe", Host: a.domain.Name(), Path: path}},
		KeyUsage: x509.KeyUsageDigitalSignature, NotAfter: time.Now().Add(life),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}, a.root, key, a.key)
	a.cert.Store(&tls.Certificate{Certificate: [][]byte{leaf.Raw, a.root.Raw}, PrivateKey: key, Leaf: leaf})
}

func newKey(tb testing.TB) *ecdsa.PrivateKey {
	tb.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		tb.Fatal(err)
	}
	return key
}

func signCert(tb testing.TB, template, parent *x509.Certificate, key, signer *ecdsa.PrivateKey) *x509.Certificate {
	tb.Helper()
	template.NotBefore = time.Now().Add(-time.Minute)
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		tb.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		tb.Fatal(err)
	}
	return cert
}

// introduce makes both authorities know each other's root.
func introduce(a, b *authority) {
	a.mu.Lock()
	a.peers[b.region] = b
	a.mu.Unlock()
	b.mu.Lock()
	b.peers[a.region] = a
	b.mu.Unlock()
}

// distrust makes every later judgement of peer fail.
func (a *authority) distrust(peer federation.Region) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.bad[peer] = true
}

var errDistrusted = errors.New("the certificate is revoked")

func (a *authority) verify(state tls.ConnectionState, only federation.Region) (federation.Region, spiffeid.ID, error) {
	if len(state.PeerCertificates) == 0 || len(state.PeerCertificates[0].URIs) != 1 {
		return "", spiffeid.ID{}, errors.New("no certificate")
	}
	leaf := state.PeerCertificates[0]
	id, err := spiffeid.FromURI(leaf.URIs[0])
	if err != nil {
		return "", spiffeid.ID{}, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for region, peer := range a.peers {
		if (only != "" && region != only) || !id.MemberOf(peer.domain) {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(peer.root)
		if a.bad[region] {
			return "", spiffeid.ID{}, errDistrusted
		}
		_, err := leaf.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
		return region, id, err
	}
	return "", spiffeid.ID{}, fmt.Errorf("%v is of no trust domain that is expected here", id)
}

func (a *authority) base(protos []string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, NextProtos: protos, SessionTicketsDisabled: true,
		GetCertificate:       func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.cert.Load(), nil },
		GetClientCertificate: func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return a.cert.Load(), nil },
	}
}

func (a *authority) ServerTLS(protos ...string) *tls.Config {
	conf := a.base(protos)
	if protos[0] == protoJoin {
		return conf
	}
	conf.ClientAuth = tls.RequireAnyClientCert
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		_, _, err := a.verify(state, "")
		return err
	}
	return conf
}

func (a *authority) ClientTLS(peer federation.Region, protos ...string) (*tls.Config, error) {
	conf := a.base(protos)
	conf.InsecureSkipVerify = true
	conf.VerifyConnection = func(state tls.ConnectionState) error {
		_, _, err := a.verify(state, peer)
		return err
	}
	return conf, nil
}

func (a *authority) pin() [32]byte { return sha256.Sum256(a.root.RawSubjectPublicKeyInfo) }

var errPin = errors.New("the root is not the one that the token names")

func (a *authority) JoinTLS(pin [32]byte) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true,
		VerifyConnection: func(state tls.ConnectionState) error {
			chain := state.PeerCertificates
			if root := chain[len(chain)-1]; sha256.Sum256(root.RawSubjectPublicKeyInfo) != pin || chain[0].CheckSignatureFrom(root) != nil {
				return errPin
			}
			return nil
		},
	}
}

func (a *authority) Identify(state tls.ConnectionState) (federation.Region, spiffeid.ID, error) {
	return a.verify(state, "")
}

func (a *authority) Judge(peer federation.Region, chain []*x509.Certificate) error {
	_, _, err := a.verify(tls.ConnectionState{PeerCertificates: chain}, peer)
	return err
}
