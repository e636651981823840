package poll

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"runtime/debug"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Config configures a Source.
type Config struct {
	Name   string // of the provider block: "prod"
	Lister Lister
	Rules  []federation.Discover
	// Interval is how long after a listing the next one of its scope begins, a tenth more or less. Default 60 s: what the accounts
	// of large inventories can bear, and health is the checks' business.
	Interval time.Duration
	// TTL is how long workloads are believed without a listing that has them. Default 1 h: outages of cloud APIs last minutes, and
	// what is kept too long is found out by checks. Negative: for ever.
	TTL time.Duration
	// Timeout is the limit of one listing, waits for its budget included. Default 5 min: a large account under a small budget.
	Timeout time.Duration
	// Parallel is how many scopes are listed at once. Default 8, below what any API counts as abuse.
	Parallel int
	// Gap is the least time between two published sets, and a tenth of it is waited for more to come. Default 1 s: the scopes of a
	// large account end one by one, all the time. When publishing takes long it is more; see gapShare.
	Gap     time.Duration
	Dir     string   // where the last good listing is kept; empty: nowhere
	Budgets *Budgets // shared with other sources; default: of its own
	// Predecessor is a source of the same name whose Run has ended. What it knew stays in use until it is listed again.
	Predecessor *Source
	// LookUp resolves the name of a workload that has no address. Default: as the host does.
	LookUp func(ctx context.Context, host string) ([]netip.Addr, error)
	Rand   func() float64 // jitter, in [0,1); default: math/rand/v2
	Log    *slog.Logger   // default: discard
}

const (
	retryFirst    = 5 * time.Second  // after a failure: long enough not to spin, short enough not to be noticed
	retryMost     = 5 * time.Minute  // an API that is down recovers sooner when it is left alone
	settleShare   = 10               // of Gap: listings that end together are published together
	gapShare      = 10               // of the time at most goes into publishing, however small Gap is beside a large set
	startPatience = 10 * time.Second // how long the first set waits for scopes that do not answer
	saveAfter     = 5 * time.Second  // after a change; a redeployment is one write
	confirmLeast  = 5 * time.Second  // between two sets that say the same
)

// Source lists an outside API and publishes what it finds. It satisfies the registry's Source and Troubled.
type Source struct {
	cfg   Config
	wake  chan struct{} // something was learnt
	named chan struct{} // and there may be host names to resolve
	slot  chan struct{} // of listings at once

	mu        sync.Mutex
	book      *book
	runs      map[Scope]*run
	scopesErr *federation.Diagnostic
	scopesAt  time.Time // when they were last learnt
	fileErr   *federation.Diagnostic
	told      chan struct{} // closed and replaced with each result
	rounds    int           // of asking for scopes, ended
	again     chan struct{} // asks for the scopes at once
	started   time.Time
	loaded    bool // what was known before the first run is in the book
	restored  bool // and it was something
	public    bool // a set was published in this run
	instances int  // of the last set
}

// New returns a source that does nothing until Run.
func New(cfg Config) *Source {
	cfg.Interval = cmp.Or(cfg.Interval, time.Minute)
	cfg.TTL = cmp.Or(cfg.TTL, time.Hour)
	cfg.Timeout = cmp.Or(cfg.Timeout, 5*time.Minute)
	cfg.Gap = cmp.Or(cfg.Gap, time.Second)
	cfg.Parallel = cmp.Or(cfg.Parallel, 8)
	if cfg.Budgets == nil {
		cfg.Budgets = NewBudgets(nil)
	}
	if cfg.LookUp == nil {
		cfg.LookUp = lookUp
	}
	if cfg.Rand == nil {
		cfg.Rand = rand.Float64
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{cfg: cfg, wake: make(chan struct{}, 1), named: make(chan struct{}, 1), slot: make(chan struct{}, cfg.Parallel),
		book: newBook(cfg.Rules, cfg.TTL), runs: map[Scope]*run{}, told: make(chan struct{}), again: make(chan struct{}, 1)}
}

// Run lists until ctx ends, and publishes with every change and as confirmation; then it returns nil. No failure of the API makes
// it return earlier.
func (s *Source) Run(ctx context.Context, publish func([]federation.Instance)) error {
	s.restore()
	saved := s.totalChanges()
	inner, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { s.followScopes(inner, &group) })
	group.Go(func() { s.keepSaving(inner, saved) })
	group.Go(func() { s.followNames(inner) })
	s.publishForever(ctx, publish)
	stop()
	group.Wait()
	s.save()
	return nil
}

// restore takes over what was known before: of the predecessor, or on disk.
func (s *Source) restore() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.started, s.scopesAt, s.public, s.runs = time.Now(), time.Time{}, false, map[Scope]*run{}
	defer func() { s.restored = s.book.known() }()
	if s.loaded {
		return
	}
	s.loaded = true
	if p := s.cfg.Predecessor; p != nil {
		p.mu.Lock()
		pages, ran := p.book.pages, p.loaded
		p.mu.Unlock()
		for _, old := range pages { // nobody changes them any more
			s.book.adopt(old.scope, old.lastComplete, old.records())
		}
		s.cfg.Predecessor = nil // and it can be forgotten
		if ran {
			return
		}
	}
	kept, err := load(s.cfg.Dir, s.cfg.Name)
	if err != nil {
		s.fileErr = err
		s.cfg.Log.Warn("begin without the last listing", "provider", s.cfg.Name, "code", string(err.Code), "reason", err.Error())
		return
	}
	for _, k := range kept {
		s.book.adopt(k.Scope, k.LastComplete, k.Records)
	}
}

// publishForever publishes what is in the book, until ctx ends.
func (s *Source) publishForever(ctx context.Context, publish func([]federation.Instance)) {
	var set []federation.Instance
	var last, lastChange time.Time // what only confirms the set must not put off the next change
	gap := s.cfg.Gap
	pending := false
	delay := time.NewTimer(0)
	defer delay.Stop()
	expiry := time.NewTimer(0)
	defer expiry.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
			if !pending { // else a provider that always has news would never be heard
				delay.Reset(max(s.cfg.Gap/settleShare, gap-time.Since(lastChange)))
				pending = true
			}
			continue
		case <-expiry.C:
		case <-delay.C:
			pending = false
		}
		begun := time.Now()
		s.mu.Lock()
		withdrawn, next := s.book.expire(begun)
		changed := s.book.sites.settle()
		ready, news := s.ready(), s.news()
		if changed || set == nil {
			set = s.book.sites.instances()
		}
		s.instances = len(set)
		s.public = s.public || ready
		s.mu.Unlock()
		expiry.Reset(time.Until(next))
		if withdrawn > 0 {
			s.cfg.Log.Warn("withdraw workloads that were not seen for too long", "provider", s.cfg.Name, "workloads", withdrawn, "ttl", s.cfg.TTL)
		}
		if !ready {
			if wait := time.Until(s.started.Add(startPatience)); wait > 0 {
				delay.Reset(wait)
			}
			continue
		}
		if ctx.Err() == nil && (changed || last.IsZero() || news && time.Since(last) >= min(confirmLeast, s.cfg.Interval)) {
			publish(set)
			last = time.Now()
			if changed {
				lastChange = last
			}
			gap = max(s.cfg.Gap, gapShare*last.Sub(begun))
		}
	}
}

// ready reports whether there is something to publish: something is known, and it is all that was known before, or every scope
// was asked, or those that were not had time enough.
func (s *Source) ready() bool {
	if !s.book.known() && !s.knownEmpty() {
		return false
	}
	if s.public || time.Since(s.started) >= startPatience {
		return true
	}
	if s.book.sites.unasked() {
		return false
	}
	if s.restored {
		return true
	}
	for _, r := range s.runs {
		if r.done == 0 && s.book.page(r.scope).state == ScopePending {
			return false
		}
	}
	return true
}

// knownEmpty reports whether it was learnt that there is nothing to list.
func (s *Source) knownEmpty() bool {
	return !s.scopesAt.IsZero() && len(s.runs) == 0 && len(s.book.pages) == 0
}

// news reports whether all that is in use has been confirmed: only then an unchanged set is published again.
func (s *Source) news() bool {
	for _, p := range s.book.pages {
		if p.state != ScopeOK {
			return false
		}
	}
	return s.scopesErr == nil
}

// tell lets everybody who waits know that something was learnt. The caller holds s.mu.
func (s *Source) tell() {
	close(s.told)
	s.told = make(chan struct{})
	Poke(s.wake)
	Poke(s.named)
}

// jitter returns d, up to a tenth more or less, so that the gateways of a region do not list together.
func (s *Source) jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*s.cfg.Rand()))
}

// guarded calls f and makes an error of a panic: adapters stand on large libraries, and one of them must not take down a gateway
// that others depend on.
func (s *Source) guarded(what string, f func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%s: panic: %v", what, p)
			s.cfg.Log.Error("provider panicked", "provider", s.cfg.Name, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	return f()
}
