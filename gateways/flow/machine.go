package flow

import (
	"encoding/binary"
	"strings"
	"unicode"
)

// Role is which end of a flow a machine stands at.
type Role uint8

// The roles.
const (
	Opener   Role = iota // sent OPEN
	Answerer             // got it
)

// phase is how far one half has come.
type phase uint8

const (
	phaseNew    phase = iota // opener's half: before OPEN; answerer's half: before ACCEPT or REFUSE
	phaseBytes               // DATA and FIN may come
	phaseClosed              // FIN has been; only OUTCOME or RESET may follow
	phaseOver                // REFUSE or RESET has been; nothing may follow
)

// Out is the sending half of one end: it writes frames in an order the other end's In accepts, and refuses every other.
// After an error nothing was appended and the half stands where it stood. Not safe for concurrent use.
type Out struct {
	role     Role
	phase    phase
	outcomes uint8
	offset   uint64
}

// NewOut returns the sending half of the end that has role.
func NewOut(role Role) Out { return Out{role: role} }

// Offset is how many bytes have been sent.
func (o *Out) Offset() uint64 { return o.offset }

// Finished reports whether FIN, REFUSE or RESET has been sent.
func (o *Out) Finished() bool { return o.phase >= phaseClosed }

// Open appends OPEN to b. It is the opener's first frame.
func (o *Out) Open(b []byte, open Open) ([]byte, error) {
	if o.role != Opener || o.phase != phaseNew {
		return b, violation("OPEN sent out of turn")
	}
	start := len(b)
	body, err := open.appendBody(append(b, make([]byte, HeaderLen)...))
	if err != nil {
		return b, err
	}
	size := len(body) - start - HeaderLen
	if size > MaxOpen {
		return b, violation("OPEN with a body of %d octets", size)
	}
	Header{Type: TypeOpen, Length: size}.Put(body[start:])
	o.phase = phaseBytes
	return body, nil
}

// Accept appends ACCEPT to b.
func (o *Out) Accept(b []byte) ([]byte, error) {
	if o.role != Answerer || o.phase != phaseNew {
		return b, violation("ACCEPT sent out of turn")
	}
	o.phase = phaseBytes
	return Header{Type: TypeAccept}.Append(b), nil
}

// Refuse appends REFUSE to b; a longer reason is cut at MaxReason octets.
func (o *Out) Refuse(b []byte, code RefusalCode, reason string) ([]byte, error) {
	if o.role != Answerer || o.phase != phaseNew {
		return b, violation("REFUSE sent out of turn")
	}
	reason = reason[:min(len(reason), MaxReason)]
	o.phase = phaseOver
	b = Header{Type: TypeRefuse, Length: 2 + len(reason)}.Append(b)
	return append(binary.BigEndian.AppendUint16(b, uint16(code)), reason...), nil
}

// Outcome appends OUTCOME to b. The answerer may send MaxOutcomes of them at any time before the flow is refused or reset.
func (o *Out) Outcome(b []byte, outcome Outcome) ([]byte, error) {
	switch {
	case o.role != Answerer || o.phase == phaseOver:
		return b, violation("OUTCOME sent out of turn")
	case o.outcomes == MaxOutcomes:
		return b, violation("more than %d OUTCOME frames sent", MaxOutcomes)
	case len(outcome.Instance) > maxKey:
		return b, violation("OUTCOME with an instance key of %d octets", len(outcome.Instance))
	}
	o.outcomes++
	b = Header{Type: TypeOutcome, Length: 2 + len(outcome.Instance)}.Append(b)
	return append(append(b, byte(outcome.Result), 0), outcome.Instance...), nil
}

// Data writes the header of a DATA frame with the next n bytes into the first HeaderLen octets of b, in front of which the
// caller has left them room. n lies between 1 and MaxData.
func (o *Out) Data(b []byte, n int) error {
	if o.phase != phaseBytes {
		return violation("DATA sent out of turn")
	}
	if n < 1 || n > MaxData || o.offset+uint64(n) > MaxOffset {
		return violation("DATA of %d octets at offset %d", n, o.offset)
	}
	Header{Type: TypeData, Length: n, Offset: o.offset}.Put(b)
	o.offset += uint64(n)
	return nil
}

// Fin appends FIN to b.
func (o *Out) Fin(b []byte) ([]byte, error) {
	if o.phase != phaseBytes {
		return b, violation("FIN sent out of turn")
	}
	o.phase = phaseClosed
	return Header{Type: TypeFin, Offset: o.offset}.Append(b), nil
}

// Reset appends RESET to b.
func (o *Out) Reset(b []byte, code ResetCode) ([]byte, error) {
	if o.phase == phaseOver || (o.role == Opener && o.phase == phaseNew) {
		return b, violation("RESET sent out of turn")
	}
	o.phase = phaseOver
	return binary.BigEndian.AppendUint16(Header{Type: TypeReset, Length: 2}.Append(b), uint16(code)), nil
}

// In is the receiving half of one end: it judges every frame of the other end before its body is read. After an error the
// flow is broken and In must not be used again. Not safe for concurrent use, but free of what Out of the same end holds.
type In struct {
	role     Role // of this end; the frames come from the other one
	phase    phase
	outcomes uint8
	offset   uint64
}

// NewIn returns the receiving half of the end that has role.
func NewIn(role Role) In { return In{role: role} }

// Offset is how many bytes have been announced by DATA frames.
func (i *In) Offset() uint64 { return i.offset }

// Event is what a frame means to the receiving end. Only the field that Type names is set.
type Event struct {
	Type    Type
	Open    Open
	Refusal RefusalCode
	Reason  string // of a refusal; text of the peer's, at most MaxReason octets
	Reset   ResetCode
	Outcome Outcome
}

// Header judges a frame by its header: whether it may come now, whether its offset follows what came before, and whether its
// body may have this length. When it returns nil, h.Length octets of body follow; those of every frame but DATA go to Body.
func (i *In) Header(h Header) error {
	least, most, ok := h.Type.bounds()
	switch {
	case !ok:
		return violation("%v is unknown", h.Type)
	case h.Length < least || h.Length > most:
		return violation("%v has a body of %d octets: %d to %d are allowed", h.Type, h.Length, least, most)
	case h.Type != TypeData && h.Type != TypeFin && h.Offset != 0:
		return violation("%v carries the offset %d", h.Type, h.Offset)
	}
	switch h.Type {
	case TypeData, TypeFin:
		return i.bytes(h)
	case TypeOpen:
		if i.role != Answerer || i.phase != phaseNew {
			return violation("OPEN received out of turn")
		}
		i.phase = phaseBytes
	case TypeAccept:
		if i.role != Opener || i.phase != phaseNew {
			return violation("ACCEPT received out of turn")
		}
		i.phase = phaseBytes
	case TypeRefuse:
		if i.role != Opener || i.phase != phaseNew {
			return violation("REFUSE received out of turn")
		}
		i.phase = phaseOver
	case TypeOutcome:
		if i.role != Opener || i.phase == phaseOver || i.outcomes == MaxOutcomes {
			return violation("OUTCOME received out of turn")
		}
		i.outcomes++
	case TypeReset:
		if i.phase == phaseOver || (i.role == Answerer && i.phase == phaseNew) {
			return violation("RESET received out of turn")
		}
		i.phase = phaseOver
	}
	return nil
}

func (i *In) bytes(h Header) error {
	if i.phase != phaseBytes {
		return violation("%v received out of turn", h.Type)
	}
	if h.Offset != i.offset {
		return violation("%v at offset %d where %d follows", h.Type, h.Offset, i.offset)
	}
	if i.offset+uint64(h.Length) > MaxOffset {
		return violation("more than %d bytes", uint64(MaxOffset))
	}
	i.offset += uint64(h.Length)
	if h.Type == TypeFin {
		i.phase = phaseClosed
	}
	return nil
}

// Body reads the body of a frame that Header has let pass; b has exactly its length. The event shares no memory with b.
func (i *In) Body(h Header, b []byte) (Event, error) {
	e := Event{Type: h.Type}
	if least, _, ok := h.Type.bounds(); !ok || len(b) != h.Length || len(b) < least {
		return e, violation("%v with %d octets of body read as %d", h.Type, h.Length, len(b))
	}
	var err error
	switch h.Type {
	case TypeOpen:
		e.Open, err = parseOpen(b)
	case TypeRefuse:
		e.Refusal, e.Reason = RefusalCode(binary.BigEndian.Uint16(b)), printable(b[2:])
	case TypeReset:
		e.Reset = ResetCode(binary.BigEndian.Uint16(b))
	case TypeOutcome:
		e.Outcome = Outcome{Result: Result(b[0]), Instance: printable(b[2:])} // octet 1 is kept for flags
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
