package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// drainLoad is a client that sends requests at a steady rate, and notes who answered when.
type drainLoad struct {
	failed atomic.Int64
	total  atomic.Int64
	mu     sync.Mutex
	last   map[string]time.Time // answer of each region
	count  map[string]int
	errs   []string
}

// load sends a request to url every interval until ctx ends.
func (s *drainLoad) load(ctx context.Context, client *http.Client, url string, interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		wg.Go(func() { s.send(client, url) })
	}
}

func (s *drainLoad) send(client *http.Client, url string) {
	s.total.Add(1)
	res, err := client.Get(url)
	var body []byte
	if err == nil {
		body, err = io.ReadAll(io.LimitReader(res.Body, 1024))
		_ = res.Body.Close()
		if err == nil && res.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", res.Status, body)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.failed.Add(1)
		s.errs = append(s.errs, err.Error())
		return
	}
	region := strings.TrimSpace(string(body))
	s.last[region] = time.Now()
	s.count[region]++
}

// reset begins to count anew.
func (s *drainLoad) reset() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count = map[string]int{}
}

func (s *drainLoad) of(region string) (int, time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.count[region], s.last[region]
}

// TestDrain takes the preferred region out of service and back under load: no request may fail, over kept connections of HTTP and over
// new ones of a service that is carried as bytes.
func TestDrain(t *testing.T) {
	aws, gcp, azure := threeRegions(t)
	for _, c := range []*world.Region{aws, azure} {
		c.Apply(`service "raw" {
  instance "nginx" { address = "127.0.0.1:8080" }
}
export "raw" { to = ["*"] }
intention "raw-in" {
  source      = "client@gcp-europe-west1"
  destination = "raw"
  action      = "allow"
}`)
	}
	gcp.Apply(strings.NewReplacer(`"web"`, `"raw"`, "web@", "raw@", "9001", "9002", "client-out", "raw-out").Replace(callingHCL))
	kept := &http.Client{Transport: &http.Transport{DialContext: gcp.Dial, MaxIdleConnsPerHost: 64}, Timeout: 10 * time.Second}
	anew := &http.Client{Transport: &http.Transport{DialContext: gcp.Dial, DisableKeepAlives: true}, Timeout: 10 * time.Second}
	world.Until(t, 20*time.Second, "an answer of raw", func() error {
		res, err := anew.Get("http://127.0.0.1:9002/region")
		if err == nil {
			_ = res.Body.Close()
		}
		return err
	})
	loads := map[string]*drainLoad{"http": {last: map[string]time.Time{}, count: map[string]int{}}, "tcp": {last: map[string]time.Time{}, count: map[string]int{}}}
	ctx, stop := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { loads["http"].load(ctx, kept, "http://127.0.0.1:9001/region", time.Millisecond) })
	wg.Go(func() { loads["tcp"].load(ctx, anew, "http://127.0.0.1:9002/region", 10*time.Millisecond) })
	defer func() { stop(); wg.Wait(); kept.CloseIdleConnections() }()
	world.Until(t, 20*time.Second, "load on both", func() error {
		for name, s := range loads {
			if n, _ := s.of(aws.Name); n < 100 {
				return fmt.Errorf("%s: %d answers", name, n)
			}
		}
		return nil
	})
	t.Log(gcp.CLI("failover", "test", aws.Name))
	begin := time.Now()
	t.Log(gcp.CLI("failover", "drain", aws.Name))
	for name, s := range loads {
		_, last := s.of(aws.Name)
		t.Logf("%s: last answer of the drained region %v after the drain began", name, last.Sub(begin).Round(time.Millisecond))
		if last.Sub(begin) > 5*time.Second {
			t.Errorf("%s: the region still answers", name)
		}
		s.reset()
	}
	t.Log(gcp.CLI("failover", "return", aws.Name))
	for name, s := range loads {
		back, _ := s.of(aws.Name)
		other, _ := s.of(azure.Name)
		t.Logf("%s: during the return %d answers of the region that comes back, %d of the other", name, back, other)
		if back == 0 || other == 0 {
			t.Errorf("%s: there was no ramp", name)
		}
		s.reset()
	}
	waitServed(t, gcp, aws.Name)
	stop()
	wg.Wait()
	// The drain is the region's, not the process's.
	gcp.CLI("failover", "drain", aws.Name)
	gcp.Gateway.Kill()
	gcp.StartGateway()
	waitServed(t, gcp, azure.Name)
	if status := gcp.CLI("status"); !strings.Contains(status, "DRAIN  "+aws.Name) {
		t.Errorf("status after a restart:\n%s", status)
	}
	for name, s := range loads {
		t.Logf("%s: %d requests, %d failed", name, s.total.Load(), s.failed.Load())
		if n, _ := s.of(azure.Name); s.failed.Load() != 0 {
			t.Errorf("%s: %d failed, %d went elsewhere after the return: %s", name, s.failed.Load(), n, s.errs[len(s.errs)-1])
		}
	}
}
