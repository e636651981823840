package providertest

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/registry"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// fleet is an account of 200 scopes with 50 workloads each, of which one in fifty changes from one listing to the next.
type fleet struct {
	mu    sync.Mutex
	round map[string]int
}

func (f *fleet) Scopes(context.Context) ([]poll.Scope, error) {
	var out []poll.Scope
	for n := range 200 {
		out = append(out, poll.Scope{Provider: "fleet", Account: fmt.Sprint(n), Kind: "vm"})
	}
	return out, nil
}

func (f *fleet) List(_ context.Context, scope poll.Scope, _ poll.Budget) (poll.Listing, error) {
	f.mu.Lock()
	f.round[scope.Account]++
	round := f.round[scope.Account]
	f.mu.Unlock()
	var n int
	if _, err := fmt.Sscan(scope.Account, &n); err != nil {
		return poll.Listing{}, err
	}
	l := poll.Listing{Records: make([]poll.Record, 0, 50), Calls: 1}
	for i := range 50 {
		version := round / 50
		if i <= round%50 {
			version++
		}
		l.Records = append(l.Records, poll.Record{ID: fmt.Sprintf("vm-%d-%d", n, i), Kind: "vm", Network: "vpc-" + scope.Account, State: poll.StateRunning,
			Health: federation.HealthPassing, Addresses: []netip.Addr{netip.AddrFrom4([4]byte{10, byte(n), 0, byte(i + 1)})},
			Labels: map[string]string{"mesh/service": fmt.Sprint("svc-", n%20), "mesh/port": "8080", "team": "a", "Name": "vm", "build": fmt.Sprint(version)}})
	}
	return l, nil
}

// TestCost: what a minute of 10,000 workloads over 200 scopes costs, from the listing to the registry's catalog, the lister's own
// work included.
func TestCost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		source := poll.New(poll.Config{Name: "fleet", Lister: &fleet{round: map[string]int{}}, Rules: []federation.Discover{{Service: "*"}}})
		r := registry.New(registry.Config{Region: "a"})
		if err := r.Add("fleet", source); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- r.Run(ctx) }()
		<-time.After(2 * time.Minute) // scopes are spread by their jitter, as in life
		const minutes = 1
		began := cpuTime(t)
		<-time.After(minutes * time.Minute)
		synctest.Wait()
		spent := (cpuTime(t) - began) / minutes
		if st := source.Status(); st.Instances != 10_000 {
			t.Errorf("%d instances, want 10000: %v", st.Instances, st.Problem)
		}
		if got := len(r.Instances()); got != 10_000 {
			t.Errorf("the registry has %d instances", got)
		}
		t.Logf("a refresh of 10,000 records over 200 scopes takes %v of CPU", spent)
		if spent > slower*time.Second {
			t.Errorf("a refresh takes %v of CPU, at most 1s is allowed", spent)
		}
		cancel()
		if err := <-ended; err != nil && !strings.Contains(err.Error(), "cancel") {
			t.Error(err)
		}
	})
}
