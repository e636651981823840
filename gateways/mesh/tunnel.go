package mesh

import (
	"context"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// Tunnel is what the data path needs of the sessions with peers. Over makes one of a *tunnel.Transport.
type Tunnel interface {
	// Open starts a flow on a live session or fails at once. OPEN leaves with the first bytes written, on Flush, or soon.
	Open(ctx context.Context, peer federation.Region, open flow.Open) (Flow, error)
	// Path says how peer can be reached at this moment. It is asked for each connection, so it must be cheap.
	Path(peer federation.Region) tunnel.Path
	// Ask puts a question to peer and returns its answer, both at most 64 KiB.
	Ask(ctx context.Context, peer federation.Region, question []byte) ([]byte, error)
}

// Flow is the opener's end of a flow, as *tunnel.Flow provides it. Its errors are *tunnel.RefusedError, *tunnel.ResetError and
// *tunnel.PathError.
type Flow interface {
	splice.Conn
	splice.Aborter
	// WaitAccept returns nil once the peer has connected an instance, or why it has not.
	WaitAccept(ctx context.Context) error
	Flush() error
	Reset(code flow.ResetCode)
	Outcomes() []flow.Outcome
}

// Incoming is the answerer's end of a flow, as *tunnel.Incoming provides it. The tunnel has made sure that the source belongs
// to the trust domain of the peer.
type Incoming interface {
	splice.Conn
	splice.Aborter
	Open() flow.Open
	Peer() federation.Region
	Accept() error
	Refuse(code flow.RefusalCode, reason string) error
	Report(outcome flow.Outcome) error
	Reset(code flow.ResetCode)
	// Keep lets the flow go on until Release when HandleFlow has returned; lost is told, beside everything else, that it failed.
	Keep(lost func(error))
	Release()
}

// Over returns t as the data path uses it.
func Over(t *tunnel.Transport) Tunnel { return transport{t} }

type transport struct{ *tunnel.Transport }

func (t transport) Open(ctx context.Context, peer federation.Region, open flow.Open) (Flow, error) {
	f, err := t.Transport.Open(ctx, peer, open)
	if err != nil {
		return nil, err // not f: a nil *tunnel.Flow in an interface is not nil
	}
	return f, nil
}

var _ Incoming = (*tunnel.Incoming)(nil)
