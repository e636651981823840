package jwt

import (
	"crypto/sha256"
	"sync"
	"time"
)

const (
	// maxCached bounds the tokens whose result is remembered: the users of a busy region within the minutes that a token lives.
	maxCached = 10_000

	// maxCachedBytes bounds them by their length together: claims take some four times the memory of their token.
	maxCachedBytes = 16 << 20
)

// cache remembers tokens that were verified, by their hash and the keys they were verified with: with new keys it starts anew. What was
// refused is not remembered: it would push out what is good.
type cache struct {
	mu      sync.RWMutex
	entries map[cacheKey]cached
	bytes   int
}

type cacheKey struct {
	of   *provider
	with *keyring
	hash [sha256.Size]byte
}

type cached struct {
	claims claimSet
	size   int
}

func (c *cache) get(k cacheKey, now time.Time) (claimSet, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	e, found := c.entries[k]
	return e.claims, found && now.Before(e.claims.expires)
}

func (c *cache) put(k cacheKey, claims claimSet, size int, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, found := c.entries[k]; found {
		return
	}
	if c.entries == nil {
		c.entries = map[cacheKey]cached{}
	}
	if len(c.entries) >= maxCached || c.bytes+size > maxCachedBytes {
		c.drop(func(_ cacheKey, e cached) bool { return !now.Before(e.claims.expires) })
	}
	for old := range c.entries { // in no order
		if len(c.entries) < maxCached && c.bytes+size <= maxCachedBytes {
			break
		}
		c.remove(old)
	}
	c.entries[k] = cached{claims, size}
	c.bytes += size
}

// forget drops what was verified with keys that are no longer in force.
func (c *cache) forget(with *keyring) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drop(func(k cacheKey, _ cached) bool { return k.with == with })
}

func (c *cache) drop(which func(cacheKey, cached) bool) {
	for k, e := range c.entries {
		if which(k, e) {
			c.remove(k)
		}
	}
}

func (c *cache) remove(k cacheKey) {
	c.bytes -= c.entries[k].size
	delete(c.entries, k)
}
