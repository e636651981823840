// Package consul connects a region to its Consul, both ways.
//
// Lister finds workloads in Consul's catalog. A scope is a datacenter, in Consul Enterprise also a partition and a namespace of it.
// Watch follows the catalog's list of services with one blocking query and each wanted service with another one. What it relies on:
//
//   - Reads are stale by default: they are answered by any server, not the leader alone, whom watches of many clients have brought
//     down before. An answer of a server that has lost its leader, or has not heard from it for MaxStale, removes nothing.
//   - A blocking query's index starts at 0, goes back to 0 when it went backwards (a restored server), and is never 0 after an answer.
//   - A query that has no answer some time after its wait is over hangs: it is broken off and asked again from index 0.
//   - What a token may not see is left out of answers without an error. A service that is no longer in the list is gone only if
//     asking for it by name says so, and an empty list of services is a denial, because Consul always lists itself.
//
// Sync is the other way: what other regions export appears in the local Consul, so that its users reach it as
// orders.service.consul. See its comment for why it registers with the agent.
package consul
