package l7

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"

	"github.com/tradewind-mesh/tradewind/gateways/http1"
)

// teeBuffer is how much of a body waits for the receiver of a copy: a copy holds no more, and a receiver that keeps up needs less.
const teeBuffer = 64 << 10

var errBehind = errors.New("the receiver of the copy is too slow")

// Tee returns an exchange of its own for a copy of r, as Copy does, whose body is what somebody reads of that of r while it is read.
// Whoever reads it is never held up: what a slow receiver of the copy has not taken is kept up to 64 KiB, and then the copy fails.
func Tee(r *http.Request) (*Exchange, *Copied) {
	x, c := Copy(r), &Copied{}
	if r.ContentLength == 0 {
		c.err = io.EOF
		return x, c
	}
	delete(x.Request.Header, "Expect") // the body comes when it comes
	c.arrived.L, c.trailer = &c.mu, x.Request.Trailer
	x.Request.Body = c
	r.Body = &teed{ReadCloser: r.Body, trailer: r.Trailer, to: c, left: r.ContentLength}
	return x, c
}

// Copied is the body of a copy.
type Copied struct {
	mu      sync.Mutex
	arrived sync.Cond // something has
	data    []byte
	err     error       // behind data; io.EOF: that is all
	begun   bool        // it has been read from
	trailer http.Header // of the copy
	behind  http.Header // what has come of it
}

// GiveUp has the copy fail unless its body is whole: nothing more of it will come.
func (c *Copied) GiveUp() { c.end(errEnded, nil) }

// Whole reports whether all of the body has come.
func (c *Copied) Whole() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return errors.Is(c.err, io.EOF)
}

// Read implements io.Reader.
func (c *Copied) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.begun = true
	for len(c.data) == 0 && c.err == nil {
		c.arrived.Wait()
	}
	if len(c.data) == 0 || c.err != nil && !errors.Is(c.err, io.EOF) {
		maps.Copy(c.trailer, c.behind) // not before: until the end they belong to who reads
		return 0, c.err
	}
	n := copy(p, c.data)
	c.data = c.data[:copy(c.data, c.data[n:])]
	return n, nil
}

// Close implements io.Closer.
func (c *Copied) Close() error { return nil }

func (c *Copied) untouched() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.begun
}

func (c *Copied) add(p []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.err != nil || len(p) == 0:
		return
	case len(c.data)+len(p) > teeBuffer:
		c.err, c.data = errBehind, nil
	default:
		c.data = append(c.data, p...)
	}
	c.arrived.Signal()
}

func (c *Copied) end(err error, trailer http.Header) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return
	}
	c.err, c.behind = err, maps.Clone(trailer)
	c.arrived.Signal()
}

// teed is the body of a request that is copied.
type teed struct {
	io.ReadCloser
	trailer http.Header
	to      *Copied
	left    int64 // octets that are still to come; negative: not known
}

func (t *teed) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	t.to.add(p[:n])
	if t.left -= int64(n); err == nil && t.left == 0 && len(t.trailer) == 0 {
		t.to.end(io.EOF, nil) // an instance that has got all may answer before the end is read
	} else if err != nil {
		t.to.end(err, t.trailer)
	}
	return n, err
}

// Ready implements http1.Source.
func (t *teed) Ready() bool {
	source, ok := t.ReadCloser.(http1.Source)
	return ok && source.Ready()
}

// Await implements http1.Source.
func (t *teed) Await() {
	if source, ok := t.ReadCloser.(http1.Source); ok {
		source.Await()
	}
}

func (t *teed) untouched() bool {
	of, ok := t.ReadCloser.(interface{ untouched() bool })
	return ok && of.untouched()
}
