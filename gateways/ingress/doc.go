// Package ingress is the way from outside into the mesh: north-south listeners that take connections of anybody, find out which
// host is meant, and hand requests and connections to gateways/mesh in the name of the listener's identity. What that identity may
// call, intentions decide, as for every other caller.
//
// # What is promised
//
//   - A caller outside learns nothing of what exists: no certificate is shown for a name that is not served, and a request for
//     another host than the one in the TLS handshake is misdirected (421).
//   - What a caller says of itself (X-Forwarded-*, Forwarded, PROXY headers, request IDs) reaches an instance only if the caller is
//     a trusted proxy.
//   - Whatever a caller sends, or does not send, costs a bounded amount: connections in all and of one address, ten seconds for
//     what comes before the first request, bounds on head and body, and on how slowly a body may come.
//   - A client's rate, and a token that a host requires, are asked before anything of the mesh is. What an instance says about other
//     origins (CORS) never widens what the host allows.
//   - A change of an ingress or of its certificates breaks no connection: the next one, and the next request, see it.
package ingress

import "time"

const (
	// greetTimeout is what a caller gets for a PROXY header and the TLS handshake; as net/http and Envoy give within a factor of two.
	greetTimeout = 10 * time.Second

	// idleTimeout is how long a connection may rest between requests, or a message stand still; nginx has 75 s, browsers reuse
	// connections within a minute.
	idleTimeout = 75 * time.Second

	// minBodyRate is how many octets a second a body of announced length must come with; as Apache's mod_reqtimeout has it.
	minBodyRate = 500

	// rebindEvery is how often an address that could not be bound is tried again, as for upstreams.
	rebindEvery = 5 * time.Second

	// lookEvery is how often the files of certificates are looked at: half of the two seconds within which a new one is served.
	lookEvery = time.Second

	// maxAcceptDelay is the longest pause after a failed accept, as in net/http: descriptors run out, and come back.
	maxAcceptDelay = time.Second
)
