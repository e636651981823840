package http1

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"net/http"
)

type bodyKind uint8

const (
	byLength bodyKind = iota
	chunked
	untilClose
)

// What a chunked body waits for.
const (
	chunkSize uint8 = iota
	chunkData
	chunkEnd // CRLF behind the data
	trailerSection
)

// body is the body of the last message of a Reader. Read blocks only as long as it has nothing to return, and returns io.EOF with the
// last octets where it knows that they are.
type body struct {
	r       *Reader
	kind    bodyKind
	wants   uint8 // chunked
	started bool  // something was read
	expect  bool  // the caller may wait for 100 before it sends
	closed  bool
	status  int   // of a refusal
	left    int64 // octets of the body, or of the chunk
	extra   int   // octets of chunk extensions, then of the trailer section
	fields  int   // of the trailer section
	trailer http.Header
	err     error // io.EOF: it is at its end
}

// Read implements io.Reader. The error is an *Error if the body is malformed; then the connection cannot carry another message.
func (b *body) Read(p []byte) (int, error) {
	if b.closed {
		return 0, http.ErrBodyReadAfterClose
	}
	return b.read(p)
}

// Close ends reading. What is left stays on the connection, see Reader.Drain.
func (b *body) Close() error {
	b.closed = true
	return nil
}

// Ready implements Source.
func (b *body) Ready() bool {
	if b.err != nil || b.r.Buffered() == 0 {
		return b.err != nil
	}
	if b.kind == chunked && b.wants != chunkData {
		have := b.r.next(b.r.Buffered())
		i := bytes.IndexByte(have, '\n')
		return i >= 0 && i+1 < len(have)
	}
	return true
}

// Await implements Source.
func (b *body) Await() {
	if b.err == nil && b.r.Buffered() == 0 {
		b.r.failed = b.r.fill(0)
	}
}

func (b *body) read(p []byte) (int, error) {
	if b.err != nil {
		return 0, b.err
	}
	if len(p) == 0 {
		return 0, nil
	}
	b.started = true
	n, err := 0, error(nil)
	switch b.kind {
	case byLength:
		n, err = b.readLeft(p)
		if b.left == 0 && err == nil {
			err = io.EOF
		}
	case chunked:
		n, err = b.readChunks(p)
	case untilClose:
		n, err = b.r.read(p)
		if err != nil && !errors.Is(err, io.EOF) {
			err = fmt.Errorf("read body: %w", err)
		}
	}
	if err != nil {
		if b.status == 502 {
			err = ofResponse(err)
		}
		b.err = err
		if err == io.EOF { //nolint:errorlint // the end itself is never wrapped
			b.r.body = nil
		}
	}
	return n, err
}

// readLeft reads octets of the body, or of the chunk.
func (b *body) readLeft(p []byte) (int, error) {
	n, err := b.r.read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	if err != nil {
		return n, bodyError(err)
	}
	return n, nil
}

func bodyError(err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read body: %w", err)
}

// readChunks reads as many chunks as fit p, and blocks only for the first octet.
func (b *body) readChunks(p []byte) (total int, err error) {
	for {
		if b.wants == chunkData {
			if total == len(p) || total > 0 && b.r.Buffered() == 0 {
				return total, nil
			}
			n, err := b.readLeft(p[total:])
			total += n
			if err != nil {
				return total, err
			}
			if b.left == 0 {
				b.wants = chunkEnd
			}
			continue
		}
		line, ok, err := b.line(total == 0)
		if err != nil || !ok {
			return total, err
		}
		end, err := b.take(line)
		if err != nil {
			return total, err
		}
		if end {
			return total, io.EOF
		}
	}
}

// line returns the next line without its CRLF. It is used up. ok is false if it would have to be waited for.
func (b *body) line(wait bool) (line []byte, ok bool, err error) {
	limit := 16 + maxExtension
	if b.wants == trailerSection {
		limit = maxTrailer - b.extra
	}
	for scanned := 0; ; {
		if have := b.r.Buffered(); have > scanned {
			all := b.r.next(have)
			if b.wants == chunkEnd && all[0] != '\r' {
				return nil, false, bad("chunk-end")
			}
			if i := bytes.IndexByte(all[scanned:], '\n'); i >= 0 {
				end := scanned + i
				switch {
				case end > limit+1:
					return nil, false, bad(b.tooLong())
				case end == 0 || all[end-1] != '\r':
					return nil, false, bad("chunk-bare-lf")
				}
				b.r.r += end + 1
				return all[:end-1], true, nil
			}
			if scanned = have; scanned > limit+1 {
				return nil, false, bad(b.tooLong())
			}
		}
		if !wait {
			return nil, false, nil
		}
		if err := b.r.fill(maxTrailer + 2); err != nil {
			return nil, false, bodyError(err)
		}
	}
}

func (b *body) tooLong() string {
	if b.wants == trailerSection {
		return "trailer-length"
	}
	return "chunk-line-length"
}

// take goes on with what a line says, and reports whether the body ends with it.
func (b *body) take(line []byte) (end bool, err error) {
	switch b.wants {
	case chunkEnd:
		if len(line) > 0 {
			return false, bad("chunk-end")
		}
		b.wants = chunkSize
		return false, nil
	case chunkSize:
		if b.left, err = b.readSize(line); err != nil {
			return false, err
		}
		if b.wants = chunkData; b.left == 0 {
			b.wants, b.extra = trailerSection, 0
		}
		return false, nil
	}
	if len(line) == 0 {
		return true, nil
	}
	b.extra += len(line) + 2
	if b.fields++; b.fields > b.r.rules.MaxFields {
		return false, &Error{431, "field-count"}
	}
	return false, b.takeTrailer(line)
}

// readSize reads the line in front of a chunk (RFC 9112 7.1). Extensions are dropped.
func (b *body) readSize(line []byte) (int64, error) {
	n, i := uint64(0), 0
	for ; i < len(line) && unhex(line[i]) < 16; i++ {
		if n > math.MaxInt64>>4 || i == 16 {
			return 0, bad("chunk-size")
		}
		n = n<<4 | uint64(unhex(line[i]))
	}
	extension := line[i:]
	if i == 0 || len(extension) > 0 && extension[0] != ';' {
		return 0, bad("chunk-size")
	}
	b.extra += len(extension)
	if len(extension) > maxExtension || b.extra > maxAllExt || !isText(extension) {
		return 0, bad("chunk-extension")
	}
	return int64(n), nil
}

func (b *body) takeTrailer(line []byte) error {
	f, err := readField(line, 0, len(line), b.status == 400 && !b.r.rules.AllowUnderscore)
	if err != nil {
		return err
	}
	name := string(line[f.name:f.nameEnd])
	if endToEnd(name) || notInTrailer(name) {
		return bad("trailer-forbidden")
	}
	b.trailer[name] = append(b.trailer[name], string(line[f.value:f.valueEnd]))
	return nil
}
