package mesh_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

// limitOf returns the first limit of a kind, or none.
func limitOf(e mesh.Explanation, kind mesh.LimitKind) mesh.Limit {
	for _, l := range e.Limits {
		if l.Kind == kind {
			return l
		}
	}
	return mesh.Limit{}
}

// TestExplainForecastsRates holds the forecast before each request against what becomes of it, with the limit here and at the peer.
func TestExplainForecastsRates(t *testing.T) {
	noLeaks(t)
	once := federation.Resolver{RateLimits: []federation.RateLimit{
		{Per: federation.PerService, Rate: federation.Rate{Count: 1, Per: time.Hour}, Burst: 9},
		{Per: federation.PerCaller, Rate: federation.Rate{Count: 1, Per: time.Hour}, Burst: 3}}}
	for _, at := range []string{"here", "there"} {
		aws, gcp, url := httpPair(t, server(t, says("gcp")), federation.ProtocolHTTP)
		if at == "here" {
			aws.serve(shop, server(t, says("aws")))
			aws.speaks(shop, federation.ProtocolHTTP)
			aws.resolve(once)
		} else {
			gcp.resolve(once)
		}
		c := caller(t, false)
		in := &mesh.Request{Method: "GET", Target: "/", Host: "shop"}
		for i := range 5 {
			e := explainRequest(t, aws.region, "web", "shop", in)
			if at == "here" {
				if l := limitOf(e, mesh.LimitRate); l.Used != min(i, 3) || l.Limit != 3 || l.Refuses != (i >= 3) || l.Region != "aws" {
					t.Errorf("before request %d: %+v", i, l)
				}
			}
			status, _ := fetch(t, c, "GET", url)
			want := map[bool]mesh.Verdict{true: mesh.VerdictAllowed, false: mesh.VerdictLimited}[status == 200]
			if e.Verdict != want || (status == 200) != (i < 3) || !e.Decision.Allowed {
				t.Errorf("%s: request %d got %d, and was explained as %s: %s", at, i, status, e.Verdict, e.Reason)
			}
			if status != 200 && (!strings.Contains(e.Reason, fmt.Sprint(status)) || !strings.Contains(e.Reason, "more than 1/h for each caller")) {
				t.Errorf("%s: request %d got %d: %s", at, i, status, e.Reason)
			}
		}
		if at == "there" { // the one that sets the limit says the same
			if e := explainRequest(t, gcp.region, "web@aws", "shop", in); e.Verdict != mesh.VerdictLimited || !limitOf(e, mesh.LimitRate).Refuses {
				t.Errorf("%s: %s", e.Verdict, e.Reason)
			}
		}
	}
}

// TestRulesHaveRatesOfTheirOwn: what one rule refuses another lets pass, and explain says so before.
func TestRulesHaveRatesOfTheirOwn(t *testing.T) {
	noLeaks(t)
	hourly := federation.Rate{Count: 1, Per: time.Hour}
	aws, _, url := httpPair(t, server(t, says("gcp")), federation.ProtocolHTTP)
	aws.view.Routes = map[federation.ServiceName]federation.Route{shop: {Service: shop, Rules: []federation.RouteRule{
		{Name: "search", Match: []federation.HTTPMatch{{PathPrefix: "/search"}}, RateLimits: []federation.RateLimit{
			{Per: federation.PerRule, Rate: hourly, Burst: 3}, {Per: federation.PerCaller, Rate: hourly, Burst: 2}}},
		{Name: "stop", Match: []federation.HTTPMatch{{Path: "/stop"}}, Respond: &federation.Respond{Status: 418},
			RateLimits: []federation.RateLimit{{Per: federation.PerRule, Rate: hourly}}},
	}}}
	aws.publish()
	c := caller(t, false)
	for i, want := range []struct {
		path   string
		status int
	}{{"/search/a", 200}, {"/search/b", 200}, {"/search/a", 429}, {"/", 200}, {"/stop", 418}, {"/stop", 429}, {"/other", 200}} {
		e := explainRequest(t, aws.region, "web", "shop", &mesh.Request{Method: "GET", Target: want.path, Host: "shop"})
		status, _ := fetch(t, c, "GET", url+want.path)
		if status != want.status || (e.Verdict == mesh.VerdictLimited) != (status == 429) {
			t.Errorf("request %d for %s: %d, explained as %s: %s", i, want.path, status, e.Verdict, e.Reason)
		}
		if status == 429 && (e.Request.Status != 429 || !strings.Contains(e.Reason, "more than 1/h for each")) {
			t.Errorf("request %d: %+v: %s", i, e.Request, e.Reason)
		}
	}
}

// TestExplainForecastsCrowds: what is under way, who waits, and the next region when this one has none left.
func TestExplainForecastsCrowds(t *testing.T) {
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
	in := &mesh.Request{Method: "GET", Target: "/", Host: "shop"}
	c, got := caller(t, false), make(chan int, 3)
	ask := func() {
		status, _ := fetch(t, c, "GET", url)
		got <- status
	}
	seen := func(used, waiting int, refuses bool) bool {
		e := explainRequest(t, aws, "web", "shop", in)
		l := limitOf(e, mesh.LimitRequests)
		return l.Used == used && l.Waiting == waiting && l.Refuses == refuses && refuses == (e.Verdict == mesh.VerdictLimited)
	}
	if !seen(0, 0, false) {
		t.Error("before any request")
	}
	go ask()
	<-begun
	if !seen(1, 0, false) {
		t.Error("with one request under way")
	}
	go ask()
	eventually(t, "another waits", func() bool { return seen(1, 1, true) })
	ask()
	if status := <-got; status != 503 {
		t.Errorf("a third request got %d", status)
	}
	close(release)
	for range 2 {
		if status := <-got; status != 200 {
			t.Errorf("the others got %d", status)
		}
	}
	eventually(t, "all have left", func() bool { return seen(0, 0, false) })
	e := explainRequest(t, aws, "web", "shop", in)
	if l := limitOf(e, mesh.LimitRetries); l.Limit < 100 || !strings.Contains(l.Text, "of 20% of the requests and 10/s beside") {
		t.Errorf("%+v", l)
	}
}

func TestExplainForecastsConnections(t *testing.T) {
	noLeaks(t)
	aws := newRegion(t, "aws")
	aws.serve(shop, instance(t, echo))
	aws.intend("local allow web shop")
	aws.view.Resolvers[shop] = federation.Resolver{Service: shop, Limits: federation.Limits{Connections: 1}}
	address := aws.upstream("up", "shop")
	if e := explain(t, aws, "web", "shop"); e.Verdict != mesh.VerdictAllowed || limitOf(e, mesh.LimitConnections).Limit != 1 {
		t.Errorf("%s, %+v", e.Verdict, e.Limits)
	}
	held := dial(t, address)
	defer held.Close()
	if _, err := held.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(held, make([]byte, 1)); err != nil { // an instance has it
		t.Fatal(err)
	}
	e := explain(t, aws, "web", "shop")
	if l := limitOf(e, mesh.LimitConnections); e.Verdict != mesh.VerdictLimited || l.Used != 1 || !l.Refuses {
		t.Errorf("%s, %+v", e.Verdict, e.Limits)
	}
}
