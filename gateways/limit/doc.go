// Package limit bounds what a service has to bear: retries (Budget), requests in a time (Rate, Rates), requests at once (Gate), and the
// number of those that it can take without getting slow, found out by measuring (Adaptive).
//
// Nothing here reads a clock or starts a goroutine. A time is what has passed since a moment of the caller's choice, the same for all
// calls; one that is a little behind another goroutine's does no harm. Where nothing is in short supply no call takes a contended
// lock, waits or allocates. Settings come with each call, so that a new snapshot needs no new state.
package limit
