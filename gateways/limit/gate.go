package limit

import (
	"container/list"
	"context"
	"errors"
	"math"
	"sync"
	"sync/atomic"
)

// ErrFull is why Gate.Enter refuses at once: as many wait as may.
var ErrFull = errors.New("too many requests are under way, and too many wait")

// Gate bounds how many are inside at the same time. Those that find it full wait in order of arrival, a bounded number of them. The zero
// value is ready for use.
type Gate struct {
	word  atomic.Uint64 // how many wait (upper half), how many are inside (lower half); while any waits only changed under mu
	limit atomic.Int64  // the last that Enter was called with

	mu    sync.Mutex
	queue list.List // of chan struct{}, closed when its owner is inside
}

const oneWaits = 1 << 32

func split(word uint64) (waiting, inside int) { return int(word >> 32), int(word & (oneWaits - 1)) }

// Enter returns nil when the caller is inside, who then must call Leave. At most limit are inside; 0 is no limit. It waits until ctx is
// over unless pending others do so already. The error is ErrFull or that of ctx.
func (g *Gate) Enter(ctx context.Context, limit, pending int) error {
	if limit <= 0 || limit > math.MaxInt32 {
		limit = math.MaxInt32
	}
	if g.limit.Load() != int64(limit) {
		g.mu.Lock()
		g.limit.Store(int64(limit))
		g.admit() // it may have been raised
		g.mu.Unlock()
	}
	if g.try(limit) {
		return nil
	}
	g.mu.Lock()
	for { // until it is certain that nobody leaves unseen
		if g.try(limit) {
			g.mu.Unlock()
			return nil
		}
		word := g.word.Load()
		waiting, inside := split(word)
		if waiting >= pending {
			g.mu.Unlock()
			return ErrFull
		}
		if (waiting > 0 || inside >= limit) && g.word.CompareAndSwap(word, word+oneWaits) {
			break
		}
	}
	ready := make(chan struct{})
	place := g.queue.PushBack(ready)
	g.mu.Unlock()
	select {
	case <-ready:
		return nil
	case <-ctx.Done():
	}
	return g.giveUp(ctx, ready, place)
}

// try enters if there is room and nobody waits.
func (g *Gate) try(limit int) bool {
	for {
		word := g.word.Load()
		if waiting, inside := split(word); waiting > 0 || inside >= limit {
			return false
		}
		if g.word.CompareAndSwap(word, word+1) {
			return true
		}
	}
}

// giveUp leaves the queue.
func (g *Gate) giveUp(ctx context.Context, ready chan struct{}, place *list.Element) error {
	g.mu.Lock()
	select {
	case <-ready: // let in at the same moment
		g.mu.Unlock()
		g.Leave()
	default:
		g.queue.Remove(place)
		g.word.Add(^uint64(oneWaits - 1))
		g.mu.Unlock()
	}
	return ctx.Err()
}

// Leave makes room for another.
func (g *Gate) Leave() {
	for {
		word := g.word.Load()
		if waiting, _ := split(word); waiting > 0 {
			break
		}
		if g.word.CompareAndSwap(word, word-1) {
			return
		}
	}
	g.mu.Lock()
	g.word.Add(^uint64(0))
	g.admit()
	g.mu.Unlock()
}

// admit lets those in that have waited longest. g.mu is held.
func (g *Gate) admit() {
	for {
		waiting, inside := split(g.word.Load())
		if waiting == 0 || int64(inside) >= g.limit.Load() {
			return
		}
		g.word.Add(^uint64(oneWaits-1) + 1)
		close(g.queue.Remove(g.queue.Front()).(chan struct{}))
	}
}

// InUse returns how many are inside and how many wait.
func (g *Gate) InUse() (inside, waiting int) {
	waiting, inside = split(g.word.Load())
	return inside, waiting
}
