package l7

import (
	"cmp"
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strconv"
	"sync"

	"github.com/tradewind-mesh/tradewind/gateways/http1"
)

// serve2 serves HTTP/2.
func (s *Session) serve2(ctx context.Context, c *withPrefix) {
	server := &http.Server{
		Handler: s.server, BaseContext: func(net.Listener) context.Context { return ctx },
		Protocols: onlyTwo(), HTTP2: &http.HTTP2Config{MaxConcurrentStreams: maxStreams, MaxReadFrameSize: maxFrame, WriteByteTimeout: s.server.Idle},
		MaxHeaderBytes:    cmp.Or(s.server.Rules.MaxHead, maxHead),
		ReadHeaderTimeout: headTimeout, IdleTimeout: s.server.Idle,
		ErrorLog: log.New(io.Discard, "", 0), //nolint:forbidigo // the library wants one, to say nothing
	}
	s.mu.Lock()
	s.two = server
	draining := s.draining
	s.mu.Unlock()
	if draining {
		return
	}
	l := &listener{conn: netConn{c}, closed: make(chan struct{})}
	_ = server.Serve(l) // ends with the connection
}

// onlyTwo is HTTP/2 without TLS, which is below us or does not exist.
func onlyTwo() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// listener hands out one connection, and ends when that one does.
type listener struct {
	conn   net.Conn
	given  bool
	once   sync.Once
	closed chan struct{}
}

func (l *listener) Accept() (net.Conn, error) {
	if !l.given {
		l.given = true
		return &given{l.conn, l}, nil
	}
	<-l.closed
	return nil, net.ErrClosed
}

func (l *listener) Close() error   { return nil }
func (l *listener) Addr() net.Addr { return nowhere{} }

type given struct {
	net.Conn
	from *listener
}

func (c *given) Close() error {
	err := c.Conn.Close()
	c.from.once.Do(func() { close(c.from.closed) })
	return err
}

// ServeHTTP has one request answered that a library of HTTP/2 or HTTP/3 has read.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	d := &side2{w: w, r: r}
	if err := canonical2(r, s.Rules); err != nil {
		if s.Refused != nil {
			s.Refused(err)
		}
		answer := Text(err.Status, "bad request: "+err.Reason)
		_, _ = d.respond(answer)
		return
	}
	if !s.Gateway {
		StripReserved(r.Header)
	}
	StripReserved(r.Trailer) // what it announces
	x := &Exchange{Request: r, side: d, meter: s.measure(&meter{}, r)}
	if r.ContentLength != 0 {
		r.Body = &watched{ReadCloser: r.Body, meter: x.meter, trailer: r.Trailer}
	}
	s.Handle(x)
	if x.refused || !x.begun {
		panic(http.ErrAbortHandler) //nolint:forbidigo // how the library, which recovers it, is told to reset the stream
	}
}

// canonical2 brings a request of HTTP/2 into the form that one of HTTP/1 has been brought into by its Reader.
func canonical2(r *http.Request, rules http1.Rules) *http1.Error {
	bad := func(err error) *http1.Error {
		if e, ok := err.(*http1.Error); ok { //nolint:errorlint // http1 returns it bare
			return e
		}
		return &http1.Error{Status: http.StatusBadRequest, Reason: "request"}
	}
	if r.Method == http.MethodConnect {
		return errConnect
	}
	// CVE-2021-39155 and its like: one host only, whatever name it comes under.
	if h := r.Header["Host"]; len(h) > 0 && (len(h) > 1 || h[0] != r.Host) {
		return &http1.Error{Status: http.StatusBadRequest, Reason: "host"}
	}
	delete(r.Header, "Host")
	if n := r.Header["Content-Length"]; len(n) > 0 && (len(n) > 1 || n[0] != strconv.FormatInt(r.ContentLength, 10)) {
		return &http1.Error{Status: http.StatusBadRequest, Reason: "content-length"}
	}
	delete(r.Header, "Content-Length")
	host, err := http1.CanonicalHost(r.Host)
	if err != nil {
		return bad(err)
	}
	r.Host = host
	if err := http1.SetTarget(r, r.RequestURI, rules); err != nil {
		return bad(err)
	}
	if err := http1.Check(r, rules); err != nil {
		return bad(err)
	}
	if err := clean(r.Header, false); err != nil {
		return bad(err)
	}
	return nil
}

// watched is a body of which it is known whether it was read from.
type watched struct {
	io.ReadCloser
	meter   *meter
	trailer http.Header
	mu      sync.Mutex
	begun   bool
}

func (b *watched) Read(p []byte) (int, error) {
	b.mu.Lock()
	b.begun = true
	b.mu.Unlock()
	n, err := b.meter.read(b.ReadCloser, p)
	if errors.Is(err, io.EOF) {
		StripReserved(b.trailer)
	}
	return n, err
}

func (b *watched) untouched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.begun
}

// side2 is a caller that speaks HTTP/2.
type side2 struct {
	w http.ResponseWriter
	r *http.Request
}

func (d *side2) interim(r *http.Response) error {
	h := d.w.Header()
	for name, values := range r.Header {
		h[name] = values
	}
	d.w.WriteHeader(r.StatusCode)
	clear(h)
	return nil
}

func (d *side2) respond(r *http.Response) (int64, error) {
	if r.Body != nil {
		defer r.Body.Close()
	}
	h := d.w.Header()
	for name, values := range r.Header {
		h[name] = values
	}
	if r.ContentLength >= 0 && (r.ContentLength > 0 || d.r.Method != http.MethodHead) {
		setLength(h, r)
	}
	for _, name := range trailerNames(r.Trailer) {
		h.Add("Trailer", name)
	}
	d.w.WriteHeader(r.StatusCode)
	if r.Body == nil {
		return 0, nil
	}
	n, err := d.copy(r)
	if err != nil {
		return n, err
	}
	for name, values := range r.Trailer { // also those that were not announced
		h[http.TrailerPrefix+name] = values
	}
	return n, nil
}

// copy sends the body. What comes bit by bit leaves bit by bit.
func (d *side2) copy(r *http.Response) (sent int64, err error) {
	flusher, _ := d.w.(http.Flusher)
	if r.ContentLength < 0 {
		flusher.Flush() // the head of a stream must not wait for its first message
	}
	buf := buffers.Get().(*[copyBuffer]byte)
	defer buffers.Put(buf)
	for {
		n, err := r.Body.Read(buf[:])
		if n > 0 {
			k, failed := d.w.Write(buf[:n])
			sent += int64(k)
			if failed != nil {
				return sent, &CallerError{failed}
			}
			if r.ContentLength < 0 {
				flusher.Flush()
			}
		}
		switch {
		case err == io.EOF:
			return sent, nil
		case err != nil:
			return sent, err
		}
	}
}

func (d *side2) upgrade(*http.Response) (Conn, error) {
	return nil, &http1.Error{Status: http.StatusBadGateway, Reason: "upgrade"}
}

// setLength announces the length of r's body.
func setLength(h http.Header, r *http.Response) {
	if r.StatusCode >= 200 && r.StatusCode != http.StatusNoContent && r.StatusCode != http.StatusNotModified {
		h["Content-Length"] = []string{strconv.FormatInt(r.ContentLength, 10)}
	}
}
