package http1

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"net/http/httputil"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"pgregory.net/rapid"
)

var sound = []string{
	typicalRequest,
	chunks + "3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n000\r\nx-sum: 1\r\nX-Sum: 2\r\n\r\n",
	post + "Content-Length: 5\r\nExpect: 100-Continue\r\n\r\nhello",
	"CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
	"OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n",
	"GET http://A?x=%61 HTTP/1.1\r\nHost: a\r\nConnection: te, close\r\nTE: trailers\r\n\r\n",
	"GET /%61%20%c3%a9/it's HTTP/1.0\r\nHost: A.:1\r\nPragma: no-cache\r\nConnection: keep-alive\r\n\r\n",
	get + "Connection: Upgrade\r\nUpgrade: websocket\r\nSet: a\r\nSet: b\r\n\r\n",
}

// rulesOf makes rules of three bits.
func rulesOf(bits uint8) Rules {
	return Rules{AllowEncodedSlash: bits&1 != 0, AllowEmptySegment: bits&2 != 0, AllowUnderscore: bits&4 != 0}
}

// FuzzRequest: what is accepted is the same for net/http, and the same again when it is forwarded.
func FuzzRequest(f *testing.F) {
	for _, raw := range sound {
		f.Add([]byte(raw), uint8(0))
	}
	for _, a := range attacks {
		f.Add([]byte(a.raw), uint8(7))
	}
	f.Fuzz(func(t *testing.T, raw []byte, bits uint8) {
		rules := rulesOf(bits)
		r := NewReader(bytes.NewReader(raw), rules)
		req, err := r.ReadRequest()
		if err != nil {
			return
		}
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return
		}
		used := len(raw) - r.Buffered() // the source is at its end: ReadAll has met it, or the buffer holds the rest
		rest, _ := io.ReadAll(r.src)
		used -= len(rest)
		sameAsNetHTTP(t, raw[:used], req, body)
		forwarded(t, rules, req, body)
	})
}

func sameAsNetHTTP(t *testing.T, raw []byte, req *http.Request, body []byte) {
	other, err := http.ReadRequest(bufio.NewReaderSize(bytes.NewReader(raw), 1<<17))
	if err != nil {
		t.Fatalf("net/http refuses %q: %v", raw, err)
	}
	host := strings.ToLower(other.Host)
	if name, port, found := strings.Cut(host, ".:"); found {
		host = name + ":" + port
	}
	if host = strings.TrimSuffix(host, "."); other.Method != req.Method || host != req.Host {
		t.Fatalf("%q: net/http has %q %q, we %q %q", raw, other.Method, other.Host, req.Method, req.Host)
	}
	path := other.URL.Path
	if path == "" && req.Method != "CONNECT" {
		path = req.URL.Path[:1]
	}
	if path != req.URL.Path || other.URL.RawQuery != req.URL.RawQuery || other.URL.ForceQuery != req.URL.ForceQuery {
		t.Fatalf("%q: net/http has %+v, we %+v", raw, other.URL, req.URL)
	}
	otherBody, err := io.ReadAll(other.Body)
	if err != nil || !bytes.Equal(otherBody, body) {
		t.Fatalf("%q: net/http has the body %q, we %q (%v)", raw, otherBody, body, err)
	}
	if other.Close != req.Close || other.ContentLength != req.ContentLength {
		t.Fatalf("%q: net/http has close %v, length %d, we %v, %d", raw, other.Close, other.ContentLength, req.Close, req.ContentLength)
	}
	sameHeader(t, raw, other.Header, req.Header)
	sameTrailer(t, raw, other.Trailer, req.Trailer)
}

// sameHeader compares a header of net/http with ours, which has nothing about framing.
func sameHeader(t *testing.T, raw []byte, other, own http.Header) {
	other, own = other.Clone(), own.Clone()
	// net/http makes up Cache-Control from Pragma.
	for _, name := range []string{"Content-Length", "Connection", "Expect", "Trailer", "Cache-Control"} {
		delete(other, name)
		delete(own, name)
	}
	if len(other)+len(own) > 0 && !reflect.DeepEqual(other, own) {
		t.Fatalf("%q: net/http has %q, we %q", raw, other, own)
	}
}

func sameTrailer(t *testing.T, raw []byte, other, own http.Header) {
	for name, values := range own {
		if !reflect.DeepEqual(other[name], values) {
			t.Fatalf("%q: net/http has the trailer %q, we %q", raw, other, own)
		}
	}
	if len(other) != len(own) {
		t.Fatalf("%q: net/http has the trailer %q, we %q", raw, other, own)
	}
}

// forwarded writes req as a gateway does, and reads that.
func forwarded(t *testing.T, rules Rules, req *http.Request, body []byte) {
	if err := StripHopByHop(req.Header, UpgradeProtocol(req.Header) != ""); err != nil {
		t.Fatal(err)
	}
	head, err := AppendRequest([]byte("x"), req)
	if err != nil {
		t.Fatalf("%+v cannot be forwarded: %v", req, err)
	}
	var out bytes.Buffer
	if _, err := NewBodyWriter(&out, head[1:], RequestFraming(req)).Copy(bytes.NewReader(body), req.Trailer); err != nil {
		t.Fatal(err)
	}
	raw := bytes.Clone(out.Bytes())
	again, err := NewReader(&out, rules).ReadRequest()
	if err != nil {
		t.Fatalf("we write %q and refuse it: %v", raw, err)
	}
	got, err := io.ReadAll(again.Body)
	if err != nil || !bytes.Equal(got, body) || out.Len() > 0 {
		t.Fatalf("%q: %q, %v, %d left", raw, got, err, out.Len())
	}
	delete(again.Header, "Connection")
	if again.Method != req.Method || again.RequestURI != req.RequestURI || again.Host != req.Host || again.Close != req.Close ||
		*again.URL != *req.URL && req.URL.Host == "" || again.ContentLength != req.ContentLength ||
		!reflect.DeepEqual(again.Header, req.Header) {
		t.Fatalf("%q was read as %+v, %+v", raw, again, req)
	}
	sameTrailer(t, raw, again.Trailer, req.Trailer)
	sameAsNetHTTP(t, raw, again, body)
}

// FuzzResponse: what is accepted is the same for net/http, and the same again when it is forwarded.
func FuzzResponse(f *testing.F) {
	for _, a := range hostileAnswers {
		f.Add([]byte(a.raw), a.method)
	}
	f.Add([]byte(typicalResponse), "HEAD")
	f.Add([]byte("HTTP/1.0 200\r\nPragma: no-cache\r\n\r\nbody"), "GET")
	f.Add([]byte("HTTP/1.1 304 x\r\nContent-Length: 5\r\nConnection: close\r\n\r\n"), "GET")
	f.Add([]byte("HTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\nTrailer: a\r\n\r\n1\r\na\r\n0\r\nA: b\r\n\r\n"), "GET")
	f.Fuzz(func(t *testing.T, raw []byte, method string) {
		req := &http.Request{Method: method, ProtoMajor: 1, ProtoMinor: 1}
		resp, err := NewReader(bytes.NewReader(raw), Rules{}).ReadResponse(req)
		if err != nil || resp.StatusCode < 200 || method == "CONNECT" {
			return
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			return
		}
		other, err := http.ReadResponse(bufio.NewReaderSize(bytes.NewReader(raw), 1<<17), req)
		if err != nil {
			t.Fatalf("net/http refuses %q: %v", raw, err)
		}
		defer other.Body.Close()
		otherBody, err := io.ReadAll(other.Body)
		if err != nil || !bytes.Equal(otherBody, body) || other.StatusCode != resp.StatusCode {
			t.Fatalf("%q: net/http has %d %q, we %d %q (%v)", raw, other.StatusCode, otherBody, resp.StatusCode, body, err)
		}
		sameHeader(t, raw, other.Header, resp.Header)
		answered(t, resp, body)
	})
}

// answered writes resp as a gateway does, and reads that.
func answered(t *testing.T, resp *http.Response, body []byte) {
	if err := StripHopByHop(resp.Header, false); err != nil {
		t.Fatal(err)
	}
	head, err := AppendResponse(nil, resp)
	if err != nil {
		t.Fatalf("%+v cannot be forwarded: %v", resp, err)
	}
	var out bytes.Buffer
	if _, err := NewBodyWriter(&out, head, ResponseFraming(resp)).Copy(bytes.NewReader(body), resp.Trailer); err != nil {
		t.Fatal(err)
	}
	again, err := NewReader(&out, Rules{}).ReadResponse(resp.Request)
	if err != nil {
		t.Fatalf("we write %q and refuse it: %v", head, err)
	}
	defer again.Body.Close()
	got, err := io.ReadAll(again.Body)
	if err != nil || !bytes.Equal(got, body) || again.StatusCode != resp.StatusCode || out.Len() > 0 {
		t.Fatalf("%q: %q, %v", head, got, err)
	}
	if resp.Header["Date"] == nil {
		delete(again.Header, "Date")
	}
	delete(again.Header, "Connection")
	if !reflect.DeepEqual(again.Header, resp.Header) {
		t.Fatalf("%q was read as %v, %v", head, again.Header, resp.Header)
	}
}

// FuzzChunked: the pieces in which a body comes and is read change nothing, and what is accepted is the same for net/http.
func FuzzChunked(f *testing.F) {
	f.Add([]byte("3\r\nabc\r\nA;x=\"y\"\r\n0123456789\r\n000\r\nx-sum: 1\r\n\r\nrest"), uint8(2))
	for _, a := range attacks {
		if body, found := strings.CutPrefix(a.raw, chunks); found {
			f.Add([]byte(body), uint8(1))
		}
	}
	f.Fuzz(func(t *testing.T, raw []byte, size uint8) {
		_, body, err := readAll(chunks+string(raw), Rules{})
		slow, serr := NewReader(iotest.OneByteReader(strings.NewReader(chunks+string(raw))), Rules{}).ReadRequest()
		if serr != nil {
			t.Fatal(serr)
		}
		var got []byte
		for p := make([]byte, int(size)+1); serr == nil; {
			var n int
			n, serr = slow.Body.Read(p)
			got = append(got, p[:n]...)
		}
		if string(got) != body || (err == nil) != (serr == io.EOF) || err != nil && err.Error() != serr.Error() {
			t.Fatalf("%q: %q, %v at once, %q, %v in pieces", raw, body, err, got, serr)
		}
		if err != nil {
			return
		}
		other, err := io.ReadAll(httputil.NewChunkedReader(bytes.NewReader(raw)))
		if err != nil || string(other) != body {
			t.Fatalf("%q: net/http has %q, %v", raw, other, err)
		}
	})
}

// TestForwardedMeansTheSame generates what is sound, where fuzzing finds mostly what is not.
func TestForwardedMeansTheSame(t *testing.T) {
	name := rapid.StringMatching(`[A-Za-z][A-Za-z0-9!#$%&'*+.^|~-]{0,20}`)
	value := rapid.StringMatching(`([!-~\x{80}-\x{ff}]([ -~\t]{0,40}[!-~])?)?`)
	path := rapid.StringMatching(`(/([A-Za-z0-9_~!$&'()*+,;=:@-]|%[2-7][013-9a-bA-B]|%[cC]3%[aA]9){1,10}){1,4}/?(\?[!"$&-~]{0,20})?`)
	rapid.Check(t, func(rt *rapid.T) {
		raw := rapid.SampledFrom([]string{"GET", "POST", "M-SEARCH", "HEAD"}).Draw(rt, "method") + " " + path.Draw(rt, "path") +
			" HTTP/1.1\r\nHost: " + rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9-]{0,20}(\.[a-z]+)?(:[1-9][0-9]{0,3})?`).Draw(rt, "host") + "\r\n"
		for range rapid.IntRange(0, 40).Draw(rt, "fields") {
			raw += "X" + name.Draw(rt, "name") + ":" + value.Draw(rt, "value") + " \r\n"
		}
		body := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(rt, "body")
		var out bytes.Buffer
		framing := rapid.SampledFrom([]Framing{Chunked, Framing(len(body))}).Draw(rt, "framing")
		head := raw + "Transfer-Encoding: chunked\r\n\r\n"
		if framing != Chunked {
			head = raw + string(appendLength(nil, int64(framing))) + "\r\n"
		}
		w := NewBodyWriter(&out, []byte(head), framing)
		for at := 0; at < len(body); {
			n := min(rapid.IntRange(1, 100).Draw(rt, "chunk"), len(body)-at)
			if _, err := w.Write(body[at : at+n]); err != nil {
				rt.Fatal(err)
			}
			at += n
		}
		var trailer http.Header
		if framing == Chunked {
			trailer = http.Header{"Checksum": {"1"}}
		}
		if err := w.Close(trailer); err != nil {
			rt.Fatal(err)
		}
		whole := bytes.Clone(out.Bytes())
		req, got, err := readAll(out.String(), Rules{})
		if err != nil || got != string(body) {
			rt.Fatalf("%q: %v", whole, err)
		}
		sameAsNetHTTP(t, whole, req, body)
		forwarded(t, Rules{}, req, body)
	})
}
