package mesh

import (
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

// errOutrun ends a try when another one of the same request has been answered.
var errOutrun = errors.New("another try of the request was answered first")

// The outcomes of a hedge, as the metrics call them.
const (
	hedgeWon    = "won"         // the second try was answered first
	hedgeLost   = "lost"        // the first was
	hedgeFailed = "failed"      // the second try failed, or got an answer that would have been tried again
	hedgeBudget = "over-budget" // there was none, for the budget
)

// hedge is what a request needs to be sent a second time while its first try is slow. That one runs in the request's own goroutine, the
// second in one of its own. The first answer that is good ends the other try, which nobody counts as a failure.
type hedge struct {
	first  step
	picked atomic.Int64 // one more than the index of the instance that has the first try, if it is here
	timer  *time.Timer
	begun  time.Time
	second *trip // made when the timer fires

	mu    sync.Mutex
	over  bool          // an answer is there, or nobody waits for one any more
	won   bool          // the second try has it
	to    step          // where that went
	c     conveyed      // its answer
	ended chan struct{} // is closed when the second try has ended; nil: there is none
}

// hedges reports whether the request may be sent a second time. One that must stay with its instance may not, and neither may the copy
// of another.
func (t *trip) hedges() bool {
	r := t.x.Request
	return t.rule.Retry.Hedge != nil && idempotent(r.Method) && r.ContentLength == 0 && t.x.Upgrade == "" && t.sticks.key == 0 &&
		!t.plan.who.copied
}

// arm has the request sent a second time when its first try, which begins now in s, is slow.
func (t *trip) arm(s step) {
	h, b, now := t.rule.Retry.Hedge, t.spill.burden, t.mesh.sinceStart()
	b.hedges.Request(federation.RetryBudget{Percent: h.Percent}, now)
	after := time.Duration(h.After)
	if after == 0 {
		known := false
		if after, known = b.tail(s.Region).P95(now); !known {
			return
		}
	}
	if !t.deadline.IsZero() && time.Until(t.deadline) <= after {
		return
	}
	p := &t.plan
	t.hedge = &hedge{first: s, begun: time.Now()}
	t.hedge.second = &trip{mesh: t.mesh, rule: t.rule, hedge: t.hedge, isSecond: true, deadline: t.deadline, subset: t.subset,
		urgency: t.urgency, conn: t.conn.beside(), rec: &record{start: t.rec.start}, x: &l7.Exchange{Request: t.x.Request},
		plan:  plan{mesh: p.mesh, snap: p.snap, upstream: p.upstream, who: p.who, request: p.request, lot: p.lot},
		spill: spilling{burden: b, before: true}} // it comes after all first tries
	t.hedge.timer = time.AfterFunc(after, func() { t.hedge.fire(t) })
}

// fire sends the request a second time, if there is where to, and a budget for it.
func (h *hedge) fire(first *trip) {
	t := h.second
	s, found := t.besides(h.first)
	if !found || !t.enter(s) {
		return
	}
	b, now := t.spill.burden, t.mesh.sinceStart()
	h.mu.Lock()
	switch {
	case h.over:
	case !b.hedges.Retry(federation.RetryBudget{Percent: t.rule.Retry.Hedge.Percent}, now),
		!b.budget.Retry(t.plan.upstream.Resolver.RetryBudget, now): // a second try is one more, like any other
		t.mesh.hedged(t, hedgeBudget)
	default:
		h.ended = make(chan struct{})
	}
	h.mu.Unlock()
	if h.ended == nil {
		t.left(s, nil)
		return
	}
	defer close(h.ended)
	t.mesh.live.add(t.conn)
	defer t.mesh.live.remove(t.conn)
	search := time.Now().Add(connectRounds * t.plan.upstream.Resolver.ConnectTimeout.D())
	if !t.deadline.IsZero() {
		search = earlier(search, t.deadline)
	}
	c, err := t.try(s, search)
	t.left(s, err)
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.over:
		t.mesh.hedged(t, hedgeLost)
		c.drop()
	case err != nil || c.poor:
		t.mesh.hedged(t, hedgeFailed)
		c.drop()
	default:
		t.mesh.hedged(t, hedgeWon)
		h.over, h.won, h.c, h.to = true, true, c, s
		first.conn.cut(errOutrun)
	}
}

// besides is where the second try goes: another instance of the same region if there is one, or else the next region that can serve.
func (t *trip) besides(first step) (step, bool) {
	if healthy, _ := first.Health(); healthy > 1 {
		return first, true
	}
	for {
		s, ok := t.plan.next()
		if !ok || s.why != dropNot {
			return step{}, false
		}
		if s.Region != first.Region {
			return s, true
		}
	}
}

// isOut reports whether the request has been sent a second time: then nothing is tried again. If it has not, it will not be.
func (h *hedge) isOut() bool {
	if h == nil {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.ended == nil {
		h.over = true
	}
	return h.ended != nil
}

// shares has a, which looks for an instance here, keep out of the way of the other try.
func (h *hedge) shares(a *ask, second bool) {
	if !second {
		a.picked = &h.picked
		return
	}
	if i := int(h.picked.Load()); i > 0 && h.first.IsLocal() {
		a.tried[0], a.n = i-1, 1
	}
	unrated := *a.resolver
	unrated.RateLimits = nil // the caller has asked once
	a.resolver = &unrated
}

// settle is what has become of the request once its first try has ended, with c or err: the answer of the second try if that was first,
// or if the first one has none that is good.
func (t *trip) settle(s step, c conveyed, err error) (conveyed, step, error) {
	h := t.hedge
	if h == nil || t.isSecond {
		return c, s, err
	}
	h.timer.Stop()
	h.mu.Lock()
	ended := h.ended
	if !h.won && (ended == nil || err == nil && !c.poor || t.conn.isOver()) {
		h.over = true
	}
	wait := !h.over
	h.mu.Unlock()
	if wait {
		t.conn.waits(func() { h.second.conn.cut(errOutrun) })
		<-ended
		t.conn.waits(nil)
	}
	if ended == nil {
		return c, s, err
	}
	t.rec.retries++
	t.rec.flags |= flagHedged
	if !h.won {
		h.second.conn.cut(errOutrun)
		return c, s, err
	}
	if err == nil {
		c.drop()
	}
	second := h.second
	t.rec.endpoint, t.rec.dstRegion, t.rec.peer, t.rec.flags = second.rec.endpoint, h.to.Region, second.rec.peer, t.rec.flags|second.rec.flags
	t.conn.heads(h.to.Region)
	t.conn.resumes(func() { second.conn.cut(errOutrun) })
	c = h.c
	done := c.done
	c.done = func(answered bool) {
		t.conn.waits(nil)
		done(answered)
	}
	return c, h.to, nil
}

// wait returns when the second try has ended, and sees to it that it does, unless its answer is in use.
func (h *hedge) wait() {
	if h == nil {
		return
	}
	h.timer.Stop()
	h.mu.Lock()
	h.over = true
	ended := h.ended
	h.mu.Unlock()
	if ended != nil {
		h.second.conn.cut(errOutrun)
		<-ended
	}
}

// drop gives back what an answer that nobody wants holds.
func (c conveyed) drop() {
	if c.res != nil {
		_ = c.res.Body.Close()
		c.done(true)
	}
}

// measure notes how long the first try in s took to be answered.
func (t *trip) measure(s step, c conveyed, err error, took time.Duration) {
	outrun := t.conn.isOutrun() // then it took longer than that
	if outrun || err != nil && timedOut(err) || err == nil && c.res.StatusCode < http.StatusInternalServerError {
		t.spill.burden.tail(s.Region).Observe(took, t.mesh.sinceStart())
	}
}

// tail is what is known of how long region takes to answer requests that may be hedged.
func (b *burden) tail(region federation.Region) *limit.Tail {
	if t, found := b.tails.Load(region); found {
		return t.(*limit.Tail)
	}
	t, _ := b.tails.LoadOrStore(region, &limit.Tail{})
	return t.(*limit.Tail)
}

// hedged counts a second try, or that there was none.
func (m *Mesh) hedged(t *trip, outcome string) {
	m.metrics.hedges.WithLabelValues(t.plan.upstream.Service.String(), outcome).Inc()
}

// beside is c for another try of the same request.
func (c *conn) beside() *conn {
	return &conn{direction: c.direction, source: c.source, assurance: c.assurance, chain: c.chain, service: c.service, pinned: c.pinned,
		request: c.request, tokens: c.tokens}
}

// isOutrun reports whether c was cut because another try was answered first.
func (c *conn) isOutrun() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over && c.cause == errOutrun //nolint:errorlint // as it was given to cut
}

// resumes takes back a cut by another try, whose answer is c's now and is ended by stop.
func (c *conn) resumes(stop func()) {
	c.mu.Lock()
	if c.cause == errOutrun && c.ended == nil { //nolint:errorlint // as it was given to cut
		c.over, c.cause = false, nil
	}
	c.mu.Unlock()
	c.waits(stop)
}
