package l7

import (
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/tradewind-mesh/tradewind/gateways/http1"
)

// Exchange is one request and its response. The handler uses it until it returns, from one goroutine.
type Exchange struct {
	// Request is in canonical form: RequestURI is the target that is judged and forwarded, and Header holds nothing that concerns one
	// connection only. Its Body may be read until the handler returns.
	Request *http.Request

	// Upgrade is the protocol that the caller asks to switch to, such as "websocket"; "" when it does not.
	Upgrade string

	// Own says that the response is the gateway's, and not that of an instance or of a rule. The handler sets it before it responds.
	Own bool

	// Edit is given every final response before it leaves; nil: nobody is.
	Edit func(*http.Response)

	meter   *meter
	side    responder
	begun   bool // the final response's head has been sent, or was tried to
	refused bool // there can be no response any more
}

// responder is the side of the caller in its version of HTTP.
type responder interface {
	interim(*http.Response) error
	respond(*http.Response) (int64, error)
	upgrade(*http.Response) (Conn, error)
}

// CallerError is a failure to send to the caller: it has left, or is too slow.
type CallerError struct{ Err error }

func (e *CallerError) Error() string { return "send to the caller: " + e.Err.Error() }

// Unwrap returns the error of the connection.
func (e *CallerError) Unwrap() error { return e.Err }

// Interim passes on a 1xx response, but for 101.
func (x *Exchange) Interim(r *http.Response) error { return x.side.interim(r) }

// Respond sends the final response: its head, its body to the end, its trailers. It returns how many octets of the body were sent. The
// error is a *CallerError, or what reading the body gave; the caller then sees a message that is cut off.
func (x *Exchange) Respond(r *http.Response) (int64, error) {
	x.begun = true
	x.edit(r)
	n, err := x.side.respond(r)
	if err != nil {
		x.refused = true
	}
	return n, err
}

// Switch sends the 101 response r and returns the caller's connection, which is the handler's from then on.
func (x *Exchange) Switch(r *http.Response) (Conn, error) {
	x.begun = true
	x.edit(r)
	c, err := x.side.upgrade(r)
	x.refused = err != nil
	return c, err
}

func (x *Exchange) edit(r *http.Response) {
	if x.Edit == nil {
		return
	}
	if r.Header == nil {
		r.Header = http.Header{}
	}
	x.Edit(r)
}

// Bad is what was found wrong with the request's body so far, or nil: the caller is to blame if the request came to nothing.
func (x *Exchange) Bad() *http1.Error { return x.meter.bad.Load() }

// Abort ends the exchange without a response: the caller sees a reset.
func (x *Exchange) Abort() { x.refused = true }

// Begun reports whether a final response has been begun: another one cannot be sent.
func (x *Exchange) Begun() bool { return x.begun || x.refused }

// Text returns a response that is one line of text.
func Text(status int, line string) *http.Response {
	body := line + "\n"
	return &http.Response{StatusCode: status, Header: http.Header{"Content-Type": {"text/plain; charset=utf-8"}},
		ContentLength: int64(len(body)), Body: io.NopCloser(strings.NewReader(body))}
}

// Copy returns an exchange of its own for a request like r, which has no body. The response is read and thrown away.
func Copy(r *http.Request) *Exchange {
	c := r.Clone(context.Background())
	c.Body = http.NoBody
	return &Exchange{Request: c, side: nobody{}, meter: &meter{}}
}

// nobody is the side of a caller that does not listen.
type nobody struct{}

func (nobody) interim(*http.Response) error { return nil }

func (nobody) respond(r *http.Response) (int64, error) {
	if r.Body == nil {
		return 0, nil
	}
	defer r.Body.Close()
	return io.Copy(io.Discard, io.LimitReader(r.Body, http1.DrainLimit))
}

func (nobody) upgrade(*http.Response) (Conn, error) { return nil, errEnded }

// body is a request's body that may be read beside the goroutine that serves the connection, up to when that one ends it.
type body struct {
	mu      sync.Mutex
	src     io.Reader
	meter   *meter
	trailer http.Header
	conn    *clocked
	begun   bool        // something was asked of it
	done    atomic.Bool // it was read to the end
	ended   bool
}

var errEnded = errors.New("the exchange has ended")

func (b *body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ended {
		return 0, errEnded
	}
	b.begun = true
	n, err := b.meter.read(b.src, p)
	if errors.Is(err, io.EOF) {
		b.done.Store(true)
		StripReserved(b.trailer)
	}
	return n, err
}

// mayStay reports whether more of the body of r may be on its way than is worth reading.
func (b *body) mayStay(r *http.Request) bool {
	if b.done.Load() {
		return false
	}
	return r.ContentLength < 0 || r.ContentLength > http1.DrainLimit || http1.ExpectsContinue(r) && b.untouched()
}

// Ready implements http1.Source.
func (b *body) Ready() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	source, ok := b.src.(http1.Source)
	return b.ended || ok && source.Ready()
}

// Await implements http1.Source.
func (b *body) Await() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if source, ok := b.src.(http1.Source); ok && !b.ended {
		b.begun = true
		b.meter.await(source)
	}
}

func (b *body) Close() error { return nil }

// end takes the body back. It reports whether the connection is where the reader left it: nobody was stopped in the middle of a read.
func (b *body) end() (intact bool) {
	intact = b.mu.TryLock()
	if !intact {
		b.conn.interrupt()
		b.mu.Lock()
	}
	b.ended = true
	b.mu.Unlock()
	return intact
}

// ReservedPrefix begins the names of fields that only gateways write, as net/http writes federation.ReservedHeaderPrefix. What comes
// under them from outside, in a head or behind a body, does not get through.
const ReservedPrefix = "X-Tradewind-"

// StripReserved removes the fields whose names are reserved.
func StripReserved(h http.Header) {
	for name := range h {
		if strings.HasPrefix(name, ReservedPrefix) {
			delete(h, name)
		}
	}
}

// clean makes the fields of a message from outside fit to be forwarded.
func clean(h http.Header, upgrade bool) error {
	return http1.StripHopByHop(h, upgrade)
}

// Untouched reports whether nothing of r's body has been read, so that it can be sent somewhere else.
func Untouched(r *http.Request) bool {
	if r.ContentLength == 0 {
		return true
	}
	b, ok := r.Body.(interface{ untouched() bool })
	return ok && b.untouched()
}

func (b *body) untouched() bool {
	if !b.mu.TryLock() {
		return false
	}
	defer b.mu.Unlock()
	return !b.begun
}

// trailerNames are the names under which trailers are announced.
func trailerNames(t http.Header) []string {
	names := make([]string, 0, len(t))
	for name := range t {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}
