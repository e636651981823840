package store

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tradewind-mesh/tradewind/federation"
)

// lockDir makes this process the only one on dir for as long as the returned file is open: the kernel drops the lock with
// the process, however it dies, so a lock is never stale. The text inside is for humans and decides nothing. bolt's own lock
// would do for the open file, but not for the time before it, when the file is being checked or made.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "state.lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, dirUnusable(dir, err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		defer f.Close()
		holder, _ := io.ReadAll(io.LimitReader(f, 256)) // who cannot be read is still locked out
		return nil, heldBy(dir, strings.TrimSpace(string(holder)), err)
	}
	if err != nil {
		f.Close()
		return nil, dirUnusable(dir, fmt.Errorf("lock %s: %w", f.Name(), err))
	}
	note := fmt.Sprintf("process %d (%s), since %s\n", os.Getpid(), filepath.Base(os.Args[0]), time.Now().UTC().Format(time.RFC3339))
	if err := errors.Join(f.Truncate(0), writeAll(f, note)); err != nil && !isFull(err) { // a full disk must not stop a restart
		f.Close()
		return nil, dirUnusable(dir, fmt.Errorf("write %s: %w", f.Name(), err))
	}
	return f, nil
}

func writeAll(f *os.File, s string) error {
	_, err := f.WriteAt([]byte(s), 0)
	return err
}

func heldBy(dir, holder string, err error) error {
	if holder == "" {
		holder = "another process"
	}
	return &federation.Diagnostic{
		Code: codeHeld,
		What: fmt.Sprintf("data directory %s is in use", dir),
		Why:  "it is held by " + holder,
		Fix:  "stop that process, or give this gateway a data_dir of its own",
		Err:  err,
	}
}
