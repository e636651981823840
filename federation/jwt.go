package federation

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"
)

// JWT is a provider of JSON Web Tokens: whose tokens requests may bring, and how they are verified. Intentions ask for what its tokens
// claim; a service of which none asks gets its requests as they came.
type JWT struct {
	Name       string   `json:"-"`                    // from the resource
	Issuer     string   `json:"issuer"`               // what "iss" must be, octet by octet
	Audiences  []string `json:"audiences"`            // "aud" must name one of them: a token for somebody else is no token for us
	JWKSURL    string   `json:"jwks_url,omitempty"`   // where its keys are; the gateway's configuration must allow the host
	JWKS       string   `json:"jwks,omitempty"`       // or the keys themselves, a JSON Web Key Set (RFC 7517); neither: see Discovery
	Algorithms []string `json:"algorithms,omitempty"` // default: DefaultAlgorithms
	Header     string   `json:"header,omitempty"`     // that holds the token, after "Bearer " or alone; default: authorization
	Cookie     string   `json:"cookie,omitempty"`     // instead of Header
	Forward    bool     `json:"forward,omitempty"`    // the instance gets the token; default: it has done its work at the gateway
	Leeway     Duration `json:"leeway,omitempty"`     // by which clocks may differ; default: DefaultLeeway
}

const (
	// DefaultLeeway is above what NTP leaves between two clocks, and far below the life of a token.
	DefaultLeeway = Duration(30 * time.Second)

	maxLeeway = Duration(10 * time.Minute)
	maxJWKS   = 48 << 10 // octets: a resource is stored in at most 64 KiB
)

// DefaultAlgorithms returns all that may be named in JWT.Algorithms: signatures by a private key. Neither "none" nor those with a secret
// that both sides share (HS256 and so on) are among them.
func DefaultAlgorithms() []string {
	return []string{"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"}
}

// ClaimMatch is a condition on what a verified token claims. Without such a token it does not hold.
type ClaimMatch struct {
	Provider string   `json:"provider"`       // the jwt resource that vouches for the token
	Path     []string `json:"path,omitempty"` // of the claim: "realm", "roles"; none: the token must be there
	Any      []string `json:"any,omitempty"`  // the claim, or an element of its list, is one of them; none: the claim must be there
}

// Permission says for which requests an intention speaks: those that pass the match and every claim, and for which the expression holds.
//
// When is an expression in the Common Expression Language, https://cel.dev, of type bool. It sees request.method, request.host,
// request.path, request.query and request.headers (maps of strings), namespace, service and region of source and destination,
// source.identity, token.issuer and token.claims. An expression that cannot be evaluated, as when it asks for a claim that is not there,
// does not hold in an intention that allows, and holds in one that denies. Package when says more.
type Permission struct {
	HTTPMatch
	Claims []ClaimMatch `json:"claims,omitempty"`
	When   string       `json:"when,omitempty"`  // at most MaxWhen octets
	Token  string       `json:"token,omitempty"` // the jwt resource whose token When asks for; without a token its claims are empty
}

// Validate returns what is wrong with p, joined.
func (p Permission) Validate() error {
	errs := []error{p.HTTPMatch.Validate()}
	if len(p.Claims) > maxConditions {
		errs = append(errs, fmt.Errorf("more than %d claims", maxConditions))
	}
	switch {
	case len(p.When) > MaxWhen:
		errs = append(errs, fmt.Errorf("when has %d octets: at most %d are allowed", len(p.When), MaxWhen))
	case p.Token != "" && p.When == "":
		errs = append(errs, errors.New("token names whose token \"when\" asks for: without one, ask with a claim block"))
	case p.Token != "":
		errs = append(errs, checkLabel("token of jwt", p.Token))
	}
	for _, c := range p.Claims {
		errs = append(errs, checkLabel("claim of jwt", c.Provider))
		switch {
		case len(c.Any) > 0 && len(c.Path) == 0:
			errs = append(errs, fmt.Errorf("claim of %q: \"any\" needs the path of the claim", c.Provider))
		case len(c.Path) > 8 || len(c.Any) > maxConditions || slices.Contains(c.Path, ""):
			errs = append(errs, fmt.Errorf("claim of %q: a path has 1 to 8 names, and is compared with at most %d values", c.Provider, maxConditions))
		}
		for _, s := range slices.Concat(c.Path, c.Any) {
			if len(s) > maxPattern {
				errs = append(errs, fmt.Errorf("claim of %q is compared with too much", c.Provider))
			}
		}
	}
	return errors.Join(errs...)
}

// Kind implements Spec.
func (*JWT) Kind() Kind { return KindJWT }

// Validate implements Spec.
func (j *JWT) Validate(name string) error {
	j.Name = name
	errs := []error{checkLabel("jwt", name)}
	if j.Issuer == "" || len(j.Issuer) > maxPattern {
		errs = append(errs, errors.New("jwt names no issuer: write what \"iss\" is in its tokens"))
	}
	if len(j.Audiences) == 0 || len(j.Audiences) > maxConditions || slices.Contains(j.Audiences, "") {
		errs = append(errs, errors.New("jwt names no audience: without one, tokens that were made out for any other service would be good here"))
	}
	for _, a := range j.Algorithms {
		if !slices.Contains(DefaultAlgorithms(), a) {
			errs = append(errs, fmt.Errorf("algorithm %q cannot be used: use some of %s", a, strings.Join(DefaultAlgorithms(), ", ")))
		}
	}
	if j.Header != "" && j.Cookie != "" {
		errs = append(errs, errors.New("header and cookie exclude each other"))
	}
	for what, field := range map[string]string{"header": j.Header, "cookie": j.Cookie} {
		if lower := strings.ToLower(field); field != "" && (!isToken(field) || len(field) > maxName || reserved[lower] ||
			strings.HasPrefix(lower, ReservedHeaderPrefix) || what == "header" && lower == "cookie") {
			errs = append(errs, fmt.Errorf("%s %q cannot hold a token", what, field))
		}
	}
	if j.Leeway < 0 || j.Leeway > maxLeeway {
		errs = append(errs, fmt.Errorf("leeway %v is not between 0 and %v", j.Leeway, maxLeeway))
	}
	return errors.Join(append(errs, j.validateKeys())...)
}

func (j *JWT) validateKeys() error {
	switch {
	case j.JWKS != "" && j.JWKSURL != "":
		return errors.New("jwt takes its keys from one place: give either jwks_url or jwks")
	case j.JWKSURL != "":
		return CheckKeyURL("jwks_url", j.JWKSURL)
	case j.JWKS == "":
		if CheckKeyURL("issuer", j.Discovery()) != nil {
			return errors.New("jwt needs its keys: give jwks_url or jwks, or an issuer that is an https URL without query, which is then asked " +
				"where they are (OpenID Connect Discovery)")
		}
		return nil
	case len(j.JWKS) > maxJWKS:
		return fmt.Errorf("jwks has %d octets: at most %d are allowed", len(j.JWKS), maxJWKS)
	}
	var set struct {
		Keys []struct {
			Kty string `json:"kty"`
			D   string `json:"d"`
		} `json:"keys"`
	}
	if err := json.Unmarshal([]byte(j.JWKS), &set); err != nil || len(set.Keys) == 0 {
		return errors.New("jwks is no JSON Web Key Set: write {\"keys\": [...]} with at least one key")
	}
	for _, k := range set.Keys {
		if k.Kty == "oct" || k.D != "" {
			return errors.New("jwks holds a secret: only public keys belong there")
		}
	}
	return nil
}

// Discovery is where the issuer says where its keys are (OpenID Connect Discovery 1.0 section 4); empty when j says so itself.
func (j *JWT) Discovery() string {
	if j.JWKS != "" || j.JWKSURL != "" || strings.ContainsAny(j.Issuer, "?#") {
		return ""
	}
	return strings.TrimSuffix(j.Issuer, "/") + "/.well-known/openid-configuration"
}

// CheckKeyURL reports whether what an address leads to may decide which keys are believed.
func CheckKeyURL(what, address string) error {
	u, err := url.Parse(address)
	if err != nil || u.Hostname() == "" || u.User != nil || u.Fragment != "" || len(address) > maxPattern {
		return fmt.Errorf("%s %q: write such as \"https://idp.example.com/keys\"", what, address)
	}
	if ip, _ := netip.ParseAddr(u.Hostname()); u.Scheme != "https" && (u.Scheme != "http" || !ip.IsLoopback()) {
		return fmt.Errorf("%s %q is not https: who can change the keys on their way can make tokens", what, address)
	}
	return nil
}

// Defaulted returns j with every unset field at its default.
func (j JWT) Defaulted() JWT {
	if len(j.Algorithms) == 0 {
		j.Algorithms = DefaultAlgorithms()
	}
	if j.Header == "" && j.Cookie == "" {
		j.Header = "authorization" // RFC 6750
	}
	setDefault(&j.Leeway, DefaultLeeway)
	return j
}
