package mesh

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/balance"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/http1"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// sendThere sends the request to the gateways of a peer.
func (t *trip) sendThere(s step) (conveyed, error) {
	m, p := t.mesh, &t.plan
	region := m.cfg.Balance.Region(p.upstream.Service, s.Region)
	for fresh := false; ; {
		k, err := t.client(s, fresh)
		if err != nil {
			p.passOver(s, dropNoPath)
			return conveyed{}, err
		}
		way := t.way()
		way.Fields = t.tell(way.Deadline)
		res, err := k.Do(t.x.Request, way)
		if err != nil {
			t.conn.waits(nil)
			if k.Reused() && !fresh && t.unseen(err) {
				fresh = true // the flow had ended between two requests
				continue
			}
			return t.failed(err, s, region)
		}
		outcome, room := res.Header.Get(headerOutcome), t.hear(res.Header, s)
		broken := outcome == outcomeBroken || outcome == outcomeUntouched
		if t.tried = 0; broken {
			t.tried, _ = strconv.ParseUint(res.Header.Get(headerTried), 16, 64)
		}
		l7.StripReserved(res.Header)
		switch {
		case outcome == outcomeUnavailable && l7.Untouched(t.x.Request):
			_ = res.Body.Close()
			t.conn.waits(nil)
			if room == 0 {
				t.spill.to.Refused(m.sinceStart())
				return conveyed{}, errCrowded
			}
			region.Failed(p.upstream.Resolver.Outlier)
			return conveyed{}, &tunnel.RefusedError{Code: flow.RefusedUnavailable}
		case outcome == outcomeDenied:
			t.rec.flags |= flagDenied
		case broken && t.again(brokenBy(outcome)), !broken && t.rule.Statuses[res.StatusCode] && t.again(nil):
			_ = res.Body.Close()
			t.conn.waits(nil)
			continue
		case broken:
			t.rec.flags |= flagUpstream
		default:
			region.Served()
		}
		return conveyed{res: res, made: outcome != "", poor: broken || t.rule.Statuses[res.StatusCode], done: func(bool) { t.conn.waits(nil) }}, nil
	}
}

// brokenBy is what an outcome says as an error.
func brokenBy(outcome string) error {
	if outcome == outcomeUntouched {
		return &l7.RefusedError{Err: errBroken}
	}
	return errBroken
}

// unseen reports whether err, of a connection that had been used before, can be taken for its end before the request, so that the
// request is sent once more without counting.
func (t *trip) unseen(err error) bool {
	return !t.conn.isOver() && resendable(t.x.Request, err) && !t.conn.left()
}

// resendable reports whether sending r again after err does no harm: it has not been processed, or may be twice.
func resendable(r *http.Request, err error) bool {
	var refused *l7.RefusedError
	var malformed *http1.Error
	return l7.Untouched(r) && (idempotent(r.Method) || errors.As(err, &refused)) && !timedOut(err) && !errors.As(err, &malformed)
}

// idempotent reports whether doing it twice is as good as once (RFC 9110 9.2.2).
func idempotent(method string) bool {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return true
	}
	return false
}

// failed notes in region what a failed try in s says about it, and what may come next.
func (t *trip) failed(err error, s step, region *balance.Region) (conveyed, error) {
	outlier := t.plan.upstream.Resolver.Outlier
	var refused *tunnel.RefusedError
	switch {
	case t.conn.isOver():
		return conveyed{final: true}, err
	case errors.As(err, &refused): // then nothing was delivered
		t.rec.retries++
		if refused.Code == flow.RefusedUnavailable {
			region.Failed(outlier)
		}
		return conveyed{final: !l7.Untouched(t.x.Request)}, err
	case !t.mesh.cfg.Tunnel.Path(s.Region).Up:
		region.Down() // all that were under way fail at once: that is one failure, and not the region's
	default:
		region.Failed(outlier)
	}
	again := t.again(err)
	return conveyed{final: !again, again: again}, err
}

// client returns a connection to the gateways of s, a used one if there is one and it need not be fresh.
func (t *trip) client(s step, fresh bool) (*l7.Client, error) {
	p := &t.plan
	key := peerKey{p.who.id, p.who.assurance, p.upstream.Service, s.Region, speaksTwo(s.Service.Protocol)}
	if !fresh {
		if k := t.mesh.http.pool.Get(key); k != nil {
			return k, nil
		}
	}
	open := flow.Open{Source: p.who.id, Assurance: uint8(p.who.assurance), Service: wireName(p.upstream.Service)}
	_, _ = rand.Read(open.ID[:]) // never fails
	f, err := t.mesh.cfg.Tunnel.Open(context.Background(), s.Region, open)
	if err != nil {
		return nil, err
	}
	timed, ok := f.(l7.Conn)
	if !ok {
		f.Abort()
		return nil, fmt.Errorf("open a flow to %s: it has no deadlines", s.Region)
	}
	patience := acceptRounds*p.upstream.Resolver.ConnectTimeout.D() + s.rtt
	return t.mesh.http.pool.Add(key, &opening{Conn: timed, flow: f, patience: patience}, key.two)
}

// opening is a flow whose first read waits until the peer has taken it: requests need not.
type opening struct {
	l7.Conn
	flow     Flow
	patience time.Duration
	taken    bool
}

func (o *opening) Read(b []byte) (int, error) {
	if !o.taken {
		ctx, stop := context.WithTimeout(context.Background(), o.patience)
		err := o.flow.WaitAccept(ctx)
		stop()
		if err != nil {
			return 0, err
		}
		o.taken = true
	}
	return o.Conn.Read(b)
}

// Fit lets the pool know when requests had better go another way.
func (o *opening) Fit() bool {
	f, ok := o.flow.(interface{ Fit() bool })
	return !ok || f.Fit()
}

// Close ends the flow as a reset: an end in order would promise that all was read.
func (o *opening) Close() error {
	o.flow.Abort()
	return o.Conn.Close()
}

// CloseWrite implements splice.Conn.
func (o *opening) CloseWrite() error { return o.flow.CloseWrite() }
