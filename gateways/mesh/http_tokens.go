package mesh

import (
	"net/http"
	"slices"

	"github.com/tradewind-mesh/tradewind/gateways/jwt"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// vouch has the tokens of r verified that the intentions for c's service ask for, and those of the providers in required, once, before
// anybody judges c. The refusal is nil when r may be judged; one without a token is judged without. A gateway without a verifier believes
// no token.
func (m *Mesh) vouch(snap *route.Snapshot, c *conn, r *http.Request, required []string) *jwt.Refusal {
	asks := snap.Asks(c.service)
	if len(required) > 0 {
		asks = slices.Concat(asks, jwt.Asks(required, false)) // it has been enforced: now the instance is not to get them
	}
	if len(asks) == 0 || m.cfg.Tokens == nil {
		return nil
	}
	tokens, refusal := m.cfg.Tokens.Verify(r.Context(), asks, r.Header)
	c.tokens, c.request.Tokens = &tokens, tokens.Tokens
	return refusal
}

// require reports why a request is not let in that must bring a token of one of the providers. Without a verifier none is believed.
func (m *Mesh) require(r *http.Request, providers []string) *jwt.Refusal {
	switch {
	case len(providers) == 0:
		return nil
	case m.cfg.Tokens == nil:
		return &jwt.Refusal{Provider: providers[0], Reason: jwt.ReasonNoKeys}
	}
	return m.cfg.Tokens.Require(r.Context(), providers, r.Header)
}

// unauthorized answers a request whose token is refused (RFC 6750 section 3).
func unauthorized(refusal *jwt.Refusal) *http.Response {
	res := l7.Text(http.StatusUnauthorized, refusal.Error())
	res.Header["Www-Authenticate"] = []string{refusal.Challenge()}
	return res
}

// withheld is r as an instance gets to see it: without the tokens that have done their work here.
func (c *conn) withheld(r *http.Request) *http.Request {
	if c.tokens == nil {
		return r
	}
	to := r.WithContext(r.Context())
	to.Header = c.tokens.Withheld(r.Header)
	return to
}
