package providertest

import (
	"bytes"
	"context"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/health"
	"github.com/tradewind-mesh/tradewind/federation/registry"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// The rooms below know each other only by their shape; here it is held.
var (
	_ registry.Checker  = (*health.Checker)(nil)
	_ registry.Beater   = (*health.Checker)(nil)
	_ registry.Troubled = (*registry.API)(nil)
	_ registry.Source   = Source(nil)
)

// board is the simplest source that keeps the contract: it publishes what is pinned to it.
type board struct {
	mu     sync.Mutex
	pinned []federation.Instance
	broken bool
	wake   chan struct{}
}

func (b *board) pin(set []federation.Instance, broken bool) {
	b.mu.Lock()
	b.pinned, b.broken = set, broken
	b.mu.Unlock()
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

func (b *board) Run(ctx context.Context, publish func([]federation.Instance)) error {
	for ctx.Err() == nil {
		b.mu.Lock()
		set, broken := slices.Clone(b.pinned), b.broken
		b.mu.Unlock()
		if !broken {
			publish(set)
		}
		select {
		case <-ctx.Done():
		case <-b.wake:
		case <-time.After(50 * time.Millisecond):
		}
	}
	return nil
}

func TestBoard(t *testing.T) {
	Run(t, func(*testing.T) Rig {
		b := &board{wake: make(chan struct{}, 1)}
		return Rig{Source: b,
			Set:    func(_ *testing.T, set []federation.Instance) { b.pin(set, b.broken) },
			Break:  func(*testing.T) { b.pin(b.pinned, true) },
			Repair: func(*testing.T) { b.pin(b.pinned, false) }}
	})
}

// memory is a registry.Store.
type memory struct {
	mu   sync.Mutex
	kept map[string][]byte
}

func (m *memory) Save(_ context.Context, key string, value []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.kept[key] = bytes.Clone(value)
	return nil
}

func (m *memory) Delete(_ context.Context, key string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.kept, key)
	return nil
}

func (m *memory) Load(context.Context) (map[string][]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.kept), nil
}

// TestAPISource holds the registry's own source to the contract. Calls before the first Run wait for the store to be read, so
// the world is kept in the store until then.
func TestAPISource(t *testing.T) {
	Run(t, func(*testing.T) Rig {
		r, m := registry.New(registry.Config{}), &memory{kept: map[string][]byte{}}
		api := registry.NewAPI(registry.APIConfig{Registry: r, Store: m})
		known := map[registry.Ref]bool{}
		return Rig{Source: api, Gradual: true, Set: func(t *testing.T, set []federation.Instance) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			load(api)
			next := map[registry.Ref]bool{}
			for _, in := range set {
				next[registry.Ref{Service: in.Service, ID: in.ID}] = true
				if _, _, err := api.Register(ctx, in, registry.Terms{}); err != nil {
					t.Fatal(err)
				}
			}
			for ref := range known {
				if !next[ref] {
					if err := api.Deregister(ctx, ref); err != nil {
						t.Fatal(err)
					}
				}
			}
			known = next
		}}
	})
}

// load makes api read its store.
func load(api *registry.API) {
	ctx, cancel := context.WithCancel(context.Background())
	_ = api.Run(ctx, func([]federation.Instance) { cancel() })
}

// TestDeathOfARealInstance runs registry and checks together on the real clock: a listener that dies is out of the lane within
// a second, and back in when it returns.
func TestDeathOfARealInstance(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &board{wake: make(chan struct{}, 1)}
	in := federation.Instance{ID: "1", Service: web, Address: netip.MustParseAddrPort(l.Addr().String()),
		Checks: []federation.CheckSpec{{Kind: federation.CheckTCP}}}
	b.pin([]federation.Instance{in}, false)
	r := registry.New(registry.Config{Checker: health.New(health.Config{})})
	if err := r.Add("board", b); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	await := func(want uint32) {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			if svc := r.Catalog().Service(web); svc != nil && svc.Lane.Load(0).Healthy == want {
				return
			}
			select {
			case <-r.Changed():
			case <-r.HealthChanged():
			case <-deadline:
				t.Fatalf("the lane never says %d healthy; %+v", want, r.Instances())
			}
		}
	}
	began := time.Now()
	await(1)
	if took := time.Since(began); took > 400*time.Millisecond {
		t.Errorf("the first check took %v", took)
	}
	<-r.Settled()
	died := time.Now()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	await(0)
	if took := time.Since(died); took > time.Second {
		t.Errorf("a death was seen after %v", took)
	}
	if l, err = net.Listen("tcp", in.Address.String()); err != nil {
		t.Skipf("the port was taken: %v", err)
	}
	defer l.Close()
	await(1)
}
