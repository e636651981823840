package tunnel

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// Pong is the answer to a ping.
type Pong struct {
	RTT     time.Duration
	Address string      // of the gateway that answered, as it was dialled or came from
	Gateway spiffeid.ID // its identity
	Lane    string      // that was measured: LaneQUIC or LaneTCP
}

// Ping measures one round trip to the gateway that a flow to peer would go to. It ends with ctx, or fails with ErrNoPath.
func (t *Transport) Ping(ctx context.Context, peer federation.Region) (Pong, error) {
	p := t.peer(peer)
	if p == nil {
		return Pong{}, t.noPath(peer)
	}
	s := p.best(nil)
	if s == nil {
		return Pong{}, t.noPath(peer)
	}
	answered := make(chan struct{})
	n := s.pings.Add(1)
	s.waiters.Store(n, answered)
	defer s.waiters.Delete(n)
	start := time.Now()
	s.sent[n%pingsInFlight].Store(int64(time.Since(s.epoch)))
	if err := s.say(framePing, n); err != nil {
		return Pong{}, fmt.Errorf("ping region %s: %w", peer, err)
	}
	select {
	case <-answered:
		return Pong{RTT: time.Since(start), Address: s.address, Gateway: s.live.id, Lane: s.link.kind().String()}, nil
	case <-ctx.Done():
		return Pong{}, fmt.Errorf("ping region %s at %s: %w", peer, s.address, context.Cause(ctx))
	case <-s.link.done():
		return Pong{}, fmt.Errorf("ping region %s at %s: %s: %w", peer, s.address, endOf(s.link.cause()), ErrNoPath)
	}
}

// Ask sends a question of at most 64 KiB to a gateway of peer and returns its answer. It takes at most 5 s; at most 8
// questions to a peer are under way, further ones wait. When the session ends under a question it is asked again on another one, so
// it may be answered twice.
func (t *Transport) Ask(ctx context.Context, peer federation.Region, question []byte) ([]byte, error) {
	if len(question) > maxQuestion {
		return nil, fmt.Errorf("ask region %s: a question of %d octets is too long", peer, len(question))
	}
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	p := t.peer(peer)
	if p == nil {
		return nil, t.noPath(peer)
	}
	select {
	case p.asking <- struct{}{}:
		defer func() { <-p.asking }()
	case <-ctx.Done():
		return nil, fmt.Errorf("ask region %s: %w", peer, context.Cause(ctx))
	}
	for {
		s := p.best(nil)
		if s == nil {
			return nil, t.noPath(peer)
		}
		answer, err := s.ask(ctx, question)
		if err == nil {
			return answer, nil
		}
		if s.ended() == nil || ctx.Err() != nil {
			return nil, fmt.Errorf("ask region %s at %s: %w", peer, s.address, err)
		}
	}
}

func (s *session) ask(ctx context.Context, question []byte) (answer []byte, err error) {
	c, err := s.openCarrier()
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.cancel(flow.ResetAborted)
		}
	}()
	deadline, _ := ctx.Deadline()
	_ = c.SetReadDeadline(deadline)
	_ = c.SetWriteDeadline(deadline)
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	if _, err := c.Write(append(flow.Header{Type: frameAsk, Length: len(question)}.Append(nil), question...)); err != nil {
		return nil, err
	}
	_ = c.closeWrite() // fails when the peer has answered already: it knows the question's length, and waits for no end
	h, err := readHeader(c)
	if err != nil {
		return nil, err
	}
	if h.Type != frameAnswer || h.Length > maxQuestion {
		return nil, fmt.Errorf("%w: %v of %d octets for an answer", flow.ErrViolation, h.Type, h.Length)
	}
	answer = make([]byte, h.Length)
	if _, err = io.ReadFull(c, answer); err != nil {
		return nil, err
	}
	if stop() {
		c.finished()
	} else { // the deadline could meet whoever has the carrier next
		c.cancel(flow.ResetAborted)
	}
	return answer, nil
}

// answer serves one question of the peer's. Questions beyond asksAtOnce wait as carriers that are still pending.
func (s *session) answer(ctx context.Context, c carrier, h flow.Header) {
	ctx, cancel := context.WithTimeout(ctx, askLimit)
	defer cancel()
	select {
	case s.peer.asked <- struct{}{}:
		<-s.pending
		defer func() { <-s.peer.asked }()
	case <-ctx.Done():
		<-s.pending
		c.cancel(flow.ResetOverload)
		return
	}
	if s.t.cfg.OnAsk == nil || h.Length > maxQuestion {
		c.cancel(flow.ResetProtocol)
		return
	}
	deadline, _ := ctx.Deadline()
	_ = c.SetReadDeadline(deadline)
	_ = c.SetWriteDeadline(deadline)
	question := make([]byte, h.Length)
	if _, err := io.ReadFull(c, question); err != nil {
		c.cancel(flow.ResetProtocol)
		return
	}
	reply := s.t.cfg.OnAsk(ctx, s.live.region, question)
	if len(reply) > maxQuestion {
		s.t.log.Error("answer to a peer's question dropped: it is too long", "peer", s.live.region, "octets", len(reply))
		c.cancel(flow.ResetOverload)
		return
	}
	if _, err := c.Write(append(flow.Header{Type: frameAnswer, Length: len(reply)}.Append(nil), reply...)); err != nil {
		c.cancel(flow.ResetAborted)
		return
	}
	_ = c.closeWrite()
	c.finished()
}
