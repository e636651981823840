package mesh_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/tradewind-mesh/tradewind/federation"
)

// witness is an instance that takes down what reaches it, whatever it is.
type witness struct {
	mu   sync.Mutex
	seen []string
}

// newWitness starts a witness and returns its address.
func newWitness(t *testing.T) (*witness, string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := &witness{}
	var serving sync.WaitGroup
	var open sync.Map
	serving.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			open.Store(c, true)
			serving.Go(func() { w.serve(c) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		for c := range open.Range {
			_ = c.(net.Conn).Close()
		}
		serving.Wait()
	})
	return w, l.Addr().String()
}

func (w *witness) serve(c net.Conn) {
	defer c.Close()
	in := bufio.NewReader(c)
	for {
		r, err := http.ReadRequest(in)
		if err != nil {
			if err != io.EOF && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.ErrUnexpectedEOF) && !strings.Contains(err.Error(), "reset") {
				w.note("garbage: " + err.Error())
			}
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return // broken off: nothing was done
		}
		w.note(fmt.Sprintf("%s %s %s %q %v", r.Method, r.RequestURI, r.Host, body, r.Trailer))
		if _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"); err != nil {
			return
		}
	}
}

func (w *witness) note(what string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.seen = append(w.seen, what)
}

// take returns what was seen since the last call.
func (w *witness) take() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := w.seen
	w.seen = nil
	return seen
}

// TestSmugglingAcrossGateways sends by raw sockets what two parsers could read in two ways. No instance may see a request that
// was not judged.
func TestSmugglingAcrossGateways(t *testing.T) {
	noLeaks(t)
	w, address := newWitness(t)
	_, _, url := httpPair(t, address, federation.ProtocolHTTP)
	to := strings.TrimPrefix(url, "http://")
	const inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, c := range []struct {
		class, raw string
		status     int    // of the first response
		seen       string // by the instance; empty: nothing
	}{
		{"CL.TE", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, 400, ""},
		{"TE.CL", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + inner + "0\r\n\r\n", 400, ""},
		{"TE.TE twice", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + inner, 400, ""},
		{"TE.TE list", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: x, chunked\r\n\r\n0\r\n\r\n" + inner, 501, ""},
		{"TE.TE space", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n" + inner, 400, ""},
		{"TE.TE tab", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + inner, 400, ""},
		{"TE.TE fold", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n" + inner, 400, ""},
		{"TE underscore", "POST / HTTP/1.1\r\nHost: x\r\nTransfer_Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, 400, ""},
		{"TE in 1.0", "POST / HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + inner, 400, ""},
		{"CL.CL", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 36\r\n\r\n" + inner, 400, ""},
		{"CL sign", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: +0\r\n\r\n" + inner, 400, ""},
		{"CL.0", fmt.Sprintf("GET /cl0 HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", len(inner), inner), 200,
			fmt.Sprintf("GET /cl0 x %q map[]", inner)},
		{"bare LF", "GET / HTTP/1.1\nHost: x\n\n" + inner, 400, ""},
		{"bare CR", "GET / HTTP/1.1\r\nHost: x\r\nA: b\rC: d\r\n\r\n" + inner, 400, ""},
		{"NUL", "GET / HTTP/1.1\r\nHost: x\r\nA: b\x00\r\n\r\n" + inner, 400, ""},
		{"chunk size", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0x0\r\n\r\n" + inner, 400, ""},
		{"chunk overflow", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffff00\r\n\r\n" + inner, 400, ""},
		{"chunk extension", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1;a\nx\r\n0\r\n\r\n" + inner, 400, ""},
		{"trailer framing", "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length: 5\r\n\r\n", 400, ""},
		{"trailer reserved", "POST /t HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\nTrailer: X-A, X-Tradewind-Caller\r\n\r\n0\r\nX-A: 1\r\n" +
			"X-Tradewind-Caller: forged\r\n\r\n", 200, `POST /t x "" map[X-A:[1]]`},
		{"host twice", "GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, ""},
		{"host in target", "GET http://y/ HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
		{"hop-by-hop removal", "GET / HTTP/1.1\r\nHost: x\r\nConnection: close, X-Forwarded-For\r\nX-Forwarded-For: 1\r\n\r\n", 400, ""},
		{"dot segment", "GET /a/../admin HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
		{"encoded dot segment", "GET /a/%2e%2e/admin HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
		{"upgrade to h2c", "GET /up HTTP/1.1\r\nHost: x\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n", 200,
			`GET /up x "" map[]`},
		{"method in small letters", "get / HTTP/1.1\r\nHost: x\r\n\r\n", 400, ""},
		{"CONNECT", "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n" + inner, 501, ""}, // what follows would be the tunnel's
		{"CONNECT with a body", "CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\nContent-Length: 36\r\n\r\n" + inner, 400, ""},
	} {
		t.Run(c.class, func(t *testing.T) {
			conn, err := net.Dial("tcp", to)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
			if _, err := io.WriteString(conn, c.raw); err != nil {
				t.Fatal(err)
			}
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, res.Body); err != nil {
				t.Error(err)
			}
			_ = conn.Close()
			if status, body := fetch(t, caller(t, false), "GET", url+"/after"); status != 200 || body != "ok" { // takes what was smuggled
				t.Errorf("the next caller got %d %q", status, body)
			}
			var want []string
			if c.seen != "" {
				want = append(want, c.seen)
			}
			want = append(want, fmt.Sprintf("GET /after %s \"\" map[]", to))
			if seen := w.take(); !slices.Equal(seen, want) || res.StatusCode != c.status {
				t.Errorf("status %d, want %d; the instance saw %q, want %q", res.StatusCode, c.status, seen, want)
			}
		})
	}
}

// raw2 is a connection of HTTP/2 on which anything can be sent.
type raw2 struct {
	*http2.Framer
	net.Conn
	enc *hpack.Encoder
	buf bytes.Buffer
}

func dial2(t *testing.T, to string) *raw2 {
	t.Helper()
	conn, err := net.Dial("tcp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(30 * time.Second))
	c := &raw2{Framer: http2.NewFramer(conn, conn), Conn: conn}
	c.AllowIllegalWrites = true
	c.enc = hpack.NewEncoder(&c.buf)
	c.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	if _, err := io.WriteString(conn, http2.ClientPreface); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(c.WriteSettings(), c.WriteSettingsAck()); err != nil {
		t.Fatal(err)
	}
	return c
}

// block encodes fields: name, value, name, value.
func (c *raw2) block(fields ...string) []byte {
	c.buf.Reset()
	for i := 0; i+1 < len(fields); i += 2 {
		_ = c.enc.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	return bytes.Clone(c.buf.Bytes())
}

// answer reads until stream 1 has a response or the stream or connection has been ended: then "reset" or "closed".
func (c *raw2) answer() string {
	for {
		f, err := c.ReadFrame()
		if err != nil {
			return "closed"
		}
		switch f := f.(type) {
		case *http2.MetaHeadersFrame:
			return f.PseudoValue("status")
		case *http2.RSTStreamFrame:
			return "reset"
		case *http2.GoAwayFrame:
			return "closed"
		}
	}
}

// TestDowngradeAcrossGateways sends in HTTP/2 what must not become HTTP/1.1 behind it.
func TestDowngradeAcrossGateways(t *testing.T) {
	noLeaks(t)
	w, address := newWitness(t)
	_, _, url := httpPair(t, address, federation.ProtocolHTTP)
	to := strings.TrimPrefix(url, "http://")
	head := func(method, path, authority string, more ...string) []string {
		return append([]string{":method", method, ":scheme", "http", ":path", path, ":authority", authority}, more...)
	}
	many := head("GET", "/", "x")
	for i := range 129 {
		many = append(many, fmt.Sprintf("x-%d", i), "1")
	}
	refused := []string{"400", "431", "501", "reset", "closed"}
	for _, c := range []struct {
		class  string
		fields []string
		body   string
		want   []string
		seen   string
	}{
		{"in order", head("GET", "/a", "x"), "", []string{"200"}, `GET /a x "" map[]`},
		{"H2.TE", head("POST", "/", "x", "transfer-encoding", "chunked"), "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", refused, ""},
		{"H2.CL", head("POST", "/", "x", "content-length", "0"), "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n", append([]string{"200"}, refused...), ""},
		{"H2.CL twice", head("POST", "/", "x", "content-length", "4", "content-length", "0"), "body", refused, ""},
		{"H2.CL word", head("POST", "/", "x", "content-length", "x"), "body", refused, ""},
		{"connection", head("GET", "/", "x", "connection", "keep-alive"), "", refused, ""},
		{"upgrade", head("GET", "/", "x", "upgrade", "websocket"), "", refused, ""},
		{"te", head("GET", "/", "x", "te", "chunked"), "", refused, ""},
		{"line break in value", head("GET", "/", "x", "a", "b\r\nx-injected: 1"), "", refused, ""},
		{"bare LF in value", head("GET", "/", "x", "a", "b\nx: 1"), "", refused, ""},
		{"NUL in value", head("GET", "/", "x", "a", "b\x00"), "", refused, ""},
		{"line break in name", head("GET", "/", "x", "a: 1\r\nx", "b"), "", refused, ""},
		{"colon in name", head("GET", "/", "x", "a:b", "c"), "", refused, ""},
		{"capital in name", head("GET", "/", "x", "Aa", "b"), "", refused, ""},
		{"underscore", head("GET", "/", "x", "x_tradewind_caller", "b"), "", refused, ""},
		{"line break in path", head("GET", "/ HTTP/1.1\r\nHost: x\r\n\r\nGET /smuggled", "x"), "", refused, ""},
		{"space in path", head("GET", "/ HTTP/1.1", "x"), "", refused, ""},
		{"dot segment", head("GET", "/a/%2e%2e/admin", "x"), "", refused, ""},
		{"line break in method", head("GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\nGET", "/", "x"), "", refused, ""},
		{"method in small letters", head("get", "/", "x"), "", refused, ""},
		{"line break in authority", head("GET", "/", "x\r\nx: 1"), "", refused, ""},
		{"user in authority", head("GET", "/", "a@x"), "", refused, ""},
		{"host differs", head("GET", "/", "x", "host", "y"), "", refused, ""},
		{"pseudo twice", append([]string{":path", "/other"}, head("GET", "/", "x")...), "", refused, ""},
		{"pseudo behind", append(head("GET", "/", "x", "a", "b"), ":path", "/other"), "", refused, ""},
		{"unknown pseudo", append([]string{":protocol", "websocket"}, head("GET", "/", "x")...), "", refused, ""},
		{"no path", []string{":method", "GET", ":scheme", "http", ":authority", "x"}, "", refused, ""},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "x:80"}, "", refused, ""},
		{"129 fields", many, "", []string{"431", "reset", "closed"}, ""},
		{"forged caller", head("GET", "/f", "x", "x-tradewind-caller", "spiffe://forged"), "", []string{"200"}, `GET /f x "" map[]`},
	} {
		t.Run(c.class, func(t *testing.T) {
			conn := dial2(t, to)
			_ = conn.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: conn.block(c.fields...), EndHeaders: true, EndStream: c.body == ""})
			if c.body != "" {
				_ = conn.WriteData(1, true, []byte(c.body))
			}
			got := conn.answer()
			_ = conn.Conn.Close()
			if status, body := fetch(t, caller(t, false), "GET", url+"/after"); status != 200 || body != "ok" {
				t.Errorf("the next caller got %d %q", status, body)
			}
			var want []string
			if c.seen != "" {
				want = append(want, c.seen)
			}
			want = append(want, fmt.Sprintf("GET /after %s \"\" map[]", to))
			seen := w.take()
			if c.class == "H2.CL" { // it may have been answered, as the empty request that its head says, before the body was known to be too long
				seen = slices.DeleteFunc(seen, func(s string) bool { return s == `POST / x "" map[]` })
			}
			if !slices.Equal(seen, want) || !slices.Contains(c.want, got) {
				t.Errorf("answered %s, want one of %v; the instance saw %q, want %q", got, c.want, seen, want)
			}
		})
	}
}

// TestHeaderBomb sends one field that a small block names thousands of times: what it decodes to is bounded.
func TestHeaderBomb(t *testing.T) {
	noLeaks(t)
	w, address := newWitness(t)
	_, _, url := httpPair(t, address, federation.ProtocolHTTP)
	conn := dial2(t, strings.TrimPrefix(url, "http://"))
	fields := []string{":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x"}
	for range 3000 { // 9 MB when decoded, 6 KB here
		fields = append(fields, "cookie", strings.Repeat("a", 3000))
	}
	_ = conn.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: conn.block(fields...), EndHeaders: true, EndStream: true})
	if got := conn.answer(); got == "200" || len(w.take()) > 0 {
		t.Errorf("answered %s", got)
	}
}

// TestContinuationFlood never ends a head: the connection ends after a bounded number of frames.
func TestContinuationFlood(t *testing.T) {
	noLeaks(t)
	_, address := newWitness(t)
	_, _, url := httpPair(t, address, federation.ProtocolHTTP)
	conn := dial2(t, strings.TrimPrefix(url, "http://"))
	block := conn.block(":method", "GET", ":scheme", "http", ":path", "/", ":authority", "x")
	_ = conn.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block})
	closed := make(chan string, 1)
	go func() { closed <- conn.answer() }()
	n := 0
	for ; n < 100_000; n++ { // a field that is not indexed, 1 KB
		part := append([]byte{0x10, 1, 'a', 0x7f, 0x81, 0x07}, bytes.Repeat([]byte("b"), 1024)...)
		if conn.WriteContinuation(1, false, part) != nil {
			break
		}
	}
	if got := <-closed; n == 100_000 || got == "200" {
		t.Errorf("%d frames were taken, then %s", n, got)
	}
}

// TestRapidReset opens and resets streams as fast as it can (CVE-2023-44487): never more of them than are allowed to be open reach
// the instance at a time, and other callers are served.
func TestRapidReset(t *testing.T) {
	noLeaks(t)
	var now, most atomic.Int64
	address := server(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			n := now.Add(1)
			defer now.Add(-1)
			for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
			}
			select {
			case <-r.Context().Done():
			case <-time.After(200 * time.Millisecond):
			}
		}
		_, _ = io.WriteString(w, "ok")
	})
	_, _, url := httpPair(t, address, federation.ProtocolHTTP2)
	conn := dial2(t, strings.TrimPrefix(url, "http://"))
	go func() {
		for { // what comes back must not fill the way
			if _, err := conn.ReadFrame(); err != nil {
				return
			}
		}
	}()
	block := conn.block(":method", "GET", ":scheme", "http", ":path", "/slow", ":authority", "x")
	block2 := conn.block(":method", "GET", ":scheme", "http", ":path", "/slow", ":authority", "x")
	for i := range 5000 {
		if i == 1 {
			block = block2
		}
		id := uint32(2*i + 1)
		if conn.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block, EndHeaders: true, EndStream: true}) != nil ||
			conn.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break // cut off: as good
		}
	}
	if status, body := fetch(t, caller(t, true), "GET", url+"/"); status != 200 || body != "ok" {
		t.Errorf("another caller got %d %q", status, body)
	}
	if n := most.Load(); n > 250 {
		t.Errorf("%d requests were with the instance at a time", n)
	}
}
