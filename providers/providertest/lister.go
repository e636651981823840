package providertest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/providers/double"
	"github.com/tradewind-mesh/tradewind/providers/poll"
	"go.uber.org/goleak"
)

// ListerRig is an adapter and the fake of its API, in the hands of the test. The fake is an HTTP server, or whatever the
// adapter speaks, that serves a World in the form of the real API.
type ListerRig struct {
	// Lister lists the fake. Waits between the retries that its client library makes by itself should be cut to milliseconds.
	Lister poll.Lister
	// Scope is what is listed. Scopes must return it, among others or alone, when the fake serves a world without faults.
	Scope poll.Scope
	// Serve makes the fake hold exactly this world, from the next request on, and count from 0.
	Serve func(t *testing.T, w World)
	// Requests returns how many requests the fake has had since Serve, those for credentials left out. Each of them must have
	// waited for the budget.
	Requests func() int
	// Cost is the exact number of requests that one List of w takes, when nothing fails: the guard against a request for each
	// item. Default: one for each page.
	Cost func(w World) int
	// Action is the permission that is missing when the fake answers with Deny: "ec2:DescribeInstances".
	Action string
	// Lacks names the cases that this API cannot have, by their names in Lister, with the reason: {"loop": "DNS has no pages"}.
	Lacks map[string]string
	// Number is the inverse of the fake's naming: which Item a record is. Default: the one whose Address is its first address.
	Number func(poll.Record) int
	// Within is how soon what should happen at once must have happened. Default 10 s; it is no measure of speed.
	Within time.Duration
	// Close ends what the client keeps open, such as idle connections, before goroutines are counted.
	Close func()
}

// World is what a fake serves: a scope's workloads, page by page. An API without pages serves the items of all pages at once,
// with the first fault there is.
type World struct {
	Pages []Page
	// Reached is called, when it is not nil, each time a request has come to a page with fault Hang.
	Reached func()
}

// Page is one page of a listing.
type Page struct {
	Items []Item
	Fault Fault
	// Times is how often the fault meets a request for this page before the page is served as if there were none. 0: always.
	Times int
}

// Item is one workload. The fake runs workload N at Address(N), port 8080, healthy where the API knows of health, with the tag
// mesh/service (or its alias) "web", and gives it an ID of N's own.
type Item struct {
	N         int
	Malformed bool // an item of which one field cannot be what it should be, such as an address "not-an-address"; its ID can be read
	Gone      bool // for an API that lists names and then asks for details: the name is listed, the workload is gone by then
}

// All returns the items of all pages.
func (w World) All() (items []Item) {
	for _, p := range w.Pages {
		items = append(items, p.Items...)
	}
	return items
}

// Present returns the items of all pages that are there when they are asked for.
func (w World) Present() []Item {
	return slices.DeleteFunc(w.All(), func(i Item) bool { return i.Gone })
}

// Address returns where the workload runs, as its fake writes it.
func (i Item) Address() string {
	if i.Malformed {
		return "not-an-address"
	}
	return Address(i.N).String()
}

// Fault is what goes wrong with a request.
type Fault = double.Fault

// The faults. Each is served in the very form of the real API: its status, headers, error code and body.
const (
	Throttle    Fault = "throttle"    // the API's way to say "slow down", with RetryAfter where it has a header or field for that
	Deny        Fault = "deny"        // the permission Action is missing
	Expired     Fault = "expired"     // the credentials have run out
	Hang        Fault = "hang"        // no answer until the client goes away
	Unavailable Fault = "unavailable" // an error of the server that is no throttling: 500
	Garbage     Fault = "garbage"     // status 200 and a body that cannot be read
	Partial     Fault = "partial"     // the page is served together with the API's way to say that something is missing
	Loop        Fault = "loop"        // the page is served, and points to itself as the next one
)

// RetryAfter is what a fake's Throttle asks for, where the API can say it.
const RetryAfter = 3 * time.Second

// Address is where workload n runs, 1 <= n < 65536.
func Address(n int) netip.Addr { return netip.AddrFrom4([4]byte{10, 1, byte(n >> 8), byte(n)}) }

// Items returns the workloads first to last.
func Items(first, last int) []Item {
	var items []Item
	for n := first; n <= last; n++ {
		items = append(items, Item{N: n})
	}
	return items
}

// Lister checks what the framework relies on against rigs that open makes, one for each case.
func Lister(t *testing.T, open func(t *testing.T) ListerRig) {
	for _, c := range []struct {
		name string
		test func(*testing.T, *listerRig)
	}{
		{"scopes", listScopes},
		{"pages", listPages},          // three pages with an empty one in the middle
		{"duplicates", listTwice},     // an item on two pages
		{"gone", listGone},            // an item that went away during the listing
		{"malformed", listMalformed},  // one item that cannot be read
		{"throttle", listThrottled},   // twice, then success
		{"deny", listDenied},          // for good
		{"timeout", listTimeout},      // the API hangs
		{"cancel", listCancelled},     // in the middle of a listing
		{"partial", listPartial},      // the API says that something is missing
		{"expired", listExpired},      // credentials run out between two pages
		{"unavailable", listBroken},   // a page fails
		{"garbage", listGarbage},      // a page cannot be read
		{"loop", listLoop},            // a page that points to itself
		{"budget", listWithoutBudget}, // no request without the right to make it
	} {
		t.Run(c.name, func(t *testing.T) {
			r := &listerRig{ListerRig: open(t)}
			if why := r.Lacks[c.name]; why != "" {
				t.Skip("this API cannot have the case: " + why)
			}
			if r.Number == nil {
				r.Number = numberOf
			}
			if r.Cost == nil {
				r.Cost = func(w World) int { return len(w.Pages) }
			}
			r.Within = cmp.Or(r.Within, 10*time.Second)
			ignore := goleak.IgnoreCurrent() // the goroutines of the fake are not the adapter's
			c.test(t, r)
			if r.Close != nil {
				r.Close()
			}
			goleak.VerifyNone(t, ignore)
		})
	}
}

const mostRequests = 200 // more than any case needs: an adapter that goes on has lost its way

type listerRig struct{ ListerRig }

// purse is a budget that counts, and ends what goes on for ever.
type purse struct {
	spent atomic.Int64
	most  int64
}

var errSpent = errors.New("the budget is used up")

func (p *purse) Wait(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if p.spent.Add(1) > p.most {
		return errSpent
	}
	return nil
}

// list lists the scope once and checks what holds for every answer.
func (r *listerRig) list(t *testing.T, ctx context.Context) (poll.Listing, error) {
	t.Helper()
	before, p := r.Requests(), &purse{most: mostRequests}
	l, err := r.Lister.List(ctx, r.Scope, p)
	made := r.Requests() - before
	if int(p.spent.Load()) < made {
		t.Errorf("List made %d requests and waited for the budget %d times: it must wait before each", made, p.spent.Load())
	}
	if err == nil && l.Calls != made {
		t.Errorf("Listing.Calls is %d, the API had %d requests", l.Calls, made)
	}
	if err != nil && len(l.Records) > 0 {
		t.Errorf("List returned %d records together with an error: %v", len(l.Records), err)
	}
	return l, err
}

// want checks that the listing holds exactly these workloads, each with what every adapter must fill in.
func (r *listerRig) want(t *testing.T, l poll.Listing, numbers ...int) {
	t.Helper()
	byID, got := map[string]int{}, []int{}
	for _, rec := range l.Records {
		n := r.Number(rec)
		if before, twice := byID[rec.ID]; twice && before != n {
			t.Errorf("workloads %d and %d have one ID, %q", before, n, rec.ID)
		}
		if _, twice := byID[rec.ID]; !twice {
			got = append(got, n)
		}
		byID[rec.ID] = n
		r.wantFilledIn(t, rec)
	}
	slices.Sort(got)
	slices.Sort(numbers)
	if !slices.Equal(got, numbers) {
		t.Errorf("listed workloads %v, want %v", got, numbers)
	}
}

func (r *listerRig) wantFilledIn(t *testing.T, rec poll.Record) {
	t.Helper()
	switch {
	case rec.ID == "":
		t.Errorf("record %+v has no ID", rec)
	case rec.Kind == "":
		t.Errorf("record %s has no Kind", rec.ID)
	case rec.State != poll.StateRunning:
		t.Errorf("record %s is %q, want running", rec.ID, rec.State)
	case len(rec.Addresses) == 0 && rec.Host == "":
		t.Errorf("record %s has neither address nor host", rec.ID)
	case rec.Account != "" && r.Scope.Account != "" && rec.Account != r.Scope.Account:
		t.Errorf("record %s is of account %q, listed in %q", rec.ID, rec.Account, r.Scope.Account)
	}
}

// wantAll checks that one List gives exactly these workloads, completely, in exactly as many requests as it costs.
func (r *listerRig) wantAll(t *testing.T, w World, numbers ...int) poll.Listing {
	t.Helper()
	r.Serve(t, w)
	ctx, cancel := context.WithTimeout(t.Context(), r.Within)
	defer cancel()
	l, err := r.list(t, ctx)
	if err != nil {
		t.Fatalf("List: %v", err)
	}
	if l.Partial != nil {
		t.Errorf("the listing is partial: %v", l.Partial)
	}
	r.want(t, l, numbers...)
	if got, want := r.Requests(), r.Cost(w); got != want {
		t.Errorf("List made %d requests, want exactly %d", got, want)
	}
	return l
}

func numberOf(rec poll.Record) int {
	if len(rec.Addresses) == 0 {
		return 0
	}
	a := rec.Addresses[0].As16()
	return int(a[14])<<8 | int(a[15])
}

// wantEnd checks that List ends by itself soon after over was closed, with an error of which is is in the tree, if any.
func (r *listerRig) wantEnd(t *testing.T, ctx context.Context, over <-chan struct{}, is error) {
	t.Helper()
	ended := make(chan error, 1)
	go func() {
		_, err := r.list(t, ctx)
		ended <- err
	}()
	select {
	case <-over:
	case <-time.After(r.Within):
		t.Fatal("nothing happened")
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Fatal("List returned no error, but could not have learnt all")
		}
		if is != nil && !errors.Is(err, is) {
			t.Errorf("List returned %q, want an error with %q in its tree", err, is)
		}
	case <-time.After(r.Within):
		t.Fatalf("List has not returned %v after the end of its context", r.Within)
	}
}

func quoteFault(w World) string {
	for _, p := range w.Pages {
		if p.Fault != "" {
			return fmt.Sprintf("fault %q (%d times)", p.Fault, cmp.Or(p.Times, -1))
		}
	}
	return "no fault"
}
