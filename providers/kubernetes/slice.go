package kubernetes

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// The limits of one object. The API server has the same ones for endpoints and ports.
const (
	maxEndpoints = 1000
	maxPorts     = 100
	maxHints     = 8
	maxLabels    = 64
	maxLabel     = 256 // of a label's or annotation's value, and of any other text
)

// slice is an EndpointSlice as it is kept.
type slice struct {
	key
	service   string // of the same namespace; empty: of none
	version   uint64 // the higher, the later it was written
	ipv4      bool
	ports     []poll.Port
	endpoints []endpoint
	err       error // why its endpoints are not known
}

// endpoint is one endpoint of a slice.
type endpoint struct {
	name    string // of the pod behind it, else its address
	address netip.Addr
	host    string
	state   poll.State
	health  federation.Health
	zone    string
	node    string
	hints   string // the zones that it is for, with commas
	err     error  // why it cannot be read
}

// decodeSlice reads an EndpointSlice. An error says that not even its name can be read.
func decodeSlice(raw []byte) (object, error) {
	k, err := decodeKey(raw)
	if err != nil {
		return nil, err
	}
	s := &slice{key: k}
	var in apiSlice
	if err := json.Unmarshal(raw, &in); err != nil {
		s.err = fmt.Errorf("read slice %v/%v: %w", k.namespace, k.name, err)
		s.service = in.Metadata.Labels[serviceLabel]
		return s, nil
	}
	s.service, s.ipv4 = in.Metadata.Labels[serviceLabel], in.AddressType == "IPv4"
	s.version, _ = strconv.ParseUint(in.Metadata.Version, 10, 64) // 0: then the name decides
	if len(s.service) > maxName {
		s.service = ""
	}
	if len(in.Endpoints) > maxEndpoints || len(in.Ports) > maxPorts {
		s.err = fmt.Errorf("slice %v/%v has %d endpoints and %d ports: at most %d and %d are allowed", k.namespace, k.name,
			len(in.Endpoints), len(in.Ports), maxEndpoints, maxPorts)
		return s, nil
	}
	ports, portsErr := readPorts(in.Ports)
	s.ports = ports
	s.endpoints = make([]endpoint, 0, len(in.Endpoints))
	for i := range in.Endpoints {
		e := readEndpoint(&in.Endpoints[i], in.AddressType)
		if e.err == nil {
			e.err = portsErr
		}
		s.endpoints = append(s.endpoints, e)
	}
	return s, nil
}

// readPorts reads the ports that the mesh can carry. A port without number means all ports: a tag has to name one.
func readPorts(in []apiPort) ([]poll.Port, error) {
	var out []poll.Port
	for _, p := range in {
		if p.Protocol != "" && p.Protocol != "TCP" || p.Port == nil {
			continue
		}
		if *p.Port < 1 || *p.Port > 65535 {
			return nil, fmt.Errorf("its port %d is not one", *p.Port)
		}
		out = append(out, poll.Port{Name: p.Name, Number: uint16(*p.Port), Protocol: string(protocol(p.AppProtocol))})
	}
	return out, nil
}

// protocol translates an appProtocol: Kubernetes' own names, those of IANA, and those that other meshes use. What is encrypted by the
// workload itself is carried as it is.
func protocol(app string) federation.Protocol {
	switch strings.ToLower(app) {
	case "http", "kubernetes.io/ws":
		return federation.ProtocolHTTP
	case "http2", "h2c", "kubernetes.io/h2c":
		return federation.ProtocolHTTP2
	case "grpc":
		return federation.ProtocolGRPC
	}
	return ""
}

func readEndpoint(in *apiEndpoint, addressType string) endpoint {
	e := endpoint{zone: in.Zone, node: in.Node}
	if len(in.Addresses) > 0 { // the others have no meaning, says the API
		e.name = in.Addresses[0][:min(len(in.Addresses[0]), maxName)]
	}
	if in.Target != nil && in.Target.Kind == "Pod" && in.Target.Name != "" && len(in.Target.Name) <= maxName {
		e.name = in.Target.Name
	}
	if in.Hints != nil {
		var zones []string
		for _, z := range in.Hints.Zones[:min(len(in.Hints.Zones), maxHints)] {
			zones = append(zones, z.Name)
		}
		e.hints = strings.Join(zones, ",")
	}
	ready, serving := in.Conditions.Ready, in.Conditions.Serving
	e.state, e.health = poll.StateRunning, federation.HealthPassing
	switch c := in.Conditions; {
	case c.Terminating != nil && *c.Terminating:
		// Open connections go on whether it still passes its readiness probe or, as many do when they shut down, does not.
		e.state, e.health = poll.StateDraining, federation.HealthDraining
		if serving != nil && !*serving {
			e.health = federation.HealthFailing
		}
	case ready == nil && serving == nil:
		e.health = federation.HealthUnknown // nobody watches it
	case ready != nil && !*ready, ready == nil && !*serving:
		e.health = federation.HealthFailing
	} // ready and not serving is what a Service with publishNotReadyAddresses asks for
	switch {
	case len(in.Addresses) == 0:
		e.err = errors.New("it has no address")
	case addressType == "FQDN":
		e.host = in.Addresses[0]
	default:
		a, err := netip.ParseAddr(in.Addresses[0])
		if err != nil || a.Is4() != (addressType == "IPv4") || a.Zone() != "" {
			e.err = fmt.Errorf("its address %q is not one of type %s", poll.Clip(in.Addresses[0]), poll.Clip(addressType))
		}
		e.address = a
	}
	for _, text := range []string{e.zone, e.node, e.hints, e.host} {
		if len(text) > maxLabel {
			e.err = fmt.Errorf("it has a text of more than %d octets", maxLabel)
		}
	}
	return e
}

func (s *slice) put(inv *inventory) {
	s.drop(inv)
	inv.bySlice[s.key] = s
	inv.endpoints += len(s.endpoints)
	if s.service == "" {
		return // not known to belong to anything; with err it stands for all of its namespace
	}
	svc := inv.service(key{s.namespace, s.service})
	svc.slices = append(svc.slices, s)
	svc.built = false
}

func (s *slice) drop(inv *inventory) {
	old := inv.bySlice[s.key]
	if old == nil {
		return
	}
	delete(inv.bySlice, s.key)
	inv.endpoints -= len(old.endpoints)
	k := key{old.namespace, old.service}
	if svc := inv.services[k]; svc != nil {
		svc.slices = slices.DeleteFunc(svc.slices, func(x *slice) bool { return x == old })
		svc.built = false
		inv.tidy(k)
	}
}

// metadata is a Service as it is kept.
type metadata struct {
	key
	labels map[string]string
	err    error // why they are not known
}

// decodeService reads the metadata of a Service. An error says that not even its name can be read.
func decodeService(raw []byte) (object, error) {
	k, err := decodeKey(raw)
	if err != nil {
		return nil, err
	}
	m := &metadata{key: k}
	var in apiService
	if err := json.Unmarshal(raw, &in); err != nil {
		m.err = fmt.Errorf("read service %s/%s: %w", k.namespace, k.name, err)
		return m, nil
	}
	m.labels = keep(in.Metadata.Labels, in.Metadata.Annotations)
	return m, nil
}

// keep returns what of labels and annotations can mean something to the mesh. Other annotations are notes of other programs, some of
// them whole manifests.
func keep(labels, annotations map[string]string) map[string]string {
	out := map[string]string{}
	for _, k := range slices.Sorted(maps.Keys(annotations)) {
		if ours(k) && len(annotations[k]) <= maxLabel && len(out) < maxLabels/2 {
			out[k] = annotations[k]
		}
	}
	byUse := func(a, b string) int { // ours before others
		if x, y := ours(a), ours(b); x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	}
	for _, k := range slices.SortedFunc(maps.Keys(labels), byUse) {
		if _, said := out[k]; !said && len(labels[k]) <= maxLabel && len(out) < maxLabels-2 { // two are of the endpoint
			out[k] = labels[k]
		}
	}
	return out
}

func ours(k string) bool { return strings.HasPrefix(k, "mesh/") || strings.HasPrefix(k, "mesh-") }

func (m *metadata) put(inv *inventory) {
	if m.namespace == apiNamespace && m.name == apiServer {
		return
	}
	svc := inv.service(m.key)
	svc.meta, svc.built = m, false
}

func (m *metadata) drop(inv *inventory) {
	if svc := inv.services[m.key]; svc != nil {
		svc.meta, svc.built = nil, false
		inv.tidy(m.key)
	}
}

// The Service of the API server itself. No rule with a pattern should ever mean it.
const (
	apiNamespace = "default"
	apiServer    = "kubernetes"
)
