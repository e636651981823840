package tunnel

import (
	"cmp"
	"maps"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	// quicSessions is how many QUIC sessions are kept to one gateway address. Each sends and receives in a goroutine of its own,
	// and a loss slows down only what shares its connection. With eight, under loss, each has too few packets to notice soon.
	quicSessions = 4

	// maxSessions is how many sessions one peer may have here: its gateways times ours, five each way, and those being replaced.
	maxSessions = 1024

	// maxPeerLanes is how many lanes they may have together: a file descriptor and some 40 KiB each.
	maxPeerLanes = 4096
)

// peer is all that is known of the ways to one region.
type peer struct {
	t      *Transport
	region federation.Region

	table    atomic.Pointer[[]*session] // every session that runs; replaced whole
	failed   [2]atomic.Pointer[failure] // by kind: the last attempt to reach it that failed; nil when that address has been reached since
	rtt      atomic.Int64               // nanoseconds; of the last session that was up
	since    atomic.Int64               // Unix nanoseconds of the last change of up
	up       atomic.Bool
	in, out  atomic.Uint64   // bytes of flows
	kept     atomic.Int64    // octets kept until they are acknowledged
	bare     atomic.Uint64   // how often there was no room for them
	copied   atomic.Uint64   // copies sent
	needed   atomic.Uint64   // copies of the peer that came before what they are copies of
	bulk     [2]atomic.Int64 // bulk transfers by kind of what carries them
	remotes  remotes         // its gateways
	failures atomic.Uint64   // attempts to dial it that failed
	dialled  atomic.Uint64   // lanes
	lent     atomic.Int64    // lanes that are open
	died     atomic.Uint64   // lanes that ended by themselves
	waited   atomic.Uint64   // flows that had to wait for a lane
	asking   chan struct{}   // a token for each question to it under way
	asked    chan struct{}   // a token for each question of its being answered

	mu   sync.Mutex // held to replace the table and to compare it with up and lane
	lane kind       // that new flows took when it was last up
}

// failure is an attempt to reach a gateway that failed.
type failure struct {
	address, reason string
	diagnostic      *federation.Diagnostic // nil: err was none
}

// failure is what is most worth knowing of why the peer was not reached.
func (p *peer) failure() *failure {
	if f := p.failed[kindQUIC].Load(); f != nil {
		return f
	}
	return p.failed[kindTCP].Load()
}

// peerOf returns the entry of region, made when there is none.
func (t *Transport) peerOf(region federation.Region) *peer {
	if p := t.peer(region); p != nil {
		return p
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	old := *t.peers.Load()
	if p := old[region]; p != nil {
		return p
	}
	p := &peer{t: t, region: region, asking: make(chan struct{}, asksAtOnce), asked: make(chan struct{}, asksAtOnce)}
	p.table.Store(&[]*session{})
	p.since.Store(time.Now().UnixNano())
	next := maps.Clone(old)
	next[region] = p
	t.peers.Store(&next)
	return p
}

func (t *Transport) peer(region federation.Region) *peer { return (*t.peers.Load())[region] }

// sessions returns every flow session that runs.
func (t *Transport) sessions() []*session {
	var all []*session
	for _, p := range *t.peers.Load() {
		all = append(all, *p.table.Load()...)
	}
	return all
}

// add puts s into the table, or reports that it is full.
func (p *peer) add(s *session) bool {
	p.mu.Lock()
	old := *p.table.Load()
	ok := len(old) < maxSessions
	if ok {
		next := append(slices.Clip(old), s)
		p.table.Store(&next)
	}
	p.mu.Unlock()
	p.refresh()
	return ok
}

// slowness is how late an answer may be on s: its round trip and its variation. Sessions of one kind to one gateway go the same way
// and meet the same load, so none may be much slower than the best of them: a dead path is given up when the last of them is, and
// one late answer on one session must not put that off.
func (p *peer) slowness(s *session) time.Duration {
	own := s.srtt.Load() + s.rttVar.Load()
	best := own
	for _, other := range *p.table.Load() {
		if other.far == s.far && other.link.kind() == s.link.kind() {
			best = min(best, other.srtt.Load()+other.rttVar.Load())
		}
	}
	return time.Duration(min(own, 2*best))
}

func (p *peer) remove(s *session) {
	p.rtt.Store(s.srtt.Load())
	p.mu.Lock()
	next := slices.DeleteFunc(slices.Clone(*p.table.Load()), func(o *session) bool { return o == s })
	p.table.Store(&next)
	p.mu.Unlock()
	p.refresh()
}

// refresh compares the sessions with what was last said about the peer, says what has changed, and signals.
func (p *peer) refresh() {
	p.mu.Lock()
	best := p.best(nil)
	up := best != nil && best.state.Load() == alive
	turned := p.up.Swap(up) != up
	if turned {
		p.since.Store(time.Now().UnixNano())
	}
	moved := up && p.lane != best.link.kind()
	if up {
		p.lane = best.link.kind()
	}
	p.mu.Unlock()
	switch {
	case turned && up:
		p.t.log.Info("path to peer is up", "peer", p.region, "gateway", best.live.id, "address", best.address,
			"lane", best.link.kind().String(), "rtt", time.Duration(best.srtt.Load()))
	case moved:
		p.t.log.Warn("new flows to peer go over another lane", "peer", p.region, "gateway", best.live.id, "address", best.address,
			"lane", best.link.kind().String(), "rtt", time.Duration(best.srtt.Load()))
	case turned:
		p.t.log.Warn("path to peer is down", "code", federation.CodePathDown, "peer", p.region)
	}
	select {
	case p.t.changed <- struct{}{}:
	default:
	}
}

// Path is the state of the way to a peer at one moment.
type Path struct {
	Peer      federation.Region
	Up        bool          // a session is alive: a flow opened now would be sent at once
	RTT       time.Duration // smoothed, of the session that a flow would take
	Loss      float64       // share of packets lost, 0 to 1, smoothed over some seconds
	Address   string        // of the gateway at the other end
	Gateway   spiffeid.ID   // of the same
	Lane      string        // what would carry it: LaneQUIC or LaneTCP
	Since     time.Time     // of the last change of Up
	Sessions  int           // of all kinds, in either direction
	QUIC, TCP int           // the same by kind
	Flows     int
	LastError string                 // why the last attempt of this gateway to reach the peer failed, also while the peer reaches this one
	Problem   *federation.Diagnostic // LastError with its code and fix; nil when it has none; not to be changed
}

// Path returns the state of the way to peer; of an unknown one it is down. It is cheap enough for every connection.
func (t *Transport) Path(region federation.Region) Path {
	p := t.peer(region)
	if p == nil {
		return Path{Peer: region}
	}
	return p.path()
}

func (p *peer) path() Path {
	table := *p.table.Load()
	path := Path{Peer: p.region, Sessions: len(table), Since: time.Unix(0, p.since.Load())}
	for _, s := range table {
		path.Flows += int(s.flows.Load())
		if s.link.kind() == kindTCP {
			path.TCP++
		}
	}
	path.QUIC = path.Sessions - path.TCP
	if f := p.failure(); f != nil {
		path.LastError, path.Problem = f.reason, f.diagnostic
	}
	s := p.best(nil)
	if s == nil {
		return path
	}
	path.Up = s.state.Load() == alive
	path.RTT = time.Duration(s.srtt.Load())
	path.Loss = math.Float64frombits(s.loss.Load())
	path.Address, path.Gateway, path.Lane = s.address, s.live.id, s.link.kind().String()
	return path
}

// Paths returns the state of the ways to all peers, by name.
func (t *Transport) Paths() []Path {
	var all []Path
	for _, p := range *t.peers.Load() {
		all = append(all, p.path())
	}
	slices.SortFunc(all, func(a, b Path) int { return cmp.Compare(a.Peer, b.Peer) })
	return all
}

// PathChanged signals that some path went up, down or to another session since the channel was last read. There is one
// signal, of capacity 1, for one reader.
func (t *Transport) PathChanged() <-chan struct{} { return t.changed }
