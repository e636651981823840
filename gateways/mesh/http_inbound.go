package mesh

import (
	"context"
	"errors"
	"net/http"
	"strconv"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// receiveRequests serves a flow of a peer for a service that speaks HTTP.
func (m *Mesh) receiveRequests(ctx context.Context, a *arrival) {
	in, conn := a.in, a.conn
	timed, ok := in.(l7.Conn)
	if !ok || in.Accept() != nil {
		in.Abort()
		a.rec.flags, a.rec.reason = flagDownstream, "the flow has ended"
		return
	}
	m.session(ctx, conn, timed, func(x *l7.Exchange) { m.requestIn(x, conn) })
}

// requestIn answers one request of a peer's caller, by an instance of this region. What the peer has decided counts for nothing here.
func (m *Mesh) requestIn(x *l7.Exchange, of *conn) {
	snap := m.cfg.Table.Load()
	r := x.Request
	asks := takeAsks(r)
	q := newRequest(r)
	rec, conn := &q.rec, &q.conn
	rec.direction, rec.source, rec.assurance, rec.srcRegion, rec.peer = inbound, of.source, of.assurance, of.peer, of.peer
	rec.dstRegion, rec.destination = m.cfg.Region, of.service
	conn.direction, conn.source, conn.assurance = inbound, of.source, of.assurance
	conn.service, conn.peer, conn.request = of.service, of.peer, &q.asked
	refusal := m.vouch(snap, conn, r, nil)
	m.live.begin()
	m.live.add(conn)
	x.Watch(conn)
	defer func() {
		m.live.remove(conn)
		m.finish(rec)
		m.live.done()
	}()
	local, found := snap.Inbound(conn.service, conn.peer)
	if refusal != nil && found {
		rec.decision = "deny"
		m.refusedHTTP(x, rec, flagDenied, unauthorized(refusal), refusal.Error())
		return
	}
	decision := snap.AuthorizeRequest(conn.source, conn.assurance, federation.Local, conn.service, conn.request)
	rec.decision = "deny"
	m.decided(rec, decision)
	switch {
	case !decision.Allowed:
		m.refusedHTTP(x, rec, flagDenied, outcome(http.StatusForbidden, outcomeDenied), decision.Reason)
		return
	case !found:
		m.refusedHTTP(x, rec, flagNoRoute, outcome(http.StatusForbidden, outcomeDenied), "not a service that is exported to the peer")
		return
	}
	rec.decision = "allow"
	m.deliver(x, conn, m.askHere(rec, conn, snap, local), asks)
}

// askHere is the search for an instance of local, for a request of a peer.
func (m *Mesh) askHere(rec *record, conn *conn, snap *route.Snapshot, local route.LocalTarget) *ask {
	resolver := m.resolver(snap, conn.service)
	return &ask{mesh: m, conn: conn, rec: rec, service: conn.service, pool: m.pool(snap, local), modes: whenAsked,
		timeout: resolver.ConnectTimeout.D(), deadline: rec.start.Add(acceptRounds * resolver.ConnectTimeout.D()),
		two: speaksTwo(local.Protocol()), resolver: resolver,
		load: m.burdenOf(conn.service).load}
}

// deliver sends a request to an instance.
func (m *Mesh) deliver(x *l7.Exchange, conn *conn, a *ask, asks asks) {
	rec := a.rec
	var sticks affinity
	if a.key = asks.key; a.key == 0 { // the caller's region has no opinion: ours counts
		sticks = affinityOf(a.resolver.Affinity, x.Request, conn.source.String())
		a.key = sticks.key
	}
	a.detour, a.urgency = asks.detour, asks.urgency
	var c conveyed
	err := a.enter(asks.subset)
	if err == nil {
		defer a.leave()
		way := l7.Way{Deadline: asks.deadline, Idle: httpIdle, Interim: x.Interim, Ends: a.conn.waits}
		a.avoid(asks.tried)
		if c, err = a.try(x.Request, way); a.n > 0 && errors.Is(err, errNoInstance) { // there is no other
			a.n, a.mode = 0, 0
			c, err = a.try(x.Request, way)
		}
	}
	var over *limitError
	switch {
	case err != nil && conn.why() == nil && conn.deserted(x.Request):
		m.deserted(x, rec)
	case errors.As(err, &over):
		res := over.response()
		if over.status == http.StatusServiceUnavailable {
			res.Header[headerOutcome] = []string{outcomeUnavailable}
		}
		m.countShed(conn.service, over)
		a.tellRoom(res.Header)
		m.refusedHTTP(x, rec, flagOverflow, res, over.reason)
	case err == nil:
		if asks.key == 0 {
			sticks.keep(a.resolver.Affinity, c.res.Header, a.mesh.cfg.Region)
		}
		a.tellRoom(c.res.Header)
		m.finishHTTP(x, rec, c)
	case conn.why() != nil:
		m.refusedHTTP(x, rec, flagLocal, outcome(http.StatusServiceUnavailable, outcomeDenied), conn.why().reason)
	case errors.Is(err, errNoInstance):
		m.refusedHTTP(x, rec, flagNoHealthy, outcome(http.StatusServiceUnavailable, outcomeUnavailable), err.Error())
	case errors.Is(err, errUnreached):
		m.refusedHTTP(x, rec, flagConnectFailed, outcome(http.StatusServiceUnavailable, outcomeUnavailable), err.Error())
	case timedOut(err):
		m.refusedHTTP(x, rec, flagTimeout, l7.Text(http.StatusGatewayTimeout, "the instance did not answer in time"), err.Error())
	default:
		res := l7.Text(http.StatusBadGateway, errBroken.Error())
		res.Header[headerOutcome] = []string{outcomeBroken}
		var refused *l7.RefusedError
		if errors.As(err, &refused) {
			res.Header[headerOutcome] = []string{outcomeUntouched}
		}
		res.Header[headerTried] = []string{strconv.FormatUint(a.failed, 16)}
		m.refusedHTTP(x, rec, flagUpstream, res, err.Error())
	}
}

// errBroken says that an instance of a peer's region broke off.
var errBroken = errors.New("the instance broke the connection")

// outcome is a response of this gateway's own. A peer learns no more than that.
func outcome(status int, word string) *http.Response {
	text := "not allowed"
	if word == outcomeUnavailable {
		text = "no instance can be reached"
	}
	res := l7.Text(status, text)
	res.Header[headerOutcome] = []string{word}
	return res
}
