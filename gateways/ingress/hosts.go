package ingress

import (
	"cmp"
	"crypto/tls"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/quic-go/quic-go/http3"

	"github.com/tradewind-mesh/tradewind/federation"
)

// names finds what belongs to a host: by its own name, or by the longest name that it lies below.
type names[T any] struct {
	exact map[string]T
	below map[string]T // of "*.example.com": example.com
}

func (n *names[T]) add(pattern string, what T) {
	if n.exact == nil {
		n.exact, n.below = map[string]T{}, map[string]T{}
	}
	if parent, found := strings.CutPrefix(pattern, "*."); found {
		n.below[parent] = what
		return
	}
	n.exact[pattern] = what
}

func (n *names[T]) find(host string) (what T, found bool) {
	if what, found = n.exact[host]; found {
		return what, true
	}
	for len(n.below) > 0 {
		_, parent, more := strings.Cut(host, ".")
		if !more {
			break
		}
		if what, found = n.below[parent]; found {
			return what, true
		}
		host = parent
	}
	return what, false
}

// HostOf returns the host block of g that requests for host belong to; nil: none.
func HostOf(g *federation.Ingress, host string) *federation.IngressHost {
	var all names[*federation.IngressHost]
	for i := range g.Hosts {
		all.add(g.Hosts[i].Name, &g.Hosts[i])
	}
	h, _ := all.find(host)
	return h
}

// host is what becomes of a name: its requests are looked into, or its connections are passed through.
type host struct {
	federation.IngressHost                       // paths from the longest to the shortest
	through                federation.ServiceRef // zero: looked into

	rates []rate
	cors  *cors
	pages map[int]page
}

// table is an ingress, ready to be asked. It is immutable but for its certificates.
type table struct {
	spec   federation.Ingress
	hosts  names[*host]
	tls    *tls.Config
	proves map[string]bool // names that an authority has proved here
	tls3   *tls.Config     // for HTTP/3
	index  atomic.Pointer[index]
	rates  []rate // of all requests
	pages  map[int]page
}

// newTable prepares g. files are those of error pages.
func newTable(g federation.Ingress, files map[string]*pageFile) *table {
	t := &table{spec: g, rates: newRates("", g.RateLimits), pages: newPages(g.ErrorPages, files)}
	t.index.Store(&index{})
	for _, h := range g.Hosts {
		h.Paths = slices.Clone(h.Paths)
		slices.SortStableFunc(h.Paths, func(a, b federation.IngressPath) int { return cmp.Compare(len(b.Prefix), len(a.Prefix)) })
		t.hosts.add(h.Name, &host{IngressHost: h, rates: newRates(h.Name, h.RateLimits), cors: newCORS(h.CORS), pages: newPages(h.ErrorPages, files)})
	}
	for _, p := range g.Passthrough {
		t.hosts.add(p.Name, &host{through: p.Service})
	}
	t.tls = &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
		return t.index.Load().find(hello), nil // nil: the alert that there is no such name
	}}
	if g.HTTP3 {
		t.tls3 = http3.ConfigureTLSConfig(t.tls)
	}
	if g.TCP.Service.IsZero() {
		t.tls.NextProtos = []string{"h2", "http/1.1"}
	}
	if _, names := g.ACME(); len(names) > 0 {
		t.proves = map[string]bool{}
		for _, name := range names {
			t.proves[name] = true
		}
		t.tls.GetConfigForClient = t.proving
	}
	return t
}

// service returns where a request for h goes; nil: nowhere.
func (h *host) service(path string) (federation.ServiceRef, bool) {
	if h == nil {
		return federation.ServiceRef{}, false
	}
	for _, p := range h.Paths {
		if below(path, p.Prefix) {
			return p.Service, true
		}
	}
	return h.Service, !h.Service.Service.IsZero()
}

// passes returns where connections for a name are passed through to.
func (t *table) passes(name string) (federation.ServiceRef, bool) {
	h, found := t.hosts.find(name)
	if !found || h.through.Service.IsZero() {
		return federation.ServiceRef{}, false
	}
	return h.through, true
}

// below reports whether path is prefix, or something in it.
func below(path, prefix string) bool {
	prefix = strings.TrimSuffix(prefix, "/")
	rest, found := strings.CutPrefix(path, prefix)
	return found && (rest == "" || rest[0] == '/')
}
