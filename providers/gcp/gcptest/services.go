package gcptest

import (
	"cmp"
	"encoding/base64"
	"slices"
)

func (s *Server) services(r *Request) (object, *problem) {
	var all []*Service
	for n := range s.inv.Services {
		v := &s.inv.Services[n]
		if cmp.Or(v.Project, Project) == r.Project && (r.path("location") == "-" || r.path("location") == cmp.Or(v.Region, Region)) {
			all = append(all, v)
		}
	}
	out := []object{}
	for _, v := range page(s, r, all) {
		out = append(out, v.json())
	}
	answer := object{"services": out}
	if zone := r.missing(); zone != "" {
		answer["unreachable"] = []string{regionOf(zone)}
	}
	return answer, nil
}

func (v *Service) json() object {
	ready := cmp.Or(v.Ready, "CONDITION_SUCCEEDED")
	container := object{"image": "example.com/web:1"}
	if v.PortName != "" {
		container["ports"] = []object{{"name": v.PortName, "containerPort": 8080}}
	}
	out := object{"name": "projects/" + cmp.Or(v.Project, Project) + "/locations/" + cmp.Or(v.Region, Region) + "/services/" + v.Name,
		"uid": "8a3a0b3c-0000-4000-8000-000000000001", "generation": "3", "uri": v.URL, "ingress": "INGRESS_TRAFFIC_ALL",
		"template": object{"containers": []object{container}}, "terminalCondition": object{"type": "Ready", "state": ready},
		"conditions": []object{{"type": "RoutesReady", "state": cmp.Or(v.Routes, ready)}, {"type": "ConfigurationsReady", "state": ready}}}
	if v.Labels != nil {
		out["labels"] = v.Labels
	}
	if v.Deleted {
		out["deleteTime"] = "2026-01-02T03:04:05.678901Z"
	}
	return out
}

// entriesOf returns the services of Service Directory in the location of r.
func (s *Server) entriesOf(r *Request) (all []*Entry) {
	for n := range s.inv.Entries {
		if e := &s.inv.Entries[n]; cmp.Or(e.Project, Project) == r.Project && cmp.Or(e.Region, Region) == r.path("location") {
			all = append(all, e)
		}
	}
	return all
}

func directoryName(r *Request) string {
	return "projects/" + r.Project + "/locations/" + r.path("location") + "/namespaces"
}

func (s *Server) namespaces(r *Request) (object, *problem) {
	var names []string
	for _, e := range s.entriesOf(r) {
		if !slices.Contains(names, e.Namespace) {
			names = append(names, e.Namespace)
		}
	}
	out := []object{}
	for _, n := range page(s, r, names) {
		out = append(out, object{"name": directoryName(r) + "/" + n, "uid": "8a3a0b3c-0000-4000-8000-000000000002"})
	}
	return object{"namespaces": out}, nil
}

func (s *Server) entries(r *Request) (object, *problem) {
	all := slices.DeleteFunc(s.entriesOf(r), func(e *Entry) bool { return e.Namespace != r.path("namespace") })
	if len(all) == 0 && s.Pages == nil {
		return nil, notFound(r)
	}
	out := []object{}
	for _, e := range page(s, r, all) {
		o := object{"name": directoryName(r) + "/" + e.Namespace + "/services/" + e.Name, "uid": "8a3a0b3c-0000-4000-8000-000000000003"}
		if e.Annotations != nil {
			o["annotations"] = e.Annotations
		}
		out = append(out, o)
	}
	return object{"services": out}, nil
}

func (s *Server) endpoints(r *Request) (object, *problem) {
	all := s.entriesOf(r)
	n := slices.IndexFunc(all, func(e *Entry) bool { return e.Namespace == r.path("namespace") && e.Name == r.path("service") })
	if n < 0 || all[n].Gone {
		return nil, notFound(r)
	}
	out := []object{}
	for _, e := range page(s, r, all[n].Endpoints) {
		o := object{"name": directoryName(r) + "/" + all[n].Namespace + "/services/" + all[n].Name + "/endpoints/" + e.Name, "address": e.Address,
			"port": e.Port, "uid": "8a3a0b3c-0000-4000-8000-000000000004"}
		if e.Annotations != nil {
			o["annotations"] = e.Annotations
		}
		if e.Network != "" {
			o["network"] = e.Network
		}
		out = append(out, o)
	}
	return object{"endpoints": out}, nil
}

func (s *Server) clusters(r *Request) (object, *problem) {
	out := []object{}
	for _, c := range s.inv.Clusters {
		location := cmp.Or(c.Location, Region)
		if cmp.Or(c.Project, Project) != r.Project || r.path("location") != "-" && r.path("location") != location {
			continue
		}
		o := object{"name": c.Name, "location": location, "status": cmp.Or(c.Status, "RUNNING"), "currentMasterVersion": "1.33.2-gke.1"}
		if c.Endpoint != "" {
			o["endpoint"] = c.Endpoint
			o["masterAuth"] = object{"clusterCaCertificate": base64.StdEncoding.EncodeToString([]byte(c.CA))}
		}
		if c.DNS != "" {
			o["controlPlaneEndpointsConfig"] = object{"dnsEndpointConfig": object{"endpoint": c.DNS, "allowExternalTraffic": true}}
		}
		out = append(out, o)
	}
	answer := object{"clusters": out}
	if zone := r.missing(); zone != "" {
		answer["missingZones"] = []string{zone}
	}
	return answer, nil
}
