package config

import (
	"github.com/hashicorp/hcl/v2"

	"github.com/tradewind-mesh/tradewind/federation"
)

// matchBlock is a federation.HTTPMatch as HCL writes it.
type matchBlock struct {
	Methods      []string     `hcl:"methods,optional"`
	Hosts        []string     `hcl:"hosts,optional"`
	Path         string       `hcl:"path,optional"`
	PathPrefix   string       `hcl:"path_prefix,optional"`
	PathTemplate string       `hcl:"path_template,optional"`
	GRPC         string       `hcl:"grpc,optional"`
	Headers      []fieldBlock `hcl:"header,block"`
	Query        []fieldBlock `hcl:"query,block"`
}

type fieldBlock struct {
	Name   string   `hcl:"name,label"`
	Exact  []string `hcl:"exact,optional"`
	Prefix string   `hcl:"prefix,optional"`
	Absent bool     `hcl:"absent,optional"`
}

type routeBlock struct {
	Name  string      `hcl:"name,label"`
	At    hcl.Range   `hcl:",def_range"`
	Rules []ruleBlock `hcl:"rule,block"`
}

type ruleBlock struct {
	Name        string           `hcl:"name,label"`
	At          hcl.Range        `hcl:",def_range"`
	Match       []matchBlock     `hcl:"match,block"`
	Split       []splitBlock     `hcl:"split,block"`
	Redirect    *redirectBlock   `hcl:"redirect,block"`
	Respond     *respondBlock    `hcl:"respond,block"`
	Rewrite     *rewriteBlock    `hcl:"rewrite,block"`
	Request     *headerEditBlock `hcl:"request_headers,block"`
	Response    *headerEditBlock `hcl:"response_headers,block"`
	Timeout     string           `hcl:"timeout,optional"`
	TryTimeout  string           `hcl:"try_timeout,optional"`
	IdleTimeout string           `hcl:"idle_timeout,optional"`
	Priority    *int             `hcl:"priority,optional"`
	Retry       *retryBlock      `hcl:"retry,block"`
	Mirror      *mirrorBlock     `hcl:"mirror,block"`
	RateLimits  []rateLimitBlock `hcl:"rate_limit,block"`
	Fault       *faultBlock      `hcl:"fault,block"`
}

type splitBlock struct {
	Service string `hcl:"service,optional"`
	Subset  string `hcl:"subset,optional"`
	Region  string `hcl:"region,optional"`
	Weight  uint32 `hcl:"weight"`
}

type redirectBlock struct {
	Scheme     string `hcl:"scheme,optional"`
	Host       string `hcl:"host,optional"`
	Path       string `hcl:"path,optional"`
	PathPrefix string `hcl:"path_prefix,optional"`
	Status     int    `hcl:"status,optional"`
}

type respondBlock struct {
	Status int    `hcl:"status"`
	Body   string `hcl:"body,optional"`
}

type rewriteBlock struct {
	Host       string `hcl:"host,optional"`
	Path       string `hcl:"path,optional"`
	PathPrefix string `hcl:"path_prefix,optional"`
}

type headerEditBlock struct {
	Set    map[string]string `hcl:"set,optional"`
	Add    map[string]string `hcl:"add,optional"`
	Remove []string          `hcl:"remove,optional"`
}

type retryBlock struct {
	Attempts   int         `hcl:"attempts,optional"`
	On         []string    `hcl:"on,optional"`
	AllMethods bool        `hcl:"all_methods,optional"`
	Hedge      *hedgeBlock `hcl:"hedge,block"`
}

type hedgeBlock struct {
	After   string  `hcl:"after,optional"`
	Percent float64 `hcl:"percent,optional"`
}

type mirrorBlock struct {
	Service string  `hcl:"service"`
	Percent float64 `hcl:"percent,optional"`
}

type faultBlock struct {
	Delay        string  `hcl:"delay,optional"`
	DelayPercent float64 `hcl:"delay_percent,optional"`
	Abort        int     `hcl:"abort,optional"`
	AbortPercent float64 `hcl:"abort_percent,optional"`
}

func matches(blocks []matchBlock) []federation.HTTPMatch {
	var out []federation.HTTPMatch
	for _, b := range blocks {
		out = append(out, b.match())
	}
	return out
}

func (b matchBlock) match() federation.HTTPMatch {
	return federation.HTTPMatch{Methods: b.Methods, Hosts: b.Hosts, Path: b.Path, PathPrefix: b.PathPrefix,
		PathTemplate: b.PathTemplate, GRPC: b.GRPC, Headers: fields(b.Headers), Query: fields(b.Query)}
}

func fields(blocks []fieldBlock) []federation.FieldMatch {
	var out []federation.FieldMatch
	for _, b := range blocks {
		out = append(out, federation.FieldMatch(b))
	}
	return out
}

func (c converter) route(b routeBlock) {
	spec := &federation.Route{}
	for _, r := range b.Rules {
		spec.Rules = append(spec.Rules, c.rule(r))
	}
	c.put(federation.KindRoute, b.Name, b.At, spec)
}

func (c converter) rule(b ruleBlock) federation.RouteRule {
	rule := federation.RouteRule{Name: b.Name, Match: matches(b.Match), Redirect: (*federation.Redirect)(b.Redirect),
		Respond: (*federation.Respond)(b.Respond), Rewrite: (*federation.Rewrite)(b.Rewrite),
		Request: (*federation.HeaderEdit)(b.Request), Response: (*federation.HeaderEdit)(b.Response), Priority: b.Priority}
	for _, s := range b.Split {
		split := federation.Split{Subset: s.Subset, Region: federation.Region(s.Region), Weight: s.Weight}
		c.text("service of a split", s.Service, &split.Service, b.At)
		rule.Split = append(rule.Split, split)
	}
	c.text("timeout", b.Timeout, &rule.Timeout, b.At)
	c.text("try_timeout", b.TryTimeout, &rule.TryTimeout, b.At)
	c.text("idle_timeout", b.IdleTimeout, &rule.IdleTimeout, b.At)
	if r := b.Retry; r != nil {
		rule.Retry = &federation.Retry{Attempts: r.Attempts, AllMethods: r.AllMethods}
		for _, on := range r.On {
			rule.Retry.On = append(rule.Retry.On, federation.RetryOn(on))
		}
		if h := r.Hedge; h != nil {
			rule.Retry.Hedge = &federation.Hedge{Percent: h.Percent}
			c.text("after of a hedge", h.After, &rule.Retry.Hedge.After, b.At)
		}
	}
	rule.RateLimits = c.rateLimits(b.RateLimits)
	if m := b.Mirror; m != nil {
		rule.Mirror = &federation.Mirror{Percent: m.Percent}
		c.text("service of a mirror", m.Service, &rule.Mirror.Service, b.At)
	}
	if f := b.Fault; f != nil {
		rule.Fault = &federation.Fault{DelayPercent: f.DelayPercent, Abort: f.Abort, AbortPercent: f.AbortPercent}
		c.text("delay", f.Delay, &rule.Fault.Delay, b.At)
	}
	return rule
}
