package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// watchInterval is how often a watched status is read: what a person can follow, and nothing to a gateway.
const watchInterval = time.Second

// watchStatus shows the status until ctx ends: on a terminal the screen is drawn anew, elsewhere there is a line, or with jsonl a
// document, for each change. A gateway that does not answer is a change like any other.
func (c *cli) watchStatus(ctx context.Context, gw *admin.Client) error {
	if c.flags.output == "json" || c.flags.output == "name" {
		return usage("--watch with -o "+c.flags.output+" would never end its document", "use --watch -o jsonl, or a table")
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	var last map[string]string
	for ctx.Err() == nil {
		st, err := gw.Status(ctx, &admin.StatusRequest{})
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil && last == nil, err != nil && !errors.Is(err, admin.ErrUnreachable) && !errors.Is(err, admin.ErrTimeout):
			return err
		}
		now := map[string]string{"gateway": "does not answer"}
		if err == nil {
			now = facts(st)
		}
		if err := c.watched(st, last, now); err != nil {
			return err
		}
		last = now
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
	return nil
}

// watched shows st, or what is new in it; nil is a gateway that does not answer.
func (c *cli) watched(st *admin.Status, last, now map[string]string) error {
	var b strings.Builder
	changed := last == nil || !maps.Equal(last, now)
	switch {
	case c.flags.output == "jsonl":
		if changed && st != nil {
			return writeJSON(c.out, st, "")
		}
		return nil
	case c.outTTY:
		s := &screen{color: c.colored(true), wide: c.flags.output == "wide"}
		if s.line("%s  (Ctrl-C ends)\n", c.now().UTC().Format(time.RFC3339)); st == nil {
			s.line("%s", s.paint(bad, "the gateway does not answer"))
		} else {
			c.showStatus(s, st)
		}
		b.WriteString("\x1b[H" + strings.ReplaceAll(s.b.String(), "\n", "\x1b[K\n") + "\x1b[J") // overwritten, not cleared: no flicker
	case changed:
		at := c.now().UTC().Format(time.RFC3339)
		for _, name := range union(last, now) {
			was, had := last[name]
			switch is, has := now[name]; {
			case !had:
				fmt.Fprintf(&b, "%s  %s: %s\n", at, name, is)
			case !has && st != nil:
				fmt.Fprintf(&b, "%s  %s: over\n", at, name)
			case has && was != is:
				fmt.Fprintf(&b, "%s  %s: %s, was %s\n", at, name, is, was)
			}
		}
	}
	if _, err := io.WriteString(c.out, b.String()); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func union(a, b map[string]string) []string {
	all := maps.Clone(a)
	if all == nil {
		all = map[string]string{}
	}
	maps.Copy(all, b)
	return slices.Sorted(maps.Keys(all))
}

// facts are what a change of is worth a line. What grows all the time, such as ages and counts of connections, is not among them.
func facts(st *admin.Status) map[string]string {
	all := map[string]string{"gateway": fmt.Sprintf("%s, config %d", st.State, st.Generation),
		"services": fmt.Sprintf("%d local, %d imported, %d exported, %d failing", st.Services.Local, st.Services.Imported, st.Services.Exported,
			st.Services.Failing)}
	for _, p := range st.Peers {
		text := p.State.String()
		if !p.Import.AsOf.IsZero() {
			text += ", catalog " + p.Import.Freshness.String()
		}
		if p.Path.Up {
			text += ", path " + p.Path.Lane
		} else if p.State == federation.PeeringActive || p.State == federation.PeeringFailing {
			text += ", path down"
		}
		all["peer "+string(p.Region)] = text
	}
	for _, d := range st.Drains {
		all["drain "+string(d.Region)] = map[bool]string{true: "comes back", false: "in force"}[d.Share > 0]
	}
	for _, f := range st.Failovers {
		to := string(f.To)
		if to == "" {
			to = "nobody"
		}
		all["failover "+f.Service.String()] = fmt.Sprintf("goes to %s instead of %s", to, f.From)
	}
	for _, p := range st.Problems {
		what := p.What
		if help, found := federation.Help(p.Code); found && p.Peer != "" { // what is said of peers holds ages
			what = string(p.Peer) + ", " + help.Title
		}
		all["problem "+string(p.Code)+" "+what] = string(p.Severity)
	}
	return all
}
