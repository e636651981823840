package mesh

import (
	"net/http"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

const (
	// maxCopies is how many copies of requests may be under way: with what waits of their bodies, 6.4 MiB, what a slow mirror holds at most.
	maxCopies = 100

	// maxCopying is for how long a body may come before it is taken for a stream without an end, whose copy would hold its place for ever.
	maxCopying = 30 * time.Second
)

// The outcomes of a copy, as the metrics call them.
const (
	copySent      = "sent"      // all of it was there to send; what became of it says the access log
	copyAbandoned = "abandoned" // its receiver was too slow, or the body did not end
	copyOmitted   = "omitted"   // there was none, for as many were under way as may be
)

// mirror sends a copy of r to the service that rule names, as the same caller: its intentions decide, and its own route applies. over is to
// be called when nothing more of r will be read.
func (m *Mesh) mirror(r *http.Request, rule *route.Rule, who *caller) (over func()) {
	over = func() {}
	if who.copied || r.Header["Upgrade"] != nil || rule.Mirror.Percent != 0 && !drawn(rule.Mirror.Percent) {
		return over
	}
	count := func(outcome string) { m.metrics.copies.WithLabelValues(rule.Mirror.Service.String(), outcome).Inc() }
	if m.http.copies.Add(1) > maxCopies {
		m.http.copies.Add(-1)
		count(copyOmitted)
		return over
	}
	x, body := l7.Tee(r)
	if r.ContentLength != 0 {
		timer := time.AfterFunc(maxCopying, body.GiveUp)
		over = func() {
			timer.Stop()
			body.GiveUp()
		}
	}
	as := *who
	as.copied, as.wants = true, federation.ServiceRef{Service: rule.Mirror.Service}
	m.live.begin()
	m.serving.Go(func() {
		defer m.live.done()
		defer m.http.copies.Add(-1)
		m.requestOut(x, &as)
		if body.Whole() {
			count(copySent)
		} else {
			count(copyAbandoned)
		}
	})
	return over
}
