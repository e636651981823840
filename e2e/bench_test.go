package e2e

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// TestBenchmarkRuns makes every measurement of the quick benchmark once, with tiny counts: it shows that the benchmark still knows
// how to start what it measures and to read what it gets. What it measures here is not looked at.
func TestBenchmarkRuns(t *testing.T) {
	bin, dir := world.Binaries(t), t.TempDir()
	bench, results := filepath.Join(dir, "bench"), filepath.Join(dir, "results.json")
	if out, err := exec.Command("go", "build", "-o", bench, "./bench").CombinedOutput(); err != nil {
		t.Fatalf("build the benchmark: %v\n%s", err, out)
	}
	cmd := exec.CommandContext(t.Context(), bench, "-quick", "-smoke", "-bin", bin, "-out", results)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s%s", err, out, stderr.Bytes())
	}
	lines := bytes.Split(bytes.TrimSpace(out), []byte("\n"))
	var last struct {
		Goals map[string]struct{ Value, Goal float64 }
	}
	if err := json.Unmarshal(lines[len(lines)-1], &last); err != nil {
		t.Fatalf("the last line is not JSON: %v\n%s", err, out)
	}
	for _, id := range []string{"G1", "G2", "G7", "G10"} { // G11 is of thousands of flows
		if g := last.Goals[id]; g.Value <= 0 || g.Goal <= 0 {
			t.Errorf("%s is %+v", id, g)
		}
	}
	data, err := os.ReadFile(results)
	if err != nil {
		t.Fatal(err)
	}
	var written struct {
		Smoke bool
		Cases []struct{ Name string }
	}
	if err := json.Unmarshal(data, &written); err != nil || !written.Smoke || len(written.Cases) != 4 {
		t.Errorf("the results are %s (%v)", data, err)
	}
}
