package route

import (
	"cmp"
	"slices"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Upstream is a service as local callers reach it: where a call could go, in order of preference, and by which rules.
type Upstream struct {
	Service    federation.ServiceName
	Pinned     federation.Region // the caller asked for this region and no other; empty: by the resolver's order
	Protocol   federation.Protocol
	Resolver   federation.Resolver // defaults filled in
	Candidates []Candidate         // by rank, then region; nobody may change it
}

// Candidate is one region that has the service. Candidates of one rank are equals: whoever picks takes the nearest of them
// by measured round-trip time. A lower rank comes first, and the next one only when it has nothing healthy and reachable.
// A candidate may have no healthy instance: its lane says so at every moment.
type Candidate struct {
	Region    federation.Region // for the local one this region's name
	Rank      int               // from 0 without gaps
	Freshness federation.Freshness
	Drain     *federation.Drain // nil: calls may go there as ever
	Lane      *federation.HealthLane
	Service   *federation.ImportedService // what the peer shows; nil for the local one
	Local     LocalTarget                 // this region's instances; the zero value for a peer's
}

// IsLocal reports whether c is this region's own service.
func (c *Candidate) IsLocal() bool { return c.Service == nil }

// Health returns how many instances may be given traffic at this moment, and how many there are.
func (c *Candidate) Health() (healthy, total uint32) {
	if c.Lane == nil {
		return 0, 0
	}
	return c.Lane.Sum()
}

// Upstream returns where calls to dst could go. It is false when neither this region nor any peer shows dst, or, with a
// region named, when that region does not. With a region named there is no failover: no candidate but that one.
func (s *Snapshot) Upstream(dst federation.ServiceRef) (*Upstream, bool) {
	if dst.Region == "" {
		u, found := s.upstreams[dst.Service]
		return u, found
	}
	region := s.real(dst.Region)
	c, found := s.candidate(region, dst.Service)
	if !found {
		return nil, false
	}
	return &Upstream{Service: dst.Service, Pinned: region, Protocol: c.protocol(), Resolver: s.resolver(dst.Service),
		Candidates: []Candidate{c}}, true
}

// candidate returns what region has of service.
func (s *Snapshot) candidate(region federation.Region, service federation.ServiceName) (Candidate, bool) {
	if region == s.region {
		target, found := s.Local(service)
		return s.localCandidate(target), found
	}
	imported := s.imports[region]
	row := imported.Service(service)
	// The exchange has made sure that a peer speaks for its own domain only; a row that got past it must still not send
	// calls to a stranger.
	if row == nil || !row.Identity.MemberOf(s.peers[region].TrustDomain) {
		return Candidate{}, false
	}
	return s.importedCandidate(imported, row), true
}

func (s *Snapshot) localCandidate(target LocalTarget) Candidate {
	if target.service == nil {
		return Candidate{}
	}
	return Candidate{Region: s.region, Drain: s.drains[s.region], Lane: target.service.Lane, Local: target}
}

func (s *Snapshot) importedCandidate(imported *federation.Import, row *federation.ImportedService) Candidate {
	return Candidate{Region: imported.Peer, Freshness: imported.Freshness, Drain: s.drains[imported.Peer], Lane: row.Lane, Service: row}
}

func (c *Candidate) protocol() federation.Protocol {
	if c.Service != nil {
		return c.Service.Protocol
	}
	return c.Local.Protocol()
}

// row is one service in one place, on its way into the upstream number at.
type row struct {
	at       int
	imported *federation.Import          // nil for this region
	service  *federation.ImportedService // nil for this region
}

// compileUpstreams builds the upstream of every service that this region or a peer shows. Each service is looked up once
// for each place it is in; the candidates of all of them share one block of memory.
func (s *Snapshot) compileUpstreams() {
	size := len(s.local.Names()) // a guess that is exact when the peers show what is here too
	total := size
	for _, imported := range s.imports {
		total += len(imported.Services)
	}
	rows := make([]row, 0, total)
	upstreams := make([]Upstream, 0, size)
	numbers := make(map[federation.ServiceName]int, size)
	add := func(name federation.ServiceName, protocol federation.Protocol, r row) {
		at, found := numbers[name]
		if !found {
			at = len(upstreams)
			numbers[name] = at
			upstreams = append(upstreams, Upstream{Service: name, Protocol: protocol, Resolver: s.resolver(name)})
		}
		r.at = at
		rows = append(rows, r)
	}
	for _, name := range s.local.Names() {
		add(name, s.local.Service(name).Protocol, row{})
	}
	// In order of freshness, then region: every upstream's candidates arrive in the order of "local, then *".
	for _, imported := range s.importsByFreshness() {
		domain := s.peers[imported.Peer].TrustDomain
		for name, service := range imported.Services {
			if service != nil && service.Identity.MemberOf(domain) {
				add(name, service.Protocol, row{imported: imported, service: service})
			}
		}
	}
	s.gather(upstreams, rows)
	s.upstreams = make(map[federation.ServiceName]*Upstream, len(upstreams))
	for i := range upstreams {
		u := &upstreams[i]
		u.Candidates = s.arrange(u.Candidates, u.Resolver.Failover)
		s.upstreams[u.Service] = u
	}
}

func (s *Snapshot) importsByFreshness() []*federation.Import {
	list := make([]*federation.Import, 0, len(s.imports))
	for _, imported := range s.imports {
		list = append(list, imported)
	}
	slices.SortFunc(list, func(a, b *federation.Import) int {
		return cmp.Or(cmp.Compare(a.Freshness, b.Freshness), cmp.Compare(a.Peer, b.Peer))
	})
	return list
}

// gather gives each upstream its candidates out of rows, in the order of rows.
func (s *Snapshot) gather(upstreams []Upstream, rows []row) {
	counts := make([]int, len(upstreams))
	for i := range rows {
		counts[rows[i].at]++
	}
	block := make([]Candidate, len(rows))
	for i := range upstreams {
		upstreams[i].Candidates = block[:0:counts[i]]
		block = block[counts[i]:]
	}
	for _, r := range rows {
		u := &upstreams[r.at]
		if r.service == nil {
			u.Candidates = append(u.Candidates, s.localCandidate(LocalTarget{service: s.local.Service(u.Service)}))
		} else {
			u.Candidates = append(u.Candidates, s.importedCandidate(r.imported, r.service))
		}
	}
}

// arrange puts candidates, which come in the order "local, then the others by freshness and region", into the order of
// failover, drops those it does not list, and ranks them. It works in place.
func (s *Snapshot) arrange(candidates []Candidate, failover []string) []Candidate {
	kept := candidates[:0]
	for _, c := range candidates {
		place, others := s.place(failover, c.Region)
		if place < 0 {
			continue
		}
		// Each place is a rank; within "all others" each freshness is one of its own.
		c.Rank = place * int(federation.FreshnessExpired)
		if others {
			c.Rank += int(c.Freshness)
		}
		kept = append(kept, c)
	}
	slices.SortStableFunc(kept, func(a, b Candidate) int { return cmp.Compare(a.Rank, b.Rank) })
	rank, last := -1, -1
	for i := range kept {
		if kept[i].Rank != last {
			rank, last = rank+1, kept[i].Rank
		}
		kept[i].Rank = rank
	}
	return kept
}

// place returns where in failover region stands, or -1 when it does not, and whether it does so only as one of all others.
// A region that is named has its own place, wherever "*" stands. "*" means other regions, never this one.
func (s *Snapshot) place(failover []string, region federation.Region) (place int, others bool) {
	star := -1
	for i, f := range failover {
		switch {
		case f == anyRegion:
			star = i
		case s.real(federation.Region(f)) == region:
			return i, false
		}
	}
	if region == s.region {
		return -1, false
	}
	return star, true
}
