package poll

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var everything = []federation.Discover{{Service: "*", Namespace: "*"}}

// script is a lister whose answers the test sets.
type script struct {
	mu      sync.Mutex
	scopes  []Scope
	err     error // of Scopes
	answers map[Scope]answer
	lists   map[Scope][]time.Time
	calls   int // requests of one List; each waits for the budget
}

type answer struct {
	listing Listing
	err     error
	hang    bool
	panics  bool
}

func newScript(scopes ...Scope) *script {
	return &script{scopes: scopes, answers: map[Scope]answer{}, lists: map[Scope][]time.Time{}, calls: 1}
}

func (l *script) set(scope Scope, a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers[scope] = a
}

func (l *script) setScopes(err error, scopes ...Scope) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.scopes, l.err = scopes, err
}

func (l *script) listed(scope Scope) []time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.lists[scope])
}

func (l *script) Scopes(context.Context) ([]Scope, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.scopes), l.err
}

func (l *script) List(ctx context.Context, scope Scope, budget Budget) (Listing, error) {
	for range l.calls {
		if err := budget.Wait(ctx); err != nil {
			return Listing{}, err
		}
	}
	l.mu.Lock()
	a := l.answers[scope]
	l.lists[scope] = append(l.lists[scope], time.Now())
	l.mu.Unlock()
	if a.panics {
		panic("the library has a defect")
	}
	if a.hang {
		<-ctx.Done()
		return Listing{}, ctx.Err()
	}
	a.listing.Calls = l.calls
	return a.listing, a.err
}

func scopeN(n int) Scope {
	return Scope{Provider: "test", Account: fmt.Sprint("a", n), Region: "r", Kind: "vm"}
}

// vm is a workload at 10.x.0.n of scope x.
func vm(x, n int) Record {
	return Record{ID: fmt.Sprintf("vm-%d-%d", x, n), Kind: "vm", Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(x), byte(n >> 8), byte(n)})},
		Ports: []Port{{Number: 80}}, State: StateRunning, Health: federation.HealthPassing, Service: "web"}
}

func vms(x, first, last int) (out []Record) {
	for n := first; n <= last; n++ {
		out = append(out, vm(x, n))
	}
	return out
}

func complete(records ...[]Record) answer {
	return answer{listing: Listing{Records: slices.Concat(records...)}}
}

// world runs a source under a fake clock.
type world struct {
	t      *testing.T
	source *Source
	stop   func()

	mu   sync.Mutex
	sets [][]federation.Instance
	at   []time.Time
}

// start runs a source; middle jitter, so that times are exact.
func start(t *testing.T, cfg Config) *world {
	if cfg.Rand == nil {
		cfg.Rand = func() float64 { return 0.5 }
	}
	if cfg.Rules == nil {
		cfg.Rules = everything
	}
	w := &world{t: t, source: New(cfg)}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- w.source.Run(ctx, func(set []federation.Instance) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.sets, w.at = append(w.sets, set), append(w.at, time.Now())
		})
	}()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(w.stop)
	return w
}

func pass(d time.Duration) {
	<-time.After(d)
	synctest.Wait()
}

// last returns the IDs of the newest set, or "none" when there is none.
func (w *world) last() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.sets) == 0 {
		return "none"
	}
	var ids []string
	for _, in := range w.sets[len(w.sets)-1] {
		id, _, _ := strings.Cut(in.Labels["provider-id"], "+")
		ids = append(ids, id)
	}
	slices.Sort(ids)
	return strings.Join(ids, " ")
}

func (w *world) want(ids string) {
	w.t.Helper()
	if got := w.last(); got != ids {
		w.t.Errorf("at %v the newest set is %q, want %q", time.Now().Format("15:04:05.0"), got, ids)
	}
}

func (w *world) wantScope(scope Scope, state ScopeState, code federation.Code) ScopeStatus {
	w.t.Helper()
	for _, s := range w.source.Status().Scopes {
		if s.Scope == scope {
			got := federation.Code("")
			if s.Problem != nil {
				got = s.Problem.Code
			}
			if s.State != state || got != code {
				w.t.Errorf("scope %v is %s with %q, want %s with %q: %v", scope, s.State, got, state, code, s.Problem)
			}
			return s
		}
	}
	w.t.Errorf("scope %v is not there, want %s", scope, state)
	return ScopeStatus{}
}

func ids(records ...[]Record) string {
	set := map[string]bool{}
	for _, r := range slices.Concat(records...) {
		set[r.ID] = true
	}
	return strings.Join(slices.Sorted(maps.Keys(set)), " ")
}

var errDown = errors.New("connection refused")

func sortedValues(m map[string]string) (out []string) {
	for _, k := range slices.Sorted(maps.Keys(m)) {
		out = append(out, m[k])
	}
	return out
}
