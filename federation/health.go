package federation

import (
	"fmt"
	"sync/atomic"
)

// Health is what the checks of one instance add up to.
type Health uint8

// The states of health. Only a passing instance is given traffic while another one passes.
const (
	HealthUnknown  Health = iota // has checks, none has answered yet
	HealthPassing                // every check passes, or there is none
	HealthFailing                // a check fails
	HealthDraining               // being taken out on purpose: existing flows go on, new ones go elsewhere
)

var healthNames = [...]string{"unknown", "passing", "failing", "draining"}

func (h Health) String() string { return healthNames[min(int(h), len(healthNames)-1)] }

// MarshalText writes the form of String.
func (h Health) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads the form of String. An unknown word is an error and leaves h unchanged.
func (h *Health) UnmarshalText(b []byte) error {
	for i, name := range healthNames {
		if name == string(b) {
			*h = Health(i)
			return nil
		}
	}
	return fmt.Errorf("health %q is unknown: use unknown, passing, failing or draining", b)
}

// SlotHealth is the mutable part of one slot: how many of its instances are healthy. Counts are held in 24 bits.
type SlotHealth struct {
	Generation uint16 // which tenant of the slot this speaks of; a reused slot has a higher one
	Healthy    uint32
	Total      uint32
}

// MaxSlotCount is the most instances one slot can count.
const MaxSlotCount = 1<<24 - 1

// HealthLane is the mutable part of an otherwise immutable service: one word a slot, so that a change of health is one
// atomic store that every holder of the service sees, and never a new catalog.
type HealthLane struct {
	slots []atomic.Uint64
}

// NewHealthLane returns a lane that holds a copy of slots. Its length is fixed.
func NewHealthLane(slots []SlotHealth) *HealthLane {
	l := &HealthLane{slots: make([]atomic.Uint64, len(slots))}
	for i, s := range slots {
		l.slots[i].Store(s.pack())
	}
	return l
}

// Len is the number of slots.
func (l *HealthLane) Len() int { return len(l.slots) }

// Load returns the health of slot i; a slot that does not exist is the zero value.
func (l *HealthLane) Load(i int) SlotHealth {
	if i < 0 || i >= len(l.slots) {
		return SlotHealth{}
	}
	return unpackSlot(l.slots[i].Load())
}

// Store sets slot i and reports whether it did: a slot that does not exist, or is now held by another generation, is left
// alone, so that late news never hits a new tenant.
func (l *HealthLane) Store(i int, h SlotHealth) bool {
	if i < 0 || i >= len(l.slots) {
		return false
	}
	for {
		old := l.slots[i].Load()
		if unpackSlot(old).Generation != h.Generation {
			return false
		}
		if l.slots[i].CompareAndSwap(old, h.pack()) {
			return true
		}
	}
}

// Sum returns the healthy and total counts over all slots.
func (l *HealthLane) Sum() (healthy, total uint32) {
	for i := range l.slots {
		s := unpackSlot(l.slots[i].Load())
		healthy += s.Healthy
		total += s.Total
	}
	return healthy, total
}

func (s SlotHealth) pack() uint64 {
	return uint64(s.Generation)<<48 | uint64(min(s.Healthy, MaxSlotCount))<<24 | uint64(min(s.Total, MaxSlotCount))
}

func unpackSlot(w uint64) SlotHealth {
	return SlotHealth{Generation: uint16(w >> 48), Healthy: uint32(w>>24) & MaxSlotCount, Total: uint32(w) & MaxSlotCount}
}
