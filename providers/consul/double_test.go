package consul

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
)

// double speaks as much of Consul's HTTP API as a listing uses, and fails in Consul's own words on demand. The real one is in e2e.
type double struct {
	*httptest.Server
	providertest.Player

	mu   sync.Mutex
	body string // of the next answer about instances
}

func newDouble(t *testing.T) *double {
	d := &double{body: "[]"}
	d.Server = httptest.NewServer(d)
	t.Cleanup(d.Close)
	return d
}

var dc1 = poll.Scope{Provider: "consul", Account: "dc1", Kind: Kind}

// instance is workload n as the health endpoint shows it.
func instance(n int, change func(service map[string]any)) map[string]any {
	service := map[string]any{"ID": fmt.Sprintf("web-%d", n), "Service": "web", "Address": providertest.Address(n).String(), "Port": 8080,
		"Meta": map[string]string{"mesh-service": "web"}, "Weights": map[string]int{"Passing": 1, "Warning": 1}}
	if change != nil {
		change(service)
	}
	return map[string]any{"Node": map[string]any{"Node": fmt.Sprintf("node-%d", n), "Address": "10.9.9.9", "Datacenter": "dc1"},
		"Service": service,
		"Checks":  []any{map[string]any{"CheckID": "serfHealth", "Status": "passing"}}}
}

// ServeHTTP serves a world. Faults meet the first request of a listing.
func (d *double) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("X-Consul-KnownLeader", "true")
	w.Header().Set("X-Consul-LastContact", "0")
	if r.URL.Path != "/v1/catalog/services" {
		d.Count()
		d.mu.Lock()
		body := d.body
		d.mu.Unlock()
		fmt.Fprint(w, body)
		return
	}
	items, fault := d.All()
	w.Header().Set("X-Consul-Index", "5")
	switch fault {
	case providertest.Throttle:
		w.Header().Set("Retry-After", strconv.Itoa(int(providertest.RetryAfter/time.Second)))
		http.Error(w, "rate limit exceeded, try again later or against a different server", http.StatusTooManyRequests)
	case providertest.Deny:
		http.Error(w, `Permission denied: token with AccessorID '00000000-0000-0000-0000-000000000002' lacks permission 'service:read' on "web"`,
			http.StatusForbidden)
	case providertest.Expired:
		http.Error(w, "ACL not found", http.StatusForbidden)
	case providertest.Hang:
		<-r.Context().Done()
	case providertest.Unavailable:
		http.Error(w, "No cluster leader", http.StatusInternalServerError)
	case providertest.Garbage:
		fmt.Fprint(w, `{"web": [`)
	case providertest.Partial:
		w.Header().Set("X-Consul-KnownLeader", "false")
		fallthrough
	default:
		d.keep(items)
		fmt.Fprint(w, `{"consul": [], "web": ["a"]}`)
	}
}

// keep notes the items of the listing that has begun, for its second request.
func (d *double) keep(items []providertest.Item) {
	seen, out := map[int]bool{}, []any{}
	for _, i := range items {
		if i.Gone || seen[i.N] {
			continue
		}
		seen[i.N] = true
		out = append(out, instance(i.N, func(service map[string]any) {
			if i.Malformed {
				service["Port"] = 70000
			}
		}))
	}
	var b strings.Builder
	json.NewEncoder(&b).Encode(out)
	d.mu.Lock()
	d.body = b.String()
	d.mu.Unlock()
}
