package jwt

import (
	"context"
	"net/http"
	"time"

	"github.com/tradewind-mesh/tradewind/federation/match"
)

// Finding is what came of asking one provider about the token of a request. What the token says of itself may be a lie unless Reason is
// empty.
type Finding struct {
	Provider  string
	Issuer    string    // of whom the provider takes tokens; empty: there is no such provider
	Audiences []string  // for whom
	Reason    Reason    // why the token is refused; empty: it is verified
	Says      Said      // of itself
	KeysAt    time.Time // when the provider's keys were last confirmed; zero: there are none
}

// Said is what a token says of itself, as far as it can be read.
type Said struct {
	Issuer    string
	Audiences []string
	Expires   time.Time
	NotBefore time.Time // or issued at
	Algorithm string
	KeyID     string
}

// Words says why a token is refused, in words that a caller may read.
func (r Reason) Words() string { return words[r] }

// Explain is Verify for people: it says what came of each provider that a token was there for, and counts nothing.
func (v *Verifier) Explain(ctx context.Context, asks []match.Ask, header http.Header) (Result, *Refusal, []Finding) {
	var found []Finding
	out, refusal := v.judge(ctx, asks, header, func(ask match.Ask, p *provider, at *place, why Reason) {
		f := Finding{Provider: ask.Provider, Issuer: p.spec.Issuer, Audiences: p.spec.Audiences, Reason: why}
		if with := p.keys(v.cfg.Now()); with != nil {
			f.KeysAt = with.at
		}
		if at.parsed == nil { // it was known already
			at.parsed, _ = parse(at.token)
		}
		if at.parsed != nil {
			f.Says = at.parsed.said()
		}
		found = append(found, f)
	})
	return out, refusal, found
}

func (p *parsed) said() Said {
	s := Said{Issuer: p.issuer(), Algorithm: p.header.Algorithm, KeyID: p.header.KeyID}
	switch list := p.claims["aud"].(type) {
	case string:
		s.Audiences = []string{list}
	case []any:
		for _, element := range list {
			if name, ok := element.(string); ok {
				s.Audiences = append(s.Audiences, name)
			}
		}
	}
	s.Expires, _ = moment(p.claims["exp"])
	for _, name := range []string{"nbf", "iat"} {
		if from, ok := moment(p.claims[name]); ok && from.After(s.NotBefore) {
			s.NotBefore = from
		}
	}
	return s
}

// Present puts token into header where the providers of asks look for one; without asks, where all tokens are.
func (v *Verifier) Present(asks []match.Ask, header http.Header, token string) {
	if len(asks) == 0 {
		asks = []match.Ask{{}}
	}
	type where struct{ header, cookie string }
	done := map[where]bool{}
	for _, ask := range asks {
		spec := v.provider(ask.Provider).spec
		at := where{spec.Header, spec.Cookie}
		switch {
		case done[at]:
		case at.cookie != "":
			header["Cookie"] = append(header["Cookie"], at.cookie+"="+token)
		case at.header == "Authorization":
			header[at.header] = append(header[at.header], "Bearer "+token)
		default:
			header[at.header] = append(header[at.header], token)
		}
		done[at] = true
	}
}

// secret are the header fields in which there are credentials, whatever a provider says.
var secret = []string{"Authorization", "Proxy-Authorization", "Cookie"}

// Conceal returns header, whose names are canonical, without the values of the fields in which there are credentials: to be shown.
func (v *Verifier) Conceal(header http.Header) http.Header {
	out := header.Clone()
	hide := func(name string) {
		if len(out[name]) > 0 {
			out[name] = []string{"(not shown)"}
		}
	}
	for _, name := range secret {
		hide(name)
	}
	if v == nil {
		return out
	}
	for _, p := range *v.providers.Load() {
		hide(p.spec.Header)
	}
	return out
}
