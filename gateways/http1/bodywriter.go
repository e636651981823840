package http1

import (
	"errors"
	"io"
	"net/http"
	"strconv"
	"sync"
)

const (
	smallBlock = 8 << 10  // what a body that comes slowly waits with
	largeBlock = 64 << 10 // what a body that comes fast is copied with: four TLS records, beyond it nothing measurable is gained
	sizeRoom   = 10       // of the line in front of a chunk of a block: eight digits and CRLF are plenty
)

var (
	smallBlocks = sync.Pool{New: func() any { return new([smallBlock]byte) }}
	largeBlocks = sync.Pool{New: func() any { return new([largeBlock]byte) }}
)

// WriteError is an error of writing, where reading could also have failed.
type WriteError struct{ Err error }

func (e *WriteError) Error() string { return "write body: " + e.Err.Error() }

// Unwrap returns the error of the connection.
func (e *WriteError) Unwrap() error { return e.Err }

var errShortBody = errors.New("http1: the body is shorter than its Content-Length")

// BodyWriter writes one body behind its head, in as few writes as possible: the head waits for the first octets of the body if they are
// there, and what was read at once is written at once. It keeps nothing back.
type BodyWriter struct {
	w       io.Writer
	head    []byte // not written yet
	framing Framing
	left    int64
	begun   bool
}

// NewBodyWriter returns a BodyWriter to w. head, which may be nil, is written in front of the body, and must not change until then.
func NewBodyWriter(w io.Writer, head []byte, framing Framing) *BodyWriter {
	return &BodyWriter{w: w, head: head, framing: framing, left: max(int64(framing), 0)}
}

// Flush writes the head, if it is not written yet.
func (w *BodyWriter) Flush() error {
	if len(w.head) == 0 {
		return nil
	}
	head := w.head
	w.head = nil
	return w.write(head)
}

// Begun reports whether anything was written, the head included: if not, another message can be sent instead.
func (w *BodyWriter) Begun() bool { return w.begun }

func (w *BodyWriter) write(b []byte) error {
	w.begun = true
	if n, err := w.w.Write(b); err != nil {
		return &WriteError{err}
	} else if n < len(b) {
		return &WriteError{io.ErrShortWrite}
	}
	return nil
}

// Write writes p, as chunks where that is the framing. It refuses more than the length with http.ErrContentLength.
func (w *BodyWriter) Write(p []byte) (int, error) {
	if err := w.reserve(len(p)); err != nil || len(p) == 0 {
		return 0, err
	}
	if err := w.Flush(); err != nil {
		return 0, err
	}
	if w.framing != Chunked {
		if err := w.write(p); err != nil {
			return 0, err
		}
		return len(p), nil
	}
	block := largeBlocks.Get().(*[largeBlock]byte)
	defer largeBlocks.Put(block)
	for done := 0; done < len(p); {
		n := copy(block[sizeRoom:largeBlock-2], p[done:])
		from, to := w.frame(block[:], sizeRoom, n)
		if err := w.write(block[from:to]); err != nil {
			return done, err
		}
		done += n
	}
	return len(p), nil
}

func (w *BodyWriter) reserve(n int) error {
	if w.framing < 0 {
		return nil
	}
	if int64(n) > w.left {
		return http.ErrContentLength
	}
	w.left -= int64(n)
	return nil
}

// Close ends the body; trailer, which may be nil, is sent where chunks are. It does not close the connection. An error means that
// the connection cannot carry another message.
func (w *BodyWriter) Close(trailer http.Header) error {
	if w.left > 0 {
		return errShortBody
	}
	end := w.head
	w.head = nil
	if w.framing == Chunked {
		var err error
		if end, err = appendTrailer(end[:len(end):len(end)], trailer); err != nil {
			return err
		}
	}
	if len(end) == 0 {
		return nil
	}
	return w.write(end)
}

// Source is a body that knows whether it has something. Those of a Reader are, and a wrapper of one does well to be one too: Copy
// then writes a head and a short body at once, and holds no buffer of its own while a slow body has nothing.
type Source interface {
	io.Reader
	// Ready reports whether Read returns without waiting for the connection.
	Ready() bool
	// Await waits until Read has something to return, be it an error.
	Await()
}

// Copy writes what it reads from src, to its end, and ends the body; trailer may be filled by the last read. What is read at once
// is one chunk. It returns the octets of the body that were written. An error of writing is a *WriteError, and every other one of
// reading, or an *Error with status 500 for a trailer that cannot be sent.
func (w *BodyWriter) Copy(src io.Reader, trailer http.Header) (written int64, err error) {
	source, _ := src.(Source)
	large := false
	for {
		if src != http.NoBody && (source == nil || !source.Ready()) {
			if err := w.Flush(); err != nil {
				return written, err
			}
			if source != nil && !large {
				source.Await() // with the buffer of the Reader alone
			}
		}
		n, end, err := w.step(src, trailer, large)
		written += int64(n)
		if err != nil || end {
			return written, err
		}
		large = n >= smallBlock/2
	}
}

// step is one read and one write of Copy.
func (w *BodyWriter) step(src io.Reader, trailer http.Header, large bool) (n int, end bool, err error) {
	var block []byte
	if large {
		b := largeBlocks.Get().(*[largeBlock]byte)
		defer largeBlocks.Put(b)
		block = b[:]
	} else {
		b := smallBlocks.Get().(*[smallBlock]byte)
		defer smallBlocks.Put(b)
		block = b[:]
	}
	if len(w.head) > len(block)/2 {
		if err := w.Flush(); err != nil {
			return 0, false, err
		}
	}
	at := len(w.head) + sizeRoom
	n, rerr := src.Read(block[at : len(block)-2])
	end = errors.Is(rerr, io.EOF)
	if err := w.reserve(n); err != nil {
		return 0, false, err
	}
	if end && w.left > 0 {
		rerr, end = errShortBody, false
	}
	if n == 0 && !end {
		return 0, false, rerr
	}
	from, to := w.frame(block, at, n)
	from -= copy(block[from-len(w.head):], w.head)
	w.head = nil
	out := block[from:to]
	if end && w.framing == Chunked {
		if out, err = appendTrailer(out, trailer); err != nil {
			return 0, false, err
		}
	}
	if len(out) > 0 {
		if err := w.write(out); err != nil {
			return 0, false, err
		}
	}
	if end {
		rerr = nil
	}
	return n, end, rerr
}

// frame makes the n octets at block[at:] a chunk, where that is the framing, and returns where it starts and ends.
func (w *BodyWriter) frame(block []byte, at, n int) (from, to int) {
	if w.framing != Chunked || n == 0 {
		return at, at + n
	}
	var digits [sizeRoom]byte
	line := append(strconv.AppendInt(digits[:0], int64(n), 16), "\r\n"...)
	from = at - copy(block[at-len(line):], line)
	to = at + n + copy(block[at+n:], "\r\n")
	return from, to
}
