package config

import "github.com/tradewind-mesh/tradewind/federation"

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
	for _, t := range g.TLS {
		b := w.block("tls")
		b.text("certificate", t.Certificate)
		b.text("key", t.Key)
	}
	for _, h := range g.Hosts {
		b := w.block("host", h.Name)
		b.reference("service", h.Service)
		for _, p := range h.Paths {
			b.block("path_prefix", p.Prefix).reference("service", p.Service)
		}
	}
	for _, p := range g.Passthrough {
		w.block("passthrough", p.Name).reference("service", p.Service)
	}
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
