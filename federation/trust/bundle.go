package trust

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base32"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Limits of a bundle. They hold for what a peer sends before any of it is stored.
const (
	MaxBundle      = 48 << 10 // octets of a marshalled bundle: it must fit into one frame of the catalog exchange
	MaxRoots       = 8        // roots of one trust domain: two would do for a rotation, more for a chain of outside CAs
	MaxRevocations = 4096     // revocations in force at a time

	maxSPIFFEBundle = 16 << 10 // octets of the part in SPIFFE's format
	maxRootSize     = 4 << 10  // octets of one root; ours have 600
)

// refreshHint is what our bundle tells other SPIFFE software; Tradewind peers are told of changes at once.
const refreshHint = 5 * time.Minute

// Bundle is what one trust domain asks others to believe: its roots, and which of its certificates no longer count. It is
// immutable.
type Bundle struct {
	TrustDomain spiffeid.TrustDomain
	Sequence    uint64 // grows with every change, never back
	Roots       []*x509.Certificate
	Revoked     []Revocation
}

// Revocation ends certificates before they expire: the one with Serial, or all those of ID that were valid before At. A later
// certificate of ID counts again: to keep a service from calling, deny it by an intention.
type Revocation struct {
	Serial string      `json:"serial,omitempty"` // lower case hexadecimal without leading zeros; empty when ID is set
	ID     spiffeid.ID `json:"id,omitzero"`
	At     time.Time   `json:"at"`
	Until  time.Time   `json:"until"` // when the last certificate it concerns has expired, and it can be forgotten

	// For the region's own operators; not told to peers.
	Of     spiffeid.ID `json:"of,omitzero"` // whose certificate Serial is, when that was known
	Reason string      `json:"reason,omitempty"`
}

// wireBundle is the form of a bundle between peers: SPIFFE's document (SPIFFE Trust Domain and Bundle, section 4) with the
// trust domain and the revocations beside it, for which that format has no place. Fields may be added, never changed.
type wireBundle struct {
	TrustDomain string           `json:"trust_domain"`
	SPIFFE      json.RawMessage  `json:"spiffe"`
	Revoked     []wireRevocation `json:"revoked,omitempty"`
}

type wireRevocation struct {
	Serial string `json:"serial,omitempty"`
	ID     string `json:"id,omitempty"`
	At     int64  `json:"at"`    // Unix seconds
	Until  int64  `json:"until"` // Unix seconds
}

// Marshal returns the form that ParseBundle reads, or nil when b breaks a limit or has no sequence or root. Equal bundles
// give equal octets.
func (b Bundle) Marshal() []byte {
	doc := spiffebundle.FromX509Authorities(b.TrustDomain, b.Roots)
	doc.SetSequenceNumber(b.Sequence)
	doc.SetRefreshHint(refreshHint)
	spiffe, err := doc.Marshal()
	if err != nil {
		return nil
	}
	wire := wireBundle{TrustDomain: b.TrustDomain.Name(), SPIFFE: spiffe}
	for _, r := range b.Revoked {
		w := wireRevocation{Serial: r.Serial, At: r.At.Unix(), Until: r.Until.Unix()}
		if r.Serial == "" {
			w.ID = r.ID.String()
		}
		wire.Revoked = append(wire.Revoked, w)
	}
	data, err := json.Marshal(wire)
	if err != nil || len(data) > MaxBundle || len(spiffe) > maxSPIFFEBundle || b.Sequence == 0 || checkRoots(b.Roots) != nil {
		return nil
	}
	return data
}

// ParseBundle reads the bundle of trust domain td, which is the caller's expectation and never taken from data. A bundle that
// is not valid is a *federation.Diagnostic.
func ParseBundle(td spiffeid.TrustDomain, data []byte) (Bundle, error) {
	b, err := parseBundle(td, data)
	if err != nil {
		return Bundle{}, &federation.Diagnostic{
			Code: codeBundleInvalid,
			What: fmt.Sprintf("the trust bundle for %s is not valid", td),
			Why:  err.Error(),
			Fix:  "compare the versions of both regions; nothing was changed here",
			Err:  err,
		}
	}
	return b, nil
}

func parseBundle(td spiffeid.TrustDomain, data []byte) (Bundle, error) {
	if len(data) > MaxBundle {
		return Bundle{}, fmt.Errorf("it has %d octets: at most %d are allowed", len(data), MaxBundle)
	}
	var wire wireBundle
	if err := json.Unmarshal(data, &wire); err != nil {
		return Bundle{}, fmt.Errorf("read JSON: %w", err)
	}
	switch {
	case td.IsZero() || wire.TrustDomain != td.Name():
		return Bundle{}, fmt.Errorf("it is for trust domain %q", wire.TrustDomain)
	case len(wire.SPIFFE) > maxSPIFFEBundle:
		return Bundle{}, fmt.Errorf("its SPIFFE part has %d octets: at most %d are allowed", len(wire.SPIFFE), maxSPIFFEBundle)
	case len(wire.Revoked) > MaxRevocations:
		return Bundle{}, fmt.Errorf("it has %d revocations: at most %d are allowed", len(wire.Revoked), MaxRevocations)
	}
	doc, err := spiffebundle.Parse(td, wire.SPIFFE)
	if err != nil {
		return Bundle{}, err
	}
	b := Bundle{TrustDomain: td, Roots: doc.X509Authorities()}
	if b.Sequence, _ = doc.SequenceNumber(); b.Sequence == 0 {
		return Bundle{}, errors.New("it has no sequence number")
	}
	if err := checkRoots(b.Roots); err != nil {
		return Bundle{}, err
	}
	for _, w := range wire.Revoked {
		r, err := w.parse(td)
		if err != nil {
			return Bundle{}, err
		}
		b.Revoked = append(b.Revoked, r)
	}
	return b, nil
}

// checkRoots returns why roots cannot be the roots of a domain. Whether they have expired is for the moment of use.
func checkRoots(roots []*x509.Certificate) error {
	if len(roots) == 0 || len(roots) > MaxRoots {
		return fmt.Errorf("it has %d roots: between 1 and %d are allowed", len(roots), MaxRoots)
	}
	for i, root := range roots {
		switch {
		case len(root.Raw) > maxRootSize:
			return fmt.Errorf("root %d has %d octets: at most %d are allowed", i+1, len(root.Raw), maxRootSize)
		case !root.BasicConstraintsValid || !root.IsCA || root.KeyUsage&x509.KeyUsageCertSign == 0:
			return fmt.Errorf("root %d is no CA certificate", i+1)
		case slices.ContainsFunc(roots[:i], root.Equal):
			return fmt.Errorf("root %d is there twice", i+1)
		}
		if err := checkKey(root.PublicKey); err != nil {
			return fmt.Errorf("root %d: %w", i+1, err)
		}
	}
	return nil
}

func (w wireRevocation) parse(td spiffeid.TrustDomain) (Revocation, error) {
	r := Revocation{At: time.Unix(w.At, 0).UTC(), Until: time.Unix(w.Until, 0).UTC()}
	var err error
	switch {
	case w.At < 0 || w.At > maxUnix || w.Until < w.At || w.Until > maxUnix:
		return r, errors.New("a revocation has no valid times")
	case (w.Serial == "") == (w.ID == ""):
		return r, errors.New("a revocation must name either a serial number or an identity")
	case w.Serial != "":
		if r.Serial, err = parseSerial(w.Serial); err != nil || r.Serial != w.Serial {
			return r, fmt.Errorf("a revocation has the serial number %.48q", w.Serial)
		}
	default:
		if r.ID, err = spiffeid.FromString(w.ID); err != nil || !r.ID.MemberOf(td) || len(w.ID) > maxID {
			return r, fmt.Errorf("a revocation is of the identity %.80q, outside %s", w.ID, td)
		}
	}
	return r, nil
}

const maxUnix = 253402300799 // the last second of the year 9999, the end of X.509's times

// parseSerial reads a serial number as certificates and tools show it: hexadecimal of either case, perhaps with colons or
// leading zeros. It returns the form used here.
func parseSerial(s string) (string, error) {
	digits := strings.ReplaceAll(s, ":", "")
	n, ok := new(big.Int).SetString(digits, 16)
	plain := strings.Trim(digits, "0123456789abcdefABCDEF") == "" && len(s) <= 64
	if !ok || !plain || n.Sign() == 0 || n.BitLen() > 160 { // 20 octets: RFC 5280 section 4.1.2.2
		return "", fmt.Errorf("%.64q is no certificate serial number", s)
	}
	return n.Text(16), nil
}

func serialOf(c *x509.Certificate) string { return c.SerialNumber.Text(16) }

// Equal reports whether b and other say the same to peers.
func (b Bundle) Equal(other Bundle) bool { return bytes.Equal(b.Marshal(), other.Marshal()) }

// Fingerprint is a short name of the roots that two operators can compare aloud: 120 bits of SHA-256, in groups of four
// characters without I, L, O and U.
func (b Bundle) Fingerprint() string { return fingerprint(b.Roots...) }

var crockford = base32.NewEncoding("0123456789ABCDEFGHJKMNPQRSTVWXYZ").WithPadding(base32.NoPadding)

func fingerprint(roots ...*x509.Certificate) string {
	var pins []string
	for _, root := range roots {
		pin := pinOf(root)
		pins = append(pins, string(pin[:]))
	}
	slices.Sort(pins)
	sum := sha256.Sum256([]byte(strings.Join(pins, "")))
	text := crockford.EncodeToString(sum[:15])
	var groups []string
	for group := range slices.Chunk([]byte(text), 4) {
		groups = append(groups, string(group))
	}
	return strings.Join(groups, "-")
}

// pinOf is the SHA-256 of a certificate's public key with its algorithm (SubjectPublicKeyInfo, as in RFC 7469 section 2.4).
func pinOf(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

func sharesRoot(a, b []*x509.Certificate) bool {
	return slices.ContainsFunc(a, func(root *x509.Certificate) bool { return slices.ContainsFunc(b, root.Equal) })
}
