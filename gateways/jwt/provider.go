package jwt

import (
	"context"
	"crypto/sha256"
	"reflect"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/tradewind-mesh/tradewind/federation"
)

const (
	refreshEvery = 5 * time.Minute  // what providers grant between the publication of a key and its use is longer
	unknownEvery = 30 * time.Second // tokens with invented kids must not make us hammer the provider
	keepFor      = 24 * time.Hour   // a provider's bad day
)

// state is what a provider's tokens are verified with.
type state struct {
	*keyring
	at time.Time // when the provider said so last
}

// provider is one jwt resource in force.
type provider struct {
	spec federation.JWT // with defaults

	mu      sync.Mutex
	state   *state        // nil: no keys
	err     error         // of the last fetch
	tried   time.Time     // when the last fetch began; zero: never
	asked   time.Time     // when the last one began that a token with an unknown key has caused
	fetched chan struct{} // closed when the fetch under way has ended; nil: none is
}

// fetches reports whether the keys are somewhere else. Of a provider that no resource describes there are none.
func (p *provider) fetches() bool { return p.spec.Issuer != "" && p.spec.JWKS == "" }

// keys returns what tokens are verified with at now, or nil.
func (p *provider) keys(now time.Time) *state {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == nil || p.fetches() && now.Sub(p.state.at) > keepFor {
		return nil
	}
	return p.state
}

// refresh fetches the keys, or waits for the fetch that is under way. For an unknown key it does nothing when it has been asked to a short
// while ago.
func (v *Verifier) refresh(ctx context.Context, p *provider, unknown bool) {
	if !p.fetches() {
		return
	}
	p.mu.Lock()
	if under := p.fetched; under != nil {
		p.mu.Unlock()
		select {
		case <-under:
		case <-ctx.Done():
		}
		return
	}
	now := v.cfg.Now()
	if unknown {
		if !p.asked.IsZero() && now.Sub(p.asked) < unknownEvery {
			p.mu.Unlock()
			return
		}
		p.asked = now
	}
	done := make(chan struct{})
	p.fetched, p.tried = done, now
	p.mu.Unlock()

	ring, err := (&fetcher{hosts: v.hosts(), tls: v.cfg.TLS}).keys(ctx, &p.spec)
	v.arrived(p, ring, err, now)
	close(done)
}

// arrived puts what a fetch that began at now has brought in force.
func (v *Verifier) arrived(p *provider, ring *keyring, err error, now time.Time) {
	p.mu.Lock()
	old, failed := p.state, p.err
	p.fetched, p.err = nil, err
	if err == nil {
		fresh := &state{keyring: ring, at: now}
		if old != nil && sameKeys(old.keyring, ring) {
			fresh.keyring = old.keyring
		}
		p.state = fresh
	}
	p.mu.Unlock()
	switch {
	case err == nil && (old == nil || !sameKeys(old.keyring, ring)):
		if old != nil {
			v.cache.forget(old.keyring) // a key that was withdrawn vouches for nothing any more
		}
		v.log.Info("keys of a token provider have changed", "provider", p.spec.Name, "keys", len(ring.keys), "skipped", ring.skipped)
	case err != nil && (failed == nil || failed.Error() != err.Error()):
		v.log.Warn("keys of a token provider cannot be fetched", "provider", p.spec.Name, "error", err)
	}
}

func sameKeys(a, b *keyring) bool {
	return a == b || reflect.DeepEqual(a.keys, b.keys)
}

// due reports whether the keys should be fetched: from time to time, and sooner when that has failed.
func (p *provider) due(now time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	every := refreshEvery
	if p.err != nil {
		every = unknownEvery
	}
	return p.tried.IsZero() || now.Sub(p.tried) >= every
}

// verify verifies a token that says it is p's.
func (v *Verifier) verify(ctx context.Context, p *provider, t *parsed, token string) (claimSet, Reason) {
	if !slices.Contains(p.spec.Algorithms, t.header.Algorithm) {
		return claimSet{}, ReasonAlgorithm
	}
	now := v.cfg.Now()
	with := p.keys(now)
	var key *jose.JSONWebKey
	if with != nil {
		key = with.find(t.header.KeyID, jose.SignatureAlgorithm(t.header.Algorithm))
	}
	if key == nil {
		wait, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
		v.refresh(wait, p, true)
		cancel()
		if with = p.keys(now); with == nil {
			return claimSet{}, ReasonNoKeys
		}
		if key = with.find(t.header.KeyID, jose.SignatureAlgorithm(t.header.Algorithm)); key == nil {
			return claimSet{}, ReasonUnknownKey
		}
	}
	claims, why := t.verify(&p.spec, key, now)
	if why == "" {
		v.cache.put(cacheKey{p, with.keyring, sha256.Sum256([]byte(token))}, claims, len(token), now)
	}
	return claims, why
}
