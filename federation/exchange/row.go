package exchange

import (
	"crypto/sha256"
	"encoding/binary"
	"math/bits"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tradewind-mesh/tradewind/federation"
)

func (d Digest) add(e Digest) Digest {
	lo, carry := bits.Add64(d.Lo, e.Lo, 0)
	hi, _ := bits.Add64(d.Hi, e.Hi, carry)
	return Digest{Hi: hi, Lo: lo}
}

func (d Digest) sub(e Digest) Digest {
	lo, borrow := bits.Sub64(d.Lo, e.Lo, 0)
	hi, _ := bits.Sub64(d.Hi, e.Hi, borrow)
	return Digest{Hi: hi, Lo: lo}
}

// hasher computes hashes of rows and services in one buffer.
type hasher struct{ buf []byte }

// row is the hash of a row of origin: of what it says, not of its place in the sequence, so that it is the same in every epoch.
func (h *hasher) row(origin federation.Region, service string, body []byte) Digest {
	b := append(h.buf[:0], "cx/1 row\x00"...)
	b = append(append(b, origin...), 0)
	b = append(append(b, service...), 0)
	h.buf = append(b, body...)
	sum := sha256.Sum256(h.buf)
	return Digest{Hi: binary.BigEndian.Uint64(sum[:]), Lo: binary.BigEndian.Uint64(sum[8:])}
}

// key is the short name of a service in listings.
func (h *hasher) key(service string) uint64 {
	h.buf = append(append(h.buf[:0], "cx/1 key\x00"...), service...)
	sum := sha256.Sum256(h.buf)
	return binary.BigEndian.Uint64(sum[:])
}

// place is where the sender put a slot: a small number, and which tenant of that number it is.
type place struct{ num, gen uint16 }

// appendBody writes the body of a row. places[i] is of slots[i]. The same input gives the same octets, so that hashes agree.
func appendBody(b []byte, protocol federation.Protocol, detail federation.Detail, slots []federation.ExportedSlot, places []place) []byte {
	b = appendUint(appendString(b, 1, string(protocol)), 2, detailNumber(detail))
	var zones []string
	zoneOf := func(zone string) uint64 {
		if zone == "" {
			return 0
		}
		i := slices.Index(zones, zone)
		if i < 0 {
			i, zones = len(zones), append(zones, zone)
		}
		return uint64(i + 1)
	}
	for i := range slots {
		if n := len(zones); zoneOf(slots[i].Locality.Zone) > uint64(n) {
			b = appendString(b, 3, slots[i].Locality.Zone)
		}
	}
	for i := range slots {
		b = appendSlot(b, &slots[i], places[i], zoneOf(slots[i].Locality.Zone))
	}
	return b
}

func appendSlot(b []byte, s *federation.ExportedSlot, p place, zone uint64) []byte {
	numbers := [4]uint64{uint64(p.num), uint64(p.gen), zone, uint64(s.Weight)}
	size := 1 + protowire.SizeBytes(len(s.Key))
	for _, n := range numbers {
		size += 1 + protowire.SizeVarint(n)
	}
	b = protowire.AppendTag(b, 4, protowire.BytesType)
	b = protowire.AppendVarint(b, uint64(size))
	b = appendString(b, 1, s.Key)
	for i, n := range numbers {
		b = protowire.AppendVarint(protowire.AppendTag(b, protowire.Number(i+2), protowire.VarintType), n)
	}
	return b
}

func detailNumber(d federation.Detail) uint64 {
	if d == federation.DetailEndpoints {
		return 2
	}
	return 1
}

// fault is why a row is kept out. Texts are fixed; nothing of the row itself is in them.
type fault struct {
	code   federation.Code
	reason string
}

var (
	faultShape      = &fault{DiagRowInvalid, "its body cannot be read"}
	faultName       = &fault{DiagRowInvalid, "its name is not a service name"}
	faultProtocol   = &fault{DiagRowUnknown, "it speaks a protocol this version does not know"}
	faultDetail     = &fault{DiagRowUnknown, "it has a level of detail this version does not know"}
	faultSlotKey    = &fault{DiagRowInvalid, "a slot's key is not printable, too long, or out of order"}
	faultSlot       = &fault{DiagRowInvalid, "a slot's number, generation or zone is out of range or used twice"}
	faultZone       = &fault{DiagRowInvalid, "a zone's name is not printable or too long"}
	faultIdentity   = &fault{DiagRowIdentity, "it claims an identity that is not the service's own in the peer's trust domain"}
	faultMust       = &fault{DiagRowUnknown, "it must not be used without a rule this version does not know"}
	faultSlotQuota  = &fault{DiagRowQuota, "it has more slots than a service may have"}
	faultTotalQuota = &fault{DiagRowQuota, "with it the peer has more slots, services or octets than it may have"}
)

// parsed is a row that passed every check which needs no knowledge of other rows.
type parsed struct {
	svc  *federation.ImportedService // without a lane
	body string                      // the octets that were hashed; keys of slots alias it
	refs []slotRef                   // sorted by num
}

// slotRef finds slot idx of a service by what the sender calls it.
type slotRef struct{ num, gen, idx uint16 }

// rowReader turns bodies of one peer's rows into services.
type rowReader struct {
	domain spiffeid.TrustDomain
	slots  int // at most per service
	zones  []string
	known  map[string]string // zones seen before, so that every row shares one copy
}

// bodyShape is what the first walk over a body learns: all that is needed to allocate once and exactly.
type bodyShape struct {
	detail, must uint64
	protocolName []byte
	slots        int
}

// read parses body as the row of service name. It allocates only when the whole body has passed.
func (r *rowReader) read(name federation.ServiceName, body []byte) (parsed, *fault) {
	id, err := federation.WorkloadID(r.domain, name)
	if err != nil {
		return parsed{}, faultName
	}
	shape, f := r.survey(body, id)
	if f != nil {
		return parsed{}, f
	}
	protocol, err := federation.ParseProtocol(string(shape.protocolName))
	if err != nil {
		return parsed{}, faultProtocol
	}
	detail := federation.DetailSummary
	switch shape.detail {
	case 1:
	case 2:
		detail = federation.DetailEndpoints
	default:
		return parsed{}, faultDetail
	}
	p := parsed{body: string(body), refs: make([]slotRef, 0, shape.slots)}
	p.svc = &federation.ImportedService{Name: name, Protocol: protocol, Detail: detail, Identity: id, Zones: slices.Clone(r.zones),
		Slots: make([]federation.ImportedSlot, 0, shape.slots)}
	if f := r.fill(&p, body); f != nil {
		return parsed{}, f
	}
	return p, nil
}

// survey checks all of body but the relations between slots.
func (r *rowReader) survey(body []byte, id spiffeid.ID) (s bodyShape, bad *fault) {
	r.zones = r.zones[:0]
	err := eachField(body, func(f field) error {
		var b []byte
		switch f.num {
		case 1:
			return f.raw(&s.protocolName, 32)
		case 2:
			return f.uint(&s.detail, ^uint64(0))
		case 3:
			if err := f.raw(&b, maxZone); err != nil {
				return err
			}
			if len(r.zones) == maxZones || len(b) == 0 || !printable(string(b)) {
				bad = faultZone
				return errRange
			}
			r.zones = append(r.zones, r.zone(b))
		case 4:
			if s.slots++; s.slots > r.slots {
				bad = faultSlotQuota
				return errCount
			}
			var slot wireSlot
			if err := f.raw(&b, MaxFrame); err != nil {
				return err
			}
			return slot.decode(b)
		case 5:
			s.must |= f.value
			return f.uint(&f.value, ^uint64(0))
		case 6:
			if err := f.raw(&b, 2048); err != nil {
				return err
			}
			if string(b) != id.String() {
				bad = faultIdentity
				return errRange
			}
		}
		return nil
	})
	switch {
	case bad != nil:
		return s, bad
	case err != nil:
		return s, faultShape
	case s.must != 0:
		return s, faultMust
	}
	return s, nil
}

// fill reads the slots of body, which survey has passed. Keys are cut out of the one copy of body that the row keeps.
func (r *rowReader) fill(p *parsed, body []byte) *fault {
	for rest := body; len(rest) > 0; {
		f, next, err := nextField(rest)
		if err != nil {
			return faultShape
		}
		rest = next
		if f.num != 4 {
			continue
		}
		var s wireSlot
		if err := s.decode(f.bytes); err != nil {
			return faultShape
		}
		at := len(body) - len(next) - len(f.bytes) + s.keyAt
		key := p.body[at : at+s.keyLen]
		slots := p.svc.Slots
		if n := len(slots); n > 0 && slots[n-1].Key >= key || !printable(key) {
			return faultSlotKey
		}
		if s.gen == 0 || int(s.zone) > len(r.zones) {
			return faultSlot
		}
		p.refs = append(p.refs, slotRef{num: uint16(s.num), gen: uint16(s.gen), idx: uint16(len(slots))})
		p.svc.Slots = append(slots, federation.ImportedSlot{Key: key, Weight: uint32(s.weight), Zone: uint16(s.zone)})
	}
	slices.SortFunc(p.refs, func(a, b slotRef) int { return int(a.num) - int(b.num) })
	for i := 1; i < len(p.refs); i++ {
		if p.refs[i-1].num == p.refs[i].num {
			return faultSlot
		}
	}
	return nil
}

// wireSlot is a Slot. The key is a range of the message.
type wireSlot struct {
	keyAt, keyLen          int
	num, gen, zone, weight uint64
}

func (s *wireSlot) decode(b []byte) error {
	seen := 0
	for rest := b; len(rest) > 0; {
		f, next, err := nextField(rest)
		if err != nil {
			return err
		}
		rest = next
		if f.num <= 5 {
			seen |= 1 << f.num
		}
		switch f.num {
		case 1:
			var key []byte
			err = f.raw(&key, maxKey)
			s.keyAt, s.keyLen = len(b)-len(next)-len(key), len(key)
		case 2:
			err = f.uint(&s.num, 1<<16-1)
		case 3:
			err = f.uint(&s.gen, 1<<16-1)
		case 4:
			err = f.uint(&s.zone, maxZones)
		case 5:
			err = f.uint(&s.weight, 1<<32-1)
		}
		if err != nil {
			return err
		}
	}
	if seen&0b111110 != 0b111110 {
		return errMissing // also what bounds our memory: a slot costs its sender at least 12 octets
	}
	return nil
}

func (r *rowReader) zone(b []byte) string {
	if z, ok := r.known[string(b)]; ok {
		return z
	}
	z := string(b)
	if len(r.known) < 4*maxZones { // a peer that invents more gets copies
		r.known[z] = z
	}
	return z
}

// printable refuses what could deceive in a log or on a terminal.
func printable(s string) bool {
	for i := range len(s) {
		if c := s[i]; c >= utf8.RuneSelf {
			return utf8.ValidString(s[i:]) && strings.IndexFunc(s[i:], func(c rune) bool { return !unicode.IsPrint(c) }) < 0
		} else if c < ' ' || c == 0x7f {
			return false
		}
	}
	return true
}

// find returns where the slot that the sender calls p is in a service, or -1.
func find(refs []slotRef, p place) int {
	i := int(p.num)
	if i >= len(refs) || refs[i].num != p.num { // numbers are dense, unless slots have gone
		var found bool
		i, found = slices.BinarySearchFunc(refs, p.num, func(r slotRef, num uint16) int { return int(r.num) - int(num) })
		if !found {
			return -1
		}
	}
	if refs[i].gen != p.gen {
		return -1
	}
	return int(refs[i].idx)
}

// eachHealth walks over the packed health of a row: one pair of healthy and total for each of n slots.
func eachHealth(b []byte, n int, visit func(i int, healthy, total uint32)) error {
	for i := range n {
		healthy, rest, err := count(b)
		if err != nil {
			return err
		}
		total, rest, err := count(rest)
		if err != nil {
			return err
		}
		visit(i, min(healthy, total), total)
		b = rest
	}
	if len(b) > 0 {
		return errLength
	}
	return nil
}

// count reads one varint that counts instances.
func count(b []byte) (uint32, []byte, error) {
	v, n := protowire.ConsumeVarint(b)
	if n < 0 {
		return 0, nil, errTruncated
	}
	return uint32(min(v, federation.MaxSlotCount)), b[n:], nil
}
