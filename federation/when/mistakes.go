package when

import (
	"fmt"
	"strings"
	"unicode"

	"cel.dev/cel-go/cel"
	"cel.dev/cel-go/common/operators"

	"github.com/tradewind-mesh/tradewind/federation"
)

// CodeExpression is the code of an expression that cannot be used.
const CodeExpression federation.Code = "TW-7009"

func mistake(why, fix string) *federation.Diagnostic {
	return &federation.Diagnostic{Code: CodeExpression, What: "when", Why: why, Fix: fix}
}

// worded says in words what the library has found first: what follows is often a consequence.
func worded(issues *cel.Issues) *federation.Diagnostic {
	e := issues.Errors()[0]
	what, fix := strings.ReplaceAll(e.Message, " (in container '')", ""), ""
	switch {
	case strings.HasPrefix(what, "undeclared reference to"):
		fix = known(what)
	case strings.HasPrefix(what, "found no matching overload"):
		what, fix = operator(what), "compare values of one type; int(), double() and string() convert"
	case strings.HasPrefix(what, "Syntax error"):
		fix = `write such as: request.method == "GET" && "admin" in token.claims.roles`
	case strings.Contains(what, "recursion"):
		what, fix = fmt.Sprintf("it nests more than %d levels", maxNesting), "make it several http blocks"
	case strings.HasPrefix(what, "the pattern"):
		fix = `write such as: request.path.matches("^/v[0-9]+/")`
	}
	place := fmt.Sprintf("column %d: ", e.Location.Column()+1) // the library counts columns from 0, lines from 1
	switch {
	case e.Location.Column() < 0: // it is about the whole
		place = ""
	case e.Location.Line() > 1:
		place = fmt.Sprintf("line %d, %s", e.Location.Line(), place)
	}
	return mistake(place+printable(what), fix)
}

// known says what can be asked for instead of the name in what.
func known(what string) string {
	_, name, _ := strings.Cut(what, "'")
	name, _, _ = strings.Cut(name, "'")
	switch name {
	case "timestamp", "duration", "now":
		return "an expression knows no time: the gateway has refused tokens that have expired"
	case "map", "filter":
		return "use exists, exists_one or all"
	}
	var all, near []string
	for _, v := range variables {
		all = append(all, v.name)
		if strings.HasPrefix(v.name, name+".") {
			near = append(near, v.name)
		}
	}
	if near == nil {
		near = all
	}
	return "there are " + strings.Join(near, ", ")
}

// operator writes the operator in what as people do: '_==_' is '=='.
func operator(what string) string {
	before, rest, _ := strings.Cut(what, "'")
	name, after, _ := strings.Cut(rest, "'")
	if written, found := operators.FindReverse(name); found && written != "" {
		name = written
	}
	return before + "'" + name + "'" + after
}

// maxPrinted is how much of a message is shown, in octets.
const maxPrinted = 300

// printable returns s as one line that is safe in a terminal: it may quote what a caller has sent.
func printable(s string) string {
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case !unicode.IsPrint(r):
			return '.'
		}
		return r
	}, s)
	if len(s) > maxPrinted {
		s = strings.ToValidUTF8(s[:maxPrinted], "") + "..."
	}
	return s
}
