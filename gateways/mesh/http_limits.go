package mesh

import (
	"context"
	"fmt"
	"iter"
	"math"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/limit"
)

// maxCallers is how many callers of a service a rate for each caller tells apart: far above the number of services of a mesh.
const maxCallers = 10_000

// burden is what a service has to bear of requests, here.
type burden struct {
	budget limit.Budget
	hedges limit.Budget
	tails  sync.Map // federation.Region -> *limit.Tail
	gate   limit.Gate
	peers  sync.Map // federation.Region -> *limit.Gate
	rates  sync.Map // rateKey -> *limit.Rates or *limit.Rate; as many as resources ever had
	load   *limit.Adaptive
	spills limit.Spills
}

// rateKey is one rate limit of a service.
type rateKey struct {
	rule string // of its route; empty: of its resolver
	federation.RateLimit
}

// burdenOf returns the burden of service.
func (m *Mesh) burdenOf(service federation.ServiceName) *burden {
	if b, found := m.http.burdens.Load(service); found {
		return b.(*burden)
	}
	b, _ := m.http.burdens.LoadOrStore(service, &burden{load: limit.NewAdaptive(limit.AdaptiveConfig{Most: math.MaxInt32})})
	return b.(*burden)
}

// sinceStart is the clock of the limits.
func (m *Mesh) sinceStart() time.Duration { return time.Since(m.http.epoch) }

// limitError says that a request is more than a service has to bear.
type limitError struct {
	status int           // 429: the caller asks too often; 503: too many ask
	wait   time.Duration // until it is worth while to ask again
	reason string
	shed   string // why it is given up to save others, as the metrics call it; empty: it is not
}

func (e *limitError) Error() string { return e.reason }

// response is what the caller is told.
func (e *limitError) response() *http.Response {
	res := l7.Text(e.status, e.reason)
	res.Header["Retry-After"] = []string{strconv.Itoa(max(1, int(math.Ceil(e.wait.Seconds()))))}
	return res
}

// admit lets a request to a service of this region in, within the limits of its resolver, and returns what is to be called when it is
// over. It waits for room no longer than until. The error is a *limitError, or says that conn has ended.
func (m *Mesh) admit(conn *conn, r *federation.Resolver, until time.Time) (leave func(), err error) {
	if len(r.RateLimits) == 0 && r.Limits == (federation.Limits{}) {
		return func() {}, nil
	}
	b := m.burdenOf(conn.service)
	for l := range inOrder(r.RateLimits) {
		if wait, ok := b.take(rateKey{"", l}, conn.source.String(), m.sinceStart()); !ok {
			return nil, overRate(l, wait)
		}
	}
	ctx, stop := context.WithDeadline(context.Background(), until)
	defer stop()
	conn.waits(stop)
	defer conn.waits(nil)
	leave = func() {}
	if n := r.Limits.PerPeerRequests; n > 0 && conn.peer != "" {
		g, _ := b.peers.LoadOrStore(conn.peer, &limit.Gate{})
		gate := g.(*limit.Gate)
		if err := gate.Enter(ctx, n, 0); err != nil {
			return nil, overPeer(n, conn.peer)
		}
		leave = gate.Leave
	}
	if n := r.Limits.Requests; n > 0 {
		if err := b.gate.Enter(ctx, n, r.Limits.Pending); err != nil {
			leave()
			return nil, overRequests(n, err)
		}
		before := leave
		leave = func() {
			b.gate.Leave()
			before()
		}
	}
	return leave, nil
}

// inOrder yields the rate limits in the order in which they are asked: who asks too often must not use up what others may.
func inOrder(all []federation.RateLimit) iter.Seq[federation.RateLimit] {
	return func(yield func(federation.RateLimit) bool) {
		for _, per := range [...]federation.RatePer{federation.PerCaller, federation.PerRule, federation.PerService} {
			for _, l := range all {
				if l.Per == per && !yield(l) {
					return
				}
			}
		}
	}
}

// admitRule lets a request of a local caller pass a rule of its service's route, within the rule's rates, or answers it.
func (m *Mesh) admitRule(x *l7.Exchange, rec *record, who *caller, rule *federation.RouteRule) bool {
	if len(rule.RateLimits) == 0 {
		return true
	}
	b := m.burdenOf(who.wants.Service)
	for l := range inOrder(rule.RateLimits) {
		l = l.Defaulted()
		if wait, ok := b.take(rateKey{rule.Name, l}, who.id.String(), m.sinceStart()); !ok {
			over := overRate(l, wait)
			m.refusedHTTP(x, rec, flagOverflow, over.response(), "rule "+rule.Name+": "+over.reason)
			return false
		}
	}
	return true
}

func overRate(l federation.RateLimit, wait time.Duration) *limitError {
	return &limitError{status: http.StatusTooManyRequests, wait: wait, reason: fmt.Sprintf("more than %s for each %s", l.Rate, l.Per)}
}

func overPeer(n int, peer federation.Region) *limitError {
	return &limitError{status: http.StatusServiceUnavailable, wait: time.Second,
		reason: fmt.Sprintf("more than %d requests of region %s at once", n, peer)}
}

func overRequests(n int, err error) *limitError {
	return &limitError{status: http.StatusServiceUnavailable, wait: time.Second,
		reason: fmt.Sprintf("more than %d requests at once: %v", n, err)}
}

// peek is take of a request that does not come: how long it would have to wait, and how much of the burst is used up.
func (b *burden) peek(l rateKey, caller string, now time.Duration) (used int, wait time.Duration) {
	held, _ := b.rates.Load(l)
	switch r := held.(type) {
	case *limit.Rates:
		return r.Peek(caller, l.RateLimit, now)
	case *limit.Rate:
		return r.Peek(l.RateLimit, now)
	}
	return 0, 0
}

func (b *burden) take(l rateKey, caller string, now time.Duration) (wait time.Duration, ok bool) {
	held, found := b.rates.Load(l)
	if !found {
		if l.Per == federation.PerCaller {
			held, _ = b.rates.LoadOrStore(l, limit.NewRates(maxCallers))
		} else {
			held, _ = b.rates.LoadOrStore(l, &limit.Rate{})
		}
	}
	switch r := held.(type) {
	case *limit.Rates:
		return r.Take(caller, l.RateLimit, now)
	case *limit.Rate:
		return r.Take(l.RateLimit, now)
	}
	return 0, true
}
