package mesh

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/jwt"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
)

// Entry is how a caller from outside comes into the mesh, as a north-south listener knows it.
type Entry struct {
	Listener string                 // its name
	Identity federation.ServiceName // whom the listener's callers count as
	To       federation.ServiceRef
	Client   netip.Addr // who it is, as far as is known
	Port     uint16     // of Client; 0: unknown
	Require  []string   // jwt resources: one must vouch for the token of a request; none: the intentions judge alone
}

// Conn is a connection of such a caller: *net.TCPConn or *tls.Conn.
type Conn interface {
	net.Conn
	CloseWrite() error
}

func (m *Mesh) caller(by Entry) caller {
	who := caller{bound: by.Identity, id: m.cfg.Table.Load().Identity(by.Identity), assurance: federation.AssuranceBinding,
		wants: by.To, upstream: by.Listener, client: by.Client, port: by.Port, require: by.Require}
	if !who.client.IsValid() { // unknown, and from outside all the same
		who.client = netip.IPv6Unspecified()
	}
	return who
}

// enter counts something that came in by another room's listener, and is false when Run has ended: then it must not go on.
func (m *Mesh) enter() bool {
	m.door.RLock()
	defer m.door.RUnlock()
	if m.stopped.Load() {
		return false
	}
	m.serving.Add(1)
	return true
}

// shut makes enter false, for good.
func (m *Mesh) shut() {
	m.door.Lock()
	defer m.door.Unlock()
	m.stopped.Store(true)
}

// Request answers one request of a caller from outside, as one of a local caller is: by the service's route, or by an instance here
// or in a peer's region. The caller learns nothing of rules, regions or instances; the access log does.
func (m *Mesh) Request(x *l7.Exchange, by Entry) {
	if !m.enter() {
		m.Refuse(x, by, http.StatusServiceUnavailable, stopping.reason)
		return
	}
	defer m.serving.Done()
	if refusal := m.require(x.Request, by.Require); refusal != nil { // before anything tells what there is
		m.refuseToken(x, by, refusal)
		return
	}
	who := m.caller(by)
	if upstream, found := m.cfg.Table.Load().Upstream(by.To); found && !upstream.Protocol.IsHTTP() {
		m.Refuse(x, by, http.StatusServiceUnavailable, "the service does not speak HTTP: set its protocol, or reach it by tcp or passthrough")
		return
	}
	m.requestOut(x, &who)
}

// Connect connects a caller from outside to an instance, here or in a peer's region, and calls done when the connection has ended.
// first is what has been read from c already, 64 KiB at most. It returns when the connection has been made, or has failed.
func (m *Mesh) Connect(ctx context.Context, c Conn, first []byte, by Entry, done func()) {
	if !m.enter() {
		abort(c)
		done()
		return
	}
	m.live.begin()
	who := m.caller(by)
	who.first = first
	m.serveOutbound(ctx, c, who, func() {
		m.served()
		done()
	})
}

// Refuse answers a request that a north-south listener does not let in, and logs it with the reason.
func (m *Mesh) Refuse(x *l7.Exchange, by Entry, status int, reason string) {
	f := flagProtocol
	switch status {
	case http.StatusNotFound, http.StatusMisdirectedRequest:
		f = flagNoRoute
	case http.StatusServiceUnavailable:
		f = flagNoHealthy
	}
	m.turnBack(x, by, f, l7.Text(status, ""), reason)
}

// RefuseFor answers a request of a caller who asks too often: it may ask again after wait.
func (m *Mesh) RefuseFor(x *l7.Exchange, by Entry, wait time.Duration, reason string) {
	over := &limitError{status: http.StatusTooManyRequests, wait: wait, reason: reason}
	m.turnBack(x, by, flagOverflow, over.response(), reason)
}

// refuseToken answers a request whose token is missing or refused. When the keys are not at hand the token may well be good: a caller
// that is told otherwise throws it away.
func (m *Mesh) refuseToken(x *l7.Exchange, by Entry, refusal *jwt.Refusal) {
	res := unauthorized(refusal)
	if refusal.Reason == jwt.ReasonNoKeys {
		res = (&limitError{status: http.StatusServiceUnavailable, wait: tokenRetry}).response()
	}
	m.turnBack(x, by, flagDenied, res, refusal.Error())
}

// tokenRetry is how soon keys are fetched again at the latest, when that has failed.
const tokenRetry = 30 * time.Second

// turnBack answers a request that comes no further with res, and logs it.
func (m *Mesh) turnBack(x *l7.Exchange, by Entry, f flags, res *http.Response, reason string) {
	rec := m.asked(x.Request, by)
	if f == flagDenied {
		rec.decision = "deny"
	}
	m.refusedHTTP(x, rec, f, res, reason)
	m.finish(rec)
}

// Redirect answers a request with another place.
func (m *Mesh) Redirect(x *l7.Exchange, by Entry, status int, location string) {
	m.turnBack(x, by, flagByRule, elsewhere(status, location), "redirected by the listener")
}

// Reply answers a request with res, which is the listener's own, and logs it with the reason.
func (m *Mesh) Reply(x *l7.Exchange, by Entry, res *http.Response, reason string) {
	m.turnBack(x, by, flagByRule, res, reason)
}

func elsewhere(status int, location string) *http.Response {
	res := l7.Text(status, "")
	res.Header["Location"] = []string{location}
	return res
}

// asked is the record of a request that has come so far and no further.
func (m *Mesh) asked(r *http.Request, by Entry) *record {
	rec := m.outside(by, time.Now())
	rec.http = &httpRecord{method: r.Method, target: r.RequestURI, version: r.Proto, id: requestID(r)}
	return rec
}

// Reject logs a connection, begun at start, that a north-south listener has not let in. status is what was answered; 0: nothing.
func (m *Mesh) Reject(by Entry, start time.Time, status int, reason string) {
	rec := m.outside(by, start)
	rec.flags, rec.reason = flagProtocol, reason
	if status != 0 {
		rec.http = &httpRecord{status: status}
	}
	m.finish(rec)
}

func (m *Mesh) outside(by Entry, start time.Time) *record {
	return &record{start: start, direction: outbound, source: m.cfg.Table.Load().Identity(by.Identity),
		assurance: federation.AssuranceBinding, srcRegion: m.cfg.Region, destination: by.To.Service, dstRegion: by.To.Region,
		upstream: by.Listener, client: m.caller(by).client}
}

// blunt is res, a response of the mesh's own, without what concerns nobody outside.
func blunt(res *http.Response) *http.Response {
	out := l7.Text(res.StatusCode, strings.ToLower(http.StatusText(res.StatusCode)))
	for _, name := range []string{"Retry-After", "Www-Authenticate"} { // how to do better: that is the caller's business
		if values, ok := res.Header[name]; ok {
			out.Header[name] = values
		}
	}
	return out
}

// maxRequestID is the longest X-Request-Id that is logged: a UUID with room for what others make.
const maxRequestID = 128

// requestID is the name that somebody has given r, if it is one.
func requestID(r *http.Request) string {
	if ids := r.Header["X-Request-Id"]; len(ids) == 1 && len(ids[0]) <= maxRequestID {
		return ids[0]
	}
	return ""
}
