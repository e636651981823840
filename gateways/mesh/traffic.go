package mesh

import (
	"sync"
	"sync/atomic"

	"github.com/tradewind-mesh/tradewind/federation"
)

// lastMinute is how many seconds are remembered of where calls went.
const lastMinute = 60

// traffic knows how many calls of local callers each region has taken, second by second: requests of services that speak HTTP, when
// they are answered, and connections of the others, when they are made.
type traffic struct {
	counts sync.Map // goes -> *tally
	mu     sync.Mutex
	ticks  int // seconds that have been closed
}

// goes is a service and the region that serves it.
type goes struct {
	service federation.ServiceName
	region  federation.Region
}

type tally struct {
	total  atomic.Uint64
	closed uint64             // of total, what is in seconds; guarded by traffic.mu, as is what follows
	since  int                // the second it began in
	second [lastMinute]uint32 // second i is at i modulo the minute
}

func (t *traffic) count(service federation.ServiceName, region federation.Region) {
	key := goes{service, region}
	c, found := t.counts.Load(key)
	if !found {
		t.mu.Lock()
		c, _ = t.counts.LoadOrStore(key, &tally{since: t.ticks})
		t.mu.Unlock()
	}
	c.(*tally).total.Add(1)
}

// tick closes a second.
func (t *traffic) tick() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, v := range t.counts.Range {
		c := v.(*tally)
		total := c.total.Load()
		c.second[t.ticks%lastMinute] = uint32(total - c.closed)
		c.closed = total
	}
	t.ticks++
}

// rate returns how many calls went from here to key in the last second that was closed, or since, whichever are more, and how many a second
// in the last minute.
func (t *traffic) rate(key goes) (last uint64, perSecond float64) {
	v, found := t.counts.Load(key)
	if !found {
		return 0, 0
	}
	c := v.(*tally)
	t.mu.Lock()
	defer t.mu.Unlock()
	open := c.total.Load() - c.closed
	if t.ticks == c.since {
		return open, float64(open)
	}
	var sum uint64
	for _, n := range c.second {
		sum += uint64(n)
	}
	last = max(open, uint64(c.second[(t.ticks-1)%lastMinute]))
	return last, float64(sum) / float64(min(lastMinute, t.ticks-c.since))
}

// keep drops what known is false for.
func (t *traffic) keep(known func(goes) bool) {
	for k := range t.counts.Range {
		if !known(k.(goes)) {
			t.counts.Delete(k)
		}
	}
}
