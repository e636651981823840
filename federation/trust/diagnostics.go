package trust

import (
	"crypto/x509"
	"errors"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"

	"github.com/tradewind-mesh/tradewind/federation"
)

// The codes of this room; their texts are in federation/codes_trust.go.
const (
	codeCAUnusable    federation.Code = "TW-2001"
	codeCAExpires     federation.Code = "TW-2002"
	codeSigner        federation.Code = "TW-2003"
	codeSignerWrong   federation.Code = "TW-2004"
	codeKeyRefused    federation.Code = "TW-2005"
	codeTooMany       federation.Code = "TW-2006"
	codeRevokeWhat    federation.Code = "TW-2007"
	codeSVIDExpires   federation.Code = "TW-2008"
	codeNoRotation    federation.Code = "TW-2009"
	codeBundleInvalid federation.Code = "TW-2101"
	codeBundleOld     federation.Code = "TW-2102"
	codeBundleForeign federation.Code = "TW-2103"
	codeBundleForked  federation.Code = "TW-2104"
	codeDomainTaken   federation.Code = "TW-2105"
	codePeerExpires   federation.Code = "TW-2106"
	codeBundleExpired federation.Code = "TW-2107"
	codeUnknownDomain federation.Code = "TW-2201"
	codeForm          federation.Code = "TW-2202"
	codeWrongDomain   federation.Code = "TW-2203"
	codeWrongRole     federation.Code = "TW-2204"
	codeUntrusted     federation.Code = "TW-2205"
	codeOutOfTime     federation.Code = "TW-2206"
	codeRevoked       federation.Code = "TW-2207"
	codePin           federation.Code = "TW-2208"
	codeProtocol      federation.Code = "TW-2209"
)

func badForm(leaf *x509.Certificate, err error) error {
	return &federation.Diagnostic{
		Code: codeForm,
		What: fmt.Sprintf("certificate %.40s is no identity", serialOf(leaf)),
		Why:  err.Error(),
		Fix:  "use a certificate issued by a Tradewind region: tradewind cert issue SERVICE",
		Err:  err,
	}
}

func noCertificate() error {
	return &federation.Diagnostic{
		Code: codeForm,
		What: "the other side presented no certificate",
		Fix:  "connect with a certificate issued by a Tradewind region: tradewind cert issue SERVICE",
	}
}

func longChain(n int) error {
	return &federation.Diagnostic{
		Code: codeForm,
		What: fmt.Sprintf("the other side presented %d certificates", n),
		Why:  fmt.Sprintf("a chain of more than %d is not examined", maxChain),
		Fix:  "shorten the chain of the outside CA",
	}
}

func unknownDomain(id spiffeid.ID) error {
	return &federation.Diagnostic{
		Code: codeUnknownDomain,
		What: fmt.Sprintf("%s is refused", id),
		Why:  fmt.Sprintf("there is no peering with trust domain %s", id.TrustDomain()),
		Fix:  "peer the two regions: tradewind peer generate-token REGION here, tradewind peer establish there",
	}
}

func noPeer(region federation.Region) error {
	return &federation.Diagnostic{
		Code: codeUnknownDomain,
		What: fmt.Sprintf("region %q is not trusted", region),
		Why:  "there is no peering with it, or it was removed",
		Fix:  "list the peerings: tradewind peer list",
	}
}

func wrongDomain(id spiffeid.ID, want spiffeid.TrustDomain) error {
	return &federation.Diagnostic{
		Code: codeWrongDomain,
		What: fmt.Sprintf("%s is refused", id),
		Why:  fmt.Sprintf("an identity of trust domain %s was expected", want),
		Fix:  "check that the address of the peering belongs to the right region: tradewind peer show REGION",
	}
}

func wrongRole(id spiffeid.ID, got, want federation.Role) error {
	why := fmt.Sprintf("it is a %s identity, and only a %s may connect here", got, want)
	return &federation.Diagnostic{
		Code: codeWrongRole,
		What: fmt.Sprintf("%s is refused", id),
		Why:  why,
		Fix:  "connect workloads to the local listener, gateways to the mesh listener",
	}
}

func untrusted(id spiffeid.ID, err error) error {
	return &federation.Diagnostic{
		Code: codeUntrusted,
		What: fmt.Sprintf("%s is refused", id),
		Why:  fmt.Sprintf("its certificate does not lead to a root of %s: %v", id.TrustDomain(), err),
		Fix:  "compare the fingerprints of both sides: tradewind cert list there, tradewind peer show REGION here",
		Err:  err,
	}
}

func outOfTime(id spiffeid.ID, c *x509.Certificate, now time.Time) error {
	why := fmt.Sprintf("its certificate expired at %s, now is %s", c.NotAfter.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	if now.Before(c.NotBefore) {
		why = fmt.Sprintf("its certificate is valid from %s, now is %s", c.NotBefore.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339))
	}
	return &federation.Diagnostic{
		Code: codeOutOfTime,
		What: fmt.Sprintf("%s is refused", id),
		Why:  why,
		Fix:  "check the clocks of both sides, and that the other side renews its certificates",
		Err:  errExpired,
	}
}

var errExpired = errors.New("certificate is not valid now")

func revokedError(id spiffeid.ID, serial string) error {
	return &federation.Diagnostic{
		Code: codeRevoked,
		What: fmt.Sprintf("%s is refused", id),
		Why:  fmt.Sprintf("its certificate %s was revoked", serial),
		Fix:  "issue a new certificate; list what is revoked: tradewind cert list",
	}
}

func wrongPin() error {
	return &federation.Diagnostic{
		Code: codePin,
		What: "this is not the region that made the peering token",
		Why:  "its certificate does not lead to the root that the token names",
		Fix:  "check the addresses in the token; behind a load balancer, UDP and TCP must pass through without TLS being ended",
	}
}

func wrongProtocol(got string) error {
	return &federation.Diagnostic{
		Code: codeProtocol,
		What: fmt.Sprintf("protocol %q is not spoken here", got),
		Why:  "no protocol was agreed in the TLS handshake (ALPN)",
		Fix:  "compare the versions of both gateways",
	}
}
