package tunnel

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
)

// A join is one question and one answer on the first stream of a connection whose client has no certificate: four octets of
// length, big endian, and the request; the same for the reply. A refusal closes the connection with closeRefused and a text.

// exporterLabel binds a redemption to its TLS connection (RFC 9266 gives the idea, RFC 8446 section 7.5 the mechanism).
const (
	exporterLabel  = "tradewind join/1"
	exporterLength = 32
)

// DialJoin redeems a token at the gateway at addr, whose chain must end in the root with the SHA-256 pin. request makes the
// request from the exported key of the connection. The error of an unreachable or refusing gateway is a
// *federation.Diagnostic that says why in words.
func (t *Transport) DialJoin(
	ctx context.Context, addr string, pin [32]byte, request func(exporter []byte) ([]byte, error),
) (reply []byte, err error) {
	ctx, cancel := context.WithTimeout(ctx, joinLimit)
	defer cancel()
	start := time.Now()
	conn, err := t.dialConn(ctx, classJoin, addr, t.cfg.Trust.JoinTLS(pin), handshakeLimit)
	if err != nil {
		return nil, err
	}
	defer conn.CloseWithError(closeNormal, "")
	exporter, err := exporterOf(conn)
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
	reply, err = askJoin(ctx, conn, body)
	var app *quic.ApplicationError
	switch {
	case errors.As(err, &app) && app.Remote && app.ErrorCode == closeRefused:
		return nil, &federation.Diagnostic{Code: federation.CodeGatewayRefused, What: fmt.Sprintf("gateway %s refuses the token", addr),
			Why: fmt.Sprintf("%.200q", app.ErrorMessage), Fix: "ask the other side for a new token", Err: err}
	case err != nil:
		return nil, dialDiagnostic(addr, conn.RemoteAddr(), time.Since(start), err)
	}
	return reply, nil
}

func askJoin(ctx context.Context, conn *quic.Conn, body []byte) ([]byte, error) {
	stream, err := conn.OpenStreamSync(ctx)
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

// acceptJoin answers one redemption.
func (t *Transport) acceptJoin(ctx context.Context, conn *quic.Conn) error {
	if t.cfg.OnJoin == nil {
		return errors.New("no peering is made here")
	}
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
	exporter, err := exporterOf(conn)
	if err != nil {
		return err
	}
	reply, err := t.cfg.OnJoin(ctx, conn.RemoteAddr().String(), exporter, body)
	if err == nil && len(reply) > maxQuestion {
		err = errors.New("the reply is too long")
	}
	if err != nil {
		reason := err.Error()
		_ = conn.CloseWithError(closeRefused, reason[:min(len(reason), maxCloseReason)])
		return nil // whoever answers logs it
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

func exporterOf(conn *quic.Conn) ([]byte, error) {
	state := conn.ConnectionState().TLS
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
