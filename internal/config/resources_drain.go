package config

import (
	"time"

	"github.com/hashicorp/hcl/v2"

	"github.com/tradewind-mesh/tradewind/federation"
)

type drainBlock struct {
	Name  string    `hcl:"name,label"`
	At    hcl.Range `hcl:",def_range"`
	Since string    `hcl:"since,optional"`
	By    string    `hcl:"by,optional"`
	Until string    `hcl:"until,optional"`
	Reset string    `hcl:"reset_at,optional"`
}

func (c converter) drain(b drainBlock) {
	spec := &federation.Drain{By: b.By}
	c.text("since", b.Since, &spec.Since, b.At)
	c.text("until", b.Until, &spec.Until, b.At)
	c.text("reset_at", b.Reset, &spec.Reset, b.At)
	c.put(federation.KindDrain, b.Name, b.At, spec)
}

func (w writer) drain(d *federation.Drain) {
	w.moment("since", d.Since)
	w.text("by", d.By)
	w.moment("until", d.Until)
	w.moment("reset_at", d.Reset)
}

// moment writes a time in RFC 3339.
func (w writer) moment(name string, at time.Time) {
	if !at.IsZero() {
		w.text(name, at.UTC().Format(time.RFC3339Nano))
	}
}
