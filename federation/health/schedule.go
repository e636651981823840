package health

import (
	"container/heap"
	"context"
	"net/netip"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// check is one check of one target. It waits in the queue (index >= 0), has an attempt in flight (cancel != nil), or neither:
// then it is gone, not valid, or a TTL check that has failed and waits for a beat.
type check struct {
	target *target
	spec   federation.CheckSpec // defaulted
	addr   netip.AddrPort
	status federation.CheckStatus

	due     time.Time
	index   int                // in the queue, or -1
	cancel  context.CancelFunc // of the attempt in flight
	started time.Time          // of the last attempt
	phase   time.Time          // one moment of the fixed schedule; the others are whole intervals away
	again   bool               // asked for while in flight
	gone    bool

	successes int // in a row
}

// outcome is what one attempt came to.
type outcome struct {
	err        error // nil: passed
	definitive bool  // no second attempt could end otherwise soon: the connection was refused
	output     string
}

// Run makes checks until ctx ends, and calls report, from one goroutine at a time, with every change. It returns nil after the
// last attempt has ended. What is watched stays so, for a later Run.
func (c *Checker) Run(ctx context.Context, report func(federation.HealthReport)) error {
	var attempts sync.WaitGroup
	defer attempts.Wait() // attempts end at once: their contexts derive from ctx
	told := diary{log: c.log}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for ctx.Err() == nil {
		begin, reports, wait := c.turn(ctx, time.Now())
		for _, k := range begin {
			attempts.Go(k)
		}
		for _, n := range reports {
			report(n.HealthReport)
			told.add(time.Now(), n)
		}
		timer.Reset(wait)
		select {
		case <-ctx.Done():
		case <-c.wake:
		case <-timer.C:
		}
	}
	return nil
}

// turn does what is due at now and returns the attempts to begin, the reports to make and how long nothing else is due.
func (c *Checker) turn(ctx context.Context, now time.Time) (begin []func(), reports []news, wait time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 && !c.queue[0].due.After(now) && c.inFlight < c.limit {
		k := heap.Pop(&c.queue).(*check)
		if k.spec.Kind == federation.CheckTTL {
			k.set(now, federation.HealthFailing, "no heartbeat within "+k.spec.TTL.String(), "")
			c.settle(k.target, now)
			continue
		}
		begin = append(begin, c.begin(ctx, k, now))
	}
	for _, t := range c.dirty {
		t.dirty = false
		if !t.gone {
			reports = append(reports, news{federation.HealthReport{Service: t.Service, Instance: t.Instance, Version: t.Version,
				Health: t.health, Reason: t.reason, Since: t.since}, t.told, t.toldFrom})
			t.told, t.toldFrom = t.health, t.since
		}
	}
	c.dirty = c.dirty[:0]
	wait = time.Hour // nothing waits; whoever adds something wakes Run
	if len(c.queue) > 0 && c.inFlight < c.limit {
		wait = max(0, c.queue[0].due.Sub(now))
	}
	return begin, reports, wait
}

// begin returns the attempt of k as a function to run.
func (c *Checker) begin(ctx context.Context, k *check, now time.Time) func() {
	attempt, cancel := context.WithTimeout(ctx, k.spec.Timeout.D())
	if k.started.IsZero() {
		// From here on a fixed phase: checks that appeared together (a deployment, a restart) spread over the interval.
		k.phase = now.Add(time.Duration((1 - c.rand()) * float64(k.spec.Interval.D())))
	}
	k.cancel, k.started, k.again = cancel, now, false
	c.inFlight++
	return func() {
		result := c.probe(attempt, k)
		cancel()
		c.finish(ctx, k, result)
	}
}

// finish applies the outcome of k's attempt and puts k back into the queue.
func (c *Checker) finish(ctx context.Context, k *check, o outcome) {
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.signal()
	c.inFlight--
	k.cancel = nil
	if k.gone {
		return
	}
	if ctx.Err() == nil { // else the attempt was broken off, which says nothing about the instance
		k.apply(now, o)
		c.settle(k.target, now)
	}
	due := k.phase
	if behind := now.Sub(k.phase); behind >= 0 {
		due = k.phase.Add((behind/k.spec.Interval.D() + 1) * k.spec.Interval.D())
		k.phase = due
	}
	if k.again {
		due = later(now, k.started.Add(minRecheck))
	}
	c.schedule(k, due)
}

// apply counts an outcome and moves the health of k when a threshold is reached. The first answer of all decides alone, as in
// Envoy: thresholds damp a change of mind, and there is no mind yet.
func (k *check) apply(now time.Time, o outcome) {
	k.status.Last, k.status.Output = now, clean(o.output)
	first := k.status.Health == federation.HealthUnknown
	if o.err == nil {
		k.successes, k.status.Failures = k.successes+1, 0
		if first || k.successes >= k.spec.HealthyAfter {
			k.set(now, federation.HealthPassing, "", k.status.Output)
		}
		return
	}
	k.successes = 0
	k.status.Failures++
	if first || o.definitive || k.status.Failures >= k.spec.UnhealthyAfter {
		k.set(now, federation.HealthFailing, o.err.Error(), k.status.Output)
	}
}

// set gives k a state.
func (k *check) set(now time.Time, h federation.Health, reason, output string) {
	if h != k.status.Health {
		k.status.Since = now
	}
	k.status.Health, k.status.Reason, k.status.Output = h, clean(reason), output
}

// beaten notes a heartbeat.
func (k *check) beaten(now time.Time) { k.status.Last, k.status.Failures = now, 0 }

// schedule puts k into the queue at due, or moves it there.
func (c *Checker) schedule(k *check, due time.Time) {
	k.due = due
	if k.index >= 0 {
		heap.Fix(&c.queue, k.index)
	} else {
		heap.Push(&c.queue, k)
	}
}

// queue is a heap of checks by due time.
type queue []*check

func (q queue) Len() int           { return len(q) }
func (q queue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q queue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements heap.Interface.
func (q *queue) Push(x any) {
	k := x.(*check)
	k.index = len(*q)
	*q = append(*q, k)
}

// Pop implements heap.Interface.
func (q *queue) Pop() any {
	last := len(*q) - 1
	k := (*q)[last]
	(*q)[last] = nil
	*q = (*q)[:last]
	k.index = -1
	return k
}
