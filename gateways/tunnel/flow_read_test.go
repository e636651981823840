package tunnel

import (
	"testing"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// Two carriers bring the same bytes after a hand-over. What was true of the second before the first was read may not be any more.
func TestBytesThatHaveComeAreNotReadAgain(t *testing.T) {
	f := &Flow{in: flow.NewIn(flow.Opener)}
	f.cond.L = &f.mu
	older := &leg{offset: 0, left: 10, fresh: true, pumped: true}
	newer := &leg{offset: 0, left: 10, fresh: true, pumped: true}
	f.legs = []*leg{older, newer}
	if got := f.claim(); got != newer {
		t.Fatal("the newest carrier comes first")
	}
	newer.claimed = false
	newer.skipped(10)
	f.in.Took(10)
	if got := f.claim(); got != nil {
		t.Errorf("bytes from %d on are offered where %d follows", got.offset, f.in.Consumed())
	}
}
