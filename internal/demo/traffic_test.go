package demo

import (
	"strings"
	"testing"
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
	for _, line := range strings.Split(strings.Repeat(" ", indent)+wrapped(text, indent), "\n") {
		n, begins := utf8.RuneCountInString(line), strings.HasPrefix(line, strings.Repeat(" ", indent))
		if n > columns || !begins || strings.HasSuffix(line, " ") {
			t.Errorf("%d columns: %q", n, line)
		}
	}
	if strings.Join(strings.Fields(wrapped(text, 3)), " ") != strings.TrimSpace(text) {
		t.Error("words are lost")
	}
}
