package federation

import (
	"errors"
	"fmt"
	"time"
)

// Drain sends the calls of this region elsewhere than to one region, a peer or this one, while it is in force. It is a last resort: who has
// named the region, and calls that nobody else can serve, still go there, so that a drain never costs a call. Afterwards the region
// gets its share back little by little.
type Drain struct {
	Region Region    `json:"-"`                 // the resource's name
	Since  time.Time `json:"since,omitzero"`    // when it was asked for
	By     string    `json:"by,omitempty"`      // who asked
	Until  time.Time `json:"until,omitzero"`    // when the region begins to come back; zero: when somebody says so
	Reset  time.Time `json:"reset_at,omitzero"` // when what is still open there is reset; zero: it may go on until it ends
}

// Kind implements Spec.
func (*Drain) Kind() Kind { return KindDrain }

// maxBy bounds the name of who asked.
const maxBy = 256

// Validate implements Spec.
func (d *Drain) Validate(name string) error {
	region, err := ParseRegion(name)
	if d.Region = region; err == nil && region == Local {
		err = errors.New("drain of \"local\": write the region's name")
	}
	if len(d.By) > maxBy {
		err = errors.Join(err, fmt.Errorf("by has %d octets: at most %d are allowed", len(d.By), maxBy))
	}
	if !d.Until.IsZero() && d.Until.Before(d.Since) {
		err = errors.Join(err, errors.New("until is before since"))
	}
	return err
}

const (
	// returnStart is the part of its share that a drained region gets first: enough to see whether it answers, and few calls
	// that suffer when it does not.
	returnStart = 0.1

	// returnStep is how long each part lasts, before it is doubled: the outlier detection of a caller, five failures in a row by default,
	// has had its chance by then at one request a second or more.
	returnStep = 2 * time.Second
)

// ReturnTakes is from the end of a drain to the whole share: 10, 20, 40 and 80 % for two seconds each.
const ReturnTakes = 4 * returnStep

// Share is the part of its usual share that the region may have at now, 0 to 1. It never shrinks with time.
func (d *Drain) Share(now time.Time) float64 {
	switch {
	case d == nil:
		return 1
	case d.Until.IsZero() || now.Before(d.Until):
		return 0
	}
	share := returnStart
	for t := d.Until.Add(returnStep); !now.Before(t); t = t.Add(returnStep) {
		if share *= 2; share >= 1 {
			return 1
		}
	}
	return share
}
