package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is a fake gateway behind a real socket and a real server, and a directory to work in.
type world struct {
	*fakeGateway
	dir, socket string
	address     string
	environment map[string]string
	stdin       string
	tty, outTTY bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "tw") // t.TempDir can be longer than a socket's path may be
	if err != nil {
		t.Fatal(err)
	}
	g := &fakeGateway{lane: "quic", failures: 1000}
	w := &world{fakeGateway: g, dir: dir, socket: filepath.Join(dir, "admin.sock")}
	w.environment = map[string]string{"TRADEWIND_DATA_DIR": dir}
	s, err := admin.New(admin.Config{Socket: w.socket, Listen: "127.0.0.1:0", TokenFile: filepath.Join(dir, admin.TokenFile),
		Answers: g, Services: g, Resources: g,
		Peerings: g, Certificates: g, Instances: g, Process: g, Providers: g, Ingresses: g, Failover: g, Log: slog.New(slog.NewTextHandler(io.Discard, nil))})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	if err := s.Listen(ctx); err != nil {
		t.Fatal(err)
	}
	w.address = s.Addr().String()
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return w
}

// run runs one command line and returns what it wrote and its exit code.
func (w *world) run(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	c := &cli{in: strings.NewReader(w.stdin), out: &out, err: &errs, env: func(k string) string { return w.environment[k] },
		now: func() time.Time { return noon }, inTTY: w.tty, outTTY: w.outTTY, errTTY: w.tty}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	code = c.execute(ctx, args)
	return out.String(), errs.String(), code
}

func TestExitCodes(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		line string
		want int
	}{
		{"status", exitOK}, {"explain web search", exitOK}, {"ping gcp-europe-west1", exitOK}, {"version", exitOK},
		{"peer show nowhere", exitFailed},
		{"frob", exitUsage}, {"config validate /nonexistent", exitUsage}, {"apply -f /nonexistent", exitUsage},
		{"check", exitCheck},
		{"status --strict", exitDegraded},
		{"ping azure-westeurope", exitUnreachable}, {"status --socket /nonexistent/s", exitUnreachable},
		{"peer wait azure-westeurope --timeout 50ms", exitUnreachable},
		{"explain web ghost", exitUnreachable},
		{"explain web@gcp-europe-west1 checkout", exitDenied}, {"intention test web@gcp-europe-west1 checkout", exitDenied},
	} {
		if _, stderr, got := w.run(t, strings.Fields(c.line)...); got != c.want {
			t.Errorf("%s: exit code %d, want %d\n%s", c.line, got, c.want, stderr)
		}
	}
	w.lane = "tcp"
	if _, _, got := w.run(t, "ping", "gcp-europe-west1"); got != exitDegraded {
		t.Errorf("ping over tcp: exit code %d", got)
	}
	w.failures = 0
	if _, _, got := w.run(t, "check"); got != exitOK {
		t.Errorf("check with warnings: exit code %d", got)
	}
	if _, _, got := w.run(t, "check", "--strict"); got != exitDegraded {
		t.Errorf("check --strict with warnings: exit code %d", got)
	}
}

func TestEmptyRegionSaysWhatToDo(t *testing.T) {
	w := newWorld(t)
	w.lonely = true
	for _, line := range []string{"status", "peer list", "services list", "get", "intention list"} {
		stdout, stderr, code := w.run(t, strings.Fields(line)...)
		if code != 0 || !strings.Contains(stdout+stderr, "tradewind ") {
			t.Errorf("%s: %d\n%s%s", line, code, stdout, stderr)
		}
	}
	for _, line := range []string{"peer list -o json", "services list -o json", "get -o json", "intention list -o json"} {
		stdout, _, code := w.run(t, strings.Fields(line)...)
		if code != 0 || strings.Contains(stdout, "null") || !strings.Contains(stdout, "[]") {
			t.Errorf("%s: %d\n%s", line, code, stdout)
		}
	}
	if stdout, _, _ := w.run(t, "peer", "list", "-o", "jsonl"); stdout != "" {
		t.Errorf("no peers are no lines, got %q", stdout)
	}
}

func TestApplyAsksOnATerminal(t *testing.T) {
	w := newWorld(t)
	w.tty = true
	path := w.file(t, "shop.hcl", "export \"checkout\" {\n  to = [\"azure-westeurope\"]\n}\n")
	w.stdin = "no\n"
	stdout, stderr, code := w.run(t, "apply", "-f", path)
	if code != exitFailed || len(w.applied) != 0 || !strings.Contains(stderr, "TW-8022") || !strings.Contains(stdout, "will be updated") {
		t.Errorf("answer no: %d, applied %d\n%s%s", code, len(w.applied), stdout, stderr)
	}
	w.stdin = "yes\n"
	stdout, stderr, code = w.run(t, "apply", "-f", path)
	if code != exitOK || len(w.applied) != 1 || !strings.Contains(stderr, "Apply 1 change?") || !strings.Contains(stdout,
		"was updated") || strings.Count(stdout, "azure") != 1 {
		t.Fatalf("answer yes: %d, applied %d\n%s%s", code, len(w.applied), stdout, stderr)
	}
	if v := w.applied[0].Put[0].Version; v != 7 {
		t.Errorf("applied over version %d, shown was 7", v)
	}
	w.stdin = ""
	if _, _, code = w.run(t, "apply", "-f", path, "--yes"); code != exitOK || len(w.applied) != 2 {
		t.Errorf("--yes: %d", code)
	}
	if _, stderr, code = w.run(t, "apply", "-f", path, "--no-input"); code != exitFailed || !strings.Contains(stderr, "--yes") {
		t.Errorf("--no-input: %d %s", code, stderr)
	}
	if _, _, code = w.run(t, "delete", "export", "checkout"); code != exitFailed || len(w.deleted) != 0 {
		t.Errorf("delete without an answer: %d", code)
	}
	if _, _, code = w.run(t, "peer", "remove", "gcp-europe-west1"); code != exitFailed {
		t.Errorf("remove without an answer: %d", code)
	}
}

func TestOwnersAreNamed(t *testing.T) {
	w := newWorld(t)
	path := w.file(t, "x.hcl", "upstream \"search\" {\n  service = \"search\"\n  listen = \"127.0.0.1:9002\"\n  caller = \"web\"\n}\n")
	_, stderr, code := w.run(t, "apply", "-f", path)
	if code != exitFailed || !strings.Contains(stderr, "belongs to terraform") || len(w.applied) != 0 {
		t.Errorf("%d %s", code, stderr)
	}
	if _, stderr, code = w.run(t, "apply", "-f", path, "--force"); code != exitOK || !w.applied[0].Force {
		t.Errorf("%d %s", code, stderr)
	}
}

func TestOverTCP(t *testing.T) {
	w := newWorld(t)
	if stdout, stderr, code := w.run(t, "status", "--address", w.address); code != exitOK || !strings.Contains(stdout, "aws-us-east-1") {
		t.Errorf("%d %s", code, stderr)
	}
	wrong := filepath.Join(w.dir, "wrong.token")
	if err := os.WriteFile(wrong, []byte(strings.Repeat("A", 43)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.environment["TRADEWIND_TOKEN_FILE"] = wrong
	w.environment["TRADEWIND_ADDRESS"] = w.address
	if _, stderr, code := w.run(t, "status"); code != exitFailed || !strings.Contains(stderr, "TW-8004") {
		t.Errorf("wrong token: %d %s", code, stderr)
	}
	if _, stderr, code := w.run(t, "status", "--socket", w.socket); code != exitOK {
		t.Errorf("a flag beats the environment: %d %s", code, stderr)
	}
}

func TestKeyStaysHere(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "tls")
	if _, stderr, code := w.run(t, "cert", "issue", "shop/web", "--out", dir); code != 0 {
		t.Fatal(stderr)
	}
	request, ok := w.asked[0].(admin.CertIssueRequest)
	if !ok || request.Service != service("shop/web") || strings.Contains(request.PublicKeyPEM, "PRIVATE") {
		t.Fatalf("%+v", w.asked)
	}
	for _, name := range []string{"shop.web.key", "shop.web.crt", "bundle.crt"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	b, err := os.ReadFile(filepath.Join(dir, "shop.web.key"))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	sent, _ := pem.Decode([]byte(request.PublicKeyPEM))
	public, err := x509.ParsePKIXPublicKey(sent.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	if own, ok := key.(interface{ Public() any }); ok && !own.Public().(interface{ Equal(any) bool }).Equal(public) {
		t.Error("the key on disk is not the one that was certified")
	}
}

func TestEstablishReadsTokens(t *testing.T) {
	w := newWorld(t)
	w.stdin = "  tw1.c2VjcmV0\n"
	if _, stderr, code := w.run(t, "peer", "establish"); code != 0 {
		t.Errorf("from standard input: %s", stderr)
	}
	w.stdin = ""
	stdout, _, _ := w.run(t, "peer", "generate-token", "aws-us-east-1", "-o", "json")
	w.stdin = stdout
	if _, stderr, code := w.run(t, "peer", "establish", "--token", "-"); code != 0 {
		t.Errorf("from the JSON of generate-token: %s", stderr)
	}
	out := filepath.Join(w.dir, "out.token")
	if stdout, stderr, code := w.run(t, "peer", "generate-token", "aws-us-east-1", "--out", out); code != 0 || stdout != "" {
		t.Errorf("to a file: %d %s%s", code, stdout, stderr)
	}
	if _, stderr, code := w.run(t, "peer", "establish", "aws-us-east-1", "--token", out); code != 0 {
		t.Errorf("from the file: %s", stderr)
	}
	if last, ok := w.asked[len(w.asked)-1].(admin.PeerEstablishRequest); !ok || last.Peer != "aws-us-east-1" {
		t.Errorf("the expected peer was not sent: %+v", w.asked)
	}
	w.tty = true
	_, stderr, _ := w.run(t, "peer", "establish", "--token", out)
	if !strings.Contains(stderr, "reading the token ...\r\x1b[K✓ token: valid") && !strings.Contains(stderr,
		"reading the token ...\r\x1b[K\x1b[32m✓\x1b[0m token: valid") {
		t.Errorf("a running step is not overwritten on a terminal: %q", stderr)
	}
}

func TestInitConfig(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "etc")
	path := filepath.Join(dir, "gateway.hcl")
	stdout, stderr, code := w.run(t, "init", "aws-us-east-1", "--dir", dir, "--data-dir", filepath.Join(w.dir, "data"))
	if code != 0 || strings.TrimSpace(stdout) != path || !strings.Contains(stderr, "next: tradewind-gateway") {
		t.Fatalf("%d %s%s", code, stdout, stderr)
	}
	if stdout, stderr, code := w.run(t, "config", "validate", path); code != 0 || !strings.Contains(stdout, "valid: region aws-us-east-1") {
		t.Errorf("validate: %d %s%s", code, stdout, stderr)
	}
	stdout, _, code = w.run(t, "config", "show", path, "-o", "json")
	var shown map[string]string
	if err := json.Unmarshal([]byte(stdout),
		&shown); code != 0 || err != nil || shown["region"] != "aws-us-east-1" || shown["location.lookup"] != "true" || shown["data_dir"] != filepath.Join(w.dir, "data") {
		t.Errorf("show: %d %v %s", code, err, stdout)
	}
	if _, stderr, code := w.run(t, "init", "other", "--dir", dir); code != exitFailed || !strings.Contains(stderr, "TW-8021") {
		t.Errorf("init over a file: %d %s", code, stderr)
	}
	if b, err := os.ReadFile(path); err != nil || !strings.Contains(string(b), `"aws-us-east-1"`) {
		t.Errorf("the file was changed: %v %s", err, b)
	}
	if _, stderr, code := w.run(t, "init", "Not_A_Region", "--dir", filepath.Join(w.dir, "b")); code != exitUsage {
		t.Errorf("bad region: %d %s", code, stderr)
	}
	if err := os.WriteFile(path, []byte("region = \"x\"\nregoin = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, stderr, code := w.run(t, "config", "validate", path); code != exitUsage || !strings.Contains(stderr,
		"regoin") || !strings.Contains(stderr, "line 2") {
		t.Errorf("mistyped key: %d %s", code, stderr)
	}
}

func TestCheckWaits(t *testing.T) {
	w := newWorld(t)
	w.failures = 1
	stdout, stderr, code := w.run(t, "check", "--wait")
	if code != 0 || !strings.Contains(stderr, "waiting for peers/azure-westeurope path") || len(w.asked) != 2 {
		t.Errorf("%d, asked %d times\n%s%s", code, len(w.asked), stdout, stderr)
	}
	w.failures = 1000
	if _, _, code := w.run(t, "check", "--wait", "--timeout", "100ms"); code != exitCheck {
		t.Errorf("check that never passes: %d", code)
	}
}

func TestManualAndCompletion(t *testing.T) {
	w := newWorld(t)
	dir := filepath.Join(w.dir, "man")
	if _, stderr, code := w.run(t, "man", dir); code != 0 {
		t.Fatal(stderr)
	}
	for _, page := range []string{"tradewind.1", "tradewind-peer-establish.1"} {
		if _, err := os.Stat(filepath.Join(dir, page)); err != nil {
			t.Error(err)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish", "powershell"} {
		if stdout, stderr, code := w.run(t, "completion", shell); code != 0 || len(stdout) < 1000 {
			t.Errorf("%s: %d %s", shell, code, stderr)
		}
	}
	stdout, _, code := w.run(t, "version", "-o", "json")
	var b build
	if err := json.Unmarshal([]byte(stdout), &b); code != 0 || err != nil || b.Version == "" || b.Go == "" {
		t.Errorf("version: %v %s", err, stdout)
	}
}

// TestEveryCommandIsExplained keeps help complete: a short text for each command, and a long one or an example where it acts.
func TestEveryCommandIsExplained(t *testing.T) {
	c := &cli{env: func(string) string { return "" }}
	commands := c.root().Commands()
	for len(commands) > 0 {
		cmd := commands[0]
		commands = append(commands[1:], cmd.Commands()...)
		if cmd.Hidden {
			continue
		}
		if cmd.Short == "" || strings.HasSuffix(cmd.Short, ".") {
			t.Errorf("%s: short text %q", cmd.CommandPath(), cmd.Short)
		}
		if !cmd.HasSubCommands() && cmd.Args == nil {
			t.Errorf("%s takes any arguments", cmd.CommandPath())
		}
	}
}

// TestCodesAreExplained keeps the table of codes whole: each code once, in form, and every code this program prints is in it.
func TestCodesAreExplained(t *testing.T) {
	known := map[federation.Code]bool{}
	for _, h := range federation.AllHelp() {
		if known[h.Code] {
			t.Errorf("%s is in the table twice", h.Code)
		}
		known[h.Code] = true
		if !codeForm.MatchString(string(h.Code)) || h.Title == "" || h.Text == "" {
			t.Errorf("%q is not explained", h.Code)
		}
	}
	for _, dir := range []string{".", "../../internal/admin"} {
		files, err := filepath.Glob(filepath.Join(dir, "*.go"))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range slices.DeleteFunc(files, func(f string) bool { return strings.HasSuffix(f, "_test.go") }) {
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, part := range strings.Split(string(b), `Code: "TW-`)[1:] {
				if code := federation.Code("TW-" + part[:4]); !known[code] {
					t.Errorf("%s uses %s, which is not explained", file, code)
				}
			}
		}
	}
}

func TestSpan(t *testing.T) {
	for d, want := range map[time.Duration]string{
		0: "0s", 350 * time.Microsecond: "0.3ms", 86200 * time.Microsecond: "86.2ms", 400 * time.Millisecond: "400ms",
		1900 * time.Millisecond: "1.9s",
		9 * time.Second:         "9s", 42*time.Second + 900*time.Millisecond: "42s", 252 * time.Second: "4m12s", time.Hour: "1h",
		3*time.Hour + 4*time.Minute: "3h4m",
		150 * time.Hour:             "6d6h", 61 * 24 * time.Hour: "61d", -time.Second: "-1s",
	} {
		if got := span(d); got != want {
			t.Errorf("span(%v) = %s, want %s", d, got, want)
		}
	}
	if got := intentionName("*@*", "shop/"+strings.Repeat("x", 60)); len(got) > 63 || got != strings.ToLower(got) {
		t.Errorf("name %q of %d characters", got, len(got))
	}
}

// TestGenerateTokenWaits holds that who reads a token on a terminal is told when it was used, and that a program that reads it is
// not kept waiting.
func TestGenerateTokenWaits(t *testing.T) {
	w := newWorld(t)
	const proof = "✓ token: redeemed by"
	for _, c := range []struct {
		terminal bool
		line     string
		waits    bool
	}{
		{true, "peer generate-token gcp-europe-west1", true},
		{true, "peer generate-token gcp-europe-west1 --wait=false", false},
		{true, "peer generate-token gcp-europe-west1 -o json", false},
		{false, "peer generate-token gcp-europe-west1", false},
		{false, "peer generate-token gcp-europe-west1 --wait", true},
	} {
		w.outTTY = c.terminal
		stdout, stderr, code := w.run(t, strings.Fields(c.line)...)
		if code != exitOK || strings.Contains(stderr, proof) != c.waits || !strings.Contains(stdout, "tw1.c2VjcmV0") {
			t.Errorf("%s, terminal %v: exit code %d\n%s%s", c.line, c.terminal, code, stdout, stderr)
		}
		if c.waits && !strings.Contains(stderr, "next: tradewind ") {
			t.Errorf("%s says no next step:\n%s", c.line, stderr)
		}
	}
	w.outTTY = true
	if _, stderr, code := w.run(t, "peer", "generate-token", "azure-westeurope", "--timeout", "50ms"); code != exitUnreachable {
		t.Errorf("nobody comes: exit code %d\n%s", code, stderr)
	}
}
