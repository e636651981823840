package trust

import (
	"crypto/tls"
	"crypto/x509"
	"slices"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// JoinProtocol is the ALPN name of token redemption, the one protocol whose client has no identity yet.
const JoinProtocol = "tw-join/1"

// baseTLS is what all our sessions have in common. Certificates and verification are looked up at each handshake, so that a
// config never goes stale.
func (a *Authority) baseTLS(protos []string) *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS13,
		MaxVersion: tls.VersionTLS13,
		// Hybrid first: what is recorded today must not be read by a quantum computer later. The others are for local callers.
		CurvePreferences: []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256},
		// A resumed session is not verified again by crypto/tls, and would outlive a revocation.
		SessionTicketsDisabled: true,
		NextProtos:             slices.Clone(protos),
		Time:                   a.cfg.Now,
	}
}

// ServerTLS is for the mesh listener. A client must present a gateway identity of a known peer and agree on one of protos.
// If protos has JoinProtocol, a client that offers that and nothing else needs no certificate and is shown our roots.
func (a *Authority) ServerTLS(protos ...string) *tls.Config {
	mesh := slices.DeleteFunc(slices.Clone(protos), func(p string) bool { return p == JoinProtocol })
	config := a.baseTLS(mesh)
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.identity(), nil }
	config.ClientAuth = tls.RequireAnyClientCert // crypto/tls knows one pool for all; VerifyConnection knows one for each domain
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(protos) > 0 && !slices.Contains(mesh, cs.NegotiatedProtocol) {
			return wrongProtocol(cs.NegotiatedProtocol)
		}
		d, err := a.domainOf(cs.PeerCertificates)
		if err != nil {
			return err
		}
		_, err = d.verify(cs.PeerCertificates, a.expect(federation.RoleGateway, x509.ExtKeyUsageClientAuth))
		return err
	}
	if len(mesh) == len(protos) {
		return config
	}
	join := a.baseTLS([]string{JoinProtocol})
	join.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return a.state.Load().gateway.join, nil }
	join.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != JoinProtocol {
			return wrongProtocol(cs.NegotiatedProtocol)
		}
		return nil
	}
	config.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		// Only this list, exactly. A client that offers more gets the config that asks for a certificate, and that one does not
		// agree on JoinProtocol: no offer leads to a mesh protocol without an identity.
		if len(hello.SupportedProtos) == 1 && hello.SupportedProtos[0] == JoinProtocol {
			return join, nil
		}
		return nil, nil //nolint:nilnil // crypto/tls: go on with the config itself
	}
	return config
}

func (a *Authority) expect(role federation.Role, usage x509.ExtKeyUsage) expectation {
	return expectation{role: role, usage: usage, now: a.cfg.Now()}
}

// ClientTLS is for dialling a gateway of the peer region: the server must present a gateway identity of exactly that peer's
// trust domain. It returns a Diagnostic when there is no such peer; one removed later fails the handshake.
func (a *Authority) ClientTLS(peer federation.Region, protos ...string) (*tls.Config, error) {
	p, ok := a.state.Load().peers[peer]
	if !ok {
		return nil, noPeer(peer)
	}
	config := a.baseTLS(protos)
	config.ServerName = p.domain.bundle.TrustDomain.Name()
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return a.identity(), nil
	}
	// crypto/tls would look for a DNS name, which an identity must not have. VerifyConnection does instead all that it would
	// do, and more: path, times, usage, trust domain, role and revocation; crypto/tls calls it in every handshake, and still
	// checks by itself that the server holds the certificate's key.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if len(protos) > 0 && !slices.Contains(protos, cs.NegotiatedProtocol) {
			return wrongProtocol(cs.NegotiatedProtocol)
		}
		p, ok := a.state.Load().peers[peer]
		if !ok {
			return noPeer(peer)
		}
		_, err := p.domain.verify(cs.PeerCertificates, a.expect(federation.RoleGateway, x509.ExtKeyUsageServerAuth))
		return err
	}
	return config, nil
}

// LocalTLS is for the listener of local callers: the client must present a workload identity of our own trust domain. The
// server's certificate bears the gateway's identity and, as a DNS name, the mesh name that the client asked for: a caller
// needs no more than the bundle and any TLS library.
func (a *Authority) LocalTLS() *tls.Config {
	config := a.baseTLS(nil)
	config.GetCertificate = a.nameCertificate
	config.ClientAuth = tls.RequireAnyClientCert // verified below, against our own domain alone
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		_, err := a.state.Load().own.verify(cs.PeerCertificates, a.expect(federation.RoleWorkload, x509.ExtKeyUsageClientAuth))
		return err
	}
	return config
}

// JoinTLS is for redeeming a token: the server must present a gateway identity that leads to the root whose public key has
// the SHA-256 pin. Which trust domain that is, the caller reads from Identify and compares with the token.
func (a *Authority) JoinTLS(pin [32]byte) *tls.Config {
	config := a.baseTLS([]string{JoinProtocol})
	// There is no bundle yet to verify against. The pin takes its place: VerifyConnection demands a path to that very root, a
	// gateway identity, times and usage, as in ClientTLS.
	config.InsecureSkipVerify = true
	config.VerifyConnection = func(cs tls.ConnectionState) error {
		if cs.NegotiatedProtocol != JoinProtocol {
			return wrongProtocol(cs.NegotiatedProtocol)
		}
		_, err := verifyPinned(cs.PeerCertificates, pin, a.expect(federation.RoleGateway, x509.ExtKeyUsageServerAuth))
		return err
	}
	return config
}

func verifyPinned(chain []*x509.Certificate, pin [32]byte, want expectation) (spiffeid.ID, error) {
	id, role, err := checkChain(chain)
	if err != nil {
		return spiffeid.ID{}, err
	}
	if role != want.role {
		return spiffeid.ID{}, wrongRole(id, role, want.role)
	}
	var roots []*x509.Certificate
	for _, c := range chain[1:] {
		if c.IsCA && pinOf(c) == pin {
			roots = append(roots, c)
		}
	}
	if len(roots) == 0 {
		return spiffeid.ID{}, wrongPin()
	}
	// A clock that is behind must not hide behind an address that "cannot be reached": the join that follows compares the clocks, on
	// both sides, and says by how much they differ.
	want.now = maxTime(want.now, chain[0].NotBefore)
	return id, newAnchor(roots...).checkPath(id, chain, want)
}
