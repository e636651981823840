package federation

// trustCodes are the diagnoses of trust: TW-2xxx.
var trustCodes = []CodeHelp{
	{"TW-2001", "The region's CA cannot be used", `The CA in the region's store belongs to another trust domain, has expired, or does not
parse. The trust domain of a region is fixed when its CA is made: put the old name back, or start with an empty data_dir and peer again.`},
	{"TW-2002", "The region's CA is about to expire", `When the last root expires, nothing of this region is accepted by anyone. The
embedded CA replaces its root by itself when a fifth of its life is left, as long as the gateway runs; an outside CA must be given a new
root beside the old one. To do it now: tradewind cert rotate-ca`},
	{"TW-2003", "The outside CA does not answer", `A certificate could not be issued or the roots not be read. What is in use stays good
until it expires, and the gateway tries again every few minutes: its own certificate is renewed at half its life, so there are hours
left.`},
	{"TW-2004", "The CA returned another certificate than asked for", `An outside CA must sign the identity, key, times and uses that
Tradewind asks for and add nothing. What it returned was thrown away. Usual causes: a profile that adds DNS names, one that does not
allow URI names, a longer life.`},
	{"TW-2005", "The key is not allowed", `Certificates are issued for ECDSA P-256 and Ed25519 keys. RSA is left out because it lets a peer
choose how long verifying takes. Make a key: openssl ecparam -name prime256v1 -genkey -noout -out key.pem`},
	{"TW-2006", "Too many certificates or revocations", `There is a limit to what is alive at a time, so that a caller gone wild cannot
fill the store. Certificates leave the list when they expire, at most an hour after issuing for a workload. Revocations by identity
count once for all certificates.`},
	{"TW-2007", "Nothing was revoked", `The name is neither a certificate's serial number nor an identity of this region's trust domain. A
peer's certificates are revoked in the peer's region; to stop trusting the peer as a whole, remove the peering.`},
	{"TW-2008", "The gateway's certificate is about to expire", `It is renewed at half its life, so renewal has been failing for hours.
Without it no peer and no workload can connect. The error of the last attempt is in the log and in: tradewind cert list`},
	{"TW-2009", "The CA was not rotated", `Only the embedded CA is rotated by the gateway; an outside CA is rotated where it lives, and the
gateway takes its new roots over. There can be at most eight valid roots at a time.`},
	{"TW-2101", "A trust bundle is not valid", `A peer's bundle does not parse, is of another trust domain, is too large, or holds a root
that cannot be used (roots must be CA certificates with ECDSA P-256 or Ed25519 keys). The bundle in force stays.`},
	{"TW-2102", "A trust bundle is older than the one in force", `Bundles carry a number that never goes back, so that an old bundle cannot
undo a revocation. Seen once after a peer was restored from a backup, it is harmless and ends with the peer's next change.`},
	{"TW-2103", "A trust bundle shares no root with the one in force", `A rotation always keeps the old root beside the new one for a
while. A bundle without any known root may be a rotation gone wrong, or somebody else's CA. Compare the fingerprints with the peer's
operator by another channel. If it is meant, remove the peering and peer again.`},
	{"TW-2104", "Two different trust bundles have the same number", `Two gateways publish for one region without knowing of each other,
most likely from copies of one data directory. Stop the copy. The bundle in force stays.`},
	{"TW-2105", "A trust domain is already taken", `Every region has a trust domain of its own; if two shared one, each could speak for the
other. Set trust_domain in one of them, or, if the peer was set up anew under another domain, remove the peering and peer again.`},
	{"TW-2106", "A peer's CA is about to expire", `When its last root expires, its sessions end and its services are withdrawn here. Its
operator must replace the root; the new bundle arrives by itself.`},
	{"TW-2107", "A trust bundle has expired", `All roots in the bundle have expired by this gateway's clock. Check the clock first. If the
peer's CA was let expire, both regions must be peered again.`},
	{"TW-2201", "No peering with this trust domain", `The other side proved nothing yet: it only claims a trust domain that no peer of this
region has. Either the peering was removed here, or a gateway was given the wrong address.`},
	{"TW-2202", "A certificate is not an identity", `An identity is a certificate with exactly one subject alternative name, a SPIFFE ID
with a known role, an ECDSA P-256 or Ed25519 key, for client and server authentication, and not a CA. Anything else is refused whoever
signed it.`},
	{"TW-2203", "An identity is of another trust domain", `A certificate of one region was shown where another region's was expected. Check
which region lives at the address: a peer speaks for its own trust domain and for no other.`},
	{"TW-2204", "An identity has the wrong role", `Gateways (/gw/...) connect to the mesh listener, workloads (/ns/.../svc/...) to the
local one. A role is not accepted on the other's listener, whoever signed it.`},
	{"TW-2205", "A certificate does not lead to a known root", `The identity claims a trust domain whose roots did not sign it. Usual
cause: the other region was set up anew with the same name, so its CA is another one. Compare fingerprints; if it is meant, remove the
peering and peer again.`},
	{"TW-2206", "A certificate is not valid now", `By this gateway's clock the certificate has expired or is not valid yet. Compare the
clocks of both sides (five minutes of difference are allowed for); then look for why the other side does not renew.`},
	{"TW-2207", "A certificate was revoked", `The operator of the certificate's region revoked it, by serial number or by identity. The
holder needs a new one; for an identity, certificates issued after the revocation count again.`},
	{"TW-2208", "The peering token is of another region", `The server at the token's address does not have the root that the token names.
Either the address leads elsewhere (a load balancer that ends TLS, a reused address), or the region's CA was made anew after the token.`},
	{"TW-2209", "No protocol in common", `The two sides did not agree on a protocol in the TLS handshake. Usual causes: gateways of
versions too far apart, or a client that is no gateway.`},
}
