package tunnel

import (
	"math"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// frameEnded is a control frame: an end of a flow that was on a lane has aborted it, with the code in the offset; the body is an entry as
// in frameAcks, of that end. The reset of a stream says so by itself. A lane that is closed looks like one that has broken, and the other
// end would wait for another one.
const frameEnded flow.Type = 77

// tellEnded says that f has been aborted to the other end of l, when l cannot. mu is held.
func (f *Flow) tellEnded(l *leg, code flow.ResetCode) {
	if _, lane := l.c.(*laneCarrier); !lane || l.broken || code == flow.ResetMoved {
		return
	}
	entry := flow.Consumed{ID: f.id, Role: f.role, Offset: flow.Settled}.Append(nil)
	f.far.t.start(func() { _ = l.s.say(frameEnded, uint64(code), entry...) }) // a session that cannot say it takes its flows with it
}

// onEnded takes the other end's word that it has aborted a flow.
func (s *session) onEnded(h flow.Header, body []byte) error {
	return flow.ParseConsumed(body, func(c flow.Consumed) {
		f := s.far.find(c.ID, c.Role.Other())
		if f == nil {
			return
		}
		f.mu.Lock()
		defer f.mu.Unlock()
		code := flow.ResetCode(min(h.Offset, math.MaxUint16))
		_ = f.end(&ResetError{Code: code, Peer: f.far.peer.region, Remote: true}, code)
		f.cond.Broadcast()
	})
}
