package flow

import "testing"

// countingPool counts what it has got back.
type countingPool struct{ back int }

func (*countingPool) Get(int, bool) []byte { return make([]byte, HeaderLen, 1<<10) }

func (p *countingPool) Put([]byte) { p.back++ }

// A carrier that was lost may still be writing a piece when another begins to: its end must not free what the other writes.
func TestMemoryIsNotLentAgainWhileACarrierWritesIt(t *testing.T) {
	o, pool := NewOut(Answerer), &countingPool{}
	if err := o.Accept(); err != nil {
		t.Fatal(err)
	}
	one, two := Way{ID: 1}, Way{ID: 2}
	o.Next(&one, nil) // ACCEPT
	o.Heard()
	if n, err := o.Add([]byte("bytes"), pool); n != 5 || err != nil {
		t.Fatal(n, err)
	}
	_, first := o.Next(&one, nil)
	if !o.Lost(one.ID) {
		t.Fatal("the bytes were not kept")
	}
	_, second := o.Next(&two, nil)
	if first.p == nil || second.p != first.p {
		t.Fatal("the piece was not given out twice")
	}
	if err := o.Ack(5, pool); err != nil {
		t.Fatal(err)
	}
	o.Written(first, pool)
	if pool.back != 0 {
		t.Error("memory was given back while a carrier writes it")
	}
	o.Written(second, pool)
	if pool.back != 1 {
		t.Errorf("memory was given back %d times after the last write", pool.back)
	}
}
