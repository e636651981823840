package kubernetes

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

const (
	dialTime   = 10 * time.Second
	headerTime = 30 * time.Second // until an answer begins: lists of a large cluster are read from etcd first
	pageTime   = time.Minute      // for all of a page
	tokenTime  = time.Minute      // to get a token

	maxPage  = 64 << 20 // of 500 objects; one has at most 1.5 MiB in etcd and some kilobytes as a rule
	maxSorry = 16 << 10 // of an error's body
)

// client speaks to one API server.
type client struct {
	http   *http.Client
	base   *url.URL
	tokens *tokens // nil: none is sent
}

func newClient(c *Cluster) (*client, error) {
	base, err := parseEndpoint(c.Endpoint)
	if err != nil {
		return nil, err
	}
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.serverName}
	if len(c.CA) > 0 {
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(c.CA) {
			return nil, errors.New("the certificate authority is not PEM, or holds no certificate")
		}
	}
	if c.certificate != nil {
		conf.Certificates = []tls.Certificate{*c.certificate}
	}
	proxy := http.ProxyFromEnvironment
	if c.proxy != nil {
		proxy = http.ProxyURL(c.proxy)
	}
	out := &client{base: base, http: &http.Client{
		Transport: &http.Transport{
			Proxy: proxy, TLSClientConfig: conf, DialContext: (&net.Dialer{Timeout: dialTime}).DialContext, TLSHandshakeTimeout: dialTime,
			ResponseHeaderTimeout: headerTime, IdleConnTimeout: 90 * time.Second, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
			// A connection whose other end is gone is noticed before the watch's own end.
			HTTP2: &http.HTTP2Config{SendPingTimeout: 30 * time.Second, PingTimeout: 15 * time.Second},
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }, // the token is for this host
	}}
	if c.Token != nil {
		out.tokens = newTokens(c.Token)
	}
	return out, nil
}

// idle closes the connections that are not in use.
func (c *client) idle() { c.http.CloseIdleConnections() }

// tokens keeps a token as long as it is good.
type tokens struct {
	get   func(context.Context) (string, time.Time, error)
	turn  chan struct{} // one asks for a token, the others wait for it
	token string
	until time.Time
}

func newTokens(get func(context.Context) (string, time.Time, error)) *tokens {
	return &tokens{get: get, turn: make(chan struct{}, 1)}
}

// of returns a token that is good for some time to come.
func (t *tokens) of(ctx context.Context) (string, error) {
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return "", ctx.Err()
	}
	defer func() { <-t.turn }()
	const early = time.Minute // the clocks of two machines differ
	if t.token != "" && time.Until(t.until) > early {
		return t.token, nil
	}
	inner, cancel := context.WithTimeout(ctx, tokenTime)
	defer cancel()
	token, until, err := t.get(inner)
	switch {
	case ctx.Err() != nil:
		return "", fmt.Errorf("get a token: %w", ctx.Err())
	case err != nil:
		return "", fmt.Errorf("get a token: %w", err)
	case token == "" || len(token) > maxToken || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return "", errors.New("get a token: it is empty, too long or no text")
	}
	t.token, t.until = token, until
	return token, nil
}

// drop forgets a token that was refused.
func (t *tokens) drop(ctx context.Context, refused string) {
	select {
	case t.turn <- struct{}{}:
	case <-ctx.Done():
		return
	}
	if t.token == refused {
		t.token = ""
	}
	<-t.turn
}

// ask makes one request. The caller closes the body. An error has the type by which the framework knows what to do.
func (c *client) ask(ctx context.Context, r *resource, namespace, verb string, query url.Values) (io.ReadCloser, error) {
	u := *c.base
	u.Path = strings.TrimSuffix(u.Path, "/") + r.path(namespace)
	u.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	token := ""
	if c.tokens != nil {
		if token, err = c.tokens.of(ctx); err != nil {
			return nil, credentials(ctx, err)
		}
		req.Header.Set("Authorization", "Bearer "+token)
	}
	req.Header.Set("Accept", r.accept(verb))
	req.Header.Set("User-Agent", "tradewind-gateway")
	resp, err := c.http.Do(req)
	if err != nil {
		c.idle() // they may lead to the same deaf listener
		return nil, transport(ctx, err)
	}
	if resp.StatusCode == http.StatusOK {
		return resp.Body, nil
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusUnauthorized && c.tokens != nil {
		c.tokens.drop(ctx, token)
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, maxSorry)) // whatever of it there is
	return nil, classify(resp.StatusCode, resp.Header, b, r.permission(verb, namespace))
}

// credentials marks err as one of the credentials, unless it is only the end of ctx.
func credentials(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("%w: %w", poll.ErrCredentials, err)
}

// transport returns err, which the transport gave, so that the end of ctx and a wrong certificate can be told.
func transport(ctx context.Context, err error) error {
	var wrong *url.Error
	if errors.As(err, &wrong) {
		err = wrong.Err // without the address, which is long and the same each time
	}
	var unknown x509.UnknownAuthorityError
	switch {
	case ctx.Err() != nil && !errors.Is(err, ctx.Err()):
		return fmt.Errorf("%w: %w", ctx.Err(), err)
	case errors.As(err, &unknown): // the authorities may have been replaced: they are to be read anew
		return fmt.Errorf("%w: %w", poll.ErrCredentials, err)
	}
	return err
}

// apiStatus is the API's form of an error.
type apiStatus struct {
	Message string `json:"message"`
	Reason  string `json:"reason"`
	Code    int    `json:"code"`
}

// errGone is in the tree of the error of a resource version, or of a token for the next page, that is too old or unknown.
var errGone = errors.New("the resource version is not known to the server any more")

var whoForm = regexp.MustCompile(`User "([^"]{1,256})" cannot`)

// classify gives an answer that is an error its type.
func classify(code int, h http.Header, body []byte, permission string) error {
	var said apiStatus
	if json.Unmarshal(body, &said) != nil || said.Message == "" {
		said.Message = string(body)
	}
	err := fmt.Errorf("status %d: %s", code, cmp.Or(poll.Clip(said.Message), http.StatusText(code)))
	switch code {
	case http.StatusTooManyRequests:
		return &poll.ThrottledError{RetryAfter: poll.RetryAfter(h), Err: err}
	case http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", poll.ErrCredentials, err)
	case http.StatusForbidden:
		denied := &poll.DeniedError{Action: permission, Err: err}
		if m := whoForm.FindStringSubmatch(said.Message); m != nil {
			denied.Who = m[1]
		}
		return denied
	case http.StatusGone:
		return fmt.Errorf("%w: %w", errGone, err)
	case http.StatusGatewayTimeout:
		// "Too large resource version": it is from before the server's store was restored.
		if strings.Contains(said.Message, "oo large resource version") {
			return fmt.Errorf("%w: %w", errGone, err)
		}
	}
	return err
}
