package mesh

import (
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// drainedWorld is two regions, the first of which is drained for its own callers; arrived counts what came to each. Batch jobs count as
// less urgent, and others as more, whatever they say themselves.
func drainedWorld(t *testing.T) (w *httpWorld, arrived func() [2]int) {
	var mu sync.Mutex
	var counts [2]int
	w = newHTTPWorld(t, 2, 2, func(region, _ int) http.HandlerFunc {
		return func(http.ResponseWriter, *http.Request) {
			mu.Lock()
			counts[region]++
			mu.Unlock()
			<-time.After(100 * time.Millisecond)
		}
	}, func(v *federation.View) {
		six, zero := 6, 0
		v.Routes[planShop] = federation.Route{Service: planShop, Rules: []federation.RouteRule{
			{Name: "batch", Match: []federation.HTTPMatch{{Path: "/batch"}}, Priority: &six},
			{Name: "pay", Match: []federation.HTTPMatch{{Path: "/pay"}}, Priority: &zero}}}
		if v.Region == "r0" {
			v.Drains = map[federation.Region]federation.Drain{"r0": {Region: "r0"}}
		}
	})
	return w, func() [2]int {
		mu.Lock()
		defer mu.Unlock()
		now := counts
		counts = [2]int{}
		return now
	}
}

// TestADrainIsNoFlood: what leaves a drained region comes to the other little by little, and not a request is lost.
func TestADrainIsNoFlood(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, arrived := drainedWorld(t)
		var wg sync.WaitGroup
		for range 100 {
			wg.Go(func() {
				for range 80 {
					if status := w.ask(0, "GET", "/"); status != http.StatusOK {
						t.Errorf("status %d", status)
					}
				}
			})
		}
		<-time.After(50 * time.Millisecond)
		if first := arrived(); first != [2]int{80, 20} {
			t.Errorf("at first %v", first)
		}
		<-time.After(6 * time.Second)
		arrived()
		<-time.After(time.Second)
		if last := arrived(); last[0] > 0 || last[1] < 900 {
			t.Errorf("after seven seconds %v in one second", last)
		}
		wg.Wait()
		synctest.Wait()
		w.end()
	})
}

// TestARuleSaysWhatIsUrgent: it counts where a request is sent from and where it arrives, and the word of the caller does not.
func TestARuleSaysWhatIsUrgent(t *testing.T) {
	for path, want := range map[string]int{"/batch": 16, "/": 20, "/pay": 22} {
		synctest.Test(t, func(t *testing.T) {
			w, arrived := drainedWorld(t)
			var wg sync.WaitGroup
			for range 50 {
				wg.Go(func() {
					w.ask(0, "GET", path, func(r *http.Request) {
						if path != "/" {
							r.Header.Set("Priority", "u=3")
						}
					})
				})
			}
			wg.Wait()
			if got := arrived(); got[1] != want {
				t.Errorf("%s: %d moved at once, want %d", path, got[1], want)
			}
			w.end()
		})
	}
	for _, c := range []struct {
		told, says string
		want       int
	}{{"6", "u=0", 6}, {"0", "", 0}, {"", "u=1", 1}, {"9", "u=2", 2}, {"-1", "", 3}} {
		r := &http.Request{Header: http.Header{"Priority": {c.says}}}
		if c.told != "" {
			r.Header[headerUrgency] = []string{c.told}
		}
		if got := takeAsks(r).urgency; got != c.want {
			t.Errorf("%+v counts as %d", c, got)
		}
	}
	six := 6
	tr := &trip{urgency: six, rule: &route.Rule{RouteRule: &federation.RouteRule{Priority: &six}}}
	if fields := tr.tell(time.Time{}); len(fields) != 1 || fields[0].Name != headerUrgency || fields[0].Value != "6" {
		t.Errorf("a peer is told %v", fields)
	}
}
