// Package double is what the doubles of the clouds have in common: how a test or the demo holds one, and how a list is cut into pages.
// It imports nothing that belongs to tests: the demo has doubles too.
package double

import (
	"cmp"
	"slices"
	"sync"
	"time"
)

// Fault is a way to fail. Each double says which ones it knows, and serves them in the form of its API.
type Fault string

// Loop is the fault of a page that points to itself.
const Loop Fault = "loop"

// Failure is what a request fails with.
type Failure struct {
	Fault      Fault
	RetryAfter time.Duration // of "throttle", where the API can say it
	Place      string        // that is missing, of "partial", where the API says one
}

// Control is a double in the hands of whoever uses it. R is a request that has come. The fields are set before the double serves, or
// under its lock.
type Control[R any] struct {
	// PageSize is the most that a page holds. Default: what the API allows and the caller asks for.
	PageSize int
	// Pages returns the sizes of the pages of a list of n things; nil: PageSize decides.
	Pages func(r R, n int) []int
	// Fail is asked about each request; nil, or what returns nil, lets it pass.
	Fail func(r R) *Failure

	sync.Mutex // of all that a double knows
	requests   []R
}

// Requests returns the requests since the start or the last Forget.
func (c *Control[R]) Requests() []R {
	c.Lock()
	defer c.Unlock()
	return slices.Clone(c.requests)
}

// Forget forgets the requests so far.
func (c *Control[R]) Forget() {
	c.Lock()
	defer c.Unlock()
	c.requests = nil
}

// Note keeps a request.
func (c *Control[R]) Note(r R) {
	c.Lock()
	defer c.Unlock()
	c.requests = append(c.requests, r)
}

// Meet keeps a request, and returns what it fails with.
func (c *Control[R]) Meet(r R) *Failure {
	c.Note(r)
	c.Lock()
	fail := c.Fail
	c.Unlock()
	if fail == nil {
		return nil
	}
	return fail(r) // not locked: it may end the client
}

// Page returns page n of all, from 0, of which r wants at most so many, and the next page that the answer to it names: -1 for none. The
// caller holds the lock. f is what r fails with.
func Page[R, T any](c *Control[R], r R, f *Failure, n, most int, all []T) (page []T, next int) {
	size := max(1, min(cmp.Or(c.PageSize, most), most))
	from, last := n*size, (n+1)*size >= len(all)
	if c.Pages != nil {
		if sizes := c.Pages(r, len(all)); sizes != nil {
			if n >= len(sizes) {
				return nil, -1
			}
			from, size, last = 0, sizes[n], n == len(sizes)-1
			for _, before := range sizes[:n] {
				from += before
			}
		}
	}
	from = min(from, len(all))
	page = all[from:min(from+size, len(all))]
	switch {
	case f != nil && f.Fault == Loop:
		return page, n
	case last:
		return page, -1
	}
	return page, n + 1
}
