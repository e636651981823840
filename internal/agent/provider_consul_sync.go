//go:build !no_consul

package agent

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/consul"
)

const (
	syncLook     = 250 * time.Millisecond // health of imports and paths has no signal, and a look is a few loads for each listener
	syncPatience = 15 * time.Second       // for imports of an earlier life; a saved one is read in milliseconds
	syncFarewell = 5 * time.Second        // for an agent to take away what a removed block had shown
)

// consulSyncs are the blocks sync_to_consul that run, by the name of their provider.
type consulSyncs struct {
	mu      sync.Mutex // for the API; only keepConsulSyncs writes
	running map[string]*consulSync
	refused map[string]*config.ConsulProvider // that could not be set up; the same is not tried again
}

// consulSync is one of them.
type consulSync struct {
	*consul.Sync
	cfg   config.ConsulProvider
	stop  context.CancelFunc
	ended chan struct{}

	shown atomic.Pointer[shownImports] // nil: it is not known yet what is to be shown
}

// shownImports is what a Consul is to show, and what it is not to show.
type shownImports struct {
	entries []consul.Entry
	hidden  []admin.HiddenImports
}

// keepConsulSyncs shows imports in the Consuls whose provider blocks say so, until ctx ends.
func (a *Agent) keepConsulSyncs(ctx context.Context) error {
	changed, cancel := a.plane.Changed()
	defer cancel()
	look := time.NewTicker(syncLook)
	defer look.Stop()
	patience := time.Now().Add(syncPatience)
	settled := false
	a.consuls.mu.Lock()
	a.consuls.running, a.consuls.refused = map[string]*consulSync{}, map[string]*config.ConsulProvider{}
	a.consuls.mu.Unlock()
	defer func() {
		for _, s := range a.consuls.running {
			s.end()
		}
	}()
	for {
		a.adoptConsulSyncs(ctx)
		if settled = settled || time.Now().After(patience) || a.importsRead(); settled {
			for _, s := range a.consuls.running {
				a.show(s)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-look.C:
		}
	}
}

// importsRead reports whether the view has the imports of an earlier life: each peering brings its own, at any time after the start,
// and what is missing until then must not be taken for withdrawn.
func (a *Agent) importsRead() bool {
	view := a.plane.View()
	if view.Number == 0 {
		return false
	}
	for _, p := range a.peers.List() {
		if p.State != federation.PeeringPending && p.State != federation.PeeringTerminated && view.Imports[p.Region] == nil {
			return false
		}
	}
	return true
}

// adoptConsulSyncs makes the running ones those of the configuration. One whose block has not changed goes on.
func (a *Agent) adoptConsulSyncs(ctx context.Context) {
	wanted := map[string]*config.ConsulProvider{}
	cfg := a.cfg.Load()
	for _, p := range cfg.Providers {
		if c, ok := p.Config.(*config.ConsulProvider); ok && c.Sync != nil {
			wanted[p.Name] = c
		}
	}
	for name, s := range a.consuls.running {
		if c := wanted[name]; c == nil || !sameSync(c, &s.cfg) {
			s.end()
			if c == nil || consulAccess(c) != consulAccess(&s.cfg) {
				s.clear(ctx)
			}
			a.consuls.put(name, nil)
		}
	}
	for name, c := range wanted {
		if a.consuls.running[name] != nil || a.consuls.refused[name] == c {
			continue
		}
		made, err := newConsulSync(c, cfg.Region, cfg.Name, a.room("consul").With("provider", name))
		if err != nil { // it was possible when the configuration was accepted: a file of certificates is gone
			a.log.Error("show imports in Consul", "provider", name, "code", string(federation.CodeConsulSyncFailed), "error", err)
			a.consuls.refused[name] = c
			continue
		}
		inner, stop := context.WithCancel(ctx)
		s := &consulSync{Sync: made, cfg: *c, stop: stop, ended: make(chan struct{})}
		go func() {
			defer close(s.ended)
			_ = s.Run(inner) // nil when its context ends, and nothing else ends it
		}()
		a.consuls.put(name, s)
	}
}

// sameSync reports whether two provider blocks show the same in the same Consul.
func sameSync(a, b *config.ConsulProvider) bool {
	return consulAccess(a) == consulAccess(b) && reflect.DeepEqual(a.Sync, b.Sync)
}

func (c *consulSyncs) put(name string, s *consulSync) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s == nil {
		delete(c.running, name)
	} else {
		c.running[name] = s
	}
}

func (s *consulSync) end() {
	s.stop()
	<-s.ended
}

// clear takes away what was shown, of a block that is gone. What an agent that is away keeps, it takes out of use by itself.
func (s *consulSync) clear(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, syncFarewell)
	defer cancel()
	_ = s.Clear(ctx)
}

// show sets what s shows to what this gateway serves now.
func (a *Agent) show(s *consulSync) {
	last := s.shown.Load()
	var now *shownImports
	if a.state.Load() == admin.StateDraining {
		if last == nil {
			return
		}
		now = &shownImports{entries: slices.Clone(last.entries), hidden: last.hidden}
		for i := range now.entries {
			now.entries[i].Healthy = false // for new callers
		}
	} else if now = a.importsFor(s.cfg.Sync); now == nil {
		return
	}
	if last == nil || !reflect.DeepEqual(last.entries, now.entries) {
		s.Set(now.entries)
	}
	s.shown.Store(now)
}

// status is where the block of a provider stands; nil when it has none.
func (c *consulSyncs) status(name string) *admin.ConsulSync {
	c.mu.Lock()
	s := c.running[name]
	c.mu.Unlock()
	if s == nil {
		return nil
	}
	st := s.Status()
	out := &admin.ConsulSync{LastSuccess: admin.At(st.LastEqual), Problem: problem(st.Problem)}
	held := map[federation.ServiceName]bool{}
	for _, h := range st.Held {
		held[h.Entry.Service] = true
		out.NotShown = hide(out.NotShown, h.Entry.Service, h.Why, "rename one of them, or set prefix or merge = true in sync_to_consul")
	}
	shown := s.shown.Load()
	if shown == nil {
		return out
	}
	for _, e := range shown.entries {
		if !held[e.Service] {
			out.Entries = append(out.Entries, admin.SyncedImport{Name: s.Name(e.Service), Service: e.Service, Regions: e.Regions,
				Address: e.Address.String(), Healthy: e.Healthy})
		}
	}
	out.NotShown = append(out.NotShown, shown.hidden...)
	return out
}
