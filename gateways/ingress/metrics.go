package ingress

import (
	"sync"

	"github.com/prometheus/client_golang/prometheus"
)

// Why a connection is not let in.
const (
	refusedFull   = "listener_full" // the listener has all it may
	refusedClient = "client_full"   // its address has all it may
	refusedProxy  = "proxy_header"  // the PROXY header is missing or malformed
	refusedTLS    = "tls"           // the handshake failed: an unknown name, an old version, silence
)

// metrics are told by ingress. Requests are counted by the mesh.
type metrics struct {
	openings, endings *prometheus.CounterVec
	refusals          *prometheus.CounterVec
	rateLimited       *prometheus.CounterVec

	names sync.Map // of ingresses with series
}

func newMetrics(r prometheus.Registerer) *metrics {
	m := &metrics{
		openings: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tradewind_ingress_opened_total",
			Help: "Connections from outside that were let in."}, []string{"ingress"}),
		endings: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tradewind_ingress_closed_total",
			Help: "Connections from outside that were let in and have ended."}, []string{"ingress"}),
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tradewind_ingress_refused_total",
			Help: "Connections from outside that were not let in, by reason."}, []string{"ingress", "reason"}),
		rateLimited: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "tradewind_ingress_rate_limited_total",
			Help: "Requests from outside that were refused because their client asks too often."}, []string{"ingress"}),
	}
	if r != nil {
		r.MustRegister(m.openings, m.endings, m.refusals, m.rateLimited)
	}
	return m
}

func (m *metrics) opened(name string) {
	m.names.Store(name, true)
	m.openings.WithLabelValues(name).Inc()
}

func (m *metrics) closed(name string) { m.endings.WithLabelValues(name).Inc() }

func (m *metrics) refused(name, reason string) {
	m.names.Store(name, true)
	m.refusals.WithLabelValues(name, reason).Inc()
}

func (m *metrics) limited(name string) {
	m.names.Store(name, true)
	m.rateLimited.WithLabelValues(name).Inc()
}

// keep drops the series of all ingresses but those named.
func (m *metrics) keep(named map[string]bool) {
	for name := range m.names.Range {
		if named[name.(string)] {
			continue
		}
		m.names.Delete(name)
		gone := prometheus.Labels{"ingress": name.(string)}
		m.openings.DeletePartialMatch(gone)
		m.endings.DeletePartialMatch(gone)
		m.refusals.DeletePartialMatch(gone)
		m.rateLimited.DeletePartialMatch(gone)
	}
}
