package federation

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"path/filepath"
	"strings"
	"time"
)

// MaxChecks is the most checks one instance may have: what is asked more often than that is load, not a check.
const MaxChecks = 8

// CheckTarget is one instance that is to be checked. The same Service and Instance with a higher Version replaces it.
type CheckTarget struct {
	Service  ServiceName
	Instance InstanceID
	Version  uint64 // returned in every report, so that news about a former address is told apart
	Address  netip.AddrPort
	Checks   []CheckSpec // empty: no longer checked
}

// HealthReport is what the active checks of one target add up to. It is made when that changes, and once for each version.
type HealthReport struct {
	Service  ServiceName
	Instance InstanceID
	Version  uint64
	Health   Health // unknown until every check has answered; failing if one fails; passing otherwise
	Reason   string // what the worst check says, at most 256 octets
	Since    time.Time
}

// CheckStatus is where one check stands.
type CheckStatus struct {
	Kind     CheckKind `json:"kind"`
	Target   string    `json:"target"` // what is asked, such as "192.0.2.1:80/healthz"
	Health   Health    `json:"health"` // unknown, passing or failing
	Reason   string    `json:"reason,omitempty"`
	Since    time.Time `json:"since,omitzero"`     // when Health last changed
	Last     time.Time `json:"last,omitzero"`      // when the last answer came, or was given up
	Output   string    `json:"output,omitempty"`   // of the last attempt, printable, at most 256 octets
	Failures int       `json:"failures,omitempty"` // in a row
}

// validateTLS returns what of c's TLS does not fit together, joined: a word that would have no effect is one that somebody relies on.
func (c CheckSpec) validateTLS() error {
	var errs []error
	if !c.TLS && (c.TLSServerName != "" || c.TLSCAFile != "" || c.TLSSkipVerify) {
		errs = append(errs, errors.New("check tls_server_name, tls_ca_file and tls_skip_verify need tls = true"))
	}
	if c.TLS && c.Kind == CheckTTL {
		errs = append(errs, errors.New("a ttl check asks nobody: tls has no meaning for it"))
	}
	if c.TLSSkipVerify && c.TLSCAFile != "" {
		errs = append(errs, errors.New("check tls_skip_verify accepts any certificate: tls_ca_file has no meaning beside it"))
	}
	if c.TLSCAFile != "" && !filepath.IsAbs(c.TLSCAFile) {
		errs = append(errs, fmt.Errorf("check tls_ca_file %q is no absolute path", c.TLSCAFile))
	}
	return errors.Join(errs...)
}

// The limits of the request that an http check makes: it is made twice a second, and its headers stand in every listing.
const (
	maxCheckHeaders = 16
	maxCheckText    = 4096 // octets of a body, or of all headers
	maxCheckStatus  = 16
)

// validateHTTP returns what is wrong with the request that c describes and with the answers that it waits for, joined.
func (c CheckSpec) validateHTTP() error {
	if c.Method == "" && len(c.Headers) == 0 && c.Body == "" && len(c.Status) == 0 {
		return nil
	}
	if c.Kind != CheckHTTP {
		return fmt.Errorf("check method, headers, body and status have no meaning for a %s check", c.Kind)
	}
	var errs []error
	if c.Method != "" && (!isToken(c.Method) || c.Method != strings.ToUpper(c.Method) || c.Method == "CONNECT" || len(c.Method) > 32) {
		errs = append(errs, fmt.Errorf("check method %q is not one that a check can use: write one in capitals, such as \"HEAD\"", c.Method))
	}
	if c.Body != "" && (c.Method == "" || c.Method == "GET" || c.Method == "HEAD") {
		errs = append(errs, errors.New("check body needs a method that has one, such as method = \"POST\""))
	}
	size := 0
	for name, value := range c.Headers {
		size += len(name) + len(value)
		switch strings.ToLower(name) {
		case "host":
			errs = append(errs, errors.New("check headers has Host: write host = \"...\" instead"))
		case "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect":
			errs = append(errs, fmt.Errorf("check headers has %s, which the gateway sets itself", name))
		}
		if !isToken(name) || strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f }) {
			errs = append(errs, fmt.Errorf("check header %q has a character that no header may have", name))
		}
	}
	if len(c.Headers) > maxCheckHeaders || size > maxCheckText || len(c.Body) > maxCheckText {
		errs = append(errs, fmt.Errorf("check has more than %d headers, or headers or a body of more than %d octets", maxCheckHeaders, maxCheckText))
	}
	if len(c.Status) > maxCheckStatus {
		errs = append(errs, fmt.Errorf("check status lists more than %d answers", maxCheckStatus))
	}
	for _, code := range c.Status {
		if code < 200 || code > 599 {
			errs = append(errs, fmt.Errorf("check status %d is no answer: they lie between 200 and 599", code))
		}
	}
	return errors.Join(errs...)
}

// validateBounds returns the limits that c exceeds, joined. They keep one resource from holding sockets or memory for long.
func (c CheckSpec) validateBounds() error {
	var errs []error
	if c.Interval.D() > 24*time.Hour || c.TTL.D() > 7*24*time.Hour {
		errs = append(errs, errors.New("check interval is above 24h, or ttl above 168h: nobody would learn of a failure in time"))
	}
	if c.Timeout != 0 && c.Timeout.D() < time.Millisecond || c.Timeout.D() > time.Minute {
		errs = append(errs, fmt.Errorf("check timeout %v must lie between 1ms and 1m", c.Timeout))
	}
	if c.TTL != 0 && c.TTL.D() < 100*time.Millisecond {
		errs = append(errs, fmt.Errorf("check ttl %v is below 100ms: scheduling alone would fail it", c.TTL))
	}
	if len(c.Path) > 1024 || len(c.TLSCAFile) > 1024 {
		errs = append(errs, errors.New("check path or tls_ca_file has more than 1024 characters"))
	} else if _, err := url.ParseRequestURI(c.Path); c.Path != "" && err != nil {
		errs = append(errs, fmt.Errorf("check path %q is not valid in a URL", c.Path))
	}
	for _, f := range []struct{ what, name string }{{"host", c.Host}, {"grpc_service", c.GRPCService}, {"tls_server_name", c.TLSServerName}} {
		switch {
		case len(f.name) > 253:
			errs = append(errs, fmt.Errorf("check %s has more than 253 characters", f.what))
		case strings.ContainsFunc(f.name, func(r rune) bool { return r <= ' ' || r >= 0x7f }):
			errs = append(errs, fmt.Errorf("check %s %q has a blank or unprintable character", f.what, f.name))
		}
	}
	return errors.Join(errs...)
}
