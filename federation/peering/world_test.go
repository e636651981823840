package peering

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	mrand "math/rand/v2"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
	"github.com/tradewind-mesh/tradewind/federation/trust"
)

// A world is a few regions on one imagined network, in the virtual time of a synctest bubble. Everything is real but the wire:
// managers, machines, authorities and frames. The wire has a delay, finite buffers and cuts, and a session over a cut wire
// dies after idleTimeout, as a QUIC connection does.
const (
	wireDelay   = 20 * time.Millisecond
	idleTimeout = 30 * time.Second
	laneBuffer  = 16
)

type world struct {
	t      *testing.T
	mu     sync.Mutex
	nodes  []*node
	cuts   map[[2]federation.Region]chan struct{} // from, to: closed when healed
	pipes  []*pipe
	onJoin func(to *node, exporter, request []byte) (drop bool) // sees each request before it arrives; drop loses the reply
	joins  []capturedJoin
	hidden *node // cannot be dialled
}

type capturedJoin struct {
	to                *node
	exporter, request []byte
}

type node struct {
	w         *world
	region    federation.Region
	skew      atomic.Int64 // nanoseconds that its clock is ahead
	store     store.Store
	memory    *storetest.Memory
	authority *trust.Authority
	dir       string
	addresses []string
	epoch     federation.Epoch
	services  []federation.ExportedService
	trust     Trust // what the manager uses; the authority unless an option wraps it
	m         *Manager
	catalog   *catalog
	stop      func()
	silent    bool // its sessions do not end with it
	mute      bool // the control plane exports nothing to anybody
	log       *slog.Logger
}

func newWorld(t *testing.T) *world {
	return &world{t: t, cuts: map[[2]federation.Region]chan struct{}{}}
}

// add makes a region with one gateway and starts it.
func (w *world) add(region federation.Region, opts ...func(*node)) *node {
	w.t.Helper()
	memory := &storetest.Memory{}
	n := &node{
		w: w, region: region, store: memory, memory: memory, dir: w.t.TempDir(),
		addresses: []string{string(region) + ".example.com:8443"},
		services:  []federation.ExportedService{service(string(region)+"-shop", 3)},
		log:       slog.New(slog.DiscardHandler),
	}
	if os.Getenv("PEERING_LOG") != "" {
		n.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.String("t", a.Value.Time().Format("04:05.000"))
			}
			return a
		}})).With("at", string(region))
	}
	for _, o := range opts {
		o(n)
	}
	var err error
	n.authority, err = trust.Open(w.t.Context(), trust.Config{Region: region, Gateway: "gw-1", Store: n.store, Now: n.now})
	if err != nil {
		w.t.Fatal(err)
	}
	if n.trust == nil {
		n.trust = n.authority
	}
	w.mu.Lock()
	w.nodes = append(w.nodes, n)
	w.mu.Unlock()
	n.start()
	return n
}

func service(name string, healthy uint32) federation.ExportedService {
	return federation.ExportedService{
		Name: named(name), Protocol: federation.ProtocolTCP, Detail: federation.DetailSummary,
		Slots: []federation.ExportedSlot{{
			Key: "zone-a", Locality: federation.Locality{Zone: "zone-a"}, Weight: 100 * healthy,
			Health: federation.SlotHealth{Healthy: healthy, Total: healthy},
		}},
	}
}

func (n *node) now() time.Time { return time.Now().Add(time.Duration(n.skew.Load())) }

// start makes a new life of the region on the same store and directory.
func (n *node) start() {
	n.w.t.Helper()
	n.epoch = federation.Epoch{Counter: n.epoch.Counter + 1, Incarnation: mrand.Uint64()}
	n.catalog = &catalog{n: n, wake: make(chan struct{}, 1), imports: map[federation.Region]*federation.Import{}}
	var err error
	n.m, err = New(n.w.t.Context(), Config{
		Region: n.region, TrustDomain: federation.DefaultTrustDomain(n.region), Trust: n.trust, Store: n.store, Dialer: dialer{n},
		Addresses: func() []string { return n.addresses }, Catalog: n.catalog, Dir: n.dir, Epoch: n.epoch,
		JumpEpoch: func(_ context.Context, atLeast uint64) (federation.Epoch, error) {
			n.epoch = federation.Epoch{Counter: max(n.epoch.Counter, atLeast) + 1, Incarnation: mrand.Uint64()}
			return n.epoch, nil
		},
		MaxStale: 24 * time.Hour, Now: n.now, Log: n.log, Rand: mrand.New(mrand.NewPCG(1, 2)),
	})
	if err != nil {
		n.w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := n.m.Run(ctx); err != nil {
			n.w.t.Errorf("%s: %v", n.region, err)
		}
	})
	running.Go(func() { n.catalog.run(ctx, n.m) })
	n.stop = func() {
		cancel()
		if !n.silent {
			n.w.killSessions(n.region)
		}
		running.Wait()
	}
}

// stopSilently is stop without the network's help: what the other side is told is lost.
func (n *node) stopSilently() {
	n.silent = true
	n.stop()
	n.silent = false
}

// stopAll ends every region.
func (w *world) stopAll() {
	for _, n := range w.nodes {
		n.stop()
	}
}

// cut stops everything that goes from one region to another, until heal.
func (w *world) cut(from, to federation.Region) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cuts[[2]federation.Region{from, to}] != nil {
		return
	}
	healed := make(chan struct{})
	w.cuts[[2]federation.Region{from, to}] = healed
	for _, p := range w.pipes {
		if (p.a.n.region == from && p.b.n.region == to) || (p.a.n.region == to && p.b.n.region == from) {
			time.AfterFunc(idleTimeout, func() {
				select {
				case <-healed:
				default:
					p.die(errors.New("timeout: no recent network activity"))
				}
			})
		}
	}
}

func (w *world) partition(a, b federation.Region) { w.cut(a, b); w.cut(b, a) }

func (w *world) heal() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, healed := range w.cuts {
		close(healed)
	}
	clear(w.cuts)
}

// passable returns a channel that is closed when the way is open, or nil when it is open now.
func (w *world) passable(from, to federation.Region) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.cuts[[2]federation.Region{from, to}]
}

func (w *world) killSessions(region federation.Region) {
	w.mu.Lock()
	pipes := slices.Clone(w.pipes)
	w.mu.Unlock()
	for _, p := range pipes {
		if p.a.n.region == region || p.b.n.region == region {
			p.die(errors.New("connection reset by peer"))
		}
	}
}

// openSessions counts the sessions between two regions that both ends still have.
func (w *world) openSessions(a, b federation.Region) (count int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.pipes {
		if !p.isDead() && (p.a.n.region == a && p.b.n.region == b || p.a.n.region == b && p.b.n.region == a) {
			count++
		}
	}
	return count
}

func (w *world) at(address string) *node {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, n := range w.nodes {
		if n != w.hidden && slices.Contains(n.addresses, address) {
			return n
		}
	}
	return nil
}

// catalog stands for the control plane: it answers each new peer with an export, and remembers what it was told.
type catalog struct {
	n       *node
	wake    chan struct{}
	mu      sync.Mutex
	peers   []federation.Peer
	imports map[federation.Region]*federation.Import
	block   chan struct{} // non-nil: SetPeers hangs until it is closed
}

func (c *catalog) SetPeers(peers []federation.Peer) {
	if c.block != nil {
		<-c.block
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.peers = peers
	signal(c.wake)
}

func (c *catalog) SetImport(region federation.Region, imported *federation.Import) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if imported == nil {
		delete(c.imports, region)
		return
	}
	c.imports[region] = imported
}

func (c *catalog) peer(region federation.Region) (federation.Peer, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.peers {
		if p.Region == region {
			return p, true
		}
	}
	return federation.Peer{}, false
}

func (c *catalog) imported(region federation.Region) *federation.Import {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.imports[region]
}

func (c *catalog) run(ctx context.Context, m *Manager) {
	known := map[federation.Region]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
		c.mu.Lock()
		now := map[federation.Region]bool{}
		for _, p := range c.peers {
			now[p.Region] = true
		}
		c.mu.Unlock()
		for _, region := range slices.Sorted(maps.Keys(now)) {
			if !known[region] && !c.n.mute {
				m.SetExport(region, federation.ExportView{Origin: c.n.region, Services: sorted(c.n.services)})
			}
		}
		known = now
	}
}

// bubble runs f in virtual time with a world whose regions are stopped afterwards.
func bubble(t *testing.T, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		defer func() {
			w.stopAll()
			w.mu.Lock()
			pipes := slices.Clone(w.pipes)
			w.mu.Unlock()
			for _, p := range pipes {
				p.die(errors.New("the world ends"))
			}
		}()
		f(t, w)
	})
}

// join peers two regions: b redeems a token of a.
func (w *world) join(a, b *node) Result {
	w.t.Helper()
	token, _, err := a.m.GenerateToken(w.t.Context(), b.region, 0)
	if err != nil {
		w.t.Fatal(err)
	}
	r, err := b.m.Establish(w.t.Context(), token, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

// pass lets virtual time go by.
func pass(d time.Duration) { <-time.After(d) }

func fixedRand() *mrand.Rand { return mrand.New(mrand.NewPCG(1, 2)) }

func sorted(services []federation.ExportedService) []federation.ExportedService {
	return slices.SortedFunc(slices.Values(services), func(a, b federation.ExportedService) int { return a.Name.Compare(b.Name) })
}

func within(d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.Background(), d)
}

// await waits until the peering of n with region is in state, and returns how long it took.
func (n *node) await(region federation.Region, state federation.PeeringState, limit time.Duration) time.Duration {
	n.w.t.Helper()
	began := time.Now()
	ctx, cancel := within(limit)
	defer cancel()
	if s, err := n.m.Wait(ctx, region, state); err != nil {
		n.w.t.Fatalf("%s: peering with %s is not %s after %v: %v\n%+v", n.region, region, state, limit, err, s)
	}
	return time.Since(began)
}

func (n *node) show(region federation.Region) PeeringStatus {
	n.w.t.Helper()
	s, err := n.m.Show(region)
	if err != nil {
		n.w.t.Fatal(err)
	}
	return s
}

func mustCode(t *testing.T, err error, want federation.Code) {
	t.Helper()
	if got := federation.CodeOf(err); got != want {
		t.Errorf("got %q (%v), want %s", got, err, want)
	}
}
