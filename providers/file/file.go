package file

import (
	"cmp"
	"context"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/fsnotify/fsnotify"
	"github.com/tradewind-mesh/tradewind/federation"
)

// The limits of what is read. A file beyond them was not meant for us.
const (
	maxFile  = 16 << 20
	maxTotal = 64 << 20
	maxFiles = 1024
)

// Config configures a Source.
type Config struct {
	Path string // of a file, or of a directory whose *.json files are read (not those that start with a dot)
	// Poll is how often the files are looked at when no notification comes. Default 5 s: network file systems and swapped
	// links give none, and an operator who waits that long looks for the reason.
	Poll time.Duration
	// Settle is how long the files must be quiet before they are read. Default 50 ms: longer than a copy of several files.
	Settle time.Duration
	// Keep is where the last valid set is kept, for a start at which the files cannot be read; empty: nowhere. It belongs to
	// one source, and what it holds of another Path is not used.
	Keep string
	Log  *slog.Logger // default: discard
}

// Source reads instances from files. It satisfies the registry's Source and Troubled.
type Source struct {
	cfg     Config
	notify  func() (*fsnotify.Watcher, error)
	problem atomic.Pointer[federation.Diagnostic]
	asOf    atomic.Pointer[time.Time] // of a set of an earlier run, while it is in use
}

// New returns a source that does nothing until Run.
func New(cfg Config) *Source {
	cfg.Path = filepath.Clean(cfg.Path)
	cfg.Poll = cmp.Or(cfg.Poll, 5*time.Second)
	cfg.Settle = cmp.Or(cfg.Settle, 50*time.Millisecond)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &Source{cfg: cfg, notify: fsnotify.NewWatcher}
}

// Problem returns why the last valid set is in use and not the newest, a *federation.Diagnostic, or nil.
func (s *Source) Problem() error {
	if d := s.problem.Load(); d != nil {
		return d
	}
	return nil
}

// AsOf returns when the set in use was read by an earlier run; zero: this one has read it.
func (s *Source) AsOf() (at time.Time) {
	if t := s.asOf.Load(); t != nil {
		at = *t
	}
	return at
}

// Run publishes the instances of the files, at first, with every change, and as confirmation with every poll that finds them
// unchanged, until ctx ends. Then it returns nil. No state of the files makes it return earlier.
func (s *Source) Run(ctx context.Context, publish func([]federation.Instance)) error {
	w := s.watch()
	defer w.close()
	poll := time.NewTicker(s.cfg.Poll)
	defer poll.Stop()
	quiet := time.NewTimer(0) // the first load is due at once
	defer quiet.Stop()
	var known set
	before := s.recall()
	reread := true // also when the files look as before: two writes within one tick of the file system's clock do
	for {
		select {
		case <-ctx.Done():
			return nil
		case e, ok := <-w.events():
			if !ok {
				w.close()
				continue
			}
			if about, certain := s.concerns(e.Name); about {
				reread = reread || certain
				quiet.Reset(s.cfg.Settle)
			}
			continue
		case _, ok := <-w.errors(): // the queue overflowed: something changed, nobody knows what
			if ok {
				reread = true
				quiet.Reset(s.cfg.Settle)
			}
			continue
		case <-quiet.C:
		case <-poll.C:
		}
		w.follow(s.cfg.Path)
		if reread || !s.unchanged(&known) {
			reread = false
			s.load(&known)
			switch {
			case known.valid:
				s.asOf.Store(nil)
				before = s.remember(known.instances, before)
			case before != nil && s.asOf.Load() == nil:
				s.asOf.Store(&before.Read)
				publish(before.Instances)
			}
		}
		if known.valid && s.problem.Load() == nil && ctx.Err() == nil {
			publish(known.instances)
		}
	}
}

// load reads the files into known, or leaves its instances and notes why not.
func (s *Source) load(known *set) {
	next, err := read(s.cfg.Path)
	known.print = next.print // also of files that are not valid: they are not read again until they change
	if err != nil {
		if before := s.problem.Swap(err); before == nil || before.Error() != err.Error() {
			s.cfg.Log.Error("keep the last valid set of instances", "path", s.cfg.Path, "code", string(err.Code), "reason", err.Error())
		}
		return
	}
	if s.problem.Swap(nil) != nil {
		s.cfg.Log.Info("files of instances are valid again", "path", s.cfg.Path, "instances", len(next.instances))
	}
	*known = next
}

// unchanged reports whether the files are those that were read last.
func (s *Source) unchanged(known *set) bool {
	now, err := look(s.cfg.Path)
	return err == nil && known.print != nil && known.print.equal(now)
}

// concerns reports whether the change of a path may be one of the files, and whether it certainly is. A link on the way to
// them can have any name, so only the temporary files of editors are left out.
func (s *Source) concerns(path string) (about, certain bool) {
	name := filepath.Base(path)
	for _, suffix := range []string{"~", ".swp", ".swx", ".tmp"} {
		if strings.HasSuffix(name, suffix) {
			return false, false
		}
	}
	return true, path == s.cfg.Path || strings.HasSuffix(name, ".json")
}

// watcher follows the directories that matter. Without inotify (too many watches, another system) it stays silent, and polls do.
type watcher struct {
	notify  *fsnotify.Watcher
	watched map[string]fs.FileInfo
	log     *slog.Logger
}

func (s *Source) watch() *watcher {
	w := &watcher{watched: map[string]fs.FileInfo{}, log: s.cfg.Log}
	notify, err := s.notify()
	if err != nil {
		s.cfg.Log.Warn("watch files by polling only", "path", s.cfg.Path, "every", s.cfg.Poll, "err", err)
		return w
	}
	w.notify = notify
	w.follow(s.cfg.Path)
	return w
}

func (w *watcher) events() <-chan fsnotify.Event {
	if w.notify == nil {
		return nil
	}
	return w.notify.Events
}

func (w *watcher) errors() <-chan error {
	if w.notify == nil {
		return nil
	}
	return w.notify.Errors
}

func (w *watcher) close() {
	if w.notify != nil {
		_ = w.notify.Close() // it has nothing to flush
		w.notify = nil
	}
}

// follow makes the watches fit the directories that path leads through at the moment: its own, where a file is renamed over
// it or a link swapped, itself when it is a directory, and where a link ends.
func (w *watcher) follow(path string) {
	if w.notify == nil {
		return
	}
	want := map[string]bool{filepath.Dir(path): true, path: isDir(path)}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		want[real] = isDir(real)
		want[filepath.Dir(real)] = true
	}
	for dir, before := range w.watched {
		now, err := os.Stat(dir)
		if !want[dir] || err != nil || !os.SameFile(now, before) { // a directory that was replaced under its name has a watch on the former one
			_ = w.notify.Remove(dir) // it fails when the directory is gone, and with it the watch
			delete(w.watched, dir)
		}
	}
	for dir, wanted := range want {
		now, err := os.Stat(dir)
		if _, has := w.watched[dir]; has || !wanted || err != nil {
			continue
		}
		if err := w.notify.Add(dir); err != nil {
			w.log.Debug("watch directory", "path", dir, "err", err) // the poll finds changes too
			continue
		}
		w.watched[dir] = now
	}
}
