package peering

import (
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// saveState is when the import goes to disk.
type saveState struct {
	dirty bool
	busy  bool      // the saver has it
	first bool      // nothing was saved in this life yet
	due   time.Time // when dirty
	last  time.Time
}

// want notes that the import has changed.
func (s *saveState) want(now time.Time) {
	if s.dirty {
		return
	}
	s.dirty = true
	switch {
	case s.first:
		s.due = now.Add(saveFirst)
	case s.last.Add(saveEvery).After(now):
		s.due = s.last.Add(saveEvery)
	default:
		s.due = now
	}
}

func (p *peer) saveDue() time.Time {
	if !p.save.dirty || p.save.busy {
		return time.Time{}
	}
	return p.save.due
}

// keep gives the import to the saver when it is due.
func (p *peer) keep(now time.Time) {
	if due := p.saveDue(); due.IsZero() || now.Before(due) {
		return
	}
	select {
	case p.m.saves <- saveJob{p.region, p.domain, p.machine.Saved(), p.saved}:
		p.save.dirty, p.save.busy = false, true
	default:
		p.save.due = now.Add(saveRetry) // the saver is busy with another peer's
	}
}

func (p *peer) saveEnded(err error) {
	p.save.busy, p.save.first, p.save.last = false, false, p.now()
	if err != nil {
		p.trouble(federation.CodeImportFile, err.Error())
		p.save.want(p.now())
	}
}

// finishSaving writes the import a last time, with the moment until which it was known to be all. A peering that has ended
// leaves nothing behind.
func (p *peer) finishSaving() {
	if p.save.busy {
		p.saveEnded(<-p.saved)
	}
	if p.gone || p.leaving || p.machine == nil || p.imported == nil {
		return
	}
	if err := p.m.files.write(p.region, p.domain, p.machine.Saved()); err != nil {
		p.log.Error("save import", "error", err)
	}
}
