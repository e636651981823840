package route

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"net/textproto"
	"strconv"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/federation/policy"
)

// Rule is one rule of a route, ready for use. It is immutable.
type Rule struct {
	*federation.RouteRule
	Retry    federation.Retry // defaults filled in
	Statuses map[int]bool     // of responses that are tried again
	Request  Edit
	Response Edit

	total uint64 // of the splits' weights
}

// Edit is a federation.HeaderEdit with names as net/http writes them.
type Edit struct {
	Remove   []string
	Set, Add [][2]string
}

// routes is the route of one service.
type routes struct {
	rules []Rule
	table *match.Table
}

func compileRoute(r federation.Route) (*routes, error) {
	matches := make([][]federation.HTTPMatch, len(r.Rules))
	c := &routes{rules: make([]Rule, len(r.Rules))}
	for i := range r.Rules {
		matches[i] = r.Rules[i].Match
		c.rules[i] = newRule(&r.Rules[i])
	}
	var err error
	if c.table, err = match.NewTable(matches); err != nil {
		return nil, fmt.Errorf("route %q: %w", r.Service, err)
	}
	return c, nil
}

// unruled is how a request is sent on that no rule speaks of.
var unruled = newRule(&federation.RouteRule{})

// hedgePercent is the part of its requests that a rule may send twice: what is slower than 95 of 100.
const hedgePercent = 5

func newRule(r *federation.RouteRule) Rule {
	rule := Rule{RouteRule: r, Retry: federation.DefaultRetry(), Request: newEdit(r.Request), Response: newEdit(r.Response)}
	if r.Retry != nil {
		rule.Retry.AllMethods = r.Retry.AllMethods
		if r.Retry.Attempts > 0 || len(r.Retry.On) == 0 && r.Retry.Hedge == nil { // "retry {}" with none of them is "never"
			rule.Retry.Attempts = r.Retry.Attempts
		}
		if h := r.Retry.Hedge; h != nil {
			rule.Retry.Hedge = &federation.Hedge{After: h.After, Percent: cmp.Or(h.Percent, hedgePercent)}
		}
		if len(r.Retry.On) > 0 {
			rule.Retry.On = r.Retry.On
		}
	}
	for _, on := range rule.Retry.On {
		if status, err := strconv.Atoi(string(on)); err == nil {
			if rule.Statuses == nil {
				rule.Statuses = map[int]bool{}
			}
			rule.Statuses[status] = true
		}
	}
	for _, s := range r.Split {
		rule.total += uint64(s.Weight)
	}
	return rule
}

func newEdit(e *federation.HeaderEdit) Edit {
	var edit Edit
	if e == nil {
		return edit
	}
	for _, name := range e.Remove {
		edit.Remove = append(edit.Remove, textproto.CanonicalMIMEHeaderKey(name))
	}
	for name, value := range e.Set {
		edit.Set = append(edit.Set, [2]string{textproto.CanonicalMIMEHeaderKey(name), value})
	}
	for name, value := range e.Add {
		edit.Add = append(edit.Add, [2]string{textproto.CanonicalMIMEHeaderKey(name), value})
	}
	return edit
}

// Apply changes header as e says.
func (e *Edit) Apply(header map[string][]string) {
	for _, name := range e.Remove {
		delete(header, name)
	}
	for _, f := range e.Set {
		header[f[0]] = []string{f[1]}
	}
	for _, f := range e.Add {
		header[f[0]] = append(header[f[0]], f[1])
	}
}

// Pick draws one of the rule's splits by weight; the zero Split, which is the service itself, when there are none.
func (r *Rule) Pick() federation.Split {
	if r.total == 0 {
		return federation.Split{}
	}
	n := rand.Uint64N(r.total)
	for _, s := range r.Split {
		if n < uint64(s.Weight) {
			return s
		}
		n -= uint64(s.Weight)
	}
	return federation.Split{} // not reached: n is less than the sum
}

// Rule returns what becomes of r, a request for dst. It is never nil: what no rule speaks of is sent on.
func (s *Snapshot) Rule(dst federation.ServiceName, r *match.Request) *Rule {
	if c := s.routes[dst]; c != nil {
		if i := c.table.Find(r); i >= 0 {
			return &c.rules[i]
		}
	}
	return &unruled
}

// AuthorizeAny is Authorize for a connection on which requests will come: it says whether any could be allowed.
func (s *Snapshot) AuthorizeAny(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName,
) policy.Decision {
	return s.intentions.DecideAny(src, assurance, s.real(dstRegion), dst)
}

// AuthorizeRequest is Authorize for one request.
func (s *Snapshot) AuthorizeRequest(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName, r *match.Request,
) policy.Decision {
	return s.intentions.DecideRequest(src, assurance, s.real(dstRegion), dst, r)
}

// Asks returns the providers of whose tokens AuthorizeRequest for dst may depend.
func (s *Snapshot) Asks(dst federation.ServiceName) []match.Ask { return s.intentions.Asks(dst) }

// ExplainAny is AuthorizeAny with every intention that was considered.
func (s *Snapshot) ExplainAny(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName,
) policy.Decision {
	return s.intentions.ExplainAny(src, assurance, s.real(dstRegion), dst)
}

// ExplainRequest is AuthorizeRequest with every intention that was considered.
func (s *Snapshot) ExplainRequest(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName, r *match.Request,
) policy.Decision {
	return s.intentions.ExplainRequest(src, assurance, s.real(dstRegion), dst, r)
}
