package jwt

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/go-jose/go-jose/v4"
)

const (
	// maxKeys bounds the keys of a set. Providers have two or three; the largest known some twenty.
	maxKeys = 100

	// minRSA and maxRSA bound the modulus in bits: what is shorter can be broken, what is longer keeps a core busy (RFC 8725 3.2).
	minRSA = 2048
	maxRSA = 8192
)

// keyring is the keys of a provider at one moment. It is immutable.
type keyring struct {
	keys    []jose.JSONWebKey
	skipped int // that cannot be used: of another type, for encryption, too short
}

// parseKeys reads a JSON Web Key Set. Keys that cannot be used are passed over, as RFC 7517 section 5 wants it.
func parseKeys(b []byte) (*keyring, error) {
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	if err := json.Unmarshal(b, &set); err != nil {
		return nil, fmt.Errorf("read the key set: %w", err)
	}
	if len(set.Keys) > maxKeys {
		return nil, fmt.Errorf("read the key set: it has %d keys, at most %d are read", len(set.Keys), maxKeys)
	}
	ring := &keyring{}
	for _, raw := range set.Keys {
		var k jose.JSONWebKey
		if k.UnmarshalJSON(raw) != nil || !usable(&k) {
			ring.skipped++
			continue
		}
		ring.keys = append(ring.keys, k)
	}
	if len(ring.keys) == 0 {
		return nil, errors.New("read the key set: it has no public key for signatures")
	}
	return ring, nil
}

func usable(k *jose.JSONWebKey) bool {
	if k.Use != "" && k.Use != "sig" || !k.IsPublic() || !k.Valid() {
		return false
	}
	rsaKey, ok := k.Key.(*rsa.PublicKey)
	return !ok || rsaKey.N.BitLen() >= minRSA && rsaKey.N.BitLen() <= maxRSA
}

// find returns the one key for a token's kid and algorithm, or nil. Without a kid there must be no choice.
func (r *keyring) find(kid string, alg jose.SignatureAlgorithm) *jose.JSONWebKey {
	var found *jose.JSONWebKey
	for i := range r.keys {
		k := &r.keys[i]
		if kid != "" && k.KeyID != kid || !fits(k, alg) {
			continue
		}
		if found != nil {
			return nil
		}
		found = k
	}
	return found
}

// fits reports whether alg is one for the type of k, and the one that k names if it does.
func fits(k *jose.JSONWebKey, alg jose.SignatureAlgorithm) bool {
	if k.Algorithm != "" && k.Algorithm != string(alg) {
		return false
	}
	switch key := k.Key.(type) {
	case *rsa.PublicKey:
		switch alg {
		case jose.RS256, jose.RS384, jose.RS512, jose.PS256, jose.PS384, jose.PS512:
			return true
		}
	case *ecdsa.PublicKey:
		switch alg {
		case jose.ES256:
			return key.Curve.Params().BitSize == 256
		case jose.ES384:
			return key.Curve.Params().BitSize == 384
		case jose.ES512:
			return key.Curve.Params().BitSize == 521
		}
	case ed25519.PublicKey:
		return alg == jose.EdDSA
	}
	return false
}
