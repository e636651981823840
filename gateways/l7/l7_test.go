package l7

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"net/textproto"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/gateways/http1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// proxy is a server of this package that forwards to an instance by a pool of this package.
type proxy struct {
	t       *testing.T
	address string
	pool    Pool
	two     bool // towards the instance
	to      string
	refused chan *http1.Error
}

func newProxy(t *testing.T, to string, two bool) *proxy {
	t.Helper()
	p := &proxy{t: t, two: two, to: to, refused: make(chan *http1.Error, 16)}
	server := &Server{Handle: p.handle, Idle: 10 * time.Second, Refused: func(e *http1.Error) { p.refused <- e }}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p.address = l.Addr().String()
	var running sync.WaitGroup
	var mu sync.Mutex
	var open []*Session
	running.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s := server.NewSession(c.(*net.TCPConn))
			mu.Lock()
			open = append(open, s)
			mu.Unlock()
			running.Go(func() { s.Run(context.Background()) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		mu.Lock()
		for _, s := range open {
			s.Close()
		}
		mu.Unlock()
		running.Wait()
		p.pool.Close()
	})
	return p
}

func (p *proxy) handle(x *Exchange) {
	k := p.pool.Get(p.to)
	if k == nil {
		c, err := net.Dial("tcp", p.to)
		if err != nil {
			_, _ = x.Respond(Text(503, err.Error()))
			return
		}
		if k, err = p.pool.Add(p.to, c.(*net.TCPConn), p.two); err != nil {
			_, _ = x.Respond(Text(503, err.Error()))
			return
		}
	}
	res, err := k.Do(x.Request, Way{Deadline: time.Now().Add(5 * time.Second), Idle: 5 * time.Second, Interim: x.Interim})
	if err != nil {
		_, _ = x.Respond(Text(502, err.Error()))
		return
	}
	if c, ok := Upgraded(res); ok {
		from, err := x.Switch(res)
		if err != nil {
			_ = c.Close()
			return
		}
		go func() {
			_, _ = io.Copy(c, from)
			_ = c.Close()
		}()
		_, _ = io.Copy(from, c)
		_ = from.Close()
		return
	}
	_, _ = x.Respond(res)
}

// instance is a server of net/http, in both versions.
func instance(t *testing.T, h http.HandlerFunc) string {
	t.Helper()
	s := httptest.NewUnstartedServer(h)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// clients are callers of both versions.
func clients(t *testing.T) map[string]*http.Client {
	one := &http.Transport{DisableCompression: true}
	two := &http.Transport{DisableCompression: true, Protocols: onlyTwo()}
	t.Cleanup(func() {
		one.CloseIdleConnections()
		two.CloseIdleConnections()
	})
	return map[string]*http.Client{"HTTP/1.1": {Transport: one}, "HTTP/2": {Transport: two}}
}

// matrix runs f for each version on each side.
func matrix(t *testing.T, h http.HandlerFunc, f func(t *testing.T, c *http.Client, url string)) {
	to := instance(t, h)
	for name, c := range clients(t) {
		for _, two := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s to two=%v", name, two), func(t *testing.T) {
				f(t, c, "http://"+newProxy(t, to, two).address)
			})
		}
	}
}

func TestRequestsAndResponsesCross(t *testing.T) {
	matrix(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Saw", fmt.Sprint(r.Method, r.URL.RequestURI(), r.Host != "", r.Header["X-A"], r.Header.Get("Connection")))
		w.Header().Set("Trailer", "X-Sum")
		_ = http.NewResponseController(w).EnableFullDuplex()
		n, _ := io.Copy(w, r.Body)
		w.Header().Set("X-Sum", fmt.Sprint(n, r.Trailer.Get("X-End")))
	}, func(t *testing.T, c *http.Client, url string) {
		for _, size := range []int{0, 1, 5000, 3 << 20} {
			payload := make([]byte, size)
			_, _ = rand.Read(payload)
			r, _ := http.NewRequest("POST", url+"/a%C3%A9?q=%20", io.MultiReader(bytes.NewReader(payload))) // of no known length
			r.Header["X-A"] = []string{"1", "2"}
			r.Trailer = http.Header{"X-End": {"end"}}
			res, err := c.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(res.Body)
			_ = res.Body.Close()
			if err != nil || !bytes.Equal(got, payload) {
				t.Fatalf("%d octets came back of %d: %v", len(got), size, err)
			}
			if saw := res.Header.Get("X-Saw"); saw != "POST/a%C3%A9?q=%20true [1 2]" {
				t.Errorf("the instance saw %q", saw)
			}
			if sum := res.Trailer.Get("X-Sum"); size > 0 && sum != fmt.Sprint(size, "end") {
				t.Errorf("trailer %q", sum)
			}
		}
	})
}

func TestHeadAndNoContentHaveNoBody(t *testing.T) {
	matrix(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/204" {
			w.WriteHeader(204)
			return
		}
		w.Header().Set("Content-Length", "1234")
	}, func(t *testing.T, c *http.Client, url string) {
		for range 3 {
			res, err := c.Head(url)
			if err != nil || res.StatusCode != 200 {
				t.Fatal(res, err)
			}
			_ = res.Body.Close()
			if res, err = c.Get(url + "/204"); err != nil || res.StatusCode != 204 {
				t.Fatal(res, err)
			}
			_ = res.Body.Close()
		}
	})
}

// TestBothWaysAtOnce: what the instance says reaches the caller while the caller is still speaking.
func TestBothWaysAtOnce(t *testing.T) {
	matrix(t, func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		_ = rc.EnableFullDuplex()
		w.WriteHeader(200)
		_ = rc.Flush()
		lines := bufio.NewScanner(r.Body)
		for lines.Scan() {
			_, _ = fmt.Fprintln(w, "echo", lines.Text())
			_ = rc.Flush()
		}
	}, func(t *testing.T, c *http.Client, url string) {
		body, speak := io.Pipe()
		r, _ := http.NewRequest("POST", url, body)
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(res.Body)
		for i := range 5 {
			_, _ = fmt.Fprintln(speak, i)
			if !lines.Scan() || lines.Text() != fmt.Sprint("echo ", i) {
				t.Fatalf("heard %q: %v", lines.Text(), lines.Err())
			}
		}
		_ = speak.Close()
		if lines.Scan() {
			t.Errorf("and then %q", lines.Text())
		}
		_ = res.Body.Close()
	})
}

func TestResponseBeforeTheBodyHasEnded(t *testing.T) {
	matrix(t, func(w http.ResponseWriter, _ *http.Request) {
		_ = http.NewResponseController(w).EnableFullDuplex() // else the server would first read the body
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	}, func(t *testing.T, c *http.Client, url string) {
		for range 3 {
			body, speak := io.Pipe()
			go func() { _, _ = speak.Write(make([]byte, 100)) }() // and nothing more
			r, _ := http.NewRequest("POST", url, body)
			res, err := c.Do(r)
			_ = speak.Close()
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
			if res.StatusCode != http.StatusRequestEntityTooLarge {
				t.Errorf("status %d", res.StatusCode)
			}
		}
	})
}

func TestInterimResponsesCross(t *testing.T) {
	matrix(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = io.Copy(io.Discard, r.Body) // answers 100
		w.WriteHeader(http.StatusOK)
	}, func(t *testing.T, c *http.Client, url string) {
		var codes []int
		trace := &httptrace.ClientTrace{Got1xxResponse: func(code int, _ textproto.MIMEHeader) error {
			codes = append(codes, code)
			return nil
		}}
		r, _ := http.NewRequestWithContext(httptrace.WithClientTrace(context.Background(), trace), "GET", url, nil)
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if fmt.Sprint(codes) != "[103]" {
			t.Errorf("interim responses %v", codes)
		}
	})
}

func TestExpectContinue(t *testing.T) {
	to := instance(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/no" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		n, _ := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n)
	})
	p := newProxy(t, to, false)
	for _, test := range []struct {
		path string
		want []string
	}{{"/yes", []string{"100", "200"}}, {"/no", []string{"401"}}} {
		c, err := net.Dial("tcp", p.address)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = fmt.Fprintf(c, "PUT %s HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n", test.path)
		in := bufio.NewReader(c)
		for _, want := range test.want {
			line, err := in.ReadString('\n')
			if err != nil || !strings.Contains(line, want) {
				t.Fatalf("%s: %q, %v, want %s", test.path, line, err, want)
			}
			for line != "\r\n" && err == nil {
				line, err = in.ReadString('\n')
			}
			if want == "100" {
				_, _ = c.Write([]byte("body"))
			}
		}
		_ = c.Close()
	}
}

func TestUpgrade(t *testing.T) {
	to := instance(t, func(w http.ResponseWriter, _ *http.Request) {
		c, buf, err := w.(http.Hijacker).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Write([]byte("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nhello "))
		_, _ = io.Copy(c, buf)
	})
	p := newProxy(t, to, false)
	c, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	in := bufio.NewReader(c)
	res, err := http.ReadResponse(in, nil)
	if err != nil || res.StatusCode != 101 || res.Header.Get("Upgrade") != "echo" {
		t.Fatal(res, err)
	}
	_, _ = c.Write([]byte("world"))
	got := make([]byte, len("hello world"))
	if _, err := io.ReadFull(in, got); err != nil || string(got) != "hello world" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	var mu sync.Mutex
	from := map[string]int{}
	to := instance(t, func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		from[r.RemoteAddr]++
	})
	for _, two := range []bool{false, true} {
		clear(from)
		p := newProxy(t, to, two)
		for range 20 {
			res, err := clients(t)["HTTP/1.1"].Get("http://" + p.address)
			if err != nil {
				t.Fatal(err)
			}
			_ = res.Body.Close()
		}
		if len(from) != 1 {
			t.Errorf("two=%v: the instance saw %d connections", two, len(from))
		}
		// A stream of HTTP/2 ends a moment after its response.
		for deadline := time.Now().Add(10 * time.Second); len(p.pool.groups) != 0; runtime.Gosched() {
			if p.pool.Sweep(time.Now().Add(time.Hour)); time.Now().After(deadline) {
				t.Fatalf("two=%v: old connections were kept: %v", two, p.pool.groups)
			}
		}
	}
}

func TestWhatIsBadIsAnsweredAndForwardedNowhere(t *testing.T) {
	to := instance(t, func(http.ResponseWriter, *http.Request) { t.Error("it was forwarded") })
	p := newProxy(t, to, false)
	c, err := net.Dial("tcp", p.address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = fmt.Fprint(c, "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
	res, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil || res.StatusCode != 400 || !res.Close {
		t.Fatal(res, err)
	}
	if e := <-p.refused; e.Reason == "" {
		t.Error("nobody was told why")
	}
	two := clients(t)["HTTP/2"]
	r, _ := http.NewRequest("GET", "http://"+p.address, nil)
	r.URL.Path, r.URL.RawPath = "/a/../b", "/a/../b"
	if res, err := two.Do(r); err != nil || res.StatusCode != 400 {
		t.Error(res, err)
	}
}

func TestDrainEndsBetweenRequests(t *testing.T) {
	begun, release := make(chan struct{}), make(chan struct{})
	server := &Server{Handle: func(x *Exchange) {
		close(begun)
		<-release
		_, _ = x.Respond(Text(200, "done"))
	}}
	there, here := net.Pipe()
	s := server.NewSession(there)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(context.Background())
	}()
	go func() { _, _ = fmt.Fprint(here, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") }()
	go func() {
		<-begun
		s.Drain()
		close(release)
	}()
	res, err := http.ReadResponse(bufio.NewReader(here), nil)
	if err != nil || res.StatusCode != 200 {
		t.Fatal(res, err)
	}
	_, _ = io.Copy(io.Discard, res.Body)
	<-ended
	_ = here.Close()
}

func TestInstanceThatBreaksOff(t *testing.T) {
	matrix(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(make([]byte, 100_000))
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	}, func(t *testing.T, c *http.Client, url string) {
		res, err := c.Get(url)
		if err != nil {
			t.Fatal(err)
		}
		_, err = io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("the caller takes it for whole: %v", err)
		}
	})
}
