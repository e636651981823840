package mesh

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/splice"
)

const (
	// firstBytesWait is how long OPEN waits for the caller's first bytes so that both leave in one packet. A caller that speaks
	// first has done so by then; one that waits for the server loses no more than this.
	firstBytesWait = 2 * time.Millisecond

	// maxHead is how much of a caller's bytes is kept until an instance has the connection. More stays in the socket.
	maxHead = 64 << 10

	// smallHead holds the first request or TLS hello of most protocols.
	smallHead = 8 << 10
)

var (
	smallHeads = sync.Pool{New: func() any { return new([smallHead]byte) }}
	largeHeads = sync.Pool{New: func() any { return new([maxHead]byte) }}
)

// past is a deadline that makes a blocked Read return at once.
var past = time.Unix(1, 0)

// callerLeftError is the end of a caller's connection before an instance had it.
type callerLeftError struct{ err error }

func (e *callerLeftError) Error() string { return "the caller left: " + e.err.Error() }

func (e *callerLeftError) Unwrap() error { return e.err }

// head is the first bytes of a caller. They are sent on while the answer of the other side is awaited, and kept, so that
// they can be sent again when it is certain that nobody received them. One goroutine uses it at a time.
type head struct {
	conn  callerConn
	small *[smallHead]byte
	large *[maxHead]byte
	n     int
	ended error // what reading the caller ended with, but for io.EOF: that one the splice will meet again
	eof   bool
}

// headOf is the head of c of which first has been read.
func headOf(c callerConn, first []byte) head {
	h := head{conn: c}
	for len(first) > 0 {
		n := copy(h.room(), first)
		if n == 0 { // nobody reads that much ahead
			break
		}
		h.n, first = h.n+n, first[n:]
	}
	return h
}

func (h *head) bytes() []byte {
	if h.large != nil {
		return h.large[:h.n]
	}
	if h.small != nil {
		return h.small[:h.n]
	}
	return nil
}

// room returns where the next bytes go; empty when the head is full.
func (h *head) room() []byte {
	switch {
	case h.large != nil:
		return h.large[h.n:]
	case h.small == nil:
		h.small = smallHeads.Get().(*[smallHead]byte)
	case h.n == smallHead:
		h.large = largeHeads.Get().(*[maxHead]byte)
		copy(h.large[:], h.small[:])
		return h.large[h.n:]
	}
	return h.small[h.n:]
}

// release gives the memory back. The bytes are gone.
func (h *head) release() {
	if h.small != nil {
		smallHeads.Put(h.small)
	}
	if h.large != nil {
		largeHeads.Put(h.large)
	}
	h.small, h.large, h.n = nil, nil, 0
}

// read reads once from the caller.
func (h *head) read() (fresh []byte) {
	room := h.room()
	n, err := h.conn.Read(room)
	h.took(n, err)
	return room[:n]
}

// took notes what reading into the room has brought, and reports whether that was anything.
func (h *head) took(n int, err error) bool {
	h.n += n
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
		return n > 0
	case errors.Is(err, io.EOF):
		h.eof = true
	default:
		h.ended = err
	}
	return true
}

// offer sends the caller's bytes on f, those already read first, and returns once the peer has taken the flow (nil) or not.
// When it has not, and sent is false, nothing of the caller's has left this gateway. stop ends ctx.
func (h *head) offer(ctx context.Context, stop func(), f Flow) (sent bool, err error) {
	if h.n == 0 && !h.eof && !h.took(splice.ReadNow(h.conn, h.room())) { // a look is cheaper than a deadline
		_ = h.conn.SetReadDeadline(time.Now().Add(firstBytesWait))
		h.read()
		_ = h.conn.SetReadDeadline(time.Time{})
	}
	if h.ended != nil {
		return false, &callerLeftError{h.ended}
	}
	if h.n > 0 {
		sent = true
		_, err = f.Write(h.bytes())
	} else {
		err = f.Flush()
	}
	if err != nil && !sent {
		return false, err
	}
	// A write can fail because the peer has refused: only WaitAccept knows.
	before, pumped := h.n, make(chan struct{})
	if err == nil {
		go h.pump(f, stop, pumped)
	} else {
		close(pumped)
	}
	answer := f.WaitAccept(ctx)
	_ = h.conn.SetReadDeadline(past)
	if answer != nil {
		f.Abort() // a pump that is blocked in a write returns
	}
	<-pumped
	_ = h.conn.SetReadDeadline(time.Time{})
	if answer != nil && h.ended != nil {
		answer = &callerLeftError{h.ended}
	}
	return sent || h.n > before, answer
}

// pump sends on what the caller sends until its reading is interrupted, it ends, or the head is full; then it closes done.
// When the caller is gone it calls stop, because nobody waits for the answer any more.
func (h *head) pump(f Flow, stop func(), done chan<- struct{}) {
	defer close(done)
	for !h.eof && h.ended == nil && h.n < maxHead {
		fresh := h.read()
		if len(fresh) == 0 {
			break
		}
		if _, err := f.Write(fresh); err != nil {
			break // WaitAccept says why
		}
	}
	if h.ended != nil {
		stop()
	}
}
