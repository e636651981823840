package poll

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// sites maps workloads to instances. Its unit is the address: what is known of one address by several scopes is joined, and only
// addresses of which something changed are looked at again.
type sites struct {
	rules []federation.Discover
	at    map[spot]*site
	dirty map[spot]struct{}
	names map[string]*name // of the spots that have no address
}

// spot is an address, or a host name where the provider gives no address. Names that are found at one address stay apart: what
// serves there tells them apart too.
type spot struct {
	addr netip.Addr
	host string
}

// spot returns where the record is reached. The zero value: nowhere.
func (r *Record) spot() spot {
	if addr := r.address(); addr.IsValid() || r.Host == "" {
		return spot{addr: addr}
	}
	return spot{host: strings.ToLower(strings.TrimSuffix(r.Host, "."))}
}

func (s spot) String() string {
	if s.host != "" {
		return s.host
	}
	return s.addr.String()
}

// site is one address and all workloads that are seen there.
type site struct {
	entries   []*entry
	instances []federation.Instance
	exports   []exported
}

// exported is a service that a workload asks to show to peers.
type exported struct {
	service federation.ServiceName
	rule    int
}

func newSites(rules []federation.Discover) *sites {
	return &sites{rules: rules, at: map[spot]*site{}, dirty: map[spot]struct{}{}, names: map[string]*name{}}
}

// add takes a new entry into account. Its record must not change afterwards.
func (s *sites) add(e *entry) {
	e.claims, e.refusal = claims(&e.rec, s.rules)
	where := e.rec.spot()
	if where == (spot{}) {
		return
	}
	if s.at[where] == nil {
		s.at[where] = &site{}
	}
	if where.host != "" && s.names[where.host] == nil && len(e.claims) > 0 {
		s.names[where.host] = &name{}
	}
	s.at[where].entries = append(s.at[where].entries, e)
	s.dirty[where] = struct{}{}
}

// remove forgets an entry.
func (s *sites) remove(e *entry) {
	where := e.rec.spot()
	if at := s.at[where]; at != nil {
		at.entries = slices.DeleteFunc(at.entries, func(x *entry) bool { return x == e })
		s.dirty[where] = struct{}{}
	}
}

// settle looks again at every address of which something changed, and reports whether any instance did.
func (s *sites) settle() bool {
	changed := false
	for where := range s.dirty {
		at := s.at[where]
		before, exports := at.instances, at.exports
		at.join(where, s.names[where.host], s.rules)
		changed = changed || !slices.EqualFunc(before, at.instances, sameInstance) || !slices.Equal(exports, at.exports)
		if len(at.entries) == 0 {
			delete(s.at, where)
			delete(s.names, where.host)
		}
	}
	clear(s.dirty)
	return changed
}

// instances returns all instances in a slice of its own.
func (s *sites) instances() []federation.Instance {
	n := 0
	for _, at := range s.at {
		n += len(at.instances)
	}
	out := make([]federation.Instance, 0, n)
	for _, at := range s.at {
		out = append(out, at.instances...)
	}
	return out
}

// exports returns the peers that each service is to be shown to.
func (s *sites) exports() map[federation.ServiceName][]string {
	out := map[federation.ServiceName][]string{}
	for _, at := range s.at {
		for _, x := range at.exports {
			out[x.service] = append(out[x.service], s.rules[x.rule].Export...)
		}
	}
	for service, peers := range out {
		slices.Sort(peers)
		out[service] = slices.Compact(peers)
	}
	return out
}

// join makes the instances of one address, or of one host name of which n is known, anew.
func (at *site) join(where spot, n *name, rules []federation.Discover) {
	slices.SortFunc(at.entries, (*entry).compare) // so that the first of several is always the same one
	at.instances, at.exports = nil, nil
	networks := at.house()
	var no refusal
	switch {
	case len(networks) > 1:
		names := slices.Sorted(maps.Keys(networks))
		no = refusal{ReasonOverlap, fmt.Sprintf("networks %s and %s both have a workload at %v", quote(names[0]), quote(names[1]), where)}
	case where.host != "" && n != nil && !n.addr.IsValid():
		no = refusal{ReasonAddress, n.why(where.host)}
	}
	type use struct {
		place   place
		service federation.ServiceName
	}
	used := map[use]bool{}
	for _, e := range at.entries {
		e.overlap = refusal{}
		if len(e.claims) > 0 {
			e.overlap = no
		}
		for _, c := range e.claims {
			if no.reason != "" {
				break
			}
			u := use{place{e.home, where, c.port}, c.service}
			if c.export && len(rules[c.rule].Export) > 0 && !slices.Contains(at.exports, exported{c.service, c.rule}) {
				at.exports = append(at.exports, exported{c.service, c.rule})
			}
			if !used[u] {
				used[u] = true
				at.instances = append(at.instances, at.instance(e, c, n, rules))
			}
		}
	}
}

// house says of each entry of the site whose network it is in, and returns the networks of those with claims. Some sources know the
// network of a workload and others do not, such as EC2 and Cloud Map: an entry without a network is in the one that others of its
// account and region know of at this address. When they know of several it is in none of them.
func (at *site) house() map[string]bool {
	type where struct{ account, region string }
	known, several := map[where]string{}, map[where]bool{}
	for _, e := range at.entries {
		w := where{e.rec.Account, e.rec.Region}
		if e.rec.Network != "" {
			several[w] = several[w] || known[w] != "" && known[w] != e.rec.Network
			known[w] = e.rec.Network
		}
	}
	networks := map[string]bool{}
	for _, e := range at.entries {
		e.home = home{e.rec.Account, e.rec.Network}
		if w := (where{e.rec.Account, e.rec.Region}); e.home.network == "" && !several[w] {
			e.home.network = known[w]
		}
		if len(e.claims) > 0 {
			networks[e.home.network] = true
		}
	}
	return networks
}

// home is whose a workload is. The same address in two networks is two places.
type home struct{ account, network string }

// place is where an instance runs.
type place struct {
	home
	spot
	port uint16
}

// id names the place for as long as it exists, whichever source saw it first. A long one keeps its beginning, to be recognized,
// and a hash, to be unique.
func (p place) id() federation.InstanceID {
	parts := []string{p.account, p.network, net.JoinHostPort(p.spot.String(), strconv.Itoa(int(p.port)))}
	text := strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "/")
	const most, hash = 128, 16
	if len(text) > most {
		sum := sha256.Sum256([]byte(text))
		text = strings.ToValidUTF8(text[:most-hash-1], "") + "~" + hex.EncodeToString(sum[:hash/2])
	}
	return federation.InstanceID(text)
}

// instance returns claim c of e as an instance, as healthy as the worst of all that speak of its place.
func (at *site) instance(e *entry, c claim, n *name, rules []federation.Discover) federation.Instance {
	health, where, labels := federation.HealthUnknown, e.rec.spot(), e.instanceLabels()
	for _, other := range at.entries {
		if other.home == e.home && other.speaksOf(c.port) {
			health = worst(health, other.health())
		}
	}
	if health == federation.HealthUnknown {
		health = cmp.Or(rules[c.rule].UnknownHealth, federation.HealthPassing) // a check of the gateway's own can still make it worse
	}
	addr := where.addr
	if where.host != "" {
		addr, labels["host"] = n.addr, where.host
		if n.lost {
			health = worst(health, federation.HealthFailing)
		}
	}
	zone := e.rec.Zone
	if len(zone) > 63 { // what a locality may have
		zone = ""
	}
	return federation.Instance{ID: place{e.home, where, c.port}.id(), Service: c.service, Address: netip.AddrPortFrom(addr, c.port),
		Protocol: c.protocol, Weight: c.weight, Health: health, Locality: federation.Locality{Zone: zone}, Labels: labels}
}

// worst returns the worse of two health signals; unknown says nothing. Draining is the worst: like failing it means no new
// connections, and it also says that the open ones are to be let finish.
func worst(a, b federation.Health) federation.Health {
	rank := [...]int{federation.HealthUnknown: 0, federation.HealthPassing: 1, federation.HealthFailing: 2, federation.HealthDraining: 3}
	if rank[b] > rank[a] {
		return b
	}
	return a
}

// speaksOf reports whether what e says of health is about the given port: an entry without ports speaks of the whole machine.
func (e *entry) speaksOf(port uint16) bool {
	return len(e.rec.Ports) == 0 || slices.ContainsFunc(e.claims, func(c claim) bool { return c.port == port }) ||
		slices.ContainsFunc(e.rec.Ports, func(p Port) bool { return p.Number == port })
}

// health is what the workload's state and the provider's signals add up to.
func (e *entry) health() federation.Health {
	switch e.rec.State {
	case StateDraining:
		return federation.HealthDraining
	case StateRunning:
		return e.rec.Health
	}
	return federation.HealthFailing
}

// instanceLabels are the workload's own labels without the tags that were for us, and the provider's name for it.
func (e *entry) instanceLabels() map[string]string {
	out := map[string]string{}
	for k, v := range e.rec.Labels {
		if tagKey(k) == "" && len(out) < maxLabels-2 {
			out[k] = v
		}
	}
	out["provider-id"] = strings.ToValidUTF8(e.rec.ID[:min(len(e.rec.ID), maxLabelText)], "")
	return out
}

func sameInstance(a, b federation.Instance) bool {
	return a.ID == b.ID && a.Service == b.Service && a.Address == b.Address && a.Protocol == b.Protocol && a.Locality == b.Locality &&
		a.Weight == b.Weight && a.Health == b.Health && maps.Equal(a.Labels, b.Labels)
}
