package mesh

import (
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

// LimitKind is what a limit bounds.
type LimitKind string

// The kinds of limits.
const (
	LimitRate         LimitKind = "rate"          // requests in a time
	LimitRequests     LimitKind = "requests"      // requests under way at the same time
	LimitPeerRequests LimitKind = "peer_requests" // those of one peer
	LimitConnections  LimitKind = "connections"   // open at the same time, of a service that is carried as tcp
	LimitRoom         LimitKind = "room"          // requests at the same time that instances can take without getting slow, as measured
	LimitPassage      LimitKind = "passage"       // requests at the same time that this gateway sends to a region
	LimitRetries      LimitKind = "retry_budget"  // retries, by the requests there are
)

// Limit is one limit that the call meets, with the figures of this moment.
type Limit struct {
	Kind    LimitKind           `json:"kind"`
	Region  federation.Region   `json:"region"` // whose room it is, or whose resolver says so
	Text    string              `json:"text"`   // the figures in words
	Used    int                 `json:"used"`
	Limit   int                 `json:"limit"` // 0: none is known
	Waiting int                 `json:"waiting,omitempty"`
	Age     federation.Duration `json:"age,omitempty"` // of what another region has said
	Refuses bool                `json:"refuses"`       // one more, now
	Status  int                 `json:"status,omitempty"`
	Wait    federation.Duration `json:"wait,omitempty"` // until it is worth while to ask again
	Reason  string              `json:"reason,omitempty"`

	final bool // nothing else is tried then
}

// refuse makes l refuse with what the data path would answer.
func (l *Limit) refuse(over *limitError, final bool) {
	l.Refuses, l.Status, l.Wait, l.Reason, l.final = true, over.status, federation.Duration(over.wait), over.reason, final
}

// refusing returns the first of list that refuses, or nil.
func refusing(list []Limit) *Limit {
	for i := range list {
		if list[i].Refuses {
			return &list[i]
		}
	}
	return nil
}

// seenBurden is the burden of service as it stands: that of nothing if it has none.
func (m *Mesh) seenBurden(service federation.ServiceName) *burden {
	if b, found := m.http.burdens.Load(service); found {
		return b.(*burden)
	}
	return &burden{load: limit.NewAdaptive(limit.AdaptiveConfig{})}
}

// peekRate says what one rate limit says to one more request of caller.
func (m *Mesh) peekRate(b *burden, rate rateKey, caller string) Limit {
	used, wait := b.peek(rate, caller, m.sinceStart())
	l := Limit{Kind: LimitRate, Region: m.cfg.Region, Used: used, Limit: rate.Burst,
		Text: fmt.Sprintf("%s for each %s: %d of %d at once used up", rate.Rate, rate.Per, used, rate.Burst)}
	if rate.rule != "" {
		l.Text = "rule " + rate.rule + ": " + l.Text
	}
	if wait > 0 {
		l.refuse(overRate(rate.RateLimit, wait), true)
	}
	return l
}

// peekRule says what the rates of a rule of the route of service say to one more request of caller.
func (m *Mesh) peekRule(service federation.ServiceName, rule *federation.RouteRule, caller string) (list []Limit) {
	for rate := range inOrder(rule.RateLimits) {
		list = append(list, m.peekRate(m.seenBurden(service), rateKey{rule.Name, rate.Defaulted()}, caller))
	}
	return list
}

// peekHere says what the limits of this region say to one more request of c, in the order in which admit and try ask them.
func (m *Mesh) peekHere(c *call, peer federation.Region, r *federation.Resolver, detour bool) (list []Limit) {
	b, now, here := m.seenBurden(c.to.Service), m.sinceStart(), m.cfg.Region
	for rate := range inOrder(r.RateLimits) {
		list = append(list, m.peekRate(b, rateKey{"", rate}, c.id.String()))
	}
	if n := r.Limits.PerPeerRequests; n > 0 && peer != "" {
		l := Limit{Kind: LimitPeerRequests, Region: here, Limit: n}
		if g, found := b.peers.Load(peer); found {
			l.Used, _ = g.(*limit.Gate).InUse()
		}
		l.Text = fmt.Sprintf("%d requests of region %s at once: %d under way", n, peer, l.Used)
		if l.Used >= n {
			l.refuse(overPeer(n, peer), false)
		}
		list = append(list, l)
	}
	if n := r.Limits.Requests; n > 0 {
		l := Limit{Kind: LimitRequests, Region: here, Limit: n}
		l.Used, l.Waiting = b.gate.InUse()
		l.Text = fmt.Sprintf("%d requests at once: %d under way, %d of %d wait", n, l.Used, l.Waiting, r.Limits.Pending)
		if l.Used >= n && l.Waiting >= r.Limits.Pending {
			l.refuse(overRequests(n, limit.ErrFull), peer == "")
		}
		list = append(list, l)
	}
	load := b.load.Peek(limit.Share(c.urgency(), detour), now)
	l := Limit{Kind: LimitRoom, Region: here, Used: load.Inside, Limit: load.Limit}
	if l.Text = fmt.Sprintf("%d under way here, not known to be many", load.Inside); load.Limit > 0 {
		l.Text = fmt.Sprintf("%d under way of the %d that instances here took without getting slow; that was measured in the last minute",
			load.Inside, load.Limit)
	}
	if !load.Fits {
		l.refuse(errCrowded, false)
	}
	return append(list, l)
}

// peekPassage says what this gateway says to one more request of c that it would send to region. A detour is meant for a better one.
func (m *Mesh) peekPassage(c *call, region federation.Region, detour bool) Limit {
	f := m.seenBurden(c.to.Service).spills.To(region).Peek(detour, c.urgency(), m.sinceStart())
	l := Limit{Kind: LimitPassage, Region: region, Used: f.Inside, Text: fmt.Sprintf("%d under way from here", f.Inside+f.Detours)}
	if detour {
		l.Used, l.Limit = f.Detours, f.Most
		l.Text = fmt.Sprintf("%d of %d that may be sent there now in place of a better region", f.Detours, f.Most)
	}
	if f.Room >= 0 {
		l.Age = federation.Duration(f.Age.Round(time.Millisecond))
		l.Text += fmt.Sprintf("; it said it has room for %d more, %s ago", f.Room, l.Age)
	}
	switch f.Passage {
	case limit.Open:
	case limit.Full:
		l.refuse(&limitError{status: errNoRoom.status, wait: errNoRoom.wait, reason: fmt.Sprintf("region %s has no room", region)}, false)
	case limit.Later:
		l.Text += "; it is just back, and its requests come back little by little"
	}
	return l
}

// peekRetries says what is left to retry requests of c.
func (m *Mesh) peekRetries(c *call, b federation.RetryBudget) Limit {
	left := m.seenBurden(c.to.Service).budget.Left(b, m.sinceStart())
	percent := strings.TrimSuffix(fmt.Sprintf("%.1f", b.Percent), ".0")
	return Limit{Kind: LimitRetries, Region: m.cfg.Region, Limit: left,
		Text: fmt.Sprintf("%d could be made now, of %s%% of the requests and %s beside", left, percent, b.Minimum)}
}

// peekConnections says whether the service may have one more connection here.
func peekConnections(here federation.Region, open []Endpoint, most int) Limit {
	l := Limit{Kind: LimitConnections, Region: here, Limit: most}
	for _, e := range open {
		l.Used += int(e.InFlight)
	}
	if l.Text = fmt.Sprintf("%d connections at once: %d open", most, l.Used); l.Used >= most {
		l.refuse(&limitError{reason: errFull.Error()}, false)
	}
	return l
}

// header is that of the request in question.
func (c *call) header() http.Header {
	if c.request == nil {
		return nil
	}
	return c.request.Header
}

// meets adds the limits that the call would meet on its way to c, and reports whether it would get there, and if not, whether nothing
// else is tried.
func (m *Mesh) meets(e *Explanation, of *call, c *Candidate, r *federation.Resolver) (through, final bool) {
	var list []Limit
	switch {
	case of.requests:
		if c.why == dropNot {
			list = append(list, m.peekPassage(of, c.Region, c.detour))
		}
		if c.Local && refusing(list) == nil {
			list = append(list, m.peekHere(of, "", r, c.detour)...)
		}
	case c.Local && r.Limits.Connections > 0:
		list = append(list, peekConnections(e.Region, c.Endpoints, r.Limits.Connections))
	}
	e.Limits = append(e.Limits, list...)
	over := refusing(list)
	if over == nil {
		return true, false
	}
	c.Kept, c.Reason = false, over.Reason
	m.limited(e, c, *over)
	return false, over.final
}

// limited notes that over keeps the call from c, in case no other region takes it.
func (m *Mesh) limited(e *Explanation, c *Candidate, over Limit) {
	if e.Verdict != "" && !over.final {
		return
	}
	e.Verdict, e.At, e.Decision = VerdictLimited, over.Region, *c.Decision
	answer := "would be refused now"
	if over.Status != 0 {
		answer = fmt.Sprintf("would be refused with status %d now", over.Status)
	}
	e.Reason = fmt.Sprintf("%s, but it %s: %s%s", c.Decision.Reason, answer, over.Reason, over.again())
}

// again says when it is worth while to ask again.
func (l *Limit) again() string {
	if l.Wait <= 0 {
		return ""
	}
	return fmt.Sprintf("; worth asking again in %s", federation.Duration(max(l.Wait.D().Round(time.Millisecond), time.Millisecond)))
}
