package admin

import "github.com/tradewind-mesh/tradewind/federation"

// CertListRequest asks for the certificates this region issued and the bundles it trusts.
type CertListRequest struct{}

// CertListResponse is sorted by role, then ID.
type CertListResponse struct {
	Certificates List[Certificate] `json:"certificates"`
	Bundles      List[TrustBundle] `json:"bundles"` // the region's own first
}

// Certificate is one that this region issued.
type Certificate struct {
	Serial    string `json:"serial"` // hexadecimal
	ID        string `json:"id"`     // SPIFFE ID
	Role      string `json:"role"`   // "ca", "gateway" or "workload"
	NotBefore Time   `json:"not_before,omitzero"`
	NotAfter  Time   `json:"not_after"`
	Renews    Time   `json:"renews,omitzero"`  // when the gateway will renew it by itself
	Revoked   Time   `json:"revoked,omitzero"` //
	Reason    string `json:"reason,omitempty"` // of the revocation
}

// TrustBundle is the roots of one trust domain.
type TrustBundle struct {
	Region      federation.Region `json:"region"`
	TrustDomain string            `json:"trust_domain"`
	Own         bool              `json:"own,omitempty"`
	Sequence    uint64            `json:"sequence"`
	Fingerprint string            `json:"fingerprint"`
	Roots       int               `json:"roots"`
	NotAfter    Time              `json:"not_after,omitzero"` // of the root that ends first
}

// CertIssueRequest asks for a certificate for a key that stays with the caller.
type CertIssueRequest struct {
	Service      federation.ServiceName `json:"service"`
	PublicKeyPEM string                 `json:"public_key_pem"` // a "PUBLIC KEY" block (PKIX)
}

// CertIssueResponse is an SVID.
type CertIssueResponse struct {
	Serial    string `json:"serial"`
	ID        string `json:"id"`
	ChainPEM  string `json:"chain_pem"`  // leaf first
	BundlePEM string `json:"bundle_pem"` // the roots to trust for callers within the region
	NotAfter  Time   `json:"not_after"`
}

// CertRotateCARequest gives the region a new root beside the old one, which stays trusted until what it signed has ended.
type CertRotateCARequest struct{}

// CertRevokeRequest revokes a certificate by serial, or every one of an identity.
type CertRevokeRequest struct {
	Certificate string `json:"certificate"` // serial or SPIFFE ID
	Reason      string `json:"reason,omitempty"`
}

// CertRevokeResponse says what was revoked.
type CertRevokeResponse struct {
	Revoked List[Certificate] `json:"revoked"`
}

// ReloadRequest asks the gateway to read gateway.hcl again. A bad file leaves the running configuration alone.
type ReloadRequest struct{}

// ReloadResponse says what came of it.
type ReloadResponse struct {
	Generation uint64       `json:"generation"`
	Changed    List[string] `json:"changed"` // settings that took effect
	Restart    List[string] `json:"restart"` // settings that changed but need a restart
}

// LogLevelRequest sets the level of the log; empty asks for it.
type LogLevelRequest struct {
	Level string `json:"level,omitempty"` // "debug", "info", "warn" or "error"
}

// LogLevelResponse is the level now.
type LogLevelResponse struct {
	Level    string `json:"level"`
	Previous string `json:"previous"`
}
