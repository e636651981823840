package federation_test

import (
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TestDiscoveredNeedsEveryCondition: whatever the rules are, what is allowed meets each condition of the rule that is named, and
// no earlier rule allows it.
func TestDiscoveredNeedsEveryCondition(t *testing.T) {
	names := []string{"a", "b", "ab", "a-1"}
	patterns := append([]string{"*", "a*", "b*"}, names...)
	matches := func(p, s string) bool {
		return p == s || strings.HasSuffix(p, "*") && strings.HasPrefix(s, strings.TrimSuffix(p, "*"))
	}
	rapid.Check(t, func(t *rapid.T) {
		list := func(what string) []string { return rapid.SliceOfN(rapid.SampledFrom(patterns), 0, 2).Draw(t, what) }
		one := func(what string) string { return rapid.SampledFrom(names).Draw(t, what) }
		var rules []federation.Discover
		for range rapid.IntRange(0, 4).Draw(t, "rules") {
			d := federation.Discover{Service: rapid.SampledFrom(patterns).Draw(t, "pattern"), Accounts: list("accounts"), Regions: list("regions"),
				Networks: list("networks"), Namespace: rapid.SampledFrom(append([]string{""}, patterns...)).Draw(t, "namespace pattern")}
			if err := d.Validate(); err != nil {
				t.Fatal(err)
			}
			rules = append(rules, d)
		}
		c := federation.Claim{Service: one("service"), Account: one("account"), Region: one("region"), Network: one("network"),
			Namespace: rapid.SampledFrom(append([]string{""}, names...)).Draw(t, "namespace")}
		service, rule, why := federation.Discovered(rules, c)
		if rule < 0 {
			if why == "" || !service.IsZero() {
				t.Fatalf("refused as %v because of %q", service, why)
			}
			return
		}
		d := rules[rule]
		among := func(patterns []string, s string) bool {
			for _, p := range patterns {
				if matches(p, s) {
					return true
				}
			}
			return len(patterns) == 0
		}
		namespace := d.Namespace
		if namespace == "" {
			namespace = federation.DefaultNamespace
		}
		if service.Name != c.Service || c.Namespace != "" && service.Namespace != c.Namespace || !matches(d.Service, c.Service) ||
			!matches(namespace, service.Namespace) || !among(d.Accounts, c.Account) || !among(d.Regions, c.Region) || !among(d.Networks, c.Network) {
			t.Fatalf("rule %+v allows %+v as %v", d, c, service)
		}
		if rule > 0 {
			if _, earlier, _ := federation.Discovered(rules[:rule], c); earlier >= 0 {
				t.Fatalf("rule %d allows it already", earlier)
			}
		}
	})
}
