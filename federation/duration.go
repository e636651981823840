package federation

import (
	"fmt"
	"time"
)

// Duration is a time.Duration that reads and writes as text ("1.5s") in JSON and HCL.
type Duration time.Duration

// D returns d as a time.Duration.
func (d Duration) D() time.Duration { return time.Duration(d) }

func (d Duration) String() string { return time.Duration(d).String() }

// MarshalText writes Go's form of a duration, such as "1m30s".
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads Go's form of a duration; a negative one is refused.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	switch {
	case err != nil:
		return fmt.Errorf("duration %q is not valid: write a number and a unit, such as \"500ms\", \"10s\" or \"1h\"", b)
	case v < 0:
		return fmt.Errorf("duration %q is negative", b)
	}
	*d = Duration(v)
	return nil
}
