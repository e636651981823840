package registry

import (
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"hash/maphash"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Store keeps registrations over restarts. Save and Delete have happened for good when they return nil. Keys are at most 600
// octets of printable ASCII; values at most a few KiB.
type Store interface {
	Save(ctx context.Context, key string, value []byte) error
	Delete(ctx context.Context, key string) error
	Load(ctx context.Context) (map[string][]byte, error)
}

// Beater passes heartbeats on to the TTL checks of an instance, and reports whether it has one.
type Beater interface {
	Beat(service federation.ServiceName, id federation.InstanceID, h federation.Health, output string) bool
}

// APIConfig configures an API source.
type APIConfig struct {
	Registry *Registry // whose instances can be drained
	Store    Store
	Beater   Beater // nil: heartbeats only set what the source says of its instances
	// MaxRegistrations is the most registrations and the most drain marks. Default 20,000, below the registry's limit for
	// one source, so that it is the caller who hears of it.
	MaxRegistrations int
	Log              *slog.Logger // default: discard
}

const (
	sweepEvery    = time.Second          // how late the end of a TTL may be written down; the check itself is exact
	settleDelay   = 5 * time.Millisecond // registrations that come together are published together
	loadPatience  = 5 * time.Second      // how long a call waits for the first load
	maxToken      = 256
	minDeregister = time.Minute // so that no pause of a host removes its registrations
)

// API is the source of instances that register themselves. What it has acknowledged survives a kill -9. Its methods may be
// called from any goroutine.
type API struct {
	cfg    APIConfig
	wake   chan struct{}
	seed   maphash.Seed
	writes [64]sync.Mutex // by key: the order of writes to the store is the order of changes here

	loaded chan struct{} // closed once the store was read

	mu      sync.Mutex
	regs    map[key]*registration
	drains  map[key]bool
	damaged map[string]string // stored records that cannot be read, by their key in the store, and why
}

// registration is one record and what is known of its heartbeats.
type registration struct {
	record // never changed in place once it is in API.regs
	beat   time.Time
}

// Ref names a registration and shows the right to change it.
type Ref struct {
	Service federation.ServiceName
	ID      federation.InstanceID
	Token   string // as given when it was registered; empty when none was
	Force   bool   // an administrator's word instead of the token
}

func (r Ref) key() key { return instanceKey(&federation.Instance{Service: r.Service, ID: r.ID}) }

// NewAPI returns an API source that answers once Run, which the registry calls, has read the store.
func NewAPI(cfg APIConfig) *API {
	cfg.MaxRegistrations = cmp.Or(cfg.MaxRegistrations, 20_000)
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	return &API{cfg: cfg, wake: make(chan struct{}, 1), seed: maphash.MakeSeed(), loaded: make(chan struct{}),
		regs: map[key]*registration{}, drains: map[key]bool{}}
}

// Terms are the conditions of a registration.
type Terms struct {
	Token string // its owner's; empty: anybody may change it
	// DeregisterAfter is how long after its TTL ran out the registration is removed for good; at least a minute. Default 0, never:
	// absence is not deletion, and a registration costs nothing while it fails.
	DeregisterAfter time.Duration
}

// Register adds an instance, or replaces the one of the same name if the token is the one it was registered with, and returns it as
// it is registered now, and whether it replaced another registration. It counts as a heartbeat. An instance that says no health is
// passing: who registers, lives. Without an error the registration is durable.
func (a *API) Register(ctx context.Context, in federation.Instance, terms Terms) (_ federation.Instance, replaced bool, _ error) {
	if in.Health == federation.HealthUnknown {
		in.Health = federation.HealthPassing
	}
	in.Service, in.Labels, in.Checks = instanceKey(&in).service, maps.Clone(in.Labels), slices.Clone(in.Checks)
	k := instanceKey(&in)
	next := &registration{record: record{Instance: in, Owner: ownerOf(terms.Token), Registered: time.Now().UTC(),
		DeregisterAfter: federation.Duration(terms.DeregisterAfter)}, beat: time.Now()}
	if err := next.refused(terms); err != nil {
		return in, false, err
	}
	unlock, err := a.begin(ctx, k)
	if err != nil {
		return in, false, err
	}
	defer unlock()
	old, count := a.lookup(k)
	if old != nil {
		if err := old.owned(Ref{Token: terms.Token}, k); err != nil {
			return in, false, err
		}
		next.Registered = old.Registered
	} else if count >= a.cfg.MaxRegistrations {
		return in, false, fullRegistrations(k, a.cfg.MaxRegistrations)
	}
	if old == nil || !old.same(&next.record) {
		if err := a.save(ctx, k, &next.record); err != nil {
			return in, false, err
		}
	}
	a.put(k, next)
	a.beat(k, in.Health, "registered")
	return in, old != nil, nil
}

// refused returns why r cannot be registered under terms, a *federation.Diagnostic, or nil.
func (r *record) refused(terms Terms) error {
	_, err := normalize(r.Instance, "any")
	if len(terms.Token) > maxToken {
		err = errors.Join(err, fmt.Errorf("its owner token has %d octets: at most %d are allowed", len(terms.Token), maxToken))
	}
	if terms.DeregisterAfter != 0 && (r.ttl() == 0 || terms.DeregisterAfter < minDeregister) {
		err = errors.Join(err, fmt.Errorf("deregister_after needs a ttl check of the instance's own, and is at least %v", minDeregister))
	}
	if err == nil {
		return nil
	}
	return &federation.Diagnostic{Code: federation.CodeInstanceRefused, What: fmt.Sprintf("%v cannot be registered", instanceKey(&r.Instance)),
		Why: plain(err), Fix: "mend it and repeat the call; nothing has changed", Err: err}
}

// Deregister removes a registration and the drain mark of its instance.
func (a *API) Deregister(ctx context.Context, ref Ref) error {
	k := ref.key()
	unlock, err := a.begin(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	old, _ := a.lookup(k)
	if old == nil {
		return unknownRegistration(k)
	}
	if err := old.owned(ref, k); err != nil {
		return err
	}
	if err := a.remove(ctx, k); err != nil {
		return err
	}
	return a.setDrain(ctx, k, false) // last: a crash in between must not put a drained instance back into use
}

// Heartbeat says how a registered instance is: passing, failing or draining. Only a change of that is written to the store. For
// an instance of another source that has a TTL check, it is a heartbeat of that check.
func (a *API) Heartbeat(ctx context.Context, ref Ref, h federation.Health, output string) error {
	k := ref.key()
	if h == federation.HealthUnknown || h > federation.HealthDraining {
		return &federation.Diagnostic{Code: federation.CodeRegistrationHealth, What: fmt.Sprintf("heartbeat of %v says %v", k, h),
			Why: "a heartbeat says what is known", Fix: "send passing, failing or draining"}
	}
	if done, err := a.beatInMemory(k, ref, h, output); done {
		return err
	}
	unlock, err := a.begin(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	old, _ := a.lookup(k)
	if old == nil {
		if a.beat(k, h, output) {
			return nil
		}
		return unknownRegistration(k)
	}
	if err := old.owned(ref, k); err != nil {
		return err
	}
	next := &registration{record: old.record, beat: time.Now()}
	next.Instance.Health, next.Down = h, time.Time{}
	if !old.same(&next.record) {
		if err := a.save(ctx, k, &next.record); err != nil {
			return err
		}
	}
	a.put(k, next)
	a.beat(k, h, output)
	return nil
}

// beatInMemory is the way of nearly all heartbeats: nothing changes but the time. It reports whether it was one of those.
func (a *API) beatInMemory(k key, ref Ref, h federation.Health, output string) (done bool, err error) {
	a.mu.Lock()
	g := a.regs[k]
	if g == nil || g.Instance.Health != h || !g.Down.IsZero() {
		a.mu.Unlock()
		return false, nil
	}
	if err = g.owned(ref, k); err == nil {
		g.beat = time.Now()
	}
	a.mu.Unlock()
	if err == nil {
		a.beat(k, h, output)
	}
	return true, err
}

// Lasts returns how long a heartbeat of an instance lasts: its shortest TTL. 0: it has none, or is not known.
func (a *API) Lasts(service federation.ServiceName, id federation.InstanceID) time.Duration {
	k := Ref{Service: service, ID: id}.key()
	if g, _ := a.lookup(k); g != nil && g.ttl() > 0 {
		return g.ttl() // the registry learns of a registration a moment later
	}
	known, _ := a.cfg.Registry.Instance(k.service, k.id)
	return (&record{Instance: known.Instance}).ttl()
}

// Drain takes an instance of any source out of use, or puts it back. The mark is durable and holds until it is taken away or
// the instance is deregistered.
func (a *API) Drain(ctx context.Context, ref Ref, on bool) error {
	k := ref.key()
	unlock, err := a.begin(ctx, k)
	if err != nil {
		return err
	}
	defer unlock()
	if old, _ := a.lookup(k); old != nil {
		if err := old.owned(ref, k); err != nil {
			return err
		}
	} else if _, known := a.cfg.Registry.Instance(k.service, k.id); on && !known {
		return &federation.Diagnostic{Code: federation.CodeInstanceUnknown, What: fmt.Sprintf("%v cannot be drained", k),
			Why: "no source reports such an instance", Fix: "list what is known: tradewind instance list"}
	}
	return a.setDrain(ctx, k, on)
}

// begin waits for the store to be read and takes the right to write k.
func (a *API) begin(ctx context.Context, k key) (unlock func(), err error) {
	patience := time.NewTimer(loadPatience)
	defer patience.Stop()
	select {
	case <-a.loaded:
	default:
		select {
		case <-a.loaded:
		case <-ctx.Done():
			err = ctx.Err()
		case <-patience.C:
			err = context.DeadlineExceeded
		}
	}
	if err != nil {
		return nil, &federation.Diagnostic{Code: federation.CodeRegistrationLoading, What: fmt.Sprintf("%v cannot be changed yet", k),
			Why: "the registrations have not been read from the store", Fix: "repeat the call in a few seconds", Err: err}
	}
	lock := &a.writes[maphash.Comparable(a.seed, k)%uint64(len(a.writes))]
	lock.Lock()
	return lock.Unlock, nil
}

// lookup returns the registration of k, or nil, and how many there are.
func (a *API) lookup(k key) (*registration, int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.regs[k], len(a.regs)
}

// put makes g the registration of k, which the caller has stored; nil removes it.
func (a *API) put(k key, g *registration) {
	a.mu.Lock()
	if g == nil {
		delete(a.regs, k)
	} else {
		a.regs[k] = g
	}
	a.mu.Unlock()
	poke(a.wake)
}

// beat passes a heartbeat on.
func (a *API) beat(k key, h federation.Health, output string) bool {
	return a.cfg.Beater != nil && a.cfg.Beater.Beat(k.service, k.id, h, output)
}

// ownerOf is what is kept of a token: enough to know it again, not to use it.
func ownerOf(token string) string {
	if token == "" {
		return ""
	}
	sum := sha256.Sum256([]byte(token))
	return hex.EncodeToString(sum[:])
}

// owned returns nil when ref gives the right to change g.
func (g *registration) owned(ref Ref, k key) error {
	if g.Owner == "" || ref.Force || subtle.ConstantTimeCompare([]byte(g.Owner), []byte(ownerOf(ref.Token))) == 1 {
		return nil
	}
	why := "the call came with another owner token than it was registered with"
	if ref.Token == "" {
		why = "it was registered with an owner token, and the call came without one"
	}
	return &federation.Diagnostic{Code: federation.CodeRegistrationOwner, What: fmt.Sprintf("%v belongs to another owner", k), Why: why,
		Fix: "use the token of its owner, or register under another ID"}
}

func unknownRegistration(k key) error {
	return &federation.Diagnostic{Code: federation.CodeRegistrationUnknown, What: fmt.Sprintf("%v is not registered", k),
		Why: "it never was, was deregistered, or belongs to another source", Fix: "register it before anything else"}
}

func fullRegistrations(k key, most int) error {
	return &federation.Diagnostic{Code: federation.CodeRegistrationsFull, What: fmt.Sprintf("%v cannot be added", k),
		Why: fmt.Sprintf("there are %d already, which is the most", most), Fix: "deregister instances that are gone, or register with deregister_after"}
}
