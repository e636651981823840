package controlplane

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// checkListeners refuses two listeners on one address: one of them could never listen.
func (w *planner) checkListeners(after *resources) {
	first := map[string]federation.Key{}
	check := func(key federation.Key, listen string) {
		address := listenAddress(listen)
		other, taken := first[address]
		if !taken || address == "" {
			first[address] = key
			return
		}
		w.errs = append(w.errs, &federation.Diagnostic{Code: CodeListen,
			What: fmt.Sprintf("%s listens on %s, which %v has", at(key, w.listed[key]), listen, other),
			Fix:  "give one of them another address"})
	}
	for _, u := range after.upstreams {
		check(federation.Key{Kind: federation.KindUpstream, Name: u.Name}, u.Listen)
	}
	for _, g := range after.ingresses {
		check(federation.Key{Kind: federation.KindIngress, Name: g.Name}, g.Listen)
	}
}

// listenAddress returns the one spelling of a listen address, or "" for one that cannot collide.
func listenAddress(listen string) string {
	if path, ok := strings.CutPrefix(listen, "unix:"); ok {
		return "unix:" + filepath.Clean(path)
	}
	address, err := netip.ParseAddrPort(listen)
	switch {
	case err != nil:
		return listen
	case address.Port() == 0: // the kernel picks one
		return ""
	}
	return netip.AddrPortFrom(address.Addr().Unmap(), address.Port()).String()
}

// checker looks for what can be applied but may not do what was meant.
type checker struct {
	here     federation.Region
	after    *resources
	local    *federation.Catalog
	peers    map[federation.Region]bool
	imports  map[federation.Region]*federation.Import
	warnings []*federation.Diagnostic
}

// warnings returns what is doubtful about the resources that change puts, given that all of after is in force.
func (p *Plane) warnings(after *resources, change Change) []*federation.Diagnostic {
	p.mu.Lock()
	peers, imports := p.inbox.peers, p.inbox.imports
	p.mu.Unlock()
	c := &checker{here: p.cfg.Region, after: after, local: p.cfg.Registry.Catalog(), peers: map[federation.Region]bool{}, imports: imports}
	for _, peer := range peers {
		c.peers[peer.Region] = true
	}
	var pairs map[[2]federation.Pattern][]string
	for _, put := range change.Put {
		key := canonical(put.Key)
		r := after.records[key]
		if r == nil {
			continue
		}
		where := at(key, put.Source)
		switch spec := r.resource.Spec.(type) {
		case *federation.Export:
			c.export(where, spec)
		case *federation.Intention:
			if pairs == nil {
				pairs = c.intentionPairs()
			}
			c.intention(where, spec, pairs)
		case *federation.Resolver:
			for _, region := range spec.Failover {
				c.region(where, "failover", region)
			}
			c.introduces(where, spec)
		case *federation.Route:
			c.route(where, spec)
		case *federation.Upstream:
			c.leads(where, spec.Service)
		case *federation.Ingress:
			for _, service := range spec.Services() {
				c.leads(where, service)
			}
			c.required(where, spec)
		}
	}
	return c.warnings
}

// maxWarnings bounds what one change is warned of: nobody reads more, and a change can hold 10,000 of the same mistake.
const maxWarnings = 100

func (c *checker) warn(code federation.Code, what, why, fix string) {
	if len(c.warnings) >= maxWarnings {
		return
	}
	c.warnings = append(c.warnings, &federation.Diagnostic{Code: code, What: what, Why: why, Fix: fix})
}

// region warns of a region that is neither this one nor a peer.
func (c *checker) region(where, field, region string) {
	r := federation.Region(region)
	if region == "" || region == "*" || r == federation.Local || r == c.here || c.peers[r] {
		return
	}
	c.warn(WarnRegion, fmt.Sprintf("%s names the region %q in %q, which is neither this one nor a peer", where, region, field),
		"until there is a peering with it, this has no effect", "check the spelling, or peer with it")
}

func (c *checker) hasLocal(name federation.ServiceName) bool {
	_, declared := c.after.services[name]
	return declared || c.local.Service(name) != nil
}

func (c *checker) export(where string, e *federation.Export) {
	if !c.hasLocal(e.Service) {
		c.warn(WarnService, fmt.Sprintf("%s exports a service that this region does not have", where),
			"no source has seen it and no service resource declares it", "check the spelling; peers see it as soon as it appears")
	}
	for _, to := range e.To {
		c.region(where, "to", to)
	}
}

// leads warns of a listener that leads to a service which is not there.
func (c *checker) leads(where string, to federation.ServiceRef) {
	c.region(where, "service", string(to.Region))
	known := (to.Region == "" || to.Region == c.here) && c.hasLocal(to.Service)
	for region, imported := range c.imports {
		known = known || (to.Region == "" || to.Region == region) && imported.Service(to.Service) != nil
	}
	if !known {
		c.warn(WarnService, fmt.Sprintf("%s leads to the service %q, which nobody shows yet", where, to),
			"neither this region nor a peer has it", "check the spelling, and that the peer exports it to this region")
	}
}

func (c *checker) intention(where string, i *federation.Intention, pairs map[[2]federation.Pattern][]string) {
	source, destination, ok := c.patterns(i)
	if !ok {
		return
	}
	c.region(where, "source", source.Region)
	c.region(where, "destination", destination.Region)
	c.requests(where, i, destination)
	others := pairs[[2]federation.Pattern{source, destination}]
	if len(others) < 2 {
		return
	}
	other := others[0]
	if other == i.Name {
		other = others[1]
	}
	c.warn(WarnDuplicate, fmt.Sprintf("%s has the same source and destination as intention %q", where, other),
		"of such intentions a deny counts before an allow, then the stricter one, and the others have no effect", "keep one of them")
}

// intentionPairs groups the names of all intentions by what they speak of.
func (c *checker) intentionPairs() map[[2]federation.Pattern][]string {
	pairs := map[[2]federation.Pattern][]string{}
	for i := range c.after.intentions {
		if source, destination, ok := c.patterns(&c.after.intentions[i]); ok {
			pair := [2]federation.Pattern{source, destination}
			pairs[pair] = append(pairs[pair], c.after.intentions[i].Name)
		}
	}
	return pairs
}

// patterns reads the patterns of i with the region filled in.
func (c *checker) patterns(i *federation.Intention) (source, destination federation.Pattern, ok bool) {
	source, errSource := federation.ParsePattern(i.Source)
	destination, errDestination := federation.ParsePattern(i.Destination)
	for _, p := range []*federation.Pattern{&source, &destination} {
		if p.Region == "" {
			p.Region = string(c.here)
		}
	}
	return source, destination, errSource == nil && errDestination == nil
}
