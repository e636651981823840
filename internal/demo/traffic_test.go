package demo

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestMeasuredShares(t *testing.T) {
	of := func(inAWS, inAzure, inGCP, failed int) tally {
		c := newTally()
		c.requests, c.failed = inAWS+inAzure+inGCP+failed, failed
		c.regions[string(aws)], c.regions[string(azure)], c.regions[string(gcp)] = inAWS, inAzure, inGCP
		return c
	}
	for _, test := range []struct {
		t     tally
		asked float64 // of azure
		ok    bool
	}{
		{of(288, 32, 0, 0), 10, true}, {of(270, 50, 0, 0), 10, true}, {of(264, 56, 0, 0), 10, false}, {of(312, 8, 0, 0), 10, false},
		{of(160, 160, 0, 0), 50, true}, {of(100, 220, 0, 0), 50, false}, {of(288, 31, 1, 0), 10, false}, {of(288, 31, 0, 1), 10, false},
		{of(0, 0, 0, 0), 10, false},
	} {
		list, ok := measured(test.t, map[federation.Region]float64{aws: 100 - test.asked, azure: test.asked})
		if ok != test.ok {
			t.Errorf("%+v: %v, %+v", test.t, ok, list)
		}
		for _, s := range list {
			if s.Least > s.Asked || s.Most < s.Asked || s.Least < 0 || s.Most > 100 {
				t.Errorf("%+v", s)
			}
		}
	}
}

func TestLinesFitTheScreen(t *testing.T) {
	text := strings.Repeat("one two three ✓ ", 40)
	for _, columns := range []int{minColumns, 60, maxColumns} {
		for _, line := range strings.Split(strings.Repeat(" ", indent)+wrapped(text, indent, columns), "\n") {
			n, begins := utf8.RuneCountInString(line), strings.HasPrefix(line, strings.Repeat(" ", indent))
			if n > columns || !begins || strings.HasSuffix(line, " ") {
				t.Errorf("%d columns: %q", n, line)
			}
		}
		if strings.Join(strings.Fields(wrapped(text, 3, columns)), " ") != strings.TrimSpace(text) {
			t.Error("words are lost")
		}
	}
	for columns, want := range map[int][2]int{0: {maxColumns, maxBar}, 20: {minColumns, 0}, 60: {60, 0}, 75: {75, 5},
		300: {maxColumns, maxBar}} {
		if s := newScreen(Options{Columns: columns}); s.columns != want[0] || s.bar != want[1] {
			t.Errorf("a terminal of %d columns: %d for the story, bars of %d; want %v", columns, s.columns, s.bar, want)
		}
	}
}

// TestWithoutATerminal holds that nobody gets escape sequences whom they do not mean anything.
func TestWithoutATerminal(t *testing.T) {
	var out strings.Builder
	s := newScreen(Options{Out: &out})
	s.step(time.Now(), Step{Name: "start", OK: true, Requests: 2, Detail: "one; two"})
	s.watch(t.Context(), time.Now(), &load{}) // would go on until the test ends
	s.close()
	if strings.ContainsAny(out.String(), "\x1b\r") {
		t.Errorf("%q", out.String())
	}
}
