package controlplane

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

// Change is what one owner wants to be different. It happens as a whole or not at all.
type Change struct {
	Owner  string                // who writes: "cli", "api", "dir:/etc/tradewind/resources.d", "terraform"; at most 256 octets
	Put    []federation.Resource // to be as given; a Version above 0 must be the current one, 0 is not checked
	Delete []federation.Key      // to be gone; each must exist
	Prune  bool                  // delete what Owner owns and Put does not list
	Force  bool                  // take over what another owner owns
}

// Action is what a step does.
type Action string

// The actions of a step.
const (
	ActionCreate Action = "create"
	ActionUpdate Action = "update"
	ActionDelete Action = "delete"
	ActionNone   Action = "none" // it is as wanted already; nothing is written
)

// Step is one resource of a plan.
type Step struct {
	Action Action               `json:"action"`
	Key    federation.Key       `json:"key"`
	Before *federation.Resource `json:"before,omitempty"` // nil: there is none, or what is stored cannot be read
	After  *federation.Resource `json:"after,omitempty"`  // nil: it is deleted. Its version is known once applied
}

// Plan is what a change does, sorted by key.
type Plan struct {
	Steps    []Step                   `json:"steps"`
	Warnings []*federation.Diagnostic `json:"warnings,omitempty"` // it can be applied, but may not do what was meant
}

// Changes reports whether p does anything.
func (p Plan) Changes() bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Action != ActionNone })
}

// Count returns the number of steps with action a.
func (p Plan) Count(a Action) int {
	n := 0
	for _, s := range p.Steps {
		if s.Action == a {
			n++
		}
	}
	return n
}

// List returns the resources of kinds, or all when none is given, sorted by key. The result is the caller's.
func (p *Plane) List(kinds ...federation.Kind) []federation.Resource {
	set := p.resources()
	var list []federation.Resource
	for _, key := range set.keys {
		if r := set.records[key]; r.damage == nil && (len(kinds) == 0 || slices.Contains(kinds, key.Kind)) {
			list = append(list, r.copy())
		}
	}
	return list
}

// Get returns the resource called key. An unknown one is TW-1204; one that is stored but cannot be read is TW-1209.
func (p *Plane) Get(key federation.Key) (federation.Resource, error) {
	key = canonical(key)
	r := p.resources().records[key]
	switch {
	case r == nil:
		return federation.Resource{}, notFound(key, "")
	case r.damage != nil:
		return federation.Resource{}, r.damage
	}
	return r.copy(), nil
}

func (p *Plane) resources() *resources {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.inbox.resources
}

// Plan says what Apply would do now. It changes nothing. The error joins a Diagnostic for every rule that the change breaks.
func (p *Plane) Plan(_ context.Context, change Change) (Plan, error) {
	plan, _, err := p.plan(p.resources(), change)
	return plan, err
}

// Apply makes change happen and returns what it did, when that is durable; Settle waits until it is in force. On an error
// nothing has changed, but for TW-1211 (the store failed), whose outcome is unknown. The error joins a Diagnostic for every rule that the
// change breaks. Somebody else writing to the same store at the same moment is waited out once.
func (p *Plane) Apply(ctx context.Context, change Change) (Plan, error) {
	select {
	case p.writing <- struct{}{}:
		defer func() { <-p.writing }()
	case <-ctx.Done():
		return Plan{}, fmt.Errorf("apply resources: %w", ctx.Err())
	}
	if p.unsure {
		if err := p.reload(ctx); err != nil {
			return Plan{}, err
		}
	}
	plan, err := p.applyOnce(ctx, change)
	if errors.Is(err, store.ErrConflict) {
		if err := p.reload(ctx); err != nil {
			return Plan{}, err
		}
		plan, err = p.applyOnce(ctx, change)
	}
	switch {
	case errors.Is(err, store.ErrConflict):
		return Plan{}, &federation.Diagnostic{Code: CodeBusy, What: "the change was not applied", Err: err,
			Why: "another writer changed the region's resources at the same moment, twice", Fix: "apply it again"}
	case err != nil:
		return Plan{}, err
	}
	if plan.Changes() {
		p.log.Info("resources applied", "owner", change.Owner, "created", plan.Count(ActionCreate), "updated", plan.Count(ActionUpdate),
			"deleted", plan.Count(ActionDelete), "force", change.Force)
	}
	return plan, nil
}

// applyOnce plans and commits. The caller holds writing.
func (p *Plane) applyOnce(ctx context.Context, change Change) (Plan, error) {
	set := p.resources()
	plan, records, err := p.plan(set, change)
	if err != nil || !plan.Changes() {
		return plan, err
	}
	revision, err := p.cfg.Store.Commit(ctx, set.operations(change.Owner, plan, records)...)
	if err != nil {
		if errors.Is(err, store.ErrConflict) {
			return Plan{}, err
		}
		return Plan{}, p.unclear(ctx, err)
	}
	for i := range plan.Steps {
		if s := &plan.Steps[i]; s.Action == ActionCreate || s.Action == ActionUpdate {
			s.After.Version = revision
			records[s.Key].resource.Version = revision
		}
	}
	p.install(set.next(revision, plan, records))
	return plan, nil
}

// unclear handles a commit that failed for a reason of the store's: it may have happened nevertheless, so what is stored
// decides from now on.
func (p *Plane) unclear(ctx context.Context, err error) error {
	p.unsure = true
	// The caller may be gone, which is a likely cause of the failure; what is in force must be right all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	fix := "look at what there is (tradewind get) and apply the change again"
	if reloadErr := p.reload(ctx); reloadErr != nil {
		fix = "check the region's store, then apply the change again"
	}
	var known *federation.Diagnostic
	if errors.As(err, &known) && known.Code == store.CodeFull { // a transaction that found no room left nothing behind
		return &federation.Diagnostic{Code: store.CodeFull, What: "the change was not applied", Why: known.Reason(), Fix: known.Fix, Err: err}
	}
	return &federation.Diagnostic{Code: CodeStore, What: "the change may not have been applied",
		Why: fmt.Sprintf("write to the region's store: %v", err), Fix: fix, Err: err}
}

// Reload reads all resources from the store again, for a store that others write to as well.
func (p *Plane) Reload(ctx context.Context) error {
	select {
	case p.writing <- struct{}{}:
		defer func() { <-p.writing }()
	case <-ctx.Done():
		return fmt.Errorf("reload resources: %w", ctx.Err())
	}
	return p.reload(ctx)
}

// reload is Reload for whoever holds writing.
func (p *Plane) reload(ctx context.Context) error {
	set, err := loadResources(ctx, p.cfg.Store)
	if err != nil {
		return err
	}
	p.unsure = false
	if !set.equal(p.resources()) {
		p.logDamage(set)
		p.install(set)
	}
	return nil
}

func (p *Plane) install(set *resources) {
	p.change(func(in *inbox) bool {
		in.resources = set
		return true
	})
	p.tellWatchers()
}

func (p *Plane) logDamage(set *resources) {
	for _, d := range set.damage() {
		p.log.Error("stored resource is not in force", "code", d.Code, "error", d)
	}
}
