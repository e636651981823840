package tunnel

import (
	"errors"
	"time"

	"github.com/quic-go/quic-go"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// finalClose reports whether a session that ended like this takes its flows with it: somebody wanted it so.
func finalClose(err error) bool {
	var app *quic.ApplicationError
	if !errors.As(err, &app) {
		return false
	}
	switch app.ErrorCode {
	case closeRevoked, closeForgotten, closeProtocol, closeShutdown, closeDraining:
		return true
	}
	return false
}

// enter makes s known to the flows with its gateway: those that have waited for it go on. It comes before anything is carried.
func (s *session) enter() {
	s.far = s.peer.remotes.enter(s)
}

// evacuate moves the flows of a session that has ended to others, at once where there is something to send, and the quiet ones
// one after the other.
func (s *session) evacuate() {
	r := s.far
	cause := s.link.cause()
	var quiet []*Flow
	for _, f := range r.all() {
		f.mu.Lock()
		for _, l := range f.everyLeg() {
			if l.s == s {
				f.lost(l, cause)
			}
		}
		if f.consumed.Load() > 0 && f.failed == nil {
			f.told.Store(0) // what was said on s may not have been heard
			f.mark()
		}
		if f.cond.parked != nil { // the same
			f.asleep.Store(true)
			f.mark()
		}
		switch { // also of a flow whose reader has met the end of its carrier first
		case !f.needs():
		case f.role == flow.Answerer && !f.accepted() && len(r.peer.group(r.id)) == 0:
			f.fail(f.lostPath, flow.ResetAborted) // its opener has gone elsewhere
		case f.out.Waits(nil) || !f.accepted():
			f.want()
		case f.role == flow.Opener:
			quiet = append(quiet, f)
		}
		f.mu.Unlock()
	}
	s.peer.remotes.leave(r)
	r.calm(quiet)
	time.AfterFunc(resumeLimit, r.expire)
}

// calm attaches carriers to flows that have nothing to send.
func (r *remote) calm(quiet []*Flow) {
	if len(quiet) == 0 {
		return
	}
	r.t.start(func() {
		for i, f := range quiet {
			f.mu.Lock()
			f.want()
			f.mu.Unlock()
			if i%quietAtOnce == quietAtOnce-1 {
				<-time.After(quietPause)
			}
		}
	})
}

// resume lets the flows that wait for a session go on.
func (s *session) resume() {
	var quiet []*Flow
	for _, f := range s.far.all() {
		f.mu.Lock()
		switch {
		case !f.needs():
		case f.out.Waits(nil):
			f.want()
		default:
			quiet = append(quiet, f)
		}
		f.mu.Unlock()
	}
	s.far.calm(quiet)
}

// handOver moves the flows of a session that is to end, if there is another with the same gateway. The other end's openers see to
// theirs when they hear that the session is being left.
func (s *session) handOver() {
	for _, f := range s.far.all() {
		f.mu.Lock()
		if f.role == flow.Opener && f.failed == nil && f.sides.Load() != sideBoth && f.cur != nil && f.cur.s == s && !f.moving {
			if next := f.next([]*session{s}); next != nil {
				f.moving = true
				f.attach(next, true)
				f.moved()
			}
		}
		f.mu.Unlock()
	}
}

// giveWay is called at every tick of a session that another has superseded. It sees to it that the flows go there, again and again:
// the other may not be up at both ends yet.
func (s *session) giveWay() {
	now := time.Now().UnixNano()
	last := s.gaveWay.Load()
	if now-last < int64(settleDown) || len(s.peer.group(s.live.id)) == 0 || !s.gaveWay.CompareAndSwap(last, now) {
		return
	}
	s.announceDrain()
	s.t.start(s.handOver)
}
