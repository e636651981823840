package flow

import "testing"

// TestEndedWayIsNotStuckOnAnUnheardHead: else every flow that ends before its answer is acknowledged would ask for another carrier.
func TestEndedWayIsNotStuckOnAnUnheardHead(t *testing.T) {
	o, w := NewOut(Answerer), Way{ID: 1}
	if err := o.Accept(); err != nil {
		t.Fatal(err)
	}
	if err := o.Fin(); err != nil {
		t.Fatal(err)
	}
	if o.Next(&w, nil); !w.Done() || o.Stuck(&w) {
		t.Errorf("done %v, stuck %v", w.Done(), o.Stuck(&w))
	}
	if o.Lost(w.ID); !o.Stuck(&w) {
		t.Error("the end is lost with its carrier, and nothing is stuck")
	}
	next := Way{ID: 2}
	if frames, _ := o.Next(&next, nil); len(frames) != 2*HeaderLen || o.Stuck(&next) {
		t.Errorf("%d octets on another carrier, stuck %v", len(frames), o.Stuck(&next))
	}
}
