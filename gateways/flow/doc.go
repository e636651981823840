// Package flow is the protocol of one flow: one proxied connection, as two sequences of bytes with offsets. It holds the codec,
// bounded before anything is stored, and the two halves of the machine that says which frame may come next. It has no socket,
// goroutine or clock; whatever carries ordered bytes between two gateways (a lane) can carry a flow.
//
// On a lane a flow is a sequence of frames. Every frame starts with the same twelve octets, so that a writer can reserve them
// in front of its payload and a reader takes each frame with one exact read:
//
//	octet 0      type
//	octets 1-3   length of the body that follows, big endian
//	octets 4-11  offset of the body's first octet in the sender's sequence (DATA, FIN), zero in every other frame
//
// The opener sends OPEN and may send DATA behind it at once. The other end answers ACCEPT, then its own DATA, or REFUSE.
// Each side ends its sequence with FIN or the whole flow with RESET. OUTCOME tells the opener which instance answered.
// A gap or an overlap of offsets is a violation. Types 8 to 15 are kept for acknowledgements and hand-over between lanes.
package flow
