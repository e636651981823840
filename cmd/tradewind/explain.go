package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) explainCommand() *cobra.Command {
	var a asks
	cmd := &cobra.Command{
		Use: "explain SOURCE DESTINATION", Short: "Say why a call is allowed, denied, and where it goes", Args: takes(2, 2),
		Long: `Say what would happen to a call now, and why: who the caller is, which intention decides here and at the peer that would
serve it, and which endpoints are in the running. Of a service that speaks HTTP, --method, --path, --header and --host ask about one
request: which rule of the route matches, what is forwarded, and who may. --token reads the JSON Web Token that the request brings,
which is verified as the data path does it: the answer says by whom or why not, and which claims decided; the token is shown nowhere.
The answer comes from the code that decides connections and requests. The exit code is 6 when the call is denied, or the request is
not well-formed, 5 when it is allowed but nobody can serve it, or a limit would refuse it at this moment: the limits that it meets
are shown with their figures of now; and 4 when only an instance that looks unhealthy is left to be tried.`,
		Example: `  tradewind explain web checkout
  tradewind explain web@gcp-europe-west1 checkout      # a caller of another region
  tradewind explain web checkout@azure-westeurope      # that region only
  tradewind explain web checkout --path /admin --token user.jwt
  tradewind explain web checkout --method POST --path /api/items?draft=1 --header "x-canary: 1"`,
		ValidArgsFunction: c.completeServices,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			return c.explainCall(ctx, gw, [2]string(args), &a)
		}),
	}
	a.flags(cmd, true)
	return cmd
}

// explainCall asks about the call between ends, and tells the answer.
func (c *cli) explainCall(ctx context.Context, gw *admin.Client, ends [2]string, a *asks) error {
	e, err := c.askExplain(ctx, gw, ends, a)
	if err != nil {
		return err
	}
	if err := c.emit(answer{value: e, names: []string{string(e.Verdict)}, table: func(s *screen) { explainScreen(s, e) }}); err != nil {
		return err
	}
	if e.Fix != "" {
		c.next("%s", e.Fix)
	}
	sick := func(c admin.Candidate) bool { return c.Chosen && c.Healthy == 0 }
	if e.Verdict == admin.VerdictAllowed && slices.ContainsFunc(e.Candidates, sick) {
		return &exit{code: exitDegraded}
	}
	return verdictCode(e.Verdict)
}

// askExplain asks the gateway about the call between ends; an empty source is left to the gateway.
func (c *cli) askExplain(ctx context.Context, gw *admin.Client, ends [2]string, a *asks) (*admin.Explanation, error) {
	request := &admin.ExplainRequest{Source: ends[0], Destination: ends[1]}
	if a.assurance != "" {
		level, err := federation.ParseAssurance(a.assurance)
		if err != nil {
			return nil, usage(err.Error(), "")
		}
		request.Assurance = level
	}
	if _, err := federation.ParseServiceRef(ends[1]); err != nil {
		return nil, usage("destination: "+err.Error(), "write a service such as checkout or checkout@azure-westeurope")
	}
	if ends[0] != "" && !strings.HasPrefix(ends[0], "spiffe://") {
		if _, err := federation.ParseServiceRef(ends[0]); err != nil {
			return nil, usage("source: "+err.Error(), "write a service such as web or web@gcp-europe-west1, or a SPIFFE ID")
		}
	}
	var err error
	if request.Request, err = a.request(); err != nil {
		return nil, err
	}
	if a.token != "" {
		request.Token, err = c.readSecret(ctx, a.token, usage("what was given as --token is no file",
			"name the token's file, or pipe it in with --token -: others on this host can read what is on a command line"))
		if err != nil {
			return nil, err
		}
	}
	return gw.Explain(ctx, request)
}

func explainScreen(s *screen, e *admin.Explanation) {
	head := s.paint(styles[e.Verdict], strings.ToUpper(string(e.Verdict)))
	if e.Conditional {
		head += " for certain requests"
	}
	if e.At != "" {
		head += " at " + string(e.At)
	}
	s.line("%s: %s", head, e.Reason)
	s.line("  caller     %s, known by %v", e.Caller.ID, e.Caller.Assurance)
	if e.Exported != nil {
		word := s.paint(bad, "✗") + " not exported"
		if *e.Exported {
			word = s.paint(good, "✓") + " exported"
		}
		s.line("  export     %s to %s", word, e.Caller.Region)
	}
	if e.Request != nil {
		forecastLines(s, e.Request)
	}
	tokenLines(s, e.Tokens)
	here := e.Decision
	here.Conditional = here.Conditional && e.Request == nil // of a request that has come it is said for good
	decisionLines(s, "intention", here)
	shadowLine(s, here)
	for i, cand := range e.Candidates {
		label := "route"
		if i > 0 {
			label = ""
		}
		s.line("  %-9s  %s", label, candidateLine(s, cand))
		endpointLines(s, cand)
	}
	if len(e.Candidates) == 0 && (here.Rule != "" || e.Verdict == admin.VerdictUnreachable) && e.Verdict != admin.VerdictAnswered {
		s.line("  route      no region offers %s", e.Destination)
	}
	for _, w := range e.LeftOut {
		s.line("  left out   %s of provider %s: %s", w.ID, w.Provider, w.Why)
	}
	if e.Remote != nil {
		decisionLines(s, "there", *e.Remote)
		shadowLine(s, *e.Remote)
	} else if e.RemoteError != "" {
		s.line("  there      not known: %s", e.RemoteError)
	}
	limitLines(s, e.Limits)
	for _, n := range e.Notes {
		s.line("  note       %s", n)
	}
}

func decisionLines(s *screen, label string, d admin.ExplainedDecision) {
	glyph, st, word := "✓", good, "allowed"
	if !d.Allowed {
		glyph, st, word = "✗", bad, "denied"
	}
	if d.Rule == "" && d.Reason == "" { // nothing was decided, or a peer keeps its reasons to itself
		if label == "there" {
			s.line("  %-9s  %s %s by %s", label, s.paint(st, glyph), word, d.Region)
		}
		return
	}
	line := fmt.Sprintf("%s %s", s.paint(st, glyph), word)
	if d.Rule != "" {
		line += fmt.Sprintf(" by %q", d.Rule)
	}
	if d.Conditional && d.Allowed {
		line += " for certain requests"
	}
	decided := slices.ContainsFunc(d.Matched, func(m admin.ExplainedMatch) bool { return m.Decided })
	if d.Reason != "" && !decided { // the line of the one that decided has the reason
		line += ": " + strings.TrimSpace(string(d.Code)+" "+d.Reason)
	}
	s.line("  %-9s  %s", label, line)
	for _, m := range d.Matched {
		glyph := "·"
		if m.Decided {
			glyph = "→"
		}
		from := ""
		if m.Source != "" {
			from = s.paint(faint, "   # "+m.Source)
		}
		s.line("             %s %s (%s): %s%s", glyph, m.Rule, m.Action, m.Reason, from)
	}
}

// shadowLine says what an intention in shadow mode would have decided otherwise.
func shadowLine(s *screen, d admin.ExplainedDecision) {
	would := "deny"
	if !d.Allowed {
		would = "allow"
	}
	if d.Shadow != "" {
		s.line("  %-9s  %q would %s it, and is in shadow mode", "", d.Shadow, would)
	}
}

func candidateLine(s *screen, cand admin.Candidate) string {
	glyph, st := "·", plain
	switch {
	case cand.Chosen:
		glyph, st = "→", good
	case !cand.Kept:
		glyph, st = "✗", bad
	}
	parts := []string{s.paint(st, glyph), string(cand.Region)}
	parts = append(parts, fmt.Sprintf("%d/%d healthy", cand.Healthy, cand.Total))
	if way := strings.TrimSpace(cand.Lane + " " + secs(cand.RTTSeconds)); way != "" {
		parts = append(parts, way)
	}
	if cand.Freshness != nil && *cand.Freshness != federation.FreshnessLive {
		parts = append(parts, cand.Freshness.String())
	}
	line := strings.Join(parts, "  ")
	switch {
	case cand.Chosen && cand.Share > 0:
		line += fmt.Sprintf(", comes back from a drain: %.0f %% of its share now", 100*cand.Share)
	case cand.Chosen && cand.Drained:
		line += ", drained: a last resort"
	case !cand.Chosen:
		// What was said in figures is not said again in words.
		why := strings.TrimPrefix(cand.Reason, fmt.Sprintf("%d of %d healthy", cand.Healthy, cand.Total))
		if why = strings.TrimPrefix(why, "; "); why != "" {
			line += ", " + why
		}
	}
	return line
}

const fewEndpoints = 5 // lines of a table; with -o wide all

// endpointLines show the instances of this region, first those that are left out: they are what somebody looks for.
func endpointLines(s *screen, cand admin.Candidate) {
	list := slices.Clone(cand.Endpoints)
	slices.SortStableFunc(list, func(a, b admin.ExplainedEndpoint) int {
		switch {
		case a.Kept == b.Kept:
			return 0
		case b.Kept:
			return -1
		}
		return 1
	})
	for i, e := range list {
		if i == fewEndpoints && !s.wide {
			s.line("                   and %d more (-o wide)", len(list)-i)
			return
		}
		glyph, line := "·", fmt.Sprintf("%s %s  %s", e.Instance, e.Address, e.Reason)
		if !e.Kept {
			glyph = s.paint(bad, "✗")
		}
		if e.EjectedSeconds > 0 {
			line += ", for " + secs(e.EjectedSeconds) + " more"
		}
		if e.InFlight > 0 {
			line += fmt.Sprintf(", %d in flight", e.InFlight)
		}
		if e.LatencySeconds > 0 {
			line += ", " + secs(e.LatencySeconds)
		}
		s.line("                   %s %s", glyph, line)
	}
}

func (c *cli) pingCommand() *cobra.Command {
	var number int
	cmd := &cobra.Command{
		Use: "ping PEER", Short: "Reach a peer's gateway through the mesh, and say by which path", Args: takes(1, 1),
		Long: `Reach a peer's gateway through the mesh and say by which path and how fast. The exit code is 0 when it answers over
QUIC, 4 when only over TCP, and 5 when it does not answer.`,
		Example: "  tradewind ping gcp-europe-west1\n  tradewind ping gcp-europe-west1 -c 5", ValidArgsFunction: c.completePeers,
		RunE: func(cmd *cobra.Command, args []string) error {
			if number < 1 || number > 10000 {
				return usage("--count must lie between 1 and 10000", "")
			}
			return c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client,
				args []string) error {
				return c.ping(ctx, gw, args[0], number)
			})(cmd, args)
		},
	}
	cmd.Flags().IntVarP(&number, "count", "c", 1, "how many times, one a second")
	return cmd
}

func (c *cli) ping(ctx context.Context, gw *admin.Client, peer string, number int) error {
	region, err := parseRegion(peer)
	if err != nil {
		return err
	}
	tick := time.NewTicker(time.Second) // as ping(8) does
	defer tick.Stop()
	answered, direct := 0, 0
	var last error
	together := number > 1 && c.flags.output == "json" // several answers are one document, in the end
	pongs := []*admin.Pong{}
	for i := range number {
		if i > 0 {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return c.pingEnd(number, answered, direct, ctx.Err())
			}
		}
		pong, err := gw.Ping(ctx, &admin.PingRequest{Peer: region})
		if err != nil {
			last = err
			if errors.Is(err, admin.ErrNotFound) || errors.Is(err, admin.ErrRefused) {
				return err
			}
			if i < number-1 {
				c.say("no answer from %s: %v", region, err)
			}
			continue
		}
		answered++
		if pong.Lane == "quic" {
			direct++
		}
		if together {
			pongs = append(pongs, pong)
			continue
		}
		if err := c.emit(answer{value: pong, names: []string{string(pong.Peer)}, table: func(s *screen) {
			clock := ""
			if pong.ClockOffsetSeconds != nil {
				clock = "  clock " + signed(pong.ClockOffsetSeconds.D())
			}
			s.line("pong %s  %s %s  %s%s", pong.Peer, pong.Lane, pong.Address, secs(pong.RTTSeconds), clock)
		}}); err != nil {
			return err
		}
	}
	if together {
		if err := c.emit(answer{value: map[string]any{"peer": region, "sent": number, "answered": answered, "pongs": pongs}}); err != nil {
			return err
		}
	}
	return c.pingEnd(number, answered, direct, last)
}

// pingEnd chooses the exit code: the worst that was seen decides.
func (c *cli) pingEnd(number, answered, direct int, last error) error {
	if number > 1 {
		c.say("%d sent, %d answered, %d over quic", number, answered, direct)
	}
	switch {
	case answered == 0:
		return &exit{exitUnreachable, last}
	case last != nil, direct < answered:
		return &exit{code: exitDegraded}
	}
	return nil
}

func signed(d time.Duration) string {
	if d >= 0 {
		return "+" + span(d)
	}
	return span(d)
}
