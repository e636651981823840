package federation

// The diagnoses of peering. Each refusal of a token or a join has a code of its own, so that both operators can see at once
// which of them has to act.
const (
	CodeTokenMalformed  Code = "TW-3001"
	CodeTokenVersion    Code = "TW-3002"
	CodeTokenExpired    Code = "TW-3003"
	CodeTokenUsed       Code = "TW-3004"
	CodeTokenRegion     Code = "TW-3005"
	CodeClockSkew       Code = "TW-3006"
	CodeWrongPin        Code = "TW-3007"
	CodePeerUnreachable Code = "TW-3008"
	CodeSameTrustDomain Code = "TW-3009"
	CodeSameRegion      Code = "TW-3010"
	CodeJoinVersion     Code = "TW-3011"
	CodeTokenRevoked    Code = "TW-3012"
	CodePeeredOtherwise Code = "TW-3013"
	CodeTokenUnknown    Code = "TW-3014"
	CodeJoinProof       Code = "TW-3015"
	CodeJoinMalformed   Code = "TW-3016"
	CodeJoinBundle      Code = "TW-3017"
	CodePeeringWait     Code = "TW-3018"
	CodePeeringUnknown  Code = "TW-3019"
	CodePeeringState    Code = "TW-3020"
	CodeTokenLifetime   Code = "TW-3021"
	CodeNoAddress       Code = "TW-3022"
	CodePeeringRemoved  Code = "TW-3023"
	CodeImportFile      Code = "TW-3024"
	CodeLaneBlocked     Code = "TW-3025"
	CodeSessionEnded    Code = "TW-3026"
	CodeTrustRefused    Code = "TW-3027"
	CodeOneWay          Code = "TW-3028"
	CodePeeringStalled  Code = "TW-3029"
	CodeJoinInternal    Code = "TW-3030"
	CodePeeringPaused   Code = "TW-3031"
	CodeSessionStranger Code = "TW-3032"
	CodePeeringPanic    Code = "TW-3033"
	CodeEpochJump       Code = "TW-3034"
	CodePeeringStore    Code = "TW-3035"
	CodePeerRefusesUs   Code = "TW-3036"
)

// peeringCodes are the diagnoses of peering: TW-3xxx.
var peeringCodes = []CodeHelp{
	{CodeTokenMalformed, "The peering token is damaged",
		"A token is one line that starts with \"tw1.\". It was cut off, wrapped or altered on its way. Copy it whole, without " +
			"line breaks, or read it from a file. If that does not help, make a new one: tradewind peer generate-token REGION."},
	{CodeTokenVersion, "The peering token has a version this release does not know",
		"The token was made by a newer release. Upgrade this gateway, or make the token here and establish from the other side: " +
			"it does not matter which region makes it."},
	{CodeTokenExpired, "The peering token has expired",
		"A token lives 15 minutes unless its maker chose otherwise (at most 24 hours). Make a new one: tradewind peer " +
			"generate-token REGION --ttl 1h. If it should not have expired yet, compare the clocks of both regions."},
	{CodeTokenUsed, "The peering token was used by another redeemer",
		"A token works once. Somebody else redeemed this one before: another gateway with another trust bundle, or this region " +
			"after its CA was replaced. If that was not you, treat the token as stolen: remove the peering on the side that made " +
			"it, look for the alarm in its log, and make a new token."},
	{CodeTokenRegion, "The peering token was made for another region",
		"A token names the one region that may redeem it. Make one for this region: tradewind peer generate-token REGION, with " +
			"the name that this region's gateways have in their configuration."},
	{CodeClockSkew, "The clocks of the two regions differ by more than 5 minutes",
		"Certificates, tokens and freshness need clocks that agree. Synchronise both regions' clocks (chrony, systemd-timesyncd " +
			"or the cloud's time service) and run the command again; the token stays good until it expires."},
	{CodeWrongPin, "The gateway that answered is not the one that made the token",
		"The token pins the root key of the region that made it, and the certificate that was presented does not chain to it. The " +
			"address leads to another region (a reused IP, a wrong load balancer), something in between intercepts TLS, or the " +
			"region's CA was replaced after the token was made. Check the addresses, then make a new token."},
	{CodePeerUnreachable, "No gateway address of the peer could be reached",
		"Every address was tried; the list says why each failed. The mesh port (8443 unless configured otherwise) must be open " +
			"from here to at least one of them: check security groups, firewalls and load balancers."},
	{CodeSameTrustDomain, "Both regions have the same trust domain",
		"A region's trust domain is its identity; two regions with one trust domain could speak for each other. Give one of them " +
			"another trust_domain in its gateway.hcl. The default, REGION.mesh.internal, differs wherever the names differ."},
	{CodeSameRegion, "Both regions have the same name",
		"Region names must differ, because services are addressed as SERVICE@REGION. Rename one of them in its gateway.hcl."},
	{CodeJoinVersion, "The two regions have no version of the join protocol in common",
		"One side is too old. The message says which versions each side speaks; upgrade the older one and run the command again."},
	{CodeTokenRevoked, "The peering token was revoked",
		"The peering was removed, or a newer token was made for the same region, and only the newest counts. Use the newest one."},
	{CodePeeredOtherwise, "The regions are already peered with another trust bundle",
		"A peering with that region exists, and the trust bundle now offered shares no root with the one it was made with. That " +
			"is normal when the region was built anew and its CA with it, and it is what an impostor would look like. If it is " +
			"expected, remove the old peering first: tradewind peer remove REGION, then use a new token."},
	{CodeTokenUnknown, "The peering token is not known to the region that should have made it",
		"It expired more than a day ago, or the region that made it has lost its state since. Make a new one."},
	{CodeJoinProof, "The proof of the peering token does not hold on this connection",
		"A join proves that it knows the token's secret in a way that is valid on one TLS connection only. This one was replayed, " +
			"altered, or passed through something that ends TLS in between. Connect the gateways without an intercepting proxy."},
	{CodeJoinMalformed, "A join message could not be read",
		"What answered does not speak the join protocol, or the message was damaged. Check that the address is a Tradewind mesh " +
			"listener (port 8443 unless configured otherwise)."},
	{CodeJoinBundle, "The trust bundle in a join is not valid",
		"The bundle must hold the CA certificates of the region's trust domain, at least one of them still valid. Look at: " +
			"tradewind cert list, on the side that sent it."},
	{CodePeeringWait, "The peering is not up yet",
		"Trust is exchanged and the gateways go on trying by themselves; only the wait ended. See what they are waiting for: " +
			"tradewind peer show REGION."},
	{CodePeeringUnknown, "There is no peering with that region",
		"List the peerings with: tradewind peer list. Make one with: tradewind peer generate-token REGION."},
	{CodePeeringState, "The peering is in a state that does not allow this",
		"A peering that waits for its token to be redeemed, or that was removed, cannot be paused or resumed. See: tradewind peer list."},
	{CodeTokenLifetime, "The lifetime asked for a token is out of bounds",
		"A token lives at least 1 minute and at most 24 hours; 15 minutes is the default. Make it when you need it, not before."},
	{CodeNoAddress, "This region has no gateway address to put into a token",
		"Whoever redeems the token must know where to go. Set advertise in gateway.hcl to the host:port at which peers reach this " +
			"region (a public name or address, up to 8 of them), or make the token on the other side."},
	{CodePeeringRemoved, "The peering was removed by the other side",
		"An operator of the peer removed it; its services are withdrawn here and trust in it is gone. To peer again, make a new " +
			"token on either side. To clear the entry: tradewind peer remove REGION."},
	{CodeImportFile, "The saved import of a peer could not be read or written",
		"The file keeps the peer's services usable across a restart. A damaged one is set aside and the services come back with " +
			"the first session. If it cannot be written, check space and permissions of the state directory."},
	{CodeLaneBlocked, "A peer does not take what is sent to it",
		"A lane of the session did not drain for 10 seconds, so the session was closed and is being made anew. Look for loss on " +
			"the path (tradewind ping REGION) and for an overloaded gateway on the other side."},
	{CodeSessionEnded, "The session with a peer ended or could not be made",
		"The gateway goes on trying with growing pauses of up to 30 seconds. The reason beside this code is the last one seen."},
	{CodeTrustRefused, "A change of a peer's trust bundle was refused",
		"The peer sent a bundle that goes back in sequence, belongs to another trust domain, or shares no root with the known one. " +
			"The known bundle stays in force. If the peer replaced its CA at once, peer again with a new token."},
	{CodeOneWay, "The peer cannot dial this region",
		"The peering works through the session that this region opened, but calls that start over there need it too, and it " +
			"cannot be restored from there. Open the mesh port from the peer to one of the advertised addresses, or correct advertise."},
	{CodePeeringStalled, "The owner of a peering does not make progress",
		"The goroutine that owns the peering has not come round for 30 seconds. Its session was closed so that the peer does not " +
			"wait for it. A slow disk under the state directory is the usual cause; please report it with a debug bundle."},
	{CodeJoinInternal, "The other side could not complete the join",
		"It could not store the result. Its log has the cause. The token is still good: run the command again."},
	{CodePeeringPaused, "The peering is paused",
		"An operator of one of the two regions paused it; no session is made and the peer's services age. Go on with: tradewind " +
			"peer resume REGION, on the side that paused it."},
	{CodeSessionStranger, "A session came from a region that has no peering here",
		"The identity was valid but the peering is gone or belongs to another trust domain. If it was removed here on purpose, " +
			"remove it on the other side as well."},
	{CodePeeringPanic, "Handling a message of a peer failed inside the gateway",
		"This is a defect. The peer's last good services stay, the session is made anew after a pause, other peers are not " +
			"touched. Please report it with the stack in the log."},
	{CodeEpochJump, "The epoch of this region was raised",
		"A peer knew this region under a higher epoch than its store holds, which happens when the state directory was restored " +
			"from a backup. The epoch was raised above it. Seen again and again, two gateways run from copies of one state directory."},
	{CodePeeringStore, "The state of a peering could not be stored",
		"The change was not made. Check space, permissions and health of the store, then try again."},
	{CodePeerRefusesUs, "The peer refuses this gateway's certificate",
		"A gateway answers at the peer's address, and does not accept the certificate of this region. Most often the peering was " +
			"removed over there while this side could not be told: then remove it here as well, with: tradewind peer remove " +
			"REGION. Otherwise one of the two regions has lost or replaced its CA: make a new token there and establish again. " +
			"The gateway goes on trying meanwhile."},
}
