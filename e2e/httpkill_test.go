package e2e

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// steady is a load of keep-alive connections, each of which sends a request every so often.
type steady struct {
	sent, failed atomic.Int64
	mu           sync.Mutex
	from         map[string]int // answers by region
	errs         []string
	stop         context.CancelFunc
	running      sync.WaitGroup
}

// load starts a load of callers in c; every is how often each sends.
func load(t *testing.T, c *world.Region, callers int, every time.Duration) *steady {
	ctx, stop := context.WithCancel(t.Context())
	s := &steady{from: map[string]int{}, stop: stop}
	for range callers {
		s.running.Go(func() {
			k := &keepAlive{at: c, port: portWeb}
			defer k.close()
			tick := time.NewTicker(every)
			defer tick.Stop()
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				region, err := k.get()
				s.note(region, err)
			}
		})
	}
	t.Cleanup(s.end)
	return s
}

func (s *steady) note(region string, err error) {
	s.sent.Add(1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failed.Add(1)
		s.errs = append(s.errs, err.Error())
		return
	}
	s.from[region]++
}

func (s *steady) end() { s.stop(); s.running.Wait() }

// until waits until region has answered n more requests.
func (s *steady) until(t *testing.T, region string, n int) {
	t.Helper()
	answered := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.from[region]
	}
	want := answered() + n
	world.Until(t, 30*time.Second, "answers from "+region, func() error {
		if got := answered(); got < want {
			return fmt.Errorf("%d of %d", got, want)
		}
		return nil
	})
}

// report fails the test when more requests failed than may.
func (s *steady) report(t *testing.T, what string, most int64) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.Logf("%s: %d requests, %d failed, answered by %v %q", what, s.sent.Load(), s.failed.Load(), s.from, s.errs[:min(len(s.errs), 10)])
	if s.failed.Load() > most {
		t.Errorf("%s: %d requests failed, %d may", what, s.failed.Load(), most)
	}
}

// TestHTTPKill kills an instance and a gateway in the middle of keep-alive load: only what was under way there may be lost.
func TestHTTPKill(t *testing.T) {
	const callers = 16
	aws, gcp, azure := threeRegions(t)
	second := startNginx(aws, 8081, aws.Dir, aws.Name)
	aws.Apply(strings.Replace(servingHCL, `check "http"`, "instance \"second\" { address = \"127.0.0.1:8081\" }\n  check \"http\"", 1))
	t.Run("instance", func(t *testing.T) {
		s := load(t, gcp, callers, 5*time.Millisecond)
		s.until(t, aws.Name, 500)
		second.Kill()
		s.until(t, aws.Name, 1500)
		s.end()
		s.report(t, "an instance is killed", callers)
	})
	t.Run("gateway", func(t *testing.T) {
		s := load(t, gcp, callers, 5*time.Millisecond)
		s.until(t, aws.Name, 500)
		aws.Gateway.Kill()
		s.until(t, azure.Name, 500)
		aws.StartGateway()
		s.until(t, aws.Name, 500)
		s.end()
		s.report(t, "a gateway is killed and comes back", callers)
	})
}

// TestHTTPDrain stops a gateway in order under 1,000 requests a second: none may fail.
func TestHTTPDrain(t *testing.T) {
	aws, gcp, azure := threeRegions(t)
	s := load(t, gcp, 50, 50*time.Millisecond)
	s.until(t, aws.Name, 1000)
	aws.Gateway.Signal(syscall.SIGTERM)
	s.until(t, azure.Name, 1000)
	if err := aws.Gateway.Wait(20 * time.Second); err != nil {
		t.Error(err)
	}
	aws.StartGateway()
	s.until(t, aws.Name, 1000)
	s.end()
	s.report(t, "the gateway that serves is drained and comes back", 0)

	// The one that calls: every request that it took is answered, and the connection's end announced.
	s = load(t, gcp, 50, 50*time.Millisecond)
	s.until(t, aws.Name, 1000)
	gcp.Gateway.Signal(syscall.SIGTERM)
	if err := gcp.Gateway.Wait(20 * time.Second); err != nil {
		t.Error(err)
	}
	s.end()
	lost := 0
	for _, e := range s.errs {
		if !strings.Contains(e, "connection refused") {
			lost++
		}
	}
	if t.Logf("the gateway that calls is drained: %d requests, %d lost", s.sent.Load(), lost); lost > 0 {
		t.Errorf("lost: %q", s.errs[:min(len(s.errs), 10)])
	}
}
