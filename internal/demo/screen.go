package demo

import (
	"cmp"
	"context"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/federation"
)

// A screen shows the story: on a terminal with a line of live traffic below, elsewhere as plain lines.
type screen struct {
	Options
	columns int // how wide the story is told
	bar     int // and a bar of the line of traffic

	mu   sync.Mutex
	live string // the line now at the bottom of the terminal
}

const (
	maxColumns = 98 // longer lines are hard to read
	minColumns = 40 // narrower than that the terminal may wrap
	maxBar     = 8
	besideBars = 58 // columns of the line of traffic
)

func newScreen(o Options) *screen {
	columns := cmp.Or(o.Columns, maxColumns)
	return &screen{Options: o, columns: max(minColumns, min(columns, maxColumns)), bar: max(0, min((columns-besideBars)/3, maxBar))}
}

// indent is where texts begin, after the time.
const indent = 9

// say prints one paragraph with the time since begin.
func (s *screen) say(begin time.Time, format string, args ...any) {
	s.line(fmt.Sprintf("%5.1f s  %s", time.Since(begin).Seconds(), wrapped(fmt.Sprintf(format, args...), indent, s.columns)))
}

// next says what comes next.
func (s *screen) next(begin time.Time, format string, args ...any) {
	s.say(begin, "→ "+format, args...)
}

// wrapped is text in lines of no more than columns, all but the first indented.
func wrapped(text string, indent, columns int) string {
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
	if s.Color {
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
	text = fmt.Sprintf("%5.1f s  %s %s", time.Since(begin).Seconds(), mark, wrapped(text, more, s.columns))
	proof := step.Detail
	if step.Requests > 1 {
		proof = fmt.Sprintf("%d requests, %d failed, %d retried; ", step.Requests, step.Failed, step.Retried) + proof
	}
	for part := range strings.SplitSeq(proof, "; ") {
		if part != "" {
			text += "\n" + strings.Repeat(" ", more) + wrapped(part, more, s.columns)
		}
	}
	s.line(text + "\n")
}

func (s *screen) line(text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.erase()
	fmt.Fprintln(s.Out, text)
	fmt.Fprint(s.Out, s.live)
}

// erase removes the live line; it comes back with the next print.
func (s *screen) erase() {
	if s.live != "" {
		fmt.Fprint(s.Out, "\r\x1b[K")
	}
}

// A line that is too long for the terminal is cut: one that wrapped could not be erased (DECAWM of the VT100).
const noWrap, wrapAgain = "\x1b[?7l", "\x1b[?7h"

// watch redraws the line of live traffic ten times a second until ctx ends. It does nothing where no line can be redrawn.
func (s *screen) watch(ctx context.Context, begin time.Time, l *load) {
	if !s.Live {
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
				text += fmt.Sprintf("%s %s %3d/s   ", cloud, bar(t.regions[string(r)], s.bar), t.regions[string(r)])
			}
			s.mu.Lock()
			s.erase()
			s.live = noWrap + fmt.Sprintf("%sfailed %d", text, t.failed) + wrapAgain
			fmt.Fprint(s.Out, s.live)
			s.mu.Unlock()
		}
	}
}

// bar shows n requests a second in so many columns.
func bar(n, width int) string {
	filled := min(n*width/ratePerSecond, width)
	return strings.Repeat("█", filled) + strings.Repeat("░", width-filled)
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
	text := "still running; try in another terminal (Ctrl-C here ends it):\n  export TRADEWIND_SOCKET=" + socket + "\n"
	for _, args := range []string{"status", "explain batch checkout", "route test GET http://checkout/v1/cart --from web",
		"failover test aws-us-east-1", "services list", "provider show machines"} {
		text += "  " + s.Program + " " + args + "\n"
	}
	s.line(text + "its configuration, with the provider block: " + r.dir + "/gateway.hcl")
}

func (s *screen) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live != "" {
		fmt.Fprintln(s.Out)
	}
	s.live = ""
}
