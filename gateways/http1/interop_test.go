package http1

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"
)

// relay is the smallest gateway: one connection to the instance for each of a caller.
type relay struct {
	instance string
	t        *testing.T
}

// serve carries messages until either connection ends.
func (g relay) serve(conn net.Conn) {
	defer conn.Close()
	up, err := net.Dial("tcp", g.instance)
	if err != nil {
		g.t.Error(err)
		return
	}
	defer up.Close()
	in, back := NewReader(conn, Rules{}), NewReader(up, Rules{})
	for {
		in.Release()
		req, err := in.ReadRequest()
		if err != nil {
			return
		}
		upgrade := UpgradeProtocol(req.Header) != ""
		closes := req.Close
		req.Close = false
		if err := StripHopByHop(req.Header, upgrade); err != nil {
			g.t.Error(err)
			return
		}
		head, err := AppendRequest(nil, req)
		if err != nil {
			g.t.Error(err)
			return
		}
		var sending sync.WaitGroup
		sending.Go(func() { _, _ = NewBodyWriter(up, head, RequestFraming(req)).Copy(req.Body, req.Trailer) })
		again := g.answer(conn, back, req, upgrade)
		if !again || closes {
			_ = up.Close() // an early answer: the rest of the body has nowhere to go
			_ = conn.SetReadDeadline(time.Now())
		}
		sending.Wait()
		if upgrade {
			_, _ = conn.Write(back.Rest())
			_, _ = up.Write(in.Rest())
			sending.Go(func() { _, _ = io.Copy(up, conn); _ = up.(*net.TCPConn).CloseWrite() })
			_, _ = io.Copy(conn, up)
			sending.Wait()
			return
		}
		if !again || closes || in.Drain() != nil {
			return
		}
	}
}

func (g relay) answer(conn net.Conn, back *Reader, req *http.Request, upgrade bool) (again bool) {
	for {
		resp, err := back.ReadResponse(req)
		if err != nil {
			g.t.Error(err)
			return false
		}
		if err := StripHopByHop(resp.Header, upgrade); err != nil {
			g.t.Error(err)
			return false
		}
		head, err := AppendResponse(nil, resp)
		if err != nil {
			g.t.Error(err)
			return false
		}
		_, err = NewBodyWriter(conn, head, ResponseFraming(resp)).Copy(resp.Body, resp.Trailer)
		_ = resp.Body.Close()
		if err != nil {
			g.t.Error(err)
			return false
		}
		if resp.StatusCode >= 200 || resp.StatusCode == http.StatusSwitchingProtocols {
			return !resp.Close
		}
	}
}

// instance answers with what it got.
func instance(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/early":
		w.Header().Set("Connection", "close")
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return
	case "/none":
		w.WriteHeader(http.StatusNoContent)
		return
	case "/hints":
		w.Header().Set("Link", "</a.css>")
		w.WriteHeader(http.StatusEarlyHints)
	case "/upgrade":
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nready ")
		_, _ = io.Copy(conn, rw)
		return
	}
	sum := sha256.New()
	n, err := io.Copy(sum, r.Body)
	w.Header().Set("Trailer", "X-Sum")
	w.Header().Set("X-Got", fmt.Sprintf("%s %s %s %d %x %v %v", r.Method, r.RequestURI, r.Host, n, sum.Sum(nil)[:4], r.Trailer, err))
	for range 3 {
		_, _ = io.WriteString(w, strings.Repeat("answer ", 10000))
		_ = http.NewResponseController(w).Flush()
	}
	w.Header().Set("X-Sum", "sum")
}

func startRelay(t *testing.T) string {
	server := httptest.NewServer(http.HandlerFunc(instance))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var conns sync.WaitGroup
	conns.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { relay{server.Listener.Addr().String(), t}.serve(conn) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		server.CloseClientConnections()
		conns.Wait()
		server.Close()
	})
	return l.Addr().String()
}

func TestBetweenClientAndServerOfNetHTTP(t *testing.T) {
	addr := startRelay(t)
	transport := &http.Transport{ExpectContinueTimeout: time.Minute}
	defer transport.CloseIdleConnections()
	large := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	sum := fmt.Sprintf("%x", sha256.Sum256(large))[:8]
	const empty = "e3b0c442"
	for _, c := range []struct {
		method, path string
		body         io.Reader
		length       int64
		expect       bool
		trailer      http.Header
		status       int
		got          string
	}{
		{method: "GET", path: "/a%20b?c", status: 200, got: "GET /a%20b?c " + addr + " 0 " + empty + " map[] <nil>"},
		{method: "HEAD", path: "/", status: 200, got: "HEAD / " + addr + " 0 " + empty + " map[] <nil>"},
		{method: "POST", path: "/", body: bytes.NewReader(large), length: int64(len(large)), status: 200,
			got: fmt.Sprintf("POST / %s %d %s map[] <nil>", addr, len(large), sum)},
		{method: "PUT", path: "/", body: io.MultiReader(bytes.NewReader(large)), length: -1, trailer: http.Header{"A": {"b"}}, status: 200,
			got: fmt.Sprintf("PUT / %s %d %s map[A:[b]] <nil>", addr, len(large), sum)},
		{method: "POST", path: "/", body: bytes.NewReader(large), length: int64(len(large)), expect: true, status: 200,
			got: fmt.Sprintf("POST / %s %d %s map[] <nil>", addr, len(large), sum)},
		{method: "DELETE", path: "/none", status: 204},
		{method: "GET", path: "/hints", status: 200, got: "GET /hints " + addr + " 0 " + empty + " map[] <nil>"},
		{method: "POST", path: "/early", body: bytes.NewReader(large), length: int64(len(large)), expect: true, status: 413},
	} {
		req, err := http.NewRequest(c.method, "http://"+addr+c.path, c.body)
		if err != nil {
			t.Fatal(err)
		}
		req.ContentLength, req.Trailer = c.length, c.trailer
		if c.expect {
			req.Header.Set("Expect", "100-continue")
		}
		resp, err := transport.RoundTrip(req)
		if err != nil {
			t.Fatalf("%s %s: %v", c.method, c.path, err)
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil || resp.StatusCode != c.status || resp.Header.Get("X-Got") != c.got {
			t.Errorf("%s %s: %v, %d, %q", c.method, c.path, err, resp.StatusCode, resp.Header.Get("X-Got"))
		}
		if c.status == 200 && c.method != "HEAD" && (len(body) != 210000 || resp.Trailer.Get("X-Sum") != "sum") {
			t.Errorf("%s %s: %d octets, trailer %v", c.method, c.path, len(body), resp.Trailer)
		}
	}
}

func TestUpgradeBetweenSockets(t *testing.T) {
	conn, err := net.Dial("tcp", startRelay(t))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = io.WriteString(conn, "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\nfirst")
	if err = errors.Join(err, conn.(*net.TCPConn).CloseWrite()); err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(conn)
	want := "HTTP/1.1 101 Switching Protocols\r\nUpgrade: echo\r\nConnection: Upgrade\r\n\r\nready first"
	if err != nil || string(got) != want {
		t.Errorf("%q, %v", got, err)
	}
}
