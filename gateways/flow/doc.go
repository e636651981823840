// Package flow is the protocol of one flow: one proxied connection, as two sequences of bytes with offsets. It holds the codec,
// bounded before anything is stored, and the two halves of the machine: Out says what to send on which carrier and keeps what is not
// acknowledged, In says which of the bytes that come are new. It has no socket, goroutine or clock; whatever carries ordered bytes
// between two gateways (a QUIC stream, a TLS connection) can be a carrier. Mostly a flow has exactly one.
//
// On a carrier a flow is a sequence of frames. Every frame starts with the same twelve octets, so that a writer can reserve them
// in front of its payload and a reader takes each frame with one exact read:
//
//	octet 0      type
//	octets 1-3   length of the body that follows, big endian
//	octets 4-11  DATA, FIN: offset of the body's first octet in the sender's sequence
//	             ACK, ATTACH: how many octets of the receiver's sequence the sender has consumed
//	             OUTCOME: its number
//	             zero in every other frame
//
// The opener sends OPEN and may send DATA behind it at once. The other end answers ACCEPT, then its own DATA, or REFUSE.
// Each side ends its sequence with FIN or the whole flow with RESET. OUTCOME tells the opener which instance answered.
//
// # Several carriers
//
// Either end may start a further carrier with ATTACH, which names the flow. The answer is ACK, or UNKNOWN from an end that has no
// such flow. Each end writes on the carriers of its choice and reads from all. On one carrier offsets never go back, but they may
// overlap what another has brought: the receiver drops what it knows. Where they lie ahead it leaves the body unread: the bytes wait
// in the window of the carrier, and there is no buffer to put them in order.
//
// DETACH is the last frame of an end that goes on elsewhere; FIN, RESET, REFUSE and UNKNOWN are the last ones too. A carrier on which both
// ends have said their last is free for another flow.
//
// What is small may be said a second time as a copy: a carrier of a few frames that comes as a whole, and has ended already. OPEN says
// with a flag that it may come by a copy too.
//
// A sender keeps what has not been acknowledged. When a carrier has broken it sends that again over a fresh one, from the last
// acknowledged octet on, and before it OPEN or the answer to it, unless the other end is known to have it: a flow is opened once
// however often its OPEN comes. FIN counts as one octet more, and Settled acknowledges everything: it is said by an end that
// has got RESET or REFUSE, or wants no more bytes. Acknowledgements travel in front of DATA or, many in one, beside the flows.
package flow
