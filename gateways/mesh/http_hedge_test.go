package mesh

import (
	"cmp"
	"io"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TestHedgingCutsTheTail has every 33rd request of each instance take a second, the others 10 ms.
func TestHedgingCutsTheTail(t *testing.T) {
	type at struct {
		regions, instances int
		there              bool
		protocol           federation.Protocol
	}
	for name, at := range map[string]at{
		"another instance": {1, 4, false, federation.ProtocolHTTP}, "another instance, HTTP/2": {1, 4, false, federation.ProtocolHTTP2},
		"another region": {2, 1, false, federation.ProtocolHTTP}, "there": {2, 3, true, federation.ProtocolHTTP},
		"there, HTTP/2": {2, 3, true, federation.ProtocolHTTP2},
	} {
		synctest.Test(t, func(t *testing.T) {
			change := func(hedge *federation.Hedge) func(*federation.View) {
				return func(v *federation.View) {
					speaks(v, at.protocol)
					v.Routes[planShop] = federation.Route{Service: planShop, Rules: []federation.RouteRule{
						{Name: "all", Retry: &federation.Retry{Hedge: hedge}}}}
					if at.there {
						v.Resolvers[planShop] = federation.Resolver{Service: planShop, Failover: []string{"r1", "*"}}
					}
				}
			}
			before, _ := tail(t, at.regions, at.instances, change(nil))
			after, w := tail(t, at.regions, at.instances, change(&federation.Hedge{}))
			t.Logf("%s: p99 %v without, %v with; %+v", name, before.p99, after.p99, after)
			if before.p99 < time.Second || after.p99 > 100*time.Millisecond {
				t.Errorf("%s: p99 was %v, and is %v", name, before.p99, after.p99)
			}
			if extra := after.arrived - after.asked; extra < after.asked/100 || extra > after.asked*5/100+1 || before.arrived != before.asked {
				t.Errorf("%s: %d requests became %d, without hedges %d", name, after.asked, after.arrived, before.arrived)
			}
			if after.outrun < after.asked/100 || after.failed > 0 {
				t.Errorf("%s: %d slow tries were ended, %d requests failed", name, after.outrun, after.failed)
			}
			r := w.regions[0]
			if n := testutil.ToFloat64(r.metrics.hedges.WithLabelValues("shop", hedgeWon)); n < float64(after.asked)/100 {
				t.Errorf("%s: %v were won", name, n)
			}
			for _, r := range w.regions {
				snap := r.cfg.Table.Load()
				local, _ := snap.Local(planShop)
				for _, s := range r.pool(snap, local).Status() {
					if s.Ejected > 0 || s.InFlight != 0 {
						t.Errorf("%s: a try that was outrun counts against an instance: %+v", name, s)
					}
				}
			}
		})
	}
}

// TestWhatIsNotHedged: what is not idempotent, what has a body or must stay where it is, and what is more than the budgets or would be too
// late. All requests take 50 ms, and may be sent a second time after 20.
func TestWhatIsNotHedged(t *testing.T) {
	const asked = 300
	always := federation.Hedge{After: federation.HedgeAfter(20 * time.Millisecond), Percent: 100}
	rarely, late := always, always
	rarely.Percent, late.After = 5, federation.HedgeAfter(40*time.Millisecond)
	little := federation.RetryBudget{Percent: 3, Minimum: federation.Rate{Count: 1, Per: time.Hour}}
	much := federation.RetryBudget{Percent: 100}
	for name, c := range map[string]struct {
		hedge     federation.Hedge
		method    string
		body      string
		timeout   time.Duration // of a try and all
		resolver  federation.Resolver
		instances int
		want      int
	}{
		"all":          {hedge: always, resolver: federation.Resolver{RetryBudget: much}, want: asked},
		"budget":       {hedge: rarely, resolver: federation.Resolver{RetryBudget: much}, want: asked * 5 / 100},
		"retry budget": {hedge: always, resolver: federation.Resolver{RetryBudget: little}, want: asked * 3 / 100},
		"POST":         {hedge: always, method: "POST"},
		"body":         {hedge: always, method: "PUT", body: "body"},
		"too late":     {hedge: late, timeout: 40 * time.Millisecond},
		"affinity":     {hedge: always, resolver: federation.Resolver{Affinity: &federation.Affinity{Source: true}}},
		"only place":   {hedge: always, instances: 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			var arrived atomic.Int64
			w := newHTTPWorld(t, 1, cmp.Or(c.instances, 2), func(int, int) http.HandlerFunc {
				return func(http.ResponseWriter, *http.Request) {
					arrived.Add(1)
					<-time.After(50 * time.Millisecond)
				}
			}, func(v *federation.View) {
				c.resolver.Service = planShop
				v.Resolvers[planShop] = c.resolver
				v.Routes[planShop] = federation.Route{Service: planShop, Rules: []federation.RouteRule{
					{Name: "all", Retry: &federation.Retry{Hedge: &c.hedge}, Timeout: federation.Duration(c.timeout)}}}
			})
			for range asked {
				w.ask(0, cmp.Or(c.method, "GET"), "/", func(r *http.Request) {
					if c.body != "" {
						r.ContentLength, r.Body = int64(len(c.body)), io.NopCloser(strings.NewReader(c.body))
					}
				})
			}
			w.end()
			extra, told := int(arrived.Load())-asked, w.lines(0, `"response_flags":"HG"`)
			if extra > c.want || extra < c.want*9/10 || told != extra {
				t.Errorf("%s: %d were sent twice, want %d; the access log tells of %d", name, extra, c.want, told)
			}
			counted := testutil.ToFloat64(w.regions[0].metrics.hedges.WithLabelValues("shop", hedgeBudget))
			if c.want > 0 && c.want < asked && counted == 0 {
				t.Errorf("%s: none is said to have been refused for the budget", name)
			}
		})
	}
}

type tailed struct {
	asked, arrived, outrun, failed int
	p99                            time.Duration
}

// tail has 3,000 requests served, of which the last 2,500 are measured.
func tail(t *testing.T, regions, instances int, change func(*federation.View)) (tailed, *httpWorld) {
	var mu sync.Mutex
	var got tailed
	count := func(n *int) {
		mu.Lock()
		defer mu.Unlock()
		*n++
	}
	w := newHTTPWorld(t, regions, instances, func(int, int) http.HandlerFunc {
		served := 0
		return func(_ http.ResponseWriter, r *http.Request) {
			count(&got.arrived)
			mu.Lock()
			served++
			slow := served%33 == 0
			mu.Unlock()
			if !slow {
				<-time.After(10 * time.Millisecond)
				return
			}
			select {
			case <-time.After(time.Second):
			case <-r.Context().Done():
				count(&got.outrun)
			}
		}
	}, change)
	var took []time.Duration
	var wg sync.WaitGroup
	for n := range 10 {
		wg.Go(func() {
			<-time.After(time.Duration(n) * time.Millisecond)
			for i := range 300 {
				begin := time.Now()
				status := w.ask(0, "GET", "/")
				if status != http.StatusOK {
					count(&got.failed)
				}
				count(&got.asked)
				if i >= 50 {
					mu.Lock()
					took = append(took, time.Since(begin))
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	synctest.Wait()
	w.end()
	slices.Sort(took)
	got.p99 = took[len(took)*99/100]
	return got, w
}

// TestTriesDoNotMultiply is five regions, 40 % of whose tries fail: by resets, refused connections and answers of 503.
func TestTriesDoNotMultiply(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		chance := &draws{r: rand.New(rand.NewPCG(1, 2))}
		var mu sync.Mutex
		arrived, refused, answered, asked := 0, 0, 0, 0
		count := func(n *int) {
			mu.Lock()
			defer mu.Unlock()
			*n++
		}
		w := newHTTPWorld(t, 5, 4, func(int, int) http.HandlerFunc {
			return func(rw http.ResponseWriter, r *http.Request) {
				count(&arrived)
				switch x := chance.float(); {
				case x < 0.2:
					panic(http.ErrAbortHandler)
				case x < 0.4:
					rw.WriteHeader(http.StatusServiceUnavailable)
				case x < 0.43:
					select {
					case <-time.After(time.Second):
					case <-r.Context().Done():
					}
				default:
					<-time.After(10 * time.Millisecond)
				}
			}
		}, func(v *federation.View) {
			v.Routes[planShop] = federation.Route{Service: planShop, Rules: []federation.RouteRule{{Name: "all",
				Retry: &federation.Retry{Attempts: 5, Hedge: &federation.Hedge{},
					On: []federation.RetryOn{federation.RetryConnect, federation.RetryReset, "503"}}}}}
			order := []string{"local", "*"}
			if v.Region == "r3" || v.Region == "r4" {
				order = []string{"r0", "*"}
			}
			v.Resolvers[planShop] = federation.Resolver{Service: planShop, Failover: order,
				RetryBudget: federation.RetryBudget{Percent: 20, Minimum: federation.Rate{Count: 1, Per: time.Hour}}}
		})
		w.refuses = func(to netip.AddrPort) bool {
			if chance.float() < 0.3 {
				count(&refused)
				return true
			}
			return false
		}
		var wg sync.WaitGroup
		for i := range w.regions {
			for n := range 8 {
				wg.Go(func() {
					<-time.After(time.Duration(n) * time.Millisecond)
					for range 150 {
						count(&asked)
						if w.ask(i, "GET", "/") == http.StatusOK {
							count(&answered)
						}
						<-time.After(5 * time.Millisecond)
					}
				})
			}
		}
		wg.Wait()
		synctest.Wait()
		w.end()
		t.Logf("%d requests became %d tries at instances (%.2f), %d connections were refused; %d were answered well", asked, arrived,
			float64(arrived)/float64(asked), refused, answered)
		if arrived*100 > asked*120 {
			t.Errorf("%d requests became %d", asked, arrived)
		}
		if answered*100 < asked*65 || refused == 0 {
			t.Errorf("%d of %d were answered well, %d connections were refused", answered, asked, refused)
		}
	})
}
