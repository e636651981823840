package exchange

import (
	"fmt"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// simVersion is a service as one region showed it to another, from some moment on.
type simVersion struct {
	content string // empty: not shown
	slots   map[string]uint32
}

// record notes what p.n shows p.other from now on.
func (p *simPeer) record(v federation.ExportView) {
	shown := map[string]bool{}
	for i := range v.Services {
		s := &v.Services[i]
		name := s.Name.String()
		shown[name] = true
		var b strings.Builder
		fmt.Fprintf(&b, "%s %s", s.Protocol, s.Detail)
		slots := map[string]uint32{}
		for _, slot := range s.Slots {
			fmt.Fprintf(&b, " %s/%s*%d", slot.Key, slot.Locality.Zone, slot.Weight)
			slots[slot.Key] = slot.Health.Total
		}
		p.append(name, simVersion{content: b.String(), slots: slots})
	}
	for name, h := range p.history {
		if !shown[name] && h[len(h)-1].content != "" {
			p.append(name, simVersion{})
		}
	}
}

func (p *simPeer) append(name string, v simVersion) {
	h := p.history[name]
	if len(h) == 0 || h[len(h)-1].content != v.content {
		p.history[name] = append(h, v)
	}
}

// checker holds what one consumer must never go back on.
type checker struct {
	applied  Cursor
	at       map[string]int // the version of each service that was seen last
	forbid   map[string]int // the version at which a service was withdrawn on the urgent lane
	present  map[string]bool
	lastLive time.Time
}

func (c *checker) reset() {
	*c = checker{at: map[string]int{}, forbid: map[string]int{}, present: map[string]bool{}}
}

// onWithdraw returns what is to be noted when a withdrawal arrives: the versions it speaks of.
func (p *simPeer) onWithdraw(a Send) func() {
	if a.Lane != LaneUrgent || p.n.byz {
		return nil
	}
	k, b, err := unwrap(a.Lane, a.Frame)
	if err != nil || k != kindWithdraw {
		return nil
	}
	versions := map[string]int{}
	_ = decodePairs(b, MaxFrame, func(service []byte, _ uint64) error {
		name := string(service)
		h := p.history[name]
		for i := len(h) - 1; i >= 0; i-- {
			if h[i].content == "" {
				versions[name] = i
				break
			}
		}
		return nil
	})
	return func() {
		consumer := p.other.peers[p.n.index]
		for name, v := range versions {
			consumer.check.forbid[name] = max(consumer.check.forbid[name], v)
		}
	}
}

func contentOf(s *federation.ImportedService) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s", s.Protocol, s.Detail)
	for i, slot := range s.Slots {
		fmt.Fprintf(&b, " %s/%s*%d", slot.Key, s.ZoneOf(i), slot.Weight)
	}
	return b.String()
}

// published checks an import: I1 nothing invented, I4 nothing deleted for being absent, I6 nothing of another domain, I7
// nothing that was withdrawn, I11 nothing of a third region.
func (c *checker) published(p *simPeer) {
	w := p.n.w
	if p.imp == nil {
		return
	}
	for name, s := range p.imp.Services {
		want, err := federation.WorkloadID(federation.DefaultTrustDomain(p.other.region), name)
		if err != nil || s.Identity != want || s.Name != name {
			w.fail("I6 %v: %v has the identity %v", p, name, s.Identity)
		}
		if len(s.Slots) != s.Lane.Len() {
			w.fail("I1 %v: %v has %d slots and a lane of %d", p, name, len(s.Slots), s.Lane.Len())
		}
	}
	if p.other.byz {
		return
	}
	history := p.other.peers[p.n.index].history
	for name, s := range p.imp.Services {
		c.sawService(p, name.String(), s, history[name.String()])
	}
	for name := range c.present {
		if _, still := p.imp.Services[mustName(name)]; still {
			continue
		}
		delete(c.present, name)
		h := history[name]
		i := c.at[name] + 1
		for i < len(h) && h[i].content != "" {
			i++
		}
		if i >= len(h) {
			w.fail("I4 %v: %s has gone and was never withdrawn since", p, name)
		}
		c.at[name] = i
	}
}

func mustName(s string) federation.ServiceName {
	n, err := federation.ParseServiceName(s)
	if err != nil {
		panic(err)
	}
	return n
}

func (c *checker) sawService(p *simPeer, name string, s *federation.ImportedService, h []simVersion) {
	w := p.n.w
	content := contentOf(s)
	from := c.at[name]
	if f, ok := c.forbid[name]; ok {
		from = max(from, f+1)
	}
	for i := from; i < len(h); i++ {
		if h[i].content == content {
			c.at[name], c.present[name] = i, true
			c.healths(p, name, s, h[i])
			return
		}
	}
	for i := range h {
		if h[i].content == content {
			if f, ok := c.forbid[name]; ok && i <= f {
				w.fail("I7 %v: %s is shown as of version %d, and was withdrawn at %d", p, name, i, f)
				return
			}
			w.fail("I1 %v: %s went back from version %d to %d", p, name, c.at[name], i)
			return
		}
	}
	w.fail("I1 %v: %s was never what is shown: %s", p, name, content)
}

// healths checks I5: what is said of a slot is said of the instance that is in it now.
func (c *checker) healths(p *simPeer, name string, s *federation.ImportedService, v simVersion) {
	for i, slot := range s.Slots {
		h := s.Lane.Load(i)
		if h.Total != v.slots[slot.Key] || h.Healthy != 0 && h.Healthy != h.Total {
			p.n.w.fail("I5 %v: slot %d of %s is %s with total %d, and has the health %+v", p, i, name, slot.Key, v.slots[slot.Key], h)
		}
	}
}

// heard checks the health of all that is shown.
func (c *checker) heard(p *simPeer) {
	if p.imp == nil || p.other.byz {
		return
	}
	history := p.other.peers[p.n.index].history
	for name, s := range p.imp.Services {
		c.healths(p, name.String(), s, history[name.String()][c.at[name.String()]])
	}
}

// step checks what must hold after every input: I2 cursors do not go back, I8 memory has a bound, I10 LIVE is true, and that
// nothing withdrawn is still shown.
func (c *checker) step(p *simPeer) {
	w, m := p.n.w, p.m
	at := m.imp.applied
	if at.Epoch.Counter < c.applied.Epoch.Counter || at.Epoch == c.applied.Epoch && at.Seq < c.applied.Seq {
		w.fail("I2 %v: applied went back from %v to %v", p, c.applied, at)
	}
	c.applied = at
	if n := len(m.imp.rows); n > m.lim.Services+m.lim.Quarantined || m.imp.bytes > m.lim.Bytes+rowCost*m.lim.Quarantined {
		w.fail("I8 %v: %d rows, %d octets", p, n, m.imp.bytes)
	}
	if s := m.sess; s != nil && s.send.frames-s.send.acked > uint64(max(s.window, 1)) {
		w.fail("I8 %v: %d frames in flight", p, s.send.frames-s.send.acked)
	}
	if p.imp != nil && !p.other.byz {
		for name, f := range c.forbid {
			if _, shown := p.imp.Services[mustName(name)]; shown && c.at[name] <= f {
				w.fail("I7 %v: %s is still shown after it was withdrawn", p, name)
			}
		}
		if p.imp.Freshness == federation.FreshnessLive {
			c.live(p)
		}
	}
}

// live checks I10: what is shown as LIVE was all there was, at most five seconds and a path's delay ago.
func (c *checker) live(p *simPeer) {
	origin := p.other.peers[p.n.index]
	if !p.other.alive || p.m.imp.applied.Epoch != origin.m.log.epoch {
		return // what a life that is over had at the end, nobody can know
	}
	if p.m.imp.applied.Seq >= origin.m.log.seq {
		c.lastLive = p.n.w.now
		return
	}
	// Rows newer than what is applied must be younger than that.
	next := origin.m.log.after(p.m.imp.applied.Seq)
	born := origin.births[next.seq-1]
	if slack := liveFor + 3*time.Second; p.n.w.now.Sub(born) > slack {
		p.n.w.fail("I10 %v: LIVE at %v, and %s has changed at seq %d, %v ago", p, p.m.imp.applied, next.wire, next.seq, p.n.w.now.Sub(born))
	}
}

// settled checks I3 when all is quiet: every import is LIVE and exactly what its origin shows.
func (w *world) settled() {
	for _, n := range w.nodes {
		for _, p := range n.peers {
			if p == nil || p.other.byz || n.byz {
				continue
			}
			origin := p.other.peers[n.index]
			st := p.m.Status()
			switch {
			case st.State != federation.FreshnessLive:
				w.fail("I3 %v: %v when all is quiet: %s\nimport %+v\nexport %+v", p, st.State, st.Reason, st.Import, origin.m.Status().Export)
			case st.Import.Applied != origin.m.log.cursor():
				w.fail("I3 %v: applied %v, head is %v", p, st.Import.Applied, origin.m.log.cursor())
			case st.Import.Braked || len(st.Import.Quarantined) > 0 || len(p.m.imp.gone) > 0:
				w.fail("I3 %v: left over: %+v, %v", p, st.Import, p.m.imp.gone)
			}
			v := p.other.view(n.index)
			if len(v.Services) != len(p.imp.Services) {
				w.fail("I3 %v: %d services, %d are shown", p, len(p.imp.Services), len(v.Services))
			}
			for i := range v.Services {
				w.sameAs(p, &v.Services[i])
			}
		}
	}
}

func (w *world) sameAs(p *simPeer, e *federation.ExportedService) {
	s := p.imp.Services[e.Name]
	if s == nil || len(s.Slots) != len(e.Slots) {
		w.fail("I3 %v: %v is not what is shown", p, e.Name)
		return
	}
	for i := range e.Slots {
		h := s.Lane.Load(i)
		if s.Slots[i].Key != e.Slots[i].Key || h.Healthy != e.Slots[i].Health.Healthy || h.Total != e.Slots[i].Health.Total {
			w.fail("I3 %v: slot %s of %v is %+v, and truly %+v", p, s.Slots[i].Key, e.Name, h, e.Slots[i].Health)
		}
	}
}

// orderly checks that regions which keep to the protocol never accuse each other of having broken it.
func (w *world) orderly(p *simPeer, c Close) {
	switch c.Code {
	case CodeMalformed, CodeLimit, CodeDigest, CodeVersion, CodeWrongPeer, CodeNone:
		w.fail("%v: an honest session was closed: %s: %s", p, CodeName(c.Code), c.Reason)
	}
}
