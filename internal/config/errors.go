package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/hashicorp/hcl/v2"

	"github.com/tradewind-mesh/tradewind/federation"
)

// invalid turns HCL's diagnostics into one error that shows each of them with its snippet; nil when none is an error.
func invalid(code federation.Code, what, fix string, files map[string]*hcl.File, diags hcl.Diagnostics) error {
	if !diags.HasErrors() {
		return nil
	}
	slices.SortStableFunc(diags, byPlace) // gohcl goes through a map
	var text strings.Builder
	count := 0
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			count++
		}
	}
	shown := diags[:min(len(diags), maxShown)]
	if err := hcl.NewDiagnosticTextWriter(&text, files, 120, false).WriteDiagnostics(shown); err != nil {
		text.WriteString(shown.Error())
	}
	if more := len(diags) - len(shown); more > 0 {
		fmt.Fprintf(&text, "\nThere %s %d more.\n", plural(more, "is", "are"), more)
	}
	return &federation.Diagnostic{
		Code: code,
		What: fmt.Sprintf("%s: %d %s", what, count, plural(count, "error", "errors")),
		Why:  "\n" + strings.TrimRight(printable(text.String()), "\n") + "\n",
		Fix:  fix,
		Err:  diags,
	}
}

// maxShown bounds how many errors are shown, so that a file of another kind does not fill a log.
const maxShown = 50

// byPlace orders diagnostics as a reader meets their places; those without one come first.
func byPlace(a, b *hcl.Diagnostic) int {
	var x, y hcl.Range
	if a.Subject != nil {
		x = *a.Subject
	}
	if b.Subject != nil {
		y = *b.Subject
	}
	return cmp.Or(cmp.Compare(x.Filename, y.Filename), cmp.Compare(x.Start.Byte, y.Start.Byte))
}

// printable replaces what would move a terminal's cursor or change its colours: a snippet shows what stands in the file.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, s)
}

// notText refuses what no editor wrote, which the parser would complain of octet by octet.
func notText(name string, content []byte) *hcl.Diagnostic {
	if utf8.Valid(content) && !bytes.ContainsRune(content, 0) {
		return nil
	}
	return problem("Cannot read "+name, errors.New("it is not a text file: configuration is written in UTF-8"), nil)
}

func plural(n int, one, many string) string {
	if n == 1 {
		return one
	}
	return many
}

// problem is one error at a place in a file.
func problem(summary string, err error, at *hcl.Range) *hcl.Diagnostic {
	return &hcl.Diagnostic{Severity: hcl.DiagError, Summary: summary, Detail: sentence(err.Error()), Subject: at}
}

// sentence makes an error text end like HCL's own details do.
func sentence(s string) string {
	if s == "" || strings.HasSuffix(s, ".") {
		return s
	}
	return strings.ToUpper(s[:1]) + s[1:] + "."
}
