package agent

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/gateways/ingress"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// door returns the jwt resources of which one must vouch for a request's token before anything judges it, because its caller comes from
// outside by an ingress, and remarks on that. A request that names no host of an ingress comes by none.
func (a *Agent) door(source, to federation.ServiceRef, r *admin.HTTPRequest) (require, notes []string) {
	view := a.plane.View()
	if source.Region != "" && source.Region != federation.Local && source.Region != view.Region {
		return nil, nil
	}
	for i := range view.Ingresses {
		g := &view.Ingresses[i]
		if g.Identity != source.Service {
			continue
		}
		if r != nil && r.Host != "" {
			if h := ingress.HostOf(g, match.Host(r.Host)); require == nil && h != nil && leadsTo(h, to) && len(h.RequireToken) > 0 {
				require = h.RequireToken
				notes = append(notes, fmt.Sprintf("by ingress %q, whose host %s asks for a token of %s", g.Name, h.Name,
					strings.Join(require, " or ")))
			}
			continue
		}
		for n := range g.Hosts {
			if h := &g.Hosts[n]; leadsTo(h, to) && len(h.RequireToken) > 0 {
				notes = append(notes, fmt.Sprintf("ingress %q asks requests for %s for a token of %s, which this answer leaves out: ask with --host",
					g.Name, h.Name, strings.Join(h.RequireToken, " or ")))
			}
		}
	}
	return require, notes
}

// leadsTo reports whether requests for h may go to service.
func leadsTo(h *federation.IngressHost, to federation.ServiceRef) bool {
	leads := func(p federation.IngressPath) bool { return p.Service.Service == to.Service }
	return h.Service.Service == to.Service || slices.ContainsFunc(h.Paths, leads)
}
