package exchange

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// simDisk is what survives a crash.
type simDisk struct {
	counter uint64
	saved   map[federation.Region][]byte
}

func (d simDisk) clone() simDisk { return simDisk{d.counter, maps.Clone(d.saved)} }

// simNode is one region.
type simNode struct {
	w       *world
	index   int
	region  federation.Region
	skew    time.Duration
	alive   bool
	paused  time.Time
	byz     bool
	disk    simDisk
	backup  simDisk
	epoch   federation.Epoch
	life    int
	peers   []*simPeer // by index of the other node; nil for itself
	truth   []*simService
	changed bool
}

// simService is a service as its region knows it.
type simService struct {
	name  federation.ServiceName
	to    map[int]bool
	slots []*simInstance
	proto federation.Protocol
}

// simInstance has a total that no other instance has, so that health which hits the wrong one is seen.
type simInstance struct {
	key     string
	total   uint32
	weight  uint32
	healthy bool
}

func (n *simNode) up() bool { return n.alive && !n.w.now.Before(n.paused) }

// clock is what the region's clock shows.
func (n *simNode) clock() time.Time { return n.w.now.Add(n.skew) }

func (n *simNode) peer(other *simNode) *simPeer { return n.peers[other.index] }

// deferred plans do for when the region runs again, if it is stopped.
func (n *simNode) deferred(do func()) bool {
	if n.w.now.Before(n.paused) {
		n.w.after(n.paused.Sub(n.w.now), do)
		return true
	}
	return false
}

// start begins a life of the region, with what is on its disk.
func (n *simNode) start() {
	w := n.w
	n.alive = true
	n.life++
	n.disk.counter++
	n.epoch = federation.Epoch{Counter: n.disk.counter, Incarnation: w.rng.Uint64()}
	w.note("start %s epoch %v", n.region, n.epoch)
	for i, other := range w.nodes {
		if i != n.index {
			n.peers[i] = newSimPeer(n, other, n.disk.saved[other.region])
		}
	}
	life := n.life
	w.after(w.between(0, 2*time.Second), func() { // sources take a moment
		if n.alive && n.life == life {
			n.export()
		}
	})
	for i := range w.nodes {
		if i != n.index {
			n.link(i).dial(false)
		}
	}
}

func (n *simNode) link(other int) *simLink {
	return n.w.links[min(n.index, other)][max(n.index, other)]
}

// crash ends a life without a last word.
func (n *simNode) crash() {
	n.w.note("crash %s", n.region)
	n.alive, n.paused = false, time.Time{}
	for i := range n.w.nodes {
		if i == n.index {
			continue
		}
		l := n.link(i)
		side := 0
		if l.ends[1] == n {
			side = 1
		}
		l.current[side] = nil
		n.peers[i].gone = true
		if s := l.current[1-side]; s != nil {
			s.dead = true
			l.lost(1-side, s, n.w.between(0, 12*time.Second))
		}
	}
}

// view is what the region shows a peer.
func (n *simNode) view(to int) federation.ExportView {
	v := federation.ExportView{Origin: n.region}
	for _, s := range n.truth {
		if !s.to[to] {
			continue
		}
		e := federation.ExportedService{Name: s.name, Protocol: s.proto, Detail: federation.DetailEndpoints}
		for _, i := range s.slots {
			e.Slots = append(e.Slots, i.slot(n.region))
		}
		slices.SortFunc(e.Slots, func(a, b federation.ExportedSlot) int { return compare(a.Key, b.Key) })
		v.Services = append(v.Services, e)
	}
	slices.SortFunc(v.Services, func(a, b federation.ExportedService) int { return a.Name.Compare(b.Name) })
	return v
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func (i *simInstance) slot(region federation.Region) federation.ExportedSlot {
	s := federation.ExportedSlot{Key: i.key, Locality: federation.Locality{Region: region, Zone: "z"}, Weight: i.weight,
		Health: federation.SlotHealth{Total: i.total}}
	if i.healthy {
		s.Health.Healthy = i.total
	}
	return s
}

// export tells every machine of the region what it shows.
func (n *simNode) export() {
	n.changed = false
	for _, p := range n.peers {
		if p != nil {
			v := n.view(p.other.index)
			p.record(v)
			p.act(p.m.SetExport(n.clock(), v))
		}
	}
}

// soon exports in a moment, once for all that happens until then.
func (n *simNode) soon() {
	if n.changed {
		return
	}
	n.changed = true
	life := n.life
	n.w.after(n.w.between(0, 10*time.Millisecond), func() {
		if n.alive && n.life == life && !n.deferred(n.export) {
			n.export()
		}
		n.changed = false
	})
}

func (n *simNode) health(s *simService, slots []federation.ExportedSlot) {
	for _, p := range n.peers {
		if p != nil && s.to[p.other.index] {
			p.act(p.m.SetHealth(n.clock(), s.name, slots))
		}
	}
}

// simPeer is one machine of a region, and what is known about it.
type simPeer struct {
	n, other *simNode
	m        *Machine
	imp      *federation.Import
	gone     bool
	tick     time.Time
	check    checker
	history  map[string][]simVersion // of what n showed other, by service; outlives lives
	births   []time.Time             // when each number of the present epoch was given out
	bornIn   federation.Epoch
}

func newSimPeer(n, other *simNode, saved []byte) *simPeer {
	w := n.w
	cfg := testConfig(n.region, other.region, 1)
	cfg.Epoch = n.epoch
	cfg.Rand = rand.New(rand.NewPCG(w.rng.Uint64(), 1))
	m, err := New(cfg, saved)
	if err != nil {
		w.fail("%s cannot read what it saved of %s: %v", n.region, other.region, err)
	}
	p := &simPeer{n: n, other: other, m: m, history: map[string][]simVersion{}}
	if old := n.peers[other.index]; old != nil {
		p.history = old.history
	}
	p.check.reset()
	w.after(0, func() {
		if !p.gone {
			p.act(p.m.Tick(n.clock()))
		}
	})
	return p
}

func (p *simPeer) connected() { p.act(p.m.Connected(p.n.clock())) }

func (p *simPeer) disconnected() { p.act(p.m.Disconnected(p.n.clock())) }

func (p *simPeer) receive(lane Lane, f []byte) {
	if p.other.byz {
		lane, f = p.n.w.mutate(lane, f)
	}
	p.act(p.m.Receive(p.n.clock(), lane, f))
}

func (p *simPeer) link() (*simLink, int) {
	l := p.n.link(p.other.index)
	if l.ends[1] == p.n {
		return l, 1
	}
	return l, 0
}

// act does what the machine says, then checks all that must hold.
func (p *simPeer) act(actions []Action) {
	w := p.n.w
	if p.gone {
		return
	}
	l, side := p.link()
	for _, a := range actions {
		switch a := a.(type) {
		case Send:
			if s := l.current[side]; s != nil {
				_, _ = w.trace.Write(a.Frame)
				s.send(side, a.Lane, a.Frame, p.onWithdraw(a))
			}
		case Close:
			w.note("close %s->%s %s: %s", p.n.region, p.other.region, CodeName(a.Code), a.Reason)
			w.counts.closes++
			if !p.other.byz && !p.n.byz {
				w.orderly(p, a)
			}
			if s := l.current[side]; s != nil {
				l.current[side] = nil
				if w.chance(0.5) {
					s.dead = true // the close overtakes what was sent before it
				}
				l.lost(1-side, s, w.between(l.delay, 2*l.delay+time.Millisecond))
				l.dial(false)
			}
		case Publish:
			w.counts.publishes++
			p.imp = a.Import
			p.check.published(p)
		case HealthChanged:
			p.check.heard(p)
		case Persist:
			saved := p.m.Saved()
			w.after(w.between(0, 100*time.Millisecond), func() {
				if !p.gone {
					p.n.disk.saved[p.other.region] = saved
				}
			})
		case JumpEpoch:
			p.jump(a.AtLeast)
		case Alarm:
			w.counts.alarms++
			w.note("alarm %s: %v", p.n.region, a.Diagnostic)
		case PeerGone:
			if !p.other.byz {
				w.fail("%s was told that %s removed the peering, and it never did", p.n.region, p.other.region)
			}
		}
	}
	p.born()
	p.check.step(p)
	p.schedule()
}

// born notes when the numbers of the export's sequence were given out.
func (p *simPeer) born() {
	if p.bornIn != p.m.log.epoch {
		p.bornIn, p.births = p.m.log.epoch, p.births[:0]
	}
	for uint64(len(p.births)) < p.m.log.seq {
		p.births = append(p.births, p.n.w.now)
	}
}

func (p *simPeer) jump(atLeast uint64) {
	w, n := p.n.w, p.n
	if p.other.byz && atLeast > 1<<20 {
		return // an operator would not either
	}
	life := n.life
	w.after(w.between(0, 20*time.Millisecond), func() {
		if !n.alive || n.life != life || n.epoch.Counter > atLeast {
			return
		}
		w.counts.jumps++
		n.disk.counter = max(n.disk.counter, atLeast) + 1
		n.epoch = federation.Epoch{Counter: n.disk.counter, Incarnation: w.rng.Uint64()}
		w.note("jump %s to %v", n.region, n.epoch)
		for _, q := range n.peers {
			if q != nil {
				q.act(q.m.SetEpoch(n.clock(), n.epoch))
			}
		}
	})
}

// schedule plans the next tick.
func (p *simPeer) schedule() {
	w := p.n.w
	at := p.m.Deadline()
	if at.IsZero() {
		return
	}
	at = at.Add(-p.n.skew)
	if at.Before(w.now) {
		at = w.now
	}
	if !p.tick.IsZero() && !at.Before(p.tick) {
		return
	}
	p.tick = at
	w.after(at.Sub(w.now), func() { p.fire(at) })
}

func (p *simPeer) fire(at time.Time) {
	if p.gone || !p.tick.Equal(at) {
		return
	}
	if p.n.deferred(func() { p.fire(at) }) {
		return
	}
	p.tick = time.Time{}
	p.act(p.m.Tick(p.n.clock()))
	if at := p.m.Deadline(); !at.IsZero() && !at.After(p.n.clock()) {
		p.n.w.fail("%v: Tick left something undone: %+v", p, p.m.Status())
	}
}

func (p *simPeer) String() string { return fmt.Sprintf("%s<-%s", p.n.region, p.other.region) }
