package peering

import (
	"fmt"

	"github.com/tradewind-mesh/tradewind/federation"
)

// refusal is why an acceptor turns a join down. The numbers are on the wire: they are appended to and never reused.
type refusal uint16

const (
	accepted           refusal = 0
	refusedMalformed   refusal = 1
	refusedVersion     refusal = 2
	refusedUnknown     refusal = 3
	refusedExpired     refusal = 4
	refusedUsed        refusal = 5
	refusedRevoked     refusal = 6
	refusedRegion      refusal = 7
	refusedProof       refusal = 8
	refusedSkew        refusal = 9
	refusedDomain      refusal = 10
	refusedSameRegion  refusal = 11
	refusedPeered      refusal = 12
	refusedBundle      refusal = 13
	refusedInternal    refusal = 14
	refusedUnreachable refusal = 15 // never sent: the dialer's own
	refusedPin         refusal = 16 // never sent: the dialer's own
)

// refusals gives each refusal its diagnosis as the dialer's operator reads it. %s is the acceptor.
var refusals = map[refusal]struct {
	code      federation.Code
	what, fix string
}{
	refusedMalformed: {federation.CodeJoinMalformed,
		"%s could not read our join", "upgrade the older of the two sides"},
	refusedVersion: {federation.CodeJoinVersion,
		"%s speaks another version of the join protocol", "upgrade the older of the two sides"},
	refusedUnknown: {federation.CodeTokenUnknown,
		"%s does not know the token", "make a new token there"},
	refusedExpired: {federation.CodeTokenExpired,
		"token of %s has expired", "make a new token there"},
	refusedUsed: {federation.CodeTokenUsed,
		"token of %s was used by another redeemer", "if that was not you, remove the peering there and make a new token"},
	refusedRevoked: {federation.CodeTokenRevoked,
		"token of %s was revoked", "use the newest token, or make a new one there"},
	refusedRegion: {federation.CodeTokenRegion,
		"token of %s was made for another region", "make a token for this region there"},
	refusedProof: {federation.CodeJoinProof,
		"%s does not accept the proof of the token", "connect without a proxy that ends TLS"},
	refusedSkew: {federation.CodeClockSkew,
		"clock of %s differs too much from ours", "synchronise both clocks and run the command again"},
	refusedDomain: {federation.CodeSameTrustDomain,
		"trust domains of %s and of this region do not go together", "give every region a trust_domain of its own in its gateway.hcl"},
	refusedSameRegion: {federation.CodeSameRegion,
		"%s has the same name as this region", "rename one of the regions in its gateway.hcl"},
	refusedPeered: {federation.CodePeeredOtherwise,
		"%s is already peered under another trust bundle", "if that is expected, remove the old peering first"},
	refusedBundle: {federation.CodeJoinBundle,
		"%s refuses our trust bundle", "look at: tradewind cert list"},
	refusedInternal: {federation.CodeJoinInternal,
		"%s could not complete the join", "look into its log, then run the command again"},
	refusedUnreachable: {federation.CodePeerUnreachable,
		"no address of %s could be reached", "open the mesh port from here to one of them"},
	refusedPin: {federation.CodeWrongPin,
		"what answers is not the %s that made the token", "check the addresses, then make a new token"},
}

// diagnostic is the refusal as an error. A number from a later release is told as malformed, with the text that came with it.
func (r refusal) diagnostic(acceptor federation.Region, why string) *federation.Diagnostic {
	known, found := refusals[r]
	if !found {
		known = refusals[refusedMalformed]
		known.what = "%s refuses the join for a reason this release does not know"
	}
	return &federation.Diagnostic{Code: known.code, What: fmt.Sprintf(known.what, acceptor), Why: why, Fix: known.fix}
}
