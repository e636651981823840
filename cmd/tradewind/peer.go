package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func (c *cli) peerCommand() *cobra.Command {
	return group("peer", "Federate with another region", `Federate with another region. One side makes a token for the other
(generate-token), the other redeems it (establish). The token works once, for one region, for 15 minutes; afterwards no secret exists
that could leak.`,
		c.peerTokenCommand(), c.peerEstablishCommand(), c.peerListCommand(), c.peerShowCommand(), c.peerWaitCommand(),
		c.peerPauseCommand(), c.peerResumeCommand(),
		c.peerRemoveCommand())
}

func (c *cli) peerTokenCommand() *cobra.Command {
	var opts struct {
		ttl       time.Duration
		addresses []string
		out       string
		wait      bool
	}
	var cmd *cobra.Command
	cmd = &cobra.Command{
		Use: "generate-token PEER", Short: "Make a token that lets PEER federate with this region, once", Args: takes(1, 1),
		Long: `Make a token that lets the region PEER, and no other, federate with this one. It goes to standard output, or with --out
to a file that only you can read. Take it to PEER over a way you trust, and redeem it there with "tradewind peer establish".

On a terminal the command then waits until PEER came, and proves that traffic gets there. Ctrl-C ends the waiting, not the token.
Where its output is read by something else, it ends when the token is written, unless --wait says otherwise.`,
		Example: `  tradewind peer generate-token gcp-europe-west1
  tradewind peer generate-token gcp-europe-west1 --out gcp.token --wait=false`,
		RunE: c.withGateway(peerTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			region, err := parseRegion(args[0])
			if err != nil {
				return err
			}
			token, err := gw.PeerGenerateToken(ctx, &admin.PeerTokenRequest{Peer: region, TTL: federation.Duration(opts.ttl),
				Addresses: opts.addresses})
			if err != nil {
				return err
			}
			from := "TOKEN"
			if opts.out != "" {
				if err := writeFile(opts.out, token.Token+"\n"); err != nil {
					return err
				}
				from = opts.out
				c.say("wrote %s", opts.out)
			} else if err := c.emit(answer{value: token, names: []string{token.Token}, table: func(s *screen) {
				s.line("%s",
					token.Token)
			}}); err != nil {
				return err
			}
			c.say("for %s only, once, within %s. It tells %s to dial %s", region, c.until(token.Expires), region,
				strings.Join(token.Addresses, ", "))
			c.say("this region's fingerprint is %s", token.Fingerprint)
			c.next("at %s: tradewind peer establish --token %s", region, from)
			if !cmd.Flags().Changed("wait") {
				opts.wait = c.outTTY && c.human()
			}
			if !opts.wait {
				return nil
			}
			return c.awaitComing(ctx, gw, region, token)
		}),
	}
	cmd.Flags().DurationVar(&opts.ttl, "ttl", 0, "how long it may be used (default 15m)")
	cmd.Flags().StringSliceVar(&opts.addresses, "advertise", nil,
		"host:port that PEER shall dial (default: mesh.advertise, or this host's addresses)")
	cmd.Flags().StringVar(&opts.out, "out", "", "file to write the token to, with mode 0600")
	cmd.Flags().BoolVar(&opts.wait, "wait", false, "wait until PEER came and the peering is Active (default on a terminal)")
	return cmd
}

// awaitComing waits until the other region has redeemed the token, and says what is proven then. A token is good for longer than
// one call may last, so the question is asked again, unless --timeout said how long to wait.
func (c *cli) awaitComing(ctx context.Context, gw *admin.Client, region federation.Region,
	token *admin.PeerToken) error {
	steps, begin := c.steps(), c.now()
	defer steps.end()
	for {
		steps.show(admin.PeerStep{Name: "token", State: admin.StepRunning,
			Text: fmt.Sprintf("waiting for %s to redeem it, %s left; Ctrl-C leaves it valid", region, c.until(token.Expires))})
		p, err := gw.PeerWait(ctx, &admin.PeerWaitRequest{Peer: region, State: federation.PeeringActive})
		if errors.Is(err, admin.ErrTimeout) && c.flags.timeout == 0 && c.now().Before(token.Expires.Time) {
			continue
		}
		if err != nil {
			return err
		}
		for _, s := range []admin.PeerStep{
			{Name: "token", Text: "redeemed by " + p.TrustDomain},
			{Name: "trust", Text: "fingerprint " + p.Fingerprint + ": compare it with what is said there"},
			{Name: "reach", Text: fmt.Sprintf("over %s, to %s, in %s", lanes(p.Path), p.Path.Address, secs(p.Path.RTTSeconds))},
		} {
			s.State = admin.StepDone
			steps.show(s)
		}
		return c.established(&admin.PeerEstablished{Peering: *p, TookSeconds: admin.SecondsOf(c.now().Sub(begin))})
	}
}

func (c *cli) peerEstablishCommand() *cobra.Command {
	var from string
	var addresses []string
	cmd := &cobra.Command{
		Use: "establish [PEER] --token FILE", Short: "Redeem a token and wait until the peering works", Args: takes(0, 1),
		Long: `Redeem a token that another region made for this one, and wait until trust is exchanged, both sides reach each other and
the catalog has arrived. With PEER, a token of any other region is refused before it is used. The token is read from a file, from
standard input for "-", or taken as it is; other users of this host can see what stands on a command line, so prefer a file.

The peer's gateways are dialled at the addresses of the token. With retry_join in a block peer "PEER" of gateway.hcl they are
looked up from then on.`,
		Example: `  tradewind peer establish --token aws.token
  ssh aws-gateway tradewind peer generate-token gcp-europe-west1 | tradewind peer establish --token -`,
		RunE: c.withGateway(peerTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			text, err := c.readToken(ctx, from)
			if err != nil {
				return err
			}
			request := &admin.PeerEstablishRequest{Token: text, Addresses: addresses}
			if len(args) > 0 {
				if request.Peer, err = parseRegion(args[0]); err != nil {
					return err
				}
			}
			steps := c.steps()
			done, err := gw.PeerEstablish(ctx, request, steps.show)
			steps.end()
			if err != nil {
				return err
			}
			return c.established(done)
		}),
	}
	cmd.Flags().StringVar(&from, "token", "-", "file with the token, - for standard input, or the token itself")
	cmd.Flags().StringSliceVar(&addresses, "advertise", nil,
		"host:port that the other region shall dial back (default: mesh.advertise, or this host's addresses)")
	return cmd
}

func (c *cli) readToken(ctx context.Context, from string) (string, error) {
	if strings.HasPrefix(from, "tw1.") {
		return from, nil
	}
	text, err := c.readSecret(ctx, from, usage("what was given as token is neither a token nor a file",
		"give --token the whole token, which starts with \"tw1.\", or its file"))
	if err != nil {
		return "", err
	}
	if !strings.HasPrefix(text, "{") {
		return text, nil
	}
	return tokenFromJSON(text)
}

// readSecret reads a token from a file, or from standard input for "-". What can be no file's name is not repeated but answered with
// noFile: it may be the secret itself.
func (c *cli) readSecret(ctx context.Context, from string, noFile error) (string, error) {
	in := c.in
	if from != "-" {
		f, err := os.Open(from)
		switch {
		case err != nil && (from == "" || len(from) > 100 && !strings.Contains(from, "/") || strings.HasPrefix(from, "eyJ")): // as JWTs do
			return "", noFile
		case err != nil:
			return "", &exit{exitUsage, fileError("cannot read the token from "+from, err)}
		}
		defer f.Close()
		in = f
	} else if c.inTTY {
		c.say("paste the token:")
	}
	text, err := attended(ctx, func() (string, error) {
		b, err := io.ReadAll(io.LimitReader(in, 64<<10)) // a token is below 8 KiB
		return strings.TrimSpace(string(b)), err
	})
	if err != nil {
		return "", fileError("cannot read the token from "+from, err)
	}
	if text == "" {
		where := from
		if from == "-" {
			where = "standard input"
		}
		return "", usage("there is no token in "+where, "name the token's file with --token, or pipe it in")
	}
	return text, nil
}

func (c *cli) established(done *admin.PeerEstablished) error {
	p := done.Peering
	c.say("%s is %v after %s: %s offered to you, you export %s to it", p.Region, p.State, span(done.TookSeconds.D()),
		count(p.Import.Services, "service"), count(p.Export.Services, "service"))
	if err := c.emit(answer{value: done, names: []string{string(p.Region)}, table: func(s *screen) {
		c.peerTable(s,
			[]admin.Peering{p})
	}}); err != nil {
		return err
	}
	switch {
	case p.Export.Services == 0:
		c.next("tradewind services export SERVICE --to %s --allow CALLER", p.Region)
	case len(p.Import.Names) > 0:
		c.next("tradewind explain SERVICE %s@%s", p.Import.Names[0], p.Region)
	default:
		c.next("tradewind peer show %s", p.Region)
	}
	return nil
}

func (c *cli) peerListCommand() *cobra.Command {
	return &cobra.Command{
		Use: "list", Aliases: []string{"ls"}, Short: "List peers with path, age and counts", Args: takes(0, 0),
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, _ []string) error {
			res, err := gw.PeerList(ctx, &admin.PeerListRequest{})
			if err != nil {
				return err
			}
			var names []string
			for _, p := range res.Peerings {
				names = append(names, string(p.Region))
			}
			return c.emit(answer{value: res, items: listOf(res.Peerings), names: names, table: func(s *screen) {
				if len(res.Peerings) == 0 {
					s.line("No peers yet.  Add one: tradewind peer generate-token REGION")
					return
				}
				c.peerTable(s, res.Peerings)
			}})
		}),
	}
}

// lanes is what flows can go over, the lane that they take now first: "quic x4, tcp".
func lanes(p admin.PathStatus) string {
	all := []string{times("quic", p.QUIC), times("tcp", p.TCP)}
	if p.Lane == "tcp" {
		slices.Reverse(all)
	}
	all = slices.DeleteFunc(all, func(s string) bool { return s == "" })
	return cmp.Or(strings.Join(all, ", "), p.Lane)
}

// over says what the catalog exchange runs over; nothing when there is no session.
func over(lane string) string {
	if lane == "" {
		return ""
	}
	return "over " + lane
}

func times(lane string, n int) string {
	switch n {
	case 0:
		return ""
	case 1:
		return lane
	}
	return fmt.Sprintf("%s x%d", lane, n)
}

func (c *cli) peerTable(s *screen, list []admin.Peering) {
	header := []string{"PEER", "STATE", "PATH", "RTT", "LOSS", "EXPORTED", "IMPORTED", "CATALOG AGE"}
	if s.wide {
		header = append(header, "GATEWAY", "EXCHANGE", "SEQ", "FINGERPRINT")
	}
	var rows [][]cell
	for _, p := range list {
		state := map[federation.PeeringState]style{federation.PeeringActive: good, federation.PeeringFailing: bad,
			federation.PeeringTerminated: bad}[p.State]
		path, pathStyle, rtt, loss := "down", bad, "", ""
		if p.Path.Up {
			path, pathStyle = lanes(p.Path), plain
			rtt, loss = secs(p.Path.RTTSeconds), fmt.Sprintf("%.1f%%", p.Path.Loss*100)
		} else if p.State == federation.PeeringPending || p.State == federation.PeeringPaused {
			path, pathStyle = "", plain
		}
		age, ageStyle := "never", faint
		if !p.Import.AsOf.IsZero() {
			age, ageStyle = freshAge(p.Import.Freshness, p.Import.AgeSeconds)
		}
		row := []cell{{text: string(p.Region), style: strong}, {text: p.State.String(), style: state}, {text: path, style: pathStyle},
			{text: rtt}, {text: loss},
			{text: fmt.Sprint(p.Export.Services)}, {text: fmt.Sprint(p.Import.Services)}, {text: age, style: ageStyle}}
		if s.wide {
			row = append(row, text(p.Path.Address, p.Exchange, fmt.Sprintf("%d of %d", p.Import.Seq, p.Import.Head), p.Fingerprint)...)
		}
		rows = append(rows, row)
	}
	s.table(header, rows)
}

func (c *cli) peerShowCommand() *cobra.Command {
	return &cobra.Command{
		Use: "show PEER", Short: "Show everything about one peer", Args: takes(1, 1), ValidArgsFunction: c.completePeers,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			region, err := parseRegion(args[0])
			if err != nil {
				return err
			}
			p, err := gw.PeerShow(ctx, &admin.PeerRequest{Peer: region})
			if err != nil {
				return err
			}
			return c.emit(answer{value: p, names: []string{string(p.Region)}, table: func(s *screen) { c.peerScreen(s, p) }})
		}),
	}
}

func (c *cli) peerScreen(s *screen, p *admin.Peering) {
	state := p.State.String()
	if !p.Since.IsZero() {
		state += ", since " + c.ago(p.Since)
	}
	if p.Reason != "" {
		state += ": " + p.Reason
	}
	path := "down"
	if p.Path.Up {
		path = fmt.Sprintf("%s, to %s, %s, %.1f%% lost", lanes(p.Path), p.Path.Address, secs(p.Path.RTTSeconds), p.Path.Loss*100)
	}
	if !p.Path.Since.IsZero() {
		path += ", since " + c.ago(p.Path.Since)
	}
	age := "nothing has arrived yet"
	if !p.Import.AsOf.IsZero() {
		age = fmt.Sprintf("%s, %s old", count(p.Import.Services, "service"), span(p.Import.AgeSeconds.D()))
		if p.Import.Freshness != federation.FreshnessLive {
			age += ", " + p.Import.Freshness.String()
		}
		age += fmt.Sprintf(", row %d", p.Import.Seq)
		if p.Import.Head >= p.Import.Seq { // otherwise it was read from disk, and the peer has not said yet how far it is
			age += fmt.Sprintf(" of %d", p.Import.Head)
		}
		age += ", epoch " + p.Import.Epoch
	}
	export := fmt.Sprintf("%s, confirmed %d of %d", count(p.Export.Services, "service"), p.Export.Applied, p.Export.Head)
	if !p.Export.Confirmed.IsZero() {
		export += " " + c.ago(p.Export.Confirmed)
	}
	s.line("%s", s.paint(strong, string(p.Region)))
	s.fields("state", state, "trust domain", p.TrustDomain, "fingerprint", p.Fingerprint, "gateways", strings.Join(p.Gateways, ", "),
		"path", path, "exchange", over(p.Exchange),
		"imported", age, "exported", export, "we see", serviceNames(p.Import.Names), "they see", serviceNames(p.Export.Names))
	if p.Import.Braked {
		s.line("%s a mass withdrawal of this peer is being held back", s.paint(warn, "!"))
	}
	for _, q := range p.Import.Quarantined {
		s.line("%s refused what it says about %s: %s", s.paint(warn, "!"), q.Service, q.Reason)
	}
	if p.Problem != nil {
		s.problem(*p.Problem)
	}
}

func serviceNames(list []federation.ServiceName) string {
	var names []string
	for _, n := range list {
		names = append(names, n.String())
	}
	return strings.Join(names, ", ")
}

func (c *cli) peerWaitCommand() *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use: "wait PEER", Short: "Wait until a peering is Active", Args: takes(1, 1), ValidArgsFunction: c.completePeers,
		Example: "  tradewind peer wait gcp-europe-west1 --timeout 1m",
		RunE: c.withGateway(peerTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			region, err := parseRegion(args[0])
			if err != nil {
				return err
			}
			var want federation.PeeringState
			if err := want.UnmarshalText([]byte(state)); err != nil {
				return usage(err.Error(), "use --for Active, Failing, Paused or Terminated")
			}
			return c.waitPeer(ctx, gw, region, want)
		}),
	}
	cmd.Flags().StringVar(&state, "for", federation.PeeringActive.String(), "the state to wait for")
	return cmd
}

func (c *cli) waitPeer(ctx context.Context, gw *admin.Client, region federation.Region, state federation.PeeringState) error {
	c.say("waiting for %s to be %v", region, state)
	p, err := gw.PeerWait(ctx, &admin.PeerWaitRequest{Peer: region, State: state})
	if err != nil {
		return err
	}
	if err := c.emit(answer{value: p, names: []string{string(p.Region)}, table: func(s *screen) {
		c.peerTable(s,
			[]admin.Peering{*p})
	}}); err != nil {
		return err
	}
	if state == federation.PeeringActive {
		c.next("tradewind services list")
	}
	return nil
}

func (c *cli) peerPauseCommand() *cobra.Command {
	return &cobra.Command{
		Use: "pause PEER", Short: "Hold a peering: no catalog is exchanged, what it showed ages", Args: takes(1, 1), ValidArgsFunction: c.completePeers,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			region, err := parseRegion(args[0])
			if err != nil {
				return err
			}
			if _, err := gw.PeerPause(ctx, &admin.PeerRequest{Peer: region}); err != nil {
				return err
			}
			p, err := gw.PeerWait(ctx, &admin.PeerWaitRequest{Peer: region, State: federation.PeeringPaused})
			if err != nil {
				return err
			}
			c.say("paused %s: it is %v now", region, p.State)
			c.next("tradewind peer resume %s", region)
			return c.emit(answer{value: p, names: []string{string(region)}, table: func(*screen) {}})
		}),
	}
}

func (c *cli) peerResumeCommand() *cobra.Command {
	return &cobra.Command{
		Use: "resume PEER", Short: "Let a paused peering go on", Args: takes(1, 1), ValidArgsFunction: c.completePeers,
		RunE: c.withGateway(usualTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			region, err := parseRegion(args[0])
			if err != nil {
				return err
			}
			p, err := gw.PeerResume(ctx, &admin.PeerRequest{Peer: region})
			if err != nil {
				return err
			}
			c.say("resumed %s: the gateway connects to it now", region)
			c.next("tradewind peer wait %s", region)
			return c.emit(answer{value: p, names: []string{string(region)}, table: func(*screen) {}})
		}),
	}
}

func (c *cli) peerRemoveCommand() *cobra.Command {
	var yes bool
	cmd := &cobra.Command{
		Use: "remove PEER", Aliases: []string{"rm"}, Short: "End a peering, here and there", Args: takes(1, 1),
		ValidArgsFunction: c.completePeers,
		Long: `End a peering: what the peer showed is gone at once, its trust bundle is forgotten, connections to and from it are
closed, and the peer is told if it can be reached. To federate again takes a new token.`,
		RunE: c.withGateway(peerTimeout, func(ctx context.Context, gw *admin.Client, args []string) error {
			region, err := parseRegion(args[0])
			if err != nil {
				return err
			}
			if c.inTTY && !yes {
				if err := c.confirm(ctx, fmt.Sprintf("Remove %s, its services and its connections?", region)); err != nil {
					return err
				}
			}
			removed, err := gw.PeerRemove(ctx, &admin.PeerRequest{Peer: region})
			if err != nil {
				return err
			}
			c.say("removed %s", region)
			if !removed.Told {
				c.say("%s could not be told: it shows this region as Failing until it is removed there, too", region)
			}
			c.next("tradewind peer list")
			if c.human() {
				return nil
			}
			return c.emit(answer{value: map[string]any{"removed": region, "told": removed.Told}, names: []string{string(region)}})
		}),
	}
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}
