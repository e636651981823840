package trust

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"testing"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// FuzzIdentity: the name that is read from a certificate is, octet for octet, in the certificate.
func FuzzIdentity(f *testing.F) {
	for _, names := range [][]asn1.RawValue{
		nil,
		{{Class: 2, Tag: 6, Bytes: []byte("spiffe://b.mesh.internal/gw/gw-1")}},
		{{Class: 2, Tag: 6, Bytes: []byte("spiffe://b.mesh.internal/gw/gw-1")}, {Class: 2, Tag: 2, Bytes: []byte("b.mesh.internal")}},
		{{Class: 2, Tag: 6, Bytes: []byte("SPIFFE://B.mesh.internal/gw%2fgw-1")}},
	} {
		der, err := asn1.Marshal(names)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(der)
	}
	f.Fuzz(func(t *testing.T, der []byte) {
		id, err := identityIn(&x509.Certificate{Extensions: []pkix.Extension{{Id: sanOID, Value: der}}})
		if err != nil {
			return
		}
		again, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 6, Bytes: []byte(id.String())}})
		if err != nil || string(again) != string(der) {
			t.Fatalf("%q was read from % x", id, der)
		}
		if other, err := spiffeid.FromString(id.String()); err != nil || other != id || len(id.String()) > maxID {
			t.Fatalf("%q is no SPIFFE ID: %v", id, err)
		}
	})
}

func FuzzSerial(f *testing.F) {
	for _, s := range []string{"", "0", "abc", "00:AB:cd", "+1", "_1", "0x1", "ffffffffffffffffffffffffffffffffffffffff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n, err := parseSerial(s)
		if err != nil {
			return
		}
		if again, err := parseSerial(n); err != nil || again != n || n == "" || n[0] == '0' {
			t.Fatalf("%q was read as %q, and that as %q, %v", s, n, again, err)
		}
	})
}
