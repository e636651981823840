package health

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/tradewind-mesh/tradewind/federation"
	"google.golang.org/grpc"
	grpchealth "google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

// try makes one attempt of spec at addr.
func try(t *testing.T, spec federation.CheckSpec, addr string) outcome {
	t.Helper()
	spec = spec.Defaulted()
	ctx, cancel := context.WithTimeout(t.Context(), spec.Timeout.D())
	defer cancel()
	return ask(ctx, &check{spec: spec, addr: checkAddress(netip.MustParseAddrPort(addr), spec)})
}

// closedPort returns an address where nobody listens.
func closedPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// silent returns an address that accepts connections and never says anything.
func silent(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			defer conn.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return l.Addr().String()
}

func TestTCP(t *testing.T) {
	if o := try(t, federation.CheckSpec{Kind: federation.CheckTCP}, silent(t)); o.err != nil {
		t.Errorf("a listener fails: %v", o.err)
	}
	for _, kind := range []federation.CheckKind{federation.CheckTCP, federation.CheckHTTP, federation.CheckGRPC} {
		o := try(t, federation.CheckSpec{Kind: kind}, closedPort(t))
		if o.err == nil || !o.definitive || !strings.Contains(o.err.Error(), "refused") {
			t.Errorf("%s: a closed port gives %+v, want a definitive refusal", kind, o)
		}
	}
}

func TestSilenceIsAFailureButNotDefinitive(t *testing.T) {
	addr := silent(t)
	for _, kind := range []federation.CheckKind{federation.CheckHTTP, federation.CheckGRPC} {
		o := try(t, federation.CheckSpec{Kind: kind, Timeout: federation.Duration(50 * time.Millisecond)}, addr)
		if o.err == nil || o.definitive || o.err.Error() != "no answer within 50ms" {
			t.Errorf("%s: silence gives %+v", kind, o)
		}
	}
}

func TestHTTP(t *testing.T) {
	t.Setenv("HTTP_PROXY", "http://"+closedPort(t)) // must have no effect
	var redirected bool
	mux := http.NewServeMux()
	mux.HandleFunc("GET /ok", func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s %s close=%v\x1b[2J", r.Host, r.URL.RawQuery, r.UserAgent(), r.Close)
	})
	mux.HandleFunc("GET /down", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "no database", http.StatusServiceUnavailable)
	})
	mux.HandleFunc("GET /moved", func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, "/target", http.StatusFound) })
	mux.HandleFunc("GET /target", func(http.ResponseWriter, *http.Request) { redirected = true })
	mux.HandleFunc("GET /endless", func(w http.ResponseWriter, r *http.Request) {
		for r.Context().Err() == nil {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	mux.HandleFunc("GET /header", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("X-Large", strings.Repeat("x", 64<<10))
	})
	server := httptest.NewServer(mux)
	defer server.Close()
	addr := server.Listener.Addr().String()
	get := func(path string) outcome {
		return try(t, federation.CheckSpec{Kind: federation.CheckHTTP, Path: path, Host: "shop.example.com"}, addr)
	}
	if o := get("/ok?a=b%20c"); o.err != nil || clean(o.output) != "shop.example.com a=b%20c tradewind-health/1 close=true[2J" {
		t.Errorf("ok gives %+v", o)
	}
	for path, want := range map[string]string{"/down": "answered 503 Service Unavailable", "/moved": "answered 302 Found",
		"/none": "answered 404 Not Found"} {
		if o := get(path); o.err == nil || o.err.Error() != want || o.definitive {
			t.Errorf("%s gives %+v, want %s", path, o, want)
		}
	}
	if redirected {
		t.Error("a redirect was followed")
	}
	if o := get("/endless"); o.err != nil || len(o.output) != maxBody {
		t.Errorf("an endless answer gives %v and %d octets", o.err, len(o.output))
	}
	if o := get("/header"); o.err == nil {
		t.Error("an endless header passes")
	}
}

func TestHTTPAsksAndWaitsForWhatIsSaid(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/moved" {
			http.Redirect(w, r, "/", http.StatusFound)
		} else if r.Header.Get("Authorization") != "Bearer probe" {
			w.WriteHeader(http.StatusUnauthorized)
		}
		fmt.Fprintf(w, "%s %s %q %q", r.Method, r.Host, body, r.UserAgent())
	}))
	defer server.Close()
	headers := map[string]string{"authorization": "Bearer probe", "User-Agent": "probe/2"}
	for _, c := range []struct {
		spec   federation.CheckSpec
		want   string
		output string
	}{
		{federation.CheckSpec{}, "answered 401 Unauthorized", `GET shop.example.com "" "tradewind-health/1"`},
		{federation.CheckSpec{Status: []int{401}}, "<nil>", `GET shop.example.com "" "tradewind-health/1"`},
		{federation.CheckSpec{Headers: headers}, "<nil>", `GET shop.example.com "" "probe/2"`},
		{federation.CheckSpec{Headers: headers, Status: []int{204, 401}}, "answered 200 OK", `GET shop.example.com "" "probe/2"`},
		{federation.CheckSpec{Headers: headers, Method: "POST", Body: "ping"}, "<nil>", `POST shop.example.com "ping" "probe/2"`},
		{federation.CheckSpec{Headers: headers, Method: "HEAD"}, "<nil>", ""},
		{federation.CheckSpec{Path: "/moved", Status: []int{302}, Method: "HEAD"}, "<nil>", ""},
	} {
		c.spec.Kind, c.spec.Host = federation.CheckHTTP, "shop.example.com"
		if err := c.spec.Validate(); err != nil {
			t.Fatal(err)
		}
		if o := try(t, c.spec, server.Listener.Addr().String()); fmt.Sprint(o.err) != c.want || o.output != c.output {
			t.Errorf("%+v gives %+v, want %s %s", c.spec, o, c.want, c.output)
		}
	}
}

func TestGRPC(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server, states := grpc.NewServer(), grpchealth.NewServer()
	healthpb.RegisterHealthServer(server, states)
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Stop(); <-served }()
	states.SetServingStatus("shop.Cart", healthpb.HealthCheckResponse_NOT_SERVING)
	for service, want := range map[string]string{"": "", "shop.Cart": "answered NOT_SERVING",
		"shop.None": `the server does not know service "shop.None"`} {
		o := try(t, federation.CheckSpec{Kind: federation.CheckGRPC, GRPCService: service}, l.Addr().String())
		if got := fmt.Sprint(o.err); o.err == nil && want != "" || o.err != nil && got != want || o.definitive {
			t.Errorf("service %q gives %+v, want %q", service, o, want)
		}
	}
}

func TestGRPCWithoutHealthService(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	defer func() { server.Stop(); <-served }()
	o := try(t, federation.CheckSpec{Kind: federation.CheckGRPC}, l.Addr().String())
	if o.err == nil || !strings.Contains(o.err.Error(), "does not implement") {
		t.Errorf("got %+v", o)
	}
}

func TestAnotherPort(t *testing.T) {
	spec := federation.CheckSpec{Kind: federation.CheckTCP, Port: netip.MustParseAddrPort(silent(t)).Port()}
	if o := try(t, spec, "127.0.0.1:1"); o.err != nil {
		t.Errorf("the check's own port is not asked: %v", o.err)
	}
}

func TestTheDialerItselfRefuses(t *testing.T) {
	for _, addr := range []string{"169.254.169.254:80", "[::ffff:169.254.169.254]:80", "[fd00:ec2::254]:80", "0.0.0.0:1", "168.63.129.16:80"} {
		for _, kind := range []federation.CheckKind{federation.CheckTCP, federation.CheckHTTP, federation.CheckGRPC} {
			o := try(t, federation.CheckSpec{Kind: kind}, addr)
			// fd00:: may have no route on this host, which ends the attempt before the socket is connected.
			if o.err == nil || federation.CodeOf(o.err) != federation.CodeAddressRefused && !strings.Contains(o.err.Error(), "unreachable") {
				t.Errorf("%s %s gives %v", kind, addr, o.err)
			}
		}
	}
}

// TestRealDeathIsReportedWithinOneInterval follows one server over its death and return on the real clock.
func TestRealDeathIsReportedWithinOneInterval(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := l.Addr().String()
	c := New(Config{})
	reports, ended := make(chan federation.HealthReport, 16), make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { ended <- c.Run(ctx, func(r federation.HealthReport) { reports <- r }) }()
	defer func() { cancel(); <-ended }()
	await := func(want federation.Health) time.Time {
		t.Helper()
		deadline := time.After(10 * time.Second)
		for {
			select {
			case r := <-reports:
				if r.Health == want {
					return time.Now()
				}
			case <-deadline:
				t.Fatalf("never %v", want)
			}
		}
	}
	target := watch(federation.CheckSpec{Kind: federation.CheckTCP, Interval: federation.Duration(100 * time.Millisecond)})
	target.Address = netip.MustParseAddrPort(addr)
	c.Watch(target)
	await(federation.HealthPassing)
	died := time.Now()
	l.Close()
	if took := await(federation.HealthFailing).Sub(died); took > time.Second {
		t.Errorf("a death took %v to be reported", took)
	}
	if l, err = net.Listen("tcp", addr); errors.Is(err, net.ErrClosed) || err != nil {
		t.Skipf("the port was taken: %v", err)
	}
	defer l.Close()
	await(federation.HealthPassing)
}

func FuzzClean(f *testing.F) {
	f.Add("plain")
	f.Add("\x1b[2J\xff\xfe" + strings.Repeat("ä", 300))
	f.Fuzz(func(t *testing.T, s string) {
		out := clean(s)
		if len(out) > maxOutput || !utf8.ValidString(out) || strings.ContainsAny(out, "\x1b\n\r\x00") {
			t.Errorf("clean(%q) = %q", s, out)
		}
	})
}
