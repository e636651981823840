package policy

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

// DefaultRule is the name of the rule that denies what no intention allows.
const DefaultRule = "default"

// The codes of a denial.
const (
	CodeNoIntention   federation.Code = "TW-7001" // no intention matches
	CodeDenied        federation.Code = "TW-7002" // an intention denies it
	CodeAssurance     federation.Code = "TW-7003" // the caller's identity is not proven well enough
	CodeUnknownDomain federation.Code = "TW-7004" // the caller is of a trust domain that belongs to no known region
	CodeNoWorkload    federation.Code = "TW-7005" // the caller's identity is not that of a workload
	CodeUnknownRegion federation.Code = "TW-7006" // the destination is in a region that is not known
	CodeBroken        federation.Code = "TW-7007" // an intention cannot be understood, so nothing is allowed
	CodeNoPolicy      federation.Code = "TW-7008" // no policy has been loaded yet
)

// Decision is the answer to "may SOURCE call DESTINATION", and why.
type Decision struct {
	Allowed bool            `json:"allowed"`
	Rule    string          `json:"rule"`              // the intention that decided; DefaultRule when none did
	Code    federation.Code `json:"code,omitempty"`    // why it is denied; empty when it is allowed
	Reason  string          `json:"reason"`            // one sentence for a log or an operator
	Shadow  string          `json:"shadow,omitempty"`  // an intention in shadow mode that would have turned the answer round
	Matched []Match         `json:"matched,omitempty"` // Explain only: each intention that speaks of the destination, in order of precedence

	Conditional bool `json:"conditional,omitempty"` // the intention that decided speaks of certain requests only
}

// Match is one intention as Explain weighed it.
type Match struct {
	Rule        string            `json:"rule"`
	Action      federation.Action `json:"action"`
	Source      string            `json:"source"`
	Destination string            `json:"destination"`
	Matches     bool              `json:"matches"` // its source and its destination mean this call
	Decided     bool              `json:"decided"` // it is the one that decided
	Reason      string            `json:"reason"`  // why it decided or did not

	// Claims are what it asks of the tokens of a request that it means but for them.
	Claims []match.Claim `json:"claims,omitempty"`
}

// Intentions is a set of intentions, compiled for one region. It is immutable and safe for any number of goroutines; nil
// denies everything.
type Intentions struct {
	here    federation.Region
	domains map[spiffeid.TrustDomain]place
	regions map[federation.Region]uint32 // the known ones first, then those that only patterns name
	known   uint32                       // how many are known: a region is if its number is not higher
	names   map[federation.ServiceName]uint32
	spaces  bool // some pattern covers a whole namespace
	shadows bool // some intention is in shadow mode
	rules   []rule
	table   map[selector]map[selector][]*rule // destination, then source, to the rules that could decide for both, in order
	broken  *Decision
	asks    map[federation.ServiceName][]match.Ask // by the name in a destination; see Asks
}

// rule is an intention with its patterns read and its sentences written, so that deciding allocates nothing.
type rule struct {
	federation.Intention
	source, destination federation.Pattern
	require             federation.Assurance
	requests            []permission // those it speaks of; none: whatever is sent
	shadow              bool
	allow, deny         Decision // deny is also what a caller with too little assurance gets from an allow
}

// selector stands for a pattern: the number of its region in the upper half and of its name in the lower one. Both are 0
// for "any".
type selector uint64

const anything = 0

func newSelector(region, name uint32) selector { return selector(region)<<32 | selector(name) }

// CompileIntentions prepares list for deciding in the region here. domains says which region each trust domain belongs to,
// the own one included; an identity of another domain is denied whatever list says. An intention that cannot be understood
// makes the result deny everything, with a reason that names it.
func CompileIntentions(
	here federation.Region, domains map[spiffeid.TrustDomain]federation.Region, list []federation.Intention,
) *Intentions {
	p := &Intentions{
		here:    here,
		domains: make(map[spiffeid.TrustDomain]place, len(domains)),
		regions: map[federation.Region]uint32{},
		names:   map[federation.ServiceName]uint32{},
		table:   map[selector]map[selector][]*rule{},
		rules:   make([]rule, 0, len(list)),
	}
	number(p.regions, here)
	for domain, region := range domains {
		p.domains[domain] = place{region, number(p.regions, region)}
	}
	p.known = uint32(len(p.regions))
	for _, intention := range list {
		r, err := newRule(here, intention)
		if err != nil {
			p.setBroken(intention.Name, err)
			continue
		}
		p.rules = append(p.rules, r)
	}
	slices.SortStableFunc(p.rules, precedence)
	for i := range p.rules {
		p.shadows = p.shadows || p.rules[i].shadow
		p.index(&p.rules[i])
	}
	p.gatherAsks()
	return p
}

func newRule(here federation.Region, i federation.Intention) (rule, error) {
	r := rule{Intention: i, require: max(i.Require, federation.AssuranceBinding), shadow: i.Mode == federation.Shadow}
	var err error
	lean := match.Lean(i.Action == federation.Deny)
	for _, m := range i.HTTP {
		c, err := compilePermission(m, lean)
		if err != nil {
			return rule{}, err
		}
		r.requests = append(r.requests, c)
	}
	if r.source, err = federation.ParsePattern(i.Source); err != nil {
		return rule{}, fmt.Errorf("source: %w", err)
	}
	if r.destination, err = federation.ParsePattern(i.Destination); err != nil {
		return rule{}, fmt.Errorf("destination: %w", err)
	}
	// From here on a pattern says its region: "checkout" and "checkout@<here>" are the same rule.
	for _, p := range []*federation.Pattern{&r.source, &r.destination} {
		if p.Region == "" {
			p.Region = string(here)
		}
	}
	switch i.Action {
	case federation.Allow:
		r.allow = Decision{Allowed: true, Rule: i.Name,
			Reason: fmt.Sprintf("intention %q allows %s to call %s", i.Name, r.source, r.destination)}
		r.deny = Decision{Rule: i.Name, Code: CodeAssurance,
			Reason: fmt.Sprintf("intention %q requires an identity proven by %s, the caller's is weaker", i.Name, r.require)}
	case federation.Deny:
		r.deny = Decision{Rule: i.Name, Code: CodeDenied,
			Reason: fmt.Sprintf("intention %q denies %s to call %s", i.Name, r.source, r.destination)}
	default:
		return rule{}, fmt.Errorf("action %q is unknown", i.Action)
	}
	r.allow.Conditional, r.deny.Conditional = len(r.requests) > 0, len(r.requests) > 0
	return r, nil
}

// setBroken remembers the broken intention that comes first by name, so that the answer does not depend on their order.
func (p *Intentions) setBroken(name string, err error) {
	if p.broken != nil && p.broken.Rule <= name {
		return
	}
	p.broken = &Decision{Rule: name, Code: CodeBroken,
		Reason: fmt.Sprintf("intention %q cannot be understood (%v), so nothing is allowed until it is corrected or deleted", name, err)}
}

// precedence orders rules: what comes first decides. Names break the last tie, so that the answer is always the same one.
func precedence(a, b rule) int {
	return cmp.Or(
		cmp.Compare(b.destination.Specificity(), a.destination.Specificity()),
		cmp.Compare(b.source.Specificity(), a.source.Specificity()),
		cmp.Compare(strictness(b), strictness(a)),
		cmp.Compare(a.Name, b.Name),
	)
}

func strictness(r rule) int {
	if r.Action == federation.Deny {
		return int(^federation.Assurance(0)) + 1
	}
	return int(r.require)
}

// index enters r unless a rule with the same patterns that always decides is there already: rules come in order of precedence.
func (p *Intentions) index(r *rule) {
	sources := p.table[p.selectorOf(r.destination)]
	if sources == nil {
		sources = map[selector][]*rule{}
		p.table[p.selectorOf(r.destination)] = sources
	}
	at := p.selectorOf(r.source)
	if same := sources[at]; !slices.ContainsFunc(same, func(r *rule) bool { return !r.shadow && len(r.requests) == 0 }) {
		sources[at] = append(same, r)
	}
}

func (p *Intentions) selectorOf(pattern federation.Pattern) selector {
	var region, name uint32
	if pattern.Region != "*" {
		region = number(p.regions, federation.Region(pattern.Region))
	}
	if pattern.Namespace != "*" {
		name = number(p.names, federation.ServiceName{Namespace: pattern.Namespace, Name: pattern.Name})
		p.spaces = p.spaces || pattern.Name == "*"
	}
	return newSelector(region, name)
}

// number returns the number of key, the next free one when it has none. Numbers start at 1.
func number[K comparable](numbers map[K]uint32, key K) uint32 {
	n, found := numbers[key]
	if !found {
		n = uint32(len(numbers)) + 1
		numbers[key] = n
	}
	return n
}

// Decide says whether the workload src, whose identity is as sure as assurance, may call the service dst of dstRegion, which
// is the name of a region and never "local". It is for services whose requests nobody looks into: an allow of certain requests
// allows none there, and a deny of certain requests denies all. An allowed call costs no allocation.
func (p *Intentions) Decide(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName,
) Decision {
	return p.decide(src, assurance, party{place{region: dstRegion}, dst}, question{})
}

// DecideAny is Decide before any request has come: it says whether there are requests that would be allowed.
func (p *Intentions) DecideAny(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName,
) Decision {
	return p.decide(src, assurance, party{place{region: dstRegion}, dst}, question{any: true})
}

// DecideRequest is Decide for one request.
func (p *Intentions) DecideRequest(
	src spiffeid.ID, assurance federation.Assurance, dstRegion federation.Region, dst federation.ServiceName, r *match.Request,
) Decision {
	return p.decide(src, assurance, party{place{region: dstRegion}, dst}, question{request: r})
}

// question is what a decision is about.
type question struct {
	request *match.Request // nil: a connection
	any     bool           // of the connection: requests will come, each with a decision of its own
	shadow  bool           // as if shadow mode were none

	src            spiffeid.ID
	caller, callee party // resolved
}

// decide answers for to, of which region and service are given.
func (p *Intentions) decide(src spiffeid.ID, assurance federation.Assurance, to party, what question) Decision {
	var refusal *Decision
	what.src = src
	if what.caller, what.callee, refusal = p.resolve(src, to.region, to.service); refusal != nil {
		return *refusal
	}
	d := p.answer(p.find(assurance, &what), what.caller, what.callee, assurance)
	if p.shadows {
		what.shadow = true
		r := p.find(assurance, &what)
		if r != nil && r.shadow && r.decide(assurance).Allowed != d.Allowed {
			d.Shadow = r.Name
		}
	}
	return d
}

func (p *Intentions) answer(r *rule, caller, callee party, assurance federation.Assurance) Decision {
	if r == nil {
		return *refuse(CodeNoIntention, "no intention of %s allows %s to call %s", p.here, caller, callee)
	}
	return r.decide(assurance)
}

// applies reports whether r, whose patterns match, has a say.
func (r *rule) applies(assurance federation.Assurance, what *question) bool {
	switch {
	case r.shadow && !what.shadow:
		return false
	case len(r.requests) == 0:
		return true
	case what.request != nil:
		for i := range r.requests {
			if r.requests[i].passes(what, r.Action) {
				return true
			}
		}
		return false
	case what.any: // a request may come that it allows; none has come that it denies
		return r.Action == federation.Allow && assurance >= r.require
	}
	return r.Action == federation.Deny
}

// place is a known region and its number.
type place struct {
	region federation.Region
	number uint32
}

// party is one end of a call.
type party struct {
	place
	service federation.ServiceName
}

func (p party) String() string { return p.service.String() + "@" + string(p.region) }

func (r *rule) decide(assurance federation.Assurance) Decision {
	if r.Action == federation.Allow && assurance >= r.require {
		return r.allow
	}
	return r.deny
}

// find returns the rule that decides, or nil. The selectors of each side come in order of specificity and the rules of a table
// entry in order of precedence, so the first that applies is the answer.
func (p *Intentions) find(assurance federation.Assurance, what *question) *rule {
	var srcSelectors, dstSelectors [6]selector
	sources := p.selectors(&srcSelectors, &what.caller)
	for _, d := range p.selectors(&dstSelectors, &what.callee) {
		bySource := p.table[d]
		if bySource == nil {
			continue
		}
		for _, s := range sources {
			for _, r := range bySource[s] {
				if r.applies(assurance, what) {
					return r
				}
			}
		}
	}
	return nil
}

// selectors returns the selectors of every pattern that could match who, the most specific first: the name, its namespace,
// everything, each in that region and then in any.
func (p *Intentions) selectors(into *[6]selector, who *party) []selector {
	list := into[:0]
	add := func(name uint32) {
		list = append(list, newSelector(who.number, name), newSelector(anything, name))
	}
	if n := p.names[who.service]; n != 0 {
		add(n)
	}
	if p.spaces {
		if n := p.names[federation.ServiceName{Namespace: who.service.Namespace, Name: "*"}]; n != 0 {
			add(n)
		}
	}
	add(anything)
	return list
}

// resolve finds out who the ends of a call are, or why the question is not worth asking.
func (p *Intentions) resolve(
	src spiffeid.ID, dstRegion federation.Region, dst federation.ServiceName,
) (caller, callee party, refusal *Decision) {
	if p == nil {
		return caller, callee, refuse(CodeNoPolicy, "no policy has been loaded yet, so nothing is allowed")
	}
	if p.broken != nil {
		return caller, callee, p.broken
	}
	from, known := p.domains[src.TrustDomain()]
	if !known {
		return caller, callee, refuse(CodeUnknownDomain, "caller %q is of a trust domain that belongs to no region known here", src)
	}
	role, service := federation.RoleOf(src)
	if role != federation.RoleWorkload {
		return caller, callee, refuse(CodeNoWorkload, "caller %q is not a workload", src)
	}
	to := p.regions[dstRegion]
	if to == 0 || to > p.known {
		return caller, callee, refuse(CodeUnknownRegion, "destination region %q is neither this region nor a peer", dstRegion)
	}
	return party{from, service}, party{place{dstRegion, to}, dst}, nil
}

func refuse(code federation.Code, format string, args ...any) *Decision {
	return &Decision{Rule: DefaultRule, Code: code, Reason: fmt.Sprintf(format, args...)}
}
