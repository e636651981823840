package consul

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// record translates an instance. An error says what of it cannot be read; the record's ID is as much as could be.
func (v *visit) record(e *api.ServiceEntry) (rec poll.Record, wanted bool, err error) {
	if e == nil || e.Node == nil || e.Service == nil {
		return rec, true, errors.New("it has no node or no service")
	}
	node, service := e.Node, e.Service
	dc := cmp.Or(node.Datacenter, v.datacenter)
	rec = poll.Record{ID: v.id(dc, node, service), Account: dc, Network: dc, Kind: "service", State: poll.StateRunning,
		Service: service.Service, Namespace: meshNamespace(service.Namespace), Labels: labels(node, service)}
	if service.Kind != api.ServiceKindTypical && !v.cfg.Proxies || service.Meta[metaSource] == source {
		return rec, false, nil
	}
	if where := cmp.Or(service.Locality, node.Locality); where != nil {
		rec.Region, rec.Zone = where.Region, where.Zone
	}
	health(&rec, e)
	return rec, true, v.reach(&rec, node, service)
}

// id names an instance: a service's ID is unique on its node, a node's name in its partition.
func (v *visit) id(dc string, node *api.Node, service *api.AgentService) string {
	parts := []string{dc}
	if v.partition != "" || v.namespace != "" {
		parts = append(parts, v.partition, v.namespace)
	}
	parts = append(parts, node.Node, service.ID)
	for i, p := range parts {
		parts[i] = url.PathEscape(p)
	}
	return "consul://" + strings.Join(parts, "/")
}

// meshNamespace leaves out Consul's default namespace, so that the rule's own default applies.
func meshNamespace(ns string) string {
	if ns == "default" {
		return ""
	}
	return ns
}

// reach fills in where the instance is reached.
func (v *visit) reach(rec *poll.Record, node *api.Node, service *api.AgentService) error {
	if service.SocketPath != "" {
		return errors.New("it listens on a Unix socket")
	}
	address, port := cmp.Or(service.Address, node.Address), service.DefaultPort()
	if tag := v.cfg.AddressTag; tag != "" {
		if a, tagged := service.TaggedAddresses[tag]; tagged && a.Address != "" {
			address, port = a.Address, cmp.Or(a.Port, port)
		} else if a := node.TaggedAddresses[tag]; a != "" && service.Address == "" {
			address = a
		}
	}
	if err := addAddress(rec, address); err != nil {
		return err
	}
	for _, tag := range []string{"lan_ipv4", "lan_ipv6"} {
		a, err := netip.ParseAddr(service.TaggedAddresses[tag].Address)
		if err == nil && rec.Host == "" && !slices.Contains(rec.Addresses, a.Unmap()) {
			rec.Addresses = append(rec.Addresses, a.Unmap())
		}
	}
	if err := addPort(rec, "", port); err != nil {
		return err
	}
	for _, p := range service.Ports {
		if !p.Default {
			if err := addPort(rec, p.Name, p.Port); err != nil {
				return err
			}
		}
	}
	return nil
}

// addAddress reads an address, which may be a host's name: Consul takes what it is given.
func addAddress(rec *poll.Record, text string) error {
	if a, err := netip.ParseAddr(text); err == nil {
		rec.Addresses = append(rec.Addresses, a.Unmap())
		return nil
	}
	if text == "" || len(text) > 253 || strings.ContainsFunc(text, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '.' && r != '-' && r != '_'
	}) {
		return fmt.Errorf("its address %q is neither an IP address nor a host's name", poll.Clip(text))
	}
	rec.Host = text
	return nil
}

// addPort adds a port. 0 means that there is none: a tag may say it.
func addPort(rec *poll.Record, name string, port int) error {
	if port < 0 || port > 65535 {
		return fmt.Errorf("its port %d is not one", port)
	}
	if port > 0 {
		rec.Ports = append(rec.Ports, poll.Port{Name: name, Number: uint16(port)})
	}
	return nil
}

// health fills in the worst of the checks of the instance and its node, as Consul's DNS understands them: a warning is still used,
// with a weight of its own, and maintenance is on purpose.
func health(rec *poll.Record, e *api.ServiceEntry) {
	rec.Weight = weight(e.Service.Weights.Passing)
	if len(e.Checks) == 0 {
		return // an external service that nothing checks
	}
	checks := slices.DeleteFunc(slices.Clone(e.Checks), func(c *api.HealthCheck) bool { return c == nil })
	switch checks.AggregatedStatus() {
	case api.HealthPassing:
		rec.Health = federation.HealthPassing
	case api.HealthWarning:
		rec.Health, rec.Weight = federation.HealthPassing, weight(e.Service.Weights.Warning)
		if e.Service.Weights.Warning == 0 && e.Service.Weights.Passing != 0 { // not to be used while it warns
			rec.Health = federation.HealthFailing
		}
	case api.HealthMaint:
		rec.Health, rec.State = federation.HealthDraining, poll.StateDraining
	default: // critical, or a status that is none: then not to be relied on
		rec.Health = federation.HealthFailing
	}
}

// weight translates a weight: Consul's default is 1, ours is 100.
func weight(w int) uint16 {
	return uint16(min(max(w, 0), 65535/federation.DefaultWeight) * federation.DefaultWeight)
}

// labels are the service's meta as it is, its node's with "node/" before, its tags "key=value" as such, and other tags as
// "tag/NAME" with the value "true". Where two agree on a key the meta counts.
func labels(node *api.Node, service *api.AgentService) map[string]string {
	out := make(map[string]string, len(node.Meta)+len(service.Meta)+len(service.Tags))
	for k, v := range node.Meta {
		out["node/"+k] = v
	}
	for _, tag := range service.Tags {
		if k, v, pair := strings.Cut(tag, "="); pair && k != "" {
			out[k] = v
		} else {
			out["tag/"+tag] = "true"
		}
	}
	for k, v := range service.Meta {
		out[k] = v
	}
	return out
}
