package exchange

import "time"

// Limits bound what one peer can make us hold or do. A zero field means its default; see Defaulted.
type Limits struct {
	Services        int // rows of a peer
	Slots           int // slots of a peer, over all its services
	SlotsPerService int
	Bytes           int // memory of one peer's import; a reconciliation may hold as much again until its barrier
	Quarantined     int // bad rows remembered; more end the session
	BundleBytes     int
	Tombstones      int           // of our own export
	TombstoneAge    time.Duration // kept at least so long, unless Tombstones is passed
	Window          int           // membership and bulk frames sent and not yet acknowledged
	RowsPerSecond   int           // sustained, at the receiver; beyond it, acknowledgements wait
	HealthPerSecond int           // slots, sustained, at the receiver; beyond it and a burst, the session ends
	PersistEvery    time.Duration // at least, between two Persist
}

// Defaulted returns l with every unset field at its default.
func (l Limits) Defaulted() Limits {
	set(&l.Services, 10_000)           // ten times the largest region we know of
	set(&l.Slots, 100_000)             // about 8 MiB of import
	set(&l.SlotsPerService, 5_000)     // beyond it, summaries are the right detail
	set(&l.Bytes, 64<<20)              // so that 100 hostile peers cannot take more than a server's memory
	set(&l.Quarantined, 1_024)         // enough to find the cause, too few to be a store
	set(&l.BundleBytes, 16<<10)        // 8 certificates
	set(&l.Tombstones, 262_144)        // a row that came and went every third of a second for a day
	set(&l.TombstoneAge, 24*time.Hour) // the longest default age of an import
	set(&l.Window, 16)                 // 1 MiB in flight: 100 Mbit/s at 80 ms
	set(&l.RowsPerSecond, 20_000)      // a full catalog in half a second
	set(&l.HealthPerSecond, 50_000)    // half of all slots
	set(&l.PersistEvery, 30*time.Second)
	l.SlotsPerService = min(l.SlotsPerService, 65_000) // slots are numbered in 16 bits
	l.BundleBytes = min(l.BundleBytes, fullFrame)
	return l
}

func set[T comparable](p *T, v T) {
	var zero T
	if *p == zero {
		*p = v
	}
}
