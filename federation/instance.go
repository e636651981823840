package federation

import (
	"fmt"
	"net/netip"
	"reflect"
	"time"
)

// Protocol is how a service speaks. Only tcp is interpreted as bytes; the others let later layers look inside.
type Protocol string

// The protocols a service may declare.
const (
	ProtocolTCP   Protocol = "tcp"
	ProtocolHTTP  Protocol = "http"
	ProtocolHTTP2 Protocol = "http2"
	ProtocolGRPC  Protocol = "grpc"
)

// IsHTTP reports whether gateways look into the requests of a service that speaks p.
func (p Protocol) IsHTTP() bool {
	return p == ProtocolHTTP || p == ProtocolHTTP2 || p == ProtocolGRPC
}

// ParseProtocol returns s as a Protocol; empty is tcp.
func ParseProtocol(s string) (Protocol, error) {
	switch p := Protocol(s); p {
	case "":
		return ProtocolTCP, nil
	case ProtocolTCP, ProtocolHTTP, ProtocolHTTP2, ProtocolGRPC:
		return p, nil
	}
	return "", fmt.Errorf("protocol %q is unknown: use tcp, http, http2 or grpc", s)
}

// Locality is where an instance runs, from coarse to fine.
type Locality struct {
	Region Region `json:"region,omitempty"`
	Zone   string `json:"zone,omitempty"` // provider's zone name, at most 63 octets
}

func (l Locality) String() string {
	if l.Zone == "" {
		return string(l.Region)
	}
	return string(l.Region) + "/" + l.Zone
}

// Instance is what a source saw: one running copy of a service. The data path never sees it as such; it sees endpoints.
type Instance struct {
	ID       InstanceID        `json:"id"`
	Service  ServiceName       `json:"service"`
	Address  netip.AddrPort    `json:"address"`
	Protocol Protocol          `json:"protocol,omitempty"` // empty: tcp
	Locality Locality          `json:"locality,omitzero"`
	Weight   uint16            `json:"weight,omitempty"` // relative share of load, 1-65535; 0 means the default, 100
	Health   Health            `json:"health"`           // as the source sees it; checks can only make it worse
	Labels   map[string]string `json:"labels,omitempty"`
	Checks   []CheckSpec       `json:"checks,omitempty"`
}

// DefaultWeight is the weight of an instance that does not say one: 100, so that it can be made both smaller and larger.
const DefaultWeight = 100

// CheckKind is the way an active check asks.
type CheckKind string

// The kinds of check.
const (
	CheckTCP  CheckKind = "tcp"  // a connection is accepted, and with TLS its handshake ends
	CheckHTTP CheckKind = "http" // a request is answered with 200-299, or with what Status lists; redirects are answers, not followed
	CheckGRPC CheckKind = "grpc" // grpc.health.v1.Health/Check answers SERVING
	CheckTTL  CheckKind = "ttl"  // somebody says so, at least once in every TTL
)

// CheckSpec is one active check of an instance. Zero values mean the defaults of Defaulted.
type CheckSpec struct {
	Kind           CheckKind `json:"kind"`
	Path           string    `json:"path,omitempty"`            // http: the request path
	Host           string    `json:"host,omitempty"`            // http: the Host header
	Method         string    `json:"method,omitempty"`          // http; empty: GET
	Body           string    `json:"body,omitempty"`            // http: of the request
	Status         []int     `json:"status,omitempty"`          // http: the only answers that pass; empty: 200-299
	GRPCService    string    `json:"grpc_service,omitempty"`    // grpc: the service asked about
	Port           uint16    `json:"port,omitempty"`            // when not the instance's own
	TLS            bool      `json:"tls,omitempty"`             // tcp, http, grpc: over TLS; the certificate is verified
	TLSServerName  string    `json:"tls_server_name,omitempty"` // that the certificate must be for; empty: host, or the instance's IP address
	TLSCAFile      string    `json:"tls_ca_file,omitempty"`     // PEM, read for each attempt: who may have signed it; empty: the system's roots
	TLSSkipVerify  bool      `json:"tls_skip_verify,omitempty"` // any certificate will do
	Interval       Duration  `json:"interval,omitempty"`        // between two attempts
	Timeout        Duration  `json:"timeout,omitempty"`         // of one attempt
	TTL            Duration  `json:"ttl,omitempty"`             // ttl: how long one heartbeat lasts
	HealthyAfter   int       `json:"healthy_after,omitempty"`   // successes in a row
	UnhealthyAfter int       `json:"unhealthy_after,omitempty"` // failures in a row; a refused connection counts as all of them

	Headers map[string]string `json:"headers,omitempty"` // http: of the request, beside Host
}

// SameChecks reports whether a and b say the same. What refers to the same memory is not looked at: it never changes.
func SameChecks(a, b []CheckSpec) bool {
	return len(a) == len(b) && (len(a) == 0 || &a[0] == &b[0] || reflect.DeepEqual(a, b))
}

// Defaulted returns c with every unset field at its default.
func (c CheckSpec) Defaulted() CheckSpec {
	setDefault(&c.Path, "/")
	setDefault(&c.Interval, Duration(500*time.Millisecond)) // a dead instance must be gone everywhere within a second
	setDefault(&c.Timeout, Duration(2*time.Second))         // slower than this, users have left
	setDefault(&c.TTL, Duration(15*time.Second))            // three missed beats of the customary 5 s
	setDefault(&c.HealthyAfter, 1)                          // a restart should not cost two intervals
	setDefault(&c.UnhealthyAfter, 2)                        // one lost packet is no outage
	return c
}

func setDefault[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
