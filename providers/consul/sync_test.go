package consul

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"context"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/federation"
	"pgregory.net/rapid"
)

// memory is an agent with as much of its API as a Sync uses, and the TTL of its checks.
type memory struct {
	mu       sync.Mutex
	services map[string]*api.AgentService
	checks   map[string]*api.AgentCheck
	ttl      map[string]time.Duration
	beaten   map[string]time.Time
	lapses   int // times that a TTL was over before the beat
	writes   []time.Time
	taken    map[string]bool // names of services elsewhere in the catalog
	fault    func(method, path string) *fault
}

func newMemory() *memory {
	m := &memory{taken: map[string]bool{}}
	m.forget()
	return m
}

// forget is what an agent does that lost its disk.
func (m *memory) forget() {
	m.services, m.checks = map[string]*api.AgentService{}, map[string]*api.AgentCheck{}
	m.ttl, m.beaten = map[string]time.Duration{}, map[string]time.Time{}
}

func (m *memory) lock(f func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f()
}

// RoundTrip implements http.RoundTripper.
func (m *memory) RoundTrip(r *http.Request) (*http.Response, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fault != nil {
		if f := m.fault(r.Method, r.URL.Path); f != nil {
			if f.hang {
				m.mu.Unlock()
				<-r.Context().Done()
				m.mu.Lock()
				return nil, r.Context().Err()
			}
			if f.fail != nil {
				return nil, f.fail
			}
			return answerWith(f.status, f.text), nil
		}
	}
	if r.Method == http.MethodPut && !strings.Contains(r.URL.Path, "/check/update/") {
		m.writes = append(m.writes, time.Now())
	}
	switch p := r.URL.Path; {
	case p == "/v1/agent/services":
		return answerJSON(m.services), nil
	case p == "/v1/agent/checks":
		return answerJSON(m.checks), nil
	case p == "/v1/catalog/services":
		names := map[string][]string{"consul": {}}
		for name := range m.taken {
			names[name] = nil
		}
		for _, s := range m.services {
			if s.Meta[metaSource] != source {
				names[s.Service] = nil
			}
		}
		return answerJSON(names), nil
	case p == "/v1/agent/service/register":
		return m.register(r.Body), nil
	case strings.HasPrefix(p, "/v1/agent/service/deregister/"):
		id := path.Base(p)
		if m.services[id] == nil {
			return answerWith(404, "Unknown service ID"), nil
		}
		delete(m.services, id)
		maps.DeleteFunc(m.checks, func(_ string, c *api.AgentCheck) bool { return c.ServiceID == id })
		return answerWith(200, ""), nil
	case strings.HasPrefix(p, "/v1/agent/check/update/"):
		id := path.Base(p)
		var update struct{ Status string }
		json.NewDecoder(r.Body).Decode(&update)
		if m.checks[id] == nil {
			return answerWith(404, "Unknown check ID"), nil
		}
		if time.Since(m.beaten[id]) > m.ttl[id] {
			m.lapses++
		}
		m.checks[id].Status, m.beaten[id] = update.Status, time.Now()
		return answerWith(200, ""), nil
	}
	return answerWith(404, r.URL.Path), nil
}

func (m *memory) register(body io.Reader) *http.Response {
	var r api.AgentServiceRegistration
	if err := json.NewDecoder(body).Decode(&r); err != nil {
		return answerWith(400, err.Error())
	}
	m.services[r.ID] = &api.AgentService{ID: r.ID, Service: r.Name, Address: r.Address, Port: r.Port, Tags: r.Tags, Meta: r.Meta}
	for _, c := range r.Checks {
		if m.checks[c.CheckID] == nil { // one that exists keeps its status
			m.checks[c.CheckID] = &api.AgentCheck{CheckID: c.CheckID, ServiceID: r.ID, Status: c.Status}
		}
		if d, err := time.ParseDuration(c.TTL); err == nil {
			m.ttl[c.CheckID], m.beaten[c.CheckID] = d, time.Now()
		}
	}
	return answerWith(200, "")
}

func answerWith(status int, text string) *http.Response {
	w := httptest.NewRecorder()
	w.WriteHeader(status)
	io.WriteString(w, text)
	return w.Result()
}

func answerJSON(v any) *http.Response {
	w := httptest.NewRecorder()
	w.Header().Set("X-Consul-KnownLeader", "true")
	w.Header().Set("X-Consul-LastContact", "0")
	json.NewEncoder(w).Encode(v)
	return w.Result()
}

// ours returns name, address and health of what Sync has registered but for the gateway itself, in order.
func (m *memory) ours() (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, s := range m.services {
		if s.Meta[metaOwner] == "aws-1/gw-1" && s.Service != source {
			out = append(out, fmt.Sprintf("%s@%s %s:%d %s", s.Service, s.Tags[1], s.Address, s.Port, m.checks[id+healthSuffix].Status))
		}
	}
	slices.Sort(out)
	return out
}

func (m *memory) sync(t testing.TB, change func(*SyncConfig)) *Sync {
	t.Helper()
	cfg := SyncConfig{Region: "aws-1", Gateway: "gw-1"}
	if change != nil {
		change(&cfg)
	}
	s, err := NewSync(cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.client.http.Transport = bounded{m}
	return s
}

func start(s *Sync) (stop func() error) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	return func() error { cancel(); return <-ended }
}

func imported(name string, port int) Entry {
	service, err := federation.ParseServiceName(name)
	if err != nil {
		panic(err)
	}
	return Entry{Service: service, Regions: []federation.Region{"gcp-1"}, Healthy: true, Address: netip.AddrPortFrom(netip.MustParseAddr("10.0.0.1"), uint16(port))}
}

func TestSyncShowsImports(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		orphan := &api.AgentService{ID: "tradewind:aws-1:gw-1:old", Service: "old",
			Meta: map[string]string{metaSource: source, metaOwner: "aws-1/gw-1"}}
		m.services[orphan.ID] = orphan
		m.services["other"] = &api.AgentService{ID: "other", Service: "other",
			Meta: map[string]string{metaSource: source, metaOwner: "aws-1/gw-2"}}
		m.services["web"] = &api.AgentService{ID: "web", Service: "web"}
		s := m.sync(t, nil)
		stop := start(s)
		settle(2 * time.Minute)
		if m.services[orphan.ID] == nil || len(m.writes) > 0 {
			t.Fatal("something was written before it was known what is wanted")
		}
		e := imported("shop/cart", 2)
		e.Healthy = false
		s.Set([]Entry{imported("orders", 1), e, imported("web", 3), imported("consul", 4), imported("cart-shop", 5),
			{Service: federation.ServiceName{Namespace: "default", Name: "homeless"}}})
		settle(5 * time.Second)
		if st := s.Status(); time.Since(st.LastEqual) > 5*time.Second {
			t.Errorf("status %+v", st)
		}
		want := []string{"cart-shop@gcp-1 10.0.0.1:5 passing", "orders@gcp-1 10.0.0.1:1 passing"}
		if got := m.ours(); !slices.Equal(got, want) {
			t.Errorf("registered %q, want %q", got, want)
		}
		if st := s.Status(); st.Registered != 2 || len(st.Held) != 4 || federation.CodeOf(st.Problem) != federation.CodeConsulSyncHeld {
			t.Errorf("status %+v", st)
		}
		if m.services["other"] == nil || m.services["web"] == nil || m.services[orphan.ID] != nil {
			t.Error("what belongs to others, or an orphan, was mistaken")
		}
		writes := len(m.writes)
		settle(10 * time.Minute)
		if len(m.writes) != writes || m.lapses > 0 {
			t.Errorf("%d writes in ten quiet minutes, %d lapses", len(m.writes)-writes, m.lapses)
		}
		m.lock(func() { m.taken["orders"] = true }) // somebody registers one of his own
		settle(time.Minute)
		if got := m.ours(); len(got) != 1 {
			t.Errorf("registered %q beside a service of that name", got)
		}
		if err := stop(); err != nil {
			t.Error(err)
		}
		if got := m.checks[s.anchor()+aliveSuffix].Status; got != api.HealthCritical {
			t.Errorf("after the end the gateway is %s", got)
		}
		if err := s.Clear(t.Context()); err != nil || len(m.services) != 2 || m.services["other"] == nil || m.services["web"] == nil {
			t.Errorf("cleared: %v, %d services", err, len(m.services))
		}
	})
}

// TestSyncOfManyBeats: the beats go on while thousands of writes wait for their turn.
func TestSyncOfManyBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		s := m.sync(t, func(c *SyncConfig) { c.Writes = 10 })
		stop := start(s)
		var entries []Entry
		for i := range 1000 {
			entries = append(entries, imported(fmt.Sprintf("s%d", i), 1+i))
		}
		s.Set(entries)
		settle(3 * time.Minute)
		if got := len(m.ours()); got != 1000 || m.lapses > 0 {
			t.Errorf("%d registered, %d lapses", got, m.lapses)
		}
		for i := 10; i < len(m.writes); i++ {
			if m.writes[i].Sub(m.writes[i-10]) < 990*time.Millisecond {
				t.Fatalf("writes %d to %d came within %v", i-10, i, m.writes[i].Sub(m.writes[i-10]))
			}
		}
		s.Set(slices.Repeat(entries, 6)) // the same again
		settle(time.Minute)
		if len(m.writes) != 1001 {
			t.Errorf("%d writes, want one for each and one for the gateway", len(m.writes))
		}
		stop()
	})
}

func TestSyncOfAnAgentInTrouble(t *testing.T) {
	denied := `Permission denied: token with AccessorID 'a1' lacks permission 'service:write' on "orders"`
	for _, c := range []struct {
		name  string
		fault func(method, path string) *fault
		code  federation.Code
	}{
		{"away", func(string, string) *fault { return &fault{fail: errors.New("connection refused")} }, federation.CodeConsulSyncFailed},
		{"hung", func(string, string) *fault { return &fault{hang: true} }, federation.CodeConsulSyncFailed},
		{"no leader", func(_, p string) *fault {
			if strings.HasPrefix(p, "/v1/catalog") {
				return &fault{status: 500, text: "No cluster leader"}
			}
			return nil
		}, federation.CodeConsulSyncFailed},
		{"denied", func(m, _ string) *fault {
			if m == http.MethodPut {
				return &fault{status: 403, text: denied}
			}
			return nil
		}, federation.CodeConsulSyncDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				m := newMemory()
				m.fault = c.fault
				s := m.sync(t, nil)
				stop := start(s)
				s.Set([]Entry{imported("orders", 1)})
				settle(5 * time.Minute)
				st := s.Status()
				if federation.CodeOf(st.Problem) != c.code {
					t.Errorf("problem is %v", st.Problem)
				}
				if c.name == "denied" && !strings.Contains(st.Problem.Fix, `service "orders" { policy = "write" }`) {
					t.Errorf("fix is %s", st.Problem.Fix)
				}
				m.lock(func() { m.fault = nil })
				settle(45 * time.Second)
				if st := s.Status(); st.Problem != nil || len(m.ours()) != 1 {
					t.Errorf("after the trouble: %q, %v", m.ours(), st.Problem)
				}
				m.lock(m.forget)
				settle(2 * s.cfg.TTL / 3)
				if len(m.ours()) != 1 {
					t.Error("an agent that forgot everything was not told again at the next beat")
				}
				m.lock(func() { m.fault = c.fault })
				if err := stop(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// TestSyncGivesUpSoon: when the agent goes deaf in the middle of many writes, the first of them finds out for all.
func TestSyncGivesUpSoon(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := newMemory()
		m.fault = func(_, path string) *fault {
			if strings.HasSuffix(path, "/register") && len(m.services) > 20 {
				return &fault{hang: true}
			}
			return nil
		}
		s := m.sync(t, nil)
		stop := start(s)
		var entries []Entry
		for i := range 100 {
			entries = append(entries, imported(fmt.Sprintf("s%d", i), 1+i))
		}
		s.Set(entries)
		settle(10 * time.Second)
		if st := s.Status(); federation.CodeOf(st.Problem) != federation.CodeConsulSyncFailed {
			t.Errorf("problem is %v", st.Problem)
		}
		if m.lapses > 0 {
			t.Errorf("%d lapses", m.lapses)
		}
		stop()
	})
}

// TestSyncConverges: after any history Consul shows what was set last, and what belongs to others is as they left it.
func TestSyncConverges(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		steps := rapid.SliceOfN(rapid.IntRange(0, 9), 1, 12).Draw(rt, "steps")
		picks := rapid.SliceOfN(rapid.IntRange(0, 63), len(steps), len(steps)).Draw(rt, "picks")
		synctest.Test(t, func(t *testing.T) {
			m := newMemory()
			s := m.sync(t, nil)
			stop := start(s)
			var set []Entry
			foreign := map[string]bool{}
			for i, step := range steps {
				pick := picks[i]
				switch {
				case step < 5:
					set = nil
					for n := range 6 {
						if pick>>n&1 == 1 {
							e := imported(fmt.Sprintf("s%d", n), 1+(pick+i)%3)
							e.Healthy = (pick+n)%3 > 0
							set = append(set, e)
						}
					}
					s.Set(set)
				case step < 7:
					m.lock(func() {
						name := fmt.Sprintf("s%d", pick%6)
						foreign[name] = !foreign[name]
						delete(m.services, "foreign-"+name)
						if foreign[name] {
							m.services["foreign-"+name] = &api.AgentService{ID: "foreign-" + name, Service: name}
						}
					})
				case step == 7:
					m.lock(func() { m.fault = func(string, string) *fault { return &fault{status: 500, text: "no"} } })
				case step == 8:
					m.lock(func() { m.fault = nil })
				default: // the gateway starts again
					stop()
					s = m.sync(t, nil)
					stop = start(s)
					s.Set(set)
				}
				settle(time.Duration(pick) * time.Second)
			}
			m.lock(func() { m.fault = nil })
			s.Set(set)
			settle(2 * time.Minute)
			var want []string
			for _, e := range set {
				if !foreign[s.Name(e.Service)] {
					want = append(want, fmt.Sprintf("%s@gcp-1 %v %s", s.Name(e.Service), e.Address, s.registration(e).Checks[1].Status))
				}
			}
			if got := m.ours(); !slices.Equal(got, want) {
				rt.Errorf("registered %q, want %q", got, want)
			}
			for name, there := range foreign {
				if (m.services["foreign-"+name] != nil) != there {
					rt.Errorf("the service %s of somebody else: there is %v", name, !there)
				}
			}
			stop()
		})
	})
}

func TestNewSyncRefuses(t *testing.T) {
	for name, cfg := range map[string]SyncConfig{
		"no region":      {Gateway: "gw-1"},
		"no gateway":     {Region: "aws-1"},
		"prefix":         {Region: "aws-1", Gateway: "gw-1", Prefix: "a.b"},
		"negative":       {Region: "aws-1", Gateway: "gw-1", TTL: -1},
		"secret in text": {Region: "aws-1", Gateway: "gw-1", Access: Access{Address: "http://user:secret@127.0.0.1:8500"}},
	} {
		if _, err := NewSync(cfg); err == nil {
			t.Errorf("%s: no error", name)
		} else if strings.Contains(err.Error(), ":secret") {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}
