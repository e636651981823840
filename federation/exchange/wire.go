package exchange

import (
	"encoding/binary"
	"time"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Bounds of the wire format. They are part of the protocol; what an operator may change is in Limits.
const (
	version          = 1
	knownFeatures    = 0         // none yet
	maxName          = 127       // two DNS labels and a slash
	maxKey           = 128       // federation.ExportedSlot.Key
	maxZone          = 63        // federation.Locality.Zone
	maxZones         = 256       // no cloud region has 30
	maxRowsPerFrame  = 64        // a row costs up to 900 octets of heap, whatever its size on the wire
	maxNamesPerFrame = 256       // and a name up to 200: so no frame costs more than 64 KiB beyond a multiple of its size
	maxRow           = 576 << 10 // an encoded Row: the longest body and its health
	maxBody          = 512 << 10 // 5,000 slots of 100 octets
	maxNacks         = 32        // fits a control frame
	maxHealthWants   = 512       // fits a control frame
	maxDrain         = time.Hour // a drain that takes longer can say so again
	fullFrame        = 56 << 10  // a row longer than this travels in parts
	digestEntry      = 16
	digestsPerFrame  = 3_500 // 55 KiB
	wantsPerFrame    = 7_000 // 55 KiB
)

// kind is the field number of a message in Frame.
type kind = protowire.Number

const (
	kindHello      kind = 1
	kindSync       kind = 2
	kindHead       kind = 3
	kindApplied    kind = 4
	kindNack       kind = 5
	kindGoAway     kind = 6
	kindHealthWant kind = 7
	kindBundle     kind = 8
	kindWithdraw   kind = 9
	kindDrain      kind = 10
	kindHealth     kind = 11
	kindDelta      kind = 12
	kindBegin      kind = 13
	kindDigests    kind = 14
	kindWant       kind = 15
	kindRows       kind = 16
	kindBarrier    kind = 17
)

// laneOf says on which lane a kind of frame travels; a frame on another lane is malformed.
var laneOf = [...]Lane{
	kindHello: LaneControl, kindSync: LaneControl, kindHead: LaneControl, kindApplied: LaneControl, kindNack: LaneControl,
	kindGoAway: LaneControl, kindHealthWant: LaneControl, kindBundle: LaneUrgent, kindWithdraw: LaneUrgent, kindDrain: LaneUrgent,
	kindHealth: LaneHealth, kindDelta: LaneMembership, kindBegin: LaneBulk, kindDigests: LaneBulk, kindWant: LaneBulk,
	kindRows: LaneBulk, kindBarrier: LaneBulk,
}

// mode is how a consumer is brought up to date.
type mode uint8

const (
	modeAuto      mode = 0
	modeReconcile mode = 1
	modeSnapshot  mode = 2
	modeAdopt     mode = 3
)

const (
	goAwayRemoved = 1
	goAwayPaused  = 2
)

type hello struct {
	versionMin, versionMax  uint64
	features                uint64
	region                  []byte
	epoch, known            federation.Epoch
	cursor                  Cursor
	window, services, slots uint64
	time                    int64
}

type syncRequest struct {
	sub    uint64
	mode   mode
	cursor Cursor
}

type head struct {
	cursor Cursor
	time   int64
}

type applied struct {
	sub, frames uint64
	cursor      Cursor
}

// delta is a Delta or a Rows; rows is the message itself, to be walked with eachRow.
type delta struct {
	sub, from, to uint64
	rows          []byte
	rowField      protowire.Number
	count         int
	part          part
	digest        Digest
	atHead        bool
	time          int64 // when atHead
}

type part struct {
	total, offset uint64
	data          []byte
	present       bool
}

// rawRow is a Row that aliases the frame it came in.
type rawRow struct {
	service []byte
	seq     uint64
	body    []byte
	gone    bool
	hv      uint64
	health  []byte
}

type begin struct {
	sub  uint64
	mode mode
}

// listing is a Digests or a Want.
type listing struct {
	sub     uint64
	entries []byte
	last    bool
}

type barrier struct {
	sub, count uint64
	cursor     Cursor
	time       int64
}

// frame wraps a message as a Frame.
func frame(k kind, message []byte) []byte {
	f := make([]byte, 0, len(message)+5)
	f = protowire.AppendTag(f, k, protowire.BytesType)
	return protowire.AppendBytes(f, message)
}

func appendUint(b []byte, n protowire.Number, v uint64) []byte {
	if v == 0 {
		return b
	}
	return protowire.AppendVarint(protowire.AppendTag(b, n, protowire.VarintType), v)
}

func appendBool(b []byte, n protowire.Number, v bool) []byte {
	if !v {
		return b
	}
	return appendUint(b, n, 1)
}

func appendFixed(b []byte, n protowire.Number, v uint64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(b, n, protowire.Fixed64Type), v)
}

func appendBytes(b []byte, n protowire.Number, v []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func appendString(b []byte, n protowire.Number, v string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, n, protowire.BytesType), v)
}

func appendDigest(b []byte, n protowire.Number, d Digest) []byte {
	b = protowire.AppendVarint(protowire.AppendTag(b, n, protowire.BytesType), 16)
	return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, d.Hi), d.Lo)
}

// appendMessage appends what fill writes as field n. The length is known only afterwards, so the content is moved by the
// few octets that the length takes.
func appendMessage(b []byte, n protowire.Number, fill func([]byte) []byte) []byte {
	b = protowire.AppendTag(b, n, protowire.BytesType)
	start := len(b)
	b = fill(append(b, 0)) // most messages are shorter than 128 octets
	size := len(b) - start - 1
	if extra := protowire.SizeVarint(uint64(size)) - 1; extra > 0 {
		b = append(b, make([]byte, extra)...)
		copy(b[start+1+extra:], b[start+1:start+1+size])
	}
	protowire.AppendVarint(b[:start], uint64(size))
	return b
}

func appendEpoch(b []byte, n protowire.Number, e federation.Epoch) []byte {
	return appendMessage(b, n, func(b []byte) []byte {
		return appendFixed(appendUint(b, 1, e.Counter), 2, e.Incarnation)
	})
}

func appendCursor(b []byte, n protowire.Number, c Cursor) []byte {
	return appendMessage(b, n, func(b []byte) []byte {
		return appendDigest(appendUint(appendEpoch(b, 1, c.Epoch), 2, c.Seq), 3, c.Digest)
	})
}

func (h hello) frame() []byte {
	b := appendUint(appendUint(nil, 1, h.versionMin), 2, h.versionMax)
	b = appendBytes(appendUint(b, 3, h.features), 4, h.region)
	b = appendCursor(appendEpoch(appendEpoch(b, 5, h.epoch), 6, h.known), 7, h.cursor)
	b = appendUint(appendUint(appendUint(b, 8, h.window), 9, h.services), 10, h.slots)
	return frame(kindHello, appendFixed(b, 11, uint64(h.time)))
}

func (s syncRequest) frame() []byte {
	return frame(kindSync, appendCursor(appendUint(appendUint(nil, 1, s.sub), 2, uint64(s.mode)), 3, s.cursor))
}

func (h head) frame() []byte {
	return frame(kindHead, appendFixed(appendCursor(nil, 1, h.cursor), 2, uint64(h.time)))
}

func (a applied) frame() []byte {
	return frame(kindApplied, appendCursor(appendUint(appendUint(nil, 1, a.sub), 2, a.frames), 3, a.cursor))
}

func (b begin) frame() []byte {
	return frame(kindBegin, appendUint(appendUint(nil, 1, b.sub), 2, uint64(b.mode)))
}

func (l listing) frame(k kind) []byte {
	return frame(k, appendBool(appendBytes(appendUint(nil, 1, l.sub), 2, l.entries), 3, l.last))
}

func (b barrier) frame() []byte {
	return frame(kindBarrier, appendFixed(appendCursor(appendUint(appendUint(nil, 1, b.sub), 2, b.count), 3, b.cursor), 4, uint64(b.time)))
}

func goAwayFrame(reason uint64) []byte { return frame(kindGoAway, appendUint(nil, 1, reason)) }

func bundleFrame(bundle []byte) []byte { return frame(kindBundle, appendBytes(nil, 1, bundle)) }

func drainFrame(d time.Duration) []byte {
	return frame(kindDrain, appendUint(nil, 1, uint64(min(max(d, time.Second), maxDrain)/time.Second)))
}

func appendGone(b []byte, service string, seq uint64) []byte {
	return appendMessage(b, 1, func(b []byte) []byte { return appendUint(appendString(b, 1, service), 2, seq) })
}

func appendRefusal(b []byte, service string, code uint64) []byte {
	return appendMessage(b, 1, func(b []byte) []byte { return appendUint(appendString(b, 1, service), 2, code) })
}

func healthWantFrame(handles []uint32) []byte {
	var packed []byte
	for _, h := range handles {
		packed = protowire.AppendVarint(packed, uint64(h))
	}
	return frame(kindHealthWant, appendBytes(nil, 1, packed))
}

func (p part) append(b []byte, n protowire.Number) []byte {
	return appendMessage(b, n, func(b []byte) []byte {
		return appendBytes(appendUint(appendUint(b, 1, p.total), 2, p.offset), 3, p.data)
	})
}
