package main

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// stepLog shows the steps of something that takes a while, on standard error: on a terminal a running step is overwritten by
// its outcome; elsewhere there is one line for each outcome.
type stepLog struct {
	c    *cli
	open bool // a line without an end stands on the terminal
}

func (c *cli) steps() *stepLog { return &stepLog{c: c} }

func (l *stepLog) show(step admin.PeerStep) {
	color := l.c.colored(l.c.errTTY)
	if step.State == admin.StepRunning {
		if l.c.errTTY {
			l.clear()
			fmt.Fprintf(l.c.err, "  %s ...", step.Text)
			l.open = true
		}
		return
	}
	glyph, st := "✓", good
	switch step.State {
	case admin.StepWarning:
		glyph, st = "!", warn
	case admin.StepFailed:
		glyph, st = "✗", bad
	}
	l.clear()
	l.c.say("%s %s: %s", paint(color, st, glyph), step.Name, step.Text)
}

// clear takes away the line of a running step.
func (l *stepLog) clear() {
	if l.open {
		fmt.Fprint(l.c.err, "\r\x1b[K")
		l.open = false
	}
}

func (l *stepLog) end() { l.clear() }

// tokenFromJSON takes the token out of what "generate-token -o json" wrote.
func tokenFromJSON(text string) (string, error) {
	var token admin.PeerToken
	err := json.Unmarshal([]byte(text), &token)
	if err == nil && token.Token == "" {
		err = errors.New("it has no field \"token\"")
	}
	if err != nil {
		return "", usage("the file is JSON but holds no token: "+err.Error(), "use what tradewind peer generate-token wrote")
	}
	return token.Token, nil
}
