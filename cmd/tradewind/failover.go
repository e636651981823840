package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) failoverCommand() *cobra.Command {
	return group("failover", "Show, test and plan failover between regions", `Show which region serves what, say what would move if a region
were lost, and drain a region of its calls before work on it. All of it is about the calls of this region's own callers.`,
		&cobra.Command{
			Use: "show [SERVICE]", Short: "Show in which order regions serve each service, and who does now", Args: takes(0, 1),
			ValidArgsFunction: c.completeServices,
			RunE:              c.withGateway(usualTimeout, c.showFailover),
		},
		&cobra.Command{
			Use: "test REGION", Short: "Say what would move if a region were lost now", Args: takes(1, 1),
			Long: `Say what would move if REGION ("local" is this one) were lost or drained now: for each service where its calls would go, and
how many those were in the last minute. Nothing is changed. The exit code is 5 when nobody else could serve some of them.`,
			ValidArgsFunction: c.completePeers,
			RunE:              c.withGateway(usualTimeout, c.testFailover),
		},
		c.drainCommand(), c.returnCommand())
}

func (c *cli) showFailover(ctx context.Context, gw *admin.Client, args []string) error {
	request := &admin.FailoverShowRequest{}
	if len(args) > 0 {
		service, err := parseService(args[0])
		if err != nil {
			return err
		}
		request.Service = service
	}
	res, err := gw.FailoverShow(ctx, request)
	if err != nil {
		return err
	}
	var names []string
	for _, s := range res.Services {
		names = append(names, s.Service.String())
	}
	return c.emit(answer{value: res, items: listOf(res.Services), names: names, table: func(s *screen) {
		for _, d := range res.Drains {
			c.drainLine(s, &d)
		}
		if len(res.Services) == 0 {
			s.line("No services: neither this region nor a peer shows any.")
			return
		}
		var rows [][]cell
		for _, service := range res.Services {
			rows = append(rows, c.orderRows(&service)...)
		}
		s.table([]string{"SERVICE", "ORDER", "REGION", "STATE", "CALLS/S", "OPEN", "AGE", "WHY"}, rows)
	}})
}

// orderRows is one row for each region that a service could be served by.
func (c *cli) orderRows(service *admin.ServiceFailover) [][]cell {
	var rows [][]cell
	name, order := service.Service.String(), 0
	for _, r := range service.Regions {
		state, place, age := cell{text: "out", style: faint}, "", "here"
		if r.Serves {
			order++
			place, state = fmt.Sprint(order), cell{text: "next"}
			if r.Region == service.Serving {
				state = cell{text: "serves", style: good}
			}
		}
		if !r.Local {
			age = secs(r.AgeSeconds)
		}
		why := r.Reason
		if f := service.Failover; f != nil && f.To == r.Region {
			why += fmt.Sprintf("; failover from %s, since %s", f.From, c.ago(f.Since))
		}
		rows = append(rows, []cell{{text: name, style: strong}, {text: place}, {text: string(r.Region)}, state,
			{text: rate(r.PerSecond)}, {text: fmt.Sprint(r.Open)}, {text: age}, {text: why}})
		name = " "
	}
	return rows
}

// rate writes calls a second; none are empty.
func rate(perSecond float64) string {
	if perSecond == 0 {
		return ""
	}
	return trimZero(fmt.Sprintf("%.1f", perSecond))
}

// drainLine says how a drain stands.
func (c *cli) drainLine(s *screen, d *admin.DrainStatus) {
	text := fmt.Sprintf("%s, since %s", d.Region, c.ago(d.Since))
	switch {
	case d.Share > 0:
		text += fmt.Sprintf("; it comes back, with %.0f %% of its calls now", 100*d.Share)
	case !d.Until.IsZero():
		text += ", for another " + c.until(d.Until)
	}
	if !d.ResetAt.IsZero() && d.Share == 0 {
		text += ", what is open there is reset in " + c.until(d.ResetAt)
	}
	s.line("%s  %s, by %s (%s)", s.paint(warn, "DRAIN"), text, d.Owner, d.By)
}

func (c *cli) testFailover(ctx context.Context, gw *admin.Client, args []string) error {
	region, err := drainRegion(args[0])
	if err != nil {
		return err
	}
	res, err := gw.FailoverTest(ctx, &admin.FailoverTestRequest{Region: region})
	if err != nil {
		return err
	}
	if err := c.emit(movesAnswer(res)); err != nil {
		return err
	}
	if res.Unserved > 0 {
		return stays(res)
	}
	return nil
}

// drainRegion reads a region, or the word for this one.
func drainRegion(s string) (federation.Region, error) {
	if s == string(federation.Local) {
		return federation.Local, nil
	}
	return parseRegion(s)
}

func movesAnswer(res *admin.FailoverTestResponse) answer {
	var names []string
	var rows [][]cell
	for _, m := range res.Moves {
		names = append(names, m.Service.String())
		to, why := cell{text: string(m.To)}, cmp.Or(m.Reason, "next in its order, and can serve now")
		if m.To == "" {
			to = cell{text: "nobody", style: bad}
		}
		rows = append(rows, []cell{{text: m.Service.String(), style: strong}, {text: string(m.From)}, to, {text: rate(m.PerSecond)},
			{text: fmt.Sprint(m.Open)}, {text: why}})
	}
	return answer{value: res, items: listOf(res.Moves), names: names, table: func(s *screen) {
		if len(rows) == 0 {
			s.line("Nothing would move: no service is served by %s now.", res.Region)
			return
		}
		s.table([]string{"SERVICE", "FROM", "TO", "CALLS/S", "OPEN", "WHY"}, rows)
	}}
}

// stays is the error of calls that have nowhere else to go.
func stays(res *admin.FailoverTestResponse) error {
	var names []string
	for _, m := range res.Moves {
		if m.To == "" {
			names = append(names, m.Service.String())
		}
	}
	return &exit{exitUnreachable, &federation.Diagnostic{Code: federation.CodeDrainStays,
		What: fmt.Sprintf("%s has no other region than %s", strings.Join(names, ", "), res.Region),
		Why:  "no other region is allowed, reachable and healthy for it, or callers name the region",
		Fix:  "see why: tradewind failover show " + names[0]}}
}

func (c *cli) drainCommand() *cobra.Command {
	var length, reset time.Duration
	var force bool
	cmd := &cobra.Command{
		Use: "drain REGION", Short: "Send calls elsewhere than to a region, and wait until they do", Args: takes(1, 1),
		Long: `Send new connections and requests of this region's callers elsewhere than to REGION, a peer or "local". Requests under way are
finished, connections stay until they end or --reset-after has passed. Calls that nobody else can serve, and those that name the region
("service@region"), stay: a drain costs no call; the exit code is 5 then. The drain is kept in the region's store and outlives the gateway,
until "failover return" or the end of --for. The command waits until no request went to the region for a second, and says so.`,
		Example:           "  tradewind failover test aws-us-east-1\n  tradewind failover drain aws-us-east-1 --for 1h",
		ValidArgsFunction: c.completePeers,
		RunE: c.withGateway(peerTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			region, err := drainRegion(args[0])
			if err != nil {
				return err
			}
			if length < 0 || reset < 0 {
				return usage("a duration is negative", "use a duration such as --for 1h")
			}
			return c.drain(ctx, gw, &admin.FailoverDrainRequest{Region: region, Owner: owner, For: federation.Duration(length),
				ResetAfter: federation.Duration(reset), Force: force})
		}),
	}
	cmd.Flags().DurationVar(&length, "for", 0, "come back by itself after this long (default: stay drained until \"failover return\")")
	cmd.Flags().DurationVar(&reset, "reset-after", 0, "reset what is still open there after this long (default: let it end)")
	cmd.Flags().BoolVar(&force, "force", false, "take over a drain of another owner")
	return cmd
}

// drained is the outcome of a drain.
type drained struct {
	Drain      *admin.DrainStatus             `json:"drain"`
	Moves      admin.List[admin.FailoverMove] `json:"moves"`
	LastSecond uint64                         `json:"last_second"` // calls to the region that could have gone elsewhere
	Open       int                            `json:"open"`        // connections and requests still open there
	Seconds    admin.Seconds                  `json:"took_seconds"`
}

func (c *cli) drain(ctx context.Context, gw *admin.Client, r *admin.FailoverDrainRequest) error {
	plan, err := gw.FailoverTest(ctx, &admin.FailoverTestRequest{Region: r.Region})
	if err != nil {
		return err
	}
	start := time.Now()
	status, err := gw.FailoverDrain(ctx, r)
	if err != nil {
		return err
	}
	steps := c.steps()
	defer steps.end()
	steps.show(admin.PeerStep{Name: "drained", State: admin.StepDone, Text: moving(plan, status.Region)})
	out := drained{Drain: status, Moves: plan.Moves}
	err = c.awaitQuiet(ctx, gw, plan, &out, steps)
	out.Seconds = admin.SecondsOf(time.Since(start))
	if err != nil {
		return err
	}
	err = c.emit(answer{value: out, names: []string{string(status.Region)}, table: func(s *screen) {
		for _, m := range plan.Moves {
			if m.To != "" {
				s.line("%v: %s → %s", m.Service, m.From, m.To)
			}
		}
		what := "0 calls"
		if plan.Unserved > 0 {
			what = "0 calls that can go elsewhere"
		}
		s.line("%s is drained: %s went there in the last second, %s still open there.", status.Region, what, count(out.Open, "call"))
	}})
	c.next("tradewind failover return %s", status.Region)
	if err == nil && plan.Unserved > 0 {
		return stays(plan)
	}
	return err
}

// moving says how much a drain moves.
func moving(plan *admin.FailoverTestResponse, from federation.Region) string {
	switch n := len(plan.Moves) - plan.Unserved; n {
	case 0:
		return fmt.Sprintf("%s serves nobody here that could go elsewhere; it gets no new calls as long as others can serve them", from)
	case 1:
		return fmt.Sprintf("1 service moves away from %s", from)
	default:
		return fmt.Sprintf("%d services move away from %s", n, from)
	}
}

// awaitQuiet waits until no call that could go elsewhere went to the drained region for a second.
func (c *cli) awaitQuiet(ctx context.Context, gw *admin.Client, plan *admin.FailoverTestResponse, out *drained, steps *stepLog) error {
	left := map[federation.ServiceName]bool{}
	for _, m := range plan.Moves {
		left[m.Service] = m.To == ""
	}
	ctx, cancel := context.WithTimeout(ctx, gw.Target().Timeout)
	defer cancel()
	const often = 250 * time.Millisecond
	tick := time.NewTicker(often)
	defer tick.Stop()
	// What a gateway counts is that of a whole second, and of the one at hand: none after a second is none in the last.
	for since := time.Now(); time.Since(since) < time.Second || out.LastSecond > 0; {
		select {
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.Canceled) {
				return ctx.Err()
			}
			return &federation.Diagnostic{Code: federation.CodeDrainSlow, What: fmt.Sprintf("%s is drained, and still gets calls", plan.Region),
				Why: fmt.Sprintf("%d went there in the last second", out.LastSecond), Fix: "tradewind failover show", Err: admin.ErrTimeout}
		case <-tick.C:
		}
		res, err := gw.FailoverShow(ctx, &admin.FailoverShowRequest{})
		if err != nil {
			return err
		}
		out.LastSecond, out.Open = 0, 0
		for _, s := range res.Services {
			for _, r := range s.Regions {
				if r.Region == plan.Region && !left[s.Service] {
					out.LastSecond += r.LastSecond
					out.Open += r.Open
				}
			}
		}
		steps.show(admin.PeerStep{Name: "leaving", State: admin.StepRunning, Text: fmt.Sprintf("%s to %s in the last second, %d open there",
			count(int(out.LastSecond), "call"), plan.Region, out.Open)})
	}
	return nil
}

func (c *cli) returnCommand() *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use: "return REGION", Short: "Give a drained region its calls back, little by little", Args: takes(1, 1),
		Long: `Give REGION, which was drained, its calls back: 10 % of its share at once, and twice as many every two seconds, so that it has
them all after eight. The command waits for that.`,
		ValidArgsFunction: c.completePeers,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			region, err := drainRegion(args[0])
			if err != nil {
				return err
			}
			return c.bringBack(ctx, gw, &admin.FailoverReturnRequest{Region: region, Owner: owner, Force: force})
		}),
	}
	cmd.Flags().BoolVar(&force, "force", false, "end a drain of another owner")
	return cmd
}

func (c *cli) bringBack(ctx context.Context, gw *admin.Client, r *admin.FailoverReturnRequest) error {
	status, err := gw.FailoverReturn(ctx, r)
	if err != nil {
		return err
	}
	steps := c.steps()
	defer steps.end()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for status.Share < 1 {
		steps.show(admin.PeerStep{Name: "returning", State: admin.StepRunning, Text: fmt.Sprintf("%s has %.0f %% of its share", status.Region,
			100*status.Share)})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		res, err := gw.FailoverShow(ctx, &admin.FailoverShowRequest{})
		if err != nil {
			return err
		}
		next := *status
		next.Share = 1 // the drain is deleted when it is over
		for _, d := range res.Drains {
			if d.Region == status.Region {
				next = d
			}
		}
		status = &next
	}
	return c.emit(answer{value: status, names: []string{string(status.Region)}, table: func(s *screen) {
		s.line("%s has its whole share again.", status.Region)
	}})
}
