package admin

import "github.com/tradewind-mesh/tradewind/federation"

// StatusRequest asks how the gateway is.
type StatusRequest struct{}

// GatewayState says whether a gateway takes traffic.
type GatewayState string

// The states of a gateway.
const (
	StateStarting GatewayState = "starting"
	StateReady    GatewayState = "ready"
	StateDraining GatewayState = "draining"
)

// Status is one screen about a gateway.
type Status struct {
	Region        federation.Region    `json:"region"`
	TrustDomain   string               `json:"trust_domain"`
	Gateway       string               `json:"gateway"` // its name within the region
	Location      Location             `json:"location,omitzero"`
	Version       string               `json:"version"`
	State         GatewayState         `json:"state"`
	Started       Time                 `json:"started,omitzero"`
	UptimeSeconds Seconds              `json:"uptime_seconds"`
	Generation    uint64               `json:"generation"`          // of gateway.hcl: grows with every reload that took effect
	Configured    Time                 `json:"configured,omitzero"` // when that generation took effect
	View          uint64               `json:"view"`                // number of the published view
	Listeners     List[ListenerStatus] `json:"listeners"`           // mesh, local, admin and upstreams
	Traffic       Traffic              `json:"traffic"`             // since the start
	Services      ServiceCounts        `json:"services"`            //
	Peers         List[Peering]        `json:"peers"`               // sorted by region
	Failovers     List[FailoverStatus] `json:"failovers"`           // services that are served elsewhere now than they prefer
	Drains        []DrainStatus        `json:"drains,omitempty"`    // of regions, as seen from this one
	Sources       List[SourceStatus]   `json:"sources"`             //
	Tokens        []TokenProvider      `json:"jwt,omitempty"`       // providers of tokens, by name
	Certificates  CertificateSummary   `json:"certificates"`        //
	Problems      List[Problem]        `json:"problems"`            // worst first
}

// TokenProvider is how far the tokens of a jwt resource can be verified.
type TokenProvider struct {
	Name       string  `json:"name"`
	Keys       int     `json:"keys"`
	Skipped    int     `json:"keys_skipped,omitempty"`     // published, and not for signatures that are known
	Confirmed  Time    `json:"keys_confirmed,omitzero"`    // when the provider last said that these are its keys
	AgeSeconds Seconds `json:"keys_age_seconds,omitempty"` // since then
	Error      string  `json:"error,omitempty"`            // of the last fetch
}

// Location is where a gateway runs, as far as that is known.
type Location struct {
	Provider string `json:"provider,omitempty"` // "aws", "azure", "gcp", or what the configuration says
	Region   string `json:"region,omitempty"`   // the cloud's
	Zone     string `json:"zone,omitempty"`
	ZoneID   string `json:"zone_id,omitempty"` // the same for every account, where the zone's name is not
	Instance string `json:"instance,omitempty"`
	Account  string `json:"account,omitempty"` // or project, or subscription
}

// ListenerStatus is one address the gateway listens on.
type ListenerStatus struct {
	Name    string `json:"name"`              // "mesh", "local", "admin", or an upstream's name
	Address string `json:"address"`           // as bound: "[::]:8443", "unix:/run/..."
	Network string `json:"network,omitempty"` // "udp", "tcp", "udp+tcp", "unix"
	Error   string `json:"error,omitempty"`   // why it is not bound
}

// Traffic counts connections.
type Traffic struct {
	Active   uint64 `json:"active"`
	Opened   uint64 `json:"opened"` // reached an instance
	Denied   uint64 `json:"denied"` // decisions against a connection; one that tries three regions can have three
	Failed   uint64 `json:"failed"` // reached no instance for another reason
	BytesIn  uint64 `json:"bytes_in"`
	BytesOut uint64 `json:"bytes_out"`
}

// ServiceCounts counts services.
type ServiceCounts struct {
	Local    int `json:"local"`
	Imported int `json:"imported"`
	Exported int `json:"exported"`
	Failing  int `json:"failing"` // local ones without a healthy instance
}

// FailoverStatus is a service that is served by another region than the first of its order.
type FailoverStatus struct {
	Service federation.ServiceName `json:"service"`
	From    federation.Region      `json:"from"`
	To      federation.Region      `json:"to,omitempty"` // empty: nobody serves it
	Since   Time                   `json:"since,omitzero"`
	Reason  string                 `json:"reason,omitempty"`
}

// CertificateSummary says when something expires.
type CertificateSummary struct {
	Fingerprint     string `json:"fingerprint"` // of the region's roots, for comparison by humans
	CANotAfter      Time   `json:"ca_not_after,omitzero"`
	GatewayNotAfter Time   `json:"gateway_not_after,omitzero"`
	GatewayRenews   Time   `json:"gateway_renews,omitzero"`
	Issued          int    `json:"issued"` // valid workload certificates
	Revoked         int    `json:"revoked"`
}

// CheckRequest asks for every check, or those about one peer.
type CheckRequest struct {
	Peer federation.Region `json:"peer,omitempty"`
}

// CheckStatus is the outcome of one check.
type CheckStatus string

// The outcomes.
const (
	CheckPass CheckStatus = "pass"
	CheckWarn CheckStatus = "warn"
	CheckFail CheckStatus = "fail"
	CheckSkip CheckStatus = "skip" // not run, because of another that failed
)

// CheckReport is the outcome of all checks. Groups and results keep the order in which they should be read.
type CheckReport struct {
	Region      federation.Region `json:"region"`
	Gateway     string            `json:"gateway"`
	Version     string            `json:"version"`
	Peers       int               `json:"peers"`
	TookSeconds Seconds           `json:"took_seconds"`
	Groups      List[CheckGroup]  `json:"groups"`
}

// CheckGroup is the checks about one subject: "process", "identity", "network", "peers", ...
type CheckGroup struct {
	Name    string            `json:"name"`
	Results List[CheckResult] `json:"results"`
}

// CheckResult is one check. Code, Why and Fix are set unless it passed.
type CheckResult struct {
	Name   string          `json:"name"` // what was checked, in a few words
	Status CheckStatus     `json:"status"`
	Code   federation.Code `json:"code,omitempty"`
	What   string          `json:"what,omitempty"`
	Why    string          `json:"why,omitempty"`
	Fix    string          `json:"fix,omitempty"`
}

// Failed returns r as the outcome of diagnostic d.
func Failed(name string, status CheckStatus, d *federation.Diagnostic) CheckResult {
	return CheckResult{Name: name, Status: status, Code: d.Code, What: d.What, Why: d.Why, Fix: d.Fix}
}

// PingRequest asks to reach a peer's gateway through the mesh, once.
type PingRequest struct {
	Peer federation.Region `json:"peer"`
}

// Pong is a peer's answer.
type Pong struct {
	Peer               federation.Region `json:"peer"`
	Lane               string            `json:"lane"`    // "quic" or "tcp"
	Address            string            `json:"address"` // of the gateway that answered
	RTTSeconds         Seconds           `json:"rtt_seconds"`
	ClockOffsetSeconds *Seconds          `json:"clock_offset_seconds,omitempty"` // the peer's clock minus ours, when known
}

// ExplainRequest asks whether and how Source would reach Destination now.
type ExplainRequest struct {
	Source      string               `json:"source"`             // "web", "shop/web", "web@region" or a SPIFFE ID; empty: the upstreams' caller
	Destination string               `json:"destination"`        // "checkout" or "checkout@region"
	Assurance   federation.Assurance `json:"assurance,omitzero"` // how the caller is known; default: binding
	Request     *HTTPRequest         `json:"request,omitempty"`  // for a service that speaks HTTP; nil: before any request
	Token       string               `json:"token,omitempty"`    // JSON Web Token that the request brings; it is in no answer and in no log
}
