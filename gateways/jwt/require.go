package jwt

import (
	"context"
	"net/http"

	"github.com/tradewind-mesh/tradewind/federation/match"
)

// Require returns nil if one of providers, of which there is at least one, vouches for a token in header, and otherwise why none does. It
// waits as Verify does.
func (v *Verifier) Require(ctx context.Context, providers []string, header http.Header) *Refusal {
	out, refusal := v.judge(ctx, Asks(providers, true), header, nil)
	if len(out.Tokens) > 0 { // whatever else there is, a stale cookie perhaps
		return nil
	}
	if refusal == nil {
		refusal = &Refusal{Provider: providers[0], Reason: ReasonMissing}
	}
	v.rejected.WithLabelValues(refusal.Provider, string(refusal.Reason)).Inc()
	return refusal
}

// Asks has each of providers asked.
func Asks(providers []string, enforced bool) []match.Ask {
	out := make([]match.Ask, len(providers))
	for i, name := range providers {
		out[i] = match.Ask{Provider: name, Enforced: enforced}
	}
	return out
}
