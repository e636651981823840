package config

import (
	"github.com/zclconf/go-cty/cty"

	"github.com/tradewind-mesh/tradewind/federation"
)

func (w writer) resolver(r *federation.Resolver) {
	w.list("failover", r.Failover)
	w.duration("connect_timeout", r.ConnectTimeout)
	w.duration("idle_timeout", r.IdleTimeout)
	w.flag("no_idle_timeout", r.NoIdleTimeout)
	w.text("balance", string(r.Balance))
	w.text("proxy_protocol", string(r.ProxyProtocol))
	w.outlier(r.Outlier)
	for _, name := range sortedKeys(r.Subsets) {
		b := w.block("subset", name)
		if labels := r.Subsets[name].Labels; len(labels) > 0 {
			b.texts("labels", labels)
		} else {
			b.body.SetAttributeValue("labels", cty.EmptyObjectVal) // not valid, but shown as it is
		}
	}
	if a := r.Affinity; a != nil {
		b := w.block("affinity")
		b.text("cookie", a.Cookie)
		b.duration("ttl", a.TTL)
		b.text("header", a.Header)
		b.flag("source", a.Source)
	}
	if l := r.Limits; l != (federation.Limits{}) {
		b := w.block("limits")
		b.number("connections", int64(l.Connections))
		b.number("requests", int64(l.Requests))
		b.number("pending", int64(l.Pending))
		b.number("per_peer_requests", int64(l.PerPeerRequests))
	}
	w.rateLimits(r.RateLimits)
	if budget := r.RetryBudget; budget != (federation.RetryBudget{}) {
		b := w.block("retry_budget")
		b.fraction("percent", budget.Percent)
		b.text("minimum", budget.Minimum.String())
	}
}

func (w writer) outlier(o federation.Outlier) {
	if o == (federation.Outlier{}) {
		return
	}
	b := w.block("outlier")
	b.number("consecutive_failures", int64(o.ConsecutiveFailures))
	b.number("consecutive_server_errors", int64(o.ConsecutiveServerErrors))
	b.duration("eject_for", o.EjectFor)
	b.number("max_ejected_percent", int64(o.MaxEjectedPercent))
	b.fraction("success_rate", o.SuccessRate)
	b.number("success_rate_hosts", int64(o.SuccessRateHosts))
	b.number("success_rate_requests", int64(o.SuccessRateRequests))
	b.number("panic_percent", int64(o.PanicPercent))
}

func (w writer) rateLimits(limits []federation.RateLimit) {
	for _, l := range limits {
		b := w.block("rate_limit")
		b.text("per", string(l.Per))
		b.text("rate", l.Rate.String())
		b.number("burst", int64(l.Burst))
	}
}
