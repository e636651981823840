package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// asks is what the flags of a command say about a call.
type asks struct {
	assurance          string
	method, path, host string
	headers            []string
	token              string // where it is read from
}

// flags adds the flags of a call to cmd, with those of a request when it takes them so.
func (a *asks) flags(cmd *cobra.Command, request bool) {
	f := cmd.Flags()
	f.StringVar(&a.assurance, "assurance", "", "how the caller is known: binding (default) or mtls")
	f.StringArrayVar(&a.headers, "header", nil, `a header field of the request, as "name: value"; may be repeated`)
	f.StringVar(&a.host, "host", "", "host that the request names (default: the service)")
	f.StringVar(&a.token, "token", "", "file with the JSON Web Token that the request brings, or - for standard input")
	if request {
		f.StringVar(&a.method, "method", "", "ask about a request with this method (default: GET, with --path, --header, --host or --token)")
		f.StringVar(&a.path, "path", "", "ask about a request for this path and query, as the caller sends it (default: /)")
	}
}

// request is the request that the flags describe; nil when they describe none.
func (a *asks) request() (*admin.HTTPRequest, error) {
	if a.method == "" && a.path == "" && a.host == "" && len(a.headers) == 0 && a.token == "" {
		return nil, nil
	}
	r := &admin.HTTPRequest{Method: a.method, Target: a.path, Host: a.host}
	if r.Method == "" {
		r.Method = "GET"
	}
	if r.Target == "" {
		r.Target = "/"
	}
	for _, h := range a.headers {
		name, value, found := strings.Cut(h, ":")
		if !found || name == "" {
			return nil, usage(fmt.Sprintf("header %q is none", h), `write --header "name: value"`)
		}
		if r.Header == nil {
			r.Header = map[string][]string{}
		}
		r.Header[name] = append(r.Header[name], strings.TrimSpace(value))
	}
	return r, nil
}

// tokenLines say what is made of the request's token.
func tokenLines(s *screen, list []admin.TokenFinding) {
	label := "token"
	for _, t := range list {
		line := fmt.Sprintf("%s verified by %q: issuer %s", s.paint(good, "✓"), t.Provider, t.Issuer)
		if !t.Expires.IsZero() {
			line += ", until " + t.Expires.UTC().Format(time.RFC3339)
		}
		if !t.Verified {
			line = fmt.Sprintf("%s not verified by %q: %s", s.paint(bad, "✗"), t.Provider, t.Why)
			if t.Issuer != "" && t.Refusal != "issuer" {
				line += fmt.Sprintf(" (it says it is of %s)", t.Issuer)
			}
		}
		s.line("  %-9s  %s", label, line)
		label = ""
	}
}

// limitLines say which limits the call meets, and whether one refuses it now.
func limitLines(s *screen, list []admin.Limit) {
	label := "limits"
	for _, l := range list {
		glyph, text := "·", l.Text
		if l.Refuses {
			glyph, text = s.paint(bad, "✗"), text+"; one more is refused"
		}
		s.line("  %-9s  %s %s: %s", label, glyph, limitName(l), text)
		label = ""
	}
}

// limitName says what l bounds, and where.
func limitName(l admin.Limit) string {
	switch l.Kind {
	case "passage":
		return "way to " + string(l.Region)
	case "retry_budget":
		return "retries"
	}
	return strings.ReplaceAll(l.Kind, "_", " ") + " in " + string(l.Region)
}

// styles are how verdicts are shown.
var styles = map[admin.Verdict]style{admin.VerdictAllowed: good, admin.VerdictAnswered: good, admin.VerdictUnreachable: warn,
	admin.VerdictLimited: warn,
	admin.VerdictDenied:  bad, admin.VerdictRefused: bad}

// verdictCode is the end of a command that has told v.
func verdictCode(v admin.Verdict) error {
	switch v {
	case admin.VerdictAllowed, admin.VerdictAnswered:
		return nil
	case admin.VerdictUnreachable, admin.VerdictLimited:
		return &exit{code: exitUnreachable}
	}
	return &exit{code: exitDenied}
}

// forecastLines say what becomes of a request before anybody decides whether it is allowed.
func forecastLines(s *screen, f *admin.Forecast) {
	s.line("  request    %s", requestText(f.Request))
	label := "rule"
	row := func(glyph, text string) {
		s.line("  %-9s  %s %s", label, glyph, text)
		label = ""
	}
	before, more := f.Before, f.More
	if !s.wide && len(before) > fewRules {
		more += len(before) - fewRules
		before = before[len(before)-fewRules:]
	}
	if more > 0 {
		row("·", count(more, "rule")+" before these do not match")
	}
	for _, b := range before {
		row("·", b.Rule+": "+b.Reason)
	}
	switch {
	case f.Rule != nil:
		row("→", f.Rule.Name+": "+doesText(f.Rule))
	case f.Forwarded != nil && len(f.Shares) > 0:
		row("→", "none matches: it goes to the service")
	}
	if f.Forwarded != nil && requestText(*f.Forwarded) != requestText(f.Request) {
		s.line("  forwarded  %s", requestText(*f.Forwarded))
	}
	if len(f.Shares) < 2 && !slices.ContainsFunc(f.Shares, func(s admin.Share) bool { return s.Subset != "" }) {
		return
	}
	label = "split"
	for _, share := range f.Shares {
		row("·", shareText(s, share))
	}
}

// fewRules is how many rules that do not match are shown unless more are asked for.
const fewRules = 8

func requestText(r admin.HTTPRequest) string { return r.Method + " " + r.Host + r.Target }

func shareText(s *screen, share admin.Share) string {
	text := fmt.Sprintf("%s%% to %s", percent(share.Percent), share.Destination)
	if share.Subset != "" {
		text += " subset " + share.Subset
	}
	text += ": " + s.paint(styles[share.Verdict], string(share.Verdict))
	if share.Verdict == admin.VerdictAllowed {
		return text + " by region " + string(share.Region)
	}
	return text + ": " + share.Reason
}

// percent writes p with as many digits as a share needs.
func percent(p float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", p), "0"), ".")
}
