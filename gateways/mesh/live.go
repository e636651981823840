package mesh

import (
	"cmp"
	"crypto/x509"
	"errors"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/jwt"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
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
	mu     sync.Mutex
	newest *conn     // the others follow as older
	first  time.Time // no caller's certificate in this shard ends before; zero: unknown
	_      [64]byte  // a lock for each cache line
}

// conn is one open connection, with all that is needed to judge it again.
type conn struct {
	shard        *liveShard
	newer, older *conn // its neighbours there

	direction direction
	source    spiffeid.ID
	assurance federation.Assurance
	chain     []*x509.Certificate // of the caller's SVID; nil when the caller is bound to a listener
	service   federation.ServiceName
	peer      federation.Region // inbound: whose gateway brought it
	pinned    bool              // outbound: to the one region that the caller has named
	requests  bool              // requests come on it, each of them a conn of its own
	request   *match.Request    // it is one of them
	tokens    *jwt.Result       // of that, if any intention asks for them

	mu     sync.Mutex
	region federation.Region // where it goes; outbound, while several may still be tried, the one being tried; empty: here
	flow   resetter          // the tunnel's side, while there is one
	drain  func()            // ends a connection of requests between two of them
	stop   func()            // ends what the connection is waiting for at the moment: an answer, a dial
	pair   *splice.Pair      // its bytes, once it has been connected
	over   bool              // stop has been called for, and so will be every later one
	cause  error             // of that
	quit   bool              // of a request: the try that was under way was given up
	ended  *ending           // why, if from here
}

// resetter tells a peer why a flow ends; Reset may be called at any time and more than once.
type resetter interface {
	Reset(code flow.ResetCode)
}

// ending is why a connection was ended from here.
type ending struct {
	code   flow.ResetCode
	reason string
}

// end resets the connection for e. Only the first reason counts.
func (c *conn) end(e ending) {
	c.mu.Lock()
	if c.ended != nil {
		c.mu.Unlock()
		return
	}
	c.ended = &e
	f := c.flow
	c.mu.Unlock()
	if f != nil {
		f.Reset(e.code) // before the cut, which could say no more than "aborted"
	}
	c.cut(errEnded)
}

// errLeft is the cause of a cut by the caller of a request.
var errLeft = errors.New("the caller has left")

// Left implements l7.Leaver.
func (c *conn) Left() { c.cut(errLeft) }

// deserted reports whether nobody waits any more for the response to r, c's request.
func (c *conn) deserted(r *http.Request) bool {
	if r.Context().Err() != nil {
		return true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause == errLeft && c.ended == nil //nolint:errorlint // as it was given to cut
}

// errEnded is the cause of a cut for which there is an ending.
var errEnded = errors.New("ended by the gateway")

// cut makes whoever serves the connection reset both sides and return.
func (c *conn) cut(cause error) {
	c.mu.Lock()
	if !c.over || c.cause == errOutrun { //nolint:errorlint // as it was given
		c.over, c.cause = true, cause
	}
	stop, pair := c.stop, c.pair
	c.mu.Unlock()
	switch {
	case pair != nil:
		pair.Cancel(cause)
	case stop != nil:
		stop()
	}
}

// waits says what ends the wait that begins now. It is called at once when the connection has been cut.
func (c *conn) waits(stop func()) {
	c.mu.Lock()
	c.stop = stop
	over := c.over
	c.mu.Unlock()
	if over && stop != nil {
		stop()
	}
}

// giveUp ends the try of a request that is under way, which may then be sent elsewhere. False: there is none.
func (c *conn) giveUp() bool {
	c.mu.Lock()
	stop, pair := c.stop, c.pair
	c.quit = stop != nil && pair == nil
	quit := c.quit
	c.mu.Unlock()
	if quit {
		stop()
	}
	return quit
}

// left reports whether the last try was given up from here, and forgets it.
func (c *conn) left() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	quit := c.quit
	c.quit = false
	return quit
}

func (c *conn) isOver() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.over
}

// why returns why the connection was ended from here, or nil.
func (c *conn) why() *ending {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ended
}

// drains says how the connection is ended between two requests.
func (c *conn) drains(drain func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.drain = drain
}

// drainNow ends a connection of requests as soon as none is under way.
func (c *conn) drainNow() {
	c.mu.Lock()
	drain := c.drain
	c.mu.Unlock()
	if drain != nil {
		drain()
	}
}

// heads says where the connection is about to go.
func (c *conn) heads(region federation.Region) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.region = region
}

// rides says what carries the connection to a peer; nil: nothing any more.
func (c *conn) rides(f resetter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flow = f
}

// carry begins to carry the bytes between the caller's side a and b, until both have ended or the connection is cut; then it calls over.
func (c *conn) carry(a, b splice.Conn, o splice.Options, over func(splice.Result)) {
	p := splice.New(a, b, o)
	c.mu.Lock()
	c.pair, c.stop = p, nil
	cut, cause := c.over, c.cause
	c.mu.Unlock()
	if cut {
		p.Cancel(cause)
	}
	p.Start(over)
}

// sweep looks after a connection whose bytes are being carried.
func (c *conn) sweep() {
	c.mu.Lock()
	p := c.pair
	c.mu.Unlock()
	if p != nil {
		p.Sweep()
	}
}

func newLive() *live {
	return &live{idle: make(chan struct{}, 1)}
}

func (l *live) add(c *conn) {
	c.shard = &l.shards[l.next.Add(1)%liveShards]
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if c.older = c.shard.newest; c.older != nil {
		c.older.newer = c
	}
	c.shard.newest = c
	if until := notAfter(c.chain); !until.IsZero() && (c.shard.first.IsZero() || until.Before(c.shard.first)) {
		c.shard.first = until
	}
}

func (l *live) remove(c *conn) {
	c.shard.mu.Lock()
	defer c.shard.mu.Unlock()
	if c.newer != nil {
		c.newer.older = c.older
	} else {
		c.shard.newest = c.older
	}
	if c.older != nil {
		c.older.newer = c.newer
	}
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
	for c := s.newest; c != nil; c = c.older {
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
	for c := s.newest; c != nil; c = c.older {
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
	c.mu.Lock()
	region := cmp.Or(c.region, snap.Region())
	c.mu.Unlock()
	if region != snap.Region() {
		if _, found := snap.Peer(region); !found {
			return "region " + string(region) + " is no longer a peer"
		}
	}
	if c.requests && c.direction == outbound { // each of them is judged, and may go somewhere else
		return ""
	}
	if d := permits(snap, c, region); !d.Allowed {
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
