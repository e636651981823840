package federation

import (
	"errors"
	"fmt"
	"strings"
)

// Code names one diagnosis for good: "TW-" and four digits, never reused. The first digit is the area:
// 1 config, store and resources, 2 trust, 3 peering, 4 exchange, 5 registry and health, 6 data path, 7 policy, 8 admin and CLI.
type Code string

// Diagnostic is an error as an operator reads it: what happened, why, and what to do about it.
type Diagnostic struct {
	Code Code   `json:"code"`
	What string `json:"what"`          // subject and fact, no full stop
	Why  string `json:"why,omitempty"` // the cause, when known
	Fix  string `json:"fix,omitempty"` // what to do next, a command where there is one
	Err  error  `json:"-"`             // what errors.Is and errors.As look into
}

func (d *Diagnostic) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", d.Code, d.What)
	if d.Why != "" {
		b.WriteString(": " + d.Why)
	}
	if d.Fix != "" {
		b.WriteString(" (fix: " + d.Fix + ")")
	}
	return b.String()
}

// Reason is what d says without its code and fix, for the Why of another Diagnostic.
func (d *Diagnostic) Reason() string {
	if d.Why == "" {
		return d.What
	}
	if strings.HasPrefix(d.Why, "\n") { // lines of its own, such as a snippet of a file
		return d.What + ":" + d.Why
	}
	return d.What + ": " + d.Why
}

// Unwrap returns the cause.
func (d *Diagnostic) Unwrap() error { return d.Err }

// CodeOf returns the code of the first Diagnostic in err's tree, or "" when there is none.
func CodeOf(err error) Code {
	var d *Diagnostic
	if errors.As(err, &d) {
		return d.Code
	}
	return ""
}

// CodeHelp is the offline explanation of a code, shown by "tradewind help CODE".
type CodeHelp struct {
	Code  Code
	Title string // one line
	Text  string // what it means, how it comes about, what to do
}

// Help returns the explanation of code.
func Help(code Code) (CodeHelp, bool) {
	for _, h := range AllHelp() {
		if h.Code == code {
			return h, true
		}
	}
	return CodeHelp{}, false
}

// AllHelp returns the explanations of all codes.
func AllHelp() []CodeHelp {
	var all []CodeHelp
	for _, area := range [][]CodeHelp{configCodes, trustCodes, peeringCodes, exchangeCodes, registryCodes, providerCodes, consulCodes, joinCodes, dataPathCodes, failoverCodes, ingressCodes, policyCodes, adminCodes} {
		all = append(all, area...)
	}
	return all
}
