package match

import (
	"fmt"
	"net/textproto"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Matcher is a compiled federation.HTTPMatch. It is immutable and safe for any number of goroutines; the zero value passes everything.
type Matcher struct {
	lean    Lean
	methods []string
	hosts   []string
	path    path
	grpc    bool
	headers []field
	query   []field
	claims  []federation.ClaimMatch
}

// Compile prepares m, which is valid, for requests that lean as given.
func Compile(m federation.HTTPMatch, lean Lean) (*Matcher, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("compile match: %w", err)
	}
	c := &Matcher{lean: lean, methods: m.Methods, hosts: m.Hosts, path: newPath(m), grpc: m.GRPC != ""}
	for _, h := range m.Headers {
		h.Name = textproto.CanonicalMIMEHeaderKey(h.Name)
		c.headers = append(c.headers, field{h})
	}
	for _, q := range m.Query {
		c.query = append(c.query, field{q})
	}
	return c, nil
}

// Matches reports whether r passes every condition.
func (c *Matcher) Matches(r *Request) bool { return c.path.matches(r.Path) && c.beside(r) }

// beside judges everything but the path.
func (c *Matcher) beside(r *Request) bool {
	if len(c.methods) > 0 && !slices.Contains(c.methods, r.Method) {
		return false
	}
	// A deny holds for whatever reaches a method's path: instances differ in what else they take for gRPC.
	if c.grpc && c.lean == Narrow && (r.Method != "POST" || !allPass(r.Header["Content-Type"], isGRPC)) {
		return false
	}
	if len(c.hosts) > 0 && !slices.ContainsFunc(c.hosts, func(pattern string) bool { return hostMatches(pattern, r.Host) }) {
		return false
	}
	for i := range c.headers {
		if !c.headers[i].header(r.Header, c.lean) {
			return false
		}
	}
	for i := range c.query {
		if !c.query[i].parameter(r.Query, c.lean) {
			return false
		}
	}
	for i := range c.claims {
		if !claimed(&c.claims[i], r.Tokens) {
			return false
		}
	}
	return true
}

func isGRPC(contentType string) bool {
	rest, found := strings.CutPrefix(contentType, "application/grpc")
	return found && (rest == "" || rest[0] == '+' || rest[0] == ';')
}

func allPass(values []string, pass func(string) bool) bool {
	for _, v := range values {
		if !pass(v) {
			return false
		}
	}
	return len(values) > 0
}

func hostMatches(pattern, host string) bool {
	below, wild := strings.CutPrefix(pattern, "*")
	if !wild {
		return pattern == host
	}
	return len(host) > len(below) && strings.HasSuffix(host, below)
}

// path is the condition on the path: at most one of its parts is given.
type path struct {
	exact, prefix string
	template      []string // segments; "{}" stands for any, "{...}" for the rest
}

const (
	anySegment = "{}"
	theRest    = "{...}"
)

func newPath(m federation.HTTPMatch) path {
	p := path{exact: m.Path}
	switch service, method, one := strings.Cut(m.GRPC, "/"); {
	case m.GRPC != "" && one && method != "":
		p.exact = "/" + m.GRPC
	case m.GRPC != "":
		p.prefix = "/" + service
	case m.PathPrefix != "":
		// "/api/" and "/api" mean the same; "/" means all, as does the empty prefix.
		p.prefix = strings.TrimSuffix(m.PathPrefix, "/")
	case m.PathTemplate != "":
		for s := range strings.SplitSeq(m.PathTemplate[1:], "/") {
			switch {
			case strings.HasPrefix(s, "{") && strings.HasSuffix(s, "...}"):
				s = theRest
			case strings.HasPrefix(s, "{"):
				s = anySegment
			}
			p.template = append(p.template, s)
		}
	}
	return p
}

func (p *path) matches(s string) bool {
	switch {
	case p.exact != "":
		return s == p.exact
	case p.prefix != "":
		return len(s) >= len(p.prefix) && s[:len(p.prefix)] == p.prefix && (len(s) == len(p.prefix) || s[len(p.prefix)] == '/')
	case p.template != nil:
		return p.template1(s)
	}
	return true
}

func (p *path) template1(s string) bool {
	if s == "" || s[0] != '/' {
		return false
	}
	for i, want := range p.template {
		if want == theRest {
			return true
		}
		segment, rest, more := strings.Cut(s[1:], "/")
		if want == anySegment && segment == "" || want != anySegment && want != segment {
			return false
		}
		if last := i == len(p.template)-1; last != !more {
			return false
		}
		s = s[len(s)-len(rest)-1:]
	}
	return true
}

// Captures returns what the named segments of template have matched in path, which the template matches.
func Captures(template, path string) map[string]string {
	out := map[string]string{}
	rest := path
	for s := range strings.SplitSeq(template, "/") {
		if name, found := strings.CutSuffix(s, "...}"); found {
			out[name[1:]] = rest
			break
		}
		segment, after, _ := strings.Cut(rest, "/")
		if strings.HasPrefix(s, "{") {
			out[s[1:len(s)-1]] = segment
		}
		rest = after
	}
	return out
}
