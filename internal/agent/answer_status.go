package agent

import (
	"context"
	"slices"
	"time"

	dto "github.com/prometheus/client_model/go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// Status implements admin.Answers.
func (a *Agent) Status(context.Context, *admin.StatusRequest) (*admin.Status, error) {
	cfg, view := a.cfg.Load(), a.plane.View()
	a.reloading.Lock()
	generation, configured := a.generation, a.configured
	a.reloading.Unlock()
	out := &admin.Status{
		Region: cfg.Region, TrustDomain: cfg.TrustDomain.Name(), Gateway: cfg.Name, Version: a.opts.Version,
		Location: a.location.Load().Location, State: a.state.Load().(admin.GatewayState), Started: admin.At(a.started), UptimeSeconds: admin.SecondsOf(time.Since(a.started)),
		Generation: generation, Configured: admin.At(configured), View: view.Number,
		Listeners: a.listeners(), Traffic: a.traffic(), Services: a.serviceCounts(view), Peers: a.peerings(), Sources: a.sources(),
		Certificates: a.certificateSummary(),
	}
	for _, f := range a.mesh.Failovers() {
		out.Failovers = append(out.Failovers, admin.FailoverStatus{Service: f.Service, From: f.From, To: f.To, Since: admin.At(f.Since)})
	}
	out.Drains = a.drains()
	for _, p := range a.tokens.Status() {
		t := admin.TokenProvider{Name: p.Provider, Keys: p.Keys, Skipped: p.Skipped, Confirmed: admin.At(p.At), Error: p.Error}
		if !p.At.IsZero() {
			t.AgeSeconds = admin.SecondsOf(time.Since(p.At))
		}
		out.Tokens = append(out.Tokens, t)
	}
	report := a.runChecks("")
	for _, severity := range []admin.CheckStatus{admin.CheckFail, admin.CheckWarn} {
		for _, g := range report.Groups {
			for _, c := range g.Results {
				if c.Status == severity {
					out.Problems = append(out.Problems, problemOf(c))
				}
			}
		}
	}
	return out, nil
}

func problemOf(c admin.CheckResult) admin.Problem {
	severity := admin.SeverityWarning
	if c.Status == admin.CheckFail {
		severity = admin.SeverityError
	}
	return admin.Problem{Severity: severity, Code: c.Code, What: c.What, Why: c.Why, Fix: c.Fix}
}

func (a *Agent) listeners() []admin.ListenerStatus {
	cfg := a.opts.Config
	mesh := a.tunnel.Addr()
	out := []admin.ListenerStatus{{Name: "mesh", Address: mesh.String(), Network: mesh.Network()}}
	if addr := a.tunnel.TCPAddr(); addr != nil && mesh.Network() != addr.Network() {
		out = append(out, admin.ListenerStatus{Name: "mesh", Address: addr.String(), Network: "tcp"})
	}
	if addr := a.mesh.LocalAddr(); addr != nil {
		out = append(out, admin.ListenerStatus{Name: "local", Address: addr.String(), Network: "tcp"})
	}
	if addr := a.admin.Addr(); addr != nil {
		out = append(out, admin.ListenerStatus{Name: "admin", Address: addr.String(), Network: "tcp"})
	}
	out = append(out, admin.ListenerStatus{Name: "admin", Address: "unix:" + cfg.AdminSocket, Network: "unix"})
	for _, l := range a.mesh.Listeners() {
		network, _, _ := l.Upstream.Address() // it was valid when it was applied
		s := admin.ListenerStatus{Name: l.Upstream.Name, Address: l.Upstream.Listen, Network: network}
		if l.Problem != nil {
			s.Error = l.Problem.Error()
		}
		out = append(out, s)
	}
	return append(out, a.ingressListeners()...)
}

func (a *Agent) serviceCounts(view *federation.View) admin.ServiceCounts {
	out := admin.ServiceCounts{Local: len(view.Local.Names())}
	for _, name := range view.Local.Names() {
		if healthy, _ := view.Local.Service(name).Lane.Sum(); healthy == 0 {
			out.Failing++
		}
	}
	imported := map[federation.ServiceName]bool{}
	for _, imp := range view.Imports {
		for name := range imp.Services {
			imported[name] = true
		}
	}
	out.Imported = len(imported)
	for _, e := range view.Exports {
		if view.Local.Service(e.Service) != nil {
			out.Exported++
		}
	}
	return out
}

func (a *Agent) certificateSummary() admin.CertificateSummary {
	s := a.trust.Status()
	out := admin.CertificateSummary{Fingerprint: s.Fingerprint, GatewayNotAfter: admin.At(s.Gateway.NotAfter), GatewayRenews: admin.At(s.Gateway.RenewAt),
		Issued: s.Issued, Revoked: s.Revoked}
	if len(s.Roots) > 0 {
		out.CANotAfter = admin.At(s.Roots[0].NotAfter)
	}
	return out
}

// traffic sums up the data path's counters, both ways.
func (a *Agent) traffic() admin.Traffic {
	families, err := a.metrics.Gather()
	if err != nil {
		a.log.Warn("gather metrics", "error", err)
	}
	sum := func(name string, labels ...string) uint64 {
		total := 0.0
		for _, f := range families {
			if f.GetName() != name {
				continue
			}
			for _, m := range f.GetMetric() {
				if hasLabels(m, labels) {
					total += m.GetCounter().GetValue()
				}
			}
		}
		return uint64(total)
	}
	refused, denied := sum("tradewind_tcp_refused_total"), sum("tradewind_intention_decisions_total", "decision", "deny")
	return admin.Traffic{Active: uint64(max(0, a.mesh.Open())), Opened: sum("tradewind_tcp_opened_total"), Denied: denied,
		Failed: refused - min(refused, denied), BytesIn: sum("tradewind_tcp_bytes_total", "flow", "received"),
		BytesOut: sum("tradewind_tcp_bytes_total", "flow", "sent")}
}

// hasLabels reports whether m has all of the given labels, listed as name, value.
func hasLabels(m *dto.Metric, labels []string) bool {
	for i := 0; i+1 < len(labels); i += 2 {
		if !slices.ContainsFunc(m.GetLabel(), func(l *dto.LabelPair) bool { return l.GetName() == labels[i] && l.GetValue() == labels[i+1] }) {
			return false
		}
	}
	return true
}
