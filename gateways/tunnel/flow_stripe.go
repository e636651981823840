package tunnel

import (
	"fmt"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// shift makes this end's bytes go over fresh carriers of the sessions in to, which lead to the flow's gateway: over one, or in
// stripes over several, each taking the next piece when it can write. What is under way on the carriers of before is still
// delivered. The other direction stays where it is. It takes what it gets: an error says that there was no carrier at all, and then
// nothing has changed.
func (f *Flow) shift(to []*session) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.moving || !f.accepted() || f.out.Finished() || f.failed != nil {
		return fmt.Errorf("shift a flow that is not in the middle: %w", ErrNoPath)
	}
	f.moving = true
	defer f.moved()
	var fresh []*leg
	for _, s := range to {
		if s.far != f.far {
			continue
		}
		f.mu.Unlock()
		c, err := s.openCarrier()
		f.mu.Lock()
		if err == nil {
			fresh = append(fresh, f.newLeg(s, c))
		}
	}
	if len(fresh) == 0 || f.failed != nil {
		for _, l := range fresh {
			l.c.cancel(flow.ResetMoved)
		}
		return fmt.Errorf("shift a flow: %w", ErrNoPath)
	}
	f.write(fresh)
	for _, l := range fresh {
		f.introduce(l, flow.Attach{})
	}
	return nil
}

// write makes the legs the ones that are written on. mu is held, and given up meanwhile.
func (f *Flow) write(legs []*leg) {
	old := append(f.stripes, f.cur)
	f.stripes = nil
	for _, l := range old {
		if l != nil {
			l.stripe = false
			f.watch(l)
		}
	}
	f.cur = legs[0]
	if len(legs) > 1 {
		f.stripes = legs
		for _, l := range legs {
			l.stripe = true
		}
	}
	f.cond.Broadcast()
	for _, l := range old {
		if l != nil {
			f.detach(l)
		}
	}
}

// acknowledged is how many bytes of this end's have arrived.
func (f *Flow) acknowledged() uint64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.out.Acked()
}

// spread gives bytes to whichever stripe can write next. mu is held.
func (f *Flow) spread(payload []byte) (int, error) {
	for f.out.Unsent() >= 2*len(f.stripes) && len(f.stripes) > 0 && f.failed == nil && f.writeErr == nil {
		if err := f.wait(f.writeEnd); err != nil {
			return 0, err
		}
	}
	if f.failed != nil || f.writeErr != nil {
		return 0, nil // said by writable
	}
	n, err := f.out.Add(payload, keeper{f.far.peer})
	f.cond.Broadcast()
	if n == 0 && err == nil {
		err = f.wait(f.writeEnd)
	}
	return n, err
}

// pull writes on one stripe for as long as it is one, which is until the end at most.
func (f *Flow) pull(l *leg) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for l.stripe && !l.broken && !l.way.Done() {
		f.drive(l)
		if f.out.Finished() && !f.out.Waits(&l.way) {
			break
		}
		if l.stripe && !l.broken && !l.way.Done() {
			f.cond.Wait()
		}
	}
	if l.stripe {
		l.stripe = false
		f.stripes = without(f.stripes, l)
		f.watch(l)
	}
	f.detach(l)
}
