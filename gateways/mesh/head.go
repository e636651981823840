package mesh

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"time"
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
	h.n += n
	switch {
	case err == nil, errors.Is(err, os.ErrDeadlineExceeded):
	case errors.Is(err, io.EOF):
		h.eof = true
	default:
		h.ended = err
	}
	return room[:n]
}

// offer sends the caller's bytes on f, those already read first, and returns once the peer has taken the flow (nil) or not.
// When it has not, and sent is false, nothing of the caller's has left this gateway.
func (h *head) offer(ctx context.Context, f Flow) (sent bool, err error) {
	if h.n == 0 && !h.eof {
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
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	before, pumped := h.n, make(chan struct{})
	go func() {
		defer close(pumped)
		if err == nil {
			h.pump(f)
		}
		if h.ended != nil {
			cancel(h.ended) // the caller is gone: nobody waits for the answer
		}
	}()
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

// pump sends on what the caller sends until its reading is interrupted, it ends, or the head is full.
func (h *head) pump(f Flow) {
	for !h.eof && h.ended == nil && h.n < maxHead {
		fresh := h.read()
		if len(fresh) == 0 {
			return
		}
		if _, err := f.Write(fresh); err != nil {
			return // WaitAccept says why
		}
	}
}
