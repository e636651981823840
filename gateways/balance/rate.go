package balance

import (
	"math"
	"time"
)

// judgeEvery is the time between two comparisons of success rates: Envoy's default, and as long as the least ejection.
const judgeEvery = int64(10 * time.Second)

// count takes the result of one request for the success rate of s, and compares the rates of all members of p, a whole pool, when
// it is time to.
func (p *Pool) count(s *state, good bool) {
	if good {
		s.good.Add(1)
	} else {
		s.bad.Add(1)
	}
	now, due := p.balancer.clock.ns(), p.group.judgment.Load()
	if due > now || !p.group.judgment.CompareAndSwap(due, now+judgeEvery) || due == 0 {
		return
	}
	p.judge()
}

// judge ejects the members whose share of successes since the last time lies too far below the mean of all.
func (p *Pool) judge() {
	o := p.target.Outlier
	type rated struct {
		member int
		rate   float64
	}
	var all []rated
	var sum, squares float64
	for i := range p.members {
		s := p.members[i].state
		good, bad := float64(s.good.Swap(0)), float64(s.bad.Swap(0))
		if total := good + bad; total > 0 && total >= float64(o.SuccessRateRequests) {
			rate := good / total
			all = append(all, rated{i, rate})
			sum += rate
		}
	}
	if len(all) == 0 || len(all) < o.SuccessRateHosts {
		return
	}
	mean := sum / float64(len(all))
	for _, r := range all {
		squares += (r.rate - mean) * (r.rate - mean)
	}
	least := mean - o.SuccessRate*math.Sqrt(squares/float64(len(all)))
	for _, r := range all {
		if r.rate < least-1e-9 { // equal rates differ from their mean in the last bit
			p.eject(r.member)
		}
	}
}
