package poll

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tradewind-mesh/tradewind/federation"
)

// The limits of one listing, in the hands of an adapter. What goes beyond them was not meant for us.
const (
	MaxPages     = 2000
	MaxGathered  = 200_000 // workloads; the source itself says it better, but only when the listing has ended
	MaxAddresses = 16      // addresses of one workload: a node of EKS or AKS has hundreds, those of its pods
)

// Spending makes the requests of one listing.
type Spending struct {
	Budget Budget // nil: not limited
	Calls  int    // requests made
}

// Wait returns when one more request may be made, which it counts. Its error ends the listing.
func (s *Spending) Wait(ctx context.Context) error {
	if s.Budget != nil {
		if err := s.Budget.Wait(ctx); err != nil {
			return Halt(fmt.Errorf("wait for the budget of requests: %w", err))
		}
	}
	s.Calls++
	return nil
}

type haltError struct{ error }

func (e haltError) Unwrap() error { return e.error }

// Halt returns err as one that ends the whole listing, whatever was asked: the context or the budget has ended, or every further
// request would fail.
func Halt(err error) error { return haltError{err} }

// Halted reports whether no further request is to be made.
func Halted(err error) bool {
	var h haltError
	return errors.As(err, &h)
}

// Gathering is what one listing has come to so far. T is a workload in the form in which the adapter keeps it.
type Gathering[T any] struct {
	Found   []T
	Bad     []BadItem
	Partial []error // why it is known to miss something

	at map[string]int
}

// Add keeps the workload that id names. One that moved to another page during the listing is there twice: the later one counts.
func (g *Gathering[T]) Add(id string, workload T) error {
	if at := g.Get(id); at != nil {
		*at = workload
		return nil
	}
	if err := g.room(); err != nil {
		return err
	}
	if g.at == nil {
		g.at = map[string]int{}
	}
	g.at[id] = len(g.Found)
	g.Found = append(g.Found, workload)
	return nil
}

// Get returns the workload that was added under id, nil if none was. It may be changed; an Add may move it.
func (g *Gathering[T]) Get(id string) *T {
	if n, has := g.at[id]; has {
		return &g.Found[n]
	}
	return nil
}

// Delete drops the workloads of which gone is true.
func (g *Gathering[T]) Delete(gone func(T) bool) {
	g.Found = slices.DeleteFunc(g.Found, gone)
	g.at = nil // what is found is looked up while it is gathered, and it has been
}

// Spoilt notes a workload that could not be read.
func (g *Gathering[T]) Spoilt(id string, err error) error {
	if err := g.room(); err != nil {
		return err
	}
	g.Bad = append(g.Bad, BadItem{ID: id, Err: err})
	return nil
}

func (g *Gathering[T]) room() error {
	if len(g.Found)+len(g.Bad) >= MaxGathered {
		return fmt.Errorf("there are more than %d workloads in one scope: narrow it", MaxGathered)
	}
	return nil
}

// Missing notes why the listing is not complete, once for each reason.
func (g *Gathering[T]) Missing(err error) {
	if !slices.ContainsFunc(g.Partial, func(e error) bool { return e.Error() == err.Error() }) {
		g.Partial = append(g.Partial, err)
	}
}

// Listing returns what was gathered, with the workloads as records.
func (g *Gathering[T]) Listing(calls int, record func(T) Record) Listing {
	l := Listing{Bad: g.Bad, Partial: errors.Join(g.Partial...), Calls: calls}
	for _, workload := range g.Found {
		l.Records = append(l.Records, record(workload))
	}
	return l
}

// Running returns an address of each workload that runs, sorted. of returns its record, and the addresses of which the first will do: the
// others are the same machine.
func Running[T any](found []T, of func(*T) (*Record, []netip.Addr)) []netip.Addr {
	var all []netip.Addr
	for i := range found {
		if r, has := of(&found[i]); r.State == StateRunning && len(has) > 0 {
			all = append(all, has[0])
		}
	}
	slices.SortFunc(all, netip.Addr.Compare)
	return slices.Compact(all)
}

// HasTags reports whether labels have all that are wanted. An empty value means that the tag exists.
func HasTags(labels, wanted map[string]string) bool {
	for k, want := range wanted {
		if got, has := labels[k]; !has || want != "" && got != want {
			return false
		}
	}
	return true
}

// ErrLoop says that a listing would never end.
var ErrLoop = errors.New("the provider's answer points to a page that it gave before")

// Pages calls read for each page: with an empty token first, then with the one that the call before returned.
func Pages(read func(token string) (next string, err error)) error {
	token, seen := "", map[string]bool{}
	for {
		next, err := read(token)
		if err != nil {
			return err
		}
		if next == "" { // an empty page may be followed by others: the token alone says
			return nil
		}
		if seen[next] || len(seen) >= MaxPages {
			return ErrLoop
		}
		seen[next] = true
		token = next
	}
}

// The types of address, as go-discover names them.
const (
	PrivateV4 = "private_v4"
	PublicV4  = "public_v4"
	PrivateV6 = "private_v6"
)

// AddressSet are a workload's addresses, by type.
type AddressSet struct{ Private, V6, Public AddressList }

// AddressList are addresses of one type, each once.
type AddressList []netip.Addr

// Add adds an address in text form, which may be empty.
func (l *AddressList) Add(text string) error {
	if text == "" {
		return nil
	}
	a, err := netip.ParseAddr(strings.ToValidUTF8(text[:min(len(text), 64)], ""))
	if err != nil {
		return fmt.Errorf("read address: %w", err)
	}
	if a = a.Unmap().WithZone(""); !slices.Contains(*l, a) {
		*l = append(*l, a)
	}
	return nil
}

// Of returns those of one type.
func (s *AddressSet) Of(kind string) []netip.Addr {
	switch kind {
	case PublicV4:
		return s.Public
	case PrivateV6:
		return s.V6
	}
	return s.Private
}

// InOrder returns them with the wanted type first. A workload that has none of that type keeps its others.
func (s *AddressSet) InOrder(wanted string) []netip.Addr {
	all := slices.Clone(s.Of(wanted))
	for _, kind := range []string{PrivateV4, PrivateV6, PublicV4} {
		if kind != wanted {
			all = append(all, s.Of(kind)...)
		}
	}
	return slices.Clip(all[:min(len(all), MaxAddresses)])
}

// Worse returns the worse of two signals that an adapter has of one workload. Unknown is worse than passing here: a check that is
// there and does not say yes.
func Worse(a, b federation.Health) federation.Health {
	rank := [...]int{federation.HealthPassing: 1, federation.HealthUnknown: 2, federation.HealthDraining: 3, federation.HealthFailing: 4}
	if rank[b] > rank[a] {
		return b
	}
	return a
}
