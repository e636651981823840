package tunnel

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// maxSessions is how many flow sessions one peer may have here: its gateways times ours, and room for those being replaced.
const maxSessions = 256

// peer is all that is known of the ways to one region.
type peer struct {
	t      *Transport
	region federation.Region

	table    atomic.Pointer[[]*session] // every session that runs; replaced whole
	failed   atomic.Pointer[failure]    // the last attempt to reach it that failed; nil when that address has been reached since
	rtt      atomic.Int64               // nanoseconds; of the last session that was up
	since    atomic.Int64               // Unix nanoseconds of the last change of up
	up       atomic.Bool
	in, out  atomic.Uint64 // bytes of flows
	failures atomic.Uint64 // attempts to dial it that failed
	asking   chan struct{} // a token for each question to it under way
	asked    chan struct{} // a token for each question of its being answered

	mu sync.Mutex // held to replace the table and to compare it with up
}

// failure is an attempt to reach a gateway that failed.
type failure struct {
	address, reason string
	diagnostic      *federation.Diagnostic // nil: err was none
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
	p.mu.Unlock()
	switch {
	case turned && up:
		p.t.log.Info("path to peer is up", "peer", p.region, "gateway", best.live.id, "address", best.address,
			"rtt", time.Duration(best.srtt.Load()))
	case turned:
		p.t.log.Warn("path to peer is down", "code", federation.CodePathDown, "peer", p.region)
	}
	select {
	case p.t.changed <- struct{}{}:
	default:
	}
}

// best returns the session a new flow should take, leaving out those in tried: one that is not silent before one that is,
// then the nearest, and among equally near ones the one with the fewest flows. It is nil when there is none.
func (p *peer) best(tried []*session) *session {
	var best *session
	for _, s := range *p.table.Load() {
		if s.usable() && !slices.Contains(tried, s) && (best == nil || s.better(best)) {
			best = s
		}
	}
	return best
}

func (s *session) better(o *session) bool {
	if a, b := s.state.Load(), o.state.Load(); a != b {
		return a < b
	}
	a, b := s.srtt.Load(), o.srtt.Load()
	near := max(int64(time.Millisecond), min(a, b)/5) // closer than that is noise
	if a-b > near || b-a > near {
		return a < b
	}
	return s.flows.Load() < o.flows.Load()
}

// Path is the state of the way to a peer at one moment.
type Path struct {
	Peer      federation.Region
	Up        bool          // a session is alive: a flow opened now would be sent at once
	RTT       time.Duration // smoothed, of the session that a flow would take
	Loss      float64       // share of packets lost, 0 to 1, smoothed over some seconds
	Address   string        // of the gateway at the other end
	Gateway   spiffeid.ID   // of the same
	Lane      string        // what carries the flows: "quic"
	Since     time.Time     // of the last change of Up
	Sessions  int
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
	}
	if f := p.failed.Load(); f != nil {
		path.LastError, path.Problem = f.reason, f.diagnostic
	}
	s := p.best(nil)
	if s == nil {
		return path
	}
	path.Up = s.state.Load() == alive
	path.RTT = time.Duration(s.srtt.Load())
	path.Loss = math.Float64frombits(s.loss.Load())
	path.Address, path.Gateway, path.Lane = s.address, s.live.id, "quic"
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

// SetPeers says which gateways a warm session is to be kept to. Sessions of a region that was listed before and is not any
// more are closed. It returns at once; Run does the work.
func (t *Transport) SetPeers(peers []federation.Peer) {
	t.mu.Lock()
	t.wanted = slices.Clone(peers)
	t.mu.Unlock()
	for _, p := range peers {
		t.peerOf(p.Region)
	}
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// keepSessions runs one keeper for each gateway address that SetPeers has named.
func (t *Transport) keepSessions(ctx context.Context) {
	type way struct {
		region  federation.Region
		address string
	}
	running := map[way]context.CancelCauseFunc{}
	known := map[federation.Region]bool{}
	var keepers sync.WaitGroup
	defer keepers.Wait()
	for {
		t.mu.Lock()
		peers := t.wanted
		t.mu.Unlock()
		wanted, regions := map[way]bool{}, map[federation.Region]bool{}
		for _, p := range peers {
			regions[p.Region] = true
			for _, address := range p.Gateways {
				wanted[way{p.Region, address}] = true
			}
		}
		for w, stop := range running {
			if !wanted[w] {
				stop(errUnwanted)
				delete(running, w)
			}
		}
		for region := range known {
			if !regions[region] {
				t.forget(region)
				delete(known, region)
			}
		}
		maps.Copy(known, regions)
		for w := range wanted {
			if running[w] == nil {
				inner, stop := context.WithCancelCause(ctx)
				running[w] = stop
				keepers.Go(func() { t.keep(inner, w.region, w.address) })
			}
		}
		select {
		case <-ctx.Done():
			for _, stop := range running {
				stop(nil)
			}
			return
		case <-t.wake:
		}
	}
}

var errUnwanted = errors.New("the address is not the peer's any more")

// forget closes every session of a region that is no peer any more.
func (t *Transport) forget(region federation.Region) {
	p := t.peer(region)
	if p == nil {
		return
	}
	for _, s := range *p.table.Load() {
		s.close(closeForgotten, "the peering is gone")
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	next := maps.Clone(*t.peers.Load())
	delete(next, region)
	t.peers.Store(&next)
}

// keep keeps one session to address until ctx ends. A session that is due to be replaced, because its certificate nears its
// end or the name leads elsewhere, goes on until a new one is up, and after that until its last flow has ended.
func (t *Transport) keep(ctx context.Context, region federation.Region, address string) {
	p := t.peerOf(region)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	var current *session
	var ended chan struct{} // of current; nil when there is none
	wait, attempts, said := time.Duration(0), 0, ""
	for {
		renew := t.renewal(current)
		select {
		case <-ctx.Done():
			if current != nil && errors.Is(context.Cause(ctx), errUnwanted) {
				current.superseded.Store(true)
			}
			return
		case <-ended:
			wait, current, ended = backoff(0), nil, nil
			continue
		case <-after(current == nil && !t.draining.Load(), wait): // who drains makes no new sessions
		case <-renew:
			if !t.mustReplace(ctx, current) {
				continue
			}
		}
		s, err := t.dialSession(ctx, region, address, p.patience())
		if err != nil {
			attempts++
			wait = backoff(attempts)
			said = p.noteFailure(ctx, address, said, err)
			continue
		}
		said = ""
		if f := p.failed.Load(); f != nil && f.address == address {
			p.failed.CompareAndSwap(f, nil)
		}
		if current != nil {
			current.superseded.Store(true)
		}
		attempts, current, ended = 0, s, make(chan struct{})
		done := ended
		// The run of a session ends with the transport, not with the keeper: flows outlive the interest in an address.
		if !t.start(func() { defer close(done); s.run() }) {
			return
		}
	}
}

// after returns a channel that is ready after d, or never.
func after(wanted bool, d time.Duration) <-chan time.Time {
	if !wanted {
		return nil
	}
	return time.After(d)
}

// backoff is how long to wait before attempt n+1: doubling, with jitter, so that gateways that lost each other together do not
// come back together.
func backoff(n int) time.Duration {
	d := min(firstBackoff<<min(n, 10), lastBackoff)
	return d/2 + rand.N(d/2+1)
}

// patience is how long one attempt may take: twenty round trips when the distance is known, so that after an outage the next
// attempt is not held up by one that was sent into it.
func (p *peer) patience() time.Duration {
	if rtt := time.Duration(p.rtt.Load()); rtt > 0 {
		return min(max(20*rtt, time.Second), handshakeLimit)
	}
	return handshakeLimit
}

// noteFailure keeps the reason for Path, logs it when it is another one than said, and returns it.
func (p *peer) noteFailure(ctx context.Context, address, said string, err error) string {
	if ctx.Err() != nil {
		return said
	}
	p.failures.Add(1)
	f := &failure{address: address, reason: err.Error()}
	if errors.As(err, &f.diagnostic) {
		f.reason = f.diagnostic.Reason()
	}
	p.failed.Store(f)
	if f.reason != said {
		p.t.log.Warn("gateway of peer not reached, trying on", "peer", p.region, "address", address, "err", err)
	}
	return f.reason
}

// renewal is when s has to be looked at again.
func (t *Transport) renewal(s *session) <-chan time.Time {
	if s == nil {
		return nil
	}
	return time.After(resolveEvery*3/4 + rand.N(resolveEvery/5)) // what is left is for the new session to take over
}

// mustReplace reports whether a new session should take over from s.
func (t *Transport) mustReplace(ctx context.Context, s *session) bool {
	if whole := s.goodUntil.Sub(s.epoch); time.Until(s.goodUntil) < whole/4 { // certificates are rotated at half of their life
		return true
	}
	host, _, err := net.SplitHostPort(s.address)
	if err != nil || net.ParseIP(host) != nil {
		return false
	}
	targets, err := t.resolve(ctx, s.address)
	if err != nil {
		return false // what cannot be looked up now has not moved
	}
	remote, ok := s.conn.RemoteAddr().(*net.UDPAddr)
	return ok && !slices.ContainsFunc(targets, func(u *net.UDPAddr) bool { return u.IP.Equal(remote.IP) })
}

// noPath says why no flow can be opened to p.
func (t *Transport) noPath(region federation.Region) error {
	d := &federation.Diagnostic{Code: federation.CodeNoPath, What: fmt.Sprintf("no live path to region %s", region), Err: ErrNoPath,
		Why: "it is not a peer, or none of its gateways has an address here", Fix: "tradewind peer show " + string(region)}
	if p := t.peer(region); p != nil {
		if f := p.failed.Load(); f != nil {
			d.Why = f.reason
			if f.diagnostic != nil && f.diagnostic.Fix != "" {
				d.Fix = f.diagnostic.Fix
			}
		} else if len(*p.table.Load()) > 0 {
			d.Why = "its gateways are draining or at their limit of flows"
		} else {
			d.Why = "no session to any of its gateways is up yet"
		}
	}
	return d
}

// ErrNoPath is in the tree of every error that says that there is no session to a peer.
var ErrNoPath = errors.New("no live path to the peer")
