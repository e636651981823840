package demo

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

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

// say prints one line with the time since begin.
func (s *screen) say(begin time.Time, format string, args ...any) {
	s.line(fmt.Sprintf("%5.1f s  %s", time.Since(begin).Seconds(), fmt.Sprintf(format, args...)))
}

// step prints what a step came to.
func (s *screen) step(begin time.Time, step Step) {
	mark := "✓ ok    "
	if !step.OK {
		mark = "✗ failed"
	}
	text := mark + "  " + step.Name
	if step.RecoveredMS != nil {
		text += fmt.Sprintf(": recovered in %.0f ms", *step.RecoveredMS)
	}
	if step.ReachedMS != nil {
		text += fmt.Sprintf(": traffic reached it after %.0f ms", *step.ReachedMS)
	}
	if step.WithdrawnMS != nil {
		text += fmt.Sprintf(": withdrawn after %.0f ms", *step.WithdrawnMS)
	}
	if step.Requests > 1 {
		text += fmt.Sprintf(", %d requests, %d failed, %d retried", step.Requests, step.Failed, step.Retried)
	}
	if step.Detail != "" {
		text += "\n           " + step.Detail
	}
	s.say(begin, "%s", text)
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
				text += fmt.Sprintf("%s %s %3d/s   ", r, bar(t.regions[string(r)]), t.regions[string(r)])
			}
			s.mu.Lock()
			s.erase()
			s.live = fmt.Sprintf("%sfailed %d", text, t.failed)
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
