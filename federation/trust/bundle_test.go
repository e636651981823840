package trust_test

import (
	"bytes"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
)

var domainB = spiffeid.RequireTrustDomainFromString("b.mesh.internal")

func sampleBundle(t testing.TB) trust.Bundle {
	t.Helper()
	now := time.Now()
	b := trusttest.NewForger(t, domainB, now).Bundle(7)
	b.Roots = append(b.Roots, trusttest.NewForger(t, domainB, now).Root)
	at := now.UTC().Truncate(time.Second)
	b.Revoked = []trust.Revocation{
		{Serial: "abc123", At: at, Until: at.Add(time.Hour)},
		{ID: spiffeid.RequireFromString("spiffe://b.mesh.internal/gw/gw-1"), At: at, Until: at.Add(time.Hour)},
	}
	return b
}

func sameBundle(a, b trust.Bundle) string {
	return cmp.Diff(a, b, cmp.Comparer(func(a, b *x509.Certificate) bool { return a.Equal(b) }),
		cmp.Comparer(func(a, b spiffeid.ID) bool { return a == b }), cmp.Comparer(func(a, b spiffeid.TrustDomain) bool { return a == b }))
}

func TestBundleRoundTrip(t *testing.T) {
	b := sampleBundle(t)
	data := b.Marshal()
	parsed, err := trust.ParseBundle(domainB, data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := sameBundle(b, parsed); diff != "" {
		t.Errorf("bundle changed on the way:\n%s", diff)
	}
	if !bytes.Equal(parsed.Marshal(), data) || !parsed.Equal(b) {
		t.Error("equal bundles give different octets")
	}
	if form := regexp.MustCompile(`^([0-9A-HJKMNP-TV-Z]{4}-){5}[0-9A-HJKMNP-TV-Z]{4}$`); !form.MatchString(b.Fingerprint()) {
		t.Errorf("fingerprint %q", b.Fingerprint())
	}
	swapped := b
	swapped.Roots = []*x509.Certificate{b.Roots[1], b.Roots[0]}
	if swapped.Fingerprint() != b.Fingerprint() {
		t.Error("the fingerprint depends on the order of the roots")
	}
	if one := (trust.Bundle{Roots: b.Roots[:1]}).Fingerprint(); one == b.Fingerprint() {
		t.Error("the fingerprint does not depend on all roots")
	}
	t.Logf("%s: 2 roots and 2 revocations take %d octets", b.Fingerprint(), len(data))
}

func TestBundleLimits(t *testing.T) {
	good := sampleBundle(t)
	data := string(good.Marshal())
	root := func(edit func(*trusttest.Leaf)) string {
		cert := trusttest.NewForger(t, domainB, time.Now()).Forge(t, edit)
		leaf, err := x509.ParseCertificate(cert.Certificate[0])
		if err != nil {
			t.Fatal(err)
		}
		b := good
		b.Roots = append(b.Roots[:1:1], leaf)
		return string(marshalUnchecked(t, b))
	}
	many := func(n int) string {
		b := good
		b.Roots = nil
		for range n {
			b.Roots = append(b.Roots, trusttest.NewForger(t, domainB, time.Now()).Root)
		}
		return string(marshalUnchecked(t, b))
	}
	if _, err := trust.ParseBundle(domainB, []byte(many(trust.MaxRoots))); err != nil {
		t.Errorf("%d roots: %v", trust.MaxRoots, err)
	}
	for name, data := range map[string]string{
		"nothing":            "",
		"no object":          "[]",
		"more behind":        data + "{}",
		"no SPIFFE part":     `{"trust_domain":"b.mesh.internal"}`,
		"null SPIFFE part":   `{"trust_domain":"b.mesh.internal","spiffe":null}`,
		"no keys":            `{"trust_domain":"b.mesh.internal","spiffe":{"keys":[],"spiffe_sequence":1}}`,
		"other domain":       strings.Replace(data, `"b.mesh.internal"`, `"c.mesh.internal"`, 1),
		"upper case":         strings.Replace(data, `"b.mesh.internal"`, `"B.mesh.internal"`, 1),
		"no sequence":        strings.Replace(data, `"spiffe_sequence":7`, `"other":7`, 1),
		"sequence 0":         strings.Replace(data, `"spiffe_sequence":7`, `"spiffe_sequence":0`, 1),
		"negative sequence":  strings.Replace(data, `"spiffe_sequence":7`, `"spiffe_sequence":-7`, 1),
		"fractional":         strings.Replace(data, `"spiffe_sequence":7`, `"spiffe_sequence":7.5`, 1),
		"leaf as root":       root(nil),
		"root that signs no": root(func(l *trusttest.Leaf) { l.IsCA = true }),
		"nine roots":         many(trust.MaxRoots + 1),
		"no roots":           many(0),
		"large":              strings.Repeat(" ", trust.MaxBundle) + data,
		"large SPIFFE part":  strings.Replace(data, `"spiffe_sequence"`, `"x":"`+strings.Repeat("x", 20_000)+`","spiffe_sequence"`, 1),
		"serial and ID":      strings.Replace(data, `"serial":"abc123"`, `"serial":"abc123","id":"spiffe://b.mesh.internal/gw/x"`, 1),
		"neither":            strings.Replace(data, `"serial":"abc123",`, ``, 1),
		"serial of letters":  strings.Replace(data, `"abc123"`, `"xyz"`, 1),
		"serial upper case":  strings.Replace(data, `"abc123"`, `"ABC123"`, 1),
		"long serial":        strings.Replace(data, `"abc123"`, `"`+strings.Repeat("f", 41)+`"`, 1),
		"foreign identity":   strings.Replace(data, `"spiffe://b.mesh`, `"spiffe://c.mesh`, 1),
		"times":              regexp.MustCompile(`"until":\d+`).ReplaceAllString(data, `"until":1`),
		"far times":          regexp.MustCompile(`"until":\d+`).ReplaceAllString(data, `"until":9223372036854775807`),
	} {
		if _, err := trust.ParseBundle(domainB, []byte(data)); federation.CodeOf(err) != "TW-2101" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := trust.ParseBundle(spiffeid.TrustDomain{}, []byte(`{"spiffe":{}}`)); federation.CodeOf(err) != "TW-2101" {
		t.Errorf("no trust domain expected: %v", err)
	}
	for name, b := range map[string]trust.Bundle{
		"no sequence": {TrustDomain: domainB, Roots: good.Roots},
		"no roots":    {TrustDomain: domainB, Sequence: 1},
		"zero":        {},
	} {
		if b.Marshal() != nil {
			t.Errorf("%s: it was marshalled", name)
		}
	}
}

// marshalUnchecked puts the roots of b into the form of a bundle, one by one so that Marshal's own check sees only good ones.
func marshalUnchecked(t testing.TB, b trust.Bundle) []byte {
	t.Helper()
	good := sampleBundle(t)
	good.Revoked = b.Revoked
	var doc map[string]any
	if err := json.Unmarshal(good.Marshal(), &doc); err != nil {
		t.Fatal(err)
	}
	keys := []any{}
	for _, root := range b.Roots {
		keys = append(keys, jwk(root))
	}
	doc["spiffe"].(map[string]any)["keys"] = keys
	data, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func jwk(root *x509.Certificate) map[string]any {
	b := trust.Bundle{TrustDomain: domainB, Sequence: 1, Roots: []*x509.Certificate{root}}
	var doc struct {
		SPIFFE struct{ Keys []map[string]any }
	}
	if json.Unmarshal(b.Marshal(), &doc) == nil && len(doc.SPIFFE.Keys) == 1 {
		return doc.SPIFFE.Keys[0]
	}
	return map[string]any{"use": "x509-svid", "kty": "EC", "x5c": [][]byte{root.Raw}} // what Marshal refuses
}

// FuzzParseBundle: whatever is accepted keeps the limits and means the same after another round.
func FuzzParseBundle(f *testing.F) {
	b := sampleBundle(f)
	f.Add(b.Marshal())
	b.Revoked = nil
	f.Add(b.Marshal())
	f.Add([]byte(`{"trust_domain":"b.mesh.internal","spiffe":{"keys":[],"spiffe_sequence":1},"revoked":[{"serial":"1","at":1,"until":2}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		b, err := trust.ParseBundle(domainB, data)
		if err != nil {
			if federation.CodeOf(err) != "TW-2101" {
				t.Fatalf("no diagnosis: %v", err)
			}
			return
		}
		n := len(b.Roots)
		if b.TrustDomain != domainB || b.Sequence == 0 || n == 0 || n > trust.MaxRoots || len(b.Revoked) > trust.MaxRevocations {
			t.Fatalf("accepted outside the limits: %+v", b)
		}
		again := b.Marshal()
		if again == nil {
			return // spelled out it can be longer than what was read
		}
		c, err := trust.ParseBundle(domainB, again)
		if err != nil || !c.Equal(b) {
			t.Fatalf("means something else the second time: %v\n%s", err, sameBundle(b, c))
		}
	})
}

func TestSetPeer(t *testing.T) {
	now := time.Now()
	f, g := trusttest.NewForger(t, domainB, now), trusttest.NewForger(t, domainB, now)
	a := trusttest.NewAuthority(t, "a")
	set := func(region federation.Region, td string, b trust.Bundle) error {
		return a.SetPeer(t.Context(), region, spiffeid.RequireTrustDomainFromString(td), b.Marshal())
	}
	roots := func(sequence uint64, roots ...*x509.Certificate) trust.Bundle {
		return trust.Bundle{TrustDomain: domainB, Sequence: sequence, Roots: roots}
	}
	domainC := spiffeid.RequireTrustDomainFromString("c.mesh.internal")
	past := trusttest.NewForger(t, domainB, now.Add(-2*365*24*time.Hour))
	long := roots(9, f.Root)
	long.Revoked = sampleBundle(t).Revoked
	for i, step := range []struct {
		name   string
		region federation.Region
		td     string
		bundle trust.Bundle
		code   federation.Code
	}{
		{"expired", "b", "b.mesh.internal", past.Bundle(1), "TW-2107"},
		{"of another domain", "b", "c.mesh.internal", f.Bundle(5), "TW-2101"},
		{"as ourselves", "a", "b.mesh.internal", f.Bundle(5), "TW-2105"},
		{"our own domain", "b", "a.mesh.internal", a.Bundle(), "TW-2105"},
		{"the first", "b", "b.mesh.internal", f.Bundle(5), ""},
		{"the same again", "b", "b.mesh.internal", f.Bundle(5), ""},
		{"the same number, another root", "b", "b.mesh.internal", roots(5, f.Root, g.Root), "TW-2104"},
		{"older", "b", "b.mesh.internal", f.Bundle(4), "TW-2102"},
		{"a domain that is taken", "c", "b.mesh.internal", f.Bundle(6), "TW-2105"},
		{"no root in common", "b", "b.mesh.internal", g.Bundle(6), "TW-2103"},
		{"both roots", "b", "b.mesh.internal", roots(6, g.Root, f.Root), ""},
		{"only the new root", "b", "b.mesh.internal", g.Bundle(7), ""},
		{"back to the first root", "b", "b.mesh.internal", f.Bundle(8), "TW-2103"},
		{"another domain for the region", "b", "c.mesh.internal", trusttest.NewForger(t, domainC, now).Bundle(9), "TW-2105"},
		{"a second peer", "c", "c.mesh.internal", trusttest.NewForger(t, domainC, now).Bundle(1), ""},
	} {
		err := set(step.region, step.td, step.bundle)
		expectCode(t, fmt.Sprintf("%d %s", i, step.name), err, step.code)
	}
	if err := set("not a region", "d.mesh.internal", f.Bundle(1)); err == nil {
		t.Error("a region of any form was accepted")
	}
	if b, ok := a.PeerBundle("b"); !ok || b.Sequence != 7 {
		t.Errorf("in force is %d, %v", b.Sequence, ok)
	}
	if err := a.RemovePeer(t.Context(), "b"); err != nil {
		t.Fatal(err)
	}
	if err := a.RemovePeer(t.Context(), "b"); err != nil {
		t.Errorf("removing twice: %v", err)
	}
	if _, ok := a.PeerBundle("b"); ok {
		t.Error("a removed peer is still known")
	}
	expectCode(t, "peered again with another CA", set("b", "b.mesh.internal", f.Bundle(1)), "")
	expectCode(t, "with revocations", set("b", "b.mesh.internal", long), "")
}
