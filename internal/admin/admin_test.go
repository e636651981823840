package admin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gateway is a backend that answers from functions; what a test does not set panics when it is called, as a defect would.
type gateway struct {
	status    func(context.Context) (*Status, error)
	resources func() []federation.Resource
	establish func(context.Context, *PeerEstablishRequest, func(PeerStep)) (*PeerEstablished, error)
	wait      func(context.Context) (*Peering, error)

	Services
	Certificates
	Instances
	Process
}

func (g *gateway) Status(ctx context.Context, _ *StatusRequest) (*Status, error) {
	return g.status(ctx)
}
func (g *gateway) Check(context.Context, *CheckRequest) (*CheckReport, error) { return nil, nil }
func (g *gateway) Explain(context.Context, *ExplainRequest) (*Explanation, error) {
	return nil, errors.New("plain trouble")
}
func (g *gateway) Ping(context.Context, *PingRequest) (*Pong, error) { panic("defect") }

type peerings struct {
	Peerings
	g *gateway
}

func (p peerings) PeerEstablish(ctx context.Context, r *PeerEstablishRequest, progress func(PeerStep)) (*PeerEstablished, error) {
	return p.g.establish(ctx, r, progress)
}
func (p peerings) PeerWait(ctx context.Context, _ *PeerWaitRequest) (*Peering, error) {
	return p.g.wait(ctx)
}

type resources struct {
	Resources
	g *gateway
}

func (r resources) ListResources(context.Context, *ListResourcesRequest) (*ListResourcesResponse, error) {
	return &ListResourcesResponse{Resources: r.g.resources()}, nil
}

func (r resources) ApplyResources(_ context.Context, change *ChangeRequest) (*Plan, error) {
	var p Plan
	for i := range change.Put {
		p.Steps = append(p.Steps, Step{Action: ActionCreate, Key: change.Put[i].Key, After: &change.Put[i]})
	}
	return &p, nil
}

// world is a running server.
type world struct {
	*Server
	dir, socket, tokenFile string
	g                      *gateway
	log                    *strings.Builder
}

func start(t *testing.T, change func(*Config)) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "tw") // t.TempDir can be longer than a socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	w := &world{dir: dir, socket: filepath.Join(dir, "admin.sock"), tokenFile: filepath.Join(dir, TokenFile), log: &strings.Builder{},
		g: &gateway{status: func(context.Context) (*Status, error) { return &Status{Region: "here", State: StateReady}, nil }}}
	registry := prometheus.NewRegistry()
	registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "tradewind_up", Help: "Is 1."}, func() float64 { return 1 }))
	cfg := Config{Socket: w.socket, Listen: "127.0.0.1:0", TokenFile: w.tokenFile, Answers: w.g, Peerings: peerings{g: w.g},
		Resources: resources{g: w.g},
		Gatherer:  registry, Log: slog.New(slog.NewTextHandler(w.log, nil))}
	if change != nil {
		change(&cfg)
	}
	if w.Server, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.run(t)
	return w
}

func (w *world) run(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	if err := w.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- w.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
		if _, err := os.Lstat(w.socket); err == nil {
			t.Error("the socket is still there after Run")
		}
	})
}

func (w *world) client(t *testing.T, target Target) *Client {
	c := NewClient(target)
	t.Cleanup(c.Close)
	return c
}

func (w *world) onSocket(t *testing.T) *Client { return w.client(t, Target{Socket: w.socket}) }

func (w *world) onTCP(t *testing.T, token string) *Client {
	return w.client(t, Target{Address: w.Addr().String(), Token: token})
}

// post is what curl does.
func (w *world) post(t *testing.T, path, body string, change func(*http.Request)) (int, string) {
	t.Helper()
	r, err := http.NewRequest(http.MethodPost, "http://"+w.Addr().String()+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/json")
	r.Header.Set("Authorization", "Bearer "+w.token)
	if change != nil {
		change(r)
	}
	return do(t, http.DefaultTransport, r)
}

func do(t *testing.T, transport http.RoundTripper, r *http.Request) (int, string) {
	t.Helper()
	res, err := transport.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	defer http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

func TestBothListenersAnswer(t *testing.T) {
	w := start(t, nil)
	token, err := ReadToken(w.tokenFile)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]*Client{"socket": w.onSocket(t), "tcp": w.onTCP(t, token)} {
		st, err := c.Status(t.Context(), &StatusRequest{})
		if err != nil || st.Region != "here" {
			t.Errorf("%s: Status = %+v, %v", name, st, err)
		}
	}
}

func TestPlainPostOnTheSocket(t *testing.T) {
	w := start(t, nil)
	transport := &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", w.socket)
	}}
	defer transport.CloseIdleConnections()
	for _, body := range []string{"{}", ""} {
		r, _ := http.NewRequest(http.MethodPost, "http://tradewind/tradewind.v1.Admin/Status", strings.NewReader(body))
		r.Header.Set("Content-Type", "application/json")
		status, answer := do(t, transport, r)
		if status != 200 || !strings.Contains(answer, `"region":"here"`) || !strings.Contains(answer, `"peers":[]`) {
			t.Errorf("body %q: %d %s", body, status, answer)
		}
	}
}

func TestCharsetInContentType(t *testing.T) {
	w := start(t, nil)
	status, answer := w.post(t, "/tradewind.v1.Admin/Status", "{}", func(r *http.Request) {
		r.Header.Set("Content-Type",
			"application/json; charset=utf-8")
	})
	if status != 200 || !strings.Contains(answer, `"here"`) {
		t.Errorf("%d %s", status, answer)
	}
}

func TestDiagnosticsTravelWhole(t *testing.T) {
	w := start(t, nil)
	sent := &federation.Diagnostic{Code: "TW-3011", What: `catalog of "b" is old → 4m`, Why: "they refuse\nus",
		Fix: "there: tradewind peer list"}
	w.g.status = func(context.Context) (*Status, error) { return nil, fmt.Errorf("show status: %w", sent) }
	_, err := w.onSocket(t).Status(t.Context(), &StatusRequest{})
	var got *federation.Diagnostic
	if !errors.As(err, &got) {
		t.Fatalf("error %T %v", err, err)
	}
	got.Err = nil
	if diff := cmp.Diff(sent, got); diff != "" {
		t.Error(diff)
	}
	// Several at once, and what curl sees of them.
	second := &federation.Diagnostic{Code: "TW-1205", What: "second", Err: ErrNotFound}
	w.g.status = func(context.Context) (*Status, error) { return nil, errors.Join(sent, fmt.Errorf("and: %w", second)) }
	_, err = w.onSocket(t).Status(t.Context(), &StatusRequest{})
	all := Diagnostics(err)
	if len(all) != 2 || all[0].Code != "TW-3011" || all[1].Code != "TW-1205" || !errors.Is(err, ErrNotFound) {
		t.Errorf("%d diagnostics: %v", len(all), err)
	}
	code, answer := w.post(t, "/tradewind.v1.Admin/Status", "{}", nil)
	if code != 404 || !strings.Contains(answer, `"fix":"there: tradewind peer list"`) {
		t.Errorf("%d %s", code, answer)
	}
}

func TestErrorsWithoutDiagnostic(t *testing.T) {
	w := start(t, nil)
	c := w.onSocket(t)
	_, err := c.Explain(t.Context(), &ExplainRequest{})
	if federation.CodeOf(err) != "TW-8011" || !strings.Contains(err.Error(), "plain trouble") {
		t.Errorf("plain error: %v", err)
	}
	if _, err := c.Ping(t.Context(), &PingRequest{}); federation.CodeOf(err) != "TW-8011" || strings.Contains(err.Error(), "plain") {
		t.Errorf("panic: %v", err)
	}
	if _, err := c.Check(t.Context(), &CheckRequest{}); federation.CodeOf(err) != "TW-8011" {
		t.Errorf("no answer: %v", err)
	}
	if _, err := c.Reload(t.Context(), &ReloadRequest{}); federation.CodeOf(err) != "TW-8007" {
		t.Errorf("unknown method: %v", err)
	}
	if !strings.Contains(w.log.String(), "panicked") {
		t.Error("the panic is not in the log")
	}
}

func TestTimeoutSaysWhatWasAwaited(t *testing.T) {
	w := start(t, nil)
	w.g.status = func(ctx context.Context) (*Status, error) { <-ctx.Done(); return nil, ctx.Err() }
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err := w.onSocket(t).Status(ctx, &StatusRequest{})
	if federation.CodeOf(err) != "TW-8002" || !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(),
		"timed out after 100ms waiting for the gateway's status") {
		t.Errorf("error %v", err)
	}
	ctx, cancel = context.WithCancel(t.Context())
	entered := make(chan struct{})
	w.g.wait = func(ctx context.Context) (*Peering, error) { close(entered); <-ctx.Done(); return nil, ctx.Err() }
	go func() { <-entered; cancel() }()
	if _, err := w.onSocket(t).PeerWait(ctx, &PeerWaitRequest{}); federation.CodeOf(err) != "TW-8015" || !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
}

func TestUnreachable(t *testing.T) {
	dir := t.TempDir()
	missing := NewClient(Target{Socket: filepath.Join(dir, "none.sock")})
	_, err := missing.Status(t.Context(), &StatusRequest{})
	if federation.CodeOf(err) != "TW-8001" || !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(),
		"none.sock") || !strings.Contains(err.Error(), "no such socket") {
		t.Errorf("missing socket: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	refused := NewClient(Target{Address: l.Addr().String()})
	if _, err := refused.Status(t.Context(), &StatusRequest{}); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(),
		"nobody listens") {
		t.Errorf("refused: %v", err)
	}
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "what?",
			http.StatusTeapot)
	}))
	defer other.Close()
	something := NewClient(Target{Address: other.Listener.Addr().String()})
	defer something.Close()
	if _, err := something.Status(t.Context(), &StatusRequest{}); federation.CodeOf(err) == "" {
		t.Errorf("something else that speaks HTTP: %v", err)
	}
}

func TestEstablishStreams(t *testing.T) {
	w := start(t, nil)
	w.g.establish = func(_ context.Context, r *PeerEstablishRequest, progress func(PeerStep)) (*PeerEstablished, error) {
		if r.Token == "bad" {
			progress(PeerStep{Name: "token", State: StepFailed, Text: "expired"})
			return nil, &federation.Diagnostic{Code: "TW-3005", What: "token expired"}
		}
		progress(PeerStep{Name: "token", State: StepRunning, Text: "reading"})
		progress(PeerStep{Name: "token", State: StepDone, Text: "valid"})
		return &PeerEstablished{Peering: Peering{Region: "b", State: federation.PeeringActive}, TookSeconds: 1.9}, nil
	}
	c := w.onSocket(t)
	var steps []PeerStep
	done, err := c.PeerEstablish(t.Context(), &PeerEstablishRequest{Token: "good"}, func(s PeerStep) { steps = append(steps, s) })
	if err != nil || done.Peering.Region != "b" || len(steps) != 2 || steps[1].Text != "valid" {
		t.Fatalf("%+v, %v, %v", done, steps, err)
	}
	steps = nil
	_, err = c.PeerEstablish(t.Context(), &PeerEstablishRequest{Token: "bad"}, func(s PeerStep) { steps = append(steps, s) })
	if federation.CodeOf(err) != "TW-3005" || len(steps) != 1 {
		t.Errorf("%v, %v", steps, err)
	}
	if log := w.log.String(); !strings.Contains(log, "method=PeerEstablish") || strings.Contains(log, "good") {
		t.Errorf("log: %s", log)
	}
	// A caller that leaves ends the work.
	ended := make(chan struct{})
	w.g.establish = func(ctx context.Context, _ *PeerEstablishRequest, progress func(PeerStep)) (*PeerEstablished, error) {
		defer close(ended)
		progress(PeerStep{Name: "reach", State: StepRunning, Text: "dialling 192.0.2.7:8443"})
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err = c.PeerEstablish(ctx, &PeerEstablishRequest{}, func(PeerStep) {})
	if !errors.Is(err, ErrTimeout) || !strings.Contains(err.Error(), "dialling 192.0.2.7:8443") {
		t.Errorf("timeout: %v", err)
	}
	<-ended
}

func TestResourcesRoundTrip(t *testing.T) {
	w := start(t, nil)
	want := []federation.Resource{
		{Key: federation.Key{Kind: federation.KindExport, Name: "checkout"}, Owner: "cli", Version: 3,
			Spec: &federation.Export{To: []string{"b", "*"}}},
		{Key: federation.Key{Kind: federation.KindIntention, Name: "x"}, Spec: &federation.Intention{Source: "a<b>", Destination: "*",
			Action: federation.Deny}},
	}
	w.g.resources = func() []federation.Resource { return want }
	c := w.onSocket(t)
	got, err := c.ListResources(t.Context(), &ListResourcesRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(List[federation.Resource](want), got.Resources); diff != "" {
		t.Error(diff)
	}
	plan, err := c.ApplyResources(t.Context(), &ChangeRequest{Owner: "cli", Put: want})
	if err != nil || len(plan.Steps) != 2 || plan.Steps[1].After.Spec.(*federation.Intention).Source != "a<b>" {
		t.Errorf("%+v, %v", plan, err)
	}
	if log := w.log.String(); !strings.Contains(log, "method=ApplyResources") || !strings.Contains(log, fmt.Sprintf("uid %d",
		os.Geteuid())) {
		t.Errorf("who applied is not in the log: %s", log)
	}
}

func TestProbes(t *testing.T) {
	ready := errors.New("no catalog\nyet")
	w := start(t, func(c *Config) {
		c.Live = []HealthCheck{{"loop", func(context.Context) error { return nil }}}
		c.Ready = []HealthCheck{{"mesh", func(context.Context) error { return nil }}, {"catalog",
			func(context.Context) error { return ready }}}
	})
	get := func(path string) (int, string) {
		r, _ := http.NewRequest(http.MethodGet, "http://"+w.Addr().String()+path, nil)
		return do(t, http.DefaultTransport, r)
	}
	for _, c := range []struct {
		path string
		code int
		want string
	}{
		{"/livez", 200, "ok"},
		{"/livez?verbose", 200, "[+]loop ok\nlivez check passed\n"},
		{"/readyz", 503, "[+]mesh ok\n[-]catalog failed: no catalog yet\nreadyz check failed\n"},
	} {
		if code, answer := get(c.path); code != c.code || answer != c.want {
			t.Errorf("%s: %d %q", c.path, code, answer)
		}
	}
	if code, answer := get("/metrics"); code != 200 || !strings.Contains(answer, "tradewind_up 1") {
		t.Errorf("/metrics: %d %s", code, answer)
	}
	if code, _ := get("/anything"); code != 401 {
		t.Errorf("/anything without a token: %d", code)
	}
	ready = nil
	if code, answer := get("/readyz"); code != 200 || answer != "ok" {
		t.Errorf("/readyz: %d %q", code, answer)
	}
}

func TestRunWithoutListenersEndsWithItsContext(t *testing.T) {
	s, err := New(Config{})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Run(ctx); err != nil {
		t.Error(err)
	}
}

func TestTimesAndSpans(t *testing.T) {
	c := codec{name: "json", strict: true}
	at := time.Date(2026, 11, 22, 15, 3, 0, 123456789, time.FixedZone("", 3600))
	b, err := c.Marshal(struct {
		At    Time      `json:"at"`
		Unset Time      `json:"unset,omitzero"`
		Age   Seconds   `json:"age_seconds"`
		List  List[int] `json:"list"`
	}{At: At(at), Age: SecondsOf(252*time.Second + 1500*time.Microsecond)})
	if want := `{"at":"2026-11-22T14:03:00.123Z","age_seconds":252.0015,"list":[]}`; err != nil || string(b) != want {
		t.Errorf("%s, %v", b, err)
	}
	var back Time
	if err := c.Unmarshal([]byte(`"2026-11-22T15:03:00.123+01:00"`), &back); err != nil || !back.Equal(at.Truncate(time.Millisecond)) {
		t.Errorf("%v, %v", back, err)
	}
	if err := c.Unmarshal([]byte(`"yesterday"`), &back); err == nil {
		t.Error("yesterday is a time")
	}
}

func FuzzCodec(f *testing.F) {
	f.Add([]byte(`{"owner":"cli","put":[{"kind":"export","name":"a","spec":{"to":["b"]}}],"delete":[{"kind":"service","name":"x"}]}`))
	f.Add([]byte(`{"owner":1}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		c := codec{name: "json", strict: true}
		var r ChangeRequest
		if c.Unmarshal(b, &r) != nil {
			return
		}
		again, err := c.Marshal(&r)
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		var s ChangeRequest
		if err := c.Unmarshal(again, &s); err != nil {
			t.Fatalf("what was written cannot be read: %v: %s", err, again)
		}
	})
}

// TestGatewayThatDiesWhileItAnswers: a script must be able to tell "nobody answered" from "the gateway said no".
func TestGatewayThatDiesWhileItAnswers(t *testing.T) {
	const half = "HTTP/1.1 200 OK\r\nContent-Type: application/connect+json\r\n\r\n\x00\x00\x00\x00\x10{"
	for name, answer := range map[string]string{"at once": "", "in the middle of an answer": half} {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				_, _ = c.Read(make([]byte, 1))
				_, _ = io.WriteString(c, answer)
				if answer == "" {
					_ = c.(*net.TCPConn).SetLinger(0) // a reset, as of a process that was killed with unread data
				}
				_ = c.(*net.TCPConn).CloseWrite()
				_, _ = io.Copy(io.Discard, c)
				_ = c.Close()
			}
		}()
		c := NewClient(Target{Address: l.Addr().String(), Timeout: 5 * time.Second})
		defer c.Close()
		_, err = c.PeerEstablish(t.Context(), &PeerEstablishRequest{Token: "tw1."}, func(PeerStep) {})
		if !errors.Is(err, ErrUnreachable) || federation.CodeOf(err) != "TW-8001" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGatewayThatResetsACall(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Read(make([]byte, 1))
			_ = c.(*net.TCPConn).SetLinger(0)
			_ = c.Close()
		}
	}()
	c := NewClient(Target{Address: l.Addr().String(), Timeout: 5 * time.Second})
	defer c.Close()
	if _, err := c.ApplyResources(t.Context(), &ChangeRequest{}); !errors.Is(err, ErrUnreachable) || federation.CodeOf(err) != "TW-8001" {
		t.Errorf("got %v", err)
	}
}
