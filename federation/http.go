package federation

import (
	"errors"
	"fmt"
	"strings"
)

// The limits of what a request can be compared with. They bound what a resource can make each request cost.
const (
	MaxRules      = 1000 // matches of one intention: each request may be held against all of them
	maxConditions = 32   // conditions of one match, matches of one rule
	maxPattern    = 1024 // octets of one value
	maxVariables  = 8    // variable segments of a template: each doubles the ways through a table of routes

	MaxWhen  = 4096 // octets of an expression
	maxWhens = 32   // expressions of one intention: a request may be held against all of them, and each may take milliseconds
)

// HTTPMatch says which requests are meant: those that pass every condition given. The zero value means all of them.
//
// A path is compared as it is forwarded: canonical, escaped, without the query. At most one of Path, PathPrefix and PathTemplate
// is given.
type HTTPMatch struct {
	Methods      []string     `json:"methods,omitempty"`       // any of them; as on the wire: "GET"
	Hosts        []string     `json:"hosts,omitempty"`         // any of them, without port; "*.example.com" is every name below it
	Path         string       `json:"path,omitempty"`          // the whole path
	PathPrefix   string       `json:"path_prefix,omitempty"`   // whole segments: "/api" means "/api" and "/api/x", never "/apix"
	PathTemplate string       `json:"path_template,omitempty"` // "/users/{id}/files/{name...}": one segment, and all that follow
	GRPC         string       `json:"grpc,omitempty"`          // "package.Service" or "package.Service/Method"
	Headers      []FieldMatch `json:"headers,omitempty"`
	Query        []FieldMatch `json:"query,omitempty"`
}

// FieldMatch is a condition on a header field or a query parameter. Every value that a request brings is judged: the condition
// holds when there is at least one and all of them pass; in an intention that denies, when one of them passes. With Absent it holds when
// there is none.
type FieldMatch struct {
	Name   string   `json:"name"`             // of a header in any case; of a query parameter exactly
	Exact  []string `json:"exact,omitempty"`  // any of them
	Prefix string   `json:"prefix,omitempty"` // instead of Exact; without either the field must be there
	Absent bool     `json:"absent,omitempty"`
}

// Validate returns what is wrong with m, joined.
func (m HTTPMatch) Validate() error {
	var errs []error
	for _, method := range m.Methods {
		if !isToken(method) || method != strings.ToUpper(method) {
			errs = append(errs, fmt.Errorf("method %q is not one: methods are written in capitals, such as \"GET\"", method))
		}
	}
	for _, host := range m.Hosts {
		if err := checkHostPattern(host); err != nil {
			errs = append(errs, err)
		}
	}
	given := 0
	for _, p := range []struct{ what, path string }{{"path", m.Path}, {"path_prefix", m.PathPrefix}, {"path_template", m.PathTemplate}} {
		if p.path != "" {
			given++
			errs = append(errs, checkPath(p.what, p.path))
		}
	}
	if m.GRPC != "" {
		given++
		if service, method, _ := strings.Cut(m.GRPC, "/"); service == "" || strings.Contains(method, "/") || strings.ContainsAny(m.GRPC, " ?#%") {
			errs = append(errs, fmt.Errorf("grpc %q: write \"package.Service\" or \"package.Service/Method\"", m.GRPC))
		}
	}
	if given > 1 {
		errs = append(errs, errors.New("path, path_prefix, path_template and grpc exclude each other"))
	}
	if len(m.Methods)+len(m.Hosts)+len(m.Headers)+len(m.Query) > maxConditions {
		errs = append(errs, fmt.Errorf("a match has more than %d conditions", maxConditions))
	}
	errs = append(errs, checkTemplate(m.PathTemplate))
	for _, f := range m.Headers {
		errs = append(errs, f.validate("header"))
	}
	for _, f := range m.Query {
		errs = append(errs, f.validate("query parameter"))
	}
	return errors.Join(errs...)
}

func (f FieldMatch) validate(what string) error {
	switch {
	case f.Name == "", len(f.Name) > maxName, what == "header" && !isToken(f.Name):
		return fmt.Errorf("%s %q is no name", what, f.Name)
	case what == "header" && strings.EqualFold(f.Name, "host"):
		return errors.New("header \"host\": use hosts")
	case len(f.Exact) > 0 && f.Prefix != "", f.Absent && (len(f.Exact) > 0 || f.Prefix != ""):
		return fmt.Errorf("%s %q: exact, prefix and absent exclude each other", what, f.Name)
	case len(f.Exact) > maxConditions || len(f.Prefix) > maxPattern:
		return fmt.Errorf("%s %q is compared with too much", what, f.Name)
	}
	for _, v := range f.Exact {
		if len(v) > maxPattern {
			return fmt.Errorf("%s %q is compared with too much", what, f.Name)
		}
	}
	return nil
}

// checkPath refuses what no canonical path can be, so that a rule cannot be written that never matches.
func checkPath(what, p string) error {
	switch {
	case !strings.HasPrefix(p, "/"):
		return fmt.Errorf("%s %q does not start with a slash", what, p)
	case len(p) > maxPattern:
		return fmt.Errorf("%s has %d octets: at most %d are allowed", what, len(p), maxPattern)
	case strings.ContainsAny(p, "?#\\ ") || strings.ContainsFunc(p, func(r rune) bool { return r < 0x21 || r > 0x7e }):
		return fmt.Errorf("%s %q: a query, a fragment, a backslash and spaces are no part of a path; write other characters escaped, as %%C3%%A9", what, p)
	}
	for s := range strings.SplitSeq(p, "/") {
		if s == "." || s == ".." {
			return fmt.Errorf("%s %q holds a dot segment: requests with one are refused before any rule is asked", what, p)
		}
	}
	return nil
}

// checkTemplate refuses a template with braces that are not those of a whole segment, or with a rest that is not last.
func checkTemplate(t string) error {
	if strings.Count(t, "{") > maxVariables {
		return fmt.Errorf("path_template %q has more than %d variable segments", t, maxVariables)
	}
	rest := false
	for s := range strings.SplitSeq(t, "/") {
		if rest {
			return fmt.Errorf("path_template %q: what follows {name...} can match nothing", t)
		}
		inner, open := strings.CutPrefix(s, "{")
		inner, closed := strings.CutSuffix(inner, "}")
		rest = open && strings.HasSuffix(inner, "...")
		if open != closed || strings.ContainsAny(inner, "{}") || open && strings.TrimSuffix(inner, "...") == "" {
			return fmt.Errorf("path_template %q: braces stand around the name of a whole segment, as in /users/{id}", t)
		}
	}
	return nil
}

func checkHostPattern(h string) error {
	name, _ := strings.CutPrefix(h, "*.")
	if name == "" || len(h) > 253 || strings.ContainsAny(name, "*:/ ") || name != strings.ToLower(name) {
		return fmt.Errorf("host %q: write a name in small letters without port, or \"*.example.com\"", h)
	}
	return nil
}

// isToken reports whether s is a token of RFC 9110 section 5.6.2, as names of methods and header fields are.
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}
