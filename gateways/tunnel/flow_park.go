package tunnel

import (
	"sync"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// frameWake is a control frame: flows on which something comes whose reader has said in frameAcks that it sleeps. The entries are
// those of frameAcks, of the ends that write.
//
// QUIC has no way to hear that a stream has news but to wait for it, and a goroutine that waits is a third of what an idle flow takes.
// So a reader that parks tells the other end how far it has come, and that wakes it: before it next writes, or at once when it has
// written more than that already. Neither can be lost while the session lives; when one ends, what was said is said again.
const frameWake flow.Type = 76

// news is a condition that also wakes a reader that has parked: what concerns writers alone uses the Cond. Its lock is held in Broadcast.
type news struct {
	sync.Cond
	parked func()
}

func (n *news) Broadcast() {
	n.Cond.Broadcast()
	if wake := n.parked; wake != nil {
		n.parked = nil
		go wake()
	}
}

// Park sees to it that wake is called, once and in a goroutine of its own, when there may be something to read, an end or an error;
// until then nothing may be read. It reports false when it cannot: then whoever reads waits himself.
func (f *Flow) Park(wake func()) bool {
	if !f.readMu.TryLock() {
		return false
	}
	defer f.readMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	l := f.only.Load()
	if l == nil || l.headerN > 0 || l.left > 0 || f.readErr != nil || f.readFail != nil || f.in.Ended() {
		return false
	}
	if _, ok := l.c.(*quicCarrier); !ok || f.answer != nil && !f.settled() {
		return false
	}
	f.cond.parked = wake
	f.asleep.Store(true)
	f.mark()
	return true
}

// onAsleep takes the word of the other end that its reader sleeps, and has read up to offset. It reports false when that is to be woken.
func (f *Flow) onAsleep(offset uint64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.farAsleep = f.failed == nil && offset == f.out.Offset() && !f.out.Finished()
	return f.farAsleep
}

// onWake takes the other end's word that something comes.
func (s *session) onWake(body []byte) error {
	return flow.ParseConsumed(body, func(c flow.Consumed) {
		if f := s.far.find(c.ID, c.Role.Other()); f != nil {
			f.mu.Lock()
			f.asleep.Store(false)
			f.cond.Broadcast()
			f.mu.Unlock()
		}
	})
}

// rouse wakes the other end's reader if it sleeps. mu is held, and given up meanwhile.
func (f *Flow) rouse() {
	if !f.farAsleep {
		return
	}
	f.farAsleep = false
	s := f.session
	f.mu.Unlock()
	s.wake(f)
	f.mu.Lock()
}

// rouseSoon is rouse for a caller who cannot wait.
func (f *Flow) rouseSoon() {
	if f.farAsleep {
		f.farAsleep = false
		s := f.session
		f.far.t.start(func() { s.wake(f) })
	}
}

// wake tells the other end that something comes on f. A session that cannot say it ends soon, and the other end then asks again.
func (s *session) wake(f *Flow) {
	_ = s.say(frameWake, 0, flow.Consumed{ID: f.id, Role: f.role}.Append(nil)...)
}
