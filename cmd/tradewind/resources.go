package main

import (
	"bufio"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

const owner = "cli" // who the region's store remembers as the writer of what this program applies

// parseKind reads a kind of resource; the plural is forgiven.
func parseKind(s string) (federation.Kind, error) {
	for _, plural := range []string{"", "s", "es"} {
		if kind := federation.Kind(strings.TrimSuffix(s, plural)); federation.NewSpec(kind) != nil {
			return kind, nil
		}
	}
	return "", usage(fmt.Sprintf("kind %q is unknown", s), fmt.Sprintf("use one of %s", joined(federation.Kinds())))
}

func (c *cli) getCommand() *cobra.Command {
	return &cobra.Command{
		Use: "get [KIND [NAME]]", Short: "Show resources: services, exports, intentions, resolvers, routes, upstreams, ingresses, jwt", Args: takes(0, 2),
		Long: `Show resources as the region stores them. One resource is shown in full, several as a table; -o hcl and -o json write what
"tradewind apply -f" reads.`,
		Example:           "  tradewind get\n  tradewind get intention web-checkout\n  tradewind get -o hcl > all.hcl",
		Annotations:       map[string]string{"hcl": "yes"},
		ValidArgsFunction: c.completeResources,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 2 && !cmd.Flags().Changed("output") {
				c.flags.output = "hcl"
			}
			return c.withGateway(usualTimeout, c.get)(cmd, args)
		},
	}
}

func (c *cli) get(ctx context.Context, gw *admin.Client, args []string) error {
	request := &admin.ListResourcesRequest{}
	if len(args) > 0 {
		kind, err := parseKind(args[0])
		if err != nil {
			return err
		}
		request.Kinds = []federation.Kind{kind}
	}
	var list []federation.Resource
	var value any
	if len(args) == 2 {
		res, err := gw.GetResource(ctx, &admin.GetResourceRequest{Key: federation.Key{Kind: request.Kinds[0], Name: args[1]}})
		if err != nil {
			return err
		}
		list, value = []federation.Resource{res.Resource}, res.Resource
	} else {
		res, err := gw.ListResources(ctx, request)
		if err != nil {
			return err
		}
		list, value = res.Resources, res.Resources // a bare array: "tradewind apply -f" reads it
	}
	if c.flags.output == "hcl" {
		if _, err := c.out.Write(config.FormatHCL(list)); err != nil {
			return fmt.Errorf("write output: %w", err)
		}
		return nil
	}
	var names []string
	for _, r := range list {
		names = append(names, string(r.Kind)+"/"+r.Name)
	}
	return c.emit(answer{value: value, items: listOf(list), names: names, table: func(s *screen) {
		if len(list) == 0 {
			s.line("No resources.  Write some: tradewind apply -f FILE")
			return
		}
		resourceTable(s, list)
	}})
}

func resourceTable(s *screen, list []federation.Resource) {
	header := []string{"KIND", "NAME", "SAYS", "OWNER"}
	if s.wide {
		header = append(header, "VERSION", "SOURCE")
	}
	var rows [][]cell
	for _, r := range list {
		row := text(string(r.Kind), r.Name, summary(r.Spec), r.Owner)
		if s.wide {
			row = append(row, text(fmt.Sprint(r.Version), r.Source)...)
		}
		rows = append(rows, row)
	}
	s.table(header, rows)
}

// summary is a spec in a few words.
func summary(spec federation.Spec) string {
	switch s := spec.(type) {
	case *federation.Service:
		return strings.TrimSpace(fmt.Sprintf("%s %s, %s", s.Protocol, count(len(s.Instances), "static instance"), count(len(s.Checks),
			"check")))
	case *federation.Export:
		return "to " + strings.Join(s.To, ", ")
	case *federation.Intention:
		require := ""
		if s.Require != federation.AssuranceNone {
			require = ", requires " + s.Require.String()
		}
		if len(s.HTTP) > 0 {
			require += ", " + count(len(s.HTTP), "kind") + " of request"
		}
		if s.Mode == federation.Shadow {
			require += ", shadow"
		}
		return fmt.Sprintf("%s %s → %s%s", s.Action, s.Source, s.Destination, require)
	case *federation.Resolver:
		return "failover " + strings.Join(s.Failover, ", ")
	case *federation.Route:
		return count(len(s.Rules), "rule")
	case *federation.Upstream:
		return fmt.Sprintf("%s → %v as %v", s.Listen, s.Service, s.Caller)
	case *federation.JWT:
		return fmt.Sprintf("%s for %s", s.Issuer, joined(s.Audiences))
	case *federation.Ingress:
		var to []string
		for _, service := range s.Services() {
			to = append(to, service.String())
		}
		return fmt.Sprintf("%s → %s as %v", s.Listen, joined(to), s.Identity)
	case *federation.Drain:
		text := "calls go elsewhere"
		if !s.Until.IsZero() {
			text += " until " + s.Until.UTC().Format(time.RFC3339)
		}
		return text
	}
	return ""
}

// changeFlags are the flags of plan, apply and delete.
type changeFlags struct {
	files        []string
	prune, force bool
	yes, dryRun  bool
}

func (f *changeFlags) add(cmd *cobra.Command, applies bool) {
	cmd.Flags().StringArrayVarP(&f.files, "file", "f", nil, "file or directory of resources, or - for standard input; may be repeated")
	cmd.Flags().BoolVar(&f.force, "force", false, "take over resources of other owners")
	if applies {
		f.yesFlags(cmd)
	}
}

func (f *changeFlags) yesFlags(cmd *cobra.Command) {
	cmd.Flags().BoolVarP(&f.yes, "yes", "y", false, "do not ask")
	cmd.Flags().BoolVar(&f.dryRun, "dry-run", false, "only show what would change")
}

func (c *cli) planCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use: "plan -f PATH", Short: "Show what applying files would change", Args: takes(0, 0),
		Example: "  tradewind plan -f shop.hcl\n  tradewind plan -f resources.d --prune",
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, _ []string) error {
			change, err := f.change()
			if err != nil {
				return err
			}
			plan, err := gw.PlanResources(ctx, change)
			if err != nil {
				return err
			}
			if err := c.showPlan(plan, wouldBe); err != nil {
				return err
			}
			if changes(plan) > 0 {
				c.next("tradewind apply -f %s%s", strings.Join(f.files, " -f "), f.same())
			}
			return nil
		}),
	}
	f.add(cmd, false)
	cmd.Flags().BoolVar(&f.prune, "prune", false, "also delete what was applied before and is not in the files any more")
	return cmd
}

// same are the flags that make apply do what plan has shown.
func (f *changeFlags) same() (flags string) {
	if f.prune {
		flags += " --prune"
	}
	if f.force {
		flags += " --force"
	}
	return flags
}

func (f *changeFlags) change() (*admin.ChangeRequest, error) {
	if len(f.files) == 0 {
		return nil, usage("no file is given", "name one with -f FILE, -f DIRECTORY or -f -")
	}
	list, err := config.ParseResources(f.files...)
	if err != nil {
		return nil, err
	}
	if f.prune && len(list) == 0 { // a file that was cut short, a template that rendered nothing
		return nil, usage("the files declare nothing, and --prune would delete everything that was applied before",
			"check the files; to delete resources, name them: tradewind delete KIND NAME, or -f FILE")
	}
	return &admin.ChangeRequest{Owner: owner, Put: list, Prune: f.prune, Force: f.force}, nil
}

func (c *cli) applyCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use: "apply -f PATH", Short: "Make the region's resources be as files say", Args: takes(0, 0),
		Long: `Make the region's resources be as files say: all of the change happens or none of it. The plan is shown first, and on a
terminal the command asks before it goes on. What is applied is exactly what was shown: if somebody else changes one of the
resources in between, nothing happens.`,
		Example: "  tradewind apply -f shop.hcl\n  tradewind apply -f resources.d --prune --yes",
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, _ []string) error {
			change, err := f.change()
			if err != nil {
				return err
			}
			return c.apply(ctx, gw, change, f)
		}),
	}
	f.add(cmd, true)
	cmd.Flags().BoolVar(&f.prune, "prune", false, "also delete what was applied before and is not in the files any more")
	return cmd
}

// apply shows the plan of change, asks where somebody can answer, and applies what was shown.
func (c *cli) apply(ctx context.Context, gw *admin.Client, change *admin.ChangeRequest, f changeFlags) error {
	plan, err := gw.PlanResources(ctx, change)
	if err != nil {
		return err
	}
	n := changes(plan)
	if f.dryRun || n == 0 {
		return c.showPlan(plan, wouldBe)
	}
	tense := was
	if c.human() && c.inTTY && !f.yes {
		tense = asShown
		if err := c.showPlan(plan, willBe); err != nil {
			return err
		}
		if err := c.confirm(ctx, fmt.Sprintf("Apply %s?", count(n, "change"))); err != nil {
			return err
		}
	}
	pin(change, plan)
	done, err := gw.ApplyResources(ctx, change)
	if err != nil {
		return err
	}
	if err := c.showPlan(done, tense); err != nil {
		return err
	}
	c.afterApply(done)
	return nil
}

// pin makes a change refuse to replace anything but what plan showed.
func pin(change *admin.ChangeRequest, plan *admin.Plan) {
	change.Put = slices.Clone(change.Put)
	for i := range change.Put {
		for _, step := range plan.Steps {
			if step.Key == change.Put[i].Key && step.Before != nil {
				change.Put[i].Version = step.Before.Version
			}
		}
	}
}

// afterApply says what is useful after such a change.
func (c *cli) afterApply(plan *admin.Plan) {
	for _, step := range plan.Steps {
		if step.After == nil || step.Action == admin.ActionNone {
			continue
		}
		switch spec := step.After.Spec.(type) {
		case *federation.Intention:
			c.next("tradewind explain %s %s", caller(spec.Source), caller(spec.Destination))
			return
		case *federation.Service:
			c.next("tradewind services show %s", step.Key.Name)
			return
		case *federation.Export:
			continue // what matters next is who may call it
		}
	}
	c.next("tradewind check")
}

// caller is a name to try a pattern with.
func caller(pattern string) string {
	pattern = strings.TrimSuffix(pattern, "@*")
	if strings.Contains(pattern, "*") {
		return "SERVICE"
	}
	return pattern
}

// confirm asks a question; anything but yes is an error.
func (c *cli) confirm(ctx context.Context, question string) error {
	if c.flags.noInput {
		return &federation.Diagnostic{Code: "TW-8022", What: "the change was not confirmed", Why: "--no-input is set", Fix: "add --yes"}
	}
	fmt.Fprintf(c.err, "%s Only \"yes\" is accepted: ", question)
	line, err := attended(ctx, func() (string, error) { return bufio.NewReader(c.in).ReadString('\n') })
	if strings.TrimSpace(line) == "yes" {
		return nil
	}
	why := "the answer was not \"yes\""
	if err != nil {
		c.say("")
		why = "there was no answer"
	}
	return &federation.Diagnostic{Code: "TW-8022", What: "the change was not confirmed", Why: why, Fix: "answer yes, or add --yes"}
}

// attended reads what somebody types, and gives up when ctx ends: a read from a terminal cannot be interrupted otherwise. The
// reading goroutine then lasts as long as the program, which is about to end.
func attended(ctx context.Context, read func() (string, error)) (string, error) {
	type input struct {
		text string
		err  error
	}
	typed := make(chan input, 1)
	go func() {
		text, err := read()
		typed <- input{text, err}
	}()
	select {
	case in := <-typed:
		return in.text, in.err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (c *cli) deleteCommand() *cobra.Command {
	var f changeFlags
	cmd := &cobra.Command{
		Use: "delete KIND NAME | -f PATH", Short: "Delete resources", Args: takes(0, 2),
		Example:           "  tradewind delete intention web-checkout\n  tradewind delete -f shop.hcl",
		ValidArgsFunction: c.completeResources,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			keys, err := f.keys(args)
			if err != nil {
				return err
			}
			plan, err := gw.PlanResources(ctx, &admin.ChangeRequest{Owner: owner, Delete: keys, Force: f.force})
			if err != nil {
				return err
			}
			if f.dryRun {
				return c.showPlan(plan, wouldBe)
			}
			tense := was
			if c.human() && c.inTTY && !f.yes {
				tense = asShown
				if err := c.showPlan(plan, willBe); err != nil {
					return err
				}
				if err := c.confirm(ctx, fmt.Sprintf("Delete %s?", count(len(keys), "resource"))); err != nil {
					return err
				}
			}
			done, err := gw.DeleteResources(ctx, &admin.DeleteRequest{Owner: owner, Keys: keys, Force: f.force})
			if err != nil {
				return err
			}
			if err := c.showPlan(done, tense); err != nil {
				return err
			}
			c.next("tradewind get")
			return nil
		}),
	}
	f.add(cmd, true)
	return cmd
}

func (f *changeFlags) keys(args []string) ([]federation.Key, error) {
	switch {
	case len(f.files) > 0 && len(args) == 0:
		list, err := config.ParseResources(f.files...)
		var keys []federation.Key
		for _, r := range list {
			keys = append(keys, r.Key)
		}
		return keys, err
	case len(f.files) == 0 && len(args) == 2:
		kind, err := parseKind(args[0])
		return []federation.Key{{Kind: kind, Name: args[1]}}, err
	}
	return nil, usage("what to delete is not clear", "write: tradewind delete KIND NAME, or: tradewind delete -f PATH")
}
