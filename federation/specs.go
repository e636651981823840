package federation

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Service declares a service of this region and, if it lists any, its instances. Its checks apply to every instance of the
// service that brings none of its own, whichever source saw it. The resource's name is the service's.
type Service struct {
	Protocol  Protocol         `json:"protocol,omitempty"`
	Instances []StaticInstance `json:"instances,omitempty"`
	Checks    []CheckSpec      `json:"checks,omitempty"`
}

// StaticInstance is an instance written down in a service resource.
type StaticInstance struct {
	ID      InstanceID        `json:"id,omitempty"` // default: its address
	Address netip.AddrPort    `json:"address"`
	Zone    string            `json:"zone,omitempty"`
	Weight  uint16            `json:"weight,omitempty"`
	Labels  map[string]string `json:"labels,omitempty"`
}

// Export shows a service of this region to peers. The resource's name is the service's.
type Export struct {
	Service ServiceName `json:"-"` // from the name
	To      []string    `json:"to"`
	Detail  Detail      `json:"detail,omitempty"` // default: summary
}

// Action is what an intention does with a call it matches.
type Action string

// The actions of an intention.
const (
	Allow Action = "allow"
	Deny  Action = "deny"
)

// Intention says whether SOURCE may call DESTINATION. What no intention allows is denied.
type Intention struct {
	Name        string    `json:"-"`           // from the resource
	Source      string    `json:"source"`      // "web", "shop/web", "web@region", "*@region", "*" (this region's), "*@*"
	Destination string    `json:"destination"` // a service of this region or of a peer: "checkout", "shop/*", "checkout@region", "*"
	Action      Action    `json:"action"`
	Require     Assurance `json:"require,omitempty"` // least assurance an allowed caller must have; unset: binding
	Description string    `json:"description,omitempty"`

	// HTTP limits the intention to requests that pass any of these; none: whatever the caller sends. A service that does not speak
	// HTTP cannot be looked into: there such an allow allows nothing, and such a deny denies all.
	HTTP []Permission `json:"http,omitempty"`
	Mode Mode         `json:"mode,omitempty"` // default: enforce
}

// Mode says whether an intention decides.
type Mode string

// The modes of an intention.
const (
	Enforce Mode = "enforce"
	Shadow  Mode = "shadow" // decides nothing; what it would have decided is counted and logged
)

// Resolver says how a service's endpoints are chosen. The resource's name is the service's. Zero values mean the defaults
// of Defaulted.
type Resolver struct {
	Service        ServiceName `json:"-"`                         // from the name
	Failover       []string    `json:"failover,omitempty"`        // regions in order; "local" is this one, "*" all others by measured RTT
	ConnectTimeout Duration    `json:"connect_timeout,omitempty"` // of one attempt to reach one endpoint
	IdleTimeout    Duration    `json:"idle_timeout,omitempty"`    // a connection without a byte either way for so long is closed; 0 with NoIdleTimeout never
	NoIdleTimeout  bool        `json:"no_idle_timeout,omitempty"`
	Outlier        Outlier     `json:"outlier,omitzero"`

	Subsets     map[string]Subset `json:"subsets,omitempty"` // by name; a route's split can ask for one
	Balance     Balance           `json:"balance,omitempty"`
	Affinity    *Affinity         `json:"affinity,omitempty"`
	Limits      Limits            `json:"limits,omitzero"`
	RateLimits  []RateLimit       `json:"rate_limits,omitempty"` // all of them hold
	RetryBudget RetryBudget       `json:"retry_budget,omitzero"`

	// ProxyProtocol has connections to instances of this region begin with a PROXY header, which says who the client is. It is for
	// services that speak tcp; requests say it in X-Forwarded-For.
	ProxyProtocol ProxyVersion `json:"proxy_protocol,omitempty"`
}

// Upstream is a local listener for local callers, or with AllowFrom for callers on other hosts of the region.
type Upstream struct {
	Name    string      `json:"-"`       // from the resource
	Service ServiceRef  `json:"service"` // with "@region": that region only, no failover
	Listen  string      `json:"listen"`  // "127.0.0.1:9001", "[::1]:9001" or "unix:/run/tradewind/checkout.sock"
	Caller  ServiceName `json:"caller"`  // whom a connection to the listener counts as

	// AllowFrom are the networks whose hosts may connect, beside this one itself; only with it may Listen be an address that other
	// hosts can reach. Every host in them counts as Caller. A change is for new connections.
	AllowFrom []netip.Prefix `json:"allow_from,omitempty"`
}

// Kind implements Spec.
func (*Service) Kind() Kind { return KindService }

// Kind implements Spec.
func (*Export) Kind() Kind { return KindExport }

// Kind implements Spec.
func (*Intention) Kind() Kind { return KindIntention }

// Kind implements Spec.
func (*Resolver) Kind() Kind { return KindResolver }

// Kind implements Spec.
func (*Upstream) Kind() Kind { return KindUpstream }

// Validate implements Spec.
func (s *Service) Validate(name string) error {
	_, err := ParseServiceName(name)
	errs := []error{err}
	if _, err := ParseProtocol(string(s.Protocol)); err != nil {
		errs = append(errs, err)
	}
	seen := map[InstanceID]bool{}
	for n, i := range s.Instances {
		if !i.Address.IsValid() || i.Address.Port() == 0 {
			errs = append(errs, fmt.Errorf("instance %q has no valid address: write \"IP:port\"", i.ID))
			continue
		}
		s.Instances[n].ID = i.Ident() // HCL has no block without a label: said nowhere and said there are the same
		if err := CheckAddress(i.Address.Addr()); err != nil {
			errs = append(errs, fmt.Errorf("instance %q: %w", i.Ident(), err))
		}
		if seen[i.Ident()] {
			errs = append(errs, fmt.Errorf("instance %q is listed twice", i.Ident()))
		}
		seen[i.Ident()] = true
	}
	if len(s.Checks) > MaxChecks {
		errs = append(errs, fmt.Errorf("it has %d checks: at most %d are allowed", len(s.Checks), MaxChecks))
	}
	for _, c := range s.Checks {
		errs = append(errs, c.Validate())
	}
	return errors.Join(errs...)
}

// Ident is the instance's ID, or its address when it has none.
func (i StaticInstance) Ident() InstanceID {
	if i.ID != "" {
		return i.ID
	}
	return InstanceID(i.Address.String())
}

// Validate returns what is wrong with a check, joined.
func (c CheckSpec) Validate() error {
	var errs []error
	switch c.Kind {
	case CheckTCP, CheckHTTP, CheckGRPC, CheckTTL:
	default:
		errs = append(errs, fmt.Errorf("check kind %q is unknown: use tcp, http, grpc or ttl", c.Kind))
	}
	if c.Path != "" && !strings.HasPrefix(c.Path, "/") {
		errs = append(errs, fmt.Errorf("check path %q does not start with a slash", c.Path))
	}
	if c.Interval != 0 && c.Interval.D() < 50*time.Millisecond {
		errs = append(errs, fmt.Errorf("check interval %v is below 50ms: that is load, not a check", c.Interval))
	}
	if c.HealthyAfter < 0 || c.UnhealthyAfter < 0 || c.HealthyAfter > 100 || c.UnhealthyAfter > 100 {
		errs = append(errs, errors.New("check thresholds must lie between 1 and 100"))
	}
	errs = append(errs, c.validateHTTP(), c.validateTLS(), c.validateBounds())
	return errors.Join(errs...)
}

// Validate implements Spec.
func (e *Export) Validate(name string) error {
	service, err := ParseServiceName(name)
	errs := []error{err}
	if err == nil {
		e.Service = service
	}
	if len(e.To) == 0 {
		errs = append(errs, errors.New("export names no peer: list regions in \"to\", or \"*\" for all"))
	}
	for _, to := range e.To {
		if to != "*" {
			_, err := ParseRegion(to)
			errs = append(errs, err)
		}
	}
	if e.Detail != "" && e.Detail != DetailSummary && e.Detail != DetailEndpoints {
		errs = append(errs, fmt.Errorf("detail %q is unknown: use summary or endpoints", e.Detail))
	}
	return errors.Join(errs...)
}

// Validate implements Spec.
func (i *Intention) Validate(name string) error {
	i.Name = name
	errs := []error{checkLabel("intention", name)}
	if _, err := ParsePattern(i.Source); err != nil {
		errs = append(errs, fmt.Errorf("source: %w", err))
	}
	if _, err := ParsePattern(i.Destination); err != nil {
		errs = append(errs, fmt.Errorf("destination: %w", err))
	}
	if i.Action != Allow && i.Action != Deny {
		errs = append(errs, fmt.Errorf("action %q is unknown: use allow or deny", i.Action))
	}
	if i.Action == Deny && i.Require != AssuranceNone {
		errs = append(errs, errors.New("\"require\" belongs to an allow: a deny holds at every assurance"))
	}
	if i.Mode != "" && i.Mode != Enforce && i.Mode != Shadow {
		errs = append(errs, fmt.Errorf("mode %q is unknown: use enforce or shadow", i.Mode))
	}
	if len(i.HTTP) > MaxRules {
		errs = append(errs, fmt.Errorf("intention has %d http blocks: at most %d are allowed", len(i.HTTP), MaxRules))
	}
	whens := 0
	for n, p := range i.HTTP {
		if err := p.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("http block %d: %w", n+1, err))
		}
		if p.When != "" {
			whens++
		}
	}
	if whens > maxWhens {
		errs = append(errs, fmt.Errorf("intention has %d http blocks with \"when\": at most %d are allowed", whens, maxWhens))
	}
	return errors.Join(errs...)
}

// Validate implements Spec.
func (r *Resolver) Validate(name string) error {
	service, err := ParseServiceName(name)
	errs := []error{err}
	if err == nil {
		r.Service = service
	}
	seen := map[string]bool{}
	for _, f := range r.Failover {
		if seen[f] {
			errs = append(errs, fmt.Errorf("failover lists %q twice", f))
		}
		seen[f] = true
		if f != "*" && f != string(Local) {
			_, err := ParseRegion(f)
			errs = append(errs, err)
		}
	}
	if r.NoIdleTimeout && r.IdleTimeout != 0 {
		errs = append(errs, errors.New("idle_timeout and no_idle_timeout exclude each other"))
	}
	return errors.Join(append(errs, r.Outlier.validate(), r.validateChoice(), r.validateLimits())...)
}

// Defaulted returns r with every unset field at its default.
func (r Resolver) Defaulted() Resolver {
	if len(r.Failover) == 0 {
		r.Failover = []string{string(Local), "*"} // nearest first is what everybody means
	}
	setDefault(&r.ConnectTimeout, Duration(5*time.Second)) // above one SYN retransmission at 3 s
	if !r.NoIdleTimeout {
		setDefault(&r.IdleTimeout, Duration(time.Hour)) // long enough for database pools, short enough to free the dead
	}
	r.Outlier.setDefaults()
	r.setDefaults()
	return r
}

// Validate implements Spec.
func (u *Upstream) Validate(name string) error {
	u.Name = name
	errs := []error{checkLabel("upstream", name)}
	if u.Service.Service.IsZero() {
		errs = append(errs, errors.New("upstream names no service"))
	}
	if u.Caller.IsZero() {
		errs = append(errs, errors.New("upstream names no caller: write the service whose calls it carries"))
	}
	if _, _, err := u.Address(); err != nil {
		errs = append(errs, err)
	}
	for _, p := range u.AllowFrom {
		if !p.IsValid() || p != p.Masked() {
			errs = append(errs, fmt.Errorf("allow_from %q is no network: write such as \"10.1.0.0/16\"", p))
		}
	}
	return errors.Join(errs...)
}

// Address returns Listen as net.Listen wants it.
func (u *Upstream) Address() (network, address string, err error) {
	_, err = netip.ParseAddrPort(u.Listen)
	if len(u.AllowFrom) == 0 {
		network, address, refused := ParseListen(u.Listen)
		if refused != nil && err == nil {
			refused = fmt.Errorf("%w; for other hosts list their networks in allow_from", refused)
		}
		return network, address, refused
	}
	if err != nil {
		return "", "", fmt.Errorf("listen %q: with allow_from write \"IP:PORT\", or \"0.0.0.0:PORT\" for all addresses", u.Listen)
	}
	return "tcp", u.Listen, nil
}

// Admits reports whether a host may use the listener.
func (u *Upstream) Admits(host netip.Addr) bool {
	host = host.Unmap().WithZone("")
	return host.IsLoopback() || slices.ContainsFunc(u.AllowFrom, func(p netip.Prefix) bool { return p.Contains(host) })
}

// ParseListen reads the address of a local listener and returns it as net.Listen wants it. Only loopback addresses and unix
// sockets are allowed: whoever reaches the listener is taken for the bound caller.
func ParseListen(s string) (network, address string, err error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		if !filepath.IsAbs(path) || len(path) > 107 {
			return "", "", fmt.Errorf("listen %q: a unix socket needs an absolute path of at most 107 octets", s)
		}
		return "unix", path, nil
	}
	host, port, err := net.SplitHostPort(s)
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		return "", "", fmt.Errorf("listen %q: write \"127.0.0.1:PORT\" or \"unix:/path\"", s)
	}
	if ip, err := netip.ParseAddr(host); err != nil || !ip.IsLoopback() {
		return "", "", fmt.Errorf("listen %q is not a loopback address: who reaches it is taken for the caller, so use 127.0.0.1, ::1 or a unix socket", s)
	}
	return "tcp", s, nil
}
