package gcp

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/tradewind-mesh/tradewind/providers/poll"
)

// problem is the body of an answer that says what failed: both the older form, with errors, and google.rpc.Status, with details
// (https://google.aip.dev/193).
type problem struct {
	Error struct {
		Message string
		Status  string
		Errors  []struct{ Reason string }
		Details []struct {
			Reason     string
			RetryDelay string
			Metadata   map[string]string
		}
	}
}

// throttles are the reasons by which 403 means "slow down". Compute Engine never says 429.
var throttles = []string{"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded", "concurrentLimitExceeded", "RATE_LIMIT_EXCEEDED",
	"RESOURCE_QUOTA_EXCEEDED"}

// refusedError is what an API answered instead of what it was asked for.
type refusedError struct {
	status  int
	message string
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("the API answers %d %s: %s", e.status, http.StatusText(e.status), e.message)
}

// gone reports whether what was asked for went away since it was listed.
func gone(err error) bool {
	var refused *refusedError
	return errors.As(err, &refused) && refused.status == http.StatusNotFound
}

// refused gives an answer other than 200 the type by which the framework knows what to do.
func (v *visit) refused(op *operation, resp *http.Response, body []byte) error {
	var p problem
	_ = json.Unmarshal(body, &p) // a proxy on the way answers in HTML
	err := &refusedError{resp.StatusCode, oneLine(p.Error.Message)}
	var reasons []string
	for _, e := range p.Error.Errors {
		reasons = append(reasons, e.Reason)
	}
	wait := retryAfter(resp.Header.Get("Retry-After") + "s")
	permission := ""
	for _, d := range p.Error.Details {
		reasons = append(reasons, d.Reason)
		wait = max(wait, retryAfter(d.RetryDelay))
		permission = max(permission, d.Metadata["permission"])
	}
	is := func(names ...string) bool {
		return slices.ContainsFunc(reasons, func(r string) bool { return slices.Contains(names, r) })
	}
	switch {
	case err.status == http.StatusTooManyRequests || err.status == http.StatusForbidden && is(throttles...):
		return &poll.ThrottledError{RetryAfter: wait, Err: err}
	case err.status == http.StatusUnauthorized:
		return poll.Halt(fmt.Errorf("%w: %w", poll.ErrCredentials, err))
	case err.status != http.StatusForbidden:
		return err
	case is("accessNotConfigured", "SERVICE_DISABLED"):
		return fmt.Errorf("%s.googleapis.com is not enabled in project %s (gcloud services enable %[1]s.googleapis.com --project %[2]s): %[3]w",
			op.service, v.project, err)
	case is("ACCESS_TOKEN_SCOPE_INSUFFICIENT"):
		// The machine's own limit beside IAM: no permission that is granted helps.
		return &poll.DeniedError{Action: "scope " + scope, Who: v.identity.who, Err: err}
	}
	return &poll.DeniedError{Action: missing(permission, err.message, op.permission), Who: v.identity.who, Err: err}
}

var (
	permissionForm = regexp.MustCompile(`^[a-zA-Z]{1,64}(\.[a-zA-Z]{1,64}){2}$`)
	requiredForm   = regexp.MustCompile(`(?:Required|Permission) '([a-zA-Z.]{1,192})'`)
)

// missing returns the permission that an API says is missing, or else the one that the operation is known to need.
func missing(said, message, known string) string {
	if permissionForm.MatchString(said) {
		return said
	}
	if m := requiredForm.FindStringSubmatch(message); m != nil && permissionForm.MatchString(m[1]) {
		return m[1]
	}
	return known
}

// retryAfter reads a time in seconds, as "3s" or "3.5s". The other form of the header, a date, Google does not use.
func retryAfter(text string) time.Duration {
	n, err := strconv.ParseFloat(strings.TrimSuffix(text, "s"), 64)
	if err != nil || !(n > 0 && n <= 3600) {
		return 0
	}
	return time.Duration(n * float64(time.Second))
}

// oneLine returns the beginning of what an API says, as text of one line.
func oneLine(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, s[:min(len(s), 512)])
	return strings.ToValidUTF8(strings.TrimSpace(s), "")
}
