package providertest

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"go.uber.org/goleak"
)

// Source is what is tested; the registry's Source.
type Source interface {
	Run(ctx context.Context, publish func([]federation.Instance)) error
}

// Rig is a source and the outside world that it looks at, in the hands of the test.
type Rig struct {
	Source Source
	// Set makes the outside world hold exactly these instances. The suite uses the services "web" and "shop/cart" and documentation
	// addresses.
	Set func(t *testing.T, instances []federation.Instance)
	// Gradual says that Set changes the world step by step, so that sets between the former and the new one are true too.
	Gradual bool
	// Break makes every look at the outside world fail, as an outage or damage does; Repair ends that. Nil when there is
	// no such failure.
	Break, Repair func(t *testing.T)
	// Within is by when a change must be published. Default 10 s; it is no measure of speed.
	Within time.Duration
	// Quiet is how long a broken source is listened to. It should span several looks. Default 200 ms.
	Quiet time.Duration
	// Describe reduces an instance to what must come through. Default: ID, service, address and health, which is all that the
	// suite sets; a provider that makes IDs of its own leaves them out.
	Describe func(federation.Instance) string
}

// Run checks the contract against rigs that open makes, one for each part.
func Run(t *testing.T, open func(t *testing.T) Rig) {
	for _, part := range []struct {
		name string
		test func(*testing.T, *rig)
	}{
		{"publishes complete sets", completeSets},
		{"an empty world is a set too", emptyWorld},
		{"a failure publishes nothing", failure},
		{"a failure at the start publishes nothing", failureAtStart},
		{"stops promptly and can be run again", stops},
		{"leaves published sets alone", immutable},
	} {
		t.Run(part.name, func(t *testing.T) {
			r := &rig{Rig: open(t), news: make(chan struct{}, 1)}
			ignore := goleak.IgnoreCurrent() // the goroutines of the world, such as servers, are not the source's
			r.Within, r.Quiet = cmp.Or(r.Within, 10*time.Second), cmp.Or(r.Quiet, 200*time.Millisecond)
			if r.Describe == nil {
				r.Describe = describe
			}
			part.test(t, r)
			goleak.VerifyNone(t, ignore)
		})
	}
}

// rig listens to a source.
type rig struct {
	Rig
	news    chan struct{}
	running atomic.Bool // between the call of Run and its return
	inside  atomic.Int32

	mu      sync.Mutex
	sets    [][]federation.Instance // as published
	seen    [][]string              // what they said when they were published
	checked int                     // how many of them were looked at
}

// start runs the source. The returned function stops it and checks that it ends as it must.
func (r *rig) start(t *testing.T) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	r.running.Store(true)
	go func() {
		err := r.Source.Run(ctx, func(set []federation.Instance) { r.publish(t, set) })
		r.running.Store(false)
		ended <- err
	}()
	return func() {
		t.Helper()
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("Run returned %v after its context was cancelled, want nil", err)
			}
		case <-time.After(2 * time.Second):
			t.Fatal("Run has not returned 2 s after its context was cancelled")
		}
	}
}

// publish is the function that the source is given.
func (r *rig) publish(t *testing.T, set []federation.Instance) {
	if r.inside.Add(1) != 1 {
		t.Error("publish is called by two goroutines at a time")
	}
	defer r.inside.Add(-1)
	if !r.running.Load() {
		t.Error("publish is called while Run does not run")
	}
	r.mu.Lock()
	r.sets, r.seen = append(r.sets, set), append(r.seen, r.describeAll(set))
	r.mu.Unlock()
	select {
	case r.news <- struct{}{}:
	default:
	}
}

// await waits until the newest set is want. Each set on the way must be want or one of allowed: those the world held before.
func (r *rig) await(t *testing.T, want []federation.Instance, allowed ...[]federation.Instance) {
	t.Helper()
	goal := r.describeAll(want)
	deadline := time.After(r.Within)
	for {
		r.check(t, append(slices.Clone(allowed), want)...)
		if last := r.last(); last != nil && slices.Equal(last, goal) {
			return
		}
		select {
		case <-r.news:
		case <-deadline:
			t.Fatalf("after %v the newest set is\n%s\nwant\n%s", r.Within, strings.Join(r.last(), "\n"), strings.Join(goal, "\n"))
		}
	}
}

// check looks at the sets that nobody has looked at yet: each must be one of allowed.
func (r *rig) check(t *testing.T, allowed ...[]federation.Instance) {
	t.Helper()
	r.mu.Lock()
	fresh := r.seen[r.checked:]
	r.checked = len(r.seen)
	r.mu.Unlock()
	for _, got := range fresh {
		if !r.legal(got, allowed) {
			t.Fatalf("published a set that the world did not hold, or that could not be seen:\n%s", strings.Join(got, "\n"))
		}
	}
}

// legal reports whether got is one of allowed, or for a gradual world between them: nothing that is in none, and all that is
// in each.
func (r *rig) legal(got []string, allowed [][]federation.Instance) bool {
	union, inAll := map[string]bool{}, map[string]int{}
	for _, a := range allowed {
		set := r.describeAll(a)
		if slices.Equal(set, got) {
			return true
		}
		for _, in := range set {
			union[in] = true
			inAll[in]++
		}
	}
	if !r.Gradual {
		return false
	}
	for in, n := range inAll {
		if n == len(allowed) && !slices.Contains(got, in) {
			return false
		}
	}
	return !slices.ContainsFunc(got, func(in string) bool { return !union[in] })
}

// count returns how many sets were published.
func (r *rig) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.seen)
}

// last returns the newest set, nil when there is none.
func (r *rig) last() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.seen) == 0 {
		return nil
	}
	return r.seen[len(r.seen)-1]
}

func (r *rig) describeAll(set []federation.Instance) []string {
	out := make([]string, 0, len(set))
	for _, in := range set {
		out = append(out, r.Describe(in))
	}
	slices.Sort(out)
	return out
}

func describe(in federation.Instance) string {
	return fmt.Sprintf("%v %s %v %v", in.Service, in.ID, in.Address, in.Health)
}

// full writes down all of a set, to find changes made behind our back.
func full(set []federation.Instance) string {
	var b strings.Builder
	for _, in := range set {
		fmt.Fprintf(&b, "%v %s %v %v %v %v %v ", in.Service, in.ID, in.Address, in.Health, in.Weight, in.Protocol, in.Locality)
		for _, k := range slices.Sorted(maps.Keys(in.Labels)) {
			fmt.Fprintf(&b, "%s=%s ", k, in.Labels[k])
		}
		fmt.Fprintf(&b, "%v\n", in.Checks)
	}
	return b.String()
}
