package store_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

// TestMain makes the test binary its own victim: with these variables set it is the process that gets killed.
func TestMain(m *testing.M) {
	if dir := os.Getenv("TRADEWIND_STORE_WRITER"); dir != "" {
		fmt.Fprintln(os.Stderr, writer(dir))
		os.Exit(1)
	}
	if dir := os.Getenv("TRADEWIND_STORE_FILLER"); dir != "" {
		if err := filler(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

const writers = 4

// ack is one line of the writer: what has been acknowledged to it.
type ack struct {
	Epoch  uint64 `json:",omitempty"`
	Writer int
	N      int
}

// writer writes from several goroutines until it is killed, and says so only after each commit has returned. A commit
// touches two keys, one of them of a size that takes pages of its own, so that half a commit would show.
func writer(dir string) error {
	s, err := store.OpenBolt(dir)
	if err != nil {
		return err
	}
	ctx := context.Background()
	out := json.NewEncoder(os.Stdout) // each line is one write(2): it is in the pipe before the next commit
	epoch, err := s.NextEpoch(ctx)
	if err != nil {
		return err
	}
	if err := out.Encode(ack{Epoch: epoch.Counter}); err != nil {
		return err
	}
	errs := make(chan error)
	var mu sync.Mutex
	for w := range writers {
		go func() {
			n := 0
			if e, err := s.Get(ctx, fmt.Sprintf("count/%d", w)); err == nil {
				n, _ = strconv.Atoi(string(e.Value))
			}
			for {
				n++
				_, err := s.Commit(ctx,
					store.Op{Key: fmt.Sprintf("count/%d", w), Value: strconv.AppendInt(nil, int64(n), 10), Any: true},
					store.Op{Key: fmt.Sprintf("page/%d/%d", w, n%7), Value: bytes.Repeat([]byte{byte(n)}, 3000*(n%3)+1), Any: true})
				if err == nil {
					mu.Lock()
					err = out.Encode(ack{Writer: w, N: n})
					mu.Unlock()
				}
				if err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	return <-errs
}

// TestKill kills the writer with SIGKILL at random moments, 25 times or TRADEWIND_KILLS times, and looks for what it had
// acknowledged.
func TestKill(t *testing.T) {
	kills := 25
	if s := os.Getenv("TRADEWIND_KILLS"); s != "" {
		n, err := strconv.Atoi(s)
		if err != nil {
			t.Fatal(err)
		}
		kills = n
	}
	dir := t.TempDir()
	acked := make([]int, writers)
	commits, epoch := 0, uint64(0)
	for range kills {
		for _, a := range killOne(t, dir) {
			if a.Epoch != 0 {
				if a.Epoch <= epoch {
					t.Fatalf("epoch %d after %d", a.Epoch, epoch)
				}
				epoch = a.Epoch
				continue
			}
			acked[a.Writer] = max(acked[a.Writer], a.N)
			commits++
		}
		s := open(t, dir)
		for w := range writers {
			checkWriter(t, s, w, acked[w])
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("%d kills, %d acknowledged commits, 0 lost, epoch %d", kills, commits, epoch)
}

func killOne(t *testing.T, dir string) []ack {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TRADEWIND_STORE_WRITER="+dir)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	// Half of them at any time from before the file exists, half under load, at any point of a commit.
	kill := func(within time.Duration) { time.AfterFunc(rand.N(within), func() { cmd.Process.Kill() }) }
	after := -1
	if rand.IntN(2) == 0 {
		kill(80 * time.Millisecond)
	} else {
		after = 1 + rand.IntN(100)
	}
	var acks []ack
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		if len(acks) == after {
			kill(3 * time.Millisecond)
		}
		var a ack
		if err := json.Unmarshal(lines.Bytes(), &a); err != nil {
			t.Fatalf("writer said %q", lines.Text())
		}
		acks = append(acks, a)
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Exited() {
		t.Fatalf("the writer was not killed but ended: %v", err)
	}
	return acks
}

func checkWriter(t *testing.T, s store.Store, w, acked int) {
	t.Helper()
	if acked == 0 {
		return
	}
	e, err := s.Get(t.Context(), fmt.Sprintf("count/%d", w))
	if err != nil {
		t.Fatalf("writer %d: %d commits were acknowledged, then: %v", w, acked, err)
	}
	n, err := strconv.Atoi(string(e.Value))
	if err != nil || n < acked {
		t.Fatalf("writer %d: commit %d was acknowledged, the store has %q", w, acked, e.Value)
	}
	page, err := s.Get(t.Context(), fmt.Sprintf("page/%d/%d", w, n%7))
	if err != nil || page.Version != e.Version || !bytes.Equal(page.Value, bytes.Repeat([]byte{byte(n)}, 3000*(n%3)+1)) {
		t.Fatalf("writer %d: half of commit %d is there (versions %d and %d, %v)", w, n, e.Version, page.Version, err)
	}
}

// filler runs a store into a file that cannot grow: every write beyond the limit fails with EFBIG, as on a full disk.
func filler(dir string) error {
	signal.Ignore(unix.SIGXFSZ)
	ctx := context.Background()
	s, err := store.OpenBolt(dir)
	if err != nil {
		return err
	}
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: 200 << 10, Max: old.Max}); err != nil {
		return err
	}
	fit, value := 0, bytes.Repeat([]byte("v"), 10_000)
	for err == nil {
		_, err = s.Commit(ctx,
			store.Op{Key: fmt.Sprintf("k/%04d", fit), Value: value},
			store.Op{Key: "count", Value: fmt.Append(nil, fit+1), Any: true})
		if err == nil {
			fit++
		}
	}
	if code := federation.CodeOf(err); code != "TW-1105" || fit == 0 || fit > 20 {
		return fmt.Errorf("after %d commits: %w", fit, err)
	}
	if err := filled(ctx, s, fit); err != nil {
		return err
	}
	for range 5 { // it stays full, it stays usable
		if _, err := s.Commit(ctx, store.Op{Key: "big", Value: make([]byte, 100_000)}); federation.CodeOf(err) != "TW-1105" {
			return fmt.Errorf("a second try: %w", err)
		}
	}
	_, err = s.Commit(ctx, store.Op{Key: "k/0000", Delete: true, Any: true}, store.Op{Key: "k/0000b", Value: value})
	if err != nil && federation.CodeOf(err) != "TW-1105" {
		return fmt.Errorf("a replacement: %w", err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		return err
	}
	if _, err := s.Commit(ctx, store.Op{Key: "big", Value: make([]byte, 100_000)}); err != nil {
		return fmt.Errorf("with room again: %w", err)
	}
	if err := s.Close(); err != nil {
		return err
	}
	s, err = store.OpenBolt(dir)
	if err != nil {
		return fmt.Errorf("reopen: %w", err)
	}
	_, err = s.Get(ctx, "big")
	return err
}

func filled(ctx context.Context, s store.Store, fit int) error {
	list, err := s.List(ctx, "k/")
	if err != nil {
		return err
	}
	count, err := s.Get(ctx, "count")
	if err != nil || len(list) != fit || string(count.Value) != strconv.Itoa(fit) {
		return fmt.Errorf("%d commits were acknowledged, %d entries and count %q are there, %w", fit, len(list), count.Value, err)
	}
	return nil
}

func TestDiskFull(t *testing.T) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "TRADEWIND_STORE_FILLER="+t.TempDir())
	errOut, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	said, _ := io.ReadAll(errOut)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v: %s", err, said)
	}
}
