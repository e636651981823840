package federation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Discover is a rule of a provider: which of the workloads that it lists may claim to be which service. A tag can be written by
// whoever may tag a machine, so it grants nothing by itself: a workload that no rule allows is not used.
type Discover struct {
	Service   string   `json:"service"`             // the names that may be claimed: "web", "shop-*", "*"
	Namespace string   `json:"namespace,omitempty"` // the namespaces, as Service; default: "default". Without "*" also of those that name none
	Accounts  []string `json:"accounts,omitempty"`  // whose workloads: "111111111111", "team-*"; empty: all that the provider lists
	Regions   []string `json:"regions,omitempty"`   // of the cloud: "eu-west-1", "eu-*"; empty: all
	// Networks are those that this gateway reaches, such as "vpc-0a1b2c". Private addresses are unique inside a network only.
	// Empty: any, as long as no two of them use one address.
	Networks []string `json:"networks,omitempty"`
	// UnknownHealth is what a workload counts as of which the provider knows no health. Default: passing, because checks of the
	// gateway's own can still make it worse.
	UnknownHealth Health `json:"unknown_health,omitempty"`
	// Export are the peers ("*": all) that are shown the service when the workload's tag mesh/export asks for it. Empty: none.
	Export []string `json:"export,omitempty"`
}

// Claim is what a workload says of itself, and what the provider knows of it.
type Claim struct {
	Service   string
	Namespace string // empty: it names none
	Account   string
	Region    string
	Network   string
}

// Validate returns every rule of value that d breaks, joined.
func (d Discover) Validate() error {
	var errs []error
	if d.Service == "" {
		errs = append(errs, errors.New("service is empty: name the services that may be claimed, such as \"web\", \"shop-*\" or \"*\""))
	}
	for _, list := range []struct {
		name     string
		patterns []string
	}{{"service", []string{d.Service}}, {"namespace", []string{d.Namespace}}, {"accounts", d.Accounts}, {"regions", d.Regions}, {"networks", d.Networks}} {
		for _, p := range list.patterns {
			if i := strings.IndexByte(p, '*'); i >= 0 && i != len(p)-1 {
				errs = append(errs, fmt.Errorf("%s %q: \"*\" may only be the last character", list.name, p))
			}
			if p == "" && list.name != "namespace" && list.name != "service" {
				errs = append(errs, fmt.Errorf("%s has an empty entry", list.name))
			}
		}
	}
	for _, p := range []struct{ what, text string }{{"service", d.Service}, {"namespace", d.Namespace}} {
		if fixed := strings.TrimSuffix(p.text, "*"); fixed != "" {
			if err := checkLabel(p.what, strings.TrimSuffix(fixed, "-")); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for _, peer := range d.Export {
		if _, err := ParseRegion(peer); err != nil && peer != "*" {
			errs = append(errs, fmt.Errorf("export: %w", err))
		}
	}
	if d.UnknownHealth > HealthFailing {
		errs = append(errs, fmt.Errorf("unknown_health %v: use passing or failing", d.UnknownHealth))
	}
	return errors.Join(errs...)
}

// Discovered returns the service that c may be used as and the first of rules that allows it. Without one, rule is -1 and why names
// the rule that comes nearest, counted from 1, and what it does not allow.
func Discovered(rules []Discover, c Claim) (service ServiceName, rule int, why string) {
	best := 0
	why = "no discover rule has a pattern for service " + quoted(c.Service)
	for i, d := range rules {
		namespace, lacks, depth := d.allows(c)
		if lacks == "" {
			service, err := ParseServiceName(namespace + "/" + c.Service)
			if err != nil {
				return ServiceName{}, -1, err.Error()
			}
			return service, i, ""
		}
		if depth > best {
			best, why = depth, fmt.Sprintf("discover rule %d (service %s) does not allow %s", i+1, quoted(d.Service), lacks)
		}
	}
	return ServiceName{}, -1, why
}

// allows returns the namespace that c is put into, or what of it is not allowed and how many conditions it met before.
func (d Discover) allows(c Claim) (namespace, lacks string, depth int) {
	if !matchesName(d.Service, c.Service) {
		return "", "this service", 0
	}
	want := d.Namespace
	if want == "" {
		want = DefaultNamespace
	}
	namespace = c.Namespace
	switch {
	case namespace == "" && strings.HasSuffix(want, "*"):
		namespace = DefaultNamespace
	case namespace == "":
		namespace = want
	}
	switch {
	case !matchesName(want, namespace):
		return "", "namespace " + quoted(namespace), 1
	case len(d.Accounts) > 0 && !slices.ContainsFunc(d.Accounts, func(p string) bool { return matchesName(p, c.Account) }):
		return "", "account " + quoted(c.Account), 2
	case len(d.Regions) > 0 && !slices.ContainsFunc(d.Regions, func(p string) bool { return matchesName(p, c.Region) }):
		return "", "region " + quoted(c.Region), 3
	case len(d.Networks) > 0 && !slices.ContainsFunc(d.Networks, func(p string) bool { return matchesName(p, c.Network) }):
		return "", "network " + quoted(c.Network), 4
	}
	return namespace, "", 5
}

// matchesName reports whether s is what pattern says: equal, or with its beginning when the pattern ends in "*".
func matchesName(pattern, s string) bool {
	if start, open := strings.CutSuffix(pattern, "*"); open {
		return strings.HasPrefix(s, start)
	}
	return pattern == s
}

// quoted quotes what somebody else wrote, at most 64 octets of it.
func quoted(s string) string {
	if len(s) > 64 {
		return fmt.Sprintf("%q...", s[:64])
	}
	return fmt.Sprintf("%q", s)
}
