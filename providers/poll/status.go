package poll

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Status is where a provider stands.
type Status struct {
	Scopes    []ScopeStatus
	Workloads int // in use or not
	Instances int // of the last published set
	Ignored   []Ignored
	Problem   *federation.Diagnostic // the worst there is; nil: none
}

// ScopeStatus is where the listing of one scope stands.
type ScopeStatus struct {
	Scope        Scope
	State        ScopeState
	Watching     bool
	LastComplete time.Time // zero: never
	Next         time.Time // when it is listed again; zero while it is listed
	Workloads    int
	Calls        int64 // requests since the start
	Throttles    int64 // times the provider asked to slow down
	Failures     int   // in a row
	BadItems     int   // of the newest listing
	Bad          []BadItem
	Problem      *federation.Diagnostic
}

// Ignored are the workloads that are not used for one reason.
type Ignored struct {
	Reason   Reason
	Count    int
	Examples []IgnoredWorkload // the first in order of ID, at most 20
}

// IgnoredWorkload is a workload that is not used.
type IgnoredWorkload struct {
	Scope Scope
	ID    string
	Why   string
}

const maxExamples = 20 // enough to see the pattern

// Status returns where the source stands. It may be called from any goroutine.
func (s *Source) Status() Status {
	out := Status{Problem: s.trouble()}
	s.mu.Lock()
	defer s.mu.Unlock()
	out.Workloads, out.Instances, out.Ignored = s.book.entries, s.instances, s.book.ignored(func(*entry) bool { return true })
	for scope, p := range s.book.pages {
		st := ScopeStatus{Scope: scope, State: p.state, LastComplete: p.lastComplete, Workloads: len(p.entries), BadItems: p.badCount,
			Bad: slices.Clone(p.bad), Problem: p.problem}
		if r := s.runs[scope]; r != nil {
			st.Watching, st.Calls, st.Throttles, st.Failures = r.watching, r.calls, r.throttles, r.failures
			if r.begun == r.done && !r.watching {
				st.Next = r.next
			}
		}
		out.Scopes = append(out.Scopes, st)
	}
	slices.SortFunc(out.Scopes, func(a, b ScopeStatus) int { return strings.Compare(a.Scope.String(), b.Scope.String()) })
	return out
}

// LeftOut returns the workloads that say they are service and are not used as anything, by reason. Those that are merely stopped are
// not among them.
func (s *Source) LeftOut(service federation.ServiceName) []Ignored {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.book.ignored(func(e *entry) bool { return e.refusal.reason != ReasonStopped && e.means(service) })
}

// means reports whether e's tags or the provider say that it is service, allowed or not. A workload that says no namespace may be of
// any.
func (e *entry) means(service federation.ServiceName) bool {
	if len(e.claims) > 0 {
		return slices.ContainsFunc(e.claims, func(c claim) bool { return c.service == service })
	}
	named, ports, namespace, port := []string{e.rec.Service}, []string{}, e.rec.Namespace, false
	for label, value := range e.rec.Labels {
		key := tagKey(label)
		name, further := strings.CutPrefix(key, "port.")
		switch {
		case key == tagService:
			named = append(named, value)
		case key == tagNamespace:
			namespace = value
		case key == tagPort:
			port = true
		case further:
			ports = append(ports, "-"+name)
		}
	}
	if port || len(ports) == 0 {
		ports = append(ports, "")
	}
	return slices.ContainsFunc(named, func(text string) bool {
		ns, name, full := strings.Cut(text, "/")
		if !full {
			ns, name = namespace, text
		}
		return (ns == "" || ns == service.Namespace) && slices.ContainsFunc(ports, func(port string) bool { return name+port == service.Name })
	})
}

// ignored returns the workloads that are not used and of which wanted is true, in order of reason.
func (b *book) ignored(wanted func(*entry) bool) []Ignored {
	by := map[Reason][]*entry{}
	for _, p := range b.pages {
		for _, e := range p.entries {
			if r := e.ignored(); r.reason != "" && wanted(e) {
				by[r.reason] = append(by[r.reason], e)
			}
		}
	}
	var out []Ignored
	for reason, entries := range by {
		slices.SortFunc(entries, (*entry).compare)
		ig := Ignored{Reason: reason, Count: len(entries)}
		for _, e := range entries[:min(len(entries), maxExamples)] {
			ig.Examples = append(ig.Examples, IgnoredWorkload{e.scope, e.rec.ID, e.ignored().why})
		}
		out = append(out, ig)
	}
	slices.SortFunc(out, func(x, y Ignored) int { return cmp.Compare(x.Reason, y.Reason) })
	return out
}

func (e *entry) ignored() refusal { return cmp.Or(e.refusal, e.overlap) }

// overlap says that workloads of two networks have the same address, if there are any.
func (b *book) overlap() *federation.Diagnostic {
	for _, ig := range b.ignored(func(e *entry) bool { return e.overlap.reason == ReasonOverlap }) {
		return &federation.Diagnostic{Code: federation.CodeProviderOverlap,
			What: fmt.Sprintf("%d workloads have an address that another network uses too", ig.Count),
			Why:  ig.Examples[0].Why,
			Fix:  "say which networks this gateway reaches: discover { networks = [\"...\"] }"}
	}
	return nil
}

// Problem returns why what is in use is not the newest there is, a *federation.Diagnostic, or nil. It satisfies the registry's
// Troubled.
func (s *Source) Problem() error {
	if d := s.trouble(); d != nil {
		return d
	}
	return nil
}

// trouble returns the first of what is wrong, by how much it costs.
func (s *Source) trouble() *federation.Diagnostic {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.scopesErr != nil {
		return s.scopesErr
	}
	var worst *page
	for _, p := range s.book.pages {
		if p.problem != nil && (worst == nil || p.before(worst)) {
			worst = p
		}
	}
	if worst != nil {
		return worst.problem
	}
	if d := s.book.overlap(); d != nil {
		return d
	}
	if d := s.book.sites.unresolved(); d != nil {
		return d
	}
	return s.fileErr
}

// before orders pages with a problem by how much it costs.
func (p *page) before(q *page) bool {
	rank := func(p *page) int {
		return slices.Index([]ScopeState{ScopeDenied, ScopeFailed, ScopeThrottled, ScopeHeld, ScopeStale, ScopeOK}, p.state)
	}
	return cmp.Or(cmp.Compare(rank(p), rank(q)), strings.Compare(p.scope.String(), q.scope.String())) < 0
}

// Exports returns the peers that each service is to be shown to because the tags of its workloads ask for it and the discover rule
// that they are used by allows it.
func (s *Source) Exports() map[federation.ServiceName][]string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.book.sites.exports()
}

// Sync lists all scopes at once, whatever their schedule says, and waits until each has been listed or ctx ends. The budget holds
// for it too.
func (s *Source) Sync(ctx context.Context) error {
	s.mu.Lock()
	rounds := s.rounds + 1
	goal := map[*run]int{}
	s.mu.Unlock()
	Poke(s.again)
	for asked := false; ; {
		s.mu.Lock()
		told := s.told
		open := s.rounds < rounds
		if !open && !asked {
			asked = true
			for _, r := range s.runs {
				goal[r] = r.begun + 1
				Poke(r.poke)
			}
		}
		for r, n := range goal {
			open = open || s.runs[r.scope] == r && r.done < n
		}
		s.mu.Unlock()
		if !open {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the listings of provider %s: %w", s.cfg.Name, ctx.Err())
		case <-told:
		}
	}
}

// Tested is the outcome of listing one scope, or of asking for the scopes when Scope is zero.
type Tested struct {
	Scope     Scope
	Workloads int
	Calls     int
	Took      time.Duration
	Missing   string // the permission, exactly as the provider names it
	Problem   *federation.Diagnostic
}

// Test asks l for its scopes and lists each once. What is in use is not touched.
func Test(ctx context.Context, l Lister, budgets *Budgets) []Tested {
	s := New(Config{Lister: l, Budgets: budgets})
	began := time.Now()
	scopes, err := s.scopes(ctx)
	if err != nil {
		return []Tested{tested(Tested{Took: time.Since(began)}, "what there is", err)}
	}
	out := make([]Tested, len(scopes))
	var group sync.WaitGroup
	for i, scope := range scopes {
		s.slot <- struct{}{}
		group.Go(func() {
			defer func() { <-s.slot }()
			began := time.Now()
			var listing Listing
			err := s.guarded("list", func() (err error) {
				listing, err = l.List(ctx, scope, s.cfg.Budgets.Of(scope))
				return err
			})
			if err == nil && listing.Partial != nil {
				err = listing.Partial
			}
			out[i] = tested(Tested{Scope: scope, Workloads: len(listing.Records), Calls: listing.Calls, Took: time.Since(began)}, scope.String(), err)
		})
	}
	group.Wait()
	return out
}

func tested(t Tested, what string, err error) Tested {
	if err == nil {
		return t
	}
	t.Problem, _ = diagnose(what, err)
	var denied *DeniedError
	if errors.As(err, &denied) {
		t.Missing = denied.Action
	}
	return t
}
