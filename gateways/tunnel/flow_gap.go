package tunnel

import "time"

// A carrier that breaks may take bytes with it of which only this end knows that they have not come: the other end has written
// its last frame on it and looks at it no more, or the reset of a lane was lost. The bytes behind the gap come on other carriers and
// wait there. The end that reads sees to it then: it begins again with a fresh carrier, and all that it has not read is sent again.

// gapLimit is how long nothing must be read before a gap is believed in: a carrier that is about to be found dead gets there sooner.
// Eight round trips are added, for what is only slow.
const gapLimit = 2 * time.Second

// ahead reports whether a carrier has bytes that lie further ahead than those that are wanted.
func (f *Flow) ahead() bool {
	for _, l := range f.legs {
		if f.blocked(l) {
			return true
		}
	}
	return false
}

// lookForGap is called every second or so for as long as there may be a gap.
func (f *Flow) lookForGap() {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.far.now()
	switch consumed := f.consumed.Load(); {
	case f.failed != nil || f.sides.Load()&sideRead != 0 || f.cur == nil && len(f.legs) == 0 || !f.missed && !f.starving:
		f.gap.Store(false)
		f.gapSince = 0
	case consumed != f.gapAt || f.gapSince == 0:
		f.gapAt, f.gapSince = consumed, now
	case now-f.gapSince >= int64(gapLimit)+8*f.session.srtt.Load() && f.accepted() && !f.moving:
		f.gap.Store(false)
		f.gapSince = 0
		f.restart()
	}
}
