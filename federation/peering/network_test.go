package peering

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
)

// dialer is the network as one region sees it.
type dialer struct{ n *node }

func (d dialer) travel(ctx context.Context, from, to *node, delay time.Duration) error {
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	if healed := d.n.w.passable(from.region, to.region); healed != nil {
		<-ctx.Done() // lost; a handshake is not repeated here
		return ctx.Err()
	}
	return nil
}

func (d dialer) reach(ctx context.Context, address string) (*node, error) {
	to := d.n.w.at(address)
	if to == nil {
		<-ctx.Done() // nobody answers there
		return nil, ctx.Err()
	}
	if err := d.travel(ctx, d.n, to, wireDelay); err != nil {
		return nil, err
	}
	return to, d.travel(ctx, to, d.n, wireDelay)
}

func (d dialer) DialExchange(ctx context.Context, peer federation.Region, address string) (Session, error) {
	to, err := d.reach(ctx, address)
	if err != nil {
		return nil, err
	}
	known, ok := d.n.authority.PeerBundle(peer)
	if !ok || !sharesRoot(known, to.authority.Bundle()) {
		return nil, errors.New("tls: certificate signed by unknown authority")
	}
	if err := d.travel(ctx, d.n, to, wireDelay); err != nil {
		return nil, err
	}
	welcome, ok := to.authority.PeerBundle(d.n.region)
	if !ok || !sharesRoot(welcome, d.n.authority.Bundle()) {
		return nil, errors.New("remote error: tls: bad certificate")
	}
	// The acceptor has the session before the dialler knows that it was accepted.
	p := newPipe(d.n, to)
	go to.m.Accept(context.Background(), d.n.region, p.b)
	if err := d.travel(ctx, to, d.n, wireDelay); err != nil {
		p.die(err)
		return nil, err
	}
	return p.a, nil
}

func (d dialer) DialJoin(ctx context.Context, address string, pin [32]byte, request func([]byte) ([]byte, error)) ([]byte, error) {
	to, err := d.reach(ctx, address)
	if err != nil {
		return nil, err
	}
	if to.authority.RootPin() != pin {
		return nil, &federation.Diagnostic{Code: codeTrustPin, What: "this is not the region that made the peering token"}
	}
	exporter := make([]byte, 32)
	rand.Read(exporter)
	b, err := request(exporter)
	if err != nil {
		return nil, err
	}
	d.n.w.mu.Lock()
	d.n.w.joins = append(d.n.w.joins, capturedJoin{to, exporter, b})
	hook := d.n.w.onJoin
	d.n.w.mu.Unlock()
	drop := hook != nil && hook(to, exporter, b)
	reply, err := to.m.Join(ctx, string(d.n.region), exporter, b)
	if drop || err != nil {
		return nil, errors.New("connection reset by peer")
	}
	return reply, d.travel(ctx, to, d.n, wireDelay)
}

// pipe is a session: two ends, five lanes each way.
type pipe struct {
	a, b *pipeEnd
	dead chan struct{}
	once sync.Once
	err  error
}

type pipeEnd struct {
	p     *pipe
	n     *node // whose end it is
	other *pipeEnd
	lanes [exchange.Lanes]chan sentFrame
	in    chan frame
}

type sentFrame struct {
	data []byte
	at   time.Time
}

func newPipe(dialler, acceptor *node) *pipe {
	p := &pipe{dead: make(chan struct{})}
	p.a = &pipeEnd{p: p, n: dialler, in: make(chan frame)}
	p.b = &pipeEnd{p: p, n: acceptor, in: make(chan frame)}
	p.a.other, p.b.other = p.b, p.a
	for lane := range exchange.Lanes {
		for _, e := range []*pipeEnd{p.a, p.b} {
			e.lanes[lane] = make(chan sentFrame, laneBuffer)
			go e.carry(exchange.Lane(lane))
		}
	}
	w := dialler.w
	w.mu.Lock()
	w.pipes = append(w.pipes, p)
	w.mu.Unlock()
	return p
}

// carry takes the frames of one lane to the other end.
func (e *pipeEnd) carry(lane exchange.Lane) {
	for {
		select {
		case <-e.p.dead:
			return
		case f := <-e.lanes[lane]:
			if !e.deliver(lane, f) {
				return
			}
		}
	}
}

func (e *pipeEnd) deliver(lane exchange.Lane, f sentFrame) bool {
	timer := time.NewTimer(time.Until(f.at.Add(wireDelay)))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-e.p.dead:
		return false
	}
	for healed := e.n.w.passable(e.n.region, e.other.n.region); healed != nil; healed = e.n.w.passable(e.n.region, e.other.n.region) {
		select {
		case <-healed:
		case <-e.p.dead:
			return false
		}
	}
	select {
	case e.other.in <- frame{lane, f.data}:
		return true
	case <-e.p.dead:
		return false
	}
}

func (p *pipe) die(err error) {
	p.once.Do(func() {
		p.err = err
		close(p.dead)
	})
}

func (p *pipe) isDead() bool {
	select {
	case <-p.dead:
		return true
	default:
		return false
	}
}

func (e *pipeEnd) Peer() spiffeid.ID {
	return e.other.n.authority.GatewayID()
}

func (*pipeEnd) Lane() string { return "quic" }

func (e *pipeEnd) RemoteAddr() string {
	if len(e.other.n.addresses) == 0 {
		return "192.0.2.200:50000"
	}
	return e.other.n.addresses[0]
}

func (e *pipeEnd) Send(ctx context.Context, lane exchange.Lane, b []byte) error {
	select {
	case e.lanes[lane] <- sentFrame{bytes.Clone(b), time.Now()}:
		return nil
	case <-e.p.dead:
		return e.p.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (e *pipeEnd) Receive(ctx context.Context) (exchange.Lane, []byte, error) {
	select {
	case f := <-e.in:
		return f.lane, f.data, nil
	case <-e.p.dead:
		return 0, nil, e.p.err
	case <-ctx.Done():
		return 0, nil, ctx.Err()
	}
}

// Close reaches the other end after the delay, unless the wire is cut: then it has to find out by itself.
func (e *pipeEnd) Close(code uint64, reason string) {
	if e.n.w.passable(e.n.region, e.other.n.region) == nil {
		err := fmt.Errorf("closed by %s with code %#x: %s", e.n.region, code, reason)
		e.p.die(err)
	} else if !e.n.silent {
		time.AfterFunc(idleTimeout, func() { e.p.die(errors.New("timeout: no recent network activity")) })
	}
}
