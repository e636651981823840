package config

import (
	"fmt"
	"net"
	"net/url"
	"slices"
)

// jwksBlock says where the keys of jwt resources may be fetched from. Who may write resources cannot make the gateway ask other hosts.
type jwksBlock struct {
	Hosts []string `hcl:"hosts"`
}

func (b *builder) keyHosts(g *Gateway, raw *jwksBlock) {
	if raw == nil {
		return
	}
	for _, h := range raw.Hosts {
		host, _, err := net.SplitHostPort(h)
		if err != nil {
			host = h
		}
		if net.ParseIP(host) == nil {
			if u, err := url.Parse("https://" + h + "/"); err != nil || u.Hostname() != host || u.Hostname() == "" || u.Host != h {
				b.fail("jwks.hosts", fmt.Errorf("%q is no host: write \"idp.example.com\" or \"idp.example.com:8443\"", h))
			}
		}
	}
	g.KeyHosts = slices.Compact(slices.Sorted(slices.Values(raw.Hosts)))
}
