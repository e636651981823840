package trust_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"maps"
	"math/big"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
)

const otherName = "\x06\x01\x2a\xa0\x02\x0c\x00" // type 1.2, an empty UTF8String

const own = "spiffe://b.mesh.internal" // the trust domain that the forger holds the CA of

func sans(names ...trusttest.Name) func(*trusttest.Leaf) {
	return func(l *trusttest.Leaf) { l.ExtraExtensions = []pkix.Extension{trusttest.Names(names...)} }
}

func uris(uris ...string) func(*trusttest.Leaf) {
	return func(l *trusttest.Leaf) { l.ExtraExtensions = []pkix.Extension{trusttest.URIs(uris...)} }
}

func keyed(t *testing.T, key crypto.Signer, err error) func(*trusttest.Leaf) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return func(l *trusttest.Leaf) { l.Key = key }
}

// forgery is one certificate that the owner of b's CA could make, and what must become of it.
type forgery struct {
	edit func(*trusttest.Leaf)
	code federation.Code // that it is refused with; "" when it is accepted; "*" when crypto/tls refuses it before us
	x509 bool            // crypto/x509 accepts it for all our constraints: only our own rules stand in the way
}

func forgeries(t *testing.T, f *trusttest.Forger) map[string]forgery {
	rsaKey, rsaErr := rsa.GenerateKey(rand.Reader, 2048)
	p384, p384Err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	_, ed, edErr := ed25519.GenerateKey(rand.Reader)
	gateway := trusttest.Name{Tag: trusttest.TagURI, Value: own + "/gw/gw-1"}
	edit := func(e func(*x509.Certificate)) func(*trusttest.Leaf) {
		return func(l *trusttest.Leaf) { e(&l.Certificate) }
	}
	return map[string]forgery{
		"flawless":          {nil, "", true},
		"flawless, Ed25519": {keyed(t, ed, edErr), "", true},

		// The name.
		"foreign domain":          {uris("spiffe://c.mesh.internal/gw/gw-1"), "TW-2201", false},
		"domain of the verifier":  {uris("spiffe://a.mesh.internal/gw/gw-1"), "TW-2201", false},
		"own and foreign URI":     {uris(own+"/gw/gw-1", "spiffe://c.mesh.internal/gw/gw-1"), "TW-2202", false},
		"two own URIs":            {uris(own+"/gw/gw-1", own+"/gw/gw-2"), "TW-2202", true},
		"the same URI twice":      {uris(own+"/gw/gw-1", own+"/gw/gw-1"), "TW-2202", true},
		"sub-domain":              {uris("spiffe://x.b.mesh.internal/gw/gw-1"), "TW-2201", true},
		"parent domain":           {uris("spiffe://mesh.internal/gw/gw-1"), "TW-2201", false},
		"user info":               {uris("spiffe://us@b.mesh.internal/gw/gw-1"), "TW-2202", true},
		"port":                    {uris("spiffe://b.mesh.internal:443/gw/gw-1"), "TW-2202", true},
		"other scheme":            {uris("https://b.mesh.internal/gw/gw-1"), "TW-2202", true},
		"upper-case scheme":       {uris("SPIFFE://b.mesh.internal/gw/gw-1"), "TW-2202", true},
		"upper-case host":         {uris("spiffe://B.mesh.internal/gw/gw-1"), "TW-2202", true},
		"trailing dot":            {uris("spiffe://b.mesh.internal./gw/gw-1"), "*", false},
		"escaped slash":           {uris(own + "/gw%2fgw-1"), "TW-2202", true},
		"escaped letter":          {uris(own + "/g%77/gw-1"), "TW-2202", true},
		"dot segments":            {uris(own + "/ns/../gw/gw-1"), "TW-2202", true},
		"empty segment":           {uris(own + "//gw/gw-1"), "TW-2202", true},
		"trailing slash":          {uris(own + "/gw/gw-1/"), "TW-2202", true},
		"query":                   {uris(own + "/gw/gw-1?x=y"), "TW-2202", true},
		"fragment":                {uris(own + "/gw/gw-1#x"), "TW-2202", true},
		"no path":                 {uris(own), "TW-2202", true},
		"NUL in the path":         {uris(own + "/gw/gw-1\x00"), "*", false},
		"too long":                {uris(own + "/gw/" + strings.Repeat("g", 2048)), "TW-2202", true},
		"no name at all":          {func(l *trusttest.Leaf) { l.ExtraExtensions = nil }, "TW-2202", true},
		"an empty list of names":  {sans(), "TW-2202", false},
		"URI in the common name":  {func(l *trusttest.Leaf) { l.ExtraExtensions, l.Subject.CommonName = nil, own+"/gw/gw-1" }, "TW-2202", true},
		"only a DNS name":         {sans(trusttest.Name{Tag: trusttest.TagDNS, Value: "b.mesh.internal"}), "TW-2202", true},
		"a DNS name besides":      {sans(gateway, trusttest.Name{Tag: trusttest.TagDNS, Value: "b.mesh.internal"}), "TW-2202", true},
		"a name of the internet":  {sans(gateway, trusttest.Name{Tag: trusttest.TagDNS, Value: "www.example.com"}), "TW-2202", false},
		"an IP address besides":   {sans(gateway, trusttest.Name{Tag: trusttest.TagIP, Value: "\xc0\x00\x02\x01"}), "TW-2202", false},
		"an e-mail besides":       {sans(gateway, trusttest.Name{Tag: trusttest.TagEmail, Value: "x@b.mesh.internal"}), "TW-2202", false},
		"an unknown name besides": {sans(gateway, trusttest.Name{Tag: trusttest.TagOther, Value: otherName}), "TW-2202", true},

		// The role.
		"workload":        {uris(own + "/ns/default/svc/web"), "TW-2204", true},
		"control plane":   {uris(own + "/cp"), "TW-2204", true},
		"unknown role":    {uris(own + "/admin/eve"), "TW-2202", true},
		"deeper path":     {uris(own + "/gw/gw-1/more"), "TW-2202", true},
		"upper-case role": {uris(own + "/GW/gw-1"), "TW-2202", true},

		// What the certificate may be used for.
		"CA as leaf":         {edit(func(c *x509.Certificate) { c.IsCA = true }), "TW-2202", true},
		"may sign":           {edit(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCertSign }), "TW-2202", true},
		"may sign lists":     {edit(func(c *x509.Certificate) { c.KeyUsage |= x509.KeyUsageCRLSign }), "TW-2202", true},
		"not for signatures": {edit(func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageKeyAgreement }), "TW-2202", true},
		"only server":        {edit(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[:1] }), "TW-2202", false},
		"only client":        {edit(func(c *x509.Certificate) { c.ExtKeyUsage = c.ExtKeyUsage[1:] }), "TW-2202", true},
		"any use":            {edit(func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageAny} }), "TW-2202", true},
		"no use named":       {edit(func(c *x509.Certificate) { c.ExtKeyUsage = nil }), "TW-2202", true},
		"RSA":                {keyed(t, rsaKey, rsaErr), "TW-2202", true},
		"P-384":              {keyed(t, p384, p384Err), "TW-2202", true},
		"unknown critical":   {func(l *trusttest.Leaf) { l.ExtraExtensions = append(l.ExtraExtensions, unknownExtension()) }, "TW-2205", false},
		"expired":            {edit(func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "TW-2206", false},
		"not yet valid":      {edit(func(c *x509.Certificate) { c.NotBefore = time.Now().Add(time.Hour) }), "TW-2206", false},
		"serial number zero": {edit(func(c *x509.Certificate) { c.SerialNumber = big.NewInt(0) }), "", true},
	}
}

// forgedPaths are the forgeries whose leaf is flawless.
func forgedPaths(t *testing.T, f *trusttest.Forger) map[string]forgery {
	other := trusttest.NewForger(t, f.TrustDomain, time.Now())
	p256, p256Err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	rsaKey, rsaErr := rsa.GenerateKey(rand.Reader, 2048)
	if err := errors.Join(p256Err, rsaErr); err != nil {
		t.Fatal(err)
	}
	through := func(key crypto.Signer, e func(*x509.Certificate)) func(*trusttest.Leaf) {
		return func(l *trusttest.Leaf) { f.Intermediate(t, l, key, e) }
	}
	return map[string]forgery{
		"through intermediate":    {through(p256, nil), "", true},
		"another CA of that name": {func(l *trusttest.Leaf) { *l = signedBy(t, other, *l) }, "TW-2205", false},
		"signed by itself":        {func(l *trusttest.Leaf) { l.Issuer, l.IssuerKey = &l.Certificate, l.Key }, "TW-2205", false},
		"through RSA":             {through(rsaKey, nil), "TW-2202", true},
		"through a leaf":          {through(p256, func(c *x509.Certificate) { c.IsCA = false }), "TW-2205", false},
		"through what expired":    {through(p256, func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Second) }), "TW-2206", false},
		"through a foreign CA": {
			through(p256, func(c *x509.Certificate) { c.PermittedURIDomains = []string{"c.internal"} }), "TW-2205", false,
		},
		"nine certificates": {func(l *trusttest.Leaf) { l.Intermediate = repeat(f.Root.Raw, 8) }, "TW-2202", true},
	}
}

func unknownExtension() pkix.Extension {
	return pkix.Extension{Id: []int{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}
}

func signedBy(t *testing.T, f *trusttest.Forger, l trusttest.Leaf) trusttest.Leaf {
	t.Helper()
	f.Forge(t, func(theirs *trusttest.Leaf) { l.Issuer, l.IssuerKey = theirs.Issuer, theirs.IssuerKey })
	return l
}

func repeat(der []byte, n int) [][]byte {
	var list [][]byte
	for range n {
		list = append(list, der)
	}
	return list
}

// TestForgedIdentities shows every forgery to a listener, to a dialler and to Judge. Many of them pass crypto/x509 with all
// the name constraints in place, which the test asserts as well: that is why acceptance is decided in this package.
func TestForgedIdentities(t *testing.T) {
	td := spiffeid.RequireTrustDomainFromString("b.mesh.internal")
	f := trusttest.NewForger(t, td, time.Now())
	a := trusttest.NewAuthority(t, "a")
	if err := a.SetPeer(t.Context(), "b", td, f.Bundle(1).Marshal()); err != nil {
		t.Fatal(err)
	}
	server := a.ServerTLS("cx/1", trust.JoinProtocol)
	client, err := a.ClientTLS("b", "cx/1")
	if err != nil {
		t.Fatal(err)
	}
	all := forgeries(t, f)
	maps.Copy(all, forgedPaths(t, f))
	for name, c := range all {
		t.Run(name, func(t *testing.T) {
			cert := f.Forge(t, c.edit)
			_, asClient := trusttest.Handshake(t, trusttest.Insecure(cert, "cx/1"), server)
			_, asServer := trusttest.Handshake(t, client, trusttest.Insecure(cert, "cx/1"))
			expectCode(t, "listener", asClient, c.code)
			if c.code == "TW-2201" { // the dialler knows whom it expects
				expectCode(t, "dialler", asServer, "TW-2203")
			} else {
				expectCode(t, "dialler", asServer, c.code)
			}
			chain, err := x509.ParseCertificates(join(cert.Certificate))
			if err != nil {
				return
			}
			if judged := a.Judge("b", chain); (judged == nil) != (c.code == "") {
				t.Errorf("Judge: %v", judged)
			}
			if err := pathOnly(f, chain); (err == nil) != c.x509 {
				t.Errorf("crypto/x509 alone: %v; expected acceptance: %v", err, c.x509)
			}
		})
	}
}

func join(ders [][]byte) []byte {
	var all []byte
	for _, der := range ders {
		all = append(all, der...)
	}
	return all
}

// pathOnly is what crypto/x509 says by itself about a client.
func pathOnly(f *trusttest.Forger, chain []*x509.Certificate) error {
	roots, between := x509.NewCertPool(), x509.NewCertPool()
	roots.AddCert(f.Root)
	for _, c := range chain[1:] {
		between.AddCert(c)
	}
	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	_, err := chain[0].Verify(x509.VerifyOptions{Roots: roots, Intermediates: between, KeyUsages: client})
	return err
}

func expectCode(t *testing.T, where string, err error, code federation.Code) {
	t.Helper()
	switch {
	case code == "" && err != nil:
		t.Errorf("%s refused it: %v", where, err)
	case code == "*" && err == nil:
		t.Errorf("%s accepted it", where)
	case code != "" && code != "*" && federation.CodeOf(err) != code:
		t.Errorf("%s: %v, want %s", where, err, code)
	}
}

// TestIssuedIdentity looks at every field of what we issue.
func TestIssuedIdentity(t *testing.T) {
	a := trusttest.NewAuthority(t, "a")
	cert := trusttest.Workload(t, a, "shop/web")
	leaf := cert.Leaf
	want := &url.URL{Scheme: "spiffe", Host: "a.mesh.internal", Path: "/ns/shop/svc/web"}
	switch {
	case len(leaf.URIs) != 1 || *leaf.URIs[0] != *want:
		t.Errorf("URIs are %v", leaf.URIs)
	case len(leaf.DNSNames)+len(leaf.IPAddresses)+len(leaf.EmailAddresses) != 0 || leaf.Subject.String() != "":
		t.Errorf("it has other names: %v %v %v %v", leaf.DNSNames, leaf.IPAddresses, leaf.EmailAddresses, leaf.Subject)
	case leaf.IsCA || !leaf.BasicConstraintsValid || leaf.KeyUsage != x509.KeyUsageDigitalSignature || len(leaf.ExtKeyUsage) != 2:
		t.Errorf("it may be used for more: CA %v, %v, %v", leaf.IsCA, leaf.KeyUsage, leaf.ExtKeyUsage)
	}
	if life := leaf.NotAfter.Sub(leaf.NotBefore); life != trust.WorkloadLife+5*time.Minute {
		t.Errorf("it is valid for %v", life)
	}
	root := a.Bundle().Roots[0]
	if !root.PermittedDNSDomainsCritical || len(root.PermittedURIDomains) != 1 || root.PermittedURIDomains[0] != "a.mesh.internal" {
		t.Errorf("the root permits %v (critical %v)", root.PermittedURIDomains, root.PermittedDNSDomainsCritical)
	}
	if life := root.NotAfter.Sub(root.NotBefore); life != trust.RootLife+5*time.Minute {
		t.Errorf("the root is valid for %v", life)
	}
}

func TestIssueRefusesKeys(t *testing.T) {
	a := trusttest.NewAuthority(t, "a")
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, pub := range map[string]crypto.PublicKey{
		"RSA":                 rsaKey.Public(),
		"P-384":               p384.Public(),
		"nil":                 nil,
		"short Ed25519":       ed25519.PublicKey(make([]byte, 31)),
		"nil curve":           &ecdsa.PublicKey{},
		"nil P-256":           (*ecdsa.PublicKey)(nil),
		"point off the curve": &ecdsa.PublicKey{Curve: elliptic.P256(), X: big.NewInt(1), Y: big.NewInt(1)},
	} {
		if _, err := a.Issue(t.Context(), federation.ServiceName{Namespace: "default", Name: "web"}, pub); federation.CodeOf(err) != "TW-2005" {
			t.Errorf("%s: %v", name, err)
		}
	}
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []federation.ServiceName{
		{},
		{Namespace: "default", Name: "UPPER"},
		{Namespace: "a/b", Name: "c"},
		{Namespace: "..", Name: "c"},
	} {
		if svid, err := a.Issue(t.Context(), name, pub); err == nil {
			t.Errorf("issued %v for %+v", svid.ID, name)
		}
	}
	if _, err := a.Issue(t.Context(), federation.ServiceName{Namespace: "default", Name: "web"}, pub); err != nil {
		t.Errorf("Ed25519: %v", err)
	}
}
