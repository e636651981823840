package tunnel

import (
	"encoding/binary"
	"errors"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

const (
	resumeLimit = 10 * time.Second // how long a flow waits for a session when all are gone: an outage, not a conversation
	lingerFlow  = 10 * time.Second // how long an ended flow waits for its last bytes to be acknowledged
	memoryLimit = 30 * time.Second // how long an ended flow that its opener may open again is remembered; see openAgain
	maxMemory   = 16384            // flows remembered for that; only such count that have ended without a sign of life of the opener

	flowShards = 16
)

// flowKey names one end of a flow at one gateway of a peer.
type flowKey struct {
	id   flow.ID
	role flow.Role // of this end
}

// remote is one gateway of a peer, known by its identity, and the flows with it. They belong to it and not to the session they
// happen to be carried by.
type remote struct {
	t    *Transport
	peer *peer
	id   spiffeid.ID

	epoch  time.Time
	shards [flowShards]flowShard

	sessions int          // under the peer's remotes.mu
	lossy    atomic.Int64 // until when its path counts as one that loses packets, by now
	orphans  atomic.Int64

	mu       sync.Mutex
	dirty    []*Flow // have something to acknowledge
	spare    []*Flow // the other one of two lists that take turns
	held     []*Flow // wait for their first bytes
	holdTime *time.Timer
	lastEnds time.Time
}

// now is a clock for intervals, in nanoseconds.
func (r *remote) now() int64 { return int64(time.Since(r.epoch)) }

// hold sees to it that f is flushed within holdLimit. One timer serves all: nearly every flow has its first bytes long before.
func (r *remote) hold(f *Flow) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.held = append(r.held, f)
	switch {
	case len(r.held) > 1:
	case r.holdTime == nil:
		r.holdTime = time.AfterFunc(holdLimit, r.flush)
	default:
		r.holdTime.Reset(holdLimit)
	}
}

// flush lets go of what is held.
func (r *remote) flush() {
	r.mu.Lock()
	held := r.held
	r.held = nil
	r.mu.Unlock()
	for _, f := range held {
		if f.holding.Load() {
			r.t.start(func() { _ = f.Flush() }) // it may have to wait for the window of its session
		}
	}
}

type flowShard struct {
	mu    sync.Mutex
	flows map[flowKey]*Flow     // those too that have ended at this end, and are not acknowledged by the other
	gone  map[flow.ID]time.Time // opened by the peer, and ended without it being known that its OPEN cannot come again
	blind time.Time             // until then one of gone may have been forgotten too soon: no copy opens a flow
}

// remotes is the gateways of one peer.
type remotes struct {
	mu  sync.Mutex
	all map[spiffeid.ID]*remote
}

// enter returns the other end of s, which is one more of its sessions.
func (g *remotes) enter(s *session) *remote {
	g.mu.Lock()
	defer g.mu.Unlock()
	r := g.all[s.live.id]
	if r == nil {
		if g.all == nil {
			g.all = map[spiffeid.ID]*remote{}
		}
		r = &remote{t: s.t, peer: s.peer, id: s.live.id, epoch: s.epoch}
		g.all[r.id] = r
	}
	r.sessions++
	return r
}

// leave takes one session off r.
func (g *remotes) leave(r *remote) {
	g.mu.Lock()
	defer g.mu.Unlock()
	r.sessions--
}

// release drops r when nothing is left of it. It reports whether somebody has to look again, because no session is left to do it.
func (g *remotes) release(r *remote, left bool) (again bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if r.sessions > 0 {
		return false
	}
	if !left && g.all[r.id] == r {
		delete(g.all, r.id)
	}
	return left
}

// endFlows ends every flow that has no session any more, when the transport closes.
func (t *Transport) endFlows() {
	for _, p := range *t.peers.Load() {
		p.remotes.mu.Lock()
		all := slices.Collect(maps.Values(p.remotes.all))
		p.remotes.mu.Unlock()
		for _, r := range all {
			for _, f := range r.all() {
				f.mu.Lock()
				f.fail(f.pathError(errStopped), flow.ResetDraining)
				f.mu.Unlock()
			}
		}
	}
}

func (r *remote) shard(id flow.ID) *flowShard {
	return &r.shards[binary.BigEndian.Uint16(id[14:])%flowShards]
}

var errFlowKnown = errors.New("a flow with this ID is or was open")

// register adds f, unless there is or was one of the same name.
func (r *remote) register(f *Flow) error {
	sh, key := r.shard(f.id), flowKey{f.id, f.role}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.flows[key] != nil {
		return errFlowKnown
	}
	if len(sh.gone) > 0 && f.role == flow.Answerer && time.Now().Before(sh.gone[f.id]) || f.byCopy && time.Now().Before(sh.blind) {
		return errFlowKnown
	}
	if sh.flows == nil {
		sh.flows = map[flowKey]*Flow{}
	}
	sh.flows[key] = f
	return nil
}

// find returns the flow, also one that has ended and is not settled.
func (r *remote) find(id flow.ID, role flow.Role) *Flow {
	sh := r.shard(id)
	sh.mu.Lock()
	defer sh.mu.Unlock()
	return sh.flows[flowKey{id, role}]
}

// forget drops a flow that has ended. heard: the opener will not open it again.
func (r *remote) forget(f *Flow, heard bool) {
	sh, key := r.shard(f.id), flowKey{f.id, f.role}
	sh.mu.Lock()
	defer sh.mu.Unlock()
	if sh.flows[key] != f {
		return
	}
	delete(sh.flows, key)
	limit := memoryLimit
	switch {
	case f.role == flow.Opener || heard && !f.copied:
		return
	case heard && !f.byCopy: // its stream has come, and a copy may still
		limit = copyLife
	}
	if sh.gone == nil {
		sh.gone = map[flow.ID]time.Time{}
	}
	for id, until := range sh.gone {
		if len(sh.gone) < maxMemory/flowShards {
			break
		}
		if until.After(sh.blind) {
			sh.blind = until
		}
		delete(sh.gone, id)
	}
	sh.gone[f.id] = time.Now().Add(limit)
}

// all returns the flows, those that have ended too.
func (r *remote) all() []*Flow {
	var all []*Flow
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for _, f := range sh.flows {
			all = append(all, f)
		}
		sh.mu.Unlock()
	}
	return all
}

// age forgets what has been waited for long enough, and repeats what has not been heard.
func (r *remote) age(now time.Time) {
	var late, waiting []*Flow
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		for _, f := range sh.flows {
			if f.sides.Load() == sideBoth {
				late = append(late, f)
			}
			if f.wishes.Load() || f.gap.Load() {
				waiting = append(waiting, f)
			}
		}
		for id, until := range sh.gone {
			if now.After(until) {
				delete(sh.gone, id)
			}
		}
		sh.mu.Unlock()
	}
	for _, f := range late {
		f.age(r.now())
	}
	for _, f := range waiting {
		f.askAgain()
		f.lookForGap()
	}
}

// empty reports whether nothing of any flow is left.
func (r *remote) empty() bool {
	for i := range r.shards {
		sh := &r.shards[i]
		sh.mu.Lock()
		n := len(sh.flows) + len(sh.gone)
		sh.mu.Unlock()
		if n > 0 {
			return false
		}
	}
	return true
}

// expire runs resumeLimit after a session has ended, and as long as there is something to wait for and no session to do it.
func (r *remote) expire() {
	r.age(time.Now())
	for _, f := range r.all() {
		f.expire(r.now())
	}
	if r.peer.remotes.release(r, !r.empty()) {
		time.AfterFunc(lingerFlow, r.expire)
	}
}
