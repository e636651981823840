package azure

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/runtime"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

type spend = poll.Spending

// call makes one request, which needs the permission action, when the budget allows it.
func call[T any](ctx context.Context, s *spend, action string, op func(context.Context) (T, error)) (T, http.Header, error) {
	var none T
	if err := s.Wait(ctx); err != nil {
		return none, nil, err
	}
	var resp *http.Response
	out, err := op(policy.WithCaptureResponse(ctx, &resp))
	if err != nil {
		return none, nil, classify(ctx, action, err)
	}
	if resp == nil { // as from a client that is not the SDK's
		return out, nil, nil
	}
	return out, resp.Header, nil
}

// apiError is what Azure says went wrong. The SDK's own text has the whole exchange on many lines.
type apiError struct {
	status        int
	code, message string
	err           error
}

func (e *apiError) Error() string { return fmt.Sprintf("%s (%d): %s", e.code, e.status, e.message) }

func (e *apiError) Unwrap() error { return e.err }

// classify gives an error of the SDK the type by which the framework knows what to do.
func classify(ctx context.Context, action string, err error) error {
	if ended := ctx.Err(); ended != nil {
		return fmt.Errorf("%w: %w", ended, err) // the SDK's own error does not always say so
	}
	var resp *azcore.ResponseError
	if errors.Is(err, poll.ErrCredentials) || !errors.As(err, &resp) {
		return err
	}
	api := read(resp)
	switch {
	case api.status == http.StatusTooManyRequests:
		return &poll.ThrottledError{RetryAfter: retryAfter(resp.RawResponse.Header), Err: api}
	case api.status == http.StatusUnauthorized:
		return fmt.Errorf("%w: %w", poll.ErrCredentials, api)
	case api.status == http.StatusForbidden:
		denied := &poll.DeniedError{Action: action, Err: api}
		if m := deniedForm.FindStringSubmatch(api.message); m != nil {
			denied.Who, denied.Action = m[1], m[2]
		}
		return denied
	case api.code == "NoValidSubscriptionsInQueryRequest": // what Resource Graph answers to whom may read none of them
		return &poll.DeniedError{Action: "Microsoft.Resources/subscriptions/read", Err: api}
	}
	return api
}

var deniedForm = regexp.MustCompile(`client '([^']{1,256})' with object id '[^']*' ` +
	`does not have authorization to perform action '([^']{1,256})'`)

// read returns what the body of an error says. Resource Graph hides the cause in the details.
func read(resp *azcore.ResponseError) *apiError {
	api := &apiError{status: resp.StatusCode, code: resp.ErrorCode, err: resp}
	var body struct {
		Error struct {
			Code, Message string
			Details       []struct{ Code, Message string }
		}
	}
	if raw, err := runtime.Payload(resp.RawResponse); err == nil && json.Unmarshal(raw, &body) == nil {
		api.code, api.message = body.Error.Code, body.Error.Message
		for _, d := range body.Error.Details {
			if d.Code != "" && d.Message != "" {
				api.code, api.message = d.Code, d.Message
				break
			}
		}
	}
	api.code = bounds(cmp.Or(api.code, http.StatusText(api.status)), 128)
	api.message = bounds(cmp.Or(api.message, "there is no more to it"), 512)
	return api
}

func bounds(s string, most int) string {
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "..."
	}
	return s
}

// retryAfter reads how long to wait: the header of HTTP in seconds, and that of Resource Graph as hours:minutes:seconds
// (https://learn.microsoft.com/azure/governance/resource-graph/concepts/guidance-for-throttled-requests). The longer one counts.
func retryAfter(h http.Header) time.Duration {
	wait := poll.RetryAfter(h)
	if t, err := time.Parse(time.TimeOnly, h.Get("x-ms-user-quota-resets-after")); err == nil && t.Hour() == 0 {
		wait = max(wait, time.Duration(t.Minute())*time.Minute+time.Duration(t.Second())*time.Second)
	}
	return wait
}

// gone reports whether what was asked for does not exist.
func gone(err error) bool {
	var api *apiError
	return errors.As(err, &api) && api.status == http.StatusNotFound
}
