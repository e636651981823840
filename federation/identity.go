package federation

import (
	"fmt"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Role says what the path of a SPIFFE ID stands for. A listener accepts some roles and no others.
type Role uint8

// The roles, by the form of their path. RoleNone is an ID whose path has none of the forms.
const (
	RoleNone         Role = iota
	RoleWorkload          // /ns/<namespace>/svc/<name>
	RoleGateway           // /gw/<id>
	RoleControlPlane      // /cp
)

func (r Role) String() string {
	return [...]string{"none", "workload", "gateway", "control plane"}[min(r, RoleControlPlane)]
}

// MeshDomain ends the default trust domains and the names that local callers ask for services by. The top-level domain
// internal is reserved for private use.
const MeshDomain = "mesh.internal"

// DefaultTrustDomain is the trust domain of a region that does not configure one: "<region>.mesh.internal".
func DefaultTrustDomain(r Region) spiffeid.TrustDomain {
	td, err := spiffeid.TrustDomainFromString(string(r) + "." + MeshDomain)
	if err != nil {
		return spiffeid.TrustDomain{} // only for an r that ParseRegion refuses
	}
	return td
}

// WorkloadID is the identity of service in trust domain td. Both must be valid.
func WorkloadID(td spiffeid.TrustDomain, service ServiceName) (spiffeid.ID, error) {
	return spiffeid.FromSegments(td, "ns", service.Namespace, "svc", service.Name)
}

// GatewayID is the identity of the gateway named name in trust domain td.
func GatewayID(td spiffeid.TrustDomain, name string) (spiffeid.ID, error) {
	return spiffeid.FromSegments(td, "gw", name)
}

// RoleOf returns the role that the path of id stands for, and for a workload its service. It never guesses: a path that
// has none of the forms byte for byte is RoleNone.
func RoleOf(id spiffeid.ID) (Role, ServiceName) {
	// The data path asks this for every decision, so it cuts instead of splitting: no allocation for any valid path.
	path := id.Path()
	if path == "/cp" {
		return RoleControlPlane, ServiceName{}
	}
	if name, ok := strings.CutPrefix(path, "/gw/"); ok && name != "" && !strings.Contains(name, "/") {
		return RoleGateway, ServiceName{}
	}
	rest, ok := strings.CutPrefix(path, "/ns/")
	if !ok {
		return RoleNone, ServiceName{}
	}
	namespace, name, ok := strings.Cut(rest, "/svc/")
	if !ok || checkLabel("namespace", namespace) != nil || checkLabel("service", name) != nil {
		return RoleNone, ServiceName{}
	}
	return RoleWorkload, ServiceName{Namespace: namespace, Name: name}
}

// ServiceOf returns the service a workload identity stands for, or an error when id is no workload.
func ServiceOf(id spiffeid.ID) (ServiceName, error) {
	role, service := RoleOf(id)
	if role != RoleWorkload {
		return ServiceName{}, fmt.Errorf("identity %q is not a workload: its path must be /ns/<namespace>/svc/<name>", id)
	}
	return service, nil
}

// Assurance says how a gateway came to know the identity of a local caller. It travels with every flow, and an intention
// can require a level. Higher is stronger; the numbers are on the wire and never change meaning.
type Assurance uint8

const (
	// AssuranceNone is no identity at all; nothing is ever allowed with it.
	AssuranceNone Assurance = 0
	// AssuranceBinding is an upstream listener that only the bound caller is meant to reach: as strong as the host's own separation.
	AssuranceBinding Assurance = 1
	// AssuranceMTLS is an SVID of the region, proven by the caller in a TLS 1.3 handshake with its gateway.
	AssuranceMTLS Assurance = 2
)

func (a Assurance) String() string {
	switch a {
	case AssuranceBinding:
		return "binding"
	case AssuranceMTLS:
		return "mtls"
	}
	return "none"
}

// ParseAssurance reads "binding" or "mtls".
func ParseAssurance(s string) (Assurance, error) {
	switch s {
	case "binding":
		return AssuranceBinding, nil
	case "mtls":
		return AssuranceMTLS, nil
	}
	return AssuranceNone, fmt.Errorf("assurance %q is unknown: use \"binding\" or \"mtls\"", s)
}

// MarshalText writes the form of String.
func (a Assurance) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads "none", "binding" or "mtls".
func (a *Assurance) UnmarshalText(b []byte) error {
	if string(b) == "none" || len(b) == 0 {
		*a = AssuranceNone
		return nil
	}
	parsed, err := ParseAssurance(string(b))
	if err == nil {
		*a = parsed
	}
	return err
}
