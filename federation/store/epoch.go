package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	bolt "go.etcd.io/bbolt"

	"github.com/tradewind-mesh/tradewind/federation"
)

// MaxJump is the furthest JumpEpoch goes ahead in one call. A peer that lies about the epoch it knows can use up that much
// of the counter and no more: it would take 4 billion lies to exhaust it.
const MaxJump = 1 << 32

// NextEpoch starts a new life of the region's publisher: the counter plus one and a random incarnation, on disk before it
// returns. It is called once at every start, before anything is published.
func (b *Bolt) NextEpoch(ctx context.Context) (federation.Epoch, error) { return b.advance(ctx, 0) }

// JumpEpoch is NextEpoch with a counter above atLeast as well, for a region whose peers know a later life than its disk
// does: a disk that was lost or restored. A jump further than MaxJump is refused with a Diagnostic.
func (b *Bolt) JumpEpoch(ctx context.Context, atLeast uint64) (federation.Epoch, error) {
	return b.advance(ctx, atLeast)
}

func (b *Bolt) advance(ctx context.Context, atLeast uint64) (next federation.Epoch, err error) {
	err = b.update(ctx, func(tx *bolt.Tx) error {
		own := tx.Bucket(ownBucket)
		h, err := getHead(own)
		if err != nil {
			return err
		}
		counter := h.epoch.Counter
		if atLeast > counter && atLeast-counter > MaxJump || counter > math.MaxUint64-MaxJump-1 {
			return jumpRefused(counter, atLeast)
		}
		var incarnation [8]byte
		rand.Read(incarnation[:]) // never fails (crypto/rand)
		next = federation.Epoch{Counter: max(counter, atLeast) + 1, Incarnation: binary.BigEndian.Uint64(incarnation[:])}
		h.epoch = next
		return h.put(own)
	})
	if err != nil {
		return federation.Epoch{}, err
	}
	return next, nil
}

func jumpRefused(counter, atLeast uint64) error {
	return &federation.Diagnostic{
		Code: codeJump,
		What: fmt.Sprintf("the epoch was not moved from %d beyond %d", counter, atLeast),
		Why:  fmt.Sprintf("a single step may not exceed %d: no region restarts that often", uint64(MaxJump)),
		Fix:  "find the peer that claims to know that epoch of this region; it is damaged or it lies",
		Err:  errors.New("epoch jump too far"),
	}
}
