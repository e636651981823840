package route

import (
	"fmt"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

// maxWeighed bounds how many rules are explained one by one: a route can have 10,000, and nobody reads that many.
const maxWeighed = 100

// Weighed is a rule of a route that a request did not pass, and the first condition that failed; of several matches, one for each.
type Weighed struct {
	Rule   string `json:"rule"`
	Reason string `json:"reason"`
}

// Search is how the rule for a request was found.
type Search struct {
	Rule   *Rule     // never nil, as with Snapshot.Rule
	Found  bool      // false: no rule of a route matches
	Before []Weighed // the rules that were asked before and did not match: the last maxWeighed of them
	More   int       // how many there were before those
}

// ExplainRule is Rule with the rules that did not match. It is for people and allocates as it likes.
func (s *Snapshot) ExplainRule(dst federation.ServiceName, r *match.Request) Search {
	c := s.routes[dst]
	if c == nil {
		return Search{Rule: &unruled}
	}
	found := Search{Rule: &unruled}
	end := len(c.rules)
	if i := c.table.Find(r); i >= 0 {
		found.Rule, found.Found, end = &c.rules[i], true, i
	}
	found.More = max(0, end-maxWeighed)
	for i := found.More; i < end; i++ {
		found.Before = append(found.Before, Weighed{c.rules[i].Name, whyNot(c.rules[i].Match, r)})
	}
	return found
}

// whyNot says what keeps r from passing any of matches.
func whyNot(matches []federation.HTTPMatch, r *match.Request) string {
	var reasons []string
	for _, m := range matches {
		reasons = append(reasons, failing(m, r))
	}
	return strings.Join(reasons, "; ")
}

// failing names the first condition of m that r does not pass. Each is compiled by itself, so that what is said is what decided.
func failing(m federation.HTTPMatch, r *match.Request) string {
	type condition struct {
		of   federation.HTTPMatch
		says string
	}
	path := func(what, want string, of federation.HTTPMatch) condition {
		return condition{of, fmt.Sprintf("path %q %s %q", r.Path, what, want)}
	}
	conditions := []condition{
		{federation.HTTPMatch{Methods: m.Methods}, fmt.Sprintf("method %q is not %s", r.Method, strings.Join(m.Methods, " or "))},
		{federation.HTTPMatch{Hosts: m.Hosts}, fmt.Sprintf("host %q is not %s", r.Host, strings.Join(m.Hosts, " or "))},
		path("is not", m.Path, federation.HTTPMatch{Path: m.Path}),
		path("is not below", m.PathPrefix, federation.HTTPMatch{PathPrefix: m.PathPrefix}),
		path("does not fit", m.PathTemplate, federation.HTTPMatch{PathTemplate: m.PathTemplate}),
		{federation.HTTPMatch{GRPC: m.GRPC}, fmt.Sprintf("it is no gRPC call of %q", m.GRPC)},
	}
	for _, f := range m.Headers {
		conditions = append(conditions, condition{federation.HTTPMatch{Headers: []federation.FieldMatch{f}}, unmet("header", f)})
	}
	for _, f := range m.Query {
		conditions = append(conditions, condition{federation.HTTPMatch{Query: []federation.FieldMatch{f}}, unmet("query parameter", f)})
	}
	for _, c := range conditions {
		if one, err := match.Compile(c.of, match.Narrow); err != nil || !one.Matches(r) {
			return c.says
		}
	}
	return "a rule before it matches" // not reached: what passes each condition passes all
}

// unmet says what a field that did not pass should have been. Its value is left out: it may be a secret.
func unmet(what string, f federation.FieldMatch) string {
	switch {
	case f.Absent:
		return fmt.Sprintf("%s %q is there", what, f.Name)
	case len(f.Exact) > 0:
		return fmt.Sprintf("%s %q is not %q", what, f.Name, f.Exact)
	case f.Prefix != "":
		return fmt.Sprintf("%s %q does not begin with %q", what, f.Name, f.Prefix)
	}
	return fmt.Sprintf("%s %q is not there", what, f.Name)
}
