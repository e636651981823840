// Package controlplane owns the state of a region: resources go in, a View for the data path and an export view for each
// peer come out. It is the only writer of the View.
//
// Resources are durable in the store. A change is planned as a whole, checked as a whole and committed as a whole: it
// happens entirely or not at all, and it is acknowledged when the store has it on disk. Each resource remembers its owner,
// and a write by another owner is refused with the owner's name.
//
// One goroutine, Run, watches the registry, the resources, the peers and the imports. It gathers what happens within a few
// milliseconds into one new View. A change of health never waits for that and never makes a View: it goes to the peers as
// soon as Run sees it, and the local data path reads it from the health lanes directly.
package controlplane
