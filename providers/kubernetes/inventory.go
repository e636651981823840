package kubernetes

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// maxObjects bounds what is held of one scope: Services, slices and endpoints each. A source may have as many records.
const maxObjects = 50_000

var errTooMany = fmt.Errorf("there are more than %d objects: name namespaces, or give a selector", maxObjects)

// inventory is what is known of one scope. It is a pure function of the objects in it, so that a listing and a watch that have seen
// the same say the same.
type inventory struct {
	prefix    string // of IDs
	base      poll.Record
	services  map[key]*service
	bySlice   map[key]*slice
	endpoints int // of all slices
}

// service is a Service and its slices, in whichever order they came.
type service struct {
	meta   *metadata // nil: there is no such Service
	slices []*slice

	built   bool // what follows is up to date
	records []poll.Record
	bad     []poll.BadItem
}

func newInventory(c *Cluster) *inventory {
	where := []string{c.Name}
	if c.Account != "" {
		where = []string{c.Account, c.Region, c.Name}
	}
	return &inventory{prefix: "k8s://" + joinID(where...),
		base:     poll.Record{Account: c.account(), Region: c.Region, Network: c.account(), Kind: "endpoint"},
		services: map[key]*service{}, bySlice: map[key]*slice{}}
}

func joinID(parts ...string) string {
	escaped := make([]string, len(parts))
	for i, p := range parts {
		escaped[i] = url.PathEscape(p)
	}
	return strings.Join(escaped, "/")
}

// service returns the service of k, a new one when it is not known.
func (inv *inventory) service(k key) *service {
	if inv.services[k] == nil {
		inv.services[k] = &service{}
	}
	return inv.services[k]
}

// tidy forgets a service of which there is nothing.
func (inv *inventory) tidy(k key) {
	if svc := inv.services[k]; svc.meta == nil && len(svc.slices) == 0 {
		delete(inv.services, k)
	}
}

// replace makes objects all that there is of a resource.
func (inv *inventory) replace(r *resource, objects []object) {
	if r == endpointSlices {
		for _, s := range slices.Collect(maps.Values(inv.bySlice)) {
			s.drop(inv)
		}
	} else {
		for _, k := range slices.Collect(maps.Keys(inv.services)) {
			(&metadata{key: k}).drop(inv)
		}
	}
	for _, o := range objects {
		o.put(inv)
	}
}

// listing returns what the objects add up to.
func (inv *inventory) listing() (poll.Listing, error) {
	if inv.endpoints > maxObjects || len(inv.services) > maxObjects || len(inv.bySlice) > maxObjects {
		return poll.Listing{}, errTooMany
	}
	l := poll.Listing{Records: make([]poll.Record, 0, inv.endpoints)}
	for _, k := range slices.SortedFunc(maps.Keys(inv.services), key.compare) {
		svc := inv.services[k]
		if svc.meta == nil {
			continue
		}
		if !svc.built {
			inv.build(k, svc)
		}
		l.Records, l.Bad = append(l.Records, svc.records...), append(l.Bad, svc.bad...)
	}
	for _, s := range inv.bySlice {
		if s.service == "" && s.err != nil { // it may belong to any Service of its namespace
			l.Bad = append(l.Bad, poll.BadItem{ID: inv.prefix + "/" + joinID(s.namespace) + "/", Err: s.err})
		}
	}
	return l, nil
}

// build makes the records of a service. Each is one endpoint, wherever it is listed: an ID has the pod's name, because neither the
// slice, which it may leave for another one, nor the address family that comes first is of any duration.
func (inv *inventory) build(k key, svc *service) {
	svc.built, svc.records, svc.bad = true, nil, nil
	prefix := inv.prefix + "/" + joinID(k.namespace, k.name) + "/"
	if svc.meta.err != nil {
		svc.bad = []poll.BadItem{{ID: prefix, Err: svc.meta.err}}
		return
	}
	slices.SortFunc(svc.slices, compareSlices)
	at := map[string]int{} // of records by ID; -1: only bad so far
	for _, s := range svc.slices {
		if s.err != nil {
			svc.bad = append(svc.bad, poll.BadItem{ID: prefix, Err: s.err})
		}
		for i := range s.endpoints {
			e := &s.endpoints[i]
			if e.name == "" {
				svc.bad = append(svc.bad, poll.BadItem{ID: prefix, Err: errors.Join(errors.New("an endpoint has no name"), e.err)})
				continue
			}
			id := prefix + joinID(e.name)
			n, seen := at[id]
			switch {
			case e.err != nil && !seen:
				at[id] = -1
				svc.bad = append(svc.bad, poll.BadItem{ID: id, Err: e.err})
			case e.err != nil:
			case !seen || n < 0:
				at[id] = len(svc.records)
				svc.records = append(svc.records, inv.record(k, svc.meta, s, e, id))
			case e.address.IsValid():
				join(&svc.records[n], e)
			}
		}
	}
	slices.SortFunc(svc.records, func(a, b poll.Record) int { return strings.Compare(a.ID, b.ID) })
	svc.bad = slices.DeleteFunc(svc.bad, func(b poll.BadItem) bool { n, seen := at[b.ID]; return seen && n >= 0 })
}

// compareSlices orders slices of one service: IPv4 first, as what most networks carry, then the one that was written
// last, which knows best of an endpoint that is in two of them.
func compareSlices(a, b *slice) int {
	switch {
	case a.ipv4 != b.ipv4 && a.ipv4:
		return -1
	case a.ipv4 != b.ipv4:
		return 1
	case a.version != b.version:
		return cmp.Compare(b.version, a.version)
	}
	return a.compare(b.key)
}

// join adds the address that an endpoint has in the other family.
func join(rec *poll.Record, e *endpoint) {
	if len(rec.Addresses) == 1 && rec.Addresses[0].Is4() != e.address.Is4() {
		rec.Addresses = append(rec.Addresses, e.address)
	}
}

// The labels of an endpoint besides its Service's.
const (
	nodeLabel = "kubernetes.io/hostname"
	zoneLabel = "endpointslice.kubernetes.io/for-zones" // from which zones it should be called
)

func (inv *inventory) record(k key, m *metadata, s *slice, e *endpoint, id string) poll.Record {
	rec := inv.base
	rec.ID, rec.Namespace, rec.Service, rec.Zone, rec.Ports = id, k.namespace, k.name, e.zone, s.ports
	rec.State, rec.Health, rec.Host = e.state, e.health, e.host
	if e.address.IsValid() {
		rec.Addresses = []netip.Addr{e.address}
	}
	rec.Labels = maps.Clone(m.labels)
	if e.node != "" {
		rec.Labels[nodeLabel] = e.node
	}
	if e.hints != "" {
		rec.Labels[zoneLabel] = e.hints
	}
	return rec
}
