package consul

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// writer is a Sync's hand. It belongs to Run.
type writer struct {
	*Sync
	alive    bool      // the agent has our service, as far as we know
	nextBeat time.Time // when one is due
	next     time.Time // when the next write may be made
}

// beat tells the agent that we are alive.
func (w *writer) beat(ctx context.Context) error {
	w.nextBeat = time.Now().Add(w.cfg.TTL / 3)
	err := w.client.ask(ctx, 0, func(q *api.QueryOptions) error {
		return w.client.Agent().UpdateTTLOpts(w.anchor()+aliveSuffix, "", api.HealthPassing, q)
	})
	if err != nil {
		return fmt.Errorf("tell the agent that the gateway is alive: %w", err)
	}
	w.mu.Lock()
	w.status.LastBeat = time.Now()
	w.mu.Unlock()
	return nil
}

// farewell tells the agent that we are gone. ctx has ended.
func (w *writer) farewell(ctx context.Context) {
	if !w.alive {
		return
	}
	const patience = 2 * time.Second // an agent that is down must not hold up our own end
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer cancel()
	err := w.client.ask(ctx, 0, func(q *api.QueryOptions) error {
		return w.client.Agent().UpdateTTLOpts(w.anchor()+aliveSuffix, "the gateway has stopped", api.HealthCritical, q)
	})
	if err != nil {
		w.cfg.Log.Warn("leave imports in Consul to their TTL", "reason", err.Error())
	}
}

// write makes one write when its time has come. Beats go on meanwhile.
func (w *writer) write(ctx context.Context, what string, request func(*api.QueryOptions) error) error {
	if w.alive && !time.Now().Before(w.nextBeat) {
		if err := w.beat(ctx); err != nil {
			return err
		}
	}
	if !poll.Rest(ctx, time.Until(w.next), nil) {
		return ctx.Err()
	}
	w.next = time.Now().Add(time.Second / time.Duration(w.cfg.Writes))
	if err := w.client.ask(ctx, 0, request); err != nil {
		return fmt.Errorf("%s in Consul: %w", what, err)
	}
	return nil
}

// state is what the agent has, and which names are taken by others.
type state struct {
	services map[string]*api.AgentService // by ID
	checks   map[string]*api.AgentCheck   // by ID
	taken    map[string]bool
}

func (w *writer) read(ctx context.Context) (s state, err error) {
	err = w.client.ask(ctx, 0, func(q *api.QueryOptions) (err error) {
		s.services, err = w.client.Agent().ServicesWithFilterOpts("", q)
		return err
	})
	if err != nil {
		return s, fmt.Errorf("read the agent's services: %w", err)
	}
	err = w.client.ask(ctx, 0, func(q *api.QueryOptions) (err error) {
		s.checks, err = w.client.Agent().ChecksWithFilterOpts("", q)
		return err
	})
	if err != nil {
		return s, fmt.Errorf("read the agent's checks: %w", err)
	}
	if w.cfg.Merge {
		return s, nil
	}
	err = w.client.ask(ctx, 0, func(q *api.QueryOptions) error {
		q.AllowStale, q.Filter = true, fmt.Sprintf("ServiceMeta[%q] != %q", metaSource, source)
		names, _, err := w.client.Catalog().Services(q)
		s.taken = make(map[string]bool, len(names))
		for name := range names {
			s.taken[strings.ToLower(name)] = true // as DNS sees them
		}
		return err
	})
	if err != nil {
		return s, fmt.Errorf("read which names are taken: %w", err)
	}
	return s, nil
}

// owns reports whether we registered a service.
func (w *writer) owns(s *api.AgentService) bool {
	return s != nil && s.Meta[metaSource] == source && s.Meta[metaOwner] == w.owner
}

// reconcile makes the agent's services equal to what is wanted: what is too much first, because it is wrong, then health, then what
// is new. A write that fails does not keep back the others; the first error is returned.
func (w *writer) reconcile(ctx context.Context) error {
	have, err := w.read(ctx)
	if err != nil {
		return err
	}
	want, held := w.choose(have)
	j := &job{writer: w}
	for _, id := range slices.Sorted(maps.Keys(have.services)) {
		if _, stays := want[id]; !stays && id != w.anchor() && w.owns(have.services[id]) {
			j.deregister(ctx, have.services[id])
		}
	}
	if anchor := w.anchorRegistration(); !w.same(have, anchor) {
		j.register(ctx, anchor)
	}
	if err := w.beat(ctx); err != nil {
		return cmp.Or(j.failed, err)
	}
	w.alive = true
	for _, id := range slices.Sorted(maps.Keys(want)) {
		r := w.registration(want[id])
		if !w.same(have, r) {
			j.register(ctx, r)
		}
		// What is registered again keeps the status that its checks had.
		if health, check := r.Checks[1], have.checks[r.Checks[1].CheckID]; check != nil && check.Status != health.Status {
			j.write(ctx, "set the health of "+r.Name, func(q *api.QueryOptions) error {
				return w.client.Agent().UpdateTTLOpts(health.CheckID, "", health.Status, q)
			})
		}
	}
	w.mu.Lock()
	w.status.Registered, w.status.Held = len(want), held
	w.mu.Unlock()
	return j.failed
}

// Clear removes all that this gateway has registered, when it is no longer to show imports. Run must have ended.
func (s *Sync) Clear(ctx context.Context) error {
	defer s.client.idle()
	w := &writer{Sync: s}
	have, err := w.read(ctx)
	if err != nil {
		return err
	}
	j := &job{writer: w}
	for _, id := range slices.Sorted(maps.Keys(have.services)) {
		if w.owns(have.services[id]) {
			j.deregister(ctx, have.services[id])
		}
	}
	return j.failed
}

// job is the writes of one reconcile.
type job struct {
	*writer
	failed error // the first one
	over   bool  // the agent is away: the others need not find out one by one
}

func (j *job) write(ctx context.Context, what string, request func(*api.QueryOptions) error) {
	if j.over || ctx.Err() != nil {
		return
	}
	err := j.writer.write(ctx, what, request)
	var transport *url.Error
	j.over = errors.As(err, &transport) || errors.Is(err, errHung) || errors.Is(err, poll.ErrCredentials)
	j.failed = cmp.Or(j.failed, err)
}

func (j *job) register(ctx context.Context, r *api.AgentServiceRegistration) {
	j.write(ctx, "register "+r.Name, func(q *api.QueryOptions) error {
		opts := api.ServiceRegisterOpts{ReplaceExistingChecks: true, Token: q.Token}
		return j.client.Agent().ServiceRegisterOpts(r, opts.WithContext(q.Context()))
	})
}

func (j *job) deregister(ctx context.Context, s *api.AgentService) {
	j.write(ctx, "deregister "+s.Service, func(q *api.QueryOptions) error {
		err := j.client.Agent().ServiceDeregisterOpts(s.ID, q)
		if status := (api.StatusError{}); errors.As(err, &status) && status.Code == http.StatusNotFound {
			return nil // somebody was faster
		}
		return err
	})
}

// choose returns the entries that Consul is to have, by ID, and those that it is not to have.
func (w *writer) choose(have state) (want map[string]Entry, held []Held) {
	w.mu.Lock()
	wanted := w.wanted
	w.mu.Unlock()
	want = map[string]Entry{}
	named := map[string]federation.ServiceName{} // which service has a name: default/a-b and b/a would be one
	for _, e := range wanted {
		id, name := w.id(e), w.Name(e.Service)
		other, used := named[name]
		switch existing := have.services[id]; {
		case len(want) >= maxEntries:
			held = append(held, Held{e, fmt.Sprintf("at most %d imports are shown", maxEntries)})
		case !e.Address.IsValid() || e.Address.Port() == 0:
			held = append(held, Held{e, "it has no address"})
		case strings.EqualFold(name, "consul") || name == source:
			held = append(held, Held{e, "the name is reserved"})
		case have.taken[name]:
			held = append(held, Held{e, "this Consul has a service of that name"})
		case used && other != e.Service:
			held = append(held, Held{e, fmt.Sprintf("service %v has the name %s in Consul", other, name)})
		case existing != nil && !w.owns(existing):
			held = append(held, Held{e, "a service of somebody else has its ID"})
		default:
			named[name] = e.Service
			want[id] = e
		}
	}
	return want, held
}

// same reports whether the agent has r as it should be, but for the status of its checks.
func (w *writer) same(have state, r *api.AgentServiceRegistration) bool {
	s := have.services[r.ID]
	if !w.owns(s) || s.Service != r.Name || s.Address != r.Address || s.Port != r.Port ||
		!slices.Equal(s.Tags, r.Tags) || !maps.Equal(s.Meta, r.Meta) {
		return false
	}
	for _, c := range r.Checks {
		if have.checks[c.CheckID] == nil {
			return false
		}
	}
	return true
}
