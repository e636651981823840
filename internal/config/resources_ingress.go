package config

import (
	"net/netip"

	"github.com/hashicorp/hcl/v2"

	"github.com/tradewind-mesh/tradewind/federation"
)

type ingressBlock struct {
	Name        string             `hcl:"name,label"`
	At          hcl.Range          `hcl:",def_range"`
	Listen      string             `hcl:"listen"`
	Identity    string             `hcl:"identity"`
	TLS         []tlsBlock         `hcl:"tls,block"`
	Hosts       []hostBlock        `hcl:"host,block"`
	Passthrough []passthroughBlock `hcl:"passthrough,block"`
	TCP         string             `hcl:"tcp,optional"`

	HTTP3          bool     `hcl:"http3,optional"`
	HTTPSRedirect  bool     `hcl:"https_redirect,optional"`
	ProxyProtocol  bool     `hcl:"proxy_protocol,optional"`
	TrustedProxies []string `hcl:"trusted_proxies,optional"`

	MaxBody                 string `hcl:"max_body,optional"`
	MaxHeader               string `hcl:"max_header,optional"`
	MaxConnections          int    `hcl:"max_connections,optional"`
	MaxConnectionsPerClient int    `hcl:"max_connections_per_client,optional"`

	RateLimits []rateLimitBlock `hcl:"rate_limit,block"`
	ErrorPages []errorPageBlock `hcl:"error_page,block"`
}

type tlsBlock struct {
	Certificate string     `hcl:"certificate,optional"`
	Key         string     `hcl:"key,optional"`
	ACME        *acmeBlock `hcl:"acme,block"`
}

type acmeBlock struct {
	Email       string   `hcl:"email"`
	Directory   string   `hcl:"directory,optional"`
	CAFile      string   `hcl:"ca_file,optional"`
	Names       []string `hcl:"names,optional"`
	TermsAgreed bool     `hcl:"terms_agreed"`
}

type hostBlock struct {
	Name    string        `hcl:"name,label"`
	At      hcl.Range     `hcl:",def_range"`
	Service string        `hcl:"service,optional"`
	Paths   []prefixBlock `hcl:"path_prefix,block"`

	RateLimits   []rateLimitBlock `hcl:"rate_limit,block"`
	CORS         *corsBlock       `hcl:"cors,block"`
	RequireToken []string         `hcl:"require_token,optional"`
	Compress     []string         `hcl:"compress,optional"`
	ErrorPages   []errorPageBlock `hcl:"error_page,block"`
}

type prefixBlock struct {
	Prefix  string    `hcl:"prefix,label"`
	At      hcl.Range `hcl:",def_range"`
	Service string    `hcl:"service"`
}

type passthroughBlock struct {
	Name    string    `hcl:"name,label"`
	At      hcl.Range `hcl:",def_range"`
	Service string    `hcl:"service"`
}

func (c converter) ingress(b ingressBlock) {
	spec := &federation.Ingress{Listen: b.Listen, HTTP3: b.HTTP3, HTTPSRedirect: b.HTTPSRedirect, ProxyProtocol: b.ProxyProtocol,
		MaxConnections: b.MaxConnections, MaxConnectionsPerClient: b.MaxConnectionsPerClient,
		RateLimits: c.rateLimits(b.RateLimits), ErrorPages: errorPages(b.ErrorPages)}
	c.text("identity", b.Identity, &spec.Identity, b.At)
	c.text("tcp", b.TCP, &spec.TCP, b.At)
	c.text("max_body", b.MaxBody, &spec.MaxBody, b.At)
	c.text("max_header", b.MaxHeader, &spec.MaxHeader, b.At)
	for _, t := range b.TLS {
		spec.TLS = append(spec.TLS, federation.IngressTLS{Certificate: t.Certificate, Key: t.Key, ACME: (*federation.IngressACME)(t.ACME)})
	}
	for _, h := range b.Hosts {
		host := federation.IngressHost{Name: h.Name, RateLimits: c.rateLimits(h.RateLimits), CORS: c.cors(h.CORS),
			RequireToken: h.RequireToken, Compress: h.Compress, ErrorPages: errorPages(h.ErrorPages)}
		c.text("service of a host", h.Service, &host.Service, h.At)
		for _, p := range h.Paths {
			path := federation.IngressPath{Prefix: p.Prefix}
			c.text("service of a path_prefix", p.Service, &path.Service, p.At)
			host.Paths = append(host.Paths, path)
		}
		spec.Hosts = append(spec.Hosts, host)
	}
	for _, p := range b.Passthrough {
		through := federation.IngressPassthrough{Name: p.Name}
		c.text("service of a passthrough", p.Service, &through.Service, p.At)
		spec.Passthrough = append(spec.Passthrough, through)
	}
	for _, network := range b.TrustedProxies {
		var p netip.Prefix
		c.text("trusted_proxies", network, &p, b.At)
		spec.TrustedProxies = append(spec.TrustedProxies, p)
	}
	c.put(federation.KindIngress, b.Name, b.At, spec)
}

type corsBlock struct {
	At          hcl.Range `hcl:",def_range"`
	Origins     []string  `hcl:"origins"`
	Methods     []string  `hcl:"methods,optional"`
	Headers     []string  `hcl:"headers,optional"`
	Expose      []string  `hcl:"expose,optional"`
	Credentials bool      `hcl:"credentials,optional"`
	MaxAge      string    `hcl:"max_age,optional"`
}

type errorPageBlock struct {
	Status      []int  `hcl:"status"`
	Body        string `hcl:"body,optional"`
	BodyFile    string `hcl:"body_file,optional"`
	ContentType string `hcl:"content_type,optional"`
}

func (c converter) cors(b *corsBlock) *federation.CORS {
	if b == nil {
		return nil
	}
	out := &federation.CORS{Origins: b.Origins, Methods: b.Methods, Headers: b.Headers, Expose: b.Expose, Credentials: b.Credentials}
	c.text("max_age", b.MaxAge, &out.MaxAge, b.At)
	return out
}

func errorPages(blocks []errorPageBlock) []federation.ErrorPage {
	var out []federation.ErrorPage
	for _, b := range blocks {
		out = append(out, federation.ErrorPage(b))
	}
	return out
}
