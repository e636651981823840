package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) servicesCommand() *cobra.Command {
	cmd := group("services", "Show the catalog, with origin and age, and export services", "",
		&cobra.Command{
			Use: "list", Aliases: []string{"ls"}, Short: "List services, where they run, who is shown them, and where calls go now",
			Args:    takes(0, 0),
			Example: "  tradewind services list\n  tradewind services list -o name",
			RunE:    c.withGateway(usualTimeout, c.listServices),
		},
		&cobra.Command{
			Use: "show SERVICE", Short: "Show one service: instances, imports, order, policy", Args: takes(1, 1),
			Example:           "  tradewind services show checkout",
			ValidArgsFunction: c.completeServices,
			RunE:              c.withGateway(usualTimeout, c.showService),
		},
		c.exportCommand(), c.unexportCommand())
	cmd.Aliases = []string{"service"}
	return cmd
}

func (c *cli) listServices(ctx context.Context, gw *admin.Client, _ []string) error {
	res, err := gw.ListServices(ctx, &admin.ListServicesRequest{})
	if err != nil {
		return err
	}
	var names []string
	for _, s := range res.Services {
		names = append(names, s.Name.String())
	}
	err = c.emit(answer{value: res, items: listOf(res.Services), names: names, table: func(s *screen) {
		if len(res.Services) == 0 {
			s.line("No services yet, neither here nor from peers.")
			return
		}
		var rows [][]cell
		for _, svc := range res.Services {
			rows = append(rows, serviceRow(svc))
		}
		s.table([]string{"SERVICE", "HEALTHY", "HOME", "EXPORTED TO", "AGE", "ORDER NOW"}, rows)
	}})
	if err != nil {
		return err
	}
	if len(res.Services) == 0 {
		c.next("tradewind instance register SERVICE --address IP:PORT")
	} else {
		c.next("tradewind services show %s", res.Services[0].Name)
	}
	return nil
}

func serviceRow(svc admin.ServiceStatus) []cell {
	var healthy, total uint32
	var homes []federation.Region
	age, ageStyle := "", plain
	for _, h := range svc.Homes {
		healthy += h.Healthy
		total += h.Total
		homes = append(homes, h.Region)
		if !h.Local && age == "" {
			age, ageStyle = freshAge(h.Freshness, h.AgeSeconds)
		}
	}
	health := good
	switch {
	case healthy == 0:
		health = bad
	case healthy < total:
		health = warn
	}
	return []cell{{text: svc.Name.String(), style: strong}, {text: fmt.Sprintf("%d/%d", healthy, total), style: health},
		{text: joined(homes)},
		{text: joined(svc.ExportedTo)}, {text: age, style: ageStyle}, {text: order(svc.Order)}}
}

// freshAge writes the age of an import, and its freshness unless it is LIVE.
func freshAge(f federation.Freshness, age admin.Seconds) (string, style) {
	text := span(age.D())
	switch f {
	case federation.FreshnessLive:
		return text, plain
	case federation.FreshnessStale:
		return text + " STALE", warn
	}
	return text + " " + f.String(), bad
}

// order writes where calls go: the chosen target has a star.
func order(targets []admin.ServiceTarget) string {
	var parts []string
	for _, t := range targets {
		part := string(t.Region)
		if t.Chosen {
			part += "*"
		}
		part += fmt.Sprintf(" %d/%d", t.Healthy, t.Total)
		if t.Reason != "" {
			part += " (" + t.Reason + ")"
		}
		parts = append(parts, part)
	}
	return strings.Join(parts, " → ")
}

func (c *cli) showService(ctx context.Context, gw *admin.Client, args []string) error {
	name, err := parseService(args[0])
	if err != nil {
		return err
	}
	svc, err := gw.ShowService(ctx, &admin.ShowServiceRequest{Service: name})
	if err != nil {
		return err
	}
	if err := c.emit(answer{value: svc, names: []string{svc.Name.String()}, table: func(s *screen) {
		c.serviceScreen(s,
			svc)
	}}); err != nil {
		return err
	}
	if !slices.ContainsFunc(svc.Resources, func(r federation.Resource) bool { return r.Kind == federation.KindIntention }) {
		c.next("tradewind intention allow CALLER %s   (nobody may call it yet)", svc.Name)
	} else {
		c.next("tradewind explain CALLER %s", svc.Name)
	}
	return nil
}

func (c *cli) serviceScreen(s *screen, svc *admin.ServiceDetail) {
	s.line("%s  %s", s.paint(strong, svc.Name.String()), svc.Protocol)
	failover := ""
	if r := svc.Resolver; r != nil {
		failover = strings.Join(r.Failover, ", ")
	}
	s.fields("identity", svc.Identity, "exported to", joined(svc.ExportedTo), "failover", failover, "order now", order(svc.Order))
	if len(svc.Instances) > 0 {
		s.line("")
		c.instanceTable(s, svc.Instances)
		c.checkTable(s, svc.Instances)
	}
	if len(svc.Imports) > 0 {
		s.line("")
		var rows [][]cell
		for _, imp := range svc.Imports {
			age := ""
			for _, h := range svc.Homes {
				if h.Region == imp.Region && !h.Local {
					age, _ = freshAge(h.Freshness, h.AgeSeconds)
				}
			}
			for _, slot := range imp.Slots {
				rows = append(rows, text(string(imp.Region), slot.Key, slot.Zone, fmt.Sprintf("%d/%d", slot.Healthy, slot.Total), age))
			}
		}
		s.table([]string{"FROM", "SLOT", "ZONE", "HEALTHY", "AGE"}, rows)
	}
	if len(svc.Resources) > 0 {
		s.line("")
		resourceTable(s, svc.Resources)
	}
}
