package aws

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"
	"github.com/tradewind-mesh/tradewind/providers/poll"
)

type spend = poll.Spending

// call makes one request when the budget allows it.
func call[I, O, P any](ctx context.Context, s *spend, op operation[I, O, P], in *I) (*O, error) {
	if err := s.Wait(ctx); err != nil {
		return nil, err
	}
	out, err := op(ctx, in)
	if err != nil {
		return nil, classify(ctx, err)
	}
	return out, nil
}

// pages calls read for each page: with nil first, then with the token that the call before returned.
func pages(read func(token *string) (next *string, err error)) error {
	return poll.Pages(func(token string) (string, error) {
		var at *string
		if token != "" {
			at = &token
		}
		next, err := read(at)
		return aws.ToString(next), err
	})
}

// The codes of errors that mean something to the framework. Services differ in them; each list holds the ones of all.
var (
	deniedCodes = map[string]bool{"AccessDenied": true, "AccessDeniedException": true, "UnauthorizedOperation": true,
		"Client.UnauthorizedOperation": true, "UnauthorizedException": true, "NotAuthorized": true}
	credentialCodes = map[string]bool{"ExpiredToken": true, "ExpiredTokenException": true, "RequestExpired": true, "AuthFailure": true,
		"InvalidClientTokenId": true, "UnrecognizedClientException": true, "InvalidAccessKeyId": true, "SignatureDoesNotMatch": true,
		"InvalidSignatureException": true, "IncompleteSignature": true, "MissingAuthenticationToken": true,
		"MissingAuthenticationTokenException": true}
)

// classify gives an error of the SDK the type by which the framework knows what to do.
func classify(ctx context.Context, err error) error {
	if ended := ctx.Err(); ended != nil {
		return poll.Halt(fmt.Errorf("%w: %w", ended, err)) // the SDK's own error does not always say so
	}
	var api smithy.APIError
	if !errors.As(err, &api) {
		return err
	}
	code := api.ErrorCode()
	var resp *smithyhttp.ResponseError
	status, header := 0, http.Header{}
	if errors.As(err, &resp) && resp.Response != nil {
		status, header = resp.HTTPStatusCode(), resp.Response.Header
	}
	_, throttle := retry.DefaultThrottleErrorCodes[code]
	switch {
	case throttle || status == http.StatusTooManyRequests:
		return &poll.ThrottledError{RetryAfter: poll.RetryAfter(header), Err: err}
	case credentialCodes[code]:
		return fmt.Errorf("%w: %w", poll.ErrCredentials, err)
	case deniedCodes[code]:
		return &poll.DeniedError{Action: action(err), Who: principal(api.ErrorMessage()), Err: err}
	}
	return err
}

// prefixes are the names of services in policies, by the SDK's names.
var prefixes = map[string]string{
	"EC2": "ec2", "ECS": "ecs", "EKS": "eks", "STS": "sts", "ServiceDiscovery": "servicediscovery", "Auto Scaling": "autoscaling",
	"Elastic Load Balancing v2": "elasticloadbalancing",
}

// action returns the permission that the failed operation needs. The innermost one: a listing may fail at the AssumeRole that it
// makes on the way.
func action(err error) string {
	name := ""
	for e := err; ; {
		var op *smithy.OperationError
		if !errors.As(e, &op) {
			return name
		}
		name, e = prefixes[op.ServiceID]+":"+op.OperationName, op.Err
	}
}

var whoForm = regexp.MustCompile(`\bUser: (arn:[!-~]{1,512}) is not authorized to perform`)

// principal returns who was denied, where the message says it.
func principal(message string) string {
	if m := whoForm.FindStringSubmatch(message); m != nil {
		return strings.TrimRight(m[1], ".,")
	}
	return ""
}

// code returns the provider's code of an error, "" when the error is not the provider's.
func code(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}
