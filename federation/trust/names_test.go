package trust_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
)

// ordinary is a TLS client that knows nothing of SPIFFE: a bundle, a certificate and the name it wants.
func ordinary(t *testing.T, roots *x509.CertPool, own tls.Certificate, name string) *tls.Config {
	t.Helper()
	return &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, ServerName: name, Certificates: []tls.Certificate{own}}
}

func poolOf(a *trust.Authority) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, root := range a.Bundle().Roots {
		pool.AddCert(root)
	}
	return pool
}

func TestOrdinaryClientVerifiesTheNameItAskedFor(t *testing.T) {
	a := trusttest.NewAuthority(t, "a")
	web := trusttest.Workload(t, a, "web")
	for _, name := range []string{"checkout.mesh.internal", "checkout.shop.b.mesh.internal", "Checkout.B.mesh.internal"} {
		s := handshake(t, ordinary(t, poolOf(a), web, name), a.LocalTLS())
		leaf := s.Client.ConnectionState().PeerCertificates[0]
		if len(leaf.URIs) != 1 || leaf.URIs[0].String() != a.GatewayID().String() {
			t.Errorf("%s: the server shows %v, and is %v", name, leaf.URIs, a.GatewayID())
		}
	}
	for _, name := range []string{"www.example.com", "mesh.internal", "x..mesh.internal", "*.mesh.internal"} {
		if _, err := trusttest.Handshake(t, ordinary(t, poolOf(a), web, name), a.LocalTLS()); err == nil {
			t.Errorf("%s: the server is believed to be that", name)
		}
	}
}

func TestOrdinaryClientSurvivesARotation(t *testing.T) {
	a := trusttest.NewAuthority(t, "a")
	web, before := trusttest.Workload(t, a, "web"), poolOf(a)
	if err := a.RotateCA(context.Background()); err != nil {
		t.Fatal(err)
	}
	handshake(t, ordinary(t, before, web, "checkout.mesh.internal"), a.LocalTLS())
	handshake(t, ordinary(t, poolOf(a), web, "checkout.mesh.internal"), a.LocalTLS())
}

// TestNameCertificateIsNoIdentity: what a local caller is shown must open no door of the mesh, should its key ever leak.
func TestNameCertificateIsNoIdentity(t *testing.T) {
	a, b := trusttest.Pair(t, "a", "b")
	cert, err := a.LocalTLS().GetCertificate(&tls.ClientHelloInfo{ServerName: "checkout.mesh.internal"})
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Judge("a", []*x509.Certificate{cert.Leaf}); federation.CodeOf(err) == "" {
		t.Errorf("a peer takes it for a gateway's: %v", err)
	}
	if _, err := trusttest.Handshake(t, shows(*cert), b.ServerTLS("cx/1")); err == nil {
		t.Error("a peer's mesh listener lets it in")
	}
}

func TestNamesAreBounded(t *testing.T) {
	a := trusttest.NewAuthority(t, "a")
	ask := func(name string) *tls.Certificate {
		cert, err := a.LocalTLS().GetCertificate(&tls.ClientHelloInfo{ServerName: name})
		if err != nil {
			t.Fatal(err)
		}
		return cert
	}
	first := ask("checkout.mesh.internal")
	if ask("CHECKOUT.mesh.internal") != first {
		t.Error("the second caller got a certificate of its own")
	}
	for i := range 1100 {
		ask(fmt.Sprintf("s%d.mesh.internal", i))
	}
	if ask("checkout.mesh.internal") == first {
		t.Error("the certificate of every name ever asked for is kept")
	}
}
