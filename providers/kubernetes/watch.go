package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

const (
	watchTime = 5 * time.Minute        // and up to twice that: the server ends a watch, so that watches move to a server that is new
	overtime  = 30 * time.Second       // of a watch beyond its end: then it hangs
	youngest  = time.Second            // a watch that ends earlier without a word has failed
	tellGap   = 100 * time.Millisecond // between listings: a rollout changes a slice many times a second, and each is a walk through all
	// A listing is told again so long after it was told at first, because one that shrinks is believed the second time only, and then
	// each confirmMost, so that what is known does not grow old.
	confirmTime = 5 * time.Second
	confirmMost = time.Minute

	retryFrom = 250 * time.Millisecond // an API server that restarts is away for seconds
	retryMost = 5 * time.Second        // two requests in that time harm no cluster in trouble, and it is seen soon that it is back
	patience  = 5                      // refusals in a row: an API server that has just started does not know the roles yet
)

// watch is one Watch of one scope.
type watch struct {
	place   *visit        // without requests of its own
	changed chan struct{} // capacity 1: something was learnt

	mu     sync.Mutex
	inv    *inventory
	listed map[*resource]bool
	errs   map[*resource]error // why one of them cannot be read now
	calls  int
}

// Watch follows one scope until ctx ends or it is refused again and again. It tells first when all is listed, then with each change,
// and at least once a minute as confirmation. While something cannot be read it tells partial listings without records, and tries
// again by itself.
func (l *Lister) Watch(ctx context.Context, scope poll.Scope, budget poll.Budget, tell func(poll.Listing)) error {
	v, err := l.visit(ctx, scope, budget)
	if err != nil {
		return err
	}
	w := &watch{place: v, changed: make(chan struct{}, 1), inv: newInventory(&v.Cluster), listed: map[*resource]bool{},
		errs: map[*resource]error{}}
	inner, cancel := context.WithCancelCause(ctx)
	var group sync.WaitGroup
	for _, r := range resources {
		group.Go(func() {
			if err := w.follow(inner, r); err != nil {
				cancel(err)
			}
		})
	}
	err = w.tellAll(inner, l.confirm, tell)
	cancel(nil)
	group.Wait()
	v.client.idle()
	if ctx.Err() != nil {
		return nil
	}
	l.leave(v, err)
	return err
}

// tellAll tells what is learnt until ctx ends, and returns why it did.
func (w *watch) tellAll(ctx context.Context, confirm time.Duration, tell func(poll.Listing)) error {
	again := time.NewTimer(confirmMost)
	defer again.Stop()
	for {
		next := confirm
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-w.changed:
		case <-again.C:
			next = confirmMost
		}
		listing, ready, err := w.listing()
		if err != nil {
			return err
		}
		if ready && (listing.Partial == nil || next == confirm) { // trouble needs no confirmation
			tell(listing)
		}
		again.Reset(next)
		if !poll.Rest(ctx, tellGap, nil) {
			return context.Cause(ctx)
		}
	}
}

func (w *watch) wake() { poll.Poke(w.changed) }

// listing returns what is known. While something cannot be read there are no records in it, so that their age grows.
func (w *watch) listing() (l poll.Listing, ready bool, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, r := range resources {
		if err := w.errs[r]; err != nil {
			l.Partial, ready = err, true
			break
		}
	}
	if !ready && w.listed[endpointSlices] && w.listed[services] {
		l, err = w.inv.listing()
		ready = true
	}
	if ready {
		l.Calls, w.calls = w.calls, 0
	}
	return l, ready, err
}

// follow keeps one resource up to date until ctx ends or asking again is of no use; then it returns why.
func (w *watch) follow(ctx context.Context, r *resource) error {
	version, failures := "", 0
	for {
		lived, err := w.once(ctx, r, &version)
		var denied *poll.DeniedError
		refused := errors.As(err, &denied) || errors.Is(err, poll.ErrCredentials)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errTooMany), refused && (version == "" || failures == patience):
			return err
		case errors.Is(err, errGone):
			version = ""
		}
		if lived {
			failures = 0
			if err == nil {
				continue
			}
		}
		failures++
		if !poll.Rest(ctx, poll.Backoff(err, failures, retryFrom, retryMost), nil) {
			return nil
		}
	}
}

// once lists r, if no version is known, and watches it until the watch ends, by itself without an error. It reports
// whether the watch was one: it had events, or lasted.
func (w *watch) once(ctx context.Context, r *resource, version *string) (lived bool, err error) {
	visit := *w.place // the other resource has one too
	v := &visit
	defer func() { w.count(v.calls) }()
	if *version == "" {
		objects, from, err := v.list(ctx, r)
		if err != nil {
			w.trouble(ctx, r, err)
			return false, err
		}
		w.mu.Lock()
		w.inv.replace(r, objects)
		w.listed[r] = true
		w.mu.Unlock()
		*version = from
		w.wake()
	}
	life := watchTime + rand.N(watchTime)
	q := v.query(r)
	q.Set("watch", "1")
	q.Set("allowWatchBookmarks", "true")
	q.Set("resourceVersion", *version)
	q.Set("timeoutSeconds", strconv.Itoa(int(life/time.Second)))
	if err := v.wait(ctx); err != nil {
		return false, err
	}
	v.calls++
	inner, cancel := context.WithTimeoutCause(ctx, life+overtime, errors.New("the watch hung"))
	defer cancel()
	body, err := v.client.ask(inner, r, v.namespace, "watch", q)
	if err != nil {
		err = fmt.Errorf("watch %s: %w", r.name, inTime(ctx, inner, err))
		w.trouble(ctx, r, err)
		return false, err
	}
	defer body.Close()
	w.trouble(ctx, r, nil)
	f, began := newFrames(body), time.Now()
	for events := 0; ; events++ {
		event, err := f.next()
		if err == nil {
			err = w.take(r, event, version)
		}
		if err != nil {
			lived = events > 0 || time.Since(began) >= youngest
			if errors.Is(err, io.EOF) {
				return lived, nil
			}
			return lived, fmt.Errorf("watch %s: %w", r.name, inTime(ctx, inner, err))
		}
	}
}

// take takes one event.
func (w *watch) take(r *resource, event frame, at *string) error {
	switch event.Type {
	case "ERROR":
		var said apiStatus
		if err := json.Unmarshal(event.Object, &said); err != nil {
			return fmt.Errorf("read an error: %w", err)
		}
		return classify(said.Code, nil, event.Object, r.permission("watch", w.place.namespace))
	case "ADDED", "MODIFIED", "DELETED":
		o, err := r.decode(event.Object)
		if err != nil {
			return fmt.Errorf("%w: %w", errGone, err) // which one changed is not known: list all
		}
		w.mu.Lock()
		if event.Type == "DELETED" {
			o.drop(w.inv)
		} else {
			o.put(w.inv)
		}
		w.mu.Unlock()
		w.wake()
	case "BOOKMARK":
	default:
		return fmt.Errorf("an event of type %q is not known", poll.Clip(event.Type))
	}
	if v := version(event.Object); v != "" {
		*at = v
	}
	return nil
}

// trouble notes that r cannot be read, and why, or that it can be.
func (w *watch) trouble(ctx context.Context, r *resource, err error) {
	if ctx.Err() != nil || errors.Is(err, errGone) {
		return
	}
	w.mu.Lock()
	before := w.errs[r]
	w.errs[r] = err
	w.mu.Unlock()
	if before != nil || err != nil {
		w.wake()
	}
}

func (w *watch) count(calls int) {
	w.mu.Lock()
	w.calls += calls
	w.mu.Unlock()
}
