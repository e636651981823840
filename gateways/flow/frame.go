package flow

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Type is the type of a frame. The numbers are on the wire and never change meaning.
type Type uint8

// The frames. 12-15 are reserved, 64-127 are for what a session says beside its flows.
const (
	TypeOpen    Type = 1 // opener: what is wanted, and for whom
	TypeAccept  Type = 2 // answerer: an instance is connected
	TypeRefuse  Type = 3 // answerer: code and reason; nothing follows
	TypeData    Type = 4 // both: bytes
	TypeFin     Type = 5 // both: no more bytes from this side
	TypeReset   Type = 6 // both: the flow is aborted; nothing follows
	TypeOutcome Type = 7 // answerer: how one instance fared; its number in the offset

	TypeAck     Type = 8  // both: how far the other end's sequence has been consumed, in the offset
	TypeAttach  Type = 9  // both, first on a carrier: the flow that it carries from now on; the offset is an ACK's
	TypeUnknown Type = 10 // both, the answer to ATTACH: there is no such flow; nothing follows
	TypeDetach  Type = 11 // both: this end goes on elsewhere; like FIN, RESET, REFUSE and UNKNOWN its last frame on this carrier
)

var typeNames = [...]string{"frame 0", "OPEN", "ACCEPT", "REFUSE", "DATA", "FIN", "RESET", "OUTCOME",
	"ACK", "ATTACH", "UNKNOWN", "DETACH"}

func (t Type) String() string {
	if int(t) < len(typeNames) {
		return typeNames[t]
	}
	return fmt.Sprintf("frame %d", uint8(t))
}

// The limits of the codec. A frame beyond them is a violation before anything of it is stored.
const (
	HeaderLen   = 12        // octets in front of every body
	MaxOpen     = 4 << 10   // body of OPEN
	MaxReason   = 200       // octets of text in REFUSE
	MaxData     = 256 << 10 // body of one DATA: two copy buffers
	MaxOutcomes = 16        // OUTCOME frames in one flow
	MaxOffset   = 1<<62 - 1 // the most bytes one side of a flow can carry
	MaxAhead    = 256 << 20 // how far the frames of one carrier may be ahead of another's: what the windows of all can hold

	// Settled is the offset in the ACK of an end that needs nothing more of the other: it has all, or does not want the rest.
	Settled = MaxOffset + 2

	maxRefuse  = 2 + MaxReason
	maxOutcome = 2 + maxKey
	maxKey     = 128
)

// ErrViolation is what every error of this package is: the peer, or the caller, broke the protocol.
var ErrViolation = errors.New("flow protocol violation")

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrViolation}, args...)...)
}

// Header is the fixed part of a frame.
type Header struct {
	Type   Type
	Length int // octets of the body
	Offset uint64
}

// Put writes h into the first HeaderLen octets of b, which must be there. Length must lie below 1<<24.
func (h Header) Put(b []byte) {
	binary.BigEndian.PutUint32(b, uint32(h.Length)) // the top octet is overwritten by the type
	b[0] = byte(h.Type)
	binary.BigEndian.PutUint64(b[4:HeaderLen], h.Offset)
}

// Append appends h to b.
func (h Header) Append(b []byte) []byte {
	b = append(b, make([]byte, HeaderLen)...)
	h.Put(b[len(b)-HeaderLen:])
	return b
}

// ParseHeader reads a header from b, which must have HeaderLen octets. It judges nothing; In does.
func ParseHeader(b []byte) Header {
	return Header{
		Type:   Type(b[0]),
		Length: int(binary.BigEndian.Uint32(b) & 0xff_ffff),
		Offset: binary.BigEndian.Uint64(b[4:HeaderLen]),
	}
}

// bounds returns the least and the most octets a body of type t may have; ok is false for a type that is no frame of a flow.
func (t Type) bounds() (least, most int, ok bool) {
	switch t {
	case TypeOpen:
		return 1, MaxOpen, true
	case TypeAccept, TypeFin, TypeAck, TypeUnknown, TypeDetach:
		return 0, 0, true
	case TypeAttach:
		return attachLen, attachLen, true
	case TypeRefuse:
		return 2, maxRefuse, true
	case TypeData:
		return 1, MaxData, true // an empty DATA would let a peer keep a reader busy for nothing
	case TypeReset:
		return 2, 2, true
	case TypeOutcome:
		return 2, maxOutcome, true
	}
	return 0, 0, false
}

// offset reports whether a frame of type t may carry n in its offset.
func (t Type) offset(n uint64) bool {
	switch t {
	case TypeData, TypeFin:
		return n <= MaxOffset
	case TypeOutcome:
		return n < MaxOutcomes
	case TypeAck, TypeAttach:
		return n <= MaxOffset+1 || n == Settled
	}
	return n == 0
}
