package providertest

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/registry"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

var _ registry.Troubled = (*poll.Source)(nil)

// scripted is a lister of what the test sets.
type scripted struct {
	mu      sync.Mutex
	records []poll.Record
	err     error
}

func (l *scripted) set(records []poll.Record, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.records, l.err = records, err
}

func (l *scripted) now() ([]poll.Record, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.records), l.err
}

func (l *scripted) Scopes(context.Context) ([]poll.Scope, error) {
	_, err := l.now()
	return []poll.Scope{{Provider: "scripted", Kind: "vm"}}, err
}

func (l *scripted) List(ctx context.Context, _ poll.Scope, budget poll.Budget) (poll.Listing, error) {
	if err := budget.Wait(ctx); err != nil {
		return poll.Listing{}, err
	}
	records, err := l.now()
	return poll.Listing{Records: records, Calls: 1}, err
}

// TestPollSource holds the framework to the contract of sources.
func TestPollSource(t *testing.T) {
	Run(t, func(t *testing.T) Rig {
		l := &scripted{}
		budgets := poll.NewBudgets(map[string]poll.Limit{"scripted": {Rate: 1000, Burst: 1000}})
		source := poll.New(poll.Config{Name: "p", Lister: l, Rules: []federation.Discover{{Service: "*", Namespace: "*"}},
			// A listing that is held is confirmed by others before a set is made.
			Interval: 5 * time.Millisecond, Gap: 300 * time.Millisecond, Budgets: budgets, Dir: t.TempDir()})
		return Rig{Source: source,
			Set: func(_ *testing.T, set []federation.Instance) {
				var records []poll.Record
				for _, in := range set {
					records = append(records, poll.Record{ID: in.Service.String() + "/" + string(in.ID), Kind: "vm", State: poll.StateRunning,
						Health: in.Health, Addresses: []netip.Addr{in.Address.Addr()}, Ports: []poll.Port{{Number: in.Address.Port()}},
						Service: in.Service.Name, Namespace: in.Service.Namespace})
				}
				_, err := l.now()
				l.set(records, err)
			},
			Break: func(*testing.T) {
				records, _ := l.now()
				l.set(records, errors.New("connection refused"))
			},
			Repair: func(*testing.T) {
				records, _ := l.now()
				l.set(records, nil)
			},
			Describe: func(in federation.Instance) string {
				return in.Service.String() + " " + in.Address.String() + " " + in.Health.String()
			}}
	})
}
