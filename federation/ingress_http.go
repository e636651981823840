package federation

import (
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// PerClient is what a rate limit of an ingress counts together: the requests of one address (IPv6: of one /64), as far as trusted
// proxies say whose they are.
const PerClient RatePer = "client"

// CORS is what pages of other origins may do with a host (Fetch standard 3.2; HTTPRoute's CORS filter of the Kubernetes Gateway API). The
// gateway answers preflights. What an instance says of it is removed: it could widen the policy.
type CORS struct {
	Origins     []string `json:"origins"`               // "https://app.example.com", as browsers send it; or "*" alone: any
	Methods     []string `json:"methods,omitempty"`     // beside GET, HEAD and POST, which need no permission; or "*"
	Headers     []string `json:"headers,omitempty"`     // of requests, beside those that need no permission; "*": all but Authorization
	Expose      []string `json:"expose,omitempty"`      // fields of responses that scripts may read; or "*"
	Credentials bool     `json:"credentials,omitempty"` // cookies and the like are sent along; excludes every "*"
	MaxAge      Duration `json:"max_age,omitempty"`     // for which a browser remembers the answer to a preflight; 0: as it likes (5 s)
}

// ErrorPage is what a caller gets instead of the line of text with which a gateway answers by itself. What instances and routes answer
// stays as it is.
type ErrorPage struct {
	Status      []int  `json:"status"`
	Body        string `json:"body,omitempty"`
	BodyFile    string `json:"body_file,omitempty"`    // instead: an absolute path; read again within a second of a change
	ContentType string `json:"content_type,omitempty"` // default: DefaultPageType
}

const (
	// DefaultPageType is what pages for people are.
	DefaultPageType = "text/html; charset=utf-8"

	// MaxErrorPage bounds an error page, in octets: it is held in memory and sent to everybody while much fails.
	MaxErrorPage Size = 64 << 10
)

// CompressGzip is the one coding that IngressHost.Compress may name.
const CompressGzip = "gzip"

// Limits of what one ingress or host may hold.
const (
	maxOrigins    = 100
	maxErrorPages = 20
	maxTokens     = 10
	maxCORSAge    = Duration(24 * time.Hour) // no browser remembers for longer
)

// validateHTTP checks what is done with requests.
func (g *Ingress) validateHTTP() error {
	errs := []error{validateClientRates(g.RateLimits), validatePages(g.ErrorPages)}
	if len(g.Hosts) == 0 && !g.HTTPSRedirect && len(g.RateLimits)+len(g.ErrorPages) > 0 {
		errs = append(errs, errors.New("rate_limit and error_page need host: only requests are counted and answered"))
	}
	for i := range g.Hosts {
		if err := g.Hosts[i].validateHTTP(); err != nil {
			errs = append(errs, fmt.Errorf("host %q: %w", g.Hosts[i].Name, err))
		}
	}
	return errors.Join(errs...)
}

func (h *IngressHost) validateHTTP() error {
	errs := []error{validateClientRates(h.RateLimits), validatePages(h.ErrorPages), h.CORS.validate()}
	if len(h.RequireToken) > maxTokens {
		errs = append(errs, fmt.Errorf("require_token names more than %d providers", maxTokens))
	}
	for _, name := range h.RequireToken {
		errs = append(errs, checkLabel("require_token", name))
	}
	for i, coding := range h.Compress {
		if coding != CompressGzip || i > 0 {
			errs = append(errs, fmt.Errorf("compress %q: write [%q]", h.Compress, CompressGzip))
			break
		}
	}
	return errors.Join(errs...)
}

func validateClientRates(limits []RateLimit) error {
	var errs []error
	if len(limits) > maxRateLimits {
		errs = append(errs, fmt.Errorf("there are %d rate limits: at most %d are allowed", len(limits), maxRateLimits))
	}
	for i, l := range limits {
		if l.Per != PerClient {
			errs = append(errs, fmt.Errorf("rate limit %d: per is %q: an ingress counts per client", i+1, l.Per))
			continue
		}
		if err := l.validateRate(); err != nil {
			errs = append(errs, fmt.Errorf("rate limit %d: %w", i+1, err))
		}
	}
	return errors.Join(errs...)
}

func validatePages(pages []ErrorPage) error {
	var errs []error
	if len(pages) > maxErrorPages {
		errs = append(errs, fmt.Errorf("there are %d error_page blocks: at most %d are allowed", len(pages), maxErrorPages))
	}
	seen := map[int]bool{}
	for _, p := range pages {
		if len(p.Status) == 0 {
			errs = append(errs, errors.New("error_page names no status: write such as [502, 503, 504]"))
		}
		for _, status := range p.Status {
			switch {
			case status < 400 || status > 599:
				errs = append(errs, fmt.Errorf("error_page: status %d is no error: 400 to 599 are", status))
			case seen[status]:
				errs = append(errs, fmt.Errorf("error_page: status %d is there twice", status))
			}
			seen[status] = true
		}
		errs = append(errs, p.validateBody())
	}
	return errors.Join(errs...)
}

func (p *ErrorPage) validateBody() error {
	switch {
	case (p.Body == "") == (p.BodyFile == ""):
		return errors.New("error_page needs either body or body_file")
	case len(p.Body) > int(MaxErrorPage):
		return fmt.Errorf("error_page: body has %d octets: at most %v are allowed", len(p.Body), MaxErrorPage)
	case p.BodyFile != "" && (!filepath.IsAbs(p.BodyFile) || len(p.BodyFile) > maxPattern):
		return fmt.Errorf("error_page: body_file %q is no absolute path", p.BodyFile)
	case len(p.ContentType) > maxPattern || strings.ContainsFunc(p.ContentType, func(r rune) bool { return r < ' ' || r > '~' }):
		return fmt.Errorf("error_page: content_type %q is none: write such as \"text/html\"", p.ContentType)
	}
	return nil
}

func (c *CORS) validate() error {
	if c == nil {
		return nil
	}
	var errs []error
	if len(c.Origins) == 0 || len(c.Origins) > maxOrigins {
		errs = append(errs, fmt.Errorf("cors has %d origins: it needs 1 to %d", len(c.Origins), maxOrigins))
	}
	for _, o := range c.Origins {
		if o == "*" && len(c.Origins) == 1 {
			continue
		}
		errs = append(errs, checkOrigin(o))
	}
	for _, list := range []struct {
		what   string
		tokens []string
	}{{"methods", c.Methods}, {"headers", c.Headers}, {"expose", c.Expose}} {
		if len(list.tokens) > maxConditions {
			errs = append(errs, fmt.Errorf("cors: %s has more than %d entries", list.what, maxConditions))
		}
		for _, t := range list.tokens {
			if !isToken(t) || len(t) > maxName || t == "*" && len(list.tokens) > 1 {
				errs = append(errs, fmt.Errorf("cors: %s: %q is no name (RFC 9110), nor \"*\" alone", list.what, t))
			}
		}
	}
	if c.Credentials && slices.ContainsFunc(slices.Concat(c.Origins, c.Methods, c.Headers, c.Expose), func(s string) bool { return s == "*" }) {
		errs = append(errs, errors.New("cors: credentials exclude \"*\": every page anywhere could act as its visitor; browsers refuse it too"))
	}
	if c.MaxAge < 0 || c.MaxAge > maxCORSAge || c.MaxAge%Duration(time.Second) != 0 {
		errs = append(errs, fmt.Errorf("cors: max_age %v is no number of seconds between 0 and %v", c.MaxAge, maxCORSAge))
	}
	return errors.Join(errs...)
}

// checkOrigin wants an origin as browsers write it (RFC 6454 6.2), for it is compared octet by octet. "null" is none: it is that of every
// page in a sandbox, whosever it is.
func checkOrigin(o string) error {
	u, err := url.Parse(o)
	if err != nil || u.Scheme == "" || u.Host == "" || u.Scheme+"://"+u.Host != o || strings.ToLower(o) != o || strings.Contains(o, "*") ||
		len(o) > maxPattern || u.Hostname() == "" || strings.HasSuffix(u.Host, ":") ||
		u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" {
		return fmt.Errorf("cors: origin %q: write it as browsers send it, \"https://app.example.com\" (small letters, no path, no \"*\" in it, "+
			"a port unless it is the scheme's), or \"*\" alone", o)
	}
	return nil
}
