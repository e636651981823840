package mesh

import (
	"fmt"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// nameSuffix ends every server name of the mesh. It is the suffix of the default trust domains too, so that a region's
// services stand below the region's own name.
const nameSuffix = ".mesh.internal"

// anyRegionLabel stands in the place of a region where none is meant, so that three labels are always service, namespace
// and place. It is the customary word of Kubernetes names. A region that is itself called "svc" can be named for services of
// the default namespace only.
const anyRegionLabel = "svc"

// ParseServerName reads the name by which a workload asks for a service: in TLS the server name (SNI), in DNS the query.
//
//	checkout.mesh.internal                      checkout of the default namespace, region by the service's resolver
//	checkout.shop.svc.mesh.internal             checkout of namespace shop, region by the service's resolver
//	checkout.aws-us-east-1.mesh.internal        checkout of the default namespace in that region and no other
//	checkout.shop.aws-us-east-1.mesh.internal   checkout of namespace shop in that region and no other
//	checkout.local.mesh.internal                checkout of the default namespace in the caller's own region
//
// Letter case and one dot at the end are of no account (RFC 4343, RFC 1034 section 3.1).
func ParseServerName(name string) (federation.ServiceRef, error) {
	lower := strings.ToLower(strings.TrimSuffix(name, "."))
	head, found := strings.CutSuffix(lower, nameSuffix)
	if !found {
		return federation.ServiceRef{}, fmt.Errorf("server name %q does not end in %q", name, nameSuffix)
	}
	labels := strings.Split(head, ".")
	namespace, place := federation.DefaultNamespace, ""
	switch len(labels) {
	case 1:
	case 2:
		place = labels[1]
	case 3:
		namespace, place = labels[1], labels[2]
		if place == anyRegionLabel {
			place = ""
		}
	default:
		return federation.ServiceRef{}, fmt.Errorf("server name %q has too many labels: write SERVICE[.NAMESPACE].REGION%s", name, nameSuffix)
	}
	service, err := federation.ParseServiceName(namespace + "/" + labels[0])
	if err != nil {
		return federation.ServiceRef{}, fmt.Errorf("server name %q: %w", name, err)
	}
	ref := federation.ServiceRef{Service: service, Region: federation.Region(place)}
	if place == "" || ref.Region == federation.Local {
		return ref, nil
	}
	if _, err := federation.ParseRegion(place); err != nil {
		return federation.ServiceRef{}, fmt.Errorf("server name %q: %w", name, err)
	}
	return ref, nil
}

// ServerName is the inverse of ParseServerName. It is false for a service that cannot be named: one of a namespace of its own
// in a region called "svc".
func ServerName(ref federation.ServiceRef) (string, bool) {
	name, place := ref.Service.Name, string(ref.Region)
	if ref.Service.Namespace != federation.DefaultNamespace {
		name += "." + ref.Service.Namespace
		if place == anyRegionLabel {
			return "", false
		}
		if place == "" {
			place = anyRegionLabel
		}
	}
	if place != "" {
		name += "." + place
	}
	return name + nameSuffix, true
}
