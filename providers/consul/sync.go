package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// The marks of what Sync has registered.
const (
	metaSource = "external-source" // the key that Consul's own tools use, and its UI shows
	source     = "tradewind"
	metaOwner  = "tradewind-owner" // region/gateway that registered it, and alone may change it
)

const (
	maxEntries = 5_000 // what peers can put into an agent
	maxPrefix  = 32    // half of a DNS label
)

// SyncConfig configures a Sync.
type SyncConfig struct {
	Access
	Region  federation.Region // our own
	Gateway string            // this gateway's name: what another one registered is left alone
	// TTL is how long imports stay in use without us. Default 15 s: three missed beats of 5 s, as is customary.
	TTL time.Duration
	// RemoveAfter is how long after that Consul removes them. Default 10 min: a gateway that is upgraded finds its own again. Consul
	// itself does not go below 1 min.
	RemoveAfter time.Duration
	// Interval is how often Consul is compared with what should be there. Default 30 s: others seldom change what is ours.
	Interval time.Duration
	// Writes is how many writes are made in a second. Default 50: the agent saves each to disk and sends it to the servers.
	Writes int
	Prefix string   // of each name in Consul, so that imports do not meet services of the same name
	Tags   []string // given to each service
	// Merge registers imports also under names that services of this Consul have. Callers then reach either by chance.
	Merge bool
	Log   *slog.Logger // default: discard
}

// Entry is an import as callers of the local Consul are to see it.
type Entry struct {
	Service federation.ServiceName
	Regions []federation.Region // that export it, for those who look at Consul: tags
	Address netip.AddrPort      // where callers reach it: a listener of this gateway, at an address that they can reach
	Healthy bool                // false: it is registered as critical, which takes it out of DNS
}

// Name is what a service is called in Consul, which without Enterprise has no namespaces.
func (s *Sync) Name(service federation.ServiceName) string {
	if service.Namespace == "" || service.Namespace == federation.DefaultNamespace {
		return s.cfg.Prefix + service.Name
	}
	return s.cfg.Prefix + service.Name + "-" + service.Namespace
}

// Held is an entry that is not shown in Consul.
type Held struct {
	Entry Entry
	Why   string
}

// SyncStatus is how far Consul shows what it should.
type SyncStatus struct {
	Registered int                    // entries that Consul has
	Held       []Held                 // entries that it is not to have
	LastBeat   time.Time              // when the agent last heard that we are alive
	LastEqual  time.Time              // when Consul last was as it should be, but for what is held; zero: never
	Problem    *federation.Diagnostic // why Consul does not show all, or nil
}

// Sync shows imports in the local Consul. Set says which; Run writes them.
//
// They are services of the local agent, not of a node of their own in the catalog, because of what must happen when this process
// dies: nothing else than an agent ends a check when its TTL is over, and removes a service that has been critical for long. What is
// registered in the catalog directly stays as it was last written, for ever, until somebody comes back to change it; sessions
// expire, but take only keys with them. So there is one service "tradewind" for this gateway with the one TTL check that is beaten,
// and each import has a check that is an alias of it. When the beats end the agent makes all of them critical at once, they are
// gone from DNS, and after RemoveAfter from the catalog, whether or not this gateway ever starts again. When it does, it finds what
// it had registered by its mark, and removes what should no longer be there. It never touches a service without that mark.
type Sync struct {
	cfg    SyncConfig
	client *client
	owner  string
	wake   chan struct{} // capacity 1: wanted has changed

	mu      sync.Mutex
	wanted  []Entry
	started bool // Set has been called
	status  SyncStatus
}

// NewSync returns a Sync that has made no request yet. An error names every mistake in cfg.
func NewSync(cfg SyncConfig) (*Sync, error) {
	errs := []error{cfg.Access.validate()}
	if _, err := federation.ParseRegion(string(cfg.Region)); err != nil {
		errs = append(errs, err)
	}
	if cfg.Gateway == "" || strings.ContainsAny(cfg.Gateway, ":/") {
		errs = append(errs, fmt.Errorf("gateway's name %q is empty or has a colon or slash", cfg.Gateway))
	}
	if strings.ContainsFunc(cfg.Prefix, func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }) ||
		strings.HasPrefix(cfg.Prefix, "-") || len(cfg.Prefix) > maxPrefix {
		errs = append(errs, fmt.Errorf("prefix %q: use at most %d lower-case letters, digits and hyphens, as DNS does", cfg.Prefix, maxPrefix))
	}
	if cfg.TTL < 0 || cfg.RemoveAfter < 0 || cfg.Interval < 0 || cfg.Writes < 0 {
		errs = append(errs, errors.New("ttl, remove_after, interval and writes are not negative"))
	}
	if err := errors.Join(errs...); err != nil {
		return nil, fmt.Errorf("configure sync_to_consul: %w", err)
	}
	cfg.TTL = cmp.Or(cfg.TTL, 15*time.Second)
	cfg.RemoveAfter = cmp.Or(cfg.RemoveAfter, 10*time.Minute)
	cfg.Interval = cmp.Or(cfg.Interval, 30*time.Second)
	cfg.Writes = cmp.Or(cfg.Writes, 50)
	if cfg.Timeout == 0 { // a beat must not wait for a write that hangs
		cfg.Timeout = max(cfg.TTL/3, time.Second)
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	c, err := newClient(cfg.Access, 2)
	if err != nil {
		return nil, fmt.Errorf("configure sync_to_consul: %w", err)
	}
	return &Sync{cfg: cfg, client: c, owner: string(cfg.Region) + "/" + cfg.Gateway, wake: make(chan struct{}, 1)}, nil
}

// Set replaces what Consul is to show: all of it, and of too many the first in order. Until the first call nothing is written, so
// that what an earlier life has registered is not withdrawn before it is known what should stay.
func (s *Sync) Set(entries []Entry) {
	list := slices.Clone(entries)
	slices.SortStableFunc(list, func(a, b Entry) int {
		return cmp.Or(cmp.Compare(s.Name(a.Service), s.Name(b.Service)), a.Service.Compare(b.Service))
	})
	list = slices.CompactFunc(list, func(a, b Entry) bool { return a.Service == b.Service })
	s.mu.Lock()
	s.wanted, s.started = list, true
	s.mu.Unlock()
	poll.Poke(s.wake)
}

// Status returns how far Consul shows what it should.
func (s *Sync) Status() SyncStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.status
	out.Held = slices.Clone(out.Held)
	return out
}

// Run keeps Consul equal to what was Set, until ctx ends. Then it says to the agent that we are gone, which takes the imports out of
// DNS, and returns nil.
func (s *Sync) Run(ctx context.Context) error {
	defer s.client.idle()
	w := &writer{Sync: s}
	beats := time.NewTicker(max(s.cfg.TTL/3, time.Millisecond))
	defer beats.Stop()
	compare := time.NewTimer(s.cfg.Interval)
	defer compare.Stop()
	failures := 0
	for {
		due := false
		select {
		case <-ctx.Done():
			w.farewell(ctx)
			return nil
		case <-s.wake:
			due = true
		case <-compare.C:
			due = true
		case <-beats.C:
			if w.alive && w.beat(ctx) != nil {
				due = true // the agent has forgotten us, or is away
			}
		}
		if !due || !s.begun() {
			continue
		}
		err := w.reconcile(ctx)
		if ctx.Err() != nil {
			continue
		}
		s.note(err)
		wait := s.cfg.Interval
		if err == nil {
			failures = 0
		} else {
			failures++
			wait = min(wait, poll.Backoff(err, failures, retryFrom, retryMost))
		}
		compare.Reset(wait)
	}
}

func (s *Sync) begun() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.started
}

// note keeps the outcome of a comparison, and logs it when it is another one.
func (s *Sync) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.status.Problem
	s.status.Problem = s.problem(err)
	if err == nil {
		s.status.LastEqual = time.Now()
	}
	switch now := s.status.Problem; {
	case now != nil && (before == nil || before.Code != now.Code):
		s.cfg.Log.Warn("imports in Consul", "code", string(now.Code), "reason", now.Reason())
	case now == nil && before != nil:
		s.cfg.Log.Info("Consul shows all imports", "services", s.status.Registered)
	}
}

// problem returns err, or else that entries are held, as an operator reads it. The caller holds s.mu.
func (s *Sync) problem(err error) *federation.Diagnostic {
	var denied *poll.DeniedError
	switch {
	case errors.As(err, &denied):
		return &federation.Diagnostic{Code: federation.CodeConsulSyncDenied, What: "imports cannot be written to Consul: a rule is missing",
			Why: denied.Err.Error(), Fix: fmt.Sprintf("add %s to the policy of %s", denied.Action, cmp.Or(denied.Who, "the token")), Err: err}
	case err != nil:
		return &federation.Diagnostic{Code: federation.CodeConsulSyncFailed, What: "imports could not be written to Consul", Why: err.Error(),
			Fix: "check the agent; it is tried again by itself", Err: err}
	case len(s.status.Held) > 0:
		h := s.status.Held[0]
		return &federation.Diagnostic{Code: federation.CodeConsulSyncHeld,
			What: fmt.Sprintf("%d imports are not shown in Consul", len(s.status.Held)),
			Why:  fmt.Sprintf("%v of %s: %s", h.Entry.Service, joined(h.Entry.Regions), h.Why),
			Fix:  "rename one of them, or set prefix or merge = true in sync_to_consul"}
	}
	return nil
}

// registration returns how e is registered.
func (s *Sync) registration(e Entry) *api.AgentServiceRegistration {
	id, regions := s.id(e), joined(e.Regions)
	status := api.HealthCritical
	if e.Healthy {
		status = api.HealthPassing
	}
	tags := []string{source}
	for _, r := range e.Regions {
		tags = append(tags, string(r))
	}
	return &api.AgentServiceRegistration{
		ID: id, Name: s.Name(e.Service), Address: e.Address.Addr().Unmap().String(), Port: int(e.Address.Port()),
		Tags: append(tags, s.cfg.Tags...),
		Meta: map[string]string{metaSource: source, metaOwner: s.owner},
		Checks: api.AgentServiceChecks{
			{CheckID: id + aliveSuffix, Name: "Tradewind gateway " + s.owner, AliasService: s.anchor(), Status: api.HealthPassing,
				DeregisterCriticalServiceAfter: s.cfg.RemoveAfter.String()},
			{CheckID: id + healthSuffix, Name: "Health in " + regions, TTL: forever.String(), Status: status},
		},
	}
}

func joined(regions []federation.Region) string {
	out := make([]string, len(regions))
	for i, r := range regions {
		out[i] = string(r)
	}
	return strings.Join(out, ", ")
}

// anchorRegistration returns how this gateway itself is registered.
func (s *Sync) anchorRegistration() *api.AgentServiceRegistration {
	return &api.AgentServiceRegistration{
		ID: s.anchor(), Name: source, Tags: []string{"gateway"},
		Meta: map[string]string{metaSource: source, metaOwner: s.owner},
		Checks: api.AgentServiceChecks{{CheckID: s.anchor() + aliveSuffix, Name: "Tradewind gateway " + s.owner, TTL: s.cfg.TTL.String(),
			Status: api.HealthPassing, DeregisterCriticalServiceAfter: s.cfg.RemoveAfter.String()}},
	}
}

const (
	aliveSuffix  = ":alive"
	healthSuffix = ":health"
	forever      = 10 * 365 * 24 * time.Hour // of a check that is written when it changes
)

// anchor is the ID of the service that stands for this gateway. No name of ours holds a colon, so IDs differ when their parts do.
func (s *Sync) anchor() string { return source + ":" + string(s.cfg.Region) + ":" + s.cfg.Gateway }

func (s *Sync) id(e Entry) string { return s.anchor() + ":" + s.Name(e.Service) }
