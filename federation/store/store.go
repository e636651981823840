// Package store keeps the durable state of a region: a small, ordered set of keys with versions, changed all or nothing.
// Store is the seam; Bolt is the store of a region with one gateway, a single file on the gateway's own disk. What Commit
// has acknowledged survives the death of the process at any point, and a file that is damaged or newer than this program
// is refused and never touched. It is for cold state: trust, peerings, resources, epochs. Health and other fast-changing
// data never come here.
package store

import (
	"context"
	"errors"
	"fmt"
)

// Limits of a store. They are Consul's where Consul has one, so that what fits here fits there.
const (
	MaxKey   = 512       // octets of a key
	MaxValue = 512 << 10 // octets of a value
	MaxOps   = 4096      // operations of one Commit
)

// Errors of a store, for errors.Is.
var (
	ErrNotFound = errors.New("key not found")
	ErrConflict = errors.New("version conflict")
	ErrClosed   = errors.New("store is closed")
)

// Entry is one key with its value. Version is the revision of the store that wrote it last: it grows with every write,
// also over a deletion, so that a version never means two values.
type Entry struct {
	Key     string
	Value   []byte
	Version uint64
}

// Op is one operation of a Commit. It puts Value under Key unless Delete or Check is set. It holds only if the key's
// version is If (0: the key is absent), unless Any is set.
type Op struct {
	Key    string
	Value  []byte
	Delete bool   // remove the key; with Any, an absent key is no error
	Check  bool   // change nothing, only insist on If
	If     uint64 // the version the key must have now
	Any    bool   // whatever its version
}

// Store is the durable state of a region. It is safe for concurrent use.
type Store interface {
	// Get returns the entry of key, or an error that is ErrNotFound.
	Get(ctx context.Context, key string) (Entry, error)
	// List returns the entries whose key starts with prefix, sorted by key.
	List(ctx context.Context, prefix string) ([]Entry, error)
	// Commit applies all of ops or none, and returns the new revision of the store. When it returns nil, the change is on
	// disk. A condition that does not hold is a *ConflictError. Once begun it is not cut short by ctx. A key may be named once.
	Commit(ctx context.Context, ops ...Op) (revision uint64, err error)
}

// ConflictError says which condition of a Commit did not hold; it is ErrConflict to errors.Is.
type ConflictError struct {
	Key  string
	Have uint64 // 0: the key is absent
	Want uint64
}

func (e *ConflictError) Error() string {
	return fmt.Sprintf("write %q: %v: it is at version %d, expected %d", e.Key, ErrConflict, e.Have, e.Want)
}

// Is makes errors.Is(err, ErrConflict) hold.
func (e *ConflictError) Is(target error) bool { return target == ErrConflict }

// CheckOps returns what is wrong with ops before any store looks at its data; every implementation starts with it.
func CheckOps(ops []Op) error {
	if len(ops) > MaxOps {
		return fmt.Errorf("commit has %d operations: at most %d are allowed", len(ops), MaxOps)
	}
	seen := make(map[string]bool, len(ops))
	for _, op := range ops {
		switch {
		case op.Key == "" || len(op.Key) > MaxKey:
			return fmt.Errorf("key of %d octets: between 1 and %d are allowed", len(op.Key), MaxKey)
		case len(op.Value) > MaxValue:
			return fmt.Errorf("value of %q has %d octets: at most %d are allowed", op.Key, len(op.Value), MaxValue)
		case op.Check && (op.Delete || op.Any):
			return fmt.Errorf("operation on %q: a check neither deletes nor holds for any version", op.Key)
		case seen[op.Key]:
			return fmt.Errorf("key %q is named twice in one commit", op.Key)
		}
		seen[op.Key] = true
	}
	return nil
}

// Conflict returns the *ConflictError of op when its key is at version have, or nil when the condition holds.
func (op Op) Conflict(have uint64) error {
	if op.Any || op.If == have {
		return nil
	}
	return &ConflictError{Key: op.Key, Have: have, Want: op.If}
}
