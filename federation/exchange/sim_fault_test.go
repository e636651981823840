package exchange

import (
	"fmt"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// build makes n regions in a full mesh, each with some services.
func (w *world) build(n int, byzantine bool) {
	for i := range n {
		node := &simNode{w: w, index: i, region: federation.Region(fmt.Sprintf("r%d", i)), peers: make([]*simPeer, n),
			disk: simDisk{saved: map[federation.Region][]byte{}}, skew: w.between(-3*time.Second, 3*time.Second)}
		node.backup = node.disk.clone()
		w.nodes = append(w.nodes, node)
		for range 4 {
			node.addService()
		}
	}
	w.nodes[n-1].byz = byzantine
	w.links = make([][]*simLink, n)
	for i := range n {
		w.links[i] = make([]*simLink, n)
		for j := i + 1; j < n; j++ {
			w.links[i][j] = &simLink{w: w, ends: [2]*simNode{w.nodes[i], w.nodes[j]}, delay: w.between(time.Millisecond, 80*time.Millisecond),
				loss: []float64{0, 0.01, 0.1}[w.rng.IntN(3)]}
		}
	}
	for _, node := range w.nodes {
		node.start()
	}
}

func (n *simNode) addService() {
	w := n.w
	w.ids++
	s := &simService{name: name(fmt.Sprintf("s%d", w.ids)), to: map[int]bool{}, proto: federation.ProtocolTCP}
	for i := range len(n.peers) {
		s.to[i] = w.chance(0.8)
	}
	for range w.rng.IntN(7) {
		s.add(w)
	}
	n.truth = append(n.truth, s)
}

func (s *simService) add(w *world) {
	w.ids++
	s.slots = append(s.slots, &simInstance{key: fmt.Sprintf("i%d", w.ids), total: uint32(w.ids), weight: 100, healthy: w.chance(0.8)})
}

// change makes one change to what a region has.
func (w *world) change() {
	if w.calm {
		return
	}
	w.after(w.between(0, 800*time.Millisecond), w.change)
	n := w.nodes[w.rng.IntN(len(w.nodes))]
	if len(n.truth) == 0 {
		n.addService()
		n.soon()
		return
	}
	s := n.truth[w.rng.IntN(len(n.truth))]
	switch w.rng.IntN(14) {
	case 0:
		if len(n.truth) < 10 {
			n.addService()
		}
	case 1:
		n.truth = slices.DeleteFunc(n.truth, func(x *simService) bool { return x == s })
	case 2, 3:
		i := w.rng.IntN(len(w.nodes))
		s.to[i] = !s.to[i]
	case 4:
		s.proto = []federation.Protocol{federation.ProtocolTCP, federation.ProtocolHTTP}[w.rng.IntN(2)]
	case 5, 6:
		if len(s.slots) < 12 {
			s.add(w)
		}
	case 7:
		if len(s.slots) > 0 {
			i := w.rng.IntN(len(s.slots))
			s.slots = slices.Delete(s.slots, i, i+1)
		}
	case 8: // a roll-out: another instance in its place at once
		if len(s.slots) > 0 {
			i := w.rng.IntN(len(s.slots))
			s.slots = slices.Delete(s.slots, i, i+1)
			s.add(w)
		}
	case 9: // a source loses everything it had
		s.slots = nil
	case 10:
		s.slots = nil
		for range 6 {
			s.add(w)
		}
	default:
		n.flip(s, 1+w.rng.IntN(3))
		return
	}
	n.soon()
}

// flip changes the health of some instances, without a change of membership.
func (n *simNode) flip(s *simService, times int) {
	w := n.w
	for k := range times {
		w.after(time.Duration(k)*w.between(0, 300*time.Millisecond), func() {
			var slots []federation.ExportedSlot
			for _, i := range s.slots {
				if w.chance(0.3) {
					i.healthy = !i.healthy
					slots = append(slots, i.slot(n.region))
				}
			}
			if n.alive && !n.deferred(func() { n.export() }) {
				n.health(s, slots)
			}
		})
	}
}

// fault makes one thing go wrong.
func (w *world) fault() {
	if w.calm {
		return
	}
	w.after(w.between(0, 12*time.Second), w.fault)
	i := w.rng.IntN(len(w.nodes))
	j := (i + 1 + w.rng.IntN(len(w.nodes)-1)) % len(w.nodes)
	n, l := w.nodes[i], w.nodes[i].link(j)
	switch w.rng.IntN(12) {
	case 0, 1, 2:
		w.counts.cuts++
		w.note("cut %s-%s", l.ends[0].region, l.ends[1].region)
		l.cut()
	case 3, 4:
		l.partition(false, w.between(100*time.Millisecond, 25*time.Second))
	case 5:
		l.partition(true, w.between(time.Second, 40*time.Second))
	case 6:
		w.note("duplicate %s-%s", l.ends[0].region, l.ends[1].region)
		l.dial(true)
	case 7:
		if n.up() {
			n.paused = w.now.Add(w.between(100*time.Millisecond, 20*time.Second))
			w.note("pause %s until %v", n.region, n.paused.Sub(epoch0))
		}
	case 8:
		n.backup = n.disk.clone()
		w.note("backup %s at %d", n.region, n.backup.counter)
	case 9, 10:
		w.crash(n, w.rng.IntN(4) == 0)
	case 11:
		if n.alive {
			n.w.note("drain %s", n.region)
			p := n.peer(w.nodes[j])
			if !n.deferred(func() {}) {
				p.act(p.m.PlanDrain(n.clock(), 10*time.Second))
			}
		}
	}
}

// crash kills a region and starts it again after a while, from its disk or from an old copy of it.
func (w *world) crash(n *simNode, restore bool) {
	if !n.alive {
		return
	}
	w.counts.crashes++
	n.crash()
	if restore {
		w.counts.restores++
		n.disk = n.backup.clone()
		w.note("restore %s to %d", n.region, n.disk.counter)
	}
	n.skew = w.between(-3*time.Second, 3*time.Second)
	w.after(w.between(100*time.Millisecond, 20*time.Second), n.start)
}

// quiet ends all faults and lets the world come to rest.
func (w *world) quiet() {
	w.calm = true
	w.note("quiet")
	for i := range w.links {
		for _, l := range w.links[i] {
			if l != nil {
				l.blocked = [2]time.Time{}
			}
		}
	}
	w.run(2 * time.Minute) // starts, redials, holds of the brake, damping
	for _, n := range w.nodes {
		for _, p := range n.peers {
			if p != nil && !p.other.byz && w.failed == "" && p.m.heldTill.After(n.clock()) {
				w.run(p.m.heldTill.Sub(n.clock()) + time.Minute)
			}
		}
	}
	if w.failed == "" {
		w.settled()
	}
}
