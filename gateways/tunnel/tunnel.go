package tunnel

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/quic-go/quic-go"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"golang.org/x/sync/errgroup"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Credentials makes the TLS configurations of the mesh. Each is asked for anew for every handshake, so that a rotated
// certificate and a changed bundle hold at once.
type Credentials interface {
	// ServerTLS is the listener's side of the protocols named.
	ServerTLS(protos ...string) *tls.Config
	// ClientTLS expects a gateway of peer at the other end.
	ClientTLS(peer federation.Region, protos ...string) (*tls.Config, error)
	// JoinTLS expects a gateway whose chain ends in the root with this pin.
	JoinTLS(pin [32]byte) *tls.Config
}

// Judge says who a peer is and whether it may go on being it.
type Judge interface {
	// Identify returns the region and the identity at the other end of an established connection.
	Identify(state tls.ConnectionState) (federation.Region, spiffeid.ID, error)
	// Judge returns why the chain that a live connection of peer was made with is no longer good, or nil.
	Judge(peer federation.Region, chain []*x509.Certificate) error
}

// Trust is all that the tunnel asks of the region's trust authority.
type Trust interface {
	Credentials
	Judge
}

// Config is what a Transport is made of.
type Config struct {
	Listen string           // "host:port" of the UDP socket and the TCP listener; host empty: every address
	Conns  []net.PacketConn // sockets to use in place of Listen; Run closes them
	Lanes  []string         // what may be used: LaneQUIC, LaneTCP; default: both. TCP binds the port of each UDP socket too
	Trust  Trust
	Log    *slog.Logger // default: discard
	// Metrics is where the tunnel's figures are registered; nil: nowhere.
	Metrics prometheus.Registerer

	// OnExchange is given each catalog exchange session that a peer has dialled. The session is closed when it returns.
	OnExchange func(ctx context.Context, peer federation.Region, session *ExchangeSession)
	// OnJoin answers a token redemption; the text of an error is sent to whoever asked.
	OnJoin func(ctx context.Context, remote string, exporter, request []byte) ([]byte, error)
	// OnFlow is given each flow that a peer opens, whose source belongs to the peer's trust domain. The flow is closed when it
	// returns, unless it has called Keep, and refused if it has not been accepted by then.
	OnFlow func(ctx context.Context, in *Incoming)
	// OnAsk answers a peer's question of at most 64 KiB; so must be the answer.
	OnAsk func(ctx context.Context, peer federation.Region, question []byte) []byte

	// Resolve looks up a host name; default: the system's resolver.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

// Transport is this gateway's end of all tunnels.
type Transport struct {
	cfg     Config
	log     *slog.Logger
	sockets []*socket
	doors   []*tcpDoor
	trouble []*federation.Diagnostic // what New could not have
	tcp     map[laneKey]*tcpLink     // sessions over TCP that peers have dialled; under mu
	dials   chan struct{}            // a token for each handshake under way
	reading chan struct{}            // closed when Run has set the sockets to work

	peers   atomic.Pointer[map[federation.Region]*peer] // replaced whole under mu
	changed chan struct{}                               // capacity 1: some path went up, down or elsewhere
	wake    chan struct{}                               // capacity 1: wanted has changed

	draining   atomic.Bool
	counts     counts
	registered bool // with cfg.Metrics

	mu      sync.Mutex
	wanted  []federation.Peer      // of the last SetPeers
	live    map[*liveConn]struct{} // every established connection with an identity
	stopped bool                   // Run is over: nothing new may start
	tasks   sync.WaitGroup
}

// New binds the UDP socket, unless it is given some, and the same port for TCP, as far as cfg.Lanes has them, and returns a transport that does nothing until Run.
func New(cfg Config) (*Transport, error) {
	if cfg.Trust == nil {
		return nil, errors.New("tunnel without a trust authority: nobody could be told from anybody")
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Resolve == nil {
		cfg.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	t := &Transport{
		cfg: cfg, log: cfg.Log,
		dials:   make(chan struct{}, dialsAtOnce),
		reading: make(chan struct{}),
		changed: make(chan struct{}, 1),
		wake:    make(chan struct{}, 1),
		live:    map[*liveConn]struct{}{},
		tcp:     map[laneKey]*tcpLink{},
	}
	t.peers.Store(&map[federation.Region]*peer{})
	if err := t.bind(); err != nil {
		return nil, err
	}
	if cfg.Metrics != nil {
		if err := cfg.Metrics.Register(collector{t}); err != nil {
			return nil, errors.Join(fmt.Errorf("register the tunnel's metrics: %w", err), t.Close())
		}
		t.registered = true
	}
	t.reportBuffers()
	for _, d := range t.trouble {
		level := slog.LevelWarn
		if d.Code == federation.CodeNoBBR {
			level = slog.LevelInfo
		}
		t.log.Log(context.Background(), level, d.What, "code", d.Code, "why", d.Why, "fix", d.Fix)
	}
	return t, nil
}

// Troubles are what New could not have, and does without. They are not to be changed.
func (t *Transport) Troubles() []*federation.Diagnostic { return slices.Clone(t.trouble) }

// Addr is the address of the first UDP socket; without QUIC that of the TCP listener.
func (t *Transport) Addr() net.Addr {
	if len(t.sockets) == 0 {
		return t.TCPAddr()
	}
	return t.sockets[0].conn.LocalAddr()
}

// TCPAddr is the address of the first TCP listener; nil when there is none.
func (t *Transport) TCPAddr() net.Addr {
	if len(t.doors) == 0 {
		return nil
	}
	return t.doors[0].listener.Addr()
}

// Run listens, keeps the sessions that SetPeers asks for, and returns nil when ctx has ended and everything is closed. Until
// it runs, whoever dials waits.
func (t *Transport) Run(ctx context.Context) error {
	type door struct {
		listener *quic.Listener
		class    class
	}
	var doors []door
	for _, s := range t.sockets {
		for _, c := range []class{classFlow, classExchange, classJoin} {
			listener, err := t.listen(s, c)
			if err != nil {
				return errors.Join(err, t.Close())
			}
			doors = append(doors, door{listener, c})
		}
	}
	handlers := [classes]connHandler{classFlow: t.acceptSession, classExchange: t.acceptExchange, classJoin: t.acceptJoin}
	group, ctx := errgroup.WithContext(ctx)
	for _, d := range doors {
		group.Go(func() error { return t.accept(ctx, d.listener, d.class, handlers[d.class]) })
	}
	for _, d := range t.doors {
		group.Go(func() error { return t.acceptTCP(ctx, d) })
	}
	close(t.reading)
	group.Go(func() error { t.keepSessions(ctx); return nil })
	group.Go(func() error { t.watchExpiry(ctx); return nil })
	err := group.Wait()
	return errors.Join(err, t.Close())
}

// Close closes what New has bound and every connection, and waits for what they have started. Run does so by itself.
func (t *Transport) Close() error {
	t.mu.Lock()
	t.stopped = true
	open := make([]*liveConn, 0, len(t.live))
	for l := range t.live {
		open = append(open, l)
	}
	t.mu.Unlock()
	var closing sync.WaitGroup
	for _, l := range open {
		closing.Go(func() { l.close(closeShutdown, "gateway stops") })
	}
	closing.Wait()
	for _, d := range t.doors {
		_ = d.listener.Close()
	}
	for _, s := range t.sockets {
		s.close()
	}
	t.endFlows()
	t.tasks.Wait()
	if t.registered {
		t.cfg.Metrics.Unregister(collector{t})
	}
	return nil
}

// start runs task in a goroutine that Close waits for, or reports that it is too late.
func (t *Transport) start(task func()) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.stopped {
		return false
	}
	t.tasks.Go(task)
	return true
}

// Rejudge asks Trust about the chain of every live connection again, closes those that fail and returns how many did.
func (t *Transport) Rejudge() (closed int) {
	t.mu.Lock()
	open := make([]*liveConn, 0, len(t.live))
	for l := range t.live {
		open = append(open, l)
	}
	t.mu.Unlock()
	for _, l := range open {
		if t.judge(l) != nil {
			closed++
		}
	}
	return closed
}

// judge closes l and returns the reason when its chain is no longer good.
func (t *Transport) judge(l *liveConn) error {
	err := t.cfg.Trust.Judge(l.region, l.chain)
	if err != nil {
		t.counts.revoked.Add(1)
		level := slog.LevelWarn
		if c, ok := l.end.(*tlsConn); ok && c.carriesFlows() {
			level = slog.LevelDebug // its session has said it
		}
		t.log.Log(context.Background(), level, "session closed: its certificate is no longer good", "peer", l.region, "gateway", l.id,
			"protocol", l.proto, "err", err)
		l.close(closeRevoked, "certificate is no longer good")
	}
	return err
}

// watchExpiry judges the connections whose chain has run out, which no change of trust announces.
func (t *Transport) watchExpiry(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second) // the longest a session may outlive what allowed it
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			t.mu.Lock()
			var expired []*liveConn
			for l := range t.live {
				if now.After(l.expiry) {
					expired = append(expired, l)
				}
			}
			t.mu.Unlock()
			for _, l := range expired {
				_ = t.judge(l)
			}
		}
	}
}

// Leave asks peers to open no more flows to this gateway, as Drain does. What is open goes on, and flows can still be opened from here.
func (t *Transport) Leave() {
	t.draining.Store(true)
	for _, s := range t.sessions() {
		s.announceDrain()
	}
}

// Drain tells every peer to open no more flows here, waits until none is left or ctx has ended, and closes the flow sessions.
// It returns how ctx ended when flows were still open.
func (t *Transport) Drain(ctx context.Context) error {
	t.Leave()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	var err error
	for err == nil {
		left := int64(0)
		for _, s := range t.sessions() {
			left += s.flows.Load()
		}
		if left == 0 {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	for _, s := range t.sessions() {
		s.close(closeDraining, "gateway drained")
	}
	return err
}
