package ingress_test

import (
	"compress/gzip"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/tradewind-mesh/tradewind/federation"
)

// hourly is a limit that no test outlives.
func hourly(burst int) []federation.RateLimit {
	return []federation.RateLimit{{Per: federation.PerClient, Rate: federation.Rate{Count: 60, Per: time.Hour}, Burst: burst}}
}

func TestEachClientHasItsRate(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	at := e.listen(federation.Ingress{RateLimits: hourly(4), TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")},
		Hosts: []federation.IngressHost{{Name: "a.example.com", Service: ref("web"), RateLimits: hourly(2), CORS: &federation.CORS{Origins: []string{"https://app.example.com"}}},
			{Name: "b.example.com", Service: ref("web")}}})
	c := e.client(at, false)
	for i, f := range []struct {
		client, host string
		want         int
	}{
		{"192.0.2.1", "a", 200}, {"192.0.2.1", "a", 200}, {"192.0.2.1", "a", 429}, // its own
		{"192.0.2.1", "b", 200}, {"192.0.2.1", "b", 429}, // that of the ingress
		{"192.0.2.2", "a", 200}, {"192.0.2.2", "b", 200},
		{"2001:db8::1", "a", 200}, {"2001:db8:0:0:ffff::2", "a", 200}, {"2001:db8::3", "a", 429}, {"2001:db8:0:1::1", "a", 200}, // one customer has a /64
		{"192.0.2.3", "unknown", 404}, {"192.0.2.3", "unknown", 404}, {"192.0.2.3", "unknown", 404}, {"192.0.2.3", "unknown", 404}, {"192.0.2.3", "unknown", 429},
	} {
		got := ask(t, c, "http://"+f.host+".example.com/", with("X-Forwarded-For", f.client), with("Origin", "https://app.example.com"))
		if got.Status != f.want {
			t.Errorf("request %d, of %s for %s: %d %q, want %d", i+1, f.client, f.host, got.Status, got.Text, f.want)
		}
		if f.want != 429 {
			continue
		}
		if after, err := strconv.Atoi(got.Reply.Get("Retry-After")); err != nil || after < 30 || after > 60 || got.Text != "too many requests\n" {
			t.Errorf("request %d: %q %v", i+1, got.Text, got.Reply)
		}
		if f.host == "a" && got.Reply.Get("Access-Control-Allow-Origin") == "" {
			t.Error("a script is not told why")
		}
		e.log.until(t, map[string]any{"request_id": got.Reply.Get("X-Request-Id"), "status": 429.0, "response_flags": "UO",
			"reason": "more than 60/h for each client"})
	}
	want := "# HELP tradewind_ingress_rate_limited_total Requests from outside that were refused because their client asks too often.\n" +
		"# TYPE tradewind_ingress_rate_limited_total counter\ntradewind_ingress_rate_limited_total{ingress=\"public\"} 4\n"
	if err := testutil.GatherAndCompare(e.counts, strings.NewReader(want), "tradewind_ingress_rate_limited_total"); err != nil {
		t.Error(err)
	}
	// What was used up stays so when the resource changes elsewhere, and on a version of HTTP that has another connection.
	g := e.listed[0]
	g.MaxBody = 1 << 20
	e.listen(g)
	if got := ask(t, e.client(at, false), "http://a.example.com/", with("X-Forwarded-For", "192.0.2.1")); got.Status != 429 {
		t.Errorf("after a change: %d", got.Status)
	}
}

// lax is an instance that grants more than it should.
func lax(t *testing.T) string {
	return handler(t, func(w http.ResponseWriter, r *http.Request) {
		for name, value := range map[string]string{"Access-Control-Allow-Origin": r.Header.Get("Origin"), "Access-Control-Allow-Credentials": "true",
			"Access-Control-Expose-Headers": "Set-Cookie", "Access-Control-Allow-Private-Network": "true", "Vary": "Accept"} {
			w.Header().Set(name, value)
		}
		_, _ = fmt.Fprintf(w, `{"name":%q}`, r.Method)
	})
}

// granted are the fields of CORS in a response.
func granted(h http.Header) map[string]string {
	out := map[string]string{}
	for name, values := range h {
		if rest, found := strings.CutPrefix(name, "Access-Control-"); found {
			out[rest] = strings.Join(values, "|")
		}
	}
	return out
}

// TestOtherOrigins goes through the cases of the Fetch standard, 3.2 and 4.8 to 4.9.
func TestOtherOrigins(t *testing.T) {
	e := newEdge(t)
	e.serve("lax", federation.ProtocolHTTP, lax(t))
	at := e.listen(federation.Ingress{Hosts: []federation.IngressHost{
		{Name: "list.example.com", Service: ref("lax"), CORS: &federation.CORS{Origins: []string{"https://app.example.com", "http://localhost:3000"},
			Methods: []string{"PUT", "DELETE"}, Headers: []string{"authorization", "x-a"}, Expose: []string{"x-b"}, Credentials: true, MaxAge: federation.Duration(time.Hour)}},
		{Name: "any.example.com", Service: ref("lax"), CORS: &federation.CORS{Origins: []string{"*"}, Methods: []string{"*"}, Headers: []string{"*"}}},
		{Name: "none.example.com", Service: ref("lax")},
	}})
	c := e.client(at, false)
	type fields = map[string]string
	full := func(origin string) fields {
		return fields{"Allow-Origin": origin, "Allow-Credentials": "true", "Allow-Methods": "PUT, DELETE", "Allow-Headers": "authorization, x-a", "Max-Age": "3600"}
	}
	plain := func(origin string) fields {
		return fields{"Allow-Origin": origin, "Allow-Credentials": "true", "Expose-Headers": "x-b"}
	}
	for _, f := range []struct {
		what, host, method string
		origin             []string
		asks               bool // a preflight
		status             int
		want               fields
		vary               string
	}{
		{"a preflight", "list", "OPTIONS", []string{"https://app.example.com"}, true, 204, full("https://app.example.com"), "Origin"},
		{"a preflight of the other origin", "list", "OPTIONS", []string{"http://localhost:3000"}, true, 204, full("http://localhost:3000"), "Origin"},
		{"a preflight of a stranger", "list", "OPTIONS", []string{"https://evil.example.com"}, true, 204, fields{}, "Origin"},
		{"another scheme", "list", "OPTIONS", []string{"http://app.example.com"}, true, 204, fields{}, "Origin"},
		{"another port", "list", "OPTIONS", []string{"https://app.example.com:8443"}, true, 204, fields{}, "Origin"},
		{"a longer name", "list", "OPTIONS", []string{"https://app.example.com.evil.example"}, true, 204, fields{}, "Origin"},
		{"a name below", "list", "OPTIONS", []string{"https://x.app.example.com"}, true, 204, fields{}, "Origin"},
		{"other case", "list", "OPTIONS", []string{"https://APP.example.com"}, true, 204, fields{}, "Origin"},
		{"a page in a sandbox", "list", "OPTIONS", []string{"null"}, true, 204, fields{}, "Origin"},
		{"two origins", "list", "OPTIONS", []string{"https://app.example.com", "https://evil.example.com"}, true, 204, fields{}, "Origin"},
		{"OPTIONS that is no preflight", "list", "OPTIONS", []string{"https://app.example.com"}, false, 200, plain("https://app.example.com"), "Accept, Origin"},
		{"OPTIONS without an origin", "list", "OPTIONS", nil, true, 200, fields{}, "Accept, Origin"},
		{"a request", "list", "PUT", []string{"https://app.example.com"}, false, 200, plain("https://app.example.com"), "Accept, Origin"},
		{"a request of a stranger", "list", "GET", []string{"https://evil.example.com"}, false, 200, fields{}, "Accept, Origin"},
		{"a request of the same origin", "list", "GET", nil, false, 200, fields{}, "Accept, Origin"},
		{"a preflight of anybody", "any", "OPTIONS", []string{"https://evil.example.com"}, true, 204, fields{"Allow-Origin": "*", "Allow-Methods": "*", "Allow-Headers": "*"}, ""},
		{"a request of anybody", "any", "GET", []string{"https://evil.example.com"}, false, 200, fields{"Allow-Origin": "*"}, "Accept"},
		{"a request of a sandbox", "any", "GET", []string{"null"}, false, 200, fields{"Allow-Origin": "*"}, "Accept"},
		{"a preflight without a policy", "none", "OPTIONS", []string{"https://evil.example.com"}, true, 200,
			fields{"Allow-Origin": "https://evil.example.com", "Allow-Credentials": "true", "Expose-Headers": "Set-Cookie", "Allow-Private-Network": "true"}, "Accept"},
	} {
		got := ask(t, c, "http://"+f.host+".example.com/", func(r *http.Request) {
			r.Method = f.method
			if r.Header["Origin"] = f.origin; f.asks {
				r.Header["Access-Control-Request-Method"] = []string{"PUT"}
			}
		})
		if got.Status != f.status || !reflect.DeepEqual(granted(got.Reply), f.want) || strings.Join(got.Reply["Vary"], ", ") != f.vary {
			t.Errorf("%s: %d %v %q, want %d %v %q", f.what, got.Status, granted(got.Reply), got.Reply["Vary"], f.status, f.want, f.vary)
		}
	}
	got := ask(t, c, "http://list.example.com/", func(r *http.Request) { r.Method = "OPTIONS" }, with("Origin", "https://app.example.com"), with("Access-Control-Request-Method", "PUT"))
	e.log.until(t, map[string]any{"request_id": got.Reply.Get("X-Request-Id"), "status": 204.0, "response_flags": "RL", "method": "OPTIONS"})
}

// idp is an OpenID Connect provider.
type idp struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func newIDP(t *testing.T, e *edge) *idp {
	t.Helper()
	i := &idp{}
	var err error
	if i.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	i.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/realm/.well-known/openid-configuration":
			_ = json.NewEncoder(w).Encode(map[string]any{"issuer": i.URL + "/realm", "jwks_uri": i.URL + "/keys", "token_endpoint": i.URL + "/token"})
		case "/keys":
			_ = json.NewEncoder(w).Encode(jose.JSONWebKeySet{Keys: []jose.JSONWebKey{{Key: i.key.Public(), KeyID: "1", Use: "sig"}}})
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(i.Close)
	e.ca.pool.AddCert(i.Certificate())
	e.tokens.Allow([]string{i.Listener.Addr().String()})
	return i
}

func (i *idp) token(t *testing.T, audience, role string) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, (&jose.SignerOptions{}).WithHeader("kid", "1"))
	if err != nil {
		t.Fatal(err)
	}
	jws, err := signer.Sign(fmt.Appendf(nil, `{"iss":%q,"aud":%q,"exp":%d,"role":%q}`, i.URL+"/realm", audience, time.Now().Add(time.Hour).Unix(), role))
	if err != nil {
		t.Fatal(err)
	}
	text, err := jws.CompactSerialize()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// TestTokens has callers bring what an OpenID Connect provider has issued: the host wants a token, intentions judge what it claims.
func TestTokens(t *testing.T) {
	e := newEdge(t)
	issuer := newIDP(t, e)
	e.serve("web", federation.ProtocolHTTP, instance(t, "web"))
	e.serve("api", federation.ProtocolHTTP, instance(t, "api"))
	for i := range e.view.Intentions {
		if e.view.Intentions[i].Name == "in-api" {
			e.view.Intentions[i].HTTP = []federation.Permission{{Claims: []federation.ClaimMatch{{Provider: "idp", Path: []string{"role"}, Any: []string{"admin"}}}}}
		}
	}
	e.publish()
	spec := federation.JWT{Issuer: issuer.URL + "/realm", Audiences: []string{"shop"}}
	if err := spec.Validate("idp"); err != nil {
		t.Fatal(err)
	}
	e.tokens.Apply([]federation.JWT{spec})
	idps := []string{"idp"}
	at := e.listen(federation.Ingress{Hosts: []federation.IngressHost{
		{Name: "web.example.com", Service: ref("web"), RequireToken: idps, CORS: &federation.CORS{Origins: []string{"https://app.example.com"}, Headers: []string{"authorization"}}},
		{Name: "api.example.com", Service: ref("api")},
		{Name: "both.example.com", Service: ref("api"), RequireToken: idps},
		{Name: "gone.example.com", Service: ref("gone"), RequireToken: idps},
		{Name: "typo.example.com", Service: ref("web"), RequireToken: []string{"ipd"}},
	}})
	c := e.client(at, false)
	good, other := issuer.token(t, "shop", "admin"), issuer.token(t, "elsewhere", "admin")
	const none, invalid = `Bearer realm="mesh"`, `Bearer error="invalid_token", error_description="it is for another audience"`
	for _, f := range []struct {
		host, token string
		status      int
		challenge   string
	}{
		{"web", "", 401, none},
		{"web", other, 401, invalid},
		{"web", "rubbish", 401, `Bearer error="invalid_token", error_description="it is no signed token in compact form"`},
		{"web", good, 200, ""},
		{"api", "", 403, ""}, // an intention asks, and without a token it does not speak
		{"api", other, 401, invalid},
		{"api", issuer.token(t, "shop", "user"), 403, ""},
		{"api", good, 200, ""},
		{"both", "", 401, none},
		{"both", issuer.token(t, "shop", "user"), 403, ""},
		{"both", good, 200, ""},
		{"gone", "", 401, none}, // not that there is no such service
		{"gone", good, 503, ""},
		{"typo", "", 401, none},
		{"typo", good, 503, ""}, // nobody can say that it is bad
	} {
		got := ask(t, c, "http://"+f.host+".example.com/", func(r *http.Request) {
			if f.token != "" {
				r.Header.Set("Authorization", "Bearer "+f.token)
			}
		})
		if got.Status != f.status || got.Reply.Get("Www-Authenticate") != f.challenge {
			t.Errorf("%s, token %.10q: %d %q, want %d %q", f.host, f.token, got.Status, got.Reply.Get("Www-Authenticate"), f.status, f.challenge)
		}
		line := e.log.until(t, map[string]any{"request_id": got.Reply.Get("X-Request-Id"), "status": float64(f.status)})
		if (f.status == 401 || f.status == 403) && (line["response_flags"] != "UAEX" || line["decision"] != "deny") {
			t.Errorf("%s: %v", f.host, line)
		}
		if f.status == 200 && got.Header.Get("Authorization") != "" {
			t.Errorf("%s: the instance got the token", f.host)
		}
	}
	preflight := ask(t, c, "http://web.example.com/", func(r *http.Request) { r.Method = "OPTIONS" }, with("Origin", "https://app.example.com"),
		with("Access-Control-Request-Method", "GET"), with("Access-Control-Request-Headers", "authorization"))
	if preflight.Status != 204 || preflight.Reply.Get("Access-Control-Allow-Headers") != "authorization" {
		t.Errorf("a preflight, which brings no token: %d %v", preflight.Status, preflight.Reply)
	}
	refused := ask(t, c, "http://web.example.com/", with("Origin", "https://app.example.com"))
	if refused.Status != 401 || refused.Reply.Get("Access-Control-Allow-Origin") != "https://app.example.com" {
		t.Errorf("a script is not told that it needs a token: %d %v", refused.Status, refused.Reply)
	}
}

// TestResponsesAreCompressed sends the same by every version of HTTP, to who takes it and who does not.
func TestResponsesAreCompressed(t *testing.T) {
	e := newEdge(t)
	text := strings.Repeat("the trade winds carry it east and west. ", 4000)
	e.serve("web", federation.ProtocolHTTP, handler(t, func(w http.ResponseWriter, r *http.Request) {
		for name, values := range r.URL.Query() {
			w.Header()[name] = values
		}
		status, _ := strconv.Atoi(w.Header().Get("Status"))
		n, err := strconv.Atoi(w.Header().Get("Size"))
		if err != nil {
			n = len(text)
		}
		w.Header().Set("Accept-Ranges", "bytes")
		if w.Header().Get("Streamed") == "" {
			w.Header().Set("Content-Length", strconv.Itoa(n))
		}
		if status != 0 {
			w.WriteHeader(status)
		}
		if w.Header().Get("Streamed") != "" {
			w.(http.Flusher).Flush()
		}
		_, _ = io.WriteString(w, text[:n])
	}))
	at := e.listen(federation.Ingress{TLS: e.tls("a", "a.example.com", "off.example.com"), HTTP3: true, Hosts: []federation.IngressHost{
		{Name: "a.example.com", Service: ref("web"), Compress: []string{"gzip"}}, {Name: "off.example.com", Service: ref("web")}}})
	const html = "Content-Type=text/html%3B+charset%3Dutf-8"
	for _, c := range []*http.Client{e.client(at, false), e.client(at, true), e.client3(at)} {
		for _, f := range []struct {
			what, query, takes string
			zipped, varies     bool
		}{
			{"a page", html + "&Etag=%221%22", "br, gzip", true, true},
			{"a page of unknown length", html + "&Streamed=1", "gzip;q=0.1", true, true},
			{"a page, streamed and small", html + "&Streamed=1&Size=5", "gzip", true, true},
			{"an error of the instance", html + "&Status=500", "gzip", true, true},
			{"JSON", "Content-Type=application/problem%2Bjson", "gzip", true, true},
			{"who takes none", html, "", false, true},
			{"who takes another", html, "br, deflate, *", false, true},
			{"who does not want it", html, "gzip;q=0", false, true},
			{"a small page", html + "&Size=1023", "gzip", false, false},
			{"a picture", "Content-Type=image/png", "gzip", false, false},
			{"events", "Content-Type=text/event-stream", "gzip", false, false},
			{"compressed already", html + "&Content-Encoding=br", "gzip", false, false},
			{"not to be transformed", html + "&Cache-Control=public,+no-transform", "gzip", false, false},
			{"with a digest", html + "&Content-Digest=x", "gzip", false, false},
			{"a part", html + "&Status=206&Content-Range=bytes+0-159999/200000", "gzip", false, false},
			{"another host", html, "gzip", false, false},
		} {
			host := "a"
			if f.what == "another host" {
				host = "off"
			}
			r, err := http.NewRequest(http.MethodGet, "https://"+host+".example.com/?"+f.query, nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header.Set("Accept-Encoding", f.takes)
			res, err := c.Do(r)
			if err != nil {
				t.Fatalf("%s: %v", f.what, err)
			}
			h := res.Header
			var body io.Reader = res.Body
			if zipped := h.Get("Content-Encoding") == "gzip"; zipped != f.zipped {
				t.Errorf("%s, %s: %v", f.what, res.Proto, h)
			} else if zipped {
				if body, err = gzip.NewReader(res.Body); err != nil {
					t.Fatalf("%s: %v", f.what, err)
				}
				if h.Get("Accept-Ranges") != "" || res.ContentLength >= 0 || h.Get("Etag") != "" && h.Get("Etag") != `W/"1"` {
					t.Errorf("%s, %s: %v", f.what, res.Proto, h)
				}
			}
			got, err := io.ReadAll(body)
			_ = res.Body.Close()
			if err != nil || !strings.HasPrefix(text, string(got)) || h.Get("Size") == "" && len(got) != len(text) || (h.Get("Vary") == "Accept-Encoding") != f.varies {
				t.Errorf("%s, %s: %d octets, %v, %v", f.what, res.Proto, len(got), err, h)
			}
		}
		res, err := c.Head("https://a.example.com/?" + html)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != 200 || res.Header.Get("Content-Encoding") != "" || res.Header.Get("Vary") != "Accept-Encoding" {
			t.Errorf("HEAD: %d %v", res.StatusCode, res.Header)
		}
	}
}

// TestCompressedStreamsArriveAsTheyAreSent: what an instance has flushed is at the caller's before it sends more.
func TestCompressedStreamsArriveAsTheyAreSent(t *testing.T) {
	e := newEdge(t)
	goOn := make(chan struct{})
	e.serve("web", federation.ProtocolHTTP, handler(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		for i := range 3 {
			_, _ = fmt.Fprintf(w, "message %d\n", i)
			w.(http.Flusher).Flush()
			select {
			case <-goOn:
			case <-r.Context().Done():
				return
			}
		}
		if r.URL.Path == "/broken" {
			panic(http.ErrAbortHandler)
		}
	}))
	at := e.listen(federation.Ingress{Hosts: []federation.IngressHost{{Name: "a.example.com", Service: ref("web"), Compress: []string{"gzip"}}}})
	for _, path := range []string{"/whole", "/broken"} {
		r, err := http.NewRequest(http.MethodGet, "http://a.example.com"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept-Encoding", "gzip")
		res, err := e.client(at, false).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		unzip, err := gzip.NewReader(res.Body)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 3 {
			want := fmt.Sprintf("message %d\n", i)
			got := make([]byte, len(want))
			if _, err := io.ReadFull(unzip, got); err != nil || string(got) != want {
				t.Fatalf("%s: %q %v", path, got, err)
			}
			goOn <- struct{}{}
		}
		if rest, err := io.ReadAll(unzip); (err == nil) != (path == "/whole") || len(rest) > 0 {
			t.Errorf("%s ends with %q, %v", path, rest, err)
		}
		_ = res.Body.Close()
	}
}

func TestErrorPages(t *testing.T) {
	e := newEdge(t)
	e.serve("web", federation.ProtocolHTTP, handler(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "the instance's own", http.StatusBadGateway)
	}))
	file := filepath.Join(e.dir, "sorry.html")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		put(t, file+".new", []byte(text))
		if err := os.Chmod(file+".new", mode); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	write("<p>sorry</p>", 0o644)
	at := e.listen(federation.Ingress{TLS: e.tls("a", "web.example.com", "gone.example.com", "limited.example.com"), HTTP3: true,
		ErrorPages: []federation.ErrorPage{{Status: []int{502, 503, 504}, BodyFile: file}, {Status: []int{404, 421}, Body: "<p>nothing</p>"}},
		Hosts: []federation.IngressHost{{Name: "web.example.com", Paths: []federation.IngressPath{{Prefix: "/x", Service: ref("web")}}}, {Name: "gone.example.com", Service: ref("gone")},
			{Name: "limited.example.com", Service: ref("gone"), RateLimits: hourly(1),
				ErrorPages: []federation.ErrorPage{{Status: []int{429, 503}, Body: `{"sorry":true}`, ContentType: "application/json"}}}}})
	for _, c := range []*http.Client{e.client(at, false), e.client(at, true), e.client3(at)} {
		for _, f := range []struct {
			url, text, kind string
			status          int
		}{
			{"https://gone.example.com/", "<p>sorry</p>", federation.DefaultPageType, 503},
			{"https://web.example.com/", "<p>nothing</p>", federation.DefaultPageType, 404},
			{"https://web.example.com/x", "the instance's own\n", "text/plain; charset=utf-8", 502},
		} {
			for _, method := range []string{"GET", "HEAD"} {
				got := ask(t, c, f.url, func(r *http.Request) { r.Method = method })
				text := f.text
				if method == "HEAD" {
					text = ""
				}
				if got.Status != f.status || got.Text != text || got.Reply.Get("Content-Type") != f.kind || !uuid.MatchString(got.Reply.Get("X-Request-Id")) {
					t.Errorf("%s %s, %s: %d %q %v", method, f.url, got.Proto, got.Status, got.Text, got.Reply)
				}
			}
		}
	}
	c := e.client(at, true)
	ask(t, c, "https://limited.example.com/")
	if got := ask(t, c, "https://limited.example.com/"); got.Status != 429 || got.Text != `{"sorry":true}` || got.Reply.Get("Retry-After") == "" || got.Reply.Get("Content-Type") != "application/json" {
		t.Errorf("%d %q %v", got.Status, got.Text, got.Reply)
	}
	// The file is read again when it changes, and what nobody else may read is not published.
	page := func() string { return ask(t, c, "https://gone.example.com/").Text }
	write("<p>very sorry</p>", 0o644)
	eventually(t, func() bool { return page() == "<p>very sorry</p>" })
	for _, f := range []struct {
		says   string
		change func()
	}{
		{"not everybody", func() { write("secret", 0o600) }},
		{"more than 64KiB", func() { write(strings.Repeat("x", 64<<10+1), 0o644) }},
		{"no such file", func() { _ = os.Remove(file) }},
	} {
		f.change()
		eventually(t, func() bool {
			p := e.Status()[0].Problems
			return len(p) == 1 && p[0].Code == federation.CodeIngressPage && strings.Contains(p[0].Why, f.says)
		})
		if page() != "<p>very sorry</p>" {
			t.Errorf("%s: %q", f.says, page())
		}
	}
}
