package agent

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"slices"
	"time"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/internal/admin"
)

// CertList implements admin.Certificates.
func (a *Agent) CertList(ctx context.Context, _ *admin.CertListRequest) (*admin.CertListResponse, error) {
	issued, err := a.trust.Issued(ctx)
	if err != nil {
		return nil, err
	}
	out := &admin.CertListResponse{}
	own := a.trust.Bundle()
	for _, root := range own.Roots {
		out.Certificates = append(out.Certificates, admin.Certificate{Serial: root.SerialNumber.Text(16), ID: own.TrustDomain.IDString(), Role: "ca",
			NotBefore: admin.At(root.NotBefore), NotAfter: admin.At(root.NotAfter)})
	}
	for _, c := range issued {
		out.Certificates = append(out.Certificates, a.certificate(c))
	}
	out.Bundles = append(out.Bundles, bundleOf(a.cfg.Load().Region, own, true))
	for _, region := range slices.Sorted(maps.Keys(a.plane.View().Peers)) {
		if b, ok := a.trust.PeerBundle(region); ok {
			out.Bundles = append(out.Bundles, bundleOf(region, b, false))
		}
	}
	return out, nil
}

func (a *Agent) certificate(c trust.Certificate) admin.Certificate {
	role, _ := federation.RoleOf(c.ID)
	out := admin.Certificate{Serial: c.Serial, ID: c.ID.String(), Role: role.String(), NotBefore: admin.At(c.IssuedAt), NotAfter: admin.At(c.NotAfter)}
	if gateway := a.trust.Status().Gateway; gateway.Serial == c.Serial {
		out.Renews = admin.At(gateway.RenewAt)
	}
	if c.Revoked {
		for _, r := range a.trust.Revocations() {
			if r.Serial == c.Serial || r.ID == c.ID {
				out.Revoked, out.Reason = admin.At(r.At), r.Reason
			}
		}
	}
	return out
}

func bundleOf(region federation.Region, b trust.Bundle, own bool) admin.TrustBundle {
	out := admin.TrustBundle{Region: region, TrustDomain: b.TrustDomain.Name(), Own: own, Sequence: b.Sequence,
		Fingerprint: b.Fingerprint(), Roots: len(b.Roots)}
	out.NotAfter = admin.At(firstEnd(b.Roots))
	return out
}

// firstEnd is when the first of certs expires.
func firstEnd(certs []*x509.Certificate) time.Time {
	var end time.Time
	for _, c := range certs {
		if end.IsZero() || c.NotAfter.Before(end) {
			end = c.NotAfter
		}
	}
	return end
}

// CertIssue implements admin.Certificates. The private key never comes here.
func (a *Agent) CertIssue(ctx context.Context, r *admin.CertIssueRequest) (*admin.CertIssueResponse, error) {
	block, rest := pem.Decode([]byte(r.PublicKeyPEM))
	if block == nil || block.Type != "PUBLIC KEY" || len(bytes.TrimSpace(rest)) > 0 {
		return nil, &federation.Diagnostic{Code: "TW-8904", What: "the public key cannot be read", Why: "it is not one PEM block of type PUBLIC KEY",
			Fix: "send the key in PKIX form: openssl pkey -pubout"}
	}
	pub, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, &federation.Diagnostic{Code: "TW-8904", What: "the public key cannot be read", Why: err.Error(),
			Fix: "send the key in PKIX form: openssl pkey -pubout", Err: err}
	}
	svid, err := a.trust.Issue(ctx, r.Service, pub)
	if err != nil {
		return nil, err
	}
	return &admin.CertIssueResponse{Serial: svid.Certificates[0].SerialNumber.Text(16), ID: svid.ID.String(),
		ChainPEM: pemOf(svid.Certificates), BundlePEM: pemOf(svid.Roots), NotAfter: admin.At(svid.NotAfter)}, nil
}

func pemOf(certs []*x509.Certificate) string {
	var b bytes.Buffer
	for _, c := range certs {
		_ = pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}) // a Buffer does not fail
	}
	return b.String()
}

// CertRotateCA implements admin.Certificates.
func (a *Agent) CertRotateCA(ctx context.Context, _ *admin.CertRotateCARequest) (*admin.CertListResponse, error) {
	if err := a.trust.RotateCA(ctx); err != nil {
		return nil, err
	}
	return a.CertList(ctx, nil)
}

// CertRevoke implements admin.Certificates.
func (a *Agent) CertRevoke(ctx context.Context, r *admin.CertRevokeRequest) (*admin.CertRevokeResponse, error) {
	if err := a.trust.Revoke(ctx, r.Certificate, r.Reason); err != nil {
		return nil, err
	}
	issued, err := a.trust.Issued(ctx)
	out := &admin.CertRevokeResponse{}
	for _, c := range issued {
		if c.Revoked && (c.Serial == r.Certificate || c.ID.String() == r.Certificate) {
			out.Revoked = append(out.Revoked, a.certificate(c))
		}
	}
	return out, err
}
