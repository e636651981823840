package agent

import (
	"context"

	"golang.org/x/sync/errgroup"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// applyIngresses makes the north-south listeners those of view. What is wrong with them is in the log, and in "status" for as long
// as it lasts; readiness does not depend on it, since the mesh works without.
func (a *Agent) applyIngresses(view *federation.View) {
	for _, p := range a.ingress.Apply(view.Ingresses) {
		a.log.Warn("ingress", "code", string(p.Code), "what", p.What, "why", p.Why)
	}
}

// drainCallers waits until the open connections of callers have ended, those from outside too.
func (a *Agent) drainCallers(ctx context.Context) error {
	var g errgroup.Group
	g.Go(func() error { return a.ingress.Drain(ctx) })
	g.Go(func() error { return a.mesh.Drain(ctx) })
	return g.Wait()
}

// ListIngresses implements admin.Ingresses.
func (a *Agent) ListIngresses(context.Context, *admin.ListIngressesRequest) (*admin.ListIngressesResponse, error) {
	out := &admin.ListIngressesResponse{}
	for _, s := range a.ingress.Status() {
		status := admin.IngressStatus{Name: s.Ingress.Name, Connections: s.Connections, Spec: s.Ingress}
		if s.Address != nil {
			status.Listening = s.Address.String()
		}
		for _, d := range s.Problems {
			status.Problems = append(status.Problems, admin.ProblemOf(severityOf(d), "", d))
		}
		for _, c := range s.Certificates {
			status.Certificates = append(status.Certificates, admin.IngressCertificate{Source: c.Source, From: c.From, Names: c.Names,
				Expires: admin.At(c.NotAfter), Renews: admin.At(c.Renews), Failure: c.Failure, Since: admin.At(c.Since), Next: admin.At(c.Next)})
		}
		out.Ingresses = append(out.Ingresses, status)
	}
	return out, nil
}

// severityOf says whether what a listener is for still works.
func severityOf(d *federation.Diagnostic) admin.Severity {
	if d.Code == federation.CodeIngressExpired || d.Code == federation.CodeIngressRenewal || d.Code == federation.CodeIngressPage {
		return admin.SeverityWarning
	}
	return admin.SeverityError
}

// checkIngresses has a result for each ingress, or one for each of its problems.
func (a *Agent) checkIngresses() []admin.CheckResult {
	var results []admin.CheckResult
	for _, s := range a.ingress.Status() {
		name := "ingress " + s.Ingress.Name
		if len(s.Problems) == 0 {
			results = append(results, pass(name))
		}
		for _, d := range s.Problems {
			status := admin.CheckFail
			if severityOf(d) == admin.SeverityWarning {
				status = admin.CheckWarn
			}
			results = append(results, admin.Failed(name, status, d))
		}
	}
	return results
}

// ingressListeners is the addresses of the ingresses, as "status" shows them.
func (a *Agent) ingressListeners() []admin.ListenerStatus {
	var out []admin.ListenerStatus
	for _, s := range a.ingress.Status() {
		l := admin.ListenerStatus{Name: s.Ingress.Name, Address: s.Ingress.Listen, Network: "tcp"}
		if s.Ingress.HTTP3 {
			l.Network = "udp+tcp"
		}
		for _, d := range s.Problems {
			if d.Code == federation.CodeIngressListen {
				l.Error = d.Error()
			}
		}
		out = append(out, l)
	}
	return out
}

// unboundIngresses is what is wrong with the ingresses among wanted: only binding an address tells.
func (a *Agent) unboundIngresses(wanted map[string]bool) []*federation.Diagnostic {
	var problems []*federation.Diagnostic
	for _, s := range a.ingress.Status() {
		if wanted[s.Ingress.Name] {
			problems = append(problems, s.Problems...)
		}
	}
	return problems
}
