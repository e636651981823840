package tunnel

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

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

// way is one session that is to be kept.
type way struct {
	region  federation.Region
	address string
	kind    kind
	number  int // of several to one address
}

// ways are the sessions to keep to peers.
func (t *Transport) ways(peers []federation.Peer) map[way]bool {
	wanted := map[way]bool{}
	for _, p := range peers {
		for _, address := range p.Gateways {
			for n := range quicSessions {
				if t.speaks(kindQUIC) {
					wanted[way{p.Region, address, kindQUIC, n}] = true
				}
			}
			if t.speaks(kindTCP) {
				wanted[way{p.Region, address, kindTCP, 0}] = true
			}
		}
	}
	return wanted
}

// keepSessions runs one keeper for each session to the gateway addresses that SetPeers has named.
func (t *Transport) keepSessions(ctx context.Context) {
	running := map[way]context.CancelCauseFunc{}
	known := map[federation.Region]bool{}
	var keepers sync.WaitGroup
	defer keepers.Wait()
	for {
		t.mu.Lock()
		peers := t.wanted
		t.mu.Unlock()
		wanted, regions := t.ways(peers), map[federation.Region]bool{}
		for _, p := range peers {
			regions[p.Region] = true
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
				keepers.Go(func() { t.keep(inner, w) })
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

// keep keeps one session until ctx ends. A session that is due to be replaced, because its certificate nears its
// end or the name leads elsewhere, goes on until a new one is up, and after that until its last flow has ended.
func (t *Transport) keep(ctx context.Context, w way) {
	p := t.peerOf(w.region)
	dial := t.dialSession
	if w.kind == kindTCP {
		dial = t.dialLanes
	}
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
		s, err := dial(ctx, w, p.patience())
		if err != nil {
			attempts++
			wait = backoff(attempts)
			said = p.noteFailure(ctx, w, said, err)
			continue
		}
		said = ""
		if f := p.failed[w.kind].Load(); f != nil && f.address == w.address {
			p.failed[w.kind].CompareAndSwap(f, nil)
		}
		if current != nil {
			current.superseded.Store(true)
		}
		attempts, current, ended = 0, s, make(chan struct{})
		done := ended
		// The run of a session ends with the transport, not with the keeper: flows outlive the interest in an address.
		if !t.start(func() { defer close(done); s.run() }) {
			s.close(closeShutdown, errStopped.Error())
			s.link.release()
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
func (p *peer) noteFailure(ctx context.Context, w way, said string, err error) string {
	if ctx.Err() != nil {
		return said
	}
	p.failures.Add(1)
	f := &failure{address: w.address, reason: err.Error()}
	if errors.As(err, &f.diagnostic) {
		f.reason = f.diagnostic.Reason()
	}
	p.failed[w.kind].Store(f)
	if f.reason != said && w.number == 0 { // the others of its kind have the same to say
		p.t.log.Warn("gateway of peer not reached, trying on", "peer", p.region, "address", w.address, "lane", w.kind.String(), "err", err)
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
	remote := ipOf(s.link.remote())
	return remote != nil && !slices.ContainsFunc(targets, func(u *net.UDPAddr) bool { return u.IP.Equal(remote) })
}

func ipOf(addr net.Addr) net.IP {
	switch a := addr.(type) {
	case *net.UDPAddr:
		return a.IP
	case *net.TCPAddr:
		return a.IP
	}
	return nil
}

// noPath says why no flow can be opened to p.
func (t *Transport) noPath(region federation.Region) error {
	d := &federation.Diagnostic{Code: federation.CodeNoPath, What: fmt.Sprintf("no live path to region %s", region), Err: ErrNoPath,
		Why: "it is not a peer, or none of its gateways has an address here", Fix: "tradewind peer show " + string(region)}
	if p := t.peer(region); p != nil {
		if f := p.failure(); f != nil {
			d.Why = f.reason
			if f.diagnostic != nil && f.diagnostic.Fix != "" {
				d.Fix = f.diagnostic.Fix
			}
		} else if len(*p.table.Load()) > 0 {
			d.Why = "its gateways are draining, or have no stream or lane free at this moment"
		} else {
			d.Why = "no session to any of its gateways is up yet"
		}
	}
	return d
}

// ErrNoPath is in the tree of every error that says that there is no session to a peer.
var ErrNoPath = errors.New("no live path to the peer")
