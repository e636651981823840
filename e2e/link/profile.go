package link

import (
	"errors"
	"fmt"
	"time"
)

// A Profile is the quality of one direction. The zero value is a perfect wire.
type Profile struct {
	Delay  time.Duration // from one end to the other
	Jitter time.Duration // each packet takes Delay plus or minus up to this, evenly spread; at most Delay
	// JitterReorders lets packets with less jitter overtake. Otherwise each waits for the one before it, so the more packets
	// there are within one Jitter, the nearer the mean comes to Delay+Jitter.
	JitterReorders bool

	Loss  float64 // probability, 0 to 1, each packet on its own
	Burst Burst   // losses that come together, beside Loss

	Rate  int64 // bit/s, counting the octets of IP packets; 0: no limit
	Queue int   // octets that wait for the wire before further ones are dropped; 0: what Rate carries in 100 ms

	Reorder      float64       // probability that a packet is held back for ReorderDelay while those behind it pass
	ReorderDelay time.Duration // on top of Delay
	Duplicate    float64       // probability that a packet arrives twice

	Blackhole bool // everything that enters is dropped
	MTU       int  // octets; larger packets are dropped without a word; 0: only the devices' limit
	BlockUDP  bool // UDP is dropped, as by many a corporate firewall
	BlockTCP  bool // TCP is dropped
}

// Burst is the Gilbert-Elliott model of loss: a direction is in a good or a bad state, and before each packet it may change.
// In the good state Profile.Loss holds, in the bad one Burst.Loss.
type Burst struct {
	Enter float64 // probability of going from good to bad
	Leave float64 // probability of going from bad to good: the mean stay is 1/Leave packets
	Loss  float64 // probability of loss in the bad state
}

// Bursts returns the Burst that loses the given share of packets, 0 to 1, in runs of the given mean length in packets.
func Bursts(share, length float64) Burst {
	if share <= 0 {
		return Burst{}
	}
	return Burst{Enter: share / (length * (1 - share)), Leave: 1 / length, Loss: 1}
}

// Limits keep a slip of the pen (ns for ms, % for a fraction) from looking like a result.
const (
	maxDelay = time.Minute
	minRate  = 1000 // bit/s: a full packet takes 12 s
	maxRate  = 100e9
	minMTU   = 68 // RFC 791: what every link carries
	maxMTU   = 65535
	maxQueue = 1 << 28
)

// queueTime is what a queue holds unless told: 100 ms is a common rule for routers on long paths, about one round trip.
const queueTime = 100 * time.Millisecond

func (p Profile) validate() error {
	var errs []error
	refuse := func(bad bool, format string, args ...any) {
		if bad {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	for _, share := range []struct {
		name  string
		value float64
	}{
		{"loss", p.Loss}, {"burst enter", p.Burst.Enter}, {"burst leave", p.Burst.Leave}, {"burst loss", p.Burst.Loss},
		{"reorder", p.Reorder}, {"duplicate", p.Duplicate},
	} {
		refuse(!(share.value >= 0 && share.value <= 1), "%s %v is not a probability from 0 to 1", share.name, share.value)
	}
	refuse(p.Burst.Enter > 0 && p.Burst.Leave == 0, "bursts that begin (burst enter %v) must end: burst leave is 0", p.Burst.Enter)
	refuse(p.Delay < 0 || p.Delay > maxDelay, "delay %v is not from 0 to %v", p.Delay, maxDelay)
	refuse(p.Jitter < 0 || p.Jitter > p.Delay, "jitter %v is not from 0 to the delay, %v", p.Jitter, p.Delay)
	refuse(p.Rate != 0 && (p.Rate < minRate || p.Rate > maxRate), "rate %d bit/s is not from %d to %d", p.Rate, minRate, int64(maxRate))
	refuse(p.Queue < 0 || p.Queue > maxQueue, "queue %d is not from 0 to %d octets", p.Queue, maxQueue)
	refuse(p.Queue > 0 && p.Rate == 0, "a queue of %d octets needs a rate: without one nothing waits", p.Queue)
	refuse(p.ReorderDelay < 0 || p.ReorderDelay > maxDelay, "reorder delay %v is not from 0 to %v", p.ReorderDelay, maxDelay)
	refuse(p.Reorder > 0 && p.ReorderDelay == 0, "reorder %v needs a reorder delay", p.Reorder)
	refuse(p.MTU != 0 && (p.MTU < minMTU || p.MTU > maxMTU), "MTU %d is not from %d to %d", p.MTU, minMTU, maxMTU)
	return errors.Join(errs...)
}

// queue is the limit in octets that holds, for a Profile with a Rate.
func (p *Profile) queue() int {
	if p.Queue > 0 {
		return p.Queue
	}
	return int(float64(p.Rate) / 8 * queueTime.Seconds())
}
