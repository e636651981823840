package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3/acme"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestWhenACertificateIsRenewed(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		born := time.Unix(2e9, 0)
		life := time.Duration(rapid.Int64Range(-10, 400*24*3600).Draw(t, "life")) * time.Second
		leaf := &x509.Certificate{NotBefore: born, NotAfter: born.Add(life)}
		var a advice
		if rapid.Bool().Draw(t, "advised") {
			a.at = born.Add(time.Duration(rapid.Int64Range(-1e9, 1e9).Draw(t, "at")) * time.Second)
		}
		var ordered time.Time
		if rapid.Bool().Draw(t, "ordered") {
			ordered = born.Add(time.Duration(rapid.Int64Range(0, 3600).Draw(t, "after")) * time.Second)
		}
		at := renewalOf(leaf, a, ordered)
		switch {
		case !ordered.IsZero() && at.Before(ordered.Add(time.Second)):
			t.Fatal("one order after the other")
		case ordered.IsZero() && life > 3*time.Second && at.After(leaf.NotAfter.Add(-life/20)):
			t.Fatal("not before it ends")
		case ordered.IsZero() && a.at.IsZero() && life > 3*time.Second && !at.Equal(leaf.NotAfter.Add(-life/3)):
			t.Fatal("not when a third is left")
		}
	})
}

func TestPausesBetweenOrders(t *testing.T) {
	for n, last := 1, time.Duration(0); n < 100; n++ {
		wait := retryAfter(n)
		if wait < firstRetry || wait < last || wait > lastRetry*11/10 {
			t.Errorf("%v after failure %d, %v before", wait, n, last)
		}
		last = min(wait*10/11, lastRetry)
	}
}

// issued is a certificate as an authority makes it.
func issued(t *testing.T, name string, until time.Time) (cert, key []byte) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), DNSNames: []string{name},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: until}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	b, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: b})
}

func TestWhatWasIssuedIsKept(t *testing.T) {
	g := &federation.Ingress{Name: "public", Hosts: []federation.IngressHost{{Name: "a.example.com"}}, TLS: []federation.IngressTLS{
		{ACME: &federation.IngressACME{Email: "ops@example.com", Directory: "https://acme.example.com/dir"}}}}
	key := keysOf(g)[0]
	dir := t.TempDir()
	v := newVault(dir)
	put := func(cert, private []byte) {
		t.Helper()
		at := (&certmagic.ACMEIssuer{CA: key.directory}).IssuerKey()
		if err := errors.Join(v.Store(t.Context(), certmagic.StorageKeys.SiteCert(at, key.name), cert),
			v.Store(t.Context(), certmagic.StorageKeys.SitePrivateKey(at, key.name), private)); err != nil {
			t.Fatal(err)
		}
	}
	if c, err := v.load(key); c != nil || err != nil {
		t.Fatal(c, err)
	}
	end := time.Now().Add(time.Hour)
	cert, private := issued(t, key.name, end)
	put(cert, private)
	o := newOrders(dir, slog.New(slog.DiscardHandler))
	o.want(map[orderKey]bool{key: true})
	if c := o.served(g)[key.name]; c == nil || c.Leaf.VerifyHostname(key.name) != nil {
		t.Fatalf("after a restart %v is served", c)
	}
	o.fail(o.all[key], &net.DNSError{Err: "no such host", Name: "acme.example.com", IsNotFound: true})
	list := o.problems(g, time.Now())
	if len(list) != 1 || list[0].Code != federation.CodeIngressRenewal ||
		!strings.Contains(list[0].What, "is served until it ends "+end.UTC().Format(time.RFC3339)) {
		t.Errorf("%v", list)
	}
	list = o.problems(g, end.Add(time.Second))
	if len(list) != 1 || list[0].Code != federation.CodeIngressOrder || !strings.Contains(list[0].What, "has ended") {
		t.Errorf("%v", list)
	}
	o.want(nil)
	if len(o.served(g)) != 0 {
		t.Error("what is not wanted is served")
	}
	_, other := issued(t, key.name, end)
	put(cert, other)
	if _, err := v.load(key); !errors.Is(err, errDamaged) {
		t.Errorf("with the key of another one: %v", err)
	}
	put(issued(t, "b.example.com", end))
	if _, err := v.load(key); !errors.Is(err, errDamaged) {
		t.Errorf("for another name: %v", err)
	}
}

func TestFailuresAreExplained(t *testing.T) {
	for _, c := range []struct {
		err       error
		why, help string
	}{
		{fmt.Errorf("[a] Obtain: %w", acme.Problem{Type: acme.ProblemTypeNamespace + "connection", Detail: "10.0.0.1: Timeout\nduring connect"}),
			"the authority says: 10.0.0.1: Timeout during connect (connection)", "port 443"},
		{acme.Problem{Type: acme.ProblemTypeNamespace + "rateLimited", Detail: strings.Repeat("x", 1000)}, "...", "wait"},
		{acme.Problem{Type: acme.ProblemTypeNamespace + "dns", Detail: "NXDOMAIN"}, "NXDOMAIN", "A and AAAA"},
		{fmt.Errorf("get: %w", x509.UnknownAuthorityError{}), "unknown authority", "ca_file"},
		{fmt.Errorf("write: %w", os.ErrPermission), "permission denied", "data_dir"},
		{errNoDir, "no directory", "data_dir"},
	} {
		why, fix := explain(c.err)
		if !strings.Contains(why, c.why) || !strings.Contains(fix, c.help) || len(why) > 600 || strings.Contains(why, "\n") {
			t.Errorf("%v: %s\n%s", c.err, why, fix)
		}
	}
}

func TestProofsAreForThoseWhoOrder(t *testing.T) {
	tb := newTable(federation.Ingress{Hosts: []federation.IngressHost{{Name: "a.example.com"}}, TLS: []federation.IngressTLS{
		{ACME: &federation.IngressACME{Email: "ops@example.com"}}}}, nil)
	for _, hello := range []*tls.ClientHelloInfo{{ServerName: "a.example.com"},
		{ServerName: "a.example.com", SupportedProtos: []string{"h2", "acme-tls/1"}},
		{ServerName: "a.example.com", SupportedProtos: []string{"acme-tls/1"}},
		{ServerName: "b.example.com", SupportedProtos: []string{"acme-tls/1"}}} {
		if c, err := tb.proving(hello); c != nil || err != nil {
			t.Errorf("%+v: %v %v", hello, c, err)
		}
	}
}
