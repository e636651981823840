package admin

import "github.com/tradewind-mesh/tradewind/federation"

// PeerTokenRequest asks for a one-time token that lets Peer federate with this region.
type PeerTokenRequest struct {
	Peer      federation.Region   `json:"peer"`
	TTL       federation.Duration `json:"ttl,omitempty"`       // default 15 min
	Addresses []string            `json:"addresses,omitempty"` // default: the gateway's advertised ones
}

// PeerToken is a one-time token.
type PeerToken struct {
	Token       string            `json:"token"` // a secret until it is used
	Peer        federation.Region `json:"peer"`
	Expires     Time              `json:"expires"`
	Addresses   List[string]      `json:"addresses"`   // it tells the peer to dial
	Fingerprint string            `json:"fingerprint"` // of this region's roots
}

// PeerEstablishRequest redeems a token made in the other region.
type PeerEstablishRequest struct {
	Token     string            `json:"token"`
	Peer      federation.Region `json:"peer,omitempty"`      // when set, a token that another region made is refused before it is used
	Addresses []string          `json:"addresses,omitempty"` // this region's own, for the other side to dial; default: the advertised ones
}

// PeerStep is one step of establishing a peering, sent when it begins and when it ends.
type PeerStep struct {
	Name  string    `json:"name"` // stable: "token", "reach", "trust", "session", "catalog", ...
	State StepState `json:"state"`
	Text  string    `json:"text"` // for humans: what is being done, or what was found
}

// StepState says where a step stands.
type StepState string

// The states of a step.
const (
	StepRunning StepState = "running"
	StepDone    StepState = "done"
	StepWarning StepState = "warning" // done, but something deserves attention
	StepFailed  StepState = "failed"  // the error follows
)

// PeerEstablished is the end of establishing: the peering as it is now.
type PeerEstablished struct {
	Peering     Peering `json:"peering"`
	TookSeconds Seconds `json:"took_seconds"`
}

// PeerEstablishEvent is one message of the stream that PeerEstablish answers with: some steps, then the result.
type PeerEstablishEvent struct {
	Step   *PeerStep        `json:"step,omitempty"`
	Result *PeerEstablished `json:"result,omitempty"`
}

// PeerRequest names a peer.
type PeerRequest struct {
	Peer federation.Region `json:"peer"`
}

// PeerWaitRequest waits until a peering is in State, at most as long as the caller's deadline.
type PeerWaitRequest struct {
	Peer  federation.Region       `json:"peer"`
	State federation.PeeringState `json:"state"`
}

// PeerListRequest asks for all peerings.
type PeerListRequest struct{}

// PeerListResponse is sorted by region.
type PeerListResponse struct {
	Peerings List[Peering] `json:"peerings"`
}

// PeerRemoveResponse says that the peering and its imports are gone.
type PeerRemoveResponse struct {
	// Told: the peer knows, or there was nothing to tell it. Otherwise it shows the peering as Failing until it is removed there.
	Told bool `json:"told"`
}

// Peering is one peering as it is now.
type Peering struct {
	Region      federation.Region       `json:"region"`
	TrustDomain string                  `json:"trust_domain,omitempty"`
	State       federation.PeeringState `json:"state"`
	Since       Time                    `json:"since,omitzero"`   // of the state
	Reason      string                  `json:"reason,omitempty"` // for the state, when it is not Active
	Gateways    List[string]            `json:"gateways"`         // the peer's, as host:port
	Fingerprint string                  `json:"fingerprint,omitempty"`
	Path        PathStatus              `json:"path"`
	Exchange    string                  `json:"exchange,omitempty"` // what carries the catalog now: "quic" or "tcp"
	Import      ImportStatus            `json:"import"`
	Export      ExportStatus            `json:"export"`
	Problem     *Problem                `json:"problem,omitempty"` // the worst one now
}

// PathStatus is how traffic gets to a peer now.
type PathStatus struct {
	Up         bool    `json:"up"`
	Lane       string  `json:"lane,omitempty"` // that a flow would take now: "quic" or "tcp"
	Address    string  `json:"address,omitempty"`
	RTTSeconds Seconds `json:"rtt_seconds,omitempty"`
	Loss       float64 `json:"loss,omitempty"` // share of packets, 0 to 1
	Sessions   int     `json:"sessions,omitempty"`
	QUIC       int     `json:"quic_sessions,omitempty"` // of them
	TCP        int     `json:"tcp_sessions,omitempty"`
	Since      Time    `json:"since,omitzero"` // of up or down
}

// ImportStatus is what the peer shows us.
type ImportStatus struct {
	Services    int                          `json:"services"`
	Freshness   federation.Freshness         `json:"freshness"`
	AsOf        Time                         `json:"as_of,omitzero"` // when the peer last confirmed that this is all; unset: never
	AgeSeconds  Seconds                      `json:"age_seconds"`
	Epoch       string                       `json:"epoch,omitempty"`
	Seq         uint64                       `json:"seq,omitempty"`
	Head        uint64                       `json:"head,omitempty"`    // the newest the peer has; applied is Seq
	Lagging     bool                         `json:"lagging,omitempty"` // Seq is behind Head
	Braked      bool                         `json:"braked,omitempty"`  // a mass withdrawal is being held back
	Quarantined List[Quarantined]            `json:"quarantined"`
	Names       List[federation.ServiceName] `json:"names"`
}

// Quarantined is a row of the peer that was refused; the last good one stays in use.
type Quarantined struct {
	Service string `json:"service"`
	Reason  string `json:"reason"`
}

// ExportStatus is what we show the peer.
type ExportStatus struct {
	Services   int                          `json:"services"`
	Applied    uint64                       `json:"applied,omitempty"` // the newest row the peer confirmed
	Head       uint64                       `json:"head,omitempty"`    // the newest row we have
	Confirmed  Time                         `json:"confirmed,omitzero"`
	AgeSeconds Seconds                      `json:"age_seconds,omitempty"` // since the peer last confirmed
	Names      List[federation.ServiceName] `json:"names"`
}
