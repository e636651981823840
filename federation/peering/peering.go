// Package peering owns the region's peerings: it makes and redeems the one-time tokens that found them, keeps a session with
// each peer, drives the catalog exchange over it and keeps what the peer showed us across restarts.
//
// # From token to peering
//
// The acceptor makes a token for one region (GenerateToken). The dialer redeems it (Establish) over a TLS connection pinned to
// the acceptor's root: it proves that it knows the token's secret, in a way that holds on that connection only, and both
// exchange their trust bundles. The acceptor stores that the token is consumed before it answers, so that of two redeemers one
// wins, and the winner may ask again if the answer was lost. From then on both sides know each other by mutual TLS; no bearer
// secret is left anywhere.
//
// # One owner for each peering
//
// A goroutine owns the exchange.Machine of a peering, and nobody else touches it. It dials, takes sessions that come in, feeds
// frames and time to the machine and does what the machine says. The region whose name sorts first dials; the other one does so
// when there was no session for 5 s. Of two sessions that both sides opened at once, the one of the first region stays. A
// peering takes at most 8 goroutines, however large the peer is.
//
// # What lasts
//
// Every change of a peering's state is one commit of the store. The last import of each peer lies in a file and is used as
// STALE from the first moment after a restart, whether or not any peer can be reached.
package peering

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/exchange"
	"github.com/tradewind-mesh/tradewind/federation/store"
	"github.com/tradewind-mesh/tradewind/federation/trust"
)

// Session is one established cx/1 session. Send and Receive may run at the same time, and Sends of different lanes too; Close
// ends all of them with an error. Receive returns frames of one lane in order.
type Session interface {
	Peer() spiffeid.ID // of the gateway on the other side, as its certificate says
	Send(ctx context.Context, lane exchange.Lane, frame []byte) error
	Receive(ctx context.Context) (exchange.Lane, []byte, error)
	Close(code uint64, reason string)
	RemoteAddr() string
	Lane() string // what it runs over, for people to read: "quic" or "tcp"
}

// Dialer opens sessions. Both methods respect ctx.
type Dialer interface {
	// DialExchange opens a cx/1 session with the gateway of peer at addr ("host:port").
	DialExchange(ctx context.Context, peer federation.Region, addr string) (Session, error)
	// DialJoin makes one join: it connects to addr, insists that the certificate chains to the root whose SPKI has the
	// SHA-256 pin, sends what request makes of the connection's TLS exporter, and returns the reply.
	DialJoin(ctx context.Context, addr string, pin [32]byte, request func(exporter []byte) ([]byte, error)) (reply []byte, err error)
}

// OwnTrust is the region's own side of its authority.
type OwnTrust interface {
	Bundle() trust.Bundle
	RootPin() [32]byte
	Changed() (<-chan struct{}, func()) // level-triggered, and the end of the subscription
}

// PeerTrust is what the authority knows of peers.
type PeerTrust interface {
	SetPeer(ctx context.Context, region federation.Region, td spiffeid.TrustDomain, bundle []byte) error
	RemovePeer(ctx context.Context, region federation.Region) error
	PeerBundle(region federation.Region) (trust.Bundle, bool)
}

// Trust is what peering needs of a *trust.Authority.
type Trust interface {
	OwnTrust
	PeerTrust
}

// Catalog is told of the peers and of what they show us. Its methods must not block and must not call back.
type Catalog interface {
	SetPeers(peers []federation.Peer)
	SetImport(region federation.Region, imported *federation.Import) // nil: withdrawn
}

// Config is what a Manager is made of.
type Config struct {
	Region      federation.Region
	TrustDomain spiffeid.TrustDomain
	Trust       Trust
	Store       store.Store
	Dialer      Dialer
	Addresses   func() []string // "host:port" of this region's gateways as peers reach them; may be empty
	Catalog     Catalog
	Dir         string           // the imports are kept in Dir/imports
	Epoch       federation.Epoch // of this life of the region's publisher
	JumpEpoch   func(ctx context.Context, atLeast uint64) (federation.Epoch, error)
	MaxStale    time.Duration    // of imports; see exchange.Config
	Limits      exchange.Limits  // of each peer; zero fields are defaults
	Log         *slog.Logger     // nil: no log
	Now         func() time.Time // nil: time.Now
	Rand        *rand.Rand       // only spreads timers; nil: seeded at random
}

// Times of a peering. Those of the exchange itself are the exchange's.
const (
	dialTimeout    = 3 * time.Second         // of one address: three retransmissions of a first packet
	joinTimeout    = 5 * time.Second         // of one address in Establish: somebody waits, but it is done once
	deferDial      = 5 * time.Second         // without a session, before the region that sorts second dials as well
	duplicateAge   = 2500 * time.Millisecond // of silence, two HEADs, after which our own session no longer wins over theirs
	doubtFor       = time.Second             // at least, for a silent session to speak when the peer is found reachable
	arrivalSpan    = 10 * time.Second        // that the sessions a peer opens are counted in
	arrivalsMost   = 20                      // in it: a peer that flaps needs a few, one that loops thousands
	speakWithin    = 5 * time.Second         // for a second session to say something, or it is closed
	probeHold      = time.Second             // that a probe is held open: long enough for the peer to refuse our certificate
	acceptorDelay  = 500 * time.Millisecond  // before the acceptor of a join dials: the redeemer is about to
	backoffMin     = 200 * time.Millisecond
	backoffMax     = 30 * time.Second
	backoffReset   = time.Minute      // of applied progress, after which back-off starts from the beginning
	sendTimeout    = 10 * time.Second // for a frame to leave: longer, and the lane counts as blocked
	saveEvery      = 30 * time.Second // between writes of an import: what is lost is fetched again as a delta
	saveFirst      = 2 * time.Second  // after the first import of a life: a crash soon after joining loses nothing
	farewell       = 2500 * time.Millisecond
	maxSkew        = 5 * time.Minute // certificates begin 5 min before they are issued; beyond that they fail anyway
	watchEvery     = 5 * time.Second
	stuckAfter     = 30 * time.Second // of an owner that does not come round
	pauseOnPanic   = 20 * time.Second // less than stuckAfter
	saveRetry      = 100 * time.Millisecond
	reportEvery    = 50 * time.Millisecond // at most: copying a machine's status for each frame is waste
	returnGrace    = 5 * time.Second       // for the peer's probe to reach us, before we say that it cannot
	housekeepEvery = time.Hour
	keepAlarm      = 24 * time.Hour   // in the status: the next shift should see it, next week's need not
	sameAlarm      = time.Minute      // between two alarms about the same: a peer can send bad bundles as fast as it likes
	retryEvery     = 10 * time.Second // of what could not be stored
	maxDials       = 32               // at once, over all peers: those that are away must not keep the others waiting
)

// Codes of Session.Close that peering adds to those of exchange. They are on the wire and never change meaning.
const (
	CodeDuplicate uint64 = 0x40 // the other session of this pair stays
	CodeProbe     uint64 = 0x41 // it only tried whether the way is open
	CodeSlow      uint64 = 0x42 // a lane did not drain
	CodeStranger  uint64 = 0x43 // no peering with this region, or another trust domain
	CodeShutdown  uint64 = 0x44 // this gateway ends
	CodeFault     uint64 = 0x45 // a defect here, see its log
)
