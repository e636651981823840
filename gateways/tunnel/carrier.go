package tunnel

import (
	"io"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// carrier is one ordered, reliable way for the frames of one flow at a time, between this gateway and one of a peer's: a stream
// of a QUIC session, or a TLS connection of a TCP session.
type carrier interface {
	// Read is for one goroutine at a time. After os.ErrDeadlineExceeded it can be used again; any other error is final.
	io.Reader
	// Write is for one goroutine at a time. Every error is final: what has left is unknown.
	io.Writer
	SetReadDeadline(t time.Time) error
	SetWriteDeadline(t time.Time) error

	// closeWrite says that this end writes no more frames. A lane does not tell the other end: the last frame has.
	closeWrite() error
	// cancelRead says that this end reads no more, although more may come. A lane cannot be used again then: it is closed
	// behind closeWrite, once the other end has had time to read.
	cancelRead(code flow.ResetCode)
	// cancel drops everything both ways and makes blocked calls return. It may come at any time, also twice.
	cancel(code flow.ResetCode)
	// finished is called once, when both ends have written their last frame and this end has read all: a TLS connection can
	// then carry another flow. After it, and after cancel, every method is without effect.
	finished()
	// demote lets everything else of the session go first.
	demote()
	// on is the session that the carrier belongs to.
	on() *session
}

// quicCarrier is a stream of a QUIC session.
type quicCarrier struct {
	*quic.Stream
	s    *session
	bulk atomic.Bool // it counts among the bulk carriers of s
}

func (c *quicCarrier) closeWrite() error {
	c.forget()
	return c.Close()
}

func (c *quicCarrier) cancelRead(code flow.ResetCode) { c.CancelRead(quic.StreamErrorCode(code)) }

func (c *quicCarrier) cancel(code flow.ResetCode) {
	c.forget()
	c.CancelWrite(quic.StreamErrorCode(code))
	c.CancelRead(quic.StreamErrorCode(code))
}

// finished also says that nothing more is read: that costs nothing when the end of the stream has come with the last frame, and
// saves it from waiting for one that never comes when it has not.
func (c *quicCarrier) finished() {
	c.forget()
	c.CancelRead(0)
}

// demote uses the urgencies of RFC 9218, section 4.1: 3 is the default, 7 is for what nobody waits for.
func (c *quicCarrier) demote() {
	if !c.bulk.Swap(true) {
		c.s.bulk.Add(1)
		c.SetPriority(6, true)
	}
}

// forget takes the carrier off the bulk ones.
func (c *quicCarrier) forget() {
	if c.bulk.Swap(false) {
		c.s.bulk.Add(-1)
	}
}

func (c *quicCarrier) on() *session { return c.s }
