package exchange

import (
	"container/heap"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Damping at the origin: the peer is told of a slot's health as fast as it changes, until it changes so often that the news is
// only noise.
//
//   - A slot has a bucket of 5 changes that refills with 1 a second. A change that finds it empty holds the slot as it is shown
//     for 10 s.
//   - A change down to 0 healthy is never held: traffic to what is dead costs more than a message. It cannot be used to flood,
//     since the change back up that has to come before the next one is held.
//   - A change up from 0 is held for at most 1 s while the whole service is shown as 0: the hold must not outlast an outage.
//   - A count that stays above 0 is a weight, not a verdict: it is told at most 10 times a second, and when it moved by less
//     than 5 % of the total, once a second.
const (
	dampBurst       = 5
	dampPerSecond   = 1.0
	dampHold        = 10 * time.Second
	dampHoldOutage  = time.Second
	dampCountEvery  = 100 * time.Millisecond
	dampSmallEvery  = time.Second
	dampSmall       = 20   // a change of less than a twentieth is small
	dampersToForget = 4096 // dampers kept before the idle ones are looked for
)

type dampKey struct {
	row *exportRow
	at  place
}

// damper is the recent past of one slot.
type damper struct {
	tokens    float64
	filled    time.Time // when tokens was right
	changed   time.Time // when the slot was last shown anew
	holdUntil time.Time
	retry     time.Time // when the slot is looked at again; zero: not waiting
}

type retry struct {
	key dampKey
	at  time.Time
}

// retries is a heap of the slots that wait, earliest first.
type retries []retry

func (q retries) Len() int           { return len(q) }
func (q retries) Less(i, j int) bool { return q[i].at.Before(q[j].at) }
func (q retries) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *retries) Push(r any) { *q = append(*q, r.(retry)) }

// Pop implements heap.Interface.
func (q *retries) Pop() any {
	last := len(*q) - 1
	r := (*q)[last]
	*q = (*q)[:last]
	return r
}

// damping holds a damper for every slot that changed lately.
type damping struct {
	slots   map[dampKey]*damper
	waiting retries
}

func newDamping() damping { return damping{slots: map[dampKey]*damper{}} }

// admit reports whether slot i of r may be shown as r.truth[i] now. If not, it is looked at again later.
func (d *damping) admit(r *exportRow, i int, now time.Time) bool {
	shown, want := r.shown[i], r.truth[i]
	key := dampKey{r, r.places[i]}
	p := d.slots[key]
	if p == nil {
		d.forget(now)
		p = &damper{tokens: dampBurst, filled: now}
		d.slots[key] = p
	}
	p.tokens = min(dampBurst, p.tokens+now.Sub(p.filled).Seconds()*dampPerSecond)
	p.filled = now
	if at := p.judge(r, shown, want, now); !at.IsZero() {
		d.wait(p, key, at)
		return false
	}
	p.tokens = max(0, p.tokens-1)
	p.changed = now
	return true
}

// judge returns the zero time when the change from shown to want may be made now, and otherwise when to look again.
func (p *damper) judge(r *exportRow, shown, want federation.SlotHealth, now time.Time) time.Time {
	down, up := want.Healthy == 0 && shown.Healthy > 0, want.Healthy > 0 && shown.Healthy == 0
	if !down && !up {
		every := dampCountEvery
		if difference(shown.Healthy, want.Healthy)*dampSmall < want.Total && shown.Total == want.Total {
			every = dampSmallEvery
		}
		p.tokens++ // counts have their own measure
		if at := p.changed.Add(every); !p.changed.IsZero() && now.Before(at) {
			return at
		}
		return time.Time{}
	}
	if p.tokens < 1 && !now.Before(p.holdUntil) {
		p.holdUntil = now.Add(dampHold)
	}
	if down || !now.Before(p.holdUntil) {
		return time.Time{}
	}
	if healthy, _ := sum(r.shown); healthy > 0 {
		return p.holdUntil
	}
	if at := p.changed.Add(dampHoldOutage); now.Before(at) {
		return earlier(at, p.holdUntil)
	}
	return time.Time{}
}

// wait notes that a slot is to be looked at again, unless that is so already, and sooner.
func (d *damping) wait(p *damper, key dampKey, at time.Time) {
	if p.retry.IsZero() || at.Before(p.retry) {
		p.retry = at
		heap.Push(&d.waiting, retry{key, at})
	}
}

// due returns the slots whose wait is over.
func (d *damping) due(now time.Time) []dampKey {
	var keys []dampKey
	for len(d.waiting) > 0 && !now.Before(d.waiting[0].at) {
		r := heap.Pop(&d.waiting).(retry)
		if p := d.slots[r.key]; p != nil && p.retry.Equal(r.at) {
			p.retry = time.Time{}
			keys = append(keys, r.key)
		}
	}
	return keys
}

// next is when due has something; the zero time is never.
func (d *damping) next() time.Time {
	if len(d.waiting) == 0 {
		return time.Time{}
	}
	return d.waiting[0].at
}

// forget drops dampers that have no effect any more, now and then.
func (d *damping) forget(now time.Time) {
	if len(d.slots) == 0 || len(d.slots)%dampersToForget != 0 {
		return
	}
	for key, p := range d.slots {
		idle := now.Sub(p.filled).Seconds()*dampPerSecond >= dampBurst && !now.Before(p.holdUntil) && p.retry.IsZero()
		if idle {
			delete(d.slots, key)
		}
	}
}

func difference(a, b uint32) uint32 { return max(a, b) - min(a, b) }

func sum(slots []federation.SlotHealth) (healthy, total uint64) {
	for _, s := range slots {
		healthy += uint64(s.Healthy)
		total += uint64(s.Total)
	}
	return healthy, total
}

// earlier returns the earlier of two times, of which the zero time is never.
func earlier(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}
