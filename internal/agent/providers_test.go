package agent

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/controlplane"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// exports lists the export resources: name, peers, owner and version.
func (g *gateway) exports() string {
	var out []string
	for _, r := range g.plane.List(federation.KindExport) {
		spec, ok := r.Spec.(*federation.Export)
		if !ok {
			g.t.Errorf("%v holds a %T", r.Key, r.Spec)
			continue
		}
		out = append(out, fmt.Sprintf("%s to %v by %s", r.Name, spec.To, r.Owner))
	}
	return strings.Join(out, "; ")
}

func (g *gateway) wantExports(want string) {
	g.t.Helper()
	if got := g.exports(); got != want {
		g.t.Errorf("exports are %q, want %q", got, want)
	}
}

// TestExportsOfProviders: a provider owns the exports that its workloads ask for, and never those of somebody else.
func TestExportsOfProviders(t *testing.T) {
	g := start(t, "a", t.TempDir(), "")
	web, api := federation.ServiceName{Namespace: "default", Name: "web"}, federation.ServiceName{Namespace: "shop", Name: "api"}
	ask := func(peers ...string) map[federation.ServiceName][]string {
		return map[federation.ServiceName][]string{web: peers, api: peers}
	}
	_, err := g.plane.Apply(t.Context(), controlplane.Change{Owner: "cli", Put: []federation.Resource{{
		Key: federation.Key{Kind: federation.KindExport, Name: "shop/api"}, Spec: &federation.Export{To: []string{"z"}}}}})
	if err != nil {
		t.Fatal(err)
	}
	others := g.export(t.Context(), "provider/p", ask("b", "c"))
	g.wantExports("shop/api to [z] by cli; web to [b c] by provider/p")
	if d := (&contested{owners: others}).problem(); d == nil || d.Code != federation.CodeProviderExport ||
		d.Why != `the export of shop/api belongs to "cli", which decides` {
		t.Errorf("exports that belong to others: %v", d)
	}
	version := func() uint64 {
		for _, r := range g.plane.List(federation.KindExport) {
			if r.Name == "web" {
				return r.Version
			}
		}
		return 0
	}
	before := version()
	g.export(t.Context(), "provider/p", ask("b", "c"))
	if version() != before {
		t.Error("an export that did not change was written again")
	}
	g.export(t.Context(), "provider/p", ask("b"))
	g.wantExports("shop/api to [z] by cli; web to [b] by provider/p")
	// There is no provider p: what it left behind goes when providers are looked at.
	g.providers.changed <- struct{}{}
	g.until("the exports of a provider that is gone are gone", func() error {
		if got := g.exports(); got != "shop/api to [z] by cli" {
			return errors.New(got)
		}
		return nil
	})
}

const corp = `provider "dns" "corp" {
  servers = ["127.0.0.1:1"]
  name "web.example.com" {
    port    = %d
    service = "web"
  }
  discover {
    service = "web"
  }
}
`

// TestProvidersAreReloaded: one that cannot be set up refuses the whole configuration, and what runs stays.
func TestProvidersAreReloaded(t *testing.T) {
	g := start(t, "a", t.TempDir(), fmt.Sprintf(corp, 80))
	running := func() string {
		res, err := g.ListProviders(t.Context(), nil)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, p := range res.Providers {
			names = append(names, p.Name)
		}
		return strings.Join(names, " ")
	}
	if got := running(); got != "corp" {
		t.Errorf("providers are %q", got)
	}
	first := g.providers.list()[0].current.Load()
	g.write("a", strings.Replace(fmt.Sprintf(corp, 0), `"web.example.com"`, `"web..example.com"`, 1))
	if _, err := g.Reload(t.Context(), nil); federation.CodeOf(err) != "TW-1001" || !strings.Contains(err.Error(), "web..example.com") {
		t.Errorf("a provider that cannot be set up: %v", err)
	}
	if g.providers.list()[0].current.Load() != first {
		t.Error("a refused configuration replaced a provider")
	}
	g.write("a", fmt.Sprintf(corp, 81))
	if _, err := g.Reload(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	g.until("the changed provider runs", func() error {
		if g.providers.list()[0].current.Load() == first {
			return errors.New("it does not")
		}
		return nil
	})
	g.write("a", "")
	if _, err := g.Reload(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	g.until("the provider is gone", func() error {
		if got := running(); got != "" {
			return errors.New(got)
		}
		return nil
	})
	if _, err := g.ShowProvider(t.Context(), &admin.ProviderRequest{Name: "corp"}); federation.CodeOf(err) != federation.CodeProviderUnknown {
		t.Errorf("a provider that is not there: %v", err)
	}
}

func TestProviderMetrics(t *testing.T) {
	g := start(t, "a", t.TempDir(), fmt.Sprintf(corp, 80))
	families, err := g.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]bool{}
	for _, f := range families {
		found[f.GetName()] = true
	}
	for _, name := range []string{"scopes", "last_complete_age_seconds", "calls_total", "throttles_total", "bad_items"} {
		if !found["tradewind_provider_"+name] {
			t.Errorf("there is no metric tradewind_provider_%s", name)
		}
	}
}
