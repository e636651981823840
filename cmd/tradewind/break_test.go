package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

func TestErrorsAreJSONWhereTheOutputIs(t *testing.T) {
	w := newWorld(t)
	for _, c := range []struct {
		args string
		code federation.Code
	}{
		{"get export nothing -o json", "TW-1204"}, {"peer show nowhere -o jsonl", "TW-3001"},
		{"status --bogus -o json", "TW-8020"}, {"apply -f /no/such/file -o json", "TW-1003"},
	} {
		stdout, stderr, _ := w.run(t, strings.Fields(c.args)...)
		var said struct{ Errors []federation.Diagnostic }
		if err := json.Unmarshal([]byte(stderr), &said); err != nil || len(said.Errors) != 1 || said.Errors[0].Code != c.code || stdout != "" {
			t.Errorf("%s: %v, %+v, standard output %q", c.args, err, said, stdout)
		}
	}
}

func TestEveryAnswerIsOneDocument(t *testing.T) {
	w := newWorld(t)
	for _, args := range []string{"ping gcp-europe-west1 -c 2 -o json", "ping gcp-europe-west1 -o json", "peer remove gcp-europe-west1 -o json"} {
		stdout, stderr, code := w.run(t, strings.Fields(args)...)
		if code != exitOK || !json.Valid([]byte(stdout)) {
			t.Errorf("%s: exit code %d, %q, %q", args, code, stdout, stderr)
		}
	}
}

func TestNothingIsPrunedByNothing(t *testing.T) {
	w := newWorld(t)
	empty := w.file(t, "empty.hcl", "# all of it was in a variable that was not set\n")
	for _, verb := range []string{"plan", "apply"} {
		if _, stderr, code := w.run(t, verb, "-f", empty, "--prune"); code != exitUsage || !strings.Contains(stderr, "declare nothing") {
			t.Errorf("%s: exit code %d, %s", verb, code, stderr)
		}
	}
	if _, stderr, code := w.run(t, "apply", "-f", t.TempDir()); code != exitUsage || !strings.Contains(stderr, "no *.hcl or *.json") {
		t.Errorf("an empty directory: exit code %d, %s", code, stderr)
	}
}

func TestTokenThatIsNone(t *testing.T) {
	w := newWorld(t)
	for _, token := range []string{"", "tw9." + strings.Repeat("A", 200)} {
		_, stderr, code := w.run(t, "peer", "establish", "--token", token)
		if code != exitUsage || !strings.Contains(stderr, "neither a token nor a file") || strings.Contains(stderr, "AAAA") {
			t.Errorf("%.8q: exit code %d, %s", token, code, stderr)
		}
	}
}

func TestAddressWithoutPort(t *testing.T) {
	w := newWorld(t)
	token := filepath.Join(w.dir, "admin.token")
	if _, stderr, code := w.run(t, "status", "--address", "gateway", "--token-file", token); code != exitUsage || !strings.Contains(stderr, "127.0.0.1:8480") {
		t.Errorf("exit code %d, %s", code, stderr)
	}
}

func TestInterruptHasItsOwnExitCode(t *testing.T) {
	w := newWorld(t)
	var out, errs bytes.Buffer
	c := &cli{in: strings.NewReader(""), out: &out, err: &errs, env: func(k string) string { return w.environment[k] }, now: time.Now}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel) // SIGINT, while the wait for a state that never comes goes on
	if code := c.execute(ctx, []string{"peer", "wait", "azure-westeurope"}); code != exitInterrupted {
		t.Errorf("exit code %d: %s", code, errs.String())
	}
}

func TestLikelyDir(t *testing.T) {
	own, host := t.TempDir(), t.TempDir()
	touch := func(dir string) {
		if err := os.WriteFile(filepath.Join(dir, "admin.sock"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if got := likelyDir(own, host); got != own {
		t.Errorf("with no gateway: %s", got)
	}
	touch(host)
	if got := likelyDir(own, host); got != host {
		t.Errorf("with the host's gateway: %s", got)
	}
	touch(own)
	if got := likelyDir(own, host); got != own {
		t.Errorf("with both: %s", got)
	}
}
