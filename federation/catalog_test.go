package federation

import (
	"slices"
	"testing"
)

func TestCatalogWith(t *testing.T) {
	name := func(s string) ServiceName { return ServiceName{Namespace: DefaultNamespace, Name: s} }
	a, b, newA := &LocalService{Name: name("a")}, &LocalService{Name: name("b")}, &LocalService{Name: name("a")}
	var none *Catalog
	one := none.With(map[ServiceName]*LocalService{name("b"): b})
	two := one.With(map[ServiceName]*LocalService{name("a"): a, name("gone"): nil})
	three := two.With(map[ServiceName]*LocalService{name("a"): newA})
	four := three.With(map[ServiceName]*LocalService{name("b"): nil})
	if one.Revision() != 1 || four.Revision() != 4 {
		t.Errorf("revisions are %d and %d", one.Revision(), four.Revision())
	}
	if !slices.Equal(two.Names(), []ServiceName{name("a"), name("b")}) || !slices.Equal(four.Names(), []ServiceName{name("a")}) {
		t.Errorf("names are %v and %v", two.Names(), four.Names())
	}
	if one.Service(name("a")) != nil || two.Service(name("a")) != a || three.Service(name("a")) != newA || four.Service(name("b")) != nil {
		t.Error("a catalog changed after the fact, or lost a service")
	}
}
