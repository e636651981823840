package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// collector reads the control plane's state when metrics are asked for. Its series are few: one for each peer, source or state.
type collector struct{ a *Agent }

func describe(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("tradewind_"+name, help, labels, nil)
}

var (
	descPeerUp      = describe("peer_up", "1 while the peering is Active, else 0; there is one for every peering, whatever its state.", "peer", "state")
	descCatalogAge  = describe("catalog_age_seconds", "How long ago the peer confirmed that what we have of it is all it has.", "peer")
	descFresh       = describe("catalog_fresh", "1 for the import's state, LIVE, STALE, OLD or EXPIRED.", "peer", "freshness")
	descServices    = describe("catalog_services", "Services shown to the peer (export) and by it (import).", "peer", "direction")
	descQuarantined = describe("catalog_quarantined_rows", "Rows of the peer that were refused; the last good ones are in use.", "peer")
	descInstances   = describe("instances", "Instances of this region by health.", "health")
	descSourceAge   = describe("source_last_success_timestamp_seconds", "When the source last gave a complete set (Unix time).", "source")
	descSourceErr   = describe("source_failing", "1 while the source cannot give a newer set.", "source")
	descCertificate = describe("certificate_expiry_timestamp_seconds", "When a certificate ends (Unix time).", "certificate")
	descGeneration  = describe("config_generation", "Generation of gateway.hcl in force.")
	descView        = describe("view_number", "Number of the view in force.")
	descScopes      = describe("provider_scopes", "Scopes of the provider by state.", "provider", "state")
	descScopeAge    = describe("provider_last_complete_age_seconds", "Age of the oldest last complete listing of the provider's scopes.", "provider")
	descCalls       = describe("provider_calls_total", "Requests made to the provider's API.", "provider")
	descThrottles   = describe("provider_throttles_total", "Times the provider's API asked to slow down.", "provider")
	descBadItems    = describe("provider_bad_items", "Workloads of the newest listings that could not be read.", "provider")
	descIgnored     = describe("provider_ignored_workloads", "Workloads that are listed and not used, by reason.", "provider", "reason")
	descResources   = describe("resources", "Resources in the region's store by kind.", "kind")
)

// Describe implements prometheus.Collector.
func (c collector) Describe(out chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descPeerUp, descCatalogAge, descFresh, descServices, descQuarantined, descInstances, descSourceAge,
		descSourceErr, descCertificate, descGeneration, descView, descResources, descScopes, descScopeAge, descCalls, descThrottles, descBadItems, descIgnored} {
		out <- d
	}
}

// Collect implements prometheus.Collector.
func (c collector) Collect(out chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	c.peers(gauge)
	health := map[federation.Health]float64{}
	for _, i := range c.a.reg.Instances() {
		health[i.Health]++
	}
	for _, h := range []federation.Health{federation.HealthUnknown, federation.HealthPassing, federation.HealthFailing, federation.HealthDraining} {
		gauge(descInstances, health[h], h.String())
	}
	for _, s := range c.a.reg.Sources() {
		gauge(descSourceAge, unixTime(s.LastComplete), string(s.Name))
		gauge(descSourceErr, truth(s.Err != ""), string(s.Name))
	}
	c.providers(out, gauge)
	trust := c.a.trust.Status()
	gauge(descCertificate, unixTime(trust.Gateway.NotAfter), "gateway")
	if len(trust.Roots) > 0 {
		gauge(descCertificate, unixTime(trust.Roots[0].NotAfter), "ca")
	}
	gauge(descGeneration, float64(c.a.generationNow()))
	gauge(descView, float64(c.a.plane.View().Number))
	for _, kind := range federation.Kinds() {
		gauge(descResources, float64(len(c.a.plane.List(kind))), string(kind))
	}
}

func (c collector) peers(gauge func(*prometheus.Desc, float64, ...string)) {
	for _, p := range c.a.peers.List() {
		peer := string(p.Region)
		gauge(descPeerUp, truth(p.State == federation.PeeringActive), peer, p.State.String())
		gauge(descFresh, 1, peer, p.Exchange.State.String())
		gauge(descServices, float64(p.Exchange.Import.Services), peer, "import")
		gauge(descServices, float64(p.Exchange.Export.Services), peer, "export")
		gauge(descQuarantined, float64(len(p.Exchange.Import.Quarantined)), peer)
		if asOf := p.Exchange.Import.AsOf; !asOf.IsZero() {
			gauge(descCatalogAge, max(0, time.Since(asOf).Seconds()), peer)
		}
	}
}

func (c collector) providers(out chan<- prometheus.Metric, gauge func(*prometheus.Desc, float64, ...string)) {
	for _, p := range c.a.providers.list() {
		st := p.current.Load().Status()
		states := map[poll.ScopeState]float64{}
		var calls, throttles int64
		var bad int
		for _, s := range st.Scopes {
			states[s.State]++
			calls, throttles, bad = calls+s.Calls, throttles+s.Throttles, bad+s.BadItems
		}
		for _, state := range poll.ScopeStates() {
			gauge(descScopes, states[state], p.name(), string(state))
		}
		for _, ig := range st.Ignored {
			gauge(descIgnored, float64(ig.Count), p.name(), string(ig.Reason))
		}
		gauge(descScopeAge, float64(p.status(st).AgeSeconds), p.name())
		gauge(descBadItems, float64(bad), p.name())
		out <- prometheus.MustNewConstMetric(descCalls, prometheus.CounterValue, float64(calls), p.name())
		out <- prometheus.MustNewConstMetric(descThrottles, prometheus.CounterValue, float64(throttles), p.name())
	}
}

func unixTime(t time.Time) float64 {
	if t.IsZero() {
		return 0
	}
	return float64(t.UnixMilli()) / 1000
}

func truth(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
