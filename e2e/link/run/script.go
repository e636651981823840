package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/link"
)

// A network is what a script changes: a link.Link.
type network interface {
	Profile(link.Direction) link.Profile
	Set(link.Direction, link.Profile) error
	Rebind(link.Side)
	Stats() link.Stats
}

// A command is a line of a script.
type command struct {
	at   time.Duration // since the beginning; 0 is now
	verb string
	rest []string
}

var directions = map[string][]link.Direction{
	"a>b": {link.AToB}, "b>a": {link.BToA}, "both": {link.AToB, link.BToA},
}

// parse reads a line: [now | at TIME] followed by DIRECTION SETTING..., rebind SIDE, stats or end. Empty lines and those that begin
// with # have no verb.
func parse(line string) (c command, err error) {
	words := strings.Fields(line)
	if len(words) == 0 || strings.HasPrefix(words[0], "#") {
		return c, nil
	}
	switch {
	case words[0] == "now":
		words = words[1:]
	case words[0] == "at" && len(words) > 1:
		if c.at, err = time.ParseDuration(words[1]); err != nil || c.at < 0 {
			return c, fmt.Errorf("%q: %q is no time since the beginning, such as 5s", line, words[1])
		}
		words = words[2:]
	}
	if len(words) == 0 {
		return c, fmt.Errorf("%q: nothing to do", line)
	}
	c.verb, c.rest = words[0], words[1:]
	switch {
	case directions[c.verb] != nil:
		// The settings are judged against the profile of their time.
		return c, new(link.Profile{Delay: time.Minute, Rate: 1e9, ReorderDelay: 1}).Change(c.rest)
	case c.verb == "rebind" && len(c.rest) == 1 && (c.rest[0] == "a" || c.rest[0] == "b"):
	case (c.verb == "stats" || c.verb == "end") && len(c.rest) == 0:
	default:
		return c, fmt.Errorf("%q is none of: a>b|b>a|both SETTING..., rebind a|b, stats, end", line)
	}
	return c, nil
}

// play obeys lines until "end" or until ctx ends. A line that cannot be understood is answered with why, and changes nothing.
func play(ctx context.Context, lines <-chan string, n network, p printer) error {
	begin := time.Now()
	var waiting []command // by time
	for {
		var due <-chan time.Time
		if len(waiting) > 0 {
			due = time.After(time.Until(begin.Add(waiting[0].at)))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-due:
			c := waiting[0]
			waiting = waiting[1:]
			if c.verb == "end" {
				return nil
			}
			p.say(time.Since(begin), obey(c, n, p))
		case line, more := <-lines:
			if !more {
				lines = nil
				continue
			}
			c, err := parse(line)
			if err != nil {
				p.say(time.Since(begin), err)
			}
			if err != nil || c.verb == "" {
				continue
			}
			after, _ := slices.BinarySearchFunc(waiting, c, func(w, c command) int {
				if w.at <= c.at { // of two at the same time the first to come is first
					return -1
				}
				return 1
			})
			waiting = slices.Insert(waiting, after, c)
		}
	}
}

func obey(c command, n network, p printer) error {
	switch c.verb {
	case "stats":
		return p.stats(n.Stats())
	case "rebind":
		n.Rebind(map[string]link.Side{"a": link.A, "b": link.B}[c.rest[0]])
		return nil
	}
	for _, d := range directions[c.verb] {
		profile := n.Profile(d)
		if err := profile.Change(c.rest); err != nil {
			return err
		}
		if err := n.Set(d, profile); err != nil {
			return err
		}
	}
	return nil
}

// A printer writes answers, one a line.
type printer struct {
	out    io.Writer
	asJSON bool
}

// say reports what went wrong at a time of the script.
func (p printer) say(at time.Duration, err error) {
	switch {
	case err == nil:
	case p.asJSON:
		text, _ := json.Marshal(map[string]any{"at": at.Seconds(), "error": err.Error()}) // a float and a string always can be
		fmt.Fprintf(p.out, "%s\n", text)
	default:
		fmt.Fprintf(p.out, "error at %v: %v\n", at.Round(time.Millisecond), err)
	}
}

func (p printer) stats(s link.Stats) error {
	if p.asJSON {
		return json.NewEncoder(p.out).Encode(s)
	}
	for _, way := range []struct {
		name string
		link.Counters
	}{{"a>b", s.AToB}, {"b>a", s.BToA}} {
		c := way.Counters
		fmt.Fprintf(p.out, "%s packets %d octets %d delivered %d lost %d queue-full %d too-big %d blocked %d blackholed %d forgotten %d "+
			"refused %d duplicated %d reordered %d queue %d queue-max %d overflow %d overruns %d late %d worst %v\n",
			way.name, c.Packets, c.Octets, c.Delivered, c.Lost, c.QueueFull, c.TooBig, c.Blocked, c.Blackholed, c.Forgotten,
			c.Refused, c.Duplicated, c.Reordered, c.Queue, c.QueueMax, c.Overflow, c.Overruns, c.Late, c.Worst)
	}
	return nil
}
