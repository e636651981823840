package ingress

import (
	"fmt"
	"net/http"

	"github.com/tradewind-mesh/tradewind/gateways/l7"
)

// answer is what the listener does to the response to one request. What it needs of the request is kept from when it came: routes
// change requests on their way.
type answer struct {
	visit     *visit
	table     *table
	host      *host // nil: none, or not the one of the handshake
	id        string
	origin    string // to which the host's policy allows the use of the response
	preflight bool
	gzip      bool // the caller takes it
}

// of has a know the host.
func (a *answer) of(h *host, r *http.Request) {
	a.host = h
	if h.cors != nil {
		a.origin, a.preflight = h.cors.allowed(r), preflight(r)
	}
	a.gzip = len(h.Compress) > 0 && r.Method != http.MethodHead && takesGzip(r.Header)
}

// edit is l7.Exchange.Edit of x.
func (a *answer) edit(x *l7.Exchange, res *http.Response) {
	l := a.visit.listener
	res.Header["X-Request-Id"] = []string{a.id}
	if port := l.altPort.Load(); port != 0 && a.visit.secure {
		res.Header["Alt-Svc"] = []string{fmt.Sprintf("h3=\":%d\"; ma=86400", port)} // a day, RFC 7838's default
	}
	if x.Own {
		if p, found := a.page(res.StatusCode); found {
			p.show(res)
		}
	}
	if a.host == nil {
		return
	}
	if a.host.cors != nil {
		a.host.cors.grant(res.Header, a)
	}
	if len(a.host.Compress) > 0 {
		l.server.compress(res, a.gzip)
	}
}

func (a *answer) page(status int) (p page, found bool) {
	if a.host != nil {
		if p, found = a.host.pages[status]; found {
			return p, true
		}
	}
	p, found = a.table.pages[status]
	return p, found
}
