package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) providerCommand() *cobra.Command {
	cmd := group("provider", "Show, refresh and test the providers that find instances", `Providers list workloads of a cloud, a registry
or the DNS. They are declared in gateway.hcl. What a provider could not list stays as it was last seen, and its age is shown.`,
		&cobra.Command{
			Use: "list", Aliases: []string{"ls"}, Short: "List providers with their state and age", Args: takes(0, 0),
			Example: "  tradewind provider list\n  tradewind provider list -o json",
			RunE:    c.withGateway(usualTimeout, c.listProviders),
		},
		&cobra.Command{
			Use: "show NAME", Short: "Show one provider: its scopes, and the workloads that are not used, by reason", Args: takes(1, 1),
			Long: `Shows the scopes of a provider, and the workloads that are not used, by reason. For Consul with a sync_to_consul block also
which imports Consul's users can call, by which address, and why others are not shown.`,
			Example: "  tradewind provider show corp", ValidArgsFunction: c.completeProviders,
			RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
				p, err := gw.ShowProvider(ctx, &admin.ProviderRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return c.showProvider(p)
			}),
		},
		&cobra.Command{
			Use: "sync NAME", Short: "List everything now, and wait for it", Args: takes(1, 1), ValidArgsFunction: c.completeProviders,
			Long: `Lists every scope of the provider now instead of when it is due, and shows what came of it. A listing that was held
because it shrank suddenly is confirmed by the next one, so by this.`,
			Example: "  tradewind provider sync corp",
			RunE: c.withGateway(peerTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
				p, err := gw.SyncProvider(ctx, &admin.ProviderRequest{Name: args[0]})
				if err != nil {
					return err
				}
				return c.showProvider(p)
			}),
		},
		&cobra.Command{
			Use: "test NAME", Short: "List everything once without using it, and name each permission that is missing", Args: takes(1, 1),
			ValidArgsFunction: c.completeProviders,
			Long: `Lists every scope once and shows what is wrong: a missing permission by the exact name that the provider has for it. What is
in use is not changed. The exit code is 3 when a scope cannot be listed.`,
			Example: "  tradewind provider test corp",
			RunE:    c.withGateway(peerTimeout, c.testProvider),
		})
	cmd.Aliases = []string{"providers"}
	return cmd
}

func (c *cli) listProviders(ctx context.Context, gw *admin.Client, _ []string) error {
	res, err := gw.ListProviders(ctx, &admin.ListProvidersRequest{})
	if err != nil {
		return err
	}
	var names []string
	var rows [][]cell
	for _, p := range res.Providers {
		names = append(names, p.Name)
		rows = append(rows, []cell{{text: p.Name, style: strong}, {text: p.Kind}, {text: p.State, style: scopeStyle(p.State)},
			{text: fmt.Sprint(p.Scopes)}, {text: fmt.Sprint(p.Workloads)}, {text: fmt.Sprint(p.Instances)}, {text: listedAge(p.AgeSeconds, p.Never)},
			{text: problemText(p.Problem)}})
	}
	err = c.emit(answer{value: res, items: listOf(res.Providers), names: names, table: func(s *screen) {
		if len(rows) == 0 {
			s.line("No providers: gateway.hcl has no provider block.")
			return
		}
		s.table([]string{"PROVIDER", "KIND", "STATE", "SCOPES", "WORKLOADS", "INSTANCES", "AGE", "PROBLEM"}, rows)
	}})
	if err == nil && len(names) > 0 {
		c.next("tradewind provider show %s", names[0])
	}
	return err
}

func scopeStyle(state string) style {
	switch state {
	case "ok":
		return good
	case "denied", "failed":
		return bad
	}
	return warn
}

// listedAge writes how old the last complete listing is.
func listedAge(age admin.Seconds, never bool) string {
	if never {
		return "never"
	}
	return span(age.D())
}

func problemText(p *admin.Problem) string {
	if p == nil {
		return ""
	}
	return string(p.Code) + " " + p.What
}

func (c *cli) showProvider(p *admin.ProviderDetail) error {
	err := c.emit(answer{value: p, names: []string{p.Name}, table: func(s *screen) { c.providerScreen(s, p) }})
	if err == nil && p.Problem != nil {
		c.next("tradewind provider test %s", p.Name)
	}
	return err
}

func (c *cli) providerScreen(s *screen, p *admin.ProviderDetail) {
	s.line("%s  %s  %s", s.paint(strong, p.Name), p.Kind, s.paint(scopeStyle(p.State), p.State))
	s.fields("workloads", fmt.Sprint(p.Workloads), "instances", fmt.Sprint(p.Instances))
	if p.Problem != nil {
		s.fields("problem", problemText(p.Problem), "why", p.Problem.Why, "fix", p.Problem.Fix)
	}
	if len(p.Details) > 0 {
		s.line("")
		var rows [][]cell
		for _, d := range p.Details {
			next := "watched"
			if !d.Watching {
				next = c.until(d.Next)
			}
			rows = append(rows, []cell{{text: d.Scope, style: strong}, {text: d.State, style: scopeStyle(d.State)}, {text: fmt.Sprint(d.Workloads)},
				{text: listedAge(d.AgeSeconds, d.LastComplete.IsZero())}, {text: next}, {text: fmt.Sprint(d.Calls)}, {text: fmt.Sprint(d.BadItems)},
				{text: problemText(d.Problem)}})
		}
		s.table([]string{"SCOPE", "STATE", "WORKLOADS", "AGE", "NEXT", "CALLS", "BAD", "PROBLEM"}, rows)
		for _, d := range p.Details {
			for _, b := range d.Bad {
				s.line("  %s: %s", b.ID, b.Why)
			}
		}
	}
	s.line("")
	for _, r := range p.Rules {
		what := []string{"service " + r.Service}
		for _, of := range []struct{ name, value string }{{"namespace", r.Namespace}, {"accounts", joined(r.Accounts)}, {"regions", joined(r.Regions)},
			{"networks", joined(r.Networks)}, {"export to", joined(r.Export)}} {
			if of.value != "" {
				what = append(what, of.name+" "+of.value)
			}
		}
		s.line("discover  %s", strings.Join(what, "; "))
	}
	for _, ig := range p.Ignored {
		s.line("")
		s.line("not used  %s: %s", ig.Reason, count(ig.Count, "workload"))
		for _, e := range ig.Examples {
			s.line("  %s: %s", e.ID, e.Why)
		}
		if more := ig.Count - len(ig.Examples); more > 0 {
			s.line("  and %d more", more)
		}
	}
	if p.Consul != nil {
		c.consulScreen(s, p.Consul)
	}
}

// consulScreen shows what sync_to_consul does.
func (c *cli) consulScreen(s *screen, sync *admin.ConsulSync) {
	last := "never"
	if !sync.LastSuccess.IsZero() {
		last = span(c.now().Sub(sync.LastSuccess.Time)) + " ago"
	}
	s.line("")
	s.line("%s  %s, last success %s", s.paint(strong, "imports in Consul"), count(len(sync.Entries), "service"), last)
	if sync.Problem != nil {
		s.fields("problem", problemText(sync.Problem), "why", sync.Problem.Why, "fix", sync.Problem.Fix)
	}
	var rows [][]cell
	for _, e := range sync.Entries {
		health := cell{text: "passing", style: good}
		if !e.Healthy {
			health = cell{text: "critical", style: bad}
		}
		rows = append(rows, []cell{{text: e.Name, style: strong}, {text: e.Service.String()}, {text: joined(e.Regions)}, {text: e.Address}, health})
	}
	if len(rows) > 0 {
		s.line("")
		s.table([]string{"IN CONSUL", "SERVICE", "REGIONS", "ADDRESS", "HEALTH"}, rows)
	}
	for _, h := range sync.NotShown {
		var names []string
		for _, name := range h.Services {
			names = append(names, name.String())
		}
		list := strings.Join(names, ", ")
		if more := h.Count - len(names); more > 0 {
			list += fmt.Sprintf(" and %d more", more)
		}
		s.line("")
		s.line("not shown  %s: %s", list, h.Why)
		s.fields("fix", h.Fix)
	}
}

func (c *cli) testProvider(ctx context.Context, gw *admin.Client, args []string) error {
	res, err := gw.TestProvider(ctx, &admin.ProviderRequest{Name: args[0]})
	if err != nil {
		return err
	}
	err = c.emit(answer{value: res, items: listOf(res.Results), names: []string{res.Name}, table: func(s *screen) {
		for _, r := range res.Results {
			scope := r.Scope
			if scope == "" {
				scope = "scopes"
			}
			if r.Problem == nil {
				s.line("%s  %s  %s in %s, %s", s.paint(good, "PASS"), scope, count(r.Workloads, "workload"), secs(r.TookSeconds), count(r.Calls, "call"))
				continue
			}
			s.line("%s  %s", s.paint(bad, "FAIL"), scope)
			missing := ""
			if r.Missing != "" {
				missing = "permission " + r.Missing
			}
			s.fields("missing", missing, "problem", problemText(r.Problem), "why", r.Problem.Why, "fix", r.Problem.Fix)
		}
	}})
	if err == nil && !res.Passed {
		return &exit{code: exitCheck}
	}
	return err
}

func (c *cli) completeProviders(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	return c.complete(cmd, start, func(ctx context.Context, gw *admin.Client, _ []string) error {
		res, err := gw.ListProviders(ctx, &admin.ListProvidersRequest{})
		if err != nil {
			return err
		}
		for _, p := range res.Providers {
			found = append(found, p.Name+"\t"+p.Kind+", "+p.State)
		}
		return nil
	}, &found)
}
