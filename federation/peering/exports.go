package peering

import (
	"maps"
	"sync"

	"github.com/tradewind-mesh/tradewind/federation"
)

// exports holds what the peer may see, and what of it the owner of the peering has not taken over yet. The latest counts.
type exports struct {
	mu     sync.Mutex
	view   *federation.ExportView // nil: never set
	health map[federation.ServiceName][]federation.ExportedSlot
	newly  bool                                // view was not taken yet
	fresh  map[federation.ServiceName]struct{} // whose health was not
}

func (e *exports) set(view federation.ExportView) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.view, e.newly = &view, true
	e.health = map[federation.ServiceName][]federation.ExportedSlot{} // the view has the health of its own, later moment
	e.fresh = map[federation.ServiceName]struct{}{}
}

func (e *exports) setHealth(service federation.ServiceName, slots []federation.ExportedSlot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.view == nil {
		return
	}
	e.health[service] = slots
	e.fresh[service] = struct{}{}
}

// take returns what is new since the last call: the view, unless it is nil, then the changes of health on top of it.
func (e *exports) take() (*federation.ExportView, map[federation.ServiceName][]federation.ExportedSlot) {
	e.mu.Lock()
	defer e.mu.Unlock()
	var view *federation.ExportView
	if e.newly {
		view, e.newly = e.view, false
	}
	if len(e.fresh) == 0 {
		return view, nil
	}
	health := make(map[federation.ServiceName][]federation.ExportedSlot, len(e.fresh))
	for service := range e.fresh {
		health[service] = e.health[service]
	}
	clear(e.fresh)
	return view, health
}

// renew makes everything new again, for an owner that has to begin from nothing.
func (e *exports) renew() {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.newly = e.view != nil
	for service := range maps.Keys(e.health) {
		e.fresh[service] = struct{}{}
	}
}
