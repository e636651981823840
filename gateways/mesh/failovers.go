package mesh

import (
	"cmp"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Failover is a service whose calls go to another region than the preferred one.
type Failover struct {
	Service federation.ServiceName `json:"service"`
	From    federation.Region      `json:"from"`
	To      federation.Region      `json:"to"`
	Since   time.Time              `json:"since"`
}

// failovers knows which services are served by another region than the preferred one, judged by the last connection for
// which the preferred region was passed over. One connection that had bad luck is no failover.
type failovers struct {
	gauge  *prometheus.GaugeVec
	log    *slog.Logger
	now    func() time.Time
	active sync.Map // failoverKey -> Failover; empty in quiet times, so that the hot path is one miss
	mu     sync.Mutex
}

// failoverKey has the preferred region in it: callers that may reach different regions prefer different ones.
type failoverKey struct {
	service federation.ServiceName
	from    federation.Region
}

// served records that a connection to service went to region to, where from was preferred.
func (f *failovers) served(service federation.ServiceName, from, to federation.Region) {
	key := failoverKey{service, from}
	if current, failing := f.active.Load(key); !failing && from == to || failing && current.(Failover).To == to {
		return
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	current, failing := f.active.Load(key)
	switch {
	case failing && current.(Failover).To == to, !failing && from == to:
		return
	case failing:
		f.gauge.DeleteLabelValues(service.String(), string(from), string(current.(Failover).To))
	}
	if from == to {
		f.active.Delete(key)
		f.log.Info("failover has ended", "service", service.String(), "region", string(to))
		return
	}
	f.active.Store(key, Failover{service, from, to, f.now()})
	f.gauge.WithLabelValues(service.String(), string(from), string(to)).Set(1)
	f.log.Warn("failover is active", "service", service.String(), "from", string(from), "to", string(to))
}

// keep drops the services for which known returns false.
func (f *failovers) keep(known func(federation.ServiceName) bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, v := range f.active.Range {
		if old := v.(Failover); !known(old.Service) {
			f.active.Delete(k)
			f.gauge.DeleteLabelValues(old.Service.String(), string(old.From), string(old.To))
		}
	}
}

// Failovers returns the services that are served by another region than the preferred one, in order.
func (m *Mesh) Failovers() []Failover {
	var list []Failover
	for _, v := range m.failovers.active.Range {
		list = append(list, v.(Failover))
	}
	slices.SortFunc(list, func(a, b Failover) int {
		return cmp.Or(a.Service.Compare(b.Service), cmp.Compare(a.From, b.From))
	})
	return list
}
