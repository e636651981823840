package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
)

func TestConformance(t *testing.T) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		d := newDouble(t)
		l, err := New(Config{Access: Access{Address: d.URL}, Datacenters: []string{"dc1"}})
		if err != nil {
			t.Fatal(err)
		}
		return providertest.ListerRig{
			Lister: l, Scope: dc1, Requests: d.Requests, Action: ruleServices, Close: l.client.idle,
			Serve: func(_ *testing.T, w providertest.World) { d.Serve(w) },
			Cost:  func(providertest.World) int { return 2 }, // the list of services, and the one service
			Lacks: map[string]string{"loop": "Consul's API has no pages"},
		}
	})
}

func TestRecord(t *testing.T) {
	check := func(id, status string) any { return map[string]any{"CheckID": id, "Status": status} }
	for _, c := range []struct {
		name    string
		service func(map[string]any)
		checks  []any
		want    func(r poll.Record) bool
	}{
		{"plain", nil, []any{check("a", "passing")}, func(r poll.Record) bool {
			return r.ID == "consul://dc1/node-1/web-1" && r.Account == "dc1" && r.Network == "dc1" && r.Weight == 100 &&
				r.Health == federation.HealthPassing &&
				r.State == poll.StateRunning && r.Labels["mesh-service"] == "web"
		}},
		{"worst", nil, []any{check("a", "passing"), check("b", "critical"), check("c", "warning")}, func(r poll.Record) bool {
			return r.Health == federation.HealthFailing && r.State == poll.StateRunning
		}},
		{"warning", func(s map[string]any) { s["Weights"] = map[string]int{"Passing": 10, "Warning": 3} }, []any{check("a", "warning")},
			func(r poll.Record) bool { return r.Health == federation.HealthPassing && r.Weight == 300 }},
		{"not while it warns", func(s map[string]any) { s["Weights"] = map[string]int{"Passing": 10, "Warning": 0} },
			[]any{check("a", "warning")},
			func(r poll.Record) bool { return r.Health == federation.HealthFailing }},
		{"heavy", func(s map[string]any) { s["Weights"] = map[string]int{"Passing": 65535} }, nil,
			func(r poll.Record) bool { return r.Weight == 65500 }},
		{"node in maintenance", nil, []any{check("_node_maintenance", "critical"), check("a", "critical")},
			func(r poll.Record) bool {
				return r.State == poll.StateDraining && r.Health == federation.HealthDraining
			}},
		{"service in maintenance", nil, []any{check("_service_maintenance:web-1", "critical")},
			func(r poll.Record) bool { return r.State == poll.StateDraining }},
		{"no checks", nil, nil, func(r poll.Record) bool { return r.Health == federation.HealthUnknown }},
		{"odd status", nil, []any{check("a", "purple"), nil}, func(r poll.Record) bool { return r.Health == federation.HealthFailing }},
		{"node's address", func(s map[string]any) { s["Address"] = "" }, nil,
			func(r poll.Record) bool { return r.Addresses[0].String() == "10.9.9.9" }},
		{"host", func(s map[string]any) { s["Address"] = "db.example.com" }, nil, func(r poll.Record) bool {
			return r.Host == "db.example.com" && len(r.Addresses) == 0
		}},
		{"dual stack", func(s map[string]any) {
			s["TaggedAddresses"] = map[string]any{"lan_ipv4": map[string]any{"Address": "10.1.0.1"},
				"lan_ipv6": map[string]any{"Address": "fd00::1"}}
		}, nil, func(r poll.Record) bool { return fmt.Sprint(r.Addresses) == "[10.1.0.1 fd00::1]" }},
		{"no port", func(s map[string]any) { s["Port"] = 0 }, nil, func(r poll.Record) bool { return len(r.Ports) == 0 }},
		{"named ports", func(s map[string]any) {
			s["Ports"] = []any{map[string]any{"Name": "http", "Port": 80, "Default": true}, map[string]any{"Name": "admin", "Port": 81}}
		}, nil, func(r poll.Record) bool { return fmt.Sprint(r.Ports) == "[{ 80 } {admin 81 }]" }},
		{"tags", func(s map[string]any) { s["Tags"] = []string{"v1", "mesh/port=9", "mesh-service=other", "=x"} }, nil, func(r poll.Record) bool {
			return r.Labels["tag/v1"] == "true" && r.Labels["mesh/port"] == "9" && r.Labels["mesh-service"] == "web" && r.Labels["tag/=x"] == "true"
		}},
		{"namespace", func(s map[string]any) { s["Namespace"] = "shop" }, nil, func(r poll.Record) bool { return r.Namespace == "shop" }},
		{"default namespace", func(s map[string]any) { s["Namespace"] = "default" }, nil, func(r poll.Record) bool { return r.Namespace == "" }},
		{"locality", func(s map[string]any) { s["Locality"] = map[string]any{"Region": "eu-west-1", "Zone": "euw1-az2"} }, nil,
			func(r poll.Record) bool { return r.Region == "eu-west-1" && r.Zone == "euw1-az2" }},
	} {
		e := instance(1, c.service)
		e["Checks"] = c.checks
		s := newScript()
		s.set(10, "web", e)
		l, err := s.lister(t, Config{}).List(t.Context(), dc1, nil)
		if err != nil || len(l.Records) != 1 || !c.want(l.Records[0]) {
			t.Errorf("%s: %+v, %v", c.name, l, err)
		}
	}
}

func TestUnreadable(t *testing.T) {
	for name, e := range map[string]any{
		"null": nil, "no node": map[string]any{"Service": map[string]any{"ID": "x"}},
		"port":    instance(1, func(s map[string]any) { s["Port"] = -1 }),
		"address": instance(1, func(s map[string]any) { s["Address"] = "no address" }),
		"socket":  instance(1, func(s map[string]any) { s["SocketPath"] = "/run/web.sock" }),
	} {
		s := newScript()
		s.set(10, "web", e, instance(2, nil))
		l, err := s.lister(t, Config{}).List(t.Context(), dc1, nil)
		if err != nil || len(l.Records) != 1 || len(l.Bad) != 1 {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
}

func TestNotOurs(t *testing.T) {
	s := newScript()
	s.set(10, "web", instance(1, func(s map[string]any) { s["Kind"] = "connect-proxy" }),
		instance(2, func(s map[string]any) { s["Meta"] = map[string]string{metaSource: source} }), instance(3, nil))
	for proxies, want := range map[bool]int{false: 1, true: 2} {
		l, err := s.lister(t, Config{Proxies: proxies}).List(t.Context(), dc1, nil)
		if err != nil || len(l.Records) != want {
			t.Errorf("proxies %v: %d records, %v", proxies, len(l.Records), err)
		}
	}
}

func TestWants(t *testing.T) {
	s := newScript()
	for _, name := range []string{"web", "shop-a", "shop-b", "db"} {
		s.set(10, name, instance(1, nil))
	}
	for want, cfg := range map[string]Config{
		"[db shop-a shop-b web]": {},
		"[shop-a shop-b web]":    {Services: []string{"shop-*", "web"}},
		"[]":                     {Tags: []string{"b"}},
		"[db]":                   {Services: []string{"db"}, Tags: []string{"a"}},
		"[consul]":               {Services: []string{"consul"}},
	} {
		cat, err := (&visit{Lister: s.lister(t, cfg)}).services(t.Context(), 0)
		if err != nil || fmt.Sprint(cat.names) != want {
			t.Errorf("%+v: %v, %v; want %s", cfg, cat.names, err, want)
		}
	}
}

func TestRequests(t *testing.T) {
	s := newScript()
	s.set(10, "web", instance(1, nil))
	l := s.lister(t, Config{Namespaces: []string{"shop"}, Partitions: []string{"p1", "p2"}, Filter: "Service.Port == 80", Tags: []string{"a"}})
	scopes, err := l.Scopes(t.Context())
	if err != nil || len(scopes) != 2 || scopes[1].String() != "consul/dc1/services/p2/shop" {
		t.Fatal(scopes, err)
	}
	if l, err := l.List(t.Context(), scopes[1], nil); err != nil || l.Records[0].ID != "consul://dc1/p2/shop/node-1/web-1" {
		t.Error(l, err)
	}
	for _, a := range s.requests("") {
		q := url.Values(a.query)
		if q.Get("ns") != "shop" || q.Get("partition") != "p2" || q.Get("dc") != "dc1" || !q.Has("stale") {
			t.Errorf("asked %v", q)
		}
		if strings.HasSuffix(a.path, "/web") && (q.Get("filter") != "Service.Port == 80" || q.Get("tag") != "a") {
			t.Errorf("asked %v", q)
		}
	}
	s.lister(t, Config{Consistent: true}).List(t.Context(), dc1, nil)
	if q := url.Values(s.requests("")[0].query); q.Has("stale") {
		t.Errorf("a consistent read asked %v", q)
	}
	for _, scope := range []poll.Scope{{Provider: "aws", Kind: Kind}, {Provider: "consul", Kind: "ec2"}} {
		if _, err := l.List(t.Context(), scope, nil); err == nil {
			t.Errorf("%v was listed", scope)
		}
	}
}

// TestToken: a token is read anew for each request, and never shown.
func TestToken(t *testing.T) {
	s := newScript()
	file := filepath.Join(t.TempDir(), "token")
	l := s.lister(t, Config{Access: Access{TokenFile: file}})
	for _, c := range []struct {
		text string
		ok   bool
	}{{"first\n", true}, {"second", true}, {"", false}, {strings.Repeat("x", maxToken+1), false}, {"two\nlines", false}} {
		if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := l.List(t.Context(), dc1, nil)
		asked := s.requests("")
		switch {
		case c.ok && (err != nil || asked[0].token != strings.TrimSpace(c.text)):
			t.Errorf("token %q: asked with %+v, %v", c.text, asked, err)
		case !c.ok && (!errors.Is(err, poll.ErrCredentials) || len(asked) > 0):
			t.Errorf("a bad token: %v, %d requests", err, len(asked))
		}
	}
	t.Setenv("TEST_TOKEN", "third")
	l = s.lister(t, Config{Access: Access{TokenEnv: "TEST_TOKEN"}})
	if _, err := l.List(t.Context(), dc1, nil); err != nil || s.requests("")[0].token != "third" {
		t.Error("token of the environment", err)
	}
	os.Unsetenv("TEST_TOKEN")
	if _, err := l.List(t.Context(), dc1, nil); !errors.Is(err, poll.ErrCredentials) {
		t.Error(err)
	}
}

func TestUnixSocketAndBounds(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	var huge atomic.Bool
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if huge.Load() {
			fmt.Fprint(w, `{"web":["`)
			for chunk := strings.Repeat("x", 1<<20); ; {
				if _, err := io.WriteString(w, chunk); err != nil {
					return
				}
			}
		}
		w.Header().Set("X-Consul-KnownLeader", "true")
		w.Header().Set("X-Consul-LastContact", "0")
		fmt.Fprint(w, `{"consul":[]}`)
	})}
	go server.Serve(ln)
	defer server.Close()
	l, err := New(Config{Access: Access{Address: "unix://" + path, Timeout: time.Minute}})
	if err != nil {
		t.Fatal(err)
	}
	defer l.client.idle()
	own := poll.Scope{Provider: "consul", Kind: Kind}
	if got, err := l.List(t.Context(), own, nil); err != nil || got.Partial != nil {
		t.Error(got, err)
	}
	huge.Store(true)
	if _, err := l.List(t.Context(), own, nil); !errors.Is(err, errTooLarge) {
		t.Errorf("an endless answer: %v", err)
	}
}

func TestNewRefuses(t *testing.T) {
	for name, cfg := range map[string]Config{
		"scheme":      {Access: Access{Address: "ftp://x"}},
		"secret":      {Access: Access{Address: "http://u:p@x"}},
		"two tokens":  {Access: Access{TokenFile: "a", TokenEnv: "b"}},
		"half a pair": {Access: Access{CertFile: "a"}},
		"no file":     {Access: Access{Address: "https://x", CAFile: "/nowhere/ca.pem"}},
		"pattern":     {Services: []string{"a*b"}},
		"all and one": {Datacenters: []string{"*", "dc1"}},
		"namespace":   {Namespaces: []string{"*"}},
		"long wait":   {Wait: time.Hour},
		"watches":     {MaxWatches: -1},
		"scopes":      {Namespaces: slices.Repeat([]string{"a"}, 300)},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// FuzzRecord reads what a Consul may send about an instance.
func FuzzRecord(f *testing.F) {
	seed, err := json.Marshal(instance(1, nil))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add([]byte(`{"Node":{},"Service":{"Ports":[{"Port":-1}],"TaggedAddresses":{"lan_ipv4":{"Address":"::ffff:1.2.3.4"}}},"Checks":[null]}`))
	v := &visit{Lister: &Lister{cfg: Config{AddressTag: "wan"}}}
	f.Fuzz(func(t *testing.T, b []byte) {
		var e *api.ServiceEntry
		if json.Unmarshal(b, &e) != nil {
			return
		}
		rec, wanted, err := v.record(e)
		if err == nil && wanted && (!strings.HasPrefix(rec.ID, "consul://") || len(rec.Addresses) == 0 && rec.Host == "" || rec.State == "") {
			t.Errorf("record %+v of %s", rec, b)
		}
	})
}
