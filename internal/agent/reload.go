package agent

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/controlplane"
	"github.com/tradewind-mesh/tradewind/internal/admin"
	"github.com/tradewind-mesh/tradewind/internal/config"
	"github.com/tradewind-mesh/tradewind/providers/file"
)

// Reload implements admin.Process: it reads the configuration again, whole, and puts what can change while running in force. On
// any error the running configuration stays.
func (a *Agent) Reload(ctx context.Context, _ *admin.ReloadRequest) (*admin.ReloadResponse, error) {
	a.oneReload.Lock() // from reading on: who read an older file must not put it in force over a newer one
	defer a.oneReload.Unlock()
	next, err := config.Load(a.opts.Path)
	if err == nil {
		if _, err = a.openProviders(next.Providers); err == nil { // what cannot be set up must not replace what runs
			err = a.checkJoins(next.Peers)
		}
	}
	a.reloading.Lock()
	defer a.reloading.Unlock()
	current := a.cfg.Load()
	adopt := func() {}
	if err == nil {
		adopt, err = a.open(ctx, current, next)
	}
	if err != nil {
		a.reloadProblem.Store(because("TW-1007", "the configuration on disk was refused; the running one stays in force", err,
			"correct it, and: tradewind reload"))
		a.log.Error("reload refused; the running configuration stays", "generation", a.generation, "error", err)
		return nil, err
	}
	adopt()
	restart := config.RestartOnly(current, next)
	changed := config.Reloadable(current, next)
	a.level.Set(next.LogLevel) // also over one that "log-level" set
	if len(changed) > 0 {
		merged := config.Merge(current, next) // what needs a restart keeps its running value
		a.cfg.Store(merged)
		a.tokens.Allow(merged.KeyHosts)
		a.peers.SetMaxStale(merged.MaxStale)
		select {
		case a.reconfigured <- struct{}{}:
		default: // the watcher has not yet looked at the change before this one, and will see both
		}
		a.generation++
		a.configured = time.Now()
	}
	a.reloadProblem.Store(nil)
	if len(restart) > 0 {
		a.reloadProblem.Store(&federation.Diagnostic{Code: "TW-1008", What: "settings have changed that only a restart applies",
			Why: strings.Join(restart, ", "), Fix: "restart the gateway, or set them back and: tradewind reload"})
	}
	a.log.Info("configuration reloaded", "generation", a.generation, "changed", changed, "needs_restart", restart)
	return &admin.ReloadResponse{Generation: a.generation, Changed: changed, Restart: restart}, nil
}

// open opens what next needs and current has not: listeners, and the file of the access log. Adopt puts it in the place of what
// runs, which is closed only then; on an error nothing has changed. A file is opened anew by each reload, because log rotation
// moves the one that is written to.
func (a *Agent) open(ctx context.Context, current, next *config.Gateway) (adopt func(), err error) {
	var opened []io.Closer
	defer func() {
		if err != nil {
			for _, c := range opened {
				_ = c.Close()
			}
		}
	}()
	var steps []func()
	listeners := []struct {
		from, to string
		bind     func(context.Context, string) (net.Listener, error)
		set      func(net.Listener)
	}{
		{current.LocalListen, next.LocalListen, func(_ context.Context, s string) (net.Listener, error) { return a.mesh.BindLocal(s) }, a.mesh.SetLocal},
		{current.AdminListen, next.AdminListen, a.admin.BindLoopback, a.admin.SetLoopback},
	}
	for _, l := range listeners {
		if l.from == l.to {
			continue
		}
		bound, err := l.bind(ctx, l.to)
		if err != nil {
			return nil, err
		}
		if bound != nil {
			opened = append(opened, bound)
		}
		steps = append(steps, func() { l.set(bound) })
	}
	access, file, err := a.openAccessLog(next.AccessLog)
	if err != nil {
		return nil, err
	}
	return func() {
		for _, step := range steps {
			step()
		}
		if file == nil && current.AccessLog == next.AccessLog {
			return
		}
		a.mesh.SetAccessLog(access)
		if a.access != nil {
			_ = a.access.Close() // every line was written when it was given to the kernel
		}
		a.access = file
	}, nil
}

func (a *Agent) generationNow() uint64 {
	a.reloading.Lock()
	defer a.reloading.Unlock()
	return a.generation
}

// serveReloads reloads at each signal until ctx ends.
func (a *Agent) serveReloads(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-a.opts.Reload:
			_, _ = a.Reload(ctx, nil) // logged there; nobody waits for the answer of a signal
		}
	}
}

// LogLevel implements admin.Process.
func (a *Agent) LogLevel(_ context.Context, r *admin.LogLevelRequest) (*admin.LogLevelResponse, error) {
	out := &admin.LogLevelResponse{Previous: strings.ToLower(a.level.Level().String())}
	if r.Level != "" {
		level := a.level.Level()
		if err := level.UnmarshalText([]byte(r.Level)); err != nil {
			return nil, &federation.Diagnostic{Code: "TW-8902", What: "log level " + r.Level + " is unknown", Fix: "use debug, info, warn or error", Err: err}
		}
		a.level.Set(level)
	}
	out.Level = strings.ToLower(a.level.Level().String())
	return out, nil
}

// watch keeps the running parts of the configuration, file sources and the watched resources directory, in line with it until
// ctx ends. It alone adds and removes them.
func (a *Agent) watch(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	sources := map[string]*fileSource{}
	dir, stopDir := "", func() {}
	var watcher sync.WaitGroup
	for {
		cfg := a.cfg.Load()
		if err := a.adoptSources(sources, cfg.Sources); err != nil {
			a.log.Error("adopt sources", "error", err)
		}
		if err := a.adoptProviders(cfg.Providers); err != nil {
			a.log.Error("adopt providers", "error", err)
		}
		a.joins.adopt(ctx, a, &wg, cfg.Peers)
		if cfg.ResourcesDir != dir {
			stopDir()
			watcher.Wait()
			a.dirProblem.Store(nil) // it was of the old one
			dir = cfg.ResourcesDir
			var inner context.Context
			inner, stopDir = context.WithCancel(ctx)
			if dir != "" {
				watcher.Go(func() { a.watchDir(inner, cfg.ResourcesDir) })
			}
		}
		select {
		case <-ctx.Done():
			stopDir()
			watcher.Wait()
			return nil
		case <-a.reconfigured:
		}
	}
}

// adoptSources makes running, the sources that run by name, equal to wanted.
func (a *Agent) adoptSources(running map[string]*fileSource, wanted []config.FileSource) error {
	var errs []error
	for name := range running {
		if !slices.ContainsFunc(wanted, func(s config.FileSource) bool { return s.Name == name }) {
			errs = append(errs, a.reg.Remove(sourceName(name)), noFile(os.Remove(running[name].keep)))
			delete(running, name)
		}
	}
	for _, s := range wanted {
		if old := running[s.Name]; old != nil {
			old.move(s.Path)
			continue
		}
		keep := filepath.Join(a.opts.Config.DataDir, "sources", s.Name+".json")
		running[s.Name] = newFileSource(s.Path, keep, a.room("file"))
		errs = append(errs, a.reg.Add(sourceName(s.Name), running[s.Name]))
	}
	return errors.Join(errs...)
}

// noFile is err, unless it says that there is no such file.
func noFile(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

func sourceName(name string) federation.SourceName { return federation.SourceName("file:" + name) }

// fileSource is a file source that can be moved to another path: what the old file listed stays until the new one was read.
type fileSource struct {
	keep    string // where its last valid set is
	log     *slog.Logger
	path    atomic.Pointer[string]
	current atomic.Pointer[file.Source]
	moved   chan struct{} // capacity 1
}

func newFileSource(path, keep string, log *slog.Logger) *fileSource {
	s := &fileSource{keep: keep, log: log, moved: make(chan struct{}, 1)}
	s.path.Store(&path)
	return s
}

func (s *fileSource) move(path string) {
	if old := s.path.Swap(&path); *old != path {
		select {
		case s.moved <- struct{}{}:
		default: // Run has not looked yet, and will see the newest
		}
	}
}

// Run implements registry.Source.
func (s *fileSource) Run(ctx context.Context, publish func([]federation.Instance)) error {
	for {
		source := file.New(file.Config{Path: *s.path.Load(), Keep: s.keep, Log: s.log})
		s.current.Store(source)
		inner, stop := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() { ended <- source.Run(inner, publish) }()
		select {
		case err := <-ended:
			stop()
			return err
		case <-s.moved:
			stop()
			<-ended // one source publishes at a time
		}
	}
}

// AsOf implements registry.Dated.
func (s *fileSource) AsOf() (at time.Time) {
	if source := s.current.Load(); source != nil {
		at = source.AsOf()
	}
	return at
}

// Problem implements registry.Troubled.
func (s *fileSource) Problem() error {
	if source := s.current.Load(); source != nil {
		return source.Problem()
	}
	return nil
}

// dirOwner and a directory's path own what the watched directory declares.
const dirOwner = "dir:"

// watchDir applies the resources in dir whenever they change. The directory owns what it declares: what is no longer in it is
// deleted, and nobody else may write it. It takes the place of the directory that was watched before.
func (a *Agent) watchDir(ctx context.Context, dir string) {
	owner := dirOwner + dir
	apply := func(resources []federation.Resource) error {
		if left := a.unwatched(dir); len(left) > 0 {
			if _, err := a.plane.Apply(ctx, controlplane.Change{Owner: owner, Put: left, Force: true}); err != nil {
				return err
			}
			a.log.Info("resources taken over from the directory watched before", "dir", dir, "resources", len(left))
		}
		plan, err := a.plane.Apply(ctx, controlplane.Change{Owner: owner, Put: resources, Prune: true})
		if err == nil && plan.Changes() {
			a.log.Info("resources applied", "dir", dir, "created", plan.Count(controlplane.ActionCreate),
				"updated", plan.Count(controlplane.ActionUpdate), "deleted", plan.Count(controlplane.ActionDelete))
		}
		return err
	}
	failed := func(err error) {
		if err == nil || errors.Is(err, config.ErrNoFiles) && !a.owns(owner) { // a new directory may be empty; one that had files may not
			a.dirProblem.Store(nil)
			return
		}
		a.log.Error("resources not applied; the last ones stay in force", "dir", dir, "error", err)
		a.dirProblem.Store(because("TW-1006", "the newest resources in "+dir+" are not in force; the last ones are", err,
			"correct the files; they are read again within two seconds"))
	}
	if err := config.WatchResources(ctx, dir, apply, failed); err != nil {
		a.log.Error("watch the resources directory", "dir", dir, "error", err)
	}
}

// unwatched returns the resources of watched directories other than dir.
func (a *Agent) unwatched(dir string) []federation.Resource {
	left := slices.DeleteFunc(a.plane.List(), func(r federation.Resource) bool {
		return !strings.HasPrefix(r.Owner, dirOwner) || r.Owner == dirOwner+dir
	})
	for i := range left {
		left[i].Version = 0 // taking over shall not fail because of another writer
	}
	return left
}

// owns reports whether owner wrote any of the region's resources.
func (a *Agent) owns(owner string) bool {
	return slices.ContainsFunc(a.plane.List(), func(r federation.Resource) bool { return r.Owner == owner })
}

// because makes a diagnostic of err. If err is one itself, its words become the reason and its fix, where it has one, is kept:
// its code and fix in the middle of a sentence would only be in the way.
func because(code federation.Code, what string, err error, fix string) *federation.Diagnostic {
	d := &federation.Diagnostic{Code: code, What: what, Why: err.Error(), Fix: fix, Err: err}
	var inner *federation.Diagnostic
	if errors.As(err, &inner) {
		d.Why, d.Fix = inner.Reason(), cmp.Or(inner.Fix, fix)
	}
	return d
}
