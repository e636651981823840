package poll

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// run is the listing of one scope.
type run struct {
	scope Scope
	stop  context.CancelFunc
	poke  chan struct{} // list at once

	// Guarded by Source.mu.
	next      time.Time // when it is listed again
	begun     int       // listings
	done      int       // listings that have ended, however
	failures  int       // in a row
	calls     int64     // requests, ever
	throttles int64     // times the provider asked to slow down
	watching  bool
	watchAt   time.Time // a watch that broke is not tried again before
	broken    int       // watches in a row that broke without having said anything
	tells     int       // what the watch has said, ever
}

// maxScopes bounds what a lister can make us do.
const maxScopes = 5_000

// followScopes learns what there is to list, at first and with every interval, and runs the listing of each scope until ctx ends.
func (s *Source) followScopes(ctx context.Context, group *sync.WaitGroup) {
	failures := 0
	for {
		scopes, err := s.scopes(ctx)
		if ctx.Err() != nil {
			return
		}
		s.mu.Lock()
		wait := s.jitter(s.cfg.Interval)
		if err != nil {
			failures++
			d, _ := diagnose("what provider "+s.cfg.Name+" has to list", err)
			if s.scopesErr == nil {
				s.cfg.Log.Warn("keep the scopes known before", "provider", s.cfg.Name, "code", string(d.Code), "reason", d.Reason())
			}
			s.scopesErr = d
			wait = s.backoff(err, failures)
		} else {
			failures, s.scopesErr, s.scopesAt = 0, nil, time.Now()
			s.adoptScopes(ctx, group, scopes)
		}
		s.rounds++
		s.tell()
		s.mu.Unlock()
		if !Rest(ctx, wait, s.again) {
			return
		}
	}
}

// scopes asks the lister for its scopes.
func (s *Source) scopes(ctx context.Context) (scopes []Scope, err error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	err = s.guarded("scopes", func() (err error) {
		scopes, err = s.cfg.Lister.Scopes(ctx)
		return err
	})
	if err == nil && len(scopes) > maxScopes {
		err = fmt.Errorf("there are %d scopes to list: at most %d are allowed", len(scopes), maxScopes)
	}
	return scopes, err
}

// adoptScopes makes the runs equal to scopes. The caller holds s.mu.
func (s *Source) adoptScopes(ctx context.Context, group *sync.WaitGroup, scopes []Scope) {
	wanted := make(map[Scope]bool, len(scopes))
	for _, scope := range scopes {
		wanted[scope] = true
		if s.runs[scope] != nil {
			continue
		}
		inner, stop := context.WithCancel(ctx)
		r := &run{scope: scope, stop: stop, poke: make(chan struct{}, 1), next: time.Now()}
		s.runs[scope] = r
		s.book.page(scope)
		group.Go(func() { s.follow(inner, r) })
	}
	for scope := range s.book.pages {
		if wanted[scope] {
			continue
		}
		if r := s.runs[scope]; r != nil {
			r.stop()
			delete(s.runs, scope)
		}
		s.book.vanish(scope, time.Now())
	}
}

// follow lists one scope, again and again until ctx ends.
func (s *Source) follow(ctx context.Context, r *run) {
	watcher, _ := s.cfg.Lister.(Watcher)
	for {
		err := s.listOnce(ctx, r)
		if ctx.Err() != nil {
			return
		}
		if watcher != nil && err == nil && s.mayWatch(r) {
			s.watch(ctx, r, watcher)
			if ctx.Err() != nil {
				return
			}
		}
		s.mu.Lock()
		wait := time.Until(r.next)
		s.mu.Unlock()
		if !Rest(ctx, wait, r.poke) {
			return
		}
	}
}

// listOnce lists a scope once and takes note of the outcome.
func (s *Source) listOnce(ctx context.Context, r *run) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case s.slot <- struct{}{}:
	}
	defer func() { <-s.slot }()
	s.mu.Lock()
	r.begun++
	tells := r.tells
	s.mu.Unlock()
	inner, cancel := context.WithTimeout(ctx, s.cfg.Timeout)
	defer cancel()
	var l Listing
	err := s.guarded("list", func() (err error) {
		l, err = s.cfg.Lister.List(inner, r.scope, s.cfg.Budgets.Of(r.scope))
		return err
	})
	if ctx.Err() != nil {
		return ctx.Err()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r.done++
	r.calls += int64(l.Calls)
	switch {
	case err != nil:
		s.failed(r, err)
	case r.tells == tells: // else the watch has said something newer
		s.learnt(r, l)
	}
	s.tell()
	return err
}

// learnt takes a listing of the run's scope. The caller holds s.mu.
func (s *Source) learnt(r *run, l Listing) {
	before := s.book.page(r.scope).state
	s.book.learn(r.scope, l, time.Now())
	p := s.book.pages[r.scope]
	r.failures, r.next = 0, time.Now().Add(s.jitter(s.cfg.Interval))
	switch {
	case p.state != before && p.problem != nil:
		s.cfg.Log.Warn("listing of provider", "provider", s.cfg.Name, "scope", r.scope.String(), "state", string(p.state), "code", string(p.problem.Code),
			"reason", p.problem.Reason())
	case p.state != before:
		s.cfg.Log.Info("provider is listed", "provider", s.cfg.Name, "scope", r.scope.String(), "workloads", len(p.entries))
	}
}

// failed notes that a listing of the run's scope, or its watch, failed. The caller holds s.mu.
func (s *Source) failed(r *run, err error) {
	before := s.book.page(r.scope).state
	s.book.fail(r.scope, err)
	p := s.book.pages[r.scope]
	r.failures++
	wait := s.backoff(err, r.failures)
	r.next = time.Now().Add(wait)
	var throttled *ThrottledError
	if errors.As(err, &throttled) {
		r.throttles++
		// The others of the account are throttled too; they need not find out one by one.
		s.cfg.Budgets.bucket(r.scope).pause(time.Now().Add(max(throttled.RetryAfter, time.Second)))
	}
	if p.state != before {
		s.cfg.Log.Warn("keep the last listing of provider", "provider", s.cfg.Name, "scope", r.scope.String(), "state", string(p.state),
			"code", string(p.problem.Code), "reason", p.problem.Reason())
	}
}

// backoff is how long to wait after the given number of failures in a row.
func (s *Source) backoff(err error, failures int) time.Duration {
	double := func(d, most time.Duration) time.Duration {
		for i := 1; i < failures && d < most; i++ {
			d *= 2
		}
		return min(d, most)
	}
	most := max(retryMost, s.cfg.Interval)
	var throttled *ThrottledError
	if errors.As(err, &throttled) {
		// Slower than the pace that was too fast, and never before the provider allows it.
		wait := s.jitter(double(2*s.cfg.Interval, 2*most))
		return max(wait, throttled.RetryAfter+time.Duration(s.cfg.Rand()*float64(throttled.RetryAfter)/10))
	}
	var denied *DeniedError
	if errors.As(err, &denied) {
		return s.jitter(double(s.cfg.Interval, most)) // it takes a human to mend it
	}
	return s.jitter(double(min(retryFirst, s.cfg.Interval), most))
}

// resync is how often a watched scope is listed although its watch is silent. A watch can hang without an error; then a listing
// finds what it did not say.
func (s *Source) resync() time.Duration {
	const most = 15 * time.Minute // what a watch that hangs may cost at worst
	if s.cfg.TTL < 0 {
		return most
	}
	return min(most, s.cfg.TTL/4)
}

var errHung = errors.New("the watch was silent about changes that a listing found")

// watch follows a scope by the lister's own watch until it breaks. Whenever it was silent for long, a listing has to agree.
func (s *Source) watch(ctx context.Context, r *run, w Watcher) {
	inner, cancel := context.WithCancel(ctx)
	broke := make(chan error, 1)
	tells := s.setWatching(r, true)
	go func() {
		broke <- s.guarded("watch", func() error {
			return w.Watch(inner, r.scope, s.cfg.Budgets.Of(r.scope), func(l Listing) { s.hear(inner, r, l) })
		})
	}()
	err := s.compare(ctx, r, broke)
	cancel()
	if errors.Is(err, errHung) {
		<-broke
	}
	told := s.setWatching(r, false) != tells
	if ctx.Err() != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err == nil || errors.Is(err, errHung) { // some APIs end each watch after a while
		r.next = time.Now().Add(time.Second)
		return
	}
	if told {
		r.broken = 0
	}
	r.broken++
	s.failed(r, fmt.Errorf("watch: %w", err))
	r.watchAt = time.Now().Add(s.backoff(err, r.broken))
	s.tell()
}

// compare waits until a watch has ended, with its error, or is found to be hung.
func (s *Source) compare(ctx context.Context, r *run, broke <-chan error) error {
	timer := time.NewTimer(s.jitter(s.resync()))
	defer timer.Stop()
	for {
		select {
		case err := <-broke:
			return err
		case <-timer.C:
		case <-r.poke:
		}
		changes, tells := s.counts(r)
		if s.listOnce(ctx, r) == nil {
			if now, told := s.counts(r); now != changes && told == tells {
				s.cfg.Log.Warn("begin a watch anew that was silent about changes", "provider", s.cfg.Name, "scope", r.scope.String())
				return errHung
			}
		}
		timer.Reset(s.jitter(s.resync()))
	}
}

// counts returns how many changes of the run's scope there were, and how often its watch has spoken.
func (s *Source) counts(r *run) (changes, tells int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.book.page(r.scope).changes, r.tells
}

// hear takes what a watch says.
func (s *Source) hear(ctx context.Context, r *run, l Listing) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil || s.runs[r.scope] != r {
		return
	}
	r.tells++
	r.calls += int64(l.Calls)
	s.learnt(r, l)
	s.tell()
}

// setWatching returns how often the run's watches have spoken so far.
func (s *Source) setWatching(r *run, on bool) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	r.watching = on
	return r.tells
}

// mayWatch reports whether it is time to try a watch.
func (s *Source) mayWatch(r *run) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !time.Now().Before(r.watchAt)
}
