package consul

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

const (
	maxBody  = 64 << 20 // of an answer: 50 000 instances with many checks
	maxSorry = 4 << 10  // of an error's text
	maxToken = 4 << 10
)

// client is an agent's API. Its requests are bounded in time and size.
type client struct {
	*api.Client
	access Access
	http   *http.Client
}

func newClient(access Access, conns int) (*client, error) {
	access.Timeout = cmp.Or(access.Timeout, 10*time.Second)
	cfg := api.DefaultConfig()
	cfg.Address = cmp.Or(access.Address, cfg.Address)
	if access.TokenFile != "" || access.TokenEnv != "" {
		cfg.Token, cfg.TokenFile = "", ""
	}
	tls := &cfg.TLSConfig
	tls.CAFile, tls.CertFile = cmp.Or(access.CAFile, tls.CAFile), cmp.Or(access.CertFile, tls.CertFile)
	tls.KeyFile, tls.Address = cmp.Or(access.KeyFile, tls.KeyFile), cmp.Or(access.ServerName, tls.Address)
	transport := cfg.Transport
	transport.MaxIdleConnsPerHost, transport.MaxIdleConns = conns, conns
	transport.ForceAttemptHTTP2 = false // watches on one connection would hang together
	if path, unix := strings.CutPrefix(cfg.Address, "unix://"); unix {
		transport.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", path)
		}
		cfg.Address = "127.0.0.1" // NewClient would put a transport of its own in place of ours
	}
	base, err := api.NewHttpClient(transport, *tls)
	if err != nil {
		return nil, fmt.Errorf("set up TLS: %w", err)
	}
	c := &client{access: access, http: &http.Client{Transport: bounded{base.Transport}}}
	cfg.HttpClient = c.http
	if c.Client, err = api.NewClient(cfg); err != nil {
		return nil, err
	}
	return c, nil
}

// options returns options with the token as it is now.
func (c *client) options() (*api.QueryOptions, error) {
	q := &api.QueryOptions{}
	switch {
	case c.access.TokenEnv != "":
		if q.Token = strings.TrimSpace(os.Getenv(c.access.TokenEnv)); q.Token == "" {
			return nil, fmt.Errorf("%w: environment variable %s is empty", poll.ErrCredentials, c.access.TokenEnv)
		}
	case c.access.TokenFile != "":
		f, err := os.Open(c.access.TokenFile)
		if err != nil {
			return nil, fmt.Errorf("%w: open the token file: %w", poll.ErrCredentials, err)
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxToken+1))
		if err != nil {
			return nil, fmt.Errorf("%w: read the token file: %w", poll.ErrCredentials, err)
		}
		if q.Token = string(bytes.TrimSpace(b)); q.Token == "" || len(b) > maxToken || strings.ContainsAny(q.Token, "\r\n") {
			return nil, fmt.Errorf("%w: the token file %s does not hold one token", poll.ErrCredentials, c.access.TokenFile)
		}
	}
	return q, nil
}

// idle closes the connections that are not in use.
func (c *client) idle() { c.http.CloseIdleConnections() }

// bounded is a transport that ends a body that is too large with an error, and keeps what api.StatusError drops.
type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := b.RoundTripper.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	if note, ok := req.Context().Value(retryKey{}).(*time.Duration); ok {
		*note = poll.RetryAfter(resp.Header)
	}
	if resp.StatusCode/100 == 2 {
		resp.Body = &limited{ReadCloser: resp.Body, left: maxBody, err: errTooLarge}
	} else {
		resp.Body = &limited{ReadCloser: resp.Body, left: maxSorry, err: io.EOF}
	}
	return resp, nil
}

// CloseIdleConnections lets http.Client's reach the transport below.
func (b bounded) CloseIdleConnections() {
	if t, ok := b.RoundTripper.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

type retryKey struct{}

var errTooLarge = fmt.Errorf("the answer is larger than %d MiB", maxBody>>20)

// limited is a body that ends with err after so many octets.
type limited struct {
	io.ReadCloser
	left int
	err  error
}

// Read implements io.Reader.
func (l *limited) Read(b []byte) (int, error) {
	if l.left <= 0 {
		return 0, l.err
	}
	n, err := l.ReadCloser.Read(b[:min(len(b), l.left)])
	l.left -= n
	return n, err
}

// errHung is in the tree of the error of a request that had no answer in time.
var errHung = errors.New("Consul did not answer in time")

// ask makes one request, which may take as long as it waits for a change and Timeout more.
func (c *client) ask(ctx context.Context, wait time.Duration, request func(*api.QueryOptions) error) error {
	q, err := c.options()
	if err != nil {
		return err
	}
	// Consul waits up to a sixteenth longer than it is asked to, so that not all watches come back at once.
	limit := wait + wait/16 + c.access.Timeout
	inner, cancel := context.WithTimeoutCause(ctx, limit, errHung)
	defer cancel()
	var retry time.Duration
	err = request(q.WithContext(context.WithValue(inner, retryKey{}, &retry)))
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	case inner.Err() != nil:
		c.idle() // they may lead to the same deaf listener
		return fmt.Errorf("%w: %v", errHung, limit)
	}
	return classify(err, retry)
}

// classify gives an error of the API the type by which the framework knows what to do.
func classify(err error, retry time.Duration) error {
	var status api.StatusError
	if !errors.As(err, &status) {
		return err
	}
	err = fmt.Errorf("status %d: %s", status.Code, poll.Clip(status.Body))
	switch {
	case status.Code == http.StatusTooManyRequests, strings.Contains(status.Body, "rate limit exceeded"):
		return &poll.ThrottledError{RetryAfter: retry, Err: err}
	case status.Code == http.StatusUnauthorized, strings.Contains(status.Body, "ACL not found"),
		strings.Contains(status.Body, "token does not exist"):
		return fmt.Errorf("%w: %w", poll.ErrCredentials, err)
	case status.Code == http.StatusForbidden, strings.Contains(status.Body, "Permission denied"):
		action, who := lacking(status.Body)
		return &poll.DeniedError{Action: action, Who: who, Err: err}
	}
	return err
}

// The rules that a token needs, as they are written in an ACL policy.
const (
	ruleServices = `service_prefix "" { policy = "read" }`
	ruleNodes    = `node_prefix "" { policy = "read" }`
)

var (
	lacksForm    = regexp.MustCompile(`lacks permission '([a-z]+):(read|write|list)'(?: on "([^"\\]{1,256})")?`)
	accessorForm = regexp.MustCompile(`AccessorID '([0-9a-fA-F-]{1,64})'`)
)

// lacking returns the rule that the message of a denial asks for, and whose token lacks it.
func lacking(message string) (action, who string) {
	action = ruleServices
	if m := lacksForm.FindStringSubmatch(message); m != nil {
		switch {
		case m[1] == "service" && m[2] == "write" && m[3] != "":
			action = fmt.Sprintf("service %q { policy = \"write\" }", m[3])
		case m[1] != "service" || m[2] != "read":
			action = fmt.Sprintf("%s_prefix \"\" { policy = %q }", m[1], m[2])
		}
	}
	if m := accessorForm.FindStringSubmatch(message); m != nil {
		who = "the token with AccessorID " + m[1]
	}
	return action, who
}
