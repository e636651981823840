package flow

// Pool lends the memory that a sending half keeps bytes in until they are acknowledged.
type Pool interface {
	// Get returns a buffer of at least HeaderLen+1 octets; hint is how many bytes are at hand. It returns nil when the limit is
	// reached, unless must is set: the flow holds nothing and could not go on.
	Get(hint int, must bool) []byte
	Put(b []byte)
}

// piece is consecutive bytes of a sequence, with room for a DATA header in front.
type piece struct {
	b     []byte
	start uint64 // offset of b[HeaderLen]
	way   uint32 // the Way it was sent on, or is being sent on; 0: not sent
	// writers is how many carriers it is being written on, by callers of Out.Next: one that was lost may still be at it when the next
	// begins. Until it is 0 the memory must not be lent again.
	writers uint8
}

func (p *piece) end() uint64 { return p.start + uint64(len(p.b)-HeaderLen) }

// fill appends as much of b as there is room for.
func (p *piece) fill(b []byte) int {
	n := min(len(b), cap(p.b)-len(p.b), MaxData-(len(p.b)-HeaderLen))
	p.b = append(p.b, b[:n]...)
	return n
}

// tail is the bytes that have not been acknowledged, in order and without gaps.
type tail struct {
	pieces []*piece
	one    piece // the first of a flow that never has two needs no memory of its own
	unsent int   // how many pieces have no way
}

// add appends b as one piece or a part of the last one, as far as it fits, and returns how much did.
func (t *tail) add(start uint64, b []byte, way uint32, pool Pool) int {
	if n := len(t.pieces); n > 0 {
		if last := t.pieces[n-1]; last.way == way && last.writers == 0 && last.end() == start {
			if took := last.fill(b); took > 0 {
				return took
			}
		}
	}
	memory := pool.Get(len(b), len(t.pieces) == 0 && way == 0)
	if memory == nil {
		return 0
	}
	p := &t.one
	if p.b != nil {
		p = &piece{}
	}
	*p = piece{b: memory[:HeaderLen], start: start, way: way}
	if way == 0 {
		t.unsent++
	}
	t.pieces = append(t.pieces, p)
	return p.fill(b)
}

// release lets go of what lies below offset and is not being written.
func (t *tail) release(offset uint64, pool Pool) {
	if len(t.pieces) > 0 && t.pieces[0].end() <= offset {
		t.dropAll(pool, func(p *piece) bool { return p.end() <= offset })
	}
}

// clear lets go of everything that is not being written.
func (t *tail) clear(pool Pool) { t.dropAll(pool, func(*piece) bool { return true }) }

func (t *tail) dropAll(pool Pool, unwanted func(*piece) bool) {
	kept := t.pieces[:0]
	for _, p := range t.pieces {
		if p.writers > 0 || !unwanted(p) {
			kept = append(kept, p)
			continue
		}
		t.drop(p, pool)
	}
	clear(t.pieces[len(kept):])
	t.pieces = kept
}

func (t *tail) drop(p *piece, pool Pool) {
	if p.way == 0 {
		t.unsent--
	}
	pool.Put(p.b)
	*p = piece{}
}

// next returns the first piece that has not been sent and has nothing to send that lies before offset; what lies below acked
// need not be sent.
func (t *tail) next(offset, acked uint64) *piece {
	for _, p := range t.pieces {
		if p.way == 0 && max(p.start, acked) >= offset {
			return p
		}
	}
	return nil
}
