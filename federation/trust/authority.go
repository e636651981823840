package trust

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

// Config is what an Authority needs. Region, Gateway and Store are required.
type Config struct {
	Region      federation.Region
	TrustDomain spiffeid.TrustDomain // default: federation.DefaultTrustDomain(Region)
	Gateway     string               // the name of this gateway, a segment of its identity: /gw/<name>
	Store       store.Store
	Signer      Signer           // default: a CA of our own, with its key in Store
	Now         func() time.Time // default: time.Now
	Log         *slog.Logger     // default: none
}

// Authority is the trust of one region as one gateway sees it. It is safe for concurrent use. Handshakes and judgements
// load one immutable state and never wait for a change in progress.
type Authority struct {
	cfg       Config
	gatewayID spiffeid.ID

	renewal sync.Mutex // one renewal of the gateway's certificate at a time; taken before mu
	mu      sync.Mutex // one change at a time; held while the store writes, never while an outside CA is asked
	state   atomic.Pointer[state]
	issued  atomic.Int64  // entries of the ledger, expired ones not yet pruned included
	renew   chan struct{} // capacity 1: look at once whether something is due

	subs      sync.Mutex
	listeners map[chan struct{}]struct{}
}

// state is all that is believed at one moment. It is replaced whole.
type state struct {
	ca      caState
	own     *domain
	revoked []Revocation // of our own domain, told to peers or not
	peers   map[federation.Region]peerState
	domains map[spiffeid.TrustDomain]*domain // of the peers
	gateway gatewayState
}

// gatewayState is the gateway's own certificate.
type gatewayState struct {
	mesh     *tls.Certificate // without the root
	join     *tls.Certificate // with all roots, for a client that knows no more of us than the hash of one
	issuedAt time.Time
	renewAt  time.Time
	failed   *federation.Diagnostic // of the last attempt to renew it
	names    *nameCertificates      // for local callers; they end with this certificate
}

// Open loads what the region's store holds, makes a CA if the region has none and no Signer is given, and gets the gateway
// a certificate. It starts nothing; Run keeps the certificate fresh. Errors are Diagnostics.
func Open(ctx context.Context, cfg Config) (*Authority, error) {
	if cfg.TrustDomain.IsZero() {
		cfg.TrustDomain = federation.DefaultTrustDomain(cfg.Region)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	// Without their monotonic part: that one stands still while a machine sleeps and knows nothing of a clock that is set, and two
	// times that both have it are compared by it alone. Certificates go by the clock on the wall.
	now := cfg.Now
	cfg.Now = func() time.Time { return now().Round(0) }
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	id, err := federation.GatewayID(cfg.TrustDomain, cfg.Gateway)
	if err != nil {
		return nil, caUnusable(fmt.Sprintf("gateway name %q cannot be part of an identity", cfg.Gateway), err)
	}
	a := &Authority{cfg: cfg, gatewayID: id, renew: make(chan struct{}, 1), listeners: map[chan struct{}]struct{}{}}
	ca, err := a.loadCA(ctx)
	if err != nil {
		return nil, err
	}
	revoked, err := a.loadRevocations(ctx)
	if err != nil {
		return nil, err
	}
	peers, err := a.loadPeers(ctx)
	if err != nil {
		return nil, err
	}
	ledger, err := cfg.Store.List(ctx, issuedPrefix)
	if err != nil {
		return nil, fmt.Errorf("list issued certificates: %w", err)
	}
	a.issued.Store(int64(len(ledger)))
	a.mu.Lock()
	a.publish(func(s *state) { s.ca, s.revoked, s.peers = ca, revoked, peers })
	a.mu.Unlock()
	if err := a.openGateway(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// publish replaces the state by a changed copy and tells the listeners. change must replace what it changes, not write to it.
// The caller holds mu.
func (a *Authority) publish(change func(*state)) {
	next := state{}
	var own *domain
	if old := a.state.Load(); old != nil {
		next, own = *old, old.own
	}
	change(&next)
	next.own = newDomain(own, "", a.bundleOf(next.ca, next.revoked), next.revoked)
	next.domains = make(map[spiffeid.TrustDomain]*domain, len(next.peers))
	for _, p := range next.peers {
		next.domains[p.domain.bundle.TrustDomain] = p.domain
	}
	a.state.Store(&next)
	a.subs.Lock()
	defer a.subs.Unlock()
	for c := range a.listeners {
		signal(c)
	}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default: // it has been told and has not looked yet
	}
}

// Changed returns a channel that holds a signal whenever anything that Judge depends on, the own bundle or the gateway's
// certificate has changed since the last receive, and a function that ends the subscription.
func (a *Authority) Changed() (<-chan struct{}, func()) {
	c := make(chan struct{}, 1)
	a.subs.Lock()
	defer a.subs.Unlock()
	a.listeners[c] = struct{}{}
	return c, func() {
		a.subs.Lock()
		defer a.subs.Unlock()
		delete(a.listeners, c)
	}
}

// bundleOf is what we tell peers.
func (a *Authority) bundleOf(ca caState, revoked []Revocation) Bundle {
	b := Bundle{TrustDomain: a.cfg.TrustDomain, Sequence: ca.sequence, Roots: ca.roots}
	for _, r := range revoked {
		if a.concernsPeers(r) {
			b.Revoked = append(b.Revoked, Revocation{Serial: r.Serial, ID: r.ID, At: r.At, Until: r.Until})
		}
	}
	return b
}

// Bundle returns what this region asks its peers to believe.
func (a *Authority) Bundle() Bundle { return a.state.Load().own.bundle }

// Fingerprint is the fingerprint of the region's bundle.
func (a *Authority) Fingerprint() string { return a.Bundle().Fingerprint() }

// RootPin is the SHA-256 of the public key of the region's current root, for peering tokens.
func (a *Authority) RootPin() [32]byte { return pinOf(a.state.Load().ca.roots[0]) }

// TrustDomain returns the region's trust domain.
func (a *Authority) TrustDomain() spiffeid.TrustDomain { return a.cfg.TrustDomain }

// GatewayID returns the gateway's identity.
func (a *Authority) GatewayID() spiffeid.ID { return a.gatewayID }

// Judge returns nil when the chain that a live session was established with would still be accepted now, from a gateway of
// region or, with region "", from a workload of our own domain. Otherwise it returns the Diagnostic to close the session with.
func (a *Authority) Judge(region federation.Region, chain []*x509.Certificate) error {
	s := a.state.Load()
	d, role := s.own, federation.RoleWorkload
	if region != "" {
		p, ok := s.peers[region]
		if !ok {
			return noPeer(region)
		}
		d, role = p.domain, federation.RoleGateway
	}
	_, err := d.verify(chain, expectation{role: role, usage: x509.ExtKeyUsageAny, now: a.cfg.Now()})
	return err
}

// Identify returns which peer region a session of ServerTLS or ClientTLS is with, and the identity of its gateway, by what is
// believed now. A session that redeems a token has region "" and, on the side of the server, no identity.
func (a *Authority) Identify(cs tls.ConnectionState) (federation.Region, spiffeid.ID, error) {
	if cs.NegotiatedProtocol == JoinProtocol {
		if len(cs.PeerCertificates) == 0 {
			return "", spiffeid.ID{}, nil
		}
		id, _, err := checkChain(cs.PeerCertificates) // the path was checked by JoinTLS, which alone knows the pin
		return "", id, err
	}
	d, err := a.domainOf(cs.PeerCertificates)
	if err != nil {
		return "", spiffeid.ID{}, err
	}
	id, err := d.verify(cs.PeerCertificates, expectation{role: federation.RoleGateway, usage: x509.ExtKeyUsageAny, now: a.cfg.Now()})
	if err != nil {
		return "", spiffeid.ID{}, err
	}
	return d.region, id, nil
}

// domainOf returns the peer's domain that chain claims to be of. It never returns our own.
func (a *Authority) domainOf(chain []*x509.Certificate) (*domain, error) {
	id, _, err := checkChain(chain)
	if err != nil {
		return nil, err
	}
	d, ok := a.state.Load().domains[id.TrustDomain()]
	if !ok {
		return nil, unknownDomain(id)
	}
	return d, nil
}

// Workload returns the identity of the caller of a LocalTLS session, by what is believed now.
func (a *Authority) Workload(cs tls.ConnectionState) (spiffeid.ID, error) {
	return a.state.Load().own.verify(cs.PeerCertificates,
		expectation{role: federation.RoleWorkload, usage: x509.ExtKeyUsageAny, now: a.cfg.Now()})
}

const (
	maxNap     = 5 * time.Minute // between looks at the clock: timers stand still while a machine sleeps, certificates do not
	careEvery  = time.Hour       // between looks for what has expired and for new roots of an outside CA
	firstRetry = 10 * time.Second
	lastRetry  = 5 * time.Minute
)

// Run renews the gateway's certificate at half its life, give or take a tenth, forgets what has expired, replaces the root
// of the embedded CA when a fifth of its life is left, and logs what is about to expire. It returns nil when ctx ends.
func (a *Authority) Run(ctx context.Context) error {
	var alarms []*federation.Diagnostic
	var cared time.Time
	retry := firstRetry
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		case <-a.renew:
		}
		now, wait := a.cfg.Now(), maxNap
		if a.gatewayDue(now) || now.Sub(cared) >= careEvery || now.Before(cared) {
			if err := a.keep(ctx, now); err == nil {
				cared, retry = now, firstRetry
			} else if ctx.Err() == nil {
				a.cfg.Log.Error("trust could not be kept up to date", "error", err, "retry", retry)
				wait, retry = jitter(retry), min(2*retry, lastRetry)
			}
			alarms = a.logAlarms(alarms)
		}
		if due := a.state.Load().gateway.renewAt.Sub(now); due > 0 {
			wait = min(wait, due)
		}
		timer.Reset(wait)
	}
}

func jitter(d time.Duration) time.Duration { return d/2 + rand.N(d) }

// keep does everything that is due at now.
func (a *Authority) keep(ctx context.Context, now time.Time) error {
	var errs []error
	if a.rotationDue(now) {
		errs = append(errs, a.RotateCA(ctx))
	}
	errs = append(errs, a.refreshRoots(ctx), a.prune(ctx))
	if a.gatewayDue(now) {
		errs = append(errs, a.renewGateway(ctx))
	}
	return errors.Join(errs...)
}

func (a *Authority) gatewayDue(now time.Time) bool {
	s := a.state.Load()
	return s.gateway.due(now) || s.gatewayRevoked()
}

// due also reports a certificate from the future: the clock was set back after it was issued, and nobody would accept it.
func (g *gatewayState) due(now time.Time) bool {
	return !now.Before(g.renewAt) || now.Before(g.mesh.Leaf.NotBefore)
}

// identity is the gateway's certificate as handshakes show it. One that finds it due has noticed before Run that the clock was set
// or the machine slept. After a failure Run alone tries again, or every handshake would call the CA.
func (a *Authority) identity() *tls.Certificate {
	g := &a.state.Load().gateway
	if g.failed == nil && g.due(a.cfg.Now()) {
		signal(a.renew)
	}
	return g.mesh
}

// gatewayRevoked reports whether the gateway's own certificate is one that no longer counts.
func (s *state) gatewayRevoked() bool {
	id, _, err := checkLeaf(s.gateway.mesh.Leaf)
	return err != nil || s.own.revoked(id, []*x509.Certificate{s.gateway.mesh.Leaf}) != nil
}

// logAlarms logs what was not in before, and returns what is there now.
func (a *Authority) logAlarms(before []*federation.Diagnostic) []*federation.Diagnostic {
	now := a.Status().Alarms
	for _, d := range now {
		known := slices.ContainsFunc(before, func(b *federation.Diagnostic) bool { return b.Code == d.Code && b.What == d.What })
		if !known {
			a.cfg.Log.Warn("trust is about to expire", "code", d.Code, "what", d.What, "why", d.Why, "fix", d.Fix)
		}
	}
	return now
}

// with returns a copy of m with key set, or without it when value is nil.
func with[K comparable, V any](m map[K]V, key K, value *V) map[K]V {
	c := maps.Clone(m)
	if c == nil {
		c = map[K]V{}
	}
	if value == nil {
		delete(c, key)
	} else {
		c[key] = *value
	}
	return c
}
