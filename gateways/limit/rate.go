package limit

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Rate bounds how often something happens: the generic cell rate algorithm (ITU-T I.371, virtual scheduling), which needs one number.
// The zero value is ready for use.
type Rate struct {
	due atomic.Int64 // when the next would come if all had come evenly
}

// Take reports whether one more may happen now. If not, wait is how long until it may.
func (r *Rate) Take(l federation.RateLimit, now time.Duration) (wait time.Duration, ok bool) {
	for {
		old := r.due.Load()
		due, wait := conform(old, l, now)
		if wait > 0 || r.due.CompareAndSwap(old, due) {
			return wait, wait == 0
		}
	}
}

// Peek is Take of one that does not come: it says how long that would have to wait, and how many of the burst are used up now.
func (r *Rate) Peek(l federation.RateLimit, now time.Duration) (used int, wait time.Duration) {
	return peek(r.due.Load(), l, now)
}

func peek(due int64, l federation.RateLimit, now time.Duration) (used int, wait time.Duration) {
	_, wait = conform(due, l, now)
	every := int64(l.Rate.Every())
	return min(int((max(0, due-int64(now))+every-1)/every), max(l.Burst, 1)), wait
}

// conform returns when the next is due after one at now, or how long that one must wait.
func conform(due int64, l federation.RateLimit, now time.Duration) (next int64, wait time.Duration) {
	every := int64(l.Rate.Every())
	ahead := int64(max(l.Burst, 1)-1) * every // at most 3.6e18: a burst of a million, one an hour
	if early := due - ahead - int64(now); early > 0 {
		return due, time.Duration(early)
	}
	return max(due, int64(now)) + every, 0
}

const (
	shards = 16 // more than the processors that are at it at the same moment, on most machines

	// spills is how many rates of a shard are shared by the keys that find no place of their own.
	spills = 64

	// chances is how many keys are looked at to find one that can be forgotten.
	chances = 4
)

// Rates is a Rate for each of many keys. It holds a bounded number of them, and forgets the one used least recently, but only one that
// owes nothing: that is in the state of a new one. So whoever invents keys can never have another's state, or his own, forgotten.
// While all owe something, new keys share rates; at worst they are allowed less. No key is ever allowed more than its limit.
type Rates struct {
	seed   maphash.Seed
	places int // of a shard
	shards [shards]shard
}

type shard struct {
	mu             sync.Mutex
	at             map[uint64]int32 // places by the hash of a key: the key itself may be long, and this hash cannot be guessed
	all            []place
	newest, oldest int32 // ends of the list in the order of use
	spill          [spills]int64
}

type place struct {
	key          uint64
	due          int64
	newer, older int32
}

const none = -1

// NewRates returns a Rates for about so many keys, of 50 octets each once they are used.
func NewRates(keys int) *Rates {
	r := &Rates{seed: maphash.MakeSeed(), places: max(1, (keys+shards-1)/shards)}
	for i := range r.shards {
		r.shards[i] = shard{at: map[uint64]int32{}, newest: none, oldest: none}
	}
	return r
}

// Take reports whether one more for key may happen now. If not, wait is how long until it may.
func (r *Rates) Take(key string, l federation.RateLimit, now time.Duration) (wait time.Duration, ok bool) {
	h := maphash.String(r.seed, key)
	s := &r.shards[h%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.find(h, r.places, now)
	*due, wait = conform(*due, l, now)
	return wait, wait == 0
}

// Peek is Rate.Peek of key.
func (r *Rates) Peek(key string, l federation.RateLimit, now time.Duration) (used int, wait time.Duration) {
	h := maphash.String(r.seed, key)
	s := &r.shards[h%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	due := s.spill[h/shards%spills]
	if i, found := s.at[h]; found { // another would share that, or take it along to a place of its own
		due = s.all[i].due
	}
	return peek(due, l, now)
}

// Len is the number of keys that have a place of their own.
func (r *Rates) Len() int {
	n := 0
	for i := range r.shards {
		r.shards[i].mu.Lock()
		n += len(r.shards[i].all)
		r.shards[i].mu.Unlock()
	}
	return n
}

// find returns where the state of the key with hash h is held.
func (s *shard) find(h uint64, places int, now time.Duration) *int64 {
	i, found := s.at[h]
	if found {
		s.unlink(i)
		s.link(i)
		return &s.all[i].due
	}
	spill := &s.spill[h/shards%spills]
	if len(s.all) < places {
		i = int32(len(s.all))
		s.all = append(s.all, place{})
	} else if i = s.idle(now); i == none {
		return spill
	}
	s.all[i] = place{key: h, due: *spill} // what it may owe from when it had to share
	s.at[h] = i
	s.link(i)
	return &s.all[i].due
}

// idle takes a place out of the list whose key owes nothing.
func (s *shard) idle(now time.Duration) int32 {
	for range chances {
		i := s.oldest
		s.unlink(i)
		if s.all[i].due <= int64(now) {
			delete(s.at, s.all[i].key)
			return i
		}
		s.link(i) // or one that owes for long would guard all that do not
	}
	return none
}

func (s *shard) link(i int32) {
	p := &s.all[i]
	p.newer, p.older = none, s.newest
	if s.newest != none {
		s.all[s.newest].newer = i
	} else {
		s.oldest = i
	}
	s.newest = i
}

func (s *shard) unlink(i int32) {
	p := &s.all[i]
	if p.newer != none {
		s.all[p.newer].older = p.older
	} else {
		s.newest = p.older
	}
	if p.older != none {
		s.all[p.older].newer = p.newer
	} else {
		s.oldest = p.newer
	}
}
