package main

import (
	"context"
	"strings"
	"sync"
	"testing"
	"time"
)

// watchedOutput keeps what is written, and calls seen with all of it.
type watchedOutput struct {
	mu   sync.Mutex
	text strings.Builder
	seen func(all string)
}

func (o *watchedOutput) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text.Write(p)
	o.seen(o.text.String())
	return len(p), nil
}

// watch runs "status --watch" until want has been written.
func (w *world) watch(t *testing.T, want string, args ...string) (string, int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	out := &watchedOutput{seen: func(all string) {
		w.lonely = strings.Contains(all, "azure-westeurope") // the fake is asked between two writes
		if strings.Contains(all, want) {
			cancel()
		}
	}}
	c := &cli{in: strings.NewReader(""), out: out, err: out, env: func(k string) string { return w.environment[k] },
		now: func() time.Time { return noon }, outTTY: w.outTTY}
	code := c.execute(ctx, append([]string{"status", "--watch"}, args...))
	return out.text.String(), code
}

func TestWatchSaysWhatChanges(t *testing.T) {
	w := newWorld(t)
	got, code := w.watch(t, "peer azure-westeurope: over")
	for _, line := range []string{"peer azure-westeurope: Failing, catalog STALE, path down\n", "gateway: ready, config 4\n",
		"2026-11-22T12:00:00Z  peer azure-westeurope: over\n"} {
		if code != 0 || strings.Count(got, line) != 1 {
			t.Errorf("exit code %d, want once %q in\n%s", code, line, got)
		}
	}
	if strings.Contains(got, "\x1b") {
		t.Errorf("escapes where there is no terminal: %q", got)
	}
	w.outTTY, w.lonely = true, false
	if got, code := w.watch(t, "No peers yet"); code != 0 || strings.Count(got, "\x1b[H") != 2 || strings.Count(got, "\x1b[J") != 2 {
		t.Errorf("exit code %d\n%q", code, got)
	}
	w.outTTY, w.lonely = false, false
	if got, code := w.watch(t, `"peers":[]`, "-o", "jsonl"); code != 0 || strings.Count(got, "\n") != 2 {
		t.Errorf("exit code %d\n%s", code, got)
	}
	for _, format := range []string{"json", "name"} {
		if got, code := w.watch(t, "never ends", "-o", format); code != exitUsage {
			t.Errorf("-o %s: %d\n%s", format, code, got)
		}
	}
	st, _ := w.Status(t.Context(), nil)
	for fact := range facts(st) {
		if strings.Contains(fact, "4m12s") {
			t.Errorf("%q grows with every look", fact)
		}
	}
}
