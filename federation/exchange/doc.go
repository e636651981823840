// Package exchange is cx/1, the protocol by which two regions show each other the part of their catalog that they export. It
// is a pure machine: inputs (a session came, a frame arrived, time passed, the export changed) go in, actions (send a frame,
// close, publish an import) come out. It has no socket, no goroutine and no clock, so that whole meshes run in one test with
// a seed, and the same seed always gives the same history.
//
// # One writer, and a cursor instead of a queue
//
// A region is the only author of its rows, one row a service. Every change takes the next number of the region's sequence,
// within an epoch that grows with every life of the region's publisher: (origin, epoch, seq) orders all a region ever said.
// The sender keeps its rows in the order of their last change, tombstones included, and answers "since seq S" by walking the
// list from S: each row goes once, in its latest form. A consumer is therefore one cursor; a slow one costs no memory, and
// a resync costs the rows that differ. The consumer applies a delta {from, to, rows} only when from is what it has applied.
//
// # Digests decide across epochs
//
// The digest of a view is the 128-bit wrapping sum of its rows' hashes: cheap to keep, free of order. After a restart of the
// sender, equal digests mean that nothing needs to move. Otherwise the sender lists a digest for each service, the consumer
// asks for those that differ, and a barrier with count and digest proves the result; only then are left-over rows removed.
// When that fails, all rows are sent, with the same barrier at the end. Nothing is ever deleted because it was absent: it
// takes a tombstone or a verified barrier.
//
// # Lanes
//
// Frames travel on five ordered lanes that may overtake each other. Control carries the greeting, HEAD every second and what
// was applied; urgent carries trust bundles and withdrawals, which nothing may delay; health carries counts, which are
// volatile and latest-wins; membership carries deltas; bulk carries reconciliation. A frame is one protobuf message "Frame"
// of cx1.proto.
//
// # What a peer cannot do
//
// Every byte is bounded before it is stored. A frame that breaks the protocol closes the session and leaves the import as it
// was. A bad row is kept out, the last good one stays, and the sender is told. A mass withdrawal is held back for up to a
// minute. A peer speaks only for services in its own trust domain: identities are computed, never read.
package exchange
