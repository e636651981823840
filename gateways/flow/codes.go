package flow

import "fmt"

// RefusalCode says why a flow was not accepted. The numbers are shared with peers: append only.
type RefusalCode uint16

// The refusals. To the peer, a service that does not exist and one it may not call look the same: RefusedNotAllowed.
const (
	RefusedNotAllowed  RefusalCode = 1 // unknown, not exported or denied: trying elsewhere changes nothing
	RefusedUnavailable RefusalCode = 2 // no healthy instance, or none could be reached: another region may serve
	RefusedOverloaded  RefusalCode = 3 // a limit is reached: try later or elsewhere
	RefusedDraining    RefusalCode = 4 // the gateway is leaving: try another one
	RefusedInternal    RefusalCode = 5 // a fault of the answering gateway
	RefusedMalformed   RefusalCode = 6 // the OPEN breaks the protocol, or names a source that is not the opener's to name
)

var refusalNames = [...]string{"", "refused", "unavailable", "overloaded", "draining", "internal", "malformed"}

func (c RefusalCode) String() string {
	if c > 0 && int(c) < len(refusalNames) {
		return refusalNames[c]
	}
	return fmt.Sprintf("refusal %d", uint16(c))
}

// Elsewhere reports whether another gateway or region may give another answer.
func (c RefusalCode) Elsewhere() bool {
	return c == RefusedUnavailable || c == RefusedOverloaded || c == RefusedDraining || c == RefusedInternal
}

// ResetCode says why a flow was aborted. The numbers are shared with peers: append only.
type ResetCode uint16

// The resets.
const (
	ResetAborted  ResetCode = 1 // the connection behind the flow was reset
	ResetIdle     ResetCode = 2 // no byte either way for the idle limit
	ResetRevoked  ResetCode = 3 // what allowed the flow no longer does
	ResetDraining ResetCode = 4 // the gateway's time to drain is over
	ResetProtocol ResetCode = 5 // the other end broke the protocol
	ResetOverload ResetCode = 6 // a limit was reached
	ResetRefused  ResetCode = 7 // the flow is refused: the REFUSE frame tells why, bytes sent behind OPEN are not read
	ResetMoved    ResetCode = 8 // of a carrier only: the flow goes on on another one
)

var resetNames = [...]string{"", "aborted", "idle", "revoked", "draining", "protocol violation", "overload", "refused", "moved"}

func (c ResetCode) String() string {
	if c > 0 && int(c) < len(resetNames) {
		return resetNames[c]
	}
	return fmt.Sprintf("reset %d", uint16(c))
}

// Result is how one instance fared. The numbers are shared with peers: append only.
type Result uint8

// The results.
const (
	ResultConnected   Result = 1 // the instance accepted the connection
	ResultUnreachable Result = 2 // it did not, and another one was tried or the flow refused
	ResultAborted     Result = 3 // it accepted, and reset the connection before its first byte
)

// Outcome is the answering gateway's report about one instance, so that the opener can judge what it cannot see.
type Outcome struct {
	Instance string // the instance's key in the export, at most 128 octets; empty when only its locality is exported
	Result   Result
}
