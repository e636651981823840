package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"
	"golang.org/x/sys/unix"

	"github.com/tradewind-mesh/tradewind/federation"
)

// sample makes a store with every kind of page (branches, overflow, a list of free pages) and returns its file, what it holds,
// and what it held one commit ago.
func sample(t testing.TB) (file []byte, now, before map[string]string) {
	t.Helper()
	dir := t.TempDir()
	b, err := OpenBolt(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx := context.Background()
	var ops []Op
	for i := range 300 {
		ops = append(ops, Op{Key: fmt.Sprintf("resource/%03d", i), Value: bytes.Repeat([]byte{byte(i)}, 100), Any: true})
	}
	ops = append(ops, Op{Key: "big", Value: bytes.Repeat([]byte("b"), 20_000), Any: true})
	if _, err := b.Commit(ctx, ops...); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := b.Commit(ctx, Op{Key: fmt.Sprintf("resource/%03d", 2*i), Delete: true, Any: true}); err != nil {
			t.Fatal(err)
		}
	}
	before = contents(t, b)
	if _, err := b.Commit(ctx, Op{Key: "last", Value: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	now = contents(t, b)
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	file, err = os.ReadFile(filepath.Join(dir, "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	return file, now, before
}

func contents(t testing.TB, b *Bolt) map[string]string {
	t.Helper()
	list, err := b.List(context.Background(), "")
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, e := range list {
		m[e.Key] = fmt.Sprint(e.Version, e.Value)
	}
	return m
}

// TestDamage damages the file in hundreds of ways. Each is either refused, without a change to the file, or does not matter:
// then the store holds exactly what it held, or what it held one commit earlier when the newest meta page was hit (which
// cannot be told from a commit that never finished).
func TestDamage(t *testing.T) {
	file, now, before := sample(t)
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	const rounds = 600
	openings := 0
	for i := range rounds {
		damaged := bytes.Clone(file)
		what := damage(rng, &damaged, i)
		if openUndamaged(t, dir, damaged, now, before) {
			openings++
		}
		if t.Failed() {
			t.Fatalf("round %d: %s", i, what)
		}
	}
	t.Logf("%d of %d did not matter", openings, rounds)
}

func damage(rng *rand.Rand, file *[]byte, round int) string {
	b := *file
	at := rng.IntN(len(b))
	if round%3 != 0 { // where the structure is: the first octets of a page
		at = at&^4095 + rng.IntN(64)
	}
	switch round % 5 {
	case 0, 1:
		b[at] ^= 1 << rng.IntN(8)
		return fmt.Sprintf("bit flipped at %d", at)
	case 2:
		n := min(8, len(b)-at)
		for i := range n {
			b[at+i] = byte(rng.UintN(256))
		}
		return fmt.Sprintf("noise at %d", at)
	case 3:
		page := at &^ 4095
		other := rng.IntN(len(b)) &^ 4095
		copy(b[page:page+4096], bytes.Clone(b[other:other+4096]))
		return fmt.Sprintf("page at %d overwritten by that at %d", page, other)
	}
	*file = b[:at]
	return fmt.Sprintf("cut at %d", at)
}

func openUndamaged(t *testing.T, dir string, file []byte, want ...map[string]string) bool {
	t.Helper()
	path := filepath.Join(dir, "state.db")
	if err := os.WriteFile(path, file, 0o600); err != nil {
		t.Fatal(err)
	}
	b, err := OpenBolt(dir)
	after, readErr := os.ReadFile(path)
	if readErr != nil || !bytes.Equal(file, after) {
		t.Errorf("opening changed the file (%v)", readErr)
	}
	if err != nil {
		if code := federation.CodeOf(err); code != codeDamaged {
			t.Errorf("refused with %s: %v", code, err)
		}
		return false
	}
	defer b.Close()
	got := contents(t, b)
	for _, w := range want {
		if fmt.Sprint(got) == fmt.Sprint(w) {
			if _, err := b.Commit(t.Context(), Op{Key: "after", Value: make([]byte, 30000), Any: true}); err != nil {
				t.Errorf("a file that was accepted takes no write: %v", err)
			}
			return true
		}
	}
	t.Errorf("a damaged file was accepted and holds %d entries that were never stored together", len(got))
	return false
}

func TestFormats(t *testing.T) {
	for found, want := range map[string]federation.Code{"2": codeNewer, "10": codeNewer, "": codeDamaged, "0": codeDamaged} {
		dir := t.TempDir()
		path := filepath.Join(dir, "state.db")
		if err := create(path); err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		err = db.Update(func(tx *bolt.Tx) error { return putRecord(tx.Bucket(ownBucket), formatKey, 0, []byte(found)) })
		if err != nil {
			t.Fatal(err)
		}
		db.Close()
		before, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := OpenBolt(dir); federation.CodeOf(err) != want {
			t.Errorf("format %q: %v, want %s", found, err, want)
		}
		if after, err := os.ReadFile(path); err != nil || !bytes.Equal(before, after) {
			t.Errorf("format %q: the file was changed", found)
		}
	}
}

// TestFailedStore: after a failure that is no want of room, nothing more is written, and reading goes on.
func TestFailedStore(t *testing.T) {
	b, err := OpenBolt(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	if _, err := b.Commit(t.Context(), Op{Key: "a", Value: []byte("1")}); err != nil {
		t.Fatal(err)
	}
	if d := b.Failed(); d != nil {
		t.Errorf("a store that works says %v", d)
	}
	err = b.update(t.Context(), func(*bolt.Tx) error { panic("assertion failed: page 7") })
	if d := b.Failed(); federation.CodeOf(err) != codeStopped || d == nil || d.Code != codeStopped {
		t.Errorf("a panic of bolt: %v", err)
	}
	if _, err := b.Commit(t.Context(), Op{Key: "a", Any: true}); federation.CodeOf(err) != codeStopped {
		t.Errorf("a write after it: %v", err)
	}
	if e, err := b.Get(t.Context(), "a"); err != nil || string(e.Value) != "1" {
		t.Errorf("a read after it: %+v, %v", e, err)
	}
}

// TestFixFitsTheCause: room and a mount are not mended with chmod.
func TestFixFitsTheCause(t *testing.T) {
	for err, want := range map[error]string{unix.ENOSPC: "room", unix.EROFS: "mount", unix.EACCES: "chmod"} {
		var d *federation.Diagnostic
		if !errors.As(dirUnusable("/d", fmt.Errorf("open x: %w", err)), &d) || !strings.Contains(d.Fix, want) {
			t.Errorf("%v: %+v", err, d)
		}
	}
}

// FuzzCheckFile: whatever checkFile accepts, bolt walks without a fault.
func FuzzCheckFile(f *testing.F) {
	dir := f.TempDir()
	path := filepath.Join(dir, "state.db")
	if err := create(path); err != nil {
		f.Fatal(err)
	}
	small, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(small)
	f.Fuzz(func(t *testing.T, file []byte) {
		if checkFile(bytes.NewReader(file), int64(len(file))) != nil {
			return
		}
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		_ = inspect(path) // may refuse the records, must not fault
	})
}
