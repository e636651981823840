package poll

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Reason says, as one of few words, why a workload is not used.
type Reason string

// The reasons for which a workload is not used.
const (
	ReasonUnclaimed  Reason = "unclaimed"   // it says no service: most machines are not meant for the mesh
	ReasonStopped    Reason = "stopped"     // it does not run
	ReasonTags       Reason = "tags"        // its tags cannot be understood or contradict each other
	ReasonNotAllowed Reason = "not_allowed" // no discover rule allows its claim
	ReasonAddress    Reason = "address"     // it has no address that may be dialled, or a name that has none
	ReasonPort       Reason = "port"        // its port is not known, or it has several
	ReasonOverlap    Reason = "overlap"     // a workload of another network has the same address
)

// refusal is why a workload, or one claim of it, is not used. The zero value: it is.
type refusal struct {
	reason Reason
	why    string
}

// claim is one service that a workload may be used as.
type claim struct {
	service  federation.ServiceName
	port     uint16
	protocol federation.Protocol
	weight   uint16
	rule     int
	export   bool
}

// The limits of one record. They bound what a provider can make the gateway hold.
const (
	maxID        = 1024 // an Azure resource ID may have some 500 octets
	maxText      = 256  // any other text of a record
	maxAddresses = 32
	maxPorts     = 64
	maxLabels    = 64 // as the registry's
	maxLabelKey  = 128
	maxLabelText = 256
)

// clean returns rec as it may be kept: with bounded labels, of which those that speak to the mesh come first. What else is too
// large, or not text, is an error of the record.
func clean(rec Record) (Record, error) {
	texts := []string{rec.Account, rec.Region, rec.Zone, rec.Network, rec.Kind, rec.Host, string(rec.State), rec.Service, rec.Namespace}
	for _, p := range rec.Ports[:min(len(rec.Ports), maxPorts)] {
		texts = append(texts, p.Name, p.Protocol)
	}
	for _, text := range texts {
		if len(text) > maxText || !printable(text) {
			return rec, fmt.Errorf("%s has more than %d octets or is not text", quote(text), maxText)
		}
	}
	switch {
	case rec.ID == "":
		return rec, errors.New("it has no ID")
	case len(rec.ID) > maxID || !printable(rec.ID):
		return rec, fmt.Errorf("its ID %s has more than %d octets or is not text", quote(rec.ID), maxID)
	case len(rec.Addresses) > maxAddresses:
		return rec, fmt.Errorf("it has %d addresses: at most %d are allowed", len(rec.Addresses), maxAddresses)
	case len(rec.Ports) > maxPorts:
		return rec, fmt.Errorf("it has %d ports: at most %d are allowed", len(rec.Ports), maxPorts)
	case rec.Health > federation.HealthDraining:
		return rec, fmt.Errorf("health %d is unknown", rec.Health)
	}
	rec.Labels = boundLabels(rec.Labels)
	return rec, nil
}

// boundLabels returns labels without those that are too large, and of too many the first in order, tags of the mesh before others.
func boundLabels(labels map[string]string) map[string]string {
	fits := func(k, v string) bool {
		return k != "" && len(k) <= maxLabelKey && printable(k) && len(v) <= maxLabelText && utf8.ValidString(v)
	}
	all := len(labels) <= maxLabels
	for k, v := range labels {
		all = all && fits(k, v)
	}
	if all {
		return labels
	}
	keys := slices.SortedFunc(maps.Keys(labels), func(a, b string) int {
		if x, y := tagKey(a) != "", tagKey(b) != ""; x != y {
			if x {
				return -1
			}
			return 1
		}
		return strings.Compare(a, b)
	})
	out := map[string]string{}
	for _, k := range keys {
		if v := labels[k]; fits(k, v) && len(out) < maxLabels {
			out[k] = v
		}
	}
	return out
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

// address returns where the record is reached: the first of its addresses.
func (r *Record) address() netip.Addr {
	if len(r.Addresses) == 0 {
		return netip.Addr{}
	}
	return r.Addresses[0].Unmap()
}

// claims returns what rec may be used as by the rules, or why as nothing.
func claims(rec *Record, rules []federation.Discover) ([]claim, refusal) {
	if rec.State == StateStopped {
		return nil, refusal{ReasonStopped, "it is stopped"}
	}
	tags, err := readTags(rec.Labels)
	if err != nil {
		return nil, refusal{ReasonTags, err.Error()}
	}
	service, namespace := tags.service, tags.namespace
	if service == "" {
		service = rec.Service
	}
	if namespace == "" {
		namespace = rec.Namespace
	}
	if service == "" {
		return nil, refusal{ReasonUnclaimed, "neither its tags nor the provider name a service"}
	}
	if ns, name, found := strings.Cut(service, "/"); found {
		if tags.namespace != "" && tags.namespace != ns {
			return nil, refusal{ReasonTags, fmt.Sprintf("its service is %s and its namespace %s", quote(service), quote(tags.namespace))}
		}
		service, namespace = name, ns
	}
	if err := rec.spot().check(); err != nil {
		return nil, refusal{ReasonAddress, err.Error()}
	}
	base := claim{protocol: tags.protocol, weight: tags.weight, export: tags.export}
	if base.weight == 0 {
		base.weight = rec.Weight
	}
	return base.each(rec, tags, rules, service, namespace)
}

// each returns a claim for the main port and for each named one.
func (base claim) each(rec *Record, tags tagged, rules []federation.Discover, service, namespace string) ([]claim, refusal) {
	wanted := slices.Clone(tags.named)
	if tags.port != "" || len(tags.named) == 0 {
		wanted = append([]namedPort{{"", tags.port}}, wanted...)
	}
	var out []claim
	for _, w := range wanted {
		name := service
		if w.name != "" {
			name += "-" + w.name
		}
		full, rule, why := federation.Discovered(rules, federation.Claim{Service: name, Namespace: namespace, Account: rec.Account,
			Region: rec.Region, Network: rec.Network})
		if rule < 0 {
			return nil, refusal{ReasonNotAllowed, why}
		}
		port, err := choosePort(rec.Ports, w.port)
		if err != nil {
			return nil, refusal{ReasonPort, err.Error()}
		}
		c := base
		c.service, c.rule, c.port = full, rule, port.Number
		if p, err := federation.ParseProtocol(port.Protocol); c.protocol == "" && port.Protocol != "" && err == nil {
			c.protocol = p
		}
		out = append(out, c)
	}
	return out, refusal{}
}

// choosePort returns the port that text, a number or the name of one of ports, means. Without text it is the one port there is,
// or the one without a name.
func choosePort(ports []Port, text string) (Port, error) {
	if text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		for _, p := range ports {
			if p.Name == text || err == nil && uint64(p.Number) == n {
				return p, nil
			}
		}
		if err != nil || n == 0 {
			return Port{}, fmt.Errorf("its port %s is neither a number from 1 to 65535 nor the name of one of its ports", quote(text))
		}
		return Port{Number: uint16(n)}, nil
	}
	main := ports
	if len(ports) > 1 {
		main = slices.DeleteFunc(slices.Clone(ports), func(p Port) bool { return p.Name != "" })
	}
	switch {
	case len(ports) == 0:
		return Port{}, errors.New("its port is not known: say it with the tag mesh/port")
	case len(main) != 1:
		return Port{}, fmt.Errorf("it has %d ports: say which with the tag mesh/port", len(ports))
	case main[0].Number == 0:
		return Port{}, errors.New("its port is 0")
	}
	return main[0], nil
}
