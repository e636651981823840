package flow

import "encoding/binary"

// ID names a flow on every carrier and in the logs of both ends.
type ID = [16]byte

// Attach is the first frame on a carrier that goes on with a flow which another one has begun.
type Attach struct {
	ID       ID
	Role     Role   // of the end that sends it
	Consumed uint64 // as in ACK
	Follow   bool   // the other end is to write here too
	Broken   bool   // of all other carriers nothing can be relied on: the other end drops them
	Heard    bool   // this end has seen the other's head: OPEN, or the answer to it
	OrOpen   bool   // an OPEN follows at once, for an answerer that has never heard of the flow
}

const (
	attachLen = len(ID{}) + 1

	attachAnswerer = 0x01
	attachFollow   = 0x02
	attachHeard    = 0x04
	attachOrOpen   = 0x08
	attachBroken   = 0x10
	attachKnown    = 0x1f
)

// Append appends the frame to b.
func (a Attach) Append(b []byte) []byte {
	b = Header{Type: TypeAttach, Length: attachLen, Offset: a.Consumed}.Append(b)
	b = append(b, a.ID[:]...)
	flags := byte(0)
	set := func(bit byte, on bool) {
		if on {
			flags |= bit
		}
	}
	set(attachAnswerer, a.Role == Answerer)
	set(attachFollow, a.Follow)
	set(attachBroken, a.Broken)
	set(attachHeard, a.Heard)
	set(attachOrOpen, a.OrOpen)
	return append(b, flags)
}

// ParseAttach reads the body of the ATTACH with the header h.
func ParseAttach(h Header, b []byte) (Attach, error) {
	if h.Type != TypeAttach || h.Length != attachLen || len(b) != attachLen || !h.Type.offset(h.Offset) {
		return Attach{}, violation("%v with %d octets and the offset %d read as ATTACH", h.Type, len(b), h.Offset)
	}
	flags := b[attachLen-1]
	if flags > attachKnown {
		return Attach{}, violation("ATTACH with the flags %#x", flags)
	}
	a := Attach{
		ID: ID(b), Consumed: h.Offset, Follow: flags&attachFollow != 0, Broken: flags&attachBroken != 0,
		Heard: flags&attachHeard != 0, OrOpen: flags&attachOrOpen != 0,
	}
	if flags&attachAnswerer != 0 {
		a.Role = Answerer
	}
	if a.OrOpen && a.Role != Opener {
		return Attach{}, violation("an answerer that would open")
	}
	return a, nil
}

// Consumed is one entry of a batch of acknowledgements, which a session carries for all of its flows at once.
type Consumed struct {
	ID     ID
	Role   Role   // of the end that has consumed
	Asleep bool   // it wants to be told when more comes
	Offset uint64 // as in ACK, or Stranded
}

// Stranded is the offset in the entry of an answerer that has no carrier left, and asks the opener to attach one.
const Stranded = Settled + 1

// The sizes of a batch.
const (
	ConsumedLen = len(ID{}) + 1 + 8     // octets of an entry
	MaxConsumed = 4 << 10 / ConsumedLen // entries that fit into a control frame

	consumedAsleep = 2 // beside the role
)

// Append appends the entry to b.
func (c Consumed) Append(b []byte) []byte {
	b = append(b, c.ID[:]...)
	role := byte(c.Role)
	if c.Asleep {
		role |= consumedAsleep
	}
	return binary.BigEndian.AppendUint64(append(b, role), c.Offset)
}

// ParseConsumed calls each with the entries of a batch, in order, and stops at the first that is none.
func ParseConsumed(b []byte, each func(Consumed)) error {
	for ; len(b) >= ConsumedLen; b = b[ConsumedLen:] {
		role := b[len(ID{})]
		c := Consumed{ID: ID(b), Role: Role(role &^ consumedAsleep), Asleep: role&consumedAsleep != 0}
		c.Offset = binary.BigEndian.Uint64(b[len(ID{})+1:])
		if c.Role > Answerer || !TypeAck.offset(c.Offset) && (c.Offset != Stranded || c.Role != Answerer || c.Asleep) {
			return violation("acknowledgement of offset %d by role %d", c.Offset, role)
		}
		each(c)
	}
	if len(b) > 0 {
		return violation("%d octets behind the acknowledgements", len(b))
	}
	return nil
}
