package mesh

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/gateways/http1"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// serveRequests serves a local caller of a service that speaks HTTP. conn stands for its connection.
func (m *Mesh) serveRequests(ctx context.Context, c callerConn, who *caller, conn *conn) {
	conn.requests = true
	m.session(ctx, conn, c, func(x *l7.Exchange) { m.requestOut(x, who) })
}

// requestOut answers one request of a local caller: by a rule, or by an instance here or in a peer's region.
func (m *Mesh) requestOut(x *l7.Exchange, who *caller) {
	snap := m.cfg.Table.Load()
	r := x.Request
	q := newRequest(r)
	rec, conn := &q.rec, &q.conn
	rec.direction, rec.source, rec.assurance, rec.srcRegion = outbound, who.id, who.assurance, m.cfg.Region
	rec.destination, rec.dstRegion, rec.upstream, rec.client = who.wants.Service, who.wants.Region, who.upstream, who.client
	conn.direction, conn.source, conn.assurance, conn.chain = outbound, who.id, who.assurance, who.chain
	conn.service, conn.pinned = who.wants.Service, who.wants.Region != ""
	m.live.begin()
	defer m.live.done()
	defer m.finish(rec)

	rule := snap.Rule(who.wants.Service, &q.asked)
	if !m.admitRule(x, rec, who, rule.RouteRule) {
		return
	}
	if rule.Fault != nil && m.hurt(x, rec, conn, rule.Fault) {
		return
	}
	if res := answered(rule, r); res != nil {
		rec.decision, rec.flags = "allow", flagByRule
		m.refusedHTTP(x, rec, 0, res, "answered by rule "+rule.Name)
		return
	}
	if err := rewrite(rule, r); err != nil {
		m.refusedHTTP(x, rec, flagProtocol, l7.Text(http.StatusInternalServerError, err.Error()), err.Error())
		return
	}
	rule.Request.Apply(r.Header)
	if conn.request = &q.asked; rule.Rewrite != nil {
		q.asked = seen(r) // what is judged is what is forwarded
	}
	if rule.Mirror != nil {
		defer m.mirror(r, rule, who)()
	}
	split := rule.Pick()
	to := who.wants
	if !split.Service.IsZero() {
		to = federation.ServiceRef{Service: split.Service}
	}
	conn.service, rec.destination = to.Service, to.Service
	if refusal := m.vouch(snap, conn, r, who.require); refusal != nil {
		rec.decision = "deny"
		m.refusedHTTP(x, rec, flagDenied, unauthorized(refusal), refusal.Error())
		return
	}
	m.live.add(conn)
	defer m.live.remove(conn)
	x.Watch(conn)
	if m.stopped.Load() {
		conn.end(stopping)
	}

	upstream, found := snap.Upstream(to)
	if !found || len(upstream.Candidates) == 0 {
		why := "no region that may serve it has such a service"
		m.refusedHTTP(x, rec, flagNoRoute, l7.Text(http.StatusServiceUnavailable, why), why)
		return
	}
	sticks := affinityOf(upstream.Resolver.Affinity, r, who.id.String())
	t := &q.trip
	*t = trip{mesh: m, x: x, rule: rule, conn: conn, rec: rec, subset: split.Subset, sticks: sticks,
		plan: plan{mesh: m, snap: snap, upstream: preferring(upstream, cmp.Or(split.Region, sticks.region)), who: who, request: conn.request, lot: sticks.key}}
	if t.urgency = urgencyOf(r.Header); rule.Priority != nil {
		t.urgency = *rule.Priority
	}
	t.spill.burden = m.burdenOf(to.Service)
	t.spill.burden.budget.Request(upstream.Resolver.RetryBudget, m.sinceStart())
	defer func() { t.hedge.wait() }()
	c, err := t.send()
	if err != nil {
		t.explain(err)
		return
	}
	if c.made {
		x.Own = true
		c.res = rec.hushed(c.res)
	}
	sticks.keep(upstream.Resolver.Affinity, c.res.Header, rec.dstRegion)
	rule.Response.Apply(c.res.Header)
	m.finishHTTP(x, rec, c)
}

// hurt does what a fault says, and reports whether the request has been answered.
func (m *Mesh) hurt(x *l7.Exchange, rec *record, c *conn, f *federation.Fault) bool {
	if f.Delay > 0 && drawn(f.DelayPercent) {
		over := make(chan struct{})
		timer := time.AfterFunc(f.Delay.D(), func() { close(over) })
		c.waits(func() {
			if timer.Stop() {
				close(over)
			}
		})
		<-over
	}
	if f.Abort != 0 && drawn(f.AbortPercent) {
		m.refusedHTTP(x, rec, flagByRule, l7.Text(f.Abort, "aborted by a fault of the route"), "fault")
		return true
	}
	return false
}

func drawn(percent float64) bool { return rand.Float64()*100 < percent }

// answered is the response that a rule gives by itself, or nil.
func answered(rule *route.Rule, r *http.Request) *http.Response {
	switch {
	case rule.Respond != nil:
		res := l7.Text(rule.Respond.Status, rule.Respond.Body)
		rule.Response.Apply(res.Header)
		return res
	case rule.Redirect != nil:
		res := l7.Text(rule.Redirect.Status, "")
		if rule.Redirect.Status == 0 {
			res.StatusCode = http.StatusFound
		}
		res.Header["Location"] = []string{location(rule, r)}
		rule.Response.Apply(res.Header)
		return res
	}
	return nil
}

func location(rule *route.Rule, r *http.Request) string {
	d := rule.Redirect
	path, query, asks := strings.Cut(r.RequestURI, "?")
	target := moved(rule, path, d.Path, d.PathPrefix)
	if asks {
		target += "?" + query
	}
	if d.Scheme == "" && d.Host == "" {
		return target
	}
	scheme, host := d.Scheme, d.Host
	if scheme == "" {
		scheme = "http"
	}
	if host == "" {
		host = r.Host
	}
	return scheme + "://" + host + target
}

// moved is path with what a rule puts in its place.
func moved(rule *route.Rule, path, whole, prefix string) string {
	for _, m := range rule.Match {
		switch {
		case whole != "" && m.PathTemplate != "" && matches(m, path):
			for name, value := range match.Captures(m.PathTemplate, path) {
				whole = strings.ReplaceAll(whole, "{"+name+"}", value)
			}
			return whole
		case prefix != "" && m.PathPrefix != "" && matches(m, path):
			rest := path[len(strings.TrimSuffix(m.PathPrefix, "/")):]
			if moved := strings.TrimSuffix(prefix, "/") + rest; moved != "" {
				return moved
			}
			return "/"
		}
	}
	if whole != "" {
		return whole
	}
	return path
}

func matches(m federation.HTTPMatch, path string) bool {
	c, err := match.Compile(federation.HTTPMatch{PathPrefix: m.PathPrefix, PathTemplate: m.PathTemplate}, match.Narrow)
	return err == nil && c.Matches(&match.Request{Path: path})
}

// rewrite makes r what the instance is to see.
func rewrite(rule *route.Rule, r *http.Request) error {
	w := rule.Rewrite
	if w == nil {
		return nil
	}
	if w.Host != "" {
		r.Host = w.Host
	}
	if w.Path == "" && w.PathPrefix == "" {
		return nil
	}
	path, query, asks := strings.Cut(r.RequestURI, "?")
	target := moved(rule, path, w.Path, w.PathPrefix)
	if asks {
		target += "?" + query
	}
	return http1.SetTarget(r, target, http1.Rules{})
}

// preferring is u with region before all others.
func preferring(u *route.Upstream, region federation.Region) *route.Upstream {
	if region == "" {
		return u
	}
	to := *u
	to.Candidates = make([]route.Candidate, 0, len(u.Candidates))
	for _, first := range []bool{true, false} {
		for _, c := range u.Candidates {
			if (c.Region == region || region == federation.Local && c.IsLocal()) == first {
				if c.Rank++; first {
					c.Rank = 0
				}
				to.Candidates = append(to.Candidates, c)
			}
		}
	}
	return &to
}

// trip is the way of one request to an instance, over as many tries as it takes.
type trip struct {
	mesh *Mesh
	x    *l7.Exchange
	rule *route.Rule
	plan plan
	conn *conn
	rec  *record

	deadline time.Time // of the whole; zero: none
	retries  int       // used up
	hedge    *hedge    // nil: it is not to be sent a second time
	isSecond bool      // it is the second try of that
	urgency  int       // RFC 9218
	tried    uint64    // key of the instance of a peer's region that broke off just now; 0: none did
	subset   string    // of the service; empty: all of it
	sticks   affinity
	spill    spilling
}

// send goes through the plan until an instance has answered. The error is errNoInstance when there was nothing to try, errAnswered when
// nothing may be tried any more, else that of the last try.
func (t *trip) send() (conveyed, error) {
	resolver := &t.plan.upstream.Resolver
	search := t.rec.start.Add(connectRounds * resolver.ConnectTimeout.D())
	if t.rule.Timeout > 0 {
		t.deadline = t.rec.start.Add(t.rule.Timeout.D())
		search = earlier(search, t.deadline)
	}
	failure := errNoInstance
	var last *step // that may be tried once more when there is no other
	for {
		s, ok := t.plan.next()
		if !ok && last != nil {
			s, ok = *last, true
		}
		entered := false
		if !ok {
			s, entered = t.awaitRoom(search)
			ok = entered
		}
		if !ok || spent(t.conn, search) != nil && t.retries == 0 {
			if entered {
				t.left(s, nil)
			}
			break
		}
		if !entered && !t.enter(s) {
			continue
		}
		c, err := t.try(s, search)
		t.left(s, err)
		if c, s, err = t.settle(s, c, err); err == nil {
			t.mesh.chosen(&t.plan, s, t.rec)
			return c, nil
		}
		if !errors.Is(err, errNoInstance) {
			failure = err
		}
		if c.final || t.conn.isOver() {
			return conveyed{}, failure
		}
		if last = nil; c.again {
			last = &s
		}
	}
	if over := spent(t.conn, search); over != nil && errors.Is(failure, errNoInstance) {
		failure = over
	} else if over == nil && t.spill.full {
		failure = errNoRoom
	}
	return conveyed{}, failure
}

// try sends the request to s.
func (t *trip) try(s step, search time.Time) (c conveyed, err error) {
	t.conn.heads(s.Region)
	t.rec.dstRegion, t.rec.peer, t.rec.endpoint = s.Region, "", ""
	var begin time.Time
	first := t.hedge == nil && t.retries == 0 && t.hedges()
	if first {
		begin = time.Now()
		t.arm(s)
	}
	if s.IsLocal() {
		c, err = t.sendHere(s, search)
	} else {
		t.rec.peer = s.Region
		c, err = t.sendThere(s)
	}
	if first && t.retries == 0 {
		t.measure(s, c, err, time.Since(begin))
	}
	return c, err
}

// way is how a try is sent.
func (t *trip) way() l7.Way {
	way := l7.Way{Deadline: t.deadline, Idle: httpIdle, Ends: t.conn.waits}
	if !t.isSecond {
		way.Interim = t.x.Interim
	}
	if t.rule.IdleTimeout > 0 {
		way.Idle = t.rule.IdleTimeout.D()
	}
	if t.rule.TryTimeout > 0 {
		if until := time.Now().Add(t.rule.TryTimeout.D()); way.Deadline.IsZero() || until.Before(way.Deadline) {
			way.Deadline = until
		}
	}
	return way
}

// sendHere sends the request to instances of this region.
func (t *trip) sendHere(s step, search time.Time) (conveyed, error) {
	m, upstream := t.mesh, t.plan.upstream
	a := &ask{mesh: m, conn: t.conn, rec: t.rec, service: upstream.Service, pool: m.pool(t.plan.snap, s.Local), modes: onlyUsable,
		timeout: upstream.Resolver.ConnectTimeout.D(), deadline: search, two: speaksTwo(s.Local.Protocol()), key: t.sticks.key,
		resolver: &upstream.Resolver, load: t.spill.burden.load, detour: t.spill.detour, urgency: t.urgency}
	if s.why.isPanic() {
		a.modes = inPanic
	}
	if t.hedge != nil {
		t.hedge.shares(a, t.isSecond)
	}
	if err := a.enter(t.subset); err != nil {
		return conveyed{final: !errors.Is(err, errNoInstance)}, err
	}
	for {
		c, err := a.try(t.x.Request, t.way())
		if err != nil {
			switch {
			case errors.Is(err, errNoInstance):
				if !t.isSecond { // that only found no other one
					t.plan.passOver(s, dropUnhealthy)
				}
			case errors.Is(err, errUnreached), errors.Is(err, errCrowded): // nobody has seen it: another region may
			case t.again(err):
				continue
			}
			a.leave()
			return conveyed{final: !errors.Is(err, errNoInstance) && !errors.Is(err, errUnreached) && !errors.Is(err, errCrowded)}, err
		}
		if c.poor = t.rule.Statuses[c.res.StatusCode]; c.poor && t.again(nil) {
			c.drop()
			continue
		}
		done := c.done
		c.done = func(answered bool) {
			done(answered)
			a.leave()
		}
		return c, nil
	}
}

// again reports whether the request may be tried once more after err, nil being a response that is not good enough, and counts it.
func (t *trip) again(err error) bool {
	retry := &t.rule.Retry
	var refused *l7.RefusedError
	var shut *tunnel.RefusedError
	var malformed *http1.Error
	safe := errors.As(err, &refused) || errors.As(err, &shut) || errors.Is(err, errUnreached)
	switch {
	case t.retries >= retry.Attempts, t.conn.isOver(), t.conn.deserted(t.x.Request), t.hedge.isOut(), t.x.Begun():
		return false
	case !t.deadline.IsZero() && !time.Now().Before(t.deadline):
		return false
	case !l7.Untouched(t.x.Request) || errors.As(err, &malformed):
		return false
	case !safe && !retry.AllMethods && !idempotent(t.x.Request.Method):
		return false
	}
	if err != nil {
		reason := federation.RetryReset
		switch {
		case errors.Is(err, errUnreached):
			reason = federation.RetryConnect
		case safe:
			reason = federation.RetryRefused
		}
		if !listed(retry.On, reason) {
			return false
		}
	}
	upstream := t.plan.upstream
	if !t.spill.burden.budget.Retry(upstream.Resolver.RetryBudget, t.mesh.sinceStart()) {
		return false
	}
	t.retries++
	t.rec.retries++
	return true
}

func listed(list []federation.RetryOn, reason federation.RetryOn) bool {
	for _, on := range list {
		if on == reason {
			return true
		}
	}
	return false
}

// explain answers a request that no instance has answered.
func (t *trip) explain(err error) {
	m, p, rec := t.mesh, &t.plan, t.rec
	rec.endpoint = ""
	if p.preferred == "" { // no candidate is allowed
		rec.dstRegion, rec.peer = p.upstream.Candidates[0].Region, ""
		rec.decision = "deny"
		m.decided(rec, p.refusal)
		m.refusedHTTP(t.x, rec, flagDenied, deniedHTTP(p.refusal), p.refusal.Reason)
		return
	}
	rec.decision = "allow"
	if t.conn.why() == nil && t.conn.deserted(t.x.Request) {
		m.deserted(t.x, rec)
		return
	}
	var refused *tunnel.RefusedError
	var over *limitError
	if errors.As(err, &over) {
		m.countShed(p.upstream.Service, over)
		m.refusedHTTP(t.x, rec, flagOverflow, over.response(), over.reason)
		return
	}
	status, f, reason := http.StatusBadGateway, flagConnectFailed, err.Error()
	switch e := t.conn.why(); {
	case e != nil:
		status, f, reason = http.StatusServiceUnavailable, flagLocal, e.reason
	case errors.Is(err, errNoInstance):
		status, f = http.StatusServiceUnavailable, flagNoHealthy
		rec.dstRegion, rec.peer = p.preferred, ""
		if p.blocked != dropNot {
			reason = "region " + string(p.preferred) + ": " + p.blocked.String()
		}
	case exhausted(err):
		status, f = http.StatusServiceUnavailable, flagOverflow
	case errors.As(err, &refused):
		status, f = http.StatusServiceUnavailable, refusalFlag(refused.Code)
	case timedOut(err):
		status, f = http.StatusGatewayTimeout, flagTimeout
	case errors.Is(err, errUnreached), errors.Is(err, tunnel.ErrNoPath):
		status = http.StatusServiceUnavailable
	default:
		f = flagUpstream
	}
	if rec.retries > 1 {
		f |= flagRetries
	}
	if status == http.StatusServiceUnavailable {
		res := l7.Text(status, reason)
		res.Header["Retry-After"] = []string{"1"}
		m.refusedHTTP(t.x, rec, f, res, reason)
		return
	}
	m.refusedHTTP(t.x, rec, f, l7.Text(status, reason), reason)
}
