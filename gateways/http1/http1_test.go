package http1

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"
)

func TestRequestIsCanonical(t *testing.T) {
	for _, c := range []struct {
		line, host             string
		rules                  Rules
		uri, path, raw, asHost string
	}{
		{line: "GET /a HTTP/1.1", host: "a", uri: "/a", path: "/a", asHost: "a"},
		{line: "GET / HTTP/1.1", host: "EXAMPLE.com:8080", uri: "/", path: "/", asHost: "example.com:8080"}, // CVE-2021-39155
		{line: "GET / HTTP/1.1", host: "Example.com.", uri: "/", path: "/", asHost: "example.com"},
		{line: "GET / HTTP/1.1", host: "a.:80", uri: "/", path: "/", asHost: "a:80"},
		{line: "GET / HTTP/1.1", host: "[2001:DB8::1]:80", uri: "/", path: "/", asHost: "[2001:db8::1]:80"},
		{line: "GET / HTTP/1.0", host: "a", uri: "/", path: "/", asHost: "a"},
		{line: "GET /%61dmin/%7ex HTTP/1.1", host: "a", uri: "/admin/~x", path: "/admin/~x", asHost: "a"},
		{line: "GET /a%20b%c3%a9 HTTP/1.1", host: "a", uri: "/a%20b%C3%A9", path: "/a bé", raw: "/a%20b%C3%A9", asHost: "a"},
		{line: "GET /%252e%252e HTTP/1.1", host: "a", uri: "/%252e%252e", path: "/%2e%2e", raw: "/%252e%252e", asHost: "a"},
		{line: "GET /it's/(1) HTTP/1.1", host: "a", uri: "/it's/(1)", path: "/it's/(1)", raw: "/it's/(1)", asHost: "a"},
		{line: "GET /a/...;b HTTP/1.1", host: "a", uri: "/a/...;b", path: "/a/...;b", asHost: "a"},
		{line: "GET /%61/?q=%61//..&r=[1] HTTP/1.1", host: "a", uri: "/a/?q=%61//..&r=[1]", path: "/a/", asHost: "a"},
		{line: "GET /? HTTP/1.1", host: "a", uri: "/?", path: "/", asHost: "a"},
		{line: "GET http://A/%41?x HTTP/1.1", host: "a", uri: "/A?x", path: "/A", asHost: "a"},
		{line: "GET HTTPS://a:443?x HTTP/1.1", host: "a:443", uri: "/?x", path: "/", asHost: "a:443"},
		{line: "GET http://a HTTP/1.0", uri: "/", path: "/", asHost: "a"},
		{line: "OPTIONS * HTTP/1.1", host: "a", uri: "*", path: "*", asHost: "a"},
		{line: "OPTIONS http://a HTTP/1.1", host: "a", uri: "*", path: "*", asHost: "a"},
		{line: "CONNECT A:443 HTTP/1.1", host: "a:443", uri: "a:443", asHost: "a:443"},
		{line: "purge /a HTTP/1.1", host: "a", uri: "/a", path: "/a", asHost: "a"},
		{line: "GET /a%2fb HTTP/1.1", host: "a", rules: Rules{AllowEncodedSlash: true}, uri: "/a%2Fb", path: "/a/b", raw: "/a%2Fb", asHost: "a"},
		{line: "GET //a//b/ HTTP/1.1", host: "a", rules: Rules{AllowEmptySegment: true}, uri: "//a//b/", path: "//a//b/", asHost: "a"},
	} {
		raw := c.line + "\r\nx_y: 1\r\n"
		c.rules.AllowUnderscore = true
		if c.host != "" {
			raw += "host:  " + c.host + "\t\r\n"
		}
		req, _, err := readAll(raw+"\r\n", c.rules)
		if err != nil {
			t.Errorf("%s: %v", c.line, err)
			continue
		}
		if req.RequestURI != c.uri || req.URL.Path != c.path || req.URL.RawPath != c.raw || req.Host != c.asHost {
			t.Errorf("%s: %q, path %q, raw %q, host %q", c.line, req.RequestURI, req.URL.Path, req.URL.RawPath, req.Host)
		}
		if want := map[string][]string{"X_y": {"1"}}; !reflect.DeepEqual(map[string][]string(req.Header), want) {
			t.Errorf("%s: %v", c.line, req.Header)
		}
		if uri := req.URL.EscapedPath(); req.Method != "CONNECT" && (uri != Path(req.URL) || !strings.HasPrefix(req.RequestURI, uri)) {
			t.Errorf("%s: net/url writes the path as %q", c.line, uri)
		}
	}
	for _, behind := range []string{"/a%2F..%2Fb", "/a%5c%2e%2e", "/..%2fb"} { // allowed slashes do not hide dots
		if _, _, err := readAll(getting(behind), Rules{AllowEncodedSlash: true}); err == nil {
			t.Errorf("%s was accepted", behind)
		}
	}
}

func TestPipelinedRequestsInAnyPieces(t *testing.T) {
	const raw = "POST /1 HTTP/1.1\r\nHost: a\r\ncontent-length: 5\r\nExpect: 100-Continue\r\n\r\nhello" +
		"POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: Chunked\r\nTrailer: x-sum\r\n\r\n" +
		"3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n000\r\nx-sum: 1\r\nX-Sum: 2\r\nOther: 3\r\n\r\n" +
		"GET /3 HTTP/1.0\r\nHost: a\r\nConnection: Keep-Alive\r\n\r\nGET /4 HTTP/1.1\r\nHost: a\r\nconnection: close\r\n\r\n"
	for name, src := range map[string]io.Reader{
		"at once": strings.NewReader(raw), "octets": iotest.OneByteReader(strings.NewReader(raw)),
		"halves": iotest.HalfReader(strings.NewReader(raw)), "with the end": iotest.DataErrReader(strings.NewReader(raw)),
	} {
		r := NewReader(src, Rules{})
		var got []string
		for {
			req, err := r.ReadRequest()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if req.URL.Path == "/1" != ExpectsContinue(req) || req.URL.Path == "/4" != req.Close {
				t.Errorf("%s: %+v", name, req)
			}
			if req.URL.Path == "/2" && !reflect.DeepEqual(req.Trailer, http.Header{"X-Sum": nil}) {
				t.Errorf("%s: announced %v", name, req.Trailer)
			}
			copied := *req
			body, err := io.ReadAll(req.Body)
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got = append(got, req.URL.Path+" "+string(body))
			if want := (http.Header{"X-Sum": {"1", "2"}, "Other": {"3"}}); req.URL.Path == "/2" && !reflect.DeepEqual(copied.Trailer, want) {
				t.Errorf("%s: trailer %v", name, copied.Trailer)
			}
		}
		if want := []string{"/1 hello", "/2 abc0123456789", "/3 ", "/4 "}; !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %q", name, got)
		}
		if !r.Release() || r.buf != nil {
			t.Errorf("%s: a buffer is held", name)
		}
	}
}

func TestReleaseKeepsWhatIsBuffered(t *testing.T) {
	r := NewReader(strings.NewReader(getting("/1")+getting("/2")+"raw"), Rules{})
	for _, path := range []string{"/1", "/2"} {
		if r.buf != nil && r.Release() {
			t.Error("released with a request in the buffer")
		}
		if req, err := r.ReadRequest(); err != nil || req.URL.Path != path {
			t.Fatal(req, err)
		}
	}
	if rest := r.Rest(); string(rest) != "raw" || r.Buffered() != 0 || r.buf != nil {
		t.Errorf("%q", rest)
	}
}

func TestDrain(t *testing.T) {
	chunk := "8000\r\n" + strings.Repeat("x", 0x8000) + "\r\n"
	for _, c := range []struct {
		name, head, body string
		ok               bool
	}{
		{"length", "Content-Length: 262144\r\n", strings.Repeat("x", 262144), true},
		{"too long", "Content-Length: 262145\r\n", strings.Repeat("x", 262145), false},
		{"chunks", "Transfer-Encoding: chunked\r\n", strings.Repeat(chunk, 7) + "0\r\nA: b\r\n\r\n", true},
		{"too many chunks", "Transfer-Encoding: chunked\r\n", strings.Repeat(chunk, 9) + "0\r\n\r\n", false},
		{"malformed", "Transfer-Encoding: chunked\r\n", "z\r\n", false},
		{"the caller waits for 100", "Content-Length: 1\r\nExpect: 100-continue\r\n", "x", false},
	} {
		r := NewReader(strings.NewReader(post+c.head+"\r\n"+c.body+getting("/next")), Rules{})
		req, err := r.ReadRequest()
		if err != nil {
			t.Fatal(c.name, err)
		}
		if _, err := r.ReadRequest(); err == nil {
			t.Errorf("%s: a request was read out of a body", c.name)
		}
		_ = req.Body.Close()
		if _, err := req.Body.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
			t.Errorf("%s: %v", c.name, err)
		}
		if err := r.Drain(); (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if next, err := r.ReadRequest(); (err == nil) != c.ok || c.ok && next.URL.Path != "/next" {
			t.Errorf("%s: next %v", c.name, err)
		}
	}
}

func TestResponses(t *testing.T) {
	for _, c := range []struct {
		name, method, raw, body string
		length                  int64
		close                   bool
		rest                    string
	}{
		{"length", "GET", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi", 2, false, ""},
		{"no length", "GET", "HTTP/1.1 200 OK\r\n\r\nhi", "hi", -1, true, ""},
		{"1.0", "GET", "HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nhi", "hi", 2, true, ""},
		{"1.0 keep-alive", "GET", "HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nhi", "hi", 2, false, ""},
		{"chunked", "GET", "HTTP/1.1 200\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\r\n", "hi", -1, false, ""},
		{"close", "GET", "HTTP/1.1 200 \r\nConnection: close\r\nContent-Length: 0\r\n\r\n", "", 0, true, ""},
		{"HEAD", "HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nHTTP", "", 2, false, "HTTP"},
		{"HEAD chunked", "HEAD", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nHTTP", "", -1, false, "HTTP"},
		{"204", "GET", "HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\nHTTP", "", 0, false, "HTTP"},
		{"304", "GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 2\r\n\r\nHTTP", "", 2, false, "HTTP"},
		{"CONNECT", "CONNECT", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nraw", "", 0, false, "raw"},
		{"1xx first", "GET", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 x\r\nLink: a\r\n\r\n" +
			"HTTP/1.1 404 Not\r\nContent-Length: 1\r\n\r\nx", "x", 1, false, ""},
	} {
		r := NewReader(iotest.OneByteReader(strings.NewReader(c.raw)), Rules{})
		resp, err := r.ReadResponse(&http.Request{Method: c.method})
		for err == nil && resp.StatusCode < 200 {
			resp, err = r.ReadResponse(&http.Request{Method: c.method})
		}
		if err != nil {
			t.Fatal(c.name, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		rest, _ := io.ReadAll(io.MultiReader(bytes.NewReader(r.Rest()), r.src))
		if err != nil || string(body) != c.body || resp.ContentLength != c.length || resp.Close != c.close || string(rest) != c.rest {
			t.Errorf("%s: %v, %q, %+v, %q", c.name, err, body, resp, rest)
		}
	}
}

func TestUpgradeHandsTheConnectionOver(t *testing.T) {
	asks := NewReader(strings.NewReader(get+"Connection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\nfirst"), Rules{})
	req, err := asks.ReadRequest()
	if err != nil || UpgradeProtocol(req.Header) != "WebSocket" {
		t.Fatal(err)
	}
	if err := StripHopByHop(req.Header, true); err != nil {
		t.Fatal(err)
	}
	out, err := AppendRequest(nil, req)
	if want := get + "Upgrade: WebSocket\r\nConnection: Upgrade\r\n\r\n"; err != nil || string(out) != want {
		t.Errorf("%v %q", err, out)
	}
	answers := NewReader(strings.NewReader("HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\nsecond"), Rules{})
	resp, err := answers.ReadResponse(req)
	if err != nil || StripHopByHop(resp.Header, true) != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	out, err = AppendResponse(nil, resp)
	if want := "HTTP/1.1 101 x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"; err != nil || string(out) != want {
		t.Errorf("%v %q", err, out)
	}
	if a, b := asks.Rest(), answers.Rest(); string(a) != "first" || string(b) != "second" {
		t.Errorf("%q %q", a, b)
	}
}

func TestUpgradeProtocol(t *testing.T) {
	for _, c := range []struct{ connection, upgrade, want string }{
		{"upgrade", "websocket", "websocket"}, {"close, UPGRADE", "SPDY/3.1", "SPDY/3.1"}, {"upgrade", "tcp", "tcp"},
		{"keep-alive", "websocket", ""}, {"upgrade", "", ""}, {"upgrade", "a, b", ""}, {"upgrade", "a/b/c", ""},
		{"upgrade", "h2c", ""}, {"upgrade", "H2C", ""}, {"upgrade", "HTTP/2.0", ""}, {"upgrade", "TLS/1.3", ""}, // CVE-2022-41721
	} {
		if got := UpgradeProtocol(http.Header{"Connection": {c.connection}, "Upgrade": {c.upgrade}}); got != c.want {
			t.Errorf("%+v: %q", c, got)
		}
	}
	if UpgradeProtocol(http.Header{"Connection": {"upgrade"}, "Upgrade": {"a", "b"}}) != "" {
		t.Error("two fields")
	}
}

func TestStripHopByHop(t *testing.T) {
	h := http.Header{
		"Connection": {"close, X-Hop", "keep-alive,te"}, "X-Hop": {"1"}, "Keep-Alive": {"1"}, "Proxy-Authorization": {"1"},
		"Proxy-Connection": {"1"}, "Proxy": {"1"}, "Http2-Settings": {"1"}, "Upgrade": {"websocket"}, "Te": {"gzip", "Trailers"}, "A": {"b"},
	}
	if err := StripHopByHop(h, false); err != nil || !reflect.DeepEqual(h, http.Header{"Te": {"trailers"}, "A": {"b"}}) {
		t.Errorf("%v %v", err, h)
	}
	if err := StripHopByHop(http.Header{"Connection": {"cookie"}}, false); err == nil {
		t.Error("a cookie was stripped")
	}
}

func TestCanonicalHost(t *testing.T) {
	if host, err := CanonicalHost("Example.COM.:80"); err != nil || host != "example.com:80" {
		t.Error(host, err)
	}
	if _, err := CanonicalHost("a b"); err == nil {
		t.Error("a space was accepted")
	}
}

// The limits are what the cost of a request is planned with; another allocation is seen here before it is seen in a profile.
func TestAllocations(t *testing.T) {
	r, dst := NewReader(again(typicalRequest), Rules{}), []byte(nil)
	var req *http.Request
	if n := testing.AllocsPerRun(100, func() { req, _ = r.ReadRequest() }); n > 4 {
		t.Errorf("reading a request: %v", n)
	}
	if n := testing.AllocsPerRun(100, func() { dst, _ = AppendRequest(dst[:0], req) }); n > 0 {
		t.Errorf("writing a request: %v", n)
	}
	if n := testing.AllocsPerRun(100, func() { dst, _ = AppendResponse(dst[:0], &http.Response{StatusCode: 200}) }); n > 0 {
		t.Errorf("writing a response: %v", n)
	}
}

func TestSetTarget(t *testing.T) {
	req, _, err := readAll(getting("/old/a%20b?c"), Rules{})
	if err != nil {
		t.Fatal(err)
	}
	before := *req.URL
	for _, refused := range []string{"", "a", "/a/../b", "/a b", "/a\r\nb", "/a%2fb", "*"} {
		if err := SetTarget(req, refused, Rules{}); err == nil {
			t.Errorf("%q was accepted", refused)
		}
	}
	old := req.URL
	if err := SetTarget(req, "/new/%61%20b?d", Rules{}); err != nil || req.RequestURI != "/new/a%20b?d" || req.URL.String() != "/new/a%20b?d" {
		t.Error(err, req.RequestURI, req.URL)
	}
	if *old != before {
		t.Error("the URL of a copy was changed")
	}
}
