package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
)

// gateway is one agent running in this process.
type gateway struct {
	*Agent
	t    *testing.T
	path string // of gateway.hcl
	log  *buffer
	stop func() error // ends Run and returns its error; may be called twice
}

// buffer is a log that several goroutines write.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) { b.mu.Lock(); defer b.mu.Unlock(); return b.b.Write(p) }
func (b *buffer) String() string              { b.mu.Lock(); defer b.mu.Unlock(); return b.b.String() }

// start runs a gateway of region on the data directory below dir, with extra lines in its gateway.hcl.
func start(t *testing.T, region, dir, extra string) *gateway {
	t.Helper()
	g := &gateway{t: t, path: filepath.Join(dir, "gateway.hcl"), log: &buffer{}}
	g.write(region, extra)
	cfg, err := config.Load(g.path)
	if err != nil {
		t.Fatal(err)
	}
	g.Agent, err = New(t.Context(), Options{Config: cfg, Path: g.path, Version: "test", Out: io.Discard, Err: g.log})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	g.stop = sync.OnceValue(func() error {
		cancel()
		select {
		case err := <-ended:
			return err
		case <-time.After(20 * time.Second):
			return errors.New("Run does not return")
		}
	})
	t.Cleanup(func() {
		if err := g.stop(); err != nil {
			t.Errorf("%s ended with %v", region, err)
		}
		if t.Failed() {
			t.Logf("%s logged:\n%s", region, g.log)
		}
	})
	g.until("ready", func() error {
		if s, _ := g.Status(t.Context(), nil); s.State != admin.StateReady {
			return fmt.Errorf("it is %s", s.State)
		}
		return nil
	})
	return g
}

func (g *gateway) write(region, extra string) {
	g.t.Helper()
	if !strings.Contains(extra, "location {") { // what the machine that tests run on is, no test depends on
		extra += "\nlocation {\n lookup = false\n}\n"
	}
	if !strings.Contains(extra, "mesh {") {
		extra += "mesh {\n listen = \"127.0.0.1:0\"\n}\n"
	}
	content := fmt.Sprintf("region = %q\nname = \"gw-1\"\ndata_dir = %q\nlocal {\n listen = \"\"\n}\nadmin {\n listen = \"\"\n}\n%s\n",
		region, filepath.Join(filepath.Dir(g.path), "data"), extra)
	if err := os.WriteFile(g.path, []byte(content), 0o600); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gateway) until(what string, ask func() error) {
	g.t.Helper()
	deadline, tick := time.After(10*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for {
		err := ask()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			g.t.Fatalf("not within 10 s: %s: %v\n%s", what, err, g.log)
		}
	}
}

// apply puts the resources of HCL text in force.
func (g *gateway) apply(text string) {
	g.t.Helper()
	path := filepath.Join(g.t.TempDir(), "r.hcl")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		g.t.Fatal(err)
	}
	list, err := config.ParseResources(path)
	if err != nil {
		g.t.Fatal(err)
	}
	if _, err := g.ApplyResources(g.t.Context(), &admin.ChangeRequest{Owner: "test", Put: list}); err != nil {
		g.t.Fatal(err)
	}
}

func federate(t *testing.T, a, b *gateway) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
	defer cancel()
	token, err := a.PeerGenerateToken(ctx, &admin.PeerTokenRequest{Peer: b.cfg.Load().Region})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.PeerEstablish(ctx, &admin.PeerEstablishRequest{Token: token.Token}, func(admin.PeerStep) {}); err != nil {
		t.Fatal(err)
	}
}

// serve starts an HTTP service and returns its address.
func serve(t *testing.T, answer string) string {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, answer) }))
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func get(address string) (string, error) {
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second}
	res, err := client.Get("http://" + address)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1024))
	return string(body), err
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// shortDir is a directory whose paths are short enough for a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "tw")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

func TestTwoRegionsCarryTraffic(t *testing.T) {
	t.Cleanup(func() { goleak.VerifyNone(t) })
	aws, gcp := start(t, "aws", shortDir(t), ""), start(t, "gcp", shortDir(t), "")
	listen := freeAddress(t)
	aws.apply(fmt.Sprintf("service \"shop\" {\n instance \"one\" {\n address = %q\n }\n check \"http\" {}\n}\nexport \"shop\" {\n to = [\"gcp\"]\n}\n"+
		"intention \"in\" {\n source = \"web@gcp\"\n destination = \"shop\"\n action = \"allow\"\n}", serve(t, "from aws")))
	gcp.apply(fmt.Sprintf("upstream \"shop\" {\n service = \"shop\"\n listen = %q\n caller = \"web\"\n}", listen))
	federate(t, aws, gcp)

	if _, err := get(listen); err == nil {
		t.Fatal("a call that no intention allows was answered")
	}
	why, err := gcp.Explain(t.Context(), &admin.ExplainRequest{Source: "web", Destination: "shop"})
	if err != nil || why.Verdict != admin.VerdictDenied || why.Fix == "" {
		t.Fatalf("explain says %+v, %v", why, err)
	}
	gcp.apply("intention \"out\" {\n source = \"web\"\n destination = \"shop@*\"\n action = \"allow\"\n}")
	gcp.until("the call to be answered", func() error {
		body, err := get(listen)
		if err == nil && body != "from aws" {
			err = errors.New(body)
		}
		return err
	})
	if report, err := gcp.Check(t.Context(), &admin.CheckRequest{Peer: "aws"}); err != nil || failures(report) != "" {
		t.Errorf("check finds %s, %v", failures(report), err)
	}
	if _, err := gcp.PeerRemove(t.Context(), &admin.PeerRequest{Peer: "aws"}); err != nil {
		t.Fatal(err)
	}
	if _, err := get(listen); err == nil {
		t.Error("a call to a removed peer was answered")
	}
	aws.until("the other side to know of it", func() error {
		p, err := aws.PeerShow(t.Context(), &admin.PeerRequest{Peer: "gcp"})
		if err == nil && p.State != federation.PeeringTerminated {
			err = fmt.Errorf("it is %v", p.State)
		}
		return err
	})
	federate(t, gcp, aws) // at once, and the other way round
	gcp.until("the call to be answered again", func() error { _, err := get(listen); return err })
}

func failures(r *admin.CheckReport) string {
	var out []string
	for _, g := range r.Groups {
		for _, c := range g.Results {
			if c.Status == admin.CheckFail {
				out = append(out, string(c.Code)+" "+c.What)
			}
		}
	}
	return strings.Join(out, "; ")
}

func TestReloadTakesTheGoodAndRefusesTheBad(t *testing.T) {
	dir := shortDir(t)
	resources := t.TempDir()
	g := start(t, "aws", dir, "")
	g.write("aws", fmt.Sprintf("resources_dir = %q\nlog {\n level = \"debug\"\n}\naccess_log = \"off\"", resources))
	answer, err := g.Reload(t.Context(), nil)
	if err != nil || fmt.Sprint(answer.Changed) != "[access_log log.level resources_dir]" || len(answer.Restart) != 0 || answer.Generation != 2 {
		t.Fatalf("%+v, %v", answer, err)
	}
	file := filepath.Join(resources, "a.hcl")
	if err := os.WriteFile(file, []byte("export \"shop\" {\n to = [\"*\"]\n}"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.until("the directory's resource", func() error {
		_, err := g.GetResource(t.Context(), &admin.GetResourceRequest{Key: federation.Key{Kind: federation.KindExport, Name: "shop"}})
		return err
	})
	_, err = g.ApplyResources(t.Context(), &admin.ChangeRequest{Owner: "cli", Delete: []federation.Key{{Kind: federation.KindExport, Name: "shop"}}})
	if federation.CodeOf(err) != "TW-1202" || !strings.Contains(err.Error(), "dir:"+resources) {
		t.Errorf("another owner's write gave %v", err)
	}
	g.write("aws", "resource_dir = \"x\"")
	if _, err := g.Reload(t.Context(), nil); federation.CodeOf(err) != "TW-1001" || !strings.Contains(err.Error(), `Did you mean "resources_dir"?`) {
		t.Errorf("a bad file gave %v", err)
	}
	if !g.warnsOf("TW-1007") {
		t.Error("check says nothing of the refused configuration")
	}
	if s, _ := g.Status(t.Context(), nil); s.Generation != 2 {
		t.Errorf("a refused reload left generation %d", s.Generation)
	}
	if err := os.WriteFile(file, []byte("# nothing any more\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	g.until("what the directory no longer declares to be gone", func() error {
		if n := len(g.plane.List()); n != 0 {
			return fmt.Errorf("%d resources", n)
		}
		return nil
	})
}

// warnsOf reports whether a check of g ends with code.
func (g *gateway) warnsOf(code federation.Code) bool {
	report, err := g.Check(g.t.Context(), &admin.CheckRequest{})
	if err != nil {
		g.t.Fatal(err)
	}
	for _, group := range report.Groups {
		for _, r := range group.Results {
			if r.Status != admin.CheckPass && r.Code == code {
				return true
			}
		}
	}
	return false
}

func TestResourcesDirectoryMayBeginEmptyButNotBecomeSo(t *testing.T) {
	resources := t.TempDir()
	g := start(t, "aws", shortDir(t), fmt.Sprintf("resources_dir = %q", resources))
	if g.warnsOf("TW-1006") {
		t.Error("an empty directory of a new region is a problem")
	}
	file := filepath.Join(resources, "a.hcl")
	if err := os.WriteFile(file, []byte("export \"shop\" {\n to = [\"*\"]\n}"), 0o600); err != nil {
		t.Fatal(err)
	}
	declared := func() error {
		if n := len(g.plane.List()); n != 1 {
			return fmt.Errorf("%d resources", n)
		}
		return nil
	}
	g.until("the directory's resource", declared)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	g.until("a complaint", func() error {
		if !g.warnsOf("TW-1006") {
			return errors.New("none")
		}
		return nil
	})
	if err := declared(); err != nil {
		t.Errorf("after the files went away: %v", err)
	}
}

// TestReadyMeansListening: a supervisor that has read "ready" must not read afterwards that the gateway could not start.
func TestReadyMeansListening(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	dir, written := shortDir(t), &buffer{}
	path := filepath.Join(dir, "gateway.hcl")
	content := fmt.Sprintf("region = \"aws\"\ndata_dir = %q\nmesh {\n listen = \"127.0.0.1:0\"\n}\nlocal {\n listen = %q\n}\nadmin {\n listen = \"\"\n}\n",
		filepath.Join(dir, "data"), taken.Addr())
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := config.Load(path)
	if err != nil {
		t.Fatal(err)
	}
	a, err := New(t.Context(), Options{Config: cfg, Path: path, Out: io.Discard, Err: written})
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Run(t.Context()); federation.CodeOf(err) != "TW-6103" || strings.Contains(written.String(), `"ready"`) {
		t.Errorf("%v, and the log says:\n%s", err, written)
	}
}

func TestSecondGatewayOnOneDirectoryIsRefused(t *testing.T) {
	dir := shortDir(t)
	first := start(t, "aws", dir, "")
	cfg, err := config.Load(first.path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = New(t.Context(), Options{Config: cfg, Path: first.path, Out: io.Discard, Err: io.Discard})
	var d *federation.Diagnostic
	if !errors.As(err, &d) || d.Fix == "" {
		t.Fatalf("the second gateway got %v", err)
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	start(t, "aws", dir, "") // and once the first is gone, it may
}

func TestMetricsNameEveryPeering(t *testing.T) {
	aws := start(t, "aws", shortDir(t), "")
	if _, err := aws.PeerGenerateToken(t.Context(), &admin.PeerTokenRequest{Peer: "gcp"}); err != nil {
		t.Fatal(err)
	}
	families, err := aws.metrics.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil || len(problems) > 0 {
		t.Errorf("names against the conventions of Prometheus: %v, %v", problems, err)
	}
	for _, f := range families {
		if f.GetName() == "tradewind_peer_up" && len(f.GetMetric()) == 1 && f.GetMetric()[0].GetGauge().GetValue() == 0 {
			return
		}
	}
	t.Fatal("a pending peering is not among the metrics")
}

func TestWhatIsAppliedIsInForce(t *testing.T) {
	g := start(t, "aws", shortDir(t), "")
	for i := range 10 {
		listen := freeAddress(t)
		g.apply(fmt.Sprintf("service \"shop%[1]d\" {\n instance \"one\" {\n address = %[2]q\n }\n}\n"+
			"intention \"i%[1]d\" {\n source = \"web\"\n destination = \"shop%[1]d\"\n action = \"allow\"\n}\n"+
			"upstream \"u%[1]d\" {\n service = \"shop%[1]d\"\n listen = %[3]q\n caller = \"web\"\n}", i, serve(t, "hello"), listen))
		if body, err := get(listen); err != nil || body != "hello" {
			t.Fatalf("a call right after apply gave %q, %v", body, err)
		}
	}
}

func TestMovedSourceKeepsItsInstancesUntilTheNewFileIsRead(t *testing.T) {
	dir, files := shortDir(t), t.TempDir()
	list := func(name, id string) string {
		path := filepath.Join(files, name)
		content := fmt.Sprintf(`{"instances":[{"id":%q,"service":"shop","address":"192.0.2.10:80","health":"passing"}]}`, id)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	source := func(path string) string { return fmt.Sprintf("source \"file\" \"shop\" {\n path = %q\n}", path) }
	g := start(t, "aws", dir, source(list("a.json", "old")))
	shop := federation.ServiceName{Namespace: federation.DefaultNamespace, Name: "shop"}
	has := func(id federation.InstanceID) func() error {
		return func() error {
			if _, ok := g.reg.Instance(shop, id); !ok {
				return fmt.Errorf("no instance %q", id)
			}
			return nil
		}
	}
	g.until("the first file's instance", has("old"))
	g.write("aws", source(filepath.Join(files, "missing.json")))
	if _, err := g.Reload(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	g.until("the missing file to be noticed", func() error {
		for _, s := range g.sources() {
			if s.Name == "file:shop" && s.Error != "" {
				return nil
			}
		}
		return errors.New("no source has a problem")
	})
	if err := has("old")(); err != nil {
		t.Errorf("a source moved to a file that is missing has lost what it had: %v", err)
	}
	g.write("aws", source(list("b.json", "new")))
	if _, err := g.Reload(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	g.until("the second file's instance", has("new"))
	if has("old")() == nil {
		t.Error("the first file's instance is still there")
	}
}

func TestTokenOfAnotherRegionIsNotUsed(t *testing.T) {
	aws, gcp := start(t, "aws", shortDir(t), ""), start(t, "gcp", shortDir(t), "")
	token, err := aws.PeerGenerateToken(t.Context(), &admin.PeerTokenRequest{Peer: "gcp"})
	if err != nil {
		t.Fatal(err)
	}
	_, err = gcp.PeerEstablish(t.Context(), &admin.PeerEstablishRequest{Peer: "azure", Token: token.Token}, func(admin.PeerStep) {})
	if federation.CodeOf(err) != federation.CodeTokenRegion {
		t.Errorf("a token of aws used for azure gave %v", err)
	}
	if n := len(gcp.peers.List()); n != 0 {
		t.Errorf("it left %d peerings", n)
	}
}

func TestNewRootDropsNoPeer(t *testing.T) {
	aws, gcp := start(t, "aws", shortDir(t), ""), start(t, "gcp", shortDir(t), "")
	federate(t, aws, gcp)
	before := aws.trust.Fingerprint()
	answer, err := aws.CertRotateCA(t.Context(), &admin.CertRotateCARequest{})
	if err != nil || answer.Bundles[0].Roots != 2 || answer.Bundles[0].Fingerprint == before {
		t.Fatalf("%+v, %v", answer, err)
	}
	gcp.until("the peer to know the new root", func() error {
		if b, _ := gcp.trust.PeerBundle("aws"); b.Fingerprint() != answer.Bundles[0].Fingerprint {
			return errors.New("it knows " + b.Fingerprint())
		}
		return nil
	})
	if _, err := gcp.Ping(t.Context(), &admin.PingRequest{Peer: "aws"}); err != nil {
		t.Errorf("after the rotation: %v", err)
	}
}
