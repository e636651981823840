package mesh

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/limit"
	"github.com/tradewind-mesh/tradewind/gateways/tunnel"
)

// Header fields by which gateways keep a region from getting more requests than it can take. They are believed on flows of gateways only.
const (
	// headerRoom tells the caller's gateway, with each response, for how many more detours there is room. It is absent while that is not
	// known, and 0 with headerOutcome when the request was refused for want of room.
	headerRoom = "X-Tradewind-Room"

	// headerDetour tells that a request is meant for another region, which cannot take it.
	headerDetour = "X-Tradewind-Detour"

	// headerUrgency tells what a rule has made the urgency of a request, in place of its Priority field.
	headerUrgency = "X-Tradewind-Urgency"
)

// errCrowded is the answer of a region without room, errNoRoom that of this gateway when there is none anywhere.
var (
	errCrowded = &limitError{status: http.StatusServiceUnavailable, wait: time.Second, shed: "limit",
		reason: "as many requests are under way as the instances can take without getting slow"}
	errNoRoom = &limitError{status: http.StatusServiceUnavailable, wait: time.Second, shed: "room", reason: "no region has room"}
)

// urgencyOf is the urgency of a request (RFC 9218 section 4.1).
func urgencyOf(h http.Header) int {
	for _, v := range h["Priority"] {
		for part := range strings.SplitSeq(v, ",") {
			if u, ok := strings.CutPrefix(strings.TrimSpace(part), "u="); ok && len(u) == 1 && u[0] >= '0' && u[0] <= '7' {
				return int(u[0] - '0')
			}
		}
	}
	return 3
}

// loadOf is what the answer of an instance says about its load.
func loadOf(r *http.Request, res *http.Response, err error) limit.Outcome {
	switch {
	case err != nil && timedOut(err), err == nil && res.StatusCode == http.StatusServiceUnavailable:
		return limit.Dropped
	case err != nil, r.ContentLength < 0 && r.ProtoMajor == 1, r.ContentLength > 64<<10: // the caller may have been slow to send
		return limit.Ignored
	}
	return limit.Answered
}

// spilling is what a trip needs to keep regions from being flooded.
type spilling struct {
	burden *burden      // of the service
	to     *limit.Spill // of the region at hand
	detour bool         // it is not the one that the request is meant for
	before bool         // one was tried before it
	full   bool         // one had no room
	crowd  *step        // the first of those
}

// roomPatience is how long a request waits for room before it is shed: a burst that moves to another region at once is no overload if that
// one is fast.
const roomPatience = 200 * time.Millisecond

// awaitRoom waits until the first region that had no room has some, and enters it; false: it still has none, or the search is over. It is
// for once.
func (t *trip) awaitRoom(search time.Time) (s step, ok bool) {
	sp := &t.spill
	if sp.crowd == nil {
		return step{}, false
	}
	s, sp.crowd = *sp.crowd, nil
	sp.to, sp.detour = sp.burden.spills.To(s.Region), true
	ctx, stop := context.WithDeadline(context.Background(), earlier(search, time.Now().Add(roomPatience)))
	defer stop()
	t.conn.waits(stop)
	defer t.conn.waits(nil)
	return s, sp.to.Wait(ctx, t.urgency, t.mesh.sinceStart) == nil
}

// enter reports whether the request may be sent to s now. One that had better wait for its turn is tried in the end, when no other
// region takes the request.
func (t *trip) enter(s step) bool {
	sp, now := &t.spill, t.mesh.sinceStart()
	sp.to = sp.burden.spills.To(s.Region)
	sp.detour = s.why == dropNot && (sp.before || t.plan.detours(s))
	sp.before = true
	if s.why != dropNot { // all others have been asked
		sp.to.Force(false)
		return true
	}
	switch sp.to.Enter(sp.detour, t.urgency, now) {
	case limit.Open:
		return true
	case limit.Later:
		t.plan.passOver(s, dropReturning)
	case limit.Full:
		if sp.full = true; sp.detour && sp.crowd == nil {
			crowd := s // s itself is not to be on the heap
			sp.crowd = &crowd
		}
	}
	return false
}

// left ends what enter began, by err.
func (t *trip) left(s step, err error) {
	t.spill.to.Leave(t.spill.detour, t.mesh.sinceStart())
	if err == nil || t.conn.isOver() { // what was given up says nothing about the region
		return
	}
	var refused *tunnel.RefusedError
	switch {
	case errors.Is(err, errCrowded):
		t.spill.full = true
	case errors.Is(err, errUnreached), errors.As(err, &refused) && refused.Code == flow.RefusedUnavailable:
		t.plan.missed(s, dropUnhealthy)
	}
}

// missed notes that s cannot serve, or is drained: what goes elsewhere instead is a detour. A drained region goes on serving what the
// others have no room for yet.
func (p *plan) missed(s step, why drop) {
	if p.request == nil {
		return
	}
	switch why {
	case dropNoPath, dropUnhealthy, dropAvoided:
		p.mesh.burdenOf(p.upstream.Service).spills.To(s.Region).Lost(p.mesh.sinceStart())
	case dropDrained:
	default:
		return
	}
	if p.missing == nil || s.Rank < p.missing.Rank {
		missing := s
		p.missing = &missing
	}
}

// detours reports whether s is not the best region for the request, but that cannot serve.
func (p *plan) detours(s step) bool {
	return p.missing != nil && (p.missing.Rank < s.Rank || p.missing.Rank == s.Rank && p.missing.rtt <= s.rtt)
}

// hear notes what a gateway in s says of its room, and returns it; -1: nothing.
func (t *trip) hear(h http.Header, s step) int {
	v := h[headerRoom]
	if len(v) != 1 {
		return -1
	}
	n, err := strconv.ParseUint(v[0], 10, 31)
	if err != nil {
		return -1
	}
	t.spill.to.Room(int(n), t.mesh.sinceStart())
	t.mesh.metrics.rooms.WithLabelValues(t.plan.upstream.Service.String(), string(s.Region)).Set(float64(n))
	return int(n)
}

// tellRoom tells a peer's gateway what room there is, if it is known.
func (a *ask) tellRoom(h http.Header) {
	if n, known := a.load.Spare(limit.Share(3, true), a.mesh.sinceStart()); known {
		h[headerRoom] = []string{strconv.Itoa(n)}
	}
}

// countShed counts a request that was given up to save others.
func (m *Mesh) countShed(service federation.ServiceName, over *limitError) {
	if over.shed != "" {
		m.metrics.sheds.WithLabelValues(service.String(), over.shed).Inc()
	}
}

// forgetRooms drops what is kept for services and regions that are gone.
func (m *Mesh) forgetRooms(service federation.ServiceName, b *burden, known func(federation.ServiceName) bool, isPeer func(federation.Region) bool) {
	b.spills.Keep(func(r federation.Region) bool {
		kept := isPeer(r)
		if !kept {
			b.tails.Delete(r)
			m.metrics.rooms.DeleteLabelValues(service.String(), string(r))
		}
		return kept
	})
	if !known(service) {
		m.http.burdens.Delete(service)
		m.metrics.rooms.DeletePartialMatch(prometheus.Labels{"service": service.String()})
		m.metrics.sheds.DeletePartialMatch(prometheus.Labels{"service": service.String()})
		m.metrics.hedges.DeletePartialMatch(prometheus.Labels{"service": service.String()})
	}
}
