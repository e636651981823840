package jwt

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"syscall"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	maxSet       = 1 << 20         // octets of a key set or a document: the largest known have some 20 KiB
	fetchTimeout = 5 * time.Second // of the whole: requests may wait for it
)

// forbidden are addresses that no name may lead to: they give credentials to whoever asks from this host.
var forbidden = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"),
	netip.MustParsePrefix("168.63.129.16/32"),   // Azure's host
	netip.MustParsePrefix("100.100.100.200/32"), // Alibaba Cloud's metadata
	netip.MustParsePrefix("192.0.0.192/32"),     // Oracle Cloud's metadata
	netip.MustParsePrefix("fd00:ec2::/32"),      // those of AWS
	netip.MustParsePrefix("fd20:ce::254/128"),   // Google Cloud's metadata
	netip.MustParsePrefix("64:ff9b::/96"),       // IPv4 behind IPv6, whichever it is
	netip.MustParsePrefix("2002::/16"),
}

// harmless reports whether a name may lead to ip.
func harmless(ip netip.Addr) bool {
	ip = ip.Unmap().WithZone("")
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
		return false
	}
	for _, p := range forbidden {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}

// permitted reports whether hosts lists the host of u: a name or an address, with the port unless that is the scheme's.
func permitted(hosts []string, u *url.URL) bool {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	for _, h := range hosts {
		host, at, err := net.SplitHostPort(h)
		if err != nil {
			host, at = h, "443"
		}
		if host == u.Hostname() && at == port {
			return true
		}
	}
	return false
}

// fetcher asks the hosts that may be asked.
type fetcher struct {
	hosts []string
	tls   *tls.Config // nil: the system's roots
}

// keys fetches the keys of a provider, from where its resource says, or from where its issuer says that they are.
func (f *fetcher) keys(ctx context.Context, spec *federation.JWT) (*keyring, error) {
	ctx, stop := context.WithTimeout(ctx, fetchTimeout) // of both
	defer stop()
	at := spec.JWKSURL
	if discovery := spec.Discovery(); discovery != "" {
		b, err := f.get(ctx, discovery)
		if err == nil {
			at, err = discovered(b, spec.Issuer)
		}
		if err != nil {
			return nil, fmt.Errorf("discover the keys: %w", err)
		}
	}
	b, err := f.get(ctx, at)
	if err != nil {
		return nil, fmt.Errorf("fetch the keys: %w", err)
	}
	return parseKeys(b)
}

// discovered reads an issuer's document (OpenID Connect Discovery 1.0 section 3): where its keys are.
func discovered(b []byte, issuer string) (string, error) {
	var doc struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	if err := json.Unmarshal(b, &doc); err != nil {
		return "", fmt.Errorf("read the issuer's document: %w", err)
	}
	if doc.Issuer != issuer { // else one tenant of a host could speak for all (section 4.3)
		return "", fmt.Errorf("the document is that of issuer %q, want %q", doc.Issuer, issuer)
	}
	return doc.JWKSURI, federation.CheckKeyURL("jwks_uri", doc.JWKSURI)
}

// get reads what is at address, whose host f.hosts lists.
func (f *fetcher) get(ctx context.Context, address string) ([]byte, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, err
	}
	if !permitted(f.hosts, u) {
		return nil, fmt.Errorf("this gateway may not ask %s: list it in its configuration, jwks { hosts = [%q] }", u.Host, u.Host)
	}
	dialer := &net.Dialer{Timeout: fetchTimeout}
	if _, err := netip.ParseAddr(u.Hostname()); err != nil { // an address that is listed as such is meant
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil || !harmless(to.Addr()) {
				return fmt.Errorf("%s is an address of this host or of its cloud's metadata, which a name may not lead to", address)
			}
			return nil
		}
	}
	client := &http.Client{
		Timeout: fetchTimeout,
		Transport: &http.Transport{ // no proxy: the address that is checked is the one that is asked
			DialContext: dialer.DialContext, TLSClientConfig: f.tls, DisableKeepAlives: true, DisableCompression: true,
			MaxResponseHeaderBytes: 64 << 10,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept", "application/jwk-set+json, application/json")
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s answered %d, and redirects are not followed", u.Host, res.StatusCode)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, maxSet+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("read the answer: %w", err)
	case len(b) > maxSet:
		return nil, errors.New("the answer has more than 1 MiB")
	}
	return b, nil
}
