package mesh

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

const (
	// connectRounds bounds the whole search for an instance in multiples of the resolver's connect timeout: two regions, in each
	// an instance that hangs and one that does not. Callers have given up by then.
	connectRounds = 4

	// acceptRounds is how long a peer gets to connect one of its instances, in the same multiples: its own first attempt may
	// run into the timeout and the second must still have its chance.
	acceptRounds = 2
)

// serveOutbound connects one local caller to an instance, here or in a peer's region, and calls done when the connection has ended.
func (m *Mesh) serveOutbound(ctx context.Context, c callerConn, who caller, done func()) {
	snap := m.cfg.Table.Load()
	if !who.bound.IsZero() {
		who.id = snap.Identity(who.bound)
	}
	rec := &record{
		start: time.Now(), direction: outbound, source: who.id, assurance: who.assurance, srcRegion: m.cfg.Region,
		destination: who.wants.Service, dstRegion: who.wants.Region, upstream: who.upstream, client: who.client,
	}
	conn := &conn{direction: outbound, source: who.id, assurance: who.assurance, chain: who.chain, service: who.wants.Service,
		pinned: who.wants.Region != ""}
	end := func() {
		m.live.remove(conn)
		m.finish(rec)
		done()
	}
	m.live.add(conn) // a publication from here on finds it, as does the end of Run; for one before that, see overtaken
	if ctx.Err() != nil {
		conn.end(stopping)
	}

	upstream, found := snap.Upstream(who.wants)
	if !found || len(upstream.Candidates) == 0 {
		abort(c)
		rec.flags, rec.reason = flagNoRoute, "no region that may serve it has such a service"
		end()
		return
	}
	if upstream.Protocol.IsHTTP() && who.client.IsValid() {
		abort(c)
		rec.flags, rec.reason = flagProtocol, "the service speaks HTTP, and its requests are judged one by one: reach it by host"
		end()
		return
	}
	if upstream.Protocol.IsHTTP() {
		m.serveRequests(ctx, c, &who, conn)
		rec.quiet = true // its requests are in the log
		end()
		return
	}
	a := &attempt{
		plan: plan{mesh: m, snap: snap, upstream: upstream, who: &who}, head: headOf(c, who.first), conn: conn, rec: rec,
		deadline: rec.start.Add(connectRounds * upstream.Resolver.ConnectTimeout.D()),
	}
	to, err := m.connect(ctx, a)
	a.head.release()
	if err != nil {
		abort(c)
		m.explainFailure(a, err)
		end()
		return
	}
	if why := m.overtaken(snap, who.trust, conn); why != "" {
		conn.end(ending{flow.ResetRevoked, why})
	}
	handles := m.opened(rec)
	conn.carry(c, to.conn, m.swept(upstream.Resolver.IdleTimeout.D()), func(result splice.Result) {
		if to.flow == nil {
			to.lease.Done(fared(result))
		} else {
			rec.endpoint = answeredBy(to.flow)
		}
		rec.ended(result, conn.why())
		rec.received, rec.sent = result.AtoB+int64(to.ahead), result.BtoA
		handles.finished(rec)
		end()
	})
}

// target is what a connection was connected to.
type target struct {
	conn  splice.Conn
	ahead int           // octets of the caller's that were sent before the splice
	flow  Flow          // in a peer's region; nil: here
	lease balance.Lease // here
}

// attempt is the search for an instance for one connection.
type attempt struct {
	plan plan
	head head
	conn *conn
	rec  *record

	deadline time.Time // of the whole search
}

// over returns why the search may not go on, or nil.
func (a *attempt) over() error { return spent(a.conn, a.deadline) }

// spent returns why nothing more may be tried for c: it was cut, or deadline has passed.
func spent(c *conn, deadline time.Time) error {
	switch {
	case c.isOver():
		return context.Canceled
	case !time.Now().Before(deadline):
		return context.DeadlineExceeded
	}
	return nil
}

// connect goes through the plan until an instance has the connection. The error is errNoInstance when there was nothing to
// try, else that of the last attempt.
func (m *Mesh) connect(ctx context.Context, a *attempt) (target, error) {
	p, rec := &a.plan, a.rec
	failure := errNoInstance
	for {
		s, ok := p.next() // asked first, because what it decides is in the record
		if !ok || a.over() != nil {
			break
		}
		a.conn.heads(s.Region)
		rec.dstRegion, rec.peer, rec.endpoint = s.Region, "", ""
		var (
			to    target
			final bool
			err   error
		)
		if s.IsLocal() {
			to, final, err = m.connectHere(a, s)
		} else {
			rec.peer = s.Region
			to, final, err = m.connectThere(ctx, a, s)
		}
		switch {
		case err == nil:
			m.chosen(p, s, rec)
			return to, nil
		case final:
			return target{}, err
		case !errors.Is(err, errNoInstance):
			failure = err
		}
	}
	if over := a.over(); over != nil && errors.Is(failure, errNoInstance) {
		failure = over
	}
	return target{}, failure
}

// connectHere connects an instance of this region. final is as with connectThere.
func (m *Mesh) connectHere(a *attempt, s step) (to target, final bool, err error) {
	upstream := a.plan.upstream
	d := dialing{
		conn: a.conn, service: upstream.Service, pool: m.pool(a.plan.snap, s.Local), modes: onlyUsable,
		timeout: upstream.Resolver.ConnectTimeout.D(), deadline: a.deadline, limit: upstream.Resolver.Limits.Connections,
		rec: a.rec, proxy: upstream.Resolver.ProxyProtocol, client: a.plan.who.address(),
	}
	if s.why.isPanic() {
		d.modes = inPanic
	}
	c, lease, err := m.dial(d)
	if err != nil {
		if errors.Is(err, errNoInstance) {
			a.plan.passOver(s, dropUnhealthy)
		}
		return target{}, false, err
	}
	a.rec.endpoint = lease.Name()
	if sent := a.head.bytes(); len(sent) > 0 { // read while a peer was asked in vain
		_ = c.SetWriteDeadline(time.Now().Add(d.timeout))
		if _, err := c.Write(sent); err != nil {
			abort(c)
			lease.Done(balance.Unanswered)
			return target{}, true, fmt.Errorf("send the first bytes: %w", err)
		}
		_ = c.SetWriteDeadline(time.Time{})
	}
	return target{conn: c, ahead: a.head.n, lease: lease}, false, nil
}

// connectThere asks the gateways of a peer. final says that no other candidate may be tried, because bytes of the caller's
// may have been delivered.
func (m *Mesh) connectThere(ctx context.Context, a *attempt, s step) (to target, final bool, err error) {
	p := &a.plan
	open := flow.Open{Source: p.who.id, Assurance: uint8(p.who.assurance), Service: wireName(p.upstream.Service), Client: p.who.address()}
	_, _ = rand.Read(open.ID[:]) // never fails
	f, err := m.cfg.Tunnel.Open(ctx, s.Region, open)
	if err != nil {
		p.passOver(s, dropNoPath)
		return target{}, false, err
	}
	a.conn.rides(f)
	patience := min(acceptRounds*p.upstream.Resolver.ConnectTimeout.D()+s.rtt, time.Until(a.deadline))
	waiting, stop := context.WithTimeout(context.WithoutCancel(ctx), patience)
	defer stop()
	a.conn.waits(stop)
	a.rec.attempt()
	sent, err := a.head.offer(waiting, stop, f)
	region := m.cfg.Balance.Region(p.upstream.Service, s.Region)
	if err == nil {
		region.Served()
		return target{conn: f, flow: f, ahead: a.head.n}, false, nil
	}
	a.conn.rides(nil)
	_ = f.Close()
	if a.head.ended != nil || a.over() != nil { // the caller left, or it was ended from here
		return target{}, true, err
	}
	var refused *tunnel.RefusedError
	if errors.As(err, &refused) { // then nothing was delivered, whatever was sent; and the next region decides for itself
		if refused.Code == flow.RefusedUnavailable {
			region.Failed(p.upstream.Resolver.Outlier)
		}
		return target{}, false, err
	}
	region.Failed(p.upstream.Resolver.Outlier)
	return target{}, sent, err
}

// chosen records where the connection went, and whether that was the preferred region.
func (m *Mesh) chosen(p *plan, s step, rec *record) {
	rec.decision = "allow"
	m.decided(rec, s.decision)
	m.traffic.count(p.upstream.Service, s.Region)
	if s.Region != p.preferred {
		rec.failoverFrom = p.preferred
	}
	if p.upstream.Pinned == "" && (p.passed || s.Region == p.preferred) {
		m.failovers.served(p.upstream.Service, p.preferred, s.Region)
	}
}

// explainFailure says in the record why no instance got the connection.
func (m *Mesh) explainFailure(a *attempt, err error) {
	p, rec := &a.plan, a.rec
	rec.endpoint = ""
	if p.preferred == "" { // no candidate is allowed
		rec.dstRegion, rec.peer = p.upstream.Candidates[0].Region, ""
		rec.decision, rec.flags, rec.reason = "deny", flagDenied, p.refusal.Reason
		m.decided(rec, p.refusal)
		return
	}
	rec.decision = "allow"
	if d := p.snap.Authorize(rec.source, rec.assurance, p.preferred, rec.destination); d.Allowed {
		rec.intention = d.Rule
	}
	m.metrics.decided(outbound, true, rec.intention)
	rec.reason = err.Error()
	var refused *tunnel.RefusedError
	var left *callerLeftError
	switch e := a.conn.why(); {
	case e != nil:
		rec.flags, rec.reason = flagLocal, e.reason
	case errors.As(err, &left):
		rec.flags = flagDownstream
	case errors.Is(err, errNoInstance):
		rec.flags, rec.dstRegion, rec.peer = flagNoHealthy, p.preferred, ""
		if p.blocked != dropNot {
			rec.reason = "region " + string(p.preferred) + ": " + p.blocked.String()
		}
	case exhausted(err):
		rec.flags = flagOverflow
	case errors.As(err, &refused):
		rec.flags = refusalFlag(refused.Code)
	default:
		rec.flags = flagConnectFailed
	}
	if rec.retries > 0 {
		rec.flags |= flagRetries
	}
}

func refusalFlag(code flow.RefusalCode) flags {
	switch code {
	case flow.RefusedUnavailable:
		return flagNoHealthy
	case flow.RefusedOverloaded:
		return flagOverflow
	case flow.RefusedNotAllowed:
		return flagDenied
	}
	return flagConnectFailed
}

// overtaken says why conn, which was decided on snap, is no longer allowed by what has been published since.
func (m *Mesh) overtaken(snap *route.Snapshot, trust uint64, conn *conn) string {
	now := m.cfg.Table.Load()
	if now == snap && (conn.chain == nil || trust == m.trust.Load()) {
		return ""
	}
	return m.verdict(now, conn)
}

// answeredBy is the instance that the peer says has the connection; empty when its export does not show instances.
func answeredBy(f Flow) string {
	for _, o := range f.Outcomes() {
		if o.Result == flow.ResultConnected {
			return o.Instance
		}
	}
	return ""
}

// endpointName is how an instance appears in the log.
func endpointName(e balance.Endpoint) string {
	address := e.Address.String()
	if string(e.Instance) == address {
		return address
	}
	return string(e.Instance) + " " + address
}

// wireName is a service as OPEN names it, the namespace always there.
func wireName(s federation.ServiceName) string { return s.Namespace + "/" + s.Name }
