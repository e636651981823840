package ingress

import (
	"fmt"
	"net/netip"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

// maxRated is how many clients a listener tells apart, for each of its rates once: 3 MiB of them. More share what is left, and are never
// allowed more.
const maxRated = 65_536

// rate is one limit of a listener.
type rate struct {
	federation.RateLimit
	scope string // of the clients that are counted by it, among all that the listener counts
}

// newRates prepares the limits of an ingress, or of a host of it. Other limits count anew; another burst does not.
func newRates(host string, limits []federation.RateLimit) []rate {
	var out []rate
	for _, l := range limits {
		out = append(out, rate{l.Defaulted(), host + " " + l.Rate.String() + " "})
	}
	return out
}

// limits counts a request of client, and answers it if there have been too many.
func (l *listener) limits(x *l7.Exchange, by mesh.Entry, rates []rate) (refused bool) {
	if len(rates) == 0 {
		return false
	}
	key := clientText(by.Client)
	for _, r := range rates {
		if wait, ok := l.rates.Take(r.scope+key, r.RateLimit, l.server.since()); !ok {
			l.server.metrics.limited(by.Listener)
			l.server.cfg.Mesh.RefuseFor(x, by, wait, fmt.Sprintf("more than %s for each client", r.Rate))
			return true
		}
	}
	return false
}

func clientText(a netip.Addr) string {
	b := clientKey(a).As16()
	return string(b[:])
}
