package ingress

import (
	"crypto/tls"
	"errors"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/certmagic"
	"github.com/mholt/acmez/v3"
	"github.com/mholt/acmez/v3/acme"

	"github.com/tradewind-mesh/tradewind/federation/match"
	"github.com/tradewind-mesh/tradewind/gateways/l7"
	"github.com/tradewind-mesh/tradewind/gateways/mesh"
)

// errProved ends a connection that was there to prove a name: RFC 8737 section 3 has nothing follow the handshake.
var errProved = errors.New("a name was proved")

// proving returns what serves the handshake of an authority that has a name proved (TLS-ALPN-01), or nil for every other one. Nothing
// but the challenge of an order that is under way is shown.
func (t *table) proving(hello *tls.ClientHelloInfo) (*tls.Config, error) {
	name := match.Host(hello.ServerName)
	if !slices.Equal(hello.SupportedProtos, []string{acmez.ACMETLS1Protocol}) || !t.proves[name] {
		return nil, nil
	}
	c, under := certmagic.GetACMEChallenge(name)
	if !under || c.Type != acme.ChallengeTypeTLSALPN01 {
		return nil, nil
	}
	proof, err := acmez.TLSALPN01ChallengeCert(c.Challenge)
	if err != nil {
		return nil, err
	}
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: hello.SupportedProtos, Certificates: []tls.Certificate{*proof},
		SessionTicketsDisabled: true}, nil
}

// proof answers a request by which an authority has a name proved (HTTP-01, RFC 8555 section 8.3), and is nil for every other one:
// services that have certificates of their own may be asked the same.
func (v *visit) proof(r *http.Request) *http.Response {
	path, _, _ := strings.Cut(r.RequestURI, "?")
	if v.secure || r.Method != http.MethodGet || !strings.HasPrefix(path, "/.well-known/acme-challenge/") {
		return nil
	}
	c, under := certmagic.GetACMEChallenge(match.Host(r.Host))
	if !under || c.Type != acme.ChallengeTypeHTTP01 || path != c.HTTP01ResourcePath() {
		return nil
	}
	return l7.Text(http.StatusOK, c.KeyAuthorization)
}

// prove answers x if it is such a request.
func (v *visit) prove(x *l7.Exchange, by mesh.Entry) bool {
	res := v.proof(x.Request)
	if res == nil {
		return false
	}
	v.listener.server.cfg.Mesh.Reply(x, by, res, "an authority has the name proved")
	return true
}
