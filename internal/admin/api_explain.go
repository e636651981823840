package admin

import (
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Verdict is the short answer of an explanation.
type Verdict string

// The verdicts.
const (
	VerdictAllowed     Verdict = "allowed"     // a connection would be made
	VerdictDenied      Verdict = "denied"      // an intention, or the lack of one, refuses it, here or at the peer
	VerdictUnreachable Verdict = "unreachable" // allowed, but nobody could serve it now
	VerdictLimited     Verdict = "limited"     // allowed, but refused at this moment for a limit
	VerdictAnswered    Verdict = "answered"    // a request: a rule of the route answers it
	VerdictRefused     Verdict = "refused"     // a request: it is not well-formed
)

// Explanation says what would happen to a connection now, and why. It is made by the same code that decides connections.
type Explanation struct {
	Verdict     Verdict            `json:"verdict"`
	Region      federation.Region  `json:"region"`       // who explains
	At          federation.Region  `json:"at,omitempty"` // whose decision or state the verdict rests on
	View        uint64             `json:"view"`         // number of the view it was decided on
	Reason      string             `json:"reason"`       // the verdict in one sentence
	Fix         string             `json:"fix,omitempty"`
	Caller      ExplainedCaller    `json:"caller"`
	Destination string             `json:"destination"`        // where a rule splits requests, that of the share explained
	Exported    *bool              `json:"exported,omitempty"` // to the caller's region, when that is a peer
	Decision    ExplainedDecision  `json:"decision"`           // of this region; without a rule when nobody was in the running
	Candidates  List[Candidate]    `json:"candidates"`         // in the order they are tried, then those that are not
	LeftOut     []LeftOut          `json:"left_out,omitempty"` // workloads here that say they are the destination and are not used
	Remote      *ExplainedDecision `json:"remote,omitempty"`   // of the peer that would be tried first, when it answered
	RemoteError string             `json:"remote_error,omitempty"`
	Conditional bool               `json:"conditional,omitempty"` // no request was given, and only certain ones are allowed
	Request     *Forecast          `json:"request,omitempty"`     // when one was given and somebody looks at it
	Limits      []Limit            `json:"limits,omitempty"`      // that it meets now, in the order in which it meets them
	Tokens      []TokenFinding     `json:"tokens,omitempty"`      // the token that it brings, as the providers of this region see it
	Notes       []string           `json:"notes,omitempty"`       // what limits the answer
}

// Limit is one limit, with the figures of this moment.
type Limit struct {
	Kind        string            `json:"kind"`   // rate, requests, peer_requests, connections, room, passage, retry_budget
	Region      federation.Region `json:"region"` // whose room it is, or whose resolver says so
	Text        string            `json:"text"`   // the figures in words
	Used        int               `json:"used"`
	Limit       int               `json:"limit"` // 0: none is known; of retry_budget: how many are left
	Waiting     int               `json:"waiting,omitempty"`
	AgeSeconds  Seconds           `json:"age_seconds,omitempty"` // of what another region has said
	Refuses     bool              `json:"refuses"`               // one more, now
	Status      int               `json:"status,omitempty"`      // with which it would
	WaitSeconds Seconds           `json:"wait_seconds,omitempty"`
	Reason      string            `json:"reason,omitempty"`
}

// TokenFinding is what a jwt resource makes of a request's token. What the token says of itself may be a lie unless it is verified.
type TokenFinding struct {
	Provider string       `json:"provider"`
	Verified bool         `json:"verified"`
	Refusal  string       `json:"refusal,omitempty"` // why it is not, in a word: expired, audience, issuer, unknown_key, ...
	Why      string       `json:"why,omitempty"`     // the same in a sentence
	Issuer   string       `json:"issuer,omitempty"`
	Audience List[string] `json:"audience"`
	Expires  time.Time    `json:"expires,omitzero"`
	KeyID    string       `json:"key_id,omitempty"`
}

// LeftOut is a workload that a provider lists and that is not used.
type LeftOut struct {
	Provider string `json:"provider"`
	Reason   string `json:"reason"` // as IgnoredWorkloads has it
	IgnoredWorkload
}

// ExplainedCaller is whom the connection counts as.
type ExplainedCaller struct {
	ID        string               `json:"id"`
	Region    federation.Region    `json:"region,omitempty"`
	Assurance federation.Assurance `json:"assurance"`
}

// ExplainedDecision is the policy decision of one region. A peer gives no reason for a refusal.
type ExplainedDecision struct {
	Region  federation.Region    `json:"region"`
	Allowed bool                 `json:"allowed"`
	Rule    string               `json:"rule,omitempty"` // the intention that decided; "default" when none matched
	Code    federation.Code      `json:"code,omitempty"` // why it is denied
	Reason  string               `json:"reason,omitempty"`
	Shadow  string               `json:"shadow,omitempty"` // an intention in shadow mode that would have decided otherwise
	Matched List[ExplainedMatch] `json:"matched"`          // every intention that speaks of the destination, in order of precedence

	Conditional bool `json:"conditional,omitempty"` // the intention that decided speaks of certain requests only
}

// HTTPRequest is a request in words.
type HTTPRequest struct {
	Method string              `json:"method"`
	Target string              `json:"target"` // path and query
	Host   string              `json:"host"`   // default: the destination's name
	Header map[string][]string `json:"header,omitempty"`
}

// Forecast says what would become of a request.
type Forecast struct {
	Request   HTTPRequest           `json:"request"`             // as the gateway reads it
	Status    int                   `json:"status,omitempty"`    // of the answer, when the gateway gives it by itself
	Location  string                `json:"location,omitempty"`  // where that leads to
	Rule      *federation.RouteRule `json:"rule,omitempty"`      // the rule of the route that matches
	Before    []RuleNotMatched      `json:"before,omitempty"`    // those before it
	More      int                   `json:"more,omitempty"`      // how many there were before those
	Forwarded *HTTPRequest          `json:"forwarded,omitempty"` // what intentions judge and an instance sees
	Shares    []Share               `json:"shares,omitempty"`    // where it goes
}

// RuleNotMatched is a rule of a route, and why a request does not match it.
type RuleNotMatched struct {
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
}

// Share is one of the places that the requests of a rule go to.
type Share struct {
	Destination string            `json:"destination"`
	Subset      string            `json:"subset,omitempty"`
	Prefers     federation.Region `json:"prefers,omitempty"`
	Percent     float64           `json:"percent"` // of the requests
	Verdict     Verdict           `json:"verdict"`
	At          federation.Region `json:"at"`
	Reason      string            `json:"reason"`
	Region      federation.Region `json:"region,omitempty"` // that would be tried first
}

// ExplainedMatch is one intention that was weighed.
type ExplainedMatch struct {
	Rule    string            `json:"rule"`
	Action  federation.Action `json:"action,omitempty"`
	Decided bool              `json:"decided,omitempty"`
	Reason  string            `json:"reason,omitempty"` // why it did or did not decide
	Source  string            `json:"source,omitempty"` // file:line it was read from
	Claims  []ExplainedClaim  `json:"claims,omitempty"` // that it asks of the request's token
}

// ExplainedClaim is a claim that an intention asks for, and what the request's token says to it.
type ExplainedClaim struct {
	Provider string       `json:"provider"`
	Path     List[string] `json:"path"`
	Any      List[string] `json:"any"`           // what it may be; none: anything
	Token    bool         `json:"token"`         // there is a token that the provider has verified
	Has      string       `json:"has,omitempty"` // what it claims there, as JSON
	Passed   bool         `json:"passed"`
}

// Candidate is a region that could serve the connection, or one that could not.
type Candidate struct {
	Region     federation.Region     `json:"region"`
	Kept       bool                  `json:"kept"`             // still in the running
	Chosen     bool                  `json:"chosen,omitempty"` // would be tried first
	Reason     string                `json:"reason,omitempty"` // why not kept
	Healthy    uint32                `json:"healthy"`
	Total      uint32                `json:"total"`
	Freshness  *federation.Freshness `json:"freshness,omitempty"` // of the import, for a peer
	Lane       string                `json:"lane,omitempty"`      // to a peer that can be reached: "quic" or "tcp"
	RTTSeconds Seconds               `json:"rtt_seconds,omitempty"`
	Drained    bool                  `json:"drained,omitempty"` // a last resort
	Share      float64               `json:"share,omitempty"`   // it comes back from a drain, with so much of its share now: 0 to 1
	Endpoints  []ExplainedEndpoint   `json:"endpoints,omitempty"`
}

// ExplainedEndpoint is an instance of the region that explains, as its balancer sees it: of those that are kept, load and latency decide.
type ExplainedEndpoint struct {
	Instance       federation.InstanceID `json:"instance"`
	Address        string                `json:"address"`
	Kept           bool                  `json:"kept"`
	Reason         string                `json:"reason"` // why it is kept or not
	EjectedSeconds Seconds               `json:"ejected_seconds,omitempty"`
	InFlight       int64                 `json:"in_flight"`
	LatencySeconds Seconds               `json:"latency_seconds,omitempty"` // moving average; of connecting, or to the head of a response
}
