package agent

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// Explain implements admin.Answers: the data path itself says what it would do.
func (a *Agent) Explain(ctx context.Context, r *admin.ExplainRequest) (*admin.Explanation, error) {
	if r.Source == "" {
		caller, err := a.onlyCaller(r.Destination)
		if err != nil {
			return nil, err
		}
		r.Source = caller
	}
	if i := strings.IndexFunc(r.Token, func(c rune) bool { return c <= ' ' || c > '~' }); i >= 0 || r.Token != "" && r.Request == nil {
		return nil, &federation.Diagnostic{Code: "TW-8906", What: "the token is not understood", Why: "it is no JSON Web Token of a request",
			Fix: "give one as the issuer has made it: three parts with dots between, in one line"}
	}
	source, err := a.sourceOf(r.Source)
	if err != nil {
		return nil, notUnderstood("caller", r.Source, "write \"web\", \"shop/web\", \"web@region\" or a SPIFFE ID", err)
	}
	destination, err := federation.ParseServiceRef(r.Destination)
	if err != nil {
		return nil, notUnderstood("destination", r.Destination, "write \"checkout\", \"shop/checkout\" or \"checkout@region\"", err)
	}
	require, notes := a.door(source, destination, r.Request)
	e, err := a.mesh.Explain(ctx, mesh.ExplainRequest{Source: source, Destination: destination, Assurance: r.Assurance,
		Request: asked(r.Request, destination), Token: r.Token, Require: require})
	if err != nil {
		return nil, notUnderstood("caller", r.Source, "see who is known: tradewind peer list", err)
	}
	out := &admin.Explanation{Verdict: admin.Verdict(e.Verdict), Region: e.Region, At: e.At, View: e.Snapshot, Reason: e.Reason,
		Caller:      admin.ExplainedCaller{ID: e.Caller.ID, Region: e.Caller.Service.Region, Assurance: e.Caller.Assurance},
		Destination: e.Destination.String(), Exported: e.Exported, Decision: a.decision(e.Region, e.Decision), RemoteError: e.RemoteError,
		Conditional: e.Conditional, Request: forecast(e.Request), Notes: slices.Concat(notes, e.Notes)}
	for _, l := range e.Limits {
		out.Limits = append(out.Limits, admin.Limit{Kind: string(l.Kind), Region: l.Region, Text: l.Text, Used: l.Used, Limit: l.Limit,
			Waiting: l.Waiting, AgeSeconds: admin.SecondsOf(l.Age.D()), Refuses: l.Refuses, Status: l.Status,
			WaitSeconds: admin.SecondsOf(l.Wait.D()), Reason: l.Reason})
	}
	for _, t := range e.Tokens {
		out.Tokens = append(out.Tokens, admin.TokenFinding{Provider: t.Provider, Verified: t.Verified, Refusal: string(t.Refusal), Why: t.Why,
			Issuer: t.Issuer, Audience: t.Audience, Expires: t.Expires, KeyID: t.KeyID})
	}
	for _, c := range e.Candidates {
		out.Candidates = append(out.Candidates, candidate(c))
	}
	a.sayWhySick(e.Destination.Service, out.Candidates)
	if destination.Region == "" || destination.Region == e.Region {
		out.LeftOut = a.leftOut(destination.Service)
	}
	if e.Remote != nil {
		out.Remote = &admin.ExplainedDecision{Region: e.At, Allowed: e.Remote.Verdict == "allowed", Rule: e.Remote.Rule,
			Shadow: e.Remote.Shadow, Conditional: e.Remote.Conditional}
		for _, c := range e.Candidates {
			if c.Chosen {
				out.Remote.Region = c.Region
			}
		}
	}
	if out.Verdict == admin.VerdictDenied {
		out.Fix = a.howToAllow(e, source, e.Destination)
	}
	considered := func(c mesh.Candidate) bool { return c.Kept || c.Decision != nil }
	if out.Verdict == admin.VerdictUnreachable && !slices.ContainsFunc(e.Candidates, considered) {
		out.Fix = a.whatThereIs(destination.Service)
	}
	return out, nil
}

const maxLeftOut = 20 // shown: enough to see the pattern

// leftOut returns the workloads that the providers list as instances of service and that are not used, in order of provider.
func (a *Agent) leftOut(service federation.ServiceName) (out []admin.LeftOut) {
	for _, p := range a.providers.list() {
		for _, of := range p.current.Load().LeftOut(service) {
			for _, w := range of.Examples {
				if len(out) < maxLeftOut {
					out = append(out, admin.LeftOut{Provider: p.name(), Reason: string(of.Reason),
						IgnoredWorkload: admin.IgnoredWorkload{ID: w.ID, Scope: w.Scope.String(), Why: w.Why}})
				}
			}
		}
	}
	return out
}

func notUnderstood(what, text, fix string, err error) error {
	return &federation.Diagnostic{Code: "TW-8906", What: what + " " + text + " is not understood", Why: err.Error(), Fix: fix, Err: err}
}

// sourceOf reads a caller: a service with or without a region, or its SPIFFE ID.
func (a *Agent) sourceOf(text string) (federation.ServiceRef, error) {
	if !strings.HasPrefix(text, "spiffe://") {
		return federation.ParseServiceRef(text)
	}
	id, err := spiffeid.FromString(text)
	if err != nil {
		return federation.ServiceRef{}, err
	}
	service, err := federation.ServiceOf(id)
	ref := federation.ServiceRef{Service: service}
	view := a.plane.View()
	for region, p := range view.Peers {
		if p.TrustDomain == id.TrustDomain() {
			ref.Region = region
		}
	}
	if err == nil && ref.Region == "" && id.TrustDomain() != view.TrustDomain {
		err = errUnknownDomain(id.TrustDomain().Name())
	}
	return ref, err
}

type errUnknownDomain string

func (e errUnknownDomain) Error() string {
	return "trust domain " + string(e) + " is neither this region's nor a peer's"
}

// decision turns a policy decision into the API's, with the place each rule was read from.
func (a *Agent) decision(region federation.Region, d policy.Decision) admin.ExplainedDecision {
	out := admin.ExplainedDecision{Region: region, Allowed: d.Allowed, Rule: d.Rule, Code: d.Code, Reason: d.Reason,
		Shadow: d.Shadow, Conditional: d.Conditional}
	for _, m := range d.Matched {
		weighed := admin.ExplainedMatch{Rule: m.Rule, Action: m.Action, Decided: m.Decided, Reason: m.Reason}
		if r, err := a.plane.Get(federation.Key{Kind: federation.KindIntention, Name: m.Rule}); err == nil {
			weighed.Source = r.Source
		}
		for _, c := range m.Claims {
			weighed.Claims = append(weighed.Claims, admin.ExplainedClaim{Provider: c.Provider, Path: c.Path, Any: c.Any, Token: c.Token, Has: c.Has,
				Passed: c.Passed})
		}
		out.Matched = append(out.Matched, weighed)
	}
	return out
}

func candidate(c mesh.Candidate) admin.Candidate {
	out := admin.Candidate{Region: c.Region, Kept: c.Kept, Chosen: c.Chosen, Reason: c.Reason, Healthy: c.Healthy, Total: c.Total,
		Drained: c.Drained, Share: c.Share}
	if !c.Local {
		freshness := c.Freshness
		out.Freshness = &freshness
	}
	if c.Path != nil {
		out.RTTSeconds, out.Lane = admin.SecondsOf(c.Path.RTT.D()), c.Path.Lane
	}
	for _, e := range c.Endpoints {
		x := admin.ExplainedEndpoint{Instance: e.Instance, Address: e.Address, EjectedSeconds: admin.SecondsOf(e.Ejected.D()), InFlight: e.InFlight,
			LatencySeconds: admin.SecondsOf(e.Latency.D())}
		switch {
		case !e.Healthy:
			x.Reason = unhealthy
		case e.Ejected > 0:
			x.Reason = "left out after failures"
		default:
			x.Kept, x.Reason = true, "healthy"
		}
		out.Endpoints = append(out.Endpoints, x)
	}
	return out
}

// sayWhySick adds to what is said of unhealthy instances of service what their checks say.
func (a *Agent) sayWhySick(service federation.ServiceName, candidates []admin.Candidate) {
	var reasons map[federation.InstanceID]string
	for _, c := range candidates {
		for i := range c.Endpoints {
			x := &c.Endpoints[i]
			if x.Reason != unhealthy {
				continue
			}
			if reasons == nil {
				reasons = map[federation.InstanceID]string{}
				for _, s := range a.reg.Instances() {
					if s.Instance.Service == service {
						reasons[s.Instance.ID] = s.Reason
					}
				}
			}
			if why := reasons[x.Instance]; why != "" {
				x.Reason += ": " + why
			}
		}
	}
}

const unhealthy = "unhealthy" // the beginning of the reason of such an endpoint

// howToAllow is the command that would allow the call, in the region whose decision denied it.
func (a *Agent) howToAllow(e mesh.Explanation, source, destination federation.ServiceRef) string {
	for _, t := range e.Tokens {
		if !t.Verified {
			return "ask with a token that provider " + t.Provider + " takes: tradewind get jwt " + t.Provider
		}
	}
	if e.Request != nil && e.Request.Status == http.StatusUnauthorized && e.At == e.Region {
		return "ask with the token of a user: the same command with --token FILE"
	}
	if e.Remote != nil && e.Remote.Token != "" {
		return "ask with a token that region " + string(e.At) + " takes; there: tradewind get jwt"
	}
	for _, m := range e.Decision.Matched {
		if m.Action == federation.Allow && slices.ContainsFunc(m.Claims, func(c match.Claim) bool { return !c.Token }) {
			return fmt.Sprintf("ask with the token of a user, which intention %q needs: the same command with --token FILE", m.Rule)
		}
	}
	if e.At != e.Region {
		return "in " + string(e.At) + ": tradewind intention allow " + source.Service.String() + "@" + string(e.Region) + " " + destination.Service.String()
	}
	if rule := e.Decision.Rule; rule != "" && rule != policy.DefaultRule {
		return "change or delete the intention: tradewind get intention " + rule
	}
	to := destination
	if to.Region == "" {
		for _, c := range e.Candidates {
			if !c.Local {
				return "tradewind intention allow " + source.String() + " '" + to.Service.String() + "@*'"
			}
		}
	}
	return "tradewind intention allow " + source.String() + " " + to.String()
}
