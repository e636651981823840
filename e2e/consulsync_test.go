package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"github.com/tradewind-mesh/tradewind/e2e/world"
	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/providers/consul"
)

// TestSyncToConsul shows imports in a real Consul and asks its DNS server for them.
func TestSyncToConsul(t *testing.T) {
	if job := os.Getenv("TRADEWIND_TEST_SYNC"); job != "" {
		syncUntilKilled(t, job)
		return
	}
	a := startConsul(t, "")
	a.register(t, &api.AgentServiceRegistration{ID: "native", Name: "billing", Address: "10.0.0.9", Port: 1})
	a.register(t, &api.AgentServiceRegistration{ID: "cloud", Name: "reports", Address: "10.0.0.8", Port: 1,
		Meta: map[string]string{"external-source": "tradewind", "tradewind-owner": "aws-1/another"}})

	s := newSync(t, a.http, "")
	stop := runSync(t, s)
	s.Set([]consul.Entry{entry("orders", "10.0.0.1:9001", true), entry("billing", "10.0.0.1:9002", true),
		entry("ill", "10.0.0.1:9003", false)})
	a.answers(t, "orders", "10.0.0.1")
	a.answers(t, "ill")
	a.answers(t, "billing", "10.0.0.9") // as before: the name is taken
	a.answers(t, "reports", "10.0.0.8")
	world.Until(t, 10*time.Second, "the status", func() error {
		if st := s.Status(); st.Registered != 2 || len(st.Held) != 1 || federation.CodeOf(problem(st)) != federation.CodeConsulSyncHeld {
			return fmt.Errorf("status is %+v", st)
		}
		return nil
	})

	s.Set([]consul.Entry{entry("orders", "10.0.0.2:9001", true), entry("ill", "10.0.0.1:9003", true)})
	a.answers(t, "orders", "10.0.0.2")
	a.answers(t, "ill", "10.0.0.1")
	s.Set([]consul.Entry{entry("ill", "10.0.0.1:9003", true)})
	a.answers(t, "orders")
	a.answers(t, "billing", "10.0.0.9")
	a.answers(t, "reports", "10.0.0.8")

	stop() // an orderly end takes effect at once, not after the TTL
	a.answers(t, "ill")

	t.Run("crash", func(t *testing.T) { syncCrash(t, a) })
}

// syncCrash kills a process that shows imports, and starts it again with fewer.
func syncCrash(t *testing.T, a *agent) {
	first := a.startSync(t, "web", "shop")
	a.answers(t, "web", "10.0.0.1")
	a.answers(t, "shop", "10.0.0.1")
	began := time.Now()
	first.kill()
	a.answers(t, "web")
	t.Logf("kill -9 of the gateway to gone from Consul's DNS: %v with a ttl of %v", time.Since(began).Round(time.Millisecond), syncTTL)
	if ids := a.owned(t); !slices.Contains(ids, "web") {
		t.Errorf("services are %v: web should be there still, as critical", ids)
	}

	second := a.startSync(t, "web")
	a.answers(t, "web", "10.0.0.1")
	a.answers(t, "shop")
	world.Until(t, 20*time.Second, "the orphan to go", func() error {
		if ids := a.owned(t); slices.Contains(ids, "shop") {
			return fmt.Errorf("services are %v", ids)
		}
		return nil
	})
	second.kill()
	// Consul's least are a minute, and a look every 30 s.
	world.Until(t, 3*time.Minute, "Consul to remove what nobody comes back for", func() error {
		if ids := a.owned(t); slices.Contains(ids, "web") || slices.Contains(ids, "tradewind") {
			return fmt.Errorf("services are %v", ids)
		}
		return nil
	})
	a.answers(t, "billing", "10.0.0.9")
	a.answers(t, "reports", "10.0.0.8")
}

const syncTTL = 2 * time.Second

func entry(name, address string, healthy bool) consul.Entry {
	return consul.Entry{Service: federation.ServiceName{Namespace: federation.DefaultNamespace, Name: name}, Regions: []federation.Region{"gcp-1"},
		Address: netip.MustParseAddrPort(address), Healthy: healthy}
}

func newSync(t *testing.T, address, tokenFile string) *consul.Sync {
	t.Helper()
	s, err := consul.NewSync(consul.SyncConfig{Access: consul.Access{Address: address, TokenFile: tokenFile},
		Region: "aws-1", Gateway: "gw-1", TTL: syncTTL,
		RemoveAfter: 3 * time.Second, Interval: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// runSync runs s until stop is called, or the test ends.
func runSync(t *testing.T, s *consul.Sync) (stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx); close(ended) }()
	stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// answers waits until Consul's DNS server gives exactly these addresses for a service.
func (a *agent) answers(t *testing.T, service string, want ...string) {
	t.Helper()
	world.Until(t, 30*time.Second, fmt.Sprintf("%s.service.consul to be %v", service, want), func() error {
		got, err := a.lookup(t.Context(), service+".service.consul")
		if len(got) == 0 && len(want) == 0 {
			return nil
		}
		slices.Sort(got)
		if !slices.Equal(got, want) {
			return fmt.Errorf("it is %v (%v)", got, err)
		}
		return nil
	})
}

// owned returns the names of the agent's services.
func (a *agent) owned(t *testing.T) (names []string) {
	t.Helper()
	services, err := a.api.Agent().Services()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range services {
		names = append(names, s.Service)
	}
	return names
}

// syncJob is what another process is to do.
type syncJob struct {
	Address string
	Show    []string
}

type syncProcess struct{ *exec.Cmd }

// startSync starts this test binary again, to be killed.
func (a *agent) startSync(t *testing.T, show ...string) syncProcess {
	t.Helper()
	job, err := json.Marshal(syncJob{a.http, show})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestSyncToConsul$")
	cmd.Env = append(os.Environ(), "TRADEWIND_TEST_SYNC="+string(job))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := syncProcess{cmd}
	t.Cleanup(p.kill)
	return p
}

func (p syncProcess) kill() {
	_ = p.Process.Kill()
	_ = p.Wait()
}

func syncUntilKilled(t *testing.T, text string) {
	var job syncJob
	if err := json.Unmarshal([]byte(text), &job); err != nil {
		t.Fatal(err)
	}
	s := newSync(t, job.Address, "")
	var entries []consul.Entry
	for _, name := range job.Show {
		entries = append(entries, entry(name, "10.0.0.1:9001", true))
	}
	s.Set(entries)
	_ = s.Run(context.Background())
}

// syncDenied shows imports with a token that may only read.
func syncDenied(t *testing.T, a *agent, token string) {
	s := newSync(t, a.http, a.write(t, "sync-token", token))
	runSync(t, s)
	s.Set([]consul.Entry{entry("orders", "10.0.0.1:9001", true)})
	world.Until(t, 20*time.Second, "the denial", func() error {
		st := s.Status()
		var d *federation.Diagnostic
		if !errors.As(problem(st), &d) || d.Code != federation.CodeConsulSyncDenied {
			return fmt.Errorf("status is %+v", st)
		}
		t.Log(d)
		return nil
	})
}

func problem(s consul.SyncStatus) error {
	if s.Problem == nil {
		return nil
	}
	return s.Problem
}
