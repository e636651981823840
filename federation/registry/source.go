package registry

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	restartFirst = time.Second // long enough not to spin, short enough not to be noticed
	restartMost  = time.Minute // a cloud that throttles us recovers sooner when it is left alone
	maxProblems  = 16          // diagnostics kept for one source: enough to see the pattern
)

// source is one source and its last complete set.
type source struct {
	name federation.SourceName
	impl Source // nil for resources
	cfg  *Config

	mu      sync.Mutex
	closed  bool
	set     map[key]*item
	pending map[key]*item // what changed since the owner last took it; nil: went away
	pass    uint64        // number of the last accepted set
	status  SourceStatus  // without what depends on the moment it is asked for
	err     error
}

// item is one instance of a source's set.
type item struct {
	raw  federation.Instance // as reported, to compare the next report with
	inst federation.Instance // normalized
	seen uint64              // the last set that had it
}

func (r *Registry) newSource(name federation.SourceName, impl Source) *source {
	return &source{name: name, impl: impl, cfg: &r.cfg, set: map[key]*item{}, pending: map[key]*item{}, status: SourceStatus{Name: name}}
}

// accept makes set the source's set: whole, but for records that are not valid, whose last valid one stays. It works in the
// caller's goroutine, so that a large set of one source does not hold up the others.
func (s *source) accept(set []federation.Instance) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	if len(set) > s.cfg.MaxPerSource {
		s.err = &federation.Diagnostic{Code: federation.CodeSourceOverLimit,
			What: fmt.Sprintf("source %q reported %d instances", s.name, len(set)),
			Why:  fmt.Sprintf("at most %d are allowed; the last accepted set stays in use", s.cfg.MaxPerSource),
			Fix:  "narrow the source's filter or raise its limit"}
		return
	}
	s.pass++
	s.status.Skipped, s.status.Problems, s.err = 0, nil, nil
	var fresh []int
	for i := range set {
		old := s.set[instanceKey(&set[i])]
		if old != nil && sameInstance(&old.raw, &set[i]) {
			old.seen = s.pass
			continue
		}
		fresh = append(fresh, i)
	}
	// In a second pass, so that of two records with one name the one that is already in use stays, in whatever order they come.
	for _, i := range fresh {
		s.acceptOne(&set[i])
	}
	for k, it := range s.set {
		if it.seen != s.pass {
			delete(s.set, k)
			s.pending[k] = nil
		}
	}
	s.status.Instances, s.status.LastComplete = len(s.set), s.cfg.Now()
}

// acceptOne takes one record that is not as it was in the last set.
func (s *source) acceptOne(in *federation.Instance) {
	k := instanceKey(in)
	old := s.set[k]
	inst, err := normalize(*in, s.cfg.Region)
	switch {
	case err != nil:
		if old != nil {
			old.seen = s.pass
		}
	case old != nil && old.seen == s.pass:
		err = errors.New("it is reported twice with different data; the record that was used before, or came first, is used")
	default:
		s.set[k] = &item{raw: *in, inst: inst, seen: s.pass}
		s.pending[k] = s.set[k]
		return
	}
	s.status.Skipped++
	if len(s.status.Problems) < maxProblems {
		s.status.Problems = append(s.status.Problems, instanceError(in, s.name, err))
	}
}

// takePending returns what changed since the last call.
func (s *source) takePending() map[key]*item {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.pending) == 0 {
		return nil
	}
	pending := s.pending
	s.pending = map[key]*item{}
	return pending
}

// close makes the source deaf and returns what the owner still holds of it.
func (s *source) close() map[key]*item {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	held := maps.Clone(s.set)
	maps.Copy(held, s.pending)
	s.set, s.pending = nil, nil
	return held
}

// supervise runs s, and runs it again when it ends before ctx does.
func (r *Registry) supervise(ctx context.Context, s *source) {
	delay := restartFirst
	for {
		passes := s.running()
		err := r.runOnce(ctx, s)
		if ctx.Err() != nil {
			return
		}
		if s.passes() > passes {
			delay = restartFirst // it made progress; uptime alone would not count
		}
		// A quarter either way, so that sources that one outage stopped do not come back together.
		wait := time.Duration(float64(delay) * (0.75 + r.cfg.Rand()/2))
		d := s.failed(err, wait)
		r.cfg.Log.Warn("restart source", "source", string(s.name), "after", wait, "code", string(d.Code), "reason", d.Why)
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		delay = min(2*delay, restartMost)
	}
}

// runOnce runs s until it ends. A panic is an error of the source: adapters stand on large libraries, and one of them must not
// take down a gateway that others depend on.
func (r *Registry) runOnce(ctx context.Context, s *source) (err error) {
	var over atomic.Bool
	defer over.Store(true) // a goroutine that the source leaves behind is not heard
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
			r.cfg.Log.Error("source panicked", "source", string(s.name), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
		}
	}()
	return s.impl.Run(ctx, func(set []federation.Instance) {
		if !over.Load() {
			s.accept(set)
			r.signal()
		}
	})
}

// running notes that the source runs and returns how many sets it has given so far.
func (s *source) running() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.State, s.status.NextStart = SourceRunning, time.Time{}
	return s.pass
}

// merged reports whether the source has given a complete set and the owner has taken all of it.
func (s *source) merged() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed || s.pass > 0 && len(s.pending) == 0
}

// passes returns how many complete sets the source has given.
func (s *source) passes() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pass
}

// failed notes that the source ended and is run again after wait.
func (s *source) failed(err error, wait time.Duration) *federation.Diagnostic {
	if err == nil {
		err = errors.New("it ended without an error")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.status.State, s.status.NextStart = SourceWaiting, s.cfg.Now().Add(wait)
	s.status.Restarts++
	d := s.diagnose(err)
	s.err = d
	return d
}

// diagnose returns err as an operator reads it.
func (s *source) diagnose(err error) *federation.Diagnostic {
	var d *federation.Diagnostic
	if errors.As(err, &d) {
		return d
	}
	return &federation.Diagnostic{Code: federation.CodeSourceFailed, What: fmt.Sprintf("source %q failed", s.name), Why: err.Error(),
		Fix: "mend the cause; the source is restarted by itself, and its last complete set stays in use until then", Err: err}
}
