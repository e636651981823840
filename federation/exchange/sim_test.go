package exchange

import (
	"os"
	"strconv"
	"testing"
	"time"
)

// seedsOf is how many worlds a run looks at: TRADEWIND_SEEDS, or few enough for everyday tests.
func seedsOf(t *testing.T, everyday int) int {
	s := os.Getenv("TRADEWIND_SEEDS")
	if s == "" {
		return everyday
	}
	n, err := strconv.Atoi(s)
	if err != nil || n < 1 {
		t.Fatalf("TRADEWIND_SEEDS is %q: it must be a number of worlds", s)
	}
	return n
}

// live runs one world for d and lets it come to rest.
func live(seed uint64, d time.Duration) *world {
	w := newWorld(seed)
	w.build(5, seed%2 == 1)
	w.after(0, w.change)
	w.after(5*time.Second, w.fault)
	w.run(d)
	if w.failed == "" {
		w.quiet()
	}
	return w
}

func (w *world) report(t *testing.T) {
	if w.failed == "" {
		return
	}
	for _, n := range w.notes[max(0, len(w.notes)-60):] {
		t.Log(n)
	}
	t.Fatal(w.failed)
}

// TestWorlds is the proof of the protocol: five regions, full mesh, everything that can go wrong but a broken hash. Run one
// seed alone with -run 'TestWorlds/17$'.
func TestWorlds(t *testing.T) {
	const virtual = 3 * time.Minute
	began := time.Now()
	var passed time.Duration
	var sum struct{ frames, crashes, restores, cuts, jumps, mutants, closes int }
	for seed := range seedsOf(t, 60) {
		t.Run(strconv.Itoa(seed), func(t *testing.T) {
			w := live(uint64(seed), virtual)
			w.report(t)
			passed += w.now.Sub(epoch0)
			sum.frames += w.counts.frames
			sum.crashes += w.counts.crashes
			sum.restores += w.counts.restores
			sum.cuts += w.counts.cuts + w.counts.partitions
			sum.jumps += w.counts.jumps
			sum.mutants += w.counts.mutants
			sum.closes += w.counts.closes
		})
	}
	wall := time.Since(began)
	t.Logf("%v of virtual time in %v: %.0f s each second; %+v", passed.Round(time.Second), wall.Round(time.Millisecond),
		passed.Seconds()/wall.Seconds(), sum)
}

// TestSameSeedSameHistory holds the simulation itself to its word.
func TestSameSeedSameHistory(t *testing.T) {
	for seed := range uint64(3) {
		a, b := live(1000+seed, time.Minute), live(1000+seed, time.Minute)
		a.report(t)
		if a.trace.Sum64() != b.trace.Sum64() {
			t.Errorf("seed %d gave two histories", 1000+seed)
		}
	}
}
