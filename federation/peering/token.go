package peering

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Lifetimes of a token.
const (
	DefaultTokenTTL = 15 * time.Minute // long enough to paste it into another terminal, too short to lie about in a ticket
	MaxTokenTTL     = 24 * time.Hour   // an operator in another time zone
	MinTokenTTL     = time.Minute      // less cannot be used by hand
)

const (
	tokenPrefix  = "tw1."
	tokenVersion = 1
	useRedeem    = 1    // the only use so far
	tokenSum     = 4    // octets of SHA-256 that tell a cut token from a good one
	maxToken     = 4096 // characters; the largest valid one has about 3,400
)

// Token lets one named region join the region that made it, once. It is a secret until it is redeemed or expires.
type Token struct {
	Acceptor       federation.Region    // made it
	AcceptorDomain spiffeid.TrustDomain // its trust domain
	Pin            [sha256.Size]byte    // SHA-256 of the SPKI of its root, which the dialer's TLS must find
	Dialer         federation.Region    // the only region that may redeem it
	Secret         Secret               // never travels: the join proves that it is known
	Addresses      []string             // 1-8 "host:port" of the acceptor's gateways, in the order to try
	Expires        time.Time            // whole seconds
}

// Secret is what makes a token worth something. However it is printed or logged, it does not show.
type Secret [32]byte

// Format implements fmt.Formatter for every verb.
func (Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "hidden") }

// MarshalText hides the secret from JSON and logs.
func (Secret) MarshalText() ([]byte, error) { return []byte("hidden"), nil }

// Encode returns the text of t, which ParseToken reads. It fails only for a t that ParseToken would refuse.
func (t Token) Encode() (string, error) {
	var e encoder
	e.u8(tokenVersion)
	e.u8(useRedeem)
	e.u64(uint64(t.Expires.Unix()))
	e.raw(t.Pin[:])
	e.raw(t.Secret[:])
	e.text(string(t.Acceptor))
	e.text(t.AcceptorDomain.Name())
	e.text(string(t.Dialer))
	e.addresses(t.Addresses)
	sum := sha256.Sum256(e.b)
	e.raw(sum[:tokenSum])
	text := tokenPrefix + base64.RawURLEncoding.EncodeToString(e.b)
	if _, err := ParseToken(text); err != nil {
		return "", fmt.Errorf("encode token: %w", err)
	}
	return text, nil
}

// ParseToken reads the text of a token. Space around it is forgiven, anything else is not: there is exactly one text for
// one token. It does not judge whether the token has expired. A refusal is a *federation.Diagnostic with CodeTokenMalformed or
// CodeTokenVersion; its text never repeats the token.
func ParseToken(text string) (Token, error) {
	text = strings.TrimSpace(text)
	if len(text) > maxToken {
		return Token{}, malformedToken(fmt.Errorf("it has %d characters: at most %d are allowed", len(text), maxToken))
	}
	body, found := strings.CutPrefix(text, tokenPrefix)
	if !found {
		return Token{}, unprefixed(text)
	}
	if strings.Trim(body, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
		return Token{}, malformedToken(errors.New("it has characters that do not belong in a token"))
	}
	b, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(b) < tokenSum+2 {
		return Token{}, malformedToken(errors.New("a part of it is missing"))
	}
	b, sum := b[:len(b)-tokenSum], b[len(b)-tokenSum:]
	if want := sha256.Sum256(b); !slices.Equal(sum, want[:tokenSum]) {
		return Token{}, malformedToken(errors.New("its checksum is wrong: a part of it is missing or was changed"))
	}
	return decodeToken(b)
}

func decodeToken(b []byte) (Token, error) {
	d := decoder{b: b}
	if v := d.u8(); v != tokenVersion {
		return Token{}, unknownTokenVersion(fmt.Sprint(v))
	}
	if use := d.u8(); use != useRedeem {
		return Token{}, unknownTokenVersion(fmt.Sprintf("%d, use %d", tokenVersion, use))
	}
	var t Token
	seconds := d.u64()
	if seconds > 1<<40 { // the year 36812; keeps time.Time arithmetic away from its edges
		d.fail(errors.New("its expiry is out of bounds"))
	}
	t.Expires = time.Unix(int64(seconds), 0).UTC()
	copy(t.Pin[:], d.take(len(t.Pin)))
	copy(t.Secret[:], d.take(len(t.Secret)))
	t.Acceptor = d.region("acceptor")
	t.AcceptorDomain = d.domain("trust domain")
	t.Dialer = d.region("dialer")
	t.Addresses = d.addresses(1)
	if err := d.done(); err != nil {
		return Token{}, malformedToken(err)
	}
	return t, nil
}

// unprefixed tells a token of a later form ("tw2.") from something that is no token.
func unprefixed(text string) error {
	head, _, found := strings.Cut(text, ".")
	version, ours := strings.CutPrefix(head, "tw")
	if found && ours && len(version) > 0 && len(version) <= 4 && strings.Trim(version, "0123456789") == "" {
		return unknownTokenVersion(version)
	}
	return malformedToken(fmt.Errorf("it does not start with %q", tokenPrefix))
}

func malformedToken(err error) error {
	return &federation.Diagnostic{
		Code: federation.CodeTokenMalformed,
		What: "token cannot be read",
		Why:  err.Error(),
		Fix:  "copy the whole token, one line that starts with \"" + tokenPrefix + "\"",
		Err:  err,
	}
}

func unknownTokenVersion(version string) error {
	return &federation.Diagnostic{
		Code: federation.CodeTokenVersion,
		What: fmt.Sprintf("token has version %s", version),
		Why:  fmt.Sprintf("this release knows version %d", tokenVersion),
		Fix:  "upgrade this gateway, or make the token here and establish from the other side",
	}
}

// tokenID names a token without giving away its secret; it selects the token in a join.
type tokenID [16]byte

// id and key derive from the secret by one-way functions under different labels. The acceptor keeps only these two, so that
// not even its store holds the secret.
func (t Token) id() tokenID {
	sum := sha256.Sum256(append([]byte("tradewind token id\x00"), t.Secret[:]...))
	return tokenID(sum[:16])
}

func (t Token) key() [sha256.Size]byte {
	return sha256.Sum256(append([]byte("tradewind join/1 proof\x00"), t.Secret[:]...))
}
