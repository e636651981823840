package mesh

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
)

// maxReports leaves room among a flow's OUTCOME frames for later ones.
const maxReports = flow.MaxOutcomes - 1

// arrival is one flow of a peer.
type arrival struct {
	in    Incoming
	snap  *route.Snapshot
	rec   *record
	asked string
	open  *atomic.Int64 // flows of the peer
	conn  *conn         // nil until it is known what it is for
	lease balance.Lease // once an instance is connected
	idle  time.Duration
}

// HandleFlow connects one flow of a peer to an instance of this region. It returns when it has, or has refused. The peer has
// decided that its caller may leave; what counts here is decided here.
func (m *Mesh) HandleFlow(ctx context.Context, in Incoming) {
	m.live.begin()
	a := m.arrived(in)
	instance := m.settle(ctx, a)
	if instance == nil {
		m.left(a)
		return
	}
	in.Keep(a.conn.cut)
	handles := m.opened(a.rec)
	a.conn.carry(in, instance, m.swept(a.idle), func(result splice.Result) {
		a.lease.Done(fared(result))
		a.rec.ended(result, a.conn.why())
		a.rec.received, a.rec.sent = result.AtoB, result.BtoA
		handles.finished(a.rec)
		m.left(a)
		in.Release()
	})
}

// left is the end of a flow.
func (m *Mesh) left(a *arrival) {
	if a.conn != nil {
		m.live.remove(a.conn)
	}
	a.open.Add(-1)
	m.finish(a.rec)
	m.live.done()
}

// settle decides on a flow and connects an instance, which it returns, or refuses the flow.
func (m *Mesh) settle(ctx context.Context, a *arrival) callerConn {
	in, rec, snap, peer := a.in, a.rec, a.snap, a.rec.peer
	switch full := a.open.Add(1) > int64(m.cfg.MaxFlowsPerPeer); {
	case m.draining.Load():
		return m.refuse(a, refusal{flow.RefusedDraining, flagLocal, "this gateway is draining"})
	case full:
		return m.refuse(a, refusal{flow.RefusedOverloaded, flagOverflow, "the peer has too many open flows"})
	}
	service, err := federation.ParseServiceName(a.asked)
	if err != nil {
		return m.refuse(a, refusal{flow.RefusedNotAllowed, flagNoRoute, err.Error()})
	}
	rec.destination = service
	conn := &conn{direction: inbound, source: rec.source, assurance: rec.assurance, service: service, peer: peer, flow: in}
	a.conn = conn
	m.live.add(conn) // a publication from here on finds it; for one before that, see overtaken
	defer context.AfterFunc(ctx, func() { conn.cut(context.Cause(ctx)) })()

	local, refused := m.permit(snap, rec)
	if refused != nil {
		return m.refuse(a, *refused)
	}
	if local.Protocol().IsHTTP() {
		conn.requests = true
		m.receiveRequests(ctx, a)
		rec.quiet = rec.flags == 0
		return nil
	}
	resolver := m.resolver(snap, service)
	instance, lease, err := m.dial(dialing{
		conn: conn, service: service, pool: m.pool(snap, local), modes: whenAsked,
		limit: resolver.Limits.Connections, proxy: resolver.ProxyProtocol, client: in.Open().Client,
		timeout: resolver.ConnectTimeout.D(), deadline: rec.start.Add(acceptRounds * resolver.ConnectTimeout.D()), rec: rec, failed: func() {
			if rec.retries+1 < maxReports {
				_ = in.Report(flow.Outcome{Result: flow.ResultUnreachable})
			}
		},
	})
	if err != nil {
		return m.refuse(a, unavailable(conn, err))
	}
	rec.endpoint = lease.Name()
	if snap.NamesInstances(service, peer) {
		_ = in.Report(flow.Outcome{Result: flow.ResultConnected, Instance: string(lease.Endpoint().Instance)})
	}
	if why := m.overtaken(snap, 0, conn); why != "" {
		conn.end(ending{flow.ResetRevoked, why})
	}
	if err := in.Accept(); err != nil {
		_ = instance.Close()
		lease.Done(balance.Abandoned)
		in.Abort()
		rec.flags, rec.reason = flagDownstream, err.Error()
		return nil
	}
	a.lease, a.idle = lease, resolver.IdleTimeout.D()
	a.snap, a.asked = nil, "" // an open flow must not hold on to what is out of date
	return instance
}

// arrived takes down who opened a flow, and what for.
func (m *Mesh) arrived(in Incoming) *arrival {
	open, peer := in.Open(), in.Peer()
	return &arrival{in: in, snap: m.cfg.Table.Load(), asked: open.Service, open: m.flowsOf(peer), rec: &record{
		start: time.Now(), direction: inbound, source: open.Source, assurance: federation.Assurance(open.Assurance),
		srcRegion: peer, dstRegion: m.cfg.Region, peer: peer,
	}}
}

// permit decides whether a flow may reach the service it asks for, and returns that service or the refusal. What the source's
// gateway has decided counts for nothing here.
func (m *Mesh) permit(snap *route.Snapshot, rec *record) (route.LocalTarget, *refusal) {
	if known, found := snap.Peer(rec.peer); !found || !rec.source.MemberOf(known.TrustDomain) {
		// The tunnel has looked at the trust domain; a second look costs a comparison.
		return route.LocalTarget{}, &refusal{flow.RefusedNotAllowed, flagNoRoute, "the caller is not one that the peer may speak for"}
	}
	decision := snap.Authorize(rec.source, rec.assurance, federation.Local, rec.destination)
	if of, found := snap.Local(rec.destination); found && of.Protocol().IsHTTP() {
		decision = snap.AuthorizeAny(rec.source, rec.assurance, federation.Local, rec.destination)
	}
	rec.decision = "deny"
	m.decided(rec, decision)
	local, found := snap.Inbound(rec.destination, rec.peer)
	switch {
	case !decision.Allowed: // first: in the log a forbidden call is one, whether or not there is such a service
		return route.LocalTarget{}, &refusal{flow.RefusedNotAllowed, flagDenied, decision.Reason}
	case !found:
		why := "not a service of this region that is exported to region " + string(rec.peer)
		return route.LocalTarget{}, &refusal{flow.RefusedNotAllowed, flagNoRoute, why}
	}
	rec.decision = "allow"
	return local, nil
}

// refusal is one answer to a peer, and what the local log says about it. The peer gets the code and nothing else: what is
// unknown, not exported and denied look the same to it.
type refusal struct {
	code   flow.RefusalCode
	flags  flags
	reason string
}

func (m *Mesh) refuse(a *arrival, r refusal) callerConn {
	a.rec.flags, a.rec.reason = r.flags, r.reason
	_ = a.in.Refuse(r.code, "") // the peer is gone when it fails
	_ = a.in.Close()
	return nil
}

// unavailable is the answer when no instance took the connection: the caller's gateway then tries another region.
func unavailable(c *conn, err error) refusal {
	switch e := c.why(); {
	case e != nil:
		return refusal{flow.RefusedNotAllowed, flagLocal, e.reason}
	case errors.Is(err, errNoInstance):
		return refusal{flow.RefusedUnavailable, flagNoHealthy, err.Error()}
	case exhausted(err):
		return refusal{flow.RefusedOverloaded, flagOverflow, err.Error()}
	case errors.Is(err, context.Canceled):
		return refusal{flow.RefusedUnavailable, flagDownstream, "the flow ended before an instance was connected"}
	}
	return refusal{flow.RefusedUnavailable, flagConnectFailed, fmt.Sprintf("connect an instance: %v", err)}
}

// flowsOf counts the flows of peer.
func (m *Mesh) flowsOf(peer federation.Region) *atomic.Int64 {
	v, found := m.inbound.Load(peer)
	if !found {
		v, _ = m.inbound.LoadOrStore(peer, new(atomic.Int64)) // bounded: the tunnel accepts sessions of known peers only
	}
	return v.(*atomic.Int64)
}
