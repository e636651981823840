package config

import (
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/tradewind-mesh/tradewind/federation"
)

func (w writer) block(name string, labels ...string) writer {
	return writer{w.body.AppendNewBlock(name, labels).Body()}
}

func (w writer) flag(name string, value bool) {
	if value {
		w.body.SetAttributeValue(name, cty.True)
	}
}

func (w writer) fraction(name string, value float64) {
	if value != 0 {
		w.body.SetAttributeValue(name, cty.NumberFloatVal(value))
	}
}

// texts writes a map. Its keys may be any strings, such as names of header fields.
func (w writer) texts(name string, values map[string]string) {
	if len(values) == 0 {
		return
	}
	var tokens []hclwrite.ObjectAttrTokens
	for _, k := range sortedKeys(values) {
		tokens = append(tokens, hclwrite.ObjectAttrTokens{
			Name: hclwrite.TokensForValue(cty.StringVal(k)), Value: hclwrite.TokensForValue(cty.StringVal(values[k])),
		})
	}
	w.body.SetAttributeRaw(name, hclwrite.TokensForObject(tokens))
}

func (w writer) match(name string, m federation.HTTPMatch) { w.block(name).conditions(m) }

func (w writer) conditions(m federation.HTTPMatch) {
	w.list("methods", m.Methods)
	w.list("hosts", m.Hosts)
	w.text("path", m.Path)
	w.text("path_prefix", m.PathPrefix)
	w.text("path_template", m.PathTemplate)
	w.text("grpc", m.GRPC)
	w.fields("header", m.Headers)
	w.fields("query", m.Query)
}

func (w writer) fields(name string, list []federation.FieldMatch) {
	for _, f := range list {
		b := w.block(name, f.Name)
		b.list("exact", f.Exact)
		b.text("prefix", f.Prefix)
		b.flag("absent", f.Absent)
	}
}

func (w writer) rule(r federation.RouteRule) {
	for _, m := range r.Match {
		w.match("match", m)
	}
	for _, s := range r.Split {
		b := w.block("split")
		if !s.Service.IsZero() {
			b.text("service", s.Service.String())
		}
		b.text("subset", s.Subset)
		b.text("region", string(s.Region))
		b.body.SetAttributeValue("weight", cty.NumberUIntVal(uint64(s.Weight)))
	}
	if r.Redirect != nil {
		b := w.block("redirect")
		b.text("scheme", r.Redirect.Scheme)
		b.text("host", r.Redirect.Host)
		b.text("path", r.Redirect.Path)
		b.text("path_prefix", r.Redirect.PathPrefix)
		b.number("status", int64(r.Redirect.Status))
	}
	if r.Respond != nil {
		b := w.block("respond")
		b.body.SetAttributeValue("status", cty.NumberIntVal(int64(r.Respond.Status)))
		b.text("body", r.Respond.Body)
	}
	if r.Rewrite != nil {
		b := w.block("rewrite")
		b.text("host", r.Rewrite.Host)
		b.text("path", r.Rewrite.Path)
		b.text("path_prefix", r.Rewrite.PathPrefix)
	}
	w.headers("request_headers", r.Request)
	w.headers("response_headers", r.Response)
	w.duration("timeout", r.Timeout)
	w.duration("try_timeout", r.TryTimeout)
	w.duration("idle_timeout", r.IdleTimeout)
	if r.Priority != nil {
		w.body.SetAttributeValue("priority", cty.NumberIntVal(int64(*r.Priority)))
	}
	w.trials(r)
}

// trials writes what a rule does with a request besides sending it on.
func (w writer) trials(r federation.RouteRule) {
	if r.Retry != nil {
		b := w.block("retry")
		b.number("attempts", int64(r.Retry.Attempts))
		var on []string
		for _, reason := range r.Retry.On {
			on = append(on, string(reason))
		}
		b.list("on", on)
		b.flag("all_methods", r.Retry.AllMethods)
		if h := r.Retry.Hedge; h != nil {
			b = b.block("hedge")
			after, _ := h.After.MarshalText() // never fails
			b.text("after", string(after))
			b.fraction("percent", h.Percent)
		}
	}
	w.rateLimits(r.RateLimits)
	if r.Mirror != nil {
		b := w.block("mirror")
		b.text("service", r.Mirror.Service.String())
		b.fraction("percent", r.Mirror.Percent)
	}
	if r.Fault != nil {
		b := w.block("fault")
		b.duration("delay", r.Fault.Delay)
		b.fraction("delay_percent", r.Fault.DelayPercent)
		b.number("abort", int64(r.Fault.Abort))
		b.fraction("abort_percent", r.Fault.AbortPercent)
	}
}

func (w writer) headers(name string, e *federation.HeaderEdit) {
	if e == nil {
		return
	}
	b := w.block(name)
	b.texts("set", e.Set)
	b.texts("add", e.Add)
	b.list("remove", e.Remove)
}
