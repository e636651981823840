package exchange

import (
	"fmt"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Digest is the 128-bit wrapping sum of the hashes of a view's rows.
type Digest struct{ Hi, Lo uint64 }

func (d Digest) String() string { return fmt.Sprintf("%016x%016x", d.Hi, d.Lo) }

// MarshalText writes the form of String.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// Cursor is a place in what one region said, and the digest of its view there.
type Cursor struct {
	Epoch  federation.Epoch `json:"epoch"`
	Seq    uint64           `json:"seq"`
	Digest Digest           `json:"digest"`
}

func (c Cursor) String() string { return fmt.Sprintf("%v/%d", c.Epoch, c.Seq) }

// RowTrouble is a row that was kept out, here (Quarantined) or by the peer (Refused).
type RowTrouble struct {
	Service string          `json:"service"` // as it was on the wire, quoted by whoever prints it
	Code    federation.Code `json:"code"`
	Reason  string          `json:"reason"`
	Since   time.Time       `json:"since"`
}

// Status is what can be said about one machine, for operators.
type Status struct {
	Connected    bool                 `json:"connected"`    // a session exists and both greetings were exchanged
	State        federation.Freshness `json:"state"`        // of the import; EXPIRED while there is none
	Reason       string               `json:"reason"`       // why State is not LIVE, or the last trouble; empty when all is well
	ClockOffset  time.Duration        `json:"clock_offset"` // the peer's clock minus ours, less accurate than half the path's delay
	PeerFeatures uint64               `json:"peer_features"`
	Import       ImportStatus         `json:"import"`
	Export       ExportStatus         `json:"export"`
}

// ImportStatus is the direction towards us.
type ImportStatus struct {
	Phase       string       `json:"phase"` // "none", "waiting", "delta", "reconcile" or "snapshot"
	Applied     Cursor       `json:"applied"`
	Head        Cursor       `json:"head"`      // as the peer last said
	LastHead    time.Time    `json:"last_head"` // when it said so
	AsOf        time.Time    `json:"as_of"`     // when applied last equalled head
	Lagging     bool         `json:"lagging"`   // head has been ahead for 10 s without progress
	Services    int          `json:"services"`
	Slots       int          `json:"slots"`
	Bytes       int          `json:"bytes"`
	Braked      bool         `json:"braked"` // a mass withdrawal is held back
	BrakedUntil time.Time    `json:"braked_until,omitzero"`
	Held        int          `json:"held"`      // withdrawals held back
	PeerHeld    bool         `json:"peer_held"` // the peer is in quarantine: its import is kept and nothing new is taken
	Quarantined []RowTrouble `json:"quarantined,omitempty"`
	RowsApplied uint64       `json:"rows_applied"` // since the machine was made
	HealthSeen  uint64       `json:"health_seen"`
	Resyncs     uint64       `json:"resyncs"` // reconciliations and snapshots
}

// ExportStatus is the direction towards the peer.
type ExportStatus struct {
	Phase      string       `json:"phase"`
	Head       Cursor       `json:"head"`
	Applied    Cursor       `json:"applied"` // as the peer last acknowledged
	Lagging    bool         `json:"lagging"` // the peer has not acknowledged for 10 s
	Services   int          `json:"services"`
	Tombstones int          `json:"tombstones"`
	InFlight   int          `json:"in_flight"` // frames
	RowsSent   uint64       `json:"rows_sent"`
	Held       bool         `json:"held"` // our own epoch is in doubt: nothing is sent
	Refused    []RowTrouble `json:"refused,omitempty"`
}

// Status returns a copy of the machine's state, as of the last input.
func (m *Machine) Status() Status {
	s := Status{State: m.freshness(), Reason: m.reason()}
	s.ClockOffset = m.clock.offset()
	s.Import = ImportStatus{Phase: phaseNone.String(), Applied: m.imp.applied, Head: m.head, LastHead: m.headAt, AsOf: m.asOf,
		Lagging: m.lagging(), Services: m.imp.good, Slots: m.imp.slots, Bytes: m.imp.bytes,
		Braked: len(m.brake.held) > 0, BrakedUntil: m.brake.due(), Held: len(m.brake.held), PeerHeld: m.peerHeld,
		RowsApplied: m.stats.rows, HealthSeen: m.stats.health, Resyncs: m.stats.resyncs}
	for _, r := range sortedRows(m.imp.rows) {
		if r.fault != nil {
			s.Import.Quarantined = append(s.Import.Quarantined, RowTrouble{
				Service: r.wire, Code: r.fault.code, Reason: r.fault.reason, Since: r.since})
		}
	}
	s.Export = ExportStatus{Phase: phaseNone.String(), Head: m.log.cursor(), Services: m.log.live, Tombstones: m.log.tombs,
		RowsSent: m.stats.rowsSent, Held: m.now.Before(m.heldTill)}
	for _, wire := range sortedKeys(m.refused) {
		s.Export.Refused = append(s.Export.Refused, m.refused[wire])
	}
	if c := m.sess; c != nil && c.greeted {
		s.Connected, s.PeerFeatures = true, c.hello.features
		s.Import.Phase, s.Export.Phase = c.recv.phase.String(), c.send.phase.String()
		s.Export.Applied = c.send.applied
		s.Export.InFlight = int(c.send.frames - c.send.acked)
		s.Export.Lagging = s.Export.InFlight > 0 && m.now.Sub(m.acked) >= lagAfter
		s.Export.Held = s.Export.Held || c.mute
	}
	return s
}

// lagging reports whether the peer's head has been ahead of us for ten seconds while nothing came nearer.
func (m *Machine) lagging() bool {
	since := m.stuckSince()
	return !since.IsZero() && m.now.Sub(since) >= lagAfter
}

// reason is why not all is well, or "".
func (m *Machine) reason() string {
	switch state := m.freshness(); {
	case !m.trusted:
		return "the peer's trust bundle has no valid root"
	case m.peerGone:
		return "the peer removed the peering"
	case m.lagging():
		return "the peer's head is ahead and nothing comes"
	case state == federation.FreshnessLive && !m.peerHeld:
		return ""
	case m.peerHeld:
		return m.trouble
	}
	why := "nothing was imported yet"
	if m.had {
		why = fmt.Sprintf("nothing was confirmed for %v", m.now.Sub(m.asOf).Round(time.Second))
	}
	if m.trouble != "" {
		why += ": " + m.trouble
	}
	return why
}
