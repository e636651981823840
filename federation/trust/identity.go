package trust

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// maxID is the longest SPIFFE ID (SPIFFE-ID section 2.3).
const maxID = 2048

// checkLeaf returns the identity that leaf speaks for, if leaf has the form of an identity: exactly one subject alternative
// name, which is a URI and, octet for octet, a SPIFFE ID with a path that stands for a role; a key of an allowed type, fit to
// sign handshakes in both directions and nothing else. It says nothing about who signed leaf.
func checkLeaf(leaf *x509.Certificate) (spiffeid.ID, federation.Role, error) {
	id, err := identityIn(leaf)
	if err != nil {
		return spiffeid.ID{}, federation.RoleNone, badForm(leaf, err)
	}
	role, _ := federation.RoleOf(id)
	switch {
	case leaf.IsCA || leaf.KeyUsage&(x509.KeyUsageCertSign|x509.KeyUsageCRLSign) != 0:
		err = errors.New("it is a CA certificate")
	case leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		err = errors.New("its key usage does not include digital signature")
	case !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageClientAuth) || !slices.Contains(leaf.ExtKeyUsage, x509.ExtKeyUsageServerAuth):
		err = errors.New("its extended key usage must be client and server authentication")
	case role == federation.RoleNone:
		err = fmt.Errorf("the path of %s stands for no role", id)
	default:
		err = checkKey(leaf.PublicKey)
	}
	if err != nil {
		return spiffeid.ID{}, federation.RoleNone, badForm(leaf, err)
	}
	return id, role, nil
}

var sanOID = asn1.ObjectIdentifier{2, 5, 29, 17} // RFC 5280 section 4.2.1.6

// identityIn reads the subject alternative name from the extension itself. leaf.URIs will not do: url.URL forgets the case of
// the scheme and some escapes, and crypto/x509 leaves out kinds of name that it does not know.
func identityIn(leaf *x509.Certificate) (spiffeid.ID, error) {
	at := slices.IndexFunc(leaf.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(sanOID) })
	if at < 0 {
		return spiffeid.ID{}, errors.New("it has no subject alternative name")
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(leaf.Extensions[at].Value, &names); err != nil || len(rest) != 0 {
		return spiffeid.ID{}, errors.New("its subject alternative name is not valid DER")
	}
	const uri = 6
	if len(names) != 1 || names[0].Class != asn1.ClassContextSpecific || names[0].Tag != uri || names[0].IsCompound {
		return spiffeid.ID{}, fmt.Errorf("it has %d subject alternative names: exactly one, a URI, is allowed", len(names))
	}
	if len(names[0].Bytes) > maxID {
		return spiffeid.ID{}, fmt.Errorf("its URI has %d octets: at most %d are allowed", len(names[0].Bytes), maxID)
	}
	id, err := spiffeid.FromString(string(names[0].Bytes))
	if err != nil {
		return spiffeid.ID{}, fmt.Errorf("its URI %q is no SPIFFE ID: %w", names[0].Bytes, err)
	}
	return id, nil
}

// checkKey applies the list of allowed keys: P-256 because everything supports it, Ed25519 because it is simplest. RSA is
// left out on purpose: a peer would choose how long we compute on its signatures.
func checkKey(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if k == nil || k.Curve != elliptic.P256() {
			break
		}
		if _, err := k.ECDH(); err != nil { // also refuses a point that is not on the curve
			return fmt.Errorf("its P-256 key is not valid: %w", err)
		}
		return nil
	case ed25519.PublicKey:
		if len(k) == ed25519.PublicKeySize {
			return nil
		}
	}
	return fmt.Errorf("its key is a %s: only ECDSA P-256 and Ed25519 are allowed", keyName(pub))
}

func keyName(pub crypto.PublicKey) string {
	if k, ok := pub.(*ecdsa.PublicKey); ok && k != nil && k.Curve != nil {
		return "ECDSA " + k.Curve.Params().Name
	}
	return fmt.Sprintf("%T", pub)
}
