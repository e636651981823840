package peering

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

func sampleToken() Token {
	t := Token{
		Acceptor:       "aws-us-east-1",
		AcceptorDomain: spiffeid.RequireTrustDomainFromString("aws-us-east-1.mesh.internal"),
		Dialer:         "gcp-europe-west1",
		Addresses:      []string{"203.0.113.7:8443", "[2001:db8::7]:8443", "gw.aws.example.com:8443"},
		Expires:        time.Unix(1_800_000_000, 0).UTC(),
	}
	for i := range t.Secret {
		t.Secret[i], t.Pin[i] = byte(i), byte(200-i)
	}
	return t
}

func mustEncode(t *testing.T, token Token) string {
	t.Helper()
	text, err := token.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func TestTokenSurvivesTheClipboard(t *testing.T) {
	want := sampleToken()
	text := mustEncode(t, want)
	for _, pasted := range []string{text, text + "\n", "  " + text + "\r\n"} {
		got, err := ParseToken(pasted)
		if err != nil {
			t.Fatalf("parse %q: %v", pasted, err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(sameDomain)); diff != "" {
			t.Error(diff)
		}
	}
}

func sameDomain(a, b spiffeid.TrustDomain) bool { return a == b }

func TestTokenIsNeverPrinted(t *testing.T) {
	token := sampleToken()
	secret := base64.RawURLEncoding.EncodeToString(token.Secret[:])[:20]
	var printed []string
	for _, form := range []string{"%v", "%s", "%+v", "%#v", "%d", "%x", "%q"} {
		printed = append(printed, fmt.Sprintf(form, token), fmt.Sprintf(form, &token), fmt.Sprintf(form, token.Secret))
	}
	var b strings.Builder
	slog.New(slog.NewJSONHandler(&b, nil)).Info("token", "token", token)
	for _, s := range append(printed, b.String()) {
		if strings.Contains(s, secret) || strings.Contains(s, "0x1, 0x2") || strings.Contains(s, "1 2 3") || strings.Contains(s, "1,2,3") ||
			strings.Contains(s, "010203") {
			t.Errorf("the secret is shown: %s", s)
		}
	}
}

func TestDamagedTokenIsRefused(t *testing.T) {
	good := mustEncode(t, sampleToken())
	remake := func(change func(b []byte) []byte) string { // with a correct checksum
		b, _ := base64.RawURLEncoding.DecodeString(good[len(tokenPrefix):])
		b = change(b[:len(b)-tokenSum])
		sum := sha256.Sum256(b)
		return tokenPrefix + base64.RawURLEncoding.EncodeToString(append(b, sum[:tokenSum]...))
	}
	for name, c := range map[string]struct {
		text string
		want federation.Code
	}{
		"empty":            {"", federation.CodeTokenMalformed},
		"other text":       {"hello world", federation.CodeTokenMalformed},
		"only the prefix":  {"tw1.", federation.CodeTokenMalformed},
		"cut":              {good[:len(good)-7], federation.CodeTokenMalformed},
		"wrapped":          {good[:40] + "\n" + good[40:], federation.CodeTokenMalformed},
		"one letter":       {good[:30] + flip(good[30:31]) + good[31:], federation.CodeTokenMalformed},
		"padded":           {good + "=", federation.CodeTokenMalformed},
		"huge":             {tokenPrefix + strings.Repeat("A", 1<<20), federation.CodeTokenMalformed},
		"later prefix":     {"tw2." + good[4:], federation.CodeTokenVersion},
		"later version":    {remake(func(b []byte) []byte { b[0] = 2; return b }), federation.CodeTokenVersion},
		"other use":        {remake(func(b []byte) []byte { b[1] = 9; return b }), federation.CodeTokenVersion},
		"trailing octets":  {remake(func(b []byte) []byte { return append(b, 0) }), federation.CodeTokenMalformed},
		"missing octets":   {remake(func(b []byte) []byte { return b[:len(b)-1] }), federation.CodeTokenMalformed},
		"upper case names": {strings.ToUpper(good), federation.CodeTokenMalformed},
	} {
		_, err := ParseToken(c.text)
		if got := federation.CodeOf(err); got != c.want {
			t.Errorf("%s: got %q (%v), want %s", name, got, err, c.want)
		}
		if err != nil && len(c.text) > 100 && strings.Contains(err.Error(), c.text[10:60]) {
			t.Errorf("%s: the refusal repeats the token", name)
		}
	}
}

// TestTokenCutAnywhereSaysSo: what is left of a token has no character that does not belong there.
func TestTokenCutAnywhereSaysSo(t *testing.T) {
	good := mustEncode(t, sampleToken())
	for i := range len(good) - len(tokenPrefix) {
		for _, cut := range []string{good[:len(tokenPrefix)+i], good[:len(tokenPrefix)+i] + good[len(tokenPrefix)+i+1:]} {
			if _, err := ParseToken(cut); err == nil || !strings.Contains(err.Error(), "missing") {
				t.Fatalf("cut at %d: %v", i, err)
			}
		}
	}
	if _, err := ParseToken(good[:40] + "\n" + good[40:]); err == nil || !strings.Contains(err.Error(), "do not belong") {
		t.Errorf("wrapped: %v", err)
	}
}

func flip(s string) string {
	if s == "A" {
		return "B"
	}
	return "A"
}

func TestEncodeRefusesWhatParseWould(t *testing.T) {
	for name, change := range map[string]func(*Token){
		"no address":         func(t *Token) { t.Addresses = nil },
		"nine addresses":     func(t *Token) { t.Addresses = strings.Split(strings.Repeat("192.0.2.1:8443,", 9)[:134], ",") },
		"wildcard address":   func(t *Token) { t.Addresses = []string{"0.0.0.0:8443"} },
		"port zero":          func(t *Token) { t.Addresses = []string{"192.0.2.1:0"} },
		"named port":         func(t *Token) { t.Addresses = []string{"192.0.2.1:https"} },
		"no port":            func(t *Token) { t.Addresses = []string{"192.0.2.1"} },
		"zone":               func(t *Token) { t.Addresses = []string{"[fe80::1%eth0]:8443"} },
		"space in host":      func(t *Token) { t.Addresses = []string{"gw example.com:8443"} },
		"long host":          func(t *Token) { t.Addresses = []string{strings.Repeat("a", 300) + ".example.com:8443"} },
		"bad region":         func(t *Token) { t.Dialer = "GCP" },
		"reserved region":    func(t *Token) { t.Acceptor = federation.Local },
		"no domain":          func(t *Token) { t.AcceptorDomain = spiffeid.TrustDomain{} },
		"before 1970":        func(t *Token) { t.Expires = time.Unix(-5, 0) },
		"long after us":      func(t *Token) { t.Expires = time.Unix(1<<41, 0) },
		"leading zero port":  func(t *Token) { t.Addresses = []string{"192.0.2.1:08443"} },
		"multicast address":  func(t *Token) { t.Addresses = []string{"[ff02::1]:8443"} },
		"underscore is fine": func(t *Token) { t.Addresses = []string{"_gw.example.com:8443"} },
	} {
		token := sampleToken()
		change(&token)
		_, err := token.Encode()
		if fine := strings.HasSuffix(name, "fine"); (err == nil) != fine {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func anyToken(t *rapid.T) Token {
	label := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`).Filter(func(s string) bool { return s != string(federation.Local) })
	address := rapid.StringMatching(`192\.0\.2\.[1-9]:[1-9][0-9]{0,3}|[a-z]{1,10}\.example\.com:8443`)
	token := Token{
		Acceptor:       federation.Region(label.Draw(t, "acceptor")),
		AcceptorDomain: spiffeid.RequireTrustDomainFromString(label.Draw(t, "domain") + ".mesh.internal"),
		Dialer:         federation.Region(label.Draw(t, "dialer")),
		Addresses:      rapid.SliceOfN(address, 1, MaxAddresses).Draw(t, "addresses"),
		Expires:        time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "exp"), 0).UTC(),
	}
	copy(token.Secret[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "secret"))
	copy(token.Pin[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "pin"))
	return token
}

func TestEveryTokenRoundTrips(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := anyToken(t)
		text, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := ParseToken(text)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got, cmp.Comparer(sameDomain)); diff != "" {
			t.Fatal(diff)
		}
	})
}

func TestIdentifierAndKeyTellNothingOfEachOther(t *testing.T) {
	token := sampleToken()
	id, key := token.id(), token.key()
	if strings.HasPrefix(string(key[:]), string(id[:])) {
		t.Error("the identifier is a prefix of the key")
	}
	other := token
	other.Secret[0] ^= 1
	if other.id() == id || other.key() == key {
		t.Error("another secret has the same identifier or key")
	}
}

func FuzzParseToken(f *testing.F) {
	text, err := sampleToken().Encode()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{text, "tw1.", "tw2.AAAA", text[:50], strings.ToUpper(text)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		token, err := ParseToken(s)
		if err != nil {
			if c := federation.CodeOf(err); c != federation.CodeTokenMalformed && c != federation.CodeTokenVersion {
				t.Fatalf("refusal without its code: %v", err)
			}
			return
		}
		again, err := token.Encode()
		if err != nil || again != strings.TrimSpace(s) {
			t.Fatalf("a token has two texts: %q and %q (%v)", s, again, err)
		}
	})
}

// FuzzDecodeToken goes past the checksum, which a fuzzer cannot guess.
func FuzzDecodeToken(f *testing.F) {
	text, err := sampleToken().Encode()
	if err != nil {
		f.Fatal(err)
	}
	b, _ := base64.RawURLEncoding.DecodeString(text[len(tokenPrefix):])
	f.Add(b[:len(b)-tokenSum])
	f.Fuzz(func(t *testing.T, b []byte) {
		token, err := decodeToken(b)
		if err != nil {
			return
		}
		if len(token.Addresses) == 0 || len(token.Addresses) > MaxAddresses || token.AcceptorDomain.IsZero() {
			t.Fatalf("out of bounds: %+v", token)
		}
		if _, err := token.Encode(); err != nil {
			t.Fatalf("cannot be encoded again: %v", err)
		}
	})
}
