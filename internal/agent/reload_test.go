package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestResourcesDirectoryMoves: another directory takes the place of the one before, and what was wrong with that is no longer said.
// Without any, what was declared last stays in force, and somebody is told.
func TestResourcesDirectoryMoves(t *testing.T) {
	first, second := t.TempDir(), t.TempDir()
	write := func(dir, content string) {
		if err := os.WriteFile(filepath.Join(dir, "a.hcl"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(first, "export \"shop\" {\n to = [\"*\"]\n}\nexport \"old\" {\n to = [\"*\"]\n}")
	write(second, "export \"shop\" {\n to = [\"b\"]\n}")
	g := start(t, "aws", shortDir(t), fmt.Sprintf("resources_dir = %q", first))
	owned := func(by string, names ...string) func() error {
		return func() error {
			var got []string
			for _, r := range g.plane.List() {
				got = append(got, string(r.Name)+" of "+r.Owner)
			}
			var want []string
			for _, n := range names {
				want = append(want, n+" of dir:"+by)
			}
			if !slices.Equal(got, want) {
				return fmt.Errorf("%v, want %v", got, want)
			}
			return nil
		}
	}
	reload := func(extra string) {
		g.write("aws", extra)
		if _, err := g.Reload(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
	}
	g.until("the first directory's resources", owned(first, "old", "shop"))
	write(first, "nonsense")
	g.until("a complaint", func() error {
		if !g.warnsOf("TW-1006") {
			return errors.New("none")
		}
		return nil
	})
	reload(fmt.Sprintf("resources_dir = %q", second))
	g.until("the second directory's resources", owned(second, "shop"))
	g.until("no complaint", func() error {
		if g.warnsOf("TW-1006") || g.warnsOf("TW-1009") {
			return errors.New("there is one")
		}
		return nil
	})
	reload("")
	g.until("a warning", func() error {
		if !g.warnsOf("TW-1009") {
			return errors.New("none")
		}
		return nil
	})
	if err := owned(second, "shop")(); err != nil {
		t.Error(err)
	}
}

// TestTheNewestFileWinsAmongReloads: a reload that read an older file must not undo one that read a newer one.
func TestTheNewestFileWinsAmongReloads(t *testing.T) {
	g := start(t, "aws", shortDir(t), "")
	content, err := os.ReadFile(g.path)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	g.opts.Path = dir
	write := func(name, content string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	slow := filepath.Join(dir, "2.hcl") // read after 1.hcl, and a pipe: the first reload waits there
	write("1.hcl", string(content)+"drain_timeout = \"1s\"\n")
	if err := unix.Mkfifo(slow, 0o600); err != nil {
		t.Fatal(err)
	}
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { _, err := g.Reload(t.Context(), nil); first <- err }()
	var pipe *os.File
	g.until("the first reload to have read 1.hcl", func() (err error) {
		pipe, err = os.OpenFile(slow, os.O_WRONLY|unix.O_NONBLOCK, 0)
		return err
	})
	write("1.hcl", string(content)+"drain_timeout = \"2s\"\n")
	write("new", "# nothing\n")
	if err := os.Rename(filepath.Join(dir, "new"), slow); err != nil {
		t.Fatal(err)
	}
	go func() { _, err := g.Reload(t.Context(), nil); second <- err }()
	select {
	case err := <-second:
		t.Errorf("it did not wait for the first one (%v)", err)
		second <- err
	case <-time.After(100 * time.Millisecond): // enough for one that does not wait
	}
	pipe.Close()
	if err := errors.Join(<-first, <-second); err != nil {
		t.Fatal(err)
	}
	if got := g.cfg.Load().DrainTimeout; got != 2*time.Second {
		t.Errorf("drain_timeout is %v, the newest file says 2s", got)
	}
}
