package tunnel

import (
	"time"
)

// When a flow is a bulk transfer, and how long what is tried for it is watched.
const (
	bulkTick   = tickEvery
	bulkStart  = demoteAfter            // sent, and somebody begins to look
	bulkAfter  = 1 << 20                // sent, and it is one
	bulkFirst  = 100 * time.Millisecond // what QUIC carries is measured at least so long, or for bulkTrips round trips
	bulkWindow = 500 * time.Millisecond // a rate is taken over so long
	bulkSettle = 500 * time.Millisecond // fresh carriers have to find their rate first: so long, or settleTrips round trips
	bulkQuiet  = time.Second            // without a byte: the lane is worth more to another flow
	bulkAgain  = 30 * time.Second       // what has not helped is not tried again for so long

	bulkTrips   = 5
	settleTrips = 15 // ten segments doubled to what a fat path holds, with some losses on the way

	maxStripes = 8

	worthMoving   = 0.8 // of what QUIC carried: a lane also spares three quarters of the processor
	worthStriping = 1.3 // of what half as many carriers did: 15 % for each of two, less than a carrier is expected to add
	pressedShare  = 0.75
)

// bulkPlan is what carries one direction of a flow.
type bulkPlan struct {
	kind kind
	n    int // carriers
}

// bulkView is what is known of a bulk transfer at one moment.
type bulkView struct {
	now     time.Duration // by any clock
	sent    uint64        // bytes taken from whoever writes
	acked   uint64        // of them, acknowledged
	pressed bool          // the writer waits for the carriers
	at      bulkPlan      // what carries them
	rtt     time.Duration
	slowed  bool // the carriers lose segments and take it for congestion
	lanes   bool // lanes can be had
	most    int  // carriers of the kind of at that can be had
}

// bulk decides what carries a bulk transfer, by measuring what it has tried. It starts with what carries the flow, which is one
// stream, and goes from trial to trial: a trial is kept when it delivers enough, compared with the plan before it, and taken back
// otherwise. While nobody waits for the carriers nothing is judged: what they deliver is what they are given.
type bulk struct {
	start   time.Duration
	at      bulkPlan
	moved   bool // away from what carried the flow at the beginning
	since   time.Duration
	from    uint64  // acked when the window began
	begun   bool    // the window has
	ticks   int     // in the window
	pressed int     // of them
	rate    float64 // octets a second, in the last window that was pressed; 0: none

	trial  bool
	before bulkPlan // what at is tried instead of
	had    float64  // what that delivered
	need   float64  // of it

	laneAgain, stripeAgain time.Duration

	sent   uint64
	sentAt time.Duration
	origin uint64 // sent when it began
}

// bulkVerdict is what is to be done.
type bulkVerdict uint8

const (
	bulkStay  bulkVerdict = iota
	bulkShift             // to the plan
	bulkOver              // no bulk transfer any more; back to one stream
)

// step takes the state of things, every bulkTick, and says what to do. When a plan was not to be had, failed is to be called.
func (b *bulk) step(v bulkView) (bulkPlan, bulkVerdict) {
	if b.at.n == 0 {
		b.start, b.sentAt, b.origin = v.now, v.now, v.sent-min(v.sent, bulkStart)
		b.adopt(v.at, v)
	}
	if v.sent != b.sent {
		b.sent, b.sentAt = v.sent, v.now
	}
	if v.now-b.sentAt >= bulkQuiet && v.acked == v.sent {
		return bulkPlan{kindQUIC, 1}, bulkOver
	}
	if v.at != b.at { // a carrier has broken, or fewer were to be had
		if v.at.kind != b.at.kind {
			b.trial, b.laneAgain = false, v.now+bulkQuiet
		}
		b.adopt(v.at, v)
	}
	if !b.measure(v) {
		return b.at, bulkStay
	}
	if b.trial {
		b.trial = false
		if b.rate > 0 && b.rate < b.need*b.had {
			return b.takeBack(v), bulkShift
		}
	}
	return b.next(v)
}

// measure takes one reading and reports whether a window is full.
func (b *bulk) measure(v bulkView) (full bool) {
	settle, window := time.Duration(0), max(bulkFirst, min(bulkTrips*v.rtt, bulkWindow))
	if b.moved {
		settle, window = max(bulkSettle, settleTrips*v.rtt), bulkWindow
	}
	if !b.begun {
		if v.now-b.since < settle {
			return false
		}
		b.begun, b.since, b.from, b.ticks, b.pressed = true, v.now, v.acked, 0, 0
		return false
	}
	b.ticks++
	if v.pressed {
		b.pressed++
	}
	took := v.now - b.since
	if took < window {
		return false
	}
	pressed := float64(b.pressed) >= pressedShare*float64(b.ticks)
	if pressed || !b.trial {
		b.rate = 0
	}
	if pressed {
		b.rate = float64(v.acked-b.from) / took.Seconds()
	}
	b.since, b.from, b.ticks, b.pressed = v.now, v.acked, 0, 0
	return true
}

// next tries something, if there is something to try.
func (b *bulk) next(v bulkView) (bulkPlan, bulkVerdict) {
	switch {
	case !b.moved && b.rate == 0 && v.sent-b.origin < bulkAfter:
		if v.now-b.start >= bulkQuiet {
			return b.at, bulkOver // a conversation
		}
	case b.at.kind == kindQUIC && v.lanes && v.now >= b.laneAgain:
		return b.try(bulkPlan{kindTCP, 1}, worthMoving, v), bulkShift
	case v.slowed && b.rate > 0 && v.now >= b.stripeAgain && min(v.most, maxStripes) > b.at.n:
		return b.try(bulkPlan{b.at.kind, min(2*b.at.n, v.most, maxStripes)}, worthStriping, v), bulkShift
	}
	return b.at, bulkStay
}

func (b *bulk) try(p bulkPlan, need float64, v bulkView) bulkPlan {
	b.trial, b.before, b.had, b.need = true, b.at, b.rate, need
	b.adopt(p, v)
	return p
}

// takeBack returns to what was there before the trial.
func (b *bulk) takeBack(v bulkView) bulkPlan {
	if b.before.kind != b.at.kind {
		b.laneAgain = v.now + bulkAgain
	} else {
		b.stripeAgain = v.now + bulkAgain
	}
	b.adopt(b.before, v)
	return b.at
}

// adopt begins to measure p.
func (b *bulk) adopt(p bulkPlan, v bulkView) {
	b.moved = b.at.n != 0
	b.at, b.since, b.begun, b.rate = p, v.now, false, 0
}

// failed takes a plan back that was not to be had, for the next bulkQuiet.
func (b *bulk) failed(v bulkView) {
	b.trial = false
	b.laneAgain, b.stripeAgain = max(b.laneAgain, v.now+bulkQuiet), max(b.stripeAgain, v.now+bulkQuiet)
	b.adopt(v.at, v)
}
