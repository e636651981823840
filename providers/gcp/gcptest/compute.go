package gcptest

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

const computeURL = "https://www.googleapis.com/compute/v1/"

// zones are those that an aggregated list names although there is nothing in them.
var zones = []string{"europe-west1-b", "europe-west1-c", "us-east1-b"}

func regionOf(zone string) string { return zone[:strings.LastIndexByte(zone, '-')] }

// filterForm is a part of a filter for labels.
var filterForm = regexp.MustCompile(`^\(labels\.([^ :=()"]+)(?::\*| = "([^"]*)")\)( |$)`)

// pick returns a function that says whether labels pass a filter.
func pick(filter string) (func(map[string]string) bool, *problem) {
	want := map[string]string{}
	for rest := filter; rest != ""; {
		m := filterForm.FindStringSubmatch(rest)
		if m == nil {
			return nil, invalid(fmt.Sprintf("Invalid value for field 'filter': '%s'. Invalid list filter expression.", filter))
		}
		want[m[1]] = m[2]
		rest = rest[len(m[0]):]
	}
	return func(labels map[string]string) bool {
		for k, v := range want {
			if got, has := labels[k]; !has || v != "" && got != v {
				return false
			}
		}
		return true
	}, nil
}

func (s *Server) instances(r *Request) (object, *problem) {
	passes, p := pick(r.Query.Get("filter"))
	if p != nil {
		return nil, p
	}
	var all []*Instance
	for n := range s.inv.Instances {
		if i := &s.inv.Instances[n]; i.project() == r.Project && passes(i.Labels) {
			all = append(all, i)
		}
	}
	slices.SortStableFunc(all, func(a, b *Instance) int { return cmp.Compare(a.zone(), b.zone()) })
	byZone := map[string][]object{}
	for _, i := range page(s, r, all) {
		byZone["zones/"+i.zone()] = append(byZone["zones/"+i.zone()], i.json())
	}
	return s.aggregate(r, "instance", "instances", "zones/", byZone), nil
}

// aggregate returns the answer of an aggregatedList.
func (s *Server) aggregate(r *Request, kind, field, scope string, byPlace map[string][]object) object {
	items := object{}
	for _, z := range zones {
		items["zones/"+z] = nil
	}
	for place := range byPlace {
		items[place] = nil
	}
	missing := r.missing()
	for place := range items {
		name := place[strings.LastIndexByte(place, '/')+1:]
		switch {
		case byPlace[place] != nil:
			items[place] = object{field: byPlace[place]}
		case name == missing:
			items[place] = warning(place, "UNREACHABLE", "The scope '%s' is not reachable.")
		default:
			items[place] = warning(place, "NO_RESULTS_ON_PAGE", "There are no results for scope '%s' on this page.")
		}
	}
	answer := object{"kind": "compute#" + kind + "AggregatedList", "id": "projects/" + r.Project + "/aggregated/" + field, "items": items,
		"selfLink": computeURL + "projects/" + r.Project + "/aggregated/" + field}
	if missing != "" {
		answer["unreachables"] = []string{computeURL + "projects/" + r.Project + "/" + scope + missing}
	}
	return answer
}

// warning is what stands in the place of the list of a scope.
func warning(place, code, message string) object {
	return object{"warning": object{"code": code, "message": fmt.Sprintf(message, place), "data": []object{{"key": "scope", "value": place}}}}
}

func (i *Instance) json() object {
	base := computeURL + "projects/" + i.project()
	nic := func(n int, ip string) object {
		network := cmp.Or(i.Network, "projects/"+i.project()+"/global/networks/default")
		return object{"kind": "compute#networkInterface", "name": fmt.Sprint("nic", n), "network": computeURL + network, "networkIP": ip,
			"subnetwork": base + "/regions/" + regionOf(i.zone()) + "/subnetworks/default", "stackType": "IPV4_ONLY"}
	}
	first := nic(0, i.IP)
	if i.Public != "" {
		first["accessConfigs"] = []object{{"kind": "compute#accessConfig", "type": "ONE_TO_ONE_NAT", "name": "external-nat", "natIP": i.Public}}
	}
	if i.IPv6 != "" {
		first["ipv6Address"], first["ipv6AccessType"], first["stackType"] = i.IPv6, "INTERNAL", "IPV4_IPV6"
	}
	if i.PublicIPv6 != "" {
		first["ipv6AccessConfigs"] = []object{{"kind": "compute#accessConfig", "type": "DIRECT_IPV6", "externalIpv6": i.PublicIPv6,
			"externalIpv6PrefixLength": 96}}
	}
	nics := []object{first}
	for n, ip := range i.Secondary {
		nics = append(nics, nic(n+1, ip))
	}
	out := object{"kind": "compute#instance", "id": "4815162342", "name": i.Name, "status": cmp.Or(i.Status, "RUNNING"),
		"zone": base + "/zones/" + i.zone(), "selfLink": base + "/zones/" + i.zone() + "/instances/" + i.Name, "networkInterfaces": nics,
		"creationTimestamp": "2026-01-02T03:04:05.678-07:00", "machineType": base + "/zones/" + i.zone() + "/machineTypes/e2-medium",
		"metadata": object{"kind": "compute#metadata", "items": []object{{"key": "startup-script", "value": strings.Repeat("#", 1000)}}}}
	if i.Labels != nil {
		out["labels"] = i.Labels
	}
	if i.Tags != nil {
		out["tags"] = object{"items": i.Tags}
	}
	if i.Spoilt {
		out["labels"] = []int{1}
	}
	return out
}

func (s *Server) groups(r *Request) (object, *problem) {
	var all []*Group
	for n := range s.inv.Groups {
		if g := &s.inv.Groups[n]; g.project() == r.Project {
			all = append(all, g)
		}
	}
	byPlace := map[string][]object{}
	for _, g := range page(s, r, all) {
		byPlace[g.place()] = append(byPlace[g.place()], g.json())
	}
	return s.aggregate(r, "instanceGroupManager", "instanceGroupManagers", "zones/", byPlace), nil
}

func (g *Group) place() string {
	if g.Region != "" {
		return "regions/" + g.Region
	}
	return "zones/" + cmp.Or(g.Zone, Zone)
}

func (g *Group) json() object {
	base := computeURL + "projects/" + g.project() + "/"
	out := object{"kind": "compute#instanceGroupManager", "name": g.Name, "baseInstanceName": g.Name, "targetSize": len(g.Members),
		"selfLink": base + g.place() + "/instanceGroupManagers/" + g.Name, "instanceGroup": base + g.place() + "/instanceGroups/" + g.Name,
		"status": object{"isStable": !g.Unstable}}
	if g.Region != "" {
		out["region"] = base + g.place()
	} else {
		out["zone"] = base + g.place()
	}
	if g.HealthCheck {
		out["autoHealingPolicies"] = []object{{"healthCheck": base + "global/healthChecks/" + g.Name, "initialDelaySec": 300}}
	}
	var ports []object
	for _, name := range slices.Sorted(maps.Keys(g.Ports)) {
		ports = append(ports, object{"name": name, "port": g.Ports[name]})
	}
	if ports != nil {
		out["namedPorts"] = ports
	}
	return out
}

func (s *Server) members(r *Request) (object, *problem) {
	place := "zones/" + r.path("zone")
	if region := r.path("region"); region != "" {
		place = "regions/" + region
	}
	n := slices.IndexFunc(s.inv.Groups, func(g Group) bool {
		return g.project() == r.Project && g.place() == place && g.Name == r.path("group")
	})
	if n < 0 {
		return nil, notFound(r)
	}
	g := &s.inv.Groups[n]
	out := []object{}
	for _, m := range page(s, r, g.Members) {
		instance := computeURL + "projects/" + r.Project + "/zones/" + cmp.Or(m.Zone, g.Zone, Zone) + "/instances/" + m.Name
		o := object{"instance": instance, "name": m.Name, "id": "4815162342", "instanceStatus": "RUNNING",
			"currentAction": cmp.Or(m.Action, "NONE")}
		if m.Health != "" {
			o["instanceHealth"] = []object{{"healthCheck": computeURL + "projects/" + r.Project + "/global/healthChecks/" + g.Name,
				"detailedHealthState": m.Health}}
		}
		out = append(out, o)
	}
	return object{"managedInstances": out}, nil
}
