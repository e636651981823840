package tunnel

import (
	"sync"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// What is kept of the bytes that have not been acknowledged.
const (
	keepFlow = 16 << 20  // a flow: as much as the window of a stream lets be under way. Beyond it a writer waits
	keepPeer = 256 << 20 // all flows with one region. Beyond it flows go on without: they cannot move until they are acknowledged

	smallKept = 4 << 10   // for a request or an answer
	largeKept = 128 << 10 // for a transfer
)

var (
	smallChunks = sync.Pool{New: func() any { return new([smallKept]byte) }}
	largeChunks = sync.Pool{New: func() any { return new([largeKept]byte) }}
)

// keeper lends the memory for what flows with one peer have to keep. It is a flow.Pool.
type keeper struct{ p *peer }

// Get implements flow.Pool.
func (k keeper) Get(hint int, must bool) []byte {
	size := int64(smallKept)
	if hint > smallKept-flow.HeaderLen {
		size = largeKept
	}
	if k.p.kept.Add(size) > keepPeer && !must {
		k.p.kept.Add(-size)
		k.p.bare.Add(1)
		return nil
	}
	if size == smallKept {
		return smallChunks.Get().(*[smallKept]byte)[:flow.HeaderLen]
	}
	return largeChunks.Get().(*[largeKept]byte)[:flow.HeaderLen]
}

// Put implements flow.Pool.
func (k keeper) Put(b []byte) {
	k.p.kept.Add(-int64(cap(b)))
	if cap(b) == smallKept {
		smallChunks.Put((*[smallKept]byte)(b[:smallKept]))
		return
	}
	largeChunks.Put((*[largeKept]byte)(b[:largeKept]))
}
