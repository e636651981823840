package exchange

import (
	"encoding/binary"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tradewind-mesh/tradewind/federation"
)

// malformed is why a frame breaks the protocol. The reasons are fixed texts: nothing of the frame itself reaches a log.
type malformed string

func (m malformed) Error() string { return string(m) }

const (
	errTruncated malformed = "a field is cut short or is a group"
	errType      malformed = "a known field has another wire type"
	errRange     malformed = "a value is out of range"
	errLength    malformed = "a field is longer than allowed"
	errCount     malformed = "a field is repeated more often than allowed"
	errMissing   malformed = "a required field is missing"
	errKind      malformed = "the kind of frame is unknown or belongs on another lane"
	errRowOrder  malformed = "rows are not in order"
)

// field is one field of a message. Its bytes alias the frame.
type field struct {
	num   protowire.Number
	typ   protowire.Type
	value uint64
	bytes []byte
}

// nextField reads one field off b.
func nextField(b []byte) (field, []byte, error) {
	num, typ, n := protowire.ConsumeTag(b)
	if n < 0 {
		return field{}, nil, errTruncated
	}
	b = b[n:]
	f := field{num: num, typ: typ}
	switch typ {
	case protowire.VarintType:
		f.value, n = protowire.ConsumeVarint(b)
	case protowire.BytesType:
		f.bytes, n = protowire.ConsumeBytes(b)
	case protowire.Fixed64Type:
		f.value, n = protowire.ConsumeFixed64(b)
	case protowire.Fixed32Type:
		var v uint32
		v, n = protowire.ConsumeFixed32(b)
		f.value = uint64(v)
	default:
		return field{}, nil, errTruncated // a group could nest without end
	}
	if n < 0 {
		return field{}, nil, errTruncated
	}
	return f, b[n:], nil
}

// eachField calls visit for every field of message until one fails.
func eachField(message []byte, visit func(field) error) error {
	for len(message) > 0 {
		f, rest, err := nextField(message)
		if err != nil {
			return err
		}
		if err := visit(f); err != nil {
			return err
		}
		message = rest
	}
	return nil
}

func (f field) uint(to *uint64, most uint64) error {
	switch {
	case f.typ != protowire.VarintType:
		return errType
	case f.value > most:
		return errRange
	}
	*to = f.value
	return nil
}

func (f field) bool(to *bool) error {
	var v uint64
	err := f.uint(&v, 1)
	*to = v == 1
	return err
}

func (f field) fixed(to *uint64) error {
	if f.typ != protowire.Fixed64Type {
		return errType
	}
	*to = f.value
	return nil
}

func (f field) raw(to *[]byte, most int) error {
	switch {
	case f.typ != protowire.BytesType:
		return errType
	case len(f.bytes) > most:
		return errLength
	}
	*to = f.bytes
	return nil
}

func (f field) digest(to *Digest) error {
	switch {
	case f.typ != protowire.BytesType:
		return errType
	case len(f.bytes) != 16:
		return errLength
	}
	*to = Digest{Hi: binary.BigEndian.Uint64(f.bytes), Lo: binary.BigEndian.Uint64(f.bytes[8:])}
	return nil
}

func (f field) epoch(to *federation.Epoch) error {
	if f.typ != protowire.BytesType {
		return errType
	}
	return eachField(f.bytes, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&to.Counter, ^uint64(0))
		case 2:
			return f.fixed(&to.Incarnation)
		}
		return nil
	})
}

func (f field) cursor(to *Cursor) error {
	if f.typ != protowire.BytesType {
		return errType
	}
	return eachField(f.bytes, func(f field) error {
		switch f.num {
		case 1:
			return f.epoch(&to.Epoch)
		case 2:
			return f.uint(&to.Seq, ^uint64(0))
		case 3:
			return f.digest(&to.Digest)
		}
		return nil
	})
}

// unwrap returns the kind and the message of a frame that came on lane.
func unwrap(lane Lane, b []byte) (kind, []byte, error) {
	if len(b) > MaxFrameOn(lane) {
		return 0, nil, errLength
	}
	f, rest, err := nextField(b)
	switch {
	case err != nil:
		return 0, nil, err
	case len(rest) > 0 || f.typ != protowire.BytesType:
		return 0, nil, errKind
	case f.num < 1 || int(f.num) >= len(laneOf) || laneOf[f.num] != lane:
		return 0, nil, errKind
	}
	return f.num, f.bytes, nil
}

func decodeHello(b []byte) (h hello, err error) {
	const small = 1 << 30
	var t uint64
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&h.versionMin, small)
		case 2:
			return f.uint(&h.versionMax, small)
		case 3:
			return f.uint(&h.features, ^uint64(0))
		case 4:
			return f.raw(&h.region, 63)
		case 5:
			return f.epoch(&h.epoch)
		case 6:
			return f.epoch(&h.known)
		case 7:
			return f.cursor(&h.cursor)
		case 8:
			return f.uint(&h.window, small)
		case 9:
			return f.uint(&h.services, small)
		case 10:
			return f.uint(&h.slots, small)
		case 11:
			return f.fixed(&t)
		}
		return nil
	})
	h.time = int64(t)
	if err == nil && (h.versionMin == 0 || h.versionMax < h.versionMin || h.epoch.Counter == 0 || h.window == 0) {
		err = errMissing
	}
	return h, err
}

func decodeSync(b []byte) (s syncRequest, err error) {
	var m uint64
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&s.sub, ^uint64(0))
		case 2:
			return f.uint(&m, uint64(modeSnapshot))
		case 3:
			return f.cursor(&s.cursor)
		}
		return nil
	})
	s.mode = mode(m)
	if err == nil && s.sub == 0 {
		err = errMissing
	}
	return s, err
}

func decodeHead(b []byte) (h head, err error) {
	var t uint64
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.cursor(&h.cursor)
		case 2:
			return f.fixed(&t)
		}
		return nil
	})
	h.time = int64(t)
	return h, err
}

func decodeApplied(b []byte) (a applied, err error) {
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&a.sub, ^uint64(0))
		case 2:
			return f.uint(&a.frames, ^uint64(0))
		case 3:
			return f.cursor(&a.cursor)
		}
		return nil
	})
	return a, err
}

// decodePairs reads a message that repeats, as field 1, a message of a name and a number: Nack and Withdraw.
func decodePairs(b []byte, maxPairs int, visit func(service []byte, n uint64) error) error {
	count := 0
	return eachField(b, func(f field) error {
		if f.num != 1 {
			return nil
		}
		var pair []byte
		if err := f.raw(&pair, MaxFrame); err != nil {
			return err
		}
		if count++; count > maxPairs {
			return errCount
		}
		var service []byte
		var n uint64
		err := eachField(pair, func(f field) error {
			switch f.num {
			case 1:
				return f.raw(&service, maxName)
			case 2:
				return f.uint(&n, ^uint64(0))
			}
			return nil
		})
		if err != nil {
			return err
		}
		if len(service) == 0 {
			return errMissing
		}
		return visit(service, n)
	})
}

// decodeOne reads a message of a single number in field 1: GoAway and Drain.
func decodeOne(b []byte, most uint64) (v uint64, err error) {
	err = eachField(b, func(f field) error {
		if f.num == 1 {
			return f.uint(&v, most)
		}
		return nil
	})
	return v, err
}

// decodeBytes reads a message of a single byte string in field 1: Bundle and HealthWant.
func decodeBytes(b []byte, most int) (v []byte, err error) {
	err = eachField(b, func(f field) error {
		if f.num == 1 {
			return f.raw(&v, most)
		}
		return nil
	})
	return v, err
}

func decodeBegin(b []byte) (g begin, err error) {
	var m uint64
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&g.sub, ^uint64(0))
		case 2:
			return f.uint(&m, uint64(modeAdopt))
		}
		return nil
	})
	g.mode = mode(m)
	if err == nil && g.mode == modeAuto {
		err = errMissing
	}
	return g, err
}

func decodeListing(b []byte, entry int) (l listing, err error) {
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&l.sub, ^uint64(0))
		case 2:
			return f.raw(&l.entries, MaxFrame)
		case 3:
			return f.bool(&l.last)
		}
		return nil
	})
	if err == nil && len(l.entries)%entry != 0 {
		err = errLength
	}
	return l, err
}

func decodeBarrier(b []byte) (r barrier, err error) {
	var t uint64
	err = eachField(b, func(f field) error {
		switch f.num {
		case 1:
			return f.uint(&r.sub, ^uint64(0))
		case 2:
			return f.uint(&r.count, ^uint64(0))
		case 3:
			return f.cursor(&r.cursor)
		case 4:
			return f.fixed(&t)
		}
		return nil
	})
	r.time = int64(t)
	return r, err
}
