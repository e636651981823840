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
)

// maxReports leaves room among a flow's OUTCOME frames for later ones.
const maxReports = flow.MaxOutcomes - 1

// HandleFlow carries one flow of a peer to an instance of this region. It returns when the flow has ended. The peer has
// decided that its caller may leave; what counts here is decided here.
func (m *Mesh) HandleFlow(ctx context.Context, in Incoming) {
	m.live.begin()
	defer m.live.done()
	snap, peer := m.cfg.Table.Load(), in.Peer()
	rec, asked := m.arrived(in)
	defer m.finish(rec)
	release, full := m.admit(peer)
	defer release()
	switch {
	case m.draining.Load():
		m.refuse(in, rec, refusal{flow.RefusedDraining, flagLocal, "this gateway is draining"})
		return
	case full:
		m.refuse(in, rec, refusal{flow.RefusedOverloaded, flagOverflow, "the peer has too many open flows"})
		return
	}

	service, err := federation.ParseServiceName(asked)
	if err != nil {
		m.refuse(in, rec, refusal{flow.RefusedNotAllowed, flagNoRoute, err.Error()})
		return
	}
	rec.destination = service
	conn := &conn{direction: inbound, source: rec.source, assurance: rec.assurance, service: service, peer: peer, flow: in}
	m.live.add(conn) // a publication from here on finds it; for one before that, see overtaken
	defer m.live.remove(conn)
	defer context.AfterFunc(ctx, func() { conn.cut(context.Cause(ctx)) })()

	local, refused := m.permit(snap, rec)
	if refused != nil {
		m.refuse(in, rec, *refused)
		return
	}
	resolver := m.resolver(snap, service)
	instance, lease, err := m.dial(dialing{
		conn: conn, service: service, pool: m.pool(snap, local), modes: whenAsked,
		timeout: resolver.ConnectTimeout.D(), deadline: rec.start.Add(acceptRounds * resolver.ConnectTimeout.D()), failed: func() {
			if rec.retries++; rec.retries < maxReports {
				_ = in.Report(flow.Outcome{Result: flow.ResultUnreachable})
			}
		},
	})
	if err != nil {
		m.refuse(in, rec, unavailable(conn, err))
		return
	}
	rec.endpoint = endpointName(lease.Endpoint())
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
		return
	}
	handles := m.opened(rec)
	result := conn.splice(in, instance, resolver.IdleTimeout.D())
	lease.Done(fared(result))
	rec.ended(result, conn.why())
	rec.received, rec.sent = result.AtoB, result.BtoA
	handles.finished(rec)
}

// arrived begins the record of a flow, and returns the service that it asks for. It is a function so that what OPEN holds does
// not stay on the stack for as long as the flow is open.
func (m *Mesh) arrived(in Incoming) (rec *record, service string) {
	open, peer := in.Open(), in.Peer()
	return &record{
		start: time.Now(), direction: inbound, source: open.Source, assurance: federation.Assurance(open.Assurance),
		srcRegion: peer, dstRegion: m.cfg.Region, peer: peer,
	}, open.Service
}

// permit decides whether a flow may reach the service it asks for, and returns that service or the refusal. What the source's
// gateway has decided counts for nothing here.
func (m *Mesh) permit(snap *route.Snapshot, rec *record) (route.LocalTarget, *refusal) {
	if known, found := snap.Peer(rec.peer); !found || !rec.source.MemberOf(known.TrustDomain) {
		// The tunnel has looked at the trust domain; a second look costs a comparison.
		return route.LocalTarget{}, &refusal{flow.RefusedNotAllowed, flagNoRoute, "the caller is not one that the peer may speak for"}
	}
	decision := snap.Authorize(rec.source, rec.assurance, federation.Local, rec.destination)
	rec.intention, rec.decision = decision.Rule, "deny"
	m.metrics.decided(inbound, decision.Allowed, decision.Rule)
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

func (m *Mesh) refuse(in Incoming, rec *record, r refusal) {
	rec.flags, rec.reason = r.flags, r.reason
	_ = in.Refuse(r.code, "") // the peer is gone when it fails
	_ = in.Close()
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

// admit counts a flow of peer until release is called, and reports whether the peer has too many.
func (m *Mesh) admit(peer federation.Region) (release func(), full bool) {
	v, found := m.inbound.Load(peer)
	if !found {
		v, _ = m.inbound.LoadOrStore(peer, new(atomic.Int64)) // bounded: the tunnel accepts sessions of known peers only
	}
	count := v.(*atomic.Int64)
	return func() { count.Add(-1) }, count.Add(1) > int64(m.cfg.MaxFlowsPerPeer)
}
