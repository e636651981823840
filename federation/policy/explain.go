package policy

import (
	"fmt"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

// Explain gives the answer of Decide, and in Matched every intention that speaks of the service dst, with the reason why it
// did or did not decide. It is for people and allocates as it likes.
func (p *Intentions) Explain(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName,
) Decision {
	return p.explain(src, assurance, party{place{region: dstRegion}, dst}, question{})
}

// ExplainAny is Explain with the answer of DecideAny.
func (p *Intentions) ExplainAny(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName,
) Decision {
	return p.explain(src, assurance, party{place{region: dstRegion}, dst}, question{any: true})
}

// ExplainRequest is Explain with the answer of DecideRequest.
func (p *Intentions) ExplainRequest(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName, r *match.Request,
) Decision {
	return p.explain(src, assurance, party{place{region: dstRegion}, dst}, question{request: r})
}

func (p *Intentions) explain(src spiffeid.ID, assurance federation.Assurance, to party, what question) Decision {
	dstRegion, dst := to.region, to.service
	decision := p.decide(src, assurance, to, what)
	caller, callee, refusal := p.resolve(src, dstRegion, dst)
	if refusal != nil {
		return decision
	}
	what.src, what.caller, what.callee = src, caller, callee
	decided := p.find(assurance, &what)
	for i := range p.rules {
		r := &p.rules[i]
		if !meansName(r.destination, dst) {
			continue
		}
		m := Match{Rule: r.Name, Action: r.Action, Source: r.Source, Destination: r.Destination, Decided: r == decided}
		inDestination := r.destination.Matches(p.here, dstRegion, dst)
		bySource := r.source.Matches(p.here, caller.region, caller.service)
		m.Matches = inDestination && bySource
		var conditions string
		if m.Matches {
			m.Claims, conditions = r.claims(&what), r.conditions(&what)
		}
		switch {
		case m.Decided:
			if conditions != "" {
				decision.Reason += ", as " + conditions
			}
			m.Reason = decision.Reason + byClaims(m.Claims)
		case m.Matches && !r.applies(assurance, &what) && !r.shadow && conditions != "":
			m.Reason = "source, destination and request match, but " + conditions
		case m.Matches && !r.applies(assurance, &what) && !r.shadow && len(m.Claims) > 0:
			m.Reason = r.lacks(m.Claims)
		case m.Matches && !r.applies(assurance, &what):
			m.Reason = r.silent(&what)
		case m.Matches:
			m.Reason = outranked(decided, r)
		case !inDestination:
			m.Reason = p.otherRegion("destination", r.Destination, r.destination, dstRegion)
		case meansName(r.source, caller.service):
			m.Reason = p.otherRegion("source", r.Source, r.source, caller.region)
		default:
			m.Reason = fmt.Sprintf("source %q does not mean the caller %s", r.Source, caller)
		}
		decision.Matched = append(decision.Matched, m)
	}
	return decision
}

// silent says why r, whose patterns match, has no say.
func (r *rule) silent(what *question) string {
	enforced := *what
	enforced.shadow = true
	switch {
	case r.shadow && r.applies(r.require, &enforced):
		return "matches, but is in shadow mode: it decides nothing"
	case r.shadow, what.request != nil:
		return "source and destination match, the request does not"
	case what.any:
		return "denies certain requests: what it says is known when one comes"
	}
	return "allows certain requests, and those of a service that does not speak HTTP cannot be told apart"
}

// claims returns what r asks of the tokens of a request that it means but for them: of its permissions, the first that passes, or else the
// first that only a token is missing for.
func (r *rule) claims(what *question) (first []match.Claim) {
	if what.request == nil {
		return nil
	}
	for _, m := range r.requests {
		claims, apart := m.Claims(what.request)
		switch {
		case m.Matches(what.request):
			return claims
		case apart && first == nil:
			first = claims
		}
	}
	return first
}

// byClaims says which claims a decision rests on.
func byClaims(claims []match.Claim) string {
	var words []string
	for _, c := range claims {
		words = append(words, c.String())
	}
	if len(words) == 0 {
		return ""
	}
	return ", as the token claims: " + strings.Join(words, ", ")
}

// lacks says what is missing in a request that r means but for its token.
func (r *rule) lacks(claims []match.Claim) string {
	var needs, words []string
	for _, c := range claims {
		switch {
		case c.Passed:
		case !c.Token && !slices.Contains(needs, c.Provider):
			needs = append(needs, c.Provider)
		case c.Token && c.Has == "":
			words = append(words, fmt.Sprintf("it claims no %s", strings.Join(c.Path, ".")))
		case c.Token:
			words = append(words, fmt.Sprintf("it claims %s=%s, not %s", strings.Join(c.Path, "."), c.Has, strings.Join(c.Any, " or ")))
		}
	}
	if len(needs) > 0 && r.Action == federation.Deny {
		return fmt.Sprintf("denies by what a token of %q claims, and there is none", strings.Join(needs, `", "`))
	}
	if len(needs) > 0 {
		return fmt.Sprintf("source, destination and request match: needs a token of %q", strings.Join(needs, `", "`))
	}
	return "source, destination and request match, the token does not: " + strings.Join(words, ", ")
}

// meansName reports whether p means service in one region or another.
func meansName(p federation.Pattern, service federation.ServiceName) bool {
	p.Region = "*"
	return p.Matches("", "", service)
}

// outranked says why winner came before loser; both match the call.
func outranked(winner, loser *rule) string {
	switch {
	case winner.destination.Specificity() != loser.destination.Specificity():
		return fmt.Sprintf("matches, but the destination %q of intention %q is more specific", winner.Destination, winner.Name)
	case winner.source.Specificity() != loser.source.Specificity():
		return fmt.Sprintf("matches, but the source %q of intention %q is more specific", winner.Source, winner.Name)
	case winner.Action != loser.Action:
		return fmt.Sprintf("matches, but intention %q is as specific and denies", winner.Name)
	case winner.require != loser.require:
		return fmt.Sprintf("matches, but intention %q is as specific and requires %s", winner.Name, winner.require)
	}
	return fmt.Sprintf("matches, but intention %q says the same and comes first by name", winner.Name)
}

// otherRegion says that a pattern has the right name and the wrong region. A pattern without a region is where people stumble.
func (p *Intentions) otherRegion(side, written string, pattern federation.Pattern, want federation.Region) string {
	if parsed, err := federation.ParsePattern(written); err == nil && parsed.Region == "" {
		return fmt.Sprintf("%s %q names no region and so means this one, %s; the call's is %s: write \"%s@%s\" or \"%s@*\"",
			side, written, p.here, want, written, want, written)
	}
	return fmt.Sprintf("%s %q means region %s; the call's is %s", side, written, pattern.Region, want)
}
