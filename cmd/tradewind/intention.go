package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) intentionCommand() *cobra.Command {
	cmd := group("intention", "Say who may call what", `Say who may call what. What no intention allows is denied; a deny wins over an
allow that is as specific, and a specific intention wins over a general one. SOURCE and DESTINATION are services ("web", "shop/web"),
services of another region ("web@gcp-europe-west1") or patterns ("shop/*", "*@gcp-europe-west1", "*@*").`,
		&cobra.Command{
			Use: "list", Aliases: []string{"ls"}, Short: "List intentions", Args: takes(0, 0),
			RunE: c.withGateway(usualTimeout, c.listIntentions),
		},
		c.intendCommand(federation.Allow), c.intendCommand(federation.Deny), c.intentionTestCommand())
	cmd.Aliases = []string{"intentions"}
	return cmd
}

func (c *cli) listIntentions(ctx context.Context, gw *admin.Client, _ []string) error {
	res, err := gw.ListResources(ctx, &admin.ListResourcesRequest{Kinds: []federation.Kind{federation.KindIntention}})
	if err != nil {
		return err
	}
	var names []string
	var rows [][]cell
	for _, r := range res.Resources {
		names = append(names, r.Name)
		i, ok := r.Spec.(*federation.Intention)
		if !ok {
			continue
		}
		st := map[federation.Action]style{federation.Allow: good, federation.Deny: bad}[i.Action]
		require := ""
		if i.Require != federation.AssuranceNone {
			require = i.Require.String()
		}
		action := string(i.Action)
		if i.Mode == federation.Shadow {
			action, st = action+" (shadow)", faint
		}
		requests := "all"
		if len(i.HTTP) > 0 {
			requests = permissionText(i.HTTP[0])
			if more := len(i.HTTP) - 1; more > 0 {
				requests += fmt.Sprintf(" or %d more", more)
			}
		}
		rows = append(rows, []cell{{text: action, style: st}, {text: i.Source}, {text: i.Destination}, {text: requests}, {text: require},
			{text: r.Name}, {text: r.Owner}, {text: i.Description}})
	}
	return c.emit(answer{value: res, items: listOf(res.Resources), names: names, table: func(s *screen) {
		if len(rows) == 0 {
			s.line("No intentions: every call is denied.  Allow one: tradewind intention allow SOURCE DESTINATION")
			return
		}
		s.table([]string{"ACTION", "SOURCE", "DESTINATION", "REQUESTS", "REQUIRE", "NAME", "OWNER", "DESCRIPTION"}, rows)
	}})
}

func (c *cli) intendCommand(action federation.Action) *cobra.Command {
	var opts struct {
		name, require, description string
		f                          changeFlags
	}
	word := map[federation.Action]string{federation.Allow: "Allow", federation.Deny: "Deny"}[action]
	cmd := &cobra.Command{
		Use: string(action) + " SOURCE DESTINATION", Short: word + " calls from a source to a destination", Args: takes(2, 2),
		Long: word + ` calls from SOURCE to DESTINATION. There is one intention for each pair: allowing what was denied changes it,
and the other way round.`,
		Example: fmt.Sprintf("  tradewind intention %s web checkout\n  tradewind intention %s web@gcp-europe-west1 checkout",
			action, action),
		ValidArgsFunction: c.completeServices,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			spec := &federation.Intention{Source: args[0], Destination: args[1], Action: action, Description: opts.description}
			if opts.require != "" {
				level, err := federation.ParseAssurance(opts.require)
				if err != nil {
					return usage(err.Error(), "")
				}
				spec.Require = level
			}
			name := opts.name
			if name == "" {
				name = intentionName(args[0], args[1])
			}
			r := federation.Resource{Key: federation.Key{Kind: federation.KindIntention, Name: name}, Spec: spec}
			if err := r.Validate(); err != nil {
				return usage(err.Error(), `write services such as web, shop/web or web@gcp-europe-west1, or patterns such as "shop/*"`)
			}
			opts.f.yes = true // two names were typed out; that is enough of a confirmation
			return c.apply(ctx, gw, &admin.ChangeRequest{Owner: owner, Put: []federation.Resource{r}, Force: opts.f.force}, opts.f)
		}),
	}
	cmd.Flags().StringVar(&opts.name, "name", "", "name of the intention (default: from source and destination)")
	cmd.Flags().StringVar(&opts.description, "description", "", "why, for those who come after you")
	if action == federation.Allow {
		cmd.Flags().StringVar(&opts.require, "require", "", "least proof of the caller's identity: binding or mtls")
	}
	cmd.Flags().BoolVar(&opts.f.force, "force", false, "take over an intention of another owner")
	cmd.Flags().BoolVar(&opts.f.dryRun, "dry-run", false, "only show what would change")
	return cmd
}

// intentionName names the intention for a pair: "web-to-checkout". What cannot be in a name is replaced, and a name that would
// be too long ends in a part of its hash.
func intentionName(source, destination string) string {
	name := strings.NewReplacer("*", "any", "/", "-", "@", "-").Replace(source + "-to-" + destination)
	if len(name) <= 63 {
		return name
	}
	sum := sha256.Sum256([]byte(source + " " + destination))
	return strings.TrimRight(name[:54], "-") + "-" + hex.EncodeToString(sum[:4])
}

func (c *cli) intentionTestCommand() *cobra.Command {
	var a asks
	cmd := &cobra.Command{
		Use: "test SOURCE DESTINATION", Short: "Say whether a call would be allowed", Args: takes(2, 2),
		Long: `Say whether a call would be allowed, and by which intention: here, and at the peer that would serve it. Of a service that
speaks HTTP, --method, --path, --header, --host and --token ask about one request. The exit code is 6 when it is denied. Whether anybody could serve
it is not asked; that is "tradewind explain".`,
		ValidArgsFunction: c.completeServices,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			e, err := c.askExplain(ctx, gw, [2]string(args), &a)
			if err != nil {
				return err
			}
			if e.Verdict == admin.VerdictAnswered || e.Verdict == admin.VerdictRefused { // before any intention is asked
				return c.tellTest(e, e.Decision, e.Verdict == admin.VerdictAnswered, args)
			}
			if e.Decision.Rule == "" && e.Verdict == admin.VerdictDenied { // for the token that it brings
				return c.tellTest(e, e.Decision, false, args)
			}
			if e.Decision.Rule == "" { // nothing to decide about
				return &exit{exitUnreachable, fmt.Errorf("no intention was asked: %s", e.Reason)}
			}
			decision, allowed := e.Decision, e.Decision.Allowed && (e.Exported == nil || *e.Exported)
			if allowed && e.Remote != nil {
				decision, allowed = *e.Remote, e.Remote.Allowed
			}
			return c.tellTest(e, decision, allowed, args)
		}),
	}
	a.flags(cmd, true)
	return cmd
}

// tellTest tells the outcome of a test of intentions.
func (c *cli) tellTest(e *admin.Explanation, decision admin.ExplainedDecision, allowed bool, args []string) error {
	word, st := "allowed", good
	switch {
	case e.Verdict == admin.VerdictAnswered, e.Verdict == admin.VerdictRefused:
		word, st = string(e.Verdict), styles[e.Verdict]
	case !allowed:
		word, st = "denied", bad
	case e.Conditional || decision.Conditional && e.Request == nil:
		word = "allowed for certain requests"
	}
	value := struct {
		Allowed     bool                 `json:"allowed"`
		At          federation.Region    `json:"at"`
		Rule        string               `json:"rule,omitempty"`
		Shadow      string               `json:"shadow,omitempty"`
		Conditional bool                 `json:"conditional,omitempty"`
		Reason      string               `json:"reason"`
		Tokens      []admin.TokenFinding `json:"tokens,omitempty"`
		Notes       []string             `json:"notes,omitempty"`
	}{allowed, e.At, decision.Rule, decision.Shadow, e.Conditional, e.Reason, e.Tokens, e.Notes}
	err := c.emit(answer{value: value, names: []string{word}, table: func(s *screen) {
		s.line("%s at %s: %s", s.paint(st, word), e.At, e.Reason)
		if decision.Shadow != "" {
			s.line("  in shadow mode %s would say the opposite", decision.Shadow)
		}
		tokenLines(s, e.Tokens)
		for _, n := range e.Notes {
			s.line("  note: %s", n)
		}
	}})
	if err == nil && !allowed {
		same := ""
		if e.Request != nil {
			same = " with the same flags"
		}
		c.next("tradewind explain %s %s%s", args[0], args[1], same)
		return &exit{code: exitDenied}
	}
	return err
}
