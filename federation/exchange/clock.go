package exchange

import "time"

// clockSpan is how long the best sample of the peer's clock counts: long enough to outlive a stall of the path, short enough
// to follow a clock that was set.
const (
	clockSpan  = time.Minute
	clockAlarm = 10 * time.Second // certificates begin to suffer
	clockLeast = 8                // samples before an alarm
	clockLate  = 30 * time.Second // no session survives a longer stall, so that what looks longer is a clock that was set
)

// peerClock compares the peer's clock with ours. Delay only makes the peer look behind, so that the largest difference seen is
// the best estimate, and how far a sample is below it says how long that frame was on its way beyond the usual.
type peerClock struct {
	best, before time.Duration // the largest sample since start, and of the span before
	start        time.Time
	samples      int
}

// sample takes the time a frame was sent at, by the peer's clock, and returns how much longer than usual it took to come.
func (c *peerClock) sample(now time.Time, sent int64) time.Duration {
	s := time.Unix(0, sent).Sub(now)
	switch {
	case c.samples == 0:
		c.best, c.before, c.start = s, s, now
	case now.Sub(c.start) >= clockSpan:
		c.before, c.best, c.start = c.best, s, now
	}
	c.samples++
	c.best = max(c.best, s)
	return min(max(c.best, c.before)-s, clockLate)
}

// offset is the peer's clock minus ours, too small by the least delay of the path.
func (c *peerClock) offset() time.Duration {
	if c.samples == 0 {
		return 0
	}
	return max(c.best, c.before)
}
