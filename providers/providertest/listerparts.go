package providertest

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// threePages is the world of most cases: workloads 1 to 5, an empty page, workloads 6 to 9.
func threePages() World {
	return World{Pages: []Page{{Items: Items(1, 5)}, {}, {Items: Items(6, 9)}}}
}

var allNine = []int{1, 2, 3, 4, 5, 6, 7, 8, 9}

// faulty is threePages with a fault on one page.
func faulty(page int, fault Fault, times int) World {
	w := threePages()
	w.Pages[page].Fault, w.Pages[page].Times = fault, times
	return w
}

func listScopes(t *testing.T, r *listerRig) {
	r.Serve(t, threePages())
	ctx, cancel := context.WithTimeout(t.Context(), r.Within)
	defer cancel()
	for range 2 { // a second call says the same
		scopes, err := r.Lister.Scopes(ctx)
		if err != nil {
			t.Fatalf("Scopes: %v", err)
		}
		if !slices.Contains(scopes, r.Scope) {
			t.Errorf("scopes are %v, want %v among them", scopes, r.Scope)
		}
		for i, s := range scopes {
			if s.Provider == "" || s.Kind == "" {
				t.Errorf("scope %+v says no provider or no kind", s)
			}
			if slices.Contains(scopes[:i], s) {
				t.Errorf("scope %v is there twice", s)
			}
		}
	}
}

func listPages(t *testing.T, r *listerRig) {
	r.wantAll(t, threePages(), allNine...)
	r.wantAll(t, World{Pages: []Page{{}}})
	r.wantAll(t, World{Pages: []Page{{Items: Items(200, 299)}}}, numbers(200, 299)...) // no request for each item
}

func numbers(first, last int) (out []int) {
	for n := first; n <= last; n++ {
		out = append(out, n)
	}
	return out
}

// listTwice: an item moves to the next page while the pages are read. The adapter may report it twice, under one ID.
func listTwice(t *testing.T, r *listerRig) {
	r.wantAll(t, World{Pages: []Page{{Items: Items(1, 4)}, {Items: Items(4, 6)}}}, 1, 2, 3, 4, 5, 6)
}

// listGone: what went away while it was listed is no error, and nothing that could not be read.
func listGone(t *testing.T, r *listerRig) {
	l := r.wantAll(t, World{Pages: []Page{{Items: []Item{{N: 1}, {N: 2, Gone: true}, {N: 3}}}}}, 1, 3)
	if len(l.Bad) > 0 {
		t.Errorf("an item that is gone counts as unreadable: %v", l.Bad)
	}
}

func listMalformed(t *testing.T, r *listerRig) {
	w := threePages()
	w.Pages[0].Items[2].Malformed = true
	l := r.wantAll(t, w, 1, 2, 4, 5, 6, 7, 8, 9)
	if len(l.Bad) != 1 || l.Bad[0].Err == nil || l.Bad[0].ID == "" {
		t.Fatalf("items that could not be read are %+v, want one with its ID and an error", l.Bad)
	}
	clean := r.wantAll(t, threePages(), allNine...)
	if i := slices.IndexFunc(clean.Records, func(rec poll.Record) bool { return r.Number(rec) == 3 }); clean.Records[i].ID != l.Bad[0].ID {
		t.Errorf("the unreadable item has ID %q, the workload %q: its last record would not be found", l.Bad[0].ID, clean.Records[i].ID)
	}
}

// listThrottled: the adapter says so at once, or its client library retries by itself.
func listThrottled(t *testing.T, r *listerRig) {
	for page := range 3 {
		w := faulty(page, Throttle, 2)
		r.Serve(t, w)
		r.untilListed(t, w, func(err error) bool {
			var throttled *poll.ThrottledError
			if !errors.As(err, &throttled) {
				return false
			}
			if throttled.RetryAfter != 0 && throttled.RetryAfter != RetryAfter {
				t.Errorf("RetryAfter is %v, the API says %v", throttled.RetryAfter, RetryAfter)
			}
			return true
		})
	}
}

// listExpired: the adapter renews the credentials and goes on, or says so and has renewed them by the next List.
func listExpired(t *testing.T, r *listerRig) {
	for page := range 3 {
		w := faulty(page, Expired, 1)
		r.Serve(t, w)
		r.untilListed(t, w, func(err error) bool { return errors.Is(err, poll.ErrCredentials) })
	}
}

// untilListed lists until everything is there. Each error before must be a legal one.
func (r *listerRig) untilListed(t *testing.T, w World, legal func(error) bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*r.Within)
	defer cancel()
	for range 4 {
		l, err := r.list(t, ctx)
		if err == nil {
			if l.Partial != nil {
				t.Errorf("%s: the listing is partial: %v", quoteFault(w), l.Partial)
			}
			r.want(t, l, allNine...)
			return
		}
		if !legal(err) {
			t.Fatalf("%s: List returned %T: %v; want the framework's error for it", quoteFault(w), err, err)
		}
	}
	t.Errorf("%s: four Lists did not get through", quoteFault(w))
}

func listDenied(t *testing.T, r *listerRig) {
	w := faulty(0, Deny, 0)
	r.Serve(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), r.Within)
	defer cancel()
	_, err := r.list(t, ctx)
	var denied *poll.DeniedError
	if !errors.As(err, &denied) {
		t.Fatalf("List returned %T: %v; want a DeniedError", err, err)
	}
	if denied.Action != r.Action {
		t.Errorf("the missing permission is named %q, want %q", denied.Action, r.Action)
	}
	if n := r.Requests(); n != 1 {
		t.Errorf("%d requests were made, want 1: a denial is not mended by asking again", n)
	}
}

func listTimeout(t *testing.T, r *listerRig) {
	r.Serve(t, faulty(0, Hang, 0))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	r.wantEnd(t, ctx, ctx.Done(), context.DeadlineExceeded)
}

func listCancelled(t *testing.T, r *listerRig) {
	w := faulty(2, Hang, 0)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.Reached = cancel
	r.Serve(t, w)
	r.wantEnd(t, ctx, ctx.Done(), context.Canceled)
	r.wantAll(t, threePages(), allNine...) // and the adapter is as good as before
}

func listPartial(t *testing.T, r *listerRig) {
	w := faulty(0, Partial, 0)
	r.Serve(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), r.Within)
	defer cancel()
	l, err := r.list(t, ctx)
	if err != nil {
		t.Fatalf("List: %v; want what could be listed, and Listing.Partial", err)
	}
	if l.Partial == nil {
		t.Error("Listing.Partial is nil, but the API said that something is missing")
	}
	r.want(t, l, allNine...)
}

func listBroken(t *testing.T, r *listerRig) {
	r.wantFailure(t, Unavailable, func(err error) bool {
		var denied *poll.DeniedError
		var throttled *poll.ThrottledError
		return !errors.As(err, &denied) && !errors.As(err, &throttled) && !errors.Is(err, poll.ErrCredentials)
	})
}

func listGarbage(t *testing.T, r *listerRig) {
	r.wantFailure(t, Garbage, func(error) bool { return true })
}

// wantFailure checks that a page that fails for good makes the whole listing fail, whichever it is.
func (r *listerRig) wantFailure(t *testing.T, fault Fault, legal func(error) bool) {
	t.Helper()
	for page := range 3 {
		r.Serve(t, faulty(page, fault, 0))
		ctx, cancel := context.WithTimeout(t.Context(), 3*r.Within)
		_, err := r.list(t, ctx)
		cancel()
		switch {
		case err == nil:
			t.Errorf("page %d of 3 failed and List returned no error", page+1)
		case errors.Is(err, errSpent):
			t.Errorf("List asked %d times for a page that fails", mostRequests)
		case !legal(err):
			t.Errorf("List returned %v, which is not what happened", err)
		}
	}
	r.wantAll(t, threePages(), allNine...)
}

func listLoop(t *testing.T, r *listerRig) {
	r.Serve(t, faulty(2, Loop, 0))
	ctx, cancel := context.WithTimeout(t.Context(), r.Within)
	defer cancel()
	if _, err := r.list(t, ctx); err == nil {
		t.Error("a page points to itself, and List returned no error")
	} else if errors.Is(err, errSpent) || ctx.Err() != nil {
		t.Errorf("a page points to itself, and List made %d requests", r.Requests())
	}
}

func listWithoutBudget(t *testing.T, r *listerRig) {
	r.Serve(t, threePages())
	ctx, cancel := context.WithTimeout(t.Context(), r.Within)
	defer cancel()
	cost := r.Cost(threePages())
	for most := range cost {
		before := r.Requests()
		if _, err := r.Lister.List(ctx, r.Scope, &purse{most: int64(most)}); !errors.Is(err, errSpent) {
			t.Errorf("the budget allowed %d of %d requests and List returned %v, want the budget's error", most, cost, err)
		}
		if made := r.Requests() - before; made > most {
			t.Errorf("the budget allowed %d requests, %d were made", most, made)
		}
	}
}
