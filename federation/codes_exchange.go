package federation

// exchangeCodes are the diagnoses of the catalog exchange: TW-4xxx.
var exchangeCodes = []CodeHelp{
	{"TW-4001", "the peer is in an earlier life than the one we know",
		"The peer's epoch is below one it had before: its disk was restored, or an old copy of it was started. Its " +
			"catalog is refused and the last good one is kept. A region with one gateway notices and moves to a higher epoch " +
			"by itself within seconds. If this stays, two gateways of the peer run from copies of one disk: stop one of them."},
	{"TW-4002", "two lives of the peer claim the same epoch",
		"The peer's epoch counter is the one we know, but its incarnation is another: a disk was cloned, or a backup was " +
			"restored. The peer is in quarantine: its last good import is kept and nothing new is taken until it comes with " +
			"a higher epoch. A region with one gateway does so by itself. If this stays, look for a second gateway that runs " +
			"from a copy of the peer's disk and stop it."},
	{"TW-4003", "a peer remembers a life of this region that is too far ahead",
		"A peer says that it knew this region with an epoch more than 2^32 above the present one. That is no restored " +
			"backup; the peer is wrong or hostile. Nothing was changed. Ask the peer's operator, or remove the peering and " +
			"establish it again."},
	{"TW-4004", "this region's epoch had to jump too often",
		"Three times within ten minutes a peer remembered a later life of this region. Two gateways run from copies of " +
			"one disk and push each other aside. Exports to that peer are held for ten minutes. Stop one of the two; then " +
			"nothing else is needed."},
	{"TW-4005", "this region's epoch has jumped",
		"A peer remembered a later life of this region: the disk was lost or restored from a backup. The epoch was moved " +
			"above it and peers compare digests; nothing is withdrawn meanwhile. Nothing needs to be done, unless no disk " +
			"was restored: then look for a cloned gateway."},
	{"TW-4006", "a peer broke the protocol",
		"A frame of the peer could not be read or was not allowed where it came. The session was closed and the last " +
			"good import is kept. One such event may be a damaged connection; if it repeats, compare the versions of the two " +
			"gateways."},
	{"TW-4007", "a peer passed a limit",
		"The peer sent more, or faster, than a peer may. The session was closed, the last good import is kept, and no " +
			"other peer is affected. If the peer is really that large, let it export less, or summaries instead of endpoints."},
	{"TW-4008", "an import does not make progress",
		"The peer has newer rows and is heard, but nothing has been applied for 30 seconds. The session is made anew. " +
			"Until then the import ages: it is shown as STALE, then OLD."},
	{"TW-4009", "a mass withdrawal is held back",
		"The peer withdrew more than the brake allows within ten seconds, or the last healthy endpoint of a service that " +
			"had five or more. Its endpoints stay in use for at most a minute, because a faulty source looks the same as an " +
			"outage; then the withdrawal takes effect. Un-exports are never held back. Check the peer's " +
			"sources and health."},
	{"TW-4010", "an exported service was not understood by its importer",
		"A row of the catalog is not well formed. It is kept out, the last good version of it stays in use, and the " +
			"exporter is told. Compare the versions of the two gateways."},
	{"TW-4011", "an exported service is over its importer's quota",
		"With this row the peer has more services, slots or memory than it may have, so it is kept out and what was " +
			"there before stays in use. Export less, or use \"summary\" as the detail."},
	{"TW-4012", "an exported service needs a rule its importer does not know",
		"The row carries a rule, protocol or level of detail of a later version that must not be ignored. It is kept out " +
			"and the last good version stays in use. Upgrade the importing region's gateways."},
	{"TW-4013", "an exported service claims a foreign identity",
		"The row says that the service runs as an identity which is not its own in its region's trust domain. A region " +
			"speaks for its own trust domain only, so the row is kept out. Look at what the exporter runs: this is not " +
			"something a sound gateway sends."},
	{"TW-4014", "the saved import could not be read",
		"The file that keeps a peer's import over a restart is damaged. It was set aside and the import is fetched from " +
			"the peer again. Check the disk."},
	{"TW-4015", "a service cannot be exported",
		"The service has too many slots, or a slot whose key is too long or not printable, so no peer could import it. " +
			"What was exported before stays. Use \"summary\" as the detail of the export, or rename the instances."},
	{"TW-4016", "a peer's catalog does not match its own digest",
		"A full snapshot was received whole, and yet its digest is not the one the peer announced. The last good import " +
			"is kept and the session is made anew. If it repeats, the peer's gateway is faulty: restart it, and report it " +
			"with both gateways' versions."},
	{"TW-4017", "no common version of the exchange",
		"The two gateways have no version of the catalog exchange in common. The last good import is kept. Upgrade the " +
			"older one; two releases that follow each other always understand each other."},
	{"TW-4018", "the clocks of two regions differ",
		"The peer's clock is more than ten seconds off ours. Certificates may be refused as not yet valid or as expired. " +
			"Set up NTP in both regions."},
	{"TW-4019", "an import is old",
		"Nothing has been heard from the peer for five minutes, or what was heard could not be applied. Its services are " +
			"used as a last resort, until the import reaches max_stale and is withdrawn. See the peering's state for the " +
			"cause."},
	{"TW-4020", "an import was withdrawn because of its age",
		"The import is older than the peering's max_stale, so that its services are no longer used. It comes back by " +
			"itself with the peer."},
	{"TW-4021", "the session reached another region than it should",
		"The gateway at the other end greeted as a region other than the peer. Check the peer's gateway addresses."},
	{"TW-4022", "an import was withdrawn because the peer is not trusted any more",
		"Every root in the peer's trust bundle has expired or was revoked. Nothing of the peer is used until it sends a " +
			"bundle that is accepted. If it cannot, because its root is gone for good, remove the peering and establish it " +
			"again with a new token."},
}
