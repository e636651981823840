package flow

import (
	"encoding/binary"
	"strings"
	"unicode"
)

// In is the receiving half of one end: it judges every frame of the other end before its body is read, on whatever carrier it
// comes, and says which bytes are new. It keeps no bytes. After an error the flow is broken and In must not be used again.
// Not safe for concurrent use, but free of what Out of the same end holds.
type In struct {
	role     Role // of this end; the frames come from the other one
	phase    phase
	outcomes uint8
	ended    bool   // FIN has come: last is known
	next     uint64 // bytes taken
	last     uint64
}

// Place is how far the receiving half has come on one carrier; the zero value is a carrier that nothing has been read from.
type Place struct {
	next     uint64 // offset behind the last DATA
	some     bool   // a frame has come
	answered bool   // ACCEPT or REFUSE has come
	orOpen   bool   // ATTACH has announced an OPEN
	over     bool   // the last frame has come
}

// Attached is the place behind an ATTACH, or behind the answer to one, that somebody else has read. orOpen: it has announced an OPEN.
func Attached(orOpen bool) Place { return Place{some: true, orOpen: orOpen} }

// Over reports whether the other end's last frame on the carrier has come.
func (p *Place) Over() bool { return p.over }

// NewIn returns the receiving half of the end that has role.
func NewIn(role Role) In { return In{role: role} }

// Next is how many bytes have been taken: the offset of the one that is wanted next.
func (i *In) Next() uint64 { return i.next }

// Ended reports whether all bytes have been taken and no more will come.
func (i *In) Ended() bool { return i.ended && i.next == i.last }

// Over reports whether REFUSE or RESET has come.
func (i *In) Over() bool { return i.phase == phaseOver }

// Consumed is what an ACK says now.
func (i *In) Consumed() uint64 {
	switch {
	case i.phase == phaseOver:
		return Settled
	case i.Ended():
		return i.last + 1
	}
	return i.next
}

// Event is what a frame means to the receiving end. Only the field that Type names is set.
type Event struct {
	Type    Type // 0: nothing new
	Open    Open
	Refusal RefusalCode
	Reason  string // of a refusal; text of the peer's, at most MaxReason octets
	Reset   ResetCode
	Outcome Outcome
	Acked   uint64
	Attach  Attach
}

// Header judges a frame by its header: whether it may come now on the carrier at p, and whether its body may have this length.
// When it returns nil, h.Length octets of body follow; of DATA, Fresh says which of them to take and when, those of every other
// frame go to Body.
func (i *In) Header(p *Place, h Header) error {
	least, most, ok := h.Type.bounds()
	switch {
	case !ok:
		return violation("%v is unknown", h.Type)
	case h.Length < least || h.Length > most:
		return violation("%v has a body of %d octets: %d to %d are allowed", h.Type, h.Length, least, most)
	case !h.Type.offset(h.Offset):
		return violation("%v carries the offset %d", h.Type, h.Offset)
	case p.over:
		return violation("%v received behind the last frame", h.Type)
	}
	turn := true
	switch h.Type {
	case TypeData:
		if err := i.data(p, h); err != nil {
			return err
		}
	case TypeFin:
		turn = i.phase == phaseBytes || i.phase == phaseClosed && h.Offset == i.last
		turn = turn && h.Offset >= max(p.next, i.next) && h.Offset-i.next <= MaxAhead
	case TypeOpen:
		turn = i.role == Answerer && (i.phase == phaseNew || p.orOpen)
	case TypeAccept:
		turn = i.role == Opener && i.phase != phaseOver && !p.answered
	case TypeRefuse:
		turn = i.role == Opener && i.phase == phaseNew
	case TypeOutcome:
		turn = i.role == Opener && i.phase != phaseOver && h.Offset <= uint64(i.outcomes)
	case TypeReset, TypeAck:
		turn = i.phase != phaseOver && (i.role == Opener || i.phase != phaseNew)
	case TypeDetach:
		turn = i.role == Opener || i.phase != phaseNew
	case TypeAttach, TypeUnknown:
		turn = !p.some && i.phase != phaseOver
	}
	if !turn {
		return violation("%v received out of turn, with offset %d where %d follows", h.Type, h.Offset, i.next)
	}
	p.some = true
	return nil
}

func (i *In) data(p *Place, h Header) error {
	end := h.Offset + uint64(h.Length)
	switch {
	case i.phase != phaseBytes && i.phase != phaseClosed:
		return violation("DATA received out of turn")
	case h.Offset < p.next:
		return violation("DATA at offset %d behind one up to %d", h.Offset, p.next)
	case end > MaxOffset || i.ended && end > i.last:
		return violation("more than %d bytes", min(i.last, MaxOffset))
	case h.Offset > i.next && h.Offset-i.next > MaxAhead:
		return violation("DATA at offset %d where %d follows", h.Offset, i.next)
	}
	p.next = end
	return nil
}

// Fresh says what to do with DATA of which n octets, from offset on, have not been read from their carrier: the first known of
// them have come on another one and are to be thrown away. When ahead, what lies before them has not come yet: they must stay
// where they are.
func (i *In) Fresh(offset uint64, n int) (known int, ahead bool) {
	if offset > i.next {
		return 0, true
	}
	return int(min(i.next-offset, uint64(n))), false
}

// Took notes that the next n bytes have been taken.
func (i *In) Took(n int) { i.next += uint64(n) }

// Body reads the body of a frame that Header has let pass; b has exactly its length. The event shares no memory with b.
func (i *In) Body(p *Place, h Header, b []byte) (Event, error) {
	e := Event{Type: h.Type}
	if least, _, ok := h.Type.bounds(); !ok || len(b) != h.Length || len(b) < least {
		return e, violation("%v with %d octets of body read as %d", h.Type, h.Length, len(b))
	}
	var err error
	switch h.Type {
	case TypeOpen:
		e.Open, err = parseOpen(b)
		p.orOpen = false
		if i.phase != phaseNew {
			e.Type = 0
			break
		}
		i.phase = phaseBytes
	case TypeAccept:
		p.answered = true
		if i.phase != phaseNew {
			e.Type = 0
			break
		}
		i.phase = phaseBytes
	case TypeRefuse:
		e.Refusal, e.Reason = RefusalCode(binary.BigEndian.Uint16(b)), printable(b[2:])
		i.phase, p.over = phaseOver, true
	case TypeReset:
		e.Reset = ResetCode(binary.BigEndian.Uint16(b))
		i.phase, p.over = phaseOver, true
	case TypeOutcome:
		if h.Offset < uint64(i.outcomes) {
			e.Type = 0
			break
		}
		i.outcomes++
		e.Outcome = Outcome{Result: Result(b[0]), Instance: printable(b[2:])} // octet 1 is kept for flags
	case TypeFin:
		i.phase, i.ended, i.last, p.over = phaseClosed, true, h.Offset, true
	case TypeAck:
		e.Acked = h.Offset
	case TypeAttach:
		e.Attach, err = ParseAttach(h, b)
		if err == nil && e.Attach.Role == i.role {
			err = violation("ATTACH of this end's own role")
		}
		p.orOpen = e.Attach.OrOpen
	case TypeUnknown:
		i.phase, p.over = phaseOver, true
	case TypeDetach:
		p.over = true
	}
	return e, err
}

// printable returns b as text that is safe in a terminal and a log: a peer's words must not steer either.
func printable(b []byte) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '.'
		}
		return r
	}, string(b))
}
