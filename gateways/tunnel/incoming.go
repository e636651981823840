package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// Incoming is a flow that a peer has opened. Its source belongs to the trust domain that the session is authenticated for;
// whether it may call the service is for the receiver to decide.
type Incoming struct {
	Flow
	open flow.Open
}

// Open is what the peer asks for.
func (in *Incoming) Open() flow.Open { return in.open }

// Gateway is the identity of the peer's gateway that opened the flow.
func (in *Incoming) Gateway() string { return in.s.live.id.String() }

// Accept tells the peer that an instance is connected. It leaves together with the first bytes written, on Flush, or after a
// millisecond.
func (in *Incoming) Accept() error {
	frame, err := in.out.Accept(nil)
	if err != nil {
		return err
	}
	in.hold(frame)
	return nil
}

// Report tells the peer how an instance has fared. It must come before Accept or Refuse, and leaves with it.
func (in *Incoming) Report(o flow.Outcome) error {
	frame, err := in.out.Outcome(nil, o)
	if err != nil {
		return err
	}
	in.holdMu.Lock()
	defer in.holdMu.Unlock()
	in.held = append(in.held, frame...)
	return nil
}

// Refuse tells the peer that the flow is not taken, and ends it. The reason is for the peer's operator; it is cut at
// flow.MaxReason octets.
func (in *Incoming) Refuse(code flow.RefusalCode, reason string) error {
	in.holdMu.Lock()
	frames, err := in.out.Refuse(in.held, code, reason)
	if err != nil {
		in.holdMu.Unlock()
		return err
	}
	in.held = nil
	_, err = in.stream.Write(frames)
	in.holdMu.Unlock()
	_ = in.stream.Close()
	in.stream.CancelRead(quic.StreamErrorCode(flow.ResetRefused))
	in.finish(sideBoth)
	return in.wrap(err)
}

// acceptStreams takes the streams that the peer opens, for as long as the session lives.
func (s *session) acceptStreams(tasks *sync.WaitGroup) {
	ctx := s.conn.Context()
	for {
		stream, err := s.conn.AcceptStream(ctx)
		if err != nil {
			return
		}
		select {
		case s.pending <- struct{}{}: // a peer that starts many and finishes none holds up itself, for openLimit
		case <-ctx.Done():
			return
		}
		tasks.Go(func() { s.serveStream(ctx, stream) })
	}
}

func abandon(stream *quic.Stream, code flow.ResetCode) {
	stream.CancelWrite(quic.StreamErrorCode(code))
	stream.CancelRead(quic.StreamErrorCode(code))
}

// serveStream finds out what a stream is and serves it.
func (s *session) serveStream(ctx context.Context, stream *quic.Stream) {
	_ = stream.SetReadDeadline(time.Now().Add(openLimit))
	h, err := readHeader(stream)
	if err == nil && h.Type == frameAsk {
		s.answer(ctx, stream, h)
		return
	}
	in := &Incoming{Flow: Flow{s: s, stream: stream, out: flow.NewOut(flow.Answerer), in: flow.NewIn(flow.Answerer)}}
	if err == nil {
		err = in.readOpen(h)
	}
	<-s.pending
	if err != nil {
		if errors.Is(err, flow.ErrViolation) {
			s.t.log.Warn("peer breaks the flow protocol", "peer", s.live.region, "gateway", s.live.id, "err", err)
		}
		abandon(stream, flow.ResetProtocol)
		return
	}
	_ = stream.SetReadDeadline(time.Time{})
	s.flows.Add(1)
	s.serveFlow(ctx, in)
}

// readOpen reads the OPEN whose header has come.
func (in *Incoming) readOpen(h flow.Header) error {
	if err := in.in.Header(h); err != nil {
		return err
	}
	body := make([]byte, h.Length)
	for n := 0; n < len(body); {
		m, err := in.stream.Read(body[n:])
		if n += m; err != nil && n < len(body) {
			return fmt.Errorf("read OPEN: %w", err)
		}
	}
	event, err := in.in.Body(h, body)
	in.open, in.id = event.Open, event.Open.ID
	return err
}

// serveFlow checks the law that a peer speaks only for its own trust domain, here where nobody can forget it, and hands the
// flow on.
func (s *session) serveFlow(ctx context.Context, in *Incoming) {
	if !in.open.Source.MemberOf(s.domain) {
		s.t.counts.foreign.Add(1)
		s.foreign.Do(func() {
			s.t.log.Error("flow refused: its source is outside of the peer's trust domain", "code", federation.CodeForeignSource,
				"peer", s.live.region, "gateway", s.live.id, "source", in.open.Source)
		})
		_ = in.Refuse(flow.RefusedMalformed, "the source is not of the opener's trust domain")
		return
	}
	if s.t.cfg.OnFlow == nil {
		_ = in.Refuse(flow.RefusedUnavailable, "no flows are served here")
		return
	}
	s.t.cfg.OnFlow(ctx, in)
	if in.sides.Load() != sideBoth && !errors.Is(in.Refuse(flow.RefusedInternal, ""), flow.ErrViolation) {
		return // it was neither accepted nor refused
	}
	if err := in.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		s.t.log.Debug("close a flow", "peer", s.live.region, "err", err)
	}
}
