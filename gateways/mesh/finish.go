package mesh

import (
	"time"

	"github.com/tradewind-mesh/tradewind/federation/policy"
	"github.com/tradewind-mesh/tradewind/gateways/splice"
)

// swept is how bytes are carried: watch sweeps, and what is idle waits in the lot.
func (m *Mesh) swept(idle time.Duration) splice.Options {
	return splice.Options{Idle: idle, Swept: true, Lot: &m.lot}
}

// opened counts a connection that has reached an instance.
func (m *Mesh) opened(rec *record) *series {
	s := m.metrics.of(seriesKey{rec.direction, rec.source, rec.srcRegion, rec.destination, rec.dstRegion})
	s.opened.Inc()
	s.connect.Observe(time.Since(rec.start).Seconds())
	return s
}

// finished counts the end of a connection that was opened.
func (s *series) finished(rec *record) {
	s.closed.Inc()
	s.sent.Add(float64(rec.sent))
	s.received.Add(float64(rec.received))
}

// finish closes the record of a connection and writes it to the access log.
func (m *Mesh) finish(rec *record) {
	rec.took = time.Since(rec.start)
	if rec.flags&(flagNoHealthy|flagConnectFailed|flagOverflow|flagNoRoute|flagDenied|flagProtocol) != 0 {
		m.metrics.refused.WithLabelValues(string(rec.direction), string(rec.flags.append(nil))).Inc()
	}
	if rec.http != nil {
		m.metrics.requested(rec)
	}
	if !rec.quiet {
		m.access.write(rec)
	}
}

// decided notes in rec, and counts, a decision that was acted on.
func (m *Mesh) decided(rec *record, d policy.Decision) {
	rec.intention, rec.shadow = d.Rule, d.Shadow
	m.metrics.decided(rec.direction, d.Allowed, d.Rule)
	if d.Shadow != "" {
		m.metrics.shadowed(rec.direction, !d.Allowed, d.Shadow)
	}
}

// ended fills in how the bytes stopped; e is why they were stopped from here, if they were. Side A is the caller.
func (r *record) ended(result splice.Result, e *ending) {
	switch {
	case e != nil:
		r.flags, r.reason = flagLocal, e.reason
		return
	case result.Cause == splice.Closed:
		return
	case result.Cause == splice.Idle:
		r.flags = flagIdle
	case result.Cause == splice.Cancelled:
		r.flags = flagLocal
	case result.Side == splice.A:
		r.flags = flagDownstream
	default:
		r.flags = flagUpstream
	}
	if r.reason = result.Cause.String(); result.Err != nil {
		r.reason = result.Err.Error()
	}
}
