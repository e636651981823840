package ingress_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"

	"github.com/tradewind-mesh/tradewind/federation"
)

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestRequestsReachTheServiceOfTheirHost(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	e.serve("api", federation.ProtocolHTTP, instance(t, "api"))
	e.serve("any", federation.ProtocolHTTP, instance(t, "any"))
	at := e.listen(federation.Ingress{TLS: e.tls("a", "shop.example.com", "*.example.com"), Hosts: []federation.IngressHost{
		{Name: "shop.example.com", Service: ref("web"), Paths: []federation.IngressPath{{Prefix: "/api", Service: ref("web")}, {Prefix: "/api/v2", Service: ref("api")}}},
		{Name: "*.example.com", Service: ref("any")},
	}})
	for _, two := range []bool{false, true} {
		c := e.client(at, two)
		for url, want := range map[string]string{
			"https://shop.example.com/":         "web",
			"https://shop.example.com:8443/api": "web",
			"https://shop.example.com/api/v2?q": "api",
			"https://shop.example.com/api/v2x":  "web",
			"https://other.example.com/":        "any",
		} {
			got := ask(t, c, url, with("X-Forwarded-For", "198.51.100.1"), with("X-Forwarded-Proto", "http"), with("Forwarded", "for=1"),
				with("X-Forwarded-Port", "1"), with("X-Real-Ip", "198.51.100.1"), with("X-Request-Id", "mine"), with("X-Tradewind-Caller", "me"))
			if got.Name != want {
				t.Errorf("%s, two=%v: %d %q, want %s", url, two, got.Status, got.Name, want)
			}
			for name, value := range map[string]string{"X-Forwarded-For": "127.0.0.1", "X-Forwarded-Proto": "https", "X-Forwarded-Host": got.Host,
				"Forwarded": "", "X-Forwarded-Port": "", "X-Real-Ip": "", "X-Tradewind-Caller": "spiffe://aws.mesh.internal/ns/default/svc/ingress"} {
				if got.Header.Get(name) != value {
					t.Errorf("%s: %s is %q, want %q", url, name, got.Header.Get(name), value)
				}
			}
			if id := got.Header.Get("X-Request-Id"); !uuid.MatchString(id) || got.Reply.Get("X-Request-Id") != id {
				t.Errorf("request ID %q, in the response %q", id, got.Reply.Get("X-Request-Id"))
			}
			e.log.until(t, map[string]any{"request_id": got.Header.Get("X-Request-Id"), "client": "127.0.0.1", "upstream": "public",
				"destination": want, "status": 200.0, "decision": "allow"})
		}
	}
}

func TestNothingIsToldOfWhatIsNotServed(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	e.serve("secret", federation.ProtocolHTTP, instance(t, "secret"))
	e.view.Intentions = slices.DeleteFunc(e.view.Intentions, func(i federation.Intention) bool { return i.Name == "in-secret" })
	e.publish()
	at := e.listen(federation.Ingress{TLS: e.tls("a", "shop.example.com", "denied.example.com", "gone.example.com", "only.example.com"),
		Hosts: []federation.IngressHost{{Name: "shop.example.com", Service: ref("web")}, {Name: "denied.example.com", Service: ref("secret")},
			{Name: "gone.example.com", Service: ref("gone")}, {Name: "only.example.com", Paths: []federation.IngressPath{{Prefix: "/a", Service: ref("web")}}}}})
	c := e.client(at, false)
	for _, f := range []struct {
		url, text, reason string
		status            int
	}{
		{"https://denied.example.com/", "forbidden\n", "no intention", 403},
		{"https://gone.example.com/", "service unavailable\n", "no region", 503},
		{"https://only.example.com/b", "not found\n", "no path", 404},
	} {
		got := ask(t, c, f.url)
		if got.Status != f.status || got.Text != f.text || !uuid.MatchString(got.Reply.Get("X-Request-Id")) || len(got.Reply) > 5 {
			t.Errorf("%s: %d %q %v", f.url, got.Status, got.Text, got.Reply)
		}
		line := e.log.until(t, map[string]any{"request_id": got.Reply.Get("X-Request-Id"), "status": float64(f.status)})
		if reason, _ := line["reason"].(string); !strings.Contains(reason, f.reason) {
			t.Errorf("%s: the log says %q", f.url, reason)
		}
	}

	if got := ask(t, c, "https://shop.example.com/", func(r *http.Request) { r.Host = "denied.example.com" }); got.Status != 421 || got.Text != "misdirected request\n" {
		t.Errorf("another host than that of the handshake: %d %q", got.Status, got.Text)
	}
	for _, name := range []string{"unknown.example.com", "example.com", ""} {
		conn, err := tls.Dial("tcp", at, &tls.Config{ServerName: name, InsecureSkipVerify: true})
		if err == nil {
			t.Errorf("a certificate for %q", name)
			_ = conn.Close()
		} else if !strings.Contains(err.Error(), "unrecognized name") {
			t.Errorf("%q: %v, want the alert unrecognized_name", name, err)
		}
	}
	e.log.until(t, map[string]any{"response_flags": "DPE", "client": "127.0.0.1", "upstream": "public"})
}

func TestSessionsAreResumed(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	for name, through := range map[string][]federation.IngressPassthrough{"alone": nil, "beside": {{Name: "db.example.com", Service: ref("db")}}} {
		e.listen(federation.Ingress{Name: name, TLS: e.tls("a", "a.example.com"), Passthrough: through,
			Hosts: []federation.IngressHost{{Name: "a.example.com", Service: ref("web")}}})
		cache := tls.NewLRUClientSessionCache(1)
		for i := range 2 {
			conn, err := tls.Dial("tcp", e.address(name), &tls.Config{RootCAs: e.ca.pool, ServerName: "a.example.com", ClientSessionCache: cache})
			if err != nil {
				t.Fatal(err)
			}
			if status, text := plain(conn); status != 200 || conn.ConnectionState().DidResume != (i > 0) {
				t.Errorf("%s, connection %d: %d %q, resumed=%v", name, i+1, status, text, conn.ConnectionState().DidResume)
			}
			_ = conn.Close()
		}
	}
}

func TestTrustedProxiesSpeakForTheirClients(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	at := e.listen(federation.Ingress{Hosts: []federation.IngressHost{{Name: "a.example.com", Service: ref("web")}},
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24")}})
	c := e.client(at, false)
	for _, f := range []struct{ chain, client string }{
		{"198.51.100.7", "198.51.100.7"},
		{"203.0.113.9, 198.51.100.7, 192.0.2.1", "198.51.100.7"},
		{"198.51.100.7:1234, 192.0.2.1:80", "198.51.100.7"},
		{"forged, 192.0.2.1", "192.0.2.1"},
		{"[2001:db8::1]:80", "2001:db8::1"},
		{"", "127.0.0.1"},
	} {
		got := ask(t, c, "http://a.example.com/", with("X-Forwarded-For", f.chain), with("X-Forwarded-Proto", "https"), with("X-Forwarded-Host", "x.example.com"),
			with("X-Request-Id", "from-proxy"), with("Forwarded", "for=1"))
		if got.Header.Get("X-Forwarded-For") != f.chain+", 127.0.0.1" || got.Header.Get("X-Forwarded-Proto") != "https" ||
			got.Header.Get("X-Forwarded-Host") != "x.example.com" || got.Header.Get("X-Request-Id") != "from-proxy" || got.Header.Get("Forwarded") != "" {
			t.Errorf("%q: %v", f.chain, got.Header)
		}
		e.log.until(t, map[string]any{"request_id": "from-proxy", "client": f.client})
	}
}

func TestBytesAreCarried(t *testing.T) {
	e := newEdge(t)
	e.serve("db", federation.ProtocolTCP, echo(t))
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	for name, g := range map[string]federation.Ingress{"plain": {TCP: ref("db")}, "secure": {TCP: ref("db"), TLS: e.tls("db", "db.example.com")}} {
		g.Name = name
		e.listen(g)
		c := dial(t, e.address(name))
		var conn interface {
			net.Conn
			CloseWrite() error
		} = c
		if name == "secure" {
			conn = tls.Client(c, &tls.Config{RootCAs: e.ca.pool, ServerName: "db.example.com"})
		}
		_, err := conn.Write([]byte("hello"))
		if err == nil {
			err = conn.CloseWrite()
		}
		got, readErr := io.ReadAll(conn)
		if err != nil || readErr != nil || string(got) != "hello" {
			t.Errorf("%s: %q %v %v", name, got, err, readErr)
		}
		e.log.until(t, map[string]any{"upstream": name, "destination": "db", "bytes_received": 5.0, "client": "127.0.0.1"})
	}
	// Requests are judged one by one, so bytes are not carried to a service that speaks HTTP.
	if c, err := net.Dial("tcp", e.listen(federation.Ingress{Name: "wrong", TCP: ref("web")})); err == nil { // or it is reset even before
		if got, _ := io.ReadAll(c); len(got) > 0 {
			t.Errorf("%q", got)
		}
		_ = c.Close()
	}
	e.log.until(t, map[string]any{"upstream": "wrong", "response_flags": "DPE"})
}

func TestTLSIsPassedThroughByName(t *testing.T) {
	e := newEdge(t)
	cert, key := e.ca.issue(t, time.Now().Add(time.Hour), "db.example.com")
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	e.serve("db", federation.ProtocolTCP, serveWith(t, func(c net.Conn) {
		s := tls.Server(c, &tls.Config{Certificates: []tls.Certificate{pair}})
		_, _ = io.Copy(s, s)
		_ = s.CloseWrite()
	}))
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	at := e.listen(federation.Ingress{TLS: e.tls("web", "web.example.com"), Hosts: []federation.IngressHost{{Name: "web.example.com", Service: ref("web")}},
		Passthrough: []federation.IngressPassthrough{{Name: "*.example.com", Service: ref("db")}}})
	conn, err := tls.Dial("tcp", at, &tls.Config{RootCAs: e.ca.pool, ServerName: "db.example.com"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if !bytes.Equal(conn.ConnectionState().PeerCertificates[0].Raw, pair.Certificate[0]) {
		t.Error("the certificate is not the instance's")
	}
	_, _ = conn.Write([]byte("hello"))
	_ = conn.CloseWrite()
	if got, err := io.ReadAll(conn); string(got) != "hello" || err != nil {
		t.Errorf("%q %v", got, err)
	}
	if got := ask(t, e.client(at, true), "https://web.example.com/"); got.Name != "web" || got.Proto != "HTTP/2.0" {
		t.Errorf("beside it: %+v", got)
	}
}

func TestPROXYHeaders(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	at := e.listen(federation.Ingress{Hosts: []federation.IngressHost{{Name: "a.example.com", Service: ref("web")}}, ProxyProtocol: true,
		TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}})
	two := "\r\n\r\n\x00\r\nQUIT\n"
	const get = "GET / HTTP/1.1\r\nHost: a.example.com\r\nX-Forwarded-For: 203.0.113.1\r\nConnection: close\r\n\r\n"
	for header, client := range map[string]string{
		"PROXY TCP4 198.51.100.22 192.0.2.1 56324 443\r\n":                                   "198.51.100.22",
		"PROXY TCP6 2001:db8::22 2001:db8::1 1 443\r\n":                                      "2001:db8::22",
		two + "\x21\x11\x00\x0c\xc6\x33\x64\x16\xc0\x00\x02\x01\x00\x01\x01\xbb":             "198.51.100.22",
		two + "\x21\x11\x00\x0f\xc6\x33\x64\x16\xc0\x00\x02\x01\x00\x01\x01\xbb\x04\x00\x00": "198.51.100.22",
		two + "\x20\x00\x00\x00":                           "127.0.0.1", // from the proxy itself
		"PROXY UNKNOWN\r\n":                                "127.0.0.1",
		"PROXY TCP4 198.51.100.22 192.0.2.1 56324 443\n\n": "",
		"PROXY TCP4 198.51.100.22 192.0.2.1 056 443\r\n":   "",
		"PROXY TCP4 2001:db8::22 192.0.2.1 1 443\r\n":      "",
		"PROXY TCP4 " + strings.Repeat("1", 200) + "\r\n":  "",
		"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n":    "",
		two + "\x31\x11\x00\x00":                           "",
		two + "\x21\x11\x00\x01\x00":                       "",
		two + "\x21\x11\xff\xff":                           "",
	} {
		c := dial(t, at)
		_, _ = io.WriteString(c, header+get)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if client == "" {
			if err == nil {
				t.Errorf("%q was taken", header)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", header, err)
			continue
		}
		_ = res.Body.Close()
		line := e.log.until(t, map[string]any{"request_id": res.Header.Get("X-Request-Id")})
		if want := client; client == "127.0.0.1" { // a trusted proxy: its own words count
			if line["client"] != "203.0.113.1" {
				t.Errorf("%q: %v", header, line)
			}
		} else if line["client"] != want {
			t.Errorf("%q: %v", header, line)
		}
	}
}

func TestLimits(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	e.serve("sink", federation.ProtocolHTTP, sink(t))
	g := federation.Ingress{Hosts: []federation.IngressHost{{Name: "a.example.com", Service: ref("sink")}}, MaxBody: 64 << 10, MaxHeader: 4 << 10,
		MaxConnectionsPerClient: 3}
	at := e.listen(g)
	send := func(raw string, body io.Reader) (status int, text string) {
		c := dial(t, at)
		defer c.Close()
		go func() {
			_, _ = io.WriteString(c, raw)
			if body != nil {
				_, _ = io.Copy(c, body)
			}
		}()
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			return 0, err.Error()
		}
		defer res.Body.Close()
		b, _ := io.ReadAll(res.Body)
		return res.StatusCode, string(b)
	}
	const post = "POST / HTTP/1.1\r\nHost: a.example.com\r\n"
	if status, text := send(post+"Content-Length: 65537\r\nExpect: 100-continue\r\n\r\n", nil); status != 413 {
		t.Errorf("a body that is announced too large: %d %q", status, text)
	}
	chunk := "10000\r\n" + strings.Repeat("x", 1<<16) + "\r\n"
	if status, text := send(post+"Transfer-Encoding: chunked\r\n\r\n", strings.NewReader(chunk+"1\r\nx\r\n0\r\n\r\n")); status != 413 || text != "request entity too large\n" {
		t.Errorf("a body that becomes too large: %d %q", status, text)
	}
	if status, text := send(post+"Transfer-Encoding: chunked\r\n\r\n", strings.NewReader(chunk+"0\r\n\r\n")); status != 200 || text != "65536" {
		t.Errorf("a body as large as is allowed: %d %q", status, text)
	}
	if status, text := send("GET / HTTP/1.1\r\nHost: a.example.com\r\nA: "+strings.Repeat("x", 4<<10)+"\r\n\r\n", nil); status != 431 {
		t.Errorf("a large head: %d %q", status, text)
	}

	eventually(t, func() bool { return e.Open() == 0 })
	var open []net.Conn
	for range 3 {
		open = append(open, dial(t, at))
		if status, text := plain(open[len(open)-1]); status != 200 {
			t.Fatalf("%d %q", status, text)
		}
	}
	if status := once(at); status != 0 {
		t.Errorf("a fourth connection of one client: %d", status)
	}
	_ = open[0].Close()
	eventually(t, func() bool { return once(at) == 200 })
	g.MaxConnectionsPerClient, g.MaxConnections, g.Listen = 0, 1, ""
	g.Name = "small"
	at = e.listen(g)
	first := dial(t, at)
	if status, text := plain(first); status != 200 {
		t.Fatalf("%d %q", status, text)
	}
	if status := once(at); status != 0 {
		t.Errorf("a second connection of one: %d", status)
	}
	_ = first.Close()
	eventually(t, func() bool { return once(at) == 200 })
}

// TestLimitsHoldInEveryVersion: what HTTP/1.1 refuses, HTTP/2 and HTTP/3 do not let in either.
func TestLimitsHoldInEveryVersion(t *testing.T) {
	e := newEdge(t)
	e.serve("sink", federation.ProtocolHTTP, sink(t))
	at := e.listen(federation.Ingress{TLS: e.tls("a", "a.example.com"), HTTP3: true, MaxBody: 64 << 10, MaxHeader: 4 << 10,
		Hosts: []federation.IngressHost{{Name: "a.example.com", Service: ref("sink")}}})
	for _, c := range []*http.Client{e.client(at, false), e.client(at, true), e.client3(at)} {
		post := func(size, head int, announced bool) (int, error) {
			var body io.Reader = strings.NewReader(strings.Repeat("x", size))
			if !announced {
				body = struct{ io.Reader }{body}
			}
			r, err := http.NewRequest(http.MethodPost, "https://a.example.com/", body)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("A", strings.Repeat("x", head))
			res, err := c.Do(r)
			if err != nil {
				return 0, err
			}
			_ = res.Body.Close()
			return res.StatusCode, nil
		}
		for _, announced := range []bool{false, true} {
			for size, want := range map[int]int{64 << 10: 200, 64<<10 + 1: 413} {
				if status, err := post(size, 1, announced); status != want {
					t.Errorf("a body of %d octets, announced=%v: %d %v, want %d", size, announced, status, err, want)
				}
			}
		}
		if status, err := post(1, 3<<10, true); status != 200 {
			t.Errorf("a head as large as is allowed: %d %v", status, err)
		}
		if status, err := post(1, 64<<10, true); err == nil && status != 431 {
			t.Errorf("a large head: %d", status)
		}
	}
}

// once makes a small request on a connection of its own; 0: it was not let in.
func once(at string) int {
	c, err := net.Dial("tcp", at)
	if err != nil {
		return 0
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	status, _ := plain(c)
	return status
}

// plain makes a small request on c.
func plain(c net.Conn) (int, string) {
	if _, err := io.WriteString(c, "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n"); err != nil {
		return 0, err.Error()
	}
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		return 0, err.Error()
	}
	defer res.Body.Close()
	b, _ := io.ReadAll(res.Body)
	return res.StatusCode, string(b)
}

func TestACertificateThatIsReplacedIsServed(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	e.tls("one", "one.example.com")
	spec := federation.IngressTLS{Certificate: filepath.Join(e.dir, "*.crt"), Key: filepath.Join(e.dir, "*.key")}
	at := e.listen(federation.Ingress{TLS: []federation.IngressTLS{spec}, Hosts: []federation.IngressHost{{Name: "one.example.com", Service: ref("web")}}})
	serial := func() string {
		conn, err := tls.Dial("tcp", at, &tls.Config{RootCAs: e.ca.pool, ServerName: "one.example.com"})
		if err != nil {
			return err.Error()
		}
		defer conn.Close()
		return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
	}
	before := serial()
	held := e.client(at, false) // its connection outlives the change
	if got := ask(t, held, "https://one.example.com/"); got.Name != "web" {
		t.Fatal(got)
	}
	e.tls("two", "two.example.com")
	e.tls("one", "one.example.com")
	eventually(t, func() bool { after := serial(); return after != before && len(after) < 5 })
	if got := ask(t, held, "https://one.example.com/"); got.Name != "web" {
		t.Fatal(got)
	}
	if len(e.Status()[0].Problems) > 0 {
		t.Error(e.Status()[0].Problems)
	}
	after := serial()
	put(t, filepath.Join(e.dir, "one.key"), []byte("rubbish"))
	eventually(t, func() bool { return len(e.Status()[0].Problems) == 1 })
	if d := e.Status()[0].Problems[0]; d.Code != federation.CodeIngressCertificate || serial() != after {
		t.Errorf("a key that cannot be read: %v, %s served", d, serial())
	}
	cert, key := e.ca.issue(t, time.Now().Add(-time.Hour), "one.example.com")
	put(t, filepath.Join(e.dir, "one.key"), key)
	put(t, filepath.Join(e.dir, "one.crt"), cert)
	eventually(t, func() bool {
		p := e.Status()[0].Problems
		return len(p) == 1 && p[0].Code == federation.CodeIngressExpired
	})
	if err := os.Remove(filepath.Join(e.dir, "one.crt")); err != nil {
		t.Fatal(err)
	}
	eventually(t, func() bool {
		p := e.Status()[0].Problems
		return len(p) == 1 && p[0].Code == federation.CodeIngressNoName
	})
}

func TestListenersFollowTheResources(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	e.serve("api", federation.ProtocolHTTP, instance(t, "api"))
	host := func(service string) []federation.IngressHost {
		return []federation.IngressHost{{Name: "a.example.com", Service: ref(service)}}
	}
	first := free(t)
	e.listen(federation.Ingress{Listen: first, Hosts: host("web")})
	held := dial(t, first)
	if status, text := plain(held); status != 200 || !strings.Contains(text, `"web"`) {
		t.Fatalf("%d %q", status, text)
	}
	e.listen(federation.Ingress{Listen: first, Hosts: host("api")})
	if status, text := plain(held); status != 200 || !strings.Contains(text, `"api"`) {
		t.Fatalf("after a change, on the same connection: %d %q", status, text)
	}
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	moved := e.listed[0]
	moved.Listen = taken.Addr().String()
	problems := e.Apply([]federation.Ingress{moved})
	if len(problems) != 1 || problems[0].Code != federation.CodeIngressListen || e.address("public") != first {
		t.Fatalf("%v, listening on %s", problems, e.address("public"))
	}
	if status, _ := plain(held); status != 200 {
		t.Fatal("a move that failed has cost a connection")
	}
	_ = taken.Close()
	eventually(t, func() bool { return e.address("public") == moved.Listen }) // it is tried again
	if status, _ := plain(dial(t, moved.Listen)); status != 200 {
		t.Error("the new address does not serve")
	}
	eventually(t, func() bool { _, err := held.Read(make([]byte, 1)); return err == io.EOF }) // drained
	e.Apply(nil)
	if c, err := net.Dial("tcp", moved.Listen); err == nil {
		_ = c.Close()
		t.Error("a listener that is gone still listens")
	}
}

func TestDrainEndsConnectionsBetweenRequests(t *testing.T) {
	e := newEdge(t)
	begun, goOn := make(chan struct{}), make(chan struct{})
	e.serve("web", federation.ProtocolHTTP, handler(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(begun)
			<-goOn
		}
		_, _ = io.WriteString(w, "{}")
	}))
	at := e.listen(federation.Ingress{TLS: e.tls("a", "a.example.com"), HTTP3: true, Hosts: []federation.IngressHost{{Name: "a.example.com", Service: ref("web")}}})
	one, two, three := e.client(at, false), e.client(at, true), e.client3(at)
	for _, c := range []*http.Client{one, two, three} {
		ask(t, c, "https://a.example.com/")
	}
	slow := make(chan error, 1)
	go func() { _, err := try(three, "https://a.example.com/slow"); slow <- err }()
	<-begun
	drained := make(chan error, 1)
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	go func() { drained <- e.Drain(ctx) }()
	eventually(t, func() bool {
		c, err := net.Dial("tcp", at)
		if err == nil {
			_ = c.Close()
		}
		return err != nil
	})
	close(goOn)
	if err := <-slow; err != nil {
		t.Errorf("a request under way was cut off: %v", err)
	}
	if err := <-drained; err != nil {
		t.Error(err)
	}
}

func TestHTTP3(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	e.serve("sink", federation.ProtocolHTTP, sink(t))
	at := e.listen(federation.Ingress{TLS: e.tls("a", "a.example.com", "b.example.com"), HTTP3: true, MaxBody: 1 << 20, Hosts: []federation.IngressHost{
		{Name: "a.example.com", Service: ref("web"), Paths: []federation.IngressPath{{Prefix: "/sink", Service: ref("sink")}}},
		{Name: "b.example.com", Service: ref("web")}}})
	_, port, _ := net.SplitHostPort(at)
	if got := ask(t, e.client(at, false), "https://a.example.com/"); got.Reply.Get("Alt-Svc") != fmt.Sprintf(`h3=":%s"; ma=86400`, port) {
		t.Errorf("Alt-Svc %q", got.Reply.Get("Alt-Svc"))
	}
	c := e.client3(at)
	got := ask(t, c, "https://a.example.com/x", with("X-Forwarded-For", "198.51.100.1"))
	if got.Proto != "HTTP/3.0" || got.Name != "web" || got.URI != "/x" || got.Header.Get("X-Forwarded-For") != "127.0.0.1" || got.Length != 0 {
		t.Errorf("%+v", got)
	}
	e.log.until(t, map[string]any{"request_id": got.Reply.Get("X-Request-Id"), "protocol": "HTTP/3.0", "client": "127.0.0.1"})
	if got := ask(t, c, "https://a.example.com/", func(r *http.Request) { r.Host = "b.example.com" }); got.Status != 421 {
		t.Errorf("another host than that of the handshake: %d %q", got.Status, got.Text)
	}
	for size, want := range map[int]int{1 << 20: 200, 1<<20 + 1: 413} {
		for _, announced := range []bool{false, true} {
			body := io.Reader(strings.NewReader(strings.Repeat("x", size)))
			if !announced {
				body = struct{ io.Reader }{body}
			}
			res, err := c.Post("https://a.example.com/sink", "text/plain", body)
			if err != nil {
				t.Fatal(err)
			}
			text, _ := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if res.StatusCode != want || want == 200 && string(text) != fmt.Sprint(size) {
				t.Errorf("a body of %d octets, announced=%v: %d %q", size, announced, res.StatusCode, text)
			}
		}
	}
	if _, err := try(e.client3(at), "https://c.example.com/"); err == nil {
		t.Error("a certificate for an unknown name")
	}
	off := e.listed[0]
	off.HTTP3 = false
	e.Apply([]federation.Ingress{off})
	if got := ask(t, e.client(e.address("public"), false), "https://a.example.com/"); got.Reply.Get("Alt-Svc") != "" {
		t.Errorf("Alt-Svc %q", got.Reply.Get("Alt-Svc"))
	}
}

func TestClearTextIsSentToHTTPS(t *testing.T) {
	e := newEdge(t)
	at := e.listen(federation.Ingress{HTTPSRedirect: true})
	got := ask(t, e.client(at, false), "http://a.example.com:8080/x?y=1")
	if got.Status != 301 || got.Reply.Get("Location") != "https://a.example.com/x?y=1" {
		t.Errorf("%d %v", got.Status, got.Reply)
	}
	if got := ask(t, e.client(at, false), "http://a.example.com/x", func(r *http.Request) { r.Method = "POST" }); got.Status != 308 {
		t.Errorf("%d %v", got.Status, got.Reply)
	}
}

// client3 is client for HTTP/3.
func (e *edge) client3(address string) *http.Client {
	tr := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: e.ca.pool},
		Dial: func(ctx context.Context, host string, c *tls.Config, q *quic.Config) (*quic.Conn, error) {
			return quic.DialAddr(ctx, address, c, q)
		}}
	e.t.Cleanup(func() { _ = tr.Close() })
	return &http.Client{Transport: tr, Timeout: 20 * time.Second}
}

func dial(t *testing.T, address string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(20 * time.Second))
	return c.(*net.TCPConn)
}

func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func eventually(t *testing.T, is func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !is(); <-time.After(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it never came to be")
		}
	}
}

// serveWith is a server that runs serve for each connection.
func serveWith(t *testing.T, serve func(net.Conn)) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return l.Addr().String()
}

func echo(t *testing.T) string {
	return serveWith(t, func(c net.Conn) {
		_, _ = io.Copy(c, c)
	})
}

// sink is an HTTP server that says how many octets a body had.
func sink(t *testing.T) string {
	return handler(t, func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		if err != nil {
			return
		}
		_, _ = fmt.Fprint(w, n)
	})
}

func handler(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}
	go func() { _ = s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close() })
	return l.Addr().String()
}
