package consul

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

const (
	// Requests of one watch come at most ten a second, but for a burst: one change is often followed by some more.
	minGap = 100 * time.Millisecond
	burst  = 5

	turnWait  = 5 * time.Second        // of a blocking query when there are more services than watches
	retryFrom = 250 * time.Millisecond // a leader is elected within a second or two
	retryMost = 30 * time.Second       // a cluster in trouble is not to be asked by everybody at once
)

// watch is one Watch of one scope.
type watch struct {
	*visit
	slots   chan struct{} // of the services' blocking queries that are open
	changed chan struct{} // capacity 1: something was learnt
	group   sync.WaitGroup

	mu         sync.Mutex
	listed     bool  // the catalog has been read
	catalogErr error // why it cannot be read now
	doubt      error // why the list may miss a service
	withheld   bool
	services   map[string]*followed
	calls      int
}

// followed is a service that is watched.
type followed struct {
	stop   context.CancelFunc
	listed bool // in the newest list of services
	asked  bool
	answer answer
	err    error // why it cannot be read now
}

// Watch follows one scope until ctx ends or the token is refused. It tells first when every service has been asked about, then with
// each change, and at least once in a Wait as confirmation. While something cannot be read it tells partial listings of the rest,
// and tries again by itself.
func (l *Lister) Watch(ctx context.Context, scope poll.Scope, budget poll.Budget, tell func(poll.Listing)) error {
	place, err := placeOf(scope)
	if err != nil {
		return err
	}
	w := &watch{visit: &visit{l, place, budget}, slots: make(chan struct{}, l.cfg.MaxWatches), changed: make(chan struct{}, 1),
		services: map[string]*followed{}}
	inner, cancel := context.WithCancelCause(ctx)
	w.group.Go(func() {
		if err := w.followCatalog(inner); err != nil {
			cancel(err)
		}
	})
	err = w.tellAll(inner, tell)
	cancel(nil)
	w.group.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// tellAll tells what is learnt until ctx ends, and returns why it did.
func (w *watch) tellAll(ctx context.Context, tell func(poll.Listing)) error {
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.changed:
		}
		listing, ready, err := w.listing()
		if err != nil {
			return err
		}
		if ready {
			tell(listing)
		}
	}
}

func (w *watch) wake() { poll.Poke(w.changed) }

// listing returns what is known. What cannot be read now is left out, so that its age grows.
func (w *watch) listing() (l poll.Listing, ready bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	doubt := w.doubt
	if w.catalogErr != nil {
		doubt = w.catalogErr
	}
	answers := make([]answer, 0, len(w.services))
	for _, name := range slices.Sorted(maps.Keys(w.services)) {
		s := w.services[name]
		switch {
		case !s.asked && w.catalogErr == nil:
			return poll.Listing{}, false, nil
		case s.err != nil:
			answers = append(answers, answer{doubt: s.err})
		default:
			answers = append(answers, s.answer)
		}
	}
	if !w.listed && doubt == nil {
		return poll.Listing{}, false, nil
	}
	l, err = sum(doubt, answers)
	l.Calls, w.calls = w.calls, 0
	return l, true, err
}

// followCatalog keeps the watched services equal to those that are listed. It returns when asking again is of no use.
func (w *watch) followCatalog(ctx context.Context) error {
	return w.follow(ctx, func(index uint64) (uint64, error) {
		cat, err := w.visit.services(ctx, index)
		if ctx.Err() != nil {
			return 0, nil
		}
		defer w.wake()
		w.mu.Lock()
		defer w.mu.Unlock()
		w.calls++
		w.catalogErr = err
		if err == nil {
			w.adopt(ctx, cat)
		}
		return cat.index, err
	}, func(err error) bool {
		var denied *poll.DeniedError
		return errors.As(err, &denied) || errors.Is(err, poll.ErrCredentials)
	})
}

// adopt begins to watch what is newly listed, and ends the watch of what is gone. The caller holds w.mu.
func (w *watch) adopt(ctx context.Context, cat catalog) {
	w.listed, w.doubt, w.withheld = true, cat.doubt, cat.withheld
	listed := map[string]bool{}
	for _, name := range cat.names {
		listed[name] = true
		if w.services[name] != nil {
			continue
		}
		inner, stop := context.WithCancel(ctx)
		s := &followed{stop: stop}
		w.services[name] = s
		w.group.Go(func() {
			defer stop()
			w.followService(inner, name, s)
		})
	}
	for name, s := range w.services {
		s.listed = listed[name]
		w.drop(name, s)
	}
}

// drop ends the watch of a service that is gone: it is not listed, and its own answer says so where the list may hide it. The
// caller holds w.mu.
func (w *watch) drop(name string, s *followed) {
	if s.listed || (w.withheld || w.doubt != nil) && (s.err != nil || !s.asked || !s.answer.gone()) {
		return
	}
	s.stop()
	if w.services[name] == s {
		delete(w.services, name)
	}
}

// followService watches one service until ctx ends.
func (w *watch) followService(ctx context.Context, name string, s *followed) {
	_ = w.follow(ctx, func(index uint64) (uint64, error) {
		wait, done := w.turn(ctx)
		if done == nil {
			return 0, nil
		}
		a, err := w.visit.service(ctx, name, index, wait)
		done()
		if ctx.Err() != nil {
			return 0, nil
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		w.calls += a.calls
		if a.same {
			return index, nil
		}
		fresh := !s.asked || index != a.index || err != nil || s.err != nil || a.doubt != nil || s.answer.doubt != nil
		s.asked, s.err = true, err
		if err == nil {
			s.answer = a
		}
		w.drop(name, s)
		if fresh {
			w.wake()
		}
		return a.index, err
	}, func(error) bool { return false })
}

// turn waits for one of the watches, and returns how long it may be used. When there are enough for all it is Wait.
func (w *watch) turn(ctx context.Context) (wait time.Duration, done func()) {
	select {
	case <-ctx.Done():
		return 0, nil
	case w.slots <- struct{}{}:
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	wait = w.cfg.Wait
	if len(w.services) > cap(w.slots) {
		wait = min(wait, turnWait)
	}
	return wait, func() { <-w.slots }
}

// follow asks with each index for what is newer, until ctx ends or an error is final, which it returns.
func (w *watch) follow(ctx context.Context, ask func(index uint64) (uint64, error), final func(error) bool) error {
	var index uint64
	var due time.Time // of the next request
	failures := 0
	for {
		if rested := time.Now().Add(-burst * minGap); due.Before(rested) {
			due = rested
		}
		due = due.Add(minGap)
		newer, err := ask(index)
		if ctx.Err() != nil {
			return nil
		}
		pause := time.Until(due)
		if err == nil {
			index, failures = next(index, newer), 0
		} else {
			if final(err) {
				return err
			}
			index = 0 // whatever happened meanwhile is to be seen at once
			failures++
			pause = poll.Backoff(err, failures, retryFrom, retryMost)
		}
		if !poll.Rest(ctx, pause, nil) {
			return nil
		}
	}
}

// next returns the index to ask with after an answer of index newer. See "Implementation Details" of Consul's blocking queries.
func next(index, newer uint64) uint64 {
	if newer < index {
		return 0 // the servers have been restored, and count anew
	}
	return max(newer, 1) // 0 would not block
}
