package config

import (
	"fmt"
	"strings"

	"github.com/hashicorp/hcl/v2"

	"github.com/tradewind-mesh/tradewind/federation"
)

// invalid turns HCL's diagnostics into one error that shows each of them with its snippet; nil when none is an error.
func invalid(code federation.Code, what, fix string, files map[string]*hcl.File, diags hcl.Diagnostics) error {
	if !diags.HasErrors() {
		return nil
	}
	var text strings.Builder
	count := 0
	for _, d := range diags {
		if d.Severity == hcl.DiagError {
			count++
		}
	}
	if err := hcl.NewDiagnosticTextWriter(&text, files, 120, false).WriteDiagnostics(diags); err != nil {
		text.WriteString(diags.Error())
	}
	return &federation.Diagnostic{
		Code: code,
		What: fmt.Sprintf("%s: %d %s", what, count, plural(count, "error", "errors")),
		Why:  "\n" + strings.TrimRight(text.String(), "\n") + "\n",
		Fix:  fix,
		Err:  diags,
	}
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
