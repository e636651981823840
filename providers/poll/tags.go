package poll

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// A workload says by tags what it is. Each has two spellings, because some clouds allow no slash and others no dot in a key:
//
//	mesh/service       mesh-service         the service, "cart" or "shop/cart"
//	mesh/namespace     mesh-namespace       its namespace
//	mesh/port          mesh-port            the port's number, or the name that the provider gives to it
//	mesh/port.NAME     mesh-port-NAME       a further port, which is the service "SERVICE-NAME"; also mesh-port.NAME
//	mesh/protocol      mesh-protocol        tcp, http, http2 or grpc
//	mesh/weight        mesh-weight          1 to 65535
//	mesh/export        mesh-export          true: show the service to the peers that the discover rule names
//
// Two spellings that disagree are an error of that workload: whoever wrote one of them meant something else.
const (
	tagService   = "service"
	tagNamespace = "namespace"
	tagPort      = "port"
	tagProtocol  = "protocol"
	tagWeight    = "weight"
	tagExport    = "export"
)

// tagged is what a workload's tags say.
type tagged struct {
	service, namespace string
	port               string
	named              []namedPort // in order of name
	protocol           federation.Protocol
	weight             uint16
	export             bool
}

type namedPort struct{ name, port string }

// tagKey returns which tag a label is: "service", "port", "port.NAME". It is "" for any other label.
func tagKey(label string) string {
	rest, slash := strings.CutPrefix(label, "mesh/")
	if !slash {
		var dash bool
		if rest, dash = strings.CutPrefix(label, "mesh-"); !dash {
			return ""
		}
		if name, named := strings.CutPrefix(rest, "port-"); named {
			rest = "port." + name
		}
	}
	if name, named := strings.CutPrefix(rest, "port."); named && name != "" {
		return rest
	}
	switch rest {
	case tagService, tagNamespace, tagPort, tagProtocol, tagWeight, tagExport:
		return rest
	}
	return ""
}

// readTags returns what labels say, or why they cannot be understood.
func readTags(labels map[string]string) (tagged, error) {
	type spelling struct{ label, value string }
	said := map[string]spelling{}
	for label, value := range labels {
		key := tagKey(label)
		if key == "" {
			continue
		}
		if before, twice := said[key]; twice && before.value != value {
			first, second := before, spelling{label, value}
			if second.label < first.label {
				first, second = second, first
			}
			return tagged{}, fmt.Errorf("%s is %s and %s is %s: they are spellings of one tag, leave one of them",
				first.label, quote(first.value), second.label, quote(second.value))
		}
		said[key] = spelling{label, value}
	}
	out := tagged{service: said[tagService].value, namespace: said[tagNamespace].value, port: said[tagPort].value}
	for key, s := range said {
		if name, named := strings.CutPrefix(key, "port."); named {
			out.named = append(out.named, namedPort{name, s.value})
		}
	}
	slices.SortFunc(out.named, func(a, b namedPort) int { return cmp.Compare(a.name, b.name) })
	var err error
	if out.protocol, err = federation.ParseProtocol(said[tagProtocol].value); err != nil {
		return tagged{}, fmt.Errorf("%s: %w", said[tagProtocol].label, err)
	}
	if said[tagProtocol].value == "" {
		out.protocol = ""
	}
	if s, ok := said[tagWeight]; ok {
		n, err := strconv.ParseUint(s.value, 10, 16)
		if err != nil || n == 0 {
			return tagged{}, fmt.Errorf("%s is %s: a weight is a number from 1 to 65535", s.label, quote(s.value))
		}
		out.weight = uint16(n)
	}
	switch s := said[tagExport]; s.value {
	case "", "false":
	case "true":
		out.export = true
	default:
		return tagged{}, fmt.Errorf("%s is %s: write true or false", s.label, quote(s.value))
	}
	return out, nil
}

// quote quotes what somebody else wrote, at most 64 octets of it.
func quote(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%q...", s[:64])
	}
	return fmt.Sprintf("%q", s)
}
