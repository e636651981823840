package poll

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// The last good listing is kept in one file for each source: a line with a version and a checksum, then JSON.

const (
	snapshotMagic = "tradewind-provider/1"
	maxSnapshot   = 256 << 20 // maxRecords of some KiB each
)

// keptScope is one scope in a snapshot.
type keptScope struct {
	Scope        Scope        `json:"scope"`
	LastComplete time.Time    `json:"last_complete,omitzero"`
	Records      []keptRecord `json:"records"`
}

type keptRecord struct {
	Record Record    `json:"record"`
	Seen   time.Time `json:"seen"`
}

func snapshotPath(dir, name string) string {
	return filepath.Join(dir, url.PathEscape(name)+".snapshot")
}

// encodeSnapshot returns the contents of a snapshot file.
func encodeSnapshot(kept []keptScope) ([]byte, error) {
	body, err := json.Marshal(kept)
	if err != nil {
		return nil, fmt.Errorf("write snapshot: %w", err)
	}
	return append(fmt.Appendf(nil, "%s %x\n", snapshotMagic, sha256.Sum256(body)), body...), nil
}

// decodeSnapshot reads the contents of a snapshot file.
func decodeSnapshot(data []byte) ([]keptScope, error) {
	head, body, _ := bytes.Cut(data, []byte("\n"))
	magic, sum, _ := strings.Cut(string(head), " ")
	if magic != snapshotMagic {
		return nil, fmt.Errorf("it begins with %s: it is no snapshot, or one of another release", quote(magic))
	}
	if sum != fmt.Sprintf("%x", sha256.Sum256(body)) {
		return nil, errors.New("its checksum is wrong: it was damaged or cut off")
	}
	var kept []keptScope
	if err := json.Unmarshal(body, &kept); err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	return kept, nil
}

// load reads what a source of this name has kept. A file that cannot be read is set aside.
func load(dir, name string) ([]keptScope, *federation.Diagnostic) {
	if dir == "" {
		return nil, nil
	}
	path := snapshotPath(dir, name)
	data, err := readBounded(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var kept []keptScope
	if err == nil {
		kept, err = decodeSnapshot(data)
	}
	if err == nil {
		return kept, nil
	}
	d := &federation.Diagnostic{Code: federation.CodeProviderSnapshot, What: fmt.Sprintf("the saved state of provider %s cannot be used", quote(name)),
		Why: err.Error(), Fix: "nothing, if the provider can be listed; the file is kept as " + path + ".damaged", Err: err}
	if err := os.Rename(path, path+".damaged"); err != nil {
		d.Fix = "remove " + path + ": it could not be set aside, " + err.Error()
	}
	return nil, d
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxSnapshot+1))
	if err == nil && len(data) > maxSnapshot {
		err = fmt.Errorf("it has more than %d MiB", maxSnapshot>>20)
	}
	return data, err
}

// Store writes data to path whole or not at all, for its owner only.
func Store(path string, data []byte) (err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".tmp*")
	if err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name()) // what is half written is of no use
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return fmt.Errorf("write snapshot: %w", err)
	}
	return nil
}

// save keeps what is known on disk, if it differs from what is there.
func (s *Source) save() {
	if s.cfg.Dir == "" {
		return
	}
	s.mu.Lock()
	var kept []keptScope
	for _, p := range s.book.pages {
		if !p.lastComplete.IsZero() || len(p.entries) > 0 {
			kept = append(kept, keptScope{p.scope, p.lastComplete, p.records()})
		}
	}
	s.mu.Unlock()
	if kept == nil {
		return // nothing was learnt in this run; what an earlier one knew stays on disk
	}
	slices.SortFunc(kept, func(a, b keptScope) int { return strings.Compare(a.Scope.String(), b.Scope.String()) })
	data, err := encodeSnapshot(kept)
	if err == nil {
		err = Store(snapshotPath(s.cfg.Dir, s.cfg.Name), data)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil {
		s.fileErr = nil
		return
	}
	if s.fileErr == nil {
		s.cfg.Log.Warn("keep the last listing on disk", "provider", s.cfg.Name, "err", err)
	}
	s.fileErr = &federation.Diagnostic{Code: federation.CodeProviderSnapshot,
		What: fmt.Sprintf("the state of provider %s cannot be saved", quote(s.cfg.Name)), Why: err.Error(),
		Fix: "check the disk and the permissions of " + s.cfg.Dir, Err: err}
}

// keepSaving saves after changes, and now and then what has only been confirmed, so that a restart does not find it too old.
// saved is the number of changes that are on disk.
func (s *Source) keepSaving(ctx context.Context, saved int) {
	if s.cfg.Dir == "" {
		return
	}
	ticker := time.NewTicker(saveAfter)
	defer ticker.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if now := s.totalChanges(); now != saved || time.Since(last) >= s.resync() {
			s.save()
			saved, last = now, time.Now()
		}
	}
}

// totalChanges counts the changes of all scopes.
func (s *Source) totalChanges() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := len(s.book.pages)
	for _, p := range s.book.pages {
		n += p.changes
	}
	return n
}
