package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// answer is what a command found, ready for every output format.
type answer struct {
	value any           // json: one document
	items []any         // jsonl: one line each; nil: value in one line
	names []string      // name: one a line
	table func(*screen) // table and wide
}

// emit writes a to standard output in the chosen format.
func (c *cli) emit(a answer) error {
	switch c.flags.output {
	case "json":
		return writeJSON(c.out, a.value, "  ")
	case "jsonl":
		items := a.items
		if items == nil {
			items = []any{a.value}
		}
		for _, item := range items {
			if err := writeJSON(c.out, item, ""); err != nil {
				return err
			}
		}
		return nil
	case "name":
		for _, name := range a.names {
			if _, err := fmt.Fprintln(c.out, name); err != nil {
				return fmt.Errorf("write output: %w", err)
			}
		}
		return nil
	}
	s := &screen{color: c.colored(c.outTTY), wide: c.flags.output == "wide"}
	a.table(s)
	if _, err := io.WriteString(c.out, s.b.String()); err != nil {
		return fmt.Errorf("write output: %w", err)
	}
	return nil
}

func writeJSON(w io.Writer, v any, indent string) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", indent)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write JSON: %w", err)
	}
	return nil
}

// listOf turns a list into the items of an answer; an empty list has no items, and so no line.
func listOf[T any](list []T) []any {
	items := make([]any, 0, len(list))
	for _, v := range list {
		items = append(items, v)
	}
	return items
}

// human reports whether the output is for eyes, so that remarks about it are welcome.
func (c *cli) human() bool { return c.flags.output == "table" || c.flags.output == "wide" }

// say writes a remark to standard error.
func (c *cli) say(format string, args ...any) {
	fmt.Fprintf(c.err, format+"\n", args...)
}

// next tells which command is useful now. Scripts are not told.
func (c *cli) next(format string, args ...any) {
	if c.human() {
		c.say("next: "+format, args...)
	}
}

func (c *cli) colored(tty bool) bool {
	switch c.flags.color {
	case "always":
		return true
	case "never":
		return false
	}
	return tty && c.env("NO_COLOR") == "" && c.env("TERM") != "dumb"
}

// style is how a word is shown. It never carries meaning alone: the word or a glyph does.
type style string

const (
	plain  style = ""
	strong style = "1"
	good   style = "32"
	bad    style = "31"
	warn   style = "33"
	faint  style = "2"
)

// paint wraps text in st when color is on.
func paint(color bool, st style, text string) string {
	if !color || st == plain || text == "" {
		return text
	}
	return "\x1b[" + string(st) + "m" + text + "\x1b[0m"
}

// screen collects what a person is shown.
type screen struct {
	b     strings.Builder
	color bool
	wide  bool
}

func (s *screen) line(format string, args ...any) { fmt.Fprintf(&s.b, format+"\n", args...) }

func (s *screen) paint(st style, text string) string { return paint(s.color, st, text) }

// cell is one field of a table.
type cell struct {
	text  string
	style style
}

// text makes plain cells.
func text(fields ...string) []cell {
	cells := make([]cell, len(fields))
	for i, f := range fields {
		cells[i] = cell{text: f}
	}
	return cells
}

// table writes rows under header, columns aligned by what a terminal shows. An empty field is a hyphen.
func (s *screen) table(header []string, rows [][]cell) {
	width := make([]int, len(header))
	all := append([][]cell{text(header...)}, rows...)
	for _, row := range all {
		for i := range row {
			if row[i].text == "" {
				row[i].text = "-"
			}
			width[i] = max(width[i], utf8.RuneCountInString(row[i].text))
		}
	}
	for n, row := range all {
		var line strings.Builder
		for i, field := range row {
			if n == 0 {
				field.style = faint
			}
			line.WriteString(s.paint(field.style, field.text))
			if i < len(row)-1 {
				line.WriteString(strings.Repeat(" ", width[i]-utf8.RuneCountInString(field.text)+2))
			}
		}
		s.line("%s", strings.TrimRight(line.String(), " "))
	}
}

// fields writes names and values, aligned; pairs without a value are left out.
func (s *screen) fields(pairs ...string) {
	width := 0
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			width = max(width, len(pairs[i]))
		}
	}
	for i := 0; i+1 < len(pairs); i += 2 {
		if pairs[i+1] != "" {
			s.line("%s%s  %s", s.paint(faint, pairs[i]), strings.Repeat(" ", width-len(pairs[i])), pairs[i+1])
		}
	}
}

// printError writes err as an operator reads it or, where the output is JSON, as one line of it, still on standard error.
func (c *cli) printError(err error) {
	var e *exit
	if errors.As(err, &e) && e.err == nil {
		return
	}
	all := admin.Diagnostics(err)
	if c.flags.output == "json" || c.flags.output == "jsonl" {
		if len(all) == 0 {
			all = []*federation.Diagnostic{{What: err.Error()}}
		}
		_ = writeJSON(c.err, map[string]any{"errors": all}, "") // there is nowhere left to complain
		return
	}
	color := c.colored(c.errTTY)
	if len(all) == 0 {
		c.say("%s %v", paint(color, bad, "✗"), err)
	}
	for _, d := range all {
		c.say("%s %s %s", paint(color, bad, "✗"), paint(color, strong, string(d.Code)), d.What)
		if d.Why != "" {
			c.say("%s", hang("  why  ", d.Why))
		}
		if d.Fix != "" {
			c.say("%s", hang("  fix  ", d.Fix))
		}
		c.say("  more: tradewind help %s", d.Code)
	}
}

// hang writes text behind label; text that brings its own lines, such as a snippet of a file, stands below it as it is.
func hang(label, text string) string {
	if snippet, ok := strings.CutPrefix(text, "\n"); ok {
		return strings.TrimRight(label, " ") + "\n" + strings.TrimRight(snippet, "\n")
	}
	return label + strings.ReplaceAll(strings.TrimRight(text, "\n"), "\n", "\n"+strings.Repeat(" ", len(label)))
}

// span writes a duration as people say it: at most two units.
func span(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + span(-d)
	case d == 0:
		return "0s"
	case d < 100*time.Millisecond:
		return trimZero(fmt.Sprintf("%.1f", float64(d)/float64(time.Millisecond))) + "ms"
	case d < time.Second:
		return fmt.Sprintf("%dms", d.Milliseconds())
	case d < 10*time.Second:
		return trimZero(fmt.Sprintf("%.1f", d.Truncate(100*time.Millisecond).Seconds())) + "s"
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return two(int(d.Minutes()), "m", int(d.Seconds())%60, "s")
	case d < 24*time.Hour:
		return two(int(d.Hours()), "h", int(d.Minutes())%60, "m")
	case d < 30*24*time.Hour:
		return two(int(d.Hours())/24, "d", int(d.Hours())%24, "h")
	}
	return fmt.Sprintf("%dd", int(d.Hours())/24)
}

func two(a int, unit string, b int, small string) string {
	if b == 0 {
		return fmt.Sprintf("%d%s", a, unit)
	}
	return fmt.Sprintf("%d%s%d%s", a, unit, b, small)
}

func trimZero(s string) string { return strings.TrimSuffix(s, ".0") }

// secs writes a measured span; nothing measured is empty.
func secs(s admin.Seconds) string {
	if s == 0 {
		return ""
	}
	return span(s.D())
}

// ago writes how long t is past; an unset time is empty.
func (c *cli) ago(t admin.Time) string {
	if t.IsZero() {
		return ""
	}
	return span(max(0, c.now().Sub(t.Time))) + " ago"
}

// until writes how far t is ahead, or that it has passed.
func (c *cli) until(t admin.Time) string {
	switch left := t.Sub(c.now()).Round(time.Second); { // what was 15m a moment ago is still 15m
	case t.IsZero():
		return ""
	case left <= 0:
		return "EXPIRED " + span(-left) + " ago"
	default:
		return span(left)
	}
}

// count writes a number of things: "1 peer", "3 peers".
func count(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	if strings.HasSuffix(one, "y") {
		return fmt.Sprintf("%d %sies", n, strings.TrimSuffix(one, "y"))
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// joined writes a list of named things in one line.
func joined[T ~string](list []T) string {
	words := make([]string, len(list))
	for i, w := range list {
		words[i] = string(w)
	}
	return strings.Join(words, ", ")
}
