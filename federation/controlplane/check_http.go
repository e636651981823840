package controlplane

import (
	"fmt"
	"maps"
	"slices"

	"github.com/tradewind-mesh/tradewind/federation"
)

// speaks returns how service speaks in region, or when that is empty wherever it is seen first: here, then at the peers by name. found is
// false when nobody has it.
func (c *checker) speaks(service federation.ServiceName, region federation.Region) (p federation.Protocol, found bool) {
	if region == "" || region == federation.Local || region == c.here {
		if declared, here := c.after.services[service]; here && declared.Protocol != "" {
			return declared.Protocol, true
		}
		if s := c.local.Service(service); s != nil {
			return s.Protocol, true
		}
		if _, here := c.after.services[service]; here {
			return federation.ProtocolTCP, true
		}
	}
	for _, peer := range slices.Sorted(maps.Keys(c.imports)) {
		if s := c.imports[peer].Service(service); s != nil && (region == "" || region == peer) {
			return s.Protocol, true
		}
	}
	return "", false
}

// route warns of what a route cannot do, or sends requests to and is not there.
func (c *checker) route(where string, r *federation.Route) {
	switch p, found := c.speaks(r.Service, ""); {
	case !found:
		c.leads(where, federation.ServiceRef{Service: r.Service})
	case !p.IsHTTP():
		c.warn(WarnProtocol, fmt.Sprintf("%s has no effect: the service is carried as tcp", where),
			"nobody looks into what is sent to it, so no rule is asked",
			`declare that it speaks: service "`+r.Service.String()+`" { protocol = "http" }`)
	}
	for _, rule := range r.Rules {
		for _, s := range rule.Split {
			c.region(where, "split", string(s.Region))
			c.split(where, r.Service, rule.Name, s)
		}
		if rule.Mirror != nil {
			c.leads(where, federation.ServiceRef{Service: rule.Mirror.Service})
		}
	}
}

// introduces warns of a PROXY header that nobody gets.
func (c *checker) introduces(where string, r *federation.Resolver) {
	if p, found := c.speaks(r.Service, ""); found && p.IsHTTP() && r.ProxyProtocol != "" {
		c.warn(WarnProtocol, fmt.Sprintf("proxy_protocol of %s has no effect: the service speaks %s", where, p),
			"connections to its instances are shared by many callers", "read who the client is in X-Forwarded-For")
	}
}

// split warns of a service or a subset that is not there.
func (c *checker) split(where string, of federation.ServiceName, rule string, s federation.Split) {
	service := of
	if !s.Service.IsZero() {
		service = s.Service
		c.leads(where, federation.ServiceRef{Service: service})
	}
	if s.Subset == "" {
		return
	}
	if _, found := c.after.resolvers[service].Subsets[s.Subset]; !found {
		c.warn(WarnSubset,
			fmt.Sprintf("%s sends requests by rule %q to the subset %q of %q, which does not exist", where, rule, s.Subset, service),
			"no instance is in it, so these requests reach nobody", fmt.Sprintf("define it: resolver %q { subset %q { ... } }", service, s.Subset))
	}
}

// requests warns of an intention for certain requests to a service whose requests cannot be told apart. Patterns for many services are
// left alone: they may well mean others.
func (c *checker) requests(where string, i *federation.Intention, destination federation.Pattern) {
	c.claims(where, i)
	if len(i.HTTP) == 0 || destination.Name == "*" || destination.Namespace == "*" {
		return
	}
	region := federation.Region(destination.Region)
	if region == "*" {
		region = ""
	}
	service := federation.ServiceName{Namespace: destination.Namespace, Name: destination.Name}
	p, found := c.speaks(service, region)
	if !found || p.IsHTTP() {
		return
	}
	effect := "allows nothing"
	if i.Action == federation.Deny {
		effect = "denies every connection"
	}
	c.warn(WarnProtocol, fmt.Sprintf("%s is for certain requests and so %s: %q is carried as tcp", where, effect, service),
		"nobody looks into what is sent to it, so requests cannot be told apart",
		`declare that it speaks: service "`+service.String()+`" { protocol = "http" }; or leave the http blocks out`)
}

// claims warns of a provider of tokens that is not there, once for each.
func (c *checker) claims(where string, i *federation.Intention) {
	missing := map[string]bool{}
	look := func(provider string) {
		if c.after.records[federation.Key{Kind: federation.KindJWT, Name: provider}] == nil {
			missing[provider] = true
		}
	}
	for _, p := range i.HTTP {
		if p.Token != "" {
			look(p.Token)
		}
		for _, claim := range p.Claims {
			look(claim.Provider)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(missing)) {
		c.warn(WarnTokens, fmt.Sprintf("%s asks for claims of the token provider %q, which does not exist", where, name),
			"nothing can vouch for its tokens, so nobody has such a claim, and who brings a bearer token is refused",
			fmt.Sprintf("declare it: jwt %q { ... }", name))
	}
}

// required warns of a provider of tokens that is not there, and without whose token a host lets nobody in.
func (c *checker) required(where string, g *federation.Ingress) {
	for _, h := range g.Hosts {
		for _, name := range h.RequireToken {
			if c.after.records[federation.Key{Kind: federation.KindJWT, Name: name}] == nil {
				c.warn(WarnTokens, fmt.Sprintf("%s requires a token of the provider %q for host %q, which does not exist", where, name, h.Name),
					"nothing can vouch for its tokens, so who brings one is refused", fmt.Sprintf("declare it: jwt %q { ... }", name))
			}
		}
	}
}
