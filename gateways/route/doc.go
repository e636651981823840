// Package route turns the control plane's View into what the data path asks: may this call go through, where could it go,
// which local instances serve it, may that peer ask for it. Compile builds an immutable Snapshot; a Table holds the current
// one behind one atomic pointer. A connection loads the snapshot once and uses that one until it ends, so it never sees half
// of a change. A table that was never published to denies everything.
//
// A snapshot says what could be used and in which order, from the catalog's point of view. It knows nothing of round-trip
// times, load or dead paths; who picks among candidates of one rank does.
package route
