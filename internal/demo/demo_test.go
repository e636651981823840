package demo

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tradewind-mesh/tradewind/federation"
)

// TestWhyTheStoryEnds holds that Ctrl-C is told as such, whatever it broke on its way, and everything else with a code.
func TestWhyTheStoryEnds(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	broken := errors.New("tradewind apply: signal: killed")
	played := 0
	well := func(context.Context) error { played++; return nil }
	if err := tell(ctx, well, well); err != nil || played != 2 {
		t.Errorf("%v after %d acts", err, played)
	}
	if err := tell(ctx, func(context.Context) error { return broken }, well); !errors.Is(err, broken) || federation.CodeOf(err) != "TW-8908" {
		t.Errorf("an act failed: %v", err)
	}
	known := &federation.Diagnostic{Code: "TW-1001", What: "known"}
	if err := tell(ctx, func(context.Context) error { return known }, well); !errors.Is(err, known) {
		t.Errorf("a diagnosis became %v", err)
	}
	if err := tell(ctx, func(context.Context) error { interrupt(); return broken }, well); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if played != 2 {
		t.Errorf("%d acts were played after one that failed", played-2)
	}
}

// TestResultForScripts holds that each step has the same six facts, and that a story that did not begin has a list of none.
func TestResultForScripts(t *testing.T) {
	b, err := json.Marshal(Step{})
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(b, &fields); err != nil {
		t.Fatal(err)
	}
	if got := slices.Sorted(maps.Keys(fields)); !slices.Equal(got, []string{"failed", "name", "ok", "recovered_ms", "requests", "retried"}) {
		t.Errorf("a step says %q", got)
	}
	// The test's own program has no gateway beside it.
	result, err := Run(t.Context(), Options{Out: &strings.Builder{}})
	if federation.CodeOf(err) != "TW-8901" {
		t.Errorf("%v", err)
	}
	if b, _ := json.Marshal(result); !strings.Contains(string(b), `"ok":false`) || !strings.Contains(string(b), `"steps":[]`) {
		t.Errorf("%s", b)
	}
}

func TestNowhereToWrite(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(filepath.Dir(self), "tradewind-gateway")
	if err := os.WriteFile(beside, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(beside)
	long := filepath.Join(t.TempDir(), strings.Repeat("x", 90))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{long, filepath.Join(long, "missing")} {
		t.Setenv("TMPDIR", dir)
		if _, err := newWorld(); federation.CodeOf(err) != "TW-8907" {
			t.Errorf("%s: %v", dir, err)
		}
	}
	if left, err := os.ReadDir(long); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}
