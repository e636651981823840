package peering_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/quic-go/quic-go/testutils/simnet"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/peering"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// These tests run whole regions (QUIC, TLS, trust, exchange, peering) over a simulated network in virtual time. Times are exact
// but for the choices of Go's scheduler and of QUIC, so the limits leave some room.
const oneWay = 20 * time.Millisecond // New York to Chicago and back in 40 ms

// router loses packets at random, and everything between regions that are cut off.
type router struct {
	simnet.PerfectRouter
	mu      sync.Mutex
	rand    *rand.Rand
	percent uint32
	island  map[byte]bool // these reach each other only
}

func (r *router) SendPacket(p simnet.Packet) error {
	r.mu.Lock()
	lost := r.rand.Uint32N(100) < r.percent || r.island[host(p.From)] != r.island[host(p.To)]
	r.mu.Unlock()
	if lost {
		return nil
	}
	return r.PerfectRouter.SendPacket(p)
}

func host(a net.Addr) byte { return a.(*net.UDPAddr).IP.To4()[3] }

func (r *router) set(percent uint32, island ...byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.percent, r.island = percent, map[byte]bool{}
	for _, n := range island {
		r.island[n] = true
	}
}

// region is one region with one gateway.
type region struct {
	name      federation.Region
	number    byte
	authority *trust.Authority
	transport *tunnel.Transport
	manager   *peering.Manager
	stop      func()
	store     *storetest.Memory
	dir       string
	epoch     uint64

	mu       sync.Mutex
	peers    []federation.Peer
	imports  map[federation.Region]*federation.Import
	services []string
	wake     chan struct{}
}

// quicDialer gives the transport the shape that peering wants.
type quicDialer struct{ *tunnel.Transport }

func (d quicDialer) DialExchange(ctx context.Context, peer federation.Region, addr string) (peering.Session, error) {
	s, err := d.Transport.DialExchange(ctx, peer, addr)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (r *region) address() string { return fmt.Sprintf("192.0.2.%d:8443", r.number) }

func startRegion(t *testing.T, number byte, conn net.PacketConn) *region {
	t.Helper()
	r := &region{
		name: federation.Region(fmt.Sprintf("region-%d", number)), number: number, wake: make(chan struct{}, 1),
		imports: map[federation.Region]*federation.Import{}, services: []string{fmt.Sprintf("shop-%d", number)},
		store: &storetest.Memory{}, dir: t.TempDir(),
	}
	var err error
	if r.authority, err = trust.Open(t.Context(), trust.Config{Region: r.name, Gateway: "gw-1", Store: r.store}); err != nil {
		t.Fatal(err)
	}
	r.live(t, conn)
	return r
}

// live begins a life of the region on what the last one has stored.
func (r *region) live(t *testing.T, conn net.PacketConn) {
	t.Helper()
	r.epoch++
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("PEERING_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil)).With("at", string(r.name))
	}
	var err error
	r.transport, err = tunnel.New(tunnel.Config{
		Conns: []net.PacketConn{conn}, Trust: r.authority, Log: log,
		OnExchange: func(ctx context.Context, peer federation.Region, s *tunnel.ExchangeSession) {
			r.manager.Accept(ctx, peer, s)
		},
		OnJoin: func(ctx context.Context, remote string, exporter, request []byte) ([]byte, error) {
			return r.manager.Join(ctx, remote, exporter, request)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	r.manager, err = peering.New(t.Context(), peering.Config{
		Region: r.name, TrustDomain: federation.DefaultTrustDomain(r.name), Trust: r.authority, Store: r.store, Dialer: quicDialer{r.transport},
		Addresses: func() []string { return []string{r.address()} }, Catalog: r, Dir: r.dir,
		Epoch: federation.Epoch{Counter: r.epoch, Incarnation: uint64(r.number)}, MaxStale: 24 * time.Hour, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	r.run(t)
}

// killAndRestart ends r without a word to anybody, and begins its next life at the same address.
func (r *region) killAndRestart(t *testing.T, net0 *router) {
	t.Helper()
	net0.set(0, r.number)
	r.stop()
	sim := &simnet.Simnet{Router: net0}
	conn := sim.NewEndpoint(&net.UDPAddr{IP: net.IPv4(192, 0, 2, r.number).To4(), Port: 8443}, simnet.NodeBiDiLinkSettings{Latency: oneWay})
	if err := sim.Start(); err != nil {
		t.Fatal(err)
	}
	net0.set(0)
	r.live(t, conn)
	next := r.stop
	r.stop = func() { next(); _ = sim.Close() }
}

func (r *region) run(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	changed, unsubscribe := r.authority.Changed()
	var all sync.WaitGroup
	for _, run := range []func(context.Context) error{r.transport.Run, r.manager.Run} {
		all.Go(func() {
			if err := run(ctx); err != nil {
				t.Errorf("%s: %v", r.name, err)
			}
		})
	}
	all.Go(func() {
		defer unsubscribe()
		for {
			select {
			case <-ctx.Done():
				return
			case <-changed:
				r.transport.Rejudge()
			case <-r.wake:
				r.export()
			case <-r.transport.PathChanged():
				for _, path := range r.transport.Paths() {
					if path.Up {
						r.manager.Nudge(path.Peer)
					}
				}
			}
		}
	})
	r.stop = func() {
		cancel()
		all.Wait()
	}
}

func (r *region) SetPeers(peers []federation.Peer) {
	r.mu.Lock()
	r.peers = peers
	r.mu.Unlock()
	select {
	case r.wake <- struct{}{}:
	default:
	}
}

func (r *region) SetImport(peer federation.Region, imported *federation.Import) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.imports[peer] = imported
}

func (r *region) export() {
	r.mu.Lock()
	peers, names := r.peers, slices.Sorted(slices.Values(r.services))
	r.mu.Unlock()
	r.transport.SetPeers(peers)
	view := federation.ExportView{Origin: r.name}
	for _, name := range names {
		view.Services = append(view.Services, federation.ExportedService{
			Name:     federation.ServiceName{Namespace: federation.DefaultNamespace, Name: name},
			Protocol: federation.ProtocolTCP, Detail: federation.DetailSummary,
			Slots: []federation.ExportedSlot{{Key: "zone-a", Weight: 300, Health: federation.SlotHealth{Healthy: 3, Total: 3}}},
		})
	}
	for _, p := range peers {
		r.manager.SetExport(p.Region, view)
	}
}

func (r *region) offer(service string) {
	r.mu.Lock()
	r.services = append(r.services, service)
	r.mu.Unlock()
	r.export()
}

// sees reports whether r imports service of peer, and how fresh.
func (r *region) sees(peer federation.Region, service string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.imports[peer].Service(federation.ServiceName{Namespace: federation.DefaultNamespace, Name: service}) != nil
}

// mesh runs f with n regions that are all peered with each other.
func mesh(t *testing.T, n byte, f func(t *testing.T, net *router, regions []*region)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &router{rand: rand.New(rand.NewPCG(1, 2))}
		sim := &simnet.Simnet{Router: r}
		var regions []*region
		var conns []*simnet.SimConn
		for i := byte(1); i <= n; i++ {
			address := &net.UDPAddr{IP: net.IPv4(192, 0, 2, i).To4(), Port: 8443}
			conns = append(conns, sim.NewEndpoint(address, simnet.NodeBiDiLinkSettings{Latency: oneWay}))
		}
		if err := sim.Start(); err != nil {
			t.Fatal(err)
		}
		defer func() { _ = sim.Close() }()
		for i, conn := range conns {
			region := startRegion(t, byte(i+1), conn)
			defer func() { region.stop() }() // of the life it is in by then
			regions = append(regions, region)
		}
		worst := time.Duration(0)
		for i, a := range regions {
			for _, b := range regions[i+1:] {
				result := join(t, a, b)
				if result.OneWay {
					t.Errorf("%s and %s: one way", a.name, b.name)
				}
				worst = max(worst, result.Took)
			}
		}
		t.Logf("%d peerings, each up and proven both ways within %v", int(n)*(int(n)-1)/2, worst.Round(time.Millisecond))
		if worst > 2*time.Second {
			t.Errorf("a peering took %v", worst)
		}
		f(t, r, regions)
	})
}

func join(t *testing.T, a, b *region) peering.Result {
	t.Helper()
	token, _, err := a.manager.GenerateToken(t.Context(), b.name, 0)
	if err != nil {
		t.Fatal(err)
	}
	result, err := b.manager.Establish(t.Context(), token, nil)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// pass lets virtual time go by.
func pass(d time.Duration) { <-time.After(d) }

// until returns how long it took for ok to hold.
func until(t *testing.T, what string, limit time.Duration, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > limit {
			t.Fatalf("%s: not within %v", what, limit)
		}
		<-time.After(time.Millisecond)
	}
	t.Logf("%s: %v", what, time.Since(began))
	return time.Since(began)
}

// all reports whether every pair among regions is in state.
func all(regions []*region, state federation.PeeringState) bool {
	for _, r := range regions {
		for _, other := range regions {
			if other != r {
				if s, err := r.manager.Show(other.name); err != nil || s.State != state {
					return false
				}
			}
		}
	}
	return true
}

func everybodySees(regions []*region, peer *region, service string) func() bool {
	return func() bool {
		for _, r := range regions {
			if r != peer && !r.sees(peer.name, service) {
				return false
			}
		}
		return true
	}
}

func TestFiveRegionsOverQUIC(t *testing.T) {
	mesh(t, 5, func(t *testing.T, net *router, regions []*region) {
		until(t, "all active", 5*time.Second, func() bool { return all(regions, federation.PeeringActive) })

		regions[0].offer("search")
		until(t, "a new service is everywhere", 200*time.Millisecond, everybodySees(regions, regions[0], "search"))

		net.set(2)
		regions[1].offer("cart")
		until(t, "a new service is everywhere, with 2 % loss", 2*time.Second, everybodySees(regions, regions[1], "cart"))
		pass(time.Minute)
		if !all(regions, federation.PeeringActive) {
			t.Error("2 % loss makes peerings fail")
		}

		// One region is cut off for two minutes; the others go on, and use what they know of it.
		net.set(0, 3)
		away, rest := regions[2], append(slices.Clone(regions[:2]), regions[3:]...)
		until(t, "the cut is noticed", 7*time.Second, func() bool {
			return !slices.ContainsFunc(rest, func(r *region) bool {
				s, err := r.manager.Show(away.name)
				return err != nil || s.State != federation.PeeringFailing
			})
		})
		away.offer("late")
		pass(2 * time.Minute)
		if !all(rest, federation.PeeringActive) || !everybodySees(rest, away, "shop-3")() {
			t.Error("the others did not go on")
		}
		net.set(0)
		until(t, "all paths after the cut", 35*time.Second, func() bool {
			return !slices.ContainsFunc(rest, func(r *region) bool { return !r.transport.Path(away.name).Up || !away.transport.Path(r.name).Up })
		})
		until(t, "all active after the cut", 35*time.Second, func() bool { return all(regions, federation.PeeringActive) })
		until(t, "what changed meanwhile is everywhere", time.Second, everybodySees(rest, away, "late"))
	})
}

func TestRemovalOverQUIC(t *testing.T) {
	mesh(t, 3, func(t *testing.T, net *router, regions []*region) {
		a, b, c := regions[0], regions[1], regions[2]
		until(t, "all active", 5*time.Second, func() bool { return all(regions, federation.PeeringActive) })
		until(t, "warm paths", 5*time.Second, func() bool { return a.transport.Path(b.name).Up && b.transport.Path(a.name).Up })
		for _, pair := range [][2]*region{{a, b}, {b, a}} { // the first removes, and the second redeems a new token of it
			remover, removed := pair[0], pair[1]
			if _, err := remover.manager.Remove(t.Context(), removed.name); err != nil {
				t.Fatal(err)
			}
			until(t, "the removed side knows", time.Second, func() bool {
				s, err := removed.manager.Show(remover.name)
				return err == nil && s.State == federation.PeeringTerminated && strings.Contains(s.Reason, "removed it")
			})
			until(t, "no path is left", 5*time.Second, func() bool { return !a.transport.Path(b.name).Up && !b.transport.Path(a.name).Up })
			if remover.sees(removed.name, "shop-1") || remover.sees(removed.name, "shop-2") || removed.sees(remover.name, "shop-1") {
				t.Error("imports are left")
			}
			if s, err := c.manager.Show(remover.name); err != nil || s.State != federation.PeeringActive {
				t.Errorf("a third region is touched: %+v", s)
			}
			result := join(t, remover, removed)
			t.Logf("peered again in %v", result.Took)
			until(t, "all active again", 5*time.Second, func() bool { return all(regions, federation.PeeringActive) })
			until(t, "warm paths", 5*time.Second, func() bool { return a.transport.Path(b.name).Up && b.transport.Path(a.name).Up })
		}
	})
}

func TestWrongRegionAtTheAddressOverQUIC(t *testing.T) {
	mesh(t, 3, func(t *testing.T, net *router, regions []*region) {
		token, _, err := regions[0].manager.GenerateToken(t.Context(), regions[1].name, 0, regions[2].address())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := regions[1].manager.Establish(t.Context(), token, nil); federation.CodeOf(err) != federation.CodeWrongPin {
			t.Errorf("got %v", err)
		}
	})
}

// TestKilledPeerComesBackOverQUIC: a gateway that is killed says no goodbye, and QUIC waits 30 s for it.
func TestKilledPeerComesBackOverQUIC(t *testing.T) {
	mesh(t, 2, func(t *testing.T, net *router, regions []*region) {
		for n, i := range []int{1, 0, 1} { // by turns, so that the session is lost by whoever opened it and by the other one
			until(t, "warm paths", 10*time.Second, func() bool {
				return regions[0].transport.Path("region-2").Up && regions[1].transport.Path("region-1").Up
			})
			pass(10 * time.Second)
			killed, other := regions[i], regions[1-i]
			killed.killAndRestart(t, net)
			since := time.Now()
			until(t, "active in the new life", 4*time.Second, func() bool {
				here, err := killed.manager.Show(other.name)
				there, err2 := other.manager.Show(killed.name)
				return err == nil && err2 == nil && here.State == federation.PeeringActive && there.State == federation.PeeringActive &&
					!there.Session.Since.Before(since)
			})
			news := fmt.Sprintf("news-%d", n)
			other.offer(news)
			until(t, "news goes over the new session", time.Second, func() bool { return killed.sees(other.name, news) })
		}
	})
}

// TestRemovedWhileAwayOverQUIC: nobody could tell the side that was away, but the certificate that is refused does.
func TestRemovedWhileAwayOverQUIC(t *testing.T) {
	mesh(t, 2, func(t *testing.T, net *router, regions []*region) {
		a, b := regions[0], regions[1]
		until(t, "all active", 5*time.Second, func() bool { return all(regions, federation.PeeringActive) })
		net.set(0, a.number)
		pass(10 * time.Second)
		if told, err := b.manager.Remove(t.Context(), a.name); err != nil || told {
			t.Errorf("told %v, %v", told, err)
		}
		net.set(0)
		until(t, "the refusal is named", time.Minute, func() bool {
			s, err := a.manager.Show(b.name)
			return err == nil && s.State == federation.PeeringFailing && s.LastError != nil && s.LastError.Code == federation.CodePeerRefusesUs
		})
		s, _ := a.manager.Show(b.name)
		if !strings.Contains(s.LastError.Fix, "tradewind peer remove region-2") || strings.Contains(s.LastError.Text, "TW-") {
			t.Errorf("it says %+v", s.LastError)
		}
		until(t, "the path says so, too", time.Minute, func() bool {
			p := a.transport.Path(b.name)
			return p.Problem != nil && p.Problem.Code == federation.CodePeerRefusesUs && strings.Contains(p.Problem.Fix, "peer remove region-2") &&
				strings.Contains(p.LastError, "refused this gateway's certificate") && !strings.Contains(p.LastError, "TW-") &&
				!strings.Contains(p.LastError, "fix:")
		})
	})
}
