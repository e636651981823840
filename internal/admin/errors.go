package admin

import (
	"context"
	"errors"
	"fmt"

	"connectrpc.com/connect"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/store"
)

// What went wrong with a call, for errors.Is; the *federation.Diagnostic around it has the words.
var (
	ErrUnreachable = errors.New("gateway is unreachable")
	ErrTimeout     = errors.New("timed out")
	ErrRefused     = errors.New("caller is not allowed")
	ErrInvalid     = errors.New("request is not valid")
	ErrNotFound    = errors.New("not found")
	ErrConflict    = errors.New("changed by somebody else")
)

// Diagnostics returns every diagnostic in err's tree, outermost first in each branch: several when a change breaks several
// rules.
func Diagnostics(err error) []*federation.Diagnostic {
	switch e := err.(type) { //nolint:errorlint // it walks the tree itself
	case nil:
		return nil
	case *federation.Diagnostic:
		return []*federation.Diagnostic{e}
	case interface{ Unwrap() []error }:
		var all []*federation.Diagnostic
		for _, inner := range e.Unwrap() {
			all = append(all, Diagnostics(inner)...)
		}
		return all
	}
	return Diagnostics(errors.Unwrap(err))
}

// wireError turns what a backend returned into what Connect sends: each diagnostic travels as a detail of type
// google.protobuf.Struct, which Connect also writes readably ("debug") for those who use curl.
func wireError(err error) error {
	var already *connect.Error
	if err == nil || errors.As(err, &already) {
		return err
	}
	code := connectCode(err)
	all := Diagnostics(err)
	if len(all) == 0 {
		if code == connect.CodeCanceled || code == connect.CodeDeadlineExceeded {
			return connect.NewError(code, err)
		}
		all = []*federation.Diagnostic{{Code: "TW-8011", What: "the gateway could not answer", Why: err.Error(),
			Fix: "look at the gateway's log around this time"}}
	}
	e := connect.NewError(code, errors.New(all[0].What))
	for _, d := range all[:min(len(all), maxDetails)] {
		e = withDetail(e, d)
	}
	return e
}

const maxDetails = 50 // more than anybody reads; an error must not outgrow its answer

func withDetail(e *connect.Error, d *federation.Diagnostic) *connect.Error {
	detail, err := structpb.NewStruct(map[string]any{"code": string(d.Code), "what": d.What, "why": d.Why, "fix": d.Fix})
	if err != nil { // only for text that is not UTF-8
		return e
	}
	if packed, err := connect.NewErrorDetail(detail); err == nil {
		e.AddDetail(packed)
	}
	return e
}

// connectCode chooses the protocol's code, which decides the HTTP status that scripts see.
func connectCode(err error) connect.Code {
	switch {
	case errors.Is(err, context.Canceled):
		return connect.CodeCanceled
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, ErrTimeout):
		return connect.CodeDeadlineExceeded
	case errors.Is(err, ErrNotFound), errors.Is(err, store.ErrNotFound):
		return connect.CodeNotFound
	case errors.Is(err, ErrConflict), errors.Is(err, store.ErrConflict):
		return connect.CodeAborted
	case errors.Is(err, ErrInvalid):
		return connect.CodeInvalidArgument
	case errors.Is(err, ErrRefused):
		return connect.CodePermissionDenied
	case errors.Is(err, ErrUnreachable):
		return connect.CodeUnavailable
	case federation.CodeOf(err) != "":
		return connect.CodeFailedPrecondition
	}
	return connect.CodeInternal
}

// sentinels says which error a protocol code stands for in the client.
var sentinels = map[connect.Code]error{
	connect.CodeDeadlineExceeded: ErrTimeout,
	connect.CodeNotFound:         ErrNotFound,
	connect.CodeAborted:          ErrConflict,
	connect.CodeInvalidArgument:  ErrInvalid,
	connect.CodePermissionDenied: ErrRefused,
	connect.CodeUnauthenticated:  ErrRefused,
	connect.CodeUnavailable:      ErrUnreachable,
	connect.CodeCanceled:         context.Canceled,
}

// received rebuilds the diagnostics that a server sent with e, joined when there are several. An answer without one is from
// something that is not, or not quite, this API.
func received(e *connect.Error) error {
	cause := fmt.Errorf("%w", e)
	if s := sentinels[e.Code()]; s != nil {
		cause = fmt.Errorf("%w: %w", s, e)
	}
	var all []error
	for _, detail := range e.Details() {
		message, err := detail.Value()
		if err != nil {
			continue
		}
		if s, ok := message.(*structpb.Struct); ok && s.GetFields()["code"].GetStringValue() != "" {
			text := func(name string) string { return clean(s.GetFields()[name].GetStringValue()) }
			all = append(all, &federation.Diagnostic{Code: federation.Code(text("code")), What: text("what"), Why: text("why"),
				Fix: text("fix"), Err: cause})
		}
	}
	switch len(all) {
	case 0:
		return undetailed(e, cause)
	case 1:
		return all[0]
	}
	return errors.Join(all...)
}

// undetailed explains an error that Connect itself, or something else that speaks HTTP, answered with.
func undetailed(e *connect.Error, cause error) *federation.Diagnostic {
	switch e.Code() {
	case connect.CodeInvalidArgument, connect.CodeResourceExhausted:
		return &federation.Diagnostic{Code: "TW-8006", What: "the gateway did not accept the request", Why: clean(e.Message()),
			Fix: "compare the versions: tradewind version, tradewind status", Err: cause}
	case connect.CodeUnimplemented:
		return &federation.Diagnostic{Code: "TW-8007", What: "the gateway does not know this method",
			Why: "it is older or newer than this program",
			Fix: "compare the versions: tradewind version, tradewind status", Err: cause}
	}
	return &federation.Diagnostic{Code: "TW-8011", What: "the gateway could not answer", Why: clean(e.Message()),
		Fix: "look at the gateway's log around this time", Err: cause}
}
