package config

import (
	"github.com/zclconf/go-cty/cty"

	"github.com/tradewind-mesh/tradewind/federation"
)

func (w writer) ingress(g *federation.Ingress) {
	w.text("listen", g.Listen)
	w.text("identity", g.Identity.String())
	w.reference("tcp", g.TCP)
	w.flag("http3", g.HTTP3)
	w.flag("https_redirect", g.HTTPSRedirect)
	w.flag("proxy_protocol", g.ProxyProtocol)
	var proxies []string
	for _, p := range g.TrustedProxies {
		proxies = append(proxies, p.String())
	}
	w.list("trusted_proxies", proxies)
	w.size("max_body", g.MaxBody)
	w.size("max_header", g.MaxHeader)
	w.number("max_connections", int64(g.MaxConnections))
	w.number("max_connections_per_client", int64(g.MaxConnectionsPerClient))
	w.rateLimits(g.RateLimits)
	w.errorPages(g.ErrorPages)
	for _, t := range g.TLS {
		b := w.block("tls")
		b.text("certificate", t.Certificate)
		b.text("key", t.Key)
		b.acme(t.ACME)
	}
	for _, h := range g.Hosts {
		b := w.block("host", h.Name)
		b.reference("service", h.Service)
		b.list("require_token", h.RequireToken)
		b.list("compress", h.Compress)
		b.rateLimits(h.RateLimits)
		b.cors(h.CORS)
		b.errorPages(h.ErrorPages)
		for _, p := range h.Paths {
			b.block("path_prefix", p.Prefix).reference("service", p.Service)
		}
	}
	for _, p := range g.Passthrough {
		w.block("passthrough", p.Name).reference("service", p.Service)
	}
}

func (w writer) cors(c *federation.CORS) {
	if c == nil {
		return
	}
	b := w.block("cors")
	b.list("origins", c.Origins)
	b.list("methods", c.Methods)
	b.list("headers", c.Headers)
	b.list("expose", c.Expose)
	b.flag("credentials", c.Credentials)
	b.duration("max_age", c.MaxAge)
}

func (w writer) errorPages(pages []federation.ErrorPage) {
	for _, p := range pages {
		b := w.block("error_page")
		var statuses []cty.Value
		for _, status := range p.Status {
			statuses = append(statuses, cty.NumberIntVal(int64(status)))
		}
		b.body.SetAttributeValue("status", cty.TupleVal(statuses))
		b.text("body", p.Body)
		b.text("body_file", p.BodyFile)
		b.text("content_type", p.ContentType)
	}
}

func (w writer) acme(a *federation.IngressACME) {
	if a == nil {
		return
	}
	b := w.block("acme")
	b.text("email", a.Email)
	b.text("directory", a.Directory)
	b.text("ca_file", a.CAFile)
	b.list("names", a.Names)
	b.flag("terms_agreed", a.TermsAgreed)
}

// reference writes the name of a service, if there is one.
func (w writer) reference(name string, r federation.ServiceRef) {
	if !r.Service.IsZero() {
		w.text(name, r.String())
	}
}

func (w writer) size(name string, s federation.Size) {
	if s != 0 {
		w.text(name, s.String())
	}
}
