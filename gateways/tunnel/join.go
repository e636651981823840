package tunnel

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// A join is one question and one answer on the first stream of a connection whose client has no certificate: four octets of
// length, big endian, and the request; the same for the reply. A refusal closes the connection with closeRefused and a text. Over TCP
// the same goes in frameAsk, frameAnswer and frameClose.

// exporterLabel binds a redemption to its TLS connection (RFC 9266 gives the idea, RFC 8446 section 7.5 the mechanism).
const (
	exporterLabel  = "tradewind join/1"
	exporterLength = 32
)

// joiner is the connection of a join.
type joiner interface {
	state() tls.ConnectionState
	// ask sends the request and returns the reply, before ctx ends, which has a deadline. A refusal is a *quic.ApplicationError.
	ask(ctx context.Context, body []byte) ([]byte, error)
	end()
	diagnose(address string, took time.Duration, err error) error
}

// DialJoin redeems a token at the gateway at addr, over TCP where QUIC gives no answer. The gateway's chain must end in the root with
// the SHA-256 pin. request makes the request from the exported key of the connection. The error of an unreachable or refusing gateway
// is a *federation.Diagnostic that says why in words.
func (t *Transport) DialJoin(
	ctx context.Context, addr string, pin [32]byte, request func(exporter []byte) ([]byte, error),
) (reply []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	start := time.Now()
	conn, err := either(ctx, t, addr, attempts[joiner]{
		quic: func(ctx context.Context) (joiner, error) {
			conn, err := t.dialConn(ctx, classJoin, addr, t.cfg.Trust.JoinTLS(pin), handshakeLimit)
			return joinQUIC{conn}, err
		},
		tcp: func(ctx context.Context) (joiner, error) {
			var c *tlsConn
			err := t.dialTCP(ctx, addr, handshakeLimit, func(ctx context.Context, target *net.TCPAddr) (err error) {
				c, err = t.dialTLS(ctx, target, t.cfg.Trust.JoinTLS(pin), protoJoin)
				return err
			})
			return joinTCP{c}, err
		},
		drop: joiner.end,
	})
	if err != nil {
		return nil, err
	}
	defer conn.end()
	exporter, err := exporterOf(conn.state())
	if err != nil {
		return nil, fmt.Errorf("join at gateway %s: %w", addr, err)
	}
	body, err := request(exporter)
	if err != nil {
		return nil, fmt.Errorf("join at gateway %s: %w", addr, err)
	}
	if len(body) > maxQuestion {
		return nil, fmt.Errorf("join at gateway %s: a request of %d octets is too long", addr, len(body))
	}
	reply, err = conn.ask(ctx, body)
	var app *quic.ApplicationError
	switch {
	case errors.As(err, &app) && app.Remote && app.ErrorCode == closeRefused:
		return nil, &federation.Diagnostic{Code: federation.CodeGatewayRefused, What: fmt.Sprintf("gateway %s refuses the token", addr),
			Why: fmt.Sprintf("%.200q", app.ErrorMessage), Fix: "ask the other side for a new token", Err: err}
	case err != nil:
		return nil, conn.diagnose(addr, time.Since(start), err)
	}
	return reply, nil
}

// joinQUIC is a join over QUIC.
type joinQUIC struct{ conn *quic.Conn }

func (j joinQUIC) state() tls.ConnectionState { return j.conn.ConnectionState().TLS }

func (j joinQUIC) end() { _ = j.conn.CloseWithError(closeNormal, "") }

func (j joinQUIC) diagnose(address string, took time.Duration, err error) error {
	return dialDiagnostic(address, j.conn.RemoteAddr(), took, err)
}

func (j joinQUIC) ask(ctx context.Context, body []byte) ([]byte, error) {
	stream, err := j.conn.OpenStreamSync(ctx)
	if err != nil {
		return nil, err
	}
	deadline, _ := ctx.Deadline()
	_ = stream.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := writeBlob(stream, body); err != nil {
		return nil, err
	}
	if err := stream.Close(); err != nil {
		return nil, err
	}
	return readBlob(stream)
}

// joinTCP is a join over TCP.
type joinTCP struct{ c *tlsConn }

func (j joinTCP) state() tls.ConnectionState { return j.c.ConnectionState() }

func (j joinTCP) end() { _ = j.c.tcp.Close() }

func (j joinTCP) diagnose(address string, took time.Duration, err error) error {
	return laneDiagnostic(address, j.c.tcp.RemoteAddr(), took, err)
}

func (j joinTCP) ask(ctx context.Context, body []byte) ([]byte, error) {
	deadline, _ := ctx.Deadline()
	_ = j.c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = j.c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := j.c.Write(append(flow.Header{Type: frameAsk, Length: len(body)}.Append(nil), body...)); err != nil {
		return nil, err
	}
	return readQuestion(j.c, frameAnswer)
}

// readQuestion reads a frame of type want, of at most maxQuestion octets. A close in its place is a *quic.ApplicationError.
func readQuestion(r io.Reader, want flow.Type) ([]byte, error) {
	h, err := readHeader(r)
	if err != nil {
		return nil, err
	}
	closed := h.Type == frameClose && h.Length <= maxCloseReason
	if !closed && (h.Type != want || h.Length > maxQuestion) {
		return nil, fmt.Errorf("%w: %v of %d octets in a join", flow.ErrViolation, h.Type, h.Length)
	}
	body := make([]byte, h.Length)
	if _, err := io.ReadFull(r, body); err != nil {
		return nil, err
	}
	if closed {
		return nil, closedBy(h, body)
	}
	return body, nil
}

// acceptJoin answers one redemption.
func (t *Transport) acceptJoin(ctx context.Context, conn *quic.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	stream, err := conn.AcceptStream(ctx)
	if err != nil {
		return fmt.Errorf("wait for a join request: %w", err)
	}
	deadline, _ := ctx.Deadline()
	_ = stream.SetDeadline(deadline)
	body, err := readBlob(stream)
	if err != nil {
		return fmt.Errorf("read a join request: %w", err)
	}
	reply, err := t.answerJoin(ctx, conn.RemoteAddr(), conn.ConnectionState().TLS, body)
	var no refusal
	if errors.As(err, &no) {
		_ = conn.CloseWithError(closeRefused, no.text())
		return nil // whoever answers logs it
	}
	if err != nil {
		return err
	}
	if err := writeBlob(stream, reply); err != nil {
		return fmt.Errorf("answer a join request: %w", err)
	}
	_ = stream.Close()
	select { // the client closes once it has the reply; closing here could overtake it
	case <-conn.Context().Done():
	case <-ctx.Done():
		_ = conn.CloseWithError(closeNormal, "")
	}
	return nil
}

// acceptJoinTCP answers one redemption over TCP. Its client stays a stranger: it keeps its place among them.
func (t *Transport) acceptJoinTCP(ctx context.Context, d *tcpDoor, c *tlsConn) error {
	place, err := d.gates[classJoin].enter(c.tcp.RemoteAddr())
	if err != nil {
		return err
	}
	defer place.release()
	place.established()
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	deadline, _ := ctx.Deadline()
	_ = c.SetDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	body, err := readQuestion(c, frameAsk)
	if err != nil {
		return fmt.Errorf("read a join request: %w", err)
	}
	reply, err := t.answerJoin(ctx, c.tcp.RemoteAddr(), c.ConnectionState(), body)
	if err != nil {
		return err
	}
	if _, err := c.Write(append(flow.Header{Type: frameAnswer, Length: len(reply)}.Append(nil), reply...)); err != nil {
		return fmt.Errorf("answer a join request: %w", err)
	}
	_, _ = c.Read(make([]byte, 1)) // the client closes once it has the reply
	return c.tcp.Close()
}

// refusal is a no of OnJoin's, which is told to whoever asked.
type refusal struct{ error }

func (r refusal) text() string {
	reason := r.Error()
	return reason[:min(len(reason), maxCloseReason)]
}

func (t *Transport) answerJoin(ctx context.Context, from net.Addr, state tls.ConnectionState, body []byte) ([]byte, error) {
	if t.cfg.OnJoin == nil {
		return nil, errors.New("no peering is made here")
	}
	exporter, err := exporterOf(state)
	if err != nil {
		return nil, err
	}
	reply, err := t.cfg.OnJoin(ctx, from.String(), exporter, body)
	if err == nil && len(reply) > maxQuestion {
		err = errors.New("the reply is too long")
	}
	if err != nil {
		return nil, refusal{err}
	}
	return reply, nil
}

func exporterOf(state tls.ConnectionState) ([]byte, error) {
	key, err := state.ExportKeyingMaterial(exporterLabel, nil, exporterLength)
	if err != nil {
		return nil, fmt.Errorf("export the key of the connection: %w", err)
	}
	return key, nil
}

func writeBlob(w io.Writer, b []byte) error {
	_, err := w.Write(append(binary.BigEndian.AppendUint32(make([]byte, 0, 4+len(b)), uint32(len(b))), b...))
	return err
}

// readBlob reads at most maxQuestion octets; nothing is stored before the length is known to be allowed.
func readBlob(r io.Reader) ([]byte, error) {
	var length [4]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	size := binary.BigEndian.Uint32(length[:])
	if size > maxQuestion {
		return nil, fmt.Errorf("%d octets announced: at most %d are allowed", size, maxQuestion)
	}
	b := make([]byte, size)
	_, err := io.ReadFull(r, b)
	return b, err
}
