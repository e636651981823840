package store_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	bolt "go.etcd.io/bbolt"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/store/storetest"
)

func open(t testing.TB, dir string) *store.Bolt {
	t.Helper()
	b, err := store.OpenBolt(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	return b
}

func TestContract(t *testing.T) {
	t.Run("bolt", func(t *testing.T) {
		storetest.Run(t, func(t testing.TB) store.Store { return open(t, t.TempDir()) })
	})
	t.Run("memory", func(t *testing.T) {
		storetest.Run(t, func(testing.TB) store.Store { return &storetest.Memory{} })
	})
}

func TestReopen(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "region", "data")
	b := open(t, dir)
	v, err := b.Commit(t.Context(), store.Op{Key: "a", Value: []byte("1")})
	if err != nil {
		t.Fatal(err)
	}
	first, err := b.NextEpoch(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Get(t.Context(), "a"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Get after Close: %v", err)
	}
	if _, err := b.Commit(t.Context(), store.Op{Key: "a", Any: true}); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Commit after Close: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
	for path, mode := range map[string]os.FileMode{dir: 0o700, filepath.Join(dir, "state.db"): 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s has mode %v, %v; want %v", path, info.Mode().Perm(), err, mode)
		}
	}

	b = open(t, dir)
	if e, err := b.Get(t.Context(), "a"); err != nil || string(e.Value) != "1" || e.Version != v {
		t.Errorf("after reopening: %+v, %v", e, err)
	}
	second, err := b.NextEpoch(t.Context())
	if err != nil || second.Counter != first.Counter+1 || second.Incarnation == first.Incarnation {
		t.Errorf("epoch %v follows %v, %v", second, first, err)
	}
}

func TestJumpEpoch(t *testing.T) {
	b := open(t, t.TempDir())
	for _, step := range []struct {
		atLeast, want uint64 // want 0: refused
	}{
		{0, 1},
		{0, 2},
		{100, 101},
		{7, 102},
		{102 + store.MaxJump, 103 + store.MaxJump},
		{104 + 2*store.MaxJump, 0},
		{1<<64 - 1, 0},
		{0, 104 + store.MaxJump},
	} {
		e, err := b.JumpEpoch(t.Context(), step.atLeast)
		if step.want == 0 && federation.CodeOf(err) != "TW-1107" || step.want != 0 && err != nil || e.Counter != step.want {
			t.Errorf("JumpEpoch(%d) = %v, %v; want %d", step.atLeast, e, err, step.want)
		}
	}
}

func TestTwoOnOneDirectory(t *testing.T) {
	dir := t.TempDir()
	b := open(t, dir)
	_, err := store.OpenBolt(dir)
	if federation.CodeOf(err) != "TW-1102" || !strings.Contains(err.Error(), "process ") {
		t.Errorf("second open: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	// A tool that has the file open and knows nothing of our lock.
	tool, err := bolt.Open(filepath.Join(dir, "state.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenBolt(dir); federation.CodeOf(err) != "TW-1102" {
		t.Errorf("open beside a tool: %v", err)
	}
	tool.Close()
	open(t, dir)
}

func TestUnsafeDirectory(t *testing.T) {
	dir := t.TempDir()
	open(t, dir).Close()
	state := filepath.Join(dir, "state.db")
	for _, c := range []struct {
		path     string
		bad, fix os.FileMode
	}{{dir, 0o770, 0o700}, {dir, 0o707, 0o750}, {state, 0o640, 0o600}, {state, 0o604, 0o600}} {
		if err := os.Chmod(c.path, c.bad); err != nil {
			t.Fatal(err)
		}
		if _, err := store.OpenBolt(dir); federation.CodeOf(err) != "TW-1101" {
			t.Errorf("%s with mode %04o: %v", c.path, c.bad, err)
		}
		if err := os.Chmod(c.path, c.fix); err != nil {
			t.Fatal(err)
		}
	}
	open(t, dir).Close()
	if _, err := store.OpenBolt(state); federation.CodeOf(err) != "TW-1101" {
		t.Errorf("a file as directory: %v", err)
	}
}

// refused checks that the file of dir is refused with code and keeps every octet.
func refused(t *testing.T, dir string, code federation.Code) {
	t.Helper()
	path := filepath.Join(dir, "state.db")
	before, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = store.OpenBolt(dir)
	if federation.CodeOf(err) != code {
		t.Errorf("open: %v, want %s", err, code)
	}
	after, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(before, after) {
		t.Errorf("the refused file was changed (%d octets before, %d after, %v)", len(before), len(after), err)
	}
}

func TestNoDatabase(t *testing.T) {
	for name, content := range map[string]string{
		"empty":      "",
		"short":      "bolt",
		"text":       strings.Repeat("this is a log file, not a state\n", 1000),
		"zeros":      string(make([]byte, 1<<16)),
		"other bolt": "",
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "state.db")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if name == "other bolt" {
				if err := os.Remove(path); err != nil {
					t.Fatal(err)
				}
				db, err := bolt.Open(path, 0o600, nil)
				if err != nil {
					t.Fatal(err)
				}
				db.Close()
			}
			refused(t, dir, "TW-1103")
		})
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "state.db"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := store.OpenBolt(dir); federation.CodeOf(err) != "TW-1103" {
		t.Errorf("a directory as state.db: %v", err)
	}
}

// TestLeftoverOfCreation: a process that died while making the store leaves a file aside, which is no state and no obstacle.
func TestLeftoverOfCreation(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "state.db.new"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	open(t, dir)
}

func TestConcurrentUseAndClose(t *testing.T) {
	b := open(t, t.TempDir())
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for {
				_, err := b.Commit(context.Background(), store.Op{Key: "a", Any: true})
				if err == nil {
					_, err = b.List(context.Background(), "")
				}
				if errors.Is(err, store.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	for range 20 {
		if _, err := b.Commit(t.Context(), store.Op{Key: "b", Any: true}); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	wg.Wait()
}

func BenchmarkCommit(b *testing.B) {
	s := open(b, b.TempDir())
	value := bytes.Repeat([]byte("v"), 200)
	for b.Loop() {
		if _, err := s.Commit(b.Context(), store.Op{Key: "a", Value: value, Any: true}); err != nil {
			b.Fatal(err)
		}
	}
}
