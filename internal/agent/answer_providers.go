package agent

import (
	"context"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// ListProviders implements admin.Providers.
func (a *Agent) ListProviders(context.Context, *admin.ListProvidersRequest) (*admin.ListProvidersResponse, error) {
	out := &admin.ListProvidersResponse{}
	for _, p := range a.providers.list() {
		out.Providers = append(out.Providers, p.status(p.current.Load().Status()))
	}
	return out, nil
}

// badness orders the states of scopes, the worst first.
var badness = []poll.ScopeState{poll.ScopeDenied, poll.ScopeFailed, poll.ScopeThrottled, poll.ScopeHeld, poll.ScopeStale, poll.ScopePending, poll.ScopeOK}

// status sums st up.
func (p *provider) status(st poll.Status) admin.ProviderStatus {
	cfg := p.cfg.Load()
	out := admin.ProviderStatus{Name: cfg.Name, Kind: cfg.Kind, Source: p.source(), Scopes: len(st.Scopes), Workloads: st.Workloads,
		Instances: st.Instances, Problem: problem(st.Problem), State: string(poll.ScopeOK)}
	if d := p.contested.Load().problem(); d != nil && st.Problem == nil {
		out.Problem = problem(d)
	}
	worst := len(badness) - 1
	if len(st.Scopes) == 0 {
		worst = slices.Index(badness, poll.ScopePending)
	}
	for _, s := range st.Scopes {
		worst = min(worst, slices.Index(badness, s.State))
		if s.LastComplete.IsZero() {
			out.Never = true
		} else {
			out.AgeSeconds = max(out.AgeSeconds, admin.SecondsOf(time.Since(s.LastComplete)))
		}
	}
	out.State = string(badness[max(0, worst)])
	return out
}

func problem(d *federation.Diagnostic) *admin.Problem {
	if d == nil {
		return nil
	}
	p := admin.ProblemOf(admin.SeverityWarning, "", d)
	return &p
}

// ShowProvider implements admin.Providers.
func (a *Agent) ShowProvider(_ context.Context, r *admin.ProviderRequest) (*admin.ProviderDetail, error) {
	p, err := a.providers.find(r.Name)
	if err != nil {
		return nil, err
	}
	return a.detail(p), nil
}

func (a *Agent) detail(p *provider) *admin.ProviderDetail {
	st := p.current.Load().Status()
	out := &admin.ProviderDetail{ProviderStatus: p.status(st), Rules: p.cfg.Load().Discover, Consul: a.consuls.status(p.name())}
	for _, s := range st.Scopes {
		scope := admin.ProviderScope{Scope: s.Scope.String(), State: string(s.State), Watching: s.Watching, Workloads: s.Workloads,
			LastComplete: admin.At(s.LastComplete), Next: admin.At(s.Next), Calls: s.Calls, Throttles: s.Throttles, Failures: s.Failures,
			BadItems: s.BadItems, Problem: problem(s.Problem)}
		if !s.LastComplete.IsZero() {
			scope.AgeSeconds = admin.SecondsOf(time.Since(s.LastComplete))
		}
		for _, b := range s.Bad {
			scope.Bad = append(scope.Bad, admin.BadItem{ID: b.ID, Why: b.Err.Error()})
		}
		out.Details = append(out.Details, scope)
	}
	for _, ig := range st.Ignored {
		of := admin.IgnoredWorkloads{Reason: string(ig.Reason), Count: ig.Count}
		for _, e := range ig.Examples {
			of.Examples = append(of.Examples, admin.IgnoredWorkload{ID: e.ID, Scope: e.Scope.String(), Why: e.Why})
		}
		out.Ignored = append(out.Ignored, of)
	}
	return out
}

// SyncProvider implements admin.Providers.
func (a *Agent) SyncProvider(ctx context.Context, r *admin.ProviderRequest) (*admin.ProviderDetail, error) {
	p, err := a.providers.find(r.Name)
	if err != nil {
		return nil, err
	}
	if err := p.current.Load().Sync(ctx); err != nil {
		return nil, err
	}
	return a.detail(p), nil
}

// TestProvider implements admin.Providers.
func (a *Agent) TestProvider(ctx context.Context, r *admin.ProviderRequest) (*admin.ProviderTest, error) {
	p, err := a.providers.find(r.Name)
	if err != nil {
		return nil, err
	}
	out := &admin.ProviderTest{Name: p.name(), Passed: true}
	for _, t := range poll.Test(ctx, *p.lister.Load(), a.providers.budgets.With(p.cfg.Load().Rate)) {
		out.Passed = out.Passed && t.Problem == nil
		out.Results = append(out.Results, admin.ProviderTestResult{Scope: t.Scope.String(), Workloads: t.Workloads, Calls: t.Calls,
			TookSeconds: admin.SecondsOf(t.Took), Missing: t.Missing, Problem: problem(t.Problem)})
	}
	return out, nil
}
