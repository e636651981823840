package tunnel

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// headStart is how long QUIC has for itself when a connection is made, before the same is tried over TCP as well: two round trips on
// nearly every path, and little to whoever waits (RFC 8305, section 5, has 250 ms between one address and the next).
const headStart = 300 * time.Millisecond

// attempts are the ways to make one connection.
type attempts[T any] struct {
	quic, tcp func(ctx context.Context) (T, error)
	drop      func(T) // what is up when another is already
}

// either makes a connection to address over QUIC or TCP, as far as the configuration has them, and returns the first that is up. TCP
// begins after the head start, or when QUIC has failed. A gateway that says no over QUIC is not asked again over TCP.
func either[T any](ctx context.Context, t *Transport, address string, a attempts[T]) (T, error) {
	switch {
	case !t.speaks(kindTCP):
		conn, err := a.quic(ctx)
		return conn, t.alone(err)
	case !t.speaks(kindQUIC):
		return a.tcp(ctx)
	}
	type result struct {
		kind kind
		conn T
		err  error
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	results := make(chan result, 2)
	try := func(k kind, dial func(context.Context) (T, error)) {
		conn, err := dial(ctx)
		results <- result{k, conn, err}
	}
	go try(kindQUIC, a.quic)
	turn := time.After(headStart) // of TCP
	var up *result
	var failed [2]error
	for running := 1; running > 0 || turn != nil; {
		select {
		case <-turn:
			turn = nil
			running++
			go try(kindTCP, a.tcp)
			continue
		case r := <-results:
			running--
			switch {
			case r.err == nil && up != nil:
				a.drop(r.conn)
			case r.err == nil:
				up, turn = &r, nil
				cancel()
			default:
				failed[r.kind] = r.err
			}
		}
		switch quic := failed[kindQUIC]; {
		case quic == nil:
		case ctx.Err() != nil:
			turn = nil
		case federation.CodeOf(quic) != federation.CodeGatewaySilent:
			turn = nil
			cancel()
		case turn != nil:
			turn = time.After(0)
		}
	}
	if up != nil {
		return up.conn, nil
	}
	var none T
	return none, neither(address, failed[kindQUIC], failed[kindTCP])
}

// neither is why a gateway was reached neither over QUIC nor over TCP. An answer, over whichever, outweighs silence.
func neither(address string, quic, tcp error) error {
	var q, c *federation.Diagnostic
	if !errors.As(quic, &q) || !errors.As(tcp, &c) || q.Code != federation.CodeGatewaySilent || q.Why == c.Why {
		return quic
	}
	d := &federation.Diagnostic{Code: c.Code, What: "gateway " + address + " is not reached", Fix: c.Fix, Err: errors.Join(tcp, quic),
		Why: fmt.Sprintf("over QUIC %s; over TCP %s", q.Why, c.Why)}
	if c.Code == federation.CodeLaneSilent {
		d.Code, d.Fix = q.Code, q.Fix
		if c.Fix != q.Fix && c.Fix != "" {
			d.Fix += "; or " + c.Fix
		}
	}
	return d
}

// alone adds to err, of an attempt over QUIC, that the configuration allows no other.
func (t *Transport) alone(err error) error {
	var d *federation.Diagnostic
	if t.allows(kindTCP) || !errors.As(err, &d) || d.Code != federation.CodeGatewaySilent {
		return err
	}
	told := *d
	told.Why += "; mesh.lanes has no \"tcp\", which could take its place"
	told.Fix += "; or add \"tcp\" to mesh.lanes in gateway.hcl of both gateways, and open the port for TCP"
	return &told
}
