package jwt

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"log/slog"
	"net/http"
	"net/textproto"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
)

// lookEvery is how often Run looks whether keys are due: a small part of the shortest time between two fetches.
const lookEvery = 5 * time.Second

// Config is what a Verifier needs.
type Config struct {
	Hosts   []string              // whose keys may be fetched: names or addresses, with the port unless it is 443; none: nobody's
	TLS     *tls.Config           // nil: the system's roots
	Now     func() time.Time      // nil: time.Now
	Metrics prometheus.Registerer // nil: none
	Log     *slog.Logger
}

// Verifier verifies the tokens of the providers in force. It is safe for concurrent use.
type Verifier struct {
	cfg       Config
	log       *slog.Logger
	providers atomic.Pointer[map[string]*provider]
	allowed   atomic.Pointer[[]string]
	cache     cache
	rejected  *prometheus.CounterVec
	wake      chan struct{} // capacity 1: providers have changed
}

// New returns a Verifier that knows no provider yet.
func New(cfg Config) *Verifier {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	v := &Verifier{cfg: cfg, log: cfg.Log, wake: make(chan struct{}, 1), rejected: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "tradewind_jwt_rejected_total", Help: "Requests that were refused for their token, by the provider that was to vouch for it.",
	}, []string{"provider", "reason"})}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(v.rejected)
	}
	v.providers.Store(&map[string]*provider{})
	v.allowed.Store(&cfg.Hosts)
	return v
}

func (v *Verifier) hosts() []string { return *v.allowed.Load() }

// Allow replaces Config.Hosts. Keys that are there stay.
func (v *Verifier) Allow(hosts []string) {
	v.allowed.Store(&hosts)
	v.nudge()
}

// Apply makes list the providers in force. It does not wait for keys: Run fetches them, or the first request that needs one does.
func (v *Verifier) Apply(list []federation.JWT) {
	old, next := *v.providers.Load(), make(map[string]*provider, len(list))
	for _, spec := range list {
		spec = spec.Defaulted()
		spec.Header = textproto.CanonicalMIMEHeaderKey(spec.Header)
		before := old[spec.Name]
		if before != nil && reflect.DeepEqual(before.spec, spec) {
			next[spec.Name] = before
			continue
		}
		next[spec.Name] = v.newProvider(spec, before)
	}
	v.providers.Store(&next)
	for name, p := range old {
		if next[name] == p {
			continue
		}
		p.mu.Lock()
		state := p.state
		p.mu.Unlock()
		if state != nil {
			v.cache.forget(state.keyring)
		}
		if next[name] == nil {
			v.rejected.DeletePartialMatch(prometheus.Labels{"provider": name})
		}
	}
	v.nudge()
}

// newProvider returns the provider of spec, which takes the keys of the one before it when they are from the same place.
func (v *Verifier) newProvider(spec federation.JWT, before *provider) *provider {
	p := &provider{spec: spec}
	if spec.JWKS != "" {
		ring, err := parseKeys([]byte(spec.JWKS))
		if p.err = err; err != nil {
			v.log.Warn("keys of a token provider cannot be used", "provider", spec.Name, "error", err)
			return p
		}
		p.state = &state{keyring: ring, at: v.cfg.Now()}
		return p
	}
	if before != nil && before.spec.JWKS == "" && before.spec.JWKSURL == spec.JWKSURL && before.spec.Discovery() == spec.Discovery() {
		before.mu.Lock()
		p.state, p.err, p.tried, p.asked = before.state, before.err, before.tried, before.asked
		before.mu.Unlock()
	}
	return p
}

func (v *Verifier) nudge() {
	select {
	case v.wake <- struct{}{}:
	default:
	}
}

// Run keeps the keys fresh until ctx ends, and returns nil once no fetch of it is under way.
func (v *Verifier) Run(ctx context.Context) error {
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var fetching sync.WaitGroup
	defer fetching.Wait()
	for {
		for _, p := range *v.providers.Load() {
			if p.fetches() && p.due(v.cfg.Now()) { // that one is under way it notices by itself
				fetching.Go(func() { v.refresh(ctx, p, false) })
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-v.wake:
		case <-look.C:
		}
	}
}

// Result is what the tokens of a request say.
type Result struct {
	Tokens   []match.Token
	withhold []*provider // whose token the instance does not get
}

// Refusal is why a request with a token is refused.
type Refusal struct {
	Provider string // that was to vouch for it
	Reason   Reason
}

// Error says why, in words that a caller may read.
func (r *Refusal) Error() string { return "the request's token cannot be verified: " + words[r.Reason] }

// Challenge is the value of WWW-Authenticate that goes with a refusal (RFC 6750 section 3).
func (r *Refusal) Challenge() string {
	if r.Reason == ReasonMissing { // nothing went wrong, so there is no error code
		return `Bearer realm="mesh"`
	}
	return `Bearer error="invalid_token", error_description="` + words[r.Reason] + `"`
}

// Verify returns what the tokens in header say that asks name the providers of. A request without a token gets none; one with a token for
// which no provider vouches is refused, if an ask is enforced. It waits at most 5 seconds, for keys.
func (v *Verifier) Verify(ctx context.Context, asks []match.Ask, header http.Header) (Result, *Refusal) {
	out, refusal := v.judge(ctx, asks, header, nil)
	if refusal != nil {
		v.rejected.WithLabelValues(refusal.Provider, string(refusal.Reason)).Inc()
	}
	return out, refusal
}

// judge is Verify, which counts. It notes what came of each ask, unless note is nil.
func (v *Verifier) judge(
	ctx context.Context, asks []match.Ask, header http.Header, note func(match.Ask, *provider, *place, Reason),
) (Result, *Refusal) {
	var (
		out     Result
		refusal *Refusal
		looked  []*place
	)
	for _, ask := range asks {
		p := v.provider(ask.Provider)
		at := lookup(&looked, p, header)
		if at.token == "" && at.why == "" {
			continue
		}
		at.enforced = at.enforced || ask.Enforced
		claims, why := v.vouch(ctx, p, at)
		if note != nil {
			note(ask, p, at, why)
		}
		if why != "" {
			// The provider that has issued it knows best what is wrong with it.
			if at.refusal == nil || at.refusal.Reason == ReasonIssuer {
				at.refusal = &Refusal{ask.Provider, why}
			}
			continue
		}
		at.vouched = true
		out.Tokens = append(out.Tokens, match.Token{Provider: ask.Provider, Claims: claims.all})
		if !p.spec.Forward {
			out.withhold = append(out.withhold, p)
		}
	}
	for _, at := range looked {
		if at.enforced && !at.vouched && refusal == nil {
			refusal = at.refusal
		}
	}
	return out, refusal
}

// provider returns the provider called name.
func (v *Verifier) provider(name string) *provider {
	if p := (*v.providers.Load())[name]; p != nil {
		return p
	}
	// Its tokens would be where all tokens are: they are refused rather than passed over.
	return &provider{spec: federation.JWT{Name: name, Header: "Authorization"}}
}

// vouch verifies the token at a place for p.
func (v *Verifier) vouch(ctx context.Context, p *provider, at *place) (claimSet, Reason) {
	if at.why != "" {
		return claimSet{}, at.why
	}
	now := v.cfg.Now()
	if len(at.token) <= maxToken {
		if with := p.keys(now); with != nil {
			if claims, found := v.cache.get(cacheKey{p, with.keyring, sha256.Sum256([]byte(at.token))}, now); found {
				return claims, ""
			}
		}
	}
	if at.parsed == nil {
		if at.parsed, at.why = parse(at.token); at.why != "" {
			return claimSet{}, at.why
		}
	}
	switch {
	case p.spec.Issuer == "":
		return claimSet{}, ReasonNoKeys
	case at.parsed.issuer() != p.spec.Issuer:
		return claimSet{}, ReasonIssuer
	}
	return v.verify(ctx, p, at.parsed, at.token)
}

// place is where tokens can be in a request, and the one that is there.
type place struct {
	header, cookie string
	token          string // empty: none
	why            Reason // it is not looked at any further
	parsed         *parsed
	enforced       bool
	vouched        bool
	refusal        *Refusal
}

// lookup returns the place where tokens of p are, which is looked at once.
func lookup(looked *[]*place, p *provider, header http.Header) *place {
	for _, at := range *looked {
		if at.header == p.spec.Header && at.cookie == p.spec.Cookie {
			return at
		}
	}
	at := &place{header: p.spec.Header, cookie: p.spec.Cookie}
	at.token, at.why = at.find(header)
	*looked = append(*looked, at)
	return at
}

func (at *place) find(header http.Header) (token string, why Reason) {
	if at.cookie != "" {
		return cookie(header["Cookie"], at.cookie)
	}
	values := header[at.header]
	switch {
	case len(values) == 0:
		return "", ""
	case len(values) > 1:
		return "", ReasonAmbiguous
	}
	scheme, rest, found := strings.Cut(values[0], " ")
	if found && strings.EqualFold(scheme, "bearer") {
		if rest = strings.Trim(rest, " "); rest == "" {
			return "", ReasonMalformed
		}
		return rest, ""
	}
	switch {
	case at.header != "Authorization":
		return values[0], ""
	case len(values[0]) >= len("bearer") && strings.EqualFold(values[0][:len("bearer")], "bearer"):
		return "", ReasonMalformed // somebody might read a token there
	}
	return "", "" // of another scheme
}

// cookie returns the value of the cookie called name.
func cookie(lines []string, name string) (token string, why Reason) {
	found := false
	for _, line := range lines {
		for pair := range strings.SplitSeq(line, ";") {
			key, value, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if key != name {
				continue
			}
			if found {
				return "", ReasonAmbiguous
			}
			found, token = true, strings.Trim(value, `"`)
		}
	}
	if found && token == "" {
		return "", ReasonMalformed
	}
	return token, ""
}

// Withheld returns header without the tokens that the instance does not get: header itself if it gets all, else a copy.
func (r *Result) Withheld(header http.Header) http.Header {
	if len(r.withhold) == 0 {
		return header
	}
	out := make(http.Header, len(header))
	for name, values := range header {
		out[name] = values
	}
	for _, p := range r.withhold {
		if p.spec.Cookie == "" {
			delete(out, p.spec.Header)
			continue
		}
		var lines []string
		for _, line := range out["Cookie"] {
			pairs := slices.DeleteFunc(strings.Split(line, ";"), func(pair string) bool {
				key, _, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
				return key == p.spec.Cookie
			})
			if len(pairs) > 0 {
				lines = append(lines, strings.TrimLeft(strings.Join(pairs, ";"), " "))
			}
		}
		if delete(out, "Cookie"); len(lines) > 0 {
			out["Cookie"] = lines
		}
	}
	return out
}

// Status is a provider as it stands.
type Status struct {
	Provider string    `json:"provider"`
	Keys     int       `json:"keys"`
	Skipped  int       `json:"skipped,omitempty"` // keys that cannot be used
	At       time.Time `json:"at,omitzero"`       // when the keys were last confirmed
	Error    string    `json:"error,omitempty"`   // of the last fetch
}

// Status returns the providers in force, by name.
func (v *Verifier) Status() []Status {
	var out []Status
	for name, p := range *v.providers.Load() {
		p.mu.Lock()
		s := Status{Provider: name}
		if p.state != nil {
			s.Keys, s.Skipped, s.At = len(p.state.keys), p.state.skipped, p.state.at
		}
		if p.err != nil {
			s.Error = p.err.Error()
		}
		p.mu.Unlock()
		out = append(out, s)
	}
	slices.SortFunc(out, func(a, b Status) int { return strings.Compare(a.Provider, b.Provider) })
	return out
}
