package route

import (
	"fmt"
	"slices"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Considered is one region as the catalog sees it for one destination. Kept says whether it is a candidate at all; a
// candidate without a healthy instance stays one, because its health can change at any moment.
type Considered struct {
	Region    federation.Region    `json:"region"`
	Local     bool                 `json:"local,omitempty"`
	Kept      bool                 `json:"kept"`
	Rank      int                  `json:"rank"` // of a candidate, from 0
	Freshness federation.Freshness `json:"freshness"`
	Healthy   uint32               `json:"healthy"`
	Total     uint32               `json:"total"`
	Reason    string               `json:"reason"`
}

// Consider says of this region and of every peer whether a call to dst could go there, and why: the candidates in order,
// then the rest by name. It is for people; the data path uses Upstream.
func (s *Snapshot) Consider(dst federation.ServiceRef) []Considered {
	var kept, dropped []Considered
	upstream, found := s.Upstream(dst)
	if found {
		for i := range upstream.Candidates {
			kept = append(kept, consider(&upstream.Candidates[i]))
		}
	}
	for _, region := range append([]federation.Region{s.region}, s.regions...) {
		if region == "" || slices.ContainsFunc(kept, func(c Considered) bool { return c.Region == region }) {
			continue
		}
		dropped = append(dropped, s.dropped(dst, region))
	}
	return append(kept, dropped...)
}

func consider(c *Candidate) Considered {
	healthy, total := c.Health()
	considered := Considered{Region: c.Region, Local: c.IsLocal(), Kept: true, Rank: c.Rank, Freshness: c.Freshness,
		Healthy: healthy, Total: total}
	considered.Reason = fmt.Sprintf("%d of %d healthy", healthy, total)
	switch c.Freshness {
	case federation.FreshnessStale:
		considered.Reason += "; its catalog is STALE and is used after that of LIVE regions"
	case federation.FreshnessOld:
		considered.Reason += "; its catalog is OLD and is used as a last resort"
	}
	return considered
}

// dropped says why region is no candidate for dst.
func (s *Snapshot) dropped(dst federation.ServiceRef, region federation.Region) Considered {
	d := Considered{Region: region, Local: region == s.region}
	c, has := s.candidate(region, dst.Service)
	if has {
		d.Freshness = c.Freshness
		d.Healthy, d.Total = c.Health()
	}
	imported := s.imports[region]
	switch {
	case dst.Region != "" && s.real(dst.Region) != region:
		d.Reason = fmt.Sprintf("the call names region %s, so there is no failover", dst.Region)
	case has:
		d.Reason = fmt.Sprintf("the resolver's failover order %v leaves it out", s.resolver(dst.Service).Failover)
	case d.Local:
		d.Reason = "no source of this region has seen it"
	case imported == nil:
		d.Freshness = federation.FreshnessExpired
		d.Reason = noCatalog(s.peers[region].State)
	case imported.Service(dst.Service) != nil:
		d.Reason = "its identity is not in the peer's trust domain"
	default:
		d.Freshness = imported.Freshness
		d.Reason = "the peer does not export it to this region, or has no such service"
	}
	return d
}

// noCatalog says why there is nothing from a peer in state.
func noCatalog(state federation.PeeringState) string {
	switch state {
	case federation.PeeringPending, federation.PeeringEstablishing:
		return fmt.Sprintf("the peering is %s: no catalog has come yet", state)
	}
	return fmt.Sprintf("the peer's catalog has expired or has not come yet; the peering is %s", state)
}
