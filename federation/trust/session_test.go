package trust_test

import (
	"crypto/tls"
	"errors"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tradewind-mesh/tradewind/federation"
	"github.com/tradewind-mesh/tradewind/federation/trust"
	"github.com/tradewind-mesh/tradewind/federation/trust/trusttest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shows is a side that shows cert and accepts anything.
func shows(cert tls.Certificate, protos ...string) *tls.Config {
	return trusttest.Insecure(cert, protos...)
}

func clientTLS(t testing.TB, a *trust.Authority, peer federation.Region, protos ...string) *tls.Config {
	t.Helper()
	config, err := a.ClientTLS(peer, protos...)
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func handshake(t testing.TB, client, server *tls.Config) trusttest.Session {
	t.Helper()
	s, err := trusttest.Handshake(t, client, server)
	if err != nil {
		t.Fatalf("handshake: %v", err)
	}
	return s
}

func TestMeshSession(t *testing.T) {
	a, b := trusttest.Pair(t, "a", "b")
	for _, c := range []struct{ client, server *trust.Authority }{{a, b}, {b, a}} {
		from, to := c.client.Status().Region, c.server.Status().Region
		client := clientTLS(t, c.client, to, "cx/1", "tw-flow/1")
		client.ClientSessionCache = tls.NewLRUClientSessionCache(4) // even if a caller wants to resume
		for range 2 {
			s := handshake(t, client, c.server.ServerTLS("tw-flow/1", "cx/1", trust.JoinProtocol))
			cs, ss := s.Client.ConnectionState(), s.Server.ConnectionState()
			if cs.Version != tls.VersionTLS13 || cs.CurveID != tls.X25519MLKEM768 || cs.NegotiatedProtocol != "tw-flow/1" || cs.DidResume {
				t.Errorf("%s to %s: version %x, curve %v, protocol %q, resumed %v",
					from, to, cs.Version, cs.CurveID, cs.NegotiatedProtocol, cs.DidResume)
			}
			if region, id, err := c.client.Identify(cs); region != to || id != c.server.GatewayID() || err != nil {
				t.Errorf("the client is told %q, %v, %v", region, id, err)
			}
			if region, id, err := c.server.Identify(ss); region != from || id != c.client.GatewayID() || err != nil {
				t.Errorf("the server is told %q, %v, %v", region, id, err)
			}
			if err := c.server.Judge(from, ss.PeerCertificates); err != nil {
				t.Errorf("Judge: %v", err)
			}
		}
	}
}

func TestLocalSession(t *testing.T) {
	a, b := trusttest.Pair(t, "a", "b")
	s := handshake(t, trusttest.WorkloadTLS(t, a, "shop/web"), a.LocalTLS())
	id, err := a.Workload(s.Server.ConnectionState())
	if err != nil || id.String() != "spiffe://a.mesh.internal/ns/shop/svc/web" {
		t.Errorf("the caller is %v, %v", id, err)
	}
	if err := a.Judge("", s.Server.ConnectionState().PeerCertificates); err != nil {
		t.Errorf("Judge: %v", err)
	}
	for name, c := range map[string]struct {
		client *tls.Config
		code   federation.Code
	}{
		"a workload of a peer": {trusttest.WorkloadTLS(t, b, "web"), "TW-2203"},
		"a gateway of a peer":  {shows(gatewayCertificate(t, b)), "TW-2203"},
		"a mesh session":       {clientTLS(t, b, "a"), "TW-2202"}, // it asks for "a.mesh.internal", and what it is shown is no gateway's identity
		"our own gateway":      {shows(gatewayCertificate(t, a)), "TW-2204"},
		"nobody":               {shows(tls.Certificate{}), "*"},
	} {
		_, err := trusttest.Handshake(t, c.client, a.LocalTLS())
		expectCode(t, name, err, c.code)
	}
}

// gatewayCertificate borrows the certificate of a's gateway.
func gatewayCertificate(t *testing.T, a *trust.Authority) tls.Certificate {
	t.Helper()
	cert, err := a.LocalTLS().GetCertificate(nil)
	if err != nil {
		t.Fatal(err)
	}
	return *cert
}

func TestRefusedSessions(t *testing.T) {
	a, b := trusttest.Pair(t, "a", "b")
	c, _ := trusttest.Pair(t, "c", "d") // strangers
	e := trusttest.NewAuthority(t, "e")
	trusttest.Introduce(t, a, e) // a knows e, e does not know a
	impostor := trusttest.NewAuthority(t, "b", func(c *trust.Config) { c.Gateway = "gw-2" })
	trusttest.Introduce(t, impostor, a)
	webOfB := trusttest.Workload(t, b, "web")
	server := func(x *trust.Authority) *tls.Config { return x.ServerTLS("cx/1", trust.JoinProtocol) }
	old := func(config *tls.Config) *tls.Config {
		config.MinVersion, config.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
		return config
	}
	for name, c := range map[string]struct {
		client, server *tls.Config
		code           federation.Code
	}{
		"dialled b, met e":                {clientTLS(t, a, "b", "cx/1"), server(e), "*"},
		"dialled b, met e who accepts":    {clientTLS(t, a, "b", "cx/1"), shows(gatewayCertificate(t, e), "cx/1"), "TW-2203"},
		"dialled b, met an impostor":      {clientTLS(t, a, "b", "cx/1"), server(impostor), "TW-2205"},
		"dialled b, met a workload":       {clientTLS(t, a, "b", "cx/1"), shows(webOfB, "cx/1"), "TW-2204"},
		"dialled b, met ourselves":        {clientTLS(t, a, "b", "cx/1"), shows(gatewayCertificate(t, a), "cx/1"), "TW-2203"},
		"the server knows us not":         {clientTLS(t, a, "e", "cx/1"), server(e), "TW-2201"},
		"a stranger":                      {shows(gatewayCertificate(t, c), "cx/1"), server(a), "TW-2201"},
		"an impostor":                     {clientTLS(t, impostor, "a", "cx/1"), server(a), "TW-2205"},
		"a workload of the peer":          {shows(webOfB, "cx/1"), server(a), "TW-2204"},
		"a gateway of our own":            {shows(gatewayCertificate(t, a), "cx/1"), server(a), "TW-2201"},
		"no certificate":                  {shows(tls.Certificate{}, "cx/1"), server(a), "*"},
		"no protocol":                     {shows(gatewayCertificate(t, b)), server(a), "TW-2209"},
		"another protocol":                {clientTLS(t, b, "a", "h2"), server(a), "*"},
		"the server agrees on nothing":    {clientTLS(t, a, "b", "cx/1"), shows(gatewayCertificate(t, b)), "TW-2209"},
		"client of TLS 1.2":               {old(shows(gatewayCertificate(t, b), "cx/1")), server(a), "*"},
		"server of TLS 1.2":               {clientTLS(t, a, "b", "cx/1"), old(shows(gatewayCertificate(t, b), "cx/1")), "*"},
		"join and mesh without identity":  {shows(tls.Certificate{}, trust.JoinProtocol, "cx/1"), server(a), "*"},
		"mesh and join without identity":  {shows(tls.Certificate{}, "cx/1", trust.JoinProtocol), server(a), "*"},
		"join where it is not offered":    {shows(tls.Certificate{}, trust.JoinProtocol), a.ServerTLS("cx/1"), "*"},
		"mesh where only join is offered": {shows(gatewayCertificate(t, b), "cx/1"), a.ServerTLS(trust.JoinProtocol), "TW-2209"},
		"P-384 key exchange only":         {onlyCurve(tls.CurveP384, clientTLS(t, b, "a", "cx/1")), server(a), "*"},
	} {
		_, err := trusttest.Handshake(t, c.client, c.server)
		expectCode(t, name, err, c.code)
	}
	if _, err := a.ClientTLS("nowhere"); federation.CodeOf(err) != "TW-2201" {
		t.Errorf("a config for an unknown peer: %v", err)
	}
	handshake(t, onlyCurve(tls.X25519, clientTLS(t, b, "a", "cx/1")), server(a))
}

func onlyCurve(curve tls.CurveID, config *tls.Config) *tls.Config {
	config.CurvePreferences = []tls.CurveID{curve}
	return config
}

func TestJoinSession(t *testing.T) {
	a, b := trusttest.NewAuthority(t, "a"), trusttest.NewAuthority(t, "b")
	s := handshake(t, a.JoinTLS(b.RootPin()), b.ServerTLS("cx/1", trust.JoinProtocol))
	cs, ss := s.Client.ConnectionState(), s.Server.ConnectionState()
	if cs.CurveID != tls.X25519MLKEM768 || ss.NegotiatedProtocol != trust.JoinProtocol {
		t.Errorf("curve %v, protocol %q", cs.CurveID, ss.NegotiatedProtocol)
	}
	if region, id, err := a.Identify(cs); region != "" || id != b.GatewayID() || err != nil {
		t.Errorf("the client is told %q, %v, %v", region, id, err)
	}
	if region, id, err := b.Identify(ss); region != "" || !id.IsZero() || err != nil {
		t.Errorf("the server is told %q, %v, %v", region, id, err)
	}
	one, err1 := cs.ExportKeyingMaterial("EXPORTER-test", nil, 32)
	two, err2 := ss.ExportKeyingMaterial("EXPORTER-test", nil, 32)
	if err := errors.Join(err1, err2); err != nil || string(one) != string(two) {
		t.Errorf("the ends do not share an exporter: %v", err)
	}
	webOfB := trusttest.Workload(t, b, "web")
	for name, c := range map[string]struct {
		client, server *tls.Config
		code           federation.Code
	}{
		"another pin":           {a.JoinTLS(a.RootPin()), b.ServerTLS(trust.JoinProtocol), "TW-2208"},
		"a workload as server":  {a.JoinTLS(b.RootPin()), shows(webOfB, trust.JoinProtocol), "TW-2204"},
		"a root not shown":      {a.JoinTLS(b.RootPin()), shows(gatewayCertificate(t, b), trust.JoinProtocol), "TW-2208"},
		"a foreign leaf before": {a.JoinTLS(b.RootPin()), shows(withRootOf(gatewayCertificate(t, a), b), trust.JoinProtocol), "TW-2205"},
	} {
		_, err := trusttest.Handshake(t, c.client, c.server)
		expectCode(t, name, err, c.code)
	}
	// A clock that is behind is for the join to tell; one that is ahead, or a gateway that does not renew, ends here.
	for behind, code := range map[time.Duration]federation.Code{20 * time.Minute: "", -trust.GatewayLife - time.Minute: "TW-2206"} {
		c := trusttest.NewAuthority(t, "c", at(&clock{time.Now().Add(-behind)}, nil))
		_, err := trusttest.Handshake(t, c.JoinTLS(b.RootPin()), b.ServerTLS(trust.JoinProtocol))
		expectCode(t, "a clock behind by "+behind.String(), err, code)
	}
}

// withRootOf shows b's root, which anybody may have, behind somebody else's certificate.
func withRootOf(cert tls.Certificate, b *trust.Authority) tls.Certificate {
	cert.Certificate = append(cert.Certificate[:1:1], b.Bundle().Roots[0].Raw)
	return cert
}
