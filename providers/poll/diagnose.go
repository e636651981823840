package poll

import (
	"context"
	"errors"
	"fmt"

	"github.com/tradewind-mesh/tradewind/federation"
)

// diagnose returns err, which ended the listing of what, as an operator reads it, and the state it puts a scope into.
func diagnose(what string, err error) (*federation.Diagnostic, ScopeState) {
	var own *federation.Diagnostic
	if errors.As(err, &own) {
		return own, ScopeFailed
	}
	d := &federation.Diagnostic{Code: federation.CodeProviderFailed, What: what + " cannot be listed", Why: err.Error(),
		Fix: "mend the cause; it is tried again by itself, and the last complete listing stays in use until the ttl", Err: err}
	var throttled *ThrottledError
	var denied *DeniedError
	switch {
	case errors.As(err, &denied):
		d.Code, d.What = federation.CodeProviderDenied, fmt.Sprintf("%s cannot be listed: permission %s is missing", what, denied.Action)
		d.Why = denied.Err.Error()
		d.Fix = "grant " + denied.Action + " to the gateway's identity"
		if denied.Who != "" {
			d.Fix = "grant " + denied.Action + " to " + denied.Who
		}
		return d, ScopeDenied
	case errors.As(err, &throttled):
		d.Code, d.What = federation.CodeProviderThrottled, what+" is throttled"
		d.Fix = "wait; if it lasts, raise the provider's interval"
		return d, ScopeThrottled
	case errors.Is(err, ErrCredentials):
		d.Code, d.What = federation.CodeProviderCredentials, what+" cannot be listed without credentials"
		d.Fix = "give the gateway's machine an identity that may read, or mend the provider block"
	case errors.Is(err, context.DeadlineExceeded):
		d.Why = "there was no answer in time"
	}
	return d, ScopeFailed
}

// badItems says that some items of a listing could not be read.
func badItems(scope Scope, p *page) *federation.Diagnostic {
	first := p.bad[0]
	return &federation.Diagnostic{Code: federation.CodeProviderBadItems, What: fmt.Sprintf("%d workloads of %v could not be read", p.badCount, scope),
		Why: fmt.Sprintf("%s: %v", quote(first.ID), first.Err), Fix: "mend them; their last readable records stay in use"}
}
