package gcp

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// group is what is read of a managed instance group (https://cloud.google.com/compute/docs/reference/rest/v1/instanceGroupManagers).
type group struct {
	Name         string
	Zone, Region string // one of them, as a URL
	NamedPorts   []struct {
		Name string
		Port uint16
	}
	AutoHealingPolicies []struct{ HealthCheck string }
	Status              struct{ IsStable bool }
}

// place returns where the group is: "zones/europe-west1-b" or "regions/europe-west1".
func (g *group) place() string {
	if g.Region != "" {
		return "regions/" + lastPart(g.Region)
	}
	return "zones/" + lastPart(g.Zone)
}

type groupPart struct {
	InstanceGroupManagers []group
	Warning               warning
}

// member is an instance as its group sees it.
type member struct {
	Instance       string // URL
	CurrentAction  string
	InstanceHealth []struct{ DetailedHealthState string }
}

// memberHealth are the states of autohealing checks.
var memberHealth = map[string]federation.Health{"HEALTHY": federation.HealthPassing, "DRAINING": federation.HealthDraining,
	"UNHEALTHY": federation.HealthFailing, "TIMEOUT": federation.HealthFailing}

// leaving are the actions of a group that take an instance out of service. The instance itself says so only when it has begun.
var leaving = []string{"DELETING", "RECREATING", "RESTARTING", "STOPPING", "SUSPENDING"}

// mergeGroups takes from the managed instance groups what they know of the instances found. When a group cannot be asked the listing is
// partial. Where only instances of certain groups are wanted it fails.
func (v *visit) mergeGroups(ctx context.Context) error {
	members := map[string]bool{}
	err := v.eachGroup(ctx, func(g *group) error {
		path := fmt.Sprintf("/compute/v1/projects/%s/%s/instanceGroupManagers/%s/listManagedInstances", v.project, g.place(), g.Name)
		return poll.Pages(func(token string) (string, error) {
			var page struct {
				ManagedInstances []member
				NextPageToken    string
			}
			err := v.call(ctx, &listManaged, path, asked("maxResults", "500", token), &page)
			if gone(err) {
				return "", nil
			}
			for n := range page.ManagedInstances {
				m := &page.ManagedInstances[n]
				members["//compute.googleapis.com/"+resource(m.Instance)] = true
				v.mergeMember(g, m)
			}
			return page.NextPageToken, err
		})
	})
	switch {
	case err != nil && (poll.Halted(err) || len(v.cfg.Groups) > 0):
		return err
	case err != nil:
		v.Missing(fmt.Errorf("ask the managed instance groups: %w", err))
	}
	if len(v.cfg.Groups) > 0 {
		v.Delete(func(r poll.Record) bool { return !members[r.ID] })
	}
	return nil
}

// eachGroup calls see for the groups that may have something to say of an instance found.
func (v *visit) eachGroup(ctx context.Context, see func(*group) error) error {
	with := map[string]bool{} // places with instances
	for _, r := range v.Found {
		with["zones/"+r.Zone], with["regions/"+r.Region] = true, true
	}
	var groups []group
	err := poll.Pages(func(token string) (string, error) {
		var page aggregate[groupPart]
		path := "/compute/v1/projects/" + v.project + "/aggregated/instanceGroupManagers"
		if err := v.call(ctx, &listGroups, path, asked("maxResults", "500", token), &page); err != nil {
			return "", err
		}
		v.miss("managed instance groups", page.gaps(v.cfg, func(p groupPart) warning { return p.Warning }))
		for _, place := range slices.Sorted(maps.Keys(page.Items)) {
			groups = append(groups, page.Items[place].InstanceGroupManagers...)
		}
		return page.NextPageToken, nil
	})
	if err != nil {
		return err
	}
	for n := range groups {
		g := &groups[n]
		wanted := len(g.AutoHealingPolicies) > 0 || len(g.NamedPorts) > 0 || !g.Status.IsStable
		if len(v.cfg.Groups) > 0 {
			wanted = slices.Contains(v.cfg.Groups, g.Name)
		}
		if !wanted || !with[g.place()] || !nameForm.MatchString(g.Name) { // the name is made part of a path
			continue
		}
		if err := see(g); err != nil {
			return fmt.Errorf("group %q: %w", g.Name, err)
		}
	}
	return nil
}

func (v *visit) mergeMember(g *group, m *member) {
	r := v.Get("//compute.googleapis.com/" + resource(m.Instance))
	if r == nil {
		return
	}
	if r.State == poll.StateRunning && slices.Contains(leaving, m.CurrentAction) {
		r.State = poll.StateDraining
	}
	for i, h := range m.InstanceHealth {
		if i == 0 {
			r.Health = memberHealth[h.DetailedHealthState]
		}
		r.Health = poll.Worse(r.Health, memberHealth[h.DetailedHealthState])
	}
	if r.Ports == nil {
		for _, p := range g.NamedPorts {
			if p.Port != 0 {
				r.Ports = append(r.Ports, poll.Port{Name: p.Name, Number: p.Port})
			}
		}
	}
}
