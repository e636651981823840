package main

import (
	"cmp"
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) statusCommand() *cobra.Command {
	var strict, watch bool
	cmd := &cobra.Command{
		Use: "status", Short: "Show the gateway, its peers and its problems on one screen", Args: takes(0, 0),
		Long: `Show the gateway, its peers with the age of what they showed, failovers, certificates and problems on one screen.

Where the gateway runs is what location { } in gateway.hcl says, and what the cloud's metadata service adds; -o wide shows all of it.

With --strict the exit code is 4 when something is degraded: a stale catalog, a path that is down, a problem.

With --watch the status is shown until Ctrl-C: on a terminal the screen is drawn anew every second, elsewhere there is one line for each
change, and with -o jsonl one document.`,
		Example: "  tradewind status\n  tradewind status --watch\n  tradewind status -o json | jq '.peers[] | {region, state}'",
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, _ []string) error {
			if watch {
				return c.watchStatus(ctx, gw)
			}
			st, err := gw.Status(ctx, &admin.StatusRequest{})
			if err != nil {
				return err
			}
			if err := c.emit(answer{value: st, names: []string{string(st.Region)}, table: func(s *screen) {
				c.showStatus(s,
					st)
			}}); err != nil {
				return err
			}
			if why := degraded(st); strict && why != "" {
				return &exit{exitDegraded, &federation.Diagnostic{Code: "TW-8026", What: "the gateway is degraded", Why: why,
					Fix: "tradewind check"}}
			}
			return nil
		}),
	}
	cmd.Flags().BoolVar(&strict, "strict", false, "exit with 4 when something is degraded")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on until Ctrl-C, and show what changes")
	cmd.MarkFlagsMutuallyExclusive("strict", "watch")
	return cmd
}

// degraded says what is not as it should be, or nothing.
func degraded(st *admin.Status) string {
	var why []string
	if st.State != admin.StateReady {
		why = append(why, "the gateway is "+string(st.State))
	}
	for _, p := range st.Peers {
		if p.State == federation.PeeringActive && p.Import.Freshness != federation.FreshnessLive {
			why = append(why, fmt.Sprintf("the catalog of %s is %v", p.Region, p.Import.Freshness))
		}
		if p.State == federation.PeeringFailing {
			why = append(why, fmt.Sprintf("%s is failing", p.Region))
		}
	}
	if len(st.Problems) > 0 {
		why = append(why, count(len(st.Problems), "problem"))
	}
	return strings.Join(why, ", ")
}

func (c *cli) showStatus(s *screen, st *admin.Status) {
	state := map[admin.GatewayState]style{admin.StateReady: good, admin.StateStarting: warn, admin.StateDraining: warn}[st.State]
	line := []string{s.paint(strong, string(st.Region)), s.paint(state, string(st.State)), "up " + span(st.UptimeSeconds.D())}
	config := fmt.Sprintf("config %d", st.Generation)
	if !st.Configured.IsZero() {
		config += " (" + c.ago(st.Configured) + ")"
	}
	line = append(line, config, fmt.Sprintf("view %d", st.View), st.Version)
	s.line("%s", strings.Join(line, "  "))
	t := st.Traffic
	services := fmt.Sprintf("%d local, %d imported, %d exported", st.Services.Local, st.Services.Imported, st.Services.Exported)
	if st.Services.Failing > 0 {
		services += s.paint(bad, fmt.Sprintf(", %d failing", st.Services.Failing))
	}
	traffic := fmt.Sprintf("%d open, %d opened, %d denied, %d failed", t.Active, t.Opened, t.Denied, t.Failed)
	pairs := []string{"gateway", st.Gateway + " in " + st.TrustDomain + located(st.Location), "services", services, "traffic", traffic, "certificates",
		c.certificates(st.Certificates)}
	if s.wide {
		if at := st.Location; at != (admin.Location{}) {
			pairs = append(pairs, "location", strings.Join(strings.Fields(strings.Join([]string{at.Provider, at.Account, at.Region, at.Zone, at.ZoneID,
				at.Instance}, " ")), " "))
		}
		pairs = append(pairs, "fingerprint", st.Certificates.Fingerprint)
		for _, l := range st.Listeners {
			pairs = append(pairs, "listens", strings.TrimSpace(l.Name+" "+l.Address+" "+l.Network+" "+l.Error))
		}
		for _, src := range st.Sources {
			pairs = append(pairs, "source", strings.TrimSpace(fmt.Sprintf("%s, %s %s", src.Name, count(src.Instances, "instance"),
				src.Error)))
		}
	}
	s.fields(pairs...)
	s.line("")
	if len(st.Peers) == 0 {
		s.line("No peers yet.  Add one: tradewind peer generate-token REGION")
	} else {
		c.peerTable(s, st.Peers)
	}
	for _, d := range st.Drains {
		c.drainLine(s, &d)
	}
	for _, f := range st.Failovers {
		to := string(f.To)
		if to == "" {
			to = "nobody"
		}
		line := fmt.Sprintf("%v goes to %s instead of %s", f.Service, to, f.From)
		if !f.Since.IsZero() {
			line += ", since " + c.ago(f.Since)
		}
		if f.Reason != "" {
			line += ": " + f.Reason
		}
		s.line("%s  %s", s.paint(warn, "FAILOVER"), line)
	}
	for _, p := range st.Problems {
		s.problem(p)
	}
	if len(st.Problems) > 0 {
		s.line("every check: tradewind check")
	}
}

// located is where the gateway runs, in few words.
func located(at admin.Location) string {
	if zone := cmp.Or(at.Zone, at.Region); at.Provider != "" || zone != "" {
		return ", at " + strings.TrimSpace(at.Provider+" "+zone)
	}
	return ""
}

func (s *screen) problem(p admin.Problem) {
	glyph, st := "✗", bad
	if p.Severity == admin.SeverityWarning {
		glyph, st = "!", warn
	}
	s.line("%s %s %s: %s", s.paint(st, glyph), s.paint(st, string(p.Severity)), p.Code, p.What)
	if p.Why != "" {
		s.line("%s", hang("    why  ", p.Why))
	}
	if p.Fix != "" {
		s.line("%s", hang("    fix  ", p.Fix))
	}
}

func (c *cli) certificates(cs admin.CertificateSummary) string {
	var parts []string
	add := func(name string, t admin.Time) {
		if !t.IsZero() {
			parts = append(parts, name+" "+c.until(t))
		}
	}
	add("CA", cs.CANotAfter)
	add("gateway", cs.GatewayNotAfter)
	add("renews in", cs.GatewayRenews)
	parts = append(parts, fmt.Sprintf("%d issued", cs.Issued))
	if cs.Revoked > 0 {
		parts = append(parts, fmt.Sprintf("%d revoked", cs.Revoked))
	}
	return strings.Join(parts, ", ")
}
