package tunnel

import "time"

// How the rate of a lane is bounded.
const (
	paceFrom    = time.Millisecond       // of round trip: nearer than that, a queue is no delay
	paceWindow  = 250 * time.Millisecond // a rate is taken over so long, or paceTrips round trips
	paceTrips   = 5
	paceMemory  = 10 * time.Second // the largest of so long counts, as in BBR
	paceProbe   = 4 * time.Second  // from probe to probe for more
	probeTrips  = 10               // a probe: BBR tries once in eight round trips
	paceTry     = 1.25             // of the rate, while probing: what BBR tries; a window that finds more begins another probe
	paceQueue   = 64 << 10         // octets in the queue are aimed at: several lanes settle at equal shares then (TCP Vegas)
	paceLeast   = 0.75             // of the rate: to drain a queue
	paceMost    = 1.05             // of the rate: to fill one
	drainTrips  = 60               // a queue that has not gone by then is somebody else's
	paceResign  = 10 * time.Second // who is then left alone, for so long
	paceRamp    = 1.1              // growth of the rate from window to window that says that the lane has not found it yet
	paceFound   = 1.05             // of the largest rate: there is more
	paceUnbound = 0
)

// paceView is how a lane fares at one moment.
type paceView struct {
	now         time.Duration
	delivered   uint64 // octets, also behind a gap
	rtt, minRTT time.Duration
	pressed     bool    // something waits to be sent
	again       float64 // share of what is sent that was sent before
}

// pacer bounds the rate of a lane so that it keeps the queue before it nearly empty: a congestion control alone leaves a round trip
// of delay there, or more, and everything else on the path waits in it. It is a delay-based controller on top of the kernel's: the
// rate that the path has been seen to deliver, a little more of it while the queue is shorter than wanted, less while it is longer.
// Because a queue that somebody else fills would push it aside, it gives up for a while when the queue does not react.
type pacer struct {
	begun      bool
	since      time.Duration // of the window
	from       uint64
	ticks      int
	pressed    int         // of them
	best       [2]rateSeen // the largest of the last paceMemory, and the largest since that
	last       float64
	known      bool // the lane has found its rate
	probeAt    time.Duration
	probeEnd   time.Duration
	over       time.Duration // since when the queue has been too long
	resignedTo time.Duration
}

type rateSeen struct {
	at   time.Duration
	rate float64
}

// step takes a sample and returns the bound, in octets a second; paceUnbound: none.
func (p *pacer) step(v paceView) uint64 {
	if v.minRTT < paceFrom {
		return paceUnbound
	}
	p.measure(v)
	if !p.known || v.now < p.resignedTo {
		return paceUnbound
	}
	rate := p.best[0].rate * (1 + v.again) // what was delivered, and what is lost on the way
	queue := v.rtt - v.minRTT
	target := min(max(time.Duration(paceQueue/rate*float64(time.Second)), v.minRTT/32), v.minRTT/4)
	switch {
	case queue <= 2*target || v.now < p.probeEnd:
		p.over = 0
	case p.over == 0:
		p.over = v.now
	case v.now-p.over >= drainTrips*v.minRTT:
		p.over, p.resignedTo = 0, v.now+paceResign
		return paceUnbound
	}
	if v.now >= p.probeAt {
		p.probeAt, p.probeEnd = v.now+paceProbe, v.now+probeTrips*v.minRTT
	}
	if v.now < p.probeEnd && queue <= v.minRTT/4 {
		return uint64(paceTry * rate)
	}
	share := 1 + float64(target-queue)/float64(v.minRTT)
	return uint64(rate * min(max(share, paceLeast), paceMost))
}

// measure takes the rate of a window.
func (p *pacer) measure(v paceView) {
	if !p.begun {
		p.begun, p.since, p.from = true, v.now, v.delivered
		return
	}
	p.ticks++
	if v.pressed || v.rtt-v.minRTT > v.minRTT/8 { // a queue there is as good: the kernel waits for its window
		p.pressed++
	}
	took := v.now - p.since
	if took < max(paceWindow, paceTrips*v.minRTT) {
		return
	}
	rate := float64(v.delivered-p.from) / took.Seconds()
	pressed := float64(p.pressed) >= pressedShare*float64(p.ticks)
	p.since, p.from, p.ticks, p.pressed = v.now, v.delivered, 0, 0
	switch {
	case rate <= 0:
		return
	case !pressed: // says nothing about the path, and what is known of it stays
		for i := range p.best {
			p.best[i].at += took
		}
	}
	if !p.known && pressed && rate < paceRamp*p.last {
		p.known = true
		p.probeAt = v.now // what it has found while it grew may be too little
	}
	p.last = rate
	if p.known && rate > paceFound*p.best[0].rate {
		p.probeAt = v.now
	}
	if rate >= p.best[0].rate || v.now-p.best[0].at > paceMemory {
		p.best[0], p.best[1] = p.best[1], rateSeen{}
		if rate >= p.best[0].rate {
			p.best[0] = rateSeen{v.now, rate}
		}
	} else if rate >= p.best[1].rate {
		p.best[1] = rateSeen{v.now, rate}
	}
}
