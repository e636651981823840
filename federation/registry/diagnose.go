package registry

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

func conflictError(e *entry) *federation.Diagnostic {
	names := make([]string, 0, len(e.claims))
	for _, c := range e.claims {
		names = append(names, fmt.Sprintf("%q", c.source.name))
	}
	return &federation.Diagnostic{Code: federation.CodeInstanceConflict,
		What: fmt.Sprintf("%v is reported with different data by the sources %s", e.key, strings.Join(names, " and ")),
		Why:  fmt.Sprintf("an ID is unique within its service; %s is believed because its name sorts first", names[0]),
		Fix:  "give one of the instances another ID, or take it out of one source"}
}

func fullError(svc *service, most int) *federation.Diagnostic {
	return &federation.Diagnostic{Code: federation.CodeServiceFull,
		What: fmt.Sprintf("service %v has %d instances too many", svc.name, len(svc.waiting)),
		Why:  fmt.Sprintf("at most %d are used; those that came last wait until others leave", most),
		Fix:  "split the service, or put a load balancer in front of part of it"}
}

func protocolError(svc *service) *federation.Diagnostic {
	seen := map[string]bool{}
	for _, e := range svc.sorted {
		if e.inst.Protocol != "" {
			seen[string(e.inst.Protocol)] = true
		}
	}
	return &federation.Diagnostic{Code: federation.CodeProtocolConflict,
		What: fmt.Sprintf("the instances of service %v name different protocols", svc.name),
		Why:  strings.Join(slices.Sorted(maps.Keys(seen)), " and ") + "; the service is carried as tcp",
		Fix:  fmt.Sprintf("declare it: service %q { protocol = \"...\" }", svc.name)}
}
