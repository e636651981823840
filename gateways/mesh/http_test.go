package mesh_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// speaks makes p the protocol of name, here and in what peers show.
func (r *region) speaks(name federation.ServiceName, p federation.Protocol) {
	if s := r.view.Local.Service(name); s != nil {
		own := *s
		own.Protocol = p
		services := map[federation.ServiceName]*federation.LocalService{}
		for _, other := range r.view.Local.Names() {
			services[other] = r.view.Local.Service(other)
		}
		services[name] = &own
		r.view.Local = federation.NewCatalog(r.view.Local.Revision()+1, services)
	}
	for _, imported := range r.view.Imports {
		if s := imported.Services[name]; s != nil {
			s.Protocol = p
		}
	}
}

// web is an HTTP server, both versions.
func server(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = both()
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func both() *http.Protocols {
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	return p
}

func caller(t *testing.T, two bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!two)
	p.SetUnencryptedHTTP2(two)
	transport := &http.Transport{Protocols: p, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 10 * time.Second,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// fetch returns the status and the body.
func fetch(t *testing.T, c *http.Client, method, url string, header ...string) (int, string) {
	t.Helper()
	r, err := http.NewRequest(method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	res, err := c.Do(r)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		t.Error(err)
	}
	return res.StatusCode, strings.TrimSpace(string(body))
}

// says is an instance that tells what it was asked.
func says(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Tradewind-Outcome", "unavailable") // no instance may speak as a gateway
		_, _ = fmt.Fprint(w, name, " ", r.Method, " ", r.URL.RequestURI(), " ", r.Host, " ", r.Header.Get("X-Tradewind-Caller"), " ", r.Header.Get("X-Set"))
	}
}

// httpPair is aws, which calls shop, and gcp, which serves it; shop is served at address in gcp.
func httpPair(t *testing.T, address string, p federation.Protocol) (aws, gcp *tunnelled, url string) {
	t.Helper()
	aws, gcp = quicPair(t, address)
	gcp.speaks(shop, p)
	gcp.publish()
	aws.speaks(shop, p)
	return aws, gcp, "http://" + aws.upstream("up", "shop")
}

func TestRequestsCrossRegions(t *testing.T) {
	noLeaks(t)
	address := server(t, says("gcp"))
	for _, p := range []federation.Protocol{federation.ProtocolHTTP, federation.ProtocolHTTP2} {
		_, _, url := httpPair(t, address, p)
		for _, two := range []bool{false, true} {
			c := caller(t, two)
			for range 3 {
				status, body := fetch(t, c, "GET", url+"/a%2db?q=1", "Host", "x", "X-Tradewind-Caller", "spiffe://forged")
				want := "gcp GET /a-b?q=1 " + strings.TrimPrefix(url, "http://") + " spiffe://aws.mesh.internal/ns/default/svc/web"
				if status != 200 || body != want {
					t.Fatalf("%s, two=%v: %d %q, want %q", p, two, status, body, want)
				}
			}
		}
	}
}

func TestRulesDecideRequests(t *testing.T) {
	noLeaks(t)
	aws, _, url := httpPair(t, server(t, says("gcp")), federation.ProtocolHTTP)
	aws.serve(shop, server(t, says("aws")))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("local allow web shop")
	aws.view.Routes = map[federation.ServiceName]federation.Route{shop: {Service: shop, Rules: []federation.RouteRule{
		{Name: "teapot", Match: []federation.HTTPMatch{{Path: "/teapot"}}, Respond: &federation.Respond{Status: 418, Body: "short and stout"},
			Response: &federation.HeaderEdit{Set: map[string]string{"x-by": "rule"}}},
		{Name: "moved", Match: []federation.HTTPMatch{{PathPrefix: "/old"}}, Redirect: &federation.Redirect{PathPrefix: "/new", Host: "example.com"}},
		{Name: "there", Match: []federation.HTTPMatch{{Headers: []federation.FieldMatch{{Name: "x-region", Exact: []string{"gcp"}}}}},
			Split: []federation.Split{{Region: "gcp", Weight: 1}}},
		{Name: "rewritten", Match: []federation.HTTPMatch{{PathTemplate: "/users/{id}/{rest...}"}},
			Rewrite: &federation.Rewrite{Host: "internal.example.com", Path: "/v2/{rest}/of/{id}"},
			Request: &federation.HeaderEdit{Set: map[string]string{"x-set": "1"}}},
		{Name: "hurt", Match: []federation.HTTPMatch{{Path: "/hurt"}}, Fault: &federation.Fault{Abort: 503, AbortPercent: 100}},
	}}}
	aws.publish()
	c := caller(t, false)
	for _, test := range []struct {
		path, header string
		status       int
		body         string
	}{
		{"/", "", 200, "aws GET / "},
		{"/teapot", "", 418, "short and stout"},
		{"/old/x?y=1", "", 302, ""},
		{"/", "gcp", 200, "gcp GET / "},
		{"/users/7/files/a?q=1", "", 200, "aws GET /v2/files/a/of/7?q=1 internal.example.com spiffe://aws.mesh.internal/ns/default/svc/web 1"},
		{"/hurt", "", 503, "aborted"},
	} {
		status, body := fetch(t, c, "GET", url+test.path, "X-Region", test.header)
		if status != test.status || !strings.HasPrefix(body, test.body) {
			t.Errorf("%s: %d %q", test.path, status, body)
		}
	}
	res, err := c.Get(url + "/old/x?y=1")
	if err != nil || res.Header.Get("Location") != "http://example.com/new/x?y=1" {
		t.Error(res, err)
	}
	_ = res.Body.Close()
}

func TestRequestsAreJudgedAtBothEnds(t *testing.T) {
	noLeaks(t)
	aws, gcp, url := httpPair(t, server(t, says("gcp")), federation.ProtocolHTTP)
	c := caller(t, false)
	read := []federation.Permission{{HTTPMatch: federation.HTTPMatch{Methods: []string{"GET"}, PathPrefix: "/public"}}}
	gcp.view.Intentions = []federation.Intention{{Name: "in", Action: federation.Allow, Source: "web@aws", Destination: "shop", HTTP: read}}
	gcp.publish()
	for _, test := range []struct {
		method, path string
		status       int
		body         string
	}{
		{"GET", "/public/x", 200, "gcp GET"}, {"POST", "/public/x", 403, "not allowed"}, {"GET", "/private", 403, "not allowed"},
		{"GET", "/public%2f..%2fprivate", 400, "bad request"}, {"GET", "/public/../private", 400, "bad request"},
	} {
		if status, body := fetch(t, c, test.method, url+test.path); status != test.status || !strings.HasPrefix(body, test.body) {
			t.Errorf("%s %s: %d %q", test.method, test.path, status, body)
		}
	}
	aws.view.Intentions = []federation.Intention{{Name: "out", Action: federation.Allow, Source: "web", Destination: "shop@*",
		HTTP: []federation.Permission{{HTTPMatch: federation.HTTPMatch{Path: "/public/only"}}}}}
	aws.publish()
	if status, body := fetch(t, c, "GET", url+"/public/only"); status != 200 {
		t.Errorf("%d %q", status, body)
	}
	if status, body := fetch(t, c, "GET", url+"/public/x"); status != 403 || !strings.Contains(body, "TW-7001") {
		t.Errorf("a caller is told why: %d %q", status, body)
	}
}

func TestRequestsFailOver(t *testing.T) {
	noLeaks(t)
	aws, gcp, url := httpPair(t, server(t, says("gcp")), federation.ProtocolHTTP)
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = dead.Close()
	aws.serve(shop, dead.Addr().String())
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("local allow web shop")
	aws.publish()
	c := caller(t, false)
	for range 3 {
		if status, body := fetch(t, c, "POST", url+"/"); status != 200 || !strings.HasPrefix(body, "gcp POST") {
			t.Fatalf("the instance here is dead, the one there is not: %d %q", status, body)
		}
	}
	gcp.lane[shop].Store(0, federation.SlotHealth{Total: 1})
	status, body := fetch(t, c, "GET", url+"/")
	if status != 503 {
		t.Errorf("no instance anywhere: %d %q", status, body)
	}
}

func TestInstanceBreaksOff(t *testing.T) {
	noLeaks(t)
	var asked int
	address := server(t, func(w http.ResponseWriter, r *http.Request) {
		if asked++; asked%2 == 1 {
			panic(http.ErrAbortHandler)
		}
		_, _ = fmt.Fprint(w, "second")
	})
	aws := newRegion(t, "aws")
	aws.serve(shop, address, address)
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("local allow web shop")
	url := "http://" + aws.upstream("up", "shop")
	c := caller(t, false)
	if status, body := fetch(t, c, "GET", url); status != 200 || body != "second" {
		t.Errorf("a GET is tried again: %d %q", status, body)
	}
	if status, body := fetch(t, c, "POST", url); status != 502 {
		t.Errorf("a POST is not: %d %q", status, body)
	}
}

func TestUpgradeAcrossRegions(t *testing.T) {
	noLeaks(t)
	_, gcp, url := httpPair(t, server(t, func(w http.ResponseWriter, _ *http.Request) {
		c, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"))
		_, _ = io.Copy(c, buf)
	}), federation.ProtocolHTTP)
	c, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprint(c, "GET /ws HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n")
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 101 {
		t.Fatal(res, err)
	}
	for i := range 3 {
		_, _ = fmt.Fprintln(c, "ping", i)
		if line, err := in.ReadString('\n'); err != nil || line != fmt.Sprintln("ping", i) {
			t.Fatalf("%q, %v", line, err)
		}
	}
	// What is no longer allowed ends, though no request follows.
	gcp.view.Intentions = nil
	gcp.publish()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := in.ReadString('\n'); err == nil || strings.Contains(err.Error(), "timeout") {
		t.Errorf("it goes on: %v", err)
	}
}

func TestDrainAnswersWhatIsUnderWay(t *testing.T) {
	noLeaks(t)
	begun, release := make(chan struct{}), make(chan struct{})
	aws := newRegion(t, "aws")
	aws.serve(shop, server(t, func(w http.ResponseWriter, _ *http.Request) {
		close(begun)
		<-release
		_, _ = fmt.Fprint(w, "done")
	}))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("local allow web shop")
	url := "http://" + aws.upstream("up", "shop")
	idle, err := net.Dial("tcp", strings.TrimPrefix(url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer idle.Close()
	got := make(chan string, 1)
	go func() {
		_, body := fetch(t, caller(t, false), "GET", url)
		got <- body
	}()
	<-begun
	drained := make(chan error, 1)
	go func() { drained <- aws.Drain(t.Context()) }()
	close(release)
	if body := <-got; body != "done" {
		t.Errorf("the request under way got %q", body)
	}
	select {
	case err := <-drained:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(10 * time.Second):
		t.Error("a connection without a request holds up the drain")
	}
}

// TestReservedFieldsOfCallersAreRemoved: what only gateways write reaches no instance under a caller's hand.
func TestReservedFieldsOfCallersAreRemoved(t *testing.T) {
	noLeaks(t)
	aws := newRegion(t, "aws")
	aws.serve(shop, server(t, func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprint(w, r.Header.Get("X-Tradewind-Subset"), r.Header.Get("X-Tradewind-Anything"))
	}))
	aws.speaks(shop, federation.ProtocolHTTP)
	aws.intend("local allow web shop")
	url := "http://" + aws.upstream("up", "shop")
	for _, two := range []bool{false, true} {
		if _, body := fetch(t, caller(t, two), "GET", url, "X-Tradewind-Subset", "forged", "x-tradewind-anything", "forged"); body != "" {
			t.Errorf("two=%v: the instance saw %q", two, body)
		}
	}
}
