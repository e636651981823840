//go:build !no_consul

package agent

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/consul"
)

// importsFor returns which imports a Consul is to show and why not the others: an import is shown where this gateway has an upstream
// for it that other hosts can reach. It is nil while listeners are being opened.
func (a *Agent) importsFor(cfg *config.SyncToConsul) *shownImports {
	view := a.plane.View()
	homes := map[federation.ServiceName][]federation.Region{}
	for _, region := range slices.Sorted(maps.Keys(view.Imports)) {
		for name := range view.Imports[region].Services {
			if cfg.Wants(name) {
				homes[name] = append(homes[name], region)
			}
		}
	}
	listeners := map[federation.ServiceName][]mesh.ListenerStatus{} // in order of name, those pinned to a region last
	for _, pinned := range []bool{false, true} {
		for _, l := range a.mesh.Listeners() {
			if l.Address == nil && l.Problem == nil {
				return nil
			}
			if service := l.Upstream.Service; (service.Region != "") == pinned {
				listeners[service.Service] = append(listeners[service.Service], l)
			}
		}
	}
	out := &shownImports{}
	for _, name := range slices.SortedFunc(maps.Keys(homes), federation.ServiceName.Compare) {
		e, why, fix := a.entry(cfg, homes[name], listeners[name])
		if why != "" {
			out.hidden = hide(out.hidden, name, why, fix)
			continue
		}
		e.Service = name
		out.entries = append(out.entries, e)
	}
	return out
}

// entry is the import of a service from homes as Consul is to show it: by the first of its listeners that other hosts can reach.
// Otherwise it returns why it is not, and what would change that.
func (a *Agent) entry(
	cfg *config.SyncToConsul, homes []federation.Region, listeners []mesh.ListenerStatus,
) (e consul.Entry, why, fix string) {
	why = "this gateway has no upstream for it"
	fix = "add an upstream that listens on an address of this host, with the callers' networks in allow_from"
	for i, l := range listeners {
		regions := homes
		if pinned := l.Upstream.Service.Region; pinned != "" {
			if !slices.Contains(homes, pinned) {
				continue
			}
			regions = []federation.Region{pinned}
		}
		address, no, do := a.reachable(cfg, l)
		if no == "" {
			return consul.Entry{Regions: regions, Address: address, Healthy: a.serves(l.Upstream.Service)}, "", ""
		}
		if i == 0 {
			why, fix = no, do
		}
	}
	return e, why, fix
}

// serves reports whether a call to ref would find a healthy instance now.
func (a *Agent) serves(ref federation.ServiceRef) bool {
	upstream, found := a.table.Load().Upstream(ref)
	if !found {
		return false
	}
	for i := range upstream.Candidates {
		c := &upstream.Candidates[i]
		if healthy, _ := c.Health(); healthy > 0 && (c.IsLocal() || a.tunnel.Path(c.Region).Up) {
			return true
		}
	}
	return false
}

// reachable returns where other hosts reach l, or why they do not and what would change that.
func (a *Agent) reachable(cfg *config.SyncToConsul, l mesh.ListenerStatus) (at netip.AddrPort, why, fix string) {
	if l.Problem != nil && l.Address == nil {
		return at, l.Problem.Reason(), l.Problem.Fix
	}
	tcp, isTCP := l.Address.(*net.TCPAddr)
	if !isTCP || tcp.IP.IsLoopback() {
		return at, "its upstream can be reached from this host only",
			fmt.Sprintf("let upstream %q listen on an address of this host, with the callers' networks in allow_from", l.Upstream.Name)
	}
	at = tcp.AddrPort()
	if host := at.Addr().Unmap(); !host.IsUnspecified() {
		return netip.AddrPortFrom(host.WithZone(""), at.Port()), "", ""
	}
	// Go's wildcard of IPv6 takes IPv4 as well, that of IPv4 nothing else.
	only4 := at.Addr().Is4()
	own := a.addresses()
	if cfg.Address != "" {
		own = []string{net.JoinHostPort(cfg.Address, "0")}
	}
	for _, text := range own {
		if host, err := netip.ParseAddrPort(text); err == nil && !host.Addr().IsLoopback() && (host.Addr().Is4() || !only4) {
			return netip.AddrPortFrom(host.Addr(), at.Port()), "", ""
		}
	}
	return at, "its upstream listens on all addresses, and this gateway does not know which of them callers can reach",
		"set address in sync_to_consul"
}

// mostHidden is how many services are named for each reason.
const mostHidden = 10

// hide adds service to those that are not shown for a reason.
func hide(list []admin.HiddenImports, service federation.ServiceName, why, fix string) []admin.HiddenImports {
	i := slices.IndexFunc(list, func(h admin.HiddenImports) bool { return h.Why == why && h.Fix == fix })
	if i < 0 {
		list = append(list, admin.HiddenImports{Why: why, Fix: fix})
		i = len(list) - 1
	}
	list[i].Count++
	if len(list[i].Services) < mostHidden {
		list[i].Services = append(list[i].Services, service)
	}
	return list
}
