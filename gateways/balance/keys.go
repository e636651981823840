package balance

import (
	"cmp"
	"encoding/binary"
	"math"
	"math/bits"
	"net/netip"
	"slices"
	"strings"
)

const (
	// tableSize is the number of places in a table of keys: Maglev's smaller and Envoy's only size, a prime. It is the same for a service
	// of any size, for when a table grows every key moves. Above some 10,000 members the shares get uneven.
	tableSize = 65537

	// probes is how many places a key may try whose members cannot be used, before all members are looked at: with half of them
	// out, one key in 256 needs that.
	probes = 8
)

// keys leads from keys to members. Where a key leads depends on nothing but the IDs and weights of all members, healthy or not: it is
// the same after a restart and at every gateway. It is immutable.
type keys struct {
	hashes  []uint64 // of the members' IDs
	weights []uint16
	own     map[uint64]int32 // a member by its hash
	table   []int32          // members
}

// Key returns the key for s, such as the value of a header field.
func Key(s string) uint64 {
	h := uint64(14695981039346656037) // FNV-1a, whose constants anybody can look up, with a better end
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	return mix(h)
}

// AddressKey returns the key for a caller's address. An IPv4 address has the same one in its IPv6 form.
func AddressKey(a netip.Addr) uint64 {
	b := a.As16()
	return mix(binary.BigEndian.Uint64(b[:8]) ^ mix(binary.BigEndian.Uint64(b[8:])))
}

// mix spreads h over all bits: the finalizer of MurmurHash3.
func mix(h uint64) uint64 {
	h = (h ^ h>>33) * 0xff51afd7ed558ccd
	h = (h ^ h>>33) * 0xc4ceb9fe1a85ec53
	return h ^ h>>33
}

// PickFor is Pick for something with a key. The same key gets the same member. While that one cannot be used it gets another, always
// the same, and the first again when it can be. When one of n members comes or goes about one key in n moves.
func (p *Pool) PickFor(key uint64, tried []int, mode Mode) (Lease, bool) {
	if len(p.members) == 0 {
		return Lease{}, false
	}
	p.keying.Do(p.bindKeys)
	now := p.balancer.clock.ns()
	i := p.find(now, key, tried, p.relax(now, mode))
	if i < 0 {
		return Lease{}, false
	}
	return p.lease(i), true
}

// Key returns a key for PickFor that leads to the lease's member itself for as long as the service has it, also when others come.
func (l Lease) Key() uint64 { return Key(string(l.Endpoint().Instance)) }

// Index returns the place of the member whose lease has key, which is not to be asked again: see Pick's tried.
func (p *Pool) Index(key uint64) (int, bool) {
	i := slices.IndexFunc(p.members, func(m member) bool { return Key(string(m.Endpoint.Instance)) == key })
	return i, i >= 0
}

// find returns the member for key that is admitted and not in tried, or -1.
func (p *Pool) find(now int64, key uint64, tried []int, mode Mode) int {
	if i, found := p.keys.own[key]; found && p.free(now, int(i), tried, mode) {
		return int(i)
	}
	h := mix(key)
	for range probes {
		place, _ := bits.Mul64(h, tableSize)
		if i := int(p.keys.table[place]); p.free(now, i, tried, mode) {
			return i
		}
		h = mix(h + 0x9e3779b97f4a7c15)
	}
	best, most := -1, math.Inf(-1)
	for i, hash := range p.keys.hashes { // weighted rendezvous (Schindelhauer and Schomaker, 2005)
		if !p.free(now, i, tried, mode) {
			continue
		}
		luck := (float64(mix(hash^h)>>11) + 0.5) / (1 << 53)
		if score := -float64(p.members[i].Weight) / math.Log(luck); score > most {
			best, most = i, score
		}
	}
	return best
}

// bindKeys fills in p.keys. To make them takes a millisecond or, of a thousand members, ten: so only a pool that is asked for them has any,
// and one with the members of its predecessor has the same.
func (p *Pool) bindKeys() {
	hashes, weights := make([]uint64, len(p.members)), make([]uint16, len(p.members))
	for i := range p.members {
		hashes[i], weights[i] = Key(string(p.members[i].Endpoint.Instance)), p.members[i].Weight
	}
	if p.keys = p.group.keysOf(p.subset); p.keys != nil && slices.Equal(p.keys.hashes, hashes) && slices.Equal(p.keys.weights, weights) {
		return
	}
	p.keys = p.newKeys(hashes, weights) // not under the lock: Bind needs it
	p.group.keying.Lock()
	defer p.group.keying.Unlock()
	p.group.keys[p.subset] = p.keys
}

func (g *group) keysOf(subset string) *keys {
	g.keying.Lock()
	defer g.keying.Unlock()
	return g.keys[subset]
}

func (p *Pool) newKeys(hashes []uint64, weights []uint16) *keys {
	own, order := make(map[uint64]int32, len(hashes)), make([]int32, len(hashes))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortFunc(order, func(a, b int32) int { // the order of the members must not matter
		ea, eb := &p.members[a].Endpoint, &p.members[b].Endpoint
		return cmp.Or(cmp.Compare(hashes[a], hashes[b]), strings.Compare(string(ea.Instance), string(eb.Instance)),
			ea.Address.Compare(eb.Address))
	})
	for _, i := range slices.Backward(order) {
		own[hashes[i]] = i // of several with the same ID the first in order
	}
	return &keys{hashes, weights, own, maglev(hashes, weights, order)}
}

// turn is a member's next turn to take a place.
type turn struct {
	member      int32
	rank        int32   // in the order of hashes, which decides between turns at the same time
	at, every   float64 // 1/weight after the last: so places are shared by weight
	place, step uint32  // of its own permutation of the places
}

func (t *turn) before(u *turn) bool { return t.at < u.at || t.at == u.at && t.rank < u.rank }

// maglev gives every place to a member: in turn, each takes the first place in its own order of places that is still free.
func maglev(hashes []uint64, weights []uint16, order []int32) []int32 {
	turns := make([]turn, len(order))
	for rank, i := range order {
		every := 1 / float64(weights[i])
		turns[rank] = turn{member: i, rank: int32(rank), at: every, every: every,
			place: uint32(mix(hashes[i]^1) % tableSize), step: uint32(mix(hashes[i]^2)%(tableSize-1)) + 1}
	}
	slices.SortFunc(turns, func(a, b turn) int { return cmp.Or(cmp.Compare(a.at, b.at), cmp.Compare(a.rank, b.rank)) }) // a heap
	table := make([]int32, tableSize)
	for i := range table {
		table[i] = -1
	}
	for range table {
		t := &turns[0]
		for table[t.place] >= 0 {
			t.place = (t.place + t.step) % tableSize
		}
		table[t.place] = t.member
		t.at += t.every
		sink(turns)
	}
	return table
}

// sink moves the first of a heap down to where it belongs.
func sink(turns []turn) {
	for i := 0; ; {
		least := i
		for child := 2*i + 1; child <= 2*i+2 && child < len(turns); child++ {
			if turns[child].before(&turns[least]) {
				least = child
			}
		}
		if least == i {
			return
		}
		turns[i], turns[least] = turns[least], turns[i]
		i = least
	}
}
