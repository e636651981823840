package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/websocket"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// appHCL declares, in the region that serves, what requests are sent to: nginx, a server of this test in both versions of HTTP, and
// grpc-go's interoperability server.
const appHCL = `
service "web" {
  protocol = "http"
  instance "nginx" { address = "127.0.0.1:8080" }
}
service "app" {
  protocol = "http"
  instance "go" { address = "127.0.0.1:8081" }
}
service "app2" {
  protocol = "http2"
  instance "go" { address = "127.0.0.1:8081" }
}
service "talk" {
  protocol = "grpc"
  instance "grpc-go" { address = "127.0.0.1:10000" }
}
export "web" { to = ["*"] }
export "app" { to = ["*"] }
export "app2" { to = ["*"] }
export "talk" { to = ["*"] }
intention "client-in" {
  source      = "client@gcp-europe-west1"
  destination = "*"
  action      = "allow"
}
`

// The upstreams of the region that calls.
const (
	portWeb = 9001 + iota
	portApp
	portApp2
	portTalk
)

// httpRegions builds aws, which serves what appHCL says, and gcp, which calls it.
func httpRegions(t *testing.T) (aws, gcp *world.Region) {
	t.Helper()
	world.Programs(t, "nginx", "curl", "wrk", "h2load")
	r := world.Regions(t, "", "aws-us-east-1", "gcp-europe-west1")
	aws, gcp = r[0], r[1]
	startNginx(aws, 8080, aws.Dir, aws.Name)
	startApp(t, aws, 8081)
	aws.Apply(appHCL)
	text := "intention \"client-out\" {\n  source = \"client\"\n  destination = \"*@*\"\n  action = \"allow\"\n}\n"
	for i, name := range []string{"web", "app", "app2", "talk"} {
		text += fmt.Sprintf("upstream %q {\n  service = %q\n  listen = \"127.0.0.1:%d\"\n  caller = \"client\"\n}\n", name, name, portWeb+i)
	}
	gcp.Apply(text)
	world.Federate(t, aws, gcp)
	waitServed(t, gcp, aws.Name)
	return aws, gcp
}

// startApp starts a server in c that speaks HTTP/1.1 and HTTP/2 and does what the tests ask for by path.
func startApp(t *testing.T, c *world.Region, port int) {
	t.Helper()
	l, err := c.Listen(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.Handle("/echo", websocket.Server{Handler: func(c *websocket.Conn) { _, _ = io.Copy(c, c) }})
	mux.HandleFunc("/count", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		_, _ = fmt.Fprint(w, n, " ", err)
	})
	mux.HandleFunc("/zeros/{n}", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.ParseInt(r.PathValue("n"), 10, 64)
		_, _ = io.CopyN(w, zeros{}, n)
	})
	mux.HandleFunc("/early", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	})
	mux.HandleFunc("/hints", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Link", "</style.css>; rel=preload")
		w.WriteHeader(http.StatusEarlyHints)
		_, _ = fmt.Fprint(w, "after the hints")
	})
	mux.HandleFunc("/trailers", func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Trailer", "X-Sum")
		_, _ = fmt.Fprint(w, "body")
		w.Header().Set("X-Sum", "of "+r.Trailer.Get("X-End"))
	})
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, "%s %s %s\n", r.Method, r.RequestURI, r.Host)
	})
	p := new(http.Protocols)
	p.SetHTTP1(true)
	p.SetUnencryptedHTTP2(true)
	s := &http.Server{Handler: mux, Protocols: p, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { _ = s.Serve(l); close(done) }()
	t.Cleanup(func() { _ = s.Close(); <-done })
}

// zeros is a body without end.
type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// browser is a client in c, of one version of HTTP.
func browser(t *testing.T, c *world.Region, two bool) *http.Client {
	p := new(http.Protocols)
	p.SetHTTP1(!two)
	p.SetUnencryptedHTTP2(two)
	transport := &http.Transport{DialContext: c.Dial, Protocols: p, DisableCompression: true, ExpectContinueTimeout: 30 * time.Second}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport}
}

// TestHTTPPrograms sends requests of programs that nobody here wrote from one cloud to another.
func TestHTTPPrograms(t *testing.T) {
	aws, gcp := httpRegions(t)
	t.Run("curl", func(t *testing.T) { curls(t, gcp.In(t)) })
	t.Run("wrk", func(t *testing.T) {
		out := gcp.In(t).Run(time.Minute, "wrk", "-t", "1", "-c", "32", "-d", "2s", fmt.Sprintf("http://127.0.0.1:%d/region", portWeb))
		if strings.Contains(out, "Socket errors") || strings.Contains(out, "Non-2xx") {
			t.Fatal(out)
		}
		t.Log(regexp.MustCompile(`Requests/sec:\s+\S+`).FindString(out))
	})
	for name, port := range map[string]int{"to HTTP/1.1": portApp, "to HTTP/2": portApp2} {
		t.Run("h2load "+name, func(t *testing.T) {
			out := gcp.In(t).Run(time.Minute, "h2load", "-n", "10000", "-c", "4", "-m", "32", fmt.Sprintf("http://127.0.0.1:%d/x", port))
			if !strings.Contains(out, "10000 succeeded, 0 failed, 0 errored, 0 timeout") || !strings.Contains(out, "10000 2xx") {
				t.Fatal(out)
			}
			t.Log(regexp.MustCompile(`finished in .*`).FindString(out))
		})
	}
	t.Run("grpc-go", func(t *testing.T) { grpcInterop(t, aws.In(t), gcp.In(t)) })
	t.Run("h2spec", func(t *testing.T) { h2spec(t, gcp.In(t)) })
	t.Run("websocket", func(t *testing.T) { webSocket(t, gcp.In(t)) })
	for _, two := range []bool{false, true} {
		for _, port := range []int{portApp, portApp2} {
			t.Run(fmt.Sprintf("messages two=%v port=%d", two, port), func(t *testing.T) {
				messages(t, browser(t, gcp, two), fmt.Sprintf("http://127.0.0.1:%d", port))
			})
		}
	}
	t.Run("bodies of 1 GiB", func(t *testing.T) { largeBodies(t, aws.In(t), gcp.In(t)) })
}

// curls asks in both versions.
func curls(t *testing.T, c *world.Region) {
	for _, version := range []string{"--http1.1", "--http2-prior-knowledge"} {
		for _, port := range []int{portWeb, portApp, portApp2} {
			url := fmt.Sprintf("http://127.0.0.1:%d/region", port)
			args := []string{"-sS", "--fail", version, "-w", "%{http_version} %{num_connects}\n", url}
			want := "2 1"
			if version == "--http1.1" { // curl 7.88 cannot use a connection of HTTP/2 twice that it has begun without TLS
				args, want = append(args, url), "1.1 0"
			}
			lines := strings.Split(strings.TrimSpace(c.Run(20*time.Second, "curl", args...)), "\n")
			if lines[len(lines)-1] != want {
				t.Errorf("curl %s to port %d printed %q", version, port, lines)
			}
		}
	}
	// An upload of which curl sends nothing before it is told to go on.
	file := c.Write("upload", strings.Repeat("x", 3<<20))
	out := c.Run(20*time.Second, "curl", "-sS", "-v", "--stderr", "-", "--expect100-timeout", "20", "-H", "Expect: 100-continue", "-T", file,
		fmt.Sprintf("http://127.0.0.1:%d/count", portApp))
	if !strings.Contains(out, "HTTP/1.1 100 Continue") || !strings.Contains(out, "3145728 <nil>") {
		t.Errorf("an upload that waits for 100: %s", out)
	}
}

// grpcInterop has grpc-go's client talk to grpc-go's server: the calls that every implementation of gRPC is tested with.
func grpcInterop(t *testing.T, aws, gcp *world.Region) {
	aws.Start(tool(t, "grpc-server"), "-port", "10000")
	client := tool(t, "grpc-client")
	at := []string{"-server_host", "127.0.0.1", "-server_port", strconv.Itoa(portTalk), "-test_case"}
	world.Until(t, 20*time.Second, "an answer of the gRPC server", func() error {
		_, err := gcp.Try(20*time.Second, client, append(at, "empty_unary")...)
		return err
	})
	for _, name := range []string{"empty_unary", "large_unary", "client_streaming", "server_streaming", "ping_pong", "empty_stream",
		"timeout_on_sleeping_server", "cancel_after_begin", "cancel_after_first_response", "status_code_and_message",
		"special_status_message", "custom_metadata", "unimplemented_method", "unimplemented_service", "rpc_soak"} {
		var out string
		var err error
		for range 3 { // on a busy machine grpc-go may find the answer before it finds that it has been cancelled
			if out, err = gcp.Try(30*time.Second, client, append(at, name)...); err == nil || name != "cancel_after_begin" {
				break
			}
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// deviations are the cases of h2spec that fail, with the reason. Whatever else is malformed is answered by a reset.
var deviations = map[string]string{
	"Sends invalid connection preface":                                                                                                       "a port for both versions takes it for HTTP/1.1, and answers 400 before it closes",
	"Sends a large size HEADERS frame that exceeds the SETTINGS_MAX_FRAME_SIZE":                                                              "net/http allows what it has not announced yet",
	"Sends multiple values of SETTINGS_INITIAL_WINDOW_SIZE":                                                                                  "net/http refuses settings that come twice in one frame",
	"Sends a HEADERS frame that contains the connection-specific header field":                                                               "answered by 400, as RFC 9113 8.1.1 allows",
	"Sends a HEADERS frame that contains the TE header field with any value other than \"trailers\"":                                         "the same",
	"Sends a HEADERS frame with the \"content-length\" header field which does not equal the DATA frame payload length":                      "the same",
	"Sends a HEADERS frame with the \"content-length\" header field which does not equal the sum of the multiple DATA frames payload length": "the same",
}

// h2spec runs the conformance test of HTTP/2 against an upstream.
func h2spec(t *testing.T, c *world.Region) {
	out, _ := c.Try(2*time.Minute, tool(t, "h2spec"), "-h", "127.0.0.1", "-p", strconv.Itoa(portApp), "-o", "5", "-P", "/x")
	if sum := regexp.MustCompile(`\d+ tests, \d+ passed, \d+ skipped, \d+ failed`).FindString(out); sum == "" {
		t.Fatalf("h2spec printed:\n%s", out)
	} else {
		t.Log(sum)
	}
	_, failures, _ := strings.Cut(out, "Failures:")
	for _, failed := range regexp.MustCompile(`× \d+: (.*)`).FindAllStringSubmatch(failures, -1) {
		if reason := deviations[failed[1]]; reason == "" {
			t.Errorf("h2spec: %s\n%s", failed[1], failures)
		} else {
			t.Logf("h2spec: %s: %s", failed[1], reason)
		}
	}
}

// tool is a program that make tools builds.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join("..", "bin", "tools", name))
	if err == nil {
		_, err = os.Stat(path)
	}
	if err != nil {
		reason := fmt.Sprintf("bin/tools/%s is missing: build it with make tools (some minutes of processor time, once)", name)
		if os.Getenv("CI") != "" {
			t.Fatal(reason)
		}
		t.Skip(reason)
	}
	return path
}

// webSocket sends frames both ways over an upgraded connection.
func webSocket(t *testing.T, c *world.Region) {
	conn, err := c.Dial(t.Context(), "tcp", fmt.Sprintf("127.0.0.1:%d", portApp))
	if err != nil {
		t.Fatal(err)
	}
	config, err := websocket.NewConfig("ws://app/echo", "http://app/")
	if err != nil {
		t.Fatal(err)
	}
	ws, err := websocket.NewClient(config, conn)
	if err != nil {
		t.Fatal(err)
	}
	defer ws.Close()
	for _, size := range []int{1, 1000, 1 << 20} {
		sent, got := make([]byte, size), make([]byte, size)
		_, _ = rand.Read(sent)
		failed := make(chan error, 1)
		go func() { _, err := ws.Write(sent); failed <- err }()
		if _, err := io.ReadFull(ws, got); err != nil || string(got) != string(sent) {
			t.Fatalf("%d octets: %v, the same: %v", size, err, string(got) == string(sent))
		}
		if err := <-failed; err != nil {
			t.Fatal(err)
		}
	}
}

// messages are the forms of messages that proxies get wrong.
func messages(t *testing.T, c *http.Client, url string) {
	get := func(method, path string, body io.Reader, change func(*http.Request)) (*http.Response, string) {
		t.Helper()
		ctx, stop := context.WithTimeout(t.Context(), 30*time.Second)
		defer stop()
		r, err := http.NewRequestWithContext(ctx, method, url+path, body)
		if err != nil {
			t.Fatal(err)
		}
		if change != nil {
			change(r)
		}
		res, err := c.Do(r)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		defer res.Body.Close()
		text, err := io.ReadAll(res.Body)
		if err != nil {
			t.Fatalf("%s %s: %v", method, path, err)
		}
		return res, string(text)
	}
	if res, text := get("HEAD", "/zeros/1234", nil, nil); res.StatusCode != 200 || text != "" { //nolint:bodyclose // get has
		t.Errorf("HEAD: %v %q", res, text)
	}
	var hints string
	res, text := get("GET", "/hints", nil, func(r *http.Request) { //nolint:bodyclose // the same
		*r = *r.WithContext(httptrace.WithClientTrace(r.Context(), &httptrace.ClientTrace{
			Got1xxResponse: func(code int, h textproto.MIMEHeader) error { hints = fmt.Sprint(code, h["Link"]); return nil }}))
	})
	if res.StatusCode != 200 || text != "after the hints" || hints != "103 [</style.css>; rel=preload]" {
		t.Errorf("early hints: %v %q %q", res.Status, text, hints)
	}
	res, text = get("POST", "/trailers", io.MultiReader(strings.NewReader("some")), func(r *http.Request) { //nolint:bodyclose // the same
		r.Trailer = http.Header{"X-End": {"all"}}
	})
	if text != "body" || res.Trailer.Get("X-Sum") != "of all" {
		t.Errorf("trailers: %q %v", text, res.Trailer)
	}
	upload := strings.NewReader(strings.Repeat("x", 100_000))
	res, text = get("POST", "/count", upload, func(r *http.Request) { r.Header.Set("Expect", "100-continue") }) //nolint:bodyclose // the same
	if res.StatusCode != 200 || text != "100000 <nil>" {
		t.Errorf("100 (Continue): %v %q", res.Status, text)
	}
	for range 3 { // the response comes while 100 MiB are on their way, of which the instance reads nothing
		res, text = get("POST", "/early", io.LimitReader(zeros{}, 100<<20), nil) //nolint:bodyclose // the same
		if res.StatusCode != http.StatusRequestEntityTooLarge || text != "too large\n" {
			t.Errorf("early response: %v %q", res.Status, text)
		}
	}
}

// largeBodies sends 1 GiB each way, and looks at what the gateways need for it.
func largeBodies(t *testing.T, aws, gcp *world.Region) {
	const size, limit = 1 << 30, 64 << 10 // octets; KiB
	for _, two := range []bool{false, true} {
		c := browser(t, gcp, two)
		before := resident(t, aws) + resident(t, gcp)
		begin := time.Now()
		res, err := c.Get(fmt.Sprintf("http://127.0.0.1:%d/zeros/%d", portApp, size))
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(io.Discard, res.Body)
		_ = res.Body.Close()
		if err != nil || n != size {
			t.Fatalf("%d octets down: %v", n, err)
		}
		down := time.Since(begin)
		begin = time.Now()
		res, err = c.Post(fmt.Sprintf("http://127.0.0.1:%d/count", portApp), "", io.LimitReader(zeros{}, size))
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(res.Body)
		_ = res.Body.Close()
		if string(text) != fmt.Sprint(size, " <nil>") || err != nil {
			t.Fatalf("up: %q %v", text, err)
		}
		grown := resident(t, aws) + resident(t, gcp) - before
		t.Logf("two=%v: 1 GiB down in %v, up in %v, the gateways have grown by %d KiB at most", two, down.Round(time.Millisecond),
			time.Since(begin).Round(time.Millisecond), grown)
		if grown > limit {
			t.Errorf("two=%v: the gateways have grown by %d KiB, %d are allowed", two, grown, limit)
		}
	}
}

// resident is the most memory that a gateway has had, in KiB.
func resident(t *testing.T, c *world.Region) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", c.Gateway.PID()))
	if err != nil {
		t.Fatal(err)
	}
	most := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(text)
	n, err := strconv.Atoi(string(most[1]))
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// keepAlive is one connection of a caller that sends one request after the other.
type keepAlive struct {
	at   *world.Region
	port int
	conn net.Conn
	in   *bufio.Reader
}

// get asks for the region. It connects when there is no connection.
func (k *keepAlive) get() (region string, err error) {
	if k.conn == nil {
		if k.conn, err = k.at.Dial(context.Background(), "tcp", fmt.Sprintf("127.0.0.1:%d", k.port)); err != nil {
			k.conn = nil
			return "", err
		}
		k.in = bufio.NewReader(k.conn)
	}
	last := true
	defer func() {
		if last || err != nil {
			k.close()
		}
	}()
	_ = k.conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err = io.WriteString(k.conn, "GET /region HTTP/1.1\r\nHost: web\r\n\r\n"); err != nil {
		return "", err
	}
	res, err := http.ReadResponse(k.in, nil)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != 200 {
		err = fmt.Errorf("%s: %s", res.Status, text)
	}
	last = res.Close
	return strings.TrimSpace(string(text)), err
}

func (k *keepAlive) close() {
	if k.conn != nil {
		_ = k.conn.Close()
	}
	k.conn = nil
}
