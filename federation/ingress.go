package federation

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Ingress is a north-south listener: callers from outside the mesh reach services of this region and of its peers by it. It either
// looks into HTTP (Hosts), passes TLS through by server name (Passthrough, beside Hosts if wanted), or carries bytes (TCP).
type Ingress struct {
	Name     string      `json:"-"`        // from the resource
	Listen   string      `json:"listen"`   // "IP:PORT"; "0.0.0.0:443" is all addresses
	Identity ServiceName `json:"identity"` // whom the mesh takes its callers for: intentions decide what this service may call

	TLS         []IngressTLS         `json:"tls,omitempty"` // none: clear text
	Hosts       []IngressHost        `json:"hosts,omitempty"`
	Passthrough []IngressPassthrough `json:"passthrough,omitempty"`
	TCP         ServiceRef           `json:"tcp,omitzero"`

	HTTP3         bool `json:"http3,omitempty"`          // the same over QUIC, on the UDP port of the same number
	HTTPSRedirect bool `json:"https_redirect,omitempty"` // a listener in clear text answers requests, for its hosts if it has any, with the same place under https

	// ProxyProtocol means that each connection from TrustedProxies begins with a PROXY header (version 1 or 2) that says who the
	// client is. From anybody else nothing of that kind is believed, nor read.
	ProxyProtocol bool `json:"proxy_protocol,omitempty"`

	// TrustedProxies are the networks of proxies in front of the listener: what they say of the client (X-Forwarded-*,
	// X-Request-Id) is kept.
	TrustedProxies []netip.Prefix `json:"trusted_proxies,omitempty"`

	MaxBody                 Size `json:"max_body,omitempty"`                   // octets of a request's body; 0: any number
	MaxHeader               Size `json:"max_header,omitempty"`                 // octets of a request's head; 0: 64 KiB
	MaxConnections          int  `json:"max_connections,omitempty"`            // at once; 0: DefaultIngressConnections
	MaxConnectionsPerClient int  `json:"max_connections_per_client,omitempty"` // of one address (IPv6: of one /64); 0: DefaultIngressPerClient

	RateLimits []RateLimit `json:"rate_limits,omitempty"` // of all requests, per client
	ErrorPages []ErrorPage `json:"error_pages,omitempty"` // where the host has none for a status
}

const (
	// DefaultIngressConnections is a quarter of the 65,536 file descriptors that the unit gives a gateway: each may need another
	// one to an instance, and the mesh must live beside them.
	DefaultIngressConnections = 16_384

	// DefaultIngressPerClient lets an office behind one address through, and needs a hundred of its kind to fill a listener.
	DefaultIngressPerClient = 256
)

// IngressTLS is where certificates come from: files of PEM, which are read again within a second of a change, or a certificate
// authority that is asked for them.
type IngressTLS struct {
	Certificate string       `json:"certificate,omitempty"` // the chain, leaf first; the file's name may hold one "*"
	Key         string       `json:"key,omitempty"`         // with a "*" in Certificate, one here stands for the same text
	ACME        *IngressACME `json:"acme,omitempty"`        // instead of both; once in an ingress
}

// IngressHost is where requests for a host go.
type IngressHost struct {
	Name    string        `json:"name"`             // "shop.example.com", or "*.example.com" for every name below it
	Service ServiceRef    `json:"service,omitzero"` // without: only the paths lead somewhere
	Paths   []IngressPath `json:"paths,omitempty"`  // the longest that matches counts

	RateLimits []RateLimit `json:"rate_limits,omitempty"` // of requests for this host, per client; asked after those of the ingress
	CORS       *CORS       `json:"cors,omitempty"`        // nil: instances do as they like

	// RequireToken are jwt resources, one of which must vouch for the token of every request but preflights. Intentions judge it as ever.
	RequireToken []string `json:"require_token,omitempty"`

	// Compress are the codings that responses of compressible types are sent in, if the caller takes them: "gzip". It is off by
	// default: where a response holds a secret beside something that the caller has sent, its compressed length gives the secret away
	// little by little, in spite of TLS (BREACH).
	Compress   []string    `json:"compress,omitempty"`
	ErrorPages []ErrorPage `json:"error_pages,omitempty"`
}

// IngressPath is where requests for a part of a host go.
type IngressPath struct {
	Prefix  string     `json:"path_prefix"` // whole segments: "/api" means "/api" and "/api/x", never "/apix"
	Service ServiceRef `json:"service"`
}

// IngressPassthrough is where TLS connections for a server name go, as they come.
type IngressPassthrough struct {
	Name    string     `json:"name"` // as that of a host
	Service ServiceRef `json:"service"`
}

// Kind implements Spec.
func (*Ingress) Kind() Kind { return KindIngress }

// Limits of one ingress: it is held in memory and looked through by people.
const (
	maxIngressHosts = 1000
	maxIngressPaths = 100
	maxIngressTLS   = 100
	maxProxies      = 1000 // the networks of the largest content delivery networks are some hundreds
)

// Validate implements Spec.
func (g *Ingress) Validate(name string) error {
	g.Name = name
	errs := []error{checkLabel("ingress", name)}
	if _, err := netip.ParseAddrPort(g.Listen); err != nil {
		errs = append(errs, fmt.Errorf("listen %q: write \"IP:PORT\", or \"0.0.0.0:PORT\" for all addresses", g.Listen))
	}
	if g.Identity.IsZero() {
		errs = append(errs, errors.New("ingress has no identity: write the service that intentions know its callers by, such as \"ingress\""))
	}
	for _, p := range g.TrustedProxies {
		if !p.IsValid() || p != p.Masked() {
			errs = append(errs, fmt.Errorf("trusted_proxies %q is no network: write such as \"192.0.2.0/24\"", p))
		}
	}
	if g.ProxyProtocol && len(g.TrustedProxies) == 0 {
		errs = append(errs, errors.New("proxy_protocol without trusted_proxies: list the networks whose PROXY headers are to be believed"))
	}
	if g.MaxConnections < 0 || g.MaxConnectionsPerClient < 0 {
		errs = append(errs, errors.New("a number of connections is negative"))
	}
	if g.MaxHeader != 0 && (g.MaxHeader < 1<<10 || g.MaxHeader > 1<<20) {
		errs = append(errs, fmt.Errorf("max_header %v is not between 1KiB and 1MiB", g.MaxHeader))
	}
	for what, n := range map[string][2]int{"tls": {len(g.TLS), maxIngressTLS}, "host": {len(g.Hosts), maxIngressHosts},
		"passthrough": {len(g.Passthrough), maxIngressHosts}, "trusted_proxies": {len(g.TrustedProxies), maxProxies}} {
		if n[0] > n[1] {
			errs = append(errs, fmt.Errorf("%s is there %d times: at most %d are allowed", what, n[0], n[1]))
		}
	}
	return errors.Join(append(errs, g.validateUse(), g.validateTLS(), g.validateACME(), g.validateHosts(), g.validateHTTP())...)
}

// validateUse finds what cannot be combined.
func (g *Ingress) validateUse() error {
	var errs []error
	raw := !g.TCP.Service.IsZero()
	switch {
	case raw && len(g.Hosts)+len(g.Passthrough) > 0:
		errs = append(errs, errors.New("tcp excludes host and passthrough: a connection that is not looked into has no name"))
	case !raw && len(g.Hosts)+len(g.Passthrough) == 0 && !g.HTTPSRedirect:
		errs = append(errs, errors.New("ingress leads nowhere: write host, passthrough or tcp"))
	case len(g.Hosts) > 0 && len(g.TLS) == 0 && len(g.Passthrough) > 0:
		errs = append(errs, errors.New("host beside passthrough needs tls: the listener expects TLS"))
	}
	if len(g.TLS) > 0 && !raw && len(g.Hosts) == 0 {
		errs = append(errs, errors.New("tls serves no host: passthrough leaves TLS to the service"))
	}
	if g.HTTPSRedirect && (len(g.TLS)+len(g.Passthrough) > 0 || raw || g.HTTP3) {
		errs = append(errs, errors.New("https_redirect is for a listener of HTTP in clear text"))
	}
	if g.HTTP3 && (len(g.TLS) == 0 || len(g.Hosts) == 0) {
		errs = append(errs, errors.New("http3 needs tls and host"))
	}
	if g.HTTP3 && g.ProxyProtocol {
		errs = append(errs, errors.New("http3 and proxy_protocol exclude each other: there is no PROXY header over QUIC"))
	}
	return errors.Join(errs...)
}

func (g *Ingress) validateTLS() error {
	var errs []error
	for _, t := range g.TLS {
		if t.ACME != nil {
			if t.Certificate != "" || t.Key != "" {
				errs = append(errs, errors.New("tls: acme excludes certificate and key: write a tls block for each"))
			}
			continue
		}
		if t.Certificate == "" || t.Key == "" {
			errs = append(errs, errors.New("tls: write certificate and key, or an acme block"))
			continue
		}
		for _, f := range []struct{ what, path string }{{"certificate", t.Certificate}, {"key", t.Key}} {
			switch dir, file := filepath.Split(f.path); {
			case strings.Contains(f.path, "-----BEGIN"):
				errs = append(errs, fmt.Errorf("tls: %s is the path of a file: keys do not belong into resources", f.what))
			case !filepath.IsAbs(f.path) || len(f.path) > maxPattern:
				errs = append(errs, fmt.Errorf("tls: %s %q is no absolute path", f.what, f.path))
			case strings.ContainsAny(dir, "*?[\\") || strings.ContainsAny(file, "?[\\") || strings.Count(file, "*") > 1:
				errs = append(errs, fmt.Errorf("tls: %s %q: one \"*\" in the name of the file is all that is understood", f.what, f.path))
			}
		}
		if strings.Contains(t.Certificate, "*") != strings.Contains(t.Key, "*") {
			errs = append(errs, errors.New("tls: certificate and key must both hold a \"*\", or neither"))
		}
	}
	return errors.Join(errs...)
}

func (g *Ingress) validateHosts() error {
	var errs []error
	seen := map[string]bool{}
	known := func(name string) {
		errs = append(errs, checkHostPattern(name))
		if seen[name] {
			errs = append(errs, fmt.Errorf("host %q is there twice", name))
		}
		seen[name] = true
	}
	for _, h := range g.Hosts {
		known(h.Name)
		if h.Service.Service.IsZero() && len(h.Paths) == 0 {
			errs = append(errs, fmt.Errorf("host %q leads to no service", h.Name))
		}
		if len(h.Paths) > maxIngressPaths {
			errs = append(errs, fmt.Errorf("host %q has more than %d path_prefix blocks", h.Name, maxIngressPaths))
		}
		for i, p := range h.Paths {
			errs = append(errs, checkPath("path_prefix", p.Prefix))
			if p.Service.Service.IsZero() {
				errs = append(errs, fmt.Errorf("host %q, path_prefix %q leads to no service", h.Name, p.Prefix))
			}
			if slices.ContainsFunc(h.Paths[:i], func(q IngressPath) bool { return q.Prefix == p.Prefix }) {
				errs = append(errs, fmt.Errorf("host %q, path_prefix %q is there twice", h.Name, p.Prefix))
			}
		}
	}
	for _, p := range g.Passthrough {
		known(p.Name)
		if p.Service.Service.IsZero() {
			errs = append(errs, fmt.Errorf("passthrough %q leads to no service", p.Name))
		}
	}
	return errors.Join(errs...)
}

// Trusts reports whether host is a proxy that is believed.
func (g *Ingress) Trusts(host netip.Addr) bool {
	host = host.Unmap().WithZone("")
	return slices.ContainsFunc(g.TrustedProxies, func(p netip.Prefix) bool { return p.Contains(host) })
}

// Services returns the services that the ingress leads to.
func (g *Ingress) Services() []ServiceRef {
	var all []ServiceRef
	add := func(r ServiceRef) {
		if !r.Service.IsZero() && !slices.Contains(all, r) {
			all = append(all, r)
		}
	}
	add(g.TCP)
	for _, h := range g.Hosts {
		add(h.Service)
		for _, p := range h.Paths {
			add(p.Service)
		}
	}
	for _, p := range g.Passthrough {
		add(p.Service)
	}
	return all
}

// Size is a number of octets that reads and writes as text ("10MiB") in JSON and HCL.
type Size int64

var sizeUnits = []struct {
	name string
	size int64
}{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// String writes s with the largest unit that it is a multiple of.
func (s Size) String() string {
	for _, u := range sizeUnits {
		if s != 0 && int64(s)%u.size == 0 {
			return strconv.FormatInt(int64(s)/u.size, 10) + u.name
		}
	}
	return "0B"
}

// MarshalText writes the form of String.
func (s Size) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a whole number with one of the units B, KiB, MiB and GiB.
func (s *Size) UnmarshalText(b []byte) error {
	for _, u := range sizeUnits {
		digits, found := strings.CutSuffix(string(b), u.name)
		if !found {
			continue
		}
		n, err := strconv.ParseUint(digits, 10, 63)
		if err != nil || int64(n) > math.MaxInt64/u.size {
			break
		}
		*s = Size(int64(n) * u.size)
		return nil
	}
	return fmt.Errorf("size %q is not valid: write a number and a unit, such as \"512KiB\" or \"10MiB\"", b)
}
