package federation

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"
)

// Route says what becomes of the requests for a service that speaks HTTP. The resource's name is the service's. The first rule that
// matches decides; a request that none matches goes to the service as if there were no route.
type Route struct {
	Service ServiceName `json:"-"` // from the name
	Rules   []RouteRule `json:"rules"`
}

// RouteRule is one rule of a route. It sends the request on (to Split, else to the service itself), unless it redirects or responds.
type RouteRule struct {
	Name  string      `json:"name"`
	Match []HTTPMatch `json:"match,omitempty"` // any of them; none: every request

	Split    []Split   `json:"split,omitempty"`
	Redirect *Redirect `json:"redirect,omitempty"`
	Respond  *Respond  `json:"respond,omitempty"`

	Rewrite  *Rewrite    `json:"rewrite,omitempty"`
	Request  *HeaderEdit `json:"request_headers,omitempty"`
	Response *HeaderEdit `json:"response_headers,omitempty"`

	Timeout     Duration `json:"timeout,omitempty"`      // from the request's head to the response's; 0: none
	TryTimeout  Duration `json:"try_timeout,omitempty"`  // the same of each try
	IdleTimeout Duration `json:"idle_timeout,omitempty"` // a stream without a byte either way for so long is ended; 0: the resolver's

	// Priority is how urgent a request counts as when a region has to shed (RFC 9218: 0 first to 7 last); nil: as its Priority field says.
	Priority *int `json:"priority,omitempty"`

	Retry  *Retry  `json:"retry,omitempty"` // nil: DefaultRetry
	Mirror *Mirror `json:"mirror,omitempty"`

	// RateLimits bound what this gateway's callers may ask for by the rule, for each caller or all together. All of them hold, beside those
	// of the resolver in the region that answers.
	RateLimits []RateLimit `json:"rate_limits,omitempty"`
	Fault      *Fault      `json:"fault,omitempty"`
}

// Split is one of several places that share the requests by weight. Fields that are not given are the route's own: a split of weight
// only is the service itself, with its failover order.
type Split struct {
	Service ServiceName `json:"service,omitzero"`
	Subset  string      `json:"subset,omitempty"` // of that service's resolver
	Region  Region      `json:"region,omitempty"` // first choice: the failover order comes into play only when it has nothing that can serve
	Weight  uint32      `json:"weight"`
}

// Redirect answers with another place.
type Redirect struct {
	Scheme     string `json:"scheme,omitempty"`
	Host       string `json:"host,omitempty"`
	Path       string `json:"path,omitempty"`        // the whole path
	PathPrefix string `json:"path_prefix,omitempty"` // instead of what path_prefix matched
	Status     int    `json:"status,omitempty"`      // 301, 302, 303, 307 or 308; default 302
}

// Respond answers at once.
type Respond struct {
	Status int    `json:"status"`
	Body   string `json:"body,omitempty"` // at most 4 KiB, sent as text/plain unless response_headers say otherwise
}

// Rewrite changes what the instance gets to see.
type Rewrite struct {
	Host       string `json:"host,omitempty"`
	Path       string `json:"path,omitempty"`        // the whole path; with path_template, {name} stands for what it matched
	PathPrefix string `json:"path_prefix,omitempty"` // instead of what path_prefix matched
}

// HeaderEdit changes header fields: Remove first, then Set, then Add.
type HeaderEdit struct {
	Set    map[string]string `json:"set,omitempty"`
	Add    map[string]string `json:"add,omitempty"`
	Remove []string          `json:"remove,omitempty"`
}

// RetryOn is a reason to try a request again.
type RetryOn string

// The reasons to try again. A status code ("503") is one too.
const (
	RetryConnect RetryOn = "connect-failure" // no instance took the request; safe for every method
	RetryReset   RetryOn = "reset"           // the connection broke before the response's head; idempotent methods only
	RetryRefused RetryOn = "refused-stream"  // HTTP/2 said that nothing was processed; safe for every method
)

// Retry says when a request is tried again. Whatever it says, the service's retry budget has the last word.
type Retry struct {
	Attempts   int       `json:"attempts,omitempty"`    // beyond the first; default 2
	On         []RetryOn `json:"on,omitempty"`          // default: the three reasons above
	AllMethods bool      `json:"all_methods,omitempty"` // also methods that are not idempotent: the service must be made for it
	Hedge      *Hedge    `json:"hedge,omitempty"`       // nil: none
}

// Hedge sends a request a second time when the first try is slow, to another instance or region, and takes the answer that comes first:
// only idempotent ones without a body, and no more than both its own budget and the service's retry budget allow. The second try is
// the last: nothing is tried again after it.
type Hedge struct {
	After   HedgeAfter `json:"after,omitzero"`
	Percent float64    `json:"percent,omitempty"` // of the rule's requests in the last ten seconds, at most; default 5
}

// HedgeAfter is how long a request waits for the head of a response before it is sent a second time. The zero value, "p95" as text, is
// as long as 95 of 100 requests for the service took of late in the same region, once enough have been seen to tell.
type HedgeAfter Duration

const hedgeP95 = "p95"

// MarshalText writes "p95" or a duration.
func (a HedgeAfter) MarshalText() ([]byte, error) {
	if a == 0 {
		return []byte(hedgeP95), nil
	}
	return Duration(a).MarshalText()
}

// UnmarshalText reads the form of MarshalText; the empty text is the zero value.
func (a *HedgeAfter) UnmarshalText(b []byte) error {
	if len(b) == 0 || string(b) == hedgeP95 {
		*a = 0
		return nil
	}
	var d Duration
	if err := d.UnmarshalText(b); err != nil || d.D() < time.Millisecond {
		return fmt.Errorf("after %q is not valid: write \"p95\", or a duration of at least 1ms", b)
	}
	*a = HedgeAfter(d)
	return nil
}

// Mirror sends a copy of some requests elsewhere; the answers are thrown away. The copy's body is that of the request while it streams: a
// copy never holds up what it copies. It is given up when its receiver falls 64 KiB behind, and when the body has not ended after 30 s,
// as that of a stream. Not copied are upgrades, and requests that come while many copies are under way.
type Mirror struct {
	Service ServiceName `json:"service"`
	Percent float64     `json:"percent,omitempty"` // default 100
}

// Fault hurts some requests on purpose.
type Fault struct {
	Delay        Duration `json:"delay,omitempty"`
	DelayPercent float64  `json:"delay_percent,omitempty"`
	Abort        int      `json:"abort,omitempty"` // a status
	AbortPercent float64  `json:"abort_percent,omitempty"`
}

// DefaultRetry is what holds where a route says nothing: only what certainly did no harm is tried again.
func DefaultRetry() Retry {
	return Retry{Attempts: 2, On: []RetryOn{RetryConnect, RetryReset, RetryRefused}}
}

// Kind implements Spec.
func (*Route) Kind() Kind { return KindRoute }

// Validate implements Spec.
func (r *Route) Validate(name string) error {
	service, err := ParseServiceName(name)
	errs := []error{err}
	if err == nil {
		r.Service = service
	}
	if len(r.Rules) == 0 {
		errs = append(errs, errors.New("route has no rule"))
	}
	if len(r.Rules) > 10*MaxRules {
		errs = append(errs, fmt.Errorf("route has %d rules: at most %d are allowed", len(r.Rules), 10*MaxRules))
	}
	seen := map[string]bool{}
	for i := range r.Rules {
		rule := &r.Rules[i]
		if seen[rule.Name] {
			errs = append(errs, fmt.Errorf("rule %q is there twice", rule.Name))
		}
		seen[rule.Name] = true
		if err := rule.validate(); err != nil {
			errs = append(errs, fmt.Errorf("rule %q: %w", rule.Name, err))
		}
	}
	return errors.Join(errs...)
}

func (r *RouteRule) validate() error {
	errs := []error{checkLabel("rule", r.Name)}
	if len(r.Match) > maxConditions {
		errs = append(errs, fmt.Errorf("more than %d matches", maxConditions))
	}
	prefixed := len(r.Match) > 0
	for _, m := range r.Match {
		errs = append(errs, m.Validate())
		prefixed = prefixed && m.PathPrefix != ""
	}
	actions := 0
	for _, given := range []bool{len(r.Split) > 0, r.Redirect != nil, r.Respond != nil} {
		if given {
			actions++
		}
	}
	if actions > 1 {
		errs = append(errs, errors.New("split, redirect and respond exclude each other"))
	}
	if actions > 0 && len(r.Split) == 0 && (r.Rewrite != nil || r.Retry != nil || r.Mirror != nil || r.Priority != nil) {
		errs = append(errs, errors.New("rewrite, retry, mirror and priority belong to requests that are sent on"))
	}
	if r.Priority != nil && (*r.Priority < 0 || *r.Priority > 7) {
		errs = append(errs, fmt.Errorf("priority is %d: it must lie between 0, the most urgent, and 7", *r.Priority))
	}
	errs = append(errs, r.validateSplit(), r.Redirect.validate(prefixed), r.Respond.validate(), r.Rewrite.validate(prefixed),
		r.Request.validate(), r.Response.validate(), r.Retry.validate(), r.Mirror.validate(), r.Fault.validate(),
		r.validateRates())
	if r.Timeout != 0 && r.TryTimeout > r.Timeout {
		errs = append(errs, fmt.Errorf("try_timeout %v is longer than timeout %v", r.TryTimeout, r.Timeout))
	}
	return errors.Join(errs...)
}

func (r *RouteRule) validateRates() error {
	if len(r.RateLimits) > maxRateLimits {
		return fmt.Errorf("%d rate limits: at most %d are allowed", len(r.RateLimits), maxRateLimits)
	}
	for _, l := range r.RateLimits {
		if l.Per != PerCaller && l.Per != PerRule {
			return fmt.Errorf("rate_limit: per is %q: use caller or rule", l.Per)
		}
		if err := l.validateRate(); err != nil {
			return fmt.Errorf("rate_limit: %w", err)
		}
	}
	return nil
}

func (r *RouteRule) validateSplit() error {
	if len(r.Split) > maxConditions {
		return fmt.Errorf("more than %d splits", maxConditions)
	}
	var sum uint64
	for _, s := range r.Split {
		sum += uint64(s.Weight)
		if s.Region != "" && s.Region != Local {
			if _, err := ParseRegion(string(s.Region)); err != nil {
				return err
			}
		}
		if s.Subset != "" {
			if err := checkLabel("subset", s.Subset); err != nil {
				return err
			}
		}
	}
	if len(r.Split) > 0 && (sum == 0 || sum > 1_000_000) {
		return fmt.Errorf("the weights of the splits add up to %d: they must add up to 1 to 1,000,000", sum)
	}
	return nil
}

func (r *Redirect) validate(prefixed bool) error {
	switch {
	case r == nil:
		return nil
	case r.Scheme == "" && r.Host == "" && r.Path == "" && r.PathPrefix == "":
		return errors.New("redirect leads back to the same place")
	case r.Scheme != "" && r.Scheme != "http" && r.Scheme != "https":
		return fmt.Errorf("redirect: scheme %q is neither http nor https", r.Scheme)
	case r.Status != 0 && r.Status != 301 && r.Status != 302 && r.Status != 303 && r.Status != 307 && r.Status != 308:
		return fmt.Errorf("redirect: status %d is not one of 301, 302, 303, 307, 308", r.Status)
	}
	return errors.Join(checkAuthority("redirect", r.Host), checkTarget("redirect", r.Path, r.PathPrefix, prefixed))
}

func (r *Respond) validate() error {
	switch {
	case r == nil:
		return nil
	case r.Status < 200 || r.Status > 599:
		return fmt.Errorf("respond: status %d is not between 200 and 599", r.Status)
	case len(r.Body) > 4096:
		return fmt.Errorf("respond: the body has %d octets: at most 4096 are allowed", len(r.Body))
	}
	return nil
}

func (r *Rewrite) validate(prefixed bool) error {
	if r == nil {
		return nil
	}
	return errors.Join(checkAuthority("rewrite", r.Host), checkTarget("rewrite", r.Path, r.PathPrefix, prefixed))
}

func checkAuthority(what, host string) error {
	if host == "" {
		return nil
	}
	if u, err := url.Parse("http://" + host + "/"); err != nil || u.Host != host || len(host) > 255 || u.User != nil {
		return fmt.Errorf("%s: %q is no host", what, host)
	}
	return nil
}

func checkTarget(what, path, prefix string, prefixed bool) error {
	switch {
	case path != "" && prefix != "":
		return fmt.Errorf("%s: path and path_prefix exclude each other", what)
	case prefix != "" && !prefixed:
		return fmt.Errorf("%s: path_prefix replaces what path_prefix matched, so every match must have one", what)
	case path != "":
		return checkPath(what+": path", path)
	case prefix != "":
		return checkPath(what+": path_prefix", prefix)
	}
	return nil
}

// reserved are header fields that frame a message or that the mesh itself writes: no rule may touch them.
var reserved = map[string]bool{
	"connection": true, "content-length": true, "host": true, "keep-alive": true, "proxy-connection": true, "te": true, "trailer": true,
	"transfer-encoding": true, "upgrade": true,
}

func (e *HeaderEdit) validate() error {
	if e == nil {
		return nil
	}
	check := func(name, value string) error {
		lower := strings.ToLower(name)
		switch {
		case !isToken(name) || len(name) > maxName:
			return fmt.Errorf("header %q is no name", name)
		case reserved[lower] || strings.HasPrefix(lower, ReservedHeaderPrefix):
			return fmt.Errorf("header %q cannot be changed: it frames the message or is the mesh's own", name)
		case len(value) > maxPattern || strings.ContainsFunc(value, func(r rune) bool { return r < 0x20 && r != '\t' || r == 0x7f }):
			return fmt.Errorf("header %q: the value is too long or holds control characters", name)
		}
		return nil
	}
	var errs []error
	for _, set := range []map[string]string{e.Set, e.Add} {
		for name, value := range set {
			errs = append(errs, check(name, value))
		}
	}
	for _, name := range e.Remove {
		errs = append(errs, check(name, ""))
	}
	if len(errs) > maxConditions {
		errs = append(errs, fmt.Errorf("more than %d header changes", maxConditions))
	}
	return errors.Join(errs...)
}

// ReservedHeaderPrefix begins the header fields that only gateways write. What a caller sends under such a name is removed.
const ReservedHeaderPrefix = "x-tradewind-"

func (r *Retry) validate() error {
	if r == nil {
		return nil
	}
	if r.Attempts < 0 || r.Attempts > 10 {
		return fmt.Errorf("retry: attempts is %d: it must lie between 0 and 10", r.Attempts)
	}
	for _, on := range r.On {
		switch on {
		case RetryConnect, RetryReset, RetryRefused:
			continue
		}
		if len(on) != 3 || on < "500" || on > "599" {
			return fmt.Errorf("retry: %q is no reason: use connect-failure, reset, refused-stream or a status from 500 to 599", on)
		}
	}
	if r.Hedge == nil {
		return nil
	}
	if h := *r.Hedge; h.After < 0 || h.After > 0 && time.Duration(h.After) < time.Millisecond {
		return errors.New("hedge: after is \"p95\", or at least 1ms")
	}
	return checkPercent("hedge: percent", r.Hedge.Percent)
}

func (m *Mirror) validate() error {
	switch {
	case m == nil:
		return nil
	case m.Service.IsZero():
		return errors.New("mirror names no service")
	}
	return checkPercent("mirror: percent", m.Percent)
}

func (f *Fault) validate() error {
	if f == nil {
		return nil
	}
	errs := []error{checkPercent("fault: delay_percent", f.DelayPercent), checkPercent("fault: abort_percent", f.AbortPercent)}
	if f.Delay.D() > time.Minute {
		errs = append(errs, fmt.Errorf("fault: delay %v is longer than a minute", f.Delay))
	}
	if f.Abort != 0 && (f.Abort < 400 || f.Abort > 599) {
		errs = append(errs, fmt.Errorf("fault: abort %d is not a status from 400 to 599", f.Abort))
	}
	return errors.Join(errs...)
}

func checkPercent(what string, p float64) error {
	if !(p >= 0 && p <= 100) { // also not a number
		return fmt.Errorf("%s is %v: it must lie between 0 and 100", what, p)
	}
	return nil
}
