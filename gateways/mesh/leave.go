package mesh

import (
	"cmp"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// PathsChanged says that the way to some peer has gone up or down. The tunnel holds the open flows of a peer that it has lost for
// some seconds, in case the way comes back. Where the service can be had elsewhere that is worse than an end: the caller, who
// waits, could have connected again.
func (m *Mesh) PathsChanged() {
	select {
	case m.paths <- struct{}{}:
	default:
	}
}

// leaveLost ends the open connections and requests to regions without any session for which another candidate could serve now, and returns how
// many.
func (m *Mesh) leaveLost() int {
	snap, ended := m.cfg.Table.Load(), 0
	m.live.each(func(c *conn) {
		c.mu.Lock()
		region, carried := c.region, c.flow != nil || c.request != nil && c.region != "" && c.region != snap.Region()
		c.mu.Unlock()
		if c.direction != outbound || !carried || c.pinned || m.cfg.Tunnel.Path(region).Sessions > 0 || !m.servedElsewhere(snap, c, region) {
			return
		}
		ended++
		if c.request != nil && c.giveUp() {
			return // it may find the other by itself
		}
		c.end(ending{flow.ResetAborted, "no way to region " + string(region) + " is left, and another can serve"})
	})
	return ended
}

// leaveDrained ends what is still open to drained regions whose time for that is over, and which another candidate could serve now. It
// returns how many. Callers that have named the region stay.
func (m *Mesh) leaveDrained() int {
	snap, ended, now := m.cfg.Table.Load(), 0, time.Now()
	due := map[federation.Region]bool{}
	for region, d := range snap.Drains() {
		if !d.Reset.IsZero() && !now.Before(d.Reset) && d.Share(now) == 0 {
			due[region] = true
		}
	}
	if len(due) == 0 {
		return 0
	}
	m.live.each(func(c *conn) {
		c.mu.Lock()
		region := cmp.Or(c.region, snap.Region())
		c.mu.Unlock()
		if c.direction != outbound || c.requests || c.pinned || !due[region] || !m.servedElsewhere(snap, c, region) {
			return
		}
		ended++
		c.end(ending{flow.ResetDraining, "region " + string(region) + " is drained, and another can serve"})
	})
	return ended
}

// servedElsewhere reports whether a new connection like c would find an instance that is not in region.
func (m *Mesh) servedElsewhere(snap *route.Snapshot, c *conn, region federation.Region) bool {
	upstream, found := snap.Upstream(federation.ServiceRef{Service: c.service})
	if !found {
		return false
	}
	for i := range upstream.Candidates {
		to := &upstream.Candidates[i]
		if to.Region == region {
			continue
		}
		if healthy, _ := to.Health(); healthy == 0 {
			continue
		}
		if why, _ := m.weigh(c.service, to); (why == dropNot || why == dropReturning) && permits(snap, c, to.Region).Allowed {
			return true
		}
	}
	return false
}
