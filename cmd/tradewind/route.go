package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) routeCommand() *cobra.Command {
	cmd := group("route", "Show what becomes of requests, and try it", `Show the routes of services that speak HTTP, and say what would become
of a request, without sending one. Routes are changed by "tradewind apply".`,
		&cobra.Command{
			Use: "list", Aliases: []string{"ls"}, Short: "List routes", Args: takes(0, 0),
			RunE: c.withGateway(usualTimeout, c.listRoutes),
		},
		&cobra.Command{
			Use: "show SERVICE", Short: "Show the rules of a service's route, in the order they are asked", Args: takes(1, 1),
			ValidArgsFunction: c.completeServices,
			RunE:              c.withGateway(usualTimeout, c.showRoute),
		},
		c.routeTestCommand())
	cmd.Aliases = []string{"routes"}
	return cmd
}

func (c *cli) listRoutes(ctx context.Context, gw *admin.Client, _ []string) error {
	res, err := gw.ListResources(ctx, &admin.ListResourcesRequest{Kinds: []federation.Kind{federation.KindRoute}})
	if err != nil {
		return err
	}
	var names []string
	var rows [][]cell
	for _, r := range res.Resources {
		names = append(names, r.Name)
		if route, ok := r.Spec.(*federation.Route); ok {
			rows = append(rows, []cell{{text: r.Name, style: strong}, {text: strconv.Itoa(len(route.Rules))}, {text: ruleNames(route)},
				{text: r.Owner}})
		}
	}
	return c.emit(answer{value: res, items: listOf(res.Resources), names: names, table: func(s *screen) {
		if len(rows) == 0 {
			s.line("No routes: requests go to the service they are for.")
			return
		}
		s.table([]string{"SERVICE", "RULES", "IN ORDER", "OWNER"}, rows)
	}})
}

// ruleNames lists the first rules of r by name.
func ruleNames(r *federation.Route) string {
	const few = 6
	var names []string
	for i, rule := range r.Rules {
		if i == few {
			names = append(names, "...")
			break
		}
		names = append(names, rule.Name)
	}
	return strings.Join(names, ", ")
}

func (c *cli) showRoute(ctx context.Context, gw *admin.Client, args []string) error {
	service, err := parseService(args[0])
	if err != nil {
		return err
	}
	res, err := gw.GetResource(ctx, &admin.GetResourceRequest{Key: federation.Key{Kind: federation.KindRoute, Name: service.String()}})
	if errors.Is(err, admin.ErrNotFound) {
		return &federation.Diagnostic{Code: "TW-1204", What: fmt.Sprintf("there is no route %q", service),
			Why: "requests for a service without one go to the service as they come", Fix: "see those that there are: tradewind route list", Err: err}
	}
	if err != nil {
		return err
	}
	route, ok := res.Resource.Spec.(*federation.Route)
	if !ok {
		return fmt.Errorf("the gateway sent a %T for a route", res.Resource.Spec)
	}
	var names []string
	var rows [][]cell
	for i := range route.Rules {
		rule := &route.Rules[i]
		names = append(names, rule.Name)
		rows = append(rows, []cell{{text: strconv.Itoa(i + 1)}, {text: rule.Name, style: strong}, {text: matchesText(rule.Match)},
			{text: doesText(rule)}})
	}
	err = c.emit(answer{value: res.Resource, names: names, table: func(s *screen) {
		s.table([]string{"#", "RULE", "REQUESTS", "WHAT IT DOES"}, rows)
		s.line("The first that matches decides; what none matches goes to the service.")
	}})
	if err == nil {
		c.next("tradewind route test GET http://%s/", service.Name)
	}
	return err
}

func (c *cli) routeTestCommand() *cobra.Command {
	var a asks
	var service, from string
	cmd := &cobra.Command{
		Use: "test METHOD URL", Short: "Say what would become of a request, and why", Args: takes(2, 2),
		Long: `Say what would become of a request, and why: which rule of the route matches and why those before it do not, what it does,
what is forwarded, which intention decides on that here and at the peer, and who would serve it. Nothing is sent. The URL's host is the
service, as SERVICE or SERVICE@REGION; with --service it is the host that the request names, and may be left out. The path is taken as the
caller would send it. The exit codes are those of "tradewind explain".`,
		Example: `  tradewind route test GET http://checkout/api/items?page=2
  tradewind route test POST http://checkout@azure-westeurope/api --from web --header "x-canary: 1"
  get-a-token | tradewind route test GET http://checkout/admin --token -
  tradewind route test GET /api --service shop/checkout --host shop.example.com`,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			authority, target, err := splitURL(args[1])
			if err != nil {
				return err
			}
			a.method, a.path = args[0], target
			to := service
			if to == "" {
				to = authority
				if name, port, found := strings.Cut(authority, ":"); found && !strings.Contains(port, ":") {
					to = name
				}
			} else {
				a.host = cmp.Or(a.host, authority)
			}
			if to == "" {
				return usage("the URL names no service", "write http://SERVICE/path, or --service SERVICE")
			}
			return c.explainCall(ctx, gw, [2]string{from, to}, &a)
		}),
	}
	a.flags(cmd, false)
	cmd.Flags().StringVar(&service, "service", "", "the service that is called (default: the URL's host)")
	cmd.Flags().StringVar(&from, "from", "", "who calls (default: the caller of the upstream to the service, when there is but one)")
	_ = cmd.RegisterFlagCompletionFunc("service", c.completeServices) // an error is a flag that does not exist
	_ = cmd.RegisterFlagCompletionFunc("from", c.completeServices)
	return cmd
}

// splitURL cuts a URL where the path begins, and leaves both parts as they are: what is wrong with them is the gateway's to say.
func splitURL(url string) (authority, target string, err error) {
	rest := url
	if scheme, after, found := strings.Cut(url, "://"); found {
		if scheme != "http" && scheme != "https" {
			return "", "", usage(fmt.Sprintf("the URL %q is not one of http", url), "write http://SERVICE/path")
		}
		rest = after
	}
	i := strings.IndexAny(rest, "/?#")
	if i < 0 {
		return rest, "/", nil
	}
	authority, target = rest[:i], rest[i:]
	if target[0] != '/' {
		target = "/" + target
	}
	return authority, target, nil
}
