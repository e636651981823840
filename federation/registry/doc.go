// Package registry merges what the sources of a region see into the region's catalog of local services.
//
// A source gives complete sets. A set replaces the source's former one; an error, a restart or silence changes nothing but
// the age that is shown. Nothing leaves the catalog because it was not heard of: only a complete set without it, the removal of
// its source, or a deregistration takes an instance away.
//
// One goroutine (Run) owns the merged state. It publishes an immutable *federation.Catalog behind one pointer when instances
// come, go or change, and stores changes of health into the lanes of the services, where every holder of the catalog sees
// them without a new one. Both are announced by level-triggered signals.
//
// The registry knows no provider and no cloud. Checks are made by a Checker, durable registrations kept by a Store; both are
// interfaces of this package.
package registry
