package mesh

import (
	"context"
	"crypto/x509"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// liveShards spreads the registry of open connections over locks, so that opening and closing do not queue up behind a
// judgement of all.
const liveShards = 64

// live is the registry of open connections.
type live struct {
	shards [liveShards]liveShard
	next   atomic.Uint64
	open   atomic.Int64  // connections between begin and done, registered or not
	idle   chan struct{} // capacity 1: the last connection ended
}

type liveShard struct {
	mu    sync.Mutex
	conns map[*conn]struct{}
	first time.Time // no caller's certificate in this shard ends before; zero: unknown
	_     [64]byte  // a lock for each cache line
}

// conn is one open connection, with all that is needed to judge it again.
type conn struct {
	shard     *liveShard
	direction direction
	source    spiffeid.ID
	assurance federation.Assurance
	chain     []*x509.Certificate // of the caller's SVID; nil when the caller is bound to a listener
	service   federation.ServiceName
	region    atomic.Pointer[federation.Region] // where it goes; outbound, while several may still be tried, the one being tried
	peer      federation.Region                 // inbound: whose gateway brought it
	ended     atomic.Pointer[ending]
	flow      atomic.Pointer[resetter] // the tunnel's side, once there is one
	cancel    context.CancelFunc       // makes whoever serves the connection reset both sides and return
}

// resetter tells a peer why a flow ends; Reset may be called at any time and more than once.
type resetter struct {
	Reset func(code flow.ResetCode)
}

// ending is why a connection was ended from here.
type ending struct {
	code   flow.ResetCode
	reason string
}

// end resets the connection for e. Only the first reason counts.
func (c *conn) end(e ending) {
	if !c.ended.CompareAndSwap(nil, &e) {
		return
	}
	if f := c.flow.Load(); f != nil {
		f.Reset(e.code) // before the cancel, which could say no more than "aborted"
	}
	c.cancel()
}

func newLive() *live {
	l := &live{idle: make(chan struct{}, 1)}
	for i := range l.shards {
		l.shards[i].conns = map[*conn]struct{}{}
	}
	return l
}

func (l *live) add(c *conn) {
	c.shard = &l.shards[l.next.Add(1)%liveShards]
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	c.shard.conns[c] = struct{}{}
	if until := notAfter(c.chain); !until.IsZero() && (c.shard.first.IsZero() || until.Before(c.shard.first)) {
		c.shard.first = until
	}
}

func (l *live) remove(c *conn) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	delete(c.shard.conns, c)
}

// begin counts a connection from the moment it is accepted.
func (l *live) begin() { l.open.Add(1) }

// done is the end of what begin counted.
func (l *live) done() {
	if l.open.Add(-1) == 0 {
		select {
		case l.idle <- struct{}{}:
		default:
		}
	}
}

// each calls f for all connections that were open when it began. No lock is held during f.
func (l *live) each(f func(*conn)) {
	var batch []*conn
	for i := range l.shards {
		batch = l.shards[i].list(batch[:0])
		for _, c := range batch {
			f(c)
		}
	}
	clear(batch[:cap(batch)])
}

func (s *liveShard) list(into []*conn) []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := range s.conns {
		into = append(into, c)
	}
	return into
}

// expired calls f for the connections whose caller's certificate has ended by now. Shards without such a one cost one look
// at a clock reading.
func (l *live) expired(now time.Time, f func(*conn)) {
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		due := !s.first.IsZero() && !now.Before(s.first)
		s.mu.Unlock()
		if !due {
			continue
		}
		for _, c := range s.list(nil) {
			if until := notAfter(c.chain); !until.IsZero() && !now.Before(until) {
				f(c)
			}
		}
		s.refresh(now)
	}
}

// refresh finds the next end of a certificate.
func (s *liveShard) refresh(now time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.first = time.Time{}
	for c := range s.conns {
		until := notAfter(c.chain)
		if until.After(now) && (s.first.IsZero() || until.Before(s.first)) {
			s.first = until
		}
	}
}

func notAfter(chain []*x509.Certificate) time.Time {
	if len(chain) == 0 {
		return time.Time{}
	}
	return chain[0].NotAfter
}

// verdict says why c may no longer stay open under snap, or "".
func (m *Mesh) verdict(snap *route.Snapshot, c *conn) string {
	if c.chain != nil && m.cfg.Judge != nil {
		if err := m.cfg.Judge("", c.chain); err != nil {
			return "the caller's identity is no longer good: " + err.Error()
		}
	}
	if c.direction == inbound {
		if _, found := snap.Peer(c.peer); !found {
			return "region " + string(c.peer) + " is no longer a peer"
		}
		if !snap.ExportedTo(c.service, c.peer) {
			return c.service.String() + " is no longer exported to region " + string(c.peer)
		}
	}
	region := snap.Region()
	if p := c.region.Load(); p != nil {
		region = *p
	}
	if region != snap.Region() {
		if _, found := snap.Peer(region); !found {
			return "region " + string(region) + " is no longer a peer"
		}
	}
	if d := snap.Authorize(c.source, c.assurance, region, c.service); !d.Allowed {
		return "no longer allowed: " + d.Reason
	}
	return ""
}

// rejudge ends every open connection that would not be allowed now, and returns how many.
func (m *Mesh) rejudge() int {
	snap, ended := m.cfg.Table.Load(), 0
	m.live.each(func(c *conn) {
		if why := m.verdict(snap, c); why != "" {
			ended++
			c.end(ending{flow.ResetRevoked, why})
		}
	})
	return ended
}
