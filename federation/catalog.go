package federation

import (
	"maps"
	"slices"
)

// LocalService is one service of this region with its instances, as the region's own sources and checks see it. All but
// the lane is immutable; slot i of the lane speaks of Instances[i] (1 of 1 when it may be given traffic, 0 of 1 when not).
type LocalService struct {
	Name      ServiceName
	Protocol  Protocol
	Instances []Instance // sorted by ID
	Lane      *HealthLane
}

// Catalog is the local services of a region at one moment. It is immutable but for the lanes; nil is an empty catalog.
type Catalog struct {
	revision uint64
	services map[ServiceName]*LocalService
	names    []ServiceName
}

// NewCatalog returns a catalog of services, which it takes over.
func NewCatalog(revision uint64, services map[ServiceName]*LocalService) *Catalog {
	return &Catalog{revision: revision, services: services, names: slices.SortedFunc(maps.Keys(services), ServiceName.Compare)}
}

// Revision grows by one with every change of membership; changes of health leave it alone.
func (c *Catalog) Revision() uint64 {
	if c == nil {
		return 0
	}
	return c.revision
}

// Service returns the service called name, or nil.
func (c *Catalog) Service(name ServiceName) *LocalService {
	if c == nil {
		return nil
	}
	return c.services[name]
}

// Names returns the names of all services in order. The caller must not change the slice.
func (c *Catalog) Names() []ServiceName {
	if c == nil {
		return nil
	}
	return c.names
}

// With returns the catalog that follows c: the services in changed take the place of c's, a nil one is gone. It sorts nothing
// unless a service comes or goes.
func (c *Catalog) With(changed map[ServiceName]*LocalService) *Catalog {
	if c == nil {
		c = &Catalog{}
	}
	next := &Catalog{revision: c.revision + 1, services: maps.Clone(c.services), names: c.names}
	if next.services == nil {
		next.services = map[ServiceName]*LocalService{}
	}
	same := true
	for name, service := range changed {
		_, had := next.services[name]
		same = same && had == (service != nil)
		if service == nil {
			delete(next.services, name)
		} else {
			next.services[name] = service
		}
	}
	if !same {
		next.names = slices.SortedFunc(maps.Keys(next.services), ServiceName.Compare)
	}
	return next
}
