package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) checkCommand() *cobra.Command {
	var opts struct {
		short, wait, strict bool
		peer                string
	}
	cmd := &cobra.Command{
		Use: "check", Short: "Run every check, and say the cause and the fix of what fails", Args: takes(0, 0),
		Long: `Run every check of the gateway: process, identity, network, peers, policy, certificates. What does not pass is shown with
its code, its cause and what to do. The exit code is 3 when a check fails, and 4 with --strict when one warns.`,
		Example: `  tradewind check
  tradewind check --peer gcp-europe-west1
  tradewind check --wait --timeout 1m   # until nothing fails`,
	}
	cmd.RunE = c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, _ []string) error {
		request := &admin.CheckRequest{}
		if opts.peer != "" {
			region, err := parseRegion(opts.peer)
			if err != nil {
				return err
			}
			request.Peer = region
		}
		ctx, cancel := context.WithTimeout(ctx, gw.Target().Timeout) // of all attempts together
		defer cancel()
		report, err := c.check(ctx, gw, request, opts.wait)
		if err != nil {
			return err
		}
		counts := tally(report)
		err = c.emit(answer{value: report, items: listOf(report.Groups), names: failing(report),
			table: func(s *screen) { showReport(s, report, counts, opts.short) }})
		switch {
		case err != nil:
			return err
		case counts[admin.CheckFail] > 0:
			return &exit{code: exitCheck}
		case counts[admin.CheckWarn] > 0 && opts.strict:
			return &exit{code: exitDegraded}
		}
		return nil
	})
	cmd.Flags().BoolVar(&opts.short, "short", false, "only what does not pass, one line each")
	cmd.Flags().BoolVar(&opts.wait, "wait", false, "repeat until no check fails, or the timeout is over")
	cmd.Flags().BoolVar(&opts.strict, "strict", false, "exit with 4 when there are warnings")
	cmd.Flags().StringVar(&opts.peer, "peer", "", "only the checks about this peer")
	_ = cmd.RegisterFlagCompletionFunc("peer", c.completePeerFlag)
	return cmd
}

// check asks for a report; with wait it asks again each second until nothing fails or the time is over, and returns the last.
func (c *cli) check(ctx context.Context, gw *admin.Client, r *admin.CheckRequest, wait bool) (*admin.CheckReport, error) {
	var last *admin.CheckReport
	said := ""
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		report, err := gw.Check(ctx, r)
		switch {
		case err != nil && last != nil && (errors.Is(err, admin.ErrTimeout) || ctx.Err() != nil):
			return last, nil
		case err != nil && !(wait && errors.Is(err, admin.ErrUnreachable)):
			return nil, err
		case err == nil && (!wait || tally(report)[admin.CheckFail] == 0):
			return report, nil
		}
		waiting := "the gateway"
		if err == nil {
			last, waiting = report, strings.Join(failing(report), ", ")
		}
		if waiting != said { // one line for each change, whatever the terminal
			c.say("waiting for %s", waiting)
			said = waiting
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			if last != nil {
				return last, nil
			}
			return nil, err
		}
	}
}

func tally(r *admin.CheckReport) map[admin.CheckStatus]int {
	counts := map[admin.CheckStatus]int{}
	for _, g := range r.Groups {
		for _, res := range g.Results {
			counts[res.Status]++
		}
	}
	return counts
}

// failing names the checks that fail, as "group/name".
func failing(r *admin.CheckReport) []string {
	var names []string
	for _, g := range r.Groups {
		for _, res := range g.Results {
			if res.Status == admin.CheckFail {
				names = append(names, g.Name+"/"+res.Name)
			}
		}
	}
	return names
}

// mark is how an outcome is shown: a glyph and a word, so that neither colour nor font is needed.
func mark(status admin.CheckStatus) (glyph string, st style) {
	switch status {
	case admin.CheckPass:
		return "✓", good
	case admin.CheckWarn:
		return "!", warn
	case admin.CheckSkip:
		return "–", faint
	}
	return "✗", bad
}

func showReport(s *screen, r *admin.CheckReport, counts map[admin.CheckStatus]int, short bool) {
	total := 0
	for _, n := range counts {
		total += n
	}
	if !short {
		s.line("%s · gateway %s %s · %s · %s in %s", s.paint(strong, string(r.Region)), r.Gateway, r.Version, count(r.Peers, "peer"),
			count(total, "check"), span(r.TookSeconds.D()))
	}
	var passed []string
	for _, g := range r.Groups {
		ok := 0
		for _, res := range g.Results {
			if res.Status == admin.CheckPass {
				ok++
			}
		}
		if ok == len(g.Results) && !s.wide {
			passed = append(passed, fmt.Sprintf("%s %s %d", s.paint(good, "✓"), g.Name, ok))
		}
	}
	if len(passed) > 0 && !short {
		s.line("%s", strings.Join(passed, "  "))
	}
	for _, g := range r.Groups {
		showGroup(s, g, short)
	}
	var parts []string
	for _, p := range []struct {
		status admin.CheckStatus
		word   string
	}{{admin.CheckFail, "error"}, {admin.CheckWarn, "warning"}} {
		if n := counts[p.status]; n > 0 {
			parts = append(parts, count(n, p.word))
		}
	}
	if n := counts[admin.CheckSkip]; n > 0 {
		parts = append(parts, fmt.Sprintf("%d not run", n))
	}
	s.line("%s", strings.Join(append(parts, fmt.Sprintf("%d passed", counts[admin.CheckPass])), " · "))
}

// showGroup shows a group unless all of it passed; that was said in one line for all such groups.
func showGroup(s *screen, g admin.CheckGroup, short bool) {
	worst, passed := admin.CheckPass, 0
	rank := map[admin.CheckStatus]int{admin.CheckPass: 0, admin.CheckSkip: 1, admin.CheckWarn: 2, admin.CheckFail: 3}
	for _, res := range g.Results {
		if rank[res.Status] > rank[worst] {
			worst = res.Status
		}
		if res.Status == admin.CheckPass {
			passed++
		}
	}
	if worst == admin.CheckPass && !s.wide {
		return
	}
	if !short {
		glyph, st := mark(worst)
		s.line("%s %s %d of %d", s.paint(st, glyph), g.Name, passed, len(g.Results))
	}
	for _, res := range g.Results {
		showResult(s, g.Name, res, short)
	}
}

func showResult(s *screen, group string, res admin.CheckResult, short bool) {
	glyph, st := mark(res.Status)
	if res.Status == admin.CheckPass {
		if s.wide && !short {
			s.line("  %s pass %s", s.paint(st, glyph), strings.TrimSpace(res.Name+"  "+res.What))
		}
		return
	}
	what := res.What
	if what == "" {
		what = res.Name
	}
	if short {
		s.line("%s %s %s %s/%s: %s", s.paint(st, glyph), res.Status, res.Code, group, res.Name, what)
		return
	}
	s.line("  %s %s %s", s.paint(st, glyph), strings.TrimSpace(string(res.Status)+" "+string(res.Code)), what)
	if res.Why != "" {
		s.line("%s", hang("      why  ", res.Why))
	}
	if res.Fix != "" {
		s.line("%s", hang("      fix  ", res.Fix))
	}
	if code := federation.Code(res.Code); code != "" && res.Status == admin.CheckFail {
		s.line("      more: tradewind help %s", code)
	}
}
