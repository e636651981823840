package gcp

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// instance is what is read of a Compute Engine instance (https://cloud.google.com/compute/docs/reference/rest/v1/instances).
type instance struct {
	Name              string
	Status            string
	Labels            map[string]string
	Tags              struct{ Items []string }
	NetworkInterfaces []struct {
		Network           string
		NetworkIP         string
		IPv6Address       string
		AccessConfigs     []struct{ NatIP string }
		IPv6AccessConfigs []struct{ ExternalIPv6 string }
	}
}

// instanceStates are the states of instances (https://cloud.google.com/compute/docs/instances/instance-lifecycle).
var instanceStates = map[string]poll.State{
	"PENDING":        poll.StatePending,
	"PROVISIONING":   poll.StatePending,
	"STAGING":        poll.StatePending,
	"REPAIRING":      poll.StatePending, // its host failed, and it is being started elsewhere
	"RUNNING":        poll.StateRunning,
	"PENDING_STOP":   poll.StateDraining, // graceful shutdown: it still works
	"STOPPING":       poll.StateDraining,
	"SUSPENDING":     poll.StateDraining,
	"DEPROVISIONING": poll.StateStopped,
	"STOPPED":        poll.StateStopped,
	"SUSPENDED":      poll.StateStopped,
	"TERMINATED":     poll.StateStopped,
}

// warning may take the place of what an answer lacks.
type warning struct{ Code, Message string }

// harmless are the warnings that say nothing of what is missing.
var harmless = []string{"", "NO_RESULTS_ON_PAGE", "DEPRECATED_RESOURCE_USED", "DEPRECATED_TYPE_USED", "EXPERIMENTAL_TYPE_USED"}

// aggregate is the answer of an aggregatedList: a part for each zone or region.
type aggregate[T any] struct {
	Items         map[string]T
	NextPageToken string
	Warning       warning
	Unreachables  []string
}

// gaps returns the places of which an answer lacks something: those with a warning, and those that it calls unreachable.
func (a *aggregate[T]) gaps(cfg *Config, warningOf func(T) warning) []string {
	var places []string
	if !slices.Contains(harmless, a.Warning.Code) {
		places = append(places, oneLine(a.Warning.Code+" "+a.Warning.Message))
	}
	for place, part := range a.Items {
		if !slices.Contains(harmless, warningOf(part).Code) {
			places = append(places, place)
		}
	}
	places = append(places, a.Unreachables...)
	places = slices.DeleteFunc(places, func(p string) bool {
		name := lastPart(p) // a place that nobody asked about may be missing
		return (regionForm.MatchString(name) || zoneForm.MatchString(name)) && !cfg.covers(name)
	})
	slices.Sort(places)
	return slices.CompactFunc(places, func(a, b string) bool { return lastPart(a) == lastPart(b) })
}

type zonePart struct {
	Instances []json.RawMessage
	Warning   warning
}

// labelFilter returns the filter for the configured labels
// (https://cloud.google.com/compute/docs/reference/rest/v1/instances/aggregatedList).
func (c *Config) labelFilter() string {
	var parts []string
	for _, k := range slices.Sorted(maps.Keys(c.Labels)) {
		if v := c.Labels[k]; v != "" {
			parts = append(parts, fmt.Sprintf("(labels.%s = %q)", k, v))
		} else {
			parts = append(parts, fmt.Sprintf("(labels.%s:*)", k))
		}
	}
	return strings.Join(parts, " ")
}

func (v *visit) listInstances(ctx context.Context) error {
	return poll.Pages(func(token string) (string, error) {
		q := asked("maxResults", "500", token) // the most: requests are what is counted
		if f := v.cfg.labelFilter(); f != "" {
			q.Set("filter", f)
		}
		var page aggregate[zonePart]
		if err := v.call(ctx, &listInstances, "/compute/v1/projects/"+v.project+"/aggregated/instances", q, &page); err != nil {
			return "", err
		}
		v.miss("instances", page.gaps(v.cfg, func(p zonePart) warning { return p.Warning }))
		for _, place := range slices.Sorted(maps.Keys(page.Items)) {
			zone := lastPart(place)
			if !v.cfg.covers(zone) {
				continue
			}
			for _, raw := range page.Items[place].Instances {
				if err := v.addInstance(zone, raw); err != nil {
					return "", err
				}
			}
		}
		return page.NextPageToken, nil
	})
}

func (v *visit) addInstance(zone string, raw []byte) error {
	var i instance
	err := json.Unmarshal(raw, &i) // reads on after a field of the wrong type, so that the name is known
	id := fmt.Sprintf("//compute.googleapis.com/projects/%s/zones/%s/instances/%s", v.project, zone, i.Name)
	if err != nil {
		return v.Spoilt(id, err)
	}
	r, all, err := instanceRecord(&i)
	switch {
	case err != nil:
		return v.Spoilt(id, err)
	case v.tag != "" && !slices.Contains(i.Tags.Items, v.tag):
		return nil
	}
	addrs := all.InOrder(v.cfg.AddressType)
	if v.only {
		addrs = all.Of(v.cfg.AddressType)
	}
	switch {
	case len(addrs) == 0 && v.only:
		return nil
	case len(addrs) == 0 && r.State == poll.StateRunning:
		return v.Spoilt(id, errors.New("it runs and has no address"))
	case len(addrs) == 0:
		return nil // not yet, or no longer
	}
	r.ID, r.Account, r.Region, r.Zone, r.Kind, r.Addresses = id, v.project, regionOf(zone), zone, KindInstances, addrs
	return v.add(r)
}

// instanceRecord returns what an instance itself says, and its addresses.
func instanceRecord(i *instance) (r poll.Record, a poll.AddressSet, err error) {
	state, known := instanceStates[i.Status]
	switch {
	case i.Name == "":
		return r, a, errors.New("it has no name")
	case !known:
		return r, a, fmt.Errorf("status %.64q is unknown", i.Status)
	}
	r = poll.Record{State: state, Labels: i.Labels}
	var errs []error
	for n, nic := range i.NetworkInterfaces {
		if n == 0 {
			r.Network = resource(nic.Network)
		}
		errs = append(errs, a.Private.Add(nic.NetworkIP), a.V6.Add(nic.IPv6Address))
		for _, c := range nic.AccessConfigs {
			errs = append(errs, a.Public.Add(c.NatIP))
		}
		for _, c := range nic.IPv6AccessConfigs {
			errs = append(errs, a.V6.Add(c.ExternalIPv6))
		}
	}
	return r, a, errors.Join(errs...)
}
