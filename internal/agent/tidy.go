package agent

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	tidyEvery = time.Second

	// tidyQuiet is what a gateway may allocate in a second in which nothing happens: its own housekeeping takes a tenth.
	tidyQuiet = 4 << 20

	// tidyLeast and tidyShare are how much must be there to be given back: a collection of a heap costs some 0.5 ms of processor a MiB.
	tidyLeast = 2 << 20
	tidyShare = 8 // of what is alive

	// slack is how much is allocated between two collections at least. A gateway with few connections has some 5 MiB alive and would else
	// collect for every thousand requests, which takes a tenth of its processor.
	slack = 32 << 20
)

// tidy gives back what a burst has left behind, in the first quiet second after it. The runtime by itself keeps it: it collects
// when the heap has doubled, or after two minutes, and keeps what is free then for the next time. The many connections
// of a gateway that idle are all the memory it should hold.
func (a *Agent) tidy(ctx context.Context) error {
	m := []metrics.Sample{
		{Name: "/gc/heap/allocs:bytes"},
		{Name: "/gc/heap/live:bytes"},
		{Name: "/memory/classes/heap/objects:bytes"},
		{Name: "/memory/classes/heap/free:bytes"},
	}
	// The collector waits until the heap has doubled. What nobody ever touches counts for that, and takes no memory.
	untouched := make([]byte, slack)
	defer runtime.KeepAlive(untouched)
	tick := time.NewTicker(tidyEvery)
	defer tick.Stop()
	for last := uint64(0); ; {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		metrics.Read(m)
		allocated, alive, objects, free := m[0].Value.Uint64(), m[1].Value.Uint64(), m[2].Value.Uint64(), m[3].Value.Uint64()
		quiet := allocated-last < tidyQuiet
		last = allocated
		if quiet && objects+free > alive+max(tidyLeast, (max(alive, slack)-slack)/tidyShare) {
			debug.FreeOSMemory()
		}
	}
}
