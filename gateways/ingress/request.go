package ingress

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/netip"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
)

// request answers one request: it finds the service, says who asks, has the host's rules kept, and leaves the rest to the mesh.
func (v *visit) request(x *l7.Exchange) {
	t, r := v.listener.table.Load(), x.Request
	trusted := t.spec.Trusts(v.peer)
	a := &answer{visit: v, table: t, id: nameRequest(r, trusted)}
	x.Edit = func(res *http.Response) { a.edit(x, res) }
	by := v.entry(federation.ServiceRef{})
	by.Client = forward(r, v, trusted, t.spec.Trusts)
	refuse := func(status int, reason string) {
		v.listener.server.cfg.Mesh.Refuse(x, by, status, reason)
	}
	if v.prove(x, by) {
		return
	}
	host := match.Host(r.Host)
	path, _, _ := strings.Cut(r.RequestURI, "?")
	h, _ := t.hosts.find(host)
	to, found := h.service(path)
	misdirected := v.secure && host != v.name
	if by.To = to; h != nil && !misdirected {
		by.Require = h.RequireToken
		a.of(h, r)
	}
	switch {
	case v.listener.limits(x, by, t.rates):
	case misdirected:
		// A browser sends requests for all names of a certificate on one connection: it is told to open another one (RFC 9110 15.5.20).
		refuse(http.StatusMisdirectedRequest, "the host is not the one of the TLS handshake")
	case t.spec.HTTPSRedirect && host != "" && (found || len(t.spec.Hosts) == 0):
		status := http.StatusPermanentRedirect
		if r.Method == http.MethodGet || r.Method == http.MethodHead {
			status = http.StatusMovedPermanently // old clients know no 308
		}
		v.listener.server.cfg.Mesh.Redirect(x, by, status, "https://"+host+r.RequestURI)
	case a.host != nil && v.listener.limits(x, by, h.rates):
	case a.preflight: // it brings no token, as browsers have it
		v.listener.server.cfg.Mesh.Reply(x, by, h.cors.answer(a.origin), "answered by the cors of the host")
	case !found:
		refuse(http.StatusNotFound, "no host block of the ingress, or no path of it, leads anywhere for this request")
	case t.spec.MaxBody > 0 && r.ContentLength > int64(t.spec.MaxBody):
		refuse(http.StatusRequestEntityTooLarge, "the body is larger than max_body")
	default:
		v.listener.server.cfg.Mesh.Request(x, by)
	}
}

// maxRequestID is the longest X-Request-Id of a trusted proxy that is kept.
const maxRequestID = 128

// nameRequest returns the ID of r, which is then in its fields: that of a trusted proxy, or a new one.
func nameRequest(r *http.Request, trusted bool) string {
	if ids := r.Header["X-Request-Id"]; trusted && len(ids) == 1 && isID(ids[0]) {
		return ids[0]
	}
	var b [16]byte
	_, _ = rand.Read(b[:])                      // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80 // version 4 (RFC 9562 5.4)
	id := fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
	r.Header["X-Request-Id"] = []string{id}
	return id
}

func isID(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && len(s) <= maxRequestID
}

// Fields by which proxies say who asks. Instances believe them, so a caller must not be able to write them.
const (
	forwardedPrefix = "X-Forwarded-"
	forwardedFor    = "X-Forwarded-For"
	forwardedProto  = "X-Forwarded-Proto"
	forwardedHost   = "X-Forwarded-Host"
)

// forward says in the fields of r who asks, and by which host and scheme, and returns who asks: the last in the chain of
// proxies who is none that is trusted.
func forward(r *http.Request, v *visit, trusted bool, trusts func(netip.Addr) bool) netip.Addr {
	var chain []string
	proto, host, client := "http", r.Host, v.peer
	if v.secure {
		proto = "https"
	}
	if trusted {
		chain = r.Header[forwardedFor]
		client = lastUntrusted(chain, client, trusts)
		if p := r.Header[forwardedProto]; len(p) == 1 && (p[0] == "http" || p[0] == "https") {
			proto = p[0]
		}
		if h := r.Header[forwardedHost]; len(h) == 1 && h[0] != "" {
			host = h[0]
		}
	}
	for name := range r.Header {
		if strings.HasPrefix(name, forwardedPrefix) || name == "Forwarded" || name == "X-Real-Ip" {
			delete(r.Header, name)
		}
	}
	r.Header[forwardedFor] = []string{strings.Join(append(chain[:len(chain):len(chain)], v.peer.String()), ", ")}
	r.Header[forwardedProto] = []string{proto}
	r.Header[forwardedHost] = []string{host}
	return client
}

// lastUntrusted goes through a chain of proxies, X-Forwarded-For, from its end on, peer being who sent it. What no address is ends
// the chain: nobody vouches for what is before it.
func lastUntrusted(chain []string, peer netip.Addr, trusts func(netip.Addr) bool) netip.Addr {
	for i := len(chain) - 1; i >= 0; i-- {
		entries := strings.Split(chain[i], ",")
		for j := len(entries) - 1; j >= 0; j-- {
			if !trusts(peer) {
				return peer
			}
			next, ok := parseHop(strings.TrimSpace(entries[j]))
			if !ok {
				return peer
			}
			peer = next
		}
	}
	return peer
}

// parseHop reads an address as proxies write it: alone, or with a port.
func parseHop(s string) (netip.Addr, bool) {
	if a, err := netip.ParseAddr(s); err == nil {
		return a.Unmap().WithZone(""), true
	}
	if a, err := netip.ParseAddrPort(s); err == nil {
		return a.Addr().Unmap().WithZone(""), true
	}
	return netip.Addr{}, false
}
