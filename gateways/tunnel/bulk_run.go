package tunnel

import (
	"cmp"
	"math"
	"slices"
	"time"
)

// lossy is the share of segments lost from which a congestion control that takes each loss for congestion is held up.
const lossy = 0.001

// watchBulk begins to look after a flow that has sent much. mu is held.
func (f *Flow) watchBulk() {
	f.bulkAt = math.MaxUint64
	f.far.t.start(f.runBulk)
}

// runBulk chooses what carries this end's bytes, for as long as they are a bulk transfer.
func (f *Flow) runBulk() {
	tick := time.NewTicker(bulkTick)
	defer tick.Stop()
	r := bulkRun{f: f, lanes: map[*leg]*laneRun{}, count: -1}
	defer r.enter(-1)
	for range tick.C {
		v, ok := r.look()
		if !ok {
			return
		}
		r.pace(v)
		switch plan, verdict := r.machine.step(v); verdict {
		case bulkStay:
		case bulkOver:
			if v.at != plan && f.shift(r.choose(plan)) != nil {
				continue // nowhere to go back to: it stays where it is
			}
			f.mu.Lock()
			f.bulkAt = f.out.Offset() + bulkStart
			f.mu.Unlock()
			return
		case bulkShift:
			if f.shift(r.choose(plan)) != nil {
				r.machine.failed(v)
			}
		}
	}
}

// bulkRun is one flow's machine and the carriers it looks at.
type bulkRun struct {
	f       *Flow
	machine bulk
	lanes   map[*leg]*laneRun
	count   int // the kind that it counts for; -1: none
}

// laneRun is what is known of one lane that carries the flow.
type laneRun struct {
	c     *laneCarrier
	pacer pacer
	loss  lossMeter
	bound uint64
	last  tcpSample
	known bool // the kernel says how it fares
}

// enter counts the flow among those of a kind.
func (r *bulkRun) enter(k int) {
	if k == r.count {
		return
	}
	if r.count >= 0 {
		r.f.far.peer.bulk[r.count].Add(-1)
	}
	if k >= 0 {
		r.f.far.peer.bulk[k].Add(1)
	}
	r.count = k
}

// look returns how the transfer fares; ok is false when it is over.
func (r *bulkRun) look() (v bulkView, ok bool) {
	f := r.f
	f.mu.Lock()
	if f.failed != nil || f.writeErr != nil || f.out.Finished() {
		f.mu.Unlock()
		return v, false
	}
	v = bulkView{now: time.Duration(f.far.now()), sent: f.out.Offset(), acked: f.out.Acked(), lanes: true}
	legs := f.stripes
	if len(legs) == 0 && f.cur != nil {
		legs = []*leg{f.cur}
	}
	legs = slices.Clone(legs)
	v.pressed = f.out.Unsent() > 0 || f.out.Unacked() >= keepFlow
	for _, l := range legs {
		v.pressed = v.pressed || l.sending
	}
	f.mu.Unlock()
	v.at = bulkPlan{kindQUIC, max(len(legs), 1)}
	for _, l := range legs {
		v.at.kind = l.s.link.kind()
		v.rtt = max(v.rtt, time.Duration(l.s.srtt.Load()))
	}
	v.slowed = r.slowed(legs)
	v.lanes = len(r.ways(kindTCP)) > 0
	if v.most = len(r.ways(v.at.kind)); v.at.kind == kindTCP && v.most > 0 {
		v.most = maxStripes
	}
	r.enter(int(v.at.kind))
	return v, true
}

// slowed samples the carriers and reports whether one loses segments and takes that for congestion.
func (r *bulkRun) slowed(legs []*leg) (slowed bool) {
	for l := range r.lanes {
		if !slices.Contains(legs, l) {
			delete(r.lanes, l)
		}
	}
	for _, l := range legs {
		c, lane := l.c.(*laneCarrier)
		if !lane {
			slowed = slowed || math.Float64frombits(l.s.loss.Load()) > lossy
			continue
		}
		run := r.lanes[l]
		if run == nil {
			run = &laneRun{c: c}
			r.lanes[l] = run
		}
		if run.last, run.known = c.sample(); !run.known {
			continue
		}
		share := run.loss.next(uint64(run.last.Sent), uint64(run.last.Retransmitted))
		slowed = slowed || share > lossy && c.congestion() != bbr
	}
	return slowed
}

// pace bounds the rates of the lanes.
func (r *bulkRun) pace(v bulkView) {
	for _, l := range r.lanes {
		if !l.known {
			continue
		}
		s := l.last
		bound := l.pacer.step(paceView{now: v.now, delivered: s.Delivered, rtt: s.RTT, minRTT: s.MinRTT, pressed: v.pressed || s.NotSent > 0,
			again: l.loss.share})
		if bound != l.bound && l.c.pace(bound) == nil {
			l.bound = bound
		}
	}
}

// ways are the sessions of a kind that lead to the gateway, the least busy first.
func (r *bulkRun) ways(k kind) []*session {
	all := slices.DeleteFunc(r.f.far.peer.group(r.f.far.id), func(s *session) bool {
		return s.link.kind() != k || s.state.Load() != alive || s.far != r.f.far
	})
	slices.SortFunc(all, func(a, b *session) int {
		return cmp.Or(cmp.Compare(a.bulk.Load(), b.bulk.Load()), cmp.Compare(a.load(), b.load()))
	})
	return all
}

// choose returns a session for each carrier of p.
func (r *bulkRun) choose(p bulkPlan) []*session {
	ways := r.ways(p.kind)
	if len(ways) == 0 {
		return nil
	}
	var to []*session
	for i := range p.n {
		to = append(to, ways[i%len(ways)])
	}
	return to
}
