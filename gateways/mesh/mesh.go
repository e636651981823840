// Package mesh is the east-west data path of a gateway. Outbound, a local caller's connection gets an identity, a decision
// and an instance, here or in a peer's region; inbound, a peer's flow gets a second decision and a local instance. Each way is
// one function that reads in the order the bytes move: see outbound.go and inbound.go.
//
// # What is promised
//
//   - One snapshot decides a connection. When a newer one would decide otherwise, or the caller's identity ends, the
//     connection is reset within five seconds.
//   - Nothing is sent twice. The caller's first bytes are kept until an instance has the connection, and are sent to another
//     one only when it is certain that none of them was delivered.
//   - Nothing is let in by default. To a peer, a service that does not exist and one it may not call look the same; the
//     reason is in the local access log.
//   - A peer reaches instances of this region only, never what other peers have shown: a gateway carries no transit.
package mesh

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/balance"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/jwt"
	"github.com/tradewind-mesh/tradewind/gateways/route"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
)

const (
	// judgeEvery is how often open connections are judged when changes follow each other: often enough for the promise of five
	// seconds, seldom enough that a busy control plane does not keep a core judging.
	judgeEvery = 250 * time.Millisecond

	// sweepEvery is how often open connections are looked after, and the ends of callers' certificates: a fifth of the promised
	// five seconds.
	sweepEvery = splice.SweepEvery

	// rebindEvery is how often an upstream that could not be bound is tried again: as often as a service manager restarts.
	rebindEvery = 5 * time.Second

	// defaultMaxFlows is how many flows of one peer may be open: half of the 65,536 file descriptors that the unit gives a
	// gateway, so that one peer cannot take the other peers' and the local callers' share.
	defaultMaxFlows = 32_768
)

// stopping is how connections end that are still open when Run does.
var stopping = ending{flow.ResetDraining, "the gateway stops"}

// Config is what a Mesh needs. Table, Tunnel and Region are required.
type Config struct {
	Region  federation.Region
	Table   *route.Table
	Balance *balance.Balancer // nil: a new one
	Tunnel  Tunnel

	// LocalListen is where workloads with an SVID of the region connect, "127.0.0.1:15001" by custom; empty: nowhere.
	LocalListen string
	LocalTLS    func() *tls.Config                                 // the server side there; asked for each connection
	Workload    func(tls.ConnectionState) (spiffeid.ID, error)     // who an established connection is of
	Judge       func(federation.Region, []*x509.Certificate) error // is a chain still good; region "": of this region's workloads

	// Tokens verifies the tokens that requests bring; nil: none is believed.
	Tokens *jwt.Verifier

	// ReportFailure is told of an instance that could not be reached, so that it is checked at once. It must not block.
	ReportFailure func(federation.ServiceName, federation.InstanceID)

	MaxFlowsPerPeer int       // 0: defaultMaxFlows
	AccessLog       io.Writer // one JSON line a connection; nil: none
	Metrics         prometheus.Registerer
	Log             *slog.Logger
}

// Mesh is the data path of one gateway. It is safe for concurrent use.
type Mesh struct {
	cfg       Config
	log       *slog.Logger
	metrics   *metrics
	access    *accessLog
	live      *live
	listeners listeners
	pools     sync.Map // federation.ServiceName -> *poolEntry
	failovers failovers
	traffic   traffic
	http      httpState
	inbound   sync.Map // federation.Region -> *atomic.Int64, flows open for a peer

	draining atomic.Bool
	trust    atomic.Uint64 // grows with every change of trust
	judge    chan struct{} // capacity 1
	paths    chan struct{} // capacity 1: a way to a peer has gone up or down
	serving  sync.WaitGroup
	door     sync.RWMutex // between stopped and what enters
	stopped  atomic.Bool  // Run has ended, or is about to
	bound    atomic.Bool  // Listen was called
	lot      splice.Lot
	dialer   func(context.Context, netip.AddrPort) (callerConn, error)
}

// New returns a Mesh that serves nothing yet.
func New(cfg Config) *Mesh {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Balance == nil {
		cfg.Balance = balance.New(balance.Config{})
	}
	if cfg.MaxFlowsPerPeer <= 0 {
		cfg.MaxFlowsPerPeer = defaultMaxFlows
	}
	m := &Mesh{cfg: cfg, log: cfg.Log, metrics: newMetrics(cfg.Metrics), live: newLive(),
		judge: make(chan struct{}, 1), paths: make(chan struct{}, 1), dialer: dialTCP}
	m.http.epoch = time.Now()
	m.listeners.bound = map[string]*listener{}
	m.access = newAccessLog(cfg.AccessLog, cfg.Log, m.metrics.accessDropped)
	m.failovers = failovers{gauge: m.metrics.failovers, log: cfg.Log, now: time.Now}
	return m
}

// Run serves local callers and judges open connections until ctx ends, then resets what is still open and returns nil once
// all of it has ended. It fails at once when the local mTLS listener cannot be bound. Flows of peers come by HandleFlow.
func (m *Mesh) Run(ctx context.Context) error {
	if err := m.Listen(); err != nil {
		return err
	}
	logs, stopLogs := context.WithCancel(context.WithoutCancel(ctx)) // the log outlives the connections it tells of
	var logging sync.WaitGroup
	logging.Go(func() { m.access.run(logs) })
	logging.Go(func() {
		if err := m.lot.Run(logs); err != nil {
			m.log.Warn("idle connections take more memory than they need", "err", err)
		}
	})

	m.listeners.start(func(l *listener) {
		m.serving.Go(func() { m.accept(ctx, l) })
	})
	m.watch(ctx)

	m.listeners.stop()
	m.shut()
	m.live.each(func(c *conn) { c.end(stopping) })
	m.serving.Wait()
	m.http.pool.Close()
	stopLogs()
	logging.Wait()
	return nil
}

// SetAccessLog makes w, nil for none, the access log. When it returns the one before is no longer written to.
func (m *Mesh) SetAccessLog(w io.Writer) { m.access.set(w) }

// watch keeps what is open in line with what is allowed, until ctx ends.
func (m *Mesh) watch(ctx context.Context) {
	sweep, rebind := time.NewTicker(sweepEvery), time.NewTicker(rebindEvery)
	defer sweep.Stop()
	defer rebind.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.judge:
			if n := m.rejudge(); n > 0 {
				m.log.Info("connections reset because they are no longer allowed", "connections", n)
			}
			select { // changes that follow each other are judged together
			case <-ctx.Done():
				return
			case <-time.After(judgeEvery):
			}
		case <-m.paths:
			if n := m.leaveLost(); n > 0 {
				m.log.Info("connections reset because the way they went is lost and another region can serve", "connections", n)
			}
		case <-sweep.C:
			m.live.each((*conn).sweep)
			m.traffic.tick()
			if n := m.leaveDrained(); n > 0 {
				m.log.Info("connections reset because the region they went to is drained and another can serve", "connections", n)
			}
			m.http.pool.Sweep(time.Now())
			m.live.expired(time.Now(), func(c *conn) {
				c.end(ending{flow.ResetRevoked, "the caller's certificate has expired"})
			})
		case <-rebind.C:
			if m.listeners.failed() {
				m.listeners.reconcile(m.cfg.Table.Load().Listeners())
			}
		}
	}
}

// Apply brings the Mesh in line with a snapshot that was just published: listeners are opened and closed, memory of what is
// gone is dropped, open connections are judged anew. It returns what could not be bound; everything else works.
func (m *Mesh) Apply() []*federation.Diagnostic {
	snap := m.cfg.Table.Load()
	problems := m.listeners.reconcile(snap.Listeners())
	m.forget(snap)
	m.wakeJudge()
	return problems
}

// Rejudge says that trust has changed: a bundle, a revocation. Open connections are judged anew, soon.
func (m *Mesh) Rejudge() {
	m.trust.Add(1)
	m.wakeJudge()
}

func (m *Mesh) wakeJudge() {
	select {
	case m.judge <- struct{}{}:
	default:
	}
}

// forget drops what is remembered of services and peers that snap no longer has.
func (m *Mesh) forget(snap *route.Snapshot) {
	known := func(name federation.ServiceName) bool {
		if _, found := snap.Upstream(federation.ServiceRef{Service: name}); found {
			return true
		}
		_, found := snap.Local(name)
		return found
	}
	isPeer := func(region federation.Region) bool {
		_, found := snap.Peer(region)
		return found || region == snap.Region()
	}
	m.cfg.Balance.Keep(known, isPeer)
	for k := range m.pools.Range {
		name := k.(federation.ServiceName)
		target, found := snap.Local(name)
		if !found {
			m.pools.Delete(name)
			continue
		}
		m.pool(snap, target) // drops the memory of instances that are gone
	}
	m.metrics.keep(func(k seriesKey) bool {
		return k.direction == inbound && isPeer(k.srcRegion) && known(k.destination) ||
			k.direction == outbound && isPeer(k.dstRegion) && known(k.destination)
	})
	m.failovers.keep(known)
	m.traffic.keep(func(k goes) bool { return known(k.service) && isPeer(k.region) })
	for k, b := range m.http.burdens.Range {
		m.forgetRooms(k.(federation.ServiceName), b.(*burden), known, isPeer)
	}
}

// Open is how many connections are open, both ways, those still being set up included.
func (m *Mesh) Open() int { return int(m.live.open.Load()) }

// Drain stops accepting, refuses new flows of peers with "draining", and waits until open connections have ended. When ctx
// ends first, what is left is reset and ctx's error is returned.
func (m *Mesh) Drain(ctx context.Context) error {
	m.draining.Store(true)
	m.listeners.stop()
	m.live.each((*conn).drainNow)
	m.http.pool.Drain() // flows that rest there would hold up the tunnel
	for m.live.open.Load() > 0 {
		select {
		case <-m.live.idle: // may be old news: look again
		case <-ctx.Done():
			left := m.live.open.Load()
			m.live.each(func(c *conn) { c.end(ending{flow.ResetDraining, "the gateway's time to drain is over"}) })
			return fmt.Errorf("drain: %d connections reset: %w", left, ctx.Err())
		}
	}
	return nil
}
