package store

import (
	"errors"
	"fmt"
	"strings"

	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"github.com/tradewind-mesh/tradewind/federation"
)

// The codes of this room; their texts are in federation/codes_config.go.
const (
	codeDir     federation.Code = "TW-1101"
	codeHeld    federation.Code = "TW-1102"
	codeDamaged federation.Code = "TW-1103"
	codeNewer   federation.Code = "TW-1104"
	codeStopped federation.Code = "TW-1106"
	codeJump    federation.Code = "TW-1107"
)

// CodeFull says that there was no room, and that nothing was written.
const CodeFull federation.Code = "TW-1105"

func dirUnusable(dir string, err error) error {
	fix := "give the directory to the gateway's user, writable by nobody else, and state.db readable by nobody else (chmod 700, 600)"
	switch {
	case isFull(err):
		fix = "make room on its file system"
	case errors.Is(err, unix.EROFS):
		fix = "mount its file system for writing (the kernel does so no more after a disk error: see its log), or set another data_dir"
	}
	return &federation.Diagnostic{Code: codeDir, What: fmt.Sprintf("data directory %s cannot be used", dir), Why: err.Error(), Fix: fix, Err: err}
}

func damaged(path string, err error) error {
	return &federation.Diagnostic{
		Code: codeDamaged,
		What: fmt.Sprintf("%s is damaged or is no Tradewind state; it was left as it is", path),
		Why:  err.Error(),
		Fix:  "restore the file from a backup, or move it away to start as a new region, whose peers must all be peered again",
		Err:  err,
	}
}

func newer(path, found string) error {
	return &federation.Diagnostic{
		Code: codeNewer,
		What: fmt.Sprintf("%s was written by a newer Tradewind; it was left as it is", path),
		Why:  fmt.Sprintf("its format is %s, this version knows up to %s", found, format),
		Fix:  "run the version that wrote it, or restore a backup from before the upgrade",
	}
}

// isFull reports whether err says that there is no room, as opposed to a disk that fails. It compares texts as well,
// because bolt keeps only the text of what its growing of the file runs into.
func isFull(err error) bool {
	for _, e := range []error{unix.ENOSPC, unix.EDQUOT, unix.EFBIG, bolterrors.ErrMaxSizeReached} {
		if errors.Is(err, e) || err != nil && strings.HasSuffix(err.Error(), ": "+e.Error()) {
			return true
		}
	}
	return false
}

func full(path string, err error) error {
	return &federation.Diagnostic{
		Code: CodeFull,
		What: fmt.Sprintf("nothing was written to %s: there is no room", path),
		Why:  err.Error(),
		Fix:  "make room on the file system; the gateway goes on with what it has and needs no restart",
		Err:  err,
	}
}

func stopped(path string, err error) *federation.Diagnostic {
	return &federation.Diagnostic{
		Code: codeStopped,
		What: fmt.Sprintf("writing %s failed; it takes no more writes until the gateway restarts", path),
		Why:  err.Error(),
		Fix:  "check the disk (kernel log, SMART), then restart the gateway: it checks the whole file before it uses it",
		Err:  err,
	}
}
