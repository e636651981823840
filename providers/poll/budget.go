package poll

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Limit is how many requests may be made of one account in one region. The zero value: as is customary for the provider.
type Limit struct {
	Rate  float64 // a second
	Burst int     // at once, after a rest
}

// ParseRate reads a limit such as "10/s", "90/m" or "5000/h". Its burst is what two seconds give: a listing of some pages need not
// wait, and the API sees no more at once than a client that asks steadily makes it expect.
func ParseRate(text string) (Limit, error) {
	number, unit, _ := strings.Cut(text, "/")
	seconds := map[string]float64{"s": 1, "m": 60, "h": 3600}[unit]
	n, err := strconv.ParseFloat(number, 64)
	rate := n / seconds
	if err != nil || seconds == 0 || !(rate >= leastRate && rate <= mostRate) {
		return Limit{}, fmt.Errorf("%s is no rate: write a number of requests in a second, minute or hour, such as \"10/s\" or \"90/m\", "+
			"from one an hour to %d a second", quote(text), mostRate)
	}
	return Limit{Rate: rate, Burst: int(math.Ceil(2 * rate))}, nil
}

const (
	leastRate = 1.0 / 3600 // less would not list anything within the TTL
	mostRate  = 1000       // more is no limit
)

// limits are what we take of each cloud's quota. Others of the account, its autoscalers and consoles, need the rest.
var limits = map[string]Limit{
	"aws":   {Rate: 5, Burst: 20},  // EC2's Describe calls share a bucket of 50 that refills 10 a second
	"gcp":   {Rate: 10, Burst: 20}, // 1500 a minute
	"azure": {Rate: 1.5, Burst: 5}, // Resource Graph: 15 in 5 s
	"":      {Rate: 20, Burst: 50}, // a server of one's own, such as DNS

	// Each service is a request, its agent is on this host, and stale reads spare the leader.
	"consul": {Rate: 100, Burst: 200},
}

// Budgets hands out the right to make requests: one token bucket for each provider, account and region, shared by whatever lists
// there. Its methods may be called from any goroutine.
type Budgets struct {
	own Limit // instead of the provider's
	*shared
}

type shared struct {
	mu      sync.Mutex
	limits  map[string]Limit
	buckets map[bucketKey]*bucket
}

type bucketKey struct {
	provider, account, region string
	own                       Limit
}

// NewBudgets returns budgets with the customary limits of each provider, of which own replaces some.
func NewBudgets(own map[string]Limit) *Budgets {
	b := &Budgets{shared: &shared{limits: map[string]Limit{}, buckets: map[bucketKey]*bucket{}}}
	for provider, l := range limits {
		b.limits[provider] = l
	}
	for provider, l := range own {
		b.limits[provider] = l
	}
	return b
}

// With returns budgets that have a limit of their own. Whatever lists an account with the same own limit shares it, and nothing else
// does: who sets one has looked at the account's quota.
func (b *Budgets) With(own Limit) *Budgets { return &Budgets{own, b.shared} }

// Of returns the budget for requests about scope.
func (b *Budgets) Of(scope Scope) Budget { return b.bucket(scope) }

// bucket returns the bucket of scope.
func (b *Budgets) bucket(scope Scope) *bucket {
	b.mu.Lock()
	defer b.mu.Unlock()
	k := bucketKey{scope.Provider, scope.Account, scope.Region, b.own}
	if b.buckets[k] == nil {
		l := cmp.Or(b.own, b.limits[scope.Provider], b.limits[""])
		b.buckets[k] = &bucket{every: time.Duration(float64(time.Second) / l.Rate), burst: max(1, l.Burst)}
	}
	return b.buckets[k]
}

// bucket is a token bucket that is kept as the time at which it would be full again.
type bucket struct {
	every time.Duration // for one token
	burst int

	mu     sync.Mutex
	full   time.Time
	paused time.Time
	spent  int64
}

// Wait implements Budget. Callers are served in the order in which they come.
func (b *bucket) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	for at := b.reserve(time.Now()); ; {
		if wait := time.Until(at); wait > 0 && !Rest(ctx, wait, nil) {
			return ctx.Err()
		}
		again, ok := b.take(time.Now())
		if ok {
			return nil
		}
		at = again
	}
}

// take uses a token that was reserved before now. When the bucket was paused meanwhile it is worth nothing: those who waited
// would all go at once when the pause is over. Then another one is reserved.
func (b *bucket) take(now time.Time) (again time.Time, ok bool) {
	b.mu.Lock()
	paused := b.paused.After(now)
	if !paused {
		b.spent++
	}
	b.mu.Unlock()
	if !paused {
		return time.Time{}, true
	}
	return b.reserve(now), false
}

// reserve takes one token and returns when it is there.
func (b *bucket) reserve(now time.Time) time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.full = later(b.full, now).Add(b.every)
	return b.full.Add(-time.Duration(b.burst) * b.every)
}

// pause lets nobody through until then, because the provider has asked for it. The tokens that gather meanwhile do not count:
// a burst is the last thing a throttled API needs.
func (b *bucket) pause(until time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if until.After(b.paused) {
		b.paused = until
		b.full = later(b.full, until.Add(time.Duration(b.burst-1)*b.every))
	}
}

func later(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}
