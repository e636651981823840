package jwt

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/go-jose/go-jose/v4"
	josejson "github.com/go-jose/go-jose/v4/json"

	"github.com/tradewind-mesh/tradewind/federation"
)

// maxToken bounds a token, in octets: all of a request's header fields are bounded to little more by most servers.
const maxToken = 8 << 10

// Reason says why a token was refused, in one word for a metric.
type Reason string

// The reasons for which a token is refused.
const (
	ReasonMalformed  Reason = "malformed"   // it is no signed token in compact form, or its claims are no JSON object without doubles
	ReasonTooLarge   Reason = "too_large"   // more than 8 KiB
	ReasonAmbiguous  Reason = "ambiguous"   // there are several, and the instance might take another one
	ReasonAlgorithm  Reason = "algorithm"   // not one that the provider uses
	ReasonCritical   Reason = "critical"    // it asks for an extension; none is known
	ReasonUnknownKey Reason = "unknown_key" // no key of the provider has its kid and fits its algorithm
	ReasonSignature  Reason = "signature"
	ReasonIssuer     Reason = "issuer"
	ReasonAudience   Reason = "audience"
	ReasonExpired    Reason = "expired" // or without an end
	ReasonNotYet     Reason = "not_yet"
	ReasonMissing    Reason = "missing" // there is none where one is required
	ReasonNoKeys     Reason = "no_keys" // the provider's keys could not be fetched, or there is no such provider
)

// claimSet is what a token claims.
type claimSet struct {
	all     map[string]any
	expires time.Time
}

// parsed is a token that has been read and not verified.
type parsed struct {
	jws    *jose.JSONWebSignature
	claims map[string]any // do not believe
	header jose.Header
}

// parse reads a token. Every algorithm is let through that any provider may use: which one this is for, its claims say.
func parse(token string) (*parsed, Reason) {
	if len(token) > maxToken {
		return nil, ReasonTooLarge
	}
	var algorithms []jose.SignatureAlgorithm
	for _, a := range federation.DefaultAlgorithms() {
		algorithms = append(algorithms, jose.SignatureAlgorithm(a))
	}
	jws, err := jose.ParseSignedCompact(token, algorithms)
	if err != nil {
		if _, other := err.(*jose.ErrUnexpectedSignatureAlgorithm); other { //nolint:errorlint // that is what it returns
			return nil, ReasonAlgorithm
		}
		return nil, ReasonMalformed
	}
	p := &parsed{jws: jws, header: jws.Signatures[0].Protected}
	for _, extension := range []jose.HeaderKey{"crit", "b64"} {
		if _, asked := p.header.ExtraHeaders[extension]; asked {
			return nil, ReasonCritical
		}
	}
	// This reader refuses names that come twice and takes no name for another in other case: two programs read the same of it.
	d := josejson.NewDecoder(bytes.NewReader(jws.UnsafePayloadWithoutVerification()))
	d.SetNumberType(josejson.UnmarshalJSONNumber)
	if d.Decode(&p.claims) != nil || p.claims == nil || d.Decode(new(any)) == nil {
		return nil, ReasonMalformed
	}
	return p, ""
}

// issuer is who the token says it is from.
func (p *parsed) issuer() string {
	s, _ := p.claims["iss"].(string)
	return s
}

// verify holds p against what j wants, at now, with key.
func (p *parsed) verify(j *federation.JWT, key *jose.JSONWebKey, now time.Time) (claimSet, Reason) {
	if _, err := p.jws.Verify(key.Key); err != nil {
		return claimSet{}, ReasonSignature
	}
	if !audience(p.claims["aud"], j.Audiences) {
		return claimSet{}, ReasonAudience
	}
	leeway := j.Leeway.D()
	expires, ok := moment(p.claims["exp"])
	if !ok || !now.Before(expires.Add(leeway)) {
		return claimSet{}, ReasonExpired
	}
	for _, name := range []string{"nbf", "iat"} {
		if _, given := p.claims[name]; given {
			if from, ok := moment(p.claims[name]); !ok || now.Add(leeway).Before(from) {
				return claimSet{}, ReasonNotYet
			}
		}
	}
	return claimSet{all: p.claims, expires: expires.Add(leeway)}, ""
}

// audience reports whether one of wanted is in claim, which is a name or a list of names.
func audience(claim any, wanted []string) bool {
	if name, ok := claim.(string); ok {
		return slices.Contains(wanted, name)
	}
	list, _ := claim.([]any)
	return slices.ContainsFunc(list, func(element any) bool {
		name, ok := element.(string)
		return ok && slices.Contains(wanted, name)
	})
}

// moment reads seconds since 1970 (RFC 7519 section 2). What no clock reaches is none.
func moment(claim any) (time.Time, bool) {
	n, ok := claim.(josejson.Number)
	if !ok {
		return time.Time{}, false
	}
	seconds, err := n.Float64()
	if err != nil || math.IsNaN(seconds) || seconds < 0 || seconds > 1<<40 {
		return time.Time{}, false
	}
	return time.Unix(int64(seconds), 0), true
}

// words are what a caller is told.
var words = map[Reason]string{
	ReasonMalformed: "it is no signed token in compact form", ReasonTooLarge: fmt.Sprintf("it has more than %d octets", maxToken),
	ReasonAmbiguous: "there are several", ReasonAlgorithm: "its algorithm is not accepted", ReasonCritical: "it asks for an extension",
	ReasonUnknownKey: "no key is known for it", ReasonSignature: "its signature is wrong", ReasonIssuer: "its issuer is not accepted",
	ReasonAudience: "it is for another audience", ReasonExpired: "it has expired", ReasonNotYet: "it is not valid yet",
	ReasonMissing: "there is none",
	ReasonNoKeys:  "the keys of its issuer are not at hand",
}
