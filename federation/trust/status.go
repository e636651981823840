package trust

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// Status is what operators look at.
type Status struct {
	Region      federation.Region        `json:"region"`
	TrustDomain spiffeid.TrustDomain     `json:"trust_domain"`
	Fingerprint string                   `json:"fingerprint"`
	Sequence    uint64                   `json:"sequence"`
	OutsideCA   bool                     `json:"outside_ca"`
	Roots       []RootStatus             `json:"roots"` // the one that signs first
	Gateway     GatewayStatus            `json:"gateway"`
	Peers       []PeerStatus             `json:"peers"` // by region
	Issued      int                      `json:"issued"`
	Revoked     int                      `json:"revoked"`
	Alarms      []*federation.Diagnostic `json:"alarms,omitempty"`
}

// RootStatus is one root of a bundle.
type RootStatus struct {
	Fingerprint string `json:"fingerprint"`
	Expiry
}

// GatewayStatus is the gateway's own certificate.
type GatewayStatus struct {
	ID      spiffeid.ID `json:"id"`
	Serial  string      `json:"serial"`
	RenewAt time.Time   `json:"renew_at"`
	Expiry
	LastError *federation.Diagnostic `json:"last_error,omitempty"` // of the renewal, until one succeeds
}

// PeerStatus is the bundle in force of one peer.
type PeerStatus struct {
	Region      federation.Region    `json:"region"`
	TrustDomain spiffeid.TrustDomain `json:"trust_domain"`
	Fingerprint string               `json:"fingerprint"`
	Sequence    uint64               `json:"sequence"`
	Roots       int                  `json:"roots"`
	Revoked     int                  `json:"revoked"`
	ReceivedAt  time.Time            `json:"received_at"`
	Expiry
}

// Expiry says how long something is good for.
type Expiry struct {
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`
	Left      int       `json:"left_percent"` // of its life
	Level     Level     `json:"level"`
}

// Level says how urgent an expiry is.
type Level string

// The levels, by what is left of the life. A root of five years gives two and a half years, 15 and 6 months of notice.
const (
	LevelOK       Level = "ok"
	LevelNotice   Level = "notice"   // half or less
	LevelWarning  Level = "warning"  // a quarter or less
	LevelCritical Level = "critical" // a tenth or less
	LevelExpired  Level = "expired"
)

func expiryOf(notBefore, notAfter, now time.Time) Expiry {
	e := Expiry{NotBefore: notBefore, NotAfter: notAfter, Level: LevelExpired}
	life := notAfter.Sub(notBefore)
	if left := notAfter.Sub(now); left > 0 && life > 0 {
		e.Left = int(min(left, life) * 100 / life)
		switch share := float64(left) / float64(life); {
		case share > 0.5:
			e.Level = LevelOK
		case share > 0.25:
			e.Level = LevelNotice
		case share > 0.1:
			e.Level = LevelWarning
		default:
			e.Level = LevelCritical
		}
	}
	return e
}

// expiryOfRoots is that of the root that lasts longest: as long as it does, the domain can be verified.
func expiryOfRoots(roots []*x509.Certificate, now time.Time) Expiry {
	last := slices.MaxFunc(roots, func(a, b *x509.Certificate) int { return a.NotAfter.Compare(b.NotAfter) })
	return expiryOf(last.NotBefore, last.NotAfter, now)
}

// Status returns what is in force now. Alarms holds a Diagnostic for everything that is about to expire: roots at half, a
// quarter and a tenth of their life; the gateway's certificate, which is renewed at half, only at a quarter and a tenth.
func (a *Authority) Status() Status {
	s, now := a.state.Load(), a.cfg.Now()
	b := s.own.bundle
	st := Status{
		Region:      a.cfg.Region,
		TrustDomain: a.cfg.TrustDomain,
		Fingerprint: b.Fingerprint(),
		Sequence:    b.Sequence,
		OutsideCA:   s.ca.embedded == nil,
		Issued:      int(a.issued.Load()),
		Revoked:     len(s.revoked),
	}
	for _, root := range b.Roots {
		st.Roots = append(st.Roots, RootStatus{Fingerprint: fingerprint(root), Expiry: expiryOf(root.NotBefore, root.NotAfter, now)})
	}
	st.alarm(st.Roots[0].Expiry, codeCAExpires, "the region's CA", "replace it: tradewind cert rotate-ca")
	if leaf := s.gateway.mesh.Leaf; leaf != nil {
		st.Gateway = GatewayStatus{
			ID:        a.gatewayID,
			Serial:    serialOf(leaf),
			RenewAt:   s.gateway.renewAt,
			Expiry:    expiryOf(s.gateway.issuedAt, leaf.NotAfter, now),
			LastError: s.gateway.failed,
		}
	}
	if st.Gateway.Level != LevelNotice {
		st.alarm(st.Gateway.Expiry, codeSVIDExpires, "the certificate of "+a.gatewayID.String(),
			"look for why it is not renewed: tradewind cert list")
	}
	for _, region := range slices.Sorted(maps.Keys(s.peers)) {
		p := s.peers[region]
		peer := PeerStatus{
			Region:      region,
			TrustDomain: p.domain.bundle.TrustDomain,
			Fingerprint: p.domain.bundle.Fingerprint(),
			Sequence:    p.domain.bundle.Sequence,
			Roots:       len(p.domain.bundle.Roots),
			Revoked:     len(p.domain.bundle.Revoked),
			ReceivedAt:  p.receivedAt,
			Expiry:      expiryOfRoots(p.domain.bundle.Roots, now),
		}
		st.Peers = append(st.Peers, peer)
		st.alarm(peer.Expiry, codePeerExpires, "the CA of the peer "+string(region),
			"ask its operator to replace it: tradewind cert rotate-ca there")
	}
	return st
}

// alarm adds a Diagnostic unless e is well. The text changes with the level only, not with each hour.
func (st *Status) alarm(e Expiry, code federation.Code, subject, fix string) {
	var state string
	switch e.Level {
	case LevelOK:
		return
	case LevelNotice:
		state = "has half of its life left"
	case LevelWarning:
		state = "has a quarter of its life left"
	case LevelCritical:
		state = "has a tenth of its life left"
	case LevelExpired:
		state = "has expired"
	}
	st.Alarms = append(st.Alarms, &federation.Diagnostic{
		Code: code,
		What: fmt.Sprintf("%s %s", subject, state),
		Why:  fmt.Sprintf("it is valid until %s", e.NotAfter.UTC().Format(time.RFC3339)),
		Fix:  fix,
	})
}
