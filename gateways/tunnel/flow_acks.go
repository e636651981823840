package tunnel

import (
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// frameAcks is a control frame: what flows have consumed, many in one. It spares an idle flow a packet of its own, and reaches
// a sender whose flow nobody reads.
const frameAcks flow.Type = 70

// ackAfter is how much may be consumed before it is acknowledged without waiting for the next tick: a sixteenth of what a flow may
// have unacknowledged, so that no sender waits for it.
const ackAfter = keepFlow / 16

// mark puts f on the list of what has to be acknowledged.
func (f *Flow) mark() {
	if f.dirty.Load() || f.dirty.Swap(true) {
		return
	}
	r := f.far
	r.mu.Lock()
	r.dirty = append(r.dirty, f)
	r.mu.Unlock()
}

// tell returns what f has to acknowledge, once.
func (f *Flow) tell() (offset uint64, news bool) {
	offset = f.consumed.Load()
	return offset, f.told.Swap(offset) != offset
}

// consume notes how far the flow has been read.
func (f *Flow) consume(offset uint64) {
	f.consumed.Store(offset)
	f.mark()
	if offset < flow.Settled && offset-f.told.Load() >= ackAfter && f.told.Load() < flow.Settled {
		if l := f.only.Load(); l != nil {
			l.s.sweep()
		}
	}
}

// sweep sends the acknowledgements that are due with all flows of the same gateway. The watch calls it at every tick.
func (s *session) sweep() {
	r := s.far
	if s.state.Load() != alive {
		return // another session may get them there
	}
	now := time.Now()
	r.mu.Lock()
	dirty := r.dirty
	r.dirty, r.spare = r.spare[:0], nil
	ends := now.Sub(r.lastEnds) >= time.Second
	if ends {
		r.lastEnds = now
	}
	r.mu.Unlock()
	var body []byte
	for _, f := range dirty {
		f.dirty.Store(false)
		offset, news := f.tell()
		if stranded := f.stranded.Swap(false); stranded {
			offset, news = flow.Stranded, true
			f.told.Store(0)
		}
		asleep := f.asleep.Swap(false)
		if !news && !asleep {
			continue
		}
		if body == nil {
			body = make([]byte, 0, min(len(dirty), flow.MaxConsumed)*flow.ConsumedLen)
		}
		body = flow.Consumed{ID: f.id, Role: f.role, Offset: offset, Asleep: asleep && offset != flow.Stranded}.Append(body)
		if len(body) >= flow.MaxConsumed*flow.ConsumedLen {
			_ = s.say(frameAcks, 0, body...) // a session that cannot say it ends soon, and all is said again
			body = body[:0]
		}
	}
	if len(body) > 0 {
		_ = s.say(frameAcks, 0, body...)
	}
	clear(dirty)
	r.mu.Lock()
	r.spare = dirty[:0]
	r.mu.Unlock()
	if ends {
		r.age(now)
	}
}

// onAcks takes the acknowledgements of the other end.
func (s *session) onAcks(body []byte) error {
	var wake []byte
	err := flow.ParseConsumed(body, func(c flow.Consumed) {
		f := s.far.find(c.ID, c.Role.Other())
		switch {
		case f == nil:
		case c.Offset == flow.Stranded:
			f.onStranded()
		default:
			f.onAck(c.Offset)
		}
		if c.Asleep && (f == nil || !f.onAsleep(c.Offset)) { // a flow that is unknown has ended here, and that is still to be read
			wake = flow.Consumed{ID: c.ID, Role: c.Role.Other()}.Append(wake)
		}
	})
	if err == nil && len(wake) > 0 {
		err = s.say(frameWake, 0, wake...)
	}
	return err
}
