// Package tunnel keeps the sessions between this gateway and the gateways of its peers, and carries flows, the catalog exchange
// and the redemption of peering tokens over them. It is the only package that imports the QUIC transport.
//
// One UDP socket serves three protocols, each a QUIC transport of its own with its own limits: "tw-flow/1" (flows), "cx/1"
// (catalog exchange) and "tw-join/1" (token redemption, where the client has no certificate yet). The latter two are served on the
// same port over TLS on TCP as well, for where UDP is blocked: whoever dials tries QUIC first. Over QUIC the first octet of every
// connection ID says which one a packet is for. It has to be visible before the TLS handshake, because the limits that QUIC
// announces are fixed by then: whoever joins without a certificate must not be given the stream limits of a flow session. A
// client that lies about it meets a listener that speaks only that one protocol.
//
// Sessions for flows are of two kinds, QUIC (one connection) and TCP (a control connection and a pool of TLS connections, the
// lanes, under "tw-lane/1" on the same port). To each gateway address of each peer four of the one and one of the other are kept
// warm, and every session that a peer has dialled serves both ways, so that reachability in one direction is enough. What a
// session lends to a flow is a carrier: a stream, or a lane. Both ends ping every 200 ms. A session that has been silent for
// 400 ms, or on a long or uneven path for four round trips and their variation, is avoided; one that has been silent a quarter
// longer is closed.
package tunnel
