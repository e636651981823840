package agent

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/controlplane"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// FailoverShow implements admin.Failover.
func (a *Agent) FailoverShow(_ context.Context, r *admin.FailoverShowRequest) (*admin.FailoverShowResponse, error) {
	out := &admin.FailoverShowResponse{Region: a.opts.Config.Region, Drains: a.drains()}
	standings := a.mesh.Standings(r.Service)
	if !r.Service.IsZero() && len(standings) == 0 {
		return nil, &federation.Diagnostic{Code: "TW-8903", What: fmt.Sprintf("there is no service %q", r.Service),
			Why: "neither this region nor a peer shows it", Fix: "see what there is: tradewind services list", Err: admin.ErrNotFound}
	}
	view, failovers := a.plane.View(), a.mesh.Failovers()
	for _, s := range standings {
		service := admin.ServiceFailover{Service: s.Service, Protocol: s.Protocol, Serving: s.Serving, Pinned: s.Pinned}
		for _, p := range s.Regions {
			reason := p.Reason
			if p.Why != "" {
				reason = p.Why
			}
			region := admin.FailoverRegion{Region: p.Region, Local: p.Local, Serves: p.Serves, Reason: reason, Healthy: p.Healthy, Total: p.Total,
				Freshness: p.Freshness, LastSecond: p.LastSecond, PerSecond: p.PerSecond, Open: p.Open}
			if imported := view.Imports[p.Region]; imported != nil {
				region.AgeSeconds = admin.SecondsOf(max(0, time.Since(imported.AsOf)))
			}
			service.Regions = append(service.Regions, region)
		}
		if i := slices.IndexFunc(failovers, func(f mesh.Failover) bool { return f.Service == s.Service }); i >= 0 {
			f := failovers[i]
			service.Failover = &admin.FailoverStatus{Service: f.Service, From: f.From, To: f.To, Since: admin.At(f.Since)}
		}
		out.Services = append(out.Services, service)
	}
	return out, nil
}

// FailoverTest implements admin.Failover.
func (a *Agent) FailoverTest(_ context.Context, r *admin.FailoverTestRequest) (*admin.FailoverTestResponse, error) {
	region, err := a.drainable(r.Region)
	if err != nil {
		return nil, err
	}
	out := &admin.FailoverTestResponse{Region: region}
	for _, s := range a.mesh.Standings(federation.ServiceName{}) {
		i := slices.IndexFunc(s.Regions, func(p mesh.Place) bool { return p.Region == region })
		pinned := slices.Contains(s.Pinned, region)
		if i < 0 || s.Serving != region && !pinned && s.Regions[i].Open == 0 {
			continue
		}
		move := admin.FailoverMove{Service: s.Service, From: region, To: a.mesh.Without(s.Service, region), PerSecond: s.Regions[i].PerSecond,
			Open: s.Regions[i].Open}
		switch {
		case pinned:
			move.To, move.Reason = "", "an upstream names the region, so its callers go nowhere else"
		case move.To == "":
			move.Reason = "no other region could serve it now"
		}
		if move.To == "" {
			out.Unserved++
		}
		out.Moves = append(out.Moves, move)
	}
	return out, nil
}

// drainable returns the region that is meant, if it is one whose calls could go elsewhere.
func (a *Agent) drainable(region federation.Region) (federation.Region, error) {
	own, view := a.opts.Config.Region, a.plane.View()
	if region == federation.Local {
		region = own
	}
	if _, peer := view.Peers[region]; !peer && region != own {
		return "", &federation.Diagnostic{Code: federation.CodeDrainRegion, What: fmt.Sprintf("region %q is not known", region),
			Why: "it is neither this region nor a peer", Fix: "tradewind peer list", Err: admin.ErrNotFound}
	}
	return region, nil
}

// FailoverDrain implements admin.Failover.
func (a *Agent) FailoverDrain(ctx context.Context, r *admin.FailoverDrainRequest) (*admin.DrainStatus, error) {
	region, err := a.drainable(r.Region)
	if err != nil {
		return nil, err
	}
	if r.For < 0 || r.ResetAfter < 0 {
		return nil, &federation.Diagnostic{Code: controlplane.CodeInvalid, What: "the drain is not valid", Why: "a duration is negative", Err: admin.ErrInvalid}
	}
	now := time.Now().UTC()
	d := &federation.Drain{Since: now, By: admin.CallerOf(ctx)}
	if old, drained := a.plane.View().Drains[region]; drained && old.Share(now) == 0 {
		d.Since = old.Since
	}
	if r.For > 0 {
		d.Until = now.Add(r.For.D())
	}
	if r.ResetAfter > 0 {
		d.Reset = now.Add(r.ResetAfter.D())
	}
	return a.putDrain(ctx, region, d, r.Owner, r.Force)
}

// FailoverReturn implements admin.Failover.
func (a *Agent) FailoverReturn(ctx context.Context, r *admin.FailoverReturnRequest) (*admin.DrainStatus, error) {
	region, err := a.drainable(r.Region)
	if err != nil {
		return nil, err
	}
	now := time.Now().UTC()
	d, drained := a.plane.View().Drains[region]
	switch {
	case !drained:
		return nil, &federation.Diagnostic{Code: federation.CodeDrainNone, What: fmt.Sprintf("region %q is not drained", region),
			Why: "no drain of it is in force in this region", Fix: "tradewind failover show", Err: admin.ErrNotFound}
	case d.Share(now) > 0: // it is on its way
		return a.drainOf(region)
	}
	d.Until = now
	return a.putDrain(ctx, region, &d, r.Owner, r.Force)
}

func (a *Agent) putDrain(ctx context.Context, region federation.Region, d *federation.Drain, owner string, force bool) (*admin.DrainStatus, error) {
	put := federation.Resource{Key: drainKey(region), Spec: d}
	if _, err := a.ApplyResources(ctx, &admin.ChangeRequest{Owner: cmp.Or(owner, "api"), Put: []federation.Resource{put}, Force: force}); err != nil {
		return nil, err
	}
	return a.drainOf(region)
}

func drainKey(region federation.Region) federation.Key {
	return federation.Key{Kind: federation.KindDrain, Name: string(region)}
}

func (a *Agent) drainOf(region federation.Region) (*admin.DrainStatus, error) {
	for _, d := range a.drains() {
		if d.Region == region {
			return &d, nil
		}
	}
	return nil, fmt.Errorf("the drain of %s was taken away at the same moment", region)
}

// drains are the drains in the region's store.
func (a *Agent) drains() []admin.DrainStatus {
	var list []admin.DrainStatus
	now := time.Now()
	for _, r := range a.plane.List(federation.KindDrain) {
		if d, ok := r.Spec.(*federation.Drain); ok {
			list = append(list, admin.DrainStatus{Region: d.Region, Owner: r.Owner, By: d.By, Since: admin.At(d.Since), Until: admin.At(d.Until),
				AgeSeconds: admin.SecondsOf(max(0, now.Sub(d.Since))), ResetAt: admin.At(d.Reset), Share: d.Share(now)})
		}
	}
	return list
}

// clearDrains deletes the drains of regions that have their whole share again, until ctx ends. Nothing depends on when.
func (a *Agent) clearDrains(ctx context.Context) error {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		for _, d := range a.drains() {
			if d.Share < 1 {
				continue
			}
			_, err := a.plane.Apply(ctx, controlplane.Change{Owner: d.Owner, Delete: []federation.Key{drainKey(d.Region)}})
			if err != nil {
				a.log.Warn("delete the drain of a region that is back", "drained", string(d.Region), "error", err)
				continue
			}
			a.log.Info("region is back from its drain", "drained", string(d.Region))
		}
	}
}
