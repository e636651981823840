package mesh

import (
	"strconv"

	"github.com/prometheus/client_golang/prometheus"
)

// requestKey is whose requests to whom were answered with which status. The status is the instance's to choose, and so each counts
// against the limits of label sets; 0 stands for what is no status, and for requests without an answer.
type requestKey struct {
	seriesKey
	code int
}

// requestSeries is the handles for one requestKey.
type requestSeries struct {
	total    prometheus.Counter
	duration prometheus.Observer
}

// requested counts a request that has ended.
func (m *metrics) requested(rec *record) {
	code := rec.http.status
	if code < 100 || code > 599 {
		code = 0
	}
	s := m.ofRequest(requestKey{seriesKey{rec.direction, rec.source, rec.srcRegion, rec.destination, rec.dstRegion}, code})
	s.total.Inc()
	s.duration.Observe(rec.took.Seconds())
}

// ofRequest returns the handles for key, those of the overflow when there are too many.
func (m *metrics) ofRequest(key requestKey) *requestSeries {
	if s, found := m.codes.Load(key); found {
		return s.(*requestSeries)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, found := m.codes.Load(key); found {
		return s.(*requestSeries)
	}
	if !m.take(key.seriesKey) {
		const o = overflowLabel
		return m.resolveRequest([]string{string(key.direction), o, o, o, o, o})
	}
	s := m.resolveRequest(append(key.labels(), strconv.Itoa(key.code)))
	m.codes.Store(key, s)
	return s
}

// resolveRequest returns the handles for values: those of seriesLabels and the code.
func (m *metrics) resolveRequest(values []string) *requestSeries {
	return &requestSeries{total: m.requests.WithLabelValues(values...), duration: m.duration.WithLabelValues(values[0], values[3], values[4])}
}
