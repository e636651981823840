package mesh

import (
	"errors"
	"slices"
	"strconv"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	// maxSeries bounds the label sets of the per-service metrics of one direction. What comes after shares one more set, all of
	// whose labels read "overflow": a busy mesh has some hundred pairs of services, so this is reached only by mistake.
	maxSeries = 10_000

	// maxSeriesPeer bounds how much of that the services of one peer can take: the names of callers are the peer's to choose.
	maxSeriesPeer = 1_000
)

const overflowLabel = "overflow"

// connectBuckets are OTel's HTTP buckets with two finer ones before them (seconds).
var connectBuckets = []float64{.001, .0025, .005, .01, .025, .05, .075, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10}

// metrics are the counters of the data path. Connections hold resolved handles (*series); a label set is looked up once a
// connection, by a comparable key and without a lock.
type metrics struct {
	opened, closed, bytes, refused *prometheus.CounterVec
	connect                        *prometheus.HistogramVec
	decisions, shadows             *prometheus.CounterVec
	requests                       *prometheus.CounterVec
	duration                       *prometheus.HistogramVec
	failovers                      *prometheus.GaugeVec
	rooms                          *prometheus.GaugeVec
	sheds                          *prometheus.CounterVec
	hedges                         *prometheus.CounterVec
	copies                         *prometheus.CounterVec
	accessDropped                  prometheus.Counter
	acceptErrors                   prometheus.Counter

	series   sync.Map // seriesKey -> *series
	mu       sync.Mutex
	count    map[federation.Region]int // label sets taken, by the region of the caller
	total    int
	codes    sync.Map // requestKey -> *requestSeries; they count as label sets too
	deciders sync.Map // decisionKey -> prometheus.Counter; bounded by the number of intentions ever known
}

// seriesKey is whose traffic with whom.
type seriesKey struct {
	direction   direction
	source      spiffeid.ID
	srcRegion   federation.Region
	destination federation.ServiceName
	dstRegion   federation.Region
}

// labels are the values of seriesLabels.
func (k seriesKey) labels() []string {
	return []string{string(k.direction), callerName(k.source), string(k.srcRegion), k.destination.String(), string(k.dstRegion)}
}

// series is the handles for one seriesKey.
type series struct {
	opened, closed, sent, received prometheus.Counter
	connect                        prometheus.Observer
}

type decisionKey struct {
	direction direction
	allowed   bool
	rule      string
	shadow    bool // the rule is in shadow mode, and this is what it would have decided
}

var seriesLabels = []string{"direction", "source", "src_region", "destination", "dst_region"}

func newMetrics(r prometheus.Registerer) *metrics {
	if r == nil {
		r = prometheus.NewRegistry()
	}
	counter := func(name, help string, labels ...string) *prometheus.CounterVec {
		return register(r, prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels))
	}
	plain := func(name, help string) prometheus.Counter {
		return register(r, prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help}))
	}
	return &metrics{
		opened: counter("tradewind_tcp_opened_total", "Connections that reached an instance.", seriesLabels...),
		closed: counter("tradewind_tcp_closed_total", "Connections that reached an instance and have ended.", seriesLabels...),
		bytes: counter("tradewind_tcp_bytes_total", "Octets carried to the caller (sent) and from it (received).",
			append([]string{"flow"}, seriesLabels...)...),
		refused: counter("tradewind_tcp_refused_total", "Connections that reached no instance, by response flag.", "direction", "flags"),
		connect: register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tradewind_tcp_connect_duration_seconds",
			Help:    "From a caller's connection to the instance that takes it, over all attempts.",
			Buckets: connectBuckets,
		}, []string{"direction", "destination", "dst_region"})),
		decisions: counter("tradewind_intention_decisions_total", "Decisions on connections, by the intention that made them.",
			"direction", "decision", "intention"),
		shadows: counter("tradewind_intention_shadow_total",
			"Decisions that an intention in shadow mode would have turned round, by that intention.", "direction", "would", "intention"),
		requests: counter("tradewind_http_requests_total", "Requests that were answered, by the status of the answer.",
			append(slices.Clone(seriesLabels), "code")...),
		duration: register(r, prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "tradewind_http_request_duration_seconds",
			Help:    "From a request's head to the end of its answer, over all attempts.",
			Buckets: connectBuckets,
		}, []string{"direction", "destination", "dst_region"})),
		failovers: register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tradewind_failover_active", Help: "1 while calls to a service go to another region than the preferred one.",
		}, []string{"destination", "from", "to"})),
		rooms: register(r, prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "tradewind_spill_room", Help: "Requests at once for which a region that has been near its limit said last that it has room.",
		}, []string{"service", "region"})),
		sheds:         counter("tradewind_shed_total", "Requests refused at once, so that others are served.", "service", "reason"),
		hedges:        counter("tradewind_hedges_total", "Requests that were to be sent a second time while slow, by what became of that.", "service", "outcome"),
		copies:        counter("tradewind_mirror_total", "Copies of requests to the service that a route mirrors to, by what became of them.", "service", "outcome"),
		accessDropped: plain("tradewind_access_log_dropped_total", "Lines of the access log lost because its writer was too slow."),
		acceptErrors:  plain("tradewind_accept_errors_total", "Connections that could not be accepted, for want of file descriptors as a rule."),
		count:         map[federation.Region]int{},
	}
}

// register returns c, or the equal collector that r already has: two meshes of one process share their counters.
func register[C prometheus.Collector](r prometheus.Registerer, c C) C {
	var already prometheus.AlreadyRegisteredError
	if err := r.Register(c); errors.As(err, &already) {
		if existing, same := already.ExistingCollector.(C); same {
			return existing
		}
	}
	return c
}

// of returns the handles for key, those of the overflow when there are too many.
func (m *metrics) of(key seriesKey) *series {
	if s, found := m.series.Load(key); found {
		return s.(*series)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if s, found := m.series.Load(key); found {
		return s.(*series)
	}
	if !m.take(key) {
		return m.resolve(key.direction, overflowLabel, overflowLabel, overflowLabel, overflowLabel)
	}
	v := key.labels()
	s := m.resolve(key.direction, v[1], v[2], v[3], v[4])
	m.series.Store(key, s)
	return s
}

// take counts one more label set for key; false: there are too many. The caller holds the lock, as with giveBack.
func (m *metrics) take(key seriesKey) bool {
	if m.total >= maxSeries || key.direction == inbound && m.count[key.srcRegion] >= maxSeriesPeer {
		return false
	}
	m.total++
	if key.direction == inbound {
		m.count[key.srcRegion]++
	}
	return true
}

func (m *metrics) giveBack(key seriesKey) {
	m.total--
	if key.direction == inbound {
		m.count[key.srcRegion]--
	}
}

func (m *metrics) resolve(d direction, source, srcRegion, destination, dstRegion string) *series {
	values := []string{string(d), source, srcRegion, destination, dstRegion}
	return &series{
		opened:   m.opened.WithLabelValues(values...),
		closed:   m.closed.WithLabelValues(values...),
		sent:     m.bytes.WithLabelValues(append([]string{"sent"}, values...)...),
		received: m.bytes.WithLabelValues(append([]string{"received"}, values...)...),
		connect:  m.connect.WithLabelValues(string(d), destination, dstRegion),
	}
}

// callerName is a caller as a label: its service.
func callerName(id spiffeid.ID) string {
	service, err := federation.ServiceOf(id)
	if err != nil {
		return ""
	}
	return service.String()
}

// keep drops the label sets for which f returns false.
func (m *metrics) keep(f func(seriesKey) bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k := range m.series.Range {
		key := k.(seriesKey)
		if f(key) {
			continue
		}
		m.series.Delete(key)
		m.giveBack(key)
		values := key.labels()
		m.opened.DeleteLabelValues(values...)
		m.closed.DeleteLabelValues(values...)
		m.bytes.DeleteLabelValues(append([]string{"sent"}, values...)...)
		m.bytes.DeleteLabelValues(append([]string{"received"}, values...)...)
	}
	for k := range m.codes.Range {
		key := k.(requestKey)
		if f(key.seriesKey) {
			continue
		}
		m.codes.Delete(key)
		m.giveBack(key.seriesKey)
		m.requests.DeleteLabelValues(append(key.labels(), strconv.Itoa(key.code))...)
	}
}

// decided counts one decision.
func (m *metrics) decided(d direction, allowed bool, rule string) {
	m.counted(decisionKey{direction: d, allowed: allowed, rule: rule})
}

// shadowed counts a decision that rule, in shadow mode, would have turned round; would is what it would have decided.
func (m *metrics) shadowed(d direction, would bool, rule string) {
	m.counted(decisionKey{direction: d, allowed: would, rule: rule, shadow: true})
}

func (m *metrics) counted(key decisionKey) {
	c, found := m.deciders.Load(key)
	if !found {
		decision := "deny"
		if key.allowed {
			decision = "allow"
		}
		vec := m.decisions
		if key.shadow {
			vec = m.shadows
		}
		c, _ = m.deciders.LoadOrStore(key, vec.WithLabelValues(string(key.direction), decision, key.rule))
	}
	c.(prometheus.Counter).Inc()
}
