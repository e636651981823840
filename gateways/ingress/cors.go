package ingress

import (
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// corsPrefix begins the names of all fields in which a response grants something to other origins (Fetch standard 3.3.3).
const corsPrefix = "Access-Control-"

// cors is the policy of a host, ready to be written.
type cors struct {
	origins                  []string // nil: any
	methods, headers, expose string
	credentials              bool
	maxAge                   string
}

func newCORS(spec *federation.CORS) *cors {
	if spec == nil {
		return nil
	}
	c := &cors{origins: spec.Origins, methods: strings.Join(spec.Methods, ", "), headers: strings.Join(spec.Headers, ", "),
		expose: strings.Join(spec.Expose, ", "), credentials: spec.Credentials}
	if slices.Contains(spec.Origins, "*") {
		c.origins = nil
	}
	if spec.MaxAge > 0 {
		c.maxAge = strconv.Itoa(int(spec.MaxAge.D().Seconds()))
	}
	return c
}

// preflight reports whether a browser asks what it may send (Fetch standard 3.3.2).
func preflight(r *http.Request) bool {
	return r.Method == http.MethodOptions && len(r.Header["Origin"]) > 0 && len(r.Header["Access-Control-Request-Method"]) > 0
}

// answer is the answer to a preflight from origin. What is asked for is not judged: the browser holds it against the lists.
func (c *cors) answer(origin string) *http.Response {
	res := &http.Response{StatusCode: http.StatusNoContent, Header: http.Header{}, Body: http.NoBody}
	if origin == "" {
		return res
	}
	for name, value := range map[string]string{"Methods": c.methods, "Headers": c.headers} {
		if value != "" {
			res.Header[corsPrefix+"Allow-"+name] = []string{value}
		}
	}
	if c.maxAge != "" {
		res.Header[corsPrefix+"Max-Age"] = []string{c.maxAge}
	}
	return res
}

// allowed is what a response to r allows the use of to; empty: no other origin than its own. Origins are equal octet by octet, or not.
func (c *cors) allowed(r *http.Request) string {
	if c.origins == nil {
		return "*"
	}
	if o := r.Header["Origin"]; len(o) == 1 && slices.Contains(c.origins, o[0]) {
		return o[0]
	}
	return ""
}

// grant writes into h, the fields of a response, what the policy grants. What an instance has written is removed, since it may be more;
// what answer has written stays.
func (c *cors) grant(h http.Header, to *answer) {
	if !to.preflight {
		for name := range h {
			if strings.HasPrefix(name, corsPrefix) {
				delete(h, name)
			}
		}
	}
	if c.origins != nil {
		vary(h, "Origin") // also without one: the next in line may remember the response for somebody else
	}
	if to.origin == "" {
		return
	}
	h[corsPrefix+"Allow-Origin"] = []string{to.origin}
	if c.credentials {
		h[corsPrefix+"Allow-Credentials"] = []string{"true"}
	}
	if c.expose != "" && !to.preflight {
		h[corsPrefix+"Expose-Headers"] = []string{c.expose}
	}
}

// vary has caches know that the response depends on a field of the request (RFC 9110 12.5.5).
func vary(h http.Header, field string) {
	for _, line := range h["Vary"] {
		for name := range strings.SplitSeq(line, ",") {
			if name = strings.TrimSpace(name); name == "*" || strings.EqualFold(name, field) {
				return
			}
		}
	}
	h["Vary"] = append(slices.Clip(h["Vary"]), field)
}
