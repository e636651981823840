package tunnel

import (
	"fmt"
	"net"
	"syscall"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/gateways/flow"
)

// RefusedError is the peer's answer that it does not take a flow. Reason is the peer's text, at most flow.MaxReason octets.
type RefusedError struct {
	Code   flow.RefusalCode
	Peer   federation.Region
	Reason string
}

func (e *RefusedError) Error() string {
	if e.Reason == "" {
		return fmt.Sprintf("region %s refuses the flow: %v", e.Peer, e.Code)
	}
	return fmt.Sprintf("region %s refuses the flow: %v: %s", e.Peer, e.Code, e.Reason)
}

// Is matches a *RefusedError with the same code, whatever the peer and the reason.
func (e *RefusedError) Is(target error) bool {
	t, ok := target.(*RefusedError)
	return ok && t.Code == e.Code
}

// ResetError is the end of a flow that one side aborted. It matches syscall.ECONNRESET and net.ErrClosed.
type ResetError struct {
	Code   flow.ResetCode
	Peer   federation.Region
	Remote bool // the peer did it
}

func (e *ResetError) Error() string {
	if e.Remote {
		return fmt.Sprintf("flow reset by region %s: %v", e.Peer, e.Code)
	}
	return fmt.Sprintf("flow to region %s reset: %v", e.Peer, e.Code)
}

// Is matches what a reset TCP connection matches.
func (e *ResetError) Is(target error) bool { return target == syscall.ECONNRESET }

// Unwrap returns net.ErrClosed.
func (e *ResetError) Unwrap() error { return net.ErrClosed }

// PathError is the end of a flow whose session died under it. To whoever uses the flow it is a reset: it matches
// syscall.ECONNRESET and net.ErrClosed.
type PathError struct {
	Peer    federation.Region
	Address string // of the peer's gateway
	Reason  string
	Err     error
}

func (e *PathError) Error() string {
	return fmt.Sprintf("path to region %s by %s is gone: %s", e.Peer, e.Address, e.Reason)
}

// Is matches what a reset TCP connection matches.
func (e *PathError) Is(target error) bool { return target == syscall.ECONNRESET }

// Unwrap returns the cause and net.ErrClosed.
func (e *PathError) Unwrap() []error { return []error{net.ErrClosed, e.Err} }
