package e2e

import (
	"bufio"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/tradewind-mesh/tradewind/e2e/world"
)

// TestDemoInterrupted presses Ctrl-C at moments when different things are under way: nothing is left behind, and it is said as what it is.
func TestDemoInterrupted(t *testing.T) {
	for _, when := range []string{"three regions start", "the regions federate", "a canary across clouds", "failover drain", "starts in aws"} {
		t.Run(when, func(t *testing.T) {
			temp, err := os.MkdirTemp("", "tw") // t.TempDir is too long for sockets
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(temp)
			program := filepath.Join(world.Binaries(t), "tradewind")
			cmd := exec.CommandContext(t.Context(), program, "demo", "-o", "json")
			cmd.Env = append(os.Environ(), "TMPDIR="+temp)
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C reaches the whole group, also the commands that the demo runs
			var out strings.Builder
			cmd.Stdout = &out
			said, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var lines []string
			pressed := false
			for s := bufio.NewScanner(said); s.Scan(); {
				lines = append(lines, s.Text())
				if strings.Contains(s.Text(), when) && !pressed {
					pressed = true
					if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
						t.Error(err)
					}
				}
			}
			_ = cmd.Wait()
			last := lines[max(0, len(lines)-1):]
			if !pressed || cmd.ProcessState.ExitCode() != 130 || strings.Join(last, "") != "stopped; nothing is left behind" {
				t.Errorf("pressed: %v, exit code %d:\n%s", pressed, cmd.ProcessState.ExitCode(), strings.Join(lines, "\n"))
			}
			var result struct {
				OK    *bool
				Steps []any
			}
			if err := json.Unmarshal([]byte(out.String()), &result); err != nil || result.OK == nil || *result.OK || result.Steps == nil {
				t.Errorf("the object at the end: %v: %s", err, out.String())
			}
			if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v %v", left, err)
			}
			for _, process := range processes(t) {
				if strings.Contains(process, temp) || strings.HasPrefix(process, program+" demo-service ") {
					t.Errorf("still runs: %s", process)
				}
			}
		})
	}
}

// processes returns the command lines of all that runs.
func processes(t *testing.T) (all []string) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil || len(files) == 0 {
		t.Fatalf("no processes: %v", err)
	}
	for _, f := range files {
		if b, err := os.ReadFile(f); err == nil { // it may have ended meanwhile
			all = append(all, strings.ReplaceAll(string(b), "\x00", " "))
		}
	}
	return all
}
