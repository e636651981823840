package config

import (
	"github.com/hashicorp/hcl/v2/hclwrite"
	"github.com/zclconf/go-cty/cty"

	"github.com/tradewind-mesh/tradewind/federation"
)

// FormatHCL writes resources as ParseResources reads them: only what differs from the defaults, in canonical form.
func FormatHCL(resources []federation.Resource) []byte {
	f := hclwrite.NewEmptyFile()
	for i, r := range resources {
		if i > 0 {
			f.Body().AppendNewline()
		}
		w := writer{f.Body().AppendNewBlock(string(r.Kind), []string{r.Name}).Body()}
		switch spec := r.Spec.(type) {
		case *federation.Service:
			w.service(spec)
		case *federation.Export:
			w.list("to", spec.To)
			w.text("detail", string(spec.Detail))
		case *federation.Intention:
			w.text("source", spec.Source)
			w.text("destination", spec.Destination)
			w.text("action", string(spec.Action))
			if spec.Require != federation.AssuranceNone {
				w.text("require", spec.Require.String())
			}
			w.text("mode", string(spec.Mode))
			w.text("description", spec.Description)
			for _, m := range spec.HTTP {
				w.permission("http", m)
			}
		case *federation.Resolver:
			w.resolver(spec)
		case *federation.Route:
			for _, r := range spec.Rules {
				w.block("rule", r.Name).rule(r)
			}
		case *federation.Upstream:
			w.text("service", spec.Service.String())
			w.text("listen", spec.Listen)
			w.text("caller", spec.Caller.String())
			var from []string
			for _, p := range spec.AllowFrom {
				from = append(from, p.String())
			}
			w.list("allow_from", from)
		case *federation.Ingress:
			w.ingress(spec)
		case *federation.JWT:
			w.jwt(spec)
		case *federation.Drain:
			w.drain(spec)
		}
	}
	return hclwrite.Format(f.Bytes())
}

// writer appends attributes to one body; unset values are left out.
type writer struct{ body *hclwrite.Body }

func (w writer) text(name, value string) {
	if value != "" {
		w.body.SetAttributeValue(name, cty.StringVal(value))
	}
}

func (w writer) number(name string, value int64) {
	if value != 0 {
		w.body.SetAttributeValue(name, cty.NumberIntVal(value))
	}
}

func (w writer) duration(name string, d federation.Duration) {
	if d != 0 {
		w.text(name, d.String())
	}
}

func (w writer) list(name string, values []string) {
	if len(values) == 0 {
		return
	}
	list := make([]cty.Value, len(values))
	for i, v := range values {
		list[i] = cty.StringVal(v)
	}
	w.body.SetAttributeValue(name, cty.ListVal(list))
}

func (w writer) service(s *federation.Service) {
	w.text("protocol", string(s.Protocol))
	for _, i := range s.Instances {
		b := writer{w.body.AppendNewBlock("instance", []string{string(i.Ident())}).Body()}
		b.text("address", i.Address.String())
		b.text("zone", i.Zone)
		b.number("weight", int64(i.Weight))
		if len(i.Labels) > 0 {
			labels := map[string]cty.Value{}
			for _, k := range sortedKeys(i.Labels) {
				labels[k] = cty.StringVal(i.Labels[k])
			}
			b.body.SetAttributeValue("labels", cty.MapVal(labels))
		}
	}
	for _, c := range s.Checks {
		b := writer{w.body.AppendNewBlock("check", []string{string(c.Kind)}).Body()}
		b.text("path", c.Path)
		b.text("host", c.Host)
		b.text("method", c.Method)
		b.texts("headers", c.Headers)
		b.text("body", c.Body)
		if len(c.Status) > 0 {
			status := make([]cty.Value, len(c.Status))
			for i, code := range c.Status {
				status[i] = cty.NumberIntVal(int64(code))
			}
			b.body.SetAttributeValue("status", cty.ListVal(status))
		}
		b.text("grpc_service", c.GRPCService)
		b.number("port", int64(c.Port))
		b.flag("tls", c.TLS)
		b.text("tls_server_name", c.TLSServerName)
		b.text("tls_ca_file", c.TLSCAFile)
		b.flag("tls_skip_verify", c.TLSSkipVerify)
		b.duration("interval", c.Interval)
		b.duration("timeout", c.Timeout)
		b.duration("ttl", c.TTL)
		b.number("healthy_after", int64(c.HealthyAfter))
		b.number("unhealthy_after", int64(c.UnhealthyAfter))
	}
}
