package exchange

import "github.com/tradewind-mesh/tradewind/federation"

// Lane is one ordered stream of frames in each direction of a session. Lanes may overtake each other.
type Lane uint8

// The lanes. Control is one bidirectional stream; the others are one unidirectional stream each way. When they compete, a
// lower number goes first.
const (
	LaneControl    Lane = 0
	LaneUrgent     Lane = 1
	LaneHealth     Lane = 2
	LaneMembership Lane = 3
	LaneBulk       Lane = 4

	// Lanes is the number of lanes.
	Lanes = 5
)

var laneNames = [Lanes]string{"control", "urgent", "health", "membership", "bulk"}

func (l Lane) String() string {
	if int(l) >= len(laneNames) {
		return "unknown"
	}
	return laneNames[l]
}

// Sizes of frames, in octets. A transport refuses a longer one before it reads it.
const (
	MaxFrame        = 64 << 10 // one read, one buffer
	MaxControlFrame = 4 << 10  // control is never bulk
)

// MaxFrameOn is the longest frame lane may carry, in octets.
func MaxFrameOn(lane Lane) int {
	if lane == LaneControl {
		return MaxControlFrame
	}
	return MaxFrame
}

// Action is something the owner of a Machine has to do, in the order given.
type Action interface{ action() }

// Send puts Frame on Lane. The owner may keep Frame; the machine does not touch it again. Actions after a Close that are not
// sends still count.
type Send struct {
	Lane  Lane
	Frame []byte
}

// Close ends the session. The machine treats it as ended already and needs no call of Disconnected.
type Close struct {
	Code   uint64 // one of the Code constants
	Reason string // for the peer's operator, at most 200 octets
}

// Publish replaces what the peer shows us; nil withdraws it. Its Epoch, Seq and AsOf are those of the moment it was published:
// it is not published again because they moved on. Status has the present ones.
type Publish struct{ Import *federation.Import }

// HealthChanged says that lanes of the import published last have changed.
type HealthChanged struct{}

// BundleReceived brings the peer's trust bundle as it came: bounded in size, otherwise unjudged. It speaks for the trust
// domain of the configuration, whatever it says itself.
type BundleReceived struct{ Bundle []byte }

// Persist asks for Saved to be stored, soon; it is never more frequent than Limits.PersistEvery.
type Persist struct{}

// JumpEpoch asks for a new epoch of this region whose counter is above AtLeast: the peer remembers a later life of ours than
// we do. Unless the epoch is above AtLeast by now, because another peer asked first, the owner makes the new one durable and
// calls SetEpoch on the machine of every peer.
type JumpEpoch struct{ AtLeast uint64 }

// Alarm is for the operator. It is raised once for each event, not for each frame.
type Alarm struct{ Diagnostic *federation.Diagnostic }

// PeerGone says that the peer removed the peering.
type PeerGone struct{}

func (Send) action()           {}
func (Close) action()          {}
func (Publish) action()        {}
func (HealthChanged) action()  {}
func (BundleReceived) action() {}
func (Persist) action()        {}
func (JumpEpoch) action()      {}
func (Alarm) action()          {}
func (PeerGone) action()       {}

// Codes of Close, as a session's application error code. They are on the wire and never change meaning.
const (
	CodeNone         uint64 = 0x00 // the session ended in order
	CodeMalformed    uint64 = 0x01 // a frame broke the protocol
	CodeVersion      uint64 = 0x02 // no common version
	CodeStaleEpoch   uint64 = 0x03 // the peer's epoch is below one already known
	CodeSplitBrain   uint64 = 0x04 // two lives of the peer claim the same epoch
	CodeEpochChanged uint64 = 0x05 // our own epoch changed, come again
	CodeLimit        uint64 = 0x06 // a limit on size, count or rate was passed
	CodeStalled      uint64 = 0x07 // the peer's head is ahead and nothing arrives
	CodeDigest       uint64 = 0x08 // a full snapshot did not match its own digest
	CodeRemoved      uint64 = 0x09 // the peering was removed
	CodePaused       uint64 = 0x0a // the peering is paused
	CodeWrongPeer    uint64 = 0x0b // the greeting names another region
	CodeSilent       uint64 = 0x0c // no greeting, or no HEAD, for too long
)

var closeNames = map[uint64]string{
	CodeNone: "none", CodeMalformed: "malformed", CodeVersion: "version", CodeStaleEpoch: "stale epoch", CodeSplitBrain: "split brain",
	CodeEpochChanged: "epoch changed", CodeLimit: "limit", CodeStalled: "stalled", CodeDigest: "digest", CodeRemoved: "removed",
	CodePaused: "paused", CodeWrongPeer: "wrong peer", CodeSilent: "silent",
}

// CodeName is the word for a close code, or "unknown".
func CodeName(code uint64) string {
	if name, ok := closeNames[code]; ok {
		return name
	}
	return "unknown"
}
