package mesh

import (
	"context"
	"fmt"
	"net/http"
	"net/textproto"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/jwt"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// TokenFinding is what a provider of this region says about the token of a request. The token itself is in no part of it.
type TokenFinding struct {
	Provider string     `json:"provider"`
	Verified bool       `json:"verified"`
	Refusal  jwt.Reason `json:"refusal,omitempty"` // why it is not, in a word
	Why      string     `json:"why,omitempty"`     // the same in a sentence

	// What the token says of itself: not to be believed unless it is verified.
	Issuer   string    `json:"issuer,omitempty"`
	Audience []string  `json:"audience,omitempty"`
	Expires  time.Time `json:"expires,omitzero"`
	KeyID    string    `json:"key_id,omitempty"`
}

// explainVouch has the tokens of r verified as vouch does, and notes what came of it. It reports whether r goes on: a request whose
// token is refused does not. of.token is put where those who ask for tokens look.
func (m *Mesh) explainVouch(ctx context.Context, e *Explanation, of *call, r *http.Request) bool {
	asks := of.snap.Asks(of.to.Service)
	if m.cfg.Tokens == nil {
		return true
	}
	if of.token != "" {
		m.cfg.Tokens.Present(asks, r.Header, of.token)
		if len(asks) == 0 && len(of.require) == 0 {
			e.note(fmt.Sprintf("no intention of %s asks who calls %s for a token: the one given is not verified here", e.Region, of.to.Service))
		}
	}
	tokens, refusal, found := m.cfg.Tokens.Explain(ctx, asks, r.Header)
	of.request, of.wire = asked(r), worded(r)
	of.request.Tokens = tokens.Tokens
	e.found(found)
	if refusal == nil {
		return true
	}
	e.unauthorized(refusal)
	return false
}

// explainRequire has the token of r verified as require does, and reports whether r is let in.
func (m *Mesh) explainRequire(ctx context.Context, e *Explanation, of *call, r *http.Request) bool {
	if len(of.require) == 0 {
		return true
	}
	refusal := &jwt.Refusal{Provider: of.require[0], Reason: jwt.ReasonNoKeys}
	if m.cfg.Tokens != nil {
		asks, header := jwt.Asks(of.require, true), r.Header.Clone() // a copy: explainVouch puts the token there once more
		if of.token != "" {
			m.cfg.Tokens.Present(asks, header, of.token)
		}
		tokens, why, found := m.cfg.Tokens.Explain(ctx, asks, header)
		e.found(found)
		if len(tokens.Tokens) > 0 {
			return true
		}
		if refusal.Reason = jwt.ReasonMissing; why != nil {
			refusal = why
		}
	}
	e.unauthorized(refusal)
	return false
}

// found notes what is not noted yet.
func (e *Explanation) found(list []jwt.Finding) {
	for _, f := range list {
		if !slices.ContainsFunc(e.Tokens, func(t TokenFinding) bool { return t.Provider == f.Provider }) {
			e.Tokens = append(slices.Clip(e.Tokens), wordedFinding(f)) // each share of a split goes on from the same list
		}
	}
}

// unauthorized is the verdict on a request whose token is refused.
func (e *Explanation) unauthorized(refusal *jwt.Refusal) {
	e.Request.Status = http.StatusUnauthorized
	e.Verdict, e.At, e.Reason = VerdictDenied, e.Region, "the gateway refuses the request with status 401 for its token: "+refusal.Reason.Words()
	for _, f := range e.Tokens {
		if f.Provider == refusal.Provider && f.Why != "" {
			e.Reason = "the gateway refuses the request with status 401 for its token: " + f.Why
		}
	}
}

// wordedFinding says what f means, with both sides of what does not fit.
func wordedFinding(f jwt.Finding) TokenFinding {
	out := TokenFinding{Provider: f.Provider, Verified: f.Reason == "", Refusal: f.Reason, Issuer: printable(f.Says.Issuer),
		Expires: f.Says.Expires, KeyID: printable(f.Says.KeyID)}
	for _, a := range f.Says.Audiences {
		out.Audience = append(out.Audience, printable(a))
	}
	if out.Verified {
		return out
	}
	out.Why = f.Reason.Words()
	moment := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	switch f.Reason {
	case jwt.ReasonIssuer:
		out.Why += fmt.Sprintf(": it says %q, provider %q takes %q", out.Issuer, f.Provider, f.Issuer)
	case jwt.ReasonAudience:
		out.Why += fmt.Sprintf(": it is for %s, provider %q takes those for %s", strings.Join(quoted(out.Audience), ", "), f.Provider,
			strings.Join(quoted(f.Audiences), " or "))
	case jwt.ReasonExpired:
		if f.Says.Expires.IsZero() {
			out.Why = "it says no time at which it expires"
		} else {
			out.Why += ": at " + moment(f.Says.Expires)
		}
	case jwt.ReasonNotYet:
		out.Why += ": from " + moment(f.Says.NotBefore)
	case jwt.ReasonAlgorithm:
		if f.Says.Algorithm != "" {
			out.Why += ": " + printable(f.Says.Algorithm)
		}
	case jwt.ReasonUnknownKey:
		out.Why += fmt.Sprintf(": its kid is %q, and provider %q showed no such key at %s", out.KeyID, f.Provider, moment(f.KeysAt))
	case jwt.ReasonNoKeys:
		if f.Issuer == "" {
			out.Why += fmt.Sprintf(": there is no resource jwt %q", f.Provider)
		}
	case jwt.ReasonMalformed, jwt.ReasonTooLarge, jwt.ReasonAmbiguous, jwt.ReasonCritical, jwt.ReasonSignature: // there is no more to say
	}
	return out
}

func quoted(names []string) []string {
	if len(names) == 0 {
		return []string{"nobody"}
	}
	out := make([]string, len(names))
	for i, name := range names {
		out[i] = fmt.Sprintf("%q", name)
	}
	return out
}

// shown is r as people get to see it: without credentials.
func (m *Mesh) shown(r *Request) *Request {
	out := *r
	header := make(http.Header, len(r.Header))
	for name, values := range r.Header {
		name = textproto.CanonicalMIMEHeaderKey(name)
		header[name] = append(header[name], values...)
	}
	if out.Header = nil; len(header) > 0 {
		out.Header = m.cfg.Tokens.Conceal(header)
	}
	return &out
}

// vouchFor has the tokens of a request verified that a peer asks about. The word is why they are refused, empty if they are not.
func (m *Mesh) vouchFor(
	ctx context.Context, snap *route.Snapshot, service federation.ServiceName, r *http.Request,
) (jwt.Result, jwt.Reason) {
	asks := snap.Asks(service)
	if len(asks) == 0 || m.cfg.Tokens == nil {
		return jwt.Result{}, ""
	}
	tokens, refusal, _ := m.cfg.Tokens.Explain(ctx, asks, r.Header)
	if refusal != nil {
		return tokens, refusal.Reason
	}
	return tokens, ""
}
