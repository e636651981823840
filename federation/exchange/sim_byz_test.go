package exchange

import (
	"bytes"
	"slices"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/tradewind-mesh/tradewind/federation"
)

// mutate is what a byzantine region does to some of its frames.
func (w *world) mutate(lane Lane, f []byte) (Lane, []byte) {
	if w.calm || !w.chance(0.03) {
		return lane, f
	}
	w.counts.mutants++
	f = slices.Clone(f)
	switch w.rng.IntN(6) {
	case 0:
		for range 1 + w.rng.IntN(4) {
			f[w.rng.IntN(len(f))] ^= 1 << w.rng.IntN(8)
		}
	case 1:
		f = f[:w.rng.IntN(len(f))]
	case 2:
		lane = Lane(w.rng.IntN(Lanes + 1))
	case 3:
		f = w.noise(w.rng.IntN(200))
	default:
		lane, f = w.forge()
	}
	return lane, f
}

func (w *world) noise(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(w.rng.Uint32())
	}
	return b
}

// small returns mostly small numbers, and sometimes the largest.
func (w *world) small() uint64 {
	switch w.rng.IntN(5) {
	case 0:
		return 0
	case 1:
		return ^uint64(0) >> w.rng.IntN(64)
	}
	return w.rng.Uint64N(20)
}

func (w *world) cursor() Cursor {
	return Cursor{Epoch: federation.Epoch{Counter: w.small(), Incarnation: w.small()}, Seq: w.small(), Digest: Digest{w.small(), w.small()}}
}

// forge makes a well-formed frame that lies.
func (w *world) forge() (Lane, []byte) {
	var f []byte
	k := kind(1 + w.rng.IntN(int(kindBarrier)))
	switch k {
	case kindHello:
		f = hello{versionMin: 1, versionMax: 1, region: []byte("r4"), epoch: w.cursor().Epoch, known: w.cursor().Epoch, cursor: w.cursor(),
			window: w.small(), time: int64(w.small())}.frame()
	case kindSync:
		f = syncRequest{sub: w.small(), mode: mode(w.rng.IntN(4)), cursor: w.cursor()}.frame()
	case kindHead:
		f = head{cursor: w.cursor(), time: int64(w.small())}.frame()
	case kindApplied:
		f = applied{sub: w.small(), frames: w.small(), cursor: w.cursor()}.frame()
	case kindNack:
		f = frame(kindNack, appendRefusal(nil, "s1", 4000+w.small()))
	case kindGoAway:
		f = goAwayFrame(goAwayPaused)
	case kindHealthWant:
		f = healthWantFrame([]uint32{uint32(w.small()), uint32(w.small())})
	case kindBundle:
		f = bundleFrame(w.noise(w.rng.IntN(100)))
	case kindWithdraw:
		f = frame(kindWithdraw, appendGone(nil, w.name(), w.small()))
	case kindDrain:
		f = drainFrame(maxDrain)
	case kindHealth:
		f = frame(kindHealth, w.statement())
	case kindBegin:
		f = begin{sub: w.small(), mode: mode(1 + w.rng.IntN(3))}.frame()
	case kindDigests:
		f = listing{sub: w.small(), entries: w.noise(16 * w.rng.IntN(5)), last: w.chance(0.5)}.frame(kindDigests)
	case kindWant:
		f = listing{sub: w.small(), entries: w.noise(8 * w.rng.IntN(5)), last: w.chance(0.5)}.frame(kindWant)
	case kindBarrier:
		f = barrier{sub: w.small(), count: w.small(), cursor: w.cursor()}.frame()
	case kindDelta:
		b := appendUint(appendUint(appendUint(nil, 1, w.small()), 2, w.small()), 3, w.small())
		f = frame(kindDelta, append(b, w.rows(4)...))
	case kindRows:
		f = frame(kindRows, append(appendUint(nil, 1, w.small()), w.rows(2)...))
	}
	return laneOf[k], f
}

func (w *world) name() string {
	return []string{"s1", "s2", "default/s1", "..", "a b", "S1", "prod/x", "\x00", "\xff"}[w.rng.IntN(9)]
}

func (w *world) statement() []byte {
	var slots []byte
	for range 4 * w.rng.IntN(5) {
		slots = protowire.AppendVarint(slots, w.small())
	}
	return appendMessage(nil, 1, func(b []byte) []byte {
		return appendBytes(appendUint(appendString(appendUint(b, 1, w.small()), 2, w.name()), 3, w.small()), 4, slots)
	})
}

// rows forges rows that a good decoder keeps out.
func (w *world) rows(n protowire.Number) []byte {
	var b []byte
	for seq := range 1 + w.rng.IntN(4) {
		body := appendBody(nil, federation.ProtocolTCP, federation.DetailEndpoints, []federation.ExportedSlot{{Key: "x"}}, []place{{0, 1}})
		switch w.rng.IntN(6) {
		case 0:
			body = appendUint(body, 5, 1<<40)
		case 1:
			body = appendString(body, 6, "spiffe://r0.mesh.internal/ns/default/svc/s1")
		case 2:
			body = append(body, body...) // every slot twice
		case 3:
			body = w.noise(30)
		case 4:
			body = bytes.Replace(body, []byte("x"), []byte("\n"), 1)
		}
		b = appendMessage(b, n, func(b []byte) []byte {
			b = appendUint(appendString(b, 1, w.name()), 2, uint64(seq)+w.small())
			return appendBytes(appendUint(appendBytes(b, 3, body), 5, w.small()), 6, []byte{1, 1})
		})
	}
	return b
}
