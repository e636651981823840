package main

import (
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// explainFakeToken fills in what becomes of a token, by what it is: "expired", "user", else that of an admin.
func explainFakeToken(e *admin.Explanation, r *admin.ExplainRequest) {
	e.Request = &admin.Forecast{Request: *r.Request, Forwarded: r.Request}
	until := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	found := admin.TokenFinding{Provider: "idp", Verified: true, Issuer: "https://idp.example.com", Audience: []string{"orders"},
		Expires: until}
	claim := admin.ExplainedClaim{Provider: "idp", Path: []string{"realm", "roles"}, Any: []string{"admin"}, Token: true, Has: `["admin"]`,
		Passed: true}
	match := admin.ExplainedMatch{Rule: "admins", Action: federation.Allow, Claims: []admin.ExplainedClaim{claim}}
	switch r.Token {
	case "expired":
		found.Verified, found.Refusal, found.Why = false, "expired", "it has expired: at 2026-07-01T12:00:00Z"
		e.Verdict, e.Reason = admin.VerdictDenied, "the gateway refuses the request with status 401 for its token: "+found.Why
		e.Fix = "ask with a token that provider idp takes: tradewind get jwt idp"
	case "user":
		match.Claims[0].Has, match.Claims[0].Passed = `["user"]`, false
		match.Reason = `source, destination and request match, the token does not: it claims realm.roles=["user"], not admin`
		e.Verdict, e.Reason = admin.VerdictDenied, "no intention of aws-us-east-1 allows web@aws-us-east-1 to call api@aws-us-east-1"
		e.Decision = admin.ExplainedDecision{Region: "aws-us-east-1", Rule: "default", Code: "TW-7001", Reason: e.Reason,
			Matched: []admin.ExplainedMatch{match}}
	default:
		match.Decided, match.Reason = true, `intention "admins" allows web to call api, as the token claims: idp realm.roles=admin`
		e.Reason = `intention "admins" allows web to call api; region aws-us-east-1 serves it`
		e.Decision = admin.ExplainedDecision{Region: "aws-us-east-1", Allowed: true, Rule: "admins", Reason: match.Reason,
			Matched: []admin.ExplainedMatch{match}}
		e.Candidates = []admin.Candidate{{Region: "aws-us-east-1", Kept: true, Chosen: true, Healthy: 2, Total: 2}}
	}
	e.Tokens = []admin.TokenFinding{found}
}

// explainFakeLimits is a request that meets a limit, and a region that comes back from a drain.
func explainFakeLimits(e *admin.Explanation) {
	e.Verdict = admin.VerdictLimited
	e.Reason = `intention "all" allows web to call busy, but it would be refused with status 429 now: more than 100/s for each caller; ` +
		"worth asking again in 7ms"
	e.Decision = admin.ExplainedDecision{Region: "aws-us-east-1", Allowed: true, Rule: "all", Reason: "it allows web to call busy"}
	e.Candidates = []admin.Candidate{
		{Region: "aws-us-east-1", Kept: true, Chosen: true, Healthy: 2, Total: 2, Share: 0.2,
			Reason: "2 of 2 healthy; it comes back from a drain and gets 20 % of its share now"}}
	e.Limits = []admin.Limit{
		{Kind: "passage", Region: "aws-us-east-1", Text: "3 of 20 that may be sent there now in place of a better region; it said it has room " +
			"for 12 more, 120ms ago", Used: 3, Limit: 20, AgeSeconds: 0.12},
		{Kind: "rate", Region: "aws-us-east-1", Text: "100/s for each caller: 100 of 100 at once used up", Used: 100, Limit: 100, Refuses: true,
			Status: 429, WaitSeconds: 0.007, Reason: "more than 100/s for each caller"},
		{Kind: "retry_budget", Region: "aws-us-east-1", Text: "98 could be made now, of 20% of the requests and 10/s beside", Limit: 98}}
}

// explainFakeRequest fills in what becomes of a request: to /old it is answered, with a dot segment refused, else split.
func explainFakeRequest(e *admin.Explanation, r *admin.ExplainRequest) {
	in, route := *r.Request, fakeRoute()
	if in.Host == "" {
		in.Host = r.Destination
	}
	e.Request = &admin.Forecast{Request: in}
	switch in.Target {
	case "/old":
		e.Request.Rule, e.Request.Status, e.Request.Location = &route.Rules[0], 308, "http://api.example.com/old"
		e.Verdict, e.Reason = admin.VerdictAnswered, `rule "old" answers with status 308 and leads to http://api.example.com/old`
		return
	case "/../x":
		e.Verdict, e.Reason = admin.VerdictRefused, "the gateway refuses the request with status 400: dot-segment"
		return
	}
	e.Request.Rule, e.Request.More = &route.Rules[2], 1
	for range 10 {
		e.Request.Before = append(e.Request.Before, admin.RuleNotMatched{Rule: "v1", Reason: `path "/x" is not below "/v1"`})
	}
	e.Request.Forwarded = &admin.HTTPRequest{Method: in.Method, Target: "/v2/x", Host: in.Host}
	e.Verdict, e.Reason = admin.VerdictDenied, "of some requests, by the split: no intention allows it"
	e.Request.Shares = []admin.Share{
		{Destination: r.Destination, Percent: 90, Verdict: admin.VerdictAllowed, Region: "aws-us-east-1", Reason: "allowed"},
		{Destination: "api-next", Subset: "v2", Percent: 10, Verdict: admin.VerdictDenied, Reason: "no intention allows it"}}
	e.Decision = admin.ExplainedDecision{Region: "aws-us-east-1", Rule: "default", Code: "TW-7001", Reason: "no intention allows it",
		Shadow: "strict"}
	e.Notes = []string{"region gcp-europe-west1 runs a version that answers for connections only"}
}

// explainFakeSick is a service whose instances all look unhealthy, more of them than a table shows.
func explainFakeSick(e *admin.Explanation) {
	e.Reason = "web-to-sick allows it; region aws-us-east-1 is tried, because nobody else can serve it: no healthy instance"
	here := admin.Candidate{Region: "aws-us-east-1", Kept: true, Chosen: true, Total: 7}
	for _, id := range []federation.InstanceID{"a", "b", "c", "d", "e", "f"} {
		here.Endpoints = append(here.Endpoints, admin.ExplainedEndpoint{Instance: id, Address: "192.0.2.7:8080", Reason: "unhealthy"})
	}
	here.Endpoints[0].Kept, here.Endpoints[0].Reason, here.Endpoints[0].InFlight, here.Endpoints[0].LatencySeconds = true, "healthy", 3, 0.0004
	here.Endpoints[5].Reason, here.Endpoints[5].EjectedSeconds = "left out after failures", 12
	e.Candidates = []admin.Candidate{here}
}
