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
	"time"
)

func TestWritingRefusesWhatReadingWould(t *testing.T) {
	request := func(change func(*http.Request)) error {
		req, _, err := readAll(post+"Content-Length: 1\r\nA: b\r\n\r\nx", Rules{})
		if err != nil {
			t.Fatal(err)
		}
		change(req)
		_, err = AppendRequest(nil, req)
		return err
	}
	set := func(name, value string) func(*http.Request) {
		return func(r *http.Request) { r.Header[name] = []string{value} }
	}
	for reason, changes := range map[string][]func(*http.Request){
		"field-value": {set("A", "b\r\nC: d"), set("A", "b\nC: d"), set("A", "\r"), set("A", "\x00")},
		"field-name":  {set("A: b\r\nC", "d"), set("", "d"), set("content-length", "5"), set("A b", "c")},
		"field-not-stripped": {set("Connection", "close"), set("Content-Length", "1"), set("Transfer-Encoding", "chunked"),
			set("Host", "b"), set("Trailer", "b"), set("Keep-Alive", "b")},
		"method": {func(r *http.Request) { r.Method = "GET /x HTTP/1.1\r\n" }, func(r *http.Request) { r.Method = "" }},
		"target": {func(r *http.Request) { r.RequestURI = "/ HTTP/1.1\r\nA: b" }, func(r *http.Request) { r.RequestURI = "" },
			func(r *http.Request) { r.RequestURI = "/a/../b" }, func(r *http.Request) { r.RequestURI = "/%61" },
			func(r *http.Request) { r.RequestURI = "*" }, func(r *http.Request) { r.RequestURI = "/%ff" }},
		"host": {func(r *http.Request) { r.Host = "a\r\nB: c" }, func(r *http.Request) { r.Host = "" },
			func(r *http.Request) { r.Host = "A" }},
		"body-not-allowed": {func(r *http.Request) { r.Method = "TRACE" }},
		"trailer-forbidden": {func(r *http.Request) { r.ContentLength, r.Trailer = -1, http.Header{"Host": nil} },
			func(r *http.Request) { r.ContentLength, r.Trailer = -1, http.Header{"A\r\n": nil} }},
	} {
		for i, change := range changes {
			var refused *Error
			if err := request(change); !errors.As(err, &refused) || refused.Status != 500 || refused.Reason != reason {
				t.Errorf("%s %d: %v", reason, i, err)
			}
		}
	}
	for _, resp := range []*http.Response{{StatusCode: 99}, {StatusCode: 1000}, {StatusCode: 200, Status: "200 a\r\nb"},
		{StatusCode: 200, Header: http.Header{"A": {"\n"}}}, {StatusCode: 103, Request: &http.Request{ProtoMajor: 1}}} {
		if out, err := AppendResponse([]byte("x"), resp); err == nil || string(out) != "x" {
			t.Errorf("%q %v", out, err)
		}
	}
}

func TestFieldsAreAdded(t *testing.T) {
	req, _, err := readAll("GET /a HTTP/1.1\r\nHost: b\r\nC: d\r\n\r\n", Rules{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := AppendRequest([]byte("x"), req, Field{"X-E", "f"}, Field{"X-G", ""})
	if want := "xGET /a HTTP/1.1\r\nHost: b\r\nX-E: f\r\nX-G: \r\nC: d\r\n\r\n"; string(got) != want || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	if len(req.Header) != 1 {
		t.Error("the request has changed:", req.Header)
	}
	for reason, f := range map[string]Field{"field-twice": {"C", "e"}, "field-name": {"x-e", "f"}, "field-value": {"X-E", "f\r\nG: h"},
		"field-not-stripped": {"Connection", "close"}} {
		var refused *Error
		if got, err = AppendRequest([]byte("x"), req, f); !errors.As(err, &refused) || refused.Reason != reason || string(got) != "x" {
			t.Errorf("%s: %q, %v", reason, got, err)
		}
	}
}

func TestDateIsThatOfTheSecond(t *testing.T) {
	begin := time.Date(2024, 2, 29, 23, 59, 58, 0, time.FixedZone("", 3600))
	for _, after := range []time.Duration{0, time.Millisecond, time.Second, 999 * time.Millisecond, 2 * time.Second, 0, 24 * time.Hour} {
		at := begin.Add(after)
		if got, want := dateOf(at), at.UTC().Format(http.TimeFormat); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}

// What a response says and how its body is sent depend on what it answers.
func TestResponseFraming(t *testing.T) {
	old, head := &http.Request{Method: "GET", ProtoMajor: 1}, &http.Request{Method: "HEAD", ProtoMajor: 1, ProtoMinor: 1}
	for _, c := range []struct {
		resp    http.Response
		framing Framing
		head    string
	}{
		{http.Response{StatusCode: 200, ContentLength: 3}, 3, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nDate: x\r\n\r\n"},
		{http.Response{StatusCode: 200}, 0, "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nDate: x\r\n\r\n"},
		{http.Response{StatusCode: 200, ContentLength: -1, Trailer: http.Header{"A": nil}}, Chunked,
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: x\r\nTrailer: A\r\n\r\n"},
		{http.Response{StatusCode: 200, ContentLength: -1, Request: old, Trailer: http.Header{"A": nil}}, UntilClose,
			"HTTP/1.1 200 OK\r\nDate: x\r\nConnection: close\r\n\r\n"},
		{http.Response{StatusCode: 200, ContentLength: 3, Request: old}, 3,
			"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nDate: x\r\nConnection: keep-alive\r\n\r\n"},
		{http.Response{StatusCode: 200, ContentLength: 3, Request: head}, 0, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\nDate: x\r\n\r\n"},
		{http.Response{StatusCode: 200, ContentLength: -1, TransferEncoding: chunkedOnly, Request: head}, 0,
			"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nDate: x\r\n\r\n"},
		{http.Response{StatusCode: 204, Close: true}, 0, "HTTP/1.1 204 No Content\r\nDate: x\r\nConnection: close\r\n\r\n"},
		{http.Response{StatusCode: 304, ContentLength: 3}, 0, "HTTP/1.1 304 Not Modified\r\nContent-Length: 3\r\nDate: x\r\n\r\n"},
		{http.Response{StatusCode: 304, ContentLength: -1}, 0, "HTTP/1.1 304 Not Modified\r\nDate: x\r\n\r\n"},
		{http.Response{StatusCode: 200, Request: &http.Request{Method: "CONNECT"}}, 0, "HTTP/1.1 200 OK\r\nDate: x\r\n\r\n"},
		{http.Response{StatusCode: 100}, 0, "HTTP/1.1 100 Continue\r\n\r\n"},
		{http.Response{StatusCode: 299, Status: "299 Fine"}, 0, "HTTP/1.1 299 Fine\r\nContent-Length: 0\r\nDate: x\r\n\r\n"},
		{http.Response{StatusCode: 503, Status: "200 OK"}, 0,
			"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nDate: x\r\n\r\n"},
	} {
		out, err := AppendResponse(nil, &c.resp)
		got := string(out)
		if before, date, ok := strings.Cut(got, "Date: "); ok {
			got = before + "Date: x" + date[len(http.TimeFormat):]
		}
		if err != nil || got != c.head || ResponseFraming(&c.resp) != c.framing {
			t.Errorf("%v %q, framing %d, want %q", err, got, ResponseFraming(&c.resp), c.head)
		}
	}
}

// counted counts the writes.
type counted struct {
	bytes.Buffer
	writes int
}

func (c *counted) Write(p []byte) (int, error) {
	c.writes++
	return c.Buffer.Write(p)
}

func TestSmallMessagesLeaveInOneWrite(t *testing.T) {
	for name, raw := range map[string]string{
		"none": get + "\r\n", "length": post + "Content-Length: 5\r\n\r\nhello",
		"chunked": chunks + "5\r\nhello\r\n6\r\n world\r\n0\r\nA: b\r\n\r\n",
	} {
		req, err := NewReader(strings.NewReader(raw), Rules{}).ReadRequest()
		if err != nil {
			t.Fatal(name, err)
		}
		head, err := AppendRequest(nil, req)
		if err != nil {
			t.Fatal(name, err)
		}
		var out counted
		n, err := NewBodyWriter(&out, head, RequestFraming(req)).Copy(req.Body, req.Trailer)
		want := strings.Replace(raw, "5\r\nhello\r\n6\r\n world", "b\r\nhello world", 1)
		if err != nil || out.writes != 1 || out.String() != want {
			t.Errorf("%s: %v, %d octets in %d writes\n%q", name, err, n, out.writes, out.String())
		}
	}
}

// A head does not wait for a body that is not there yet, and every piece of a stream leaves as it comes.
func TestStreamsAreNotHeldBack(t *testing.T) {
	for _, coding := range []string{"Transfer-Encoding: chunked\r\n", ""} {
		in, feed := io.Pipe()
		sees, out := io.Pipe()
		over := make(chan error, 1)
		go func() {
			resp, err := NewReader(in, Rules{}).ReadResponse(nil)
			if err == nil {
				defer resp.Body.Close()
				var head []byte
				head, err = AppendResponse(nil, resp)
				if err == nil {
					_, err = NewBodyWriter(out, head, ResponseFraming(resp)).Copy(resp.Body, resp.Trailer)
				}
			}
			over <- errors.Join(err, out.Close())
		}()
		_, _ = io.WriteString(feed, "HTTP/1.1 200 OK\r\n"+coding+"\r\n")
		resp, err := NewReader(sees, Rules{}).ReadResponse(nil)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		for range 3 {
			piece := "event\n"
			if coding != "" {
				piece = "6\r\nevent\n\r\n"
			}
			_, _ = io.WriteString(feed, piece)
			got := make([]byte, 6)
			if _, err := io.ReadFull(resp.Body, got); err != nil || string(got) != "event\n" {
				t.Fatalf("%q %v", got, err)
			}
		}
		if coding != "" {
			_, _ = io.WriteString(feed, "0\r\n\r\n")
		}
		_ = feed.Close()
		if rest, err := io.ReadAll(resp.Body); len(rest) > 0 || err != nil {
			t.Errorf("%q %v", rest, err)
		}
		if err := <-over; err != nil {
			t.Error(err)
		}
	}
}

func TestPartOfAChunkIsReturned(t *testing.T) {
	in, feed := io.Pipe()
	go func() { _, _ = io.WriteString(feed, chunks+"a\r\nhello") }()
	req, err := NewReader(in, Rules{}).ReadRequest()
	if err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 100)
	if n, err := req.Body.Read(p); string(p[:n]) != "hello" || err != nil {
		t.Errorf("%q %v", p[:n], err)
	}
}

func TestBodyWriter(t *testing.T) {
	long := strings.Repeat("0123456789", 20000)
	var out bytes.Buffer
	w := NewBodyWriter(&out, []byte(chunks), Chunked)
	for _, p := range []string{"", "a", long} {
		if n, err := w.Write([]byte(p)); n != len(p) || err != nil {
			t.Fatal(n, err)
		}
	}
	if err := w.Close(http.Header{"A": {"b"}}); err != nil {
		t.Fatal(err)
	}
	req, body, err := readAll(out.String(), Rules{})
	if err != nil || body != "a"+long || !reflect.DeepEqual(req.Trailer, http.Header{"A": {"b"}}) {
		t.Errorf("%v, %d octets", err, len(body))
	}
	w = NewBodyWriter(&out, nil, 3)
	if _, err := w.Write([]byte("abcd")); !errors.Is(err, http.ErrContentLength) {
		t.Error(err)
	}
	if _, err := w.Write([]byte("ab")); err != nil {
		t.Error(err)
	}
	if err := w.Close(nil); err == nil {
		t.Error("a short body passed")
	}
	if _, err := NewBodyWriter(&out, nil, 3).Copy(strings.NewReader("ab"), nil); err == nil {
		t.Error("a short body passed")
	}
	if _, err := NewBodyWriter(&out, nil, Chunked).Copy(strings.NewReader("ab"), http.Header{"A": {"\n"}}); err == nil {
		t.Error("a trailer broke out")
	}
	var we *WriteError
	gone := errors.New("gone")
	if _, err := NewBodyWriter(failing{gone}, nil, Chunked).Copy(strings.NewReader("ab"), nil); !errors.As(err, &we) || !errors.Is(err, gone) {
		t.Error(err)
	}
	if _, err := NewBodyWriter(&out, nil, Chunked).Copy(iotest.ErrReader(gone), nil); errors.As(err, &we) || !errors.Is(err, gone) {
		t.Error(err)
	}
	// What is malformed from its start on is not begun to be sent.
	if req, err = NewReader(strings.NewReader(chunks+"z\r\nx\r\n"), Rules{}).ReadRequest(); err != nil {
		t.Fatal(err)
	}
	w = NewBodyWriter(&out, []byte(chunks), Chunked)
	if _, err := w.Copy(req.Body, nil); err == nil || w.Begun() {
		t.Error(err, w.Begun())
	}
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
