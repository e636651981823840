package l7

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/http1"
)

const copyBuffer = 32 << 10

var buffers = sync.Pool{New: func() any { return new([copyBuffer]byte) }}

// Way says how one request is sent.
type Way struct {
	Deadline time.Time                  // of the response's head; zero: none
	Idle     time.Duration              // a connection on which nothing moves for so long is broken off; 0: never
	Interim  func(*http.Response) error // is given 1xx responses; nil: they are dropped
	Fields   []http1.Field              // are added to those of the request, which itself stays as it is

	// Ends is given what ends this exchange at any time from then on, and no other one. Nil: nobody.
	Ends func(stop func())
}

// RefusedError says that the other side certainly has not processed the request.
type RefusedError struct{ Err error }

func (e *RefusedError) Error() string { return "not processed: " + e.Err.Error() }

// Unwrap returns the error of the connection.
func (e *RefusedError) Unwrap() error { return e.Err }

// Client is a connection to an instance or a gateway.
type Client struct {
	pool  *Pool
	key   any
	group *group // guarded by the pool's lock
	conn  *clocked

	// HTTP/1: one request at a time.
	reader  *http1.Reader
	head    []byte
	sending chan error // capacity 1: the end of the request's body; nil when it was sent with the head
	used    int        // requests so far
	closer  func()     // Close, made once
	over    bool       // closed, or taken by an upgrade

	two *http.ClientConn // HTTP/2: many

	rested time.Time // when it was put back, or last lent
}

// Two reports whether the connection speaks HTTP/2.
func (k *Client) Two() bool { return k.two != nil }

// Reused reports whether the connection has carried a request before this one: then it may turn out to be closed.
func (k *Client) Reused() bool { return k.used > 1 }

// Conn is what the connection runs on.
func (k *Client) Conn() Conn { return k.conn.Conn }

// Close ends the connection, and what is under way on it.
func (k *Client) Close() {
	if k.two != nil {
		_ = k.two.Close()
	}
	_ = k.conn.Close()
}

// Do sends r and returns the response once its head is there. Reading its body to the end, or closing it, gives the connection back; so
// does an error. r's Body may still be read while the response is.
//
// The error is an *http1.Error for a request or a response that cannot be forwarded, a *RefusedError, or that of the connection.
func (k *Client) Do(r *http.Request, way Way) (*http.Response, error) {
	if k.two != nil {
		return k.do2(r, way)
	}
	res, err := k.do1(r, way)
	if err != nil {
		k.drop()
	}
	return res, err
}

func (k *Client) do1(r *http.Request, way Way) (*http.Response, error) {
	head, err := http1.AppendRequest(k.head[:0], r, way.Fields...)
	if err != nil {
		return nil, err
	}
	k.head, k.sending = head, nil
	framing := http1.RequestFraming(r)
	k.conn.idle = way.Idle
	k.conn.until(way.Deadline)
	if way.Ends != nil {
		way.Ends(k.closer)
	}
	if r.Context().Done() != nil { // a caller of HTTP/2 can leave without a word on a connection of its own
		defer context.AfterFunc(r.Context(), k.closer)()
	}
	if framing == 0 {
		_, err = k.conn.Write(head)
	} else {
		sending := make(chan error, 1)
		k.sending = sending
		w := http1.NewBodyWriter(k.conn, head, framing)
		go func() {
			_, err := w.Copy(r.Body, r.Trailer)
			var unsent *http1.WriteError
			if err != nil && !errors.As(err, &unsent) {
				_ = k.conn.Close() // the rest of the body never comes: the other side waits for it, and we for its answer
			}
			sending <- err
		}()
	}
	// What was sent before a failure may have been answered all the same: "too large", or "not allowed".
	for {
		res, failed := k.reader.ReadResponse(r)
		if failed == nil {
			failed = http1.StripHopByHop(res.Header, res.StatusCode == http.StatusSwitchingProtocols)
		}
		switch {
		case failed != nil:
			return nil, errors.Join(failed, err)
		case res.StatusCode == http.StatusSwitchingProtocols:
			k.over = true
			k.conn.stop()
			res.Body = upgraded{&withPrefix{k.conn.Conn, k.reader.Rest()}}
			return res, nil
		case res.StatusCode < 200:
			if way.Interim != nil {
				if err := way.Interim(res); err != nil {
					return nil, err
				}
			}
			continue
		}
		k.conn.goOn()
		k.conn.held.Store(false)
		a := &answer{client: k, body: res.Body, trailer: res.Trailer, close: res.Close}
		if framing != 0 && (r.Method == http.MethodGet || r.Method == http.MethodHead) {
			a.close = true // an instance that reads no body there would take it for the next request
		}
		StripReserved(res.Trailer)
		res.Close = false // that concerned this connection only
		if res.Request = r; http1.ResponseFraming(res) == 0 {
			a.end(nil)
		}
		res.Body = a
		return res, nil
	}
}

// upgraded is the connection after a 101 response, as its Body.
type upgraded struct{ Conn }

// Upgraded returns the connection that r, a response with status 101, goes on with.
func Upgraded(r *http.Response) (Conn, bool) {
	u, ok := r.Body.(upgraded)
	return u.Conn, ok
}

// answer is the body of a response of HTTP/1. It gives the connection back at its end.
type answer struct {
	client  *Client
	body    io.Reader
	trailer http.Header
	close   bool
	ended   bool
}

func (a *answer) Read(p []byte) (int, error) {
	if a.ended {
		return 0, io.EOF
	}
	n, err := a.body.Read(p)
	if err == io.EOF {
		StripReserved(a.trailer)
		a.end(nil)
	} else if err != nil {
		a.end(err)
	}
	return n, err
}

// Ready implements http1.Source.
func (a *answer) Ready() bool {
	source, ok := a.body.(http1.Source)
	return a.ended || ok && source.Ready()
}

// Await implements http1.Source.
func (a *answer) Await() {
	if source, ok := a.body.(http1.Source); ok && !a.ended {
		source.Await()
	}
}

// end gives the connection back, or up when err says that the body is not whole.
func (a *answer) end(err error) {
	a.ended = true
	if err != nil || a.close {
		a.client.drop()
		return
	}
	a.client.putBack()
}

func (a *answer) Close() error {
	if !a.ended {
		a.end(errEnded)
	}
	return nil
}

// putBack makes the connection ready for the next request, if the request at hand has been sent.
func (k *Client) putBack() {
	if k.sending != nil {
		select {
		case err := <-k.sending:
			if err != nil {
				k.drop()
				return
			}
		default: // answered before it was read
			k.drop()
			return
		}
	}
	k.reader.Release()
	if k.reader.Buffered() > 0 || !k.pool.put(k) { // nobody has asked for more
		k.drop()
	}
}

func (k *Client) drop() {
	if !k.over {
		k.over = true
		_ = k.conn.Close()
	}
}

func (k *Client) do2(r *http.Request, way Way) (*http.Response, error) {
	// The library wants the target in a URL; as opaque text it stays as it is. It may still read the header when it has failed.
	u := &url.URL{Scheme: "http", Host: r.Host, Opaque: r.RequestURI}
	ctx, stop := context.WithCancelCause(r.Context())
	if way.Ends != nil {
		way.Ends(func() { stop(errEnded) })
	}
	out := (&http.Request{Method: r.Method, URL: u, Host: r.Host, Header: maps.Clone(r.Header), Body: r.Body, ContentLength: r.ContentLength,
		Trailer: r.Trailer}).WithContext(withInterim(ctx, way.Interim))
	if len(way.Fields) > 0 && out.Header == nil {
		out.Header = http.Header{}
	}
	for _, f := range way.Fields {
		out.Header[f.Name] = []string{f.Value}
	}
	if r.ContentLength == 0 {
		out.Body = nil
	}
	if !way.Deadline.IsZero() {
		timer := time.AfterFunc(time.Until(way.Deadline), func() { stop(context.DeadlineExceeded) })
		defer timer.Stop()
	}
	res, err := k.two.RoundTrip(out)
	if err != nil {
		if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) {
			err = cause
		}
		stop(nil)
		return nil, refused(err)
	}
	res.Body = &stream{ReadCloser: res.Body, stop: func() { stop(nil) }}
	_ = http1.StripHopByHop(res.Header, false)
	delete(res.Header, "Content-Length")
	if len(res.Trailer) > 0 {
		res.ContentLength = -1 // a caller of HTTP/1.1 gets trailers behind chunks only
	}
	return res, nil
}

// refused marks the errors that say that nothing was processed (RFC 9113 8.7).
func refused(err error) error {
	var reset streamError
	if errors.As(err, &reset) && reset.Code == refusedStream {
		return &RefusedError{err}
	}
	for _, unsent := range unprocessed {
		if strings.HasSuffix(err.Error(), unsent) {
			return &RefusedError{err}
		}
	}
	return err
}

// unprocessed are the library's errors, which have no type, for a stream that the other side has not begun with: one behind the last that
// its GOAWAY names, and one that was never sent.
var unprocessed = []string{"Server's graceful shutdown GOAWAY", "http2: client conn not usable", "http2: client conn could not be established"}

// streamError is what the library's own error can be taken as: errors.As copies it into any struct with these fields.
type streamError struct {
	StreamID uint32
	Code     uint32
	Cause    error
}

func (e streamError) Error() string { return "stream error" }

const refusedStream = 7 // RFC 9113 7

// stream is the body of a response of HTTP/2. Its context must end with it, and not before.
type stream struct {
	io.ReadCloser
	stop func()
}

func (s *stream) Read(p []byte) (int, error) {
	n, err := s.ReadCloser.Read(p)
	if err != nil {
		s.stop()
	}
	return n, err
}

func (s *stream) Close() error {
	err := s.ReadCloser.Close()
	s.stop()
	return err
}
