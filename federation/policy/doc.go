// Package policy decides: which services a peer may see (exports) and who may call whom (intentions). Every decision is a
// pure function of its arguments and says which rule made it, so that the gateway at either end of a call, and a command
// run a week later, give the same answer with the same words. Nothing here does I/O, reads a clock or keeps state.
//
// # Exports
//
// A region shows a peer the services that an export names for it, and nothing else. An export view is built from the
// region's own catalog only; what other peers have shown cannot get into it, because it is no argument.
//
// # Intentions
//
// What no intention allows is denied. Both ends of a call decide for themselves, each by the intentions of its own region,
// and a pattern without a region always means the region that the intention is written in:
//
//   - In the region of the destination, `source = "web@gcp-europe-west1", destination = "checkout"` lets the peer's web call
//     the checkout of this region.
//   - In the region of the source, `source = "web", destination = "checkout@aws-us-east-1"` lets this region's web leave for
//     that region, and `destination = "checkout@*"` for any region, this one included, which is what failover needs: each
//     region that a call could go to is decided on its own.
//   - A bare `destination = "checkout"` in the region of the source does not let a call leave the region.
//   - `source = "*"` is every workload of this region; `source = "*@*"` is every workload of every region that is known.
//
// Of all intentions that match a call, one decides: the one with the most specific destination; among these the one with
// the most specific source; among these a deny before an allow, and of two allows the one that requires more. A pattern is
// more specific the more exactly it says the name, then the namespace, then the region.
//
// An allow also requires an assurance of the caller's identity: binding unless it asks for more. A caller that falls short
// is denied by that intention; a more general one is not asked, because the specific one is what the operator meant.
//
// # Requests
//
// An intention with http conditions speaks of the requests that pass one of them, and of nothing else: for other requests the next
// intention in the order above is asked. What is unclear about a request never helps it: an allow wants every value of a field to
// pass, a deny is content with one. Where nobody looks into the requests, such an allow allows nothing and such a deny denies all.
//
// A block may hold an expression besides; see package when. Where it cannot be evaluated, as when it asks for a claim that is not there,
// the block allows nothing, and denies.
//
// An intention in shadow mode decides nothing. When it would have turned the answer round, the decision says so.
//
// An intention that cannot be understood denies every call: it may have been a deny, and leaving it out would open what it
// closed.
package policy
