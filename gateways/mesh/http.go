package mesh

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
	"github.com/tradewind-mesh/tradewind/gateways/http1"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
)

// Header fields that gateways write. What comes under these names from a caller or an instance is removed.
const (
	// headerCaller tells an instance who calls, by SPIFFE ID. An instance may believe it when only the gateway can reach it.
	headerCaller = "X-Tradewind-Caller"

	// headerOutcome tells the caller's gateway, in a response that this one has made itself, what the status does not say.
	headerOutcome = "X-Tradewind-Outcome"
)

// The outcomes a gateway tells another one.
const (
	outcomeUnavailable = "unavailable" // no instance could be given the request: it may be sent elsewhere
	outcomeDenied      = "denied"      // unknown, not exported or not allowed
	outcomeBroken      = "broken"      // an instance broke off: whether it is tried again is for the caller's gateway, which counts the tries
	outcomeUntouched   = "untouched"   // the same, and it has not processed the request
)

// httpState is what the data path keeps for requests.
type httpState struct {
	pool    l7.Pool
	burdens sync.Map // federation.ServiceName -> *burden
	epoch   time.Time
	copies  atomic.Int64 // under way
}

// instanceKey and peerKey say where a pooled connection leads. One to an instance is shared by all callers; one to a peer's gateway
// belongs to a caller, whose identity it was opened with.
type instanceKey struct {
	endpoint balance.Endpoint
	two      bool
}

type peerKey struct {
	source    spiffeid.ID
	assurance federation.Assurance
	service   federation.ServiceName
	region    federation.Region
	two       bool
}

// speaksTwo reports whether instances of a service with protocol p are spoken to in HTTP/2.
func speaksTwo(p federation.Protocol) bool {
	return p == federation.ProtocolHTTP2 || p == federation.ProtocolGRPC
}

// asked is r as rules see it, once its target is canonical. It shares the header, which stays as it is from then on: what a hop adds is
// in l7.Way.
func asked(r *http.Request) *match.Request {
	a := seen(r)
	return &a
}

func seen(r *http.Request) match.Request {
	path, query, _ := strings.Cut(r.RequestURI, "?")
	return match.Request{Method: r.Method, Host: match.Host(r.Host), Path: path, Query: query, Header: r.Header}
}

// request is what is kept of one request while it is under way, in one allocation. None of it is used for another one: who judges open
// connections again may be late.
type request struct {
	rec   record
	http  httpRecord
	conn  conn
	asked match.Request
	trip  trip // of a local caller
}

// newRequest begins with r. The caller fills in who calls whom.
func newRequest(r *http.Request) *request {
	q := &request{asked: seen(r), http: httpRecord{method: r.Method, target: r.RequestURI, version: r.Proto, id: requestID(r)}}
	q.rec.start, q.rec.http, q.rec.conn = time.Now(), &q.http, &q.conn
	return q
}

// session serves the requests of one connection c, which conn stands for, until it ends.
func (m *Mesh) session(ctx context.Context, conn *conn, c l7.Conn, handle func(*l7.Exchange)) {
	server := &l7.Server{Handle: handle, Gateway: conn.direction == inbound, Idle: httpIdle, Refused: func(e *http1.Error) {
		m.finish(&record{start: time.Now(), direction: conn.direction, source: conn.source, assurance: conn.assurance, srcRegion: m.cfg.Region,
			destination: conn.service, flags: flagProtocol, reason: e.Error(), http: &httpRecord{status: e.Status}})
	}}
	s := server.NewSession(c)
	conn.waits(s.Close)
	conn.drains(s.Drain)
	if m.draining.Load() {
		s.Drain()
	}
	s.Run(ctx)
}

// httpIdle is how long a connection may be silent between requests, and within a message. Above the minute after which most clients
// close by themselves, below the five of most firewalls.
const httpIdle = 4 * time.Minute

// conveyed is what became of a request.
type conveyed struct {
	res   *http.Response
	done  func(answered bool) // gives back what the request held; called once
	final bool                // of a failure: nothing else may be tried
	again bool                // of a failure: the same may be tried once more
	poor  bool                // of an answer: another try would have been better
	made  bool                // of an answer: a peer's gateway gave it, and no instance
}

// finishHTTP sends res to the caller and closes the books on the request.
func (m *Mesh) finishHTTP(x *l7.Exchange, rec *record, c conveyed) {
	res := c.res
	rec.http.status = res.StatusCode
	if to, ok := l7.Upgraded(res); ok {
		m.switched(x, rec, res, to)
		c.done(true)
		return
	}
	n, err := x.Respond(res)
	rec.sent = n
	switch err.(type) { //nolint:errorlint // Respond wraps nothing
	case nil:
	case *l7.CallerError:
		rec.flags, rec.reason = rec.flags|flagDownstream, err.Error()
	default:
		if rec.conn.why() == nil && rec.conn.deserted(x.Request) {
			rec.flags, rec.reason = rec.flags|flagDownstream, errLeft.Error()
			break
		}
		rec.flags, rec.reason = rec.flags|flagUpstream, err.Error()
	}
	c.done(rec.flags&flagUpstream == 0)
}

// deserted closes the books on a request whose caller has left before there was a response.
func (m *Mesh) deserted(x *l7.Exchange, rec *record) {
	rec.flags, rec.reason = rec.flags|flagDownstream, errLeft.Error()
	x.Abort()
}

// switched carries the bytes of a connection that has left HTTP, until it ends.
func (m *Mesh) switched(x *l7.Exchange, rec *record, res *http.Response, to l7.Conn) {
	from, err := x.Switch(res)
	if err != nil {
		_ = to.Close()
		rec.flags, rec.reason = flagDownstream, err.Error()
		return
	}
	ended := make(chan splice.Result, 1)
	rec.conn.carry(halves{from}, halves{to}, m.swept(time.Hour), func(r splice.Result) { ended <- r })
	result := <-ended
	rec.ended(result, rec.conn.why())
	rec.received, rec.sent = result.AtoB, result.BtoA
}

// halves is a connection as splice wants it.
type halves struct{ l7.Conn }

// CloseWrite implements splice.Conn.
func (h halves) CloseWrite() error {
	if c, ok := h.Conn.(interface{ CloseWrite() error }); ok {
		return c.CloseWrite()
	}
	return h.Close()
}

// refusedHTTP answers a request that goes nowhere.
func (m *Mesh) refusedHTTP(x *l7.Exchange, rec *record, f flags, res *http.Response, reason string) {
	rec.flags |= f
	rec.reason, rec.http.status = reason, res.StatusCode
	if bad := x.Bad(); bad != nil {
		rec.flags, rec.reason, rec.http.status = flagProtocol, bad.Reason, bad.Status
		x.Own = true
		_, _ = x.Respond(rec.shown(badBody(bad)))
		return
	}
	x.Own = rec.flags&flagByRule == 0
	_, _ = x.Respond(rec.shown(res))
}

// shown is what the caller gets to see of res, a response of the mesh's own.
func (r *record) shown(res *http.Response) *http.Response {
	if r.client.IsValid() && r.flags&flagByRule == 0 {
		return blunt(res)
	}
	return res
}

// hushed is shown of a response that a peer's gateway has made.
func (r *record) hushed(res *http.Response) *http.Response {
	out := r.shown(res)
	if out != res && res.Body != nil {
		_ = res.Body.Close()
	}
	return out
}

// badBody answers a caller whose request's body was found wrong when it was under way.
func badBody(e *http1.Error) *http.Response { return l7.Text(e.Status, "bad request: "+e.Reason) }

// deniedHTTP answers a local caller with the reason, which is its own region's to tell.
func deniedHTTP(d policy.Decision) *http.Response {
	return l7.Text(http.StatusForbidden, fmt.Sprintf("%s %s", d.Code, d.Reason))
}

// permits reports by the latest snapshot whether a request may go on.
func permits(snap *route.Snapshot, c *conn, region federation.Region) policy.Decision {
	switch {
	case c.request != nil:
		return snap.AuthorizeRequest(c.source, c.assurance, region, c.service, c.request)
	case c.requests:
		return snap.AuthorizeAny(c.source, c.assurance, region, c.service)
	}
	return snap.Authorize(c.source, c.assurance, region, c.service)
}
