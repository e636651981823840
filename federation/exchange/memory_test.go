package exchange

import (
	"runtime"
	"testing"
)

func heapInUse() float64 {
	runtime.GC()
	runtime.GC() // what the first one finalised
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// An imported slot costs at most 96 octets of heap in a service of a hundred, its key of 18 octets included, and the account
// that a peer's limit is held against is what the heap says.
func TestWhatAnImportCosts(t *testing.T) {
	for _, c := range []struct {
		services, slots int
		most            float64 // octets a slot
	}{{1000, 100, 96}, {5000, 1, 1000}} {
		p := newPair(t)
		p.up(many(c.services, c.slots))
		saved := p.b.m.Saved()
		p.a, p.b = nil, nil
		before := heapInUse()
		m, err := New(testConfig("west", "east", 2), saved)
		if err != nil {
			t.Fatal(err)
		}
		m.Tick(p.now)
		heap := heapInUse() - before
		account, slots := float64(m.Status().Import.Bytes), float64(c.services*c.slots)
		t.Logf("%d services of %d slots: %.1f octets a slot, %.1f in the account", c.services, c.slots, heap/slots, account/slots)
		if heap/slots > c.most {
			t.Errorf("more than %.0f octets a slot", c.most)
		}
		if heap > 1.15*account || heap < 0.8*account {
			t.Errorf("the account says %.0f, the heap %.0f", account, heap)
		}
		runtime.KeepAlive(saved)
	}
}
