package federation

// policyCodes are the diagnoses of policy: TW-7xxx.
var policyCodes = []CodeHelp{
	{"TW-7001", "No intention allows the call",
		"What no intention allows is denied. Both regions decide by their own intentions: the caller's region must let the call leave for " +
			"the destination's region, and the destination's region must let the caller in. A pattern without a region means the region it is " +
			"written in. Run \"tradewind explain SOURCE DESTINATION\" in each region to see which one denies and which intention comes close, " +
			"then write an intention with action \"allow\" there."},
	{"TW-7002", "An intention denies the call",
		"An intention with action \"deny\" is the most specific one that matches the call, or as specific as an allow. Delete or narrow it, or " +
			"write an allow that names the destination or the source more exactly."},
	{"TW-7003", "The caller's identity is not proven well enough",
		"The intention that decides requires a stronger proof than the caller gave. \"mtls\" is met by a caller that presents its own " +
			"certificate to its gateway, \"binding\" also by one that uses an upstream listener bound to it. A caller without any identity is " +
			"never allowed. Let the caller use mutual TLS, or lower \"require\"."},
	{"TW-7004", "The caller's trust domain is unknown",
		"The caller's identity is in a trust domain that is neither this region's nor a peer's. Check that the peering still exists on this " +
			"side (\"tradewind peer list\"), and that the peer's trust domain has not been renamed."},
	{"TW-7005", "The caller is not a workload",
		"Only an identity of the form spiffe://DOMAIN/ns/NAMESPACE/svc/NAME can call a service. Gateways and control planes have identities " +
			"of other forms and are never allowed to."},
	{"TW-7006", "The destination's region is unknown",
		"The call names a region that is neither this one nor a peer. Check the spelling, and that the peering exists " +
			"(\"tradewind peer list\")."},
	{"TW-7007", "An intention cannot be understood, so nothing is allowed",
		"A stored intention is damaged, or was written by a newer version of Tradewind. It may have been a deny, so everything is denied " +
			"until it is corrected or deleted: apply it again, or run \"tradewind delete intention NAME\". If you went back to an older " +
			"version, go forward again."},
	{"TW-7008", "No policy has been loaded yet",
		"The gateway has just started and has not read its resources. This lasts for milliseconds; when it stays, the log says why the " +
			"resources could not be read."},
	{"TW-7009", "The expression of an intention cannot be used",
		"\"when\" in an http block is an expression of the Common Expression Language (https://cel.dev) that is true or false. The message " +
			"names the column and what is wrong there. There are request.method, request.host, request.path (without the query), request.query[NAME], " +
			"request.headers[NAME]; source.identity, source.namespace, source.service, source.region; destination.namespace, " +
			"destination.service, destination.region; and, where the block names a jwt resource with token = \"NAME\", token.issuer and " +
			"token.claims. Strings have contains, startsWith, endsWith and matches with a pattern that is written out; lists and maps have in, " +
			"exists, exists_one and all. An expression knows no time, is at most 4096 octets long, and is refused when it could cost too much " +
			"with a large request. What is missing is an error: ask has(token.claims.role) or \"x-role\" in request.headers first. An intention " +
			"that allows does not allow what its expression cannot be evaluated for; one that denies denies it."},
}
