package flow

import "encoding/binary"

// Out is the sending half of one end. It writes frames in an order that the other end's In accepts, refuses every other, and keeps
// what has not been acknowledged, so that another carrier can go on where one has broken. After an error the half stands where
// it stood. Not safe for concurrent use.
//
// The caller gives it OPEN or the answer, bytes, FIN and RESET; Next says what to write on which carrier. A flow with one
// carrier may send bytes past it with Data and have them kept with Keep, which spares the copy on their way out.
type Out struct {
	role     Role
	phase    phase
	outcomes uint8
	heard    bool // the other end has what was head when it was heard
	reset    ResetCode

	head     []byte // OPEN, or OUTCOME and ACCEPT or REFUSE: what the other end may not have
	headFrom int    // octets in front of head that it has
	headSent int    // the most octets that any carrier has been given

	offset uint64 // bytes taken from the caller
	acked  uint64 // of them, acknowledged; one more with the FIN
	bare   uint64 // bytes below are not kept, although they may not be acknowledged
	enough bool   // the other end wants no more
	finWay uint32 // the Way that the end was sent on; 0: none
	tail   tail
}

// Way is how far the sending half has come on one carrier.
type Way struct {
	ID   uint32 // not 0, and not another carrier's of the same flow
	next uint64 // offset behind the last DATA: on one carrier they never go back
	head int    // octets of the head
	done bool   // the last frame has been given out
}

// Done reports whether this end's last frame has been given out.
func (w *Way) Done() bool { return w.done }

// Sent is the offset behind the last byte that was given out.
func (w *Way) Sent() uint64 { return w.next }

// NewOut returns the sending half of the end that has role.
func NewOut(role Role) Out { return Out{role: role} }

// Offset is how many bytes have been taken.
func (o *Out) Offset() uint64 { return o.offset }

// Unacked is how many of them have not been acknowledged.
func (o *Out) Unacked() uint64 { return o.offset - min(o.acked, o.offset) }

// Acked is how many of them have been acknowledged.
func (o *Out) Acked() uint64 { return min(o.acked, o.offset) }

// Unsent is how many pieces of the bytes wait for a carrier.
func (o *Out) Unsent() int { return o.tail.unsent }

// Started reports whether OPEN, or the answer to it, has been given.
func (o *Out) Started() bool { return o.phase != phaseNew }

// Finished reports whether FIN, REFUSE or RESET has been given.
func (o *Out) Finished() bool { return o.phase >= phaseClosed }

// Over reports whether REFUSE or RESET has been given.
func (o *Out) Over() bool { return o.phase == phaseOver }

// Settled reports whether the half has ended and the other end has all of it.
func (o *Out) Settled() bool { return o.enough || o.phase == phaseClosed && o.acked > o.offset }

// Open gives the head of the opener's half.
func (o *Out) Open(open Open) error {
	if o.role != Opener || o.phase != phaseNew {
		return violation("OPEN sent out of turn")
	}
	body, err := open.appendBody(make([]byte, HeaderLen, 256))
	if err != nil {
		return err
	}
	if size := len(body) - HeaderLen; size > MaxOpen {
		return violation("OPEN with a body of %d octets", size)
	}
	Header{Type: TypeOpen, Length: len(body) - HeaderLen}.Put(body)
	o.phase, o.head = phaseBytes, body
	return nil
}

// Accept gives ACCEPT.
func (o *Out) Accept() error {
	if o.role != Answerer || o.phase != phaseNew {
		return violation("ACCEPT sent out of turn")
	}
	o.phase = phaseBytes
	o.head = Header{Type: TypeAccept}.Append(o.head)
	return nil
}

// Refuse gives REFUSE; a longer reason is cut at MaxReason octets.
func (o *Out) Refuse(code RefusalCode, reason string) error {
	if o.role != Answerer || o.phase != phaseNew {
		return violation("REFUSE sent out of turn")
	}
	reason = reason[:min(len(reason), MaxReason)]
	o.phase = phaseOver
	o.head = Header{Type: TypeRefuse, Length: 2 + len(reason)}.Append(o.head)
	o.head = append(binary.BigEndian.AppendUint16(o.head, uint16(code)), reason...)
	return nil
}

// Outcome gives OUTCOME. The answerer may report MaxOutcomes of them at any time before the flow is refused or reset.
func (o *Out) Outcome(outcome Outcome) error {
	switch {
	case o.role != Answerer || o.phase >= phaseClosed:
		return violation("OUTCOME sent out of turn")
	case o.outcomes == MaxOutcomes:
		return violation("more than %d OUTCOME frames sent", MaxOutcomes)
	case len(outcome.Instance) > maxKey:
		return violation("OUTCOME with an instance key of %d octets", len(outcome.Instance))
	}
	o.head = Header{Type: TypeOutcome, Length: 2 + len(outcome.Instance), Offset: uint64(o.outcomes)}.Append(o.head)
	o.head = append(append(o.head, byte(outcome.Result), 0), outcome.Instance...)
	o.outcomes++
	return nil
}

// Heard notes that the other end has every frame of the head that has been sent.
func (o *Out) Heard() {
	if n := o.headSent - o.headFrom; n > 0 {
		o.head, o.headFrom = o.head[n:], o.headSent
		if len(o.head) == 0 {
			o.head = nil
		}
	}
	o.heard = true
}

// IsHeard reports whether the other end is known to have the head.
func (o *Out) IsHeard() bool { return o.heard }

func (o *Out) headEnd() int { return o.headFrom + len(o.head) }

// Direct reports whether bytes may be sent on w past Next: nothing is left to be sent before them.
func (o *Out) Direct(w *Way) bool {
	return o.phase == phaseBytes && o.tail.unsent == 0 && max(w.head, o.headFrom) == o.headEnd() && !w.done
}

// Data writes the header of a DATA frame with the next n bytes into the first HeaderLen octets of b, in front of which the
// caller has left them room: they are being sent on w. n lies between 1 and MaxData.
func (o *Out) Data(w *Way, b []byte, n int) error {
	if o.phase != phaseBytes || w.done {
		return violation("DATA sent out of turn")
	}
	if n < 1 || n > MaxData || o.offset+uint64(n) > MaxOffset {
		return violation("DATA of %d octets at offset %d", n, o.offset)
	}
	Header{Type: TypeData, Length: n, Offset: o.offset}.Put(b)
	o.offset += uint64(n)
	w.next = o.offset
	return nil
}

// Keep keeps b, the bytes that Data has announced last, until they are acknowledged. When pool has no memory left, the half
// keeps nothing at all and cannot move until they are; Keep then returns false.
func (o *Out) Keep(w *Way, b []byte, pool Pool) bool {
	start := o.offset - uint64(len(b))
	for len(b) > 0 {
		n := o.tail.add(start, b, w.ID, pool)
		if n == 0 {
			o.tail.clear(pool)
			o.bare = o.offset
			return false
		}
		start, b = start+uint64(n), b[n:]
	}
	return true
}

// Add takes as much of b as pool has memory for, to be given out by Next, and returns how much that is.
func (o *Out) Add(b []byte, pool Pool) (int, error) {
	if o.phase != phaseBytes {
		return 0, violation("DATA sent out of turn")
	}
	if o.offset+uint64(len(b)) > MaxOffset {
		return 0, violation("more than %d bytes", uint64(MaxOffset))
	}
	took := 0
	for len(b) > 0 {
		n := o.tail.add(o.offset, b, 0, pool)
		if n == 0 {
			break
		}
		o.offset += uint64(n)
		took, b = took+n, b[n:]
	}
	return took, nil
}

// Fin ends the bytes.
func (o *Out) Fin() error {
	if o.phase != phaseBytes {
		return violation("FIN sent out of turn")
	}
	o.phase = phaseClosed
	return nil
}

// Reset aborts the flow. Bytes that have not been sent are dropped.
func (o *Out) Reset(code ResetCode, pool Pool) error {
	if o.phase == phaseOver || (o.role == Opener && o.phase == phaseNew) {
		return violation("RESET sent out of turn")
	}
	o.phase, o.reset = phaseOver, code
	if o.reset == 0 {
		o.reset = ResetAborted
	}
	o.tail.clear(pool)
	return nil
}

// Piece is what Next has lent for writing.
type Piece struct{ p *piece }

// Next returns the frames to write on w next, behind b, or a lent piece without b; b alone when nothing waits for this carrier.
// What it returns is taken to be sent. A lent piece must be given back by Written before the flow can forget it.
func (o *Out) Next(w *Way, b []byte) (frames []byte, lent Piece) {
	if w.done {
		return b, Piece{}
	}
	before := len(b)
	if at := max(w.head, o.headFrom); at < o.headEnd() && o.reset == 0 {
		b = append(b, o.head[at-o.headFrom:]...)
		w.head = o.headEnd()
		o.headSent = max(o.headSent, w.head)
	}
	switch {
	case o.reset != 0:
		o.finWay = w.ID
		b = binary.BigEndian.AppendUint16(Header{Type: TypeReset, Length: 2}.Append(b), uint16(o.reset))
	case o.phase == phaseOver: // REFUSE is the head's last frame
		o.finWay = w.ID
	case o.tail.unsent > 0:
		if len(b) == before {
			if frames, lent := o.nextPiece(w); lent.p != nil {
				return frames, lent
			}
		}
		return b, Piece{}
	case o.phase == phaseClosed && o.finWay == 0:
		b = Header{Type: TypeFin, Offset: o.offset}.Append(b)
		o.finWay = w.ID
	default:
		return b, Piece{}
	}
	w.done = true
	return b, Piece{}
}

func (o *Out) nextPiece(w *Way) ([]byte, Piece) {
	p := o.tail.next(w.next, o.acked)
	if p == nil {
		return nil, Piece{}
	}
	skip := 0
	if o.acked > p.start {
		skip = int(o.acked - p.start) // below the length of the piece: else it would have been released
	}
	frame := p.b[skip:]
	Header{Type: TypeData, Length: len(frame) - HeaderLen, Offset: p.start + uint64(skip)}.Put(frame)
	p.way = w.ID
	p.writers++
	o.tail.unsent--
	w.next = p.end()
	return frame, Piece{p}
}

// Written gives a piece back.
func (o *Out) Written(lent Piece, pool Pool) {
	if lent.p == nil {
		return
	}
	lent.p.writers--
	if o.phase == phaseOver {
		o.tail.clear(pool)
		return
	}
	o.tail.release(o.acked, pool)
}

// Copy appends frames that say on no carrier what has been given: the head while the other end is not known to have it, payload, which
// lies at offset, and the end when it lies behind that. An end that has read upTo needs none of it. After a reset there is nothing to say.
func (o *Out) Copy(b []byte, offset uint64, payload []byte) (frames []byte, upTo uint64) {
	if o.reset != 0 || o.phase == phaseNew {
		return b, 0
	}
	if !o.heard {
		b = append(b, o.head...)
	}
	if o.phase == phaseOver { // REFUSE is the head's last frame
		return b, 0
	}
	end := offset + uint64(len(payload))
	if len(payload) > 0 {
		b = append(Header{Type: TypeData, Length: len(payload), Offset: offset}.Append(b), payload...)
	}
	if o.phase == phaseClosed && end == o.offset {
		return Header{Type: TypeFin, Offset: end}.Append(b), end + 1
	}
	return Header{Type: TypeDetach}.Append(b), end
}

// Detach returns this end's last frame on w: what it has to say goes on elsewhere.
func (o *Out) Detach(w *Way, b []byte) []byte {
	if w.done {
		return b
	}
	w.done = true
	return Header{Type: TypeDetach}.Append(b)
}

// Ack notes that the other end has consumed the bytes below offset, or all that it wants.
func (o *Out) Ack(offset uint64, pool Pool) error {
	switch {
	case offset == Settled:
		o.enough, o.heard = true, true
		o.tail.clear(pool)
		return nil
	case offset > o.offset+1 || offset == o.offset+1 && o.phase < phaseClosed:
		return violation("%d bytes acknowledged of %d", offset, o.offset)
	case offset <= o.acked:
		return nil
	}
	o.acked = offset
	o.Heard()
	o.tail.release(offset, pool)
	return nil
}

// Lost notes that nothing that was sent on way can be relied on: what is not acknowledged waits for another one. It reports false
// when bytes are lost with it that were not kept.
func (o *Out) Lost(way uint32) bool {
	for _, p := range o.tail.pieces {
		if p.way == way && p.end() > o.acked {
			p.way = 0
			o.tail.unsent++
		}
	}
	if o.finWay == way {
		o.finWay = 0
	}
	return o.bare <= o.acked
}

// Waits reports whether something waits to be sent on w, or, were it nil, on a carrier that nothing has been sent on.
func (o *Out) Waits(w *Way) bool {
	switch {
	case o.Settled() || w != nil && w.done:
		return false
	case o.tail.unsent > 0 || o.phase >= phaseClosed && o.finWay == 0 || o.phase == phaseOver && w != nil:
		return true
	case w == nil:
		return !o.heard && len(o.head) > 0
	}
	return max(w.head, o.headFrom) < o.headEnd()
}

// Stuck reports whether something waits that w cannot bear any more, because this end's last frame has been given out on it. A head
// that has not been acknowledged is no such thing: it went out before that frame.
func (o *Out) Stuck(w *Way) bool {
	return w.done && !o.Settled() && (o.tail.unsent > 0 || o.phase >= phaseClosed && o.finWay == 0)
}

// Behind reports whether bytes wait that w has passed: a carrier's offsets never go back, so they need a fresh one.
func (o *Out) Behind(w *Way) bool {
	if o.tail.unsent == 0 {
		return false
	}
	for _, p := range o.tail.pieces {
		if p.way == 0 {
			return max(p.start, o.acked) < w.next
		}
	}
	return false
}
