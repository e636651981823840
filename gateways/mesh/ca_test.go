package mesh_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// ca issues certificates to workloads, and judges them.
type ca struct {
	key     *ecdsa.PrivateKey
	root    *x509.Certificate
	server  tls.Certificate
	revoked atomic.Bool
}

func newCA(t *testing.T) *ca {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, NotBefore: time.Now().Add(-time.Minute),
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	c := &ca{key: key, root: root}
	id, err := federation.GatewayID(federation.DefaultTrustDomain("aws"), "one")
	if err != nil {
		t.Fatal(err)
	}
	c.server = c.issue(t, id, time.Hour)
	return c
}

func (c *ca) issue(t *testing.T, id spiffeid.ID, life time.Duration) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	// X.509 counts in seconds: round up, so that a short life is not over before it began.
	end := time.Now().Add(life + time.Second).Truncate(time.Second)
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-time.Minute), NotAfter: end,
		URIs: []*url.URL{id.URL()}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth},
	}, c.root, &key.PublicKey, c.key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func (c *ca) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(c.root)
	return p
}

func (c *ca) serverTLS() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{c.server},
		ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: c.pool(),
	}
}

// clientTLS verifies the gateway by its chain; the name is the service that is wanted, not the gateway's.
func (c *ca) clientTLS(name string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13, ServerName: name,
		InsecureSkipVerify: true, // the chain is verified below, by SPIFFE's rules and not by host name
		VerifyConnection: func(state tls.ConnectionState) error {
			_, err := state.PeerCertificates[0].Verify(x509.VerifyOptions{Roots: c.pool()})
			return err
		},
	}
}

func (c *ca) workload(state tls.ConnectionState) (spiffeid.ID, error) {
	if len(state.PeerCertificates) == 0 || len(state.PeerCertificates[0].URIs) != 1 {
		return spiffeid.ID{}, errors.New("no identity")
	}
	return spiffeid.FromURI(state.PeerCertificates[0].URIs[0])
}

func (c *ca) judge(region federation.Region, _ []*x509.Certificate) error {
	if region == "" && c.revoked.Load() {
		return errors.New("revoked")
	}
	return nil
}

// dialTLS connects as a workload does.
func dialTLS(address string, config *tls.Config) (*tls.Conn, error) {
	c, err := tls.Dial("tcp", address, config)
	if err == nil {
		_ = c.SetDeadline(time.Now().Add(5 * time.Second))
	}
	return c, err
}
