package federation

import (
	"fmt"
	"strings"
)

// DefaultNamespace is the namespace of a service whose name does not say one.
const DefaultNamespace = "default"

// Local is the word for "this region" wherever a region may be named (a failover order, an explanation).
const Local Region = "local"

// Region names a cloud region or a data centre, such as "aws-us-east-1". It is a DNS label, because it becomes part of the
// region's trust domain and of service names (RFC 1123: 1-63 octets, lower case letters, digits and inner hyphens).
type Region string

// ParseRegion returns s as a Region, or an error that names the rule s breaks. "local" is reserved.
func ParseRegion(s string) (Region, error) {
	if err := checkLabel("region", s); err != nil {
		return "", err
	}
	if Region(s) == Local {
		return "", fmt.Errorf("region %q is reserved: it always means the region itself", s)
	}
	return Region(s), nil
}

// InstanceID names an instance within its service; unique among the sources of one region, at most 128 octets.
type InstanceID string

// SourceName names a source of instances, such as "file:shop" or "api".
type SourceName string

// ServiceName is a service within a namespace. The zero value is "no service".
type ServiceName struct {
	Namespace string
	Name      string
}

// ParseServiceName reads "name" (namespace "default") or "namespace/name"; each part is a DNS label.
func ParseServiceName(s string) (ServiceName, error) {
	ns, name, found := strings.Cut(s, "/")
	if !found {
		ns, name = DefaultNamespace, s
	}
	if err := checkLabel("namespace", ns); err != nil {
		return ServiceName{}, err
	}
	if err := checkLabel("service", name); err != nil {
		return ServiceName{}, err
	}
	return ServiceName{Namespace: ns, Name: name}, nil
}

// String is the inverse of ParseServiceName: the default namespace is left out.
func (n ServiceName) String() string {
	if n.Namespace == DefaultNamespace || n.Namespace == "" {
		return n.Name
	}
	return n.Namespace + "/" + n.Name
}

// IsZero reports whether n names no service.
func (n ServiceName) IsZero() bool { return n == ServiceName{} }

// Compare orders names by namespace, then name; it suits slices.SortFunc.
func (n ServiceName) Compare(m ServiceName) int {
	if c := strings.Compare(n.Namespace, m.Namespace); c != 0 {
		return c
	}
	return strings.Compare(n.Name, m.Name)
}

// MarshalText and UnmarshalText use the form of String and ParseServiceName.
func (n ServiceName) MarshalText() ([]byte, error) { return []byte(n.String()), nil }

// UnmarshalText parses the form written by MarshalText; the empty text is the zero value.
func (n *ServiceName) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*n = ServiceName{}
		return nil
	}
	parsed, err := ParseServiceName(string(b))
	if err == nil {
		*n = parsed
	}
	return err
}

// ServiceRef is a service, and the region it is meant in when one is named.
type ServiceRef struct {
	Service ServiceName
	Region  Region // empty: not named
}

// ParseServiceRef reads "name", "namespace/name", either with "@region" behind it.
func ParseServiceRef(s string) (ServiceRef, error) {
	left, right, found := strings.Cut(s, "@")
	service, err := ParseServiceName(left)
	if err != nil || !found {
		return ServiceRef{Service: service}, err
	}
	region, err := ParseRegion(right)
	if err != nil {
		return ServiceRef{}, err
	}
	return ServiceRef{Service: service, Region: region}, nil
}

// String is the inverse of ParseServiceRef.
func (r ServiceRef) String() string {
	if r.Region == "" {
		return r.Service.String()
	}
	return r.Service.String() + "@" + string(r.Region)
}

// MarshalText writes the form of String.
func (r ServiceRef) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText parses the form written by MarshalText.
func (r *ServiceRef) UnmarshalText(b []byte) error {
	parsed, err := ParseServiceRef(string(b))
	if err == nil {
		*r = parsed
	}
	return err
}

// checkLabel applies RFC 1123's rule for a DNS label.
func checkLabel(what, s string) error {
	switch {
	case s == "":
		return fmt.Errorf("%s is empty: it needs 1-63 lower case letters, digits or hyphens", what)
	case len(s) > 63:
		return fmt.Errorf("%s %q has %d characters: at most 63 are allowed", what, s[:16]+"...", len(s))
	case s[0] == '-' || s[len(s)-1] == '-':
		return fmt.Errorf("%s %q starts or ends with a hyphen", what, s)
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return fmt.Errorf("%s %q has the character %q: only lower case letters, digits and hyphens are allowed", what, s, c)
		}
	}
	return nil
}
