package federation

import (
	"fmt"
	"strings"
)

// Pattern matches services, by region, namespace and name. An empty Region is this region; "*" matches all of its kind.
type Pattern struct {
	Region    string
	Namespace string
	Name      string
}

// ParsePattern reads "name", "ns/name", "ns/*", "*", each optionally with "@region" or "@*" behind it. A lone "*" stands for
// every service in every namespace.
func ParsePattern(s string) (Pattern, error) {
	left, region, hasRegion := strings.Cut(s, "@")
	if hasRegion && region != "*" {
		if _, err := ParseRegion(region); err != nil {
			return Pattern{}, err
		}
	}
	p := Pattern{Region: region}
	ns, name, hasNS := strings.Cut(left, "/")
	switch {
	case left == "*":
		p.Namespace, p.Name = "*", "*"
		return p, nil
	case !hasNS:
		ns, name = DefaultNamespace, left
	}
	for what, part := range map[string]string{"namespace": ns, "service": name} {
		if part == "*" && what == "service" || part == "*" && name == "*" {
			continue
		}
		if err := checkLabel(what, part); err != nil {
			return Pattern{}, fmt.Errorf("pattern %q: %w", s, err)
		}
	}
	p.Namespace, p.Name = ns, name
	return p, nil
}

// String is the inverse of ParsePattern.
func (p Pattern) String() string {
	s := ServiceName{Namespace: p.Namespace, Name: p.Name}.String()
	if p.Namespace == "*" {
		s = "*"
	}
	if p.Region != "" {
		s += "@" + p.Region
	}
	return s
}

// Matches reports whether service in region is meant by p in the region here.
func (p Pattern) Matches(here, region Region, service ServiceName) bool {
	switch {
	case p.Region == "" && region != here, p.Region != "" && p.Region != "*" && p.Region != string(region):
		return false
	case p.Namespace != "*" && p.Namespace != service.Namespace:
		return false
	}
	return p.Name == "*" || p.Name == service.Name
}

// Specificity orders patterns: the higher says more exactly whom it means. Name counts most, then namespace, then region.
func (p Pattern) Specificity() int {
	n := 0
	if p.Name != "*" {
		n += 4
	}
	if p.Namespace != "*" {
		n += 2
	}
	if p.Region != "*" {
		n++
	}
	return n
}
