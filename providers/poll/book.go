package poll

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// ScopeState says how far what is known of a scope can be relied on.
type ScopeState string

// The states of a scope. In all but the first the last that was learnt stays in use, until the TTL.
const (
	ScopeOK        ScopeState = "ok"
	ScopeStale     ScopeState = "stale" // from the last run's snapshot, or the newest listing was partial
	ScopeThrottled ScopeState = "throttled"
	ScopeDenied    ScopeState = "denied"
	ScopeFailed    ScopeState = "failed"
	ScopeHeld      ScopeState = "held" // the newest listing shrank too much to be believed at once
	ScopePending   ScopeState = "pending"
)

// ScopeStates lists the states, for metrics.
func ScopeStates() []ScopeState {
	return []ScopeState{ScopeOK, ScopeStale, ScopeThrottled, ScopeDenied, ScopeFailed, ScopeHeld, ScopePending}
}

const (
	shrinkLeast = 5      // removals below this are everyday work
	maxBadKept  = 16     // unreadable items shown for one scope: enough to see the pattern
	maxRecords  = 50_000 // of a source; a listing beyond it is a lost filter, not a workload
)

// entry is one record as a scope lists it.
type entry struct {
	scope   Scope
	rec     Record
	seen    time.Time // when a listing last had it
	claims  []claim
	refusal refusal // why it claims nothing
	overlap refusal // why its claims are not used
	home    home    // as the site has found out
}

func (e *entry) compare(f *entry) int {
	return cmp.Or(strings.Compare(e.rec.ID, f.rec.ID), strings.Compare(e.scope.String(), f.scope.String()))
}

// page is what is known of one scope.
type page struct {
	scope        Scope
	entries      map[string]*entry // by record ID
	lastComplete time.Time
	held         bool // the last complete listing waits for a second one
	bad          []BadItem
	badCount     int
	problem      *federation.Diagnostic
	state        ScopeState
	changes      int // of records, ever
	withdrawn    int // since the last listing, because they were too old
}

// book is what is known of all scopes. It decides what a listing may change, and knows no clock of its own.
type book struct {
	ttl     time.Duration // negative: nothing is ever too old
	pages   map[Scope]*page
	sites   *sites
	entries int
}

func newBook(rules []federation.Discover, ttl time.Duration) *book {
	return &book{ttl: ttl, pages: map[Scope]*page{}, sites: newSites(rules)}
}

// page returns the page of a scope, a new one when it is not known.
func (b *book) page(scope Scope) *page {
	if b.pages[scope] == nil {
		b.pages[scope] = &page{scope: scope, entries: map[string]*entry{}, state: ScopePending}
	}
	return b.pages[scope]
}

// learn takes a listing of scope.
func (b *book) learn(scope Scope, l Listing, now time.Time) {
	p := b.page(scope)
	if b.entries-len(p.entries)+len(l.Records) > maxRecords {
		b.fail(scope, &federation.Diagnostic{Code: federation.CodeProviderTooLarge, What: fmt.Sprintf("%v lists %d workloads", scope, len(l.Records)),
			Why: fmt.Sprintf("a provider may have %d; the last listing stays in use", maxRecords), Fix: "narrow what the provider block lists"})
		return
	}
	before := len(p.entries)
	p.bad, p.badCount, p.withdrawn = nil, 0, 0
	listed := make(map[string]bool, len(l.Records)) // true: its record was taken, false: it is there but could not be read
	unknowable := false                             // an item that could not be read might be any that is missing
	for _, bad := range l.Bad {
		unknowable = unknowable || bad.ID == ""
		b.keepBad(p, bad, listed, now)
	}
	for _, rec := range l.Records {
		rec.Account, rec.Region = cmp.Or(rec.Account, scope.Account), cmp.Or(rec.Region, scope.Region)
		rec, err := clean(rec)
		if err != nil {
			unknowable = unknowable || rec.ID == ""
			b.keepBad(p, BadItem{rec.ID, err}, listed, now)
			continue
		}
		if listed[rec.ID] {
			continue // an item that moved to the next page while they were read; the first stays, so that two never alternate
		}
		listed[rec.ID] = true
		b.put(p, rec, now)
	}
	p.problem, p.state = nil, ScopeOK
	if p.badCount > 0 {
		p.problem = badItems(scope, p)
	}
	switch err := l.Partial; {
	case err == nil && unknowable:
		b.partial(p, errors.New("items without an ID could not be read"))
	case err != nil:
		b.partial(p, err)
	default:
		b.complete(p, listed, before, now)
	}
}

// keepBad notes an item that could not be read. What is known of it stays.
func (b *book) keepBad(p *page, bad BadItem, listed map[string]bool, now time.Time) {
	p.badCount++
	if len(p.bad) < maxBadKept {
		p.bad = append(p.bad, BadItem{strings.ToValidUTF8(bad.ID[:min(len(bad.ID), maxID)], ""), bad.Err})
	}
	if bad.ID == "" {
		return
	}
	if e := p.entries[bad.ID]; e != nil {
		listed[bad.ID], e.seen = false, now
		return
	}
	for id := range p.entries { // as much of the ID as could be read
		if strings.HasPrefix(id, bad.ID) {
			listed[id] = false
		}
	}
}

// partial notes that a listing is known to miss something.
func (b *book) partial(p *page, why error) {
	p.state = ScopeStale
	p.problem = &federation.Diagnostic{Code: federation.CodeProviderPartial, What: fmt.Sprintf("the listing of %v is not complete", p.scope),
		Why: why.Error(), Fix: "nothing was removed; mend the cause if it lasts", Err: why}
}

// complete removes what a complete listing does not have, unless that is too much at once to be believed. The scope had before
// workloads when the listing came.
func (b *book) complete(p *page, listed map[string]bool, before int, now time.Time) {
	var gone []*entry
	for id, e := range p.entries {
		if _, there := listed[id]; !there {
			gone = append(gone, e)
		}
	}
	if !p.held && len(gone) >= shrinkLeast && 2*len(gone) > before {
		p.held, p.state = true, ScopeHeld
		p.problem = &federation.Diagnostic{Code: federation.CodeProviderHeld,
			What: fmt.Sprintf("%v lists %d workloads fewer than before", p.scope, len(gone)),
			Why:  fmt.Sprintf("that is more than half of %d; a second listing must confirm it", before),
			Fix:  "wait for the next listing, or have it at once: tradewind provider sync NAME"}
		return
	}
	for _, e := range gone {
		b.drop(p, e)
	}
	p.held, p.lastComplete = false, now
}

// put makes rec the record of its ID. A record that did not change costs nothing more.
func (b *book) put(p *page, rec Record, now time.Time) {
	old := p.entries[rec.ID]
	if old != nil && sameRecord(&old.rec, &rec) {
		old.seen = now
		return
	}
	if old != nil {
		b.drop(p, old)
	}
	e := &entry{scope: p.scope, rec: rec, seen: now}
	p.entries[rec.ID] = e
	b.entries++
	b.sites.add(e)
	p.changes++
}

func (b *book) drop(p *page, e *entry) {
	delete(p.entries, e.rec.ID)
	b.entries--
	b.sites.remove(e)
	p.changes++
}

// fail notes that nothing was learnt of scope, and why.
func (b *book) fail(scope Scope, err error) {
	p := b.page(scope)
	p.problem, p.state = diagnose(scope.String(), err)
}

// vanish takes note that there is no such scope any more. It is believed like an empty listing of it: at once when little is lost.
func (b *book) vanish(scope Scope, now time.Time) {
	b.learn(scope, Listing{}, now)
	if !b.pages[scope].held {
		delete(b.pages, scope)
	}
}

// expire withdraws what was not seen for the TTL, and returns how much that was and when there can be more.
func (b *book) expire(now time.Time) (withdrawn int, next time.Time) {
	if b.ttl < 0 {
		return 0, now.Add(24 * time.Hour)
	}
	next = now.Add(b.ttl)
	for _, p := range b.pages {
		n := 0
		for _, e := range p.entries {
			if until := e.seen.Add(b.ttl); until.After(now) {
				next = earlier(next, until)
				continue
			}
			b.drop(p, e)
			n++
		}
		if n > 0 {
			p.withdrawn += n
			why := "its last complete listing is too old"
			if p.problem != nil {
				why = p.problem.Reason()
			}
			p.problem = &federation.Diagnostic{Code: federation.CodeProviderWithdrawn, What: fmt.Sprintf("%d workloads of %v were withdrawn", n, p.scope),
				Why: why, Fix: "mend the reason; they come back with the next listing that has them"}
		}
		withdrawn += n
	}
	return withdrawn, next
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// adopt takes over what another book knew of a scope: it is stale until it is listed.
func (b *book) adopt(scope Scope, lastComplete time.Time, records []keptRecord) {
	p := b.page(scope)
	p.state, p.lastComplete = ScopeStale, lastComplete
	for _, k := range records {
		if rec, err := clean(k.Record); err == nil && b.entries < maxRecords {
			b.put(p, rec, k.Seen)
		}
	}
}

// records returns what is known of the page's scope.
func (p *page) records() []keptRecord {
	out := make([]keptRecord, 0, len(p.entries))
	for _, e := range p.entries {
		out = append(out, keptRecord{e.rec, e.seen})
	}
	slices.SortFunc(out, func(a, b keptRecord) int { return strings.Compare(a.Record.ID, b.Record.ID) })
	return out
}

// known reports whether anything is known of any scope.
func (b *book) known() bool {
	for _, p := range b.pages {
		if !p.lastComplete.IsZero() || len(p.entries) > 0 {
			return true
		}
	}
	return false
}

func sameRecord(a, b *Record) bool {
	return a.ID == b.ID && a.Account == b.Account && a.Region == b.Region && a.Zone == b.Zone && a.Network == b.Network && a.Kind == b.Kind &&
		slices.Equal(a.Addresses, b.Addresses) && a.Host == b.Host && slices.Equal(a.Ports, b.Ports) && a.State == b.State &&
		a.Health == b.Health && a.Service == b.Service && a.Namespace == b.Namespace && a.Weight == b.Weight && maps.Equal(a.Labels, b.Labels)
}
