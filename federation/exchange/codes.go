package exchange

import (
	"github.com/tradewind-mesh/tradewind/federation"
)

// Codes of diagnostics. Their texts are in federation.Help.
const (
	DiagStaleEpoch   federation.Code = "TW-4001"
	DiagSplitBrain   federation.Code = "TW-4002"
	DiagJumpTooFar   federation.Code = "TW-4003"
	DiagJumpTooOften federation.Code = "TW-4004"
	DiagJumped       federation.Code = "TW-4005"
	DiagMalformed    federation.Code = "TW-4006"
	DiagLimit        federation.Code = "TW-4007"
	DiagStalled      federation.Code = "TW-4008"
	DiagBrake        federation.Code = "TW-4009"
	DiagRowInvalid   federation.Code = "TW-4010"
	DiagRowQuota     federation.Code = "TW-4011"
	DiagRowUnknown   federation.Code = "TW-4012"
	DiagRowIdentity  federation.Code = "TW-4013"
	DiagSaved        federation.Code = "TW-4014"
	DiagExport       federation.Code = "TW-4015"
	DiagDigest       federation.Code = "TW-4016"
	DiagVersion      federation.Code = "TW-4017"
	DiagClock        federation.Code = "TW-4018"
	DiagOld          federation.Code = "TW-4019"
	DiagExpired      federation.Code = "TW-4020"
	DiagWrongPeer    federation.Code = "TW-4021"
	DiagUntrusted    federation.Code = "TW-4022"
)

// diagnosticOf is the diagnostic code that stands for a close code of our own; "" when the close is no trouble.
func diagnosticOf(code uint64) federation.Code {
	switch code {
	case CodeMalformed:
		return DiagMalformed
	case CodeVersion:
		return DiagVersion
	case CodeLimit:
		return DiagLimit
	case CodeStalled:
		return DiagStalled
	case CodeDigest:
		return DiagDigest
	case CodeWrongPeer:
		return DiagWrongPeer
	}
	return ""
}
