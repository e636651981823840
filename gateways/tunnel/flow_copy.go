package tunnel

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// A packet that is lost with nothing behind it is missed by nobody until a timer of QUIC's runs out, two round trips later, and most
// requests and answers are one packet. So on a path that loses packets what is small leaves twice: on its carrier, and as a datagram
// (RFC 9221) over another session with the same gateway. A datagram is not repeated and waits for nothing, and whoever comes second
// is dropped by its offset. To the flow a copy is one more carrier, which has ended already; no byte is ever put in order.
//
// The copy of an OPEN may come first, and its stream a moment later: such a flow, an orphan, is served at once, answers by copies, and
// gets its carrier when the stream comes. It is the only way in which an OPEN travels twice unasked, so the answerer remembers for
// copyLife what flows it has seen, and a copy proves by a number of the answerer's own pings that it is not older than that.
const (
	copyAt      = 0.002            // share of packets lost in a second above which what is small is copied: one of 500
	copyFor     = 30 * time.Second // after the last such second: a loss of 1 % is not seen in every one
	copyNearest = time.Millisecond // round trip below which nothing is copied: losses there come of too much work, not too little
	copyLife    = 3 * time.Second  // no copy is older
	copyGrace   = time.Millisecond // for what came by a copy to come by itself; a 32nd of the round trip is added

	copyData    = 900            // octets of DATA in a copy, which fits with an OPEN into the smallest packet of QUIC
	copyMost    = 1150           // octets of a copy
	copyFlight  = 4 * 1024       // octets written at once that are copied: more keeps QUIC's own detection of losses busy
	copyAhead   = 16 * 1024      // octets of one direction not acknowledged yet: beyond them it is a transfer
	copyQueue   = 32             // copies that wait for a session; what is too many is dropped
	copyPending = 256            // copies of one session whose grace has not passed; the same
	copyOrphans = 1024           // flows of one gateway that have no carrier yet; the same
	copyLegs    = 4              // copies that one flow reads from; the same
	copyHead    = 16 + 1 + 8 + 8 // octets: ID, role, ping, and how far whoever has consumed needs it not
)

// copies reports whether what is small is to leave twice.
func (r *remote) copies() bool { return r.now() < r.lossy.Load() }

// noteLoss takes the share of packets that a session over QUIC has lost in a second.
func (s *session) noteLoss(share float64) {
	if share >= copyAt && s.link.kind() == kindQUIC && s.srtt.Load() >= int64(copyNearest) {
		s.far.lossy.Store(s.far.now() + int64(copyFor))
	}
}

// copy sends what has just been given to the flow once more: payload, the bytes from offset on, with the head while nobody is
// known to have it, and the end if it has been given. mu is held.
func (f *Flow) copy(offset uint64, payload []byte) {
	if !f.copied && (f.role == flow.Opener || !f.far.copies()) || len(payload) > copyFlight || f.out.Unacked() > copyAhead || f.cur == nil {
		return
	}
	if _, ok := f.cur.c.(*quicCarrier); !ok && !f.orphan {
		return
	}
	s := f.far.peer.bestOf(f.far.id, []*session{f.cur.s})
	if s == nil || s.link.kind() != kindQUIC {
		return
	}
	for first := true; first || len(payload) > 0; first = false {
		n := min(len(payload), copyData)
		b := make([]byte, copyHead, copyMost)
		frames, upTo := f.out.Copy(b, offset, payload[:n])
		if offset, payload = offset+uint64(n), payload[n:]; len(frames) > copyMost || len(frames) == len(b) {
			continue
		}
		copy(b, f.id[:])
		b[len(f.id)] = byte(f.role)
		binary.BigEndian.PutUint64(b[len(f.id)+9:], upTo)
		s.link.(*quicLink).sendCopy(frames)
	}
}

// sendCopy queues b, or drops it.
func (l *quicLink) sendCopy(b []byte) {
	heard := l.s.pinged.Load()
	if heard == 0 || !l.datagrams {
		return
	}
	binary.BigEndian.PutUint64(b[len(flow.ID{})+1:], heard)
	select {
	case l.copies <- b:
	default:
		return
	}
	if !l.sending.Swap(true) && !l.s.t.start(l.sendCopies) {
		l.sending.Store(false)
	}
}

// sendCopies empties the queue. It is a goroutine of its own because quic-go blocks when it has enough of them.
func (l *quicLink) sendCopies() {
	for {
		select {
		case b := <-l.copies:
			if l.conn.SendDatagram(b) == nil {
				l.s.peer.copied.Add(1)
			}
			continue
		default:
		}
		l.sending.Store(false)
		if len(l.copies) == 0 || l.sending.Swap(true) {
			return
		}
	}
}

// takeCopies takes what the other end sends twice, until the session has ended.
func (l *quicLink) takeCopies(ctx context.Context) {
	for {
		b, err := l.conn.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		if len(b) > copyHead && flow.Role(b[len(flow.ID{})]) <= flow.Answerer {
			l.s.onCopy(b)
		}
	}
}

// onCopy waits for what b is a copy of, and takes it when that has not come.
func (s *session) onCopy(b []byte) {
	if !s.isFresh(binary.BigEndian.Uint64(b[len(flow.ID{})+1:])) || !s.needsCopy(b) {
		return
	}
	if s.waiting.Add(1) > copyPending {
		s.waiting.Add(-1)
		return
	}
	time.AfterFunc(copyGrace+time.Duration(s.srtt.Load()/32), func() {
		s.waiting.Add(-1)
		if s.needsCopy(b) {
			s.t.start(func() { s.takeCopy(b) })
		}
	})
}

// isFresh reports whether something was sent less than copyLife ago by an end that had heard the ping n of this one.
func (s *session) isFresh(n uint64) bool {
	last := s.pings.Load()
	return n > 0 && n <= last && last-n < pingsInFlight && time.Since(s.epoch)-time.Duration(s.sent[n%pingsInFlight].Load()) < copyLife
}

// ofCopy returns the flow that b is a copy for, of which this end may not have heard, and the end that has sent it.
func (s *session) ofCopy(b []byte) (f *Flow, from flow.Role) {
	from = flow.Role(b[len(flow.ID{})])
	return s.far.find(flow.ID(b), from.Other()), from
}

// needsCopy reports whether b brings something that has not been read.
func (s *session) needsCopy(b []byte) bool {
	f, from := s.ofCopy(b)
	if f == nil {
		return from == flow.Opener
	}
	upTo := binary.BigEndian.Uint64(b[len(flow.ID{})+9:])
	return f.consumed.Load() < upTo || f.answer != nil && !f.settled()
}

func (s *session) takeCopy(b []byte) {
	f, from := s.ofCopy(b)
	frames := &copyCarrier{s: s, Reader: bytes.NewReader(b[copyHead:])}
	switch {
	case f != nil:
		f.readCopy(s, frames)
	case from == flow.Opener:
		s.openByCopy(frames)
	}
}

// readCopy has the flow read what a copy brings.
func (f *Flow) readCopy(s *session, c *copyCarrier) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed != nil || f.readFail != nil || f.sides.Load()&sideRead != 0 {
		return
	}
	n := 0
	for _, l := range f.legs {
		if _, ok := l.c.(*copyCarrier); ok {
			n++
		}
	}
	if n >= copyLegs {
		return
	}
	f.ids++
	l := &leg{c: c, s: s, way: flow.Way{ID: f.ids}, place: flow.Attached(f.role == flow.Answerer), since: f.far.now(), closed: true}
	f.out.Detach(&l.way, nil)
	f.far.peer.needed.Add(1)
	f.join(l)
}

var errNoOpen = errors.New("a copy without an OPEN")

// openByCopy serves a flow whose OPEN has come by a copy only.
func (s *session) openByCopy(c *copyCarrier) {
	if s.far.orphans.Add(1) > copyOrphans {
		s.far.orphans.Add(-1)
		return
	}
	in := &Incoming{}
	in.init(s, c, flow.Answerer)
	in.byCopy, in.orphan = true, true
	h, err := readHeader(c)
	if err == nil && (h.Type != flow.TypeOpen || h.Length > flow.MaxOpen) {
		err = errNoOpen
	}
	if err == nil {
		err = in.readOpen(c, h, false)
	}
	if err != nil {
		s.far.orphans.Add(-1)
		return // what it is a copy of says the same, and is answered; or it has come meanwhile
	}
	s.peer.needed.Add(1)
	time.AfterFunc(resumeLimit, func() {
		in.mu.Lock()
		defer in.mu.Unlock()
		if in.claimOrphan() {
			in.fail(in.pathError(errNoOpen), flow.ResetAborted)
		}
	})
	s.serveFlow(in)
}

// adopt goes on over the carrier that the flow's own OPEN has come on, behind a copy of it. It reports whether the flow waited for it.
func (f *Flow) adopt(s *session, c carrier) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.claimOrphan() {
		return false
	}
	f.ids++
	l := &leg{c: c, s: s, way: flow.Way{ID: f.ids}, place: flow.Attached(false), since: f.far.now(), ready: true}
	l.count()
	f.abandon(&f.first)
	f.missed, f.session = false, s
	f.wishes.Store(false)
	f.stranded.Store(false)
	f.write([]*leg{l})
	f.join(l)
	f.drive(l)
	if f.sides.Load() == sideBoth && !f.out.Waits(&l.way) {
		f.detach(l)
	}
	return true
}

// claimOrphan ends the time in which the flow has no carrier, and reports whether it was in it. mu is held.
func (f *Flow) claimOrphan() bool {
	if !f.orphan {
		return false
	}
	f.orphan = false
	f.far.orphans.Add(-1)
	return true
}

// copyCarrier is the frames of a copy, to be read; what an orphan writes on it has left as copies, and is kept for its stream.
type copyCarrier struct {
	*bytes.Reader
	s *session
}

func (*copyCarrier) Write(b []byte) (int, error)      { return len(b), nil }
func (*copyCarrier) SetReadDeadline(time.Time) error  { return nil } // nothing ever waits
func (*copyCarrier) SetWriteDeadline(time.Time) error { return nil }
func (*copyCarrier) closeWrite() error                { return nil }
func (*copyCarrier) cancelRead(flow.ResetCode)        {}
func (*copyCarrier) cancel(flow.ResetCode)            {}
func (*copyCarrier) finished()                        {}
func (*copyCarrier) demote()                          {}
func (c *copyCarrier) on() *session                   { return c.s }
