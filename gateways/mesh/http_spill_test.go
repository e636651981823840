package mesh_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TestOnlyWhatFitsGoesToThePeer: the instances here die, and the one there does four requests at once; the others queue.
func TestOnlyWhatFitsGoesToThePeer(t *testing.T) {
	noLeaks(t)
	places := make(chan struct{}, 4)
	var most, inside atomic.Int64
	there := server(t, func(w http.ResponseWriter, r *http.Request) {
		n := inside.Add(1)
		defer inside.Add(-1)
		for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
		}
		select {
		case places <- struct{}{}:
		case <-r.Context().Done():
			return
		}
		<-time.After(20 * time.Millisecond) // the work, of which four are done at once
		<-places
		_, _ = fmt.Fprint(w, "gcp")
	})
	aws, _, url := httpPair(t, there, federation.ProtocolHTTP)
	aws.serve(shop, refusing(t))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("local allow web shop")
	aws.publish()
	c := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 200}, Timeout: 10 * time.Second}
	t.Cleanup(c.CloseIdleConnections)
	var served, shed, other, late atomic.Int64
	load := func(callers int, d time.Duration) {
		var wg sync.WaitGroup
		until := time.Now().Add(d)
		for range callers {
			wg.Go(func() {
				for time.Now().Before(until) {
					begin := time.Now()
					res, err := c.Get(url)
					if err != nil {
						other.Add(1)
						continue
					}
					body, _ := io.ReadAll(res.Body)
					_ = res.Body.Close()
					switch {
					case res.StatusCode == 200:
						served.Add(1)
					case res.StatusCode == 503 && res.Header.Get("Retry-After") != "" && strings.Contains(string(body), "no region has room"):
						shed.Add(1)
						if took := time.Since(begin); took > 5*time.Second {
							t.Errorf("it took %v to shed", took) // how long on an idle machine is measured in virtual time
						} else if took > 50*time.Millisecond {
							late.Add(1)
						}
						<-time.After(10 * time.Millisecond)
					default:
						t.Errorf("%d %q", res.StatusCode, body)
					}
				}
			})
		}
		wg.Wait()
	}
	// A quiet time, in which the gateways learn how fast the instances are.
	load(4, 3*time.Second)
	if shed.Load()+other.Load() > 0 {
		t.Errorf("with room for all, %d were shed, %d failed", shed.Load(), other.Load())
	}
	served.Store(0)
	load(100, 4*time.Second)
	t.Logf("served %d, shed %d (%d late), others %d; at most %d were with the instance", served.Load(), shed.Load(), late.Load(), other.Load(), most.Load())
	if served.Load() < 50 || shed.Load() == 0 || other.Load() > 0 {
		t.Errorf("served %d, shed %d, others %d", served.Load(), shed.Load(), other.Load())
	}
	families, err := aws.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, f := range families {
		if name := f.GetName(); name == "tradewind_shed_total" || name == "tradewind_spill_room" {
			found++
		}
	}
	if found != 2 {
		t.Errorf("%d of the two metrics are there", found)
	}
}
