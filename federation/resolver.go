package federation

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The limits of a resolver. They bound what a resource can make each connection or request cost.
const (
	maxSubsets    = 64
	maxRateLimits = 16
	maxRate       = 10_000_000 // in its unit of time
	maxBurst      = 1_000_000
	maxLimit      = 10_000_000 // connections or requests: above what one gateway can hold
)

// Outlier is when an instance that keeps failing is left out for a while.
type Outlier struct {
	ConsecutiveFailures     int      `json:"consecutive_failures,omitempty"`      // connections that were refused, or reset without an answer
	ConsecutiveServerErrors int      `json:"consecutive_server_errors,omitempty"` // responses with a status of 500 to 599, in a row
	EjectFor                Duration `json:"eject_for,omitempty"`                 // times the number of ejections
	MaxEjectedPercent       int      `json:"max_ejected_percent,omitempty"`       // of the healthy instances

	// SuccessRate leaves out, every ten seconds, the instances whose share of successes lies further below the mean of all than so many
	// standard deviations. 0 is off. Instances with fewer than SuccessRateRequests since the last time do not count, and fewer than
	// SuccessRateHosts that do are not compared.
	SuccessRate         float64 `json:"success_rate,omitempty"`
	SuccessRateHosts    int     `json:"success_rate_hosts,omitempty"`
	SuccessRateRequests int     `json:"success_rate_requests,omitempty"`

	// PanicPercent is the share of instances that can be used (healthy and not ejected) below which all are used: the few that are left
	// would not survive the load of all. At 0 that is so only when none is left.
	PanicPercent int `json:"panic_percent,omitempty"`
}

func (o Outlier) validate() error {
	var errs []error
	for _, p := range []struct {
		what  string
		value int
	}{{"max_ejected_percent", o.MaxEjectedPercent}, {"panic_percent", o.PanicPercent}} {
		if p.value < 0 || p.value > 100 {
			errs = append(errs, fmt.Errorf("%s is %d: it must lie between 0 and 100", p.what, p.value))
		}
	}
	errs = append(errs, checkCount("consecutive_failures", o.ConsecutiveFailures), checkCount("success_rate_hosts", o.SuccessRateHosts),
		checkCount("consecutive_server_errors", o.ConsecutiveServerErrors), checkCount("success_rate_requests", o.SuccessRateRequests))
	if !(o.SuccessRate >= 0 && o.SuccessRate <= 10) { // also not a number
		errs = append(errs, fmt.Errorf("success_rate is %v: it is a number of standard deviations, 0 to 10, such as 1.9", o.SuccessRate))
	}
	if o.SuccessRate == 0 && (o.SuccessRateHosts != 0 || o.SuccessRateRequests != 0) {
		errs = append(errs, errors.New("success_rate_hosts and success_rate_requests need success_rate, which is off: write such as 1.9"))
	}
	return errors.Join(errs...)
}

func (o *Outlier) setDefaults() {
	setDefault(&o.ConsecutiveFailures, 5)             // Envoy's and Consul's default
	setDefault(&o.ConsecutiveServerErrors, 5)         // Envoy's and Istio's default
	setDefault(&o.EjectFor, Duration(10*time.Second)) // checks take over after that
	setDefault(&o.MaxEjectedPercent, 50)              // never empty a service on suspicion
	if o.SuccessRate > 0 {
		setDefault(&o.SuccessRateHosts, 5)      // Envoy's default: a mean of fewer says little
		setDefault(&o.SuccessRateRequests, 100) // Envoy's default: one failure is then one percent
	}
	// SuccessRate stays off: who has two kinds of instances would lose one of them. PanicPercent stays 0: what is known to be down is
	// used only in need.
}

// Subset is the part of a service's instances that carries all of these labels.
type Subset struct {
	Labels map[string]string `json:"labels"`
}

// Holds reports whether an instance with these labels belongs to the subset.
func (s Subset) Holds(labels map[string]string) bool {
	for k, want := range s.Labels {
		if got, found := labels[k]; !found || got != want {
			return false
		}
	}
	return true
}

// ProxyVersion is a version of the PROXY protocol (https://www.haproxy.org/download/3.2/doc/proxy-protocol.txt).
type ProxyVersion string

// The versions. Of a client that the mesh knows by its identity, and not by an address from outside, the header says that it is unknown.
const (
	ProxyV1 ProxyVersion = "v1" // a line of text
	ProxyV2 ProxyVersion = "v2" // binary
)

func (v ProxyVersion) validate() error {
	switch v {
	case "", ProxyV1, ProxyV2:
		return nil
	}
	return fmt.Errorf("proxy_protocol %q is unknown: use v1 or v2", v)
}

// Balance is how one of several instances is chosen.
type Balance string

// The ways to choose.
const (
	BalanceLatency      Balance = "latency"       // of two drawn by weight, the one with the lower latency times load
	BalanceLeastRequest Balance = "least_request" // of two drawn by weight, the one with the lower load
	BalanceMaglev       Balance = "maglev"        // by a key, see Affinity; without one by the caller's address
	BalanceRandom       Balance = "random"        // by weight alone
)

// Affinity sends what has the same key to the same instance for as long as it can be used, also after a restart of the gateway. Exactly
// one of Cookie, Header and Source is given. What has no key yet is balanced as the resolver says.
type Affinity struct {
	Cookie string   `json:"cookie,omitempty"` // name of a cookie that the gateway sets and reads
	TTL    Duration `json:"ttl,omitempty"`    // of the cookie; 0: until the browser is closed
	Header string   `json:"header,omitempty"` // name of a header field of the request
	Source bool     `json:"source,omitempty"` // the caller's address
}

// validateChoice checks what decides which instance is chosen.
func (r *Resolver) validateChoice() error {
	var errs []error
	switch r.Balance {
	case "", BalanceLatency, BalanceLeastRequest, BalanceMaglev, BalanceRandom:
	default:
		errs = append(errs, fmt.Errorf("balance %q is unknown: use latency, least_request, maglev or random", r.Balance))
	}
	if len(r.Subsets) > maxSubsets {
		errs = append(errs, fmt.Errorf("resolver has %d subsets: at most %d are allowed", len(r.Subsets), maxSubsets))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Subsets)) {
		errs = append(errs, checkLabel("subset", name))
		if n := len(r.Subsets[name].Labels); n == 0 || n > maxConditions {
			errs = append(errs, fmt.Errorf("subset %q has %d labels: it needs 1 to %d", name, n, maxConditions))
		}
	}
	return errors.Join(append(errs, r.Affinity.validate(), r.ProxyProtocol.validate())...)
}

func (a *Affinity) validate() error {
	if a == nil {
		return nil
	}
	given := 0
	for _, is := range []bool{a.Cookie != "", a.Header != "", a.Source} {
		if is {
			given++
		}
	}
	switch {
	case given != 1:
		return errors.New("affinity needs exactly one of cookie, header and source")
	case a.Cookie != "" && (!isToken(a.Cookie) || len(a.Cookie) > maxName):
		return fmt.Errorf("affinity: cookie %q is no name (RFC 6265)", a.Cookie)
	case a.Header != "" && (!isToken(a.Header) || len(a.Header) > maxName):
		return fmt.Errorf("affinity: header %q is no name (RFC 9110)", a.Header)
	case reserved[strings.ToLower(a.Header)] || strings.HasPrefix(strings.ToLower(a.Header), ReservedHeaderPrefix):
		return fmt.Errorf("affinity: header %q frames the message or is the mesh's own", a.Header)
	case a.TTL != 0 && (a.Cookie == "" || a.TTL.D() < time.Second):
		return errors.New("affinity: ttl is the life of a cookie, and at least 1s")
	}
	return nil
}

// Limits bound what a service has to bear from one gateway. 0 is no limit, but see Pending.
type Limits struct {
	Connections     int `json:"connections,omitempty"`       // open at the same time
	Requests        int `json:"requests,omitempty"`          // under way at the same time
	Pending         int `json:"pending,omitempty"`           // requests that wait until one of those ends; one more is refused at once
	PerPeerRequests int `json:"per_peer_requests,omitempty"` // of Requests, those that come from one peer
}

// RateLimit bounds how many requests come in a time. Limits for a caller are asked before those for the service, so that what a greedy
// caller has refused costs the others nothing.
type RateLimit struct {
	Per   RatePer `json:"per"`
	Rate  Rate    `json:"rate"`
	Burst int     `json:"burst,omitempty"` // requests at once after a calm time; default: those of one unit of Rate
}

// RatePer is whose requests are counted together.
type RatePer string

// What a rate limit counts together.
const (
	PerCaller  RatePer = "caller"  // those of one identity
	PerService RatePer = "service" // all for the service
	PerRule    RatePer = "rule"    // of a route: all that its rule matches
)

// RetryBudget bounds the retries of a service, so that they never multiply an outage: Percent of the requests of the last ten seconds, and
// Minimum beside them.
type RetryBudget struct {
	Percent float64 `json:"percent,omitempty"`
	Minimum Rate    `json:"minimum,omitzero"`
}

func (r *Resolver) validateLimits() error {
	l := r.Limits
	var errs []error
	for _, c := range []struct {
		what  string
		value int
	}{{"connections", l.Connections}, {"requests", l.Requests}, {"pending", l.Pending}, {"per_peer_requests", l.PerPeerRequests}} {
		if c.value < 0 || c.value > maxLimit {
			errs = append(errs, fmt.Errorf("limits: %s is %d: it must lie between 0 and %d", c.what, c.value, maxLimit))
		}
	}
	if l.Pending > 0 && l.Requests == 0 {
		errs = append(errs, errors.New("limits: pending without requests: nothing waits while nothing is limited"))
	}
	if len(r.RateLimits) > maxRateLimits {
		errs = append(errs, fmt.Errorf("resolver has %d rate limits: at most %d are allowed", len(r.RateLimits), maxRateLimits))
	}
	for i, limit := range r.RateLimits {
		if err := limit.validate(); err != nil {
			errs = append(errs, fmt.Errorf("rate limit %d: %w", i+1, err))
		}
	}
	return errors.Join(append(errs, checkPercent("retry_budget: percent", r.RetryBudget.Percent))...)
}

func (l RateLimit) validate() error {
	if l.Per != PerCaller && l.Per != PerService {
		return fmt.Errorf("per is %q: use caller or service", l.Per)
	}
	return l.validateRate()
}

func (l RateLimit) validateRate() error {
	switch {
	case l.Rate.Count == 0:
		return errors.New("rate allows nothing: write such as \"100/s\"")
	case l.Burst < 0 || l.Burst > maxBurst:
		return fmt.Errorf("burst is %d: it must lie between 1 and %d", l.Burst, maxBurst)
	}
	return nil
}

func (r *Resolver) setDefaults() {
	setDefault(&r.Balance, BalanceLatency) // avoids the slow instance without being told which it is
	if r.Balance == BalanceMaglev && r.Affinity == nil {
		r.Affinity = &Affinity{Source: true} // the only key that every connection has
	}
	// The other limits stay off: one that nobody chose is an outage that nobody understands.
	if r.Limits.Requests > 0 {
		setDefault(&r.Limits.Pending, 1024) // Envoy's default; a longer queue only makes everybody late
	}
	setDefault(&r.RetryBudget.Percent, 20)                                // Finagle's and Linkerd's default: at most a fifth more load
	setDefault(&r.RetryBudget.Minimum, Rate{Count: 10, Per: time.Second}) // theirs too: a service with few requests can be tried again
	if len(r.RateLimits) == 0 {
		return
	}
	r.RateLimits = slices.Clone(r.RateLimits) // r is a copy, what its slices hold is not
	for i := range r.RateLimits {
		r.RateLimits[i] = r.RateLimits[i].Defaulted()
	}
}

// Defaulted returns l with its burst.
func (l RateLimit) Defaulted() RateLimit {
	setDefault(&l.Burst, min(l.Rate.Count, maxBurst)) // "100/m" is taken to mean a hundred whenever in the minute
	return l
}

func checkCount(what string, n int) error {
	if n < 0 || n > math.MaxInt32 {
		return fmt.Errorf("%s is %d: it must not be negative, nor above %d", what, n, math.MaxInt32)
	}
	return nil
}

// Rate is a number of events in a unit of time. It reads and writes as text: "100/s".
type Rate struct {
	Count int
	Per   time.Duration // a second, a minute or an hour
}

var rateUnits = []struct {
	name string
	unit time.Duration
}{{"s", time.Second}, {"m", time.Minute}, {"h", time.Hour}}

// Every is the mean time between two events, rounded up, so that a limit is never exceeded; 0 when there are none.
func (r Rate) Every() time.Duration {
	if r.Count <= 0 {
		return 0
	}
	return (r.Per + time.Duration(r.Count) - 1) / time.Duration(r.Count)
}

// PerSecond is the rate in events a second.
func (r Rate) PerSecond() float64 {
	if r.Count <= 0 || r.Per <= 0 {
		return 0
	}
	return float64(r.Count) / r.Per.Seconds()
}

// IsZero reports whether r was never set; "0/s" was.
func (r Rate) IsZero() bool { return r == Rate{} }

func (r Rate) String() string {
	for _, u := range rateUnits {
		if u.unit == r.Per {
			return strconv.Itoa(r.Count) + "/" + u.name
		}
	}
	return ""
}

// MarshalText writes the form of String.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads the form of String; the empty text is the zero value.
func (r *Rate) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*r = Rate{}
		return nil
	}
	count, per, _ := strings.Cut(string(b), "/")
	n, err := strconv.ParseUint(count, 10, 32)
	for _, u := range rateUnits {
		if u.name == per && err == nil && n <= maxRate {
			*r = Rate{Count: int(n), Per: u.unit}
			return nil
		}
	}
	return fmt.Errorf("rate %q is not valid: write a whole number up to %d and a unit, \"s\", \"m\" or \"h\", such as \"100/s\"", b, maxRate)
}
