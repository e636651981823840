package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/federation"
)

// A screen shows the story: on a terminal with a line of live traffic below, elsewhere as plain lines.
type screen struct {
	out      io.Writer
	terminal bool

	mu   sync.Mutex
	live string // the line now at the bottom of the terminal
}

func newScreen(o Options) *screen { return &screen{out: o.Out, terminal: o.Terminal} }

// columns is how wide the story is told; a narrower terminal wraps it once more.
const columns = 98

// indent is where texts begin, after the time.
const indent = 9

// say prints one paragraph with the time since begin.
func (s *screen) say(begin time.Time, format string, args ...any) {
	s.line(fmt.Sprintf("%5.1f s  %s", time.Since(begin).Seconds(), wrapped(fmt.Sprintf(format, args...), indent)))
}

// next says what comes next.
func (s *screen) next(begin time.Time, format string, args ...any) {
	s.say(begin, "→ "+format, args...)
}

// wrapped is text in lines of no more than columns, all but the first indented.
func wrapped(text string, indent int) string {
	var b strings.Builder
	at := indent
	for i, word := range strings.Fields(text) {
		n := utf8.RuneCountInString(word)
		switch {
		case i == 0:
		case at+1+n > columns:
			b.WriteString("\n" + strings.Repeat(" ", indent))
			at = indent
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at += n
	}
	return b.String()
}

// step prints what a step came to, and the proof of it.
func (s *screen) step(begin time.Time, step Step) {
	mark, st := "✓", "32"
	if !step.OK {
		mark, st = "✗ FAILED:", "31"
	}
	if s.terminal {
		mark = "\x1b[1;" + st + "m" + mark + "\x1b[0m"
	}
	text := step.Name
	for _, took := range []struct {
		word string
		ms   *float64
	}{{"recovered in", step.RecoveredMS}, {"traffic reached it after", step.ReachedMS}, {"withdrawn after", step.WithdrawnMS},
		{"its last answer came after", step.DrainedMS}, {"whole again after", step.ReturnedMS}} {
		if took.ms != nil {
			text += fmt.Sprintf(": %s %.0f ms", took.word, *took.ms)
		}
	}
	const more = indent + 2
	text = fmt.Sprintf("%5.1f s  %s %s", time.Since(begin).Seconds(), mark, wrapped(text, more))
	proof := step.Detail
	if step.Requests > 1 {
		proof = fmt.Sprintf("%d requests, %d failed, %d retried; ", step.Requests, step.Failed, step.Retried) + proof
	}
	for part := range strings.SplitSeq(proof, "; ") {
		if part != "" {
			text += "\n" + strings.Repeat(" ", more) + wrapped(part, more)
		}
	}
	s.line(text + "\n")
}

func (s *screen) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	fmt.Fprintln(s.out, text)
	fmt.Fprint(s.out, s.live)
}

// erase removes the live line; it comes back with the next print.
func (s *screen) erase() {
	if s.live != "" {
		fmt.Fprint(s.out, "\r\x1b[K")
	}
}

// A line that is too long for the terminal is cut: one that wrapped could not be erased (DECAWM of the VT100).
const noWrap, wrapAgain = "\x1b[?7l", "\x1b[?7h"

// watch redraws the line of live traffic ten times a second until ctx ends. It does nothing where there is no terminal.
func (s *screen) watch(ctx context.Context, begin time.Time, l *load) {
	if !s.terminal {
		return
	}
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			t := l.since(now.Add(-time.Second))
			text := fmt.Sprintf("%5.1f s  ", now.Sub(begin).Seconds())
			for _, r := range []federation.Region{aws, azure, gcp} {
				cloud, _, _ := strings.Cut(string(r), "-")
				text += fmt.Sprintf("%s %s %3d/s   ", cloud, bar(t.regions[string(r)]), t.regions[string(r)])
			}
			s.mu.Lock()
			s.erase()
			s.live = noWrap + fmt.Sprintf("%sfailed %d", text, t.failed) + wrapAgain
			fmt.Fprint(s.out, s.live)
			s.mu.Unlock()
		}
	}
}

func bar(n int) string {
	filled := min(n*8/ratePerSecond, 8)
	return strings.Repeat("█", filled) + strings.Repeat("░", 8-filled)
}

func (s *screen) summary(r Result) {
	word := "every step held"
	if !r.OK {
		word = "a step did not hold"
	}
	s.line(fmt.Sprintf("%s; %.1f s in all", word, float64(r.TookMS)/1000))
}

// hold says how to look around in the running world.
func (s *screen) hold(r *region) {
	socket := r.dir + "/data/admin.sock"
	s.line("still running; try in another terminal (Ctrl-C here ends it):\n" +
		"  export TRADEWIND_SOCKET=" + socket + "\n" +
		"  bin/tradewind status\n  bin/tradewind explain batch checkout\n" +
		"  bin/tradewind route test GET http://checkout/v1/cart --from web\n  bin/tradewind failover test aws-us-east-1\n" +
		"  bin/tradewind services list\n  bin/tradewind provider show machines\n" +
		"its configuration, with the provider block: " + r.dir + "/gateway.hcl")
}

func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != "" {
		fmt.Fprintln(s.out)
	}
	s.live = ""
}
