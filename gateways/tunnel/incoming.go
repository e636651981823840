package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// Incoming is a flow that a peer has opened. Its source belongs to the trust domain that the session is authenticated for;
// whether it may call the service is for the receiver to decide.
type Incoming struct {
	Flow
	open flow.Open
	kept bool // by Keep
}

// Open is what the peer asks for.
func (in *Incoming) Open() flow.Open { return in.open }

// Gateway is the identity of the peer's gateway that opened the flow.
func (in *Incoming) Gateway() string { return in.far.id.String() }

// Accept tells the peer that an instance is connected. It leaves together with the first bytes written, on Flush, or after a
// millisecond.
func (in *Incoming) Accept() error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.out.Accept(); err != nil {
		return err
	}
	in.hold()
	return nil
}

// Report tells the peer how an instance has fared. It must come before Accept or Refuse, and leaves with it.
func (in *Incoming) Report(o flow.Outcome) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.out.Outcome(o)
}

// Refuse tells the peer that the flow is not taken, and ends it. The reason is for the peer's operator; it is cut at
// flow.MaxReason octets.
func (in *Incoming) Refuse(code flow.RefusalCode, reason string) error {
	in.mu.Lock()
	defer in.mu.Unlock()
	if err := in.out.Refuse(code, reason); err != nil {
		return err
	}
	in.release()
	in.flushEnd()
	in.finish(sideWrite)
	in.closeRead(flow.ResetRefused)
	return in.failed
}

// serveCarrier finds out what a carrier that the peer has started is, and serves it. It takes the place that was reserved in
// s.pending. What is left of the carrier when it returns is the flow's: finished or cancel says when it has done with it.
func (s *session) serveCarrier(ctx context.Context, c carrier) {
	_ = c.SetReadDeadline(time.Now().Add(openLimit))
	h, err := readHeader(c)
	if err == nil && h.Type == frameAsk {
		s.answer(ctx, c, h)
		return
	}
	attached := err == nil && h.Type == flow.TypeAttach && h.Length <= flow.MaxOpen
	if attached {
		var served bool
		if served, err = s.serveAttach(c, h); served {
			<-s.pending
			return
		}
		if err == nil {
			h, err = readHeader(c)
		}
	}
	in := &Incoming{}
	in.init(s, c, flow.Answerer)
	if err == nil {
		err = in.readOpen(c, h, attached)
	}
	<-s.pending
	if errors.Is(err, errFlowKnown) && in.copied { // a copy of this OPEN has come before it
		_ = c.SetReadDeadline(time.Time{})
		if f := s.far.find(in.id, flow.Answerer); f == nil || !f.adopt(s, c) {
			c.cancel(flow.ResetMoved)
		}
		return
	}
	if err != nil {
		if errors.Is(err, flow.ErrViolation) {
			s.t.log.Warn("peer breaks the flow protocol", "peer", s.live.region, "gateway", s.live.id, "err", err)
		}
		c.cancel(flow.ResetProtocol)
		return
	}
	_ = c.SetReadDeadline(time.Time{})
	in.first.count()
	s.serveFlow(in)
}

// readOpen reads the OPEN whose header has come. attached: it came behind an ATTACH, because the opener does not know whether it has
// come before; the ATTACH is answered.
func (in *Incoming) readOpen(c carrier, h flow.Header, attached bool) error {
	l := &in.first
	if attached {
		l.place = flow.Attached(true)
	}
	if err := in.in.Header(&l.place, h); err != nil {
		return err
	}
	body := make([]byte, h.Length)
	if _, err := io.ReadFull(c, body); err != nil {
		return fmt.Errorf("read OPEN: %w", err)
	}
	event, err := in.in.Body(&l.place, h, body)
	if err != nil {
		return err
	}
	in.open, in.id, in.copied = event.Open, event.Open.ID, event.Open.Copied || in.byCopy
	if err := in.far.register(&in.Flow); err != nil {
		return fmt.Errorf("%w: %w", flow.ErrViolation, err)
	}
	if attached {
		_, err = c.Write(flow.Header{Type: flow.TypeAck}.Append(nil))
	}
	return err
}

// serveFlow checks the law that a peer speaks only for its own trust domain, here where nobody can forget it, and hands the
// flow on.
func (s *session) serveFlow(in *Incoming) {
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
	// The flow may outlive the session: its context is its own.
	ctx, stop := context.WithCancelCause(context.Background())
	defer stop(nil)
	in.mu.Lock()
	in.stop = stop
	if in.failed != nil {
		stop(in.failed)
	}
	in.mu.Unlock()
	s.t.cfg.OnFlow(ctx, in)
	if !in.kept {
		in.handled()
	}
}

// Keep lets an accepted flow go on when OnFlow has returned, until Release. The context of OnFlow ends when it returns: lost takes
// its place, and is called once, in a goroutine of its own, if the flow fails. OnFlow calls Keep once at most.
func (in *Incoming) Keep(lost func(error)) {
	in.far.t.tasks.Add(1) // beside the one that runs OnFlow
	in.mu.Lock()
	defer in.mu.Unlock()
	in.kept, in.stop = true, func(err error) { go lost(err) }
	if in.failed != nil {
		in.stop(in.failed)
	}
}

// Release is the end of what Keep began. It may come from any goroutine, once.
func (in *Incoming) Release() {
	in.handled()
	in.far.t.tasks.Done()
}

// handled ends what whoever serves the flow has left open.
func (in *Incoming) handled() {
	if in.sides.Load() != sideBoth && !errors.Is(in.Refuse(flow.RefusedInternal, ""), flow.ErrViolation) {
		return // it was neither accepted nor refused
	}
	if err := in.Close(); err != nil {
		in.far.t.log.Debug("close a flow", "peer", in.far.peer.region, "err", err)
	}
}
