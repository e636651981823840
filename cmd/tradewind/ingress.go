package main

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) ingressCommand() *cobra.Command {
	cmd := group("ingress", "Show the listeners for callers from outside", `Show the listeners by which callers from outside reach services of
this region and of its peers. They are changed by "tradewind apply"; whether one may call a service, intentions decide by its identity.`,
		&cobra.Command{
			Use: "list", Aliases: []string{"ls"}, Short: "List ingresses with where they listen and what is wrong", Args: takes(0, 0),
			RunE: c.withGateway(usualTimeout, c.listIngresses),
		},
		&cobra.Command{
			Use: "show NAME", Short: "Show one ingress: its hosts, where they lead, and its problems", Args: takes(1, 1),
			ValidArgsFunction: c.completeIngresses,
			RunE:              c.withGateway(usualTimeout, c.showIngress),
		})
	cmd.Aliases = []string{"ingresses"}
	return cmd
}

func (c *cli) completeIngresses(cmd *cobra.Command, args []string, start string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return c.completeResources(cmd, []string{string(federation.KindIngress)}, start)
}

func (c *cli) listIngresses(ctx context.Context, gw *admin.Client, _ []string) error {
	res, err := gw.ListIngresses(ctx, &admin.ListIngressesRequest{})
	if err != nil {
		return err
	}
	var names []string
	var rows [][]cell
	for _, g := range res.Ingresses {
		names = append(names, g.Name)
		problem := ""
		if len(g.Problems) > 0 {
			problem = problemText(&g.Problems[0])
		}
		rows = append(rows, []cell{{text: g.Name, style: strong}, listening(&g), {text: speaks(&g.Spec)}, {text: hostsOf(&g.Spec)},
			{text: g.Spec.Identity.String()}, {text: fmt.Sprint(g.Connections)}, {text: problem}})
	}
	return c.emit(answer{value: res, items: listOf(res.Ingresses), names: names, table: func(s *screen) {
		if len(rows) == 0 {
			s.line("No ingresses: nobody from outside reaches the mesh by this gateway.")
			return
		}
		s.table([]string{"INGRESS", "LISTENS", "SPEAKS", "HOSTS", "IDENTITY", "OPEN", "PROBLEM"}, rows)
	}})
}

func listening(g *admin.IngressStatus) cell {
	if g.Listening == "" {
		return cell{text: "not", style: bad}
	}
	return cell{text: g.Listening}
}

// speaks is what a listener expects, in a word or two.
func speaks(g *federation.Ingress) string {
	switch {
	case !g.TCP.Service.IsZero() && len(g.TLS) > 0:
		return "TLS"
	case !g.TCP.Service.IsZero():
		return "TCP"
	case len(g.Hosts) == 0 && len(g.Passthrough) > 0:
		return "TLS, passed through"
	case g.HTTP3:
		return "HTTPS, HTTP/3"
	case len(g.TLS) > 0:
		return "HTTPS"
	}
	return "HTTP"
}

// hostsOf lists the first hosts of g.
func hostsOf(g *federation.Ingress) string {
	const few = 3
	var names []string
	for _, h := range g.Hosts {
		names = append(names, h.Name)
	}
	for _, p := range g.Passthrough {
		names = append(names, p.Name)
	}
	if more := len(names) - few; more > 0 {
		return fmt.Sprintf("%s and %d more", joined(names[:few]), more)
	}
	return joined(names)
}

func (c *cli) showIngress(ctx context.Context, gw *admin.Client, args []string) error {
	res, err := gw.ListIngresses(ctx, &admin.ListIngressesRequest{})
	if err != nil {
		return err
	}
	at := slices.IndexFunc(res.Ingresses, func(g admin.IngressStatus) bool { return g.Name == args[0] })
	if at < 0 {
		return &federation.Diagnostic{Code: "TW-1204", What: fmt.Sprintf("there is no ingress %q", args[0]),
			Fix: "see those that there are: tradewind ingress list", Err: admin.ErrNotFound}
	}
	g := &res.Ingresses[at]
	return c.emit(answer{value: g, names: []string{g.Name}, table: func(s *screen) { c.ingressScreen(s, g) }})
}

func (c *cli) ingressScreen(s *screen, g *admin.IngressStatus) {
	s.line("%s  %s", s.paint(strong, g.Name), speaks(&g.Spec))
	s.fields("listens", listening(g).text, "identity", g.Spec.Identity.String(), "open", fmt.Sprint(g.Connections))
	if rules := ingressRules(&federation.IngressHost{RateLimits: g.Spec.RateLimits, ErrorPages: g.Spec.ErrorPages}); rules != "" {
		s.fields("rules", rules)
	}
	var rows [][]cell
	row := func(host, path, how string, to federation.ServiceRef) {
		if !to.Service.IsZero() {
			rows = append(rows, text(host, path, to.String(), how))
		}
	}
	row("any", "", "bytes", g.Spec.TCP)
	for i := range g.Spec.Hosts {
		h := &g.Spec.Hosts[i]
		how := "requests"
		if rules := ingressRules(h); rules != "" {
			how += ": " + rules
		}
		for _, p := range h.Paths {
			row(h.Name, p.Prefix, how, p.Service)
		}
		row(h.Name, "/", how, h.Service)
	}
	for _, p := range g.Spec.Passthrough {
		row(p.Name, "", "TLS, passed through", p.Service)
	}
	if len(rows) > 0 {
		s.line("")
		s.table([]string{"HOST", "PATH", "SERVICE", "CARRIED"}, rows)
	}
	c.ingressCertificates(s, g.Certificates)
	for i := range g.Problems {
		p := &g.Problems[i]
		s.line("")
		s.fields("problem", problemText(p), "why", p.Why, "fix", p.Fix)
	}
}

// ingressRules is what a host asks of requests beside where they lead.
func ingressRules(h *federation.IngressHost) string {
	var words []string
	for _, l := range h.RateLimits {
		words = append(words, fmt.Sprintf("at most %s for each %s", l.Rate, l.Per))
	}
	if len(h.RequireToken) > 0 {
		words = append(words, "a token of "+strings.Join(h.RequireToken, " or "))
	}
	if h.CORS != nil {
		words = append(words, "CORS for "+joined(h.CORS.Origins))
	}
	if len(h.Compress) > 0 {
		words = append(words, joined(h.Compress))
	}
	for _, p := range h.ErrorPages {
		words = append(words, fmt.Sprintf("a page for %s", strings.Trim(strings.ReplaceAll(fmt.Sprint(p.Status), " ", ", "), "[]")))
	}
	return strings.Join(words, "; ")
}

func (c *cli) ingressCertificates(s *screen, list []admin.IngressCertificate) {
	var rows [][]cell
	for _, cert := range list {
		left := cell{text: cmp.Or(c.until(cert.Expires), "none yet")}
		if strings.HasPrefix(left.text, "EXPIRED") {
			left.style = bad
		}
		renewed, failure := "with its file", cell{text: cert.Failure, style: bad}
		switch now := c.now(); {
		case cert.Next.After(now):
			renewed = "tried again in " + c.until(cert.Next)
		case cert.Renews.After(now):
			renewed = "in " + c.until(cert.Renews)
		case cert.Source == "acme":
			renewed = "being ordered"
		}
		if !cert.Since.IsZero() {
			failure.text += ", first " + c.ago(cert.Since)
		}
		rows = append(rows, []cell{{text: joined(cert.Names)}, {text: cert.Source}, {text: cert.From}, left, {text: renewed}, failure})
	}
	if len(rows) > 0 {
		s.line("")
		s.table([]string{"CERTIFICATE FOR", "SOURCE", "FROM", "VALID FOR", "RENEWED", "FAILURE"}, rows)
	}
}
