// Package world builds clouds for end-to-end tests: network namespaces joined by a bridge, a gateway process in each, and real
// programs beside them. It makes its own namespaces, ends only processes that it started, and removes everything it made.
package world
