package health

import (
	"container/heap"
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// minRecheck is the least time between the starts of two attempts of one check that failures of the data path ask for: fast
// enough to confirm a death within a second, slow enough that a storm of failed calls is not a storm of checks.
const minRecheck = 100 * time.Millisecond

// Config configures a Checker. The zero value is usable.
type Config struct {
	// Concurrency is the most attempts in flight. Default 256: each holds one socket and one goroutine, and at 2 s for the
	// slowest answer it still starts 128 attempts a second when every instance hangs.
	Concurrency int
	// Rand gives the phase of each check, in [0,1). Default: math/rand/v2.
	Rand func() float64
	// Log receives a line for each change. Default: discard.
	Log *slog.Logger
}

// Checker runs the checks of the targets it watches. Its methods may be called from any goroutine, before and while Run runs.
type Checker struct {
	limit int
	rand  func() float64
	log   *slog.Logger
	probe func(ctx context.Context, c *check) outcome
	wake  chan struct{}

	mu       sync.Mutex // guards all below; never held across I/O or the report function
	targets  map[key]*target
	queue    queue     // checks that wait, by due time
	dirty    []*target // to be reported
	inFlight int
}

type key struct {
	service  federation.ServiceName
	instance federation.InstanceID
}

// target is one watched instance.
type target struct {
	federation.CheckTarget
	checks []*check
	health federation.Health
	reason string
	since  time.Time
	dirty  bool // is in Checker.dirty
	gone   bool

	told     federation.Health // by the last report
	toldFrom time.Time         // its Since
}

// New returns a Checker that does nothing until Run.
func New(cfg Config) *Checker {
	c := &Checker{limit: cfg.Concurrency, rand: cfg.Rand, log: cfg.Log, probe: ask, wake: make(chan struct{}, 1), targets: map[key]*target{}}
	if c.limit <= 0 {
		c.limit = 256
	}
	if c.rand == nil {
		c.rand = rand.Float64
	}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	return c
}

// Watch replaces what is known of t's instance; without checks the instance is forgotten. A check that stays as it was, at
// the same address, keeps its state and its phase. Each version is reported at least once.
func (c *Checker) Watch(t federation.CheckTarget) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.signal()
	k := key{t.Service, t.Instance}
	old := c.targets[k]
	if len(t.Checks) == 0 {
		if old != nil {
			c.drop(old)
		}
		return
	}
	next := &target{CheckTarget: t, since: now}
	var kept []*check
	if old != nil {
		next.health, next.reason, next.since = old.health, old.reason, old.since
		next.told, next.toldFrom = old.told, old.toldFrom
		kept = old.checks
	}
	for _, spec := range t.Checks {
		next.checks = append(next.checks, c.adopt(next, spec.Defaulted(), &kept, now))
	}
	if old != nil {
		old.checks = kept
		c.drop(old)
	}
	c.targets[k] = next
	c.settle(next, now)
	c.mark(next)
}

// adopt returns the check of t for spec: one of kept, which it is taken from, or a new one that is due at once.
func (c *Checker) adopt(t *target, spec federation.CheckSpec, kept *[]*check, now time.Time) *check {
	addr := checkAddress(t.Address, spec)
	for i, k := range *kept {
		if k.addr == addr && reflect.DeepEqual(k.spec, spec) {
			*kept = append((*kept)[:i:i], (*kept)[i+1:]...)
			k.target = t
			return k
		}
	}
	k := &check{target: t, spec: spec, addr: addr, index: -1}
	k.status = federation.CheckStatus{Kind: spec.Kind, Target: describe(spec, addr), Since: now}
	switch err := validate(spec, addr); {
	case err != nil:
		k.set(now, federation.HealthFailing, err.Error(), "")
	case spec.Kind == federation.CheckTTL:
		// Whoever reports an instance is the first to say that it lives. Without this, a restart of the gateway would
		// withdraw every instance that it cannot ask.
		k.beaten(now)
		k.set(now, federation.HealthPassing, "", "")
		c.schedule(k, now.Add(spec.TTL.D()))
	default:
		c.schedule(k, now)
	}
	return k
}

// drop ends every check of t and forgets t.
func (c *Checker) drop(t *target) {
	t.gone = true
	for _, k := range t.checks {
		k.gone = true
		if k.index >= 0 {
			heap.Remove(&c.queue, k.index)
		}
		if k.cancel != nil {
			k.cancel()
		}
	}
	if at := (key{t.Service, t.Instance}); c.targets[at] == t {
		delete(c.targets, at)
	}
}

// Beat says on an instance's behalf how it is, for its TTL checks: passing or draining lasts for one TTL, failing holds until
// the next beat. It reports whether the instance has a TTL check.
func (c *Checker) Beat(service federation.ServiceName, id federation.InstanceID, h federation.Health, output string) bool {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.targets[key{service, id}]
	if t == nil {
		return false
	}
	found := false
	for _, k := range t.checks {
		if k.spec.Kind != federation.CheckTTL {
			continue
		}
		found = true
		k.beaten(now)
		if h == federation.HealthPassing || h == federation.HealthDraining {
			k.set(now, federation.HealthPassing, "", clean(output))
		} else {
			k.set(now, federation.HealthFailing, "reported as "+h.String(), clean(output))
		}
		c.schedule(k, now.Add(k.spec.TTL.D()))
	}
	if found {
		c.settle(t, now)
		c.signal()
	}
	return found
}

// ReportFailure tells that the data path failed to use an instance. It is a hint, never a verdict: the instance's checks are
// made at once, but no check more often than every 100 ms. It reports whether there is a check to make.
func (c *Checker) ReportFailure(service federation.ServiceName, id federation.InstanceID, reason string) bool {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.targets[key{service, id}]
	if t == nil {
		return false
	}
	found := false
	for _, k := range t.checks {
		switch {
		case k.spec.Kind == federation.CheckTTL:
			continue
		case k.cancel != nil:
			k.again = true // the attempt in flight may have begun before the failure
		case k.index >= 0:
			if due := later(now, k.started.Add(minRecheck)); due.Before(k.due) {
				c.schedule(k, due)
			}
		}
		found = true
	}
	if found {
		c.log.Debug("recheck instance after a failed call", "service", service.String(), "instance", string(id), "reason", clean(reason))
		c.signal()
	}
	return found
}

// Status returns where the checks of an instance stand, in the order of its target, or nil.
func (c *Checker) Status(service federation.ServiceName, id federation.InstanceID) []federation.CheckStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := c.targets[key{service, id}]
	if t == nil {
		return nil
	}
	out := make([]federation.CheckStatus, 0, len(t.checks))
	for _, k := range t.checks {
		out = append(out, k.status)
	}
	return out
}

// Stats says how busy a Checker is.
type Stats struct {
	Instances int           `json:"instances"`
	Waiting   int           `json:"waiting"`   // checks that wait for their time
	InFlight  int           `json:"in_flight"` // attempts
	Late      time.Duration `json:"late"`      // by how much the next attempt is behind its schedule; above zero, Concurrency is used up
}

// Stats returns how busy c is now.
func (c *Checker) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := Stats{Instances: len(c.targets), Waiting: len(c.queue), InFlight: c.inFlight}
	if len(c.queue) > 0 {
		s.Late = max(0, time.Since(c.queue[0].due))
	}
	return s
}

// maxLate is how late an attempt may be before it is a problem: later than that, and a death is not noticed within a second.
const maxLate = time.Second

// Problem returns why checks are made later than they should be, or nil.
func (c *Checker) Problem() *federation.Diagnostic {
	s := c.Stats()
	if s.Late < maxLate {
		return nil
	}
	return &federation.Diagnostic{Code: federation.CodeChecksLate, What: fmt.Sprintf("health checks are late by %v", s.Late.Round(time.Millisecond)),
		Why: fmt.Sprintf("%d attempts are under way, which is the most, and %d checks wait", s.InFlight, s.Waiting),
		Fix: "make the interval of the checks longer, or the timeout of those that get no answer shorter"}
}

// mark puts t down for a report.
func (c *Checker) mark(t *target) {
	if !t.dirty {
		t.dirty = true
		c.dirty = append(c.dirty, t)
	}
}

// settle sums the checks of t up and puts t down for a report if the sum changed.
func (c *Checker) settle(t *target, now time.Time) {
	sum, reason := federation.HealthPassing, ""
	for _, k := range t.checks {
		switch h := k.status.Health; {
		case h == federation.HealthFailing && sum != federation.HealthFailing:
			sum, reason = h, string(k.spec.Kind)+" "+k.status.Target+": "+k.status.Reason
		case h == federation.HealthUnknown && sum == federation.HealthPassing:
			sum, reason = h, string(k.spec.Kind)+" "+k.status.Target+": not answered yet"
		}
	}
	if sum != t.health {
		t.health, t.since = sum, now
		c.mark(t)
	}
	t.reason = clean(reason)
}

// news is a report, and what the last one about the instance said.
type news struct {
	federation.HealthReport
	was     federation.Health
	wasFrom time.Time
}

// maxLines is the most lines for changes within a second: when a zone dies, the rest is in "tradewind services list".
const maxLines = 20

// diary tells of changes: why a service lost an instance is asked hours later.
type diary struct {
	log   *slog.Logger
	from  time.Time // of the second that lines are counted in
	lines int
}

// add tells of n at now. The first answer of an instance that is well says nothing that its registration has not said.
func (d *diary) add(now time.Time, n news) {
	if n.Health == n.was || n.Health != federation.HealthFailing && n.was != federation.HealthFailing {
		return
	}
	if now.Sub(d.from) >= time.Second {
		d.from, d.lines = now, 0
	}
	d.lines++
	at := []any{"service", n.Service.String(), "instance", string(n.Instance)}
	switch {
	case d.lines > maxLines+1:
	case d.lines > maxLines:
		d.log.Warn("more instances change", "see", "tradewind services list")
	case n.Health == federation.HealthFailing:
		d.log.Warn("instance fails its checks", append(at, "reason", n.Reason)...)
	default:
		d.log.Info("instance no longer fails its checks", append(at, "health", n.Health.String(), "after", n.Since.Sub(n.wasFrom).String())...)
	}
}

// signal wakes Run.
func (c *Checker) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}
