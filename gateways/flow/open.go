package flow

import (
	"encoding/binary"
	"net/netip"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
)

// Open is what the opener of a flow asks for.
type Open struct {
	ID        [16]byte    // random; names the flow in the logs of both ends and on every lane
	Source    spiffeid.ID // the caller, as the opener has proven it
	Assurance uint8       // how well it was proven; the numbers are federation.Assurance's
	Service   string      // "namespace/name" in the answering region, at most 127 octets
	Instance  string      // key of the instance that is asked for, at most 128 octets; empty: the answerer chooses
	Copied    bool        // this may come by a copy too, before or after its carrier

	// Client is who calls from outside the mesh, as the opener's listener knows it, for services that want to be told; zero: unknown. The
	// port may be 0, for unknown.
	Client netip.AddrPort
}

// The fields of OPEN's body, each one octet of tag, a varint length, and the value; in ascending order, each at most once.
// A tag of 128 or more must be understood; a lower one that is unknown is skipped, so that later versions can add to OPEN.
const (
	tagID        = 1
	tagSource    = 2
	tagAssurance = 3
	tagService   = 4
	tagInstance  = 5
	tagCopied    = 6
	tagClient    = 7
	tagCritical  = 128

	maxSource  = 2048 // SPIFFE-ID specification, section 2.3
	maxService = 127
)

func (o Open) appendBody(b []byte) ([]byte, error) {
	source := o.Source.String()
	switch {
	case o.Source.IsZero():
		return b, violation("OPEN without a source")
	case len(source) > maxSource:
		return b, violation("OPEN with a source of %d octets", len(source))
	case o.Service == "" || len(o.Service) > maxService:
		return b, violation("OPEN with a service name of %d octets", len(o.Service))
	case len(o.Instance) > maxKey:
		return b, violation("OPEN with an instance key of %d octets", len(o.Instance))
	}
	b = appendField(b, tagID, o.ID[:])
	b = appendField(b, tagSource, source)
	b = append(b, tagAssurance, 1, o.Assurance)
	b = appendField(b, tagService, o.Service)
	if o.Instance != "" {
		b = appendField(b, tagInstance, o.Instance)
	}
	if o.Copied {
		b = append(b, tagCopied, 0)
	}
	if o.Client.IsValid() {
		address := o.Client.Addr().Unmap().WithZone("").AsSlice()
		b = append(append(b, tagClient, byte(len(address)+2)), address...)
		b = binary.BigEndian.AppendUint16(b, o.Client.Port())
	}
	return b, nil
}

func appendField[T string | []byte](b []byte, tag byte, value T) []byte {
	b = append(b, tag)
	b = binary.AppendUvarint(b, uint64(len(value)))
	return append(b, value...)
}

// parseOpen reads the body of an OPEN. What it returns shares no memory with b.
func parseOpen(b []byte) (Open, error) {
	var o Open
	last := 0
	for len(b) > 0 {
		tag := int(b[0])
		size, n := binary.Uvarint(b[1:])
		if n <= 0 || size > uint64(len(b)-1-n) {
			return Open{}, violation("OPEN is cut short in field %d", tag)
		}
		if tag <= last {
			return Open{}, violation("OPEN has field %d behind field %d", tag, last)
		}
		last = tag
		value := b[1+n : 1+n+int(size)]
		b = b[1+n+int(size):]
		if err := o.setField(tag, value); err != nil {
			return Open{}, err
		}
	}
	if o.Source.IsZero() || o.Service == "" {
		return Open{}, violation("OPEN without a source or a service")
	}
	return o, nil
}

func (o *Open) setField(tag int, value []byte) error {
	switch tag {
	case tagID:
		if len(value) != len(o.ID) {
			return violation("OPEN with an ID of %d octets", len(value))
		}
		copy(o.ID[:], value)
	case tagSource:
		if len(value) > maxSource {
			return violation("OPEN with a source of %d octets", len(value))
		}
		id, err := spiffeid.FromString(string(value))
		if err != nil {
			return violation("OPEN with the source %.64q: %v", value, err)
		}
		o.Source = id
	case tagAssurance:
		if len(value) != 1 {
			return violation("OPEN with an assurance of %d octets", len(value))
		}
		o.Assurance = value[0]
	case tagService:
		if len(value) > maxService {
			return violation("OPEN with a service name of %d octets", len(value))
		}
		o.Service = string(value)
	case tagInstance:
		if len(value) > maxKey {
			return violation("OPEN with an instance key of %d octets", len(value))
		}
		o.Instance = string(value)
	case tagCopied:
		if len(value) > 0 {
			return violation("OPEN with a flag of %d octets", len(value))
		}
		o.Copied = true
	case tagClient:
		address, ok := netip.AddrFromSlice(value[:max(len(value)-2, 0)])
		if !ok || address.Is4In6() {
			return violation("OPEN with a client of %d octets", len(value))
		}
		o.Client = netip.AddrPortFrom(address, binary.BigEndian.Uint16(value[len(value)-2:]))
	default:
		if tag >= tagCritical {
			return violation("OPEN with field %d, which must be understood and is not", tag)
		}
	}
	return nil
}
