package ingress

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

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
		table := newTable(g)
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
		l, table := newListener(s, nil), newTable(g)
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
