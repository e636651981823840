package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/federation/registry"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// ListServices implements admin.Services.
func (a *Agent) ListServices(context.Context, *admin.ListServicesRequest) (*admin.ListServicesResponse, error) {
	view := a.plane.View()
	out := &admin.ListServicesResponse{Region: view.Region}
	for _, name := range serviceNames(view) {
		out.Services = append(out.Services, a.serviceStatus(view, name))
	}
	return out, nil
}

// serviceNames returns every service that view knows, local or imported, in order.
func serviceNames(view *federation.View) []federation.ServiceName {
	names := map[federation.ServiceName]bool{}
	for _, n := range view.Local.Names() {
		names[n] = true
	}
	for _, imp := range view.Imports {
		for n := range imp.Services {
			names[n] = true
		}
	}
	return slices.SortedFunc(maps.Keys(names), federation.ServiceName.Compare)
}

func (a *Agent) serviceStatus(view *federation.View, name federation.ServiceName) admin.ServiceStatus {
	out := admin.ServiceStatus{Name: name}
	if s := view.Local.Service(name); s != nil {
		out.Protocol = s.Protocol
		healthy, total := s.Lane.Sum()
		out.Homes = append(out.Homes, admin.ServiceHome{Region: view.Region, Local: true, Healthy: healthy, Total: total})
	}
	for _, region := range slices.Sorted(maps.Keys(view.Imports)) {
		imp := view.Imports[region]
		s := imp.Service(name)
		if s == nil {
			continue
		}
		out.Protocol = cmp.Or(out.Protocol, s.Protocol)
		healthy, total := s.Lane.Sum()
		out.Homes = append(out.Homes, admin.ServiceHome{Region: region, Healthy: healthy, Total: total, Freshness: imp.Freshness,
			AgeSeconds: admin.SecondsOf(a.importAge(region, imp))})
	}
	for _, region := range slices.Sorted(maps.Keys(view.Peers)) {
		if _, shown := policy.Exported(view.Exports, name, region); shown && view.Local.Service(name) != nil {
			out.ExportedTo = append(out.ExportedTo, region)
		}
	}
	out.Order = a.order(name)
	return out
}

// importAge is how long ago the peer last confirmed that imp is all it has.
func (a *Agent) importAge(region federation.Region, imp *federation.Import) time.Duration {
	asOf := imp.AsOf
	if st, ok := a.peers.Show(region); ok == nil && st.Exchange.Import.AsOf.After(asOf) {
		asOf = st.Exchange.Import.AsOf // the import is republished when it changes, not with every heartbeat
	}
	return max(0, time.Since(asOf))
}

// order is where a new connection to name goes, best first: as the data path sees it, whoever calls.
func (a *Agent) order(name federation.ServiceName) []admin.ServiceTarget {
	kept := slices.DeleteFunc(a.table.Load().Consider(federation.ServiceRef{Service: name}), func(c route.Considered) bool { return !c.Kept })
	slices.SortStableFunc(kept, func(x, y route.Considered) int {
		return cmp.Or(cmp.Compare(x.Rank, y.Rank), cmp.Compare(a.distance(x), a.distance(y)))
	})
	var out []admin.ServiceTarget
	chosen := false
	for _, c := range kept {
		t := admin.ServiceTarget{Region: c.Region, Healthy: c.Healthy, Total: c.Total}
		switch {
		case c.Healthy == 0:
			t.Reason = "no healthy instance"
		case !c.Local && !a.tunnel.Path(c.Region).Up:
			t.Reason = "path down"
		default:
			if c.Freshness != federation.FreshnessLive {
				t.Reason = c.Freshness.String()
			}
			t.Chosen = !chosen
			chosen = true
		}
		out = append(out, t)
	}
	return out
}

// distance is the measured round trip to a candidate; this region is nearest.
func (a *Agent) distance(c route.Considered) time.Duration {
	if c.Local {
		return -1
	}
	return a.tunnel.Path(c.Region).RTT
}

// ShowService implements admin.Services.
func (a *Agent) ShowService(_ context.Context, r *admin.ShowServiceRequest) (*admin.ServiceDetail, error) {
	view := a.plane.View()
	local := view.Local.Service(r.Service)
	out := &admin.ServiceDetail{ServiceStatus: a.serviceStatus(view, r.Service)}
	resources := a.resourcesNaming(r.Service)
	if local == nil && len(out.Homes) == 0 && len(resources) == 0 {
		return nil, &federation.Diagnostic{Code: "TW-8903", What: "no service is called " + r.Service.String(),
			Why: "no source of this region has it and no peer shows it", Fix: "see what there is: tradewind services list", Err: admin.ErrNotFound}
	}
	out.Resources = resources
	if local != nil {
		out.Identity = a.table.Load().Identity(r.Service).String()
	}
	for _, i := range a.reg.Instances() {
		if i.Instance.Service == r.Service {
			out.Instances = append(out.Instances, instanceStatus(i))
		}
	}
	resolver := federation.Resolver{}
	if own, ok := view.Resolvers[r.Service]; ok {
		resolver = own
	}
	resolver = resolver.Defaulted()
	out.Resolver = &resolver
	for _, region := range slices.Sorted(maps.Keys(view.Imports)) {
		if s := view.Imports[region].Service(r.Service); s != nil {
			out.Imports = append(out.Imports, importedDetail(region, s))
		}
	}
	return out, nil
}

func importedDetail(region federation.Region, s *federation.ImportedService) admin.ImportedDetail {
	d := admin.ImportedDetail{Region: region, Identity: s.Identity.String(), Detail: s.Detail}
	for i, slot := range s.Slots {
		h := s.Lane.Load(i)
		d.Slots = append(d.Slots, admin.Slot{Key: slot.Key, Zone: s.ZoneOf(i), Weight: slot.Weight, Healthy: h.Healthy, Total: h.Total})
	}
	return d
}

// resourcesNaming returns the resources that say something about service.
func (a *Agent) resourcesNaming(service federation.ServiceName) []federation.Resource {
	var out []federation.Resource
	for _, r := range a.plane.List() {
		named := r.Name == service.String()
		switch spec := r.Spec.(type) {
		case *federation.Intention:
			p, err := federation.ParsePattern(spec.Destination)
			p.Region = "*"
			named = err == nil && p.Matches("", "", service)
		case *federation.Upstream:
			named = spec.Service.Service == service
		}
		if named {
			out = append(out, r)
		}
	}
	return out
}

// ListSources implements admin.Services.
func (a *Agent) ListSources(context.Context, *admin.ListSourcesRequest) (*admin.ListSourcesResponse, error) {
	return &admin.ListSourcesResponse{Sources: a.sources()}, nil
}

// sourceAPI is the name of the source of registrations.
const sourceAPI federation.SourceName = "api"

func (a *Agent) sources() []admin.SourceStatus {
	var out []admin.SourceStatus
	for _, s := range a.reg.Sources() {
		if s.Name == sourceAPI || s.Name == registry.Resources {
			s.Age = 0
		}
		out = append(out, admin.SourceStatus{Name: s.Name, Instances: s.Instances, LastComplete: admin.At(s.LastComplete),
			AgeSeconds: admin.SecondsOf(s.Age.D()), Error: s.Err, Code: s.Code, Skipped: s.Skipped, Conflicts: s.Conflicts})
	}
	return out
}

// ListInstances implements admin.Instances.
func (a *Agent) ListInstances(_ context.Context, r *admin.ListInstancesRequest) (*admin.ListInstancesResponse, error) {
	out := &admin.ListInstancesResponse{}
	for _, i := range a.reg.Instances() {
		if r.Service.IsZero() || i.Instance.Service == r.Service {
			out.Instances = append(out.Instances, instanceStatus(i))
		}
	}
	return out, nil
}

func instanceStatus(i registry.InstanceStatus) admin.InstanceStatus {
	out := admin.InstanceStatus{Instance: i.Instance, Source: i.Source, Also: i.Also, Conflict: i.Conflict, Reason: i.Reason,
		Since: admin.At(i.Since), Waiting: i.Waiting, CheckStatus: i.Checks}
	out.Health = i.Health
	for n := range out.CheckStatus { // the list is the caller's own
		c := &out.CheckStatus[n]
		c.Since, c.Last = c.Since.UTC().Truncate(time.Millisecond), c.Last.UTC().Truncate(time.Millisecond) // as admin.Time is
	}
	return out
}

// RegisterInstance implements admin.Instances.
func (a *Agent) RegisterInstance(ctx context.Context, r *admin.RegisterInstanceRequest) (*admin.RegisterInstanceResponse, error) {
	in, replaced, err := a.api.Register(ctx, r.Instance, registry.Terms{Token: r.Token, DeregisterAfter: r.DeregisterAfter.D()})
	if err != nil {
		return nil, err
	}
	out := &admin.RegisterInstanceResponse{Instance: in, Replaced: replaced}
	if i, ok := a.reg.Instance(in.Service, in.ID); ok {
		out.Also = slices.DeleteFunc(append(i.Also, i.Source), func(s federation.SourceName) bool { return s == sourceAPI })
	}
	return out, nil
}

// DeregisterInstance implements admin.Instances.
func (a *Agent) DeregisterInstance(ctx context.Context, r *admin.InstanceRequest) (*admin.DeregisterInstanceResponse, error) {
	return &admin.DeregisterInstanceResponse{}, a.api.Deregister(ctx, registry.Ref{Service: r.Service, ID: r.ID, Token: r.Token, Force: r.Force})
}

// HeartbeatInstance implements admin.Instances.
func (a *Agent) HeartbeatInstance(ctx context.Context, r *admin.InstanceRequest) (*admin.HeartbeatInstanceResponse, error) {
	ref := registry.Ref{Service: r.Service, ID: r.ID, Token: r.Token, Force: r.Force}
	if err := a.api.Heartbeat(ctx, ref, cmp.Or(r.Health, federation.HealthPassing), r.Output); err != nil {
		return nil, err
	}
	out := &admin.HeartbeatInstanceResponse{}
	if ttl := a.api.Lasts(r.Service, r.ID); ttl > 0 {
		out.Expires = admin.At(time.Now().Add(ttl))
	}
	return out, nil
}
