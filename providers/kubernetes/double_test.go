package kubernetes

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
)

type m = map[string]any

// serve starts an HTTPS server and returns it as a cluster.
func serve(t *testing.T, h http.Handler) Cluster {
	c, _ := serveAt(t, h)
	return c
}

// serveAt also returns the server.
func serveAt(t *testing.T, h http.Handler) (Cluster, *httptest.Server) {
	s := httptest.NewUnstartedServer(h)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	ca := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	return Cluster{Name: "prod", Endpoint: s.URL, CA: ca, Token: func(context.Context) (string, time.Time, error) {
		return "secret", time.Time{}, nil
	}}, s
}

var prod = poll.Scope{Provider: "kubernetes", Account: "prod", Kind: Kind}

// pod is a slice with one endpoint, workload n.
func pod(n int, change func(slice, endpoint m)) m {
	e := m{"addresses": []any{providertest.Address(n).String()}, "conditions": m{"ready": true, "serving": true, "terminating": false},
		"nodeName": "node-1", "zone": "eu-west-1a", "targetRef": m{"kind": "Pod", "namespace": "default", "name": fmt.Sprintf("web-%d", n)}}
	s := m{"metadata": m{"namespace": "default", "name": fmt.Sprintf("web-%d", n), "labels": m{serviceLabel: "web"}},
		"addressType": "IPv4", "endpoints": []any{e},
		"ports": []any{m{"name": "", "port": 8080, "protocol": "TCP"}}}
	if change != nil {
		change(s, e)
	}
	return s
}

func svc(namespace, name string, annotations m) m {
	return m{"metadata": m{"namespace": namespace, "name": name, "labels": m{"team": "a"}, "annotations": annotations}}
}

// fail answers as the API server does.
func fail(w http.ResponseWriter, code int, reason, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(code)
	json.NewEncoder(w).Encode(m{"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message, "reason": reason, "code": code})
}

const forbidden = `endpointslices.discovery.k8s.io is forbidden: User "system:serviceaccount:mesh:gateway" cannot list resource ` +
	`"endpointslices" in API group "discovery.k8s.io" at the cluster scope`

// paged serves a world of slices in pages, and one Service.
type paged struct{ providertest.Player }

func (d *paged) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/api/v1/services" {
		d.Count()
		json.NewEncoder(w).Encode(m{"kind": "PartialObjectMetadataList", "metadata": m{"resourceVersion": "7"},
			"items": []any{svc("default", "web", m{"mesh/service": "web"})}})
		return
	}
	page, _ := strconv.Atoi(r.URL.Query().Get("continue"))
	items, fault, next := d.Page(page)
	switch fault {
	case providertest.Throttle:
		w.Header().Set("Retry-After", strconv.Itoa(int(providertest.RetryAfter/time.Second)))
		fail(w, 429, "TooManyRequests", "too many requests, please try again later")
		return
	case providertest.Deny:
		fail(w, 403, "Forbidden", forbidden)
		return
	case providertest.Expired:
		fail(w, 401, "Unauthorized", "Unauthorized")
		return
	case providertest.Hang:
		<-r.Context().Done()
		return
	case providertest.Unavailable:
		fail(w, 500, "InternalError", "etcdserver: leader changed")
		return
	case providertest.Garbage:
		fmt.Fprint(w, `{"kind": "EndpointSliceList", "metadata": {"resourceVersion": "7"}, "items": [{"metadata"`)
		return
	}
	list := []any{}
	for _, i := range items {
		if !i.Gone {
			list = append(list, pod(i.N, func(_, e m) {
				if i.Malformed {
					e["addresses"] = []any{"not-an-address"}
				}
			}))
		}
	}
	meta := m{"resourceVersion": "7"}
	if next >= 0 {
		meta["continue"] = strconv.Itoa(next)
	}
	json.NewEncoder(w).Encode(m{"kind": "EndpointSliceList", "items": list, "metadata": meta})
}

// live is an API server in small, with a history that can be watched. The real one is in e2e.
type live struct {
	mu        sync.Mutex
	version   int
	objects   map[string]map[string]m // by the resource's name and the object's "namespace/name"
	history   []change
	compacted int
	news      chan struct{} // closed and replaced with each change
	cut       chan struct{} // closed: watches break
	fault     func(w http.ResponseWriter, r *http.Request, watch bool) bool
	lists     map[string]int
	watches   map[string]int
}

type change struct {
	version  int
	resource string
	kind     string
	object   m
}

func newLive() *live {
	return &live{version: 10, objects: map[string]map[string]m{"endpointslices": {}, "services": {}}, news: make(chan struct{}),
		cut: make(chan struct{}), lists: map[string]int{}, watches: map[string]int{}}
}

func id(o m) string {
	meta := o["metadata"].(m)
	return fmt.Sprint(meta["namespace"], "/", meta["name"])
}

// put makes the objects what there is under their names.
func (l *live) put(resource string, objects ...m) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, o := range objects {
		kind := "ADDED"
		if l.objects[resource][id(o)] != nil {
			kind = "MODIFIED"
		}
		l.objects[resource][id(o)] = l.change(resource, kind, o)
	}
}

func (l *live) drop(resource string, ids ...string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, i := range ids {
		if o := l.objects[resource][i]; o != nil {
			l.change(resource, "DELETED", o)
			delete(l.objects[resource], i)
		}
	}
}

func (l *live) change(resource, kind string, o m) m {
	l.version++
	o = maps.Clone(o)
	meta := maps.Clone(o["metadata"].(m))
	meta["resourceVersion"] = strconv.Itoa(l.version)
	o["metadata"] = meta
	l.history = append(l.history, change{l.version, resource, kind, o})
	close(l.news)
	l.news = make(chan struct{})
	return o
}

// forget drops the history, as compaction does.
func (l *live) forget() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.history, l.compacted = nil, l.version
}

// snap breaks all watches, and from now on does with requests what fault says.
func (l *live) snap(fault func(http.ResponseWriter, *http.Request, bool) bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.fault = fault
	close(l.cut)
	l.cut = make(chan struct{})
}

func (l *live) counts(resource string) (lists, watches int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.lists[resource], l.watches[resource]
}

func (l *live) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	watching := r.URL.Query().Get("watch") == "1"
	l.mu.Lock()
	fault := l.fault
	if watching {
		l.watches[resource]++
	} else {
		l.lists[resource]++
	}
	l.mu.Unlock()
	if fault != nil && fault(w, r, watching) {
		return
	}
	if watching {
		l.watch(w, r, resource)
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var items []m
	for _, k := range slices.Sorted(maps.Keys(l.objects[resource])) {
		items = append(items, l.objects[resource][k])
	}
	json.NewEncoder(w).Encode(m{"metadata": m{"resourceVersion": strconv.Itoa(l.version)}, "items": items})
}

func (l *live) watch(w http.ResponseWriter, r *http.Request, resource string) {
	at, _ := strconv.Atoi(r.URL.Query().Get("resourceVersion"))
	l.mu.Lock()
	cut := l.cut
	l.mu.Unlock()
	w.WriteHeader(200)
	out := http.NewResponseController(w)
	out.Flush()
	for {
		l.mu.Lock()
		if at < l.compacted {
			l.mu.Unlock()
			json.NewEncoder(w).Encode(m{"type": "ERROR", "object": m{"kind": "Status", "code": 410, "reason": "Expired",
				"message": "too old resource version: 1 (9)"}})
			return
		}
		news := l.news
		for _, c := range l.history {
			if c.version > at && c.resource == resource {
				json.NewEncoder(w).Encode(m{"type": c.kind, "object": c.object})
			}
		}
		at = l.version
		json.NewEncoder(w).Encode(m{"type": "BOOKMARK", "object": m{"metadata": m{"resourceVersion": strconv.Itoa(at)}}})
		l.mu.Unlock()
		out.Flush()
		select {
		case <-news:
		case <-r.Context().Done():
			return
		case <-cut:
			panic(http.ErrAbortHandler)
		}
	}
}
