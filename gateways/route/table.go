package route

import "sync/atomic"

// Table holds the snapshot that new connections use. It is safe for any number of goroutines.
type Table struct {
	current atomic.Pointer[Snapshot]
}

// NewTable returns a table that denies everything and knows no service.
func NewTable() *Table {
	t := &Table{}
	t.current.Store(&Snapshot{})
	return t
}

// Load returns the current snapshot, never nil. Load once for each connection: two loads can be two worlds.
func (t *Table) Load() *Snapshot { return t.current.Load() }

// Publish makes s the current snapshot. A nil s changes nothing: what was good stays.
func (t *Table) Publish(s *Snapshot) {
	if s != nil {
		t.current.Store(s)
	}
}
