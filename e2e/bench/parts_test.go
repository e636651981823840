package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestCPUTimeOfAProgramWithANameThatMisleads(t *testing.T) {
	line := "42 (a) b (c) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 1000 1 1"
	user, system, err := parseStat([]byte(line))
	if err != nil || user != 250 || system != 50 {
		t.Errorf("user %d, system %d, %v; want 250 and 50", user, system, err)
	}
	for _, bad := range []string{"", "42 (x", "42 (x) S 1 2", "42 (x) S 1 42 42 0 -1 4194560 100 0 0 0 many 50 0"} {
		if _, _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestOwnCPUTimeAndMemory(t *testing.T) {
	pids := []int{os.Getpid()}
	before, err := cpuSeconds(pids)
	if err != nil {
		t.Fatal(err)
	}
	for end := before + 0.03; before < end; {
		if before, err = cpuSeconds(pids); err != nil { // asking costs time of its own, so it ends
			t.Fatal(err)
		}
	}
	if mb, err := pssMB(pids); err != nil || mb < 1 || mb > 10000 {
		t.Errorf("the memory of this process is %v MB, %v", mb, err)
	}
	if _, err := cpuSeconds([]int{-1}); err == nil {
		t.Error("a process that is not there has CPU time")
	}
}

const wrkSays = `Running 2s test @ http://127.0.0.1:20001/
  1 threads and 64 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency    12.34ms    5.00ms   1.02s    70.00%
    Req/Sec     3.81k   300.00     4.20k    70.00%
  Latency Distribution
     50%  812.00us
     75%    1.20ms
     90%    2.00ms
     99%   36.85ms
  7620 requests in 2.01s, 0.53MB read
  Socket errors: connect 1, read 2, write 3, timeout 4
Requests/sec:   3810.00
Transfer/sec:    272.00KB
`

func TestWrkIsRead(t *testing.T) {
	got, err := parseWrk(wrkSays)
	want := reading{Seconds: 2.01, Requests: 7620, Errors: 10, P50: 0.812, P99: 36.85, Max: 1020}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read %+v, %v\nwant %+v", got, err, want)
	}
	for _, bad := range []string{"", "unable to connect", strings.Replace(wrkSays, "7620 requests", "0 requests", 1)} {
		if _, err := parseWrk(bad); err == nil {
			t.Errorf("%q was read", bad)
		}
	}
}

func TestLoadReadsItsOwnCommandLine(t *testing.T) {
	want := &load{kind: "ask", address: "192.0.2.1:80", bulk: "192.0.2.1:81", flows: 7, size: 1024, rate: 2.5, fresh: true, warm: time.Second,
		window: 3 * time.Second, pids: []int{1, 22}, stages: []int{10, 20}}
	got, err := parseLoad(want.args()[1:])
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("read back %+v, %v\nwant %+v", got, err, want)
	}
	if _, err := parseLoad([]string{"-pids", "1,x"}); err == nil {
		t.Error("a process id x was read")
	}
}

func TestBusyLanes(t *testing.T) {
	before := parseLanes(`0      0      192.0.2.11:40000 192.0.2.12:20001 bbr bytes_sent:900 bytes_acked:1000 bytes_received:500
0      64     192.0.2.11:40001 192.0.2.12:20001 bbr bytes_acked:70000 bytes_received:1
not a connection
`)
	if len(before) != 2 || before["192.0.2.11:40000 192.0.2.12:20001"].octets != 1500 {
		t.Fatalf("read %v", before)
	}
	after := parseLanes(`0 0 192.0.2.11:40000 192.0.2.12:20001 bbr bytes_acked:1040 bytes_received:540
0 0 192.0.2.11:40001 192.0.2.12:20001 bbr bytes_acked:80000 bytes_received:1
0 0 192.0.2.11:40002 192.0.2.12:20001 bbr bytes_acked:3000 bytes_received:3000
0 0 192.0.2.11:40003 192.0.2.12:20001 bbr rto:240
`)
	for n, want := range []string{"", ":40001", ":40001 :40002", ":40001 :40002 :40000", ":40001 :40002 :40000"} {
		var got []string
		for _, l := range busiest(before, after, n) {
			got = append(got, strings.TrimPrefix(l.local, "192.0.2.11"))
		}
		if strings.Join(got, " ") != want {
			t.Errorf("the %d busiest are %v, want %s", n, got, want)
		}
	}
}

func TestWrongOctetsAreCounted(t *testing.T) {
	const size = 200<<10 + 8
	content := make([]byte, size)
	n := newNoise(7).twin()
	for at := 0; at < size; at += mirrorChunk { // the chunks of a paced flow give the same bytes
		n[0].fill(content[at:min(at+mirrorChunk, size)])
	}
	got, wrong, err := compare(bytes.NewReader(content), n[1])
	if got != size || wrong != 0 || err != nil {
		t.Errorf("an intact flow: %d octets, %d wrong, %v", got, wrong, err)
	}
	content[3]++
	content[size-1]++
	if _, wrong, _ := compare(bytes.NewReader(content), newNoise(7)); wrong != 2 {
		t.Errorf("%d octets are wrong, want 2", wrong)
	}
	if got, _, err := compare(iotestReset{bytes.NewReader(content[:100])}, newNoise(7)); got != 100 || err == nil {
		t.Errorf("a flow that was reset: %d octets, %v", got, err)
	}
}

// iotestReset ends with a reset instead of the end of the stream.
type iotestReset struct{ io.Reader }

func (r iotestReset) Read(b []byte) (int, error) {
	n, err := r.Reader.Read(b)
	if err == io.EOF {
		err = net.ErrClosed
	}
	return n, err
}

// TestBackendAndLoads runs every kind of load that needs no other program straight against the backend.
func TestBackendAndLoads(t *testing.T) {
	web, sink := behind(t)
	for _, l := range []load{
		{kind: "ping", address: web},
		{kind: "ping", address: sink, bulk: sink},
		{kind: "http", address: web, flows: 4},
		{kind: "http", address: web, flows: 4, fresh: true},
		{kind: "ask", address: sink, flows: 4, size: 1024},
		{kind: "ask", address: sink, flows: 4, size: 2048, rate: 50, fresh: true, bulk: sink},
		{kind: "bulk", address: sink, flows: 2},
		{kind: "mirror", address: sink, flows: 2, rate: 20},
	} {
		l.size, l.window, l.pids = max(l.size, 64), 5*time.Second, []int{os.Getpid()}
		if l.kind != "ping" {
			l.window = 200 * time.Millisecond
		}
		run := map[string]func(context.Context) (reading, error){
			"ping": l.ping, "http": l.measureRequests, "ask": l.measureRequests, "bulk": l.measureBulk, "mirror": l.mirror}[l.kind]
		got, err := run(t.Context())
		nothing := got.Requests == 0 && got.Bytes == 0 || l.kind == "ask" && l.bulk != "" && got.Bytes == 0
		if err != nil || nothing || got.Errors+got.Resets+got.Wrong > 0 {
			t.Errorf("%+v: %+v, %v", l, got, err)
		}
	}
}

// TestYardsticks sends requests through each tunnel of this package.
func TestYardsticks(t *testing.T) {
	web, sink := behind(t)
	dir := t.TempDir()
	if err := writePKI(dir); err != nil {
		t.Fatal(err)
	}
	for _, carrier := range []string{"tcp", "tls", "h2", "quic"} {
		t.Run(carrier, func(t *testing.T) {
			peer, near := freeAddresses(t, 1)[0], freeAddresses(t, 2)
			background(t, func(ctx context.Context) error {
				return tunnelMain(ctx, []string{"-carrier", carrier, "-pki", dir, "-peer", peer, "-targets", web + "," + sink})
			})
			begun := load{kind: "ping", address: near[0], size: 64, window: 10 * time.Second}
			background(t, func(ctx context.Context) error {
				return tunnelMain(ctx, []string{"-carrier", carrier, "-pki", dir, "-peer", peer, "-listen", strings.Join(near, ",")})
			})
			if _, err := begun.ping(t.Context()); err != nil {
				t.Fatal(err)
			}
			for _, l := range []load{
				{kind: "http", address: near[0], flows: 4, fresh: true, size: 64, window: 100 * time.Millisecond},
				{kind: "ask", address: near[1], flows: 4, size: 9000, window: 100 * time.Millisecond},
			} {
				if got, err := l.measureRequests(t.Context()); err != nil || got.Errors > 0 {
					t.Errorf("%+v: %+v, %v", l, got, err)
				}
			}
		})
	}
}

func TestPKIFilesAreComplete(t *testing.T) {
	dir := t.TempDir()
	if err := writePKI(dir); err != nil {
		t.Fatal(err)
	}
	if _, err := loadPKI(dir, ""); err != nil {
		t.Error(err)
	}
	if err := os.Remove(filepath.Join(dir, "ca.pem")); err != nil {
		t.Fatal(err)
	}
	if _, err := loadPKI(dir, ""); err == nil {
		t.Error("no root was missed")
	}
}

// behind starts a backend for the test.
func behind(t *testing.T) (web, sink string) {
	t.Helper()
	all := freeAddresses(t, 2)
	background(t, func(ctx context.Context) error { return backendMain(ctx, []string{"-http", all[0], "-sink", all[1]}) })
	for _, l := range []load{{kind: "ping", address: all[0]}, {kind: "ping", address: all[1], bulk: all[1]}} {
		l.size, l.window = 64, 10*time.Second
		if _, err := l.ping(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	return all[0], all[1]
}

func freeAddresses(t *testing.T, n int) []string {
	t.Helper()
	all, err := addresses(site{address: "127.0.0.1"}, n)
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// background runs f until the test ends.
func background(t *testing.T, f func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- f(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
}

func TestMetricsAreSummed(t *testing.T) {
	text := "# HELP m_total What.\n# TYPE m_total counter\nm_total{peer=\"a\"} 2\nm_total{peer=\"b c\"} 3\nm_total_more 70\nother 100\nn 1e3\n"
	for metric, want := range map[string]float64{"m_total": 5, "n": 1000} {
		if got, err := sumMetric(text, metric); err != nil || got != want {
			t.Errorf("%s is %v, %v; want %v", metric, got, err, want)
		}
	}
	if _, err := sumMetric(text, "absent"); err == nil {
		t.Error("a metric that is not there was read")
	}
}
