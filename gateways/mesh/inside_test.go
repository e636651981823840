package mesh

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"pgregory.net/rapid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
	"github.com/tradewind-mesh/tradewind/gateways/route"
)

func TestAccessLogLine(t *testing.T) {
	r := record{
		start: time.Date(2026, 3, 1, 12, 30, 0, 7_000_000, time.FixedZone("", 3600)), took: 1500 * time.Microsecond, direction: outbound,
		source: spiffeid.RequireFromString("spiffe://aws.mesh.internal/ns/shop/svc/web"), assurance: federation.AssuranceMTLS,
		destination: federation.ServiceName{Namespace: "shop", Name: "checkout"}, srcRegion: "aws", dstRegion: "gcp", peer: "gcp",
		endpoint: "checkout-1", upstream: "up", client: netip.MustParseAddr("2001:db8::1"), decision: "allow", intention: "web-checkout", shadow: "strict", flags: flagUpstream | flagRetries,
		failoverFrom: "azure", retries: 2, sent: 10, received: 20,
		http: &httpRecord{method: "GET", target: "/a?token=secret", version: "HTTP/1.1", status: 502, id: "r-1"}, reason: "a \"quote\",\na line\x7f and \xff",
	}
	const want = `{"start_time":"2026-03-01T11:30:00.007Z","duration_ms":1.5,"direction":"outbound",` +
		`"source":"spiffe://aws.mesh.internal/ns/shop/svc/web","assurance":"mtls","destination":"shop/checkout","src_region":"aws",` +
		`"dst_region":"gcp","peer":"gcp","endpoint":"checkout-1","upstream":"up","client":"2001:db8::1","decision":"allow","intention":"web-checkout","shadow":"strict",` +
		`"response_flags":"UC,URX","failover_from":"azure","retries":2,"bytes_sent":10,"bytes_received":20,` +
		`"protocol":"HTTP/1.1","method":"GET","path":"/a","status":502,"request_id":"r-1",` +
		`"reason":"a \"quote\",\u000aa line\u007f and ` + "\ufffd" + `"}` + "\n"
	if got := string(r.append(nil)); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	const empty = `{"start_time":"0001-01-01T00:00:00.000Z","duration_ms":0,"direction":"","source":"","assurance":"none","destination":"",` +
		`"src_region":"","dst_region":"","peer":"","endpoint":"","upstream":"","client":"","decision":"","intention":"","shadow":"","response_flags":"",` +
		`"failover_from":"","retries":0,"bytes_sent":0,"bytes_received":0,"protocol":"","method":"","path":"","status":0,"request_id":"","reason":""}` + "\n"
	if got := string((&record{}).append(nil)); got != empty {
		t.Errorf("got\n%s\nwant\n%s", got, empty)
	}
	buffer := make([]byte, 0, 1024)
	if n := testing.AllocsPerRun(100, func() { buffer = r.append(buffer[:0]) }); n != 0 {
		t.Errorf("a line costs %v allocations", n)
	}
}

// TestAccessLogNumbers compares what is written by hand with what the library writes.
func TestAccessLogNumbers(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		at := time.Unix(rapid.Int64Range(0, 4e9).Draw(t, "second"), rapid.Int64Range(0, 999_999_999).Draw(t, "nanosecond"))
		if got, want := string(appendTime(nil, at)), at.UTC().Format("2006-01-02T15:04:05.000Z"); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		took := time.Duration(rapid.OneOf(rapid.Int64Range(-5000, 5_000_000), rapid.Int64Range(0, 1e15)).Draw(t, "took"))
		if got, want := string(appendMillis(nil, took)), strconv.FormatFloat(float64(took.Microseconds())/1000, 'f', -1, 64); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	})
}

func FuzzAccessLogString(f *testing.F) {
	f.Add("plain")
	f.Add("\x00\n\"\\\u2028\xff")
	f.Fuzz(func(t *testing.T, s string) {
		line := appendString(nil, s)
		if bytes.ContainsAny(line, "\n\r\x1b") {
			t.Errorf("%q leaves a control character in %q", s, line)
		}
		var got string
		if err := json.Unmarshal(line, &got); err != nil || got != strings.ToValidUTF8(s, "\ufffd") && got != validEach(s) {
			t.Errorf("%q reads back as %q, %v", s, got, err)
		}
	})
}

// validEach replaces each invalid octet by its own replacement character.
func validEach(s string) string { return string([]rune(s)) }

// stuck is a writer that takes a line and then waits.
type stuck struct {
	entered chan struct{}
	release chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	s.entered <- struct{}{}
	<-s.release
	return len(b), nil
}

func TestSlowAccessLogDropsAndCounts(t *testing.T) {
	dropped := prometheus.NewCounter(prometheus.CounterOpts{Name: "dropped"})
	w := stuck{make(chan struct{}), make(chan struct{})}
	l := newAccessLog(w, slog.New(slog.DiscardHandler), dropped)
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { l.run(ctx) })
	l.write(&record{})
	<-w.entered
	line := len((&record{}).append(nil))
	room := maxPending / line
	for range room + 7 {
		l.write(&record{}) // must not block
	}
	if got := testutil.ToFloat64(dropped); got != 7 {
		t.Errorf("%v lines were dropped, want 7", got)
	}
	cancel()
	go func() { <-w.entered }() // the rest is written at the end
	close(w.release)
	wg.Wait()
}

func TestFailingAccessLogIsReportedOnce(t *testing.T) {
	var out bytes.Buffer
	l := newAccessLog(failing{}, slog.New(slog.NewTextHandler(&out, nil)), prometheus.NewCounter(prometheus.CounterOpts{Name: "dropped"}))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); l.run(ctx) }()
	for range 10 {
		l.write(&record{})
	}
	cancel()
	<-done
	if n := strings.Count(out.String(), "access log cannot be written"); n != 1 {
		t.Errorf("reported %d times:\n%s", n, out.String())
	}
}

type failing struct{}

func (failing) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func TestServerNames(t *testing.T) {
	for name, want := range map[string]string{
		"checkout.mesh.internal":                    "checkout",
		"checkout.mesh.internal.":                   "checkout",
		"CheckOut.Shop.SVC.Mesh.Internal":           "shop/checkout",
		"checkout.aws-us-east-1.mesh.internal":      "checkout@aws-us-east-1",
		"checkout.shop.aws-us-east-1.mesh.internal": "shop/checkout@aws-us-east-1",
		"checkout.svc.mesh.internal":                "checkout@svc",
		"":                                          "",
		"mesh.internal":                             "",
		".mesh.internal":                            "",
		"a.b.c.d.mesh.internal":                     "",
		"a..b.mesh.internal":                        "",
		"a_b.mesh.internal":                         "",
		"checkout.mesh.internal.example.com":        "",
		"checkout.notmesh.internal":                 "",
		"checkoutmesh.internal":                     "",
		"a/b.mesh.internal":                         "",
		"a.b/c.d.mesh.internal":                     "",
		"192.0.2.1":                                 "",
		strings.Repeat("a", 64) + ".mesh.internal":  "",
		"checkout.-x.mesh.internal":                 "",
	} {
		ref, err := ParseServerName(name)
		if got := ref.String(); (err != nil) != (want == "") || err == nil && got != want {
			t.Errorf("%q means %q, %v; want %q", name, got, err, want)
		}
	}
	ref, err := ParseServerName("checkout.local.mesh.internal")
	if err != nil || ref.Region != federation.Local {
		t.Errorf("got %+v, %v", ref, err)
	}
}

func TestServerNameIsUnambiguous(t *testing.T) {
	label := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,8}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		ref := federation.ServiceRef{Service: federation.ServiceName{
			Namespace: rapid.OneOf(rapid.Just("default"), rapid.Just("svc"), label).Draw(t, "namespace"), Name: label.Draw(t, "name"),
		}}
		ref.Region = federation.Region(rapid.OneOf(rapid.Just(""), rapid.Just("svc"), rapid.Just("local"), label).Draw(t, "region"))
		name, ok := ServerName(ref)
		if !ok {
			if ref.Region != "svc" || ref.Service.Namespace == "default" {
				t.Fatalf("%v has no name", ref)
			}
			return
		}
		if got, err := ParseServerName(name); err != nil || got != ref {
			t.Fatalf("%v is %q, which means %v, %v", ref, name, got, err)
		}
	})
}

func FuzzServerName(f *testing.F) {
	f.Add("checkout.shop.svc.mesh.internal")
	f.Add("a.mesh.internal.")
	f.Fuzz(func(t *testing.T, s string) {
		ref, err := ParseServerName(s)
		if err != nil {
			return
		}
		name, ok := ServerName(ref)
		if !ok {
			t.Fatalf("%q means %v, which has no name", s, ref)
		}
		if again, err := ParseServerName(name); err != nil || again != ref {
			t.Fatalf("%q means %v, but %q means %v, %v", s, ref, name, again, err)
		}
	})
}

func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"verdict":"allowed","rule":"in","healthy":1}`))
	f.Add([]byte(`{"source":"spiffe://a/ns/b/svc/c","assurance":"mtls","service":"x"}`))
	m := New(Config{Region: "aws", Table: route.NewTable()})
	f.Fuzz(func(t *testing.T, b []byte) {
		if a, err := parseAnswer(b); err == nil && a.Verdict != answerAllowed && a.Verdict != answerRefused {
			t.Errorf("%q was read as %+v", b, a)
		}
		if got := string(m.Answer(context.Background(), "gcp", b)); got != `{"verdict":"refused"}` {
			t.Errorf("%q was answered %s by a table that denies all", b, got)
		}
	})
}

func TestSeriesAreBounded(t *testing.T) {
	m := newMetrics(nil)
	key := func(region federation.Region, i int) seriesKey {
		id := spiffeid.RequireFromString(fmt.Sprintf("spiffe://%s.mesh.internal/ns/default/svc/s%d", region, i))
		return seriesKey{inbound, id, region, federation.ServiceName{Namespace: "default", Name: "shop"}, "gcp"}
	}
	for i := range maxSeriesPeer + 500 {
		m.of(key("evil", i)).opened.Inc()
	}
	if n := testutil.CollectAndCount(m.opened); n != maxSeriesPeer+1 {
		t.Errorf("a peer with many callers takes %d label sets, want %d", n, maxSeriesPeer+1)
	}
	over := m.opened.WithLabelValues("inbound", overflowLabel, overflowLabel, overflowLabel, overflowLabel)
	if got := testutil.ToFloat64(over); got != 500 {
		t.Errorf("%v connections are counted as overflow, want 500", got)
	}
	m.of(key("good", 1)).opened.Inc()
	if n := testutil.CollectAndCount(m.opened); n != maxSeriesPeer+2 {
		t.Errorf("another peer's caller found no room: %d label sets", n)
	}
	m.requested(&record{direction: inbound, srcRegion: "evil", http: &httpRecord{status: 200}}) // shares the room
	m.requested(&record{direction: inbound, srcRegion: "good", http: &httpRecord{status: 999}})
	if n := testutil.CollectAndCount(m.requests, "tradewind_http_requests_total"); n != 2 || m.total != maxSeriesPeer+2 {
		t.Errorf("requests take %d label sets, total %d", n, m.total)
	}
	m.keep(func(k seriesKey) bool { return k.srcRegion == "good" })
	if n := testutil.CollectAndCount(m.opened); n != 2 || m.total != 2 || m.count["evil"] != 0 {
		t.Errorf("%d label sets are left, total %d, count %v", n, m.total, m.count)
	}
}

func TestOwnScarcityIsNotTheInstancesFault(t *testing.T) {
	for errno, want := range map[syscall.Errno]bool{
		syscall.EADDRNOTAVAIL: true, syscall.EMFILE: true, syscall.ECONNREFUSED: false, syscall.ETIMEDOUT: false, syscall.EHOSTUNREACH: false,
	} {
		err := fmt.Errorf("connect: %w", &net.OpError{Op: "dial", Err: os.NewSyscallError("connect", errno)})
		if got := exhausted(err); got != want {
			t.Errorf("%v: %v, want %v", errno, got, want)
		}
		if r := unavailable(&conn{}, err); want != (r.code == flow.RefusedOverloaded) {
			t.Errorf("%v is answered %v", errno, r.code)
		}
	}
}

func TestFailoversFollowTheTraffic(t *testing.T) {
	m := newMetrics(nil)
	f := failovers{gauge: m.failovers, log: slog.New(slog.DiscardHandler), now: time.Now}
	shop := federation.ServiceName{Namespace: "default", Name: "shop"}
	count := func() int { return testutil.CollectAndCount(m.failovers) }
	f.served(shop, "aws", "aws")
	if count() != 0 {
		t.Error("a failover in good times")
	}
	f.served(shop, "aws", "gcp")
	f.served(shop, "aws", "gcp")
	f.served(shop, "azure", "azure") // a caller that prefers another region is another matter
	if got := testutil.ToFloat64(m.failovers.WithLabelValues("shop", "aws", "gcp")); got != 1 || count() != 1 {
		t.Errorf("gauge is %v of %d", got, count())
	}
	f.served(shop, "aws", "azure")
	if got := testutil.ToFloat64(m.failovers.WithLabelValues("shop", "aws", "azure")); got != 1 || count() != 1 {
		t.Errorf("gauge is %v of %d", got, count())
	}
	f.served(shop, "aws", "aws")
	if count() != 0 {
		t.Error("the failover did not end")
	}
	f.served(shop, "aws", "gcp")
	f.keep(func(federation.ServiceName) bool { return false })
	if count() != 0 {
		t.Error("the failover of a service that is gone is still shown")
	}
}

func TestExpiryLooksOnlyWhereItMust(t *testing.T) {
	l, now := newLive(), time.Now()
	var ended []*conn
	open := func(life time.Duration) *conn {
		c := &conn{}
		if life != 0 {
			c.chain = []*x509.Certificate{{NotAfter: now.Add(life)}}
		}
		l.begin()
		l.add(c)
		return c
	}
	forever, short, long := open(0), open(time.Second), open(time.Hour)
	step := func(at time.Duration) int {
		ended = nil
		l.expired(now.Add(at), func(c *conn) { ended = append(ended, c) })
		return len(ended)
	}
	if n := step(999 * time.Millisecond); n != 0 {
		t.Errorf("%d expired early", n)
	}
	if n := step(time.Second); n != 1 || ended[0] != short {
		t.Errorf("%d expired", n)
	}
	l.remove(short)
	if n := step(time.Minute); n != 0 {
		t.Errorf("%d expired early", n)
	}
	if n := step(time.Hour); n != 1 || ended[0] != long {
		t.Errorf("%d expired", n)
	}
	for _, c := range []*conn{forever, long} {
		l.remove(c)
	}
	for range 3 {
		l.done()
	}
	select {
	case <-l.idle:
	default:
		t.Error("nobody was told that the last connection ended")
	}
}
