package health

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/federation"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
)

const (
	maxOutput = 256     // octets of an answer that are kept for people to read
	maxBody   = 4 << 10 // octets of an answer that are read at all
	maxHeader = 8 << 10 // octets of an answer's header
	maxCA     = 4 << 20 // octets of a tls_ca_file; the system's roots have less than one
	agent     = "tradewind-health/1"
)

// validate returns why a check of addr must not be made, a *federation.Diagnostic, or nil.
func validate(spec federation.CheckSpec, addr netip.AddrPort) error {
	if err := federation.CheckAddress(addr.Addr()); err != nil {
		return err
	}
	err := spec.Validate()
	if err == nil && addr.Port() == 0 && spec.Kind != federation.CheckTTL {
		err = errors.New("port is 0")
	}
	if err == nil {
		return nil
	}
	return &federation.Diagnostic{Code: federation.CodeCheckRefused, What: fmt.Sprintf("check %s of %v is not valid", spec.Kind, addr),
		Why: err.Error(), Fix: "mend the check where the instance or its service is declared", Err: err}
}

// checkAddress is where spec asks: the instance's address, or another port of it.
func checkAddress(addr netip.AddrPort, spec federation.CheckSpec) netip.AddrPort {
	if spec.Port != 0 {
		return netip.AddrPortFrom(addr.Addr(), spec.Port)
	}
	return addr
}

// describe says in short what spec asks.
func describe(spec federation.CheckSpec, addr netip.AddrPort) string {
	what := addr.String()
	switch spec.Kind {
	case federation.CheckTTL:
		return spec.TTL.String()
	case federation.CheckHTTP:
		what += spec.Path
	case federation.CheckGRPC:
		if spec.GRPCService != "" {
			what += "/" + spec.GRPCService
		}
	}
	switch {
	case spec.TLS && spec.TLSSkipVerify:
		what += " over TLS, certificate not verified"
	case spec.TLS:
		what += " over TLS"
	}
	return clean(what)
}

// ask makes one attempt of k. It reads only what never changes in a check.
func ask(ctx context.Context, k *check) outcome {
	var o outcome
	switch k.spec.Kind {
	case federation.CheckTCP:
		o = askTCP(ctx, k.spec, k.addr)
	case federation.CheckHTTP:
		o = askHTTP(ctx, k.spec, k.addr)
	case federation.CheckGRPC:
		o = askGRPC(ctx, k.spec, k.addr)
	default:
		o.err = fmt.Errorf("check kind %q is unknown", k.spec.Kind)
	}
	if o.err != nil && !o.definitive {
		o.definitive = refused(o.err)
	}
	if o.err != nil && !o.definitive && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		o.err = fmt.Errorf("no answer within %v", k.spec.Timeout)
	}
	return o
}

// refused reports whether the host answered that nobody listens.
func refused(err error) bool { return errors.Is(err, syscall.ECONNREFUSED) }

// dial connects to addr. The address is judged once more where the socket is about to be connected, so that no layer between
// can have led it elsewhere.
func dial(ctx context.Context, addr string) (net.Conn, error) {
	d := net.Dialer{
		KeepAlive: -1, // no attempt lives long enough for one
		Control: func(_, address string, _ syscall.RawConn) error {
			to, err := netip.ParseAddrPort(address)
			if err != nil {
				return fmt.Errorf("read address %q: %w", address, err)
			}
			return federation.CheckAddress(to.Addr())
		},
	}
	return d.DialContext(ctx, "tcp", addr)
}

func askTCP(ctx context.Context, spec federation.CheckSpec, addr netip.AddrPort) outcome {
	conn, err := dial(ctx, addr.String())
	if err != nil {
		return outcome{err: err}
	}
	defer conn.Close() // it was accepted, which is all that was asked without TLS
	if !spec.TLS {
		return outcome{}
	}
	cfg, err := tlsConfig(spec, addr)
	if err != nil {
		return outcome{err: err}
	}
	return outcome{err: tls.Client(conn, cfg).HandshakeContext(ctx)}
}

// tlsConfig is how the instance at addr is spoken to over TLS. The CA file is read for each attempt: it may be renewed at any
// time, and a check takes longer than reading it.
func tlsConfig(spec federation.CheckSpec, addr netip.AddrPort) (*tls.Config, error) {
	name := cmp.Or(spec.TLSServerName, hostname(spec.Host), addr.Addr().String())
	cfg := &tls.Config{ServerName: name, InsecureSkipVerify: spec.TLSSkipVerify} //nolint:gosec // the operator's word, said in the check
	if spec.TLSCAFile == "" {
		return cfg, nil
	}
	pem, err := slurp(spec.TLSCAFile)
	if err != nil {
		return nil, fmt.Errorf("read tls_ca_file: %w", err)
	}
	cfg.RootCAs = x509.NewCertPool()
	if !cfg.RootCAs.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("tls_ca_file %s holds no certificate in PEM", spec.TLSCAFile)
	}
	return cfg, nil
}

// slurp reads a file of certificates. Whatever else has its name, a pipe or a device, must neither hold an attempt up nor fill the memory.
func slurp(path string) ([]byte, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, errors.Join(err, fmt.Errorf("%s is not a regular file", path))
	}
	return io.ReadAll(io.LimitReader(f, maxCA))
}

// hostname is a Host header without its port.
func hostname(host string) string {
	if h, _, err := net.SplitHostPort(host); err == nil {
		return h
	}
	return host
}

// transport is how one HTTP check asks. It holds no connection, cookie or proxy for another.
func transport(cfg *tls.Config) *http.Transport {
	return &http.Transport{
		Proxy:                  nil, // a proxy's answer says nothing about the instance
		DialContext:            func(ctx context.Context, _, addr string) (net.Conn, error) { return dial(ctx, addr) },
		TLSClientConfig:        cfg,
		DisableKeepAlives:      true, // an answer over an old connection would not show that new ones are accepted
		DisableCompression:     true,
		MaxResponseHeaderBytes: maxHeader,
		WriteBufferSize:        2 << 10,
		ReadBufferSize:         maxBody,
	}
}

var plain = transport(nil) // of all checks without TLS

func askHTTP(ctx context.Context, spec federation.CheckSpec, addr netip.AddrPort) outcome {
	target, err := url.ParseRequestURI(spec.Path)
	if err != nil {
		return outcome{err: fmt.Errorf("read path %q: %w", spec.Path, err)}
	}
	scheme, over := "http", plain
	if spec.TLS {
		cfg, err := tlsConfig(spec, addr)
		if err != nil {
			return outcome{err: err}
		}
		scheme, over = "https", transport(cfg)
	}
	target = &url.URL{Scheme: scheme, Host: addr.String(), Path: target.Path, RawPath: target.RawPath, RawQuery: target.RawQuery}
	req, err := http.NewRequestWithContext(ctx, cmp.Or(spec.Method, http.MethodGet), target.String(), strings.NewReader(spec.Body))
	if err != nil {
		return outcome{err: fmt.Errorf("make request: %w", err)}
	}
	req.Host = spec.Host
	req.Header.Set("User-Agent", agent)
	for name, value := range spec.Headers {
		req.Header.Set(name, value)
	}
	res, err := over.RoundTrip(req) // not by a client, which would follow redirects: where those lead is not the instance
	if err != nil {
		return outcome{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, maxBody))
	o := outcome{output: string(body)}
	switch {
	case len(spec.Status) > 0 && !slices.Contains(spec.Status, res.StatusCode), len(spec.Status) == 0 && res.StatusCode/100 != 2:
		o.err = errors.New(strings.TrimSpace(fmt.Sprintf("answered %d %s", res.StatusCode, http.StatusText(res.StatusCode))))
	case err != nil:
		o.err = fmt.Errorf("read answer: %w", err)
	}
	return o
}

func askGRPC(ctx context.Context, spec federation.CheckSpec, addr netip.AddrPort) outcome {
	var failed atomic.Pointer[error] // of dialling or the handshake: gRPC keeps only the text of it
	creds := insecure.NewCredentials()
	if spec.TLS {
		cfg, err := tlsConfig(spec, addr)
		if err != nil {
			return outcome{err: err}
		}
		creds = noted{credentials.NewTLS(cfg), &failed}
	}
	conn, err := grpc.NewClient("passthrough:///"+addr.String(),
		grpc.WithTransportCredentials(creds),
		grpc.WithContextDialer(func(ctx context.Context, target string) (net.Conn, error) {
			c, err := dial(ctx, target)
			if err != nil {
				failed.Store(&err)
			}
			return c, err
		}),
		grpc.WithNoProxy(), grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithUserAgent(agent),
		grpc.WithMaxHeaderListSize(maxHeader), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxBody)))
	if err != nil {
		return outcome{err: fmt.Errorf("make client: %w", err)}
	}
	defer conn.Close()
	res, err := healthpb.NewHealthClient(conn).Check(ctx, &healthpb.HealthCheckRequest{Service: spec.GRPCService})
	switch s := status.Convert(err); {
	case err == nil && res.GetStatus() == healthpb.HealthCheckResponse_SERVING:
		return outcome{output: res.GetStatus().String()}
	case err == nil:
		return outcome{err: fmt.Errorf("answered %v", res.GetStatus()), output: res.GetStatus().String()}
	case s.Code() == codes.Unimplemented:
		return outcome{err: errors.New("the server does not implement grpc.health.v1.Health"), output: s.Message()}
	case s.Code() == codes.NotFound:
		return outcome{err: fmt.Errorf("the server does not know service %q", spec.GRPCService), output: s.Message()}
	default:
		if why := failed.Load(); why != nil {
			return outcome{err: *why}
		}
		return outcome{err: fmt.Errorf("answered %v", s.Code()), output: s.Message()}
	}
}

// noted keeps why a handshake failed.
type noted struct {
	credentials.TransportCredentials
	failed *atomic.Pointer[error]
}

// ClientHandshake implements credentials.TransportCredentials.
func (n noted) ClientHandshake(ctx context.Context, authority string, raw net.Conn) (net.Conn, credentials.AuthInfo, error) {
	conn, info, err := n.TransportCredentials.ClientHandshake(ctx, authority, raw)
	if err != nil {
		n.failed.Store(&err)
	}
	return conn, info, err
}

// Clone implements credentials.TransportCredentials.
func (n noted) Clone() credentials.TransportCredentials {
	return noted{n.TransportCredentials.Clone(), n.failed}
}

// clean returns s fit to be shown and stored: valid UTF-8 without control characters (a terminal obeys those), at most 256 octets.
func clean(s string) string {
	if len(s) > maxBody {
		s = s[:maxBody]
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case unicode.IsSpace(r):
			return ' '
		case r == utf8.RuneError, !unicode.IsPrint(r):
			return -1
		}
		return r
	}, s)
	s = strings.TrimSpace(s)
	if len(s) <= maxOutput {
		return s
	}
	cut := maxOutput
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut]
}
