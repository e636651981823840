package federation

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
)

// DefaultACMEDirectory is Let's Encrypt's, whose certificates every browser takes and which asks for no contract.
const DefaultACMEDirectory = "https://acme-v02.api.letsencrypt.org/directory"

// IngressACME has certificates ordered, proved and renewed by ACME (RFC 8555). A name is proved on port 443 by the listener itself
// (TLS-ALPN-01, RFC 8737), or on port 80 by an ingress in clear text of the same gateway (HTTP-01).
type IngressACME struct {
	Email       string   `json:"email"`               // of the account: where the authority writes to
	Directory   string   `json:"directory,omitempty"` // of the authority; empty: DefaultACMEDirectory
	CAFile      string   `json:"ca_file,omitempty"`   // PEM: whom to believe that an answer is the directory's; empty: the system's
	Names       []string `json:"names,omitempty"`     // to order certificates for; empty: the hosts that are no wildcards
	TermsAgreed bool     `json:"terms_agreed"`        // to the authority's terms of service; required
}

// URL is where the authority's directory is.
func (a *IngressACME) URL() string {
	if a.Directory == "" {
		return DefaultACMEDirectory
	}
	return a.Directory
}

// ACME returns how g has certificates ordered, and for which names, or nil.
func (g *Ingress) ACME() (how *IngressACME, names []string) {
	for _, t := range g.TLS {
		if t.ACME != nil {
			how = t.ACME
		}
	}
	switch {
	case how == nil:
		return nil, nil
	case len(how.Names) > 0:
		return how, how.Names
	}
	for _, h := range g.Hosts {
		if !strings.HasPrefix(h.Name, "*.") {
			names = append(names, h.Name)
		}
	}
	return how, names
}

func (g *Ingress) validateACME() error {
	a, names := g.ACME()
	if a == nil {
		return nil
	}
	var errs []error
	if n := countACME(g.TLS); n > 1 {
		errs = append(errs, fmt.Errorf("tls: acme is there %d times: one orders all certificates of an ingress", n))
	}
	if !a.TermsAgreed {
		errs = append(errs, errors.New("tls: acme: read the authority's terms of service and write terms_agreed = true: "+
			"without an agreement it issues nothing"))
	}
	if !isEmail(a.Email) {
		errs = append(errs, fmt.Errorf("tls: acme: email %q is no address: write one that the authority reaches you by", a.Email))
	}
	u, err := url.Parse(a.URL())
	if err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.Fragment != "" || len(a.URL()) > maxPattern {
		errs = append(errs, fmt.Errorf("tls: acme: directory %q is no URL such as %q", a.Directory, DefaultACMEDirectory))
	}
	if a.CAFile != "" && (!filepath.IsAbs(a.CAFile) || len(a.CAFile) > maxPattern) {
		errs = append(errs, fmt.Errorf("tls: acme: ca_file %q is no absolute path", a.CAFile))
	}
	if len(names) == 0 {
		errs = append(errs, errors.New("tls: acme has no names to order certificates for: write names, or a host that is no wildcard"))
	}
	if len(names) > maxIngressHosts {
		errs = append(errs, fmt.Errorf("tls: acme: names are %d: at most %d are allowed", len(names), maxIngressHosts))
	}
	for i, name := range a.Names {
		errs = append(errs, g.checkACMEName(name))
		if slices.Contains(a.Names[:i], name) {
			errs = append(errs, fmt.Errorf("tls: acme: name %q is there twice", name))
		}
	}
	return errors.Join(errs...)
}

func countACME(blocks []IngressTLS) (n int) {
	for _, t := range blocks {
		if t.ACME != nil {
			n++
		}
	}
	return n
}

// checkACMEName finds names for which there will never be a certificate, or nobody to show it to.
func (g *Ingress) checkACMEName(name string) error {
	if strings.Contains(name, "*") {
		return fmt.Errorf("tls: acme: name %q is a wildcard, which is proved by a record in the DNS alone (DNS-01), and a gateway writes none "+
			"there: name the hosts one by one, or have the certificate made elsewhere and write its files", name)
	}
	if err := checkHostPattern(name); err != nil {
		return fmt.Errorf("tls: acme: %w", err)
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return fmt.Errorf("tls: acme: name %q is an address: certificates are ordered for host names", name)
	}
	if len(g.Hosts) == 0 { // tcp: any name
		return nil
	}
	for _, h := range g.Hosts {
		if parent, wild := strings.CutPrefix(h.Name, "*"); h.Name == name || wild && strings.HasSuffix(name, parent) {
			return nil
		}
	}
	return fmt.Errorf("tls: acme: name %q is no host of the ingress", name)
}

// isEmail reports whether s looks like an address to which mail can go. Who is behind it, the authority finds out.
func isEmail(s string) bool {
	user, host, found := strings.Cut(s, "@")
	plain := func(r rune) bool { return r > ' ' && r < 0x7f && !strings.ContainsRune("@<>()[]\\,;:\"/", r) }
	return found && user != "" && strings.Contains(host, ".") && len(s) <= 254 &&
		strings.IndexFunc(user+host, func(r rune) bool { return !plain(r) }) < 0
}
