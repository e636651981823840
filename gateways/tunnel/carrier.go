package tunnel

import (
	"io"
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

	// closeWrite says that this end writes no more frames.
	closeWrite() error
	// cancelRead says that this end reads no more, although more may come.
	cancelRead(code flow.ResetCode)
	// cancel drops everything both ways and makes blocked calls return. It may come at any time, also twice.
	cancel(code flow.ResetCode)
	// finished is called once, when both ends have written their last frame and this end has read all: a TLS connection can
	// then carry another flow.
	finished()
	// demote lets everything else of the session go first.
	demote()
	// on is the session that the carrier belongs to.
	on() *session
}

// quicCarrier is a stream of a QUIC session.
type quicCarrier struct {
	*quic.Stream
	s *session
}

func (c quicCarrier) closeWrite() error { return c.Close() }

func (c quicCarrier) cancelRead(code flow.ResetCode) { c.CancelRead(quic.StreamErrorCode(code)) }

func (c quicCarrier) cancel(code flow.ResetCode) {
	c.CancelWrite(quic.StreamErrorCode(code))
	c.CancelRead(quic.StreamErrorCode(code))
}

func (quicCarrier) finished() {}

// demote uses the urgencies of RFC 9218, section 4.1: 3 is the default, 7 is for what nobody waits for.
func (c quicCarrier) demote() { c.SetPriority(6, true) }

func (c quicCarrier) on() *session { return c.s }

// openCarrier starts a carrier on s, at once or not at all.
func (s *session) openCarrier() (carrier, error) {
	stream, err := s.conn.OpenStream()
	if err != nil {
		return nil, err
	}
	return quicCarrier{stream, s}, nil
}
