package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/consul"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// TestConsulProvider watches a real Consul.
func TestConsulProvider(t *testing.T) {
	a := startConsul(t, "")
	t.Run("life", func(t *testing.T) { consulLife(t, a) })
	t.Run("flips", func(t *testing.T) { consulFlips(t, a) })
	t.Run("meaning", func(t *testing.T) { consulMeaning(t, a) })
	t.Run("large", func(t *testing.T) { consulLarge(t, a) })
	t.Run("hung", func(t *testing.T) { consulHung(t, a) })
	t.Run("restart", func(t *testing.T) { consulRestart(t, a) }) // last: it forgets everything
}

// consulLife registers an instance, changes it and takes it away.
func consulLife(t *testing.T, a *agent) {
	w := a.watch(t, consul.Config{Services: []string{"life-*"}})
	w.until(t, "nothing", func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == 0 })
	r := &api.AgentServiceRegistration{ID: "1", Name: "life-a", Address: "10.1.0.1", Port: 8080, Tags: []string{"v1", "mesh/protocol=http"},
		Meta: map[string]string{"mesh-service": "a"}}
	a.register(t, r)
	w.until(t, "the instance", func(l poll.Listing) bool {
		return len(l.Records) == 1 && l.Records[0].Service == "life-a" && l.Records[0].Labels["tag/v1"] == "true" &&
			l.Records[0].Labels["mesh/protocol"] == "http" && l.Records[0].Labels["mesh-service"] == "a" &&
			l.Records[0].Account == "dc1" && slices.Equal(l.Records[0].Ports, []poll.Port{{Number: 8080}})
	})
	r.Port = 8081
	a.register(t, r)
	w.until(t, "its new port", func(l poll.Listing) bool { return len(l.Records) == 1 && l.Records[0].Ports[0].Number == 8081 })
	a.deregister(t, "1")
	w.until(t, "nothing again", func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == 0 })
}

// consulFlips measures from the call that changes a check until the listing is told.
func consulFlips(t *testing.T, a *agent) {
	const (
		services = 20
		rounds   = 4
		limit    = 250 * time.Millisecond // of the 500 ms until a peer sees it; publishing and the exchange need some of it
	)
	id := func(i int) string { return fmt.Sprint("flip-", i) }
	for i := range services {
		a.register(t, &api.AgentServiceRegistration{ID: id(i), Name: id(i), Address: "10.1.0.1", Port: 8080,
			Check: &api.AgentServiceCheck{CheckID: id(i), TTL: "1h", Status: api.HealthPassing}})
		t.Cleanup(func() { a.deregister(t, id(i)) })
	}
	w := a.watch(t, consul.Config{Services: []string{"flip-*"}})
	w.until(t, "the instances", func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == services })
	var took []time.Duration
	for round := range rounds {
		status, health := api.HealthCritical, federation.HealthFailing
		if round%2 == 1 {
			status, health = api.HealthPassing, federation.HealthPassing
		}
		for i := range services {
			began := time.Now()
			a.update(t, id(i), status)
			w.until(t, "the change", func(l poll.Listing) bool {
				return l.Partial == nil && slices.ContainsFunc(l.Records, func(r poll.Record) bool { return r.Service == id(i) && r.Health == health })
			})
			took = append(took, time.Since(began))
		}
	}
	t.Logf("change of a check to told listing: %s", spread(took))
	if p50 := percentile(took, 50); p50 > limit {
		t.Errorf("p50 is %v, at most %v is allowed", p50, limit)
	}
	consulPublished(t, a, id)
}

// consulPublished measures the same until the source publishes its set, from which the exchange takes a few milliseconds more.
func consulPublished(t *testing.T, a *agent, id func(int) string) {
	const limit = 300 * time.Millisecond
	source := poll.New(poll.Config{Name: "consul", Lister: a.lister(t, consul.Config{Services: []string{id(0)}}),
		Rules: []federation.Discover{{Service: "*"}}, Gap: 20 * time.Millisecond}) // as the gateway has it
	ctx, cancel := context.WithCancel(context.Background())
	sets, ended := make(chan []federation.Instance, 1), make(chan error, 1)
	go func() {
		ended <- source.Run(ctx, func(set []federation.Instance) {
			select {
			case <-sets:
			default:
			}
			sets <- set
		})
	}()
	defer func() { cancel(); <-ended }()
	until := func(h federation.Health) {
		t.Helper()
		for late := time.After(30 * time.Second); ; {
			select {
			case set := <-sets:
				if len(set) == 1 && set[0].Health == h {
					return
				}
			case <-late:
				t.Fatalf("no set with the instance as %v was published", h)
			}
		}
	}
	until(federation.HealthPassing)
	world.Until(t, 30*time.Second, "the source to watch", func() error {
		if st := source.Status(); len(st.Scopes) != 1 || !st.Scopes[0].Watching {
			return fmt.Errorf("status %+v", st)
		}
		return nil
	})
	var took []time.Duration
	for round := range 10 {
		status, health := api.HealthCritical, federation.HealthFailing
		if round%2 == 1 {
			status, health = api.HealthPassing, federation.HealthPassing
		}
		began := time.Now()
		a.update(t, id(0), status)
		until(health)
		took = append(took, time.Since(began))
	}
	t.Logf("change of a check to published set: %s", spread(took))
	if p50 := percentile(took, 50); p50 > limit {
		t.Errorf("p50 is %v, at most %v is allowed", p50, limit)
	}
}

// consulMeaning registers what is more than an instance with a check.
func consulMeaning(t *testing.T, a *agent) {
	a.register(t, &api.AgentServiceRegistration{ID: "plain", Name: "meaning", Port: 1, Weights: &api.AgentWeights{Passing: 3, Warning: 2},
		Check:           &api.AgentServiceCheck{CheckID: "plain", TTL: "1h", Status: api.HealthPassing},
		Connect:         &api.AgentServiceConnect{SidecarService: &api.AgentServiceRegistration{}},
		TaggedAddresses: map[string]api.ServiceAddress{"wan": {Address: "192.0.2.7", Port: 443}}})
	a.register(t, &api.AgentServiceRegistration{ID: "ours", Name: "meaning-import", Port: 1,
		Meta: map[string]string{"external-source": "tradewind"}})
	t.Cleanup(func() { a.deregister(t, "plain"); a.deregister(t, "ours") })
	w := a.watch(t, consul.Config{Services: []string{"meaning*"}})
	one := func(what string, f func(r poll.Record) bool) {
		t.Helper()
		w.until(t, what, func(l poll.Listing) bool {
			return len(l.Records) == 1 && l.Records[0].Service == "meaning" && f(l.Records[0])
		})
	}
	one("neither the sidecar nor an import", func(r poll.Record) bool {
		return r.Health == federation.HealthPassing && r.Weight == 300 && r.Addresses[0] == netip.MustParseAddr("127.0.0.1")
	})
	a.update(t, "plain", api.HealthWarning)
	one("a warning", func(r poll.Record) bool { return r.Health == federation.HealthPassing && r.Weight == 200 })
	if err := a.api.Agent().EnableServiceMaintenance("plain", "test"); err != nil {
		t.Fatal(err)
	}
	one("maintenance", func(r poll.Record) bool { return r.State == poll.StateDraining })
	if err := a.api.Agent().DisableServiceMaintenance("plain"); err != nil {
		t.Fatal(err)
	}
	one("the end of it", func(r poll.Record) bool { return r.State == poll.StateRunning })

	for _, c := range []struct {
		what string
		cfg  consul.Config
		want int
	}{
		{"filter", consul.Config{Filter: `Service.Weights.Passing == 3`}, 1},
		{"filter that fits nothing", consul.Config{Filter: `Service.Weights.Passing == 4`}, 0},
		{"tag", consul.Config{Tags: []string{"none"}}, 0},
		{"proxies", consul.Config{Proxies: true}, 2},
		{"all datacenters", consul.Config{Datacenters: []string{"*"}}, 1},
	} {
		c.cfg.Services = []string{"meaning*"}
		if l := a.list(t, c.cfg); len(l.Records) != c.want || l.Partial != nil {
			t.Errorf("%s: %d records, partial: %v; want %d", c.what, len(l.Records), l.Partial, c.want)
		}
	}
	wan := a.list(t, consul.Config{Services: []string{"meaning"}, AddressTag: "wan"})
	if r := wan.Records[0]; r.Addresses[0] != netip.MustParseAddr("192.0.2.7") || r.Ports[0].Number != 443 {
		t.Errorf("tagged address: %v port %v", r.Addresses, r.Ports)
	}
	shop := poll.Scope{Provider: "consul", Kind: consul.Kind, Part: "/shop"}
	if _, err := a.lister(t, consul.Config{Namespaces: []string{"shop"}}).List(t.Context(), shop, nil); err == nil {
		t.Error("a namespace was listed by a Consul that has none")
	}
}

// consulLarge has a service of a thousand instances on external nodes, and flips one of them.
func consulLarge(t *testing.T, a *agent) {
	const instances = 1000
	began := time.Now()
	for first := 0; first < instances; first += 50 {
		var ops api.TxnOps
		node := fmt.Sprintf("large-%d", first)
		ops = append(ops, &api.TxnOp{Node: &api.NodeTxnOp{Verb: api.NodeSet, Node: api.Node{Node: node, Address: "10.2.0.1"}}})
		for i := first; i < first+50; i++ {
			ops = append(ops, &api.TxnOp{Service: &api.ServiceTxnOp{Verb: api.ServiceSet, Node: node, Service: api.AgentService{
				ID: fmt.Sprint("large-", i), Service: "large", Address: fmt.Sprintf("10.2.%d.%d", i/250, i%250+1), Port: 80}}})
		}
		if ok, answer, _, err := a.api.Txn().Txn(ops, nil); err != nil || !ok {
			t.Fatal(err, answer)
		}
	}
	t.Logf("registered %d instances in %v", instances, time.Since(began).Round(time.Millisecond))
	w := a.watch(t, consul.Config{Services: []string{"large"}})
	w.until(t, "all instances", func(l poll.Listing) bool { return len(l.Records) == instances && l.Partial == nil })
	failing := func(n int) func(poll.Listing) bool {
		return func(l poll.Listing) bool {
			return n == len(slices.DeleteFunc(slices.Clone(l.Records), func(r poll.Record) bool { return r.Health != federation.HealthFailing }))
		}
	}
	var took []time.Duration
	for i := range 10 {
		began := time.Now()
		_, err := a.api.Catalog().Register(&api.CatalogRegistration{Node: "large-0", Address: "10.2.0.1", SkipNodeUpdate: true,
			Check: &api.AgentCheck{Node: "large-0", CheckID: fmt.Sprint("c", i), Name: "c",
				ServiceID: fmt.Sprint("large-", i), Status: api.HealthCritical}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.until(t, "one more failing instance", failing(i+1))
		took = append(took, time.Since(began))
	}
	t.Logf("one check of %d instances to told listing: %s", instances, spread(took))
	for first := 0; first < instances; first += 50 {
		if _, err := a.api.Catalog().Deregister(&api.CatalogDeregistration{Node: fmt.Sprintf("large-%d", first)}, nil); err != nil {
			t.Fatal(err)
		}
	}
	w.until(t, "none", func(l poll.Listing) bool { return len(l.Records) == 0 && l.Partial == nil })
}

// consulHung puts a relay between, which goes deaf: connections stay open and carry nothing.
func consulHung(t *testing.T, a *agent) {
	r := startRelay(t, a.http)
	a.register(t, &api.AgentServiceRegistration{ID: "hung-1", Name: "hung", Port: 1})
	t.Cleanup(func() { a.deregister(t, "hung-1"); a.deregister(t, "hung-2") })
	w := a.watch(t, consul.Config{Access: consul.Access{Address: r.address, Timeout: time.Second}, Services: []string{"hung"},
		Wait: 2 * time.Second})
	count := func(n int) func(poll.Listing) bool {
		return func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == n }
	}
	w.until(t, "one instance", count(1))
	r.deafen()
	began := time.Now()
	a.register(t, &api.AgentServiceRegistration{ID: "hung-2", Name: "hung", Port: 1})
	w.until(t, "a partial listing", func(l poll.Listing) bool { return l.Partial != nil })
	w.until(t, "two instances", count(2))
	t.Logf("a watch that hung was mended after %v", time.Since(began).Round(time.Millisecond))
}

// consulRestart ends the server and starts one that knows nothing, whose index begins anew.
func consulRestart(t *testing.T, a *agent) {
	for i := range 300 { // writes, so that the index is far above that of the next life
		if _, err := a.api.KV().Put(&api.KVPair{Key: "k", Value: []byte(fmt.Sprint(i))}, nil); err != nil {
			t.Fatal(err)
		}
	}
	a.register(t, &api.AgentServiceRegistration{ID: "before", Name: "restart", Port: 1})
	w := a.watch(t, consul.Config{Services: []string{"restart"}})
	w.until(t, "the instance", func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == 1 })
	a.kill()
	l := w.until(t, "that Consul is away", func(l poll.Listing) bool { return l.Partial != nil })
	t.Logf("without a server: %v", l.Partial)
	w.never(func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == 0 })
	w.allow()
	a.start(t)
	a.register(t, &api.AgentServiceRegistration{ID: "after", Name: "restart", Port: 2})
	began := time.Now()
	w.until(t, "the instance of the new life", func(l poll.Listing) bool {
		return l.Partial == nil && len(l.Records) == 1 && l.Records[0].Ports[0].Number == 2
	})
	t.Logf("the new server was followed %v after its first registration", time.Since(began).Round(time.Millisecond))
	a.deregister(t, "after")
	w.until(t, "nothing", func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == 0 })
}

// TestConsulStale reads from a server that has lost its leader.
func TestConsulStale(t *testing.T) {
	first := startConsul(t, `server = true
bootstrap_expect = 2
`)
	second := startConsul(t, fmt.Sprintf(`server = true
bootstrap_expect = 2
retry_join = [%q]
retry_interval = "1s"
`, first.serf))
	first.elected(t)
	first.register(t, &api.AgentServiceRegistration{ID: "1", Name: "stale", Port: 1})
	w := second.watch(t, consul.Config{Services: []string{"stale"}, Wait: 2 * time.Second})
	w.until(t, "the instance", func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == 1 })
	first.kill()
	w.never(func(l poll.Listing) bool { return l.Partial == nil && len(l.Records) == 0 })
	w.until(t, "doubt", func(l poll.Listing) bool { return l.Partial != nil })
	world.Until(t, 30*time.Second, "an answer without a leader", func() error {
		l, err := second.lister(t, consul.Config{Services: []string{"stale"}}).List(t.Context(), scope, nil)
		if err != nil {
			return err
		}
		if l.Partial == nil || len(l.Records) != 1 {
			return fmt.Errorf("%d records, partial: %v", len(l.Records), l.Partial)
		}
		return nil
	})
}

// TestConsulDenied lists with tokens that may see less and less.
func TestConsulDenied(t *testing.T) {
	a := startConsul(t, fmt.Sprintf(`acl {
  enabled = true
  default_policy = "deny"
  tokens { initial_management = %q, agent = %q }
}
`, rootToken, rootToken))
	for _, name := range []string{"web", "db"} {
		a.register(t, &api.AgentServiceRegistration{ID: name, Name: name, Port: 1})
	}
	token := func(rules string) string {
		t.Helper()
		policy, _, err := a.api.ACL().PolicyCreate(&api.ACLPolicy{Name: fmt.Sprint("p", time.Now().UnixNano()), Rules: rules}, nil)
		if err != nil {
			t.Fatal(err)
		}
		made, _, err := a.api.ACL().TokenCreate(&api.ACLToken{Policies: []*api.ACLTokenPolicyLink{{ID: policy.ID}}}, nil)
		if err != nil {
			t.Fatal(err)
		}
		return made.SecretID
	}
	list := func(secret string) (poll.Listing, error) {
		cfg := consul.Config{}
		if secret != "" {
			cfg.TokenFile = a.write(t, "token", secret)
		}
		return a.lister(t, cfg).List(t.Context(), scope, nil)
	}
	var denied *poll.DeniedError
	if _, err := list(""); !errors.As(err, &denied) || denied.Action != `service_prefix "" { policy = "read" }` {
		t.Errorf("without a token: %v", err)
	}
	if _, err := list(token(`key "x" { policy = "read" }`)); !errors.As(err, &denied) {
		t.Errorf("a token without the rule: %v", err)
	}
	if _, err := list("00000000-0000-0000-0000-00000000dead"); !errors.Is(err, poll.ErrCredentials) {
		t.Errorf("a token that does not exist: %v", err)
	}
	if l, err := list(token(`service_prefix "" { policy = "read" }`)); err != nil || l.Partial == nil {
		t.Errorf("a token that may not see nodes: %v, partial: %v", err, l.Partial)
	}
	const nodes = ` node_prefix "" { policy = "read" }`
	if l, err := list(token(`service "web" { policy = "read" }` + nodes)); err != nil || l.Partial != nil || len(l.Records) != 1 {
		t.Errorf("a token for one service: %d records, %v, partial: %v", len(l.Records), err, l.Partial)
	}
	if l, err := list(token(`service_prefix "" { policy = "read" }` + nodes)); err != nil || l.Partial != nil || len(l.Records) != 2 {
		t.Errorf("a token for all: %d records, %v, partial: %v", len(l.Records), err, l.Partial)
	}
	syncDenied(t, a, token(`service_prefix "" { policy = "read" }`+nodes))
}

var scope = poll.Scope{Provider: "consul", Kind: consul.Kind}
