package agent

import (
	"context"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/controlplane"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// ListResources implements admin.Resources.
func (a *Agent) ListResources(_ context.Context, r *admin.ListResourcesRequest) (*admin.ListResourcesResponse, error) {
	return &admin.ListResourcesResponse{Resources: a.plane.List(r.Kinds...)}, nil
}

// GetResource implements admin.Resources.
func (a *Agent) GetResource(_ context.Context, r *admin.GetResourceRequest) (*admin.GetResourceResponse, error) {
	resource, err := a.plane.Get(r.Key)
	return &admin.GetResourceResponse{Resource: resource}, err
}

// PlanResources implements admin.Resources.
func (a *Agent) PlanResources(ctx context.Context, r *admin.ChangeRequest) (*admin.Plan, error) {
	plan, err := a.plane.Plan(ctx, change(r))
	return planOf(plan), err
}

// ApplyResources implements admin.Resources. It returns when the change is durable and in force in this gateway.
func (a *Agent) ApplyResources(ctx context.Context, r *admin.ChangeRequest) (*admin.Plan, error) {
	plan, err := a.plane.Apply(ctx, change(r))
	if err != nil {
		return nil, err
	}
	if err := a.inForce(ctx); err != nil {
		return planOf(plan), err
	}
	plan.Warnings = append(plan.Warnings, a.unbound(r.Put)...)
	return planOf(plan), nil
}

// inForce waits until what was applied is in force: the resources in a view, the instances they declare in the catalog, and that
// catalog in a view.
func (a *Agent) inForce(ctx context.Context) error {
	if err := a.plane.Settle(ctx); err != nil {
		return err
	}
	if err := a.reg.Sync(ctx); err != nil {
		return err
	}
	changed, stop := a.plane.Changed()
	defer stop()
	for revision := a.reg.Catalog().Revision(); a.plane.View().Local.Revision() < revision; {
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// unbound is why listeners among put are not where they should be: only binding an address tells.
func (a *Agent) unbound(put []federation.Resource) []*federation.Diagnostic {
	wanted, ingresses := map[string]bool{}, map[string]bool{}
	for _, r := range put {
		switch r.Kind { //nolint:exhaustive // the others listen nowhere
		case federation.KindUpstream:
			wanted[r.Name] = true
		case federation.KindIngress:
			ingresses[r.Name] = true
		}
	}
	var problems []*federation.Diagnostic
	for _, l := range a.mesh.Listeners() {
		if l.Problem != nil && wanted[l.Upstream.Name] {
			problems = append(problems, l.Problem)
		}
	}
	return append(problems, a.unboundIngresses(ingresses)...)
}

// DeleteResources implements admin.Resources.
func (a *Agent) DeleteResources(ctx context.Context, r *admin.DeleteRequest) (*admin.Plan, error) {
	return a.ApplyResources(ctx, &admin.ChangeRequest{Owner: r.Owner, Delete: r.Keys, Force: r.Force})
}

func change(r *admin.ChangeRequest) controlplane.Change {
	return controlplane.Change{Owner: r.Owner, Put: r.Put, Delete: r.Delete, Prune: r.Prune, Force: r.Force}
}

func planOf(p controlplane.Plan) *admin.Plan {
	out := &admin.Plan{}
	for _, s := range p.Steps {
		out.Steps = append(out.Steps, admin.Step{Action: admin.Action(s.Action), Key: s.Key, Before: s.Before, After: s.After})
	}
	for _, w := range p.Warnings {
		out.Warnings = append(out.Warnings, admin.ProblemOf(admin.SeverityWarning, "", w))
	}
	return out
}
