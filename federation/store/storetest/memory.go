package storetest

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tradewind-mesh/tradewind/federation/store"
)

// Memory is a store that forgets everything with the process. It passes the contract, does no I/O, and so suits tests in
// virtual time. The zero value is empty and ready. FailWith makes every Commit fail, to see what a full disk does.
type Memory struct {
	mu       sync.Mutex
	revision uint64
	entries  map[string]store.Entry
	fail     error
}

// FailWith makes every later Commit return err; nil makes it work again.
func (m *Memory) FailWith(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Get implements store.Store.
func (m *Memory) Get(ctx context.Context, key string) (store.Entry, error) {
	if err := ctx.Err(); err != nil {
		return store.Entry{}, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	e, ok := m.entries[key]
	if !ok {
		return store.Entry{}, fmt.Errorf("read %q: %w", key, store.ErrNotFound)
	}
	e.Value = bytes.Clone(e.Value)
	return e, nil
}

// List implements store.Store.
func (m *Memory) List(ctx context.Context, prefix string) ([]store.Entry, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []store.Entry
	for key, e := range m.entries {
		if strings.HasPrefix(key, prefix) {
			e.Value = bytes.Clone(e.Value)
			list = append(list, e)
		}
	}
	slices.SortFunc(list, func(a, b store.Entry) int { return strings.Compare(a.Key, b.Key) })
	return list, nil
}

// Commit implements store.Store.
func (m *Memory) Commit(ctx context.Context, ops ...store.Op) (uint64, error) {
	if err := ctx.Err(); err != nil {
		return 0, err
	}
	if err := store.CheckOps(ops); err != nil {
		return 0, err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	writes := false
	for _, op := range ops {
		if err := op.Conflict(m.entries[op.Key].Version); err != nil {
			return 0, err
		}
		writes = writes || !op.Check
	}
	if !writes {
		return m.revision, nil
	}
	if m.fail != nil {
		return 0, m.fail
	}
	if m.entries == nil {
		m.entries = map[string]store.Entry{}
	}
	m.revision++
	for _, op := range ops {
		switch {
		case op.Check:
		case op.Delete:
			delete(m.entries, op.Key)
		default:
			m.entries[op.Key] = store.Entry{Key: op.Key, Value: bytes.Clone(op.Value), Version: m.revision}
		}
	}
	return m.revision, nil
}
