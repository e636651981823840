package mesh

import (
	"net/http"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// maxCopies is how many copies of requests may be under way: what a slow mirror holds at most.
const maxCopies = 100

// mirror sends a copy of r to the service that rule names, as the same caller: its intentions decide, and its own route applies.
func (m *Mesh) mirror(r *http.Request, rule *route.Rule, who *caller) {
	if who.copied || r.ContentLength != 0 || r.Header["Upgrade"] != nil || rule.Mirror.Percent != 0 && !drawn(rule.Mirror.Percent) {
		return
	}
	if m.http.copies.Add(1) > maxCopies {
		m.http.copies.Add(-1)
		return
	}
	x, as := l7.Copy(r), *who
	as.copied, as.wants = true, federation.ServiceRef{Service: rule.Mirror.Service}
	m.live.begin()
	m.serving.Go(func() {
		defer m.live.done()
		defer m.http.copies.Add(-1)
		m.requestOut(x, &as)
	})
}
