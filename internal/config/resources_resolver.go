package config

import (
	"fmt"

	"github.com/hashicorp/hcl/v2"

	"github.com/tradewind-mesh/tradewind/federation"
)

type resolverBlock struct {
	Name           string            `hcl:"name,label"`
	At             hcl.Range         `hcl:",def_range"`
	Failover       []string          `hcl:"failover,optional"`
	ConnectTimeout string            `hcl:"connect_timeout,optional"`
	IdleTimeout    string            `hcl:"idle_timeout,optional"`
	NoIdleTimeout  bool              `hcl:"no_idle_timeout,optional"`
	Outlier        *outlierBlock     `hcl:"outlier,block"`
	Subsets        []subsetBlock     `hcl:"subset,block"`
	Balance        string            `hcl:"balance,optional"`
	ProxyProtocol  string            `hcl:"proxy_protocol,optional"`
	Affinity       *affinityBlock    `hcl:"affinity,block"`
	Limits         *limitsBlock      `hcl:"limits,block"`
	RateLimits     []rateLimitBlock  `hcl:"rate_limit,block"`
	RetryBudget    *retryBudgetBlock `hcl:"retry_budget,block"`
}

type outlierBlock struct {
	ConsecutiveFailures     int     `hcl:"consecutive_failures,optional"`
	ConsecutiveServerErrors int     `hcl:"consecutive_server_errors,optional"`
	EjectFor                string  `hcl:"eject_for,optional"`
	MaxEjectedPercent       int     `hcl:"max_ejected_percent,optional"`
	SuccessRate             float64 `hcl:"success_rate,optional"`
	SuccessRateHosts        int     `hcl:"success_rate_hosts,optional"`
	SuccessRateRequests     int     `hcl:"success_rate_requests,optional"`
	PanicPercent            int     `hcl:"panic_percent,optional"`
}

type subsetBlock struct {
	Name   string            `hcl:"name,label"`
	At     hcl.Range         `hcl:",def_range"`
	Labels map[string]string `hcl:"labels"`
}

type affinityBlock struct {
	Cookie string `hcl:"cookie,optional"`
	TTL    string `hcl:"ttl,optional"`
	Header string `hcl:"header,optional"`
	Source bool   `hcl:"source,optional"`
}

type limitsBlock struct {
	Connections     int `hcl:"connections,optional"`
	Requests        int `hcl:"requests,optional"`
	Pending         int `hcl:"pending,optional"`
	PerPeerRequests int `hcl:"per_peer_requests,optional"`
}

type rateLimitBlock struct {
	At    hcl.Range `hcl:",def_range"`
	Per   string    `hcl:"per"`
	Rate  string    `hcl:"rate"`
	Burst int       `hcl:"burst,optional"`
}

type retryBudgetBlock struct {
	Percent float64 `hcl:"percent,optional"`
	Minimum string  `hcl:"minimum,optional"`
}

func (c converter) resolver(b resolverBlock) {
	spec := &federation.Resolver{Failover: b.Failover, NoIdleTimeout: b.NoIdleTimeout, Balance: federation.Balance(b.Balance),
		ProxyProtocol: federation.ProxyVersion(b.ProxyProtocol),
		Limits:        limits(b.Limits)}
	c.text("connect_timeout", b.ConnectTimeout, &spec.ConnectTimeout, b.At)
	c.text("idle_timeout", b.IdleTimeout, &spec.IdleTimeout, b.At)
	if o := b.Outlier; o != nil {
		spec.Outlier = federation.Outlier{ConsecutiveFailures: o.ConsecutiveFailures, ConsecutiveServerErrors: o.ConsecutiveServerErrors,
			MaxEjectedPercent: o.MaxEjectedPercent, SuccessRate: o.SuccessRate, SuccessRateHosts: o.SuccessRateHosts,
			SuccessRateRequests: o.SuccessRateRequests, PanicPercent: o.PanicPercent}
		c.text("eject_for", o.EjectFor, &spec.Outlier.EjectFor, b.At)
	}
	for _, s := range b.Subsets {
		if _, twice := spec.Subsets[s.Name]; twice {
			c.diags = append(c.diags, problem("Duplicate subset", fmt.Errorf("subset %q was declared before in this resolver", s.Name), &s.At))
		}
		if spec.Subsets == nil {
			spec.Subsets = map[string]federation.Subset{}
		}
		spec.Subsets[s.Name] = federation.Subset{Labels: s.Labels}
	}
	if a := b.Affinity; a != nil {
		spec.Affinity = &federation.Affinity{Cookie: a.Cookie, Header: a.Header, Source: a.Source}
		c.text("ttl", a.TTL, &spec.Affinity.TTL, b.At)
	}
	spec.RateLimits = c.rateLimits(b.RateLimits)
	if r := b.RetryBudget; r != nil {
		spec.RetryBudget.Percent = r.Percent
		c.text("minimum", r.Minimum, &spec.RetryBudget.Minimum, b.At)
	}
	c.put(federation.KindResolver, b.Name, b.At, spec)
}

func (c converter) rateLimits(blocks []rateLimitBlock) []federation.RateLimit {
	var out []federation.RateLimit
	for _, l := range blocks {
		limit := federation.RateLimit{Per: federation.RatePer(l.Per), Burst: l.Burst}
		c.text("rate", l.Rate, &limit.Rate, l.At)
		out = append(out, limit)
	}
	return out
}

func limits(b *limitsBlock) federation.Limits {
	if b == nil {
		return federation.Limits{}
	}
	return federation.Limits(*b)
}
