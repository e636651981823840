package registry

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// record is a registration as it is stored.
type record struct {
	Instance   federation.Instance `json:"instance"`        // Health: as last said
	Owner      string              `json:"owner,omitempty"` // hex SHA-256 of the owner token
	Registered time.Time           `json:"registered"`
	Down       time.Time           `json:"down,omitzero"` // when its TTL ran out, until the next heartbeat

	DeregisterAfter federation.Duration `json:"deregister_after,omitempty"` // Terms
}

// same reports whether storing b over r would change nothing.
func (r *record) same(b *record) bool {
	return r.Owner == b.Owner && r.DeregisterAfter == b.DeregisterAfter && r.Down.Equal(b.Down) && r.Registered.Equal(b.Registered) && sameInstance(&r.Instance, &b.Instance)
}

// ttl is the shortest TTL of the instance's own checks, or 0.
func (r *record) ttl() time.Duration {
	var shortest time.Duration
	for _, c := range r.Instance.Checks {
		if ttl := c.Defaulted().TTL.D(); c.Kind == federation.CheckTTL && (shortest == 0 || ttl < shortest) {
			shortest = ttl
		}
	}
	return shortest
}

// The store's keys: what it is, then the instance. IDs are escaped, since they may hold anything printable.
const (
	keyInstance = "instance"
	keyDrain    = "drain"
)

func storeKey(kind string, k key) string {
	return kind + "/" + k.service.Namespace + "/" + k.service.Name + "/" + url.PathEscape(string(k.id))
}

// parseStoreKey is the inverse of storeKey.
func parseStoreKey(s string) (kind string, k key, err error) {
	parts := strings.Split(s, "/")
	if len(parts) != 4 || parts[0] != keyInstance && parts[0] != keyDrain {
		return "", key{}, fmt.Errorf("key %q has no known form", s)
	}
	k.service, err = federation.ParseServiceName(parts[1] + "/" + parts[2])
	if err != nil {
		return "", key{}, fmt.Errorf("key %q: %w", s, err)
	}
	id, err := url.PathUnescape(parts[3])
	if err == nil {
		err = checkText("id", id, maxInstanceID)
	}
	if err != nil {
		return "", key{}, fmt.Errorf("key %q: %w", s, err)
	}
	k.id = federation.InstanceID(id)
	return parts[0], k, nil
}

// parseRecord reads a stored registration of k.
func parseRecord(k key, value []byte) (record, error) {
	var rec record
	if err := json.Unmarshal(value, &rec); err != nil {
		return record{}, fmt.Errorf("read registration: %w", err)
	}
	if instanceKey(&rec.Instance) != k {
		return record{}, errors.New("it is stored under the name of another instance")
	}
	if _, err := normalize(rec.Instance, "any"); err != nil {
		return record{}, err
	}
	return rec, nil
}

// Run implements Source: it reads the store once, then publishes all registrations with every change.
func (a *API) Run(ctx context.Context, publish func([]federation.Instance)) error {
	if err := a.load(ctx); err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err
	}
	var sweeps sync.WaitGroup
	defer sweeps.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	sweeps.Go(func() { a.sweepForever(ctx) })
	publish(a.instances())
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.wake:
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(settleDelay):
		}
		publish(a.instances())
	}
}

// Problem implements Troubled: it reports stored registrations that cannot be read.
func (a *API) Problem() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.damaged) == 0 {
		return nil
	}
	first := slices.Min(slices.Collect(maps.Keys(a.damaged)))
	return &federation.Diagnostic{Code: federation.CodeRegistrationDamaged,
		What: fmt.Sprintf("%d stored registrations cannot be read", len(a.damaged)), Why: fmt.Sprintf("%q: %s", first, a.damaged[first]),
		Fix: "register the instances again, which replaces the records"}
}

// load reads the store, the first time Run is called.
func (a *API) load(ctx context.Context) error {
	select {
	case <-a.loaded:
		return nil
	default:
	}
	stored, err := a.cfg.Store.Load(ctx)
	if err != nil {
		return &federation.Diagnostic{Code: federation.CodeRegistrationStore, What: "registrations cannot be read", Why: err.Error(),
			Fix: "check the region's store; it is tried again by itself", Err: err}
	}
	now := time.Now()
	regs, drains, damaged := map[key]*registration{}, map[key]bool{}, map[string]string{}
	for name, value := range stored {
		kind, k, err := parseStoreKey(name)
		var rec record
		if err == nil && kind == keyInstance {
			rec, err = parseRecord(k, value)
		}
		switch {
		case err != nil:
			damaged[name] = err.Error()
		case kind == keyDrain:
			drains[k] = true
		default:
			// A restart of the gateway counts as a heartbeat: nobody could send one while it was down.
			regs[k] = &registration{record: rec, beat: now}
		}
	}
	a.mu.Lock()
	a.regs, a.drains, a.damaged = regs, drains, damaged
	a.mu.Unlock()
	if err := a.Problem(); err != nil {
		a.cfg.Log.Error("use the registrations that can be read", "err", err)
	}
	for k := range drains {
		a.cfg.Registry.Drain(k.service, k.id, true)
	}
	close(a.loaded)
	return nil
}

// instances returns all registrations as the registry is to see them, in order.
func (a *API) instances() []federation.Instance {
	a.mu.Lock()
	set := make([]federation.Instance, 0, len(a.regs))
	for _, g := range a.regs {
		in := g.Instance
		if !g.Down.IsZero() {
			in.Health = federation.HealthFailing
		}
		set = append(set, in)
	}
	a.mu.Unlock()
	slices.SortFunc(set, func(x, y federation.Instance) int {
		return cmp.Or(x.Service.Compare(y.Service), cmp.Compare(x.ID, y.ID))
	})
	return set
}

// sweepForever writes down whose TTL ran out, so that a restart does not forget it, and removes those that have been so for
// their DeregisterAfter. It is apart from publishing, since a thousand deaths at once are a thousand writes.
func (a *API) sweepForever(ctx context.Context) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			for _, k := range a.overdue(now) {
				if err := a.lapse(ctx, k); err != nil && ctx.Err() == nil {
					a.cfg.Log.Warn("write down missing heartbeats", "err", err)
					break // the store is in trouble; the next sweep tries again
				}
			}
		}
	}
}

// overdue returns the registrations for which something is to be done at now.
func (a *API) overdue(now time.Time) []key {
	a.mu.Lock()
	defer a.mu.Unlock()
	var out []key
	for k, g := range a.regs {
		if g.silence(now) != keep {
			out = append(out, k)
		}
	}
	return out
}

type verdict uint8

const (
	keep verdict = iota
	markDown
	reap
)

// silence says what the silence of g asks for at now.
func (g *registration) silence(now time.Time) verdict {
	ttl := g.ttl()
	switch {
	case ttl == 0:
		return keep
	case g.Down.IsZero() && now.Sub(g.beat) >= ttl:
		return markDown
	case !g.Down.IsZero() && g.DeregisterAfter > 0 && now.Sub(g.Down) >= g.DeregisterAfter.D():
		return reap
	}
	return keep
}

// lapse does what the silence of k asks for, unless it has spoken meanwhile.
func (a *API) lapse(ctx context.Context, k key) error {
	unlock, err := a.begin(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	a.mu.Lock()
	g := a.regs[k]
	what := keep
	var next *registration
	if g != nil {
		what = g.silence(time.Now())
		next = &registration{record: g.record, beat: g.beat}
		next.Down = g.beat.Add(g.ttl()).UTC()
	}
	a.mu.Unlock()
	switch what {
	case markDown:
		if err := a.save(ctx, k, &next.record); err != nil {
			return err
		}
		a.mu.Lock()
		spoken := g.beat.After(next.beat) // in memory, during the write
		if !spoken {
			a.regs[k] = next // from here on a heartbeat sees that it has something to write
		}
		a.mu.Unlock()
		if !spoken {
			poke(a.wake)
			return nil
		}
		if err := a.save(ctx, k, &g.record); err != nil {
			a.put(k, next) // as stored, so that the next heartbeat mends both
			return err
		}
	case reap:
		a.cfg.Log.Info("deregister instance without heartbeats", "service", k.service.String(), "instance", string(k.id), "since", g.Down)
		return a.remove(ctx, k)
	}
	return nil
}

// save stores rec as the registration of k.
func (a *API) save(ctx context.Context, k key, rec *record) error {
	name := storeKey(keyInstance, k)
	value, err := json.Marshal(rec)
	if err == nil {
		err = a.cfg.Store.Save(ctx, name, value)
	}
	if err != nil {
		return storeError(k, err)
	}
	a.mu.Lock()
	delete(a.damaged, name)
	a.mu.Unlock()
	return nil
}

// remove deletes the registration of k, from the store first.
func (a *API) remove(ctx context.Context, k key) error {
	if err := a.cfg.Store.Delete(ctx, storeKey(keyInstance, k)); err != nil {
		return storeError(k, err)
	}
	a.put(k, nil)
	return nil
}

// setDrain stores the drain mark of k, or deletes it, and tells the registry.
func (a *API) setDrain(ctx context.Context, k key, on bool) error {
	a.mu.Lock()
	had, count := a.drains[k], len(a.drains)
	a.mu.Unlock()
	var err error
	switch {
	case had == on:
		return nil
	case on && count >= a.cfg.MaxRegistrations:
		return fullRegistrations(k, a.cfg.MaxRegistrations)
	case on:
		err = a.cfg.Store.Save(ctx, storeKey(keyDrain, k), []byte("{}"))
	default:
		err = a.cfg.Store.Delete(ctx, storeKey(keyDrain, k))
	}
	if err != nil {
		return storeError(k, err)
	}
	a.mu.Lock()
	if on {
		a.drains[k] = true
	} else {
		delete(a.drains, k)
	}
	a.mu.Unlock()
	a.cfg.Registry.Drain(k.service, k.id, on)
	return nil
}

// storeError makes a diagnostic of a write that failed; nil stays nil.
func storeError(k key, err error) error {
	if err == nil {
		return nil
	}
	return &federation.Diagnostic{Code: federation.CodeRegistrationStore, What: fmt.Sprintf("the change of %v could not be stored", k),
		Why: err.Error(), Fix: "check the region's store and repeat the call; nothing has changed", Err: err}
}
