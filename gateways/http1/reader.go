package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"sync"
)

const bufferSize = 8 << 10 // holds nearly every head, and the small bodies behind it, with one system call

// buffer is what a Reader holds while it has something to do.
type buffer struct {
	data   []byte
	fields []field // of the head that is being read
}

var buffers = sync.Pool{New: func() any { return &buffer{data: make([]byte, bufferSize), fields: make([]field, 0, 32)} }}

// Reader reads the messages that come on one connection, one after the other. It is used by one goroutine at a time. It takes
// a buffer from a pool when it reads and gives it back by Release.
type Reader struct {
	src     io.Reader
	rules   Rules
	buf     *buffer
	r, w    int   // buf.data[r:w] is read from src and not yet used
	body    *body // of the last message, while it is not at its end
	failed  error // of src, for the next read
	interim int   // 1xx responses since the last final one
}

// NewReader returns a Reader of src.
func NewReader(src io.Reader, rules Rules) *Reader {
	return &Reader{src: src, rules: rules.withDefaults()}
}

// Buffered is how many octets are read from the connection and not yet used: those of a body, a pipelined request, or an upgrade.
func (r *Reader) Buffered() int { return r.w - r.r }

// Release gives the buffer back if nothing is in it, and reports whether it did. The next read takes another: an idle connection
// holds none. False after a response means that an instance has sent what nobody asked for: it would answer the next request.
func (r *Reader) Release() bool {
	if r.Buffered() > 0 {
		return false
	}
	r.free()
	return true
}

func (r *Reader) free() {
	if r.buf != nil && len(r.buf.data) == bufferSize { // one that grew for a long head goes to the garbage collector
		buffers.Put(r.buf)
	}
	r.buf, r.r, r.w = nil, 0, 0
}

// Rest returns what is buffered and gives the buffer back: after an upgrade the connection goes on with these octets.
func (r *Reader) Rest() []byte {
	var rest []byte
	if r.Buffered() > 0 {
		rest = bytes.Clone(r.buf.data[r.r:r.w])
	}
	r.free()
	return rest
}

var errBodyUnread = errors.New("http1: the body of the last message is not at its end")

// Drain reads the rest of the last message's body, so that the connection can carry another. An error says that it cannot: more
// than DrainLimit is left, the caller waits for 100 (Continue) before it sends, or reading failed. The caller sets the deadline.
func (r *Reader) Drain() error {
	b := r.body
	if b == nil {
		return nil
	}
	if b.kind == untilClose || b.expect && !b.started || b.kind == byLength && b.left > DrainLimit {
		return errBodyUnread
	}
	scratch := smallBlocks.Get().(*[smallBlock]byte)
	defer smallBlocks.Put(scratch)
	for total := 0; total <= DrainLimit; {
		n, err := b.read(scratch[:])
		total += n
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return errBodyUnread
}

// next is what comes next in the buffer, size octets of it.
func (r *Reader) next(size int) []byte { return r.buf.data[r.r : r.r+size] }

// fill reads once from src behind what is buffered, of which there may be limit octets at most.
func (r *Reader) fill(limit int) error {
	if err := r.failed; err != nil {
		r.failed = nil
		return err
	}
	if r.buf == nil {
		r.buf = buffers.Get().(*buffer)
	}
	if r.r == r.w {
		r.r, r.w = 0, 0
	}
	if r.w == len(r.buf.data) {
		if r.r > 0 {
			r.w = copy(r.buf.data, r.buf.data[r.r:r.w])
			r.r = 0
		} else {
			grown := make([]byte, min(2*len(r.buf.data), max(limit, len(r.buf.data)+1)))
			copy(grown, r.buf.data)
			r.buf = &buffer{data: grown, fields: r.buf.fields}
		}
	}
	for range 100 { // an io.Reader may return nothing at all, but not for ever
		n, err := r.src.Read(r.buf.data[r.w:])
		r.w += n
		if n > 0 {
			r.failed = err
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// read takes what is buffered, or reads: past the buffer when p is at least as large.
func (r *Reader) read(p []byte) (int, error) {
	if r.r == r.w {
		if len(p) >= bufferSize && r.failed == nil {
			return r.src.Read(p)
		}
		if err := r.fill(0); err != nil {
			return 0, err
		}
	}
	n := copy(p, r.buf.data[r.r:r.w])
	r.r += n
	return n, nil
}

// readHead reads until the buffer holds a whole head, and returns its size with the empty line. io.EOF: the connection ended
// before it.
func (r *Reader) readHead() (int, error) {
	if r.body != nil {
		return 0, errBodyUnread
	}
	line, scanned := 0, 0 // where the current line starts, and up to where there is no end of it
	for {
		have := r.Buffered()
		if have > 0 && canonical[inWord][r.buf.data[r.r]] == 0 {
			return 0, bad("start-line") // an empty line, TLS, or anything else that would keep us waiting for its end
		}
		for scanned < have {
			b := r.next(have)
			i := bytes.IndexByte(b[scanned:], '\n')
			if i < 0 {
				scanned = have
				break
			}
			end := scanned + i
			if end == 0 || b[end-1] != '\r' {
				return 0, bad("bare-lf")
			}
			if line == 0 && end-1 > r.rules.MaxStartLine {
				return 0, &Error{414, "start-line-length"}
			}
			if end == line+1 {
				return r.checkHead(end + 1)
			}
			line, scanned = end+1, end+1
		}
		if line == 0 && have > r.rules.MaxStartLine+1 {
			return 0, &Error{414, "start-line-length"}
		}
		if have >= r.rules.MaxHead {
			return r.checkHead(have + 1)
		}
		if err := r.fill(r.rules.MaxHead); err != nil {
			return 0, r.headError(err)
		}
	}
}

func (r *Reader) checkHead(size int) (int, error) {
	if size > r.rules.MaxHead {
		return 0, &Error{431, "head-length"}
	}
	return size, nil
}

func (r *Reader) headError(err error) error {
	switch {
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("read head: %w", err)
	case r.Buffered() == 0:
		return io.EOF
	}
	return fmt.Errorf("read head: %w", io.ErrUnexpectedEOF)
}
