package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/gohcl"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// Provider is a source of instances that reads an outside API.
type Provider struct {
	Kind     string        // "aws", "azure", "consul", "dns", "gcp", "kubernetes"
	Name     string        // unique among all providers
	Interval time.Duration // 0: the framework's default
	TTL      time.Duration // 0: the framework's default; negative: for ever
	Rate     poll.Limit    // of requests to one account in one region; zero: the framework's default for the kind
	Discover []federation.Discover
	// Config is what the block says for its kind: a pointer to the struct that providerKinds has for it.
	Config any
}

// providerKinds says what a provider block of each kind holds besides the settings that all have. A struct may have a method
// Validate() error.
var providerKinds = map[string]func() any{
	"aws":        func() any { return new(AWSProvider) },
	"azure":      func() any { return new(AzureProvider) },
	"gcp":        func() any { return new(GCPProvider) },
	"consul":     func() any { return new(ConsulProvider) },
	"kubernetes": func() any { return new(KubernetesProvider) },
	"dns":        func() any { return new(DNSProvider) },
}

// DNSProvider is the body of a provider of kind "dns".
type DNSProvider struct {
	Servers []string  `hcl:"servers,optional"` // default: those of the host
	Names   []DNSName `hcl:"name,block"`
}

// DNSName is a name that is asked for.
type DNSName struct {
	Name      string `hcl:"name,label"`
	Type      string `hcl:"type,optional"`
	Port      uint16 `hcl:"port,optional"`
	Service   string `hcl:"service"`
	Namespace string `hcl:"namespace,optional"`
}

// providerBlock is a provider as HCL reads it.
type providerBlock struct {
	Kind     string          `hcl:"kind,label"`
	Name     string          `hcl:"name,label"`
	Interval string          `hcl:"interval,optional"`
	TTL      string          `hcl:"ttl,optional"`
	Rate     string          `hcl:"rate,optional"`
	Discover []discoverBlock `hcl:"discover,block"`
	Rest     hcl.Body        `hcl:",remain"`
}

type discoverBlock struct {
	Service       string   `hcl:"service"`
	Namespace     string   `hcl:"namespace,optional"`
	Accounts      []string `hcl:"accounts,optional"`
	Regions       []string `hcl:"regions,optional"`
	Networks      []string `hcl:"networks,optional"`
	UnknownHealth string   `hcl:"unknown_health,optional"`
	Export        []string `hcl:"export,optional"`
}

const leastInterval = time.Second // what is faster is an attack on the API

// providers decodes the provider blocks.
func (b *builder) providers(g *Gateway, raw []providerBlock) {
	seen := map[string]bool{}
	for _, p := range raw {
		at := "provider/" + p.Kind + "/" + p.Name
		where := p.Rest.MissingItemRange()
		wrong := func(err error) {
			if err != nil {
				b.diags = append(b.diags, problem(fmt.Sprintf("Invalid provider %q %q", p.Kind, p.Name), err, &where))
			}
		}
		body := providerKinds[p.Kind]
		if body == nil {
			wrong(fmt.Errorf("provider kind %q is unknown: this release knows %s", p.Kind, known(providerKinds)))
			continue
		}
		if !gatewayName.MatchString(p.Name) {
			wrong(fmt.Errorf("provider name %q: use 1-63 letters, digits, dots, hyphens or underscores", p.Name))
		}
		if seen[p.Name] {
			wrong(fmt.Errorf("another provider is called %q", p.Name))
		}
		seen[p.Name] = true
		out := Provider{Kind: p.Kind, Name: p.Name, Config: body()}
		b.diags = append(b.diags, p.decode(out.Config)...)
		if v, ok := out.Config.(interface{ Validate() error }); ok {
			wrong(v.Validate())
		}
		out.Interval = b.duration(at+".interval", p.Interval, 0)
		if p.Interval != "" && out.Interval < leastInterval {
			b.fail(at+".interval", fmt.Errorf("interval %q: at least %v", p.Interval, leastInterval))
		}
		if p.TTL != "" {
			if out.TTL = b.duration(at+".ttl", p.TTL, 0); out.TTL == 0 {
				out.TTL = -1 // "0s" keeps for ever
			}
		}
		if p.Rate != "" {
			var err error
			if out.Rate, err = poll.ParseRate(p.Rate); err != nil {
				b.fail(at+".rate", err)
			}
		}
		if len(p.Discover) == 0 && !onlyForClusters(out.Config) {
			wrong(errors.New("without a discover block nothing that it lists is used: a tag alone grants nothing; for all services " +
				"of the default namespace write discover { service = \"*\" }"))
		}
		for _, d := range p.Discover {
			rule, err := d.rule()
			wrong(err)
			out.Discover = append(out.Discover, rule)
		}
		g.Providers = append(g.Providers, out)
	}
	b.clustersFrom(g)
}

// decode reads what the block says for its kind. A misspelt key is compared with what all kinds have too.
func (p *providerBlock) decode(into any) hcl.Diagnostics {
	schema, _ := gohcl.ImpliedBodySchema(into)
	common, _ := gohcl.ImpliedBodySchema(providerBlock{})
	schema.Attributes, schema.Blocks = append(schema.Attributes, common.Attributes...), append(schema.Blocks, common.Blocks...)
	unknown := func(d *hcl.Diagnostic) bool { return strings.HasPrefix(d.Summary, "Unsupported ") && d.Subject != nil }
	_, all := p.Rest.Content(schema)
	all = slices.DeleteFunc(all, func(d *hcl.Diagnostic) bool { return !unknown(d) })
	for _, d := range gohcl.DecodeBody(p.Rest, nil, into) {
		if !unknown(d) || !slices.ContainsFunc(all, func(o *hcl.Diagnostic) bool { return *o.Subject == *d.Subject }) {
			all = append(all, d)
		}
	}
	return all
}

func (d discoverBlock) rule() (federation.Discover, error) {
	out := federation.Discover{Service: d.Service, Namespace: d.Namespace, Accounts: d.Accounts, Regions: d.Regions, Networks: d.Networks, Export: d.Export}
	switch d.UnknownHealth {
	case "", "healthy":
	case "failing":
		out.UnknownHealth = federation.HealthFailing
	default:
		return out, fmt.Errorf("unknown_health %q: use healthy or failing", d.UnknownHealth)
	}
	return out, out.Validate()
}
