package tunnel

import (
	"context"
	"errors"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	minIdle      = 2                      // lanes that each end has ready: the next flow, and one while that is replaced
	coldIdle     = 16                     // the same while no QUIC session is alive, and every flow needs one
	warmUp       = time.Second            // for QUIC to come up, when a gateway starts
	maxIdle      = 64                     // a session's worst idea of the next burst
	maxLanes     = 512                    // that one end owns in one session
	dialsPerPool = 32                     // handshakes at once: 1 ms of a processor each, and at 40 ms of distance 250 a second
	idleLimit    = 60 * time.Second       // what has not been needed for so long is closed, but for minIdle
	demandWindow = 250 * time.Millisecond // of one burst: as long as a lane takes to dial on most paths
	watchEvery   = 2 * tickEvery          // samples of busy lanes
	checkEvery   = 20 * tickEvery         // looks at idle ones
	laneSilence  = 600 * time.Millisecond // two retransmissions on a short path
	laneRTTs     = 4                      // on a long one
	laneWait     = time.Second            // for a lane, when a burst has used up all: a refused connection is worse
	lingerLimit  = 2 * time.Second        // for the other end to read what was last said
	notSent      = 128 << 10              // octets in the kernel that have not left: more is only delay for what comes behind
)

var (
	errNoLane     = errors.New("no lane is idle")
	errLaneSilent = errors.New("the lane is silent")
	errLaneClosed = errors.New("the lane has ended")
)

// pool is the lanes of a TCP session. Both ends own some; those of the accepter's are dialled for it when it asks.
//
// An idle lane that this end owns has no goroutine and no buffer of ours; what crypto/tls keeps is up to 32 KiB for a lane that
// has carried large records.
type pool struct {
	s       *session
	id      laneKey
	dialler bool
	target  *net.TCPAddr // of the dialler's
	orders  chan bool    // the dialler's: lanes to dial; true for its own
	listens chan *lane   // lanes of the other end's that wait for a first frame

	primed atomic.Bool // this end has had a lane

	mu       sync.Mutex
	lanes    map[*lane]struct{}
	ready    []*lane             // this end's that are idle, the one used last at the end
	waiting  []chan *laneCarrier // who waits for one
	mine     int                 // lanes of this end
	dialling [2]int              // for the other end, for this one
	wanted   int                 // lanes that the other end wants to own
	asked    int                 // lanes that this end has asked for
	askedAt  time.Time
	missed   bool // somebody may have found no idle lane since relieved said so
	taken    int  // since burst began
	demand   int  // the largest burst, slowly forgotten
	burst    time.Time
	failures int // of dialling, in a row
	retry    time.Time
	shut     bool

	ticks  int
	counts pulse // of lanes; the watch's alone
}

func newPool(id laneKey, target *net.TCPAddr) *pool {
	return &pool{id: id, target: target, dialler: target != nil, lanes: map[*lane]struct{}{}, wanted: minIdle,
		orders: make(chan bool), listens: make(chan *lane), missed: true} // flows may have waited for the first one
}

// serve dials what is ordered and waits for first frames, until the session has ended.
func (p *pool) serve(ctx context.Context) {
	for {
		var task func()
		select {
		case <-ctx.Done():
			return
		case <-p.s.link.done():
			return
		case own := <-p.orders:
			task = func() { p.dial(ctx, own) }
		case l := <-p.listens:
			task = func() { p.await(ctx, l) }
		}
		if !p.s.t.start(task) {
			return
		}
	}
}

// take lends an idle lane, or fails at once.
func (p *pool) take() (*laneCarrier, error) {
	for {
		p.mu.Lock()
		p.taken++
		n := len(p.ready)
		if n == 0 || p.shut {
			p.missed = true
			p.mu.Unlock()
			return nil, errNoLane
		}
		l := p.ready[n-1]
		p.ready[n-1] = nil
		p.ready = p.ready[:n-1]
		l.busy = true
		p.mu.Unlock()
		if stillOpen(l.tcp) {
			return &laneCarrier{l: l}, nil
		}
		p.kill(l, errLaneClosed)
	}
}

// wait lends a lane as soon as there is one. It is for flows that have nowhere else to go: a handshake may be waited for.
func (p *pool) wait(ctx context.Context) (*laneCarrier, error) {
	if c, err := p.take(); err == nil {
		return c, nil
	}
	given := make(chan *laneCarrier, 1)
	p.mu.Lock()
	if p.shut {
		p.mu.Unlock()
		return nil, errLaneClosed
	}
	p.waiting = append(p.waiting, given)
	p.mu.Unlock()
	p.s.peer.waited.Add(1)
	p.fill(time.Now())
	select {
	case c := <-given:
		return c, nil
	case <-ctx.Done():
	case <-p.s.link.done():
	}
	p.mu.Lock()
	p.waiting = slices.DeleteFunc(p.waiting, func(w chan *laneCarrier) bool { return w == given })
	p.mu.Unlock()
	select {
	case c := <-given: // it came meanwhile
		c.finished()
	default:
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	return nil, p.s.link.cause()
}

// admit takes a new lane into the pool, not idle yet. It returns nil when there are too many, or the session has ended.
func (p *pool) admit(c *tlsConn, owned bool) *lane {
	l := &lane{tlsConn: c, pool: p, owned: owned}
	lent := &p.s.peer.lent
	p.mu.Lock()
	defer p.mu.Unlock()
	of := p.mine
	if !owned {
		of = len(p.lanes) - p.mine
	}
	if p.shut || of >= maxLanes {
		return nil
	}
	if lent.Add(1) > maxPeerLanes {
		lent.Add(-1)
		return nil
	}
	p.lanes[l] = struct{}{}
	if owned {
		p.mine++
	}
	var owner ender = l
	c.owner.Store(&owner)
	return l
}

// release takes back a lane whose flow is over.
func (p *pool) release(l *lane) {
	_ = l.SetDeadline(time.Time{})
	if l.paced.Swap(false) {
		_ = setPacing(l.tcp, 0)
	}
	p.rest(l)
}

// rest makes l idle: its owner keeps it for the next flow, the other end waits for that flow's first frame.
func (p *pool) rest(l *lane) {
	p.mu.Lock()
	if p.shut || l.gone {
		p.mu.Unlock()
		p.kill(l, errLaneClosed)
		return
	}
	l.busy, l.idle = false, time.Now()
	switch {
	case !l.owned:
		p.mu.Unlock()
		select {
		case p.listens <- l:
		case <-p.s.link.done():
		}
		return
	case len(p.waiting) > 0:
		l.busy = true
		p.waiting[0] <- &laneCarrier{l: l} // has room for it
		p.waiting = slices.Delete(p.waiting, 0, 1)
	case len(p.ready) >= maxIdle:
		p.mu.Unlock()
		p.kill(l, nil)
		return
	default:
		p.ready = append(p.ready, l)
	}
	p.mu.Unlock()
	if !p.primed.Swap(true) {
		p.s.peer.refresh()
	}
}

// await waits for the first frame of a lane that the other end owns, and serves its flow.
func (p *pool) await(ctx context.Context, l *lane) {
	var first [1]byte
	if _, err := io.ReadFull(l, first[:]); err != nil {
		p.kill(l, nil)
		return
	}
	p.mu.Lock()
	l.busy = true
	p.mu.Unlock()
	select {
	case p.s.pending <- struct{}{}:
	case <-ctx.Done():
		return
	}
	p.s.serveCarrier(ctx, &laneCarrier{l: l, first: first[0], hasFirst: true})
}

// kill ends a lane at once. why is for the flow that it carries; nil: it carries none.
func (p *pool) kill(l *lane, why error) {
	p.mu.Lock()
	if l.gone {
		p.mu.Unlock()
		return
	}
	l.gone = true
	p.s.peer.lent.Add(-1)
	delete(p.lanes, l)
	p.ready = slices.DeleteFunc(p.ready, func(o *lane) bool { return o == l })
	if l.owned {
		p.mine--
	}
	ended := p.shut
	p.mu.Unlock()
	if why != nil {
		l.broken.CompareAndSwap(nil, &why)
	}
	if errors.Is(why, errLaneSilent) || errors.Is(why, errLaneClosed) && !ended {
		p.s.peer.died.Add(1)
	}
	if why == nil {
		_ = l.tcp.Close()
	} else {
		l.abort()
	}
	p.s.t.forgetConn(l.live)
}

// linger ends a lane whose flow has stopped in the middle, once the other end has had the time to read the rest.
func (p *pool) linger(l *lane) {
	drain := func() {
		_ = l.tcp.CloseWrite()
		_ = l.SetReadDeadline(time.Now().Add(lingerLimit))
		_, _ = io.Copy(io.Discard, l)
		p.kill(l, nil)
	}
	if !p.s.t.start(drain) {
		p.kill(l, errLaneClosed)
	}
}

// end kills every lane, because the session is over.
func (p *pool) end(why error) {
	p.mu.Lock()
	p.shut = true
	all := maps.Clone(p.lanes)
	idle := slices.Clone(p.ready)
	p.mu.Unlock()
	for _, l := range idle {
		p.kill(l, nil)
	}
	for l := range all {
		p.kill(l, why)
	}
}

// relieved reports whether there are idle lanes again after somebody has found none.
func (p *pool) relieved() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.missed || len(p.ready) == 0 {
		return false
	}
	p.missed = false
	return true
}

// count returns how many lanes are idle, and how many carry a flow.
func (p *pool) count() (idle, busy int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.lanes {
		if l.busy {
			busy++
		}
	}
	return len(p.lanes) - busy, busy
}

// tick keeps the pool in shape.
func (p *pool) tick(now time.Time) pulse {
	p.ticks++
	if p.ticks%int(watchEvery/tickEvery) == 0 {
		p.watchBusy(now)
	}
	if p.ticks%int(checkEvery/tickEvery) == 0 {
		p.checkIdle(now)
	}
	p.fill(now)
	return p.counts
}

// watchBusy ends the lanes that carry a flow and are silent.
func (p *pool) watchBusy(now time.Time) {
	rtt := time.Duration(p.s.srtt.Load() + p.s.rttVar.Load())
	limit := max(laneSilence, laneRTTs*rtt)
	var busy []*lane
	moved := uint64(0)
	p.mu.Lock()
	for l := range p.lanes {
		moved += l.carried.Swap(0)
		if l.busy {
			busy = append(busy, l)
		}
	}
	p.mu.Unlock()
	p.counts.moved += moved
	for _, l := range busy {
		if l.silent(now, limit) {
			p.kill(l, errLaneSilent)
		}
	}
}

// account adds what one lane has counted since before.
func (p *pool) account(before, now tcpSample) {
	p.counts.heard += uint64(now.Heard - before.Heard)
	p.counts.sent += uint64(now.Sent - before.Sent)
	p.counts.lost += uint64(now.Retransmitted - before.Retransmitted)
}

// checkIdle drops idle lanes that have ended, and the oldest that is not needed.
func (p *pool) checkIdle(now time.Time) {
	p.mu.Lock()
	var spare *lane
	if len(p.ready) > minIdle && now.Sub(p.ready[0].idle) > idleLimit {
		spare = p.ready[0]
		p.ready = slices.Delete(p.ready, 0, 1)
	}
	idle := slices.Clone(p.ready)
	p.mu.Unlock()
	if spare != nil {
		p.kill(spare, nil)
	}
	for _, l := range idle {
		if stillOpen(l.tcp) {
			continue
		}
		p.mu.Lock()
		at := slices.Index(p.ready, l) // a flow may have taken it meanwhile
		if at >= 0 {
			p.ready = slices.Delete(p.ready, at, at+1)
		}
		p.mu.Unlock()
		if at >= 0 {
			p.kill(l, errLaneClosed)
		}
	}
}

// fill orders, or asks for, the lanes that are missing.
func (p *pool) fill(now time.Time) {
	floor := minIdle
	if now.Sub(p.s.epoch) > warmUp && !p.s.peer.reachedBy(kindQUIC) {
		floor = coldIdle
	}
	p.mu.Lock()
	if now.Sub(p.burst) >= demandWindow {
		p.demand, p.taken, p.burst = max(p.taken, p.demand*9/10), 0, now
	}
	want := min(max(2*max(p.demand, p.taken), floor), maxIdle) + len(p.waiting)
	missing := min(want-len(p.ready)-p.dialling[1], maxLanes-p.mine-p.dialling[1])
	if !p.dialler {
		p.ask(now, missing)
		return
	}
	theirs := min(p.wanted, maxLanes) - (len(p.lanes) - p.mine) - p.dialling[0]
	free := dialsPerPool - p.dialling[0] - p.dialling[1]
	if p.shut || now.Before(p.retry) {
		free = 0
	}
	mine := max(0, min(missing, free-min(max(theirs, 0), free/2)))
	theirs = max(0, min(theirs, free-mine))
	p.dialling[0] += theirs
	p.dialling[1] += mine
	p.mu.Unlock()
	for i := range mine + theirs {
		select {
		case p.orders <- i < mine:
		case <-p.s.link.done():
			return
		}
	}
}

// ask tells the dialler how many lanes this end wants to own. It unlocks mu.
func (p *pool) ask(now time.Time, missing int) {
	total := p.mine + max(missing, 0)
	due := total != p.asked || missing > 0 && now.Sub(p.askedAt) > time.Second
	if due {
		p.asked, p.askedAt = total, now
	}
	p.mu.Unlock()
	if due {
		_ = p.s.say(frameWant, uint64(total)) // a session that cannot say it ends soon
	}
}

// onWant is the dialler's end of ask.
func (p *pool) onWant(total uint64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wanted = int(min(total, maxLanes))
}

// dialled notes how an attempt to dial a lane has ended.
func (p *pool) dialled(own bool, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if own {
		p.dialling[1]--
	} else {
		p.dialling[0]--
	}
	if err == nil {
		p.failures = 0
		return
	}
	p.failures++
	p.retry = time.Now().Add(backoff(p.failures))
}
