package mesh

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/http1"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// Request is a request in words: one that is asked about, or one as it would be forwarded.
type Request struct {
	Method string              `json:"method"`
	Target string              `json:"target"` // path and query
	Host   string              `json:"host"`
	Header map[string][]string `json:"header,omitempty"`
}

// Forecast says what would become of a request.
type Forecast struct {
	Request   Request               `json:"request"`             // as the gateway reads it
	Status    int                   `json:"status,omitempty"`    // of the response, when the gateway answers by itself
	Location  string                `json:"location,omitempty"`  // of that response
	Rule      *federation.RouteRule `json:"rule,omitempty"`      // of the route, that matches; nil: none does
	Before    []route.Weighed       `json:"before,omitempty"`    // rules that were asked before it, and do not match
	More      int                   `json:"more,omitempty"`      // how many there were before those
	Forwarded *Request              `json:"forwarded,omitempty"` // what is judged, and what an instance sees
	Shares    []Share               `json:"shares,omitempty"`    // where it goes
}

// Share is one of the places that the requests of a rule go to.
type Share struct {
	Destination federation.ServiceRef `json:"destination"`
	Subset      string                `json:"subset,omitempty"`
	Prefers     federation.Region     `json:"prefers,omitempty"`
	Percent     float64               `json:"percent"` // of the requests
	Verdict     Verdict               `json:"verdict"`
	At          federation.Region     `json:"at"`
	Reason      string                `json:"reason"`
	Region      federation.Region     `json:"region,omitempty"` // that would be tried first
}

// read makes of r what the data path would make of it, had it come from a caller. The error says why it would be refused.
func (r *Request) read() (*http.Request, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: %s\r\n", r.Method, r.Target, r.Host)
	lines := 2
	for _, name := range slices.Sorted(maps.Keys(r.Header)) {
		for _, value := range r.Header[name] {
			fmt.Fprintf(&b, "%s: %s\r\n", name, value)
			lines++
		}
	}
	text := b.String() + "\r\n"
	if strings.Count(text, "\n") != lines+1 || strings.Count(text, "\r") != lines+1 {
		return nil, errors.New("400: there is a line break in it")
	}
	if strings.ContainsAny(r.Method, " \t") { // it would be read as a part of the target
		return nil, fmt.Errorf("400: method (%s)", refusals["method"])
	}
	reader := http1.NewReader(strings.NewReader(text), http1.Rules{})
	defer reader.Release()
	req, err := reader.ReadRequest()
	if err == nil {
		err = http1.StripHopByHop(req.Header, http1.UpgradeProtocol(req.Header) != "")
	}
	if err == nil && req.Method == http.MethodConnect {
		return nil, fmt.Errorf("%d: connect (what comes behind it is not HTTP: declare a service that is a proxy as tcp)", http.StatusNotImplemented)
	}
	var bad *http1.Error
	switch {
	case errors.As(err, &bad):
		if words := refusals[bad.Reason]; words != "" {
			return nil, fmt.Errorf("%d: %s (%s)", bad.Status, bad.Reason, words)
		}
		return nil, fmt.Errorf("%d: %s", bad.Status, bad.Reason)
	case err != nil:
		return nil, err
	}
	l7.StripReserved(req.Header)
	return req, nil
}

// refusals says what is wrong with a request that is refused with a reason of package http1.
var refusals = map[string]string{
	"target-form":      "a request is a method, a path that begins with a slash, and nothing else",
	"target-character": "the path has a character that must be written as an escape, such as %20",
	"dot-segment":      "the path has . or .. between slashes, written out or as an escape",
	"empty-segment":    "the path has two slashes with nothing between",
	"encoded-slash":    "the path has %2F or %5C, which some servers take for a slash",
	"encoded-control":  "the path has an escape for a control character",
	"backslash":        "the path has a backslash, which some servers take for a slash",
	"escape":           "a percent sign in the path is not followed by two hexadecimal digits",
	"fragment":         "a part after # is for browsers and is never sent",
	"host":             "the host is no name and no address",
	"host-port":        "the port of the host is no number from 1 to 65535",
	"host-differs":     "the URL and the field Host name different hosts",
	"method":           "the method is no word of letters, digits and hyphens",
	"field-name":       "the name of a header field has a character that is not allowed",
	"field-value":      "the value of a header field has a character that is not allowed",
	"underscore":       "the name of a header field has an underscore, which some servers take for a hyphen",
}

// worded is r in words.
func worded(r *http.Request) *Request {
	return &Request{Method: r.Method, Target: r.RequestURI, Host: r.Host, Header: maps.Clone(r.Header)}
}

// explainRequest follows a request of a local caller as requestOut does.
func (m *Mesh) explainRequest(ctx context.Context, e *Explanation, of call, in *Request) {
	f := &Forecast{Request: *m.shown(in)}
	e.Request = f
	r, err := in.read()
	if err != nil {
		e.refused(err)
		return
	}
	f.Request = *m.shown(worded(r))
	if !m.explainRequire(ctx, e, &of, r) {
		return
	}
	search := of.snap.ExplainRule(of.to.Service, asked(r))
	rule := search.Rule
	f.Before, f.More = search.Before, search.More
	if search.Found {
		f.Rule = rule.RouteRule
	}
	e.Limits = slices.Clip(m.peekRule(of.to.Service, rule.RouteRule, of.id.String()))
	if over := refusing(e.Limits); over != nil {
		f.Status = over.Status
		e.Verdict, e.At = VerdictLimited, over.Region
		e.Reason = fmt.Sprintf("rule %q would refuse it with status %d now: %s%s", rule.Name, over.Status, over.Reason, over.again())
		return
	}
	if fault := rule.Fault; fault != nil && fault.Abort != 0 && fault.AbortPercent >= 100 {
		f.Status = fault.Abort
		e.Verdict, e.Reason = VerdictAnswered, fmt.Sprintf("rule %q aborts every request with status %d, on purpose", rule.Name, f.Status)
		return
	} else if fault != nil {
		e.Notes = append(e.Notes, fmt.Sprintf("rule %q hurts some requests on purpose; this is about the others", rule.Name))
	}
	if res := answered(rule, r); res != nil {
		defer res.Body.Close()
		f.Status, f.Location = res.StatusCode, res.Header.Get("Location")
		e.Verdict, e.Reason = VerdictAnswered, fmt.Sprintf("rule %q answers with status %d", rule.Name, f.Status)
		if f.Location != "" {
			e.Reason += " and leads to " + f.Location
		}
		return
	}
	if err := rewrite(rule, r); err != nil {
		f.Status = http.StatusInternalServerError
		e.Verdict, e.Reason = VerdictRefused, fmt.Sprintf("what rule %q makes of it is not well-formed: %v", rule.Name, err)
		return
	}
	rule.Request.Apply(r.Header)
	f.Forwarded = m.shown(worded(r))
	of.request, of.wire = asked(r), worded(r)
	m.explainShares(ctx, e, of, rule, r)
}

// refused is the verdict on a request that no rule gets to see.
func (e *Explanation) refused(err error) {
	e.Verdict, e.Reason = VerdictRefused, fmt.Sprintf("the gateway refuses the request with status %v", err)
}

// explainShares follows the request to each place that rule may send it to. The explanation is that of the first share, by weight, that
// gets no answer, or else of the first.
func (m *Mesh) explainShares(ctx context.Context, e *Explanation, of call, rule *route.Rule, r *http.Request) {
	splits := slices.DeleteFunc(slices.Clone(rule.Split), func(s federation.Split) bool { return s.Weight == 0 })
	if len(splits) == 0 {
		splits = []federation.Split{{Weight: 1}}
	}
	slices.SortStableFunc(splits, func(a, b federation.Split) int { return int(b.Weight) - int(a.Weight) })
	var sum float64
	for _, s := range splits {
		sum += float64(s.Weight)
	}
	begun := *e
	for i, s := range splits {
		part, to := begun, of
		part.Candidates = []Candidate{}
		to.subset, to.prefers, to.priority = s.Subset, s.Region, rule.Priority
		if !s.Service.IsZero() {
			to.to = federation.ServiceRef{Service: s.Service}
		}
		if upstream, found := of.snap.Upstream(to.to); found && to.prefers == "" {
			to.prefers = affinityOf(upstream.Resolver.Affinity, r, of.id.String()).region
		}
		part.Destination = to.to
		bears := r.WithContext(ctx)
		bears.Header = r.Header.Clone()
		if m.explainVouch(ctx, &part, &to, bears) {
			m.explainOutbound(ctx, &part, &to)
		}
		share := Share{Destination: to.to, Subset: s.Subset, Prefers: s.Region, Percent: 100 * float64(s.Weight) / sum,
			Verdict: part.Verdict, At: part.At, Reason: part.Reason}
		for _, c := range part.Candidates {
			if c.Chosen {
				share.Region = c.Region
			}
		}
		part.Request.Shares = append(part.Request.Shares, share)
		begun.Notes = part.Notes // each is said once
		if i == 0 || e.Verdict == VerdictAllowed && part.Verdict != VerdictAllowed {
			*e = part
		}
	}
	e.Notes = slices.Compact(begun.Notes)
	if len(splits) > 1 && e.Verdict != VerdictAllowed {
		e.Reason = "of some requests, by the split: " + e.Reason
	}
}

// explainArrived reads a request that a peer's caller would make, and reports whether it is well-formed. The routes of this region are
// for its own callers: the peer's gateway has been through those of its own.
func (m *Mesh) explainArrived(ctx context.Context, e *Explanation, of *call, in *Request) bool {
	e.Request = &Forecast{Request: *m.shown(in)}
	r, err := in.read()
	if err != nil {
		e.refused(err)
		return false
	}
	of.wire, of.request = worded(r), asked(r)
	e.Request.Forwarded = m.shown(of.wire)
	e.Request.Request = *e.Request.Forwarded
	return m.explainVouch(ctx, e, of, r)
}
