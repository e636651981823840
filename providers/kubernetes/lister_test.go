package kubernetes

import (
	"context"
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/poll"
	"github.com/tradewind-mesh/tradewind/providers/providertest"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) {
	if os.Getenv("TEST_PLUGIN") != "" {
		actAsPlugin()
		return
	}
	goleak.VerifyTestMain(m)
}

// idle closes what the lister keeps open.
func (l *Lister) idle() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.clusters {
		k.client.idle()
	}
}

func lister(t *testing.T, cfg Config) *Lister {
	t.Helper()
	l, err := New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.idle)
	return l
}

func TestConformance(t *testing.T) {
	providertest.Lister(t, func(t *testing.T) providertest.ListerRig {
		d := &paged{}
		cluster, server := serveAt(t, d)
		l := lister(t, Config{Clusters: []Cluster{cluster}})
		return providertest.ListerRig{
			Lister: l, Scope: prod, Requests: d.Requests, Action: "endpointslices.discovery.k8s.io list in all namespaces",
			Close: server.CloseClientConnections, // a request that was cancelled a moment ago still holds its connection
			Serve: func(_ *testing.T, w providertest.World) { d.Serve(w) },
			Cost:  func(w providertest.World) int { return len(w.Pages) + 1 }, // and the Services
			Lacks: map[string]string{"partial": "a list of Kubernetes is whole or an error"},
		}
	})
}

// list lists a scope of an API server with these objects.
func list(t *testing.T, cfg Config, objects map[string][]m) (poll.Listing, error) {
	t.Helper()
	d := newLive()
	for resource, o := range objects {
		d.put(resource, o...)
	}
	cfg.Clusters = []Cluster{serve(t, d)}
	return lister(t, cfg).List(t.Context(), prod, nil)
}

func TestRecord(t *testing.T) {
	web := svc("default", "web", m{"mesh/export": "true", "kubectl.kubernetes.io/last-applied-configuration": "{}", "mesh-port": "http"})
	for _, c := range []struct {
		name   string
		change func(slice, endpoint m)
		want   func(r poll.Record) bool
	}{
		{"plain", nil, func(r poll.Record) bool {
			return r.ID == "k8s://prod/default/web/web-1" && r.Account == "prod" &&
				r.Network == "prod" && r.Service == "web" && r.Namespace == "default" &&
				r.Zone == "eu-west-1a" && r.State == poll.StateRunning && r.Health == federation.HealthPassing &&
				fmt.Sprint(r.Addresses, r.Ports) == "[10.1.0.1] [{ 8080 }]" &&
				fmt.Sprint(r.Labels) == "map[kubernetes.io/hostname:node-1 mesh-port:http mesh/export:true team:a]"
		}},
		{"no pod", func(_, e m) { delete(e, "targetRef") }, func(r poll.Record) bool { return r.ID == "k8s://prod/default/web/10.1.0.1" }},
		{"other target", func(_, e m) { e["targetRef"] = m{"kind": "Node", "name": "n"} }, func(r poll.Record) bool {
			return r.ID == "k8s://prod/default/web/10.1.0.1"
		}},
		{"not ready", func(_, e m) { e["conditions"] = m{"ready": false, "serving": false} }, func(r poll.Record) bool {
			return r.State == poll.StateRunning && r.Health == federation.HealthFailing
		}},
		{"ready is not known", func(_, e m) { e["conditions"] = m{"serving": false} }, func(r poll.Record) bool {
			return r.Health == federation.HealthFailing
		}},
		{"nothing is known", func(_, e m) { delete(e, "conditions") }, func(r poll.Record) bool { return r.Health == federation.HealthUnknown }},
		{"published although not ready", func(_, e m) { e["conditions"] = m{"ready": true, "serving": false} }, func(r poll.Record) bool {
			return r.State == poll.StateRunning && r.Health == federation.HealthPassing
		}},
		{"draining", func(_, e m) { e["conditions"] = m{"ready": false, "serving": true, "terminating": true} }, func(r poll.Record) bool {
			return r.State == poll.StateDraining && r.Health == federation.HealthDraining
		}},
		{"published while terminating", func(_, e m) { e["conditions"] = m{"ready": true, "serving": true, "terminating": true} },
			func(r poll.Record) bool { return r.State == poll.StateDraining }},
		{"terminating and not serving", func(_, e m) { e["conditions"] = m{"ready": false, "serving": false, "terminating": true} },
			func(r poll.Record) bool { return r.State == poll.StateDraining && r.Health == federation.HealthFailing }},
		{"hints", func(_, e m) { e["hints"] = m{"forZones": []any{m{"name": "a"}, m{"name": "b"}}} }, func(r poll.Record) bool {
			return r.Labels[zoneLabel] == "a,b"
		}},
		{"ports", func(s, _ m) {
			s["ports"] = []any{m{"name": "http", "port": 80, "appProtocol": "http"}, m{"name": "rpc", "port": 81, "appProtocol": "grpc"},
				m{"name": "dns", "port": 53, "protocol": "UDP"}, m{"name": "h2", "port": 82, "appProtocol": "kubernetes.io/h2c", "protocol": "TCP"},
				m{"name": "tls", "port": 443, "appProtocol": "https"}, m{"name": "any"}}
		}, func(r poll.Record) bool {
			return fmt.Sprint(r.Ports) == "[{http 80 http} {rpc 81 grpc} {h2 82 http2} {tls 443 }]"
		}},
		{"headless without ports", func(s, _ m) { delete(s, "ports") }, func(r poll.Record) bool { return len(r.Ports) == 0 }},
		{"name in the DNS", func(s, e m) { s["addressType"] = "FQDN"; e["addresses"] = []any{"db.example.com"} }, func(r poll.Record) bool {
			return r.Host == "db.example.com" && len(r.Addresses) == 0
		}},
		{"IPv6", func(s, e m) { s["addressType"] = "IPv6"; e["addresses"] = []any{"fd00::1"} }, func(r poll.Record) bool {
			return fmt.Sprint(r.Addresses) == "[fd00::1]"
		}},
		{"several addresses", func(_, e m) { e["addresses"] = []any{"10.1.0.1", "10.1.0.2"} }, func(r poll.Record) bool {
			return fmt.Sprint(r.Addresses) == "[10.1.0.1]"
		}},
	} {
		l, err := list(t, Config{}, map[string][]m{"services": {web}, "endpointslices": {pod(1, c.change)}})
		if err != nil || len(l.Records) != 1 || len(l.Bad) != 0 || !c.want(l.Records[0]) {
			t.Errorf("%s: %+v, %v", c.name, l, err)
		}
	}
}

func TestUnreadable(t *testing.T) {
	web := svc("default", "web", nil)
	for name, c := range map[string]struct {
		change func(slice, endpoint m)
		bad    string
	}{
		"address": {func(_, e m) { e["addresses"] = []any{"10.1"} }, "k8s://prod/default/web/web-1"},
		"address with zone": {func(s, e m) { s["addressType"], e["addresses"] = "IPv6", []any{"fe80::1%eth0"} },
			"k8s://prod/default/web/web-1"},
		"other family":       {func(_, e m) { e["addresses"] = []any{"fd00::1"} }, "k8s://prod/default/web/web-1"},
		"no address":         {func(_, e m) { delete(e, "addresses") }, "k8s://prod/default/web/web-1"},
		"nameless":           {func(_, e m) { delete(e, "addresses"); delete(e, "targetRef") }, "k8s://prod/default/web/"},
		"port":               {func(s, _ m) { s["ports"] = []any{m{"port": 70000}} }, "k8s://prod/default/web/web-1"},
		"zone":               {func(_, e m) { e["zone"] = strings.Repeat("z", 300) }, "k8s://prod/default/web/web-1"},
		"endpoints":          {func(s, _ m) { s["endpoints"] = "none" }, "k8s://prod/default/web/"},
		"too many endpoints": {func(s, e m) { s["endpoints"] = slices.Repeat([]any{e}, 1001) }, "k8s://prod/default/web/"},
		"labels":             {func(s, _ m) { s["metadata"].(m)["labels"] = 5 }, "k8s://prod/default/"},
	} {
		l, err := list(t, Config{}, map[string][]m{"services": {web}, "endpointslices": {pod(1, c.change), pod(2, nil)}})
		if err != nil || len(l.Records) != 1 || len(l.Bad) != 1 || l.Bad[0].ID != c.bad || l.Bad[0].Err == nil {
			t.Errorf("%s: %+v, %v", name, l, err)
		}
	}
	broken := svc("default", "web", nil)
	broken["metadata"].(m)["labels"] = 5
	l, err := list(t, Config{}, map[string][]m{"services": {broken}, "endpointslices": {pod(1, nil)}})
	if err != nil || len(l.Records) != 0 || len(l.Bad) != 1 || l.Bad[0].ID != "k8s://prod/default/web/" {
		t.Errorf("a Service that cannot be read: %+v, %v", l, err)
	}
	broken["metadata"] = m{"name": "web"}
	if _, err := list(t, Config{}, map[string][]m{"services": {broken}}); err == nil {
		t.Error("an object without a namespace is listed")
	}
}

// TestOneRecord joins what belongs together, and leaves out what belongs to nothing.
func TestOneRecord(t *testing.T) {
	six := func(n int) m {
		return pod(n, func(s, e m) {
			s["addressType"], e["addresses"] = "IPv6", []any{fmt.Sprintf("fd00::%d", n)}
			s["metadata"].(m)["name"] = fmt.Sprintf("a-web-%d", n)
		})
	}
	moved := pod(2, func(s, _ m) {
		s["metadata"].(m)["name"] = "z-is-written-later"
		s["ports"] = []any{m{"port": 9090}}
	})
	api := pod(4, func(s, e m) { s["metadata"].(m)["labels"] = m{serviceLabel: "kubernetes"}; delete(e, "targetRef") })
	orphan := pod(5, func(s, _ m) { s["metadata"].(m)["labels"] = m{serviceLabel: "gone"} })
	loose := pod(6, func(s, _ m) { s["metadata"].(m)["labels"] = m{} })
	other := pod(7, func(s, _ m) { s["metadata"].(m)["namespace"] = "shop" })
	l, err := list(t, Config{}, map[string][]m{
		"services":       {svc("default", "web", nil), svc("default", "kubernetes", nil), svc("default", "outside", nil)},
		"endpointslices": {six(1), pod(1, nil), pod(2, nil), moved, six(3), api, orphan, loose, other}})
	var got []string
	for _, r := range l.Records {
		got = append(got, fmt.Sprint(r.ID, " ", r.Addresses, " ", r.Ports))
	}
	slices.Sort(got)
	want := []string{"k8s://prod/default/web/web-1 [10.1.0.1 fd00::1] [{ 8080 }]", "k8s://prod/default/web/web-2 [10.1.0.2] [{ 9090 }]",
		"k8s://prod/default/web/web-3 [fd00::3] [{ 8080 }]"}
	if err != nil || !slices.Equal(got, want) || len(l.Bad) != 0 {
		t.Errorf("listed %q, bad %v, %v; want %q", got, l.Bad, err, want)
	}
}

func TestScopes(t *testing.T) {
	cluster := func(account, region, name string) Cluster {
		return Cluster{Account: account, Region: region, Name: name, Endpoint: "https://192.0.2.1"}
	}
	var found []Cluster
	var failure error
	l := lister(t, Config{Namespaces: []string{"a", "b"}, Enumerate: func(context.Context) ([]Cluster, error) { return found, failure }})
	check := func(what string, want ...string) {
		t.Helper()
		scopes, err := l.Scopes(t.Context())
		var got []string
		for _, s := range scopes {
			got = append(got, s.String())
		}
		if !slices.Equal(got, want) || (err == nil) == (want == nil && failure != nil) {
			t.Errorf("%s: scopes %q, %v; want %q", what, got, err, want)
		}
	}
	found = []Cluster{cluster("1", "eu", "x"), cluster("1", "us", "x"), cluster("", "", "bad name"), cluster("1", "eu", "x")}
	check("two", "kubernetes/1/x/eu/endpointslices/a", "kubernetes/1/x/eu/endpointslices/b",
		"kubernetes/1/x/us/endpointslices/a", "kubernetes/1/x/us/endpointslices/b")
	first := l.at(place{"1/x", "eu"}).client
	failure, found = errors.New("one account is denied"), []Cluster{cluster("2", "", "y")}
	check("what cannot be enumerated stays", "kubernetes/1/x/eu/endpointslices/a", "kubernetes/1/x/eu/endpointslices/b",
		"kubernetes/1/x/us/endpointslices/a", "kubernetes/1/x/us/endpointslices/b", "kubernetes/2/y/endpointslices/a",
		"kubernetes/2/y/endpointslices/b")
	if l.at(place{"1/x", "eu"}).client != first {
		t.Error("a client was replaced without a reason")
	}
	found = nil
	check("nothing can be enumerated")
	failure = nil
	check("there is none")
}

func TestErrors(t *testing.T) {
	for name, c := range map[string]struct {
		code    int
		message string
		is      func(error) bool
	}{
		"denied": {403, forbidden, func(err error) bool {
			var d *poll.DeniedError
			return errors.As(err, &d) && d.Who == "system:serviceaccount:mesh:gateway" &&
				d.Action == "endpointslices.discovery.k8s.io list in namespace shop"
		}},
		"credentials": {401, "Unauthorized", func(err error) bool { return errors.Is(err, poll.ErrCredentials) }},
		"redirect":    {302, "elsewhere", func(err error) bool { return strings.Contains(err.Error(), "302") }},
		"gone twice":  {410, "Expired", func(err error) bool { return errors.Is(err, errGone) }},
	} {
		requests := 0
		c2 := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests++
			if r.URL.Path != "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices" || r.Header.Get("Authorization") != "Bearer secret" ||
				r.URL.Query().Get("labelSelector") != "kubernetes.io/service-name,stage=live" {
				t.Errorf("%s: %s", name, r.URL)
			}
			w.Header().Set("Location", "https://192.0.2.1/")
			fail(w, c.code, "", c.message)
		}))
		scope := prod
		scope.Part = "shop"
		_, err := lister(t, Config{Clusters: []Cluster{c2}, Selector: "stage=live"}).List(t.Context(), scope, nil)
		if err == nil || !c.is(err) {
			t.Errorf("%s: %T %v", name, err, err)
		}
	}
}

// TestCompactedBetweenPages: the token of the second page expires once.
func TestCompactedBetweenPages(t *testing.T) {
	expired := false
	l := lister(t, Config{Clusters: []Cluster{serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path == "/api/v1/services":
			json.NewEncoder(w).Encode(m{"metadata": m{"resourceVersion": "7"}, "items": []any{svc("default", "web", nil)}})
		case r.URL.Query().Get("continue") == "":
			json.NewEncoder(w).Encode(m{"metadata": m{"resourceVersion": "7", "continue": "x"}, "items": []any{pod(1, nil)}})
		case !expired:
			expired = true
			fail(w, 410, "Expired", "The provided continue parameter is too old")
		default:
			json.NewEncoder(w).Encode(m{"items": []any{pod(2, nil)}, "metadata": m{"resourceVersion": "7"}})
		}
	}))}})
	got, err := l.List(t.Context(), prod, nil)
	if err != nil || len(got.Records) != 2 || got.Calls != 5 {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestBounded serves what is too large.
func TestBounded(t *testing.T) {
	endless := strings.Repeat(" ", 1<<20)
	l := lister(t, Config{Clusters: []Cluster{serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprint(w, `{"items": [`)
		for r.Context().Err() == nil {
			if _, err := fmt.Fprint(w, endless); err != nil {
				return
			}
		}
	}))}})
	if _, err := l.List(t.Context(), prod, nil); !errors.Is(err, errTooLarge) {
		t.Errorf("an endless page: %v", err)
	}
	f := newFrames(strings.NewReader(`{"type":"BOOKMARK","object":{}}` + "\n" +
		`{"type":"ADDED","object":"` + strings.Repeat("x", 2*maxFrame)))
	if e, err := f.next(); err != nil || e.Type != "BOOKMARK" {
		t.Errorf("%+v, %v", e, err)
	}
	if _, err := f.next(); !errors.Is(err, errTooLarge) {
		t.Errorf("an endless event: %v", err)
	}
}

// TestTokens: a token is read anew when it changes, and used as long as it is good.
func TestTokens(t *testing.T) {
	var sent []string
	accept := "one"
	c := serve(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		sent = append(sent, token)
		if token != accept {
			fail(w, 401, "Unauthorized", "Unauthorized")
			return
		}
		fmt.Fprint(w, `{"metadata": {"resourceVersion": "1"}, "items": []}`)
	}))
	dir := t.TempDir()
	write := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	ca, file := write("ca", string(c.CA)), write("token", "one\n")
	l := lister(t, Config{Server: c.Endpoint, CAFile: ca, TokenFile: file, Cluster: "prod"})
	if _, err := l.List(t.Context(), prod, nil); err != nil {
		t.Fatal(err)
	}
	accept = "two"
	if _, err := l.List(t.Context(), prod, nil); !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("an old token: %v", err)
	}
	write("token", "two\n")
	if _, err := l.List(t.Context(), prod, nil); err != nil {
		t.Error(err)
	}
	write("token", "")
	if _, err := l.List(t.Context(), prod, nil); !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("no token: %v", err)
	}
	made, life := 0, time.Hour
	c.Token = func(context.Context) (string, time.Time, error) {
		made++
		return fmt.Sprint("made-", made), time.Now().Add(life), nil
	}
	l = lister(t, Config{Clusters: []Cluster{c}})
	accept = "made-1"
	if _, err := l.List(t.Context(), prod, nil); err != nil || made != 1 {
		t.Errorf("%v, %d tokens", err, made)
	}
	accept, life = "made-2", 30*time.Second // too short to be kept
	if _, err := l.List(t.Context(), prod, nil); !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("a token that is refused: %v", err)
	}
	if _, err := l.List(t.Context(), prod, nil); !errors.Is(err, poll.ErrCredentials) || made != 3 {
		t.Errorf("%v, %d tokens, sent %q", err, made, sent)
	}
	for _, token := range []string{"", "a b", "a\nb", "é", strings.Repeat("x", maxToken+1)} {
		c.Token = func(context.Context) (string, time.Time, error) { return token, time.Time{}, nil }
		if _, err := lister(t, Config{Clusters: []Cluster{c}}).List(t.Context(), prod, nil); !errors.Is(err, poll.ErrCredentials) {
			t.Errorf("token %q: %v", poll.Clip(token), err)
		}
	}
}

// TestOtherAuthority: a server with a certificate of somebody else is sent no token.
func TestOtherAuthority(t *testing.T) {
	asked := false
	c := serve(t, http.HandlerFunc(func(http.ResponseWriter, *http.Request) { asked = true }))
	c.CA = authority(t)
	if _, err := lister(t, Config{Clusters: []Cluster{c}}).List(t.Context(), prod, nil); !errors.Is(err, poll.ErrCredentials) || asked {
		t.Errorf("%v, asked: %v", err, asked)
	}
}

// authority returns one that signed nothing here.
func authority(t *testing.T) []byte {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(nil, template, template, public, private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func TestConfig(t *testing.T) {
	for name, cfg := range map[string]Config{
		"two ways":          {Kubeconfig: "x", InCluster: true},
		"context":           {Context: "x"},
		"ca":                {CAFile: "x"},
		"http":              {Server: "http://10.0.0.1"},
		"user":              {Server: "https://u:p@10.0.0.1"},
		"namespace":         {InCluster: true, Namespaces: []string{"A/b"}},
		"namespaces":        {InCluster: true, Namespaces: []string{"a", "a"}},
		"selector":          {InCluster: true, Selector: "a\nb"},
		"cluster":           {InCluster: true, Cluster: "a b"},
		"cluster of others": {Clusters: []Cluster{{Name: "x", Endpoint: "http://10.0.0.1"}}},
	} {
		if _, err := New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

// TestInventory: whatever the order of events, what is known is what a list of the same objects says.
func TestInventory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		inv, all := newInventory(&Cluster{Name: "prod"}), map[string]m{}
		for range rapid.IntRange(1, 40).Draw(t, "events") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "name")
			var o m
			decode := decodeSlice
			if name == "d" || rapid.Bool().Draw(t, "service") {
				decode = decodeService
				o = svc("default", name, m{"mesh/weight": rapid.SampledFrom([]string{"1", "2"}).Draw(t, "weight")})
			} else {
				o = pod(rapid.IntRange(1, 3).Draw(t, "pod"), func(s, e m) {
					s["metadata"].(m)["name"] = "slice-" + name
					s["metadata"].(m)["labels"] = m{serviceLabel: rapid.SampledFrom([]string{"a", "b", "c", ""}).Draw(t, "of")}
					if rapid.Bool().Draw(t, "six") {
						s["addressType"], e["addresses"] = "IPv6", []any{"fd00::1"}
					}
				})
			}
			raw, _ := json.Marshal(o)
			obj, err := decode(raw)
			if err != nil {
				t.Fatal(err)
			}
			if rapid.IntRange(0, 3).Draw(t, "drop") == 0 {
				obj.drop(inv)
				delete(all, fmt.Sprintf("%T%s", obj, id(o)))
			} else {
				obj.put(inv)
				all[fmt.Sprintf("%T%s", obj, id(o))] = o
			}
			if rapid.Bool().Draw(t, "look") {
				_, _ = inv.listing()
			}
		}
		fresh := newInventory(&Cluster{Name: "prod"})
		var s, v []object
		for k, o := range all {
			raw, _ := json.Marshal(o)
			if strings.HasPrefix(k, "*kubernetes.slice") {
				obj, _ := decodeSlice(raw)
				s = append(s, obj)
			} else {
				obj, _ := decodeService(raw)
				v = append(v, obj)
			}
		}
		fresh.replace(endpointSlices, s)
		fresh.replace(services, v)
		got, _ := inv.listing()
		want, _ := fresh.listing()
		if fmt.Sprint(got.Records) != fmt.Sprint(want.Records) || inv.endpoints != fresh.endpoints || len(inv.services) != len(fresh.services) {
			t.Fatalf("after the events\n%v\nlisted anew\n%v", got.Records, want.Records)
		}
	})
}
