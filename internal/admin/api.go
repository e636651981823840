package admin

import (
	"encoding/json"
	"fmt"
	"math"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// ServiceName is the name of the API in its URLs: POST /tradewind.v1.Admin/Status.
const ServiceName = "tradewind.v1.Admin"

// Time is a moment in the API: RFC 3339 in UTC with milliseconds, such as "2026-11-22T14:03:00.120Z". The zero value is
// left out of an answer.
type Time struct{ time.Time }

// At returns t for the API.
func At(t time.Time) Time { return Time{t} }

// MarshalText writes RFC 3339 in UTC; the zero value is the empty text.
func (t Time) MarshalText() ([]byte, error) {
	if t.IsZero() {
		return nil, nil
	}
	return []byte(t.UTC().Format("2006-01-02T15:04:05.000Z")), nil
}

// MarshalJSON writes the form of MarshalText; without it the one of time.Time would be taken.
func (t Time) MarshalJSON() ([]byte, error) {
	text, _ := t.MarshalText()
	return json.Marshal(string(text))
}

// UnmarshalText reads any RFC 3339 time; the empty text is the zero value.
func (t *Time) UnmarshalText(b []byte) error {
	if len(b) == 0 {
		*t = Time{}
		return nil
	}
	parsed, err := time.Parse(time.RFC3339Nano, string(b))
	if err != nil {
		return fmt.Errorf("time %q is not RFC 3339", b)
	}
	*t = Time{parsed.UTC()}
	return nil
}

// UnmarshalJSON reads the form of MarshalJSON.
func (t *Time) UnmarshalJSON(b []byte) error {
	var s string
	if err := json.Unmarshal(b, &s); err != nil {
		return fmt.Errorf("read a time: %w", err)
	}
	return t.UnmarshalText([]byte(s))
}

// Seconds is a measured span: a plain number of seconds in JSON, in fields whose names end in "_seconds". Configured spans
// are federation.Duration instead and look as they do in a file.
type Seconds float64

// SecondsOf returns d for the API, rounded to a microsecond.
func SecondsOf(d time.Duration) Seconds { return Seconds(d.Round(time.Microsecond).Seconds()) }

// D returns s as a time.Duration, at most what one can hold.
func (s Seconds) D() time.Duration {
	ns := float64(s) * float64(time.Second)
	if math.IsNaN(ns) || math.Abs(ns) > math.MaxInt64/2 {
		return math.MaxInt64 / 2
	}
	return time.Duration(ns)
}

// List is a list that is never null in JSON: a script may always iterate over it.
type List[T any] []T

// MarshalJSON writes an array, for a nil list an empty one.
func (l List[T]) MarshalJSON() ([]byte, error) {
	if l == nil {
		return []byte("[]"), nil
	}
	return json.Marshal([]T(l))
}

// Severity says how bad a problem is.
type Severity string

// The severities.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
)

// Problem is something wrong right now.
type Problem struct {
	Severity Severity          `json:"severity"`
	Code     federation.Code   `json:"code"`
	What     string            `json:"what"`
	Why      string            `json:"why,omitempty"`
	Fix      string            `json:"fix,omitempty"`
	Peer     federation.Region `json:"peer,omitempty"` // when it is about one
}

// ProblemOf returns d as a problem.
func ProblemOf(severity Severity, peer federation.Region, d *federation.Diagnostic) Problem {
	return Problem{Severity: severity, Code: d.Code, What: d.What, Why: d.Why, Fix: d.Fix, Peer: peer}
}
