package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/quic-go/quic-go"
	"golang.org/x/sync/errgroup"
)

// A tunnel is one hop of a yardstick: as short as such a thing can be, without policy, metrics or health, so that it shows what
// the carrier alone costs.
type tunnel struct {
	carrier string   // tcp, tls, h2 or quic
	peer    string   // where the far hop listens
	listen  []string // near hop: an address for each target; far hop: peer itself
	targets []string // far hop: what a flow's first byte chooses from
	tls     *tls.Config
}

// manyFlows is more flows at a time than any case opens.
const manyFlows = 1 << 20

// A duplex is one flow on its carrier.
type duplex interface {
	io.ReadWriteCloser
	CloseWrite() error
}

func tunnelMain(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("tunnel", flag.ContinueOnError)
	var t tunnel
	flags.StringVar(&t.carrier, "carrier", "", "")
	flags.StringVar(&t.peer, "peer", "", "")
	listen := flags.String("listen", "", "near hop: its addresses")
	targets := flags.String("targets", "", "far hop: the addresses behind it")
	dir := flags.String("pki", "", "")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var err error
	if t.tls, err = loadPKI(*dir, map[string]string{"h2": "h2"}[t.carrier]); err != nil {
		return err
	}
	if *targets != "" {
		t.targets = strings.Split(*targets, ",")
		return t.far(ctx)
	}
	t.listen = strings.Split(*listen, ",")
	return t.near(ctx)
}

// loadPKI reads what writePKI wrote. Both hops have the same certificate and check each other's.
func loadPKI(dir, alpn string) (*tls.Config, error) {
	certificate, err := tls.LoadX509KeyPair(filepath.Join(dir, "hop.pem"), filepath.Join(dir, "hop.key"))
	if err != nil {
		return nil, fmt.Errorf("load the certificate: %w", err)
	}
	root, err := os.ReadFile(filepath.Join(dir, "ca.pem"))
	if err != nil {
		return nil, fmt.Errorf("load the root: %w", err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(root)
	if alpn == "" {
		alpn = "bench"
	}
	return &tls.Config{Certificates: []tls.Certificate{certificate}, RootCAs: pool, ClientCAs: pool, ServerName: pkiName,
		ClientAuth: tls.RequireAndVerifyClientCert, MinVersion: tls.VersionTLS13, NextProtos: []string{alpn},
		ClientSessionCache: tls.NewLRUClientSessionCache(64)}, nil
}

// splice copies both ways with the standard library's own copy, which is what a first version of such a proxy would do; between
// two TCP connections that is splice(2).
func splice(a, b duplex) {
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(a, b) // the other end sees the same end of the stream, early or not
		_ = a.CloseWrite()
	})
	_, _ = io.Copy(b, a)
	_ = b.CloseWrite()
	wg.Wait()
	_, _ = a.Close(), b.Close()
}

// far accepts flows and connects them to their targets.
func (t *tunnel) far(ctx context.Context) error {
	switch t.carrier {
	case "quic":
		return t.farQUIC(ctx)
	case "tcp", "tls", "h2":
	default:
		return fmt.Errorf("unknown carrier %q", t.carrier)
	}
	l, err := net.Listen("tcp", t.peer)
	if err != nil {
		return fmt.Errorf("listen for the near hop: %w", err)
	}
	switch t.carrier {
	case "h2":
		return t.farHTTP2(ctx, l)
	case "tls":
		l = tls.NewListener(l, t.tls)
	}
	return serve(ctx, l, func(c net.Conn) { t.egress(c.(duplex)) })
}

// egress reads which target a flow is for.
func (t *tunnel) egress(f duplex) {
	var which [1]byte
	if _, err := io.ReadFull(f, which[:]); err != nil || int(which[0]) >= len(t.targets) {
		f.Close()
		return
	}
	c, err := net.Dial("tcp", t.targets[which[0]])
	if err != nil {
		f.Close()
		return
	}
	splice(f, c.(duplex))
}

// near listens for clients and opens a flow for each.
func (t *tunnel) near(ctx context.Context) error {
	open, done, err := t.opener(ctx)
	if err != nil {
		return err
	}
	defer done()
	group, ctx := errgroup.WithContext(ctx)
	for i, address := range t.listen {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return fmt.Errorf("listen for clients: %w", err)
		}
		group.Go(func() error {
			return serve(ctx, l, func(c net.Conn) {
				f, err := open(ctx)
				if err == nil {
					_, err = f.Write([]byte{byte(i)})
				}
				if err != nil {
					c.Close()
					return
				}
				splice(f, c.(duplex))
			})
		})
	}
	return group.Wait()
}

// opener returns how a flow to the far hop is opened, and what to call at the end.
func (t *tunnel) opener(ctx context.Context) (open func(context.Context) (duplex, error), done func(), err error) {
	dial := new(net.Dialer).DialContext
	switch t.carrier {
	case "tcp":
	case "tls":
		dial = (&tls.Dialer{Config: t.tls}).DialContext
	case "h2":
		open, done = t.nearHTTP2()
		return open, done, nil
	case "quic":
		return t.nearQUIC(ctx)
	default:
		return nil, nil, fmt.Errorf("unknown carrier %q", t.carrier)
	}
	return func(ctx context.Context) (duplex, error) {
		c, err := dial(ctx, "tcp", t.peer)
		if err != nil {
			return nil, err
		}
		return c.(duplex), nil
	}, func() {}, nil
}

// HTTP/2 CONNECT, one connection for all flows, as in HBONE.

// windows of HTTP/2 are above the product of rate and delay of every link here, as a tuned proxy has them.
var windows = &http.HTTP2Config{MaxConcurrentStreams: manyFlows, StrictMaxConcurrentRequests: true, MaxReadFrameSize: 64 << 10,
	MaxReceiveBufferPerConnection: 64 << 20, MaxReceiveBufferPerStream: 8 << 20}

func (t *tunnel) farHTTP2(ctx context.Context, l net.Listener) error {
	server := &http.Server{TLSConfig: t.tls, HTTP2: windows, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		flusher := w.(http.Flusher)
		w.WriteHeader(http.StatusOK)
		flusher.Flush()
		t.egress(&served{Writer: w, flusher: flusher, ReadCloser: r.Body})
	})}
	stop := context.AfterFunc(ctx, func() { _ = server.Close() })
	defer stop()
	if err := server.ServeTLS(l, "", ""); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve the near hop: %w", err)
	}
	return nil
}

// served is the far end of an HTTP/2 flow.
type served struct {
	io.Writer
	io.ReadCloser
	flusher http.Flusher
}

func (s *served) Write(b []byte) (int, error) {
	n, err := s.Writer.Write(b)
	s.flusher.Flush()
	return n, err
}

// CloseWrite ends both ways: a handler of net/http ends its answer by returning, and can return only when nothing reads its
// request any more. The loads here do not send after the answer's end.
func (s *served) CloseWrite() error { return s.ReadCloser.Close() }

func (t *tunnel) nearHTTP2() (open func(context.Context) (duplex, error), done func()) {
	transport := &http.Transport{TLSClientConfig: t.tls, HTTP2: windows, ForceAttemptHTTP2: true}
	return func(ctx context.Context) (duplex, error) {
		reader, writer := io.Pipe()
		request := (&http.Request{Method: http.MethodConnect, URL: &url.URL{Scheme: "https", Host: t.peer}, Host: t.peer,
			Body: reader, Header: http.Header{}}).WithContext(ctx)
		response, err := transport.RoundTrip(request) //nolint:bodyclose // the flow closes it
		if err != nil {
			return nil, err
		}
		return &asked{PipeWriter: writer, body: response.Body}, nil
	}, transport.CloseIdleConnections
}

// asked is the near end of an HTTP/2 flow.
type asked struct {
	*io.PipeWriter
	body io.ReadCloser
}

func (a *asked) Read(b []byte) (int, error) { return a.body.Read(b) }
func (a *asked) CloseWrite() error          { return a.PipeWriter.Close() }
func (a *asked) Close() error               { return errors.Join(a.PipeWriter.Close(), a.body.Close()) }

// QUIC as it comes: one connection, a stream for each flow, the library's defaults, io.Copy.

var naiveQUIC = &quic.Config{MaxIncomingStreams: manyFlows, KeepAlivePeriod: 15 * time.Second, MaxIdleTimeout: time.Minute}

// stream is a flow on a QUIC stream.
type stream struct{ *quic.Stream }

func (s stream) CloseWrite() error { return s.Stream.Close() }
func (s stream) Close() error      { s.CancelRead(0); return s.Stream.Close() }

func (t *tunnel) farQUIC(ctx context.Context) error {
	l, err := quic.ListenAddr(t.peer, t.tls, naiveQUIC)
	if err != nil {
		return fmt.Errorf("listen for the near hop: %w", err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := l.Accept(ctx)
		if err != nil {
			return nil // ctx has ended
		}
		wg.Go(func() {
			stop := context.AfterFunc(ctx, func() { _ = c.CloseWithError(0, "") })
			defer stop()
			for {
				s, err := c.AcceptStream(ctx)
				if err != nil {
					return
				}
				wg.Go(func() { t.egress(stream{s}) })
			}
		})
	}
}

func (t *tunnel) nearQUIC(ctx context.Context) (open func(context.Context) (duplex, error), done func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := quic.DialAddr(ctx, t.peer, t.tls, naiveQUIC)
	if err != nil {
		return nil, nil, fmt.Errorf("dial the far hop: %w", err)
	}
	return func(ctx context.Context) (duplex, error) {
		s, err := c.OpenStreamSync(ctx)
		if err != nil {
			return nil, err
		}
		return stream{s}, nil
	}, func() { _ = c.CloseWithError(0, "") }, nil
}
