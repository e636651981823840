package mesh_test

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

func explainRequest(t *testing.T, r *region, source, destination string, in *mesh.Request) mesh.Explanation {
	t.Helper()
	from, err := federation.ParseServiceRef(source)
	if err != nil {
		t.Fatal(err)
	}
	to, err := federation.ParseServiceRef(destination)
	if err != nil {
		t.Fatal(err)
	}
	e, err := r.Explain(t.Context(), mesh.ExplainRequest{Source: from, Destination: to, Request: in})
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// guard adds an intention for certain requests.
func (r *region) guard(i federation.Intention, matches ...federation.HTTPMatch) {
	for _, m := range matches {
		i.HTTP = append(i.HTTP, federation.Permission{HTTPMatch: m})
	}
	r.view.Intentions = append(slices.Clone(r.view.Intentions), i)
}

// TestExplainAgreesWithWhatRequestsMeet holds the forecast of many requests against what becomes of them.
func TestExplainAgreesWithWhatRequestsMeet(t *testing.T) {
	noLeaks(t)
	aws, gcp, url := httpPair(t, server(t, says("gcp")), federation.ProtocolHTTP)
	aws.serve(shop, server(t, says("aws")))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.view.Intentions = nil
	aws.intend("out allow web shop@gcp")
	aws.guard(federation.Intention{Name: "reads", Action: federation.Allow, Source: "web", Destination: "shop"},
		federation.HTTPMatch{Methods: []string{"GET", "HEAD"}})
	for name, destination := range map[string]string{"secret": "shop", "secret-there": "shop@gcp"} {
		aws.guard(federation.Intention{Name: name, Action: federation.Deny, Source: "web", Destination: destination},
			federation.HTTPMatch{PathPrefix: "/v2/secret"})
	}
	gcp.view.Intentions = nil
	gcp.guard(federation.Intention{Name: "there", Action: federation.Allow, Source: "web@aws", Destination: "shop"},
		federation.HTTPMatch{PathPrefix: "/there"})
	gcp.publish()
	aws.view.Routes = map[federation.ServiceName]federation.Route{shop: {Service: shop, Rules: []federation.RouteRule{
		{Name: "old", Match: []federation.HTTPMatch{{PathPrefix: "/old"}}, Redirect: &federation.Redirect{PathPrefix: "/new", Status: 308}},
		{Name: "teapot", Match: []federation.HTTPMatch{{Path: "/teapot"}}, Respond: &federation.Respond{Status: 418}},
		{Name: "rewritten", Match: []federation.HTTPMatch{{PathPrefix: "/v1"}}, Rewrite: &federation.Rewrite{PathPrefix: "/v2", Host: "in.example.com"}},
		{Name: "hurt", Match: []federation.HTTPMatch{{Path: "/hurt"}}, Fault: &federation.Fault{Abort: 503, AbortPercent: 100}},
		{Name: "slow", Match: []federation.HTTPMatch{{Path: "/slow"}}, Fault: &federation.Fault{Abort: 503, AbortPercent: 0}},
		{Name: "there", Match: []federation.HTTPMatch{{Headers: []federation.FieldMatch{{Name: "x-to", Exact: []string{"gcp"}}}}},
			Split: []federation.Split{{Region: "gcp", Weight: 1}}, Request: &federation.HeaderEdit{Set: map[string]string{"x-set": "1"}}},
	}}}
	aws.publish()
	c := caller(t, false)
	host := strings.TrimPrefix(url, "http://")
	for _, test := range []struct {
		method, target, to string
		verdict            mesh.Verdict
		rule, decided      string
		status             int
		body               string
	}{
		{"GET", "/", "", mesh.VerdictAllowed, "", "reads", 200, "aws GET / "},
		{"POST", "/", "", mesh.VerdictDenied, "", "out", 403, "not allowed"}, // allowed to go to gcp, which refuses
		{"GET", "/old/a?b=c", "", mesh.VerdictAnswered, "old", "", 308, ""},
		{"GET", "/teapot", "", mesh.VerdictAnswered, "teapot", "", 418, ""},
		{"GET", "/hurt", "", mesh.VerdictAnswered, "hurt", "", 503, "aborted"},
		{"GET", "/slow", "", mesh.VerdictAllowed, "slow", "reads", 200, "aws GET /slow"},
		{"GET", "/v1/x?y", "", mesh.VerdictAllowed, "rewritten", "reads", 200, "aws GET /v2/x?y in.example.com"},
		{"GET", "/v1/secret", "", mesh.VerdictDenied, "rewritten", "secret", 403, "TW-7002"},
		{"GET", "/%76%31/secret/x", "", mesh.VerdictDenied, "rewritten", "secret", 403, "TW-7002"},
		{"GET", "/v1/../old", "", mesh.VerdictRefused, "", "", 400, "bad request: dot-segment"},
		{"GET", "/v1%2fsecret", "", mesh.VerdictRefused, "", "", 400, "bad request: encoded-slash"},
		{"GET", "/there/a", "gcp", mesh.VerdictAllowed, "there", "out", 200, "gcp GET /there/a"},
		{"GET", "/elsewhere", "gcp", mesh.VerdictDenied, "there", "out", 403, "not allowed"},
	} {
		in := &mesh.Request{Method: test.method, Target: test.target, Host: host}
		var header []string
		if test.to != "" {
			in.Header, header = map[string][]string{"x-to": {test.to}}, []string{"x-to", test.to}
		}
		e := explainRequest(t, aws.region, "web", "shop", in)
		f := e.Request
		var rule string
		if f.Rule != nil {
			rule = f.Rule.Name
		}
		if e.Verdict != test.verdict || rule != test.rule || e.Decision.Rule != test.decided {
			t.Errorf("%s %s: %s by rule %q and intention %q: %s", test.method, test.target, e.Verdict, rule, e.Decision.Rule, e.Reason)
		}
		status, body := fetch(t, c, test.method, url+test.target, header...)
		if status != test.status || !strings.HasPrefix(body, test.body) {
			t.Errorf("%s %s: %d %q", test.method, test.target, status, body)
		}
		switch e.Verdict {
		case mesh.VerdictAnswered:
			if f.Status != status || f.Location == "" && status == 308 {
				t.Errorf("%s: forecast %+v, got %d", test.target, f, status)
			}
		case mesh.VerdictRefused:
			if !strings.Contains(e.Reason, " "+strings.TrimPrefix(body, "bad request: ")+" (") {
				t.Errorf("%s: forecast %q, got %q", test.target, e.Reason, body)
			}
		case mesh.VerdictAllowed:
			if want := " " + f.Forwarded.Target + " " + f.Forwarded.Host; !strings.Contains(body, want) {
				t.Errorf("%s: forecast %q, the instance saw %q", test.target, want, body)
			}
			if chosen := string(f.Shares[0].Region); !strings.HasPrefix(body, chosen) {
				t.Errorf("%s: forecast %s, got %q", test.target, chosen, body)
			}
		}
	}
	tunnels := &mesh.Request{Method: "CONNECT", Target: "shop:80", Host: "shop:80"} // see TestSmugglingAcrossGateways
	if e := explainRequest(t, aws.region, "web", "shop", tunnels); e.Verdict != mesh.VerdictRefused || !strings.Contains(e.Reason, "501: connect") {
		t.Errorf("CONNECT: %s: %s", e.Verdict, e.Reason)
	}
	if e := explainRequest(t, aws.region, "web", "shop", nil); e.Verdict != mesh.VerdictAllowed || !e.Conditional {
		t.Errorf("without a request: %+v", e)
	}
	arrives := &mesh.Request{Method: "GET", Target: "/there/a", Host: "shop"}
	if e := explainRequest(t, gcp.region, "web@aws", "shop", arrives); e.Verdict != mesh.VerdictAllowed || e.Decision.Rule != "there" {
		t.Errorf("a peer's request: %+v", e)
	}
	arrives.Target = "/else"
	if e := explainRequest(t, gcp.region, "web@aws", "shop", arrives); e.Verdict != mesh.VerdictDenied {
		t.Errorf("a peer's request: %+v", e)
	}
	if e := explainRequest(t, gcp.region, "web@aws", "shop", nil); e.Verdict != mesh.VerdictAllowed || !e.Conditional {
		t.Errorf("a peer's connection: %+v", e)
	}
}

// TestExplainOfASplit: each share is followed by itself, and the verdict is the worst.
func TestExplainOfASplit(t *testing.T) {
	noLeaks(t)
	aws := newRegion(t, "aws")
	other := federation.ServiceName{Namespace: "default", Name: "next"}
	aws.serve(shop, instance(t, echo))
	aws.serve(other, instance(t, echo))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.speaks(other, federation.ProtocolHTTP)
	aws.intend("a allow web shop")
	aws.view.Routes = map[federation.ServiceName]federation.Route{shop: {Service: shop, Rules: []federation.RouteRule{
		{Name: "canary", Split: []federation.Split{{Service: other, Weight: 1}, {Weight: 3}, {Subset: "none", Weight: 0}}},
	}}, other: {Service: other, Rules: []federation.RouteRule{{Name: "part", Split: []federation.Split{{Subset: "none", Weight: 1}}}}}}
	aws.publish()
	in := &mesh.Request{Method: "GET", Target: "/", Host: "shop"}
	e := explainRequest(t, aws, "web", "shop", in)
	shares := e.Request.Shares
	if len(shares) != 2 || shares[0].Percent != 75 || shares[0].Verdict != mesh.VerdictAllowed || shares[1].Percent != 25 ||
		shares[1].Verdict != mesh.VerdictDenied || shares[1].Destination.Service != other {
		t.Errorf("shares %+v", shares)
	}
	if e.Verdict != mesh.VerdictDenied || !strings.HasPrefix(e.Reason, "of some requests") || e.Destination.Service != other {
		t.Errorf("%s: %s", e.Verdict, e.Reason)
	}
	aws.intend("b allow web next")
	aws.publish()
	if e := explainRequest(t, aws, "web", "next", in); e.Verdict != mesh.VerdictUnreachable || e.Request.Shares[0].Subset != "none" {
		t.Errorf("a subset without instances: %+v", e)
	}
	if e := explainRequest(t, aws, "web", "shop", in); e.Verdict != mesh.VerdictAllowed || e.Decision.Rule != "a" || len(e.Candidates) != 1 {
		t.Errorf("%+v", e)
	}
}

// TestOldPeerIsAskedForTheConnection: a version that does not know requests answers as before, and the explanation says so.
func TestOldPeerIsAskedForTheConnection(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, echo))
	gcp.speaks(shop, federation.ProtocolHTTP)
	gcp.publish()
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.publish()
	aws.links.get("gcp").answer = func(ctx context.Context, from federation.Region, q []byte) []byte {
		var old struct {
			Source    string                 `json:"source"`
			Assurance federation.Assurance   `json:"assurance"`
			Service   federation.ServiceName `json:"service"`
		}
		if err := json.Unmarshal(q, &old); err != nil || len(q) > 4<<10 {
			return []byte(`{"verdict":"refused"}`)
		}
		b, err := json.Marshal(old)
		if err != nil {
			t.Error(err)
		}
		return gcp.Answer(ctx, from, b)
	}
	for _, size := range []int{1, 5000} {
		in := &mesh.Request{Method: "GET", Target: "/", Host: "shop", Header: map[string][]string{"x": {strings.Repeat("x", size)}}}
		e := explainRequest(t, aws, "web", "shop", in)
		if e.Verdict != mesh.VerdictAllowed || len(e.Notes) != 1 || !strings.Contains(e.Notes[0], "connections only") {
			t.Errorf("%d octets: %s, %q, %q", size, e.Verdict, e.Reason, e.Notes)
		}
	}
}

// TestPeersQuestionAboutARequest: the answer is about the request, and a refusal says no more than that.
func TestPeersQuestionAboutARequest(t *testing.T) {
	noLeaks(t)
	_, gcp := pair(t, instance(t, echo))
	gcp.speaks(shop, federation.ProtocolHTTP)
	gcp.view.Intentions = nil
	gcp.guard(federation.Intention{Name: "in", Action: federation.Allow, Source: "web@aws", Destination: "shop"},
		federation.HTTPMatch{Path: "/a"})
	gcp.guard(federation.Intention{Name: "strict", Action: federation.Deny, Source: "web@aws", Destination: "shop", Mode: federation.Shadow})
	gcp.publish()
	const head = `{"source":"spiffe://aws.mesh.internal/ns/default/svc/web","assurance":"binding","service":"shop"`
	for question, want := range map[string]string{
		head + `}`: `{"verdict":"allowed","rule":"in","healthy":1,"shadow":"strict","conditional":true}`,
		head + `,"request":{"method":"GET","target":"/a","host":"x"}}`:    `{"verdict":"allowed","rule":"in","healthy":1,"shadow":"strict","judged":true}`,
		head + `,"request":{"method":"GET","target":"/b","host":"x"}}`:    `{"verdict":"refused","judged":true}`,
		head + `,"request":{"method":"GET","target":"/../a","host":"x"}}`: `{"verdict":"refused","judged":true}`,
		head + `,"request":{}}`: `{"verdict":"refused","judged":true}`,
		head + `,"request":{"method":"GET","target":"/a","host":"x\r\ny: z"}}`:               `{"verdict":"refused","judged":true}`,
		head + `,"request":{"target":"/` + strings.Repeat("a", 64<<10) + `"}}`:               `{"verdict":"refused"}`,
		strings.Replace(head, "shop", "none", 1) + `,"request":{"method":"GET","host":"x"}}`: `{"verdict":"refused","judged":true}`,
	} {
		if got := string(gcp.Answer(t.Context(), "aws", []byte(question))); got != want {
			t.Errorf("%.160s was answered %s, want %s", question, got, want)
		}
	}
}

func TestExplainOfARequestThatNobodyLooksInto(t *testing.T) {
	noLeaks(t)
	aws, gcp := pair(t, instance(t, echo))
	aws.publish()
	in := &mesh.Request{Method: "GET", Target: "/../", Host: "x"}
	for _, e := range []mesh.Explanation{explainRequest(t, aws, "web", "shop", in), explainRequest(t, gcp, "web@aws", "shop", in)} {
		if e.Verdict != mesh.VerdictAllowed || e.Request != nil || len(e.Notes) != 1 || !strings.Contains(e.Notes[0], "carried as tcp") {
			t.Errorf("%+v", e)
		}
	}
}

func TestRequestsAndShadowsAreCounted(t *testing.T) {
	noLeaks(t)
	aws := newRegion(t, "aws")
	aws.serve(shop, server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/gone" {
			w.WriteHeader(http.StatusGone)
		}
	}))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("all allow web shop")
	aws.guard(federation.Intention{Name: "strict", Action: federation.Deny, Source: "web", Destination: "shop", Mode: federation.Shadow},
		federation.HTTPMatch{Path: "/gone"})
	url := "http://" + aws.upstream("up", "shop")
	c := caller(t, false)
	for _, path := range []string{"/", "/", "/gone", "/../x"} {
		fetch(t, c, "GET", url+path)
	}
	shadows := map[string]int{}
	for range 4 {
		shadows[aws.lines.next(t).Shadow]++
	}
	if shadows["strict"] != 1 || shadows[""] != 3 {
		t.Errorf("the access log names shadows %v", shadows)
	}
	const want = `# HELP tradewind_http_requests_total Requests that were answered, by the status of the answer.
# TYPE tradewind_http_requests_total counter
tradewind_http_requests_total{code="200",destination="shop",direction="outbound",dst_region="aws",source="web",src_region="aws"} 2
tradewind_http_requests_total{code="400",destination="shop",direction="outbound",dst_region="",source="web",src_region="aws"} 1
tradewind_http_requests_total{code="410",destination="shop",direction="outbound",dst_region="aws",source="web",src_region="aws"} 1
# HELP tradewind_intention_shadow_total Decisions that an intention in shadow mode would have turned round, by that intention.
# TYPE tradewind_intention_shadow_total counter
tradewind_intention_shadow_total{direction="outbound",intention="strict",would="deny"} 1
`
	if err := testutil.GatherAndCompare(aws.metrics, strings.NewReader(want), "tradewind_http_requests_total", "tradewind_intention_shadow_total"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(aws.metrics, "tradewind_http_request_duration_seconds"); err != nil || n != 2 {
		t.Errorf("%d histograms, %v", n, err)
	}
}
