package jwt

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

// signer is a key of a provider of tokens.
type signer struct {
	kid string
	alg jose.SignatureAlgorithm
	key crypto.Signer
}

func newSigner(t testing.TB, kid string, alg jose.SignatureAlgorithm) signer {
	t.Helper()
	var key crypto.Signer
	var err error
	if strings.HasPrefix(string(alg), "ES") {
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	} else {
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return signer{kid, alg, key}
}

func (s signer) jwk() jose.JSONWebKey {
	return jose.JSONWebKey{Key: s.key.Public(), KeyID: s.kid, Use: "sig"}
}

func setOf(t testing.TB, keys ...jose.JSONWebKey) string {
	t.Helper()
	b, err := json.Marshal(jose.JSONWebKeySet{Keys: keys})
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// sign makes a token. extra are further header fields.
func (s signer) sign(t testing.TB, claims map[string]any, extra ...map[jose.HeaderKey]any) string {
	t.Helper()
	o := &jose.SignerOptions{}
	if s.kid != "" {
		o = o.WithHeader("kid", s.kid)
	}
	for _, fields := range extra {
		for k, v := range fields {
			o = o.WithHeader(k, v)
		}
	}
	return compact(t, s.alg, s.key, o, claims)
}

func compact(t testing.TB, alg jose.SignatureAlgorithm, key any, o *jose.SignerOptions, claims map[string]any) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: alg, Key: key}, o)
	if err != nil {
		t.Fatal(err)
	}
	payload, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(payload)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

const issuer = "https://idp.example.com"

// good is what a token claims that is in order; changes are pairs of name and value, nil removes.
func good(changes ...any) map[string]any {
	claims := map[string]any{"iss": issuer, "aud": "orders", "exp": time.Now().Add(time.Hour).Unix(), "roles": []string{"admin"}}
	for i := 0; i+1 < len(changes); i += 2 {
		if claims[changes[i].(string)] = changes[i+1]; changes[i+1] == nil {
			delete(claims, changes[i].(string))
		}
	}
	return claims
}

func idp(keys string) federation.JWT {
	return federation.JWT{Name: "idp", Issuer: issuer, Audiences: []string{"orders"}, JWKS: keys}
}

func bearer(token string) http.Header { return http.Header{"Authorization": {"Bearer " + token}} }

var asksIDP = []match.Ask{{Provider: "idp", Enforced: true}}

func verifier(list ...federation.JWT) *Verifier {
	v := New(Config{})
	v.Apply(list)
	return v
}

// refused fails unless the answer for header is a refusal for want; an empty want is none.
func refused(t *testing.T, v *Verifier, asks []match.Ask, header http.Header, want Reason) Result {
	t.Helper()
	for range 2 { // the second answer may be one that is remembered
		result, refusal := v.Verify(context.Background(), asks, header)
		got := Reason("")
		if refusal != nil {
			got = refusal.Reason
			if !strings.HasPrefix(refusal.Challenge(), `Bearer error="invalid_token", error_description="`) || words[got] == "" {
				t.Errorf("the challenge is %q", refusal.Challenge())
			}
		}
		if got != want || want != "" && len(result.Tokens) != 0 {
			t.Fatalf("refused for %q, want %q, tokens %v", got, want, result.Tokens)
		}
		if want == "" {
			return result
		}
	}
	return Result{}
}

func TestTokens(t *testing.T) {
	r, e := newSigner(t, "r", jose.RS256), newSigner(t, "e", jose.ES256)
	v := verifier(idp(setOf(t, r.jwk(), e.jwk())))
	now := time.Now()
	for _, test := range []struct {
		name  string
		token string
		want  Reason
	}{
		{"good", r.sign(t, good()), ""},
		{"good with a curve", e.sign(t, good()), ""},
		{"aud is a list", r.sign(t, good("aud", []string{"other", "orders"})), ""},
		{"aud is a list of others", r.sign(t, good("aud", []string{"other"})), ReasonAudience},
		{"aud is another", r.sign(t, good("aud", "order")), ReasonAudience},
		{"no aud", r.sign(t, good("aud", nil)), ReasonAudience},
		{"aud is a number", r.sign(t, good("aud", 1)), ReasonAudience},
		{"expired", r.sign(t, good("exp", now.Add(-time.Minute).Unix())), ReasonExpired},
		{"expired within the leeway", r.sign(t, good("exp", now.Add(-10*time.Second).Unix())), ""},
		{"no exp", r.sign(t, good("exp", nil)), ReasonExpired},
		{"exp is text", r.sign(t, good("exp", "9999999999")), ReasonExpired},
		{"exp overflows", r.sign(t, good("exp", 1e300)), ReasonExpired},
		{"not yet", r.sign(t, good("nbf", now.Add(time.Minute).Unix())), ReasonNotYet},
		{"nbf is text", r.sign(t, good("nbf", "0")), ReasonNotYet},
		{"another issuer", r.sign(t, good("iss", issuer+"/")), ReasonIssuer},
		{"no issuer", r.sign(t, good("iss", nil)), ReasonIssuer},
		{"an extension", r.sign(t, good(), map[jose.HeaderKey]any{"crit": []string{"x"}, "x": 1}), ReasonCritical},
		{"an unknown kid", signer{"x", jose.RS256, r.key}.sign(t, good()), ReasonUnknownKey},
		{"another key under a known kid", newSigner(t, "r", jose.RS256).sign(t, good()), ReasonSignature},
		{"changed", flip(r.sign(t, good())), ReasonSignature},
		{"too large", r.sign(t, good("x", strings.Repeat("x", maxToken))), ReasonTooLarge},
		{"no token", "secret", ReasonMalformed},
		{"white space", r.sign(t, good()) + "\t", ReasonMalformed},
	} {
		t.Run(test.name, func(t *testing.T) { refused(t, v, asksIDP, bearer(test.token), test.want) })
	}
	for _, header := range []http.Header{{}, {"Authorization": {"Basic eDp5"}}} {
		if result := refused(t, v, asksIDP, header, ""); len(result.Tokens) != 0 {
			t.Errorf("%v: %v", header, result.Tokens)
		}
	}
}

// flip changes one bit of what is signed.
func flip(token string) string {
	parts := strings.Split(token, ".")
	b, _ := base64.RawURLEncoding.DecodeString(parts[1])
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(b), "admin", "admiN", 1)))
	return strings.Join(parts, ".")
}

// CVE-2015-9235 and its many successors: a token that says it needs no signature.
func TestAlgorithmNone(t *testing.T) {
	r := newSigner(t, "r", jose.RS256)
	v := verifier(idp(setOf(t, r.jwk())))
	claims := strings.Split(r.sign(t, good()), ".")[1]
	for _, alg := range []string{"none", "None", "NONE", "nOnE", ""} {
		head := base64.RawURLEncoding.EncodeToString([]byte(fmt.Sprintf(`{"alg":%q,"kid":"r"}`, alg)))
		for _, signature := range []string{"", "AA"} {
			if _, refusal := v.Verify(context.Background(), asksIDP, bearer(head+"."+claims+"."+signature)); refusal == nil {
				t.Errorf("alg %q with signature %q is taken", alg, signature)
			}
		}
	}
}

// CVE-2016-5431, CVE-2016-10555: the public key, which everybody has, used as a secret.
func TestHS256WithPublicKey(t *testing.T) {
	r := newSigner(t, "r", jose.RS256)
	v := verifier(idp(setOf(t, r.jwk())))
	der, err := x509.MarshalPKIXPublicKey(r.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	secret := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	for _, key := range [][]byte{secret, der, []byte(setOf(t, r.jwk()))} {
		token := compact(t, jose.HS256, key, (&jose.SignerOptions{}).WithHeader("kid", "r"), good())
		refused(t, v, asksIDP, bearer(token), ReasonAlgorithm)
	}
}

// CVE-2018-0114 and others: the token brings the key along, points to one, or names one that is not for its algorithm.
func TestKeyConfusion(t *testing.T) {
	r, e, evil := newSigner(t, "r", jose.RS256), newSigner(t, "e", jose.ES256), newSigner(t, "evil", jose.RS256)
	v := verifier(idp(setOf(t, r.jwk(), e.jwk())))
	embedded := compact(t, jose.RS256, evil.key, &jose.SignerOptions{EmbedJWK: true}, good())
	if _, refusal := v.Verify(context.Background(), asksIDP, bearer(embedded)); refusal == nil {
		t.Error("a key that came with the token is believed")
	}
	link := map[jose.HeaderKey]any{"jku": "https://evil.example.com/keys", "x5u": "https://evil.example.com/cert"}
	refused(t, v, asksIDP, bearer(signer{"r", jose.RS256, evil.key}.sign(t, good(), link)), ReasonSignature)
	refused(t, v, asksIDP, bearer(signer{"e", jose.RS256, r.key}.sign(t, good())), ReasonUnknownKey) // the key of kid e is for ES256
	refused(t, v, asksIDP, bearer(signer{"../../r", jose.RS256, r.key}.sign(t, good())), ReasonUnknownKey)

	two := newSigner(t, "r", jose.RS256)
	doubled := verifier(idp(setOf(t, r.jwk(), two.jwk()))) // two keys of one name: neither is it
	refused(t, doubled, asksIDP, bearer(r.sign(t, good())), ReasonUnknownKey)
	nameless := signer{"", jose.RS256, r.key}
	refused(t, v, asksIDP, bearer(nameless.sign(t, good())), "") // only one fits
	refused(t, doubled, asksIDP, bearer(nameless.sign(t, good())), ReasonUnknownKey)

	narrow := idp(setOf(t, r.jwk(), e.jwk()))
	narrow.Algorithms = []string{"ES256"}
	refused(t, verifier(narrow), asksIDP, bearer(r.sign(t, good())), ReasonAlgorithm)
	bound := r.jwk()
	bound.Algorithm = "RS512"
	refused(t, verifier(idp(setOf(t, bound))), asksIDP, bearer(r.sign(t, good())), ReasonUnknownKey)
}

// CVE-2023-3518: with several providers, a token of one passes for that of another.
func TestTokenOfAnotherProvider(t *testing.T) {
	a, b := newSigner(t, "k", jose.RS256), newSigner(t, "k", jose.RS256)
	other := federation.JWT{Name: "other", Issuer: "https://other.example.com", Audiences: []string{"orders"}, JWKS: setOf(t, b.jwk())}
	v := verifier(idp(setOf(t, a.jwk())), other)
	both := []match.Ask{{Provider: "idp", Enforced: true}, {Provider: "other", Enforced: true}}
	for provider, token := range map[string]string{"idp": a.sign(t, good()), "other": b.sign(t, good("iss", other.Issuer))} {
		result := refused(t, v, both, bearer(token), "")
		if len(result.Tokens) != 1 || result.Tokens[0].Provider != provider {
			t.Errorf("%s: %+v", provider, result.Tokens)
		}
	}
	refused(t, v, both, bearer(b.sign(t, good())), ReasonSignature)                    // other says it is idp
	refused(t, v, both, bearer(a.sign(t, good("iss", other.Issuer))), ReasonSignature) // idp says it is other
	refused(t, v, asksIDP, bearer(b.sign(t, good("iss", other.Issuer))), ReasonIssuer) // nobody has asked for other
	refused(t, v, []match.Ask{{Provider: "gone", Enforced: true}}, bearer("x.y.z"), ReasonMalformed)
	refused(t, v, []match.Ask{{Provider: "gone", Enforced: true}}, bearer(a.sign(t, good())), ReasonNoKeys)

	if result := refused(t, v, []match.Ask{{Provider: "idp"}}, bearer(b.sign(t, good())), ""); len(result.Tokens) != 0 {
		t.Error("in shadow mode a token that cannot be verified is believed")
	}
}

// CVE-2024-28180: an encrypted token that unpacks to gigabytes. Nothing is unpacked, and nothing is decrypted.
func TestEncryptedTokensAreNotRead(t *testing.T) {
	r := newSigner(t, "r", jose.RS256)
	v := verifier(idp(setOf(t, r.jwk())))
	enc, err := jose.NewEncrypter(jose.A256GCM, jose.Recipient{Algorithm: jose.RSA_OAEP, Key: r.key.Public()},
		&jose.EncrypterOptions{Compression: jose.DEFLATE})
	if err != nil {
		t.Fatal(err)
	}
	jwe, err := enc.Encrypt([]byte(strings.Repeat("x", 1<<20)))
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwe.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	refused(t, v, asksIDP, bearer(token), ReasonMalformed)
	refused(t, v, asksIDP, bearer(strings.Repeat(".", maxToken)), ReasonMalformed) // CVE-2025-27144
	refused(t, v, asksIDP, bearer(strings.Repeat(".", maxToken+1)), ReasonTooLarge)
}

func TestPlacesOfTokens(t *testing.T) {
	r := newSigner(t, "r", jose.RS256)
	token := r.sign(t, good())
	v := verifier(idp(setOf(t, r.jwk())))
	refused(t, v, asksIDP, http.Header{"Authorization": {"Bearer " + token, "Bearer " + token}}, ReasonAmbiguous)
	refused(t, v, asksIDP, http.Header{"Authorization": {"Basic eDp5", "Bearer " + token}}, ReasonAmbiguous)
	refused(t, v, asksIDP, http.Header{"Authorization": {"Bearer " + token + ", Bearer " + token}}, ReasonMalformed)
	refused(t, v, asksIDP, http.Header{"Authorization": {"Bearer\t" + token}}, ReasonMalformed)
	refused(t, v, asksIDP, http.Header{"Authorization": {"Bearer "}}, ReasonMalformed)
	header := http.Header{"Authorization": {"bearer " + token}, "X": {"y"}}
	result := refused(t, v, asksIDP, header, "")
	if out := result.Withheld(header); out.Get("Authorization") != "" || out.Get("X") != "y" || header.Get("Authorization") == "" {
		t.Errorf("withheld: %v of %v", out, header)
	}

	spec := idp(setOf(t, r.jwk()))
	spec.Cookie = "session"
	v = verifier(spec)
	refused(t, v, asksIDP, http.Header{"Cookie": {"session=" + token, "session=x"}}, ReasonAmbiguous)
	refused(t, v, asksIDP, http.Header{"Cookie": {"session="}}, ReasonMalformed)
	header = http.Header{"Cookie": {"a=1; session=" + token + "; b=2", "c=3"}}
	result = refused(t, v, asksIDP, header, "")
	if out := result.Withheld(header); fmt.Sprint(out["Cookie"]) != "[a=1; b=2 c=3]" {
		t.Errorf("withheld: %v", out)
	}
	spec.Cookie, spec.Header, spec.Forward = "", "x-id-token", true
	v = verifier(spec)
	header = http.Header{"X-Id-Token": {token}}
	if result = refused(t, v, asksIDP, header, ""); len(result.Withheld(header)) != 1 {
		t.Error("a token that is to be forwarded is withheld")
	}
}

func TestDoubledClaimsAreRefused(t *testing.T) {
	r := newSigner(t, "r", jose.RS256)
	sign, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.RS256, Key: r.key}, (&jose.SignerOptions{}).WithHeader("kid", "r"))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := sign.Sign([]byte(`{"iss":"` + issuer + `","aud":"orders","exp":9999999999,"role":"user","role":"admin"}`))
	if err != nil {
		t.Fatal(err)
	}
	token, _ := jws.CompactSerialize()
	refused(t, verifier(idp(setOf(t, r.jwk()))), asksIDP, bearer(token), ReasonMalformed)
}

func TestResultsAreRemembered(t *testing.T) {
	r := newSigner(t, "r", jose.RS256)
	now := time.Now()
	v := New(Config{Now: func() time.Time { return now }})
	v.Apply([]federation.JWT{idp(setOf(t, r.jwk()))})
	token := r.sign(t, good("exp", now.Add(time.Minute).Unix()))
	refused(t, v, asksIDP, bearer(token), "")
	if len(v.cache.entries) != 1 || v.cache.bytes != len(token) {
		t.Fatalf("%d entries, %d octets", len(v.cache.entries), v.cache.bytes)
	}
	refused(t, v, asksIDP, bearer(token), "")
	now = now.Add(time.Minute + leeway + time.Second)
	refused(t, v, asksIDP, bearer(token), ReasonExpired)

	v.Apply([]federation.JWT{idp(setOf(t, newSigner(t, "r", jose.RS256).jwk()))})
	if len(v.cache.entries) != 0 || v.cache.bytes != 0 {
		t.Errorf("what was verified with a key that is gone is remembered: %d", len(v.cache.entries))
	}
	refused(t, v, asksIDP, bearer(r.sign(t, good("exp", now.Add(time.Minute).Unix()))), ReasonSignature)

	var c cache
	for i := range maxCached + 100 {
		c.put(cacheKey{hash: [32]byte{byte(i), byte(i >> 8)}}, claimSet{expires: now.Add(time.Hour)}, 10, now)
	}
	if len(c.entries) != maxCached || c.bytes != 10*maxCached {
		t.Errorf("%d entries, %d octets", len(c.entries), c.bytes)
	}
	c.put(cacheKey{}, claimSet{expires: now.Add(time.Hour)}, maxCachedBytes, now)
	c.put(cacheKey{hash: [32]byte{31: 1}}, claimSet{expires: now.Add(time.Hour)}, maxCachedBytes, now)
	if c.bytes > maxCachedBytes {
		t.Errorf("%d octets", c.bytes)
	}
}

const leeway = 30 * time.Second // the default

func FuzzVerify(f *testing.F) {
	r := newSigner(f, "r", jose.RS256)
	v := verifier(idp(setOf(f, r.jwk())))
	valid := r.sign(f, good())
	for _, seed := range []string{valid, "a.b.c", "..", valid[:len(valid)-4], "{}"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, token string) {
		result, refusal := v.Verify(context.Background(), asksIDP, bearer(token))
		if strings.Trim(token, " ") != valid && (len(result.Tokens) != 0 || refusal == nil) {
			t.Errorf("%q is believed", token)
		}
	})
}

func FuzzParseKeys(f *testing.F) {
	f.Add([]byte(setOf(f, newSigner(f, "r", jose.RS256).jwk(), newSigner(f, "e", jose.ES256).jwk())))
	f.Add([]byte(`{"keys":[{"kty":"oct","k":"AA"}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if ring, err := parseKeys(b); err == nil {
			for i := range ring.keys {
				if !ring.keys[i].IsPublic() {
					t.Error("a secret is a key for tokens")
				}
			}
		}
	})
}
