package mesh_test

import (
	"fmt"
	"net/http"
	"net/http/cookiejar"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// resolve gives shop a resolver in r.
func (r *region) resolve(spec federation.Resolver) {
	spec.Service = shop
	r.view.Resolvers = map[federation.ServiceName]federation.Resolver{shop: spec}
	r.publish()
}

// label gives the instances of shop labels, in order.
func (r *region) label(labels ...map[string]string) {
	own := *r.view.Local.Service(shop)
	for i := range labels {
		own.Instances[i].Labels = labels[i]
	}
	r.view.Local = federation.NewCatalog(r.view.Local.Revision()+1, map[federation.ServiceName]*federation.LocalService{shop: &own})
}

// named are n instances that say their numbers.
func named(t *testing.T, name string, n int) (addresses []string) {
	for i := range n {
		addresses = append(addresses, server(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprint(w, name, i) }))
	}
	return addresses
}

func TestRequestsOfOneClientStayTogether(t *testing.T) {
	noLeaks(t)
	there := named(t, "gcp", 4)
	aws, gcp, url := httpPair(t, there[0], federation.ProtocolHTTP)
	gcp.serve(shop, there...)
	gcp.speaks(shop, federation.ProtocolHTTP)
	gcp.publish()
	for _, a := range []federation.Affinity{{Cookie: "place", TTL: federation.Duration(time.Hour)}, {Header: "x-user"}} {
		aws.resolve(federation.Resolver{Affinity: &a})
		seen := map[string]bool{}
		for user := range 12 {
			jar, _ := cookiejar.New(nil)
			c := caller(t, false)
			c.Jar = jar
			_, first := fetch(t, c, "GET", url, "x-user", fmt.Sprint(user))
			for range 4 {
				if _, again := fetch(t, c, "GET", url, "x-user", fmt.Sprint(user)); again != first {
					t.Fatalf("%+v: first %s, then %s", a, first, again)
				}
			}
			seen[first] = true
		}
		if len(seen) < 2 {
			t.Errorf("%+v: all clients went to %v", a, seen)
		}
	}
}

func TestSplitsGoToSubsetsThereAndHere(t *testing.T) {
	noLeaks(t)
	there := named(t, "gcp", 3)
	aws, gcp, url := httpPair(t, there[0], federation.ProtocolHTTP)
	gcp.serve(shop, there...)
	gcp.label(map[string]string{"version": "1"}, map[string]string{"version": "2"}, map[string]string{"version": "1"})
	gcp.speaks(shop, federation.ProtocolHTTP)
	gcp.resolve(federation.Resolver{Subsets: map[string]federation.Subset{"v2": {Labels: map[string]string{"version": "2"}}}})
	aws.view.Routes = map[federation.ServiceName]federation.Route{shop: {Service: shop, Rules: []federation.RouteRule{
		{Name: "canary", Split: []federation.Split{{Subset: "v2", Weight: 30}, {Weight: 70}}}}}}
	aws.publish()
	c, got := caller(t, false), map[string]int{}
	for range 200 {
		_, body := fetch(t, c, "GET", url)
		got[body]++
	}
	if n := got["gcp1"]; n < 30 || n > 180 { // 30 % by the split, and whatever the balance gives it of the rest
		t.Errorf("the subset got %d of 200: %v", n, got)
	}
	gcp.resolve(federation.Resolver{})
	ok := 0
	for range 20 {
		if status, _ := fetch(t, c, "GET", url); status == 200 {
			ok++
		}
	}
	if ok == 20 {
		t.Error("a subset that nobody has was taken for all instances")
	}
}

// TestMirror: the copy goes to the other service, once, and the caller hears nothing of it.
func TestMirror(t *testing.T) {
	noLeaks(t)
	next := federation.ServiceName{Namespace: "default", Name: "next"}
	copied := make(chan string, 10)
	aws := newRegion(t, "aws")
	aws.serve(shop, server(t, says("aws")))
	aws.serve(next, server(t, func(w http.ResponseWriter, r *http.Request) {
		copied <- r.Method + " " + r.URL.RequestURI()
		w.WriteHeader(500)
	}))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.speaks(next, federation.ProtocolHTTP)
	aws.intend("local allow web *")
	aws.view.Routes = map[federation.ServiceName]federation.Route{}
	for _, s := range []federation.ServiceName{shop, next} { // a mirror of a mirror would never end
		aws.view.Routes[s] = federation.Route{Service: s, Rules: []federation.RouteRule{{Name: "all", Mirror: &federation.Mirror{Service: next}}}}
	}
	url := "http://" + aws.upstream("up", "shop")
	if status, body := fetch(t, caller(t, false), "GET", url+"/a?b=c"); status != 200 || !strings.HasPrefix(body, "aws GET /a?b=c") {
		t.Errorf("%d %q", status, body)
	}
	if got := <-copied; got != "GET /a?b=c" {
		t.Errorf("the copy was %q", got)
	}
	if status, _ := fetch(t, caller(t, false), "GET", url+"/second"); status != 200 {
		t.Error(status)
	}
	if got := <-copied; got != "GET /second" {
		t.Errorf("the next copy was %q", got)
	}
}

func TestWhoAsksTooOftenIsTold(t *testing.T) {
	noLeaks(t)
	_, gcp, url := httpPair(t, server(t, says("gcp")), federation.ProtocolHTTP)
	gcp.resolve(federation.Resolver{RateLimits: []federation.RateLimit{
		{Per: federation.PerCaller, Rate: federation.Rate{Count: 1, Per: time.Hour}, Burst: 3}}})
	c := caller(t, false)
	for i := range 5 {
		res, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if want := map[bool]int{true: 200, false: 429}[i < 3]; res.StatusCode != want || want == 429 && res.Header.Get("Retry-After") == "" {
			t.Errorf("request %d: %d %v", i, res.StatusCode, res.Header)
		}
	}
}

func TestTooManyRequestsAtOnce(t *testing.T) {
	noLeaks(t)
	begun, release := make(chan struct{}, 10), make(chan struct{})
	aws := newRegion(t, "aws")
	aws.serve(shop, server(t, func(http.ResponseWriter, *http.Request) {
		begun <- struct{}{}
		<-release
	}))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("local allow web shop")
	aws.view.Resolvers[shop] = federation.Resolver{Service: shop, Limits: federation.Limits{Requests: 1, Pending: 1}}
	url := "http://" + aws.upstream("up", "shop")
	c, got := caller(t, false), make(chan int, 3)
	ask := func() {
		status, _ := fetch(t, c, "GET", url)
		got <- status
	}
	go ask()
	<-begun
	go ask() // one of these two waits, and the other is told at once
	go ask()
	if status := <-got; status != 503 {
		t.Errorf("the third request got %d", status)
	}
	close(release)
	if a, b := <-got, <-got; a != 200 || b != 200 {
		t.Errorf("the others got %d and %d", a, b)
	}
}

// TestRetriesStayWithinTheBudget: a service that answers nothing but 503 is not asked much more often than its callers ask.
func TestRetriesStayWithinTheBudget(t *testing.T) {
	noLeaks(t)
	var asked atomic.Int64
	address := server(t, func(w http.ResponseWriter, _ *http.Request) {
		asked.Add(1)
		w.WriteHeader(503)
	})
	aws := newRegion(t, "aws")
	aws.serve(shop, address, address, address)
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("local allow web shop")
	aws.view.Resolvers[shop] = federation.Resolver{Service: shop, RetryBudget: federation.RetryBudget{Percent: 20,
		Minimum: federation.Rate{Count: 1, Per: time.Hour}},
		Outlier: federation.Outlier{ConsecutiveServerErrors: 1_000_000, ConsecutiveFailures: 1_000_000}}
	aws.view.Routes = map[federation.ServiceName]federation.Route{shop: {Service: shop, Rules: []federation.RouteRule{
		{Name: "all", Retry: &federation.Retry{Attempts: 5, On: []federation.RetryOn{"503"}}}}}}
	url := "http://" + aws.upstream("up", "shop")
	c := caller(t, false)
	const requests = 300
	for range requests {
		if status, _ := fetch(t, c, "GET", url); status != 503 {
			t.Fatalf("status %d", status)
		}
	}
	if n := asked.Load(); n > requests*12/10+12 || n < requests*11/10 {
		t.Errorf("%d requests became %d", requests, n)
	}
}
