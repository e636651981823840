package ingress

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

// pipe is a connection in memory.
type pipe struct{ net.Conn }

func (p pipe) CloseWrite() error { return p.Close() }

// slow serves one connection by g under a clock of its own and gives each octet that send writes a second. It returns what came back,
// and after how long the connection was closed.
func slow(t *testing.T, g federation.Ingress, send string, handle func(*l7.Exchange)) (got string, after time.Duration) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Mesh: mesh.New(mesh.Config{Region: "aws", Table: route.NewTable()})})
		l := newListener(s, nil)
		table := newTable(g, nil)
		l.table.Store(table)
		here, there := net.Pipe()
		begun := time.Now()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			if handle == nil {
				l.serve(context.Background(), pipe{there})
				return
			}
			server := (&visit{listener: l, table: table}).server()
			server.Handle = handle
			server.NewSession(pipe{there}).Run(context.Background())
		}()
		var sending sync.WaitGroup
		sending.Go(func() {
			for i := range len(send) {
				if _, err := here.Write([]byte{send[i]}); err != nil {
					return
				}
				<-time.After(time.Second)
			}
		})
		b, _ := io.ReadAll(here)
		got, after = string(b), time.Since(begun)
		_ = here.Close()
		<-ended
		sending.Wait()
	})
	return got, after
}

func TestWhoIsSlowIsCutOff(t *testing.T) {
	http1 := federation.Ingress{Hosts: []federation.IngressHost{{Name: "a.example.com"}}}
	secure := http1
	secure.TLS = []federation.IngressTLS{{}}
	const head = "GET / HTTP/1.1\r\nHost: a.example.com\r\nA: b\r\nC: d\r\n\r\n"
	for _, c := range []struct {
		what  string
		g     federation.Ingress
		send  string
		limit time.Duration
	}{
		{"says nothing", http1, "", greetTimeout},
		{"sends its head an octet a second", http1, head, greetTimeout},
		{"says nothing in the handshake", secure, "", greetTimeout},
		{"sends its hello an octet a second", secure, "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + strings.Repeat("x", 100), greetTimeout},
	} {
		if _, after := slow(t, c.g, c.send, nil); after > c.limit+time.Second {
			t.Errorf("who %s is cut off after %v", c.what, after)
		}
	}
	got, after := slow(t, http1, "", func(*l7.Exchange) {})
	if got != "" || after > greetTimeout+time.Second {
		t.Errorf("%q after %v", got, after)
	}
}

func TestABodyMustComeOn(t *testing.T) {
	g := federation.Ingress{Hosts: []federation.IngressHost{{Name: "a.example.com"}}}
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{Mesh: mesh.New(mesh.Config{Region: "aws", Table: route.NewTable()})})
		l, table := newListener(s, nil), newTable(g, nil)
		l.table.Store(table)
		for _, c := range []struct {
			length string
			every  time.Duration
			limit  time.Duration
		}{
			{"Content-Length: 100000", time.Second, 25 * time.Second},
			{"Content-Length: 100000", time.Hour, idleTimeout + time.Second},
			{"Transfer-Encoding: chunked", time.Hour, idleTimeout + time.Second},
		} {
			server := (&visit{listener: l, table: table}).server()
			server.Handle = func(x *l7.Exchange) {
				_, err := io.Copy(io.Discard, x.Request.Body)
				if bad := x.Bad(); bad != nil {
					_, _ = x.Respond(&http.Response{StatusCode: bad.Status, Header: http.Header{}})
				} else if err != nil {
					x.Abort()
				}
			}
			here, there := net.Pipe()
			ended := make(chan struct{})
			go func() { server.NewSession(pipe{there}).Run(t.Context()); close(ended) }()
			begun := time.Now()
			var sending sync.WaitGroup
			sending.Go(func() {
				_, err := io.WriteString(here, "POST / HTTP/1.1\r\nHost: a.example.com\r\n"+c.length+"\r\n\r\n")
				for err == nil {
					_, err = io.WriteString(here, "0")
					<-time.After(c.every)
				}
			})
			got, _ := io.ReadAll(here)
			if after := time.Since(begun); after > c.limit {
				t.Errorf("%s, an octet every %v: cut off after %v", c.length, c.every, after)
			}
			if c.every == time.Second && !bytes.HasPrefix(got, []byte("HTTP/1.1 408")) {
				t.Errorf("%q", got)
			}
			_ = here.Close()
			<-ended
			sending.Wait()
		}
	})
}

// TestWhoDoesNotReadIsCutOff: a response that nobody takes does not hold a connection for ever, compressed or not.
func TestWhoDoesNotReadIsCutOff(t *testing.T) {
	for _, coding := range []string{"", "gzip"} {
		g := federation.Ingress{Hosts: []federation.IngressHost{{Name: "a.example.com", Compress: []string{"gzip"}}}}
		synctest.Test(t, func(t *testing.T) {
			s := New(Config{Mesh: mesh.New(mesh.Config{Region: "aws", Table: route.NewTable()})})
			l, table := newListener(s, nil), newTable(g, nil)
			l.table.Store(table)
			server := (&visit{listener: l, table: table}).server()
			var failure error
			server.Handle = func(x *l7.Exchange) {
				x.Edit = func(res *http.Response) { s.compress(res, coding != "") }
				_, failure = x.Respond(&http.Response{StatusCode: 200, Header: http.Header{"Content-Type": {"text/plain"}}, ContentLength: -1,
					Body: io.NopCloser(rand.Reader)})
			}
			here, there := net.Pipe()
			begun, ended := time.Now(), make(chan struct{})
			go func() { server.NewSession(pipe{there}).Run(t.Context()); close(ended) }()
			if _, err := io.WriteString(here, "GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n"); err != nil {
				t.Error(err)
			}
			_, _ = io.ReadFull(here, make([]byte, 10<<10))
			<-ended
			if after := time.Since(begun); failure == nil || after > idleTimeout+time.Second || s.compressing.Load() != 0 {
				t.Errorf("%q: %v after %v, %d responses being compressed", coding, failure, after, s.compressing.Load())
			}
			_ = here.Close()
		})
	}
}

// TestNoMoreIsCompressedThanHasRoom: each compressor holds memory for as long as its caller takes.
func TestNoMoreIsCompressedThanHasRoom(t *testing.T) {
	s := New(Config{Mesh: mesh.New(mesh.Config{Region: "aws", Table: route.NewTable()})})
	var open []*http.Response
	for i := range maxCompressed + 2 {
		res := l7.Text(200, strings.Repeat("x", minCompressed))
		if s.compress(res, true); (res.Header.Get("Content-Encoding") == "gzip") != (i < maxCompressed) {
			t.Fatalf("response %d: %v", i+1, res.Header)
		}
		open = append(open, res)
	}
	for _, res := range open {
		for range 2 {
			if err := res.Body.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
	if n := s.compressing.Load(); n != 0 {
		t.Errorf("%d are being compressed", n)
	}
}

// pieces is a body that comes in pieces.
type pieces struct {
	left [][]byte
	end  error
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, p.end
	}
	n := copy(b, p.left[0])
	if p.left[0] = p.left[0][n:]; len(p.left[0]) == 0 {
		p.left = p.left[1:]
	}
	return n, nil
}

func (p *pieces) Close() error { return nil }
func (p *pieces) Ready() bool  { return len(p.left)%2 == 1 }
func (p *pieces) Await()       {}

func TestCompressedIsTheSame(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		from := &pieces{end: rapid.SampledFrom([]error{io.EOF, io.ErrUnexpectedEOF}).Draw(t, "end")}
		from.left = rapid.SliceOf(rapid.SliceOfN(rapid.Byte(), 1, 3*readAtOnce)).Draw(t, "pieces")
		want, end := bytes.Join(from.left, nil), from.end
		c := &compressed{from: from}
		defer c.Close()
		var got []byte
		unzip, err := gzip.NewReader(iotest.OneByteReader(c))
		if err == nil {
			got, err = io.ReadAll(unzip)
		}
		if !bytes.HasPrefix(want, got) || (err == nil) != (end == io.EOF) || err == nil && len(got) != len(want) {
			t.Fatalf("%d octets of %d, %v", len(got), len(want), err)
		}
	})
}

func FuzzAcceptEncoding(f *testing.F) {
	for _, s := range []string{"gzip", "br, gzip;q=0.5", "gzip;q=0", "x-gzip", "*", "gzip; q = 1", "identity;q=1,,GZIP;Q=1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, accepts string) {
		if takesGzip(http.Header{"Accept-Encoding": {accepts}}) && !strings.Contains(strings.ToLower(accepts), "gzip") {
			t.Fatalf("%q", accepts)
		}
	})
}

func TestNames(t *testing.T) {
	var n names[string]
	for _, p := range []string{"a.example.com", "*.example.com", "*.b.example.com"} {
		n.add(p, p)
	}
	for host, want := range map[string]string{"a.example.com": "a.example.com", "x.example.com": "*.example.com", "x.y.example.com": "*.example.com",
		"x.b.example.com": "*.b.example.com", "b.example.com": "*.example.com", "example.com": "", "com": "", "": "", "xexample.com": ""} {
		if got, found := n.find(host); got != want || found != (want != "") {
			t.Errorf("%q: %q", host, got)
		}
	}
	for _, c := range []struct {
		path, prefix string
		want         bool
	}{{"/api", "/api", true}, {"/api/x", "/api", true}, {"/apix", "/api", false}, {"/", "/", true}, {"/x", "/", true}, {"/api", "/api/", true},
		{"*", "/", false}} {
		if below(c.path, c.prefix) != c.want {
			t.Errorf("%q below %q: %v", c.path, c.prefix, !c.want)
		}
	}
}

func FuzzPROXY(f *testing.F) {
	f.Add([]byte("PROXY TCP4 198.51.100.22 192.0.2.1 56324 443\r\nrest"))
	f.Add([]byte("PROXY UNKNOWN\r\n"))
	f.Add([]byte(signature2 + "\x21\x11\x00\x0c\xc6\x33\x64\x16\xc0\x00\x02\x01\x00\x01\x01\xbb"))
	f.Add([]byte(signature2 + "\x21\x21\x00\x24" + strings.Repeat("\x20\x01", 18)))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bytes.NewReader(b)
		client, err := readProxy(r)
		read := len(b) - r.Len()
		if read > 16+maxProxy2 || err != nil && client.IsValid() {
			t.Fatalf("%q: %v, %v, %d octets read", b, client, err, read)
		}
		if err == nil && !bytes.HasPrefix(b, []byte(signature2)) && (read > maxProxy1 || !bytes.HasSuffix(b[:read], []byte("\r\n"))) {
			t.Fatalf("%q: %d octets read", b, read)
		}
	})
}

func FuzzForwarded(f *testing.F) {
	f.Add("203.0.113.9, 198.51.100.7, 192.0.2.1", "127.0.0.1")
	trusted := netip.MustParsePrefix("192.0.2.0/24")
	f.Fuzz(func(t *testing.T, chain, peer string) {
		from, err := netip.ParseAddr(peer)
		if err != nil {
			return
		}
		r := &http.Request{Header: http.Header{forwardedFor: {chain}}}
		v := &visit{peer: from}
		client := forward(r, v, trusted.Contains(from), trusted.Contains)
		if !trusted.Contains(from) && (client != from || r.Header.Get(forwardedFor) != from.String()) {
			t.Fatalf("%q of %v: %v, %q", chain, from, client, r.Header)
		}
		if len(r.Header[forwardedFor]) != 1 || !strings.HasSuffix(r.Header.Get(forwardedFor), from.String()) {
			t.Fatalf("%q", r.Header)
		}
	})
}
